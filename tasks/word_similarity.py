"""Word similarity: how the cosines of word vectors rank pairs of words, against people's ratings.

Finkelstein et al. Placing Search in Context: The Concept Revisited. ACM TOIS 2002.
doi:10.1145/503104.503110 (WordSim-353); Hill, Reichart, Korhonen. SimLex-999: Evaluating Semantic
Models with (Genuine) Similarity Estimation. Computational Linguistics 2015. arXiv:1408.3456.

A word's vector is what the encoder makes of a text that is the word alone: its row of the table
for static embeddings, the pooled last layer for others. A word is known if none of its tokens is
the unknown one.

- `spearman`, the headline, is over all pairs of the test split; a pair with an unknown word gets
  the mean cosine of the others, so that vocabularies are compared on the same pairs;
- `spearman_covered` is over the pairs of known words alone;
- `spearman_all` is `spearman` over the pairs of all splits, the number of the literature: nothing
  is trained or chosen here;
- `coverage` is the share of the test pairs whose words are both known.

Correlations lie in [−1, 1]; ties share their rank, and constant cosines give 0.
"""

from pathlib import Path

import numpy as np
import torch

from sslbench.contributions import spearman
from sslbench.data.split import Dataset, Split, Texts
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.features import features
from sslbench.task import Result, Score, Task
from sslbench.text_encoder import TextEncoder


class WordSimilarity(Task):
    """Rank correlation of cosines with ratings."""

    paper = "doi:10.1145/503104.503110"
    metric = "spearman"
    version = 1
    modality = "text"
    target = "rating"

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Correlate the cosines of all pairs with their ratings."""
        if not isinstance(encoder, TextEncoder):
            raise NotApplicable(f"{encoder.label} has no vectors of words")
        ratings, cosines, known = _pairs(encoder, data["test"])
        if known.sum() < 2:
            raise NotApplicable(f"{known.sum()} of {len(known)} pairs have known words; 2 needed")
        every, every_cosine, every_known = _pairs(encoder, data["train+validation+test"])
        return Result(
            {
                "spearman": Score.mean(spearman(ratings, _filled(cosines, known))),
                "spearman_covered": _of_others(spearman(ratings[known], cosines[known])),
                "spearman_all": _of_others(spearman(every, _filled(every_cosine, every_known))),
                "coverage": Score.mean(known.astype(float)),
            }
        )

    def chance(self, data: Dataset) -> float:
        """No correlation."""
        return 0.0


def _pairs(encoder: TextEncoder, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratings, cosines, and whether both words are known, (n,) each."""
    pairs = split[torch.arange(len(split))].texts
    if split.labels is None or pairs is None:
        raise NotApplicable("rated pairs of words needed")
    for pair in pairs:
        if len(pair) != 2 or any(len(word.split()) != 1 for word in pair):
            raise NotApplicable(f"pairs of single words needed, found {pair!r}")
    words, place = np.unique(np.array(pairs, dtype=object), return_inverse=True)
    (vectors,) = features(encoder, Texts(words.tolist())).values()
    z = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    ids = encoder.tokenizer.ids(words.tolist())
    known = np.array([bool(found) and encoder.tokenizer.unknown not in found for found in ids])
    first, second = place.reshape(-1, 2).T
    cosines = np.einsum("nd,nd->n", z[first], z[second], dtype=np.float64)
    return split.labels.astype(np.float64), cosines, known[first] & known[second]


def _filled(cosines: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Cosines (n,), the mean of the known ones for the others."""
    return np.where(known, cosines, cosines[known].mean())


def _of_others(contributions: np.ndarray) -> Score:
    """The score of examples (n,) that are not those of the test split."""
    n = len(contributions)
    return Score(float(contributions.mean()), n, float(contributions.std(ddof=1)) / n**0.5)
