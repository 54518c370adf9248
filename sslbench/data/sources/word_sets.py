"""word-analogy, wordsim353, simlex999: lists of words that gensim carries for its tests.

- word-analogy: a is to b as c is to d, in 14 kinds of relation (Mikolov et al. 2013,
  arXiv:1301.3781); the kinds are the classes, questions with the same a and b a group.
- wordsim353: pairs rated for relatedness from 0 to 10 (Finkelstein et al. 2002,
  doi:10.1145/503104.503110); in the source one pair is there twice, with two ratings.
- simlex999: pairs rated for similarity, not relatedness, from 0 to 10 (Hill et al. 2015,
  arXiv:1408.3456).

Nothing has to be learned from them, and published numbers are over all examples; carve.py deals a
tenth to validation and a tenth to train, whole groups where there are groups.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sslbench.data.carve import carve
from sslbench.data.sources.compact_text import deal, members, read, write
from sslbench.data.split import Split
from sslbench.data.table import Row

_SHARES = {"test": 0.8, "validation": 0.1}


def reduce_analogies(archives: Mapping[str, Path], folder: Path) -> None:
    """Write kind of relation, a, b, c and d of each question, in the source's order."""
    questions, kind = [], ""
    for line in _lines(archives, "questions-words.txt"):
        mark, _, rest = line.partition(" ")
        if mark == ":":
            kind = rest
        else:
            questions.append([kind, *line.split()])
    write(folder, questions)


def reduce_wordsim353(archives: Mapping[str, Path], folder: Path) -> None:
    """Write two words and their rating, in the source's order."""
    _reduce_pairs(archives, "wordsim353.tsv", folder)


def reduce_simlex999(archives: Mapping[str, Path], folder: Path) -> None:
    """Write two words and their rating, in the source's order."""
    _reduce_pairs(archives, "simlex999.txt", folder)


def _reduce_pairs(archives: Mapping[str, Path], name: str, folder: Path) -> None:
    lines = (line.split("\t") for line in _lines(archives, name) if not line.startswith("#"))
    write(folder, [[first, second, float(rating)] for first, second, rating in lines])


def _lines(archives: Mapping[str, Path], name: str) -> list[str]:
    """The lines of one of gensim's test files, without the empty ones."""
    _, content = next(members(archives["gensim"], rf"[^/]*/gensim/test/test_data/{name}"))
    return [line for line in content.decode().splitlines() if line.strip()]


def load_analogies(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """The kinds of relation; train, validation and test with a kind for each question."""
    questions = read(folder)
    names = list(dict.fromkeys(kind for kind, *_ in questions))
    labels = np.array([names.index(kind) for kind, *_ in questions], np.int64)
    numbers: dict[tuple[str, ...], int] = {}  # by kind, a and b
    groups = [numbers.setdefault(tuple(question[:3]), len(numbers)) for question in questions]
    group_array = np.array(groups, np.int64)
    texts = [tuple(words) for _, *words in questions]
    return names, deal(carve(labels, _SHARES, group_array), texts, labels, group_array)


def load_pairs(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """No classes; train, validation and test with a rating for each pair."""
    *words, ratings = zip(*read(folder), strict=True)
    parts = carve(np.zeros(len(ratings), np.int64), _SHARES)
    return [], deal(parts, list(zip(*words, strict=True)), np.array(ratings, np.float32))
