"""What every protocol on image features must do; a new file is tested at once."""

import json
import math
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from sslbench import episodes, features, neighbors, registry
from sslbench.checkpoint import weights_hash
from sslbench.data.split import ImageArray
from sslbench.errors import UserError
from tests.tasks.conftest import SIZE, balanced, dataset

ENTRIES = {
    name: entry
    for name, entry in registry.entries("tasks").items()
    if entry.describe()["modality"] in ("any", "image")
    and entry.describe()["target"] in (None, "label")
}
NAMES = list(ENTRIES)
LABELLED = [name for name in NAMES if ENTRIES[name].describe()["target"] == "label"]
SMALL = {  # settings that make a task slow, or that training takes too long to show
    "episodes": 60,
    "shots": (1, 4, 16),
    "seeds": 3,
    "rates": (0.01, 0.03),
    "epochs": 10,
}
OWN = {
    "linear_probe_sgd": {"epochs": 60, "batch_size": 16},  # rates that are made for many steps
    "robustness": {"corruptions": ("gaussian_noise", "brightness"), "severities": (1, 2)},
    "transfer": {"few": 0.5, "few_epochs": 20, "batch_size": 16},  # a tenth is 12 examples
}


RUNS = count()


def make(name, **settings):
    cls = registry.task(name)
    known = registry.settings(cls, {})
    small = {key: value for key, value in SMALL.items() if key in known} | OWN.get(name, {})
    return cls(**registry.settings(cls, small | settings))


def run(name, encoder, data, tmp_path, seed=0):
    """From the start: in a folder without work in progress."""
    folder = tmp_path / f"work-{next(RUNS)}"
    folder.mkdir(parents=True)
    return make(name).run(encoder, data, seed=seed, folder=folder)


def values(result):
    return {name: score.value for name, score in result.scores.items()}


def with_noise(seed=0):
    """Classes that overlap, so that a number can move."""
    random = np.random.default_rng(seed)
    labels = balanced()
    shown = {
        name: np.where(random.random(len(y)) < 0.3, random.integers(5, size=len(y)), y)
        for name, y in labels.items()
    }
    return dataset(labels, noise=60, patterns=shown)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_says_what_the_class_does(name):
    cls, said = registry.task(name), ENTRIES[name].describe()
    assert said["summary"]
    for attribute in ("paper", "metric", "version", "modality", "target"):
        assert said[attribute] == getattr(cls, attribute)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_complete_and_finite(name, encoder, tmp_path):
    data = with_noise()
    result = run(name, encoder, data, tmp_path)
    assert make(name).metric in result.scores
    if make(name).metric == "top1":
        assert "mean_per_class" in result.scores  # some datasets' main metric
    for score in result.scores.values():
        assert math.isfinite(score.value)
        assert score.n > 0
        if score.examples is not None:
            assert score.stderr is None
            assert score.n == len(score.examples) == len(data["test"])
            assert score.examples.mean() == pytest.approx(score.value)
    json.dumps(dict(result.selected), allow_nan=False)


@pytest.mark.parametrize("name", LABELLED)
def test_separable_features_score_one(name, encoder, tmp_path):
    result = run(name, encoder, dataset(balanced(), noise=2), tmp_path)
    perfect = {name: float(name != "drop") for name in result.scores}  # which is robustness's
    assert values(result) == pytest.approx(perfect)


@pytest.mark.parametrize("name", LABELLED)
def test_labels_that_the_images_do_not_show_score_chance(name, encoder, tmp_path):
    random = np.random.default_rng(1)
    labels = balanced(test=100)
    shown = {split: random.integers(5, size=len(y)) for split, y in labels.items()}
    data = dataset(labels, noise=60, patterns=shown)
    task = make(name)
    score = run(name, encoder, data, tmp_path).scores[task.metric]
    bound = 4.5 * score.examples.std() / math.sqrt(score.n)
    assert score.value == pytest.approx(task.chance(data), abs=bound)
    assert bound < 0.15


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_stays_as_it_was(name, encoder, tmp_path):
    before = weights_hash(encoder)
    run(name, encoder, with_noise(), tmp_path)
    assert weights_hash(encoder) == before
    assert not encoder.training
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_result(name, encoder, tmp_path):
    data = with_noise()
    first, second = (run(name, encoder, data, tmp_path, seed=3) for _ in "ab")
    assert values(first) == values(second)
    assert first.selected == second.selected


@pytest.mark.parametrize("name", NAMES)
def test_no_batch_or_chunk_size_moves_a_number(name, encoder, tmp_path, monkeypatch):
    data = with_noise()
    expected = values(run(name, encoder, data, tmp_path))
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(features, "BATCH", 7)
    monkeypatch.setattr(neighbors, "SIMILARITIES", 700)
    monkeypatch.setattr(episodes, "_VALUES", 40_000)
    assert values(run(name, encoder, data, tmp_path)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_test_split_has_no_part_in_any_choice(name, encoder, tmp_path):
    data = with_noise()
    random = np.random.default_rng(5)
    images = random.integers(256, size=(200, 3, SIZE, SIZE), dtype=np.uint8)
    poison = ImageArray(images, random.permutation(data["test"].labels))
    poisoned = replace(data, splits={**data.splits, "test": poison})
    expected = run(name, encoder, data, tmp_path).selected
    assert run(name, encoder, poisoned, tmp_path).selected == expected


@pytest.mark.parametrize("name", NAMES)
def test_wrong_settings_are_refused(name):
    cls = registry.task(name)
    with pytest.raises(UserError, match="no setting 'no_such'"):
        registry.settings(cls, {"no_such": 1})
    for setting in registry.settings(cls, {}):
        with pytest.raises(UserError, match=setting):
            registry.settings(cls, {setting: object()})
