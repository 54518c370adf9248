"""ELECTRA against loops over tokens, with generator and discriminator read one row at a time."""

import math

import numpy as np
import pytest
import torch

from sslbench import distributed
from sslbench.backbones.transformers_model import TransformersModel
from sslbench.encoder import build
from sslbench.errors import NotApplicable
from sslbench.methods.language.electra import ELECTRA, sample
from sslbench.random import Random
from tests.conftest import run_processes, tiny_bert, tiny_embeddings, tiny_gpt, tiny_texts

B = 8
IGNORED = -100


def make(**settings: object) -> ELECTRA:
    torch.manual_seed(0)
    return ELECTRA(tiny_bert(), tiny_texts(), **settings).double().train()


def draw(method: ELECTRA, places: torch.Tensor | None = None, step: int = 0):
    places = torch.arange(B) if places is None else places
    with torch.no_grad():
        ids, mask, labels, uniform = method.views(method.data[places], Random(0, step, places, B))
    return ids, mask, labels, uniform.double()


def ragged(views):
    """The same views with padding, which the packed rows do not have."""
    ids, mask, labels, uniform = (view.clone() for view in views)
    for row in range(len(ids)):
        mask[row, 24 - 2 * row :] = False
    return ids.masked_fill(~mask, 0), mask, labels.masked_fill(~mask, IGNORED), uniform


