"""Files of weights → tensors by name; recognised by content, and nothing in them ever runs."""

import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sslbench.errors import UserError

INDEX = ".index.json"  # of weights in several files
Tree = dict[
    str, Any
]  # what a file holds: tensors and other values, in dictionaries of dictionaries


class Inert(dict[Any, Any]):
    """Stands for an object of a class that checkpoints hold beside their weights.

    It keeps what the object was made from, and does nothing with it.
    """

    def __init__(self, *made_from: Any) -> None:
        super().__init__()
        self.made_from = made_from


# Classes whose objects training code leaves beside the weights. Whatever else a pickle asks for is
# refused.
_HARMLESS = (
    "argparse.Namespace",
    "collections.defaultdict",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "typing.Any",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Int64", "Int32", "Bool")),
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    *(f"omegaconf.{kind}config.{kind.title()}Config" for kind in ("dict", "list")),
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "mmengine.config.config.ConfigDict",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "vissl.utils.hydra_config.AttrDict",
    "yacs.config.CfgNode",
)
_STARTS = {  # of files that are no weights, and what to do about them
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: `git lfs pull` gets it",
    b"<!DOCTYPE": "a web page, not a checkpoint",
    b"<html": "a web page, not a checkpoint",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\x89HDF": "HDF5 (Keras): only PyTorch's weights load; convert them",
}


def kind(path: Path) -> str:
    """What a file is: "safetensors", "torch", "torch.export", "onnx" or "python".

    Raises:
        UserError: nothing of these; the text says what it looks like.
    """
    if path.name.endswith(INDEX):
        return "torch"
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise UserError(f"{path}: the file is empty")
    for prefix, what in _STARTS.items():
        if start.startswith(prefix):
            raise UserError(f"{path}: {what}")
    if start[8:10] == b'{"' and int.from_bytes(start[:8], "little") < 10**8:
        return "safetensors"
    if start.startswith(b"PK"):
        return _archive(path)
    if start.startswith(b"\x80") and start[1] in range(2, 6):  # a pickle: torch.save before 1.6
        return "torch"
    if path.suffix == ".py":
        return "python"
    if start[0] == 8 and start[1] < 32:  # field 1 of an ONNX model: its version
        return "onnx"
    try:
        words = start.decode("utf-8").split()
    except UnicodeDecodeError:
        words = []
    found = f"text that begins {' '.join(words)[:40]!r}" if words else f"bytes {start[:8].hex()}…"
    raise UserError(
        f"{path}: {found}; expected PyTorch's, safetensors, torch.export or ONNX weights"
    )


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
            tops = set(archive.namelist())
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: damaged, or only a part of the file ({error})") from None
    if "archive_format" in names | tops or any(n.startswith("models/") for n in names | tops):
        return "torch.export"
    if "constants.pkl" in names:
        raise UserError(f"{path}: TorchScript, which runs code; save it with torch.export or ONNX")
    if "data.pkl" in names:
        return "torch"
    if any(name.endswith(".npy") for name in tops):
        raise UserError(
            f"{path}: arrays of numpy (JAX?): only PyTorch's weights load; convert them"
        )
    raise UserError(f"{path}: a zip archive without weights of PyTorch in it")


def read(path: Path) -> Tree:
    """Everything that a file of weights holds, on the CPU.

    Args:
        path: a `.pth`, `.pt`, `.bin`, `.ckpt` or `.safetensors` file, or the `.index.json` of a
            checkpoint in several files.

    Raises:
        UserError: damaged, or a pickle that asks for more than weights.
    """
    if path.name.endswith(INDEX):
        return {name: value for part in parts(path) for name, value in read(part).items()}
    try:
        if kind(path) == "safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals([(Inert, name) for name in _HARMLESS]):
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_refusal(str(error))}") from None
    except (SafetensorError, EOFError, RuntimeError, ValueError, KeyError, IndexError) as error:
        line = str(error).strip().splitlines()[:1]
        reason = line[0] if line else type(error).__name__
        raise UserError(f"{path}: damaged, or only a part of the file ({reason})") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds {type(tree).__name__}, expected weights by name")
    return tree


def table(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds {type(found).__name__}, expected an object")
    return found


def weights_file(folder: Path) -> Path:
    """The one file of weights in a folder, or the index of one in several files.

    Where a folder holds the same weights as safetensors and as a pickle, the former.

    Raises:
        UserError: none, or several.
    """
    for suffixes in (
        (INDEX,),
        (".safetensors",),
        (".bin", ".pth", ".pt", ".ckpt", ".tar", ".pt2", ".onnx"),
    ):
        found = sorted(path for path in folder.iterdir() if path.name.endswith(suffixes))
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:5])
            raise UserError(f"{folder}: {len(found)} files of weights: {names}; name one of them")
        if found:
            return found[0]
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    raise UserError(f"{folder}: no file of weights in it; found {names}")


def parts(index: Path) -> list[Path]:
    """The files that an index names, all of them there and beside it. Raises UserError."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{index}: not an index of weights ({error})") from None
    outside = sorted(name for name in names if Path(name).name != name)
    if outside:
        raise UserError(f"{index}: names a file outside its folder: {outside[0]!r}")
    lost = sorted(name for name in names if not (index.parent / name).exists())
    if lost:
        raise UserError(f"{index}: {len(lost)} of {len(names)} files are missing: {lost[0]}")
    return [index.parent / name for name in sorted(names)]


def _refusal(reason: str) -> str:
    """Why a pickle was not read, in one line."""
    found = re.search(r"(?:GLOBAL|global|function) ([\w.<>]+)", reason)
    if found is None:
        return f"not a file of weights ({reason.splitlines()[0][:100]})"
    return (
        f"refused: its pickle asks for {found[1]}, which weights do not need, and code in a "
        "checkpoint is never run. Save the weights alone where you trust the file: "
        "torch.save(model.state_dict(), …), or safetensors"
    )


def sets(tree: Tree, place: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The dictionaries in a tree that hold tensors, with their places ("student", "a.b")."""
    found = {n: v for n, v in tree.items() if isinstance(n, str) and isinstance(v, Tensor)}
    if found:
        yield place, found
    for name, value in tree.items():
        if isinstance(name, str) and isinstance(value, dict):
            yield from sets(value, f"{place}.{name}" if place else name)


def said(tree: Tree) -> dict[str, Any]:
    """Values beside the weights that name the architecture: settings of the training, flat."""
    out: dict[str, Any] = {}
    for name in ("args", "hyper_parameters", "config", "cfg"):
        value = tree.get(name)
        if isinstance(value, dict):
            out |= {**value, **vars(value)} if isinstance(value, Inert) else value
    return {**out, **{n: v for n, v in tree.items() if isinstance(v, str)}}
