"""Which examples go into which split where a source does not say: one fixed, committed rule."""

from collections.abc import Mapping

import numpy as np

from sslbench.data.split import ImageArray, Split


def scramble(numbers: np.ndarray) -> np.ndarray:
    """Hash integers (n,) into uint64 (n,): splitmix64, written out so that no release moves it."""
    x = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def carve(
    labels: np.ndarray, shares: Mapping[str, float], groups: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Deal examples to splits, each class in the same shares.

    Within a class, examples are ordered by a hash of their index: the first `shares` go to the
    named splits, in the order given, the rest to "train". With `groups`, whole groups are dealt
    instead (by a hash of the group's number), each with the class most frequent in it, so that
    the shares are only about reached.

    Args:
        labels: (n,) non-negative integers; zeros where there are none.
        shares: of each class per split, e.g. {"test": 0.2, "validation": 0.1}; below 1 in all.
        groups: (n,) non-negative integers, or None to deal single examples.

    Returns:
        Ascending positions in `labels` by split: disjoint, and together all of them.
    """
    if sum(shares.values()) >= 1:
        raise ValueError(f"shares must leave something for train, got {shares}")
    if groups is None:
        names = member = np.arange(len(labels))
        sizes, classes = np.ones(len(labels), np.int64), labels
    else:
        names, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        table = np.zeros((len(names), int(labels.max()) + 1), np.int64)
        np.add.at(table, (member, labels), 1)
        classes = table.argmax(axis=1)
    order = np.lexsort((scramble(names), classes))
    classes, sizes = classes[order], sizes[order]
    before = np.cumsum(sizes) - sizes
    before -= before[np.searchsorted(classes, classes)]  # counted from the start of the class
    place = (before + sizes / 2) / np.bincount(classes, weights=sizes)[classes]  # in (0, 1)
    split = np.empty(len(order), np.int64)
    split[order] = np.searchsorted(np.cumsum(list(shares.values())), place, side="right")
    return {name: np.flatnonzero(split[member] == i) for i, name in enumerate([*shares, "train"])}


def deal(
    images: np.ndarray,
    labels: np.ndarray,
    parts: Mapping[str, np.ndarray],
    groups: np.ndarray | None = None,
) -> dict[str, Split]:
    """Splits in memory of images (n, 3, H, W), labels and groups (n,), at the positions `parts`."""
    return {
        name: ImageArray(images[index], labels[index], None if groups is None else groups[index])
        for name, index in parts.items()
    }
