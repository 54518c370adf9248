"""Linear probe: logistic regression on frozen features, its penalty chosen on validation.

Multinomial, on standardised features, with C = 10^linspace(−6, 5, 45): the sweep of Radford et al.
Learning Transferable Visual Models From Natural Language Supervision. ICML 2021. arXiv:2103.00020
(appendix A.3), which searches the same range in steps of a factor 1.8. Probing every layer: Zhang,
Isola, Efros. Colorful Image Colorization. ECCV 2016. arXiv:1603.08511.

C is chosen on validation by the dataset's main metric (the strongest penalty of the best), the
probe is fitted again on train and validation, and the test split is read once. `top1` is that of
the last layer; with layer = "all" `top1_best_layer` is that of the layer and C that are best on
validation. Several labels per example: one logistic regression per class, chosen by `map`; `top1`
is then the share of examples that have the label of highest score.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslbench.classification import average_precision, per_class
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError, suggest
from sslbench.features import features
from sslbench.logistic import LinearClassifier, fit_path
from sslbench.task import Result, Score, Task

PENALTIES = np.logspace(-6, 5, 45)


class LinearProbe(Task):
    """Linear separability of the classes.

    Args:
        layer: "last", or "all" to report the layer that is best on validation besides.
    """

    paper = "arXiv:2103.00020"
    metric = "top1"
    version = 1
    modality = "image"
    target = "label"

    def __init__(self, *, layer: str = "last") -> None:
        if layer not in ("last", "all"):
            raise UserError(f"layer {layer!r}; {suggest(layer, ['last', 'all'])}")
        self.layer = layer

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Choose C (and the layer) on validation, fit again, score the test split."""
        train, validation = (_labels(data, split) for split in ("train", "validation"))
        metric = data.metric if train.ndim == 1 else "map"
        known = features(encoder, data["train"], self.layer)
        held_out = features(encoder, data["validation"], self.layer)
        chosen = {
            name: _choose((known[name], train), (held_out[name], validation), metric)
            for name in known
        }
        last = list(chosen)[-1]
        selected: dict[str, Any] = {"split": "validation", "layer": last, **chosen[last]}

        labels = np.concatenate([train, validation])
        unseen = features(encoder, data["test"], self.layer)

        def test(layer: str) -> dict[str, Score]:
            both = np.concatenate([known[layer], held_out[layer]])
            (probe,) = _fit(both, labels, [chosen[layer]["C"]])
            found = probe.scores(torch.tensor(unseen[layer]), _labels(data, "test"))
            return {name: Score.mean(values) for name, values in found.items()}

        scores = test(last)
        if self.layer == "all":
            best = max(chosen, key=lambda name: chosen[name][metric])
            scores["top1_best_layer"] = test(best)["top1"]
            selected |= {"best_layer": best, "layers": chosen}
        return Result(scores, selected)


class _Probe(NamedTuple):
    """A fitted classifier and the labels (K,) of its logits, None for several per example."""

    classifier: LinearClassifier
    classes: np.ndarray | None

    def scores(self, features: Tensor, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Scores per example (n,) by metric."""
        logits = self.classifier.logits(features).numpy()
        best = logits.argmax(axis=1)
        if self.classes is None:
            first = labels[np.arange(len(labels)), best]
            return {"top1": first.astype(float), "map": average_precision(logits, labels)}
        correct = (self.classes[best] == labels).astype(float)
        return {"top1": correct, "mean_per_class": per_class(correct, labels)}


def _labels(data: Dataset, split: str) -> np.ndarray:
    labels = data[split].labels
    if labels is None:
        raise NotApplicable(f"{data.name}: the {split} split has no labels")
    return labels


def _fit(features: np.ndarray, labels: np.ndarray, penalties: list[float]) -> Iterator[_Probe]:
    """One probe for each C."""
    classes, targets = None, labels
    if labels.ndim == 1:
        classes, targets = np.unique(labels, return_inverse=True)
    for classifier in fit_path(torch.tensor(features), torch.from_numpy(targets), penalties):
        yield _Probe(classifier, classes)


def _choose(
    train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray], metric: str
) -> dict[str, float]:
    """The C of the best score on validation, and that score."""
    held_out = torch.tensor(validation[0]).double()
    fits = _fit(*train, PENALTIES.tolist())
    values = [float(fit.scores(held_out, validation[1])[metric].mean()) for fit in fits]
    best = int(np.argmax(values))
    return {"C": float(PENALTIES[best]), metric: values[best]}
