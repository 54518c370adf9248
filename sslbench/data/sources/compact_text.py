"""What the fetched texts share: reading archives, one compact file, and splits dealt from it."""

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sslbench.data.split import Split, Texts


def members(archive: Path | bytes, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a .tar.gz whose whole name matches a regular expression.

    The archive, a path or the content, is read from front to end, as far as the caller goes on.
    """
    source = io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb")
    with source, tarfile.open(fileobj=source, mode="r|gz") as files:
        for member in files:
            if member.isfile() and re.fullmatch(pattern, member.name):
                file = files.extractfile(member)
                assert file is not None  # it is a regular file
                yield member.name, file.read()


def write(folder: Path, content: Any) -> None:
    """Keep what JSON can hold in `folder`; equal contents make equal files."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (folder / "texts.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def read(folder: Path) -> Any:
    """What `write` kept."""
    return json.loads(gzip.decompress((folder / "texts.json.gz").read_bytes()))


def deal(
    parts: Mapping[str, np.ndarray],
    texts: Sequence[Any],
    labels: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    targets: Sequence[Any] | None = None,
) -> dict[str, Split]:
    """Splits in memory of n texts, with labels (n,), groups (n,) and n targets, at `parts`."""
    return {
        name: Texts(
            [texts[i] for i in index],
            None if labels is None else labels[index],
            None if groups is None else groups[index],
            None if targets is None else [targets[i] for i in index],
        )
        for name, index in parts.items()
    }
