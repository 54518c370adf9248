"""Tags of words: spans against seqeval, states of first tokens and the protocol against loops."""

import random as python_random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sslbench import probe
from sslbench.data.split import Dataset, Texts
from sslbench.encoder import build
from sslbench.errors import UserError
from sslbench.tags import is_bio, span_f1, spans
from sslbench.tasks import tagging
from sslbench.tasks.tagging import Tagging
from sslbench.words import word_states
from tests.conftest import WORDS, tiny_bert, tiny_embeddings

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-A-B", "I-A-B"]
SIZES = {"train": 30, "validation": 12, "test": 40}
SENTENCES = st.lists(st.lists(st.sampled_from(BIO), min_size=1, max_size=8), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-PER", {("PER", 0, 1), ("PER", 3, 3)}),
        ("I-PER I-PER O", {("PER", 0, 1)}),  # I- without B- begins a span
        ("B-PER I-LOC I-LOC", {("PER", 0, 0), ("LOC", 1, 2)}),  # another type begins another span
        ("B-PER B-PER I-PER", {("PER", 0, 0), ("PER", 1, 2)}),
        ("O I-LOC B-LOC I-PER", {("LOC", 1, 1), ("LOC", 2, 2), ("PER", 3, 3)}),
        ("O O", set()),
    ],
)
def test_spans(tags, expected):
    assert spans(tags.split()) == expected == set(get_entities(tags.split()))


@given(SENTENCES)
def test_spans_are_those_of_seqeval(sentences):
    for tags in sentences:
        assert spans(tags) == set(get_entities(tags))


@given(SENTENCES, st.integers(0, 2**32))
@pytest.mark.filterwarnings("ignore::seqeval.metrics.v1.UndefinedMetricWarning")
def test_span_f1_is_that_of_seqeval(sentences, seed):
    draw = python_random.Random(seed)
    found = [[tag if draw.random() < 0.6 else draw.choice(BIO) for tag in s] for s in sentences]
    parts = span_f1(sentences, found)
    assert len(parts) == len(sentences)
    assert parts.mean() == pytest.approx(f1_score(sentences, found, zero_division=0))


def test_which_tags_mark_spans():
    assert is_bio(["O", "B-X", "I-X"])
    assert not is_bio(["O", "O"])
    assert not is_bio(["NN", "VB", "O"])
    assert not is_bio(["B-X", "E-X"])


def tagged(kinds, noise=0.15):
    """Sentences whose tags depend on their words; the last one of each split is very long."""
    random = np.random.default_rng(0)
    splits = {}
    for name, n in SIZES.items():
        lengths = [*random.integers(3, 9, n - 1), 30]
        texts = [tuple(random.choice(WORDS, length).tolist()) for length in lengths]
        shown = (
            np.where(random.random(len(t)) < noise, random.choice(WORDS, len(t)), t) for t in texts
        )
        splits[name] = Texts(texts, targets=[kinds(words.tolist()) for words in shown])
    return splits


