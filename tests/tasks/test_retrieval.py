"""Retrieval against a loop with scikit-learn's average precision, and its chance level."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from sslbench import neighbors
from sslbench.errors import NotApplicable
from sslbench.features import features
from sslbench.tasks.retrieval import Retrieval
from tests.tasks.conftest import balanced, dataset


@pytest.mark.parametrize("held", [1, 2_000, 1 << 26])
def test_every_query_ranks_all_the_others(held, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbors, "SIMILARITIES", held)
    data = dataset(balanced(test=9), noise=75)
    scores = Retrieval().run(encoder, data, seed=0, folder=tmp_path).scores
    x = features(encoder, data["test"])["pixels"].astype(np.float64)
    z, labels = x / np.linalg.norm(x, axis=1, keepdims=True), data["test"].labels
    for query in range(len(z)):
        others = np.delete(np.arange(len(z)), query)
        cosine, right = z[others] @ z[query], labels[others] == labels[query]
        assert scores["map"].examples[query] == pytest.approx(
            average_precision_score(right, cosine)
        )
        ranked = right[np.argsort(-cosine)]
        for k in (1, 5, 10):
            assert scores[f"recall_at_{k}"].examples[query] == ranked[:k].any()
    assert 0.3 < scores["map"].value < 0.95


def test_a_query_alone_in_its_class_is_left_out(encoder, tmp_path):
    labels = balanced(test=4)
    labels["test"] = np.append(labels["test"], 7)
    data = dataset(labels)
    result = Retrieval().run(encoder, data, seed=0, folder=tmp_path)
    assert result.places.tolist() == list(range(20))
    assert result.scores["map"].n == 20


def test_no_query_at_all_is_not_applicable(encoder, tmp_path):
    with pytest.raises(NotApplicable, match="no class has two test examples"):
        Retrieval().run(encoder, dataset(balanced(test=1)), seed=0, folder=tmp_path)


def test_chance_is_that_of_random_orders():
    labels = {**balanced(), "test": np.repeat([0, 1, 4], [2, 5, 13])}
    random, found = np.random.default_rng(0), []
    for _ in range(400):
        for query in range(20):
            others = np.delete(labels["test"], query)
            right = random.permutation(others) == labels["test"][query]
            precision = right.cumsum() / np.arange(1, 20)
            found.append(precision[right].mean())
    chance = Retrieval().chance(dataset(labels))
    assert np.mean(found) == pytest.approx(chance, abs=0.01)
