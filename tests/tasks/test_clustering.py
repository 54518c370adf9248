"""Clustering against scikit-learn's metrics, and its jackknife against leaving examples out."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.cluster import KMeans

from sslbench.contributions import jackknife
from sslbench.errors import NotApplicable, UserError
from sslbench.features import features
from sslbench.tasks.clustering import Clustering, _matched, _of_information, _of_pairs
from tests.tasks.conftest import balanced, dataset

MEASURES = [
    (_of_pairs, metrics.adjusted_rand_score),
    (_of_information, metrics.normalized_mutual_info_score),
]


def draws(seed, n=60, classes=5, clusters=4):
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=n)
    kept = random.random(n) < 0.5
    return labels, np.where(kept, labels % clusters, random.integers(clusters, size=n))


@pytest.mark.parametrize(("ours", "theirs"), MEASURES)
@pytest.mark.parametrize("seed", range(4))
def test_values_and_jackknife_are_scikit_learn_s(ours, theirs, seed):
    labels, clusters = draws(seed)
    value = theirs(labels, clusters)
    left_out = [theirs(np.delete(labels, i), np.delete(clusters, i)) for i in range(len(labels))]
    found = ours(labels, clusters)
    assert found.mean() == pytest.approx(value)
    assert found == pytest.approx(jackknife(value, np.array(left_out)))


@pytest.mark.parametrize(("ours", "theirs"), MEASURES)
@pytest.mark.parametrize(
    ("labels", "clusters"),
    [([0, 0, 1, 1], [7, 7, 3, 3]), ([0, 0, 0], [1, 1, 1]), ([0, 0, 0], [0, 1, 2])],
)
def test_ends_of_the_range(ours, theirs, labels, clusters):
    found = ours(np.array(labels), np.array(clusters))
    assert found.mean() == pytest.approx(theirs(labels, clusters))


def test_each_cluster_stands_for_one_class():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    clusters = np.array([4, 4, 4, 4, 4, 1, 1, 4])  # cluster 4 is taken: by 0, with more of it
    assert _matched(labels, clusters).tolist() == [1, 1, 1, 0, 0, 1, 1, 0]


def test_clusters_are_as_good_as_scikit_learn_s(encoder, tmp_path):
    """The test split goes to the nearest centroid of the train split."""
    data = dataset(balanced(train=60), noise=60)
    result = Clustering().run(encoder, data, seed=0, folder=tmp_path)
    x = {name: features(encoder, split)["pixels"] for name, split in data.splits.items()}
    z = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in x.items()}
    found = KMeans(5, n_init=10, random_state=0).fit(z["train"]).predict(z["test"])
    expected = metrics.adjusted_rand_score(data["test"].labels, found)
    assert 0.5 < expected < 0.99
    assert result.scores["ari"].value == pytest.approx(expected, abs=0.05)


def test_no_more_clusters_than_examples(encoder, tmp_path):
    data = dataset(balanced(train=1), classes=6)
    with pytest.raises(NotApplicable, match="5 training examples"):
        Clustering().run(encoder, data, seed=0, folder=tmp_path)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="restarts ≥ 1 expected, found 0"):
        Clustering(restarts=0)
