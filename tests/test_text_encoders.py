"""Encoders of texts: pooling, causality, saving, and what they have in common."""

import pytest
import torch
import transformers

from sslbench.backbones import CAUSAL, MASKED
from sslbench.checkpoint import load_encoder, save_encoder, weights_hash
from sslbench.data.split import Batch, Texts, Tokens
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.features import features
from sslbench.text_encoder import pool_tokens
from tests.conftest import (
    tiny_bert,
    tiny_captions,
    tiny_dual,
    tiny_embeddings,
    tiny_gpt,
    tiny_images,
    tiny_texts,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SETTINGS = {
    "gpt2": {},
    "opt": {"ffn_dim": 64},
    "qwen2": {"intermediate_size": 64, "num_key_value_heads": 2},
}
TEXTS = Texts(["A short one.", "", "Then a somewhat longer text about nothing much."])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))


def make(name, **settings):
    torch.manual_seed(0)
    own = SETTINGS.get(name, {"intermediate_size": 64})
    config = {"name": name, "tokenizer": "wordpiece", "vocabulary": 64, **SIZES, **own}
    config["max_position_embeddings"] = 40
    return build({**config, **settings}, tiny_texts()).eval()


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_every_language_model_has_layers_a_head_and_its_direction(name):
    encoder = make(name)
    inputs = encoder.preprocess(TEXTS[torch.arange(3)])
    with torch.no_grad():
        layers, states = encoder.layers(inputs), encoder.tokens(inputs)
        logits = encoder.logits(inputs)
        assert [*layers][:2] == ["embeddings.mean", "block1.mean"]
        assert [*layers][2:] == ["block2.first", "block2.last", "block2.mean"]
        torch.testing.assert_close(layers["block2.mean"], encoder(inputs))
        assert logits.shape == (*inputs.ids.shape, len(encoder.tokenizer))
        whole = encoder.model(input_ids=inputs.ids, attention_mask=inputs.mask.long()).logits
        if name != "bert":  # to which the call above gives no segments, all 0 here anyway
            torch.testing.assert_close(logits[inputs.mask], whole[inputs.mask])
        changed = inputs.ids.clone()
        changed[2, 6:] = encoder.tokenizer.ids(["bana"])[0][0]
        other = encoder.tokens(Tokens(changed, inputs.mask, inputs.segments))
    past = (other[2, :6] - states[2, :6]).abs().max()
    assert (past < 1e-6) == encoder.causal == (name in CAUSAL)
    assert (other[2, 6:] - states[2, 6:]).abs().max() > 1e-3
    assert all(getattr(m, "p", 0.0) == 0 for m in encoder.modules())  # no dropout unless asked for
    assert {n.rsplit(".", 1)[0] for n in encoder.parts} <= {n for n, _ in encoder.named_modules()}


@pytest.mark.parametrize("make_", [tiny_bert, tiny_gpt, tiny_embeddings])
def test_padding_and_neighbours_in_the_batch_change_nothing(make_):
    encoder = make_().eval()
    together = features(encoder, TEXTS, "all", cache=False)
    for number in range(3):
        alone = features(encoder, TEXTS.take([number]), "all", cache=False)
        for name, rows in alone.items():
            torch.testing.assert_close(
                torch.tensor(rows[0]), torch.tensor(together[name][number]), rtol=1e-5, atol=1e-6
            )


def test_poolings():
    states = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    assert pool_tokens(states, mask, "mean").tolist() == [[1.5, 2.5, 3.5], [0, 0, 0]]
    assert pool_tokens(states, mask, "first").tolist() == [[0, 1, 2], [0, 0, 0]]
    assert pool_tokens(states, mask, "last").tolist() == [[3, 4, 5], [0, 0, 0]]
    encoder = make("bert", pooling="first")
    inputs = encoder.preprocess(TEXTS[torch.arange(3)])
    torch.testing.assert_close(encoder(inputs), encoder.tokens(inputs)[:, 0])
    with pytest.raises(UserError, match=r"pooling 'max'; .*allowed: first, last, mean"):
        make("bert", pooling="max")


