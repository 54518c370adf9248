"""The linear probe's protocol against a loop over scikit-learn's models."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from sslbench.classification import average_precision, per_class
from sslbench.errors import NotApplicable, UserError
from sslbench.features import features
from sslbench.tasks.linear_probe import LinearProbe
from tests.tasks.conftest import balanced, dataset

PENALTIES = np.logspace(-6, 5, 45)


def sklearn_model(x, y, C):
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=C, tol=1e-7, max_iter=10_000).fit(scaler.transform(x), y)
    return lambda queries: model.predict(scaler.transform(queries))


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_the_protocol(metric, encoder, tmp_path):
    random = np.random.default_rng(3)
    names = np.array([3, 8, 20])
    labels = {
        name: names[np.concatenate([[0, 1, 2], random.choice(3, n - 3, p=[0.6, 0.3, 0.1])])]
        for name, n in {"train": 150, "validation": 60, "test": 150}.items()
    }
    data = dataset(labels, noise=150, metric=metric)
    result = LinearProbe().run(encoder, data, seed=0, folder=tmp_path)
    x = {
        name: features(encoder, split)["pixels"].astype(float)
        for name, split in data.splits.items()
    }
    measure = {
        "top1": lambda y, found: (y == found).mean(),
        "mean_per_class": balanced_accuracy_score,
    }
    values = []
    for C in PENALTIES:
        found = sklearn_model(x["train"], labels["train"], C)(x["validation"])
        values.append(measure[metric](labels["validation"], found))
    best = int(np.argmax(values))
    assert result.selected["C"] == pytest.approx(PENALTIES[best])
    assert result.selected[metric] == pytest.approx(values[best])
    assert (result.selected["split"], result.selected["layer"]) == ("validation", "pixels")

    both = [np.concatenate([part["train"], part["validation"]]) for part in (x, labels)]
    found = sklearn_model(*both, PENALTIES[best])(x["test"])
    scores = {name: score.value for name, score in result.scores.items()}
    expected = {name: fn(labels["test"], found) for name, fn in measure.items()}
    assert scores == pytest.approx(expected)
    assert 0.4 < scores["top1"] < 0.95


def test_all_layers_are_compared_on_validation(encoder, tmp_path):
    data = dataset(balanced(), noise=70)
    last = LinearProbe().run(encoder, data, seed=0, folder=tmp_path)
    every = LinearProbe(layer="all").run(encoder, data, seed=0, folder=tmp_path)
    assert every.scores["top1"].value == last.scores["top1"].value
    assert list(every.selected["layers"]) == ["mean", "pixels"]
    assert every.selected["layers"]["mean"]["top1"] < every.selected["layers"]["pixels"]["top1"]
    assert every.selected["best_layer"] == "pixels"
    assert every.scores["top1_best_layer"].value == last.scores["top1"].value
    assert "top1_best_layer" not in last.scores


def test_the_best_layer_need_not_be_the_last(encoder, tmp_path):
    encoder.norm.weight.data[1:] = 0  # the last layer sees one value of one pixel
    data = dataset(balanced(), noise=30)
    result = LinearProbe(layer="all").run(encoder, data, seed=0, folder=tmp_path)
    assert result.selected["best_layer"] == "mean"
    assert result.selected["layer"] == "pixels"
    assert result.scores["top1_best_layer"].value > result.scores["top1"].value + 0.1


def test_several_labels_per_example(encoder, tmp_path):
    single = balanced(classes=6)
    several = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]], bool)
    labels = {name: several[y] for name, y in single.items()}
    data = dataset(labels, noise=90, patterns=single, metric="map")
    result = LinearProbe().run(encoder, data, seed=0, folder=tmp_path)
    x = {
        name: features(encoder, split)["pixels"].astype(float)
        for name, split in data.splits.items()
    }
    both = [np.concatenate([part["train"], part["validation"]]) for part in (x, labels)]
    scaler = StandardScaler().fit(both[0])
    scores = np.stack(
        [
            LogisticRegression(C=result.selected["C"], tol=1e-8, max_iter=10_000)
            .fit(scaler.transform(both[0]), both[1][:, column])
            .decision_function(scaler.transform(x["test"]))
            for column in range(3)
        ],
        axis=1,
    )
    expected = average_precision_score(labels["test"], scores, average="macro")
    assert result.scores["map"].value == pytest.approx(expected, abs=1e-4)
    assert result.scores["map"].value < 0.999
    hit = labels["test"][np.arange(len(scores)), scores.argmax(axis=1)]
    assert result.scores["top1"].value == pytest.approx(hit.mean(), abs=0.01)


def test_average_precision_and_what_each_example_contributes():
    random = np.random.default_rng(0)
    targets = random.random((40, 4)) < [0.5, 0.2, 0.05, 0.0]
    targets[:, 2] = np.arange(40) == 7  # one positive example
    scores = random.normal(size=(40, 4)) + targets

    def mean(rows):
        """Of classes with a positive example left, else as if none was left out."""
        return np.mean(
            [
                average_precision_score(
                    *(
                        m[rows if targets[rows, c].any() else slice(None), c]
                        for m in (targets, scores)
                    )
                )
                for c in range(3)
            ]
        )

    found, value = average_precision(scores, targets), mean(np.arange(40))
    assert found.mean() == pytest.approx(value)
    left_out = np.array([mean(np.delete(np.arange(40), i)) for i in range(40)])
    np.testing.assert_allclose(found, value + 39 * (left_out.mean() - left_out), atol=1e-10)


def test_average_precision_needs_a_positive_example():
    with pytest.raises(ValueError, match="found none"):
        average_precision(np.zeros((3, 2)), np.zeros((3, 2), bool))


def test_accuracy_per_class_counts_every_class_alike():
    labels = np.array([4, 4, 4, 4, 9])
    found = per_class(np.array([1, 1, 0, 0, 1]), labels)
    assert found.mean() == pytest.approx((0.5 + 1) / 2)
    np.testing.assert_allclose(found, [0.625, 0.625, 0, 0, 2.5])


def test_an_unknown_layer_is_refused():
    with pytest.raises(UserError, match="did you mean 'all'"):
        LinearProbe(layer="al")


def test_a_dataset_without_labels_is_not_applicable(encoder, tmp_path):
    data = dataset(balanced())
    for split in data.splits.values():
        split.labels = None
    with pytest.raises(NotApplicable, match="no labels"):
        LinearProbe().run(encoder, data, seed=0, folder=tmp_path)
