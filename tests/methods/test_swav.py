"""SwAV: its loss and its codes against slow loops, its queue, its prototypes, and its collapse."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslbench import distributed, optim
from sslbench.data.augment import Augmentation
from sslbench.method import Method
from sslbench.methods.contrastive.swav import SwAV, sinkhorn
from sslbench.random import Random
from tests.conftest import run_processes, tiny_images
from tests.methods.collapse import MILD, collapses
from tests.methods.loops import (
    B,
    apply,
    check_slope,
    check_value,
    dot,
    draw,
    images,
    log_softmax,
    make,
    matrix,
    rows,
    slopes,
)

SMALL: dict[str, Any] = {"hidden": 8, "dim": 4, "prototypes": 6, "crops": 2}
K, DIM = 3, 5
VIEWS = 4


def equipartition(scores, epsilon, iterations):
    """Q = Diag(u) exp(CᵀZ / ε) Diag(v): rows to 1/K, then columns to 1/B, in turn; columns · B."""
    batch, clusters = len(scores), len(scores[0])
    q = [[math.exp(scores[b][k] / epsilon) for b in range(batch)] for k in range(clusters)]
    for _ in range(iterations):
        for k in range(clusters):
            share = sum(q[k])
            q[k] = [x / share / clusters for x in q[k]]
        for b in range(batch):
            share = sum(q[k][b] for k in range(clusters))
            for k in range(clusters):
                q[k][b] = q[k][b] / share / batch
    return [[batch * q[k][b] for k in range(clusters)] for b in range(batch)]


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
@pytest.mark.parametrize("iterations", [1, 3, 100])
def test_codes_are_those_of_the_slow_loop(epsilon, iterations):
    scores = draw(7, K, seed=1).clamp(-1, 1)
    found = sinkhorn(scores, epsilon, iterations)
    slow = equipartition(scores.tolist(), epsilon, iterations)
    expected = torch.tensor(slow, dtype=torch.double)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.sum(1), torch.ones(7).double())
    if iterations == 100:
        shares = torch.full((K,), 7 / K).double()
        torch.testing.assert_close(found.sum(0), shares, rtol=1e-3, atol=0)


def test_codes_of_two_views_do_not_mix():
    scores = draw(7, 2, K, seed=1)
    found = sinkhorn(scores, 0.5, 3)
    for view in (0, 1):
        torch.testing.assert_close(found[:, view], sinkhorn(scores[:, view], 0.5, 3))


def test_codes_survive_a_small_epsilon_in_half_precision():
    found = sinkhorn(draw(7, K, seed=1).clamp(-1, 1).bfloat16(), 1e-3, 3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(7))


def linear(**settings: Any) -> Method:
    """With a linear projector and known prototypes; the queue starts full."""
    queue = settings.get("queue", 0)
    method = make("swav", hidden=6, dim=DIM, prototypes=K, crops=VIEWS - 2, **settings)
    method.projector = matrix(3, rows=DIM)
    with torch.no_grad():
        method.prototypes.copy_(nn.functional.normalize(draw(K, DIM, seed=4)))
    method.queue.copy_(nn.functional.normalize(draw(queue, 2, DIM, seed=5), dim=2))
    method.pushed.fill_(queue)
    return method


def views(requires_grad: bool = True) -> list[Tensor]:
    return [images(seed, requires_grad) for seed in range(1, 1 + VIEWS)]


def unit(x):
    length = math.sqrt(dot(x, x))
    return [value / length for value in x]


def projections(pictures, weight):
    return [[unit(apply(weight, x)) for x in view] for view in pictures]


def codes_of(z, queue, prototypes, epsilon):
    """q of the two large views, each over its own batch and queue."""
    found = []
    for view in (0, 1):
        known = [*z[view], *(features[view] for features in queue)]
        scores = [[dot(x, c) for c in prototypes] for x in known]
        found.append(equipartition(scores, epsilon, 3)[: len(z[view])])
    return found


def swapped_prediction(z, codes, prototypes, temperature):
    """Equations 2 and 6, divided by the number of pairs; codes are constants."""
    total = pairs = 0
    for i in (0, 1):
        for v in range(len(z)):
            if v == i:
                continue
            pairs += 1
            for x, code in zip(z[v], codes[i], strict=True):
                scores = [dot(x, c) / temperature for c in prototypes]
                total -= sum(q * log_softmax(scores, k) for k, q in enumerate(code)) / len(z[v])
    return total / pairs


@pytest.mark.parametrize(("temperature", "epsilon", "queue"), [(0.1, 0.05, 0), (0.5, 0.3, 6)])
def test_loss(temperature, epsilon, queue):
    method = linear(temperature=temperature, epsilon=epsilon, queue=queue)
    pictures = views()
    loss = method.loss(pictures, 0.5)
    loss.backward()
    given, weight = [rows(x) for x in pictures], rows(method.projector.weight)
    prototypes = rows(method.prototypes)
    codes = codes_of(projections(given, weight), method.queue.tolist(), prototypes, epsilon)

    def reference(given, weight, prototypes):
        return swapped_prediction(projections(given, weight), codes, prototypes, temperature)

    check_value(loss, reference(given, weight, prototypes))
    for number, picture in enumerate(pictures):

        def of_view(x, number=number):
            return reference([*given[:number], x, *given[number + 1 :]], weight, prototypes)

        check_slope(picture.grad, slopes(of_view, rows(picture)))
    by_weight = slopes(lambda w: reference(given, w, prototypes), weight)
    check_slope(method.projector.weight.grad, by_weight)
    by_prototypes = slopes(lambda c: reference(given, weight, c), prototypes)
    check_slope(method.prototypes.grad, by_prototypes)


@pytest.mark.parametrize("queue", [0, 6])
def test_loss_equals_lightly(queue):
    from lightly.loss import SwaVLoss

    method = linear(queue=queue)
    ours, other = views(), views()
    loss = method.loss(ours, 0.5)
    weight, prototypes = method.projector.weight.detach(), method.prototypes.detach()
    z = [nn.functional.normalize(x.flatten(1) @ weight.T) for x in other]
    scores = [x @ prototypes.T for x in z]
    earlier = [method.queue[:, view] @ prototypes.T for view in (0, 1)] if queue else None
    reference = SwaVLoss()(scores[:2], scores[2:], earlier)
    torch.testing.assert_close(loss, reference[0], rtol=1e-9, atol=0)
    loss.backward()
    reference.backward()
    for x, y in zip(ours, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-7, atol=1e-10)


# -------------------------------------------------------------------------------------- queue


def step(method: Method, progress: float, seed: int = 1) -> float:
    """Loss of a step after which the prototypes stay where they are."""
    loss = method.loss([images(seed + number) for number in range(VIEWS)], progress)
    method.after_step(progress)
    return loss.item()


def test_the_queue_is_not_used_before_it_is_full():
    plain = step(linear(), 0.5)
    method = linear(queue=2 * B + 1, queue_start=0.0)
    method.pushed.zero_()
    losses = [step(method, 0.5) for _ in range(4)]
    assert losses[:3] == pytest.approx([plain] * 3)  # before it holds B, 2 B and 3 B features
    assert losses[3] != pytest.approx(plain)


def test_nothing_enters_the_queue_before_its_time():
    method = linear(queue=B, queue_start=0.25)
    method.pushed.zero_()
    before = method.queue.clone()
    for progress in (0.0, 0.2, 0.25):
        step(method, progress)
    assert torch.equal(method.queue, before)
    assert not method.pushed
    step(method, 0.3)
    assert method.pushed == B
    assert not torch.equal(method.queue, before)


def test_the_queue_is_first_in_first_out_and_survives_a_resume():
    method = linear(queue=B + 2, queue_start=0.0)
    pushed = []
    for seed in range(3):
        step(method, 0.5, seed)
        first, second = (images(seed + view).flatten(1) for view in (0, 1))
        both = torch.stack([x @ method.projector.weight.T for x in (first, second)], dim=1)
        pushed += nn.functional.normalize(both, dim=2).detach()
    newest = torch.stack(pushed[-(B + 2) :]).flatten(1)
    match = torch.cdist(method.queue.flatten(1), newest) < 1e-9  # every one exactly once
    assert match.sum(0).tolist() == match.sum(1).tolist() == [1] * (B + 2)
    resumed = make("swav", hidden=6, dim=DIM, prototypes=K, queue=B + 2)
    resumed.projector = matrix(6, rows=DIM)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    resumed.queue_start = 0.0
    assert [step(resumed, 0.5) for _ in range(2)] == [step(method, 0.5) for _ in range(2)]


def test_a_batch_longer_than_the_queue_leaves_its_last_features():
    method = linear(queue=B - 1, queue_start=0.0)
    for _ in range(2):
        step(method, 0.5)
        assert not method.new.requires_grad  # or it would keep the whole graph
        match = torch.cdist(method.queue.flatten(1), method.new[1:].flatten(1)) < 1e-9
        assert match.sum(0).tolist() == [1] * (B - 1)


# ---------------------------------------------------------------------------------- prototypes


def test_prototypes_have_length_one_at_the_start_and_after_each_step(resnet):
    method = SwAV(resnet, tiny_images(), **SMALL)
    torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(6))
    places = torch.arange(16)
    method.loss(method.views(method.data[places], Random(0, 0, places, 16)), 0.5).backward()
    optimizer = torch.optim.SGD([method.prototypes], lr=1.0)
    optimizer.step()
    assert (method.prototypes.norm(dim=1) - 1).abs().max() > 1e-3
    method.after_step(0.5)
    torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize(("epoch", "frozen"), [(0, True), (1, False)])
def test_prototypes_are_frozen_in_the_first_of_800_epochs(epoch, frozen, resnet):
    method = SwAV(resnet, tiny_images(), **SMALL)
    places = torch.arange(16)
    method.loss(method.views(method.data[places], Random(0, 0, places, 16)), 0.0).backward()
    optimizer = optim.optimizer(method, method.recipe)
    optim.set_rates(optimizer, method.recipe, epoch / 800)
    without = {name for name, p in method.named_parameters() if p.grad is None}
    assert without == ({"prototypes"} if frozen else set())


# -------------------------------------------------------------------------------- processes


def one_step(parts: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Global loss, averaged gradients, and state, of two steps of this process's part."""
    method = linear(queue=B + 2, queue_start=0.0)
    here, world = distributed.rank(), distributed.world()
    given = [view.chunk(parts)[here] for view in views(requires_grad=False)]
    for _ in range(2):
        method.zero_grad()
        loss = method.loss(given, 0.5)
        loss.backward()
        distributed.average_gradients(method.parameters())
        method.after_step(0.5)
    grads = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    return distributed.total(loss.detach().clone()) / world, grads, method.state_dict()


