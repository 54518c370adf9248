"""Weighted k nearest neighbours: examples vote for their class by cosine similarity.

Wu, Xiong, Yu, Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR
2018. arXiv:1805.01978 (section 3.4: weights exp(similarity / 0.07)); the fixed k = 20 is that of
Caron et al. Emerging Properties in Self-Supervised Vision Transformers. ICCV 2021.
arXiv:2104.14294.

`top1`, `top5` and `mean_per_class` are at the fixed k and temperature, `top1_selected` at those
that are best on validation with the train split as the bank. For the test, the bank is train and
validation together.
"""

from itertools import product
from pathlib import Path

import numpy as np
import torch

from sslbench.classification import Examples, encode, examples, join, per_class
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import UserError
from sslbench.neighbors import label_rank, nearest
from sslbench.task import Result, Score, Task

KS = (10, 20, 100, 200)
TEMPERATURES = (0.03, 0.07, 0.1)
TOP5_CLASSES = 10  # with fewer, being among five says little

Setting = tuple[int, float]  # k, temperature


class KNN(Task):
    """Classification by the nearest neighbours of the last layer's features.

    Args:
        k: number of neighbours; all of the bank if it has fewer.
        temperature: of their votes.
    """

    paper = "arXiv:1805.01978"
    metric = "top1"
    version = 1
    modality = "any"
    target = "label"

    def __init__(self, *, k: int = 20, temperature: float = 0.07) -> None:
        if k < 1 or temperature <= 0:
            raise UserError(f"k ≥ 1 and temperature > 0 expected, found {k} and {temperature}")
        self.fixed = (k, temperature)

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Choose k and temperature on validation, then classify the test split."""
        train, validation = (examples(encoder, data, s) for s in ("train", "validation"))
        ks = sorted({min(k, len(train.labels)) for k in KS})
        ranks = _ranks(train, validation, list(product(ks, TEMPERATURES)))
        selected = max(ranks, key=lambda setting: (ranks[setting] == 0).sum())

        test = examples(encoder, data, "test")
        ranks = _ranks(join(train, validation), test, [self.fixed, selected])
        correct = {setting: (rank == 0).astype(np.float64) for setting, rank in ranks.items()}
        scores = {
            "top1": Score.mean(correct[self.fixed]),
            "top1_selected": Score.mean(correct[selected]),
            "mean_per_class": Score.mean(per_class(correct[self.fixed], test.labels)),
        }
        if data.classes >= TOP5_CLASSES:
            scores["top5"] = Score.mean((ranks[self.fixed] < 5).astype(np.float64))
        k, temperature = selected
        return Result(scores, {"split": "validation", "k": k, "temperature": temperature})


def _ranks(bank: Examples, queries: Examples, settings: list[Setting]) -> dict[Setting, np.ndarray]:
    """Place (n,) of each query's class in the vote, for every setting; one search serves all."""
    classes, encoded = np.unique(bank.labels, return_inverse=True)
    k_max = max(k for k, _ in settings)
    near, index = nearest(torch.tensor(bank.features), torch.tensor(queries.features), k_max)
    labels, truth = (
        torch.from_numpy(encoded)[index],
        torch.from_numpy(encode(queries.labels, classes)),
    )
    return {
        (k, temperature): label_rank(
            near[:, :k], labels[:, :k], truth, len(classes), temperature
        ).numpy()
        for k, temperature in settings
    }
