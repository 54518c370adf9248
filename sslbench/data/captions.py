"""Splits of images that have captions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from sslbench.data.files import ImageFiles, decoded
from sslbench.data.split import Batch, Split
from sslbench.errors import UserError
from sslbench.hashing import digest


class CaptionedImages(Split):
    """Images with their captions; labels and groups stay those of the images.

    Args:
        images: any split of n images.
        captions: n tuples of captions, at least one for each image.

    Raises:
        ValueError: there are more or fewer tuples than images, or one is empty.
    """

    def __init__(self, images: Split, captions: Sequence[tuple[str, ...]]) -> None:
        if len(images) != len(captions):
            raise ValueError(f"{len(images)} images, but captions of {len(captions)}")
        if not all(captions):
            raise ValueError(
                f"image {next(i for i, c in enumerate(captions) if not c)}: no caption"
            )
        self.images, self.captions = images, list(captions)
        self.labels, self.groups = images.labels, images.groups
        self.hash = digest(images.hash, self.captions)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: Tensor) -> Batch:
        return replace(self.images[index], texts=[self.captions[i] for i in index.tolist()])


@dataclass(frozen=True)
class Member:
    """Where an image lies in an uncompressed tar file.

    Attributes:
        shard: the tar file's place in the list of them.
        name: the member's, for people.
        offset: first byte of the image.
        size: bytes.
    """

    shard: int
    name: str
    offset: int
    size: int


class TarImages(ImageFiles):
    """Images inside tar files, read where they lie and decoded as ImageFiles does.

    Args:
        root: folder; `shards` are relative to it.
        shards: the tar files.
        members: the images.
        limit: longest shorter side in pixels.
        workers: decoding threads, see ImageFiles.
    """

    def __init__(
        self,
        root: Path,
        shards: Sequence[str],
        members: Sequence[Member],
        *,
        limit: int = 512,
        workers: int | None = None,
    ) -> None:
        super().__init__(root, shards, None, limit=limit, workers=workers)
        self.members = list(members)
        places = np.array([[m.shard, m.offset, m.size] for m in members], np.int64)
        self.hash = digest(self.hash, places)

    def __len__(self) -> int:
        return len(self.members)

    def _decode(self, index: int) -> Tensor:
        """(3, H, W) uint8."""
        member = self.members[index]
        path = self.root / self.paths[member.shard]
        try:
            with path.open("rb") as file:
                file.seek(member.offset)
                return decoded(file.read(member.size), self.limit)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: {member.name} cannot be read: {error}") from error
