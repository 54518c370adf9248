"""What the parts of a run folder take."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from sslbench.storage import cache_root

PARTS = {"records": "records", "jobs": "job logs and scripts", "code": "code", "work": "work"}


@dataclass(frozen=True)
class Part:
    """Files of one kind.

    Attributes:
        name: of the kind.
        files: number of them.
        bytes: their size.
    """

    name: str
    files: int
    bytes: int


def usage(folder: Path) -> list[Part]:
    """The parts of a run folder, and the feature cache, which all run folders share."""
    files, size = Counter[str](), Counter[str]()
    for path, taken in contents(folder):
        name = _part(path.relative_to(folder).parts)
        files[name] += 1
        size[name] += taken
    names = ["records", "encoders", "training states", "training logs", *PARTS.values(), "other"]
    found = [Part(name, files[name], size[name]) for name in dict.fromkeys(names)]
    cached = [taken for _, taken in contents(cache_root() / "features")]
    return [*found, Part("feature cache", len(cached), sum(cached))]


def contents(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every file under a folder with its size in bytes; those that vanish meanwhile are left out.

    A path that is itself a file is all there is under it.
    """
    if not folder.is_dir() and folder.exists():
        yield folder, folder.lstat().st_size
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                yield path, path.lstat().st_size
            except FileNotFoundError:
                continue


def _part(parts: tuple[str, ...]) -> str:
    """The kind of a file, from its path in the run folder."""
    if parts[0] != "checkpoints":
        return PARTS.get(parts[0], "other")
    inside = [part.lstrip(".") for part in parts[3:]]  # half-written ones start with a dot
    if any(part.startswith("encoder") for part in inside[:-1]):
        return "encoders"
    return "training states" if inside and inside[0].startswith("state") else "training logs"


def text(size: float) -> str:
    """A size in bytes as people read it: 1.5 GB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def table(parts: list[Part]) -> Table:
    """One row per part."""
    shown = Table(box=None, pad_edge=False)
    for name in ("on disk", "files", "size"):
        shown.add_column(name, justify="left" if name == "on disk" else "right")
    for part in parts:
        shown.add_row(part.name, str(part.files), text(part.bytes))
    return shown
