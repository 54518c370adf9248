"""The steps written by hand against those of the methods, on tiny encoders."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from sslbench.bench import step, timing
from sslbench.bench.step import Work
from sslbench.checkpoint import weights_hash
from tests.conftest import tiny_bert, tiny_images, tiny_resnet, tiny_texts, tiny_vit

HEADS = {"byol": {"hidden": 16, "dim": 8}, "vicreg": {"hidden": 16, "dim": 16}}
HEADS["mae"] = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
WRONG = {
    "simclr": {"temperature": 0.101},
    "byol": {"tau": 0.9},
    "vicreg": {"weights": (25, 25, 1.01)},
    "mae": {"mask_ratio": 0.5},
    "mlm": {"selected": 0.2},
}


def tiny(work: Work) -> Work:
    """The same method on a tiny encoder, twenty steps."""
    encoder = {"mae": tiny_vit, "mlm": tiny_bert}.get(work.name, tiny_resnet)()
    config = {k: v for k, v in encoder.config.items() if k != "tokenizer_hash"}
    data = (lambda: tiny_texts(16)) if work.name == "mlm" else (lambda: tiny_images(80))
    settings = HEADS.get(work.name, {})
    return replace(work, encoder=config, batch_size=16, epochs=4, data=data, settings=settings)


WORKS = [pytest.param(tiny(work), id=work.name) for work in step.WORKS]


@pytest.mark.parametrize("work", WORKS)
def test_the_step_by_hand_has_the_losses_of_the_method(work):
    said = step.compare(work, work.method())
    assert said.startswith("losses of 5 steps")


@pytest.mark.parametrize("work", WORKS)
def test_another_step_by_hand_is_found(work):
    other = replace(work, by_hand=partial(work.by_hand, **WRONG[work.name]))
    with pytest.raises(timing.UnequalError, match=r"losses of 5 steps.* apart, more than 0.0001"):
        step.compare(other, work.method())


def test_another_learning_rate_is_found(monkeypatch):
    work, true = tiny(step.WORKS[0]), step.warm_cosine
    monkeypatch.setattr(step, "warm_cosine", lambda done, warmup: 0.9 * true(done, warmup))
    with pytest.raises(timing.UnequalError):
        step.compare(work, work.method())


def test_the_clock_tells_the_sides_apart(monkeypatch):
    work, now, ran = tiny(step.WORKS[0]), [0.0], []
    method = work.method()
    before, views = weights_hash(method), type(method).views

    def slow_views(*given):
        now[0] += 3
        return views(*given)

    def by_hand(_, steps):
        def one(number, index):
            ran.append((number, len(index)))
            now[0] += 1
            return torch.zeros(())

        assert steps == 20
        return one

    monkeypatch.setattr(type(method), "views", slow_views)
    monkeypatch.setattr(step, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = step.in_turn(replace(work, by_hand=by_hand), method)
    assert found == (3.0, 1.0)
    assert ran == [(number, 16) for number in range(20)]
    assert weights_hash(method) == before


def test_a_line_for_each_method(monkeypatch):
    monkeypatch.setattr(step, "WORKS", [replace(tiny(step.WORKS[0]), epochs=1)])
    (line,) = step.measure(2)
    assert line.name == "step/simclr"
    assert line.goal == timing.Goal("within", 1.05)
    assert len(line.ours) == len(line.theirs) == 2
    assert line.same == "losses of 5 steps, their ratio to 1: 0.0e+00 apart"
