"""Tokenizers: what they learn from a corpus, and what they make of texts."""

import subprocess
import sys

import pytest
import torch

from sslbench.data.split import Texts
from sslbench.errors import UserError
from sslbench.tokenizer import KINDS, Tokenizer, place, trained

CORPUS = Texts(
    [
        "The quiet river ran under the old bridge.\n\nNobody crossed it at night.",
        "An old doctor's letters: quiet, cold and long. The bridge was closed!",
        "Río, naïve café — 東京.",
    ]
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [False, True])
def test_templates_masks_and_segments(kind, causal):
    made = trained(CORPUS, kind, 320, causal)
    tokens = made(["the old bridge", ("the river", "a quiet bridge"), ""], 64)
    first, second = made.ids(["the river", "a quiet bridge"])
    if causal:
        pair = [made.sep, *first, made.sep, *second]
        segments = [0] * (len(first) + 2) + [1] * len(second)
        empty = 1
    elif kind == "words":
        pair, segments, empty = first + second, [0] * len(first) + [1] * len(second), 0
    else:
        pair = [made.cls, *first, made.sep, *second, made.sep]
        segments = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        empty = 2
    n = len(pair)
    assert tokens.ids[1, :n].tolist() == pair
    assert tokens.segments[1, :n].tolist() == segments
    assert tokens.mask.sum(1).tolist()[1:] == [n, empty]
    assert bool((tokens.ids[~tokens.mask] == made.pad).all())
    assert made.special[[made.pad, made.unknown, made.cls, made.sep, made.mask]].all()
    assert int(made.special.sum()) == 5


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_what_keeps_every_character_gives_the_text_back(kind):
    made = trained(CORPUS, kind, 320)
    for text in CORPUS.texts:
        (encoding,) = made.encodings([text])
        assert made.unknown not in encoding.ids
        if kind == "bpe":
            assert made.inner.decode(encoding.ids) == text
        else:
            assert "".join(text[a:b] for a, b in encoding.offsets[1:-1]) == text


def test_long_texts_are_cut_and_of_pairs_the_longer_one():
    made = trained(CORPUS, "wordpiece", 200)
    assert made(["river " * 50], 12).ids.shape == (1, 12)
    tokens = made([("the river", "bridge " * 50)], 12)
    short, long = made.ids(["the river", "bridge " * 50])
    assert tokens.ids[0].tolist() == [made.cls, *short, made.sep, *long[: 9 - len(short)], made.sep]
    assert len(made(["river " * 50], 400)) == 1  # the limit of one call is not that of the next
    assert made(["river " * 50], 400).ids.shape[1] > 50


def test_ids_are_of_the_whole_text_whatever_was_cut_before():
    tokenizer = trained(CORPUS, "bpe", 320, causal=True)
    text = "some words that come back " * 20
    whole = tokenizer.ids([text])
    tokenizer([text], 8)
    assert tokenizer.ids([text]) == whole
    tokenizer.encodings([("one", text)], 16, overlap=4)
    assert tokenizer.ids([text]) == whole


def test_words_keep_their_place():
    made = trained(CORPUS, "wordpiece", 200)
    (encoding,) = made.encodings([("The", "zebra", "ran")], words=True)
    assert {i for i in encoding.word_ids if i is not None} == {0, 1, 2}


def test_it_is_learned_once_and_the_same_in_every_process(tmp_path):
    made = trained(CORPUS, "wordpiece", 200)
    path = place(CORPUS, "wordpiece", 200, False)
    assert Tokenizer.parse(path.read_text()).hash == made.hash
    path.write_text(path.read_text().replace("river", "rivet"))
    assert trained(CORPUS, "wordpiece", 200).hash != made.hash  # read, not learned again
    program = (
        "import sys; from tests.test_tokenizer import CORPUS; "
        "from sslbench.tokenizer import trained; print(trained(CORPUS, sys.argv[1], 320).hash)"
    )
    for kind in KINDS:
        path = place(CORPUS, kind, 320, False)
        found = set()
        for _ in range(2):
            path.unlink(missing_ok=True)
            done = subprocess.run(
                [sys.executable, "-c", program, kind], capture_output=True, text=True, check=True
            )
            found.add(done.stdout.strip())
        assert found == {trained(CORPUS, kind, 320).hash}


def test_wrong_kinds_and_sizes_are_refused():
    with pytest.raises(UserError, match="tokenizer 'wordpeice'; did you mean 'wordpiece'"):
        trained(CORPUS, "wordpeice", 100)
    with pytest.raises(UserError, match="vocabulary = 100: at least 261 tokens for 'bpe'"):
        trained(CORPUS, "bpe", 100)
    with pytest.raises(UserError, match="not a tokenizer"):
        Tokenizer.parse("{}")


def test_tokens_split_index_and_move():
    made = trained(CORPUS, "words", 50)
    tokens = made(["the river", "the", "old bridge"], 8)
    assert [len(part) for part in tokens.split(2)] == [2, 1]
    assert torch.equal(tokens[torch.tensor([2])].ids, tokens.ids[2:])
    assert tokens.to("cpu").mask.equal(tokens.mask)
