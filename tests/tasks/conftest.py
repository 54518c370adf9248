"""A tiny encoder and tiny datasets, and a feature cache of its own for every test."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sslbench.data.split import Batch, Dataset, ImageArray
from sslbench.encoder import Encoder

SIZE = 4  # pixels


class Flat(Encoder):
    """Pixels through batch norm, in eval mode a fixed affine map; `mean` is a poorer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.image_size = 3 * SIZE * SIZE, SIZE
        self.config = {"name": "flat", "image_size": SIZE}
        self.norm = nn.BatchNorm1d(self.dim)
        self.parts = ("norm",)

    def preprocess(self, batch: Batch) -> Tensor:
        assert batch.images is not None
        return batch.images.float() / 255

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"mean": inputs.mean((2, 3)), "pixels": self.norm(inputs.flatten(1))}


def dataset(
    labels: dict[str, np.ndarray],
    noise: float = 10.0,
    patterns: dict[str, np.ndarray] | None = None,
    **about: Any,
) -> Dataset:
    """Images of each class's pattern with noise; `patterns` shows other labels' patterns."""
    random = np.random.default_rng(0)
    prototypes = random.uniform(60, 200, (100, 3, SIZE, SIZE))
    splits = {}
    for name, values in labels.items():
        shown = values if patterns is None else patterns[name]
        images = prototypes[shown % 100] + random.normal(0, noise, (len(shown), 3, SIZE, SIZE))
        splits[name] = ImageArray(images.clip(0, 255).astype(np.uint8), values)
    classes = len(np.unique(labels["train"]))
    default = {
        "name": "patterns",
        "modality": "image",
        "targets": ("label",),
        "classes": classes,
        "class_names": tuple(map(str, range(classes))),
        "metric": "top1",
        "chance": 1 / classes,
    }
    return Dataset(**{**default, **about}, splits=splits)


def balanced(classes: int = 5, train: int = 24, validation: int = 10, test: int = 40):
    """Labels of three splits with as many examples of each class."""
    sizes = {"train": train, "validation": validation, "test": test}
    return {name: np.arange(n * classes) % classes for name, n in sizes.items()}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    made = Flat()
    nn.init.normal_(made.norm.weight)
    return made.eval()
