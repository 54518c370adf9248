"""Records one by one, so that a damaged one does not hide the others."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sslbench.errors import UserError
from sslbench.leaderboard.findings import Finding
from sslbench.records import SCHEMA, Record, Store, parse_record, store_in

Raw = bytes | OSError  # what a record's place holds, or why it cannot be read


def opened(source: Path) -> Store | None:
    """The store of a folder; None for lines. Raises UserError where there is nothing."""
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    store = store_in(source)
    lines = source / "records.jsonl"
    if source.is_dir() and (not lines.is_file() or any(store.folder.glob("??/*.json"))):
        return store
    return None


def raw(source: Path, store: Store | None) -> Iterator[tuple[str, Raw]]:
    """The place and the content of each record."""
    if store is None:
        path = source if source.is_file() else source / "records.jsonl"
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield f"{path}:{number}", line
        return
    for path in sorted(store.folder.glob("??/*.json")):
        try:
            yield str(path), path.read_bytes()
        except OSError as error:
            yield str(path), error


def parsed(place: str, content: Raw) -> Record | list[Finding]:
    """The record, or all that keeps it from being one."""
    try:
        if isinstance(content, OSError):
            raise content
        return parse_record(content.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        texts = [str(error)]
    found: Any = None
    if isinstance(content, bytes):
        with suppress(ValueError, RecursionError):
            found = json.loads(content)
    if not isinstance(found, dict):
        return [Finding(place, "", "", "", "", "schema", "problem", text) for text in texts]
    version = found.get("schema_version")
    if version == SCHEMA:
        try:
            Record.model_validate(found)
        except ValidationError as error:
            texts = [_field(each) for each in error.errors(include_url=False)]
    elif isinstance(version, int):
        remedy = "update sslbench" if version > SCHEMA else "publish it again"
        age = "newer" if version > SCHEMA else "older"
        texts = [f"schema version {version}, {age} than {SCHEMA} of this sslbench: {remedy}"]
    checkpoint = found.get("checkpoint")
    name = checkpoint.get("name") if isinstance(checkpoint, dict) else None
    known = [found.get("key"), name, found.get("task"), found.get("dataset")]
    key, name, task, dataset = (text if isinstance(text, str) else "?" for text in known)
    return [Finding(place, key, name, task, dataset, "schema", "problem", t) for t in texts]


def _field(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    found = "" if error["type"] == "missing" else f", found {error['input']!r}"[:80]
    return f"{place}: {error['msg']}{found}"
