"""Transfer: which adaptation wins, for few labels and for many.

Yosinski, Clune, Bengio, Lipson. How transferable are features in deep neural networks? NIPS 2014.
arXiv:1411.1792; Kornblith, Shlens, Le. Do Better ImageNet Models Transfer Better? CVPR 2019.
arXiv:1805.08974 (fixed features against fine-tuning, by the number of labels).

Four adaptations of one encoder, each with a share of the labels (`top1_few_linear`, …) and with all
of them (`top1_many_linear`, …):

- `linear`: logistic regression on the last layer's features, as in linear_probe;
- `linear_earlier`: the same on the earlier layer that is best on validation;
- `tune_last`: the last stage (`stages`) and a linear layer trained, as in fine_tune;
- `tune_all`: all weights trained.

The other axis of the table, how far a dataset is from what the encoder was pretrained on, comes
from running the task on several datasets. Every choice (penalty, layer, learning rate, epoch) is
made on validation; so is the choice of the adaptation that `top1` (all labels) and `top1_few`
report. The linear classifiers are fitted again on train and validation, the trained ones are not.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sslbench.classification import correct, reduced
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.features import features
from sslbench.finetune import tune
from sslbench.method import Recipe
from sslbench.probe import Probe, choose, fit_probes, labels
from sslbench.task import Result, Score, Task


class Adapted(NamedTuple):
    """What one adaptation reached."""

    validation: float
    scores: dict[str, np.ndarray]  # per test example (n,), by metric
    choice: dict[str, object]


class Transfer(Task):
    """Four adaptations with few labels and with many.

    Args:
        few: share of the labels, drawn with the seed, in (0, 1).
        stages: how many `tune_last` trains.
        rates: learning rates of AdamW, of which validation chooses one.
        epochs: passes over all training examples at most.
        few_epochs: passes over the few of them at most.
        batch_size: examples of a step.
    """

    paper = "arXiv:1411.1792"
    modality = "image"
    metric = "top1"
    version = 2
    target = "label"
    long = True

    def __init__(
        self,
        *,
        few: float = 0.1,
        stages: int = 1,
        rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3),
        epochs: int = 20,
        few_epochs: int = 60,
        batch_size: int = 32,
    ) -> None:
        if not rates or min(rates) <= 0 or not 0 < few < 1:
            raise UserError(f"rates > 0, few in (0, 1) expected, found {rates}, {few}")
        if min(stages, epochs, few_epochs, batch_size) < 1:
            raise UserError(
                "stages, epochs, few_epochs and batch_size ≥ 1 expected, found "
                f"{stages}, {epochs}, {few_epochs} and {batch_size}"
            )
        self.few, self.stages, self.rates = few, stages, rates
        self.epochs = {"few": few_epochs, "many": epochs}
        self.recipe = Recipe(
            "adamw", weight_decay=0.01, batch_size=batch_size, warmup=0.1, schedule="linear"
        )

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Fit and train everything on one dataset."""
        if any(labels(data, split).ndim != 1 for split in ("train", "validation", "test")):
            raise NotApplicable(f"{data.name}: one label per example needed, it has several")
        few = reduced(data, max(1, round(self.few * len(data["train"]))), seed)
        scores: dict[str, Score] = {}
        selected: dict[str, object] = {"split": "validation"}
        for amount, given in {"many": data, "few": few}.items():
            found = self._adapted(encoder, given, amount, seed, folder)
            best = max(found, key=lambda name: found[name].validation)
            ending = "" if amount == "many" else "_few"
            for metric in ("top1", "mean_per_class"):
                scores[f"{metric}{ending}"] = Score.mean(found[best].scores[metric])
            for name, adapted in found.items():
                each = adapted.scores[data.metric]
                scores[f"{data.metric}_{amount}_{name}"] = Score.mean(each)
            selected[amount] = {
                "adaptation": best,
                "train_examples": len(given["train"]),
                **{name: {data.metric: a.validation, **a.choice} for name, a in found.items()},
            }
        return Result(scores, selected)

    def _adapted(
        self, encoder: Encoder, data: Dataset, amount: str, seed: int, folder: Path
    ) -> dict[str, Adapted]:
        """Every adaptation with the labels of `data`."""
        names = list(features(encoder, data["train"], "all"))
        found = {"linear": _linear(encoder, data, names[-1:])}
        if len(names) > 1:
            found["linear_earlier"] = _linear(encoder, data, names[:-1])
        for name, stages in {"tune_last": self.stages, "tune_all": 0}.items():
            runs = {
                lr: tune(
                    encoder,
                    data,
                    replace(self.recipe, lr=lr),
                    epochs=self.epochs[amount],
                    stages=stages,
                    seed=seed,
                    folder=folder / f"{amount}-{name}-{lr:g}",
                )
                for lr in self.rates
            }
            lr = max(self.rates, key=lambda rate: runs[rate][1])
            method, validation, epoch = runs[lr]
            test = correct(labels(data, "test"), method.predict(data["test"]))
            found[name] = Adapted(validation, test, {"lr": lr, "epoch": epoch})
        return found


def _linear(encoder: Encoder, data: Dataset, layers: list[str]) -> Adapted:
    """Logistic regression on the one of these layers that is best on validation."""
    truth = {split: labels(data, split) for split in ("train", "validation", "test")}

    def x(layer: str, split: str) -> np.ndarray:
        return features(encoder, data[split], layer)[layer]

    def chosen_for(layer: str) -> tuple[float, float]:
        held_out = torch.tensor(x(layer, "validation")).double()

        def score(fit: Probe) -> float:
            right = correct(truth["validation"], fit.predict(held_out))
            return float(right[data.metric].mean())

        return choose(x(layer, "train"), truth["train"], score)

    found = {layer: chosen_for(layer) for layer in layers}
    layer = max(found, key=lambda name: found[name][1])
    C, validation = found[layer]
    both = np.concatenate([x(layer, "train"), x(layer, "validation")])
    (fit,) = fit_probes(both, np.concatenate([truth["train"], truth["validation"]]), [C])
    scores = correct(truth["test"], fit.predict(torch.tensor(x(layer, "test"))))
    return Adapted(validation, scores, {"layer": layer, "C": C})
