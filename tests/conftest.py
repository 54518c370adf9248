"""What many tests share: tiny images, tiny encoders, and groups of processes."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from sslbench.data.split import ImageArray
from sslbench.encoder import Encoder, build

SIZE = 16


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slurm-events", type=int, default=6, help="misfortunes of the chaos test")


def tiny_images(n: int = 64, classes: int = 4) -> ImageArray:
    """Images of 16 pixels; each class is a smooth coloured pattern, seen with noise."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % classes
    coarse = random.uniform(60, 200, (classes, 3, 4, 4))
    patterns = coarse.repeat(SIZE // 4, axis=2).repeat(SIZE // 4, axis=3)
    images = patterns[labels] + random.normal(0, 20, (n, 3, SIZE, SIZE))
    return ImageArray(images.clip(0, 255).astype(np.uint8), labels)


def tiny_resnet() -> Encoder:
    """ResNet-18 of width 4; D = 32."""
    return _build({"name": "resnet18", "width": 4, "stem": "conv3"})


def tiny_vit() -> Encoder:
    """Two blocks, 16 patches and a class token; D = 32."""
    settings = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return _build({"name": "vit_tiny_patch16_224", **settings})


def _build(config: dict[str, Any]) -> Encoder:
    return build({**config, "image_size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3})


@pytest.fixture(scope="session")
def images() -> ImageArray:
    return tiny_images()


@pytest.fixture
def resnet() -> Encoder:
    torch.manual_seed(0)
    return tiny_resnet()


@pytest.fixture
def vit() -> Encoder:
    torch.manual_seed(0)
    return tiny_vit()


def run_processes(
    world: int, function: Callable[..., Any], *args: Any, backend: str = "gloo"
) -> list[Any]:
    """`function(*args)` in each of `world` processes that can talk; what each returned, by rank.

    `function` is a test module's own, so that a new process can import it.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["sslbench.pretrain", "timm"])  # imported once for all processes
    with TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _process, (world, backend, folder, function, args), world, start_method="forkserver"
        )
        return [
            torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)
        ]


def _process(
    rank: int,
    world: int,
    backend: str,
    folder: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=world)
    torch.save(function(*args), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
