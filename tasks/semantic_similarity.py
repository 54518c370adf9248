"""Semantic similarity: cosine of the frozen features of two texts, against people's ratings.

Reimers, Gurevych. Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks. EMNLP 2019.
arXiv:1908.10084 (section 4.1: no training on the ratings, Spearman's correlation); Pearson's is
that of the first such tasks (Agirre et al. SemEval-2012 Task 6).

`spearman` and `pearson` in [−1, 1] over the test split, 0 where all cosines or all ratings are
equal. Their intervals are the jackknife's: what each pair contributes is found by leaving it out.
The cosine with a text that has no features (none of its words is known) is 0.

With regression = True nothing is left to the cosine: ridge regression on [u, v, |u − v|, u · v]
predicts the rating, fitted to train and validation together with the penalty of least squared
leave-one-out error, which has a closed form.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sslbench.contributions import pearson, spearman
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import UserError
from sslbench.logistic import deviation
from sslbench.probe import labels
from sslbench.ridge import ridge
from sslbench.task import Result, Score, Task
from sslbench.text import combined, two_sides


class SemanticSimilarity(Task):
    """Agreement of similarity with people's ratings.

    Args:
        layer: "last" or a layer's name.
        regression: learn from the rated pairs of the train split, instead of taking the cosine.
    """

    paper = "arXiv:1908.10084"
    metric = "spearman"
    version = 1
    modality = "text"
    target = "rating"

    def __init__(self, *, layer: str = "last", regression: bool = False) -> None:
        if layer == "all":
            raise UserError("layer = 'all': one layer expected, 'last' or its name")
        self.layer, self.regression = layer, regression

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Compare with the ratings of the test split."""
        selected: dict[str, Any] = {}
        if self.regression:
            found, penalty = self._predicted(encoder, data)
            selected = {"split": "leave one out of train and validation", "penalty": penalty}
        else:
            *_, (_, u, v) = two_sides(encoder, data["test"], self.layer)
            first, second = torch.tensor(u).double(), torch.tensor(v).double()
            found = F.cosine_similarity(first, second).numpy()
        rated = labels(data, "test").astype(np.float64)
        scores = {"spearman": spearman(found, rated), "pearson": pearson(found, rated)}
        return Result({name: Score.mean(parts) for name, parts in scores.items()}, selected)

    def chance(self, data: Dataset) -> None:
        """Correlations are no shares of right answers."""

    def _predicted(self, encoder: Encoder, data: Dataset) -> tuple[np.ndarray, float]:
        """Rating (n,) of each test pair, and the chosen penalty."""
        splits = ("train", "validation", "test")
        x = [torch.tensor(self._pairs(encoder, data, name)).double() for name in splits]
        known = torch.cat(x[:2])
        scale = deviation(known)  # the mean is left to the intercept
        ratings = np.concatenate([labels(data, name) for name in splits[:2]])
        weight, bias, penalty = ridge(known / scale, torch.from_numpy(ratings)[:, None])
        return (x[2] / scale @ weight + bias)[:, 0].numpy(), penalty

    def _pairs(self, encoder: Encoder, data: Dataset, split: str) -> np.ndarray:
        return list(combined(encoder, data[split], self.layer).values())[-1]
