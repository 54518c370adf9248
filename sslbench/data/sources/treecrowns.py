"""treecrowns: crowns of trees on aerial photographs, drawn by hand, to be found.

Weinstein, Marconi, Bohlman, Zare, White. Individual Tree-Crown Detection in RGB Imagery. Remote
Sensing 2019. The package deepforest carries four photographs of the National Ecological
Observatory Network at 10 cm per pixel with 951 crowns: two of Yellowstone (2299 × 2472 and
1249 × 1035 pixels), one of Florida and one of California (400 × 400 each). Living and dead trees
are one class.

The photographs are cut into tiles of 128 × 128 pixels from their upper left corner. A crown counts
in the tile that holds at least half of it, clipped to the tile; what other tiles see of it is
`ignored`, neither to be found nor counted as false. Tiles without a crown that counts are left out.

Train and validation are the largest photograph: its upper 14 rows of tiles, and its lower 4, with
one row between them in no split. Test is the three others, places that training never saw. A split
by photographs alone would leave 18 tiles of other forests for validation, too few to choose
anything by. `groups` are blocks of 3 × 3 tiles, to which a small photograph amounts.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sslbench.data.sources.voc import boxed, objects
from sslbench.data.split import Boxes, ImageArray, Split
from sslbench.data.table import Row

_PHOTOGRAPHS = (  # the first for training
    "2019_YELL_2_528000_4978000_image_crop2",
    "2019_YELL_2_541000_4977000_image_crop",
    "OSBS_029",
    "SOAP_061",
)
_TILE = 128  # pixels
_BLOCK = 3  # tiles
_TRAIN, _VALIDATION = slice(0, 14), slice(15, 19)  # rows of tiles of the first photograph


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """Write the tiles and what can be seen on them.

    tiles (n, 3, 128, 128) uint8 and places (n, 3) int64, photograph, row and column; boxes (k, 4)
    float32, ignored (k,) bool and tile (k,) int64, where each lies.
    """
    tiles: list[np.ndarray] = []
    places, boxes, ignored, tile = [], [], [], []
    with zipfile.ZipFile(archives["deepforest"]) as archive:
        for photograph, name in enumerate(_PHOTOGRAPHS):
            path = f"deepforest/data/{name}"
            with Image.open(io.BytesIO(archive.read(f"{path}.png"))) as image:
                pixels = np.asarray(image.convert("RGB"))
            _, crowns, _ = objects(archive.read(f"{path}.xml"), f"{path}.xml")
            for row in range(pixels.shape[0] // _TILE):
                for column in range(pixels.shape[1] // _TILE):
                    corner = np.array([column, row]) * _TILE
                    seen, counts = _clipped(crowns, corner)
                    if counts.any():
                        x, y = corner
                        tile += [len(tiles)] * len(seen)
                        tiles.append(pixels[y : y + _TILE, x : x + _TILE].transpose(2, 0, 1))
                        places.append((photograph, row, column))
                        boxes.append(seen)
                        ignored.append(~counts)
    np.save(folder / "tiles.npy", np.stack(tiles))
    np.save(folder / "places.npy", np.array(places, np.int64))
    np.save(folder / "boxes.npy", np.concatenate(boxes))
    np.save(folder / "ignored.npy", np.concatenate(ignored))
    np.save(folder / "tile.npy", np.array(tile, np.int64))


def _clipped(crowns: np.ndarray, corner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a tile sees of the crowns (k, 4), and of which of these it holds at least half."""
    offset = np.tile(corner, 2)
    clipped = (crowns - offset).clip(0, _TILE)
    shown = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1)
    share = shown / (crowns[:, 2:] - crowns[:, :2]).prod(axis=1)
    return clipped[share > 0].astype(np.float32), share[share > 0] >= 0.5


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """One class; train, validation and test."""
    names = ("tiles", "places", "boxes", "ignored", "tile")
    tiles, places, boxes, ignored, tile = (np.load(folder / f"{name}.npy") for name in names)
    photograph, line, column = places.T
    block = (photograph * 100 + line // _BLOCK) * 100 + column // _BLOCK
    first = photograph == 0
    rows = {"train": _TRAIN, "validation": _VALIDATION}
    chosen = {n: first & (line >= r.start) & (line < r.stop) for n, r in rows.items()}
    parts = {}
    for name, where in {**chosen, "test": ~first}.items():
        index = np.flatnonzero(where)
        targets = [
            Boxes(boxes[tile == i], np.zeros((tile == i).sum(), np.int64), ignored[tile == i])
            for i in index
        ]
        parts[name] = boxed(ImageArray(tiles[index], None, block[index]), targets)
    return ["tree crown"], parts
