"""Weights with what trainings leave around them: all of them in their places, or a clear error."""

import argparse
import datetime
import json
import pickle
import sys
import types
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from sslbench.checkpoint import load_encoder
from sslbench.encoder import build
from sslbench.errors import UserError
from sslbench.external.request import Request
from tests.external.layouts import RESNETS, TRANSFORMERS, head, other, prefixed

SEEN = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.2]}
RESNET = {"name": "resnet18", "image_size": 32, "width": 4}
VIT = {
    "name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 4,
    "embed_dim": 24, "num_heads": 2,
}  # fmt: skip
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def made(config):
    """An encoder none of whose weights is at its initial value, and its state dict."""
    torch.manual_seed(1)
    encoder = build({**config, **SEEN}).eval()
    with torch.no_grad():
        for value in encoder.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) * 0.2 + 0.05)
    return encoder, {n.removeprefix("model."): v.clone() for n, v in encoder.state_dict().items()}


def written(tmp_path, content, name="model.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return path


def loaded(path, config, **more):
    return load_encoder(path, Request(encoder=config, preprocess=SEEN, **more))


@pytest.mark.parametrize(
    ("config", "layout"),
    [(RESNET, layout) for layout in RESNETS] + [(VIT, layout) for layout in TRANSFORMERS],
)
def test_features_are_the_original_backbone_s(config, layout, tmp_path):
    original, state = made(config)
    save = (RESNETS if config is RESNET else TRANSFORMERS)[layout]
    encoder, about = loaded(written(tmp_path, save(state)), config)
    with torch.no_grad():
        assert torch.equal(encoder(IMAGES), original(IMAGES))
    found = about["external"]
    assert found["matched"] == found["wanted"] == len(state)
    assert (about["family"], about["name"]) == ("external", "model")


def test_one_of_several_sets_of_weights_is_chosen(tmp_path):
    _, state = made(RESNET)
    path = written(tmp_path, RESNETS["DINO"](state))
    _, about = loaded(path, RESNET)
    assert about["external"]["weights"] == "teacher: backbone."
    assert about["external"]["others"] == ("student: module.backbone.",)
    encoder, about = loaded(path, RESNET, weights="student")
    assert about["external"]["weights"] == "student: module.backbone."
    assert torch.equal(encoder.conv1.weight, state["conv1.weight"] + 1)
    with pytest.raises(UserError, match=r"no weights at 'queen'; those that fit: 'student: module"):
        loaded(path, RESNET, weights="queen")
    path = written(tmp_path, {"a": state, "b": other(state)})
    with pytest.raises(UserError, match=r"2 sets of weights fit: 'a', 'b'; --weights chooses one"):
        loaded(path, RESNET)
    assert loaded(written(tmp_path, {"a": state, "b": state}), RESNET)[1]["external"]["matched"]


def error(path, config=RESNET, **more):
    with pytest.raises(UserError) as found:
        loaded(path, config, **more)
    assert "\n" not in str(found.value)
    assert str(path) in str(found.value)
    return str(found.value).replace(str(path), "FILE")


def test_what_does_not_fit_is_refused(tmp_path):
    _, state = made(RESNET)
    total = len([name for name in state if "num_batches" not in name])
    lost = "layer4.1.bn2.weight"
    without = {name: value for name, value in state.items() if name != lost}
    found = error(written(tmp_path, without))
    assert f"of {len(state)} weights of resnet18" in found
    assert f"missing: {lost}" in found
    found = error(written(tmp_path, {**state, lost: torch.ones(3)}))
    assert f"of another shape: {lost} (3,), expected (32,)" in found
    found = error(
        written(tmp_path, {name.replace("layer", "block"): v for name, v in state.items()})
    )
    assert "missing: layer1.0.conv1.weight" in found
    assert "not used: block1.0.conv1.weight" in found
    found = error(written(tmp_path, head("fc.weight", "fc.bias")))
    assert "none of the weights of resnet18" in found
    assert "the file has 2: fc.weight, fc.bias" in found
    assert "no tensors in it; found epoch" in error(written(tmp_path, {"epoch": 3}))
    encoder, about = loaded(written(tmp_path, without), RESNET, allow_missing=True)
    assert about["external"]["missing"] == [lost]
    assert about["external"]["matched"] == about["external"]["wanted"] - 1 >= total - 1
    assert torch.equal(encoder.conv1.weight, state["conv1.weight"])
    uncounted = {name: value for name, value in state.items() if "num_batches" not in name}
    assert loaded(written(tmp_path, uncounted), RESNET)[1]["external"]["matched"] == total


@pytest.mark.parametrize(
    ("smaller", "larger", "further"),
    [
        (RESNET, {**RESNET, "name": "resnet34"}, "layer1.2, layer2.2, layer2.3 and 5 more"),
        (VIT, {**VIT, "depth": 6}, "blocks.4, blocks.5"),
    ],
)
def test_weights_of_a_deeper_architecture_are_refused(smaller, larger, further, tmp_path):
    """All that the smaller one wants is there, under the right names and in the right shapes."""
    _, state = made(larger)
    for prefix in ("", "module.backbone."):
        path = written(tmp_path, {**prefixed(state, prefix), **head("fc.weight")})
        for allowed in (False, True):
            found = error(path, smaller, allow_missing=allowed)
            assert f"another architecture: the file goes on with {further}" in found


def test_damaged_and_foreign_files_are_refused(tmp_path):
    _, state = made(RESNET)
    path = written(tmp_path, state)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged, or only a part of the file" in error(path)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    assert loaded(path, RESNET)[1]["external"]["matched"]
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged, or only a part of the file" in error(path)
    save_file(state, path)  # by content, not by name
    whole = path.read_bytes()
    assert loaded(path, RESNET)[1]["external"]["matched"]
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged, or only a part of the file" in error(path)
    for content, what in {
        b"": "the file is empty",
        b"epoch,loss\n1,2\n": "text that begins 'epoch,loss 1,2'",
        b"version https://git-lfs.github.com/spec/v1\n": "`git lfs pull` gets it",
        b"<!DOCTYPE html>": "a web page, not a checkpoint",
        b"\xff\xfe\x00": "bytes fffe00…",
        b"PK\x03\x04": "damaged, or only a part of the file",
    }.items():
        path.write_bytes(content)
        assert what in error(path)
    torch.save([1, 2], path)
    assert "holds list, expected weights by name" in error(path)


class Payload:
    """Leaves a trace when it is unpickled as pickles usually are."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_pickle_never_runs(new, tmp_path):
    _, state = made(RESNET)
    trace, path = tmp_path / "trace", tmp_path / "model.pth"
    content = {"state_dict": state, "hook": Payload(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    assert "refused: its pickle asks for" in error(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(content))  # the payload works
    assert trace.exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    found = error(tmp_path / "model.pth")
    assert "asks for torch.nn.modules.linear.Linear" in found
    assert "torch.save(model.state_dict(), …)" in found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_with_in_float32(dtype, tmp_path):
    original, state = made(RESNET)
    stored = {n: v.to(dtype) if v.is_floating_point() else v for n, v in state.items()}
    encoder, about = loaded(written(tmp_path, stored), RESNET)
    assert about["external"]["dtype"] == str(dtype).removeprefix("torch.")
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    original.load_state_dict({n: v.float() for n, v in stored.items()}, strict=False)
    assert torch.equal(encoder(IMAGES), original(IMAGES))


def test_shards_are_read_together(tmp_path):
    original, state = made(RESNET)
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(state)}
    for file in set(names.values()):
        save_file({n: v for n, v in state.items() if names[n] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    encoder, about = loaded(folder, RESNET)
    assert torch.equal(encoder(IMAGES), original(IMAGES))
    assert set(about["external"]["files"]) == set(names.values())
    (folder / "model-1.safetensors").unlink()
    assert "1 of 2 files are missing: model-1.safetensors" in error(index)
    index.write_text(json.dumps({"weight_map": {"a": "../model-0.safetensors"}}))
    assert "names a file outside its folder: '../model-0.safetensors'" in error(index)
    index.write_text("{}")
    assert "not an index of weights" in error(index)


def test_a_folder_as_timm_writes_it(tmp_path):
    sizes = {name: VIT[name] for name in ("patch_size", "depth", "embed_dim", "num_heads")}
    torch.manual_seed(0)
    model = timm.create_model(VIT["name"], img_size=32, num_classes=3, **sizes).eval()
    timm.models.save_for_hf(
        model, tmp_path / "timm", model_args={**sizes, "img_size": 32}, safe_serialization=True
    )
    encoder, about = load_encoder(tmp_path / "timm", Request(preprocess={"image_size": 32}))
    x = encoder.normalise(IMAGES)
    with torch.no_grad():
        theirs = model.forward_head(model.forward_features(x), pre_logits=True)
        assert torch.equal(encoder(IMAGES), theirs)
    assert about["external"]["preprocessing"] == "config.json; from the user: image_size"
    cfg = model.pretrained_cfg
    assert (encoder.config["mean"], encoder.config["crop"]) == ([*cfg["mean"]], cfg["crop_pct"])


def test_position_embeddings_of_another_size_are_resampled(tmp_path):
    original, state = made(VIT)
    path = written(tmp_path, state)
    encoder, _ = loaded(path, {**VIT, "image_size": 48})
    assert encoder.config["img_size"] == 32
    assert torch.equal(encoder.model.pos_embed, state["pos_embed"])
    again = encoder.variant()
    assert again.config == encoder.config
    with torch.no_grad():
        assert torch.equal(encoder(IMAGES), original(IMAGES))  # at its own size nothing changes
        assert encoder(torch.rand(2, 3, 48, 48)).shape == (2, 24)


@pytest.mark.parametrize(
    "other_form",
    [{"global_pool": "avg"}, {"global_pool": "avg", "fc_norm": False},
     {"global_pool": "avg", "fc_norm": False, "class_token": False}],
)  # fmt: skip
def test_the_form_of_a_vision_transformer_is_told_by_its_weights(other_form, tmp_path):
    original, state = made({**VIT, **other_form})
    given = VIT if other_form != {"global_pool": "avg", "fc_norm": False} else {
        **VIT, "global_pool": "avg",
    }  # fmt: skip
    encoder, _ = loaded(written(tmp_path, state), given)
    with torch.no_grad():
        assert torch.equal(encoder(IMAGES), original(IMAGES))


@pytest.mark.parametrize("stem", ["conv3", "conv7"])
def test_the_stem_of_a_resnet_is_told_by_its_weights(stem, tmp_path):
    original, state = made({**RESNET, "image_size": 96, "stem": stem})
    for size in (32, 96):
        encoder, _ = loaded(written(tmp_path, state), {**RESNET, "image_size": size})
        with torch.no_grad():
            assert torch.equal(encoder(IMAGES), original(IMAGES))


def test_the_architecture_is_the_one_that_the_checkpoint_names(tmp_path):
    torch.manual_seed(0)
    with torch.device("cpu"):
        state = timm.create_model("resnet18", num_classes=0).state_dict()
    for content in (
        {"arch": "resnet18", "state_dict": prefixed(state, "module.")},
        {"model": state, "args": argparse.Namespace(arch="resnet18")},
    ):
        encoder, about = load_encoder(written(tmp_path, content))
        assert encoder.config["name"] == "resnet18"
        assert encoder.config["image_size"] == 224
        assert "ImageNet's mean and std" in about["external"]["preprocessing"]
    found = error(written(tmp_path, state), {})
    assert (
        found
        == "FILE does not say what it is: name its --encoder; its weights fit --encoder resnet18"
    )
    vit = made({**VIT, "name": "vit_tiny_patch16_224"})[1]
    assert error(written(tmp_path, vit), {}).endswith("does not say what it is: name its --encoder")
    found = error(written(tmp_path, state), {"name": "resnet34"})
    assert found.endswith("; its weights fit --encoder resnet18")


def test_what_sslbench_wrote_takes_no_request(tmp_path):
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(UserError, match="sslbench wrote it, and it says itself its encoder"):
        load_encoder(tmp_path, Request(encoder=RESNET))


@pytest.mark.parametrize(
    ("small", "large", "inside"),
    [
        (RESNET, {"name": "seresnet18"}, "layer1.0.se.fc1.weight"),
        (VIT, {**VIT, "init_values": 1.0}, "blocks.0.ls1.gamma"),
        (VIT, {**VIT, "qk_norm": True}, "blocks.0.attn.q_norm.weight"),
    ],
)
def test_weights_of_an_architecture_with_more_in_its_blocks_are_refused(
    small, large, inside, tmp_path
):
    """All that the plain one wants is there, and its features would be wrong."""
    if large["name"] == "seresnet18":
        state, small = timm.create_model("seresnet18", num_classes=0).state_dict(), {**small}
        small.pop("width")
    else:
        _, state = made(large)
    found = error(written(tmp_path, prefixed(state, "module.")), small)
    assert f"another architecture: the file goes on with {inside}" in found
    assert "its weights fit" not in error(written(tmp_path, state), {})


def test_what_is_missing_is_told_of_the_set_that_is_chosen(tmp_path):
    _, state = made(RESNET)
    lost = "layer4.1.bn2.weight"
    cut = {name: value for name, value in state.items() if name != lost}
    path = written(tmp_path, {"student": other(cut), "teacher": cut})
    for weights, place in ((None, "teacher"), ("teacher", "teacher"), ("student", "student")):
        torch.manual_seed(len(place))  # what is missing does not depend on it
        encoder, about = loaded(path, RESNET, allow_missing=True, weights=weights)
        assert about["external"]["weights"] == place
        expected = state["conv1.weight"] + (place == "student")
        assert torch.equal(encoder.conv1.weight, expected)
        again = loaded(path, RESNET, allow_missing=True, weights=weights)[1]
        assert again["weights_hash"] == about["weights_hash"]
    assert "no weights at 'queen'" in error(path, allow_missing=True, weights="queen")


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused(dtype, tmp_path):
    _, state = made(RESNET)
    cast = {n: v.to(dtype) if v.is_floating_point() else v for n, v in state.items()}
    kind = str(dtype).removeprefix("torch.")
    for allowed in (False, True):
        found = error(written(tmp_path, cast), allow_missing=allowed)
        assert f"of another shape: conv1.weight {kind} (4, 3, 3, 3)" in found


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.empty(2, device="meta"), "has no values"),
        (torch.eye(2).to_sparse(), "is quantised or sparse"),
    ],
)
def test_tensors_without_values_are_refused(tensor, what, tmp_path):
    assert f"the tensor 'x' {what}" in error(written(tmp_path, {"model": {"x": tensor}}))


def test_a_flipped_byte_is_noticed(tmp_path):
    path = written(tmp_path, made(RESNET)[1])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "damaged, or only a part of the file (checksum of" in error(path)


class Config(dict):
    """As lightning, mmengine and yacs have them."""


class Settings:
    def __init__(self, **settings) -> None:
        self.__dict__.update(settings)


def test_what_trainings_leave_beside_the_weights_is_no_obstacle(tmp_path, monkeypatch):
    """Objects of NumPy, default dictionaries, and classes of packages that are not installed."""
    _, state = made(RESNET)
    for cls, name in ((Config, "yacs.config.CfgNode"), (Settings, "omegaconf.base.Metadata")):
        module, _, attribute = name.rpartition(".")
        cls.__module__, cls.__qualname__, cls.__name__ = module, attribute, attribute
        fake = types.ModuleType(module)
        setattr(fake, attribute, cls)
        monkeypatch.setitem(sys.modules, module, fake)
        monkeypatch.setitem(sys.modules, module.partition(".")[0], fake)
    beside = {
        "best": np.float64(71.2), "history": np.arange(3.0), "rng": np.random.get_state(),
        "meters": defaultdict(list, {"loss": [1.0]}), "counts": defaultdict(int, {"a": 1}),
        "hyper_parameters": Config(lr=0.1, sizes=[1, 2]), "args": Settings(lr=3, path=Path("x")),
        "when": datetime.timedelta(seconds=3), 3: {"x": {"y": "z"}},
    }  # fmt: skip
    path = tmp_path / "model.pth"
    for new in (True, False):
        torch.save({"state_dict": state, **beside}, path, _use_new_zipfile_serialization=new)
        assert loaded(path, RESNET)[1]["external"]["weights"] == "state_dict"


def test_a_pickle_that_holds_itself_ends(tmp_path):
    _, state = made(RESNET)
    tree = {"model": state}
    tree["again"] = tree
    deep = {}
    for _ in range(60):  # 2 to the power 60 places
        deep = {"a": deep, "b": deep}
    path = written(tmp_path, {**tree, "deep": deep, "models": [other(state)]})
    assert "2 sets of weights fit: 'model', 'models.0'" in error(path)


def test_the_architecture_in_nested_settings(tmp_path):
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    for settings in (
        {"hyper_parameters": {"backbone": {"name": "resnet18"}}},
        {"hyper_parameters": {"args": argparse.Namespace(arch="resnet18")}},
        {"cfg": {"model": {"name": "resnet18"}}, "name": "my run"},
    ):
        path = written(tmp_path, {"state_dict": state, **settings})
        assert load_encoder(path)[0].config["name"] == "resnet18"
    both = {"args": argparse.Namespace(arch="resnet18", model="resnet34")}
    assert "does not say what it is" in error(written(tmp_path, {"model": state, **both}), {})


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"wdth": 4}, "has no setting 'wdth'; did you mean 'width'"),
        ({"width": -4}, "encoder resnet18: "),
        ({"stem": "conv9"}, "stem 'conv9'"),
        ({"mean": 3}, "mean = 3: three numbers, such as [0.5, 0.5, 0.5], expected"),
        ({"std": [0, 0, 0]}, "std = [0, 0, 0]: three numbers"),
        ({"crop": 7}, "crop = 7: a share from 0.05 to 1 expected"),
        ({"image_size": "big"}, "image_size = 'big': pixels, 1 to 8192 expected"),
        ({"squash": 3}, "squash = 3: true or false expected"),
        ({"interpolation": "nearest"}, "'nearest': bilinear or bicubic expected"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_computed(settings, what, tmp_path):
    path = written(tmp_path, made(RESNET)[1])
    with pytest.raises(UserError) as found:
        load_encoder(path, Request(encoder={**RESNET, **settings}))
    assert what in str(found.value)
    assert "\n" not in str(found.value)


def test_a_folder_of_timm_s_fetches_nothing(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    for arguments, what in (
        ({"pretrained": True}, "encoder resnet10t: pretrained cannot be set"),
        ({"checkpoint_path": "x"}, "encoder resnet10t: checkpoint_path cannot be set"),
        ("x", "ValueError"),
    ):
        described = {"architecture": "resnet10t", "model_args": arguments}
        (tmp_path / "config.json").write_text(json.dumps(described))
        with pytest.raises(UserError, match=what):
            load_encoder(tmp_path)
