"""conll2003: names of persons, organisations, places and others in news of Reuters.

Tjong Kim Sang and De Meulder. Introduction to the CoNLL-2003 Shared Task. CoNLL 2003.
arXiv:cs/0306050. The official eng.train, eng.testa (validation) and eng.testb (test).

The files are in IOB1, where B- only parts a name from one of the same kind just before it. The
targets are in IOB2 (BIO), where every name starts with B-. Documents are the groups.
"""

from pathlib import Path

import numpy as np

from sslbench.data.files import data_root
from sslbench.data.split import Split, Texts
from sslbench.data.table import Row
from sslbench.data.tabular import not_utf8, wrong
from sslbench.errors import UserError

_FILES = {"train": "eng.train", "validation": "eng.testa", "test": "eng.testb"}
TAGS = ["O", *(f"{place}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for place in "BI")]


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """The nine tags; sentences as tuples of words."""
    root = data_root() / "conll2003"
    return TAGS, {name: _split(root / file) for name, file in _FILES.items()}


def _split(path: Path) -> Texts:
    words: list[tuple[str, ...]] = []
    tags: list[list[str]] = []
    groups: list[int] = []
    group = 0
    sentence: list[tuple[str, str]] = []
    for number, line in enumerate([*_read(path), ""], 1):
        cells = line.split()
        if cells and cells[0] == "-DOCSTART-":
            group += 1
        elif cells:
            if len(cells) < 2 or cells[-1] not in TAGS:
                raise wrong(path, number, f"expected a word and one of {TAGS}, found {line!r}")
            sentence.append((cells[0], cells[-1]))
        elif sentence:
            words.append(tuple(word for word, _ in sentence))
            tags.append(iob2([tag for _, tag in sentence]))
            groups.append(group)
            sentence = []
    return Texts(words, groups=np.array(groups, np.int64), targets=tags)


def _read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} is not there; put the official files there") from None
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error


def iob2(tags: list[str]) -> list[str]:
    """Tags of a sentence in IOB1 or IOB2, in IOB2."""
    before = ["O", *tags[:-1]]
    return [
        f"B-{tag[2:]}" if tag[0] == "I" and last[2:] != tag[2:] else tag
        for last, tag in zip(before, tags, strict=True)
    ]
