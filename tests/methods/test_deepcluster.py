"""Clusters are found, repaired, weighed and remembered."""

import copy

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from sslbench.data.split import ImageArray
from sslbench.encoder import build
from sslbench.methods.contrastive.deepcluster import DeepCluster, cluster, repair, whiten
from sslbench.random import Random
from tests.conftest import tiny_resnet


def make(images, seed: int = 0, **settings: object) -> DeepCluster:
    torch.manual_seed(seed)
    return DeepCluster(tiny_resnet(), images, **settings).train()


def blobs(sizes: list[int], dims: int = 8) -> tuple[torch.Tensor, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    points = 10 * random.normal(size=(len(sizes), dims))[labels]
    points += 0.1 * random.normal(size=points.shape)
    return torch.from_numpy(points.astype(np.float32)), labels


# ------------------------------------------------------------------------------------- k-means


def test_separate_blobs_are_found_again_and_again():
    points, labels = blobs([40, 10, 25, 5])
    found = cluster(points, 4, seed=5)
    assert adjusted_rand_score(labels, found) == 1
    assert torch.equal(cluster(points, 4, seed=5), found)
    assert found.dtype == torch.int64


def test_no_cluster_is_empty_even_among_equal_points():
    points = torch.zeros(12, 3)
    assert sorted(cluster(points, 12, seed=0).tolist()) == list(range(12))
    assert cluster(points, 5, seed=0).bincount(minlength=5).min() > 0


def test_an_empty_cluster_takes_half_of_another_across_a_plane():
    points, _ = blobs([20, 1, 6])
    labels = torch.tensor([0] * 20 + [2] + [4] * 6)
    repaired = repair(points, labels, 5, seed=1)
    assert repaired.bincount(minlength=5).min() > 0
    for empty in (1, 3):  # what they were given came from one cluster
        assert len(labels[repaired == empty].unique()) == 1
    moved = repaired != labels
    assert set(repaired[moved].tolist()) == {1, 3}
    assert repaired[20] == 2  # a single point cannot be split
    assert torch.equal(repair(points, labels, 5, seed=1), repaired)
    assert not torch.equal(repair(points, labels, 5, seed=2), repaired)


def test_a_cluster_is_split_at_its_median():
    points, labels = torch.randn(37, 1, generator=torch.Generator().manual_seed(0)), torch.zeros(37)
    repaired = repair(points, labels.long(), 2, seed=3)
    below, above = sorted((points[repaired == c] for c in (0, 1)), key=lambda half: half.mean())
    assert {len(below), len(above)} == {18, 19}
    assert below.max() < above.min()


def test_clusters_without_an_empty_one_stay():
    points, labels = blobs([30, 7])
    whole = torch.from_numpy(labels)
    assert torch.equal(repair(points, whole, 2, seed=3), whole)


# ------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("components", [3, 8, 100])
def test_whitening_is_scikit_learn_s(components):
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 8)) @ random.normal(size=(8, 8)) + 5
    found = whiten(torch.from_numpy(x.astype(np.float32)), components).numpy()
    expected = PCA(min(components, 8), whiten=True, svd_solver="full").fit_transform(x)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)  # up to signs


def test_whitening_drops_directions_without_variance():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, generator=random)
    flat = torch.cat([x, x @ torch.randn(2, 4, generator=random), torch.ones(50, 1)], dim=1)
    z = whiten(flat, 256)
    assert z.shape == (50, 2)
    assert torch.isfinite(whiten(torch.ones(50, 4), 256)).all()


# ---------------------------------------------------------------------------------- each epoch


def test_every_cluster_weighs_the_same(images):
    method = make(images, clusters=5)
    method.before_epoch(0)
    sizes = method.assignments.bincount(minlength=5)
    assert sizes.min() > 0
    assert len(sizes.unique()) > 1  # or there would be nothing to weigh
    shares = torch.zeros(5).index_add_(0, method.assignments, method.weights[method.assignments])
    torch.testing.assert_close(shares, torch.full((5,), len(images) / 5))


def test_an_epoch_starts_the_same_again_and_differs_from_the_next(images):
    method = make(images, clusters=5)
    method.before_epoch(3)
    first = copy.deepcopy(method.state_dict())
    torch.rand(7)  # nothing is drawn from the global generator
    method.before_epoch(3)
    torch.testing.assert_close(method.state_dict(), first, rtol=0, atol=0)
    method.before_epoch(4)
    assert not torch.equal(method.classifier.weight, first["classifier.weight"])
    other = make(images, seed=1, clusters=5)
    other.before_epoch(3)
    assert not torch.equal(other.classifier.weight, first["classifier.weight"])


def test_clusters_and_classifier_stay_for_as_many_epochs_as_wanted(images):
    method = make(images, clusters=5, every=2)
    method.before_epoch(0)
    first = copy.deepcopy(method.state_dict())
    method.before_epoch(1)
    torch.testing.assert_close(method.state_dict(), first, rtol=0, atol=0)
    method.before_epoch(2)
    assert not torch.equal(method.classifier.weight, first["classifier.weight"])


def test_clustering_leaves_the_encoder_alone_and_sees_plain_images(images):
    method = make(images, clusters=5)
    before = copy.deepcopy(method.encoder.state_dict())
    method.before_epoch(0)
    torch.testing.assert_close(method.encoder.state_dict(), before, rtol=0, atol=0)
    assert method.encoder.training
    plain = method.encoder.eval().preprocess(images[torch.arange(64)])
    with torch.no_grad():
        expected = method.encoder(plain)
        torch.testing.assert_close(method._features(), expected)


def test_the_encoder_that_is_kept_sees_gradients(images):
    method = make(images, clusters=5, sobel=True)
    again = build(method.encoder.config).eval()
    again.load_state_dict(method.encoder.eval().state_dict())
    batch = images[torch.arange(8)].images / 255
    with torch.no_grad():
        expected = again(batch)
        torch.testing.assert_close(method.encoder(batch), expected, rtol=0, atol=0)
        torch.testing.assert_close(again(batch + 0.1), expected)  # of a shift nothing is seen
        assert not torch.allclose(make(images, sobel=False).encoder.eval()(batch + 0.1), expected)


def test_pseudo_labels_follow_the_image_and_not_its_place(images):
    method = make(images, clusters=5)
    method.before_epoch(0)
    index = torch.tensor([9, 2, 40])
    _, labels = method.views(images[index], Random(0, 0, torch.arange(3), 3))
    assert torch.equal(labels, method.assignments[index])


@pytest.mark.parametrize(("n", "clusters"), [(64, 2), (640, 5), (1280, 10)])
def test_one_cluster_in_128_images_by_default(n, clusters):
    data = ImageArray(np.zeros((n, 3, 16, 16), np.uint8), None)
    assert len(make(data).weights) == clusters


@pytest.mark.parametrize("clusters", [0, 1, 65])
def test_impossible_numbers_of_clusters_are_refused(images, clusters):
    with pytest.raises(ValueError, match=f"2 to 64 .* got {clusters}"):
        make(images, clusters=clusters)


def test_clusters_that_are_never_found_are_refused(images):
    with pytest.raises(ValueError, match="at least 1 epoch expected, got 0"):
        make(images, every=0)
