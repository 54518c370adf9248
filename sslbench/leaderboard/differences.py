"""By how much one row of a board is better than another, over seeds and examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import numpy as np

from sslbench.leaderboard import text
from sslbench.leaderboard.board import Column, Evidence, per_seed, same_groups
from sslbench.leaderboard.checks import OF_A_COLUMN, grouped
from sslbench.records import Record
from sslbench.statistics import LEVEL, Difference, Labels, hierarchical, paired_or_hierarchical

Verdict = Literal["A better", "B better", "not distinguishable", "not tested"]


class Measured(NamedTuple):
    """What a checkpoint's seeds scored in one column.

    Attributes:
        value: mean over all seeds.
        examples: scores by pretraining seed and example (K, n); None where it has none.
        groups: of the examples.
    """

    value: float
    examples: np.ndarray | None
    groups: Labels | None


def measured(records: Sequence[Record], metric: str | None = None) -> Measured | None:
    """The scores of records of one column and one row, None where none is ok.

    Args:
        records: of any status.
        metric: None for the headline.
    """
    done = [record for record in records if record.status == "ok"]
    if not done:
        return None
    metric = metric or done[0].headline
    by_seed = grouped(
        sorted(done, key=attrgetter("checkpoint.pretrain_seed", "eval_seed")),
        attrgetter("checkpoint.pretrain_seed"),
    )
    values = [np.mean([r.scores[metric].value for r in same]) for same in by_seed.values()]
    return Measured(float(np.mean(values)), *per_seed(list(by_seed.values()), metric))


def difference(a: Measured, b: Measured) -> Difference | None:
    """The first less the second, over seeds and examples; None if those are not the same."""
    if a.examples is None or b.examples is None or len(a.examples[0]) != len(b.examples[0]):
        return None
    return hierarchical(a.examples, b.examples, a.groups)


@dataclass(frozen=True)
class Compared:
    """Rows A and B in one column.

    Attributes:
        difference: A − B; None where one has no value, or the two must not be compared.
        test: of the difference, with its interval; None where there is a reason against it.
        reason: why there is no test, "" where there is one.
        p_holm: corrected over the columns in which one can be better; None in others.
    """

    column: Column
    a: Evidence
    b: Evidence
    difference: float | None = None
    test: Difference | None = None
    reason: str = ""
    p_holm: float | None = None

    @property
    def verdict(self) -> Verdict | None:
        """Which row is better; None where the metric has no direction."""
        if self.column.higher_is_better is None:
            return None
        if self.test is None or self.p_holm is None:
            return "not tested"
        if self.p_holm >= LEVEL:
            return "not distinguishable"
        return "A better" if (self.test.value > 0) == self.column.higher_is_better else "B better"

    @property
    def n(self) -> int | None:
        """Number of examples; None where the rows have different ones, or no score."""
        counts = _counts(self.a, self.b)
        return counts.pop() if len(counts) == 1 else None

    @property
    def groups(self) -> int | None:
        """How many groups the examples of a test come in; None where they come one by one."""
        labels = self.a.groups if self.test else None
        return None if labels is None else len(np.unique(labels))


def compared(column: Column, a: Evidence, b: Evidence) -> Compared:
    """The difference of two rows in one column, not corrected for other columns."""
    if reason := _absent(a, b) or _mixed(a, b):
        return Compared(column, a, b, reason=reason)
    if a.examples is None or b.examples is None:
        reason = _without_examples(a, b)
    elif len(a.examples[0]) != len(b.examples[0]) or not same_groups(a.groups, b.groups):
        reason = "no scores on the same examples"
    else:
        test = paired_or_hierarchical(a.examples, b.examples, a.groups)
        return Compared(column, a, b, test.value, test)
    return Compared(column, a, b, a.cell.value - b.cell.value, reason=reason)


def _absent(a: Evidence, b: Evidence) -> str:
    sides = {"A": a.cell, "B": b.cell}
    return "; ".join(f"{k} {text.why_empty(cell)}" for k, cell in sides.items() if not cell.ok)


def _mixed(a: Evidence, b: Evidence) -> str:
    """In which fields of a column the rows differ: possible if they come from two sources."""
    for field in OF_A_COLUMN:
        one, other = (attrgetter(field)(side.cell.records[0]) for side in (a, b))
        if one != other:
            return f"not comparable: different {field}, {_contrast(one, other)}"
    return ""


def _contrast(one: Any, other: Any) -> str:
    """Two values, of settings only those that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = [n for n in sorted({*one, *other}) if one.get(n) != other.get(n)]
        one, other = ({n: side[n] for n in names if n in side} for side in (one, other))
    return f"A {one}, B {other}"


def _without_examples(a: Evidence, b: Evidence) -> str:
    records = [*a.cell.records, *b.cell.records]
    if len(_counts(a, b)) > 1:
        return "no scores on the same examples"
    if all(record.headline in (record.inline or {}) for record in records):
        return f"{records[0].headline} is no mean over examples"
    return "no scores per example"


def _counts(*sides: Evidence) -> set[int]:
    """The numbers of examples behind all scores."""
    records = [record for side in sides if side.cell.ok for record in side.cell.records]
    return {record.scores[record.headline].n for record in records}
