"""ONNX files: the features of the network that was exported, or a clear error."""

import copy
import sys
import warnings

import onnx
import pytest
import torch
from torch import nn

from sslbench.backbones import NAMES
from sslbench.backbones.opaque import KINDS
from sslbench.checkpoint import weights_hash
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.external.onnx import load
from sslbench.external.request import Request
from sslbench.hashing import file_sha256

NAMED = ("maps", "tokens", "vectors")


class Network(nn.Module):
    """Maps (B, 8, 4, 4), tokens (B, 16, 8) and vectors (B, 5) of an image: those that are asked."""

    def __init__(self, *outputs):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.outputs = outputs

    def forward(self, images):
        maps = self.conv(images).relu()
        tokens = maps.flatten(2).transpose(1, 2)
        found = {"maps": maps, "tokens": tokens, "vectors": self.linear(tokens.mean(1))}
        return tuple(found[name] for name in self.outputs)


def saved(path, *outputs, batch=None, size=16):
    """A network with these outputs, and its file; the batch size is free where it is None."""
    torch.manual_seed(0)
    network = Network(*outputs).eval()
    free = {name: {0: "batch"} for name in ("images", *outputs)} if batch is None else None
    shape = (batch or 2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the new exporter needs a package more
        torch.onnx.export(
            network,
            (torch.zeros(shape),),
            path,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes=free,
            dynamo=False,
        )
    return network


def compare(encoder, network, pool, count=5):
    images = torch.rand(count, 3, 16, 16)
    with torch.no_grad():
        want = pool(network(encoder.normalise(images)))
        torch.testing.assert_close(encoder(images), want, atol=1e-5, rtol=0)
    assert encoder.dim == want.shape[1]


@pytest.mark.parametrize("batch", [None, 1, 2, 8])
def test_features_are_those_of_the_network(batch, tmp_path):
    path = tmp_path / "model.onnx"
    network = saved(path, "vectors", batch=batch)
    encoder, report = load(path, Request())
    compare(encoder, network, lambda found: found[0])
    assert not encoder.training
    assert encoder.image_size == 16
    assert report.files == {"model.onnx": file_sha256(path)}
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert weights <= report.parameters <= weights + 9  # a graph has a few constants besides
    assert report.matched == report.wanted == 4
    assert report.preprocessing == "size of the network's input; ImageNet's mean and std"
    assert encoder.config["sha256"] == file_sha256(path)[:16]
    assert list(encoder.layers(torch.zeros(2, 3, 16, 16))) == ["output"]
    with pytest.raises(NotApplicable, match=r"output vectors is no map: \(2, 5\)"):
        encoder.stages(torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("outputs", "settings", "pool"),
    [
        (["tokens"], {}, lambda found: found[0][:, 0]),
        (["tokens"], {"pooling": "mean"}, lambda found: found[0].mean(1)),
        (["maps"], {"name": "onnx"}, lambda found: found[0].mean((2, 3))),
        (["maps", "vectors"], {}, lambda found: found[1]),
        (["maps", "vectors"], {"output": "maps"}, lambda found: found[0].mean((2, 3))),
    ],
)
def test_the_chosen_output_is_pooled(outputs, settings, pool, tmp_path):
    network = saved(tmp_path / "model.onnx", *outputs)
    encoder, _ = load(tmp_path / "model.onnx", Request(settings))
    compare(encoder, network, pool)
    assert {"name": "onnx", **settings}.items() <= encoder.config.items()
    if encoder.output == "maps":
        assert encoder.shapes() == [(8, 4, 4)]


def test_any_tensor_inside_can_be_the_output(tmp_path):
    path = tmp_path / "model.onnx"
    network = saved(path, "vectors")
    whole, _ = load(path, Request())
    encoder, _ = load(path, Request({"output": "/Relu_output_0"}))
    compare(encoder, lambda x: network.conv(x).relu(), lambda maps: maps.mean((2, 3)))
    assert encoder.shapes() == [(8, 4, 4)]
    assert weights_hash(encoder) == weights_hash(whole)
    assert encoder.config != whole.config
    with pytest.raises(UserError, match=r"no tensor '/Relu_output'; did you mean /Relu_output_0"):
        load(path, Request({"output": "/Relu_output"}))
    with pytest.raises(UserError, match="no tensor 'x'; outputs: vectors"):
        load(path, Request({"output": "x"}))


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "model.onnx"

    def error(request=None):
        with pytest.raises(UserError) as found:
            load(path, request or Request())
        return str(found.value)

    assert "No such file" in error()
    saved(path, *NAMED[:2])
    assert "output=… must name one of its outputs: maps (2, 8, 4, 4), tokens (2, 16, 8)" in error()
    assert "setting poling; did you mean 'pooling'" in error(Request({"poling": "mean"}))
    assert "pooling = 'max'; allowed: first, mean" in error(
        Request({"output": "maps", "pooling": "max"})
    )
    assert "its encoder is 'onnx', not 'resnet18'" in error(Request({"name": "resnet18"}))
    assert error(Request(preprocess={"image_size": 32})).endswith(
        "takes images of 16 pixels; --preprocess image_size=32"
    )
    content = path.read_bytes()
    for damaged in (content[:700], b"", b"some text", b"\x80\x02K\x01."):
        path.write_bytes(damaged)
        assert error().startswith(str(path))
        assert "\n" not in error()
    model = onnx.load_model_from_string(content)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 24
    path.write_bytes(model.SerializeToString())
    assert "its input is (any, 3, 16, 24); square images (B, 3, S, S) expected" in error()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    model.graph.ClearField("node")
    model.graph.ClearField("output")
    identity = onnx.helper.make_node("Identity", ["images"], ["y"])
    model.graph.node.append(identity)
    model.graph.output.add().name = "y"
    path.write_bytes(model.SerializeToString())
    assert "its inputs are images tensor(int64)" in error()


def test_two_files_have_two_hashes(tmp_path):
    path = tmp_path / "model.onnx"
    saved(path, "vectors")
    first, _ = load(path, Request())
    same, _ = load(path, Request())
    assert weights_hash(first) == weights_hash(same)
    model = onnx.load(path)
    model.doc_string = "another"
    onnx.save(model, path)
    second, _ = load(path, Request())
    assert weights_hash(first) != weights_hash(second)


def test_weights_beside_the_file_stay_in_its_folder(tmp_path, monkeypatch):
    path = tmp_path / "model" / "model.onnx"
    path.parent.mkdir()
    network = saved(path, "vectors")
    whole = onnx.load(path)
    settings = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(whole, path, **settings)
    monkeypatch.chdir(tmp_path)
    for request in (Request(), Request({"output": "/Relu_output_0"})):
        encoder, report = load(path, request)
        weights = path.parent / "weights.bin"
        assert report.files == {p.name: file_sha256(p) for p in (path, weights)}
    compare(load(path, Request())[0], network, lambda found: found[0])
    before = weights_hash(encoder)
    weights.write_bytes(bytes(weights.stat().st_size))
    assert weights_hash(load(path, request)[0]) != before

    outside = tmp_path / "outside.bin"
    weights.rename(outside)
    with pytest.raises(UserError, match=r"its weights 'weights\.bin' are missing"):
        load(path, Request())
    (path.parent / "link.bin").symlink_to(outside)
    for place in ("../outside.bin", str(outside), "link.bin"):
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = place if entry.key == "location" else entry.value
        other = path.parent / "other.onnx"
        other.write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match="are outside its folder"):
            load(other, Request())


