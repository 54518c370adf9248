"""Barlow Twins' loss against loops, its two terms, and its statistics over the global batch."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sslbench import distributed
from sslbench.method import Method, Recipe
from sslbench.methods.non_contrastive.barlow_twins import BarlowTwins, correlation
from sslbench.pretrain import Options, train
from sslbench.random import Random
from tests.conftest import run_processes, tiny_images
from tests.methods import small
from tests.methods.collapse import MILD
from tests.methods.loops import (
    B,
    D,
    apply,
    check_slope,
    check_value,
    draw,
    images,
    make,
    matrix,
    rows,
    slopes,
)


def barlow(a, b, weight):
    """Equation 1 of the cross-correlation of equation 2."""
    n, d = len(a), len(a[0])
    views = []
    for view in (a, b):
        means = [sum(x[j] for x in view) / n for j in range(d)]
        centred = [[x[j] - means[j] for j in range(d)] for x in view]
        lengths = [sum(x[j] ** 2 for x in centred) ** 0.5 for j in range(d)]
        views.append((centred, lengths))
    (a, a_lengths), (b, b_lengths) = views
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = sum(x[i] * y[j] for x, y in zip(a, b, strict=True)) / a_lengths[i] / b_lengths[j]
            total += (1 - c) ** 2 if i == j else weight * c**2
    return total


def linear(**settings: float) -> Method:
    method = make("barlow_twins", hidden=6, dim=5, **settings)
    method.projector = matrix(3, rows=5)
    return method


@pytest.mark.parametrize(("redundancy", "scale"), [(5e-3, 0.024), (0.5, 1.0), (0.0, 1.0)])
def test_loss_and_gradients(redundancy, scale):
    method = linear(redundancy=redundancy, scale=scale)
    first, second = images(1), images(2)
    loss = method.loss((first, second), 0.0)
    loss.backward()
    weight = rows(method.projector.weight)

    def reference(a, b, w=weight):
        return scale * barlow([apply(w, x) for x in a], [apply(w, x) for x in b], redundancy)

    a, b = rows(first), rows(second)
    check_value(loss, reference(a, b))
    check_slope(first.grad, slopes(lambda x: reference(x, b), a))
    check_slope(second.grad, slopes(lambda x: reference(a, x), b))
    check_slope(method.projector.weight.grad, slopes(lambda w: reference(a, b, w), weight))
    terms = method.logged["invariance"], method.logged["redundancy"]
    torch.testing.assert_close(scale * (terms[0] + redundancy * terms[1]), loss.detach())


def test_loss_equals_lightly():
    """Theirs adds 1e-5 to each variance, which is nothing beside those of large embeddings."""
    from lightly.loss import BarlowTwinsLoss

    method = make("barlow_twins", hidden=6, dim=D, redundancy=0.1, scale=1.0)
    method.projector = nn.Identity()
    ours, other = (
        [(1e4 * draw(B, D, seed=seed)).requires_grad_() for seed in (1, 2)] for _ in range(2)
    )
    loss, theirs = method.loss(tuple(ours), 0.0), BarlowTwinsLoss(0.1)(*other)
    torch.testing.assert_close(loss, theirs, rtol=1e-9, atol=0)
    loss.backward()
    theirs.backward()
    for x, y in zip(ours, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-7, atol=1e-14)


def test_only_equal_and_decorrelated_views_have_no_loss():
    coordinates = torch.linalg.qr(draw(8, 4) - draw(8, 4).mean(0))[0]  # orthonormal and centred
    torch.testing.assert_close(correlation(coordinates, 3 * coordinates + 1), torch.eye(4).double())
    torch.testing.assert_close(correlation(coordinates, -coordinates), -torch.eye(4).double())
    same = coordinates[:, :1].expand(-1, 4)
    torch.testing.assert_close(correlation(same, same), torch.ones(4, 4).double())


def one_step() -> tuple[Tensor, dict[str, Tensor]]:
    """Global loss and averaged gradients, from this process's part of a batch of B."""
    method, here, world = linear(redundancy=0.5), distributed.rank(), distributed.world()
    views = (images(seed, requires_grad=False).chunk(world)[here] for seed in (1, 2))
    loss = method.loss(tuple(views), 0.0)
    loss.backward()
    distributed.average_gradients(method.parameters())
    grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return distributed.total(loss.detach()) / world, grads


def test_statistics_are_those_of_the_global_batch():
    """Those of two images in each of two processes would make every correlation ±1."""
    loss, grads = one_step()
    for their_loss, their_grads in run_processes(2, one_step):
        torch.testing.assert_close(their_loss, loss, rtol=1e-10, atol=0)
        torch.testing.assert_close(their_grads, grads, rtol=1e-8, atol=1e-11)


def test_without_the_redundancy_term_all_coordinates_become_the_same(tmp_path: Path):
    def squared_correlation(redundancy: float) -> float:
        """Of different coordinates, averaged, after training."""
        settings = {"redundancy": redundancy, "first": MILD, "second": MILD}
        method = small.make("barlow_twins", data=tiny_images(64, classes=16), **settings)
        method.recipe = Recipe("adamw", lr=0.01, batch_size=32, schedule="constant")
        folder = tmp_path / str(redundancy)
        train(method, folder, epochs=40, seed=0, options=Options(log_steps=40))
        last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
        return last["redundancy"] / (16 * 15)

    assert squared_correlation(0.2) < 0.15
    assert squared_correlation(0.0) > 0.7


def test_the_two_views_are_drawn_from_two_distributions(resnet):
    """Section 2.2: they differ in the probabilities of blur and solarisation, as in BYOL."""
    method = BarlowTwins(resnet, tiny_images(), hidden=8, dim=8)
    assert (method.first.blur_p, method.first.solarize_p) == (1.0, 0.0)
    assert (method.second.blur_p, method.second.solarize_p) == (0.1, 0.2)
    method.first = method.second
    places = torch.arange(8)
    first, second = method.views(method.data[places], Random(0, 0, places, 8))
    assert not torch.equal(first, second)
