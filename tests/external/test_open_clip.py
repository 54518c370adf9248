"""Image–text models of open_clip: the same embeddings as its own, or a clear error."""

import json
import sys

import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from sslbench.checkpoint import load_encoder, save_encoder
from sslbench.data.split import Batch, Dataset
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.external.open_clip import load
from sslbench.external.request import Request
from sslbench.predict import predict
from sslbench.registry import task
from sslbench.tokenizer import trained
from tests.conftest import tiny_captions, tiny_texts

VISION = {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
TIMM = {"image_size": 64, "timm_model_name": "convnext_atto", "timm_pool": "avg"}
VIT = {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": ""}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
MODELS = {
    "plain": {"vision_cfg": VISION, "text_cfg": TEXT},
    "quick_gelu": {"vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True},
    "custom": {"vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True, "init_logit_bias": -10},
    "resnet": {"vision_cfg": RESNET, "text_cfg": TEXT},
    "convnext": {"vision_cfg": {**TIMM, "timm_proj": "linear"}, "text_cfg": TEXT},
    "timm vit": {"vision_cfg": {**VIT, "timm_proj": "linear"}, "text_cfg": TEXT},
}
CAPTIONS = ["a cat!", "hello world " * 20, "!", ""]


def saved(folder, model, **preprocess):
    """A folder as open_clip writes it, and the tensors in it."""
    folder.mkdir(exist_ok=True)
    config = {"model_cfg": {"embed_dim": 24, **model}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    settings = json.loads(json.dumps(config["model_cfg"]))
    custom = settings.pop("custom_text", False)
    made = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**settings)
    tensors = {name: value.clone() for name, value in made.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return tensors


def theirs(folder):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_those_of_open_clip(name, tmp_path):
    tensors = saved(tmp_path, MODELS[name])
    model, _, tokenizer = theirs(tmp_path)
    encoder, report = load(tmp_path, Request())
    assert not encoder.training
    assert report.matched == report.wanted == len(tensors) == len(encoder.state_dict())
    assert (report.missing, report.unused) == ((), ())
    images = torch.rand(2, 3, encoder.image_size, encoder.image_size)
    captions = Batch(torch.arange(4), texts=CAPTIONS)
    with torch.no_grad():
        expected = model.encode_image(encoder.normalise(images))
        assert torch.equal(encoder(images), expected)
        layers = encoder.layers(images)
        # A trunk of timm is run block by block there, and its products may be summed otherwise.
        torch.testing.assert_close(layers["projection"], expected, rtol=0, atol=1e-6)
        assert torch.equal(
            encoder.text(encoder.text.preprocess(captions)), model.encode_text(tokenizer(CAPTIONS))
        )
        assert encoder.log_scale.item() == model.logit_scale.item()
        assert encoder.bias.item() == (-10 if name == "custom" else 0)
        maps = encoder.stages(images)
        if encoder.patch is None:
            assert next(iter(layers)) == "stage1.avg3"
            with pytest.raises(NotApplicable):
                encoder.tokens(images)
        else:
            side = encoder.image_size // encoder.patch
            assert all(x.shape[2:] == (side, side) for x in maps)
            assert encoder.tokens(images).shape[1] == side**2
            assert [*layers][-2].startswith("block")
    for weight, _ in encoder.visual.named_parameters():
        assert sum(f"visual.{weight}".startswith(f"{part}.") for part in encoder.parts) <= 1
    again = build(encoder.config)
    again.load_state_dict(encoder.state_dict())


@pytest.mark.parametrize("name", ["plain", "custom"])
def test_predictions_are_those_of_open_clip(name, tmp_path):
    saved(tmp_path / "model", MODELS[name], mean=[0.4] * 3, std=[0.2] * 3)
    model, _, tokenizer = theirs(tmp_path / "model")
    pixels = torch.randint(60, 200, (32, 32, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "image.png")
    labels = ["a cat", "a dog", "nothing"]
    with torch.no_grad():
        x = (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - 0.4) / 0.2
        image = torch.nn.functional.normalize(model.encode_image(x), dim=1)
        texts = torch.nn.functional.normalize(model.encode_text(tokenizer(labels)), dim=1)
        logits = model.logit_scale.exp() * image @ texts.T
        shares = logits.softmax(1) if name == "plain" else (logits - 10).sigmoid()
    (found,) = predict(tmp_path / "model", [tmp_path / "image.png"], labels, ["{}"], 3)
    assert found.scale == pytest.approx(model.logit_scale.exp().item())
    for guess in found.guesses:
        share = shares[0, labels.index(guess.label)].item()
        assert guess.probability == pytest.approx(share, rel=1e-4)


def test_images_are_prepared_as_open_clip_does(tmp_path):
    for resize in ("shortest", "squash"):
        saved(tmp_path, MODELS["plain"], mean=[0.4] * 3, std=[0.2] * 3, resize_mode=resize)
        _, preprocess, _ = theirs(tmp_path)
        encoder, report = load(tmp_path, Request())
        assert report.preprocessing == "open_clip_config.json"
        smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12), (66, 44))[0]
        image = (51 + smooth * 153).to(torch.uint8)
        pil = transformers.image_transforms.to_pil_image(np.asarray(image))
        found = encoder.normalise(encoder.preprocess(Batch(torch.zeros(1), images=[image])))
        # Theirs rounds to whole grey levels after resizing each axis, ours does not.
        level = 1.2 / 255 / 0.2
        torch.testing.assert_close(found[0], preprocess(pil), rtol=0, atol=level)
    saved(tmp_path, MODELS["plain"], resize_mode="longest")
    with pytest.raises(UserError, match="resize_mode 'longest'"):
        load(tmp_path, Request())
    saved(tmp_path, MODELS["plain"])
    encoder, _ = load(tmp_path, Request(preprocess={"squash": True}))
    assert encoder.config["squash"]
    with pytest.raises(UserError, match="image_size = 64; this model takes 32"):
        load(tmp_path, Request(preprocess={"image_size": 64}))


def test_a_tokenizer_of_hugging_face(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    inner = trained(tiny_texts(), "wordpiece", 64).inner
    special = {"pad_token": "[SEP]", "unk_token": "[UNK]"}  # a padding that its file does not say
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    text = {**TEXT, "vocab_size": 64, "hf_tokenizer_name": "somebody/something"}
    text |= {"tokenizer_kwargs": {"clean": "canonicalize"}, "pool_type": "last"}
    folder = tmp_path / "model"
    saved(folder, {"vision_cfg": VISION, "text_cfg": text, "custom_text": True})
    whole.save_pretrained(folder)
    model, _, tokenizer = theirs(folder)
    encoder, report = load(folder, Request())
    assert {"tokenizer.json", "tokenizer_config.json"} < {*report.files}
    captions = ["Bana rito. Tomir-kusha!", "lendel", "bana ri " * 40]
    tokens = encoder.text.preprocess(Batch(torch.arange(3), texts=captions))
    assert torch.equal(tokens.ids, tokenizer(captions))
    with torch.no_grad():
        assert torch.equal(encoder.text(tokens), model.encode_text(tokenizer(captions)))
    save_encoder(encoder, tmp_path / "ours", {})
    again, _ = load_encoder(tmp_path / "ours")
    with torch.no_grad():
        assert torch.equal(again.text(tokens), encoder.text(tokens))
    with pytest.raises(UserError, match="not the tokenizer that it was made with"):
        build(encoder.config)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        load(folder, Request())


def test_tasks_take_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    saved(tmp_path / "model", MODELS["plain"])
    encoder, _ = load(tmp_path / "model", Request())
    names, splits = ("one", "two", "three", "four"), {"test": tiny_captions()}
    data = Dataset("tiny", "image_text", ("label", "captions"), 4, names, "top1", 0.25, splits)
    for name in ("zero_shot", "image_text_retrieval"):
        result = task(name)().run(encoder, data, seed=0, folder=tmp_path)
        assert all(0 <= score.value <= 1 for score in result.scores.values())
    with pytest.raises(NotApplicable, match="needs single texts"):
        encoder.text.preprocess(Batch(torch.arange(1), texts=[("a", "b")]))


def test_old_names_half_precision_and_pickles(tmp_path):
    tensors = saved(tmp_path, MODELS["custom"])
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = load(tmp_path, Request())[0](images)
    path = tmp_path / "open_clip_model.safetensors"
    old = {name.removeprefix("text."): value for name, value in tensors.items()}
    save_file(old, path)
    encoder, report = load(tmp_path, Request())
    assert report.matched == report.wanted
    with torch.no_grad():
        assert torch.equal(encoder(images), expected)
    save_file({name: value.half() for name, value in tensors.items()}, path)
    encoder, report = load(tmp_path, Request())
    assert (report.dtype, encoder(images).dtype) == ("float16", torch.float32)
    path.unlink()
    torch.save(tensors, tmp_path / "open_clip_pytorch_model.bin")
    with torch.no_grad():
        assert torch.equal(load(tmp_path, Request())[0](images), expected)


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    tensors = saved(tmp_path, MODELS["plain"])
    path = tmp_path / "open_clip_model.safetensors"
    total = len(tensors)

    def error():
        with pytest.raises(UserError) as found:
            load(tmp_path, Request())
        return str(found.value)

    lost = "transformer.resblocks.1.mlp.c_fc.weight"
    save_file({n: v for n, v in tensors.items() if n != lost}, path)
    assert error().endswith(f"{total - 1} of {total} weights found by name and shape; not "
                            f"captions.model.{lost}")  # fmt: skip
    report = load(tmp_path, Request(allow_missing=True))[1]
    assert report.missing == (f"captions.model.{lost}",)
    save_file({**tensors, "visual.proj": torch.zeros(3, 3), "more": torch.zeros(1)}, path)
    assert error().endswith("not visual.proj")
    save_file({f"module.{n}": v for n, v in tensors.items()}, path)
    assert f"0 of {total}" in error()
    save_file({**tensors, "more": torch.zeros(1)}, path)
    assert load(tmp_path, Request())[1].unused == ("captions.model.more",)
    assert load_file(path).keys() == {*tensors, "more"}
    path.write_bytes(path.read_bytes()[:1000])
    assert "damaged" in error()
    path.unlink()
    assert error().endswith("open_clip_model.safetensors or open_clip_pytorch_model.bin")
    saved(tmp_path, MODELS["plain"])
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    for changes in (
        {"multimodal_cfg": {}},
        {"text_cfg": {**TEXT, "hf_model_name": "somebody/something"}},
    ):
        other = {**config, "model_cfg": {**config["model_cfg"], **changes}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(other))
        assert "CoCa and text towers of transformers are not known here" in error()
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert "no model_cfg with vision_cfg, text_cfg and embed_dim" in error()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert error() == "open_clip is missing: pip install 'sslbench[open_clip]'"
