"""Spans of words marked by BIO tags, and how many of them were found."""

from collections.abc import Iterable, Sequence

import numpy as np

from sslbench.contributions import ratio

OUTSIDE = "O"
Span = tuple[str, int, int]  # type, first word, last word


def is_bio(tags: Iterable[str]) -> bool:
    """Whether tags mark spans: "O", "B-TYPE" and "I-TYPE" only, one of the latter among them."""
    marks = set(tags) - {OUTSIDE}
    return bool(marks) and all(mark.startswith(("B-", "I-")) for mark in marks)


def spans(tags: Sequence[str]) -> set[Span]:
    """The spans of a sentence's BIO tags, as CoNLL's evaluation reads them.

    A span begins at B-, and at an I- that continues nothing of its type; it ends before O, B-, and
    any tag of another type. Tjong Kim Sang, Buchholz. Introduction to the CoNLL-2000 Shared Task.
    """
    found: set[Span] = set()
    kind, first = None, 0  # of the span that is open
    for place, tag in enumerate([*tags, OUTSIDE]):
        mark, _, own = tag.partition("-")
        if kind is not None and (mark != "I" or own != kind):
            found.add((kind, first, place - 1))
            kind = None
        if mark != OUTSIDE and kind is None:
            kind, first = own, place
    return found


def span_f1(tags: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> np.ndarray:
    """Micro F1 of spans that are right in type and both ends, as contributions of sentences (n,).

    2 hits / (true + found) over all sentences; 0 where there are none.

    Args:
        tags: the true tags of n sentences.
        found: the predicted ones.
    """
    pairs = [(spans(true), spans(own)) for true, own in zip(tags, found, strict=True)]
    hits = np.array([2.0 * len(true & own) for true, own in pairs])
    sizes = np.array([float(len(true) + len(own)) for true, own in pairs])
    return ratio(hits, sizes)
