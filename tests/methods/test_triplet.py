"""The triplet loss against loops, which negative is taken, and what negatives are for."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench import distributed
from sslbench.method import Method
from sslbench.methods.contrastive.triplet import Triplet, semi_hard
from tests.conftest import run_processes, tiny_images
from tests.methods.collapse import collapses
from tests.methods.loops import (
    B,
    apply,
    check_slope,
    check_value,
    cosine,
    images,
    make,
    matrix,
    rows,
    slopes,
)


def triplets(first, second):
    """Squared distances to positive and negative of each anchor, and of which kind the latter is.

    On the unit sphere, where ‖a − b‖² = 2 − 2 a · b.
    """
    views, n = [*first, *second], len(first)
    for i, anchor in enumerate(views):
        squared = [2 - 2 * cosine(anchor, other) for other in views]
        positive = squared[(i + n) % (2 * n)]
        negatives = [squared[k] for k in range(2 * n) if k % n != i % n]
        farther = [d for d in negatives if d > positive]  # equation 4
        yield positive, min(farther) if farther else max(negatives), bool(farther)


def hinge(first, second, margin):
    """Equation 3, averaged."""
    found = [max(0.0, p - n + margin) for p, n, _ in triplets(first, second)]
    return sum(found) / len(found)


def linear(margin: float = 0.2) -> Method:
    method = make("triplet", dim=5, margin=margin)
    method.projector = matrix(3, rows=5)
    return method


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_loss_and_gradients(margin):
    method = linear(margin)
    first, second = images(1), images(2)
    loss = method.loss((first, second), 0.0)
    loss.backward()
    weight, a, b = rows(method.projector.weight), rows(first), rows(second)

    def embedded(w, view):
        return [apply(w, x) for x in view]

    def reference(a, b, w=weight):
        return hinge(embedded(w, a), embedded(w, b), margin)

    found = list(triplets(embedded(weight, a), embedded(weight, b)))
    assert {farther for *_, farther in found} == {True, False}  # with the fallback
    semi = [p < n < p + margin for p, n, _ in found]
    assert method.logged["semi_hard"].item() == pytest.approx(sum(semi) / len(semi))
    assert any(semi)
    check_value(loss, reference(a, b))
    check_slope(first.grad, slopes(lambda x: reference(x, b), a))
    check_slope(second.grad, slopes(lambda x: reference(a, x), b))
    check_slope(method.projector.weight.grad, slopes(lambda w: reference(a, b, w), weight))


def test_negatives_by_hand_are_semi_hard_or_the_least_hard():
    """Rows and columns: images 0, 1, 2, then their second views."""
    distances = torch.tensor(
        [
            #  0a   1a   2a   0b   1b   2b
            [0.0, 0.4, 0.6, 0.5, 0.9, 0.1],  # 0.5 to the positive: 0.6, not the nearest or farthest
            [0.4, 0.0, 0.2, 0.3, 0.3, 0.8],  # equal to 0.3 is not farther: 0.4
            [0.6, 0.2, 0.0, 0.7, 0.1, 0.9],  # none is farther than 0.9: the farthest, 0.7
            [0.5, 0.3, 0.7, 0.0, 1.5, 1.8],  # 0.7
            [0.9, 0.3, 0.1, 1.5, 0.0, 2.0],  # 0.9, though it is outside a margin of 0.2
            [0.1, 0.8, 0.9, 1.8, 2.0, 0.0],  # 1.8
        ]
    )
    assert semi_hard(distances).tolist() == [2, 0, 3, 2, 0, 3]


def test_neither_the_anchor_nor_its_positive_is_a_negative():
    distances = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    for scale in (1e-3, 1e3):  # positives nearer or farther than all others
        distances[torch.arange(12), torch.arange(12).roll(6)] = scale
        chosen = semi_hard((distances + distances.T) / 2)
        assert not (chosen % 6).eq(torch.arange(12) % 6).any()


def test_only_directions_count():
    method, first, second = linear(), images(1), images(2)
    loss = method.loss((first, second), 0.0)
    scaled = first * torch.tensor([1.0, 2, 3, 4]).view(B, 1, 1, 1), second * 5
    torch.testing.assert_close(method.loss(scaled, 0.0), loss)


def one_step() -> tuple[Tensor, dict[str, Tensor]]:
    """Global loss and averaged gradients, from this process's part of a batch of B."""
    method, here, world = linear(), distributed.rank(), distributed.world()
    views = (images(seed, requires_grad=False).chunk(world)[here] for seed in (1, 2))
    loss = method.loss(tuple(views), 0.0)
    loss.backward()
    distributed.average_gradients(method.parameters())
    grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return distributed.total(loss.detach()) / world, grads


def test_negatives_come_from_all_processes_with_gradient():
    loss, grads = one_step()
    for their_loss, their_grads in run_processes(2, one_step):
        torch.testing.assert_close(their_loss, loss, rtol=1e-10, atol=0)
        torch.testing.assert_close(their_grads, grads, rtol=1e-8, atol=1e-11)


def without_negatives(method: Method) -> None:
    def loss(views: tuple[Tensor, Tensor], progress: float) -> Tensor:
        first, second = (method.projector(method.encoder(view)) for view in views)
        method.log(embedding=first)
        return 2 - 2 * F.cosine_similarity(first, second, dim=1).mean()

    method.loss = loss


def test_without_negatives_all_embeddings_become_one(tmp_path: Path):
    collapses("triplet", without_negatives, 0.01, tmp_path)


def test_a_margin_that_separates_nothing_is_refused(resnet):
    with pytest.raises(ValueError, match="margin: more than 0 expected, got 0"):
        Triplet(resnet, tiny_images(), margin=0)
