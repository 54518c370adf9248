"""Word similarity against SciPy, word analogies against a loop."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from sslbench.data.split import Dataset, Texts
from sslbench.encoder import build
from sslbench.errors import NotApplicable
from sslbench.tasks import word_analogy
from sslbench.tasks.word_analogy import WordAnalogy, answers, vocabulary
from sslbench.tasks.word_similarity import WordSimilarity

WORDS_KNOWN = [f"{a}{b}" for a in "bcdfgklm" for b in ("a", "ey", "in", "ock", "um")]


def embeddings():
    """Vectors of 40 words, in lower case, and of the special tokens."""
    torch.manual_seed(0)
    return build({"name": "embeddings", "dim": 6}, Texts([" ".join(WORDS_KNOWN)])).eval()


def bert(vocabulary=60):
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings |= {"intermediate_size": 32, "max_position_embeddings": 24}
    torch.manual_seed(0)
    texts = Texts([" ".join(WORDS_KNOWN)] * 3)
    return build({"name": "bert", "vocabulary": vocabulary, **settings}, texts).eval()


def dataset(target, **splits):
    return Dataset("words", "text", (target,), 0, (), "top1", 0.0, splits)


def rated(n, seed, extra=()):
    random = np.random.default_rng(seed)
    pairs = [tuple(random.choice(WORDS_KNOWN, 2)) for _ in range(n)] + list(extra)
    return Texts(pairs, random.integers(0, 6, len(pairs)).astype(np.float32))  # with ties


def vector(encoder, word):
    """A word's row of the table, by hand."""
    return encoder.table.weight[encoder.tokenizer.inner.token_to_id(word.lower())].detach().numpy()


def cosine(x, y):
    return x @ y / (np.linalg.norm(x) * np.linalg.norm(y))


def test_similarity_is_the_rank_correlation_of_cosines(tmp_path):
    encoder = embeddings()
    unknown = [("zzz", "ba"), ("Ba", "yyy"), ("zzz", "zzz")]
    data = dataset("rating", train=rated(9, 1), validation=rated(8, 2), test=rated(30, 3, unknown))
    scores = WordSimilarity().run(encoder, data, seed=0, folder=tmp_path).scores

    def correlations(*splits):
        pairs = [pair for split in splits for pair in split.texts]
        ratings = np.concatenate([split.labels for split in splits])
        known = np.array([not {"zzz", "yyy"} & set(pair) for pair in pairs])
        found = [cosine(vector(encoder, a), vector(encoder, b))
                 for (a, b), k in zip(pairs, known, strict=True) if k]  # fmt: skip
        filled = np.full(len(pairs), np.mean(found))
        filled[known] = found
        return spearmanr(filled, ratings).statistic, spearmanr(found, ratings[known]).statistic

    every, covered = correlations(data["test"])
    assert scores["spearman"].value == pytest.approx(every)
    assert scores["spearman_covered"].value == pytest.approx(covered)
    assert scores["spearman_covered"].n == 30
    everywhere, _ = correlations(*(data[name] for name in ("train", "validation", "test")))
    assert scores["spearman_all"].value == pytest.approx(everywhere)
    assert scores["spearman_all"].n == 50
    assert scores["coverage"].value == pytest.approx(30 / 33)
    for name in ("spearman", "coverage"):
        assert len(scores[name].examples) == 33
        assert scores[name].examples.mean() == pytest.approx(scores[name].value)


def test_words_of_an_encoder_in_context_are_encoded_alone(tmp_path):
    encoder = bert()
    data = dataset("rating", train=rated(3, 1), validation=rated(3, 2), test=rated(12, 3))
    scores = WordSimilarity().run(encoder, data, seed=0, folder=tmp_path).scores

    def alone(word):
        ids = torch.tensor([encoder.tokenizer.inner.encode(word).ids])
        with torch.no_grad():
            return encoder.model.bert(ids).last_hidden_state[0].mean(0).numpy()

    cosines = [cosine(alone(a), alone(b)) for a, b in data["test"].texts]
    expected = spearmanr(cosines, data["test"].labels).statistic
    assert scores["spearman"].value == pytest.approx(expected)
    assert scores["coverage"].value == 1


