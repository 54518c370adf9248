"""kNN against scikit-learn and against loops from its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from sslbench import neighbors
from sslbench.classification import encode
from sslbench.errors import NotApplicable, UserError
from sslbench.features import features
from sslbench.neighbors import knn_accuracy, label_rank, nearest
from sslbench.tasks.knn import KNN
from tests.tasks.conftest import balanced, dataset


def reference(k, temperature, bank, labels):
    model = KNeighborsClassifier(
        min(k, len(bank)),
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    )
    return model.fit(np.asarray(bank, np.float64), labels)


def brute_force(bank, queries, k):
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    similarity = queries @ bank.T
    index = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, index, axis=1), index


@pytest.mark.parametrize(
    ("rows", "queries", "k"), [(1000, 50, 3), (999, 7, 12), (30, 5, 30), (20, 4, 50), (1, 3, 1)]
)
@pytest.mark.parametrize("held", [1, 2_500, 1 << 26])
def test_neighbours_are_those_of_a_full_sort(rows, queries, k, held, monkeypatch):
    monkeypatch.setattr(neighbors, "SIMILARITIES", held)
    random = np.random.default_rng(0)
    bank, asked = random.normal(size=(rows, 6)), random.normal(size=(queries, 6))
    similarity, index = nearest(torch.tensor(bank).float(), torch.tensor(asked).float(), k)
    expected = brute_force(bank, asked, k)
    np.testing.assert_allclose(similarity, expected[0], atol=1e-6)
    np.testing.assert_array_equal(index, expected[1])


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([5, 60, 700]))
def test_of_equal_neighbours_the_first_in_the_bank_is_taken(seed, k, rows):
    random = np.random.default_rng(seed)
    bank = np.eye(4)[random.integers(4, size=rows)]
    asked = np.eye(4)[:, random.permutation(4)] + 0.5 * np.eye(4)
    _, index = nearest(torch.tensor(bank).float(), torch.tensor(asked).float(), k)
    np.testing.assert_array_equal(index, brute_force(bank, asked, k)[1])


def rank_by_loop(similarity, labels, truth, temperature, classes):
    votes = [0.0] * classes
    for value, label in zip(similarity, labels, strict=True):
        votes[label] += np.exp(value / temperature)
    order = sorted(range(classes), key=lambda c: -votes[c])  # stable: lower numbers first
    return order.index(truth) if truth >= 0 and votes[truth] > 0 else classes


@pytest.mark.parametrize("temperature", [0.03, 0.07, 0.1])
def test_the_vote_is_the_sum_of_exponentials(temperature):
    random = np.random.default_rng(0)
    similarity = -np.sort(-random.uniform(-1, 1, (60, 8)), axis=1)
    labels, truth = random.integers(5, size=(60, 8)), random.integers(-1, 5, size=60)
    tensors = (torch.tensor(similarity).float(), torch.tensor(labels), torch.tensor(truth))
    found = label_rank(*tensors, classes=5, temperature=temperature)
    rows = zip(similarity, labels, truth, strict=True)
    assert found.tolist() == [rank_by_loop(*row, temperature, 5) for row in rows]


def test_classes_with_equal_votes_stand_in_the_order_of_their_numbers():
    similarity, labels = torch.full((3, 4), 0.5), torch.tensor([[2, 0, 0, 2]]).expand(3, 4)
    assert label_rank(similarity, labels, torch.tensor([0, 2, 1]), 3, 0.07).tolist() == [0, 1, 3]


@pytest.mark.parametrize("k", [1, 5, 500])
@pytest.mark.parametrize("names", [[0, 1, 2], [7, -3, 1000]])
def test_accuracy_is_that_of_scikit_learn(k, names):
    random = np.random.default_rng(k)
    labels = np.array(names)[random.integers(3, size=300)]
    truth = np.array([*names, 55])[random.integers(4, size=80)]  # 55 has no example in the bank
    bank = random.normal(size=(300, 5)) + labels[:, None] % 7 * 0.2
    asked = random.normal(size=(80, 5)) + truth[:, None] % 7 * 0.2
    found = knn_accuracy(bank.astype(np.float32), labels, asked.astype(np.float32), truth, k, 0.1)
    assert found == pytest.approx(reference(k, 0.1, bank, labels).score(asked, truth))


def test_the_default_is_the_protocol_s_fixed_setting():
    random = np.random.default_rng(1)
    x = random.normal(size=(900, 4)).astype(np.float32)
    y = random.integers(3, size=900) + (x[:, 0] > 0)
    expected = reference(20, 0.07, x[:200], y[:200])
    others = [reference(k, t, x[:200], y[:200]) for k, t in ((19, 0.07), (20, 0.7))]
    accuracy = [model.score(x[200:], y[200:]) for model in (expected, *others)]
    assert accuracy[0] not in accuracy[1:]
    assert knn_accuracy(x[:200], y[:200], x[200:], y[200:]) == pytest.approx(accuracy[0])


def test_one_class_is_always_right():
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    assert knn_accuracy(x, np.full(9, 4), x[:2], np.full(2, 4)) == 1


def test_labels_are_encoded_by_their_place():
    found = encode(np.array([5, -1, 9, 7]), np.array([-1, 5, 9]))
    assert found.tolist() == [1, 0, 2, -1]


@pytest.fixture
def data():
    """12 classes of different size that overlap."""
    random = np.random.default_rng(3)
    share = np.arange(1, 13) / 78
    labels = {
        name: np.concatenate([np.arange(12), random.choice(12, n - 12, p=share)])
        for name, n in {"train": 260, "validation": 90, "test": 150}.items()
    }
    return dataset(labels, noise=140)


def test_the_protocol(encoder, data, tmp_path):
    result = KNN().run(encoder, data, seed=0, folder=tmp_path)
    x = {name: features(encoder, split)["pixels"] for name, split in data.splits.items()}
    y = {name: split.labels for name, split in data.splits.items()}
    grid = [(k, t) for k in (10, 20, 100, 200) for t in (0.03, 0.07, 0.1)]
    accuracy = [
        reference(k, t, x["train"], y["train"]).score(x["validation"], y["validation"])
        for k, t in grid
    ]
    k, temperature = grid[int(np.argmax(accuracy))]
    assert len(set(accuracy)) > 3
    expected = {"split": "validation", "k": k, "temperature": temperature}
    assert result.selected == expected

    both = [np.concatenate([part["train"], part["validation"]]) for part in (x, y)]
    fixed = reference(20, 0.07, *both)
    predicted = fixed.predict(x["test"])
    scores = {name: score.value for name, score in result.scores.items()}
    chosen = reference(k, temperature, *both).score(x["test"], y["test"])
    votes = fixed.predict_proba(x["test"])
    best = np.argsort(-votes, axis=1, kind="stable")[:, :5]
    in_five = [votes[i, y] > 0 and y in best[i] for i, y in enumerate(y["test"])]
    assert scores == pytest.approx(
        {
            "top1": (predicted == y["test"]).mean(),
            "top1_selected": chosen,
            "mean_per_class": balanced_accuracy_score(y["test"], predicted),
            "top5": np.mean(in_five),
        }
    )
    np.testing.assert_array_equal(result.scores["top1"].examples, predicted == y["test"])


def test_fewer_test_images_than_neighbours_and_no_top5_for_few_classes(encoder, tmp_path):
    data = dataset(balanced(classes=3, train=2, validation=1, test=1))
    result = KNN().run(encoder, data, seed=0, folder=tmp_path)
    assert set(result.scores) == {"top1", "top1_selected", "mean_per_class"}
    assert result.selected["k"] == 6  # all of the train split


def test_several_labels_per_example_are_not_applicable(encoder, tmp_path):
    labels = {name: np.eye(3, dtype=bool)[y % 3] for name, y in balanced(3).items()}
    data = dataset(labels, patterns=balanced(3))
    with pytest.raises(NotApplicable, match="one label per example"):
        KNN().run(encoder, data, seed=0, folder=tmp_path)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"temperature": 0.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match="k ≥ 1 and temperature > 0"):
        KNN(**wrong)
