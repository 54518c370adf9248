"""Images that stay in their files, decoded when they are asked for."""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sslbench.data.split import Batch, ImageArray, Split
from sslbench.errors import UserError
from sslbench.hashing import digest, file_sha256
from sslbench.storage import cache_root, write_text
from sslbench.threads import pool

PIXELS = 2  # version of how files become pixels of views; 1: Pillow's reduction, views in float32


def data_root() -> Path:
    """Where datasets lie that sslbench does not reduce: $SSLBENCH_DATA, or the cache."""
    return Path(os.environ.get("SSLBENCH_DATA") or cache_root() / "torchvision")


class ImageFiles(Split):
    """Image files with labels; a batch is decoded by several threads, always in the same way.

    Decoding gives RGB as stored: an EXIF orientation is ignored, as torchvision does, and what is
    transparent keeps its colour. An image whose shorter side exceeds `limit` is reduced to it,
    keeping its proportions (JPEG: first by 2, 4 or 8 while decoding, which is where the time is).

    Args:
        root: folder; `paths` are relative to it and are hashed, where the folder lies is not.
        labels: (n,) int64 or None.
        limit: longest shorter side in pixels.
        workers: decoding threads; None: $SSLBENCH_WORKERS, or one per CPU this process may use.

    Raises:
        UserError: a file is missing, or, on reading, not an image of 8 bits per channel.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: np.ndarray | None,
        *,
        limit: int = 512,
        workers: int | None = None,
    ) -> None:
        if labels is not None and len(labels) != len(paths):
            raise ValueError(f"{len(paths)} paths, but {len(labels)} labels")
        self.root, self.paths, self.labels, self.limit = root, list(paths), labels, limit
        self.workers = workers or int(os.environ.get("SSLBENCH_WORKERS") or _cpus())
        try:
            self.hash = digest(self.paths, _content(root, self.paths), labels, limit, PIXELS)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing") from error

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Batch:
        images = list(pool("decode", self.workers).map(self._decode, index.tolist()))
        target = None if self.labels is None else torch.from_numpy(self.labels[index.numpy()])
        return Batch(index, images, target=target)

    def in_memory(self) -> ImageArray:
        """The same images, decoded once; all must have one size."""
        images = self[torch.arange(len(self))].images
        assert isinstance(images, list)
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"{self.root}: images of several sizes cannot lie in one array")
        return ImageArray(torch.stack(images).numpy(), self.labels)

    def _decode(self, index: int) -> Tensor:
        """(3, H, W) uint8."""
        path = self.root / self.paths[index]
        try:
            return decoded(path.read_bytes(), self.limit)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error


def _content(root: Path, paths: list[str]) -> str:
    """Hash of all files' contents; read once, then known by their sizes and times of change.

    What is known lies in the cache, so that a large folder is not read again at every start.
    """
    places = [root / path for path in paths]
    stats = [os.stat(place) for place in places]
    seen = digest(str(root.resolve()), paths, [[s.st_size, s.st_mtime_ns] for s in stats])
    known = cache_root() / "contents" / f"{seen}.txt"
    if known.exists():
        return known.read_text(encoding="utf-8")
    content = digest(list(pool("decode", _cpus()).map(file_sha256, places)))
    write_text(known, content)
    return content


def decoded(content: bytes, limit: int) -> Tensor:
    """(3, H, W) uint8, the shorter side at most `limit`."""
    with Image.open(io.BytesIO(content)) as image:
        if image.mode[0] in "IF":
            raise ValueError(f"mode {image.mode} has more than 8 bits per channel")
        size, scale = image.size, 1
        if min(size) > limit:
            width, height = (max(limit, round(side * limit / min(size))) for side in size)
            size = width, height
            least = min(old // new for old, new in zip(image.size, size, strict=True))
            scale = next(power for power in (8, 4, 2, 1) if least >= power)
        if image.format == "JPEG" and image.mode in ("L", "RGB"):  # Pillow's pixels, but sooner
            width, height = (-(-side // scale) for side in image.size)
            smallest = {"min_width": width, "min_height": height, "min_factor": scale}
            pixels = simplejpeg.decode_jpeg(content, "RGB", **(smallest if scale > 1 else {}))
        else:
            if scale > 1:
                image.draft("RGB", size)  # a JPEG of four inks
            pixels = np.array(_rgb(image))
    found = torch.from_numpy(pixels).permute(2, 0, 1)
    if pixels.shape[1::-1] != size:  # Pillow's pixels again, but for rounding
        found = F.interpolate(found[None], size[::-1], mode="bicubic", antialias=True)[0]
    return found


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # which is how Pillow wants it
    return image.convert("RGB")


def _cpus() -> int:
    if sys.platform == "linux":  # of a shared node, a job has only some
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
