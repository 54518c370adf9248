"""Fine-tuning: what is trained, what is chosen, and what an interruption changes."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from sslbench import registry
from sslbench.data.split import Dataset, Texts
from sslbench.errors import NotApplicable, UserError
from sslbench.pretrain import Options
from tests.conftest import tiny_bert, tiny_images, tiny_resnet
from tests.tasks.test_conformance import values

module = registry.task("fine_tune").run.__globals__


def sentences(n, seed):
    """Texts whose class shows in the order of two words, which no average of words can tell."""
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=n)
    texts = [" ".join(("bana", "rito")[:: 1 if y else -1]) for y in labels]
    return Texts(texts, labels)


def texts():
    splits = {"train": sentences(64, 0), "validation": sentences(32, 1), "test": sentences(48, 2)}
    return Dataset("order", "text", ("label",), 2, ("ab", "ba"), "top1", 0.5, splits)


def images():
    splits = {"train": tiny_images(64), "validation": tiny_images(32), "test": tiny_images(40)}
    return Dataset("tiny", "image", ("label",), 4, tuple("abcd"), "top1", 0.25, splits)


def make(**settings):
    return registry.task("fine_tune")(**{"rates": (1e-6, 3e-3), "epochs": 6, **settings})


def test_all_weights_learn_what_a_frozen_encoder_does_not_show(tmp_path):
    torch.manual_seed(0)
    result = make().run(tiny_bert().eval(), texts(), seed=0, folder=tmp_path)
    assert result.scores["top1"].value == 1.0
    assert result.selected["lr"] == 3e-3
    assert result.selected["validation"]["1e-06"] < result.selected["validation"]["0.003"]


def test_images_too(tmp_path):
    torch.manual_seed(0)
    result = make(batch_size=16).run(tiny_resnet().eval(), images(), seed=0, folder=tmp_path)
    assert result.scores["top1"].value > 0.5


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(tmp_path, monkeypatch):
    torch.manual_seed(0)
    encoder = tiny_bert().eval()
    expected = make().run(encoder, texts(), seed=1, folder=tmp_path / "whole")

    def dies(step, steps, line):
        if step >= 8:
            raise InterruptedError

    dying = Options(save_seconds=0.0, log_steps=1, progress=dies)
    monkeypatch.setitem(module, "Options", lambda **given: dying)
    with pytest.raises(InterruptedError):
        make().run(encoder, texts(), seed=1, folder=tmp_path / "parts")
    monkeypatch.undo()
    found = make().run(encoder, texts(), seed=1, folder=tmp_path / "parts")
    assert values(found) == values(expected)
    assert found.selected == expected.selected
    shutil.rmtree(tmp_path / "parts")


def test_what_does_not_apply(tmp_path):
    with pytest.raises(NotApplicable, match=r"resnet18.* needs images"):
        make().run(tiny_resnet(), texts(), seed=0, folder=tmp_path)
    several = {name: split.map(lambda b: b, "same") for name, split in images().splits.items()}
    for split in several.values():
        split.labels = np.eye(4, dtype=bool)[split.labels]
    data = replace(images(), splits=several)
    with pytest.raises(NotApplicable, match="one label per example needed"):
        make().run(tiny_resnet(), data, seed=0, folder=tmp_path)


def test_wrong_settings():
    with pytest.raises(ValueError, match="rates > 0, epochs ≥ 1"):
        make(rates=())
    with pytest.raises(UserError, match="no setting 'rate'; did you mean 'rates'"):
        registry.settings(registry.task("fine_tune"), {"rate": 1.0})
