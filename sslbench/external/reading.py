"""Files of weights → tensors by name; recognised by content, and nothing in them ever runs."""

import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sslbench.errors import UserError

INDEX = ".index.json"  # of weights in several files
Tree = dict[
    str, Any
]  # what a file holds: tensors and other values, in dictionaries of dictionaries


class Inert:
    """Stands for an object of a class that checkpoints hold beside their weights.

    It keeps the object's attributes, and does nothing with them.
    """

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(name): value for name, value in state.items()})


def _mapping(*_: Any) -> OrderedDict[Any, Any]:
    """Stands for the constructor of dictionaries with a default value."""
    return OrderedDict()


# Classes whose objects training code leaves beside the weights. Whatever else a pickle asks for is
# refused.
_HARMLESS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "functools.partial",
    *(f"datetime.{kind}" for kind in ("date", "datetime", "timedelta", "timezone")),
    *(
        f"{builtins}.{kind}"
        for builtins in ("builtins", "__builtin__")
        for kind in ("bool", "dict", "float", "frozenset", "int", "list", "range", "slice", "str")
    ),
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
    "mmengine.logging.history_buffer.HistoryBuffer",
)
_DICTIONARIES = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "mmengine.config.config.ConfigDict",
    "vissl.utils.hydra_config.AttrDict",
    "yacs.config.CfgNode",
)
_STAND_INS: list[Any] = [
    *((Inert, name) for name in _HARMLESS),
    *((OrderedDict, name) for name in _DICTIONARIES),
    (_mapping, "collections.defaultdict"),
]
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
    if not path.is_file():
        raise UserError(f"{path}: not a regular file")
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
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):  # a pickle
        return "torch"
    if path.suffix == ".py":
        return "python"
    if start[0] == 8 and start[1:2] < b" ":  # field 1 of an ONNX model: its version
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
        if zipfile.is_zipfile(path):  # torch does not look at the checksums
            with zipfile.ZipFile(path) as archive:
                if (bad := archive.testzip()) is not None:
                    raise RuntimeError(f"checksum of {bad} differs")
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how long sparse tensors take
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_refusal(str(error))}") from None
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
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
        outside = sorted(n for n in names if Path(n).name != n or n in ("", ".", "..", index.name))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index}: not an index of weights ({error})") from None
    if any(name.endswith(INDEX) for name in names):
        raise UserError(f"{index}: names another index")
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
        said = reason.partition("WeightsUnpickler error:")[2].strip() or reason
        return f"not a file of weights ({said.splitlines()[0][:100]})"
    return (
        f"refused: its pickle asks for {found[1]}, which weights do not need, and code in a "
        "checkpoint is never run. Save the weights alone where you trust the file: "
        "torch.save(model.state_dict(), …), or safetensors"
    )


def sets(tree: Tree) -> list[tuple[str, dict[str, Tensor]]]:
    """The dictionaries in a tree that hold tensors, with their places ("student", "a.b").

    Raises:
        UserError: a tensor that is sparse, quantised, or has no values.
    """
    out, seen = [], set()
    queue: list[tuple[str, Any]] = [("", tree)]
    for place, value in queue:
        if id(value) in seen or not isinstance(value, dict | list | tuple):
            continue
        seen.add(id(value))  # a pickle can hold one thing in many places, and itself
        items = value.items() if isinstance(value, dict) else enumerate(value)
        named = {str(name): inner for name, inner in items}
        found = {name: inner for name, inner in named.items() if isinstance(inner, Tensor)}
        for name, tensor in found.items():
            if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
                kind_ = "has no values" if tensor.is_meta else "is quantised or sparse"
                raise UserError(f"the tensor {name!r} {kind_}")
        if found and isinstance(value, dict):
            out.append((place, found))
        queue += [(f"{place}.{name}" if place else name, inner) for name, inner in named.items()]
    return out


def said(tree: Tree) -> Iterator[tuple[str, str]]:
    """Texts beside the weights, with the last two keys that lead there: "backbone.name"."""
    seen = set()
    queue: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    for keys, value in queue:
        if isinstance(value, str | int):
            yield ".".join(keys[-2:]), str(value)
        if id(value) in seen or not isinstance(value, dict | Inert) or len(keys) > 3:
            continue
        seen.add(id(value))
        items = value if isinstance(value, dict) else vars(value)
        queue += [((*keys, str(name)), inner) for name, inner in items.items()]
