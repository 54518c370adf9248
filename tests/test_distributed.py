"""Several processes against one, which is computed here by plain torch."""

from copy import deepcopy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench import distributed
from tests.conftest import run_processes

WORLDS = (2, 4)


def data() -> tuple[Tensor, Tensor]:
    """Inputs (8, 5) and weights (5, 3)."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(8, 5, generator=random, dtype=torch.float64)
    return x, torch.randn(5, 3, generator=random, dtype=torch.float64)


def contrast(z: Tensor) -> Tensor:
    """A loss in which every row meets every other."""
    return (z @ z.T).logsumexp(1).mean()


# What each process computes from its part of x, and what it must be for all of x.
LOSSES = {
    "local_mean": (
        lambda x, w: (x @ w).tanh().square().mean(),
        lambda x, w: (x @ w).tanh().square().mean(),
    ),
    "gather": (
        lambda x, w: contrast(distributed.gather(x @ w)),
        lambda x, w: contrast(x @ w),
    ),
    "local_rows_global_columns": (
        lambda x, w: (x @ w @ distributed.gather((x @ w).tanh()).T).logsumexp(1).mean(),
        lambda x, w: (x @ w @ (x @ w).tanh().T).logsumexp(1).mean(),
    ),
    "two_gathers_of_one_gradient": (
        lambda x, w: (distributed.gather(x @ w) + distributed.gather(x.sin() @ w)).exp().mean(),
        lambda x, w: (x @ w + x.sin() @ w).exp().mean(),
    ),
    "gather_of_a_transposed_tensor": (
        lambda x, w: contrast(distributed.gather((w.T @ x.T).T)),
        lambda x, w: contrast(x @ w),
    ),
    "total": (
        lambda x, w: distributed.total((x @ w).square().sum(0)).sqrt().sum(),
        lambda x, w: (x @ w).square().sum(0).sqrt().sum(),
    ),
    "two_totals_of_one_gradient": (
        lambda x, w: (
            distributed.total((x @ w).sum(0)) + distributed.total((x @ w).square().sum(0))
        ).sin().sum(),
        lambda x, w: ((x @ w).sum(0) + (x @ w).square().sum(0)).sin().sum(),
    ),
}  # fmt: skip


def network() -> nn.Sequential:
    """Convolution, norm, linear layer, norm, for images (B, 3, 4, 4)."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6)
    ).double()


def pictures() -> Tensor:
    """(8, 3, 4, 4)."""
    return torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(2)).double()