def test_bert_is_transformers_own():
    encoder = make("bert")
    config = transformers.BertConfig(
        vocab_size=len(encoder.tokenizer), intermediate_size=64, max_position_embeddings=40, **SIZES
    )
    theirs = transformers.BertForMaskedLM(config).eval()
    theirs.load_state_dict(encoder.model.state_dict())
    inputs = encoder.preprocess(Batch(torch.arange(1), texts=[("ba na", "ri to ku")]))
    with torch.no_grad():
        expected = theirs(
            input_ids=inputs.ids,
            attention_mask=inputs.mask.long(),
            token_type_ids=inputs.segments,
        ).logits
        torch.testing.assert_close(encoder.logits(inputs), expected)
    assert inputs.segments.sum() > 0


@pytest.mark.parametrize("make_", [tiny_bert, tiny_gpt, tiny_embeddings, tiny_dual])
def test_a_checkpoint_brings_its_tokenizer(make_, tmp_path):
    encoder = make_().eval()
    save_encoder(encoder, tmp_path / "encoder", {})
    loaded, about = load_encoder(tmp_path)
    assert about["weights_hash"] == weights_hash(loaded) == weights_hash(encoder)
    assert about["encoder"] == encoder.label
    ours, theirs = (e.text or e for e in (encoder, loaded))
    batch = TEXTS[torch.arange(3)]
    torch.testing.assert_close(ours(ours.preprocess(batch)), theirs(theirs.preprocess(batch)))
    torch.manual_seed(5)
    again = loaded.variant()
    assert again.tokenizer.hash == encoder.tokenizer.hash
    path = tmp_path / "encoder" / "tokenizer.json"
    path.write_text(path.read_text().replace("true", "false", 1))
    with pytest.raises(UserError, match=r"damaged checkpoint: .*not the tokenizer"):
        load_encoder(tmp_path)


def test_images_and_captions_share_a_space():
    encoder = tiny_dual().eval()
    batch = tiny_captions(8)[torch.arange(8)]
    captions = Batch(batch.index, texts=[texts[0] for texts in batch.texts])
    with torch.no_grad():
        images, texts = (
            encoder(encoder.preprocess(batch)),
            encoder.text(encoder.text.preprocess(captions)),
        )
        assert images.shape == texts.shape == (8, 16)
        torch.testing.assert_close(encoder.layers(encoder.preprocess(batch))["projection"], images)
    assert len(encoder.stages(encoder.preprocess(batch))) == 4
    assert "image=resnet18(" in encoder.label


def test_what_does_not_fit_says_so():
    with pytest.raises(UserError, match="no setting 'hiden_size'; did you mean 'hidden_size'"):
        make("bert", hiden_size=32)
    with pytest.raises(UserError, match="encoder bert: "):
        make("bert", num_attention_heads=3)
    with pytest.raises(UserError, match="no data to learn a tokenizer from"):
        build({"name": "bert"})
    with pytest.raises(NotApplicable, match="a text encoder needs texts"):
        build({"name": "bert"}, tiny_images())
    with pytest.raises(NotApplicable, match="resnet18 needs images"):
        build({"name": "resnet18"}, tiny_texts())
    with pytest.raises(NotApplicable, match="needs images"):
        build({"name": "resnet18", "image_size": 8}, tiny_texts())
    with pytest.raises(NotApplicable, match="needs texts"):
        tiny_bert().preprocess(tiny_images()[torch.arange(2)])
    with pytest.raises(NotApplicable, match="pairs of texts, these are the captions of images"):
        tiny_bert().preprocess(tiny_captions()[torch.arange(2)])
    with pytest.raises(NotApplicable, match="pairs of texts, these are words"):
        tiny_bert().preprocess(Texts([("three", "words", "here")])[torch.arange(1)])
    with pytest.raises(UserError, match="encoder dual needs a table 'image'"):
        build({"name": "dual"}, tiny_captions())
    with pytest.raises(UserError, match="is no encoder of image"):
        build({"name": "dual", "image": {"name": "embeddings"}}, tiny_captions())
    with pytest.raises(NotApplicable, match="no language-model head"):
        tiny_embeddings().logits(tiny_embeddings().preprocess(TEXTS[torch.arange(1)]))
