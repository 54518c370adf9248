"""Few-shot classification: the nearest class mean, in many small tasks drawn at random.

Wang, Chao, Weinberger, van der Maaten. SimpleShot: Revisiting Nearest-Neighbor Classification for
Few-Shot Learning. 2019. arXiv:1911.04623 (its CL2N: features centred by the mean of the train
split, then L2-normalised; Euclidean distance to the class mean). Episodes as in Vinyals et al.
Matching Networks for One Shot Learning. NeurIPS 2016. arXiv:1606.04080.

Every episode draws `ways` classes of the test split, and of each of them 5 labelled images and
`queries` others to classify; with one shot only the first of the 5 is labelled. Where the dataset
has no more than `ways` classes, all episodes are the same task, with other images.

`top1_1shot` and `top1_5shot` carry the standard error over episodes. Episodes share images, so
more of them narrow it without end; `top1` is the same number as `top1_5shot` with scores per
query image, over which its interval resamples. `mean_per_class` equals it: every class of an
episode has as many queries.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.classification import examples
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.episodes import classify, draw_episodes
from sslbench.errors import UserError
from sslbench.random import Random
from sslbench.task import Result, Score, Task

SHOTS = 5


class FewShot(Task):
    """Nearest class mean in episodes.

    Args:
        ways: classes per episode.
        queries: images to classify per class.
        episodes: number of episodes.
    """

    paper = "arXiv:1911.04623"
    metric = "top1"
    version = 1
    modality = "any"
    target = "label"

    def __init__(self, *, ways: int = 5, queries: int = 15, episodes: int = 600) -> None:
        if ways < 2 or queries < 1 or episodes < 2:
            found = f"{ways}, {queries} and {episodes}"
            raise UserError(f"ways ≥ 2, queries ≥ 1 and episodes ≥ 2 expected, found {found}")
        self.ways, self.queries, self.episodes = ways, queries, episodes

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Classify the queries of all episodes."""
        train, test = (examples(encoder, data, split) for split in ("train", "test"))
        random = Random(seed, 0, torch.arange(self.episodes), self.episodes)
        drawn = draw_episodes(test.labels, self.ways, SHOTS + self.queries, random)
        centred = test.features - train.features.mean(axis=0, dtype=np.float64)
        z = F.normalize(torch.from_numpy(centred).float(), dim=1)
        correct = classify(z, drawn[..., :SHOTS], drawn[..., SHOTS:], [1, SHOTS])
        scores = {}
        for shots, accuracy in zip((1, SHOTS), correct.double().mean((2, 3)), strict=True):
            stderr = float(accuracy.std()) / len(accuracy) ** 0.5
            scores[f"top1_{shots}shot"] = Score(float(accuracy.mean()), len(accuracy), stderr)
        over_images = Score.mean(_per_image(correct[1], drawn[..., SHOTS:], len(z)))
        return Result(scores | {"top1": over_images, "mean_per_class": over_images})

    def chance(self, data: Dataset) -> float:
        """One of the episode's classes."""
        return 1 / self.ways


def _per_image(correct: Tensor, queries: Tensor, n: int) -> np.ndarray:
    """Scores per image (n,) whose mean is the share of correct answers.

    That share is a ratio, of an image's correct answers to how often it was asked; these are its
    linearisation, so that being asked often does not count as being different.
    """
    asked = torch.bincount(queries.flatten(), minlength=n).double()
    right = torch.bincount(queries.flatten(), correct.flatten().double(), minlength=n)
    share = right.sum() / asked.sum()
    return (share + (right - share * asked) * (n / asked.sum())).numpy()
