"""Detection: Faster R-CNN on the encoder's feature maps.

He, Fan, Wu, Xie, Girshick. Momentum Contrast. CVPR 2020. arXiv:1911.05722, section 4.2: a detector
with batch norm in its new layers; the mean of several trials. Ours has a feature pyramid
(`sslbench.detector`) and AdamW with a short cosine schedule in place of SGD.

"frozen" trains only what stands on the encoder, "fine_tuned" a copy of the encoder, too. Each
learning rate is one training run (the same loop as pretraining: killed at any moment, it goes on
where it was), judged by `map` on validation. The chosen rate is run again from other heads and in
another order for each further trial; all trials are scored on test as they are, without training
again on the validation split.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslbench.average_precision import AveragePrecision
from sslbench.checkpoint import load_state
from sslbench.data.split import Batch, Boxes, Dataset, Split
from sslbench.detector import Detector, flipped
from sslbench.encoder import Encoder
from sslbench.errors import UserError, suggest
from sslbench.method import Method, Recipe
from sslbench.pretrain import Options, train
from sslbench.random import Random, mix
from sslbench.task import Result, Score, Task

ADAPTATIONS = ("frozen", "fine_tuned")
BATCH = 8  # images to search at a time


class Detection(Task):
    """Objects in boxes.

    Args:
        adaptation: "frozen" or "fine_tuned".
        trials: runs at the chosen rate, each from another initialisation and in another order.
        rates: learning rates of AdamW, of which validation chooses one in the first trial.
        epochs: passes over the training images.
        batch_size: images of a step.
        weight_decay: of the weights.
        encoder_rate: factor of the learning rate for the encoder's weights, when it is trained; a
            tenth as in DETR, arXiv:2005.12872: at the rate that new layers need, it loses more than
            it learns.
        side: shorter side in pixels to which images are scaled; 0: their own size.
    """

    paper = "arXiv:1911.05722"
    metric = "map"
    target = "boxes"
    long = True

    def __init__(
        self,
        *,
        adaptation: str = "frozen",
        trials: int = 3,
        rates: tuple[float, ...] = (3e-4, 1e-3),
        epochs: int = 12,
        batch_size: int = 8,
        weight_decay: float = 0.05,
        encoder_rate: float = 0.1,
        side: int = 0,
    ) -> None:
        if adaptation not in ADAPTATIONS:
            raise UserError(f"adaptation {adaptation!r}; {suggest(adaptation, list(ADAPTATIONS))}")
        if not rates or min(*rates, encoder_rate) <= 0:
            raise UserError(f"rates, encoder_rate > 0 expected, found {rates} and {encoder_rate}")
        if min(trials, epochs, batch_size) < 1 or side < 0:
            raise UserError(
                "trials, epochs and batch_size ≥ 1 and side ≥ 0 expected, found "
                f"{trials}, {epochs}, {batch_size} and {side}"
            )
        self.frozen, self.trials, self.rates = adaptation == "frozen", trials, rates
        self.epochs, self.side = epochs, side
        self.recipe = Recipe(
            "adamw",
            weight_decay=weight_decay,
            batch_size=batch_size,
            warmup=0.1,
            clip=10.0,
            groups={"encoder.": {"lr": encoder_rate}},
        )

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Average precision on test of the rate that is best on validation."""
        found = {}
        for lr in self.rates:
            method = self._trained(encoder, data, lr, 0, seed, folder)
            found[lr] = _judged(method, data["validation"], data.classes).values()["map"]
        best = max(self.rates, key=lambda lr: found[lr])  # the first among equals
        trials = []
        for trial in range(self.trials):
            method = self._trained(encoder, data, best, trial, seed, folder)
            judged = _judged(method, data["test"], data.classes)
            trials.append(judged.contributions(data["test"].groups))
        scores = {
            name: Score.mean(np.mean([trial[name] for trial in trials], axis=0))
            for name in trials[0]
        }
        each = np.array([trial["map"].mean() for trial in trials])
        stderr = float(each.std(ddof=1)) / self.trials**0.5 if self.trials > 1 else None
        scores["map_over_trials"] = Score(float(each.mean()), self.trials, stderr)
        chosen = {f"{lr:g}": value for lr, value in found.items()}
        return Result(scores, {"split": "validation", "lr": best, "validation": chosen})

    def chance(self, data: Dataset) -> float:
        """Boxes at random find next to nothing."""
        return 0.0

    def _trained(
        self, encoder: Encoder, data: Dataset, lr: float, trial: int, seed: int, folder: Path
    ) -> "_Detection":
        """A run, from its folder if it has ended before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(seed, trial, 1))
            own = copy.deepcopy(encoder)
            detector = Detector(own, data.classes, frozen=self.frozen, side=self.side)
        method = _Detection(own, data["train"], detector)
        method.recipe = replace(self.recipe, lr=lr)
        place = folder / f"lr-{lr:g}-trial-{trial}"
        options = Options(device=str(encoder.device))
        train(method, place, epochs=self.epochs, seed=mix(seed, trial), options=options)
        method.load_state_dict(load_state(place / "state.pt", encoder.device)["method"])
        return method.eval()


class _Detection(Method):
    """A detector that learns from images and their mirror images."""

    paper = ""

    def __init__(self, encoder: Encoder, data: Split, detector: Detector) -> None:
        super().__init__(encoder, data)
        self.detector = detector

    def views(self, batch: Batch, random: Random) -> tuple[list[Tensor], list[Boxes]]:
        """Images in [0, 1] and their objects, half of them mirrored."""
        examples = zip(_images(batch, self.encoder.device), batch.target, strict=True)
        mirrored = (random.uniform(1) < 0.5)[:, 0].tolist()
        views = [flipped(*e) if flip else e for e, flip in zip(examples, mirrored, strict=True)]
        return [image for image, _ in views], [objects for _, objects in views]

    def loss(self, views: tuple[list[Tensor], list[Boxes]], progress: float) -> Tensor:
        """Of the proposals and of the regions: classes and boxes."""
        return self.detector.loss(*views)


def _images(batch: Batch, device: torch.device) -> Iterator[Tensor]:
    """(3, H_i, W_i) in [0, 1]."""
    assert batch.images is not None
    return (image.to(device).float() / 255 for image in batch.images)


def _judged(method: _Detection, split: Split, classes: int) -> AveragePrecision:
    """What the detector finds on a split, beside what is there."""
    truth, found = [], []
    for index in torch.arange(len(split)).split(BATCH):
        batch = split[index]
        truth += batch.target
        found += method.detector.detect(list(_images(batch, method.encoder.device)))
    return AveragePrecision(truth, found, classes)
