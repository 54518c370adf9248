"""Saving and loading our own checkpoints: an encoder's folder, and the training state."""

import errno
import hashlib
import json
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sslbench import external
from sslbench.encoder import Encoder, build
from sslbench.errors import UserError
from sslbench.external.request import Request
from sslbench.hashing import digest, file_sha256
from sslbench.storage import folder_atomic, write_atomic, write_json
from sslbench.tokenizer import Tokenizer

FORMAT = 1
OWN = Request()


def weights_hash(encoder: torch.nn.Module) -> str:
    """32 hex digits over the names, types, shapes and values of all parameters and buffers."""
    state = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()[:32]


def save_encoder(encoder: Encoder, folder: Path, about: dict[str, Any]) -> None:
    """Write encoder.json, encoder.safetensors and a tokenizer.json into `folder`, atomically.

    Args:
        encoder: what is saved; `config` makes it again.
        folder: replaced if it exists.
        about: where the weights come from, as in `sslbench.records.Checkpoint`.
    """
    with folder_atomic(folder) as temporary:
        tensors = {name: t.detach().cpu().clone() for name, t in encoder.state_dict().items()}
        save_file(tensors, temporary / "encoder.safetensors")
        if encoder.tokenizer is not None:
            path = temporary / "tokenizer.json"
            path.write_text(encoder.tokenizer.json, encoding="utf-8")
        description = {
            "format": FORMAT,
            "config": encoder.config,
            "sha256": file_sha256(temporary / "encoder.safetensors"),
            "about": {**about, "weights_hash": weights_hash(encoder)},
        }
        write_json(temporary / "encoder.json", description)


def external_key(name: str, about: dict[str, Any]) -> str:
    """Key of a checkpoint that takes part as it is.

    Args:
        name: of its row.
        about: as `load_encoder` gives it.
    """
    seen = about["pretrain_dataset"] if about["family"] == "external" else None
    more = () if seen is None else (seen,)
    return digest(name, about.get("encoder_config"), about["weights_hash"], *more)


def load_encoder(path: Path, request: Request = OWN) -> tuple[Encoder, dict[str, Any]]:
    """The encoder of a checkpoint, in eval mode, and where its weights come from.

    Args:
        path: a pretraining folder, the encoder folder inside it, or somebody else's checkpoint
            (see `sslbench.external.load`).
        request: what somebody else's does not say.

    Raises:
        UserError: no checkpoint, a damaged one, or one whose weights do not all fit.
    """
    folder = path / "encoder" if (path / "encoder" / "encoder.json").exists() else path
    ours = (folder / "encoder.json").exists() or (path / "run.json").exists()
    if not ours:
        encoder, report = external.load(folder, request)
        weights_id = weights_hash(encoder)
        about = {
            "name": path.stem if path.is_file() else path.resolve().name,
            "family": "external",
            "encoder": encoder.label,
            "encoder_config": encoder.config,
            "weights_hash": weights_id,
            "parameters": report.parameters or sum(p.numel() for p in encoder.parameters()),
            "pretrain_dataset": request.pretrained_on,
            "external": report.plain(),
            "at": 1.0,
        }
        return encoder, {**about, "key": external_key(str(about["name"]), about)}
    given = [name for name, value in asdict(request).items() if value]
    if given:
        raise UserError(f"{path}: sslbench wrote it, and it says itself its {', '.join(given)}")
    if not (folder / "encoder.json").exists():
        raise UserError(f"{path}: no encoder.json in it; its pretraining has not finished")
    try:
        description = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']}, expected {FORMAT}")
        weights = folder / "encoder.safetensors"
        found = file_sha256(weights)
        if found != description["sha256"]:
            raise ValueError(f"sha256 of {weights.name} is {found}, not {description['sha256']}")
        with torch.random.fork_rng(devices=[]):
            loaded = build(description["config"], tokenizer=_tokenizer(folder))
        loaded.load_state_dict(load_file(weights), strict=True)
        return loaded.eval(), {**description["about"], "encoder": loaded.label}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        SafetensorError,
        RuntimeError,
        UserError,
    ) as error:
        raise UserError(f"{folder}: damaged checkpoint: {error}") from None


def _tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer beside the weights; the configuration holds its hash."""
    path = folder / "tokenizer.json"
    return Tokenizer.parse(path.read_text(encoding="utf-8")) if path.exists() else None


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state atomically. Raises OSError where the disk does not take it."""

    def save(temporary: Path) -> None:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's writer does not say why it could not go on
            free = shutil.disk_usage(temporary.parent).free / 1e6
            reason = f"no space left for the training state? {free:.1f} MB are free ({error})"
            raise OSError(errno.ENOSPC, reason, str(path)) from None

    write_atomic(path, save)


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a training state. Raises UserError if a checksum inside the file differs."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (bad := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"checksum of {bad} differs")
        return torch.load(path, map_location=device, weights_only=True)  # type: ignore[no-any-return]
    except (zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise UserError(
            f"{path}: damaged training state ({error}); remove the folder to train from the start"
        ) from None
