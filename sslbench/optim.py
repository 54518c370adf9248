"""Optimisers, parameter groups and learning-rate schedules, all functions of the step alone."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from sslbench.method import Recipe


class LARS(Optimizer):
    """SGD with momentum whose step is scaled per weight: ratio = η ‖w‖ / ‖g + λ w‖.

    You, Gitman, Ginsburg. Large Batch Training of Convolutional Networks. arXiv:1708.03888.
    Groups with `adapt=False` (biases, norms) take plain steps. The ratio is 1 where the weight or
    its gradient is zero, so that zero-initialised weights move, and applies without decay too.

    Args:
        params: parameter groups.
        lr: learning rate.
        momentum: of the update, not of the gradient: v ← μ v + ratio · (g + λ w); w ← w − lr · v.
        weight_decay: λ.
        eta: η, the trust coefficient.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "eta": eta,
                "adapt": True,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; `closure` is not used."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                update = weight.grad.add(weight, alpha=group["weight_decay"])
                if group["adapt"]:
                    size, slope = weight.norm(), update.norm()
                    ratio = group["eta"] * size / slope
                    update *= torch.where((size > 0) & (slope > 0), ratio, 1.0)
                state = self.state[weight]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(weight)
                state["velocity"].mul_(group["momentum"]).add_(update)
                weight.sub_(state["velocity"], alpha=group["lr"])


NO_DECAY = ("cls_token", "mask_token", "pos_embed", "reg_token", "logit_scale", "embeddings")


def _decays(name: str, parameter: Tensor) -> bool:
    """Weights decay; biases, norms, tokens, embeddings and temperatures do not."""
    return parameter.ndim > 1 and not any(word in name for word in NO_DECAY)


def parameter_groups(module: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Trainable parameters by what the recipe does with them.

    Each group carries `factor` (of the learning rate), `schedule`, `start`, and `names`.

    Raises:
        ValueError: a prefix in `recipe.groups` that no parameter has.
    """
    prefixes = sorted(recipe.groups, key=len, reverse=True)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    names = [name for name, _ in module.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"recipe group {prefix!r}: no parameter's name starts with it")
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        prefix = next((p for p in prefixes if name.startswith(p)), "")
        special = recipe.groups.get(prefix, {})
        decays = _decays(name, parameter)
        key = (prefix, decays)
        if key not in groups:
            groups[key] = {
                "params": [],
                "names": [],
                "factor": special.get("lr", 1.0),
                "schedule": special.get("schedule", recipe.schedule),
                "start": special.get("start", 0.0),
                "weight_decay": special.get("weight_decay", recipe.weight_decay) if decays else 0.0,
            }
            if recipe.optimizer == "lars":
                groups[key]["adapt"] = decays
            if recipe.optimizer == "adamw" and "betas" in special:
                groups[key]["betas"] = tuple(special["betas"])
        groups[key]["params"].append(parameter)
        groups[key]["names"].append(name)
    return list(groups.values())


def optimizer(module: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimiser over the module's trainable parameters."""
    groups = parameter_groups(module, recipe)
    if recipe.optimizer == "sgd":
        return SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    if recipe.optimizer == "lars":
        return LARS(groups, lr=recipe.lr, momentum=recipe.momentum)
    return AdamW(groups, lr=recipe.lr, betas=recipe.betas)


def rate(recipe: Recipe, schedule: str, progress: float) -> float:
    """Factor of the peak learning rate when the share `progress` of the steps is done."""
    if progress < recipe.warmup:
        return progress / recipe.warmup
    if schedule == "constant":
        return 1.0
    done = (progress - recipe.warmup) / (1 - recipe.warmup)
    if schedule == "linear":
        return 1 - done
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    raise ValueError(f"schedule {schedule!r}; allowed: cosine, linear, constant")


def set_rates(optimizer: Optimizer, recipe: Recipe, progress: float) -> None:
    """Give each group its learning rate for the coming step, and no gradient before its start."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * group["factor"] * rate(recipe, group["schedule"], progress)
        if progress < group["start"]:
            for parameter in group["params"]:
                parameter.grad = None
