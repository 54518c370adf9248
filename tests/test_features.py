"""The feature cache: what is kept, when it is used, and when it is made again."""

import json
import logging

import numpy as np
import pytest
import torch
from torch import nn

from sslbench import features as module
from sslbench.data.split import Batch, ImageArray
from sslbench.encoder import Encoder
from sslbench.features import features


class Counting(Encoder):
    """Two linear layers on pixels; counts the images that it has seen."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.config = {"name": "counting", "image_size": size}
        self.dim = 3
        self.first = nn.Linear(3 * size * size, 5)
        self.second = nn.Linear(5, 3)
        self.seen = 0

    def preprocess(self, batch: Batch) -> torch.Tensor:
        return batch.images.float() / 255

    def layers(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen += len(inputs)
        first = self.first(inputs.flatten(1))
        return {"block/1 mean": first, "out": self.second(first.relu())}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Counting()


@pytest.fixture
def split():
    random = np.random.default_rng(0)
    images = random.integers(256, size=(30, 3, 4, 4), dtype=np.uint8)
    return ImageArray(images, random.integers(3, size=30))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path))
    return tmp_path / "features"


def files(cache, pattern):
    return sorted(cache.rglob(pattern))


@torch.inference_mode()
def direct(encoder, split):
    return encoder.layers(encoder.preprocess(split[torch.arange(len(split))]))


@pytest.mark.parametrize("layer", ["last", "all", "out", "block/1 mean"])
def test_layers_by_name_in_the_order_of_the_split(layer, encoder, split, cache, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 7)
    found = features(encoder, split, layer)
    names = {"last": ["out"], "all": ["block/1 mean", "out"]}.get(layer, [layer])
    assert list(found) == names
    for name in names:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], direct(encoder, split)[name], atol=1e-5)


def test_an_unknown_layer_names_those_that_there_are(encoder, split, cache):
    with pytest.raises(LookupError, match=r"'middle'.* has block/1 mean, out"):
        features(encoder, split, "middle")
    assert not cache.exists()


def test_the_second_call_computes_nothing_but_the_names(encoder, split, cache):
    first = features(encoder, split, "all")
    encoder.seen = 0
    second = features(encoder, split, "all")
    assert encoder.seen == 1  # one image tells the names of the layers
    for name in first:
        assert isinstance(second[name], np.memmap)
        np.testing.assert_array_equal(first[name], second[name])


def test_only_missing_layers_are_added(encoder, split, cache):
    features(encoder, split)
    (kept,) = files(cache, "*.npy")
    before = kept.stat().st_mtime_ns
    assert list(features(encoder, split, "all")) == ["block/1 mean", "out"]
    assert len(files(cache, "*.npy")) == 2
    assert kept.stat().st_mtime_ns == before


def test_weights_data_and_configuration_each_have_features_of_their_own(encoder, split, cache):
    expected = [features(encoder, split)["out"]]
    with torch.no_grad():
        encoder.second.bias += 1
    expected.append(features(encoder, split)["out"])
    np.testing.assert_allclose(expected[1], expected[0] + 1, atol=1e-5)
    assert len(features(encoder, split.take(np.arange(4)))["out"]) == 4
    encoder.config["mean"] = [0.5]
    features(encoder, split)
    assert len(files(cache, "*.npy")) == 4


@pytest.mark.parametrize("damage", ["truncated", "altered", "absent", "empty"])
def test_a_damaged_array_is_made_again(damage, encoder, split, cache, caplog):
    expected = np.array(features(encoder, split)["out"])
    (array,) = files(cache, "*.npy")
    content = array.read_bytes()
    wrong = {"truncated": content[:-8], "altered": content[:-1] + b"\x7f", "empty": b""}
    if damage == "absent":
        array.unlink()
    else:
        array.write_bytes(wrong[damage])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(features(encoder, split)["out"], expected)
    assert "damaged feature cache, computed again" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(features(encoder, split)["out"], expected)
    assert not caplog.text


@pytest.mark.parametrize("manifest", ["", "{", "[]", json.dumps({"shape": [30, 3]})])
def test_a_damaged_manifest_is_made_again(manifest, encoder, split, cache):
    expected = np.array(features(encoder, split)["out"])
    (path,) = files(cache, "*.json")
    path.write_text(manifest)
    np.testing.assert_array_equal(features(encoder, split)["out"], expected)
    assert set(json.loads(path.read_text())) == {"shape", "sha256"}


def test_what_a_killed_process_left_is_not_read(encoder, split, cache):
    expected = np.array(features(encoder, split)["out"])
    (array,) = files(cache, "*.npy")
    (manifest,) = files(cache, "*.json")
    manifest.unlink()  # killed between the array and its manifest
    array.write_bytes(b"half")
    (array.parent / f".{array.name}.0123.partial").write_bytes(b"half")
    np.testing.assert_array_equal(features(encoder, split)["out"], expected)


def test_the_encoder_is_in_eval_mode_for_the_pass(split, cache):
    class Dropping(Counting):
        def layers(self, inputs):
            return {"out": nn.functional.dropout(inputs.flatten(1), training=self.training)}

    found = features(Dropping().train(), split)["out"]
    np.testing.assert_allclose(found, split.images.flatten(1) / 255)


def test_features_that_are_not_finite_are_refused_and_not_kept(encoder, split, cache):
    with torch.no_grad():
        encoder.second.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="layer out are not finite"):
        features(encoder, split)
    assert not cache.exists()