def test_files_linked_one_by_one_from_a_cache(tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    folder.mkdir()
    network = saved(blobs / "model.onnx", "vectors")
    model = onnx.load(blobs / "model.onnx")
    onnx.save(model, blobs / "a", save_as_external_data=True, location="b", size_threshold=0)
    (blobs / "b").rename(blobs / "c")
    (folder / "model.onnx").symlink_to(blobs / "a")
    (folder / "b").symlink_to(blobs / "c")
    encoder, _ = load(folder / "model.onnx", Request())
    compare(encoder, network, lambda found: found[0])


def test_it_cannot_be_trained_or_made_again(tmp_path):
    saved(tmp_path / "model.onnx", "vectors")
    encoder, _ = load(tmp_path / "model.onnx", Request())
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(copy.deepcopy(encoder)(images), encoder(images))
    with pytest.raises(NotApplicable, match="has no weights that torch could train"):
        encoder.train()(images)
    with pytest.raises(NotApplicable, match="cannot be made again without its weights"):
        encoder.variant(sees="lightness")
    for kind in KINDS:
        assert kind not in NAMES
        with pytest.raises(UserError, match=f"encoder {kind} comes from its .* file"):
            build({**encoder.config, "name": kind})


def test_features_are_the_same_in_every_run(tmp_path):
    path = tmp_path / "model.onnx"
    saved(path, "vectors")
    images = torch.rand(32, 3, 16, 16)
    first, again = (load(path, Request())[0] for _ in range(2))
    assert all(torch.equal(first(images), again(images)) for _ in range(10))


def test_onnxruntime_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'sslbench\[onnx\]'"):
        load(tmp_path / "model.onnx", Request())