def outcome(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Gradients (averaged) and buffers after one step's forward and backward pass."""
    net(x).sin().square().mean().backward()
    distributed.average_gradients(net.parameters())
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return grads | dict(net.named_buffers())


def in_each_process() -> dict[str, object]:
    world, rank = distributed.world(), distributed.rank()
    x, w = data()
    here = x.chunk(world)[rank]
    found: dict[str, object] = {"rank": rank, "order": distributed.gather(torch.tensor([rank]))}
    for name, (loss, _) in LOSSES.items():
        weight = nn.Parameter(w.clone())
        value = loss(here, weight)
        value.backward()
        distributed.average_gradients([weight])
        found[name] = (value.detach(), weight.grad)

    part = pictures().chunk(world)[rank]
    found["sync"] = outcome(distributed.synchronise_batch_norm(network()), part)
    found["grouped"] = outcome(distributed.group_batch_norm(network(), 4), part)
    try:
        distributed.group_batch_norm(network(), 3)(part)
    except ValueError as error:
        found["error"] = str(error)

    mixed = [nn.Parameter(torch.zeros(2, dtype=d)) for d in (torch.float32, torch.float64)]
    for parameter in mixed:
        parameter.grad = torch.full_like(parameter, float(rank))
    distributed.average_gradients([*mixed, nn.Parameter(torch.zeros(1))])
    found["mixed"] = [parameter.grad for parameter in mixed]
    return found


@cache
def results(world: int) -> list[dict[str, object]]:
    return run_processes(world, in_each_process)


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_are_in_order(world):
    for rank, found in enumerate(results(world)):
        assert found["rank"] == rank
        assert found["order"].tolist() == list(range(world))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("world", WORLDS)
def test_mean_loss_and_averaged_gradient_are_the_global_batchs(world, name):
    x, w = data()
    weight = nn.Parameter(w)
    expected = LOSSES[name][1](x, weight)
    expected.backward()
    values, grads = zip(*(found[name] for found in results(world)), strict=True)
    torch.testing.assert_close(torch.stack(values).mean(), expected.detach(), rtol=1e-12, atol=0)
    for grad in grads:
        torch.testing.assert_close(grad, weight.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("world", WORLDS)
def test_synchronised_batch_norm_is_torchs_over_the_global_batch(world):
    expected = outcome(network(), pictures())
    for found in results(world):
        torch.testing.assert_close(found["sync"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("world", WORLDS)
def test_grouped_batch_norm_does_not_depend_on_the_number_of_processes(world):
    expected = outcome(distributed.group_batch_norm(network(), 4), pictures())
    for found in results(world):
        torch.testing.assert_close(found["grouped"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("world", WORLDS)
def test_groups_that_the_processes_do_not_divide_are_refused(world):
    for found in results(world):
        assert f"found {world}" in found["error"]


@pytest.mark.parametrize("world", WORLDS)
def test_gradients_are_averaged_in_each_dtype(world):
    for found in results(world):
        for grad, dtype in zip(found["mixed"], (torch.float32, torch.float64), strict=True):
            assert grad.dtype == dtype
            assert grad.tolist() == [(world - 1) / 2] * 2


def test_alone_everything_passes_through():
    x = torch.randn(3, 2)
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.gather(x) is x
    assert distributed.total(x) is x
    net = network()
    assert isinstance(distributed.synchronise_batch_norm(net)[1], nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.BatchNorm2d(3), (8, 3, 2, 5)), (nn.BatchNorm1d(3), (8, 3))]
)
@pytest.mark.parametrize("affine", [True, False])
def test_one_group_is_torchs_batch_norm(norm, shape, affine):
    norm = type(norm)(3, affine=affine, momentum=0.3).double()
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    ours = distributed.GroupedBatchNorm(deepcopy(norm))
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64) * 3 + 1
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        for module, value in zip((norm, ours), inputs, strict=True):
            module(value).sin().sum().backward()
        torch.testing.assert_close(ours(x), norm(x), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-8, atol=1e-12)
    for a, b in zip(ours.parameters(), norm.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert ours.state_dict().keys() == norm.state_dict().keys()
    torch.testing.assert_close(dict(ours.state_dict()), dict(norm.state_dict()))
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(x), norm.eval()(x))


def test_groups_are_normalised_one_by_one():
    norm = nn.BatchNorm2d(3)
    nn.init.normal_(norm.weight)
    ours = distributed.GroupedBatchNorm(deepcopy(norm), groups=4)
    x = torch.randn(8, 3, 2, 2)
    parts = x.chunk(4)
    by_hand = torch.cat(
        [F.batch_norm(p, None, None, norm.weight, norm.bias, training=True) for p in parts]
    )
    torch.testing.assert_close(ours(x), by_hand)
    mean = torch.stack([p.mean((0, 2, 3)) for p in parts]).mean(0)
    var = torch.stack([p.transpose(0, 1).flatten(1).var(1) for p in parts]).mean(0)
    torch.testing.assert_close(ours.running_mean, 0.1 * mean)
    torch.testing.assert_close(ours.running_var, 0.9 + 0.1 * var)


def test_groups_must_be_equal():
    with pytest.raises(ValueError, match=r"3 groups .*found 8 examples"):
        distributed.GroupedBatchNorm(nn.BatchNorm1d(2), groups=3)(torch.randn(8, 2))


def test_half_precision_stays_and_is_computed_in_single():
    x = torch.randn(512, 2, dtype=torch.bfloat16) + 100
    out = distributed.GroupedBatchNorm(nn.BatchNorm1d(2))(x)
    exact = F.batch_norm(x.double(), None, None, training=True)
    assert out.dtype == torch.bfloat16
    assert (out.double() - exact).abs().max() < 0.05


def test_replacing_keeps_weights_and_mode():
    net = network().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = pictures()
    expected = net(x)
    assert distributed.group_batch_norm(net, 2) is net
    assert [type(m).__name__ for m in net][1::3] == ["GroupedBatchNorm"] * 2
    torch.testing.assert_close(dict(net.state_dict()), before)
    torch.testing.assert_close(net(x), expected)
