"""Files of texts: .csv, .tsv and .jsonl tables, and .txt; what is wrong is told by its line.

Imports neither torch nor numpy, so that a row of the dataset table can say what a file holds.
"""

import csv
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from sslbench.errors import UserError, suggest

Line = tuple[int, dict[str, Any]]  # number in the file, from 1, and value by column

KINDS = (".txt", ".jsonl", ".csv", ".tsv")
SPLITS = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
}  # what files, folders and columns call a split, and what it is called here


def wrong(path: Path, line: int, message: str) -> UserError:
    """The error for what is found in a line of a file."""
    return UserError(f"{path}, line {line}: {message}")


def read_table(path: Path, columns: Collection[str], required: Collection[str]) -> Iterator[Line]:
    """The lines of a .csv (quoted where needed), .tsv (never quoted) or .jsonl file in UTF-8.

    Args:
        path: of the file.
        columns: those allowed.
        required: those that every line must have.

    Raises:
        UserError: a column is unknown or missing, a line cannot be read, or there is none.
    """
    read = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl}[path.suffix.lower()]
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, values in read(path, file):
                for column in values:
                    if column not in columns:
                        hint = suggest(str(column), list(columns))
                        raise wrong(path, number, f"unknown column {column!r}; {hint}")
                if absent := [column for column in required if column not in values]:
                    found = ", ".join(values)
                    raise wrong(path, number, f"no column {absent[0]!r}, only {found or 'nothing'}")
                yield number, values
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there") from error
    if number == 0:
        raise UserError(f"{path}: expected examples, found none")


def read_documents(path: Path) -> Iterator[str]:
    """What blank lines separate in a text file in UTF-8.

    Raises:
        UserError: it is not UTF-8.
    """
    lines: list[str] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if line.strip():
                    lines.append(line)
                elif lines:
                    yield "".join(lines).strip()
                    lines = []
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    if lines:
        yield "".join(lines).strip()


def text_files(path: Path) -> dict[str, Path]:
    """The file of each split: `path` itself is all of "train", a folder may have several.

    Raises:
        UserError: there is no such file or folder, or it holds nothing to train on.
    """
    if path.is_file() and path.suffix.lower() in KINDS:
        return {"train": path}
    if not path.is_dir():
        found = f"a file {path.suffix or 'without suffix'}" if path.exists() else "nothing"
        raise UserError(f"{path}: expected a folder or a file {', '.join(KINDS)}, found {found}")
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in KINDS and file.stem in SPLITS:
            name = SPLITS[file.stem]
            if name in files:
                raise UserError(f"{path}: {files[name].name} and {file.name} are both {name}")
            files[name] = file
    if "train" not in files:
        found = ", ".join(file.name for file in files.values()) or "none"
        raise UserError(f"{path}: expected a file train{{{','.join(KINDS)}}}, found {found}")
    return files


def text_columns(path: Path) -> tuple[str, ...]:
    """Columns of a file of texts, by its first line.

    Raises:
        UserError: there is no text in it.
    """
    if path.suffix.lower() == ".txt":
        return ("text",)
    number, values = next(read_table(path, ("text", "text_a", "text_b", "label"), ()))
    if ("text" in values) == ("text_a" in values):
        raise wrong(path, number, f"expected a column 'text' or 'text_a', found {[*values]}")
    return tuple(values)


def not_utf8(path: Path) -> UserError:
    """The error that names the first line which is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte 0x{line[error.start]:02x}"
                return wrong(path, number, f"{byte} is not UTF-8; save the file as UTF-8")
    return UserError(f"{path} is not UTF-8")


def _csv(path: Path, file: Any) -> Iterator[Line]:
    yield from _delimited(path, csv.DictReader(file, strict=True))


def _tsv(path: Path, file: Any) -> Iterator[Line]:
    reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    yield from _delimited(path, reader)


def _delimited(path: Path, reader: "csv.DictReader[str]") -> Iterator[Line]:
    try:
        names = reader.fieldnames or []
        for values in reader:
            if None in values or None in values.values():
                raise wrong(path, reader.line_num, f"{len(names)} columns expected: {list(names)}")
            yield reader.line_num, dict(values)
    except csv.Error as error:
        raise wrong(path, reader.line_num + 1, f"{error}") from error  # where the line starts


def _jsonl(path: Path, file: Any) -> Iterator[Line]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise wrong(path, number, f"not JSON: {error.msg}") from error
        if not isinstance(values, Mapping):
            raise wrong(path, number, f"expected an object with keys, found {line.strip()[:40]}")
        yield number, dict(values)
