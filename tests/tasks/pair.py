"""An image–text encoder of two tables, for protocols that only compare directions."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from sslbench.data.split import Batch
from sslbench.encoder import Encoder
from tests.tasks.conftest import SIZE, Flat

D = 3 * SIZE * SIZE


def vector(text: str) -> np.ndarray:
    """(D,) float32 that belongs to a text, of any length between 0.1 and 10."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    random = np.random.default_rng(seed)
    direction = random.normal(size=D)
    length = 10 ** random.uniform(-1, 1) / np.linalg.norm(direction)
    return (direction * length).astype(np.float32)


class Words(Encoder):
    """Each text its own vector; what `table` has comes from there."""

    modality = "text"

    def __init__(self, table: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.table, self.dim = table, D
        self.config = {"name": "words"}
        values = np.concatenate([table[text] for text in sorted(table)] or [np.zeros(1)])
        self.register_buffer("values", torch.from_numpy(values))  # for the hash of the weights

    def preprocess(self, batch: Batch) -> Tensor:
        assert batch.texts is not None
        rows = [self.table.get(text, vector(text)) for text in batch.texts]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"first": -inputs, "words": inputs}


class Pair(Flat):
    """Pixels in [0, 1] minus a half, and texts from a table."""

    def __init__(self, table: dict[str, np.ndarray] | None = None) -> None:
        super().__init__()
        self.words = Words(table or {})
        self.norm.running_mean.fill_(0.5)
        self.eval()

    @property
    def text(self) -> Words:
        return self.words
