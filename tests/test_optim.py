"""Optimisers, groups and schedules against references written by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sslbench.encoder import Encoder
from sslbench.method import Recipe
from sslbench.optim import LARS, optimizer, parameter_groups, rate, set_rates


def lars_by_hand(w, grads, *, lr, momentum, decay, eta=0.001, adapt=True):
    """The weight after each step, with the learning rate outside the momentum as torch's SGD."""
    w, v, out = np.array(w, np.float64), 0.0, []
    for k, g in enumerate(grads):
        step = np.array(g, np.float64) + decay * w
        if adapt:
            length, slope = math.sqrt((w**2).sum()), math.sqrt((step**2).sum())
            if length > 0 and slope > 0:
                step = step * eta * length / slope
        v = momentum * v + step
        w = w - lr * (k + 1) * v
        out.append(w)
    return out


GRADS = np.random.default_rng(0).normal(size=(5, 3, 2))
WEIGHT = np.random.default_rng(1).normal(size=(3, 2))


def lars(w, grads, *, lr, momentum, decay, adapt=True):
    weight = nn.Parameter(torch.tensor(w))
    group = {"params": [weight], "weight_decay": decay, "adapt": adapt}
    ours, out = LARS([group], lr=lr, momentum=momentum), []
    for k, g in enumerate(grads):  # a rate that changes tells where it enters
        ours.param_groups[0]["lr"] = lr * (k + 1)
        weight.grad = torch.tensor(g)
        ours.step()
        out.append(weight.detach().numpy().copy())
    return out


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("adapt", [True, False])
def test_lars(decay, momentum, adapt):
    how = {"lr": 2.0, "momentum": momentum, "decay": decay, "adapt": adapt}
    np.testing.assert_allclose(lars(WEIGHT, GRADS, **how), lars_by_hand(WEIGHT, GRADS, **how))


def test_lars_adapts_without_decay():
    how = {"lr": 1.0, "momentum": 0.0, "decay": 0.0}
    step = lars(WEIGHT, 1000 * GRADS[:1], **how)[0] - WEIGHT
    assert np.linalg.norm(step) == pytest.approx(0.001 * np.linalg.norm(WEIGHT))


def test_lars_moves_weights_that_start_at_zero():
    how = {"lr": 0.1, "momentum": 0.9, "decay": 0.1}
    zero = np.zeros((3, 2))
    found = lars(zero, GRADS, **how)
    np.testing.assert_allclose(found[0], -0.1 * GRADS[0])
    np.testing.assert_allclose(found, lars_by_hand(zero, GRADS, **how))


def test_lars_stands_still_without_gradient():
    how = {"lr": 0.1, "momentum": 0.9, "decay": 0.0}
    np.testing.assert_array_equal(lars(WEIGHT, 0 * GRADS, **how)[-1], WEIGHT)


# ------------------------------------------------------------------------------ groups


