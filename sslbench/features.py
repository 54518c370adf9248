"""One pass over a dataset → cached feature matrices."""

import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from sslbench.checkpoint import weights_hash
from sslbench.data.feed import read_ahead
from sslbench.data.split import Joined, Split
from sslbench.encoder import Encoder
from sslbench.hashing import digest, file_sha256
from sslbench.storage import cache_root, write_array, write_json

EXTRACTOR_VERSION = 1
BATCH = 256

log = logging.getLogger(__name__)


def features(
    encoder: Encoder,
    split: Split,
    layer: str = "last",
    *,
    cache: bool = True,
    batch: int = BATCH,
) -> dict[str, np.ndarray]:
    """Features (n, D_i) float32 of a split by layer name, shallow to deep, memory-mapped.

    They are kept under `cache_root()`, in a folder named by everything that determines them: the
    encoder's configuration (with its preprocessing) and weights, the split, and this extractor.
    A file whose checksum is not the one in its manifest is computed again.

    Args:
        encoder: put in eval mode for the pass.
        split: every example, in order.
        layer: "last", "all", or a layer's name.
        cache: look on disk, and keep what was computed.
        batch: examples at a time, where nothing is cached: by rounding, features depend on it.

    Raises:
        LookupError: a layer that the encoder does not have.
    """
    if isinstance(split, Joined):  # its parts are needed by themselves too
        first, second = (
            features(encoder, part, layer, cache=cache, batch=batch) for part in split.parts
        )
        return {name: np.concatenate([first[name], second[name]]) for name in first}
    names = _layer_names(encoder, split)
    wanted = names if layer == "all" else names[-1:] if layer == "last" else [layer]
    if not set(wanted) <= set(names):
        raise LookupError(f"layer {layer!r}; {encoder.label} has {', '.join(names)}")
    if not cache:
        return _extract(encoder, split, wanted, names[-1], batch)
    folder = place(encoder.config, weights_hash(encoder), split)
    found = {name: _read(folder, name) for name in wanted}
    missing = [name for name, array in found.items() if array is None]
    if missing:
        for name, array in _extract(encoder, split, missing, names[-1], BATCH).items():
            _write(folder, name, array)
            found[name] = _read(folder, name)
    return {name: array for name, array in found.items() if array is not None}


def place(config: dict[str, Any], weights: str, split: Split) -> Path:
    """The folder of a split's features, from the encoder's configuration and weights hash."""
    key = digest(config, weights, split.hash, "float32", EXTRACTOR_VERSION)
    return cache_root() / "features" / key


@torch.inference_mode()
def _layer_names(encoder: Encoder, split: Split) -> list[str]:
    first = split[torch.zeros(1, dtype=torch.long)]
    return list(encoder.eval().layers(encoder.preprocess(first.to(encoder.device))))


@torch.inference_mode()
def _extract(
    encoder: Encoder, split: Split, names: list[str], last: str, size: int
) -> dict[str, np.ndarray]:
    """The layers `names` of every example. Raises FloatingPointError where one is not finite."""
    encoder.eval()
    torch.backends.cudnn.allow_tf32 = False  # cached features must not depend on the device
    arrays: dict[str, np.ndarray] = {}
    order = torch.arange(len(split))
    if split.lengths is not None:  # texts of one length share a batch, and need little padding
        order = torch.from_numpy(np.argsort(split.lengths, kind="stable"))
    parts = order.split(size)
    for index, batch in zip(parts, read_ahead(split.__getitem__, parts), strict=True):
        inputs = encoder.preprocess(batch.to(encoder.device))
        outputs = {last: encoder(inputs)} if names == [last] else encoder.layers(inputs)
        for name in names:
            rows = outputs[name].float().cpu().numpy()
            if name not in arrays:
                arrays[name] = np.empty((len(split), rows.shape[1]), np.float32)
            arrays[name][index.numpy()] = rows
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FloatingPointError(f"{encoder.label}: features of layer {name} are not finite")
    return arrays


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    stem = quote(name, safe="")
    return folder / f"{stem}.npy", folder / f"{stem}.json"


def _write(folder: Path, name: str, array: np.ndarray) -> None:
    """The array first, then its manifest."""
    data, manifest = _paths(folder, name)
    write_array(data, array)
    write_json(manifest, {"shape": list(array.shape), "sha256": file_sha256(data)})


def _read(folder: Path, name: str) -> np.ndarray | None:
    """The cached array, or None where there is none or it is damaged."""
    data, manifest = _paths(folder, name)
    if not manifest.exists():
        return None
    try:
        expected: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        if file_sha256(data) == expected["sha256"]:
            return np.load(data, mmap_mode="r")  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    log.warning("%s: damaged feature cache, computed again", data)
    return None
