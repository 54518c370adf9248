"""W-MSE's whitening and loss against loops, with gradient in every view and from all processes."""

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench import distributed
from sslbench.method import Method
from sslbench.methods.non_contrastive.w_mse import WMSE, whiten
from sslbench.random import Random
from tests.conftest import run_processes, tiny_images
from tests.methods.collapse import collapses
from tests.methods.loops import (
    SIDE,
    apply,
    check_slope,
    check_value,
    cosine,
    draw,
    make,
    matrix,
    rows,
    slopes,
)

N, SUB_BATCH = 8, 4
ORDERS = torch.tensor([[3, 1, 6, 0, 7, 2, 5, 4], [5, 0, 1, 4, 2, 7, 6, 3]])


def pictures(seed: int) -> Tensor:
    return draw(N, 3, SIDE, SIDE, seed=seed).requires_grad_()


def cholesky(matrix):
    """L with L Lᵀ = matrix, row by row."""
    size = len(matrix)
    factor = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(factor[i][k] * factor[j][k] for k in range(j))
            factor[i][j] = math.sqrt(rest) if i == j else rest / factor[j][j]
    return factor


def whitened(v, shrinkage):
    """L⁻¹ (v − μ) by forward substitution, where L Lᵀ is the covariance, shrunk."""
    n, d = len(v), len(v[0])
    means = [sum(x[j] for x in v) / n for j in range(d)]
    centred = [[x[j] - means[j] for j in range(d)] for x in v]
    covariance = [
        [
            (1 - shrinkage) * sum(x[j] * x[k] for x in centred) / (n - 1) + shrinkage * (j == k)
            for k in range(d)
        ]
        for j in range(d)
    ]
    factor, out = cholesky(covariance), []
    for x in centred:
        z = []
        for j in range(d):
            z.append((x[j] - sum(factor[j][k] * z[k] for k in range(j))) / factor[j][j])
        out.append(z)
    return out


def w_mse(views, shrinkage, normalised):
    """Mean distance of all pairs of views, each sub-batch of each whitened by itself."""
    total, pairs = 0.0, list(itertools.combinations(range(len(views)), 2))
    for order in ORDERS.tolist():
        for start in range(0, N, SUB_BATCH):
            places = order[start : start + SUB_BATCH]
            z = [whitened([view[i] for i in places], shrinkage) for view in views]
            for i, j in pairs:
                for a, b in zip(z[i], z[j], strict=True):
                    squared = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
                    total += 2 - 2 * cosine(a, b) if normalised else squared
    return total / (len(ORDERS) * N * len(pairs))


def linear(**settings: object) -> Method:
    method = make("w_mse", hidden=6, dim=2, sub_batch=SUB_BATCH, **settings)
    method.projector = matrix(3, rows=2)
    return method


@pytest.mark.parametrize(
    ("positives", "normalised", "shrinkage"), [(2, True, 0.0), (3, True, 0.1), (2, False, 0.0)]
)
def test_loss_and_gradients_of_every_view(positives, normalised, shrinkage):
    """A detached view would halve the gradient of the rest and get none itself."""
    method = linear(positives=positives, normalised=normalised, shrinkage=shrinkage)
    views = tuple(pictures(seed) for seed in range(positives))
    loss = method.loss((views, ORDERS), 0.0)
    loss.backward()
    weight, given = rows(method.projector.weight), [rows(view) for view in views]

    def reference(views, w=weight):
        return w_mse([[apply(w, x) for x in view] for view in views], shrinkage, normalised)

    check_value(loss, reference(given))
    for number, view in enumerate(views):
        before, after = given[:number], given[number + 1 :]
        by = slopes(lambda x, a=before, b=after: reference([*a, x, *b]), given[number])
        check_slope(view.grad, by)
    by = slopes(lambda w: reference(given, w), weight)
    check_slope(method.projector.weight.grad, by)


def test_loss_equals_lightly():
    from lightly.loss.wmse_loss import WMSELoss

    method = linear()
    theirs = WMSELoss(embedding_dim=2, w_size=SUB_BATCH, track_running_stats=False)
    ours, other = [pictures(1), pictures(2)], [pictures(1), pictures(2)]
    torch.manual_seed(0)
    order = torch.randperm(N)[None]
    torch.manual_seed(0)  # which they will draw
    reference = theirs(method.projector(torch.cat(other).flatten(1)))
    loss = method.loss((tuple(ours), order), 0.0)
    torch.testing.assert_close(loss, reference, rtol=1e-9, atol=0)
    loss.backward()
    reference.backward()
    for x, y in zip(ours, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("autocast", [False, True])
def test_whitened_embeddings_have_the_identity_as_covariance(autocast):
    """Though their covariance has a condition number of 1e8, more than single precision holds."""
    v = (draw(3, 64, 8) * torch.logspace(-4, 0, 8) @ draw(8, 8, seed=1)).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        z = whiten(v)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.mean(1), torch.zeros(3, 8), rtol=0, atol=1e-4)
    covariance = z.mT @ z / 63
    torch.testing.assert_close(covariance, torch.eye(8).expand(3, 8, 8), rtol=0, atol=1e-3)


