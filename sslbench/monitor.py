"""The training log, and the warning that embeddings have collapsed."""

import json
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from sslbench.geometry import embedding_std, rankme

COLLAPSED_STD = 0.05  # of normalised embeddings, where 1 is an even spread over the sphere
COLLAPSED_RANK = 2.0  # RankMe of a batch of embeddings
MOST = 1024  # embeddings that RankMe looks at


class CollapseWarning(UserWarning):
    """The embeddings of a batch have (nearly) become one point or one direction."""


def spread(embedding: Tensor, step: int) -> dict[str, float]:
    """Spread and rank of a batch of embeddings (B, D), with a warning where they collapsed.

    Raises:
        FloatingPointError: they are not finite.
    """
    if not embedding.isfinite().all():
        raise FloatingPointError(f"step {step}: the embeddings are not finite")
    std, rank = embedding_std(embedding), rankme(embedding[:MOST])
    if std < COLLAPSED_STD or rank < COLLAPSED_RANK:
        warnings.warn(
            f"step {step}: the embeddings collapse: standard deviation {std:.4f} of 1, "
            f"RankMe {rank:.2f} of {min(embedding.shape)}",
            CollapseWarning,
            stacklevel=2,
        )
    return {"embedding_std": std, "rankme": rank}


def read_log(path: Path, step: int) -> list[dict[str, Any]]:
    """The whole lines up to `step`; a killed process may have left half a line at the end."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if line["step"] <= step:
            lines.append(line)
    return lines
