"""Python files with a function `load` → an Encoder."""

import hashlib
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from sslbench.encoder import Encoder
from sslbench.errors import UserError
from sslbench.external.network import opened
from sslbench.external.request import Report, Request


def load(path: Path, request: Request) -> tuple[Encoder, Report]:
    """The encoder that a Python file's `load()` gives, or `load(path)` with the file's own path.

    It returns an Encoder, which does its own preprocessing, or any module that maps normalised
    images (B, 3, S, S) to features: see `Opaque` for these and for the settings `output` and
    `pooling` in `request.encoder`. The file can import what is installed, and what it adds to
    `sys.path`; the hash is that of the file alone, beside that of the weights.

    Raises:
        UserError: no trust in the file, an error inside it, no `load` in it, something else that
            it returns, or settings that do not fit.
    """
    if not request.trust_code:
        raise UserError(f"{path} is a Python file: running it needs --trust-code")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error}") from None
    sha256 = hashlib.sha256(source).hexdigest()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what it does not load gets the same values every time
            made = _run(path, source, f"sslbench_file_{sha256[:16]}")
    except (Exception, SystemExit) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: {type(error).__name__}: {reason}") from error
    files, said = {path.name: sha256}, "the file's own"
    encoder: Encoder
    if isinstance(made, Encoder):
        encoder = _own(made, path, sha256, request).eval()
    elif isinstance(made, nn.Module):
        shape = (None, 3, None, None)
        encoder, said = opened("python_file", path, files, request, made, shape)
    else:
        found = type(made).__name__
        raise UserError(f"{path}: load() gives {found}; an Encoder or a torch module expected")
    count = len(made.state_dict())
    return encoder, Report("Python file", files, matched=count, wanted=count, preprocessing=said)


def _run(path: Path, source: bytes, name: str) -> Any:
    """What the file's `load` returns; what is run is what was hashed."""
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # where dataclasses and pickle look for its classes
    exec(compile(source, str(path), "exec"), vars(module))
    function = vars(module).get("load")
    if not callable(function):
        raise LookupError("it has no function load()")
    try:
        inspect.signature(function).bind()
    except TypeError:
        return function(path)
    return function()


def _own(made: Encoder, path: Path, sha256: str, request: Request) -> Encoder:
    """The file's Encoder, whose configuration names the file."""
    given = [*request.encoder, *request.preprocess]
    if given:
        raise UserError(f"{path} gives an Encoder, which has its settings; not {', '.join(given)}")
    kind, config = type(made).__name__, getattr(made, "config", {})
    if not isinstance(dim := getattr(made, "dim", None), int):
        raise UserError(f"{path}: dim = {dim!r} of its {kind}; a number expected")
    try:
        inner = {"name": kind, **config}
        json.dumps(inner)
    except TypeError as error:
        raise UserError(f"{path}: config of its {kind}: {error}; plain values expected") from None
    made.config = {"name": "python_file", "sha256": sha256[:16], "encoder": inner}
    return made
