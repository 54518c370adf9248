"""Robustness against a loop over corruptions and severities with scikit-learn's classifiers."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sslbench.data import corruptions_weather
from sslbench.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted
from sslbench.errors import NotApplicable, UserError
from sslbench.storage import cache_root
from sslbench.tasks import robustness
from sslbench.tasks.knn import KNN
from sslbench.tasks.linear_probe import LinearProbe
from sslbench.tasks.robustness import Robustness
from tests.tasks.conftest import balanced, dataset

BRIGHT = ("brightness",)


@pytest.fixture
def photographs(monkeypatch):
    """In place of those of frost."""
    random = np.random.default_rng(1)
    made = [torch.from_numpy(random.integers(256, size=(3, 60, 60), dtype=np.uint8))] * 5
    monkeypatch.setattr(corruptions_weather, "textures", lambda: made)
    monkeypatch.setattr(robustness, "textures", lambda: made)


@pytest.fixture
def data():
    """Classes of different size that overlap."""
    random = np.random.default_rng(3)
    labels = {
        name: np.concatenate([[2, 5, 9], random.choice([2, 5, 9], n - 3, p=[0.5, 0.3, 0.2])])
        for name, n in {"train": 150, "validation": 60, "test": 120}.items()
    }
    return dataset(labels, noise=60)


def values(result):
    return {name: score.value for name, score in result.scores.items()}


def seen(encoder, images):
    with torch.inference_mode():
        return encoder(images.float() / 255).double().numpy()


def whole(split):
    return split[torch.arange(len(split))].images, split.labels


def sklearn_classifier(name, selected):
    if name == "knn":
        return KNeighborsClassifier(
            20,
            metric="cosine",
            algorithm="brute",
            weights=lambda distance: np.exp((1 - distance) / 0.07),
        )
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=selected["C"], tol=1e-7, max_iter=10_000)
    )


@pytest.mark.parametrize("classifier", ["linear_probe", "knn"])
def test_the_protocol(classifier, encoder, data, tmp_path, photographs):
    result = Robustness(classifier=classifier).run(encoder, data, seed=0, folder=tmp_path)
    (x, y), (validation_x, validation_y) = whole(data["train"]), whole(data["validation"])
    model = sklearn_classifier(classifier, result.selected)
    model.fit(seen(encoder, torch.cat([x, validation_x])), np.concatenate([y, validation_y]))

    images, labels = whole(data["test"])
    clean = model.predict(seen(encoder, images)) == labels
    correct = {}
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            worse = corrupt(images, name, severity, torch.arange(len(images)))
            correct[name, severity] = model.predict(seen(encoder, worse)) == labels
    n = len(labels)
    per_example = [np.mean([correct[key][i] for key in correct]) for i in range(n)]
    expected = {
        "clean": clean.mean(),
        "top1": np.mean(list(correct.values())),
        "mean_per_class": np.mean([np.mean(np.array(per_example)[labels == c]) for c in (2, 5, 9)]),
        "drop": clean.mean() - np.mean(list(correct.values())),
    }
    for name in CORRUPTIONS:
        expected[name] = np.mean([correct[name, severity] for severity in SEVERITIES])
    for severity in SEVERITIES:
        expected[f"severity_{severity}"] = np.mean(
            [correct[name, severity] for name in CORRUPTIONS]
        )
    assert values(result) == pytest.approx(expected, abs=2e-3)  # the two solvers' last digits
    assert expected["drop"] > 0.02
    found = result.scores["top1"].examples
    np.testing.assert_allclose(found, per_example, atol=0.03)
    drop = result.scores["drop"].examples
    np.testing.assert_allclose(drop, result.scores["clean"].examples - found)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_the_probe_is_that_of_linear_probe(metric, encoder, data, tmp_path):
    data = dataset({n: s.labels for n, s in data.splits.items()}, noise=90, metric=metric)
    expected = LinearProbe().run(encoder, data, seed=0, folder=tmp_path)
    task = Robustness(corruptions=BRIGHT, severities=(2,))
    found = task.run(encoder, data, seed=0, folder=tmp_path)
    assert found.scores["clean"].value == expected.scores["top1"].value
    assert found.selected.items() <= expected.selected.items()
    assert set(found.selected) == {"split", "C", metric}


def test_the_vote_is_that_of_knn(encoder, data, tmp_path):
    expected = KNN().run(encoder, data, seed=0, folder=tmp_path).scores["top1"]
    task = Robustness(classifier="knn", corruptions=BRIGHT)
    found = task.run(encoder, data, seed=0, folder=tmp_path)
    np.testing.assert_array_equal(found.scores["clean"].examples, expected.examples)
    assert found.selected == {}


def test_some_corruptions_at_some_severities(encoder, data, tmp_path):
    task = Robustness(corruptions=("fog", "contrast"), severities=(5, 3))
    result = task.run(encoder, data, seed=0, folder=tmp_path)
    names = {"clean", "top1", "mean_per_class", "drop", "fog", "contrast"}
    assert set(result.scores) == names | {"severity_5", "severity_3"}
    scores = values(result)
    assert scores["top1"] == pytest.approx((scores["fog"] + scores["contrast"]) / 2)
    assert scores["top1"] == pytest.approx((scores["severity_3"] + scores["severity_5"]) / 2)
    other = task.run(encoder, data, seed=7, folder=tmp_path)
    assert values(other) == scores  # the draws are fixed


def test_only_clean_features_are_kept_on_disk(encoder, data, tmp_path):
    Robustness(corruptions=BRIGHT).run(encoder, data, seed=0, folder=tmp_path)
    assert len(list((cache_root() / "features").iterdir())) == 3


def test_frost_without_its_photographs_says_what_to_fetch(encoder, data, tmp_path):
    with pytest.raises(UserError, match=r"frost is not in .*: run `sslbench fetch frost`"):
        Robustness().run(encoder, data, seed=0, folder=tmp_path)
    task = Robustness(corruptions=("snow",), severities=(1,))
    assert "snow" in task.run(encoder, data, seed=0, folder=tmp_path).scores


def test_several_labels_per_example_are_not_applicable(encoder, tmp_path):
    labels = {name: np.eye(3, dtype=bool)[y % 3] for name, y in balanced(3).items()}
    with pytest.raises(NotApplicable, match="one label per example"):
        Robustness(corruptions=BRIGHT).run(
            encoder, dataset(labels, patterns=balanced(3)), seed=0, folder=tmp_path
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classifier": "kn"}, "classifier 'kn'; did you mean 'knn'"),
        ({"corruptions": ("fogg",)}, "corruptions: no 'fogg'; did you mean 'fog'"),
        ({"corruptions": ()}, "corruptions: at least one"),
        ({"corruptions": ("fog", "fog")}, "corruptions: at least one, each once"),
        ({"severities": (0, 1)}, "severities: some of 1 … 5"),
        ({"severities": ()}, "severities: at least one"),
        ({"severities": (2, 2)}, "severities: at least one, each once"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        Robustness(**wrong)


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(encoder, data, tmp_path, monkeypatch):
    task = Robustness(corruptions=("brightness", "contrast"), severities=(1, 5))
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    expected = task.run(encoder, data, seed=0, folder=tmp_path / "whole")
    asked = []

    def dies(split, name, severity, device):
        asked.append((name, severity))
        if len(asked) == 3:
            raise InterruptedError
        return corrupted(split, name, severity, device)

    monkeypatch.setattr(robustness, "corrupted", dies)
    with pytest.raises(InterruptedError):
        task.run(encoder, data, seed=0, folder=tmp_path / "parts")
    found = task.run(encoder, data, seed=0, folder=tmp_path / "parts")
    assert values(found) == values(expected)
    assert asked[2:] == [("contrast", 1), ("contrast", 1), ("contrast", 5)]
