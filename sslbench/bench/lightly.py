"""An epoch of SimCLR and of BYOL against lightly's examples, and kNN against its `knn_predict`.

lightly runs in an environment of its own, on the same images and with the same weights, batches,
optimiser and distributions of views; see lightly_peer.py.
"""

import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from sslbench import registry
from sslbench.bench.peers import Peer, environment, own_seconds_in_turn
from sslbench.bench.timing import Timing, UnequalError, close, seconds
from sslbench.data.augment import Augmentation
from sslbench.data.split import ImageArray
from sslbench.encoder import build
from sslbench.method import Method, Recipe
from sslbench.neighbors import knn_correct, label_rank, nearest
from sslbench.pretrain import train
from sslbench.threads import threads

REQUIREMENT = "lightly==1.5.26"
IMAGES, SIZE, BATCH, WIDTH = 2048, 32, 256, 16
RECIPE = Recipe("sgd", lr=0.06, momentum=0.0, schedule="constant", batch_size=BATCH)
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # lightly's default

HALF = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur_p=0.0)
FIRST = Augmentation(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_p=0.0)
METHODS: dict[str, dict[str, Any]] = {
    "simclr": {"hidden": 128, "dim": 128, "temperature": 0.5, "augmentation": HALF},
    "byol": {
        "hidden": 1024,
        "dim": 256,
        "first": FIRST,
        "second": replace(FIRST, solarize_p=0.2),
    },
}

BANK, QUERIES, DIM, CLASSES = 50_000, 10_000, 384, 10
K, TEMPERATURE = 200, 0.1
AGREE = 0.999  # share of queries; sums of 200 votes in another order may differ in the last digit


def measure(rounds: int) -> Iterator[Timing]:
    """An epoch of each method, then kNN."""
    cores = len(os.sched_getaffinity(0))
    python = environment("lightly", REQUIREMENT)
    program = Path(__file__).with_name("lightly_peer.py")
    quiet = {"LIGHTLY_DID_VERSION_CHECK": "True"}  # or it asks lightly's server on import
    for name in METHODS:
        with threads(cores), Peer("lightly", python, program, quiet) as peer:
            yield _epoch(name, peer, cores, rounds)
    with threads(cores), Peer("lightly", python, program, quiet) as peer:
        yield _knn(peer, cores, rounds)


def _epoch(name: str, peer: Peer, cores: int, rounds: int) -> Timing:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, SIZE, SIZE, 3), np.uint8)
    method = _method(name, images)
    sizes = {"width": WIDTH, "hidden": METHODS[name]["hidden"], "dim": METHODS[name]["dim"]}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "images.npy", images)
        torch.save(method.state_dict(), folder / "weights.pt")
        peer.ask("prepare", method=name, folder=temporary, sizes=sizes, batch=BATCH, workers=cores)
        same = f"{_same_features(method, peer, folder)}; {_same_loss(name, method, peer, folder)}"

        tried = _tried(peer, cores)
        fastest = min(tried, key=lambda count: tried[count])

        def ours() -> float:
            fresh = deepcopy(method)
            with TemporaryDirectory() as run:
                return seconds(lambda: train(fresh, Path(run) / "run", epochs=1, seed=0))

        a, b = own_seconds_in_turn(ours, lambda: float(peer.ask("epoch", threads=fastest)), rounds)
    return Timing(
        f"lightly/{name}",
        f"an epoch of {IMAGES:,} images of {SIZE} pixels in batches of {BATCH}, ResNet-18 of width "
        f"{WIDTH}, {cores} cores; ours includes the run folder that it writes, lightly has "
        f"{cores} workers already started, and of {cores} threads and 1 what is faster: {fastest}",
        _release(peer),
        a,
        b,
        same=same,
        numbers={f"peer_seconds_{count}_threads": spent for count, spent in tried.items()},
    )


def _method(name: str, images: np.ndarray) -> Method:
    """Ours, with weights of its own and the optimiser of lightly's examples."""
    torch.manual_seed(0)
    config = {"name": "resnet18", "width": WIDTH, "stem": "conv3_stride2", "image_size": SIZE}
    data = ImageArray(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), None)
    make: Any = registry.method(name)
    method: Method = make(build({**config, **IMAGENET}), data, **METHODS[name])
    method.recipe = RECIPE
    return method


