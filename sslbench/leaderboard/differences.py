"""By how much one row of a board is better than another, over seeds and examples."""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from sslbench.leaderboard.board import per_seed
from sslbench.leaderboard.checks import grouped
from sslbench.records import Record
from sslbench.statistics import Difference, Labels, hierarchical


class Measured(NamedTuple):
    """What a checkpoint's seeds scored in one column.

    Attributes:
        value: mean over all seeds.
        examples: per pretraining seed, the score per example (n,); None where it has none.
        groups: of the examples.
    """

    value: float
    examples: list[np.ndarray] | None
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
