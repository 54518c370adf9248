"""Linear probes: logistic regression whose penalty, and layer, are chosen on validation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslbench.data.split import Dataset, Split
from sslbench.errors import NotApplicable
from sslbench.logistic import TOLERANCE, LinearClassifier, fit_path
from sslbench.task import Result, Score

PENALTIES: list[float] = np.logspace(-6, 5, 45).tolist()
CHOICE = 1e-5  # tolerance of the fits that only validation sees, a third to a fifth of the steps

Extract = Callable[[Split], Mapping[str, np.ndarray]]  # features (n, D_i) by layer
Measure = Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]]


class Probe(NamedTuple):
    """A fitted classifier and the labels (K,) of its logits, None for several per example."""

    classifier: LinearClassifier
    classes: np.ndarray | None

    def predict(self, features: Tensor) -> np.ndarray:
        """The labels (n,) of features (n, D); logits (n, K) where there may be several."""
        logits = self.classifier.logits(features).numpy()
        return logits if self.classes is None else self.classes[logits.argmax(axis=1)]


def fit_probes(
    features: np.ndarray,
    labels: np.ndarray,
    penalties: Sequence[float],
    tolerance: float = TOLERANCE,
) -> Iterator[Probe]:
    """One probe for each C, on features (n, D) with labels (n,), or (n, K) bool for several."""
    classes, targets = None, labels
    if labels.ndim == 1:
        classes, targets = np.unique(labels, return_inverse=True)
    x, y = torch.tensor(features), torch.from_numpy(targets)
    for classifier in fit_path(x, y, penalties, tolerance):
        yield Probe(classifier, classes)


def choose(
    features: np.ndarray,
    labels: np.ndarray,
    score: Callable[[Probe], float],
    penalties: Sequence[float] = PENALTIES,
) -> tuple[float, float]:
    """The C of the best score on validation, the strongest penalty of the best, and that score."""
    values = [score(fit) for fit in fit_probes(features, labels, penalties, CHOICE)]
    best = int(np.argmax(values))
    return penalties[best], values[best]


def labels(data: Dataset, split: str) -> np.ndarray:
    """The labels of a split. Raises NotApplicable where it has none."""
    found = data[split].labels
    if found is None:
        raise NotApplicable(f"{data.name}: the {split} split has no labels")
    return found


def probe(
    extract: Extract, data: Dataset, measure: Measure, metric: str, best_layer: bool
) -> Result:
    """Choose C (and the layer) on validation, fit again on train too, score the test split.

    Args:
        extract: features of a split by layer, shallow to deep; the last one's scores are reported.
        data: what it is called with.
        measure: scores per example (n,) by metric, from the true and the predicted labels.
        metric: by which validation chooses.
        best_layer: whether to report `top1_best_layer` besides.
    """
    train, validation = labels(data, "train"), labels(data, "validation")
    known, held_out = extract(data["train"]), extract(data["validation"])

    def chosen_for(layer: str) -> dict[str, float]:
        x = torch.tensor(held_out[layer]).double()

        def score(fit: Probe) -> float:
            return float(measure(validation, fit.predict(x))[metric].mean())

        C, value = choose(known[layer], train, score)
        return {"C": C, metric: value}

    chosen = {layer: chosen_for(layer) for layer in known}
    last = list(chosen)[-1]
    selected: dict[str, Any] = {"split": "validation", "layer": last, **chosen[last]}
    unseen, both = extract(data["test"]), np.concatenate([train, validation])

    def test(layer: str) -> dict[str, Score]:
        x = np.concatenate([known[layer], held_out[layer]])
        (fit,) = fit_probes(x, both, [chosen[layer]["C"]])
        found = measure(labels(data, "test"), fit.predict(torch.tensor(unseen[layer])))
        return {name: Score.mean(values) for name, values in found.items()}

    scores = test(last)
    if best_layer:
        best = max(chosen, key=lambda layer: chosen[layer][metric])
        scores["top1_best_layer"] = test(best)["top1"]
        selected |= {"best_layer": best, "layers": chosen}
    return Result(scores, selected)
