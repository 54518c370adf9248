"""Splits that a source brings, completed to train, validation and test."""

from collections.abc import Mapping

import numpy as np

from sslbench.data.carve import carve
from sslbench.data.split import Split
from sslbench.errors import UserError


def complete(parts: Mapping[str, Split], origin: str) -> dict[str, Split]:
    """All three splits: carve.py deals those that are not given from train.

    Without a test split the validation split is it, as in ImageNet. A fifth of train goes to test
    and a tenth to validation, of each class in the same shares, or whole groups where there are
    groups.

    Args:
        parts: "train", perhaps "validation" and "test", and what else there is.
        origin: where they come from, for errors.

    Raises:
        UserError: there is no train split, or a split would be empty.
    """
    given = dict(parts)
    if "train" not in given:
        raise UserError(f"{origin}: there is no train split, only {', '.join(given) or 'nothing'}")
    if "test" not in given and "validation" in given:
        given["test"] = given.pop("validation")
    shares = {n: s for n, s in (("test", 0.2), ("validation", 0.1)) if n not in given}
    train = given["train"]
    labels = train.labels
    if labels is None or labels.dtype != np.int64:  # ratings are no classes
        labels = np.zeros(len(train), np.int64)
    carved = carve(labels, shares, train.groups)
    if not all(map(len, carved.values())):
        found = {name: len(index) for name, index in carved.items()}
        raise UserError(f"{origin}: {len(train)} examples are too few; dealt they give {found}")
    return {**given, **{name: train.take(index) for name, index in carved.items()}}
