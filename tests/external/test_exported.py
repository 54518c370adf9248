"""Files of torch.export: the same features, and no code that nobody trusts."""

import copy
import json
import pickle
import zipfile
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.export import Dim

from sslbench.checkpoint import weights_hash
from sslbench.errors import UserError
from sslbench.external.exported import load
from sslbench.external.request import Request
from sslbench.hashing import file_sha256

TRUSTED = Request(trust_code=True)


class Network(nn.Module):
    """Maps (B, 8, 4, 4), a constant and vectors (B, 5) of an image."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = (
            nn.Conv2d(3, 8, 4, 4),
            nn.BatchNorm2d(8),
            nn.Linear(8, 5),
        )
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        maps = self.norm(self.conv(images)).relu()
        return {"maps": maps, "count": 3, "vectors": self.linear(self.drop(maps.mean((2, 3))))}


def saved(path, batch=None, network=None, count=3):
    torch.manual_seed(0)
    network = network or Network().eval()
    shapes = None if batch is None else ({0: batch},)
    program = torch.export.export(network, (torch.zeros(count, 3, 16, 16),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return network


@pytest.mark.parametrize(
    "batch", [None, Dim.DYNAMIC, Dim("batch", max=4), Dim("batch", min=2, max=512)]
)
def test_features_are_those_of_the_module(batch, tmp_path):
    path = tmp_path / "model.pt2"
    network = saved(path, batch)
    encoder, report = load(path, TRUSTED)
    images = torch.rand(9, 3, 16, 16)
    size = encoder.batch or 9
    with torch.no_grad():
        full = torch.cat([images, torch.zeros(-9 % size, 3, 16, 16)])
        parts = [network(encoder.normalise(part)) for part in full.split(size)]
        assert torch.equal(encoder(images), torch.cat([p["vectors"] for p in parts])[:9])
        assert encoder(images[:1]).shape == (1, encoder.dim) == (1, 5)
        maps, _ = load(path, Request({"output": "maps", "name": "torch_export"}, trust_code=True))
        want = torch.cat([p["maps"] for p in parts])[:9]
        assert torch.equal(maps.stages(images)[0], want)
        assert torch.equal(maps(images), want.mean((2, 3)))
    assert report.files == {"model.pt2": file_sha256(path)}
    assert (report.format, report.matched) == ("torch.export", len(network.state_dict()))
    assert encoder.config["sha256"] == file_sha256(path)[:16]


def test_weights_are_seen(tmp_path):
    network = saved(tmp_path / "model.pt2", Dim.DYNAMIC)
    encoder, _ = load(tmp_path / "model.pt2", TRUSTED)
    wanted = {f"network.program.{name}" for name, _ in network.named_parameters()}
    assert {name for name, _ in encoder.named_parameters()} == wanted
    copied, images = copy.deepcopy(encoder), torch.rand(2, 3, 16, 16)
    assert torch.equal(copied.train()(images), encoder(images))
    copied(images).sum().backward()
    assert all(p.grad is not None for n, p in copied.named_parameters() if "linear" in n)
    before = weights_hash(encoder)
    assert weights_hash(copied) == before
    with torch.no_grad():
        next(copied.parameters()).add_(1)
    assert weights_hash(copied) != before == weights_hash(encoder)


class Trace:
    """Pickled, it writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def changed(source, target, member, change):
    """The archive with one member changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith(member) else content)


def attacks(trace):
    """Name → (member of the archive, its change) …, after which the file writes `trace`."""
    call = f"open({str(trace)!r}, 'w').close()"

    def pickled(_):
        return pickle.dumps(Trace(trace))

    def flagged(content):
        first = next(iter(json.loads(content)["config"].values()))
        return json.dumps({"config": {"x": {**first, "use_pickle": True}}}).encode()

    def sized(content):
        program = json.loads(content)
        values = program["graph_module"]["graph"]["tensor_values"]
        code = f'__import__("builtins").exec({call!r})'
        values["images"]["sizes"][0] = {"as_expr": {"expr_str": code, "hint": None}}
        return json.dumps(program).encode()

    def guarded(content):
        return json.dumps({**json.loads(content), "guards_code": [f"{call} is None"]}).encode()

    return {
        "sample inputs": [("data/sample_inputs/model.pt", pickled)],
        "weights": [("model_weights_config.json", flagged), ("weights/weight_0", pickled)],
        "sizes": [("models/model.json", sized)],
        "guards": [("models/model.json", guarded)],
    }


@pytest.mark.parametrize("attack", attacks(""))
def test_nothing_of_a_file_runs_without_trust(attack, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "model.pt2"
    saved(path)
    for number, (member, change) in enumerate(attacks(trace)[attack]):
        before, path = path, tmp_path / f"evil{number}.pt2"
        changed(before, path, member, change)
    with pytest.raises(UserError, match="can run code: loading it needs --trust-code"):
        load(path, Request())
    assert not trace.exists()
    with suppress(UserError):
        load(path, TRUSTED)
    assert trace.exists()  # the attack is real: torch itself does not stop it


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "model.pt2"

    def error(request=TRUSTED):
        with pytest.raises(UserError) as found:
            load(path, request)
        return str(found.value)

    assert "No such file" in error()
    saved(path)
    content = path.read_bytes()
    sized = Request(preprocess={"image_size": 32}, trust_code=True)
    assert error(sized).endswith("takes images of 16 pixels; --preprocess image_size=32")
    wrong = Request({"output": "vector"}, trust_code=True)
    assert "no output 'vector'; did you mean 'vectors'" in error(wrong)
    for damaged in (content[:-500], content.replace(b'"nodes"', b'"nodez"'), b"text"):
        path.write_bytes(damaged)
        assert "no file of torch.export, or a damaged one" in error()
    torch.save({"weight": torch.zeros(2)}, path)
    assert "no exported program in it" in error()
    saved(path, network=Network().train())
    assert "was exported in training mode; call eval() before the export" in error()
    program = torch.export.export(nn.Flatten(), (torch.zeros(2, 3, dtype=torch.long),))
    torch.export.save(program, path)
    assert "its inputs are input; one of floats (B, 3, H, W) expected" in error()
