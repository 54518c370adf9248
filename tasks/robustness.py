"""Robustness: a classifier of clean features on images under 15 common corruptions.

Hendrycks, Dietterich. Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations. ICLR 2019. arXiv:1903.12261.

The classifier is fitted on clean images: the linear probe of `linear_probe` (C chosen on clean
validation images) or the vote of `knn` at its fixed k = 20 and temperature 0.07. It is then scored
on the test split as it is (`clean`) and under every corruption at every severity. `top1` is the
mean of all these but the clean one, `drop` what it lies below `clean`; an example's score is its
mean over corruptions and severities, so both can be compared image by image. There is one metric
per corruption, the mean over severities, and one per severity, `severity_1` …, the mean over
corruptions.

Pixels are corrupted before the encoder's preprocessing and kept in 8 bits (see
`sslbench.data.corruptions`): images in memory at their own size, with CIFAR-10-C's constants up to
32 pixels and ImageNet-C's above; images in files at 256 pixels. The seed has no part in it: like
the published sets, a corrupted split is one fixed draw. Features of corrupted images are not kept
on disk; what the classifier made of them is, in the work folder, so that a killed task goes on.

Differs from the paper: no mCE, which divides by AlexNet's errors; plain accuracy, as is usual for
CIFAR-10-C. Clean images in files are not reduced to 256 pixels before.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sslbench.classification import Examples, correct, examples, join, per_class
from sslbench.data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from sslbench.data.frost import FROST, textures
from sslbench.data.split import Dataset
from sslbench.data.table import Row
from sslbench.encoder import Encoder
from sslbench.errors import UserError, suggest
from sslbench.features import features
from sslbench.neighbors import knn_correct
from sslbench.probe import Probe, choose, fit_probes
from sslbench.storage import write_array
from sslbench.task import Result, Score, Task

ALL = tuple(CORRUPTIONS)
Judge = Callable[[Examples], np.ndarray]  # whether (n,) each example is classified correctly


class Robustness(Task):
    """Accuracy of a clean classifier on corrupted images.

    Args:
        classifier: "linear_probe" or "knn".
        corruptions: which of the 15; `frost` needs photographs: `sslbench fetch frost`.
        severities: which of 1 … 5.
    """

    paper = "arXiv:1903.12261"
    metric = "top1"
    version = 2
    modality = "image"
    target = "label"
    long = True

    def __init__(
        self,
        *,
        classifier: str = "linear_probe",
        corruptions: tuple[str, ...] = ALL,
        severities: tuple[int, ...] = SEVERITIES,
    ) -> None:
        if classifier not in CLASSIFIERS:
            raise UserError(f"classifier {classifier!r}; {suggest(classifier, list(CLASSIFIERS))}")
        for name in corruptions:
            if name not in CORRUPTIONS:
                raise UserError(f"corruptions: no {name!r}; {suggest(name, list(CORRUPTIONS))}")
        if not set(severities) <= set(SEVERITIES):
            raise UserError(f"severities: some of 1 … 5 expected, found {severities}")
        for what, given in (("corruptions", corruptions), ("severities", severities)):
            if not given or len(set(given)) < len(given):
                raise UserError(f"{what}: at least one, each once, expected, found {given}")
        self.classifier, self.corruptions, self.severities = classifier, corruptions, severities

    def needs(self) -> tuple[Row, ...]:
        """The photographs of frost."""
        return (FROST,) if "frost" in self.corruptions else ()

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Fit on clean images, score the clean and the corrupted test split."""
        if "frost" in self.corruptions:
            textures()  # are they there?
        train, validation = (examples(encoder, data, split) for split in ("train", "validation"))
        judge, selected = CLASSIFIERS[self.classifier](train, validation, data.metric)
        test = examples(encoder, data, "test")
        clean = judge(test)

        def score(name: str, severity: int) -> np.ndarray:
            done = folder / f"{name}-{severity}.npy"
            if not done.exists():
                split = corrupted(data["test"], name, severity, encoder.device)
                (last,) = features(encoder, split, cache=False).values()
                write_array(done, judge(Examples(last, test.labels)))
            return np.asarray(np.load(done))

        right = np.stack([[score(c, s) for s in self.severities] for c in self.corruptions])
        mean = right.mean((0, 1))  # of (corruptions, severities, n)
        scores = {
            "clean": clean,
            "top1": mean,
            "mean_per_class": per_class(mean, test.labels),
            "drop": clean - mean,
            **dict(zip(self.corruptions, right.mean(1), strict=True)),
            **{f"severity_{s}": right[:, i].mean(0) for i, s in enumerate(self.severities)},
        }
        return Result({name: Score.mean(value) for name, value in scores.items()}, selected)


def _linear_probe(
    train: Examples, validation: Examples, metric: str
) -> tuple[Judge, dict[str, object]]:
    held_out = torch.tensor(validation.features).double()

    def score(fit: Probe) -> float:
        return float(correct(validation.labels, fit.predict(held_out))[metric].mean())

    C, value = choose(*train, score)
    (fit,) = fit_probes(*join(train, validation), [C])

    def judge(test: Examples) -> np.ndarray:
        found = fit.predict(torch.tensor(test.features))
        return np.asarray(found == test.labels, dtype=np.float64)

    return judge, {"split": "validation", "C": C, metric: value}


def _knn(train: Examples, validation: Examples, metric: str) -> tuple[Judge, dict[str, object]]:
    bank = join(train, validation)
    return lambda test: knn_correct(*bank, *test).astype(float), {}


CLASSIFIERS = {"linear_probe": _linear_probe, "knn": _knn}
