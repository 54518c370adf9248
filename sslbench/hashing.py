"""Names for things on disk: hashes of all that determined them."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def digest(*parts: Any) -> str:
    """32 hex digits that identify numbers, strings, arrays, and lists and dicts of them."""
    state = hashlib.sha256()
    for part in parts:
        _update(state, part)
    return state.hexdigest()[:32]


def _update(state: "hashlib._Hash", part: Any) -> None:
    numpy = sys.modules.get("numpy")  # without it nothing is an array, and commands start sooner
    if numpy is not None and isinstance(part, numpy.ndarray):
        state.update(f"{part.dtype.str}{part.shape}".encode())
        state.update(numpy.ascontiguousarray(part).data)
    else:
        state.update(json.dumps(part, sort_keys=True, separators=(",", ":")).encode() + b"\0")


def file_sha256(path: Path) -> str:
    """Sha256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
