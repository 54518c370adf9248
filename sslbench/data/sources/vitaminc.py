"""vitaminc: does a sentence of Wikipedia support a claim, refute it, or neither?

The pairs of VitaminC (Schuster, Fisch, Barzilay 2021, arXiv:2103.08541) that BIG-bench carries: its
sentences differ in details only, so that neither half of a pair tells the label. A pair is (claim,
"Page: sentence"); escaped brackets and colons are written out, the rest is as in the source,
tokenised punctuation and a few lost characters (U+FFFD) included.

The groups are the pages: carve.py deals whole pages, about a fifth of the pairs to test and a tenth
to validation. No claim occurs on two pages.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sslbench.data.carve import carve
from sslbench.data.sources.compact_text import deal, members, read, write
from sslbench.data.split import Split
from sslbench.data.table import Row

_MEMBER = r"bigbench-1\.0\.0/.*/vitaminc_fact_verification/task\.json"
_CLASSES = {"True": "supports", "False": "refutes", "Neither": "neither"}
_ESCAPES = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-COLON-": ":"}


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """Write claim, page, sentence and label of each pair, in the source's order."""
    _, task = next(members(archives["bigbench"], _MEMBER))
    rows = []
    for example in json.loads(task)["examples"]:
        evidence, claim = example["input"].split("\nClaim: ")
        page, sentence = evidence.split(": ", 1)  # a colon in a page's name is escaped
        label = [example["target_scores"][answer] for answer in _CLASSES].index(1)
        rows.append((*map(_plain, (claim, page, sentence)), label))
    write(folder, rows)


def _plain(text: str) -> str:
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return text


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """Three classes of pairs; train, validation and test, with the pages as groups."""
    rows = read(folder)
    pages = {page: number for number, page in enumerate(dict.fromkeys(row[1] for row in rows))}
    texts = [(claim, f"{page}: {sentence}") for claim, page, sentence, _ in rows]
    labels = np.array([label for *_, label in rows], np.int64)
    groups = np.array([pages[page] for _, page, *_ in rows], np.int64)
    parts = carve(labels, {"test": 0.2, "validation": 0.1}, groups)
    return list(_CLASSES.values()), deal(parts, texts, labels, groups)
