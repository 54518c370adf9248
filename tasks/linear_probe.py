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

from pathlib import Path

import numpy as np

from sslbench.classification import average_precision, correct
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import UserError, suggest
from sslbench.features import features
from sslbench.probe import labels, probe
from sslbench.task import Result, Task


class LinearProbe(Task):
    """Linear separability of the classes.

    Args:
        layer: "last", or "all" to report the layer that is best on validation besides.
    """

    paper = "arXiv:2103.00020"
    modality = "any"
    metric = "top1"
    version = 3
    target = "label"

    def __init__(self, *, layer: str = "last") -> None:
        if layer not in ("last", "all"):
            raise UserError(f"layer {layer!r}; {suggest(layer, ['last', 'all'])}")
        self.layer = layer

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Choose C (and the layer) on validation, fit again, score the test split."""
        metric = data.metric if labels(data, "train").ndim == 1 else "map"
        return probe(
            lambda split: features(encoder, split, self.layer),
            data,
            _scores,
            metric,
            best_layer=self.layer == "all",
        )


def _scores(labels: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """Scores per example (n,) by metric, of labels or, with several of them, of logits (n, K)."""
    if labels.ndim == 2:
        first = labels[np.arange(len(labels)), found.argmax(axis=1)]
        return {"top1": first.astype(float), "map": average_precision(found, labels)}
    return correct(labels, found)
