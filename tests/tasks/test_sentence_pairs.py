"""Pairs of texts and endings of contexts: combined features, and the protocols on them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sslbench.data.split import Batch, Dataset, Texts
from sslbench.errors import NotApplicable, UserError
from sslbench.tasks.multiple_choice import MultipleChoice
from sslbench.tasks.sentence_pairs import SentencePairs
from sslbench.text import combined
from tests.conftest import WORDS, tiny_bert, tiny_embeddings

SIZES = {"train": 160, "validation": 46, "test": 90}
PENALTIES = np.logspace(-6, 5, 45)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return tiny_bert().eval()


def sentence(random):
    return " ".join(random.choice(WORDS, 6, replace=False))


def pairs():
    """1: the second text has 3 words of the first, in another order; 0: it has its own."""
    random = np.random.default_rng(0)
    splits = {}
    for name, n in SIZES.items():
        labels, texts = np.arange(n) % 2, []
        for label in labels:
            first = sentence(random)
            kept = random.choice(first.split(), 3, replace=False)
            same = " ".join([*kept, *random.choice(WORDS, 3)])
            texts.append((first, same if label else sentence(random)))
        splits[name] = Texts(texts, labels)
    return Dataset("pairs", "text", ("pair",), 2, ("other", "same"), "top1", 0.5, splits)


def choices():
    """The right ending repeats words of its context; contexts have 2 to 4 endings."""
    random = np.random.default_rng(1)
    splits = {}
    for name, n in SIZES.items():
        labels, texts = [], []
        for _ in range(n):
            endings = [sentence(random) for _ in range(random.integers(2, 5))]
            labels.append(random.integers(len(endings)))
            kept = random.choice(endings[labels[-1]].split(), 5, replace=False)
            texts.append((" ".join([*kept, random.choice(WORDS)]), *endings))
        splits[name] = Texts(texts, np.array(labels))
    return Dataset("endings", "text", ("choice",), 4, tuple("abcd"), "top1", 0.4, splits)


def embed(encoder, texts):
    """One text at a time, without anything of the harness's passes over splits."""
    with torch.inference_mode():
        rows = [encoder(encoder.preprocess(Batch(torch.zeros(1), texts=[t])))[0] for t in texts]
    return torch.stack(rows).double().numpy()


def both_sides(encoder, texts):
    u, v = (embed(encoder, [text[i] for text in texts]) for i in (0, 1))
    return np.hstack([u, v, abs(u - v), u * v])


def model(x, y, C):
    scaler = StandardScaler().fit(x)
    fitted = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(scaler.transform(x), y)
    return lambda queries: fitted.decision_function(scaler.transform(queries))


def test_features_of_pairs(encoder):
    split = pairs()["test"]
    (found,) = combined(encoder, split, "last").values()
    np.testing.assert_allclose(found, both_sides(encoder, split.texts), atol=2e-6)
    every = combined(encoder, split, "all")
    np.testing.assert_array_equal(list(every.values())[-1], found)
    assert len(every) == 5


def test_pairs_are_told_apart_as_scikit_learn_does(tmp_path):
    torch.manual_seed(0)
    encoder, data = tiny_embeddings().eval(), pairs()
    result = SentencePairs().run(encoder, data, seed=0, folder=tmp_path)
    x = {name: both_sides(encoder, split.texts) for name, split in data.splits.items()}
    y = {name: split.labels for name, split in data.splits.items()}
    values = [
        ((model(x["train"], y["train"], C)(x["validation"]) > 0) == y["validation"]).mean()
        for C in PENALTIES
    ]
    best = int(np.argmax(values))
    assert result.selected["C"] == pytest.approx(PENALTIES[best])
    known = [np.concatenate([part["train"], part["validation"]]) for part in (x, y)]
    right = (model(*known, PENALTIES[best])(x["test"]) > 0) == y["test"]
    assert result.scores["top1"].value == pytest.approx(right.mean())
    assert 0.6 < right.mean() < 1
    assert set(result.scores) == {"top1", "mean_per_class", "macro_f1", "mcc"}


def test_fewer_pairs(encoder, tmp_path):
    result = SentencePairs(train_examples=40).run(encoder, pairs(), seed=0, folder=tmp_path)
    assert result.scores["top1"].n == SIZES["test"]
    with pytest.raises(UserError, match="found -2"):
        SentencePairs(train_examples=-2)


def test_single_texts_are_no_pairs(encoder, tmp_path):
    data = pairs()
    for name, split in data.splits.items():
        data.splits[name] = Texts([a for a, _ in split.texts], split.labels)
    with pytest.raises(NotApplicable, match="pairs of texts"):
        SentencePairs().run(encoder, data, seed=0, folder=tmp_path)


def answers(encoder, texts, score):
    """The ending of highest score, by a loop."""
    out = []
    for context, *endings in texts:
        x = both_sides(encoder, [(context, ending) for ending in endings])
        out.append(int(np.argmax(score(x))))
    return np.array(out)


def test_the_best_ending_is_the_answer(tmp_path):
    torch.manual_seed(0)
    encoder, data = tiny_embeddings().eval(), choices()
    result = MultipleChoice().run(encoder, data, seed=0, folder=tmp_path)
    x, y = {}, {}
    for name in ("train", "validation"):
        flat = [
            (context, ending, place == answer)
            for (context, *endings), answer in zip(data[name].texts, data[name].labels, strict=True)
            for place, ending in enumerate(endings)
        ]
        x[name], y[name] = both_sides(encoder, flat), np.array([right for *_, right in flat])
    C = result.selected["C"]
    held_out = answers(encoder, data["validation"].texts, model(x["train"], y["train"], C))
    assert result.selected["top1"] == (held_out == data["validation"].labels).mean()
    known = [np.concatenate([part["train"], part["validation"]]) for part in (x, y)]
    right = answers(encoder, data["test"].texts, model(*known, C)) == data["test"].labels
    assert result.scores["top1"].value == right.mean() > 0.6
    np.testing.assert_array_equal(result.scores["top1"].examples, right)


def test_answers_must_be_among_the_endings(encoder, tmp_path):
    data = choices()
    data["test"].labels[3] = 4
    with pytest.raises(NotApplicable, match="none of its endings"):
        MultipleChoice().run(encoder, data, seed=0, folder=tmp_path)
