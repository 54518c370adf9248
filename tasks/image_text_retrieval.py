"""Image–text retrieval: find the captions of an image, and the images of a caption, by cosine.

Karpathy, Fei-Fei. Deep Visual-Semantic Alignments for Generating Image Descriptions. CVPR 2015.
arXiv:1412.2306 (section 4.1: Recall@K in both directions).

The candidates are all images and all distinct captions of the test split, all that is read. From
image to text: the share of images that have one of their captions among the k nearest. From text to
image: the share of captions, counted once for each image that has them, with such an image among
the k nearest. So a caption that several images share is right for each of them. The headline,
`recall_at_1`, is the mean of both directions. Of equally near candidates the first in the split is
ahead.
"""

from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sslbench.captioned import captions, text_encoder
from sslbench.data.split import Dataset, Split, Texts
from sslbench.encoder import Encoder
from sslbench.features import features
from sslbench.neighbors import nearest
from sslbench.task import Result, Score, Task

KS = (1, 5, 10)

Numbers = NDArray[np.int64]


class Pairs(NamedTuple):
    """The m pairs of an image and one of its captions; none occurs twice."""

    texts: list[str]  # M, distinct
    image: Numbers  # (m,) ascending
    text: Numbers  # (m,)


class ImageTextRetrieval(Task):
    """Recall of an image's captions and of a caption's images among those of the test split."""

    paper = "arXiv:1412.2306"
    metric = "recall_at_1"
    version = 1
    modality = "image_text"
    target = "captions"

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Search both ways; an image's score as a query of texts is that of all its captions."""
        test = data["test"]
        pairs = _pairs(test)
        (seen,) = (torch.tensor(x) for x in features(encoder, test).values())
        text = text_encoder(encoder)
        (read,) = (torch.tensor(x) for x in features(text, Texts(pairs.texts)).values())
        n, m, M = len(seen), len(pairs.image), len(read)

        known = pairs.image * M + pairs.text
        of_images = nearest(read, seen, max(KS))[1].numpy()  # (n, k) texts
        of_texts = nearest(seen, read, max(KS))[1].numpy()  # (M, k) images
        right_texts = np.isin(np.arange(n)[:, None] * M + of_images, known)
        right_images = np.isin(of_texts * M + np.arange(M)[:, None], known)
        scores: dict[str, np.ndarray] = {}
        for k in KS:
            image_found = right_images[:, :k].max(1)[pairs.text]  # (m,)
            # Summed over an image's captions, so that the mean over images is that over captions.
            each = np.bincount(pairs.image, image_found, minlength=n) * n / m
            scores[f"image_to_text_recall_at_{k}"] = right_texts[:, :k].max(1).astype(np.float64)
            scores[f"text_to_image_recall_at_{k}"] = each
        both = scores["image_to_text_recall_at_1"] + scores["text_to_image_recall_at_1"]
        scores = {self.metric: np.asarray(both / 2), **scores}
        return Result({name: Score.mean(examples) for name, examples in scores.items()})

    def chance(self, data: Dataset) -> float:
        """Expected headline of a random order of the candidates, exact."""
        pairs = _pairs(data["test"])
        n, m, M = len(data["test"]), len(pairs.image), len(pairs.texts)
        holders = np.bincount(pairs.text)  # images of each text
        return float(m / (n * M) + holders[pairs.text].mean() / n) / 2


def _pairs(split: Split) -> Pairs:
    given = captions(split)
    texts = list(dict.fromkeys(chain.from_iterable(given)))
    number = {text: i for i, text in enumerate(texts)}
    pairs = [(i, j) for i, own in enumerate(given) for j in sorted({number[text] for text in own})]
    image, text = np.array(pairs, np.int64).T
    return Pairs(texts, image, text)
