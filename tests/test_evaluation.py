"""What the core does around a task."""

import numpy as np
import pytest
import torch
from scipy import stats

from sslbench import evaluation
from sslbench.data import load
from sslbench.encoder import build
from sslbench.errors import NotApplicable
from sslbench.grid.cells import Evaluation
from sslbench.records import Checkpoint
from sslbench.statistics import interval
from sslbench.task import Result, Score, Task

CONFIG = {"name": "resnet18", "width": 4, "image_size": 8, "mean": [0.5] * 3, "std": [0.25] * 3}
CHECKPOINT = Checkpoint(key="c", name="x", family="baselines", encoder="resnet18()")


class Fake(Task):
    """Does what the test says."""

    paper = "none"
    metric = "top1"

    def run(self, encoder, data, *, seed, folder):
        return self.behave(encoder, data)


@pytest.fixture
def record(tmp_path, monkeypatch):
    """The record of a task that behaves as `behave` does."""

    def make(behave, **attributes):
        cls = type("Fake", (Fake,), {"behave": staticmethod(behave), **attributes})
        monkeypatch.setattr(evaluation.registry, "task", lambda name: cls)
        data = load("digits")
        cell = Evaluation("c", 1.0, "fake", "fake", 1, {}, data.name, data.hash, 0)
        return evaluation.evaluate(build(CONFIG).eval(), CHECKPOINT, cell, data, tmp_path)

    return make


def right(n=100):
    return np.arange(n) % 4 != 0


def test_a_share_gets_the_wilson_interval(record):
    found, examples = record(lambda encoder, data: Result({"top1": Score.mean(right())}))
    low, high = stats.binomtest(75, 100).proportion_ci(method="wilson")
    assert found.status == "ok"
    assert found.scores["top1"].value == 0.75
    assert (found.scores["top1"].low, found.scores["top1"].high) == pytest.approx((low, high))
    assert found.chance == load("digits").chance
    np.testing.assert_array_equal(examples["top1"], right())


def test_a_standard_error_over_few_gets_students_interval(record):
    found, _ = record(lambda encoder, data: Result({"top1": Score(0.5, 5, stderr=0.1)}))
    assert found.scores["top1"].high == pytest.approx(0.5 + 0.1 * stats.t.ppf(0.975, 4))


def change_a_buffer(encoder, data):
    encoder.bn1.running_mean += 1
    return Result({"top1": Score.mean(right())})


def change_a_weight(encoder, data):
    encoder.conv1.weight.data[0] += 1e-6
    return Result({"top1": Score.mean(right())})


@pytest.mark.parametrize("behave", [change_a_buffer, change_a_weight])
def test_frozen_means_frozen(record, behave):
    found, examples = record(behave)
    assert found.status == "failed"
    assert "changed the encoder" in found.reason
    assert not found.scores
    assert not examples


def test_the_groups_of_a_part_of_the_test_split(record, monkeypatch):
    test, places = load("digits")["test"], np.arange(60, 160)
    monkeypatch.setattr(test, "groups", np.arange(len(test)) // 20)
    found, examples = record(lambda *_: Result({"top1": Score.mean(right())}, places=places))
    low, high = interval(right(), places // 20)[1:]
    assert (found.scores["top1"].low, found.scores["top1"].high) == (low, high)
    np.testing.assert_array_equal(examples["groups"], places // 20)


def test_a_score_that_is_not_finite_is_a_failure(record):
    found, _ = record(lambda encoder, data: Result({"top1": Score(float("nan"), 3)}))
    assert (found.status, "nan" in found.reason) == ("failed", True)


def test_the_headline_must_be_among_the_scores(record):
    found, _ = record(lambda encoder, data: Result({"top5": Score.mean(right())}))
    assert found.status == "failed"
    assert "no score 'top1' among top5" in found.reason


def test_what_does_not_apply_says_why(record):
    def refuse(encoder, data):
        raise NotApplicable("because")

    assert record(refuse)[0].reason == "because"
    found, _ = record(refuse, target="boxes")
    assert found.status == "not_applicable"
    assert found.reason == "needs targets of the kind boxes; digits has label"
    assert record(refuse, modality="text")[0].status == "not_applicable"


def test_out_of_memory_comes_with_advice():
    """It is not tried again with a smaller batch, which would be another method."""
    reason = evaluation.failure(torch.OutOfMemoryError("CUDA out of memory."))
    assert "CUDA out of memory." in reason
    assert reason.splitlines()[-1] == evaluation.OUT_OF_MEMORY
    assert evaluation.OUT_OF_MEMORY not in evaluation.failure(RuntimeError("CUDA error"))
