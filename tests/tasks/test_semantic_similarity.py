"""Similarity of texts against scipy's correlations and scikit-learn's ridge regression."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge

from sslbench.contributions import pearson, ratio, spearman
from sslbench.data.split import Batch, Dataset, Texts
from sslbench.ridge import PENALTIES
from sslbench.tasks.semantic_similarity import SemanticSimilarity
from tests.conftest import WORDS, tiny_bert, tiny_embeddings

REFERENCE = {
    "spearman": lambda a, b: stats.spearmanr(a, b).statistic,
    "pearson": lambda a, b: stats.pearsonr(a, b).statistic,
}
SIZES = {"train": 60, "validation": 30, "test": 50}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return tiny_bert().eval()


def dataset():
    """The rating is the number of words that two texts share."""
    random = np.random.default_rng(0)
    splits = {}
    for name, n in SIZES.items():
        ratings, texts = random.integers(0, 7, n), []
        for shared in ratings:
            words = random.choice(WORDS, 12 - shared, replace=False)
            second = random.permutation(np.r_[words[:shared], words[6:]])
            texts.append((" ".join(words[:6]), " ".join(second)))
        splits[name] = Texts(texts, ratings.astype(np.float32))
    return Dataset("rated", "text", ("rating",), 0, (), "spearman", 0.0, splits)


def embed(encoder, texts):
    with torch.inference_mode():
        rows = [encoder(encoder.preprocess(Batch(torch.zeros(1), texts=[t])))[0] for t in texts]
    return torch.stack(rows).double().numpy()


def sides(encoder, split):
    return [embed(encoder, [text[i] for text in split.texts]) for i in (0, 1)]


def test_cosines_against_ratings(encoder, tmp_path):
    data = dataset()
    result = SemanticSimilarity().run(encoder, data, seed=0, folder=tmp_path)
    u, v = sides(encoder, data["test"])
    cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    for name, score in result.scores.items():
        expected = REFERENCE[name](cosine, data["test"].labels)
        assert score.value == pytest.approx(expected, abs=1e-4)
        assert score.n == len(score.examples) == SIZES["test"]
        assert score.examples.mean() == pytest.approx(score.value)
    assert result.scores["spearman"].value > 0.3
    assert SemanticSimilarity().chance(data) is None


def test_another_layer(encoder, tmp_path):
    found = SemanticSimilarity(layer="embeddings.mean").run(
        encoder, dataset(), seed=0, folder=tmp_path
    )
    last = SemanticSimilarity().run(encoder, dataset(), seed=0, folder=tmp_path)
    assert found.scores["pearson"].value != last.scores["pearson"].value


def test_learned_similarity(encoder, tmp_path):
    data = dataset()
    result = SemanticSimilarity(regression=True).run(encoder, data, seed=0, folder=tmp_path)
    x = {}
    for name, split in data.splits.items():
        u, v = sides(encoder, split)
        x[name] = np.hstack([u, v, abs(u - v), u * v])
    known = np.concatenate([x["train"], x["validation"]])
    y = np.concatenate([data["train"].labels, data["validation"].labels]).astype(float)
    scale = known.std(0)
    known, unseen = known / scale, x["test"] / scale

    def error(penalty):
        residuals = []
        for i in range(len(y)):
            model = Ridge(alpha=penalty * known.shape[1], solver="svd")
            model.fit(np.delete(known, i, axis=0), np.delete(y, i))
            residuals.append(y[i] - model.predict(known[i : i + 1])[0])
        return np.square(residuals).sum()

    best = min(PENALTIES.tolist(), key=error)
    assert result.selected["penalty"] == pytest.approx(best)
    found = Ridge(alpha=best * known.shape[1], solver="svd").fit(known, y).predict(unseen)
    for name, score in result.scores.items():
        expected = REFERENCE[name](found, data["test"].labels)
        assert score.value == pytest.approx(expected, abs=1e-4)


def test_a_text_without_features_has_cosine_zero(tmp_path):
    torch.manual_seed(0)
    texts = [("", WORDS[0]), (WORDS[1], WORDS[1]), (WORDS[1], WORDS[2]), (WORDS[3], WORDS[4])]
    split = Texts(texts, np.array([1, 5, 2, 3], np.float32))
    splits = dict.fromkeys(SIZES, split)
    data = Dataset("rated", "text", ("rating",), 0, (), "spearman", 0.0, splits)
    encoder = tiny_embeddings()
    found = SemanticSimilarity().run(encoder, data, seed=0, folder=tmp_path)
    u, v = sides(encoder, split)
    cosine = (u[1:] * v[1:]).sum(1) / np.linalg.norm(u[1:], axis=1) / np.linalg.norm(v[1:], axis=1)
    expected = stats.pearsonr(np.r_[0, cosine], split.labels).statistic
    assert found.scores["pearson"].value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("name", "ours"), [("pearson", pearson), ("spearman", spearman)])
@pytest.mark.parametrize("ties", [False, True])
def test_correlations_and_what_each_example_contributes(name, ours, ties):
    random = np.random.default_rng(0)
    x = random.normal(size=30)
    y = x + random.normal(size=30)
    if ties:
        x, y = x.round(), y.round()
    reference = REFERENCE[name]
    value = reference(x, y)
    without = np.array([reference(np.delete(x, i), np.delete(y, i)) for i in range(30)])
    expected = value + 29 * (without.mean() - without)
    np.testing.assert_allclose(ours(x, y), expected, atol=1e-10)
    assert ours(x, y).mean() == pytest.approx(value)


def test_a_constant_has_no_correlation():
    x = np.arange(5.0)
    assert pearson(x, np.ones(5)).mean() == 0
    assert spearman(np.ones(5), x).mean() == 0


def test_the_spread_of_a_correlation_is_right():
    """The jackknife's standard error against the spread over many samples."""
    random = np.random.default_rng(0)
    errors, values = [], []
    for _ in range(300):
        x = random.normal(size=60)
        parts = pearson(x, x + random.normal(size=60))
        values.append(parts.mean())
        errors.append(parts.std(ddof=1) / 60**0.5)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


def test_a_ratio_of_sums_and_its_spread():
    random = np.random.default_rng(0)
    errors, values = [], []
    for _ in range(300):
        size = random.integers(1, 50, 80).astype(float)
        hits = size * random.beta(5, 2, 80)
        parts = ratio(hits, size)
        assert parts.mean() == pytest.approx(hits.sum() / size.sum())
        values.append(parts.mean())
        errors.append(parts.std(ddof=1) / 80**0.5)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)
    np.testing.assert_array_equal(ratio(np.zeros(3), np.zeros(3)), np.zeros(3))