def bio(words):
    begins = [WORDS.index(word) // 5 for word in words]
    out, before = [], None
    for kind in begins:
        if kind < 3:
            out.append("O")
        else:
            out.append(("I-" if kind == before else "B-") + ("PER", "LOC")[kind % 2])
        before = kind
    return out


def pos(words):
    return [("NN", "VB", "DT")[WORDS.index(word) % 3] for word in words]


def dataset(kinds=pos, metric="top1", noise=0.15):
    return Dataset("tagged", "text", ("tags",), 0, (), metric, 0.2, tagged(kinds, noise))


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return tiny_bert().eval()


@torch.inference_mode()
def states(encoder, split, layer=-1):
    """First sub-words by the library's own word ids, one sentence at a time; None if cut off."""
    out = []
    for words in split.texts:
        (encoding,) = encoder.tokenizer.encodings([words], encoder.length, words=True)
        hidden = encoder.hidden(encoder.tokenizer.pad_together([encoding]))[layer][0].numpy()
        ids = encoding.word_ids
        out.append([hidden[ids.index(i)] if i in ids else None for i in range(len(words))])
    return out


def flat(parts):
    return [item for part in parts for item in part]


@pytest.mark.parametrize(("kinds", "metric"), [(pos, "top1"), (bio, "span_f1")])
def test_the_protocol(kinds, metric, encoder, tmp_path):
    data = dataset(kinds, metric)
    result = Tagging().run(encoder, data, seed=0, folder=tmp_path)
    x = {name: states(encoder, split) for name, split in data.splits.items()}
    y = {name: split.targets for name, split in data.splits.items()}
    assert any(state is None for state in flat(x["test"]))  # longer than the encoder takes

    def predict(names, C, queries):
        pairs = [p for n in names for p in zip(flat(x[n]), flat(y[n]), strict=True)]
        known, tags = zip(*(pair for pair in pairs if pair[0] is not None), strict=True)
        scaler = StandardScaler().fit(np.array(known, float))
        model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
        model.fit(scaler.transform(known), tags)
        out = []
        for sentence in x[queries]:
            row = [
                "" if s is None else model.predict(scaler.transform(s[None]))[0] for s in sentence
            ]
            out.append(row)
        return out

    def score(tags, found):
        if metric == "top1":
            return np.mean([a == b for a, b in zip(flat(tags), flat(found), strict=True)])
        return f1_score(tags, [[tag or "O" for tag in sentence] for sentence in found])

    chosen = result.selected["C"]
    assert result.selected[metric] == pytest.approx(
        score(y["validation"], predict(["train"], chosen, "validation"))
    )
    found = predict(["train", "validation"], chosen, "test")
    assert result.scores[metric].value == pytest.approx(score(y["test"], found))
    right = [a == b for a, b in zip(flat(y["test"]), flat(found), strict=True)]
    assert result.scores["top1"].value == pytest.approx(np.mean(right))
    assert set(result.scores) == {"top1", "span_f1"} if kinds is bio else {"top1"}
    assert 0.3 < result.scores[metric].value < 0.97
    for part in result.scores.values():
        assert part.n == len(part.examples) == SIZES["test"]


@pytest.mark.parametrize(
    ("tokenizer", "vocabulary", "first", "lost"),
    [
        ("wordpiece", 290, ["don", "stop", "ete", "a", "new"], True),
        ("words", 290, ["don", "stop", "ete", "a", "new"], True),
        ("characters", 290, ["D", "s", "\u00e9", "a", "n"], False),
        ("bpe", 261, ["D", "s", "\u00c3", "a", "n"], False),  # bytes, spaces apart
        (
            "bpe",
            400,
            ["Don", "\u0120stop", "\u0120\u00c3\u00a9t\u00c3\u00a9", "\u0120a", "\u0120new"],
            False,
        ),
    ],
)
def test_states_are_those_of_the_first_token_of_a_word(tokenizer, vocabulary, first, lost):
    corpus = Texts(["Don't stop, ever 12", "go on: a new day in \u00e9t\u00e9"])
    config = {"name": "embeddings", "tokenizer": tokenizer, "vocabulary": vocabulary, "dim": 4}
    encoder = build(config, corpus)
    words = ("Don't", "stop,", "\u00e9t\u00e9", "a", "new", "\u200b")  # the last has no width
    split = Texts([words, ("day",)], targets=[list("123456"), ["7"]])
    found = word_states(encoder, split, 0)
    assert found.filled(found.known) == [[*"12345", "" if lost else "6"], ["7"]]
    for place, token in enumerate(first):
        (row,) = np.flatnonzero((found.sentence == 0) & (found.place == place))
        expected = encoder.table.weight[encoder.tokenizer.inner.token_to_id(token)]
        np.testing.assert_array_equal(found.states[row], expected.detach().numpy(), token)


@pytest.fixture
def few_penalties(monkeypatch):
    monkeypatch.setattr(probe, "PENALTIES", [0.01, 1.0])


@pytest.mark.usefixtures("few_penalties")
def test_the_best_layer(encoder, tmp_path):
    data = dataset()
    every = Tagging(layer="all").run(encoder, data, seed=0, folder=tmp_path)
    layers = every.selected["layers"]
    assert list(layers) == ["embeddings", "block1", "block2"]
    best = max(layers, key=lambda layer: layers[layer]["top1"])
    assert every.selected["best_layer"] == best
    named = Tagging(layer=best).run(encoder, data, seed=0, folder=tmp_path)
    assert every.scores["top1_best_layer"].value == named.scores["top1"].value
    last = Tagging().run(encoder, data, seed=0, folder=tmp_path)
    assert every.scores["top1"].value == last.scores["top1"].value
    with pytest.raises(UserError, match="did you mean 'block2'"):
        Tagging(layer="blok2").run(encoder, data, seed=0, folder=tmp_path)


def test_static_embeddings_know_words(tmp_path):
    torch.manual_seed(0)
    result = Tagging().run(tiny_embeddings(), dataset(noise=0), seed=0, folder=tmp_path)
    assert result.scores["top1"].value > 0.95


@pytest.mark.usefixtures("few_penalties")
def test_no_batch_moves_a_number(encoder, tmp_path, monkeypatch):
    data = dataset(bio)
    expected = Tagging().run(encoder, data, seed=0, folder=tmp_path)
    monkeypatch.setattr("sslbench.words.BATCH", 3)
    monkeypatch.setattr(tagging, "PART", 7)
    found = Tagging().run(encoder, data, seed=0, folder=tmp_path)
    for name, score in expected.scores.items():
        np.testing.assert_allclose(found.scores[name].examples, score.examples, atol=1e-9)


@pytest.mark.usefixtures("few_penalties")
def test_fewer_sentences(encoder, tmp_path):
    few = [
        Tagging(train_examples=10).run(encoder, dataset(), seed=seed, folder=tmp_path)
        for seed in (0, 0, 1)
    ]
    assert few[0].selected == few[1].selected
    np.testing.assert_array_equal(few[0].scores["top1"].examples, few[1].scores["top1"].examples)
    assert (few[0].scores["top1"].examples != few[2].scores["top1"].examples).any()
    with pytest.raises(UserError, match="found -3"):
        Tagging(train_examples=-3)


def test_as_many_tags_as_words(encoder, tmp_path):
    data = dataset()
    data["train"].targets[4].append("NN")
    with pytest.raises(ValueError, match="tags"):
        Tagging().run(encoder, data, seed=0, folder=tmp_path)
