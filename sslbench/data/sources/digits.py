"""digits: the 1,797 handwritten digits of 8×8 pixels that come with scikit-learn.

Of each class carve.py deals a fifth to test and a tenth to validation.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from sslbench.data.carve import carve, deal
from sslbench.data.split import Split
from sslbench.data.table import Row


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """Ten classes; grey values 0 … 16 become 0 … 255, the same in all three channels."""
    bunch = load_digits()
    grey = (bunch.images * (255 / 16)).round().astype(np.uint8)  # (1797, 8, 8)
    labels = bunch.target.astype(np.int64)
    colour = np.repeat(grey[:, None], 3, axis=1)
    return list("0123456789"), deal(colour, labels, carve(labels, {"test": 0.2, "validation": 0.1}))
