"""JPEG files and tar shards to 224 px, against torchvision with a DataLoader on the same cores.

Two sizes of photographs: as ImageNet's are on average, and as cameras make them, of which a JPEG
decoder need not look at every pixel. Both sides resize the shorter side to 256 and take the
central 224 × 224.
"""

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from sslbench.bench.timing import Goal, Timing, UnequalError, in_turn
from sslbench.data.captions import Member, TarImages
from sslbench.data.feed import read_ahead
from sslbench.data.files import ImageFiles
from sslbench.data.split import Split
from sslbench.encoder import build

SIDE, RESIZED, BATCH = 224, 256, 32
SIZES = {"imagenet": (500, 375, 512), "camera": (2_000, 1_500, 64)}  # width, height, images
TRANSFORM = v2.Compose(
    [
        v2.Resize(RESIZED),
        v2.CenterCrop(SIDE),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
)


class _Files(Dataset[Tensor]):
    """As torchvision's ImageFolder."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with self.paths[index].open("rb") as file:
            view: Tensor = TRANSFORM(Image.open(file).convert("RGB"))
        return view


class _Shard(Dataset[Tensor]):
    """The same from a tar file with an index."""

    def __init__(self, path: Path, members: list[Member]) -> None:
        self.path, self.members = path, members

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Tensor:
        member = self.members[index]
        with self.path.open("rb") as file:
            file.seek(member.offset)
            content = io.BytesIO(file.read(member.size))
        view: Tensor = TRANSFORM(Image.open(content).convert("RGB"))
        return view


def measure(rounds: int) -> Iterator[Timing]:
    """Files and shards of two sizes of photographs."""
    for name, (width, height, count) in SIZES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            paths = _photographs(folder, width, height, count)
            members = _shard(folder / "shard.tar", paths)
            files = ImageFiles(folder, [path.name for path in paths], None)
            shard = TarImages(folder, ["shard.tar"], members)
            work = f"{count} JPEG {{}} of {width}×{height} to {SIDE} px"
            peer = _Files(paths)
            yield _timing(f"decode/{name}-files", work.format("files"), files, peer, rounds)
            of_shard = _Shard(folder / "shard.tar", members)
            yield _timing(f"decode/{name}-shard", work.format("members"), shard, of_shard, rounds)


def _timing(name: str, work: str, split: Split, dataset: Dataset[Tensor], rounds: int) -> Timing:
    workers = os.cpu_count() or 1
    colours = {"mean": [0.0] * 3, "std": [1.0] * 3}
    crop = {"image_size": SIDE, "crop": SIDE / RESIZED}
    encoder = build({"name": "resnet18", **crop, **colours})
    loader = DataLoader(dataset, BATCH, num_workers=workers, persistent_workers=True)

    def ours() -> list[Tensor]:
        parts = torch.arange(len(split)).split(BATCH)
        return [encoder.preprocess(batch) for batch in read_ahead(split.__getitem__, parts)]

    def theirs() -> list[Tensor]:
        return list(loader)

    same = _same(torch.cat(ours()), torch.cat(theirs()))
    times = in_turn(ours, theirs, rounds)
    speed = len(split) / sorted(times[0])[rounds // 2] / workers
    peer = f"torchvision {torchvision.__version__} on PIL images, DataLoader, {workers} workers"
    numbers = {"images_per_second_and_core": speed}
    return Timing(name, work, peer, *times, Goal("faster", 1.5), same, numbers)


def _photographs(folder: Path, width: int, height: int, count: int) -> list[Path]:
    """Smooth random images with some grain, which compress about as photographs do."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (height, width, 1))
        image = Image.fromarray(np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8))
        paths.append(folder / f"{number:04}.jpg")
        image.save(paths[-1], quality=90)
    return paths


def _shard(path: Path, files: list[Path]) -> list[Member]:
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, file.name)
    with tarfile.open(path) as tar:
        return [Member(0, one.name, one.offset_data, one.size) for one in tar.getmembers()]


def _same(ours: Tensor, theirs: Tensor) -> str:
    """Images alike but for the scale at which a JPEG was decoded, and for rounding."""
    apart = float((ours - theirs).abs().mean())
    if ours.shape != theirs.shape or apart > 0.01:
        raise UnequalError(f"images: on average {apart:.3f} of the range apart")
    return f"images: on average {apart:.1e} of the range apart"