def test_embeddings_of_half_precision_are_whitened_in_single():
    v = draw(64, 8).bfloat16().requires_grad_()
    z = whiten(v)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.T @ z / 63, torch.eye(8), rtol=0, atol=1e-3)
    z.square().mean(0)[0].backward()
    assert torch.isfinite(v.grad).all()


def test_a_singular_covariance_is_refused_unless_it_is_shrunk():
    v = draw(64, 8)
    v[:, 3] = v[:, 5] * 2
    with pytest.raises(FloatingPointError, match=r"64 embeddings of 8 dim.*shrinkage"):
        whiten(torch.zeros_like(v))
    assert torch.isfinite(whiten(v, 1e-3)).all()
    with pytest.raises(FloatingPointError, match="not positive definite"):
        whiten(v * math.nan)


def one_step() -> tuple[Tensor, dict[str, Tensor]]:
    """Global loss and averaged gradients, from this process's part of the batch."""
    method, here, world = linear(), distributed.rank(), distributed.world()
    views = tuple(pictures(seed).detach().chunk(world)[here] for seed in (1, 2))
    loss = method.loss((views, ORDERS), 0.0)
    loss.backward()
    distributed.average_gradients(method.parameters())
    grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return distributed.total(loss.detach()) / world, grads


def test_sub_batches_are_of_the_global_batch():
    loss, grads = one_step()
    for their_loss, their_grads in run_processes(2, one_step):
        torch.testing.assert_close(their_loss, loss, rtol=1e-10, atol=0)
        torch.testing.assert_close(their_grads, grads, rtol=1e-8, atol=1e-11)


def test_orders_are_permutations_that_all_processes_share(resnet):
    method = WMSE(resnet, tiny_images(), positives=3, iterations=2, hidden=8, dim=4)
    places = torch.arange(16)
    views, orders = method.views(method.data[places], Random(0, 0, places, 16))
    assert len(views) == 3
    assert orders.sort(1).values.equal(places.expand(2, 16))
    assert not orders[0].equal(orders[1])
    part, same = method.views(method.data[places[8:]], Random(0, 0, places[8:], 16))
    assert same.equal(orders)
    torch.testing.assert_close(part, tuple(view[8:] for view in views))
    _, other = method.views(method.data[places], Random(0, 1, places, 16))
    assert not other.equal(orders)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positives": 1}, "positives: at least 2 expected, got 1"),
        ({"iterations": 0}, "iterations: at least 1 expected, got 0"),
        ({"shrinkage": 1.0}, r"shrinkage: in \[0, 1\) expected, got 1.0"),
    ],
)
def test_wrong_settings_are_refused(settings, message, resnet):
    with pytest.raises(ValueError, match=message):
        WMSE(resnet, tiny_images(), **settings)


@pytest.mark.parametrize(("sub_batch", "found"), [(3, 3), (2, 2)])
def test_sub_batches_must_divide_the_batch_and_span_the_space(sub_batch, found):
    method = make("w_mse", hidden=6, dim=2, sub_batch=sub_batch)
    with pytest.raises(ValueError, match=f"more than 2 .* the batch of 8 expected, got {found}"):
        method.loss(((pictures(1), pictures(2)), ORDERS), 0.0)


def test_a_batch_smaller_than_a_sub_batch_is_whitened_as_a_whole():
    views = pictures(1), pictures(2)
    method = make("w_mse", hidden=6, dim=2, sub_batch=64)
    whole = make("w_mse", hidden=6, dim=2, sub_batch=N)
    assert method.loss((views, ORDERS), 0.0) == whole.loss((views, ORDERS), 0.0)


def test_sub_batches_have_twice_as_many_images_as_dimensions(resnet):
    assert WMSE(resnet, tiny_images(), dim=4).sub_batch == 8


def without_whitening(method: Method) -> None:
    def loss(views: tuple[tuple[Tensor, ...], Tensor], progress: float) -> Tensor:
        first, second = (method.projector(method.encoder(view)) for view in views[0])
        method.log(embedding=first)
        return 2 - 2 * F.cosine_similarity(first, second, dim=1).mean()

    method.loss = loss


def test_without_whitening_all_embeddings_become_one(tmp_path: Path):
    collapses("w_mse", without_whitening, 0.01, tmp_path, shrinkage=0.0)


def test_the_projector_has_one_hidden_layer_and_no_bias_that_would_cancel(resnet):
    method = WMSE(resnet, tiny_images(), hidden=8, dim=4)
    linear = [m for m in method.projector if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [8, 4]
    assert linear[-1].bias is None
