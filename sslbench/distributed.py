"""Data parallel training: who we are, gathers that carry gradient, batch norm over all processes.

Everything is a no-op in one process. The convention of the training loop: gradients are averaged
over the processes, and the mean of the processes' losses is the loss of the global batch. A loss
that each process computes for the whole batch from gathered embeddings then has the right gradient,
because the backward pass of a gather sums what every process asks of an embedding.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def launched() -> Iterator[str]:
    """Join the processes that torchrun started, if it did; gives this process's device.

    NCCL where there are GPUs, one for each process of a machine; gloo elsewhere.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def lost(error: Exception) -> bool:
    """Whether an error only says that another process of the group is gone."""
    text = str(error)
    return (
        isinstance(error, dist.DistError) or "Connection closed by peer" in text or "gloo" in text
    )


def rank() -> int:
    """This process's number, 0 in a single one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()  # another branch may be given the same tensor
        dist.all_reduce(grad)
        return grad.chunk(world())[rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad


def gather(x: Tensor) -> Tensor:
    """(b, …) of each process → (B, …) of all in the order of their ranks, with gradient."""
    return x if world() == 1 else _Gather.apply(x)


def total(x: Tensor) -> Tensor:
    """Sum over the processes, with gradient."""
    return x if world() == 1 else _Sum.apply(x)


def mean(terms: Tensor) -> Tensor:
    """What the processes' mean of is the mean of all their terms (K,), however many each has.

    0 where there is none.
    """
    count = total(torch.tensor(float(len(terms)), device=terms.device)).clamp_min(1)
    return terms.sum() * world() / count


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, all in one flat reduction per dtype.

    DistributedDataParallel would overlap this with the backward pass, but cannot follow methods
    whose trained parameters change from phase to phase, and wants its own forward; docs/training.md
    has the measurement.
    """
    if world() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for grads in by_dtype.values():
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat /= world()
        for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))


class GroupedBatchNorm(nn.Module):
    """Batch norm whose statistics span fixed groups of the global batch.

    One group is batch norm over all processes (what torch's SyncBatchNorm is on CUDA). Several are
    the per-device statistics of a larger machine (MoCo, section 3.3), the same whatever the number
    of processes, as long as that number divides the groups. Running statistics average the groups'.
    The state dict is that of the batch norm that it replaces.

    Args:
        norm: the batch norm to take over, parameters and buffers included.
        groups: number of groups in the global batch.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, groups: int = 1) -> None:
        super().__init__()
        self.groups, self.eps, self.momentum = groups, norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.training = norm.training

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (b, C) or (b, C, H, W)."""
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        if self.groups > 1 and (self.groups % world() or len(x) % (self.groups // world())):
            raise ValueError(
                f"{self.groups} groups of batch norm need a number of processes that divides them "
                f"(found {world()}) and equal groups (found {len(x)} examples per process)"
            )
        here = max(1, self.groups // world())  # groups in this process
        parts = x.reshape(here, len(x) // here, x.shape[1], -1)  # (g, b/g, C, H·W)
        parts = parts.to(torch.promote_types(x.dtype, torch.float32))
        count = float(parts.shape[1] * parts.shape[3])
        mean = parts.mean((1, 3))  # (g, C)
        if self.groups == 1:  # equal parts: the mean of the processes' means is the global mean
            mean = total(mean) / world()
        centred = parts - mean[:, None, :, None]
        var = centred.square().mean((1, 3))
        if self.groups == 1:
            var, count = total(var) / world(), count * world()
        self._track(mean.detach(), var.detach() * count / max(count - 1, 1))
        out = centred * torch.rsqrt(var + self.eps)[:, None, :, None]
        out = out.reshape(x.shape)
        if self.weight is not None:
            shape = (1, -1) + (1,) * (x.ndim - 2)
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Update the running statistics with the groups' averages (g, C), over all processes."""
        if self.groups > 1:
            mean, var = total(mean) / world(), total(var) / world()
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.mean(0), self.momentum or 0.0)
        self.running_var.lerp_(var.mean(0), self.momentum or 0.0)


def group_batch_norm(module: nn.Module, groups: int = 1) -> nn.Module:
    """Replace every batch norm in `module` by one over `groups` groups of the global batch."""
    return _replace(module, lambda norm: GroupedBatchNorm(norm, groups))


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Batch norm over the global batch: torch's on CUDA, ours elsewhere; untouched if alone."""
    if world() == 1:
        return module
    if next(module.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # in place below the top
        return module
    return group_batch_norm(module)


def _replace(module: nn.Module, make: Any) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, make(child))
        else:
            _replace(child, make)
    return module