def _tried(peer: Peer, cores: int) -> dict[int, float]:
    """Seconds of lightly's epoch by its number of threads: its workers need the cores, too."""
    peer.ask("epoch", threads=1)  # which starts the workers
    return {count: float(peer.ask("epoch", threads=count)) for count in sorted({1, cores})}


def _release(peer: Peer) -> str:
    return f"lightly {peer.ask('about')['lightly']}"


def _same_features(method: Method, peer: Peer, folder: Path) -> str:
    """The same weights make the same of a batch, whose statistics normalise it."""
    views = torch.rand(BATCH, 3, SIZE, SIZE)
    mean, std = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("mean", "std"))
    np.save(folder / "views.npy", ((views - mean) / std).numpy())
    peer.ask("features", folder=str(folder))
    with torch.no_grad():
        ours = deepcopy(method.encoder)(views)
    return close("features", ours.numpy(), np.load(folder / "features.npy"), 1e-4)


def _same_loss(name: str, method: Method, peer: Peer, folder: Path) -> str:
    """The heads have the same loss for features of two views that are like each other."""
    first, noise = torch.randn(2, BATCH, method.encoder.dim)
    pairs = torch.stack([first, first + noise])
    np.save(folder / "pairs.npy", pairs.numpy())
    theirs = float(peer.ask("loss", folder=str(folder)))
    heads: Any = deepcopy(method)
    heads.encoder = heads.teacher_encoder = nn.Identity()
    with torch.no_grad():
        ours = float(heads.loss(pairs.unbind(), 0.0))
    # lightly's is the mean of two −cos, and the paper's the sum of two 2 − 2 cos.
    return close("loss", ours, 4 + 4 * theirs if name == "byol" else theirs, 1e-4)


def _knn(peer: Peer, cores: int, rounds: int) -> Timing:
    bank, labels, queries, truth = clusters(BANK, QUERIES)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, array in (("bank", bank), ("labels", labels), ("queries", queries)):
            np.save(folder / f"{name}.npy", array)

        def theirs() -> float:
            sizes = {"classes": CLASSES, "k": K, "batch": BATCH, "threads": cores}
            return float(peer.ask("knn", folder=temporary, temperature=TEMPERATURE, **sizes))

        def ours() -> float:
            return seconds(lambda: knn_correct(bank, labels, queries, truth, K, TEMPERATURE))

        theirs()
        same = agreement(bank, labels, queries, np.load(folder / "predicted.npy")[:, 0])
        a, b = own_seconds_in_turn(ours, theirs, rounds)
    return Timing(
        "lightly/knn",
        f"{QUERIES:,} queries in a bank of {BANK:,} × {DIM} float32, {CLASSES} classes, k = {K}, "
        f"T = {TEMPERATURE}, {cores} cores; both normalise, lightly in batches of {BATCH}",
        _release(peer),
        a,
        b,
        same=same,
    )


def clusters(n: int, queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, DIM) around a centre for each class, their labels, and both of queries."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((CLASSES, DIM), np.float32) * 0.1
    labels, truth = (random.integers(0, CLASSES, size) for size in (n, queries))
    near, far = (
        centres[y] + random.standard_normal((len(y), DIM), np.float32) for y in (labels, truth)
    )
    return near, labels, far, truth


def agreement(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, predicted: np.ndarray
) -> str:
    """What to say of the peer's classes (n,) of the queries, most of which must win our vote.

    Raises:
        UnequalError: too few do.
    """
    near, index = nearest(torch.from_numpy(bank), torch.from_numpy(queries), K)
    votes = torch.from_numpy(labels)[index]
    rank = label_rank(near, votes, torch.from_numpy(predicted), CLASSES, TEMPERATURE)
    share = float((rank == 0).double().mean())
    if share < AGREE:
        raise UnequalError(f"classes: {share:.2%} of {len(rank):,} agree, less than {AGREE:.1%}")
    return f"classes: {share:.2%} of {len(rank):,} agree"
