"""From records to a board: rows × columns of averaged scores, with intervals and marks.

A row is a name, an encoder, pretraining data and a budget; a column is a task, a dataset and the
task's headline metric. `checks` refuses what cannot be compared.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from sslbench.errors import UserError
from sslbench.leaderboard import checks
from sslbench.leaderboard.aggregates import (
    Aggregate,
    Measurement,
    Noise,
    aggregates,
    perturbations,
)
from sslbench.leaderboard.checks import grouped
from sslbench.leaderboard.reported import Reported
from sslbench.records import Checkpoint, Record, unpack
from sslbench.statistics import Array, Labels, best_and_tied, interval, over_seeds

CellStatus = Literal["ok", "failed", "not_applicable", "not_run"]
Interval = tuple[float, float]
Mark = Literal["best", "tied"] | None  # tied: cannot be told from the best


class Row(NamedTuple):
    """Who stands in a row."""

    name: str
    encoder: str
    pretrain_dataset: str  # "" where nothing was pretrained
    pretrain_epochs: int


class Column(NamedTuple):
    """What a column measures.

    Attributes:
        chance: score without looking at the input; None where that has no meaning.
        share: whether the scores are shares in [0, 1] with a chance level, printed as percent.
    """

    task: str
    dataset: str
    metric: str
    version: int
    higher_is_better: bool | None
    chance: float | None
    share: bool

    @property
    def name(self) -> str:
        """Such as knn/cifar10-mini/top1."""
        return f"{self.task}/{self.dataset}/{self.metric}"

    @property
    def averaged(self) -> bool:
        """Whether the column may enter a mean over columns."""
        return self.share and self.higher_is_better is True


@dataclass
class Cell:
    """What is known of one row in one column.

    Attributes:
        records: the ok records, by seeds; without any, those that say why.
        failures: records of this cell that are not ok although others are.
        value: mean over pretraining seeds of the mean over evaluation seeds; NaN if not ok.
        interval: 95 % over the examples, None where the protocol has none.
        seeds: value of each pretraining seed.
        over_seeds: 95 % over the pretraining seeds, None for one seed.
        mark: among the cells of its column.
        p: against the best, corrected (`against_best`); None where it was not tested.
        noise: what the draws add to the value (see `aggregates`), in columns that are averaged.
        reported: what others say of it.
    """

    status: CellStatus = "not_run"
    records: list[Record] = field(default_factory=list)
    failures: list[Record] = field(default_factory=list)
    value: float = math.nan
    interval: Interval | None = None
    seeds: dict[int, float] = field(default_factory=dict)
    over_seeds: Interval | None = None
    mark: Mark = None
    p: float | None = None
    noise: Noise | None = None
    reported: Reported | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a number to show."""
        return self.status == "ok" and math.isfinite(self.value)

    @property
    def verified(self) -> int:
        """How many of its records somebody else has computed too."""
        return sum(bool(record.verified) for record in self.records)


@dataclass
class Board:
    """A leaderboard.

    Attributes:
        records: all of them, also those of checkpoints along the way, in the order of their keys.
        rows: in the order of the CSV.
        cells: of every row and column.
        shared: the columns behind the aggregates: shares of which higher is better, and which
            every row with any score has.
        aggregates: over the shared columns, by row; empty without any.
    """

    title: str
    records: list[Record]
    rows: list[Row]
    columns: list[Column]
    cells: dict[tuple[Row, Column], Cell]
    shared: list[Column]
    aggregates: dict[Row, Aggregate]

    @cached_property
    def _checkpoints(self) -> dict[Row, list[Checkpoint]]:
        found: dict[Row, list[Checkpoint]] = {}
        for row in self.rows:
            cells = [self.cells[row, column] for column in self.columns]
            records = [record for cell in cells for record in (*cell.records, *cell.failures)]
            seeds: dict[int, Checkpoint] = {}
            for record in sorted(records, key=lambda record: (record.status != "ok", record.key)):
                seeds.setdefault(record.checkpoint.pretrain_seed, record.checkpoint)
            found[row] = [seeds[seed] for seed in sorted(seeds)]
        return found

    def checkpoints(self, row: Row) -> list[Checkpoint]:
        """Of a row, one per pretraining seed; from records that are ok where there are any."""
        return self._checkpoints[row]

    def seconds(self, row: Row) -> float | None:
        """Mean pretraining time over the seeds, None where it is not known."""
        known = [c.pretrain_seconds for c in self.checkpoints(row)]
        numbers = [seconds for seconds in known if seconds is not None]
        return sum(numbers) / len(numbers) if numbers else None