def test_similarity_needs_single_and_known_words(tmp_path):
    def run(test):
        data = dataset("rating", train=rated(3, 1), validation=rated(3, 2), test=test)
        return WordSimilarity().run(embeddings(), data, seed=0, folder=tmp_path)

    with pytest.raises(NotApplicable, match="single words needed, found"):
        run(Texts([("ba", "a whole sentence")] * 3, np.ones(3, np.float32)))
    with pytest.raises(NotApplicable, match="1 of 2 pairs"):
        run(Texts([("ba", "bum"), ("ba", "zzz")], np.ones(2, np.float32)))


def nearest(encoder, a, b, c):
    """The word that is nearest to b − a + c by a loop over the table."""
    unit = {w: vector(encoder, w) / np.linalg.norm(vector(encoder, w)) for w in WORDS_KNOWN}
    wanted = unit[b] - unit[a] + unit[c]
    return max((w for w in WORDS_KNOWN if w not in (a, b, c)), key=lambda w: wanted @ unit[w])


def test_analogies_are_answered_as_by_a_loop(tmp_path, monkeypatch):
    encoder = embeddings()
    random = np.random.default_rng(0)
    questions, expected = [], []
    for i in range(40):
        a, b, c = random.choice(WORDS_KNOWN, 3)
        d = nearest(encoder, a, b, c) if i % 2 else random.choice(WORDS_KNOWN)
        questions.append((a.capitalize(), b, c, d))
        expected.append(float(d == nearest(encoder, a, b, c)))
    questions += [("ba", "bum", "ca", "zzz"), ("ba", "bum", "ca da", "ka")]
    labels = np.array([0] * 30 + [1] * 12)
    empty = Texts([], np.zeros(0, np.int64))
    data = dataset("analogy", train=empty, validation=empty, test=Texts(questions, labels))
    scores = WordAnalogy().run(encoder, data, seed=0, folder=tmp_path).scores
    assert scores["accuracy"].examples.tolist() == [*expected, 0, 0]
    assert scores["accuracy_covered"].value == pytest.approx(np.mean(expected))
    assert scores["coverage"].value == pytest.approx(40 / 42)
    by_kind = [np.mean(expected[:30]), np.sum(expected[30:]) / 12]
    assert scores["mean_per_class"].value == pytest.approx(np.mean(by_kind))
    assert all(len(score.examples) == 42 for score in scores.values())
    monkeypatch.setattr(word_analogy, "_SIMILARITIES", 100)
    again = WordAnalogy().run(encoder, data, seed=1, folder=tmp_path).scores
    assert again["accuracy"].examples.tolist() == scores["accuracy"].examples.tolist()


def test_the_words_of_the_question_are_no_answer():
    z = torch.tensor([[1, 0, 0], [1, 0.01, 0], [1, 0, 0.01], [0.7, 0.7, 0], [0, 0, 1]])
    assert answers(z, torch.tensor([[0, 1, 2], [0, 1, 3]])).tolist() == [3, 2]


def test_the_vocabulary_has_words_but_no_pieces_or_special_tokens():
    assert sorted(vocabulary(embeddings().tokenizer).values()) == sorted(WORDS_KNOWN)
    found = set(vocabulary(bert().tokenizer).values())
    assert found
    assert not any(word.startswith(("##", "[")) for word in found)


def test_analogies_need_their_words(tmp_path):
    def run(question):
        split = Texts([question])
        data = dataset("analogy", train=split, validation=split, test=split)
        return WordAnalogy().run(embeddings(), data, seed=0, folder=tmp_path)

    with pytest.raises(NotApplicable, match="no question has all its words among 40"):
        run(("ba", "bum", "ca", "zzz"))
    with pytest.raises(NotApplicable, match="four words"):
        run(("ba", "bum", "ca"))
