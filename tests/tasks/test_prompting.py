"""Prompting against a loop over transformers' logits, one sequence at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sslbench.checkpoint import weights_hash
from sslbench.data.carve import scramble
from sslbench.data.split import Dataset, Texts
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.tasks import prompting
from sslbench.tasks.prompting import Prompting, _likelihoods
from tests.conftest import tiny_images

NAMES = ("good", "very bad", "so so")
LETTERS = "Label: Review is good very bad so\nabcdefghijklmnop"


def split(n, seed, words=8):
    random = np.random.default_rng(seed)
    vocabulary = ["it", "was", "good", "bad", "film", "Fine", "dull", "very", "long"]
    texts = [" ".join(random.choice(vocabulary, random.integers(2, words))) for _ in range(n)]
    return Texts(texts, np.arange(n) % 3)


def dataset(test=20, words=8):
    splits = {"train": split(30, 0), "validation": split(5, 1), "test": split(test, 2, words)}
    return Dataset("reviews", "text", ("label",), 3, NAMES, "top1", 0.35, splits)


def model(name="gpt2", tokenizer="bpe", length=96):
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings |= {"max_position_embeddings": length, "initializer_range": 0.3}
    if name == "llama":
        settings["intermediate_size"] = 32
    torch.manual_seed(0)
    corpus = Texts([*split(30, 0).texts, LETTERS, *NAMES, "\n\n", "Label: "] * 2)
    config = {"name": name, "tokenizer": tokenizer, "vocabulary": 300, **settings}
    return build(config, corpus).eval()


def spoken(encoder, context, label):
    """Log-likelihood of the label after the context, token by token."""
    inner = encoder.tokenizer.inner
    inner.no_truncation()
    before, ids = len(inner.encode(context.rstrip(" ")).ids), inner.encode(context + label).ids
    if encoder.config["tokenizer"] == "characters":
        before = 1 + len(context)
    with torch.no_grad():
        logits = encoder.model(torch.tensor([ids])).logits[0].double()
    total = 0.0
    for place in range(before, len(ids)):
        p = torch.softmax(logits[place - 1], 0)
        total += float(torch.log(p[ids[place]]))
    return total


@pytest.mark.parametrize(
    ("name", "tokenizer"), [("gpt2", "bpe"), ("llama", "wordpiece"), ("gpt2", "characters")]
)
def test_the_likeliest_label_is_that_of_a_loop(name, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(prompting, "ROWS", 7)
    encoder, data = model(name, tokenizer), dataset()
    before = weights_hash(encoder)
    result = Prompting().run(encoder, data, seed=0, folder=tmp_path)
    assert weights_hash(encoder) == before

    test = data["test"]
    found = np.array(
        [[spoken(encoder, f"{text}\nLabel: ", label) for label in NAMES] for text in test.texts]
    )
    alone = np.array([spoken(encoder, "\nLabel: ", label) for label in NAMES])
    ways = {
        "top1": found,
        "top1_normalised": found / [4, 8, 5],
        "top1_pmi": found - alone,
    }
    chosen = {name: values.argmax(1) for name, values in ways.items()}
    assert len({tuple(choice) for choice in chosen.values()}) == 3  # the three ways differ
    assert len(set(chosen["top1_pmi"])) > 1
    for name, choice in chosen.items():
        correct = (choice == test.labels).astype(float)
        assert result.scores[name].examples.tolist() == correct.tolist()
    by_class = [np.mean(chosen["top1"][test.labels == y] == y) for y in range(3)]
    assert result.scores["mean_per_class"].value == pytest.approx(np.mean(by_class))


def test_likelihoods_are_those_of_a_loop():
    encoder = model()
    rows = Prompting()._rows(encoder, [("it was", "good"), ("very long film", "")], NAMES)
    context = "it was\nLabel: good\n\nvery long film\nLabel: "
    expected = [spoken(encoder, context, label) for label in NAMES]
    np.testing.assert_allclose(_likelihoods(encoder, rows), expected, atol=1e-5)


def shown(encoder, rows):
    """What the model reads, from a tokenizer of characters."""
    return ["".join(row.encoding.tokens[1:]) for row in rows]


def test_examples_come_before_the_question():
    encoder = model(tokenizer="characters")
    task = Prompting(template="Review: {text} is {label}", separator=" | ")
    rows = task._rows(encoder, [("abc", "good"), ("def", "bad"), ("x {text} {label}", "")], NAMES)
    before = "Review: abc is good | Review: def is bad | Review: x {text} {label} is "
    known = set(LETTERS) | set("itwasgoodbadfilmFinedullverylong")
    expected = [[c if c in known else "[UNK]" for c in before + name] for name in NAMES]
    assert [row.encoding.tokens[1:] for row in rows] == expected


@pytest.mark.parametrize("length", [80, 90, 103])
def test_long_texts_are_cut_alike_and_labels_never(length):
    encoder = model(tokenizer="characters", length=length)
    examples = [("abcdefgh" * 9, "good"), ("abc", "very bad"), ("ponmlkji" * 20, "")]

    def whole(most):
        parts = [f"{text[:most]}\nLabel: {label}" for text, label in examples]
        return ["\n\n".join(parts) + name for name in NAMES]

    fits = [most for most in range(200) if 1 + max(map(len, whole(most))) <= length]
    assert shown(encoder, Prompting()._rows(encoder, examples, NAMES)) == whole(max(fits))
    with pytest.raises(NotApplicable, match=f"examples without their texts .* sees {length}"):
        Prompting()._rows(encoder, examples * 8, NAMES)


@pytest.mark.parametrize("shots", [1, 2, 3, 4, 7, 12])
def test_shots_are_balanced_and_drawn_by_the_seed(shots):
    train = split(30, 0)
    task = Prompting(shots=shots)
    drawn = task._shown(train, 50, seed=0)
    assert drawn.shape == (50, shots)
    for row in drawn:
        assert len(set(row)) == shots
        counts = np.bincount(train.labels[row], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert len({tuple(row) for row in drawn}) > 10
    assert (drawn == task._shown(train, 50, seed=0)).all()
    assert (drawn != task._shown(train, 50, seed=1)).any()


def test_the_seed_moves_a_score_only_through_the_examples(tmp_path, monkeypatch):
    encoder, data = model(length=200), dataset(60)

    def found(seed, **settings):
        scores = Prompting(**settings).run(encoder, data, seed=seed, folder=tmp_path).scores
        return {name: score.examples.tolist() for name, score in scores.items()}

    assert found(0) == found(1)
    assert found(0, shots=3) == found(0, shots=3)
    assert found(0, shots=3) != found(1, shots=3)
    assert found(0, shots=3) != found(0)
    expected = found(0, shots=3)
    monkeypatch.setattr(prompting, "ROWS", 4)
    assert found(0, shots=3) == expected


def test_a_share_of_the_test_texts_is_always_the_same(tmp_path):
    encoder, data = model("llama", "wordpiece"), dataset(40)

    def pmi(seed=0, **settings):
        result = Prompting(**settings).run(encoder, data, seed=seed, folder=tmp_path)
        return result.scores["top1_pmi"].examples.tolist()

    every = pmi()
    chosen = np.sort(np.argsort(scramble(np.arange(40)))[:12])
    assert pmi(test_examples=12) == [every[i] for i in chosen]
    assert pmi(1, test_examples=12) == pmi(0, test_examples=12)
    assert pmi(test_examples=99) == every


def test_labels_can_be_called_otherwise(tmp_path):
    encoder, data = model(), dataset(60)
    plain = Prompting().run(encoder, data, seed=0, folder=tmp_path).scores["top1"].examples
    named = Prompting(labels=("Fine", "dull", "long")).run(encoder, data, seed=0, folder=tmp_path)
    assert named.scores["top1"].examples.tolist() != plain.tolist()
    for labels in (("Fine", "dull"), ("Fine", "", "long")):
        with pytest.raises(UserError, match="a name for each class of reviews"):
            Prompting(labels=labels).run(encoder, data, seed=0, folder=tmp_path)


def test_what_prompting_cannot_do_is_said(tmp_path):
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = build({"name": "bert", "vocabulary": 100, **settings}, split(5, 0))
    with pytest.raises(NotApplicable, match="causal language model; bert"):
        Prompting().run(bert, dataset(), seed=0, folder=tmp_path)
    with pytest.raises(NotApplicable, match="10 training texts; 11 needed"):
        Prompting(shots=31)._shown(split(30, 0), 5, seed=0)
    nameless = replace(dataset(), class_names=())
    with pytest.raises(NotApplicable, match="its classes have no names"):
        Prompting().run(model(), nameless, seed=0, folder=tmp_path)
    images = replace(dataset(), splits={"test": tiny_images()})
    with pytest.raises(NotApplicable, match="plain texts needed, found none"):
        Prompting().run(model(), images, seed=0, folder=tmp_path)
    encoder = model(tokenizer="wordpiece")
    with pytest.raises(NotApplicable, match="no token is of the label"):
        Prompting(labels=("good", " ", "bad")).run(encoder, dataset(), seed=0, folder=tmp_path)


@pytest.mark.parametrize(
    "template", ["{text}", "{label}", "{text} {label}.", "{text}{text}{label}"]
)
def test_a_template_needs_a_text_and_ends_with_the_label(template):
    with pytest.raises(UserError, match="template"):
        Prompting(template=template)
    with pytest.raises(UserError, match="shots"):
        Prompting(shots=-1)
