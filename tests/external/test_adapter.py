"""Python files with a function `load`: run only with trust, and what they give is checked."""

import pytest
import torch

from sslbench.checkpoint import weights_hash
from sslbench.encoder import build, label
from sslbench.errors import UserError
from sslbench.external.adapter import load
from sslbench.external.request import Request
from sslbench.hashing import file_sha256

TRUSTED = Request(trust_code=True)
MODULE = """
import torch
from torch import nn

def load():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU())
"""


@pytest.fixture
def write(tmp_path):
    def written(text):
        path = tmp_path / "model.py"
        path.write_text(text)
        return path

    return written


def test_nothing_runs_without_trust(write, tmp_path):
    trace = tmp_path / "trace"
    path = write(f"open({str(trace)!r}, 'w').close()\n{MODULE}")
    with pytest.raises(UserError, match=r"model\.py is a Python file: running it needs --trust"):
        load(path, Request())
    assert not trace.exists()
    load(path, TRUSTED)
    assert trace.exists()


def test_features_are_those_of_the_module(write):
    path = write(MODULE)
    before = torch.random.get_rng_state()
    request = Request({"pooling": "mean"}, {"image_size": 16, "crop": 0.5}, trust_code=True)
    encoder, report = load(path, request)
    assert torch.equal(torch.random.get_rng_state(), before)
    space = {}
    exec(MODULE, space)
    with torch.random.fork_rng(), torch.no_grad():
        network, images = space["load"]().eval(), torch.rand(5, 3, 16, 16)
        maps = network(encoder.normalise(images))
        assert torch.equal(encoder.stages(images)[0], maps)
        assert torch.equal(encoder(images), maps.mean((2, 3)))
    sha256 = file_sha256(path)
    assert report.files == {"model.py": sha256}
    assert (report.format, report.matched, report.wanted) == ("Python file", 7, 7)
    assert encoder.config == {
        "name": "python_file",
        "sha256": sha256[:16],
        "image_size": 16,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "crop": 0.5,
        "pooling": "mean",
    }
    again, _ = load(path, request)
    assert weights_hash(again) == weights_hash(encoder)
    other, _ = load(write(MODULE.replace("(3)", "(4)")), request)
    assert weights_hash(other) != weights_hash(encoder)
    encoder.train()(images).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("given", ["path", "path, /", "path, size=8", "checkpoint"])
def test_load_can_be_given_the_path(given, write):
    name = given.partition(",")[0]
    path = write(
        f"from torch import nn\ndef load({given}):\n"
        f"    assert {name}.name == 'model.py'\n    return nn.Flatten()"
    )
    encoder, _ = load(path, Request(preprocess={"image_size": 8}, trust_code=True))
    assert encoder.dim == 3 * 8 * 8


def test_an_encoder_keeps_its_own_ways(write, resnet):
    path = write(
        f"from sslbench.encoder import build\ndef load():\n    return build({resnet.config!r})"
    )
    torch.manual_seed(0)
    encoder, report = load(path, TRUSTED)
    torch.manual_seed(0)
    assert weights_hash(encoder) == weights_hash(build(resnet.config))
    assert report.files == {"model.py": file_sha256(path)}
    assert encoder.config["encoder"] == resnet.config
    assert label(resnet.config) in encoder.label
    assert report.preprocessing == "the file's own"
    with pytest.raises(UserError, match="gives an Encoder, which has its settings; not image_size"):
        load(path, Request(preprocess={"image_size": 32}, trust_code=True))
    with pytest.raises(UserError, match="python_file comes from its Python file"):
        encoder.variant(width=8)


CLASS = "from torch import nn\nclass load(nn.Module):\n    def forward(self, x): return "
ENCODER = "from sslbench.encoder import Encoder\nclass load(Encoder):\n    "
LINEAR = "from torch import nn\ndef load(): return nn.Linear(7, 2)"
BROKEN = {
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "def load(:": "SyntaxError: ",
    "x = 1": "LookupError: it has no function load",
    "load = 3": "LookupError: it has no function load",
    "def load(): return 1 / 0": "ZeroDivisionError: division by zero",
    "def load(): raise SystemExit('two\\nlines')": "SystemExit: two",
    "def load(a, b): ...": "TypeError: load",
    "def load(): return {'a': 1}": "load() gives dict; an Encoder or a torch module expected",
    LINEAR: "fails on images (2, 3, 224, 224): RuntimeError: mat1 and mat2",
    f"{CLASS} [x.sum(), 3]": "2 images give 0 (); expected (B, D), tokens",
    f"{CLASS} [3]": "2 images give no tensor; expected (B, D), tokens",
    f"{CLASS} None": "fails on images (2, 3, 224, 224): TypeError: ",
    f"{ENCODER} pass": "dim = None of its load; a number expected",
    f"{ENCODER} dim, config = 3, {{'a': {{2}}}}": "config of its load: Object of type set is not",
}


@pytest.mark.parametrize("text", BROKEN)
def test_errors_are_one_line_that_names_the_file(text, write):
    path = write(text)
    with pytest.raises(UserError) as found:
        load(path, TRUSTED)
    assert BROKEN[text] in str(found.value)
    assert str(found.value).startswith(str(path))
    assert "\n" not in str(found.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load(tmp_path / "model.py", TRUSTED)