class Arranged(NamedTuple):
    """Records of which each may stand beside the others.

    Attributes:
        all: once each, also those of checkpoints along the way, in the order of their keys.
        rows: records of fully pretrained checkpoints by their row.
        columns: the same records by task, dataset and headline.
    """

    all: list[Record]
    rows: dict[Row, list[Record]]
    columns: dict[tuple[str, str, str], list[Record]]


def arranged(records: Iterable[Record]) -> Arranged:
    """The records by row and by column.

    Raises:
        UserError: two records contradict each other, or cannot stand in one row or one column.
    """
    unique = checks.unique(checks.current(records))
    final = [record for record in unique if record.checkpoint.at == 1.0]
    if not final:
        raise UserError("no records of fully pretrained checkpoints (at = 1.0)")
    by_row = grouped(final, row_of)
    by_column = grouped(final, column_key)
    for row, members in by_row.items():
        checks.row(", ".join(map(str, row)), members)
    for name, members in by_column.items():
        checks.column("/".join(name), members)
    return Arranged(unique, by_row, by_column)


def build(records: Iterable[Record], title: str, reported: Iterable[Reported] = ()) -> Board:
    """The board of these records, with what others report of its cells.

    Raises:
        UserError: as in `arranged`, or a reported number belongs to no cell.
    """
    return board_of(arranged(records), title, reported)


def board_of(found: Arranged, title: str, reported: Iterable[Reported] = ()) -> Board:
    """The board of records that may stand on one.

    Raises:
        UserError: a reported number belongs to no cell.
    """
    # Sums depend on the number of threads, which would spin on the core of what is done beside it.
    with threadpool_limits(1, user_api="blas"):
        return _board(found, title, reported)


def _board(found: Arranged, title: str, reported: Iterable[Reported]) -> Board:
    unique, by_row, by_column = found
    rows = sorted(by_row)
    columns: list[Column] = []
    cells: dict[tuple[Row, Column], Cell] = {}
    for name, members in sorted(by_column.items()):
        column = column_of(name, members)
        columns.append(column)
        evidence = {row: evidence_of(same) for row, same in grouped(members, row_of).items()}
        if column.higher_is_better is not None:
            _mark([e for e in evidence.values() if e.cell.ok], column.higher_is_better)
        cells |= {(r, column): evidence[r].cell if r in evidence else Cell() for r in rows}
        drawn = {row: own for row, own in evidence.items() if column.averaged and own.cell.ok}
        if drawn:
            noise = perturbations(
                column.dataset, [_measurement(row, column, own) for row, own in drawn.items()]
            )
            for row, added in zip(drawn, noise, strict=True):
                drawn[row].cell.noise = added
    for place, one in placed(reported, rows, columns).items():
        cells[place].reported = one
    scored = [row for row in rows if any(cells[row, column].ok for column in columns)]
    shared = [
        column
        for column in columns
        if column.averaged and all(cells[row, column].ok for row in scored)
    ]
    totals: dict[Row, Aggregate] = {}
    if shared:
        own = [[cells[row, column] for column in shared] for row in scored]
        ranked = aggregates(
            np.array([[cell.value for cell in line] for line in own]),
            np.array([column.chance for column in shared], np.float64),
            np.array([[cell.noise for cell in line] for line in own]),
        )
        totals = dict(zip(scored, ranked, strict=True))
    return Board(title, unique, rows, columns, cells, shared, totals)


def placed(
    reported: Iterable[Reported], rows: list[Row], columns: list[Column]
) -> dict[tuple[Row, Column], Reported]:
    """Numbers of others by their cell.

    Raises:
        UserError: one for a row or a column that the board has not, or two for one cell.
    """
    by_row = {row: row for row in rows}
    by_column = {(c.task, c.dataset, c.metric): c for c in columns}
    found: dict[tuple[Row, Column], Reported] = {}
    for one in reported:
        if one.row not in by_row or one.column not in by_column:
            what = (
                ("row", one.row, by_row)
                if one.row not in by_row
                else ("column", one.column, by_column)
            )
            raise UserError(
                f"a reported number of {one.row[0]} ({one.source}): no {what[0]} "
                f"{', '.join(map(str, what[1]))} on this board; there are "
                f"{'; '.join(', '.join(map(str, other)) for other in what[2])}"
            )
        place = by_row[one.row], by_column[one.column]
        if place in found:
            raise UserError(f"two reported numbers of {one.row[0]} in {'/'.join(one.column)}")
        found[place] = one
    return found


@dataclass
class Evidence:
    """A cell with its scores by pretraining seed and example (K, n), and the examples' groups."""

    cell: Cell
    examples: Array | None = None
    mean: Array | None = None  # over the seeds (n,)
    groups: Labels | None = None


def _measurement(row: Row, column: Column, evidence: Evidence) -> Measurement:
    cell = evidence.cell
    scores = [record.scores[column.metric] for record in cell.records]
    known = [score.standard_error for score in scores if score.standard_error is not None]
    mean = sum(known) / len(known) if known else None
    return Measurement(row.name, evidence.mean, evidence.groups, cell.seeds, mean)


