import io
import tarfile

import numpy as np
import pytest

from sslbench.data import load
from sslbench.data.builtin_words import WORDS
from sslbench.data.fetch import problem
from sslbench.data.sources import word_sets
from sslbench.data.table import find


def archive(path, name, text):
    content = text.encode()
    with tarfile.open(path, "w:gz") as file:
        for place in ("gensim-4.4.0/other.txt", f"gensim-4.4.0/gensim/test/test_data/{name}"):
            member = tarfile.TarInfo(place)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return {"gensim": path}


def test_analogies_are_read_from_the_archive(tmp_path):
    countries = [f"City{i} Land{i} City{j} Land{j}" for i in range(5) for j in range(5) if i != j]
    plurals = [f"w{i} w{i}s w{j} w{j}s" for i in range(4) for j in range(4) if i != j]
    lines = [": capital cities", *countries, ": gram8-plural", *plurals, ""]
    word_sets.reduce_analogies(
        archive(tmp_path / "archive", "questions-words.txt", "\n".join(lines)), tmp_path
    )
    names, parts = word_sets.load_analogies(find("word-analogy"), tmp_path)
    assert names == ["capital cities", "gram8-plural"]
    found = [(*t, y) for p in parts.values() for t, y in zip(p.texts, p.labels, strict=True)]
    expected = [(*line.split(), 0) for line in countries] + [(*t.split(), 1) for t in plurals]
    assert sorted(found) == sorted(expected)
    pairs = [{text[:2] for text in part.texts} for part in parts.values()]
    assert len(set.union(*pairs)) == sum(map(len, pairs)) == 9
    assert [len(set(part.groups)) for part in parts.values()] == [len(pair) for pair in pairs]


@pytest.mark.parametrize(
    ("name", "file"), [("wordsim353", "wordsim353.tsv"), ("simlex999", "simlex999.txt")]
)
def test_rated_pairs_are_read_from_the_archive(tmp_path, name, file):
    lines = ["# a list", "# Word 1\tWord 2\tHuman (mean)"]
    lines += [f"word{i}\tother{i}\t{i / 4:.2f}" for i in range(20)]
    reducer = getattr(word_sets, f"reduce_{name}")
    reducer(archive(tmp_path / "archive", file, "\n".join([*lines, "", ""])), tmp_path)
    names, parts = word_sets.load_pairs(find(name), tmp_path)
    assert names == []
    assert {n: len(p) for n, p in parts.items()} == {"test": 16, "validation": 2, "train": 2}
    found = [(*t, y) for p in parts.values() for t, y in zip(p.texts, p.labels, strict=True)]
    assert sorted(found) == sorted((f"word{i}", f"other{i}", i / 4) for i in range(20))
    assert parts["test"].labels.dtype == np.float32


@pytest.mark.parametrize("name", [row.name for row in WORDS])
def test_splits_are_those_of_the_table(name):
    row = find(name)
    if (found := problem(row)) is not None:
        pytest.skip(f"{name} {found}: sslbench fetch {name}")
    data = load(name)
    assert {part: len(data[part]) for part in row.splits} == row.splits
    assert data.hash == row.hash
