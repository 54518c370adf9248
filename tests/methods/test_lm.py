"""LM against transformers' own loss, and against peeking."""

import math

import pytest
import torch

from sslbench.data.split import Tokens
from sslbench.encoder import build
from sslbench.errors import NotApplicable
from sslbench.methods.language.lm import LM
from sslbench.random import Random
from tests.conftest import tiny_bert, tiny_gpt, tiny_texts

CAUSAL = ["gpt2", "gpt_neox", "llama", "opt", "qwen2"]


def tiny(name: str):
    torch.manual_seed(0)
    config = {
        "name": name, "tokenizer": "wordpiece", "vocabulary": 64, "hidden_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 24,
    }  # fmt: skip
    wide = {"opt": "ffn_dim", "gpt2": "n_inner"}.get(name, "intermediate_size")
    config[wide] = 48
    if name in ("llama", "qwen2"):
        config["num_key_value_heads"] = 2
    if name == "opt":
        config["word_embed_proj_dim"] = 32
    return build(config, tiny_texts())


def make(name: str = "gpt2", **settings: object) -> LM:
    return LM(tiny(name), tiny_texts(), **settings).double().train()


def draw(method: LM, n: int = 4) -> torch.Tensor:
    places = torch.arange(n)
    return method.views(method.data[places], Random(0, 0, places, n))


@pytest.mark.parametrize("name", CAUSAL)
def test_changing_the_future_changes_nothing_in_the_past(name):
    method = make(name)
    ids = draw(method)
    whole = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        before = method.encoder.logits(Tokens(ids, whole, torch.zeros_like(ids)))
        for place in (1, 11, 23):
            other = ids.clone()
            other[:, place:] = (other[:, place:] + 7) % 60
            after = method.encoder.logits(Tokens(other, whole, torch.zeros_like(ids)))
            torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
            assert (after[:, place:] - before[:, place:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", CAUSAL)
def test_loss_and_gradient_are_those_of_transformers(name):
    method = make(name)
    ids = draw(method)
    loss = method.loss(ids, 0.0)
    loss.backward()
    ours = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    theirs = method.encoder.model(input_ids=ids, labels=ids).loss
    theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)  # in single precision
    for n, p in method.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(ours[n], p.grad, rtol=1e-5, atol=1e-7, msg=n)


def test_loss_is_the_chain_rule():
    """−log p of a whole row, given its first token, by one prefix at a time; per token."""
    method = make()
    ids = draw(method, 2)
    total, count = 0.0, 0
    for row in ids.tolist():
        for place in range(1, len(row)):
            logits = method.encoder.model(input_ids=torch.tensor([row[:place]])).logits[0, -1]
            scores = logits.tolist()
            total += math.log(sum(math.exp(s) for s in scores)) - scores[row[place]]
            count += 1
    assert count == 2 * 23
    assert method.loss(ids, 0.0).item() == pytest.approx(total / count, rel=1e-6)


def test_rows_are_packed_documents_of_the_asked_length():
    method = make(length=10)
    ids = draw(method, 3)
    assert ids.shape == (3, 10)
    text = tiny_texts().texts[0]
    tokenizer = method.encoder.tokenizer
    expected = [tokenizer.sep, *tokenizer.inner.encode(text, add_special_tokens=False).ids]
    assert ids.flatten().tolist() == expected[:30]
    assert make().data.ids.shape[1] == 24


def test_what_does_not_fit_is_refused():
    with pytest.raises(NotApplicable, match=r"lm needs a causal encoder; bert\(.* sees the future"):
        LM(tiny_bert(), tiny_texts())
    with pytest.raises(ValueError, match=r"length = 25: gpt2.* takes 2 to 24 tokens"):
        LM(tiny_gpt(), tiny_texts(), length=25)