def one_row(encoder: TransformersModel, ids: list[int]) -> torch.Tensor:
    """States (N, D) of a text without padding."""
    row = torch.tensor([ids])
    model = encoder.model.base_model
    return model(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[0]


def drawn(probabilities, uniform):
    """The first id at which the sum of the probabilities passes `uniform`."""
    below = 0.0
    for number, p in enumerate(probabilities):
        below += p
        if below > uniform:
            return number
    raise AssertionError


def reference(method: ELECTRA, views, weight: float):
    """L_MLM + λ L_Disc, the two of them, and what the discriminator read."""
    words, found, read, fakes = [], [], [], 0
    for ids, mask, labels, uniform in zip(*(view.tolist() for view in views), strict=True):
        n = sum(mask)
        logits = method.generator.head(one_row(method.generator, ids[:n])).softmax(1)
        text, truth = list(ids[:n]), list(ids[:n])
        for place in range(n):
            if labels[place] != IGNORED:
                truth[place] = labels[place]
                words.append(-logits[place, labels[place]].log())
                text[place] = drawn(logits[place].tolist(), uniform[place])
        states = one_row(method.encoder, text)
        for place in range(n):
            score = states[place] @ method.replaced.weight[0] + method.replaced.bias[0]
            genuine = 1 / (1 + score.exp())  # D: the probability that the token is original
            fakes += text[place] != truth[place]
            found.append(-(genuine if text[place] == truth[place] else 1 - genuine).log())
        read.append(text)
    generator, discriminator = torch.stack(words).mean(), torch.stack(found).mean()
    return generator + weight * discriminator, generator, discriminator, read, fakes


def gradients(loss: torch.Tensor, method: ELECTRA) -> dict[str, torch.Tensor]:
    named = dict(method.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


@pytest.mark.parametrize("weight", [50.0, 3.0])
def test_loss_and_gradient(weight):
    method = make(weight=weight, selected=0.3)
    views = ragged(draw(method))
    terms = {}
    method.log = lambda **values: terms.update(values)
    loss = method.loss(views, 0.0)
    expected, words, found, _, fakes = reference(method, views, weight)
    assert fakes > 10
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert terms["words"].item() == pytest.approx(words.item(), rel=1e-9)
    assert terms["replaced"].item() == pytest.approx(found.item(), rel=1e-9)
    mine, theirs = gradients(loss, method), gradients(expected, method)
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-6, atol=1e-10, msg=name)
    assert {name for name, g in mine.items() if g.any()} == {
        name for name, g in theirs.items() if g.any()
    }


def test_each_network_is_moved_by_its_own_term_only():
    method = make()
    views, terms = draw(method), {}
    method.log = lambda **values: terms.update(values)
    method.loss(views, 0.0)
    words = gradients(terms["words"], method)
    assert all(name.startswith("generator.") for name in words)
    method.loss(views, 0.0)
    found = gradients(terms["replaced"], method)
    assert all(name.startswith(("encoder.", "replaced.")) for name in found)
    assert any(name.startswith("encoder.") for name in found)


def test_a_right_guess_counts_as_original(monkeypatch):
    """A generator that is always right leaves nothing to find."""
    method = make(selected=0.5)
    with torch.no_grad():
        method.replaced.weight.zero_()
        method.replaced.bias.fill_(-20.0)  # "nothing is replaced"
    views, terms = draw(method), {}
    labels = views[2][views[2] != IGNORED]
    method.log = lambda **values: terms.update(values)
    module = "sslbench.methods.language.electra.sample"
    monkeypatch.setattr(module, lambda logits, draw: labels)
    method.loss(views, 0.0)
    assert terms["replaced"] < 1e-8
    monkeypatch.setattr(module, lambda logits, draw: torch.where(labels == 9, 8, 9))
    method.loss(views, 0.0)
    share = len(labels) / views[0].numel()
    assert terms["replaced"].item() == pytest.approx(20 * share, rel=1e-6)


def test_the_generator_sees_masks_only():
    """15 % of the tokens, none of them special, and all of them [MASK]."""
    method = make()
    tokenizer, chosen, free = method.encoder.tokenizer, 0, 0
    for step in range(30):
        ids, mask, labels, _ = draw(method, step=step)
        selected = labels != IGNORED
        assert ids[selected].eq(tokenizer.mask).all()
        assert not tokenizer.special[labels[selected]].any()
        truth = torch.where(selected, labels, ids)
        assert not truth.eq(tokenizer.mask).any()
        assert mask.all()
        assert truth[:, 0].eq(tokenizer.cls).all()
        assert truth[:, -1].eq(tokenizer.sep).all()
        chosen += int(selected.sum())
        free += int((~tokenizer.special[truth]).sum())
    assert abs(chosen / free - 0.15) < 4 * math.sqrt(0.15 * 0.85 / free)


def test_sampling_follows_the_softmax():
    logits = torch.tensor([2.0, -torch.inf, 0.5, 1.0, -3.0, -torch.inf])
    n = 20_000
    uniform = (torch.arange(n) + 0.5) / n  # evenly: counts are exact up to 1
    counts = torch.bincount(sample(logits.expand(n, -1), uniform), minlength=6)
    assert (counts - n * logits.softmax(0)).abs().max() <= 1.5
    assert counts[1] == counts[5] == 0
    first = sample(torch.tensor([[-torch.inf, 0.0, 0.0]]), torch.zeros(1))
    last = sample(torch.randn(200, 37), torch.full((200,), 1 - 2**-24))
    assert first.item() == 1
    assert last.max() <= 36


@pytest.mark.parametrize(
    ("share", "heads", "width", "wide"), [(1 / 3, 4, 64, 128), (0.25, 3, 48, 96), (0.01, 1, 16, 4)]
)
def test_the_generator_is_narrower_and_as_deep(share, heads, width, wide):
    config = {
        "name": "bert", "vocabulary": 64, "hidden_size": 192, "num_hidden_layers": 3,
        "num_attention_heads": 12, "intermediate_size": 384, "max_position_embeddings": 24,
    }  # fmt: skip
    generator = ELECTRA(build(config, tiny_texts()), tiny_texts(), generator=share).generator
    found = generator.model.config
    sizes = (found.num_attention_heads, found.hidden_size, found.intermediate_size)
    assert sizes == (heads, width, wide)
    assert found.num_hidden_layers == 3


@pytest.mark.parametrize("name", ["roberta", "modernbert"])
def test_other_bidirectional_transformers(name):
    config = {
        "name": name, "vocabulary": 64, "hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 24,
    }  # fmt: skip
    method = ELECTRA(build(config, tiny_texts()), tiny_texts())
    loss = method.loss(draw(method), 0.0)
    loss.backward()
    assert torch.isfinite(loss)


def local_part() -> tuple[float, torch.Tensor]:
    """This process's loss, and the gradient averaged over the processes, of ragged rows."""
    method = make()
    size = B // distributed.world()
    places = slice(distributed.rank() * size, (distributed.rank() + 1) * size)
    loss = method.loss([view[places] for view in ragged(draw(method))], 0.0)
    loss.backward()
    trained = [p for p in method.parameters() if p.grad is not None]
    distributed.average_gradients(trained)
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in trained])


def test_every_token_of_all_processes_weighs_the_same():
    loss, gradient = local_part()
    found = run_processes(4, local_part)
    assert np.mean([value for value, _ in found]) == pytest.approx(loss, rel=1e-8)
    for _, other in found:
        torch.testing.assert_close(other, gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("encoder", [tiny_gpt, tiny_embeddings])
def test_encoders_that_do_not_fit_are_refused(encoder):
    with pytest.raises(NotApplicable, match="electra needs a bidirectional transformer: "):
        ELECTRA(encoder(), tiny_texts())


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_generator_of_no_or_larger_size_is_refused(share):
    with pytest.raises(ValueError, match=f"generator = {share}: more than 0 and at most 1"):
        make(generator=share)


def test_the_embedding_is_the_mean_of_the_tokens():
    method = make()
    views, terms = ragged(draw(method)), {}
    method.log = lambda **values: terms.update(values)
    method.loss(views, 0.0)
    _, _, _, read, _ = reference(method, views, 50.0)
    expected = torch.stack([one_row(method.encoder, text).mean(0) for text in read])
    torch.testing.assert_close(terms["embedding"], expected)
