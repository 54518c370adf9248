"""Segmentation: the class of every pixel, from an encoder's feature maps.

adaptation = "linear": the encoder stays frozen, and batch norm and a 1×1 convolution on each of its
stages are trained, as in the linear evaluation of Oquab et al. DINOv2: Learning Robust Visual
Features without Supervision. arXiv:2304.07193 (section 7.4). adaptation = "fcn": a copy of the
encoder is trained together with the head of Long, Shelhamer, Darrell. Fully Convolutional Networks
for Semantic Segmentation. CVPR 2015. arXiv:1411.4038.

The logits of all stages are added at the resolution of the finest: the last stage of a ResNet knows
best what there is, on a grid of 16 or 32 pixels, and the early ones where it ends. A transformer's
four depths share one grid, as the layers that DINOv2 puts side by side.

Each learning rate is one training run (the same loop as pretraining: killed at any moment, it goes
on where it was), judged on validation; the chosen one is run again with other seeds. These runs are
scored on test as they are, without training again on the validation split.
"""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sslbench.checkpoint import load_state
from sslbench.confusions import contributions, iou, mean_class_accuracy, miou, pixel_accuracy
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError, suggest
from sslbench.method import Recipe
from sslbench.pretrain import Options, train
from sslbench.random import mix
from sslbench.segmenter import BATCH, Segmenter, fcn, linear
from sslbench.task import Result, Score, Task

HEADS = {"linear": linear, "fcn": fcn}
RATES = {"linear": (1e-3, 1e-2, 1e-1), "fcn": (1e-4, 1e-3, 1e-2)}
MOST_CLASSES = 32  # with more there is no score for each


class Segmentation(Task):
    """Mean intersection over union of a head on feature maps, or of the whole network.

    Args:
        adaptation: "linear" (frozen encoder) or "fcn" (all weights of a copy are trained).
        layers: "all" stages or only the "last".
        size: side in pixels to which whole images are resized; 0: the encoder's.
        rates: learning rates of AdamW, of which validation chooses one; none given: 0.001, 0.01 and
            0.1 for "linear", a tenth of them for "fcn".
        epochs: passes over the training images.
        batch_size: images of a step.
        weight_decay: of the weights.
        trials: runs with the chosen rate, each with another initial head and order.
    """

    paper = "arXiv:2304.07193"
    metric = "miou"
    target = "mask"
    long = True

    def __init__(
        self,
        *,
        adaptation: str = "linear",
        layers: str = "all",
        size: int = 0,
        rates: tuple[float, ...] = (),
        epochs: int = 30,
        batch_size: int = 16,
        weight_decay: float = 1e-4,
        trials: int = 3,
    ) -> None:
        if adaptation not in HEADS:
            raise UserError(f"adaptation {adaptation!r}; {suggest(adaptation, list(HEADS))}")
        if layers not in ("all", "last"):
            raise UserError(f"layers {layers!r}; {suggest(layers, ['all', 'last'])}")
        rates = rates or RATES[adaptation]
        if min(rates) <= 0 or size < 0 or min(epochs, batch_size, trials) < 1:
            raise UserError(
                "rates > 0, size ≥ 0, epochs ≥ 1, batch_size ≥ 1 and trials ≥ 1 expected, found "
                f"{rates}, {size}, {epochs}, {batch_size} and {trials}"
            )
        self.adaptation, self.layers, self.size = adaptation, layers, size
        self.rates, self.epochs, self.trials = rates, epochs, trials
        self.recipe = Recipe("adamw", weight_decay=weight_decay, batch_size=batch_size, warmup=0.1)

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Scores on test of the learning rate that is best on validation, over all trials."""
        if encoder.image_size is None:
            raise NotApplicable(f"{encoder.label} takes no images")
        trained = partial(self._trained, encoder, data, seed, folder)
        found = {}
        for lr in self.rates:
            matrices = trained(lr, 0).confusions(data["validation"])  # (n, K, K)
            found[lr] = float(miou(matrices.sum(0)))
        best = max(self.rates, key=lambda lr: found[lr])  # the first among equals
        runs = [trained(best, trial) for trial in range(self.trials)]
        matrices = np.stack([run.confusions(data["test"]) for run in runs])  # (trials, n, K, K)
        return Result(
            _scores(matrices, data.class_names),
            {
                "split": "validation",
                "lr": best,
                "size": runs[0].size,
                "validation": {f"{lr:g}": value for lr, value in found.items()},
            },
        )

    def _trained(
        self, encoder: Encoder, data: Dataset, seed: int, folder: Path, lr: float, trial: int
    ) -> Segmenter:
        """One run, from its folder if it has ended before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(seed, trial))
            method = Segmenter(
                copy.deepcopy(encoder),
                data["train"],
                data.classes,
                HEADS[self.adaptation],
                frozen=self.adaptation == "linear",
                last=self.layers == "last",
                size=self.size or encoder.image_size or 0,
            )
        method.recipe = replace(self.recipe, lr=lr)
        place = folder / f"lr-{lr:g}-trial-{trial}"
        options = Options(device=str(encoder.device))
        train(method, place, epochs=self.epochs, seed=mix(seed, trial), options=options)
        method.load_state_dict(load_state(place / "state.pt", encoder.device)["method"])
        return method.eval()

    def chance(self, data: Dataset) -> float:
        """Of the class that most pixels of the test split have, predicted everywhere."""
        counts = np.zeros(256, np.int64)
        for index in torch.arange(len(data["test"])).split(BATCH):
            for mask in data["test"][index].target:
                counts += np.bincount(mask.ravel(), minlength=256)
        counts = counts[: data.classes]
        return float(counts.max() / max(1, counts.sum() * (counts > 0).sum()))


def _scores(matrices: np.ndarray, names: Sequence[str]) -> dict[str, Score]:
    """Scores per image of confusion matrices (trials, n, K, K), averaged over the trials."""
    kinds: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "miou": miou,
        "pixel_accuracy": pixel_accuracy,
        "mean_class_accuracy": mean_class_accuracy,
    }
    if len(names) <= MOST_CLASSES:
        for number in np.flatnonzero(matrices[0].sum((0, 2))).tolist():  # those that occur
            name = re.sub(r"\W+", "_", names[number].lower())
            kinds[f"iou_{name}"] = partial(_class_iou, number)
    each = {
        kind: np.mean([contributions(score, trial) for trial in matrices], axis=0)
        for kind, score in kinds.items()
    }
    trials = miou(matrices.sum(1))
    stderr = float(trials.std(ddof=1) / len(trials) ** 0.5) if len(trials) > 1 else None
    return {
        **{kind: Score.mean(examples) for kind, examples in each.items()},
        "miou_over_trials": Score(float(trials.mean()), len(trials), stderr),
    }


def _class_iou(number: int, matrices: np.ndarray) -> np.ndarray:
    """IoU of one class; 0 where it does not occur, as without the only image that has it."""
    return np.nan_to_num(iou(matrices)[..., number])
