"""What many tests share: tiny images and texts, tiny encoders, and groups of processes."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from sslbench.data.split import Batch, ImageArray, Split, Texts
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


def tiny_rbm() -> Encoder:
    """Two layers of sigmoid units; D = 16."""
    return _build({"name": "rbm", "widths": [32, 16]})


def tiny_image_gpt() -> Encoder:
    """Two blocks on 64 pixels of 16 colours; D = 32."""
    sizes = {"side": 8, "colours": 16, "dim": 32, "depth": 2, "heads": 2}
    return _build({"name": "image_gpt", **sizes}, tiny_images())


WORDS = [a + b for a in ("ba", "ri", "to", "ku", "len") for b in ("na", "to", "mir", "sha", "del")]


def tiny_texts(n: int = 24, sentences: int = 12) -> Texts:
    """Documents of a few sentences, each about its own words."""
    random = np.random.default_rng(0)
    documents = []
    for _ in range(n):
        favourites = random.choice(WORDS, 12, replace=False)
        lines = (random.choice(favourites, random.integers(4, 9)) for _ in range(sentences))
        documents.append(" ".join(" ".join(line).capitalize() + "." for line in lines))
    return Texts(documents, np.arange(n) % 2)


def tiny_captions(n: int = 64, classes: int = 4) -> Split:
    """Tiny images, each with two captions that name its class."""
    names = np.array(WORDS)[np.arange(n) % classes + 9]

    def caption(batch: Batch) -> Batch:
        texts = [(f"a {names[i]}", f"{names[i]} number {i}") for i in batch.index.tolist()]
        return replace(batch, texts=texts)

    return tiny_images(n, classes).map(caption, "captions")


def tiny_bert() -> Encoder:
    """Two blocks, rows of 24 tokens; D = 32."""
    return _language("bert", intermediate_size=64)


def tiny_gpt() -> Encoder:
    """Two blocks, rows of 24 tokens; D = 32."""
    return _language("gpt2")


def tiny_embeddings() -> Encoder:
    """Word vectors; D = 32."""
    return build({"name": "embeddings", "dim": 32, "vocabulary": 64}, tiny_texts())


def tiny_dual() -> Encoder:
    """The tiny ResNet and the tiny BERT, into 16 dimensions."""
    image, text = tiny_resnet().config, {**tiny_bert().config}
    del text["tokenizer_hash"]
    config = {"name": "dual", "image": image, "text": text, "dim": 16}
    return build(config, tiny_captions())


def _language(name: str, **settings: Any) -> Encoder:
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 24,
    }
    config = {"name": name, "tokenizer": "wordpiece", "vocabulary": 64, **sizes, **settings}
    return build(config, tiny_texts())


def _build(config: dict[str, Any], data: Split | None = None) -> Encoder:
    return build({**config, "image_size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3}, data)


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
