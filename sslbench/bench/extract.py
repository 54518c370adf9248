"""Features of a dataset, against the forward pass alone over inputs that are ready in memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from sslbench.bench.timing import Goal, Timing, close, in_turn
from sslbench.data.split import ImageArray
from sslbench.encoder import ImageEncoder, build
from sslbench.features import BATCH, features

ENCODERS: dict[str, dict[str, Any]] = {
    "resnet18": {"name": "resnet18", "width": 64, "stem": "conv3", "image_size": 32},
    "efficientnet-lite0": {"name": "tf_efficientnet_lite0", "image_size": 128},
    "vit": {"name": "vit_small_patch16_224", "image_size": 96},
}
IMAGES = 512
COLOURS = {"mean": [0.5] * 3, "std": [0.25] * 3}


def measure(rounds: int) -> Iterator[Timing]:
    """Three encoders, on images that have the size they take."""
    for name, config in ENCODERS.items():
        torch.manual_seed(0)
        encoder = build({**config, **COLOURS})
        assert isinstance(encoder, ImageEncoder)
        yield _timing(name, encoder.eval(), rounds)


@torch.inference_mode()
def _timing(name: str, encoder: ImageEncoder, rounds: int) -> Timing:
    side = encoder.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, side, side), dtype=np.uint8)
    split = ImageArray(pixels, None)
    inputs = [encoder.preprocess(split[index]) for index in torch.arange(IMAGES).split(BATCH)]

    def ours() -> np.ndarray:
        (found,) = features(encoder, split, cache=False).values()
        return found

    def theirs() -> torch.Tensor:
        return torch.cat([encoder(batch) for batch in inputs])

    same = close("features", ours(), theirs(), 1e-4)
    work = f"{IMAGES:,} images of {side}×{side} in memory, batches of {BATCH}"
    times = in_turn(ours, theirs, rounds)
    peer = "the forward pass alone, of inputs that are ready"
    return Timing(f"extract/{name}", work, peer, *times, Goal("within", 1.10), same)
