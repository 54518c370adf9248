"""Image models of transformers: the same features as its own, or a clear error."""

import json
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sslbench.checkpoint import load_encoder, save_encoder
from sslbench.data.split import Batch
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.external.hugging_face_image import load
from sslbench.external.request import Request

VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32}
VIT |= {"intermediate_size": 64, "patch_size": 8}
SWIN = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
SWIN |= {"image_size": 64, "patch_size": 4}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1], "image_size": 64}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
MODELS = {
    "vit": VIT,
    "deit": VIT,
    "vit_mae": VIT,
    "vit_msn": VIT,
    "beit": VIT | {"use_mean_pooling": False, "use_relative_position_bias": True},
    "data2vec-vision": VIT,
    "dinov2": VIT,
    "dinov2_with_registers": VIT | {"num_register_tokens": 3},
    "dinov3_vit": VIT | {"num_register_tokens": 4},
    "ijepa": VIT,
    "clip_vision_model": VIT,
    "siglip_vision_model": VIT,
    "swin": SWIN,
    "swinv2": SWIN,
    "convnext": STAGES,
    "convnextv2": STAGES,
    "dinov3_convnext": STAGES,
    "resnet": RESNET,
    "regnet": RESNET | {"groups_width": 4},
    "bit": RESNET | {"num_groups": 4},
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": 64},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": 64},
}
BEFORE = {"deit": 2, "dinov2_with_registers": 4, "dinov3_vit": 5, "ijepa": 0}
BEFORE |= {"siglip_vision_model": 0}


