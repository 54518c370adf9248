"""GLUE's tasks (Wang et al. 2019, arXiv:1804.07461), from the official .tsv files on disk.

The labels of GLUE's own test files are not public. So the official development split, on which
papers report, is the test split here, and carve.py deals a tenth of train to validation. The
files are never quoted. Lines that are broken in the official files (QQP has a few) are left out, as
GLUE's own code does; a file without the columns of its task is an error.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sslbench.data.files import data_root
from sslbench.data.parts import complete
from sslbench.data.split import Split, Texts
from sslbench.data.table import Row
from sslbench.data.tabular import not_utf8, wrong
from sslbench.errors import UserError


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """Train, validation, test (the official dev), and MNLI's "mismatched" dev."""
    root = data_root() / "glue" / row.options["folder"]
    files = {"train": "train.tsv", **row.options["held_out"]}
    parts = {name: _split(row, root / file) for name, file in files.items()}
    return list(row.options["names"]), complete(parts, row.name)


def _split(row: Row, path: Path) -> Texts:
    values = row.options["values"]  # labels as the file has them; none where they are ratings
    texts: list[Any] = []
    labels: list[float] = []
    for number, (label, *text) in _lines(path, [row.options["label"], *row.options["texts"]]):
        if not values:
            labels.append(_rating(path, number, label))
        elif label in values:
            labels.append(values.index(label))
        else:
            raise wrong(path, number, f"label {label!r}; allowed: {', '.join(values)}")
        texts.append(tuple(text) if len(text) > 1 else text[0])
    return Texts(texts, np.array(labels, np.int64 if values else np.float32))


def _rating(path: Path, number: int, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise wrong(path, number, f"expected a rating, found {value!r}") from None


def _lines(path: Path, columns: Sequence[str | int]) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and the values of `columns`, by the file's header or, as numbers, without one.

    Raises:
        UserError: the file or a column is missing, or it is not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; put the official files into {path.parent}")
    places = [c for c in columns if isinstance(c, int)]
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                cells = line.rstrip("\r\n").split("\t")
                if not places:
                    if absent := [column for column in columns if column not in cells]:
                        raise wrong(path, number, f"no column {absent[0]!r}, only {cells}")
                    places = [cells.index(str(column)) for column in columns]
                elif len(cells) > max(places):
                    yield number, [cells[place] for place in places]
        except UnicodeDecodeError as error:
            raise not_utf8(path) from error
