import json

import pytest
import torch

from sslbench.checkpoint import load_encoder, load_state, save_encoder, save_state, weights_hash
from sslbench.encoder import build
from sslbench.errors import UserError

CONFIG = {"name": "resnet18", "width": 4, "image_size": 16, "mean": [0.5] * 3, "std": [0.25] * 3}
CPU = torch.device("cpu")


@pytest.fixture
def saved(tmp_path):
    encoder = build(CONFIG)
    save_encoder(encoder, tmp_path / "run" / "encoder", {"name": "x"})
    return encoder, tmp_path / "run"


def test_what_was_saved_comes_back_bit_for_bit(saved):
    encoder, folder = saved
    for path in (folder, folder / "encoder"):
        loaded, about = load_encoder(path)
        assert about == {
            "name": "x",
            "encoder": "resnet18(image_size=16, width=4)",
            "weights_hash": weights_hash(encoder),
        }
        assert weights_hash(loaded) == weights_hash(encoder)
        assert not loaded.training


def test_loading_draws_nothing_from_the_global_generator(saved):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_encoder(saved[1])
    assert torch.equal(torch.rand(2), expected)


def test_the_hash_sees_a_buffer_and_a_name():
    encoder = build(CONFIG)
    before = weights_hash(encoder)
    encoder.bn1.running_mean[0] += 1e-6
    assert weights_hash(encoder) != before


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize("name", ["encoder.safetensors", "encoder.json"])
def test_a_damaged_checkpoint_is_refused(saved, damage, name):
    path = saved[1] / "encoder" / name
    damage(path)
    if name.endswith("json"):
        path.write_text(path.read_text(errors="ignore")[:-5])
    with pytest.raises(UserError, match="damaged checkpoint"):
        load_encoder(saved[1])


def test_another_architecture_is_refused(saved):
    path = saved[1] / "encoder" / "encoder.json"
    description = json.loads(path.read_text())
    description["config"]["width"] = 5
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match="damaged checkpoint"):
        load_encoder(saved[1])


def test_no_checkpoint_is_said_so(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        load_encoder(tmp_path / "gone")
    with pytest.raises(UserError, match="no file of weights in it; found nothing"):
        load_encoder(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="pretraining has not finished"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("damage", [truncate, flip, lambda p: p.write_text("text")])
def test_a_damaged_state_is_refused(tmp_path, damage):
    path = tmp_path / "state.pt"
    save_state(path, {"weights": torch.arange(1000.0), "step": 3})
    assert load_state(path, CPU)["step"] == 3
    damage(path)
    with pytest.raises(UserError, match="damaged training state"):
        load_state(path, CPU)
