"""The contract of a pretraining method, and the recipe it is trained with."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sslbench.data.feed import Examples
from sslbench.data.split import Batch
from sslbench.encoder import Encoder
from sslbench.errors import suggest
from sslbench.random import Random

OPTIMIZERS = ("sgd", "lars", "adamw")
SCHEDULES = ("cosine", "linear", "constant")


@dataclass(frozen=True)
class Recipe:
    """How a method is optimised; the defaults of each method are its paper's.

    Attributes:
        optimizer: "sgd", "lars" or "adamw".
        lr: peak learning rate at `batch_size`.
        weight_decay: for weights of two or more dimensions; see `sslbench.optim`.
        batch_size: images in the global batch, over all processes.
        epochs: the paper's budget, used where none is given.
        warmup: share of all steps in which the learning rate rises linearly from 0.
        schedule: "cosine" or "linear" (to 0), or "constant".
        momentum: of SGD and LARS.
        betas: of AdamW.
        clip: largest norm of the whole gradient, None for no limit.
        sync_bn: batch norm over the global batch instead of each process's part.
        groups: parameter name prefix (the longest wins) → any of lr (a factor), schedule,
            weight_decay, betas, start (share of training before which it stays frozen).
    """

    optimizer: str = "sgd"
    lr: float = 0.1
    weight_decay: float = 0.0
    batch_size: int = 256
    epochs: int = 100
    warmup: float = 0.0
    schedule: str = "cosine"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None
    sync_bn: bool = True
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, allowed in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                found = f"{name} {getattr(self, name)!r}"
                raise ValueError(f"{found}; {suggest(getattr(self, name), list(allowed))}")
        if self.batch_size < 1 or self.epochs < 0 or not 0 <= self.warmup < 1:
            raise ValueError(
                "batch_size ≥ 1, epochs ≥ 0 and 0 ≤ warmup < 1 expected, found "
                f"{self.batch_size}, {self.epochs} and {self.warmup}"
            )

    def override(self, **changes: Any) -> "Recipe":
        """The recipe with changes; a batch size alone scales the learning rate linearly with it."""
        if "batch_size" in changes and "lr" not in changes:
            changes["lr"] = self.lr * changes["batch_size"] / self.batch_size
        return replace(self, **changes)


class Method(nn.Module, ABC):
    """One way to pretrain an encoder. One subclass per file; the file name is its name.

    State lives in parameters and buffers only, so that saving and resuming need no code here.
    Randomness comes from the `random` that `views` receives only, so that neither a resume nor the
    number of processes changes a draw.

    Attributes:
        paper: where it comes from, e.g. "arXiv:2002.05709".
        modality: of the encoders that it trains: "image", "text", "image_text", or "any".
        pseudo_label: what is predicted, in a few words.
        version: raised by whatever can move a number.
        recipe: the paper's optimisation.
        encoder: what is kept: what is trained, or a teacher that follows it; a method may wrap or
            replace what it is given.
        data: what the loop draws batches from.
        phases: how often the learning-rate schedule runs in turn; 0 for what is never trained.
    """

    paper: ClassVar[str]
    modality: ClassVar[str] = "image"
    pseudo_label: ClassVar[str]
    version: ClassVar[int] = 1
    recipe: Recipe = Recipe()
    phases: int = 1
    encoder: Encoder
    data: Examples

    def __init__(self, encoder: Encoder, data: Examples) -> None:
        super().__init__()
        self.encoder, self.data = encoder, data
        self.logged: dict[str, Tensor] = {}

    def before_epoch(self, epoch: int) -> None:
        """What happens once before each epoch; not repeated when a run resumes inside it."""

    @abstractmethod
    def views(self, batch: Batch, random: Random) -> Any:
        """Inputs and pseudo-labels of the local part of the global batch, on its device."""

    @abstractmethod
    def loss(self, views: Any, progress: float) -> Tensor:
        """Scalar, called once per step.

        The mean of the processes' values is the loss of the global batch: a mean over local
        examples qualifies as it is, and so does the whole batch's loss computed by each process
        from gathered embeddings (`sslbench.distributed`).

        Args:
            views: what `views` returned.
            progress: share of the training that is done, in [0, 1).
        """

    def after_step(self, progress: float) -> None:
        """What follows the optimiser's step: teachers, queues, prototypes."""

    def log(self, **values: Tensor) -> None:
        """Numbers for the log; `embedding=` (B, D) feeds the collapse monitor."""
        self.logged.update({name: value.detach() for name, value in values.items()})


@torch.no_grad()
def ema(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters and running statistics towards the student's.

    θ_teacher ← m θ_teacher + (1 − m) θ_student. Integer buffers are copied.
    """
    ours, theirs = teacher.state_dict(), student.state_dict()
    for name, slow in ours.items():
        if slow.is_floating_point():
            slow.lerp_(theirs[name], 1 - momentum)
        else:
            slow.copy_(theirs[name])


def frozen(module: nn.Module) -> nn.Module:
    """The module with gradients switched off for all its parameters."""
    return module.requires_grad_(False)
