"""Every frozen-feature task on one checkpoint and dataset, against one bare forward pass over it.

EfficientNet-Lite0 at 128 px, with the weights that `sslbench fetch efficientnet-lite0` brings, on
cifar10-mini; without them, random weights. Nothing is cached when a round begins.
"""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from sslbench import single
from sslbench.bench.timing import Goal, Timing, seconds
from sslbench.checkpoint import weights_hash
from sslbench.data import load
from sslbench.encoder import build
from sslbench.errors import UserError
from sslbench.external.request import Request
from sslbench.features import BATCH, place
from sslbench.records import Checkpoint
from sslbench.suite import find, read
from sslbench.wanted import Wanted

SIDE, DATASET = 128, "cifar10-mini"
PASSES = ("invariance", "linear_probe_sgd")  # these encode views, or train many heads for epochs
CONFIG = {"name": "efficientnet_lite0", "image_size": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3}


def measure(rounds: int) -> Iterator[Timing]:
    """One round: it takes minutes, to which the start of either side adds nothing."""
    everything = read(find("vision-frozen", Path())).evaluate.tasks
    yield _timing([task for task in everything if task not in PASSES])


def _timing(tasks: list[str]) -> Timing:
    loaded, weights = _loaded()
    data = load(DATASET)
    splits = [data[name] for name in ("train", "validation", "test")]
    images = sum(map(len, splits))
    batch = loaded.encoder.preprocess(splits[0][torch.arange(BATCH)])
    took: dict[str, float] = {}

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(math.ceil(images / BATCH)):
            loaded.encoder(batch)

    def ours() -> None:
        for split in splits:
            folder = place(loaded.encoder.config, weights_hash(loaded.encoder), split)
            shutil.rmtree(folder, ignore_errors=True)
        wanted = Wanted(tasks=tasks, datasets=[DATASET])
        for record in single.evaluate(loaded, wanted, cpus=torch.get_num_threads()):
            took[f"seconds_{record.task}"] = record.provenance.seconds

    work = f"{', '.join(tasks)} on {DATASET} ({images:,} images), {weights}, {SIDE} px"
    times = (seconds(ours),), (seconds(bare),)
    peer = "one forward pass over as many images"
    return Timing("suite", work, peer, *times, Goal("within", 1.25), numbers=took)


def _loaded() -> tuple[single.Loaded, str]:
    try:
        request = Request(preprocess={"image_size": SIDE})
        return single.load("fetched:efficientnet-lite0", request), "EfficientNet-Lite0"
    except UserError:
        torch.manual_seed(0)
        encoder = build(CONFIG).eval()
        about = Checkpoint(key="0" * 32, name="lite0", family="external", encoder=encoder.label)
        return single.Loaded(encoder, about), "EfficientNet-Lite0 with random weights"