class Net(nn.Module):
    """What methods have: an encoder, a head, and tokens of their own."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.teacher = nn.Linear(4, 5).requires_grad_(False)


def by_name(module: nn.Module, recipe: Recipe) -> dict[str, dict[str, object]]:
    groups = parameter_groups(module, recipe)
    names = [name for group in groups for name in group["names"]]
    assert len(names) == len(set(names))
    sizes = [[id(p) for p in group["params"]] for group in groups]
    parameters = dict(module.named_parameters())
    assert sizes == [[id(parameters[name]) for name in group["names"]] for group in groups]
    return {name: group for group in groups for name in group["names"]}


def test_only_weights_decay_and_adapt(vit, resnet):
    for net in (Net(vit), Net(resnet)):
        found = by_name(net, Recipe("lars", weight_decay=0.1))
        expected = {name for name, p in net.named_parameters() if p.requires_grad}
        assert found.keys() == expected
        modules = dict(net.named_modules())
        for name, group in found.items():
            owner, _, kind = name.rpartition(".")
            weight = kind == "weight" and isinstance(modules[owner], nn.Linear | nn.Conv2d)
            assert group["weight_decay"] == (0.1 if weight else 0.0), name
            assert group["adapt"] == weight, name
    tokens = {name for name in by_name(Net(vit), Recipe()) if name.endswith(("token", "embed"))}
    assert tokens == {"encoder.model.cls_token", "encoder.model.pos_embed", "mask_token"}


def test_the_longest_prefix_wins(resnet):
    recipe = Recipe(
        "adamw",
        lr=0.2,
        weight_decay=0.1,
        betas=(0.9, 0.99),
        groups={
            "head": {"lr": 0.5, "schedule": "constant", "start": 0.25},
            "head.2": {"weight_decay": 0.3, "betas": (0.5, 0.6)},
        },
    )
    found = by_name(Net(resnet), recipe)
    first, last, bias = (found[f"head.{name}"] for name in ("0.weight", "2.weight", "2.bias"))
    other = found["encoder.conv1.weight"]
    wanted = ("factor", "schedule", "start", "weight_decay")
    assert [first[key] for key in wanted] == [0.5, "constant", 0.25, 0.1]
    assert [last[key] for key in wanted] == [1.0, "cosine", 0.0, 0.3]
    assert [bias[key] for key in wanted] == [1.0, "cosine", 0.0, 0.0]
    assert [other[key] for key in wanted] == [1.0, "cosine", 0.0, 0.1]
    ready = {group["names"][0]: group for group in optimizer(Net(resnet), recipe).param_groups}
    assert ready["head.2.weight"]["betas"] == (0.5, 0.6)
    assert ready["head.0.weight"]["betas"] == (0.9, 0.99)


def test_a_prefix_of_nothing_is_refused(resnet):
    with pytest.raises(ValueError, match="'haed': no parameter's name starts with it"):
        parameter_groups(Net(resnet), Recipe(groups={"haed": {"lr": 0.1}}))


@pytest.mark.parametrize(
    ("name", "cls"), [("sgd", torch.optim.SGD), ("lars", LARS), ("adamw", torch.optim.AdamW)]
)
def test_optimizers(name, cls, resnet):
    made = optimizer(Net(resnet), Recipe(name, momentum=0.7, betas=(0.8, 0.95)))
    assert type(made) is cls
    group = made.param_groups[0]
    assert group["betas" if name == "adamw" else "momentum"] in (0.7, (0.8, 0.95))


def test_an_unknown_optimizer_is_refused(resnet):
    with pytest.raises(ValueError, match="optimizer 'adam'; did you mean 'adamw'"):
        optimizer(Net(resnet), Recipe("adam"))


# ------------------------------------------------------------------------------ schedules


def test_rate():
    recipe = Recipe(warmup=0.2)
    shares = [0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0]
    cosine = [0, 0.25, 0.5, 1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0]
    assert [rate(recipe, "cosine", s) for s in shares] == pytest.approx(cosine)
    assert [rate(recipe, "constant", s) for s in shares] == pytest.approx([0, 0.25, 0.5] + 5 * [1])
    assert rate(Recipe(), "cosine", 0.0) == 1
    linear = [0, 0.25, 0.5, 1, 0.75, 0.5, 0.25, 0]
    assert [rate(recipe, "linear", s) for s in shares] == pytest.approx(linear)
    with pytest.raises(ValueError, match=r"'sine'; allowed: cosine, linear, constant"):
        rate(recipe, "sine", 0.5)


def test_set_rates_and_frozen_starts(resnet):
    net = Net(resnet)
    groups = {"head": {"lr": 0.1, "start": 0.5, "schedule": "constant"}}
    recipe = Recipe(lr=2.0, warmup=0.2, groups=groups)
    ready = optimizer(net, recipe)
    for progress, has_gradient in ((0.1, False), (0.49, False), (0.5, True), (0.6, True)):
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        set_rates(ready, recipe, progress)
        for group in ready.param_groups:
            head = group["names"][0].startswith("head")
            scale = 0.1 if head else 1.0
            schedule = "constant" if head else "cosine"
            assert group["lr"] == pytest.approx(2 * scale * rate(recipe, schedule, progress))
            for parameter in group["params"]:
                assert (parameter.grad is not None) == (has_gradient or not head)


def test_the_rate_follows_the_batch_size_once():
    recipe = Recipe(lr=0.4, batch_size=256)
    assert recipe.override(batch_size=64).lr == pytest.approx(0.1)
    assert recipe.override(batch_size=64, lr=0.3).lr == 0.3
    assert recipe.override(lr=0.3).batch_size == 256
    assert recipe.override(batch_size=64).override(batch_size=256) == recipe
