"""A corpus as rows: nothing is lost, doubled or moved."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslbench.corpus import (
    IGNORED,
    Passages,
    corrupted,
    enclosed,
    packed,
    row_length,
    sentence_rows,
    sentences,
)
from sslbench.data.split import Texts, Tokens
from sslbench.errors import NotApplicable
from sslbench.random import Random
from tests.conftest import tiny_bert, tiny_texts

TEXTS = tiny_texts(20)
TOKENIZER = tiny_bert().tokenizer
DOCUMENTS = [TOKENIZER.inner.encode(text, add_special_tokens=False).ids for text in TEXTS.texts]


def filled(tokens: Tokens) -> list[list[int]]:
    return [row[here].tolist() for row, here in zip(tokens.ids, tokens.mask, strict=True)]


# ------------------------------------------------------------------------------ packed


@pytest.mark.parametrize("length", [1, 7, 24, 1000])
def test_every_token_is_packed_once_and_in_order(length):
    rows = packed(TEXTS, TOKENIZER, length)
    batch = rows[torch.arange(len(rows))].tokens
    expected = [i for document in DOCUMENTS for i in (TOKENIZER.sep, *document)]
    whole = len(expected) // length * length
    assert batch.mask.all()
    assert batch.ids.shape == (len(expected) // length, length)
    assert batch.ids.flatten().tolist() == expected[:whole]
    starts = (batch.ids.flatten() == TOKENIZER.sep).nonzero()[:, 0].tolist()
    places = np.cumsum([0, *(len(document) + 1 for document in DOCUMENTS)])[:-1]
    assert starts == [place for place in places if place < whole]


def test_a_corpus_shorter_than_a_row_is_refused():
    few = Texts(["one bird."])
    count = 1 + len(TOKENIZER.ids(few.texts)[0])
    with pytest.raises(NotApplicable, match=f"has {count} tokens, fewer than one row of 24"):
        packed(few, TOKENIZER, 24)


def test_row_length():
    encoder = tiny_bert()
    assert (row_length(encoder, 0), row_length(encoder, 5), row_length(encoder, 24)) == (24, 5, 24)
    for length in (-1, 25):
        with pytest.raises(ValueError, match=rf"length = {length}: bert.* takes 1 to 24 tokens"):
            row_length(encoder, length)


# ------------------------------------------------------------------------------ sentences


def test_sentences():
    text = 'He left. "Why?" she asked!  Nobody knew…\n\nA new line 3.5 long? Yes. no (So.) End'
    assert sentences(text) == [
        "He left.", '"Why?" she asked!', "Nobody knew…", "A new line 3.5 long?", "Yes. no (So.",
        "End",
    ]  # fmt: skip
    assert sentences(" \n ") == sentences("") == []


@given(st.lists(st.sampled_from(["A b. ", "C! ", "d?", "\n", ' "E." ', "f ", "G)"]), max_size=12))
@settings(max_examples=100, deadline=None)
def test_sentences_lose_no_word(parts):
    text = "".join(parts)
    assert re.findall(r"\w", " ".join(sentences(text))) == re.findall(r"\w", text)


def test_sentence_rows_are_the_sentences():
    rows = sentence_rows(TEXTS, TOKENIZER, 6, least=6)
    expected = []
    for text in TEXTS.texts:
        for sentence in re.findall(r"[^.]+\.", text):
            ids = TOKENIZER.inner.encode(sentence.strip(), add_special_tokens=False).ids
            if len(ids) >= 6:
                expected.append(ids[:6])
    assert filled(rows[torch.arange(len(rows))].tokens) == expected
    some = torch.tensor([4, 0, 9])
    assert filled(rows[some].tokens) == [expected[i] for i in some.tolist()]
    with pytest.raises(NotApplicable, match="no sentence of 99 tokens or more"):
        sentence_rows(TEXTS, TOKENIZER, 100, least=99)


# ------------------------------------------------------------------------------ passages


def whole_passages(length: int) -> tuple[Passages, list[list[int]]]:
    """The passages, and the number of the first one of each document with its followers."""
    passages = Passages(TEXTS, TOKENIZER, length)
    ids = filled(passages.rows[torch.arange(len(passages.rows))].tokens)
    numbers, place = [], 0
    for document in DOCUMENTS:
        here, left = [], len(document)
        while left:
            here.append(place)
            left -= len(ids[place])
            place += 1
        numbers.append(here)
    assert place == len(ids)
    return passages, numbers


@pytest.mark.parametrize("length", [20, 33, 45])
def test_passages_are_whole_sentences_in_order(length):
    passages, numbers = whole_passages(length)
    ids = filled(passages.rows[torch.arange(len(passages.rows))].tokens)
    stop = TOKENIZER.inner.token_to_id(".")
    for document, here in zip(DOCUMENTS, numbers, strict=True):
        assert [i for number in here for i in ids[number]] == document
        for number in here:
            assert len(ids[number]) <= length
            assert ids[number][-1] == stop
        for number in here[:-1]:  # the next sentence did not fit
            following = ids[number + 1].index(stop) + 1
            assert len(ids[number]) + following > length
    assert passages.first.tolist() == [number for here in numbers for number in here[:-1]]
    batch = passages[torch.tensor([3, 1])]
    assert filled(batch.tokens) == [ids[n] for n in batch.target.tolist()]
    assert batch.target.tolist() == passages.first[[3, 1]].tolist()


def test_sentences_longer_than_a_passage_are_cut():
    passages = Passages(TEXTS, TOKENIZER, 4)
    expected = []
    for text in TEXTS.texts:
        for sentence in re.findall(r"[^.]+\.", text):
            expected.append(TOKENIZER.inner.encode(sentence, add_special_tokens=False).ids[:4])
    assert filled(passages.rows[torch.arange(len(passages.rows))].tokens) == expected


def test_elsewhere_is_uniform_over_all_other_documents():
    passages, numbers = whole_passages(20)
    document = {number: d for d, here in enumerate(numbers) for number in here}
    count = len(passages.rows)
    for here in (numbers[0], numbers[7], numbers[-1]):
        others = count - len(here)
        each = 5
        draws = (torch.arange(others * each) + 0.5) / (others * each)  # evenly: exact counts
        for number in here:
            found = passages.elsewhere(torch.full((len(draws),), number), draws)
            assert {document[n] for n in found.tolist()} == set(range(20)) - {document[number]}
            counts = torch.bincount(found, minlength=count)
            assert all(counts[n] == (0 if n in here else each) for n in range(count))
        ends = passages.elsewhere(torch.tensor([here[0]] * 2), torch.tensor([0.0, 1 - 2**-24]))
        assert all(document[n] != document[here[0]] for n in ends.tolist())


def test_a_corpus_of_one_document_has_no_elsewhere():
    with pytest.raises(NotApplicable, match="need two documents or more, the corpus has one"):
        Passages(Texts(TEXTS.texts[:1]), TOKENIZER, 20)
    with pytest.raises(NotApplicable, match="no document of the corpus has two passages in a row"):
        Passages(Texts(["One bird.", "A child."]), TOKENIZER, 20)


# ------------------------------------------------------------------------------ enclosed

text = st.lists(st.integers(5, 40), max_size=6)


def padded(rows: list[list[int]]) -> Tokens:
    width = max(1, *map(len, rows))
    ids = torch.tensor([row + [77] * (width - len(row)) for row in rows])  # no id is 77
    mask = torch.tensor([[i < len(row) for i in range(width)] for row in rows])
    return Tokens(ids, mask, torch.zeros_like(ids))


@given(st.lists(st.tuples(text, text), min_size=1, max_size=5), st.booleans())
@settings(max_examples=150, deadline=None)
def test_enclosed(rows, pairs):
    first, second = padded([a for a, _ in rows]), padded([b for _, b in rows])
    found = enclosed(TOKENIZER, first, second if pairs else None)
    expected = []
    for a, b in rows:
        ids, segments = [TOKENIZER.cls, *a, TOKENIZER.sep], [0] * (len(a) + 2)
        if pairs:
            ids, segments = [*ids, *b, TOKENIZER.sep], segments + [1] * (len(b) + 1)
        expected.append((ids, segments))
    width = max(len(ids) for ids, _ in expected)
    assert found.ids.shape == found.mask.shape == found.segments.shape == (len(rows), width)
    for row, (ids, segments) in enumerate(expected):
        rest = width - len(ids)
        assert found.ids[row].tolist() == ids + [TOKENIZER.pad] * rest
        assert found.mask[row].tolist() == [True] * len(ids) + [False] * rest
        assert found.segments[row].tolist() == segments + [0] * rest


# ------------------------------------------------------------------------------ corrupted


def test_what_is_corrupted_does_not_depend_on_the_padding():
    places = torch.arange(6)
    ids = torch.randint(5, 60, (6, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    wide = Tokens(ids, mask, torch.zeros_like(ids))
    shares = {"selected": 0.5, "masked": 0.4, "replaced": 0.4}
    whole = corrupted(TOKENIZER, wide, Random(0, 0, places, 6), **shares)
    some = torch.tensor([4, 1])
    narrow = Tokens(ids[some, :13], mask[some, :13], torch.zeros_like(ids[some, :13]))
    part = corrupted(TOKENIZER, narrow, Random(0, 0, some, 6), **shares)
    for a, b in zip(whole, part, strict=True):
        assert a[some, :13].equal(b)


def test_padding_and_special_tokens_are_never_selected():
    special = [TOKENIZER.pad, TOKENIZER.unknown, TOKENIZER.cls, TOKENIZER.sep, TOKENIZER.mask]
    ids = torch.tensor([[*special, 9, 10, 11]]).repeat(50, 1)
    mask = (torch.arange(8) < 7).expand(50, -1)
    tokens = Tokens(ids, mask, torch.zeros_like(ids))
    found, labels = corrupted(TOKENIZER, tokens, Random(0, 0, torch.arange(50), 50), selected=1.0)
    assert found[:, :5].equal(ids[:, :5])
    assert labels[:, :5].eq(IGNORED).all()
    assert labels[:, 5:].eq(torch.tensor([9, 10, IGNORED])).all()
    assert found[:, 5:].eq(torch.tensor([TOKENIZER.mask, TOKENIZER.mask, 11])).all()
