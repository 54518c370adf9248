"""The training loop: the only one there is."""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from sslbench import distributed, optim
from sslbench.checkpoint import load_state, save_encoder, save_state, weights_hash
from sslbench.data.feed import Feed
from sslbench.data.split import Batch
from sslbench.errors import UserError
from sslbench.lock import exclusive
from sslbench.method import Method
from sslbench.monitor import read_log, spread
from sslbench.provenance import provenance
from sslbench.random import Random, mix
from sslbench.storage import write_json, write_text


class Interruption(Protocol):
    """Somebody who may want the run to save its state before it is ended."""

    def asked(self) -> bool:
        """Whether the state is to be saved after this step."""

    def saved(self) -> None:
        """Called after it was; need not return."""


PRECISIONS = ("float32", "bfloat16", "float16")
LOOP_VERSION = 1  # raised by whatever in this file can move a number


@dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here moves a number, except precision.

    Attributes:
        device: where to train.
        precision: "float32", "bfloat16" or "float16" (with gradient scaling) under autocast.
        save_seconds: time between saved states.
        log_steps: steps between lines of the log.
        at: shares of the training at which the encoder is kept as `encoder-SHARE`.
        progress: called with (step, steps, numbers of the last log line).
        online: called with the encoder after every `online_epochs` epochs; returns numbers to log.
        online_epochs: 0 for never.
        wait: where another process trains in the folder, wait for it instead of raising.
        interruption: asked after every step, with several processes after every logged one.
    """

    device: str = "cpu"
    precision: str = "float32"
    save_seconds: float = 60.0
    log_steps: int = 10
    at: tuple[float, ...] = ()
    progress: Callable[[int, int, dict[str, float]], None] | None = None
    online: Callable[[torch.nn.Module], dict[str, float]] | None = None
    online_epochs: int = 0
    wait: bool = False
    interruption: Interruption | None = None


@dataclass(frozen=True)
class Outcome:
    """What a finished run says of itself; also in `run.json`.

    Attributes:
        steps: optimiser steps taken.
        seconds: time spent training, over all resumes.
        loss: mean of the logged losses of the last tenth of training, None where nothing trained.
        weights_hash: of the final encoder.
    """

    steps: int
    seconds: float
    loss: float | None
    weights_hash: str


def train(
    method: Method,
    folder: Path,
    *,
    epochs: int,
    seed: int,
    about: dict[str, Any] | None = None,
    options: Options | None = None,
) -> Outcome:
    """Train a method, from the start or from where an earlier call was interrupted.

    `folder` receives run.json, log.jsonl, state.pt and encoder/ (see docs/training.md).

    Args:
        method: freshly constructed with the same seed and settings at every call.
        folder: of this run alone.
        epochs: passes over the data per phase.
        seed: of the data order and of every draw.
        about: what the checkpoint says of where it comes from.
        options: how to carry it out.

    Raises:
        FloatingPointError: the loss is not finite.
        UserError: the folder is in use, belongs to another run, or is damaged.
    """
    about, options = about or {}, options or Options()
    first = distributed.rank() == 0
    with exclusive(folder, wait=options.wait) if first else nullcontext():
        run = _Run(method, folder, epochs, seed, about, options)
        outcome = run.finished() if first else None
        ended = torch.tensor(float(outcome is not None), device=run.device)
        if distributed.total(ended):  # as the first process sees it; the others wait here for it
            return outcome or run.finished() or run.finish()
        return run.finish()


class _Run:
    """One training run; `finish` brings it to its end."""

    def __init__(
        self,
        method: Method,
        folder: Path,
        epochs: int,
        seed: int,
        about: dict[str, Any],
        options: Options,
    ) -> None:
        self.folder, self.epochs, self.seed = folder, epochs, seed
        self.about, self.options = about, options
        self.device = torch.device(options.device)
        self.batch_size = min(method.recipe.batch_size, len(method.data))
        self.recipe = (
            method.recipe
            if self.batch_size == method.recipe.batch_size
            else method.recipe.override(batch_size=self.batch_size)
        )
        world = distributed.world()
        if self.batch_size % world:
            raise UserError(f"batch size {self.batch_size} is not divisible by {world} processes")
        self.feed = Feed(method.data, self.batch_size, seed)
        self.steps = method.phases * epochs * self.feed.epoch_steps
        self.method = method.to(self.device)
        if self.recipe.sync_bn:
            distributed.synchronise_batch_norm(self.method)
        self.optimizer = self._optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.precision == "float16")
        self.step, self.seconds = 0, 0.0
        self.kept: dict[int, list[float]] = {}
        for share in options.at:
            self.kept.setdefault(max(1, round(share * self.steps)), []).append(share)
        self.log: list[dict[str, Any]] = []

    def _optimizer(self) -> Optimizer | None:
        """None for a method without anything to train."""
        return optim.optimizer(self.method, self.recipe) if self.steps else None

    def finish(self) -> Outcome:
        """Resume if there is something to resume from, train, and write the encoder."""
        self._resume()
        self.method.train()
        clock, loss = time.monotonic(), torch.zeros((), device=self.device)
        for batch in self.feed.batches(self.step, self.steps):
            if self.step % self.feed.epoch_steps == 0:
                self.method.before_epoch(self.step // self.feed.epoch_steps)
            loss = self._train_step(batch)
            self.step += 1
            if self.step % self.options.log_steps == 0 or self.step == self.steps:
                self._write_log(loss, self.seconds + time.monotonic() - clock)
            for share in self.kept.get(self.step, ()):
                self._save_encoder(f"encoder-{share:g}", share)
            asked = self.options.interruption is not None and self.options.interruption.asked()
            due = asked or time.monotonic() - clock >= self.options.save_seconds
            if self.step < self.steps and self._agreed(due):
                self.seconds += time.monotonic() - clock
                clock = time.monotonic()
                self._save(loss)
                if asked and self.options.interruption is not None:
                    self.options.interruption.saved()
        self.seconds += time.monotonic() - clock
        if self.steps:
            self._save(loss)
        return self._end()

    # ------------------------------------------------------------------ one step

    def _train_step(self, batch: Batch) -> Tensor:
        method, progress = self.method, self.step / self.steps
        # Dropout and its like draw from the global generator: seed it by step, per process.
        _seed(self.device, mix(self.seed, self.step, distributed.rank()))
        with torch.no_grad():
            random = Random(self.seed, self.step, self.feed.places, self.batch_size)
            views = method.views(batch.to(self.device), random.to(self.device))
        with self._autocast():
            loss = method.loss(views, progress)
        if self.device.type == "cpu" and distributed.world() == 1:
            self._check(loss)  # elsewhere only where the loss is logged: there all processes agree
        if self.optimizer is None:
            return loss.detach()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        distributed.average_gradients(method.parameters())
        optim.set_rates(self.optimizer, self.recipe, (progress * method.phases) % 1)
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(method.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        method.after_step((self.step + 1) / self.steps)
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.options.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.options.precision))

    def _check(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            rates = ", ".join(f"{g['lr']:.3g}" for g in self._groups())
            raise FloatingPointError(
                f"loss is {loss.item()} at step {self.step} of {self.steps} "
                f"(learning rates {rates})"
            )

    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups if self.optimizer else []

    # ------------------------------------------------------------------ what is written

    def _write_log(self, loss: Tensor, seconds: float) -> None:
        mean = distributed.total(loss.detach().float().clone()) / distributed.world()
        self._check(mean)
        mean_loss = float(mean)
        line: dict[str, Any] = {
            "step": self.step,
            "epoch": round(self.step / self.feed.epoch_steps, 4),
            "loss": mean_loss,
            "lr": max(group["lr"] for group in self._groups()) if self.optimizer else 0.0,
        }
        logged, self.method.logged = self.method.logged, {}
        embedding = logged.pop("embedding", None)
        if embedding is not None:
            line |= spread(distributed.gather(embedding.float()), self.step)
        line |= {name: float(value) for name, value in logged.items()}
        every = self.options.online_epochs * self.feed.epoch_steps
        if self.options.online and every and self.step % every < self.options.log_steps:
            line |= self.options.online(self.method.encoder)
            self.method.train()
        speed = self.step * self.batch_size / max(seconds, 1e-9)
        line["seconds"] = round(seconds, 3)
        line["images_per_second"] = round(speed, 1)
        line["remaining_seconds"] = round((self.steps - self.step) * self.batch_size / speed, 1)
        self.log.append(line)
        if distributed.rank() == 0:
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if self.options.progress:
                self.options.progress(self.step, self.steps, line)

    def _agreed(self, due: bool) -> bool:
        """Whether any process thinks that it is time to save; several ask at logged steps only."""
        if distributed.world() == 1:
            return due
        if self.step % self.options.log_steps:
            return False
        return bool(distributed.total(torch.tensor(float(due), device=self.device)))

    def _save(self, loss: Tensor) -> None:
        """Write the training state. A state that is not finite is never saved."""
        self._check(distributed.total(loss.detach().float().clone()))
        self._check_weights()
        if distributed.rank() or self.optimizer is None:
            return
        state = {
            "identity": self._identity(),
            "step": self.step,
            "seconds": self.seconds,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        save_state(self.folder / "state.pt", state)

    def _identity(self) -> str:
        """What must be equal for a state to be resumed."""
        return json.dumps([self.seed, self.epochs, self.batch_size, self.about], sort_keys=True)

    def finished(self) -> Outcome | None:
        """The outcome of this run if it has ended. Raises UserError where it was another one."""
        path = self.folder / "run.json"
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            identity, outcome = found["identity"], found.get("outcome")
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: damaged; remove the folder to train from the start") from None
        if identity != self._identity():
            raise UserError(f"{self.folder}: holds another run; choose another folder")
        return Outcome(**outcome) if outcome else None

    def _resume(self) -> None:
        """Take over an earlier state, and drop what was logged after it."""
        path, step = self.folder / "state.pt", 0
        if path.exists() and self.optimizer is not None:
            state = load_state(path, self.device)
            if state["identity"] != self._identity():
                raise UserError(f"{self.folder}: holds another run; choose another folder")
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step = step = state["step"]
            self.seconds = state["seconds"]
        if distributed.rank():
            return
        for leftover in self.folder.glob(".[se]*.partial"):  # of a process killed while writing
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self.log = read_log(self.folder / "log.jsonl", step)
        write_text(self.folder / "log.jsonl", "".join(json.dumps(x) + "\n" for x in self.log))
        if step == 0:
            run = {"status": "running", "identity": self._identity(), "about": self.about}
            write_json(self.folder / "run.json", run)

    def _check_weights(self) -> None:
        for name, weight in self.method.named_parameters():
            if not torch.isfinite(weight).all():
                raise FloatingPointError(
                    f"{name} is not finite at step {self.step} of {self.steps}"
                )

    def _save_encoder(self, name: str, share: float) -> None:
        self._check_weights()
        if distributed.rank():
            return
        loss = self.log[-1]["loss"] if self.log else None
        about = {**self.about, "at": share, "pretrain_step": self.step, "pretrain_loss": loss}
        save_encoder(self.method.encoder, self.folder / name, about)

    def _end(self) -> Outcome:
        """The final encoder; run.json says "finished" and is written last."""
        tail = [line["loss"] for line in self.log[-max(1, len(self.log) // 10) :]]
        loss = sum(tail) / len(tail) if tail else None
        outcome = Outcome(self.steps, self.seconds, loss, weights_hash(self.method.encoder))
        if distributed.rank() == 0:
            about = {
                **self.about,
                "at": 1.0,
                "pretrain_step": self.steps,
                "pretrain_loss": loss,
                "pretrain_seconds": round(self.seconds, 2),
                "pretraining": {
                    "precision": self.options.precision,
                    **provenance(self.seconds, self.options.device),
                },
                "parameters": sum(p.numel() for p in self.method.encoder.parameters()),
            }
            save_encoder(self.method.encoder, self.folder / "encoder", about)
            run = {"status": "finished", "identity": self._identity(), "about": about}
            write_json(self.folder / "run.json", run | {"outcome": asdict(outcome)})
        return outcome


def _seed(device: torch.device, seed: int) -> None:
    """Seed the global generator of `device` (torch.manual_seed takes 100 times as long)."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