def test_codes_are_spread_over_the_global_batch_and_not_each_process_s():
    expected = one_step(1)
    for found in run_processes(2, one_step, 2):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)
    method = linear()
    halves = [
        method.loss([view.chunk(2)[half] for view in views(requires_grad=False)], 0.5)
        for half in (0, 1)
    ]
    whole = method.loss(views(requires_grad=False), 0.5)
    assert abs(whole - (halves[0] + halves[1]) / 2) > 0.01  # what a code per process would give


# ------------------------------------------------------------------------------------ collapse


def without_equipartition(method: Method) -> None:
    def codes(features: Tensor) -> Tensor:
        return ((features @ method.prototypes.detach().T) / method.epsilon).softmax(2)

    method.codes = codes


def test_without_equipartition_it_collapses(tmp_path):
    mild = {"large": MILD, "small": MILD}
    collapses("swav", without_equipartition, 0.01, tmp_path, epsilon=0.02, queue=0, **mild)


# --------------------------------------------------------------------------------------- views


@pytest.mark.parametrize(("encoder", "side"), [("resnet", 7), ("vit", 8)])
def test_views_are_two_large_and_several_small_ones(encoder, side, request):
    method = SwAV(request.getfixturevalue(encoder), tiny_images(), **{**SMALL, "crops": 3})
    places = torch.arange(16)
    found = method.views(method.data[places], Random(0, 0, places, 16))
    assert [x.shape[2:] for x in found] == [(16, 16)] * 2 + [(side, side)] * 3
    for number, view in enumerate(found):
        for other in found[:number]:
            assert view.shape != other.shape or not torch.equal(view, other)
    half = method.views(method.data[places[8:]], Random(0, 0, places[8:], 16))
    assert all(torch.equal(x[8:], y) for x, y in zip(found, half, strict=True))
    assert torch.isfinite(method.loss(found, 0.0))


def test_small_views_show_a_smaller_part(resnet):
    assert registered(SwAV, "small").crop_scale[1] <= registered(SwAV, "large").crop_scale[0]
    method = SwAV(resnet, tiny_images(), **{**SMALL, "crops": 0})
    places = torch.arange(16)
    found = method.views(method.data[places], Random(0, 0, places, 16))
    assert len(found) == 2
    assert torch.isfinite(method.loss(found, 0.0))


def registered(cls: type, setting: str) -> Augmentation:
    return cls.__init__.__kwdefaults__[setting]


@pytest.mark.parametrize(
    ("settings", "found"), [({"crops": -1}, "-1 of"), ({"crop_size": 0.0}, "of 0.0")]
)
def test_settings_that_do_not_fit_are_refused(settings, found, resnet):
    with pytest.raises(ValueError, match=rf"of a size in \(0, 1\] expected, got .*{found}"):
        SwAV(resnet, tiny_images(), **{**SMALL, **settings})
