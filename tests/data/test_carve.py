import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslbench.data.carve import carve, scramble

SHARES = {"test": 0.2, "validation": 0.1}


def splitmix(number):
    """The reference: splitmix64 on Python's integers."""
    mask = 2**64 - 1
    x = (number + 1) * 0x9E3779B97F4A7C15 & mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


def dealt(labels, shares, groups):
    """The reference: the rule of carve() in loops."""
    groups = list(range(len(labels))) if groups is None else groups
    members = {g: [i for i, h in enumerate(groups) if h == g] for g in groups}

    def majority(group):
        counts = [sum(labels[i] == c for i in members[group]) for c in range(max(labels) + 1)]
        return counts.index(max(counts))

    out = {name: [] for name in (*shares, "train")}
    for label in set(labels):
        queue = sorted((g for g in members if majority(g) == label), key=splitmix)
        total, seen = sum(len(members[g]) for g in queue), 0
        for group in queue:
            place = (seen + len(members[group]) / 2) / total
            seen += len(members[group])
            below = 0.0
            for name, share in shares.items():
                below += share
                if place < below:
                    out[name] += members[group]
                    break
            else:
                out["train"] += members[group]
    return {name: sorted(index) for name, index in out.items()}


def test_the_hash_is_splitmix64():
    numbers = [0, 1, 2, 1000, 2**31, 2**40]
    assert scramble(np.array(numbers)).tolist() == [splitmix(n) for n in numbers]
    assert scramble(np.array([0]))[0] == 0xE220A8397B1DCDAF  # first output of splitmix64, seed 0


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=60),
    st.booleans(),
)
def test_it_deals_as_the_rule_says(pairs, grouped):
    labels, groups = zip(*pairs, strict=True)
    groups = groups if grouped else None
    found = carve(np.array(labels), SHARES, None if groups is None else np.array(groups))
    assert {name: index.tolist() for name, index in found.items()} == dealt(labels, SHARES, groups)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=300))
def test_every_example_is_dealt_once_and_classes_keep_their_shares(labels):
    labels = np.array(labels)
    parts = carve(labels, SHARES)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels)))
    for label in np.unique(labels):
        of_class = (labels == label).sum()
        for name, share in SHARES.items():
            assert abs((labels[parts[name]] == label).sum() - share * of_class) <= 1


def test_the_rule_is_pinned():
    parts = carve(np.repeat([0, 1], 10), SHARES)
    assert parts["test"].tolist() == [2, 4, 10, 18]
    assert parts["validation"].tolist() == [6, 16]


def test_shares_must_leave_something_to_train_on():
    with pytest.raises(ValueError, match="leave something for train"):
        carve(np.zeros(5, np.int64), {"test": 0.5, "validation": 0.5})
