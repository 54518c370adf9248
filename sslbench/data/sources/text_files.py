"""Texts of one's own: a file, or a folder with train, validation (or val, dev) and test files.

A .txt file holds documents with blank lines between them. A .csv, .tsv or .jsonl file holds one
example per line: `text` (or `text_a`), `text_b` where texts come in pairs, and `label` where they
are classified, a string or an integer. What is not given is dealt from train, see parts.py.

Paragraphs of one document that lie in several splits flatter a language model: where that matters,
bring a test file.
"""

from pathlib import Path
from typing import Any

import numpy as np

from sslbench.data.parts import complete
from sslbench.data.split import Split, Texts
from sslbench.data.table import Row
from sslbench.data.tabular import (
    Line,
    read_documents,
    read_table,
    text_columns,
    text_files,
    wrong,
)
from sslbench.errors import UserError


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """The classes are the labels of train, sorted; whole numbers by size."""
    path = row.options["path"]
    files = text_files(path)
    columns = text_columns(files["train"])
    lines = {name: _lines(file, columns) for name, file in files.items()}
    names: list[str] = []
    if "label" in columns:
        names = _sorted({_label(files["train"], line) for line in lines["train"]})
    numbers = {name: i for i, name in enumerate(names)}
    parts = {name: _split(files[name], found, numbers) for name, found in lines.items()}
    return names, complete(parts, str(path))


def _lines(path: Path, columns: tuple[str, ...]) -> list[Line]:
    """All lines of a file, which must have the columns of train."""
    if path.suffix.lower() != ".txt":
        return list(read_table(path, columns, columns))
    if columns != ("text",):
        raise UserError(f"{path}: train has the columns {', '.join(columns)}, a .txt file has none")
    return [(i, {"text": text}) for i, text in enumerate(read_documents(path), 1)]


def _split(path: Path, lines: list[Line], numbers: dict[str, int]) -> Texts:
    labels = [numbers.get(_label(path, line), -1) for line in lines] if numbers else None
    if labels is not None and -1 in labels:
        number, values = lines[labels.index(-1)]
        raise wrong(path, number, f"label {values['label']!r} is not among those of train")
    texts: Any = [_text(path, line) for line in lines]  # all strings, or all pairs
    return Texts(texts, None if labels is None else np.array(labels, np.int64))


def _text(path: Path, line: Line) -> str | tuple[str, ...]:
    number, values = line
    texts = tuple(values[c] for c in ("text", "text_a", "text_b") if c in values)
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise wrong(path, number, f"expected a text, found {text!r}")
    return texts if len(texts) > 1 else texts[0]


def _label(path: Path, line: Line) -> str:
    number, values = line
    label = values["label"]
    if label == "" or isinstance(label, bool) or not isinstance(label, str | int):
        raise wrong(path, number, f"a label is a string or an integer, found {label!r}")
    return str(label)


def _sorted(labels: set[str]) -> list[str]:
    try:
        return sorted(labels, key=int)
    except ValueError:
        return sorted(labels)
