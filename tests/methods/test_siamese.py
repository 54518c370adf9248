"""The energies of similar and dissimilar pairs against loops, and what negatives are for."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sslbench import distributed
from sslbench.method import Method, Recipe
from sslbench.methods.contrastive.siamese import Siamese, energies
from sslbench.pretrain import Options, train
from sslbench.random import Random
from tests.conftest import run_processes, tiny_images
from tests.methods import small
from tests.methods.collapse import MILD, collapses
from tests.methods.loops import (
    B,
    apply,
    check_slope,
    check_value,
    images,
    make,
    matrix,
    rows,
    slopes,
)


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def contrastive(first, second, margin):
    """Equation 4: pairs (i, i) are similar, pairs (i, k) dissimilar; a mean over each kind."""
    n, similar, dissimilar = len(first), 0.0, 0.0
    for i in range(n):
        for k in range(n):
            if i == k:
                similar += distance(first[i], second[k]) ** 2 / 2
            else:
                dissimilar += max(0.0, margin - distance(first[i], second[k])) ** 2 / 2
    return similar / n + dissimilar / (n * (n - 1))


def linear(margin: float) -> Method:
    method = make("siamese", dim=5, margin=margin)
    method.projector = matrix(3, rows=5)
    return method


@pytest.mark.parametrize("margin", [3.0, 20.0])
def test_loss_and_gradients(margin):
    method = linear(margin)
    first, second = images(1), images(2)
    loss = method.loss((first, second), 0.0)
    loss.backward()
    weight, a, b = rows(method.projector.weight), rows(first), rows(second)

    def reference(a, b, w=weight):
        return contrastive([apply(w, x) for x in a], [apply(w, x) for x in b], margin)

    y, z = ([apply(weight, x) for x in view] for view in (a, b))
    distances = [distance(y[i], z[k]) for i in range(B) for k in range(B) if i != k]
    assert min(distances) < margin
    assert max(distances) > margin or margin == 20  # both sides of the hinge
    check_value(loss, reference(a, b))
    check_slope(first.grad, slopes(lambda x: reference(x, b), a))
    check_slope(second.grad, slopes(lambda x: reference(a, x), b))
    check_slope(method.projector.weight.grad, slopes(lambda w: reference(a, b, w), weight))
    torch.testing.assert_close(
        method.logged["similar"] + method.logged["dissimilar"], loss.detach()
    )


def test_energies_of_pairs_by_hand():
    distances = torch.tensor([[0.5, 0.2, 3.0], [1.0, 0.0, 0.9], [2.0, 5.0, 1.0]])
    similar, dissimilar = energies(distances, 1.0)
    assert similar.item() == pytest.approx((0.25 + 0 + 1) / 3 / 2)
    assert dissimilar.item() == pytest.approx((0.8**2 + 0.1**2) / 6 / 2)


def test_coincident_embeddings_have_a_finite_gradient():
    method, view = linear(1.0), images(1)
    same = view.detach()[:1].expand(B, -1, -1, -1).clone().requires_grad_()
    method.loss((same, same), 0.0).backward()
    assert torch.isfinite(same.grad).all()


def one_step() -> tuple[Tensor, dict[str, Tensor]]:
    """Global loss and averaged gradients, from this process's part of a batch of B."""
    method, here, world = linear(3.0), distributed.rank(), distributed.world()
    views = (images(seed, requires_grad=False).chunk(world)[here] for seed in (1, 2))
    loss = method.loss(tuple(views), 0.0)
    loss.backward()
    distributed.average_gradients(method.parameters())
    grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return distributed.total(loss.detach()) / world, grads


def test_dissimilar_pairs_span_all_processes_with_gradient():
    loss, grads = one_step()
    for their_loss, their_grads in run_processes(2, one_step):
        torch.testing.assert_close(their_loss, loss, rtol=1e-10, atol=0)
        torch.testing.assert_close(their_grads, grads, rtol=1e-8, atol=1e-11)


def test_energy_is_low_for_compatible_and_high_for_incompatible_pairs(tmp_path: Path):
    """Of images that differ, after training, on views that it did not see."""
    data = tiny_images(64, classes=16)
    method = small.make("siamese", data=data, hidden=0, augmentation=MILD)
    method.recipe = Recipe("adamw", lr=0.01, batch_size=32, schedule="constant")
    train(method, tmp_path, epochs=20, seed=0, options=Options(log_steps=40))
    places = torch.arange(16)  # one image of each class
    with torch.no_grad():
        views = method.eval().views(data[places], Random(9, 9, places, 16))
        energy = torch.cdist(*(method.projector(method.encoder(view)) for view in views))
    compatible = energy.diagonal().mean()
    incompatible = energy[~torch.eye(16, dtype=torch.bool)].mean()
    assert compatible < 0.5 * incompatible


def without_negatives(method: Method) -> None:
    method.margin = 0.0


def test_without_negatives_all_embeddings_become_one(tmp_path: Path):
    collapses("siamese", without_negatives, 0.02, tmp_path, hidden=0, margin=5.0)


@pytest.mark.parametrize("margin", [0.0, -1.0])
def test_a_margin_that_separates_nothing_is_refused(margin, resnet):
    with pytest.raises(ValueError, match=f"margin: more than 0 expected, got {margin}"):
        Siamese(resnet, tiny_images(), margin=margin)