def row_of(record: Record) -> Row:
    """Where a record stands."""
    c = record.checkpoint
    return Row(c.name, c.encoder, c.pretrain_dataset or "", c.pretrain_epochs)


def column_key(record: Record) -> tuple[str, str, str]:
    """Task, dataset and headline: records of one column share them."""
    return record.task, record.dataset, record.headline


def column_of(name: tuple[str, str, str], records: list[Record]) -> Column:
    """The column with this `column_key`, of whose records any are given."""
    done = [record for record in records if record.status == "ok"]
    first = (done or records)[0]
    values = [record.scores[record.headline].value for record in done]
    share = first.chance is not None and all(0 <= value <= 1 for value in values)
    return Column(*name, first.task_version, first.higher_is_better, first.chance, share)


def evidence_of(records: list[Record]) -> Evidence:
    """What records of one row and one column come to; without any, it was not run."""
    if not records:
        return Evidence(Cell())
    done = sorted(
        (record for record in records if record.status == "ok"),
        key=attrgetter("checkpoint.pretrain_seed", "eval_seed"),
    )
    others = [record for record in records if record.status != "ok"]
    if not done:
        failed = any(record.status == "failed" for record in others)
        return Evidence(Cell("failed" if failed else "not_applicable", others))
    seeds = grouped(done, attrgetter("checkpoint.pretrain_seed"))
    scores = {
        seed: _mean([record.scores[record.headline].value for record in same])
        for seed, same in seeds.items()
    }
    cell = Cell("ok", done, others, _mean(list(scores.values())), seeds=scores)
    if len(seeds) > 1 and cell.ok:
        cell.over_seeds = over_seeds(list(scores.values()))[1:]
    examples, groups = per_seed(list(seeds.values()), done[0].headline)
    mean = None if examples is None else examples.mean(axis=0)
    low, high = _interval(done, mean, groups)
    if low is not None and high is not None and math.isfinite(high - low):
        cell.interval = (low, high)
    return Evidence(cell, examples, mean, groups)


def _interval(
    records: list[Record], examples: Array | None, groups: Labels | None
) -> tuple[float | None, float | None]:
    """Over the examples; without their scores, what the record says if there is but one."""
    if examples is not None:
        return interval(examples, groups)[1:]
    if len(records) > 1:
        return None, None
    score = records[0].scores[records[0].headline]
    return score.low, score.high


def per_seed(seeds: list[list[Record]], metric: str) -> tuple[Array | None, Labels | None]:
    """Per pretraining seed and example (K, n), the score over evaluation seeds; the groups.

    None where they are missing or of different lengths, or where their mean is not the score, as
    for F1 or mAP.
    """
    loaded = [[_unpack(record, metric) for record in same] for same in seeds]
    arrays = [[array for array, _ in same if array is not None] for same in loaded]
    groups = [own for same in loaded for _, own in same]
    lengths = {len(array) for same in arrays for array in same}
    complete = sum(map(len, arrays)) == len(groups)
    if not complete or len(lengths) > 1 or not all(same_groups(groups[0], own) for own in groups):
        return None, None
    means = [same[0] if len(same) == 1 else np.mean(same, axis=0) for same in arrays]
    return np.array(means), groups[0]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _unpack(record: Record, metric: str) -> tuple[Array | None, Labels | None]:
    inline = record.inline or {}
    if metric not in inline:
        return None, None
    examples = unpack(inline[metric]).astype(np.float64, copy=False)
    value = record.scores[metric].value
    # The mean in half the time; the scores are float32.
    mean = np.add.reduce(examples) / len(examples)
    if not math.isclose(mean, value, rel_tol=1e-5, abs_tol=1e-6):
        return None, None
    groups = unpack(inline["groups"]) if "groups" in inline else None
    return examples, groups if groups is not None and len(groups) == len(examples) else None


def same_groups(a: Labels | None, b: Labels | None) -> bool:
    """Whether the examples come in the same groups, or both one by one."""
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b)


def _mark(found: list[Evidence], higher_is_better: bool) -> None:
    """Mark the best cell of a column and those that cannot be told from it."""
    if len(found) < 2:
        return
    groups = next((e.groups for e in found if e.examples is not None), None)
    values = [e.cell.value for e in found]
    examples = [e.examples if same_groups(e.groups, groups) else None for e in found]
    standing = best_and_tied(values, examples, groups, higher_is_better)
    for row, (value, tied) in enumerate(zip(values, standing.tied, strict=True)):
        cell = found[row].cell
        cell.mark = "best" if value == values[standing.best] else "tied" if tied else None
        cell.p = standing.p[row]
