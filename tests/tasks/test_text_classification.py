"""Classification of texts: its protocol and its scores against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, matthews_corrcoef
from sklearn.preprocessing import StandardScaler

from sslbench.classification import accuracies, reduced
from sslbench.data.split import Dataset, Texts
from sslbench.errors import NotApplicable, UserError
from sslbench.features import features
from sslbench.tasks.text_classification import TextClassification
from tests.conftest import WORDS, tiny_bert, tiny_embeddings

SIZES = {"train": 90, "validation": 45, "test": 120}
REFERENCE = {
    "top1": accuracy_score,
    "mean_per_class": balanced_accuracy_score,
    "macro_f1": lambda y, found: f1_score(y, found, average="macro"),
    "mcc": matthews_corrcoef,
}


def texts(labels, random, noise):
    """Each class prefers 5 words; a word is any of them with probability `noise`."""
    lines = []
    for label in labels:
        own = random.choice(WORDS[5 * label : 5 * label + 5], 8)
        lines.append(" ".join(np.where(random.random(8) < noise, random.choice(WORDS, 8), own)))
    return lines


def dataset(metric="top1", noise=0.7):
    random = np.random.default_rng(0)
    splits = {}
    for name, n in SIZES.items():
        labels = np.r_[0, 1, 2, random.choice(3, n - 3, p=[0.6, 0.3, 0.1])]
        splits[name] = Texts(texts(labels, random, noise), labels)
    return Dataset("words", "text", ("label",), 3, ("a", "b", "c"), metric, 0.6, splits)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return tiny_bert().eval()


@pytest.mark.parametrize("metric", ["top1", "macro_f1", "mcc"])
def test_the_protocol(metric, encoder, tmp_path):
    data = dataset(metric)
    result = TextClassification().run(encoder, data, seed=0, folder=tmp_path)
    x = {n: next(iter(features(encoder, s).values())) for n, s in data.splits.items()}
    y = {name: split.labels for name, split in data.splits.items()}

    def predict(known, labels, C, queries):
        scaler = StandardScaler().fit(known.astype(float))
        model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
        return model.fit(scaler.transform(known), labels).predict(scaler.transform(queries))

    penalties = np.logspace(-6, 5, 45)
    values = [
        REFERENCE[metric](y["validation"], predict(x["train"], y["train"], C, x["validation"]))
        for C in penalties
    ]
    best = int(np.argmax(values))
    assert result.selected["C"] == pytest.approx(penalties[best])
    assert result.selected[metric] == pytest.approx(values[best])
    both = [np.concatenate([part["train"], part["validation"]]) for part in (x, y)]
    found = predict(*both, penalties[best], x["test"])
    scores = {name: score.value for name, score in result.scores.items()}
    assert scores == pytest.approx({n: fn(y["test"], found) for n, fn in REFERENCE.items()})
    assert 0.6 < scores["top1"] < 0.95
    for score in result.scores.values():
        assert score.n == len(score.examples) == SIZES["test"]


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_and_what_each_example_contributes(classes):
    random = np.random.default_rng(classes)
    labels = random.choice(classes, 60)
    found = np.where(random.random(60) < 0.5, labels, random.choice(classes + 1, 60))
    labels[7] = 30  # a class that occurs once, and is never found
    parts = accuracies(labels, found)
    assert parts["top1"].mean() == accuracy_score(labels, found)
    for name in ("macro_f1", "mcc"):
        value = REFERENCE[name](labels, found)
        pairs = ((np.delete(labels, i), np.delete(found, i)) for i in range(60))
        without = np.array([REFERENCE[name](*pair) for pair in pairs])
        expected = value + 59 * (without.mean() - without)
        np.testing.assert_allclose(parts[name], expected, atol=1e-10)


def test_constant_answers_have_no_correlation():
    parts = accuracies(np.array([0, 1, 1, 1]), np.ones(4, int))
    assert parts["mcc"].mean() == 0
    assert parts["macro_f1"].mean() == pytest.approx(6 / 7 / 2)


def test_a_named_layer_and_the_best_one(encoder, tmp_path):
    data = dataset()
    every = TextClassification(layer="all").run(encoder, data, seed=0, folder=tmp_path)
    last = TextClassification().run(encoder, data, seed=0, folder=tmp_path)
    layers = every.selected["layers"]
    assert list(layers) == list(features(encoder, data["test"], "all"))
    assert every.scores["top1"].value == last.scores["top1"].value
    best = max(layers, key=lambda layer: layers[layer]["top1"])
    assert every.selected["best_layer"] == best
    named = TextClassification(layer=best).run(encoder, data, seed=0, folder=tmp_path)
    assert named.scores["top1"].value == every.scores["top1_best_layer"].value
    with pytest.raises(LookupError, match="block9"):
        TextClassification(layer="block9").run(encoder, data, seed=0, folder=tmp_path)


def test_static_embeddings_take_part(tmp_path):
    torch.manual_seed(0)
    data = dataset(noise=0.2)
    result = TextClassification().run(tiny_embeddings(), data, seed=0, folder=tmp_path)
    assert result.scores["top1"].value > 0.9


def test_fewer_examples_keep_the_classes_in_proportion():
    data = dataset()
    small, other = reduced(data, 30, 0), reduced(data, 30, 1)
    assert (len(small["train"]), len(small["validation"])) == (30, 15)
    assert small["test"] is data["test"]
    for name in ("train", "validation"):
        share = len(small[name]) / len(data[name])
        whole, part = (np.bincount(d[name].labels, minlength=3) for d in (data, small))
        assert np.abs(part - share * whole).max() < 1
        assert len(set(small[name].index.tolist())) == len(small[name])
        assert small[name].hash == reduced(data, 30, 0)[name].hash
        assert small[name].hash != other[name].hash
    assert reduced(data, 0, 0) is data
    assert reduced(data, 90, 0) is data


def test_the_probe_learns_from_fewer_examples(encoder, tmp_path):
    data = dataset()
    few = TextClassification(train_examples=30).run(encoder, data, seed=2, folder=tmp_path)
    same = TextClassification().run(encoder, reduced(data, 30, 2), seed=0, folder=tmp_path)
    assert few.scores["top1"].value == same.scores["top1"].value
    assert few.selected == same.selected


def test_what_does_not_apply(encoder, tmp_path):
    task = TextClassification()
    data = dataset()
    data["train"].labels = np.ones((SIZES["train"], 2), bool)
    with pytest.raises(NotApplicable, match="several"):
        task.run(encoder, data, seed=0, folder=tmp_path)
    data["train"].labels = None
    with pytest.raises(NotApplicable, match="no labels"):
        task.run(encoder, data, seed=0, folder=tmp_path)
    with pytest.raises(UserError, match="found -1"):
        TextClassification(train_examples=-1)
