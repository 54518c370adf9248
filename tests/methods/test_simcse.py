"""SimCSE against loops over sentences; its dropout is tested in tests/test_dropout.py."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sslbench import distributed
from sslbench.data.split import Tokens
from sslbench.dropout import dropout
from sslbench.errors import NotApplicable
from sslbench.method import Recipe
from sslbench.methods.language.simcse import SimCSE, info_nce
from sslbench.monitor import CollapseWarning
from sslbench.pretrain import train
from sslbench.random import Random
from tests.conftest import run_processes, tiny_bert, tiny_embeddings, tiny_gpt, tiny_texts

B = 8


def make(**settings: object) -> SimCSE:
    torch.manual_seed(0)
    return SimCSE(tiny_bert(), tiny_texts(), **settings).train()


def draw(method: SimCSE, places: torch.Tensor, step: int = 0):
    with torch.no_grad():
        return method.views(method.data[places], Random(0, step, places, B))


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def equation_4(first, second, temperature):
    """Mean of −log e^{sim(h_i, h'_i)/τ} / Σ_j e^{sim(h_i, h'_j)/τ}."""
    total = 0.0
    for i, anchor in enumerate(first):
        scores = [math.exp(cosine(anchor, other) / temperature) for other in second]
        total -= math.log(scores[i] / sum(scores))
    return total / len(first)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_loss_and_gradient(temperature):
    random = np.random.default_rng(0)
    first, second = (
        torch.from_numpy(random.normal(size=(5, 7))).requires_grad_() for _ in range(2)
    )
    loss = info_nce(first, second, temperature)
    loss.backward()
    rows = [first.tolist(), second.tolist()]
    assert loss.item() == pytest.approx(equation_4(*rows, temperature), rel=1e-10)
    assert loss.item() != pytest.approx(equation_4(*rows[::-1], temperature), rel=1e-3)
    for which, tensor in enumerate((first, second)):
        for i in range(5):
            for j in range(7):
                values = []
                for step in (1e-6, -1e-6):
                    moved = [[list(row) for row in part] for part in rows]
                    moved[which][i][j] += step
                    values.append(equation_4(*moved, temperature))
                slope = (values[0] - values[1]) / 2e-6
                assert tensor.grad[i, j].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_the_whole_loss_is_two_passes_of_the_encoder_one_by_one():
    method = make(dropout=0.2).double()
    views = draw(method, torch.arange(B))
    *parts, seeds = views
    assert seeds.shape == (B, 2)
    passes = []
    for view in range(2):
        rows = []
        for i in range(B):
            width = int(parts[1][i].sum())
            one = Tokens(*(part[i : i + 1, :width] for part in parts))
            with dropout(method.encoder, seeds[i : i + 1, view], 0.2):
                rows.append(method.encoder.embed(one)[0])
        passes.append(method.head(torch.stack(rows)).tolist())
    loss = method.loss(views, 0.0)
    assert loss.item() == pytest.approx(equation_4(*passes, 0.05), rel=1e-8)
    assert not np.allclose(passes[0], passes[1])
    method.dropout = 0.0
    assert method.loss(views, 0.0) < loss  # each pass is its own positive


def test_sentences_are_enclosed_and_cut():
    method = make(length=6)
    ids, mask, segments, _ = draw(method, torch.arange(B))
    tokenizer = method.encoder.tokenizer
    assert ids.shape[1] <= 6
    assert segments.eq(0).all()
    for row, here in zip(ids, mask, strict=True):
        tokens = row[here].tolist()
        assert (tokens[0], tokens[-1]) == (tokenizer.cls, tokenizer.sep)
        assert tokenizer.special[row[here]].sum() == 2
    assert make(length=1000).data.ids.shape[1] <= 22  # of the encoder's 24


def test_draws_are_new_for_each_view_sentence_and_step():
    method = make()
    seeds = torch.cat([draw(method, torch.arange(B), step)[3] for step in range(3)])
    assert len(seeds.unique()) == seeds.numel()
    assert draw(method, torch.tensor([5, 2]))[3].equal(seeds[[5, 2]])


def local_part() -> tuple[float, torch.Tensor]:
    """This process's loss, and the gradient averaged over the processes."""
    method = make(dropout=0.3).double()
    size = B // distributed.world()
    places = torch.arange(size) + distributed.rank() * size
    loss = method.loss(draw(method, places), 0.0)
    loss.backward()
    trained = [p for p in method.parameters() if p.grad is not None]
    distributed.average_gradients(trained)
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in trained])


def test_negatives_come_from_all_processes():
    loss, gradient = local_part()
    found = run_processes(2, local_part)
    assert np.mean([value for value, _ in found]) == pytest.approx(loss, rel=1e-10)
    for _, other in found:
        torch.testing.assert_close(other, gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("broken", [False, True])
def test_collapse_without_negatives_is_noticed(broken, tmp_path):
    method = make()
    if broken:

        def align(views, progress):
            *parts, seeds = views
            twice = Tokens(*(part.repeat(2, 1) for part in parts))
            with dropout(method.encoder, seeds.T.flatten(), 0.1):
                first, second = method.encoder.embed(twice).chunk(2)
            method.log(embedding=first)
            return 1 - F.cosine_similarity(first, second).mean()

        method.loss = align
    method.recipe = Recipe("adamw", lr=3e-3, batch_size=32, schedule="constant")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train(method, tmp_path, epochs=6, seed=0)
    assert any(issubclass(w.category, CollapseWarning) for w in seen) == broken


@pytest.mark.parametrize("encoder", [tiny_gpt, tiny_embeddings])
def test_encoders_that_do_not_fit_are_refused(encoder):
    with pytest.raises(NotApplicable, match="simcse needs a bidirectional encoder with dropout"):
        SimCSE(encoder(), tiny_texts())
