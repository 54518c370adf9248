"""Other people's checkpoints: the same features as where they come from, or a clear error."""

import json
import re

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sslbench.checkpoint import load_encoder, weights_hash
from sslbench.data import weights
from sslbench.data.split import Batch
from sslbench.data.weights import located
from sslbench.errors import NotApplicable, UserError
from sslbench.external.request import Request
from sslbench.external.text import load
from sslbench.tokenizer import trained
from tests.conftest import tiny_texts

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXTS = ["Bana rito. Tomir kusha.", "lendel", "bana ri " * 40]
BLOCKS = {"intermediate_size": 64}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
MODELS = {
    "bert": (transformers.BertConfig, "BertModel", {"intermediate_size": 64}),
    "bert-head": (transformers.BertConfig, "BertForMaskedLM", {"intermediate_size": 64}),
    "roberta": (transformers.RobertaConfig, "RobertaModel", {"intermediate_size": 64}),
    "gpt2": (transformers.GPT2Config, "GPT2LMHeadModel", {}),
    "albert": (transformers.AlbertConfig, "AlbertModel", BLOCKS | {"embedding_size": 16}),
    "camembert": (transformers.CamembertConfig, "CamembertModel", BLOCKS),
    "deberta-v2": (transformers.DebertaV2Config, "DebertaV2Model", BLOCKS | RELATIVE),
    "distilbert": (transformers.DistilBertConfig, "DistilBertModel", {"hidden_dim": 64}),
    "distilbert-mlm": (transformers.DistilBertConfig, "DistilBertForMaskedLM", {"hidden_dim": 64}),
    "electra": (transformers.ElectraConfig, "ElectraModel", BLOCKS | {"embedding_size": 16}),
    "mpnet": (transformers.MPNetConfig, "MPNetModel", BLOCKS),
    "xlm-roberta": (transformers.XLMRobertaConfig, "XLMRobertaModel", BLOCKS),
    "modernbert": (transformers.ModernBertConfig, "ModernBertModel", BLOCKS | {
        "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))


def saved(tmp_path, name):
    """A model as transformers writes it, with a tokenizer that pads to 128 tokens."""
    config, cls, settings = MODELS[name]
    tokenizer = trained(tiny_texts(), "wordpiece", 64)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 40, **SIZES, **settings}
    model = getattr(transformers, cls)(config(**sizes, pad_token_id=0)).eval()
    folder = tmp_path / name
    model.save_pretrained(folder)
    tokenizer.inner.enable_padding(length=128)
    (folder / "tokenizer.json").write_text(tokenizer.inner.to_str())
    return folder, model


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_transformers(name, tmp_path):
    folder, model = saved(tmp_path, name)
    encoder, about = load_encoder(folder)
    assert about["weights_hash"] == weights_hash(encoder)
    assert (about["family"], about["name"]) == ("external", name)
    tokens = encoder.preprocess(Batch(torch.arange(3), texts=TEXTS))
    assert tokens.ids.shape[1] <= 40
    with torch.no_grad():
        base = getattr(model, model.base_model_prefix, model)
        states = base(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
        mean = torch.stack([s[m].mean(0) for s, m in zip(states, tokens.mask, strict=True)])
        assert torch.equal(encoder.tokens(tokens)[tokens.mask], states[tokens.mask])
        torch.testing.assert_close(encoder(tokens), mean)  # one sum over all rows, with zeros
        if "head" in name or encoder.causal:
            theirs = model(input_ids=tokens.ids, attention_mask=tokens.mask.long()).logits
            torch.testing.assert_close(encoder.logits(tokens), theirs)
        else:
            with pytest.raises(NotApplicable, match="no language-model head"):
                encoder.logits(tokens)


def test_pooling_and_length_are_those_of_sentence_transformers(tmp_path):
    folder, _ = saved(tmp_path, "bert")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    encoder, _ = load_encoder(folder)
    tokens = encoder.preprocess(Batch(torch.arange(3), texts=TEXTS))
    assert tokens.ids.shape[1] == 8
    torch.testing.assert_close(encoder(tokens), encoder.tokens(tokens)[:, 0])
    pooling.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(UserError, match=r"pooling .* is none of mean_tokens, cls_token, lasttoken"):
        load_encoder(folder)


def test_what_does_not_fit_is_refused(tmp_path):
    folder, _ = saved(tmp_path, "bert")
    path = folder / "model.safetensors"
    whole = load_file(path)

    def error():
        with pytest.raises(UserError) as found:
            load_encoder(folder)
        return str(found.value)

    total = sum(not name.startswith("pooler") for name in whole)
    save_file({f"student.{name}": value for name, value in whole.items()}, path)
    assert f"0 of {total} weights found by name and shape; not embeddings." in error()
    lost = "encoder.layer.1.output.dense.weight"
    save_file({n: v for n, v in whole.items() if n != lost}, path)
    assert error().endswith(f"{total - 1} of {total} weights found by name and shape; not {lost}")
    save_file({**whole, lost: whole[lost][:, :5].clone()}, path)
    assert error().endswith(f"not {lost}")
    path.write_bytes(path.read_bytes()[:1000])
    assert str(folder) in error()
    path.write_text("text")
    assert str(folder) in error()
    tokens = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text("{}")
    assert "not a tokenizer" in error()
    save_file(whole, path)
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json is missing; transformers writes it" in error()
    (folder / "tokenizer.json").write_text(tokens)
    path.unlink()
    assert error().endswith("no weights in it; expected model.safetensors or pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "brt"}))
    assert "model type 'brt' is not known here; did you mean 'bert'" in error()
    (folder / "config.json").write_text("{")
    assert "config.json" in error()


def test_the_name_of_a_fetched_checkpoint(tmp_path):
    assert located("a/b", tmp_path) == tmp_path / "a" / "b"
    with pytest.raises(UserError, match=r"no checkpoint 'minim' to fetch; did you mean 'minilm'"):
        located("fetched:minim", tmp_path)
    with pytest.raises(UserError, match=r"minilm is not in the cache .*`sslbench fetch minilm`"):
        located("fetched:minilm", tmp_path)
    with pytest.raises(UserError, match="minilm is a checkpoint, no dataset"):
        weights.refuse(weights.BY_NAME["minilm"], tmp_path)
    assert all(re.fullmatch(r"[0-9a-f]{64}", a.sha256) for r in weights.WEIGHTS for a in r.archives)


def test_spare_rows_of_the_vocabulary_are_kept(tmp_path):
    folder, _ = saved(tmp_path, "bert-head")
    config = json.loads((folder / "config.json").read_text())
    tokenizer = trained(tiny_texts(), "wordpiece", 64)
    sizes = {"vocab_size": len(tokenizer) + 7, "max_position_embeddings": 40, **SIZES}
    model = transformers.BertForMaskedLM(transformers.BertConfig(intermediate_size=64, **sizes))
    model.save_pretrained(folder)
    encoder, about = load_encoder(folder)
    tokens = encoder.preprocess(Batch(torch.arange(1), texts=TEXTS[:1]))
    assert encoder.logits(tokens).shape[-1] == len(tokenizer) + 7
    other = {**config, "vocab_size": len(tokenizer) + 7, "hidden_act": "relu"}
    (folder / "config.json").write_text(json.dumps(other))
    again, changed = load_encoder(folder)
    assert changed["weights_hash"] == about["weights_hash"]
    assert changed["key"] != about["key"]
    with pytest.raises(UserError, match="vocab_size = 3: the tokenizer has"):
        again.variant(vocab_size=3)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_names_of_other_versions_and_heads_load(name, tmp_path):
    folder, model = saved(tmp_path, name)
    path = folder / "model.safetensors"
    whole = load_file(path)
    tokens = load(folder, Request())[0].preprocess(Batch(torch.arange(3), texts=TEXTS))
    with torch.no_grad():
        expected = load(folder, Request())[0](tokens)
    prefixed = {f"{model.base_model_prefix}.{n}": v for n, v in whole.items()}
    old = {}  # from TensorFlow's files
    for weight, value in prefixed.items():
        renamed = weight.replace("LayerNorm.weight", "LayerNorm.gamma")
        old[renamed.replace("LayerNorm.bias", "LayerNorm.beta")] = value
    assert len({*old} & {*prefixed}) < len(old)
    head = {"classifier.weight": torch.zeros(3, 32)}
    for tensors in (prefixed, old, {**prefixed, **head}):
        save_file(tensors, path)
        encoder, report = load(folder, Request())
        with torch.no_grad():
            assert torch.equal(encoder(tokens), expected)
        assert (report.matched, report.missing) == (report.wanted, ())
        assert {n for n in report.unused if "pooler" not in n} == {*head} & {*tensors}


def test_half_precision_pickles_and_several_files(tmp_path):
    folder, model = saved(tmp_path, "bert-head")
    model.half().save_pretrained(folder)
    encoder, report = load(folder, Request())
    assert report.dtype == "float16"
    assert {*report.files} == {"config.json", "model.safetensors", "tokenizer.json"}
    tokens = encoder.preprocess(Batch(torch.arange(3), texts=TEXTS))
    with torch.no_grad():
        expected = encoder.logits(tokens)
    assert expected.dtype == torch.float32
    model.save_pretrained(folder, max_shard_size="10KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    with torch.no_grad():
        assert torch.equal(load(folder, Request())[0].logits(tokens), expected)
    lost = min(folder.glob("model-*.safetensors"))
    lost.unlink()
    with pytest.raises(UserError, match=f"missing: {lost.name}"):
        load(folder, Request())
    (folder / "model.safetensors.index.json").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with torch.no_grad():
        assert torch.equal(load(folder, Request())[0].logits(tokens), expected)


def test_what_the_user_says(tmp_path):
    folder, _ = saved(tmp_path, "bert")
    encoder, _ = load(folder, Request(encoder={"pooling": "first", "length": 8}))
    tokens = encoder.preprocess(Batch(torch.arange(3), texts=TEXTS))
    assert tokens.ids.shape[1] == 8
    assert torch.equal(encoder(tokens), encoder.tokens(tokens)[:, 0])
    path = folder / "model.safetensors"
    lost = "encoder.layer.1.output.dense.weight"
    save_file({n: v for n, v in load_file(path).items() if n != lost}, path)
    encoder, report = load(folder, Request(allow_missing=True))
    assert (report.missing, report.wanted - report.matched) == ((lost,), 1)
    with pytest.raises(UserError, match="holds bert, not gpt2"):
        load(folder, Request(encoder={"name": "gpt2"}))
    with pytest.raises(UserError, match="--preprocess is for images"):
        load(folder, Request(preprocess={"crop": 0.9}))
    config = json.loads((folder / "config.json").read_text())
    other = {**config, "auto_map": {"AutoModel": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="auto_map"):
        load(folder, Request())
