"""Linear classification from k labels per class: ridge regression with a closed form.

Regression on one-hot targets as in Zhai et al. A Large-scale Study of Representation Learning with
the Visual Task Adaptation Benchmark. 2019. arXiv:1910.04867, and in Kolesnikov et al. Big Transfer
(BiT). ECCV 2020. arXiv:1912.11370. The penalty is chosen inside the few labels, by their
leave-one-out error, which has a closed form too (Allen. Technometrics 1974).

Labels come from the train split; those of k shots are among those of more. Features are
standardised by all of the train split: its images are at hand, their labels are not. Each of
`seeds` draws another subset. A score is the mean over them; `top1` and `mean_per_class` are those
of the most shots.
`top1_K` carries scores per test example, averaged over the subsets; `top1_K_over_seeds` is the same
number with the standard error over the subsets.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslbench.classification import encode, examples, per_class
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.logistic import deviation
from sslbench.random import Random
from sslbench.ridge import ridge
from sslbench.task import Result, Score, Task


class KShotLinear(Task):
    """Ridge regression on few labels.

    Args:
        shots: labels per class, ascending.
        seeds: subsets of labels, at least 3.
    """

    paper = "arXiv:1910.04867"
    metric = "top1"
    version = 1
    modality = "any"
    target = "label"

    def __init__(self, *, shots: tuple[int, ...] = (1, 2, 4, 8, 16), seeds: int = 5) -> None:
        if not shots or shots[0] < 1 or any(a >= b for a, b in pairwise(shots)):
            raise UserError(f"shots must be positive and ascending, found {list(shots)}")
        if seeds < 3:
            raise UserError(f"seeds ≥ 3 expected, found {seeds}")
        self.shots, self.seeds = shots, seeds

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Fit every subset, score the test split."""
        train, test = (examples(encoder, data, split) for split in ("train", "test"))
        classes, labels, counts = np.unique(train.labels, return_inverse=True, return_counts=True)
        if counts.min() < self.shots[-1]:
            raise NotApplicable(
                f"class {classes[counts.argmin()]} of {data.name} has {counts.min()} labels; "
                f"{self.shots[-1]} needed"
            )
        known = torch.tensor(train.features).double()
        scale = deviation(known)  # the mean is left to the intercept
        known, unseen = known / scale, torch.tensor(test.features).double() / scale
        truth = torch.from_numpy(encode(test.labels, classes))
        targets = torch.from_numpy(labels)

        correct: dict[int, list[Tensor]] = {k: [] for k in self.shots}
        chosen: dict[str, list[float]] = {str(k): [] for k in self.shots}
        for draw in range(self.seeds):
            places = torch.arange(len(targets))
            subsets = nested(targets, self.shots[-1], Random(seed, draw, places, len(places)))
            for k in self.shots:
                subset = subsets[:, :k].flatten()
                weight, bias, penalty = ridge(known[subset], targets[subset])
                correct[k].append((unseen @ weight + bias).argmax(1) == truth)
                chosen[str(k)].append(penalty)

        scores = {}
        for k, found in correct.items():
            each = torch.stack(found).double()  # (seeds, n)
            scores[f"top1_{k}"] = Score.mean(each.mean(0).numpy())
            stderr = float(each.mean(1).std()) / self.seeds**0.5
            scores[f"top1_{k}_over_seeds"] = Score(float(each.mean()), self.seeds, stderr)
        scores["top1"] = scores[f"top1_{self.shots[-1]}"]
        scores["mean_per_class"] = Score.mean(per_class(each.mean(0).numpy(), test.labels))
        return Result(scores, {"split": "leave one out of the labels", "penalty": chosen})


def nested(targets: Tensor, shots: int, random: Random) -> Tensor:
    """Positions (K, shots) of random examples of each class; the first columns are fewer shots.

    Args:
        targets: (n,) in 0 … K − 1, each at least `shots` times.
        shots: labels per class.
        random: draws for the n examples.
    """
    order = random.uniform(1)[:, 0].argsort(stable=True)
    grouped = order[targets[order].argsort(stable=True)]
    count = targets.bincount()
    first = count.cumsum(0) - count
    return grouped[first[:, None] + torch.arange(shots)]