def saved(tmp_path, kind, **changes):
    """A model as transformers writes it, with weights that all matter."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**MODELS[kind], **changes})
    model = transformers.AutoModel.from_config(config).eval()
    for weights in model.parameters():
        weights.data += 0.05 * torch.randn_like(weights)
    folder = tmp_path / kind
    model.save_pretrained(folder)
    return folder, model


def theirs(model, images, **more):
    """What transformers computes, with the patches of a MAE in their order and all there."""
    if model.config.model_type == "vit_mae":
        model.config.mask_ratio = 0.0
        more["noise"] = torch.arange((images.shape[2] // 8) ** 2.0).expand(len(images), -1)
    with torch.no_grad():
        return model(pixel_values=images, output_hidden_states=True, **more)


def representation(model, out):
    """The pooling that is said to be the default."""
    kind, states = model.config.model_type, out.last_hidden_state
    if kind == "clip_vision_model":
        return out.pooler_output
    if kind in ("ijepa", "data2vec-vision"):
        return states[:, BEFORE.get(kind, 1) :].mean(1)
    plain = kind.startswith(("vit", "deit", "beit")) or kind in ("dinov2", "dinov3_vit")
    return states[:, 0] if plain or "registers" in kind else out.pooler_output.flatten(1)


@pytest.mark.parametrize("kind", MODELS)
def test_features_are_those_of_transformers(kind, tmp_path):
    folder, model = saved(tmp_path, kind)
    encoder, report = load(folder, Request())
    assert not encoder.training
    assert report.matched == report.wanted == len(encoder.model.state_dict())
    assert report.missing == ()
    images = torch.rand(2, 3, encoder.image_size, encoder.image_size)
    out = theirs(model, encoder.normalise(images))
    with torch.no_grad():
        features, layers = encoder(images), encoder.layers(images)
        maps = encoder.stages(images)
        assert torch.equal(features, representation(model, out))
        assert torch.equal(features, [*layers.values()][-1])
        assert features.shape == (2, encoder.dim)
        if encoder.patch is None:
            assert next(iter(layers)) == "stage1.avg3"
            sides = [x.shape[2] for x in maps]
            assert sides == sorted({*sides}, reverse=True)
            with pytest.raises(NotApplicable):
                encoder.tokens(images)
        else:
            assert [*layers][:4] == [f"block{depth}.avg" for depth in (1, 2, 3, 4)]
            tokens = encoder.tokens(images)
            before = BEFORE.get(kind, 1)
            last = out.last_hidden_state[:, before:]
            assert torch.equal(
                tokens, model.post_layernorm(last) if kind == "clip_vision_model" else last
            )
            third = out.hidden_states[3][:, before:].transpose(1, 2)
            assert torch.equal(maps[2].flatten(2), third)
            with pytest.raises(NotApplicable):
                encoder.tokens(images, torch.zeros(2, 1, dtype=torch.long))


@pytest.mark.parametrize("kind", ["swin", "swinv2"])
def test_maps_of_a_swin_are_those_before_patches_are_merged(kind, tmp_path):
    folder, model = saved(tmp_path, kind)
    encoder, _ = load(folder, Request())
    images, seen = torch.rand(2, 3, 64, 64), []
    for stage in model.encoder.layers:
        stage.blocks[-1].register_forward_hook(
            lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
    theirs(model, encoder.normalise(images))
    with torch.no_grad():
        for ours, block in zip(encoder.stages(images), seen, strict=True):
            assert torch.equal(ours.flatten(2).transpose(1, 2), block)


@pytest.mark.parametrize("kind", MODELS)
def test_other_sizes_and_untrained_ones(kind, tmp_path):
    folder, model = saved(tmp_path, kind)
    encoder, _ = load(folder, Request())
    again = encoder.variant()
    again.load_state_dict(encoder.state_dict())
    larger = encoder.variant(image_size=96)
    larger.load_state_dict(encoder.state_dict())  # position embeddings stay at their size
    assert larger.config["image_size"] == 96
    images = torch.rand(2, 3, 96, 96)
    more = {"interpolate_pos_encoding": True} if encoder.interpolates else {}
    with torch.no_grad():
        out = theirs(model, larger.eval().normalise(images), **more)
        assert torch.equal(larger(images), representation(model, out))
        assert len(larger.stages(images)) >= 4
        small = torch.rand(1, 3, encoder.image_size, encoder.image_size)
        assert torch.equal(again.eval()(small), encoder(small))


def test_every_weight_belongs_to_one_part(tmp_path):
    for kind in MODELS:
        encoder, _ = load(saved(tmp_path, kind)[0], Request())
        for name, _ in encoder.model.named_parameters():
            assert sum(f"model.{name}".startswith(f"{part}.") for part in encoder.parts) == 1


def test_pooling_is_the_users(tmp_path):
    folder, model = saved(tmp_path, "vit")
    encoder, _ = load(folder, Request(encoder={"pooling": "mean", "name": "vit"}))
    images = torch.rand(2, 3, 32, 32)
    states = theirs(model, encoder.normalise(images)).last_hidden_state
    with torch.no_grad():
        assert torch.equal(encoder(images), states[:, 1:].mean(1))
        assert [*encoder.layers(images)][-1] == "last.avg"
    with pytest.raises(UserError, match=r"pooling = 'own' of hf/vit; allowed: first, mean"):
        load(folder, Request(encoder={"pooling": "own"}))
    with pytest.raises(UserError, match="holds hf/vit, not resnet18"):
        load(folder, Request(encoder={"name": "resnet18"}))
    with pytest.raises(UserError, match="has no setting 'depth'"):
        load(folder, Request(encoder={"depth": 2}))
    with pytest.raises(UserError, match="one set of weights"):
        load(folder, Request(weights="student"))
    with pytest.raises(UserError, match="unknown encoder 'hf/vitt'; did you mean 'vit'"):
        build({"name": "hf/vitt", "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3})


def test_a_beit_pools_by_average_only_where_its_norm_was_trained(tmp_path):
    folder, model = saved(tmp_path, "beit", use_mean_pooling=True)
    images = torch.rand(2, 3, 32, 32)
    encoder, _ = load(folder, Request())
    out = theirs(model, encoder.normalise(images))
    with torch.no_grad():
        assert torch.equal(encoder(images), out.pooler_output)
    path = folder / "model.safetensors"
    save_file({n: v for n, v in load_file(path).items() if "pooler" not in n}, path)
    encoder, report = load(folder, Request())
    assert report.missing == ()
    with torch.no_grad():
        assert torch.equal(encoder(images), out.last_hidden_state[:, 1:].mean(1))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_image_tower_of_an_image_text_model(kind, tmp_path):
    text = {k: v for k, v in VIT.items() if "size" not in k or k == "hidden_size"}
    sizes = {"vision_config": VIT, "text_config": text | {"vocab_size": 50}, "projection_dim": 16}
    config = transformers.AutoConfig.for_model(kind, **sizes)
    config.text_config.bos_token_id = config.text_config.eos_token_id = 1
    model = transformers.AutoModel.from_config(config).eval()
    model.save_pretrained(tmp_path)
    encoder, report = load(tmp_path, Request())
    assert encoder.config["name"] == f"hf/{kind}_vision_model"
    assert any(name.startswith("text_model.") for name in report.unused)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        pixels = encoder.normalise(images)
        assert torch.equal(encoder(images), model.vision_model(pixel_values=pixels).pooler_output)


def test_names_of_all_versions_and_heads_load(tmp_path):
    folder, model = saved(tmp_path, "vit")
    written = load_file(folder / "model.safetensors")
    today = {name: value.clone() for name, value in model.state_dict().items()}
    assert set(written) != set(today)  # transformers 5 still writes the names of version 4
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = load(folder, Request())[0](images)
    head = {"classifier.weight": torch.zeros(5, 32)}
    prefixed = {f"vit.{name}": value for name, value in written.items()}
    for tensors in (today, written, {**prefixed, **head}, {**today, **head}):
        save_file(tensors, folder / "model.safetensors")
        encoder, report = load(folder, Request())
        with torch.no_grad():
            assert torch.equal(encoder(images), expected)
        assert ("classifier.weight" in report.unused) == ("classifier.weight" in tensors)
        assert report.matched == report.wanted


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_with_in_float32(dtype, tmp_path):
    folder, model = saved(tmp_path, "dinov3_vit")  # which has buffers that are not in the file
    model.to(dtype).save_pretrained(folder)
    encoder, report = load(folder, Request())
    assert f"torch.{report.dtype}" == str(dtype)
    _, whole = saved(tmp_path / "float32", "dinov3_vit")
    rounded = {name: value.to(dtype).float() for name, value in whole.state_dict().items()}
    whole.load_state_dict(rounded)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = theirs(whole, encoder.normalise(images)).last_hidden_state[:, 0]
        assert torch.equal(encoder(images), found)


def test_weights_in_several_files_and_pickles(tmp_path):
    folder, model = saved(tmp_path, "vit")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = load(folder, Request())[0](images)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    encoder, report = load(folder, Request())
    with torch.no_grad():
        assert torch.equal(encoder(images), expected)
    assert {path.name for path in shards} < {*report.files}
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    for number, shard in enumerate(shards):
        torch.save(load_file(shard), folder / f"pytorch_model-{number}.bin")
        renamed = {n: f"pytorch_model-{number}.bin" for n, f in table["weight_map"].items()
                   if f == shard.name}  # fmt: skip
        table["weight_map"] |= renamed
    shards[1].unlink()
    with pytest.raises(UserError, match=rf"index.json: 1 of .* missing: {shards[1].name}"):
        load(folder, Request())
    for path in (*folder.glob("model-*"), index):
        path.unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(table))
    with torch.no_grad():
        assert torch.equal(load(folder, Request())[0](images), expected)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with torch.no_grad():
        assert torch.equal(load(folder, Request())[0](images), expected)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_of_a_checkpoint_runs(tmp_path):
    folder, model = saved(tmp_path, "vit")
    (folder / "model.safetensors").unlink()
    trace = tmp_path / "trace"
    evil = {**model.state_dict(), "trap": Trap(trace)}
    torch.save(evil, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="its pickle asks for"):
        load(folder, Request())
    assert not trace.exists()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(evil, 2))  # as torch.save once did
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        load(folder, Request())
    assert not trace.exists()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling.Mine"}}))
    (folder / "modeling.py").write_text(f"open({str(trace)!r}, 'w')")
    with pytest.raises(UserError, match="auto_map: the model needs code of its own"):
        load(folder, Request())
    path.write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    with pytest.raises(UserError, match="quantised"):
        load(folder, Request())
    assert not trace.exists()


def test_what_does_not_fit_is_refused(tmp_path):
    folder, model = saved(tmp_path, "vit")
    path = folder / "model.safetensors"
    whole = load_file(path)
    total = len(load(folder, Request())[0].model.state_dict())

    def error(request=Request()):  # noqa: B008 - it is frozen
        with pytest.raises(UserError) as found:
            load(folder, request)
        return str(found.value)

    few = {name: value for name, value in whole.items() if "layer.1." not in name}
    save_file(few, path)
    lost = len(whole) - len(few)
    assert f"{folder}: {total - lost} of {total} weights found by name and shape; not" in error()
    assert error().endswith(f"and {lost - 3} more")
    encoder, report = load(folder, Request(allow_missing=True))
    assert len(report.missing) == lost
    assert report.matched == total - lost
    assert all(".1." in name for name in report.missing)
    assert encoder(torch.rand(2, 3, 32, 32)).isfinite().all()
    other = "embeddings.cls_token"
    save_file({**whole, other: whole[other][..., :5].clone()}, path)
    assert error().endswith(f"{total - 1} of {total} weights found by name and shape; not {other}")
    assert load(folder, Request(allow_missing=True))[1].missing == (other,)
    save_file({f"student.{name}": value for name, value in whole.items()}, path)
    assert f"0 of {total} weights found" in error()
    assert f"0 of {total} weights found" in error(Request(allow_missing=True))
    save_file({"classifier.weight": torch.zeros(5, 32)}, path)
    assert f"0 of {total} weights found" in error()
    save_file(whole, path)
    path.write_bytes(path.read_bytes()[:1000])
    assert str(path) in error()
    path.unlink()
    assert error().endswith("expected model.safetensors or pytorch_model.bin")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    short = (folder / "pytorch_model.bin").read_bytes()[:5000]
    (folder / "pytorch_model.bin").write_bytes(short)
    assert "pytorch_model.bin: damaged" in error()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "vitt"}))
    with pytest.raises(UserError, match="model type 'vitt' is not known here; did you mean 'vit'"):
        load_encoder(folder)
    (folder / "config.json").unlink()
    assert error() == f"{folder}: config.json is missing"


PROCESSORS = {
    "ViT": {"size": {"height": 32, "width": 32}},
    "CLIP": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    "Bit": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
    "DeiT": {"size": {"height": 37, "width": 37}, "crop_size": {"height": 32, "width": 32}},
    "Siglip": {"size": {"height": 32, "width": 32}, "resample": 3},
    "Beit": {"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3]},
    "MobileNetV2": {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}},
    "DINOv3ViT": {"size": {"height": 32, "width": 32}},
    "ConvNext": {"size": {"shortest_edge": 32}, "crop_pct": 0.875},
}
OLD = {  # files from before transformers 4.27: a number is a square or the shorter side
    "ViT": {"size": 32, "feature_extractor_type": "ViTFeatureExtractor"},
    "CLIP": {"size": 32, "crop_size": 32, "feature_extractor_type": "CLIPFeatureExtractor"},
    "ConvNext": {"size": 32, "feature_extractor_type": "ConvNextFeatureExtractor"},
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", [*PROCESSORS, *(f"{name} of old" for name in OLD), "ConvNext 384"])
def test_images_are_prepared_as_transformers_does(name, large, tmp_path):
    folder, _ = saved(tmp_path, "vit")
    path = folder / "preprocessor_config.json"
    if name.endswith("old"):
        path.write_text(json.dumps(OLD[name.removesuffix(" of old")]))
    else:
        settings = {"size": {"shortest_edge": 384}} if "384" in name else PROCESSORS[name]
        kind = f"{name.removesuffix(' 384')}ImageProcessor"
        getattr(transformers, kind)(**settings).save_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    encoder, report = load(folder, Request())
    assert report.preprocessing == "preprocessor_config.json"
    assert report.files.keys() == {"config.json", "model.safetensors", path.name}
    # Margins of a crop are even: transformers cuts half a pixel off, torchvision and we round it.
    height, width = (100, 150) if large else (66, 44)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12), (height, width))[0]
    image = (51 + smooth * 153).to(torch.uint8)  # overshoots of theirs are clamped twice
    expected = processor(image, return_tensors="pt").pixel_values
    found = encoder.normalise(encoder.preprocess(Batch(torch.zeros(1), images=[image])))
    assert found.shape == expected.shape
    # Theirs rounds to whole grey levels after resizing each axis, ours does not.
    level = 1.2 / 255 / encoder.std.min()
    torch.testing.assert_close(found, expected, rtol=0, atol=float(level))


def test_where_the_preprocessing_comes_from(tmp_path):
    folder, _ = saved(tmp_path, "vit")
    encoder, report = load(folder, Request())
    assert encoder.image_size == 32
    assert report.preprocessing.startswith("no preprocessor_config.json: ImageNet's mean and std")
    request = Request(preprocess={"image_size": 48, "crop": 0.9, "mean": [0.5] * 3})
    encoder, report = load(folder, request)
    assert (encoder.image_size, encoder.config["crop"], encoder.config["img_size"]) == (48, 0.9, 32)
    assert report.preprocessing.endswith("from the user: image_size, crop, mean")
    with pytest.raises(UserError, match="--preprocess sise"):
        load(folder, Request(preprocess={"sise": 3}))
    # An image–text model's processor has a table for images.
    images = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}}
    images |= {"crop_size": {"height": 40, "width": 40}}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": images}))
    encoder, report = load(folder, Request())
    assert (encoder.image_size, report.preprocessing) == (40, "processor_config.json")
    (folder / "processor_config.json").write_text("{}")
    path = folder / "preprocessor_config.json"
    path.write_text('{"size": {"height": 40, "width": 20}}')
    with pytest.raises(UserError, match="'width': 20}: a square or the shortest_edge expected"):
        load(folder, Request())
    path.write_text('{"size": "large"}')
    with pytest.raises(UserError, match=r"preprocessor_config\.json: "):
        load(folder, Request())


def test_it_is_saved_as_a_checkpoint_of_ours(tmp_path):
    folder, _ = saved(tmp_path, "dinov2")
    encoder, _ = load(folder, Request())
    save_encoder(encoder, tmp_path / "ours", {})
    again, _ = load_encoder(tmp_path / "ours")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), encoder(images))
