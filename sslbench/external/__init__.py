"""Other people's checkpoints → an Encoder with all of its weights, or a clear error.

The formats are recognised by what is in the files, not by their names.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from sslbench.errors import NotApplicable, UserError, suggest
from sslbench.external.request import Report, Request

if TYPE_CHECKING:
    from sslbench.encoder import Encoder


class _Format(Protocol):
    def load(self, path: Path, request: Request) -> "tuple[Encoder, Report]": ...


def load(path: Path, request: Request) -> "tuple[Encoder, Report]":
    """The encoder of a checkpoint, in eval mode, and what was found in it.

    Args:
        path: a folder as transformers, timm or open_clip write it, or a file: a state dict,
            torch.export, ONNX, or Python with a function `load`.
        request: what the checkpoint does not say.

    Raises:
        UserError: no checkpoint, a damaged one, or one whose weights do not all fit.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    try:
        return _load(path, request)
    except (UserError, NotApplicable, OSError):
        raise
    except Exception as error:  # of what the files say, a library has refused something
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: {type(error).__name__}: {reason}") from error


def _load(path: Path, request: Request) -> "tuple[Encoder, Report]":
    from sslbench.external import reading, state_dict

    if path.is_dir():
        if (path / "open_clip_config.json").exists():
            return _module("open_clip").load(path, request)
        named = path / "config.json"
        if named.exists() and "model_type" in reading.table(named):
            return _module(_kind(path)).load(path, request)
        if not state_dict.is_timm(path):
            path = reading.weights_file(path)
    kind = "torch" if path.is_dir() else reading.kind(path)
    names = {"python": "adapter", "onnx": "onnx", "torch.export": "exported"}
    return _module(names.get(kind, "state_dict")).load(path, request)


def _kind(folder: Path) -> str:
    """The module for a folder of transformers': by its model type. Raises UserError."""
    from sslbench.external import hugging_face_image, reading, text

    known = {"hugging_face_image": hugging_face_image.MODEL_TYPES, "text": text.MODEL_TYPES}
    found = reading.table(folder / "config.json").get("model_type")
    for name, types in known.items():
        if found in types:
            return name
    allowed = suggest(str(found), [word for types in known.values() for word in types])
    raise UserError(f"{folder}: model type {found!r} is not known here; {allowed}")


def _module(name: str) -> _Format:
    """The module of a format, imported when it is needed: some want packages of their own."""
    return cast(_Format, import_module(f"sslbench.external.{name}"))
