"""Synthetic records."""

import numpy as np
import pytest

from sslbench.hashing import digest
from sslbench.records import Checkpoint, Provenance, Record, Score, pack
from sslbench.statistics import interval


@pytest.fixture
def make():
    """A function that makes a record; keyword arguments replace its fields."""
    return _make


def _make(
    name="simclr",
    task="knn",
    dataset="digits",
    examples=None,
    value=None,
    seed=0,
    checkpoint=None,
    scores=None,
    groups=None,
    **fields,
):
    checkpoint = {
        "key": digest(name, seed),
        "name": name,
        "family": "contrastive",
        "method": name,
        "method_version": 1,
        "encoder": "resnet18",
        "pretrain_dataset": "digits",
        "pretrain_epochs": 20,
        "pretrain_step": 100,
        "pretrain_seed": seed,
        "pretrain_seconds": 60.0 + seed,
        "parameters": 11_200_000,
        **(checkpoint or {}),
    }
    inline = None
    headline = fields.get("headline", "top1")
    if examples is not None:
        examples = np.asarray(examples)
        stderr, low, high = interval(examples, groups)
        mean = float(examples.mean(dtype=np.float64))
        score = Score(value=mean, n=len(examples), standard_error=stderr, low=low, high=high)
        inline = {headline: pack(examples)}
        if groups is not None:
            inline["groups"] = pack(groups)
        scores = {headline: score, **(scores or {})}
    elif value is not None:
        scores = {headline: Score(value=value, n=100), **(scores or {})}
    fields = {
        "protocol": task,
        "status": "ok",
        "headline": headline,
        "task_version": 1,
        "task_settings": {"k": 20},
        "chance": 0.1,
        "scores": scores or {},
        "inline": inline,
        "provenance": Provenance(created="2026-01-02T03:04:05+00:00", hardware="2 × CPU"),
        **fields,
    }
    own = digest(checkpoint, task, dataset, fields["task_version"], fields.get("eval_seed", 0))
    key = fields.pop("key", own)
    return Record(
        key=key, checkpoint=Checkpoint(**checkpoint), task=task, dataset=dataset, **fields
    )
