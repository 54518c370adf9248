"""From records to a board: rows × columns of averaged scores, with intervals and marks.

A row is a name, an encoder, pretraining data and a budget; a column is a task, a dataset and the
task's headline metric. `checks` refuses what cannot be compared.
"""

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from operator import attrgetter
from typing import Literal

import numpy as np
from scipy import stats

from sslbench.errors import UserError
from sslbench.leaderboard import checks
from sslbench.leaderboard.checks import grouped
from sslbench.records import Checkpoint, Record, unpack
from sslbench.statistics import Array, Labels, best_and_tied, interval, over_seeds

CellStatus = Literal["ok", "failed", "not_applicable", "not_run"]
Interval = tuple[float, float]
Mark = Literal["best", "tied"] | None  # tied: cannot be told from the best


@dataclass(frozen=True, order=True)
class Row:
    """Who stands in a row."""

    name: str
    encoder: str
    pretrain_dataset: str  # "" where nothing was pretrained
    pretrain_epochs: int


@dataclass(frozen=True, order=True)
class Column:
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
        p: Holm-corrected, against the best; None where it was not tested.
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

    @property
    def ok(self) -> bool:
        """Whether there is a number to show."""
        return self.status == "ok" and math.isfinite(self.value)


@dataclass
class Board:
    """A leaderboard.

    Attributes:
        records: all of them, also those of checkpoints along the way, in the order of their keys.
        rows: in the order of the CSV.
        cells: of every row and column.
        shared: the columns behind `mean` and `mean_rank`: shares of which higher is better, and
            which every row with any score has.
        mean: of the shared columns, by row.
        mean_rank: by row; 1 is best, equal values share their rank.
    """

    title: str
    records: list[Record]
    rows: list[Row]
    columns: list[Column]
    cells: dict[tuple[Row, Column], Cell]
    shared: list[Column]
    mean: dict[Row, float]
    mean_rank: dict[Row, float]

    def checkpoints(self, row: Row) -> list[Checkpoint]:
        """Of a row, one per pretraining seed; from records that are ok where there are any."""
        cells = [self.cells[row, column] for column in self.columns]
        records = [record for cell in cells for record in (*cell.records, *cell.failures)]
        seeds: dict[int, Checkpoint] = {}
        for record in sorted(records, key=lambda record: (record.status != "ok", record.key)):
            seeds.setdefault(record.checkpoint.pretrain_seed, record.checkpoint)
        return [seeds[seed] for seed in sorted(seeds)]

    def seconds(self, row: Row) -> float | None:
        """Mean pretraining time over the seeds, None where it is not known."""
        known = [c.pretrain_seconds for c in self.checkpoints(row)]
        numbers = [seconds for seconds in known if seconds is not None]
        return sum(numbers) / len(numbers) if numbers else None


def build(records: Iterable[Record], title: str) -> Board:
    """The board of these records.

    Raises:
        UserError: two records contradict each other, or cannot stand in one row or one column.
    """
    unique = checks.unique(checks.current(records))
    final = [record for record in unique if record.checkpoint.at == 1.0]
    if not final:
        raise UserError("no records of fully pretrained checkpoints (at = 1.0) to publish")
    by_row = grouped(final, _row)
    by_column = grouped(final, attrgetter("task", "dataset", "headline"))
    for row, members in by_row.items():
        checks.row(", ".join(map(str, astuple(row))), members)
    for name, members in by_column.items():
        checks.column("/".join(name), members)
    rows = sorted(by_row)
    columns: list[Column] = []
    cells: dict[tuple[Row, Column], Cell] = {}
    for name, members in sorted(by_column.items()):
        column = _column(name, members)
        columns.append(column)
        found = {row: _cell(same) for row, same in grouped(members, _row).items()}
        if column.higher_is_better is not None:
            _mark([e for e in found.values() if e.cell.ok], column.higher_is_better)
        cells |= {(row, column): found[row].cell if row in found else Cell() for row in rows}
    scored = [row for row in rows if any(cells[row, column].ok for column in columns)]
    shared = [
        column
        for column in columns
        if column.averaged and all(cells[row, column].ok for row in scored)
    ]
    mean: dict[Row, float] = {}
    mean_rank: dict[Row, float] = {}
    if shared:
        table = np.array([[cells[row, column].value for column in shared] for row in scored])
        mean = dict(zip(scored, table.mean(axis=1).tolist(), strict=True))
        ranks = stats.rankdata(-table, axis=0).mean(axis=1)
        mean_rank = dict(zip(scored, ranks.tolist(), strict=True))
    return Board(title, unique, rows, columns, cells, shared, mean, mean_rank)


@dataclass
class _Evidence:
    """A cell with its per-example scores by pretraining seed, and the groups of the examples."""

    cell: Cell
    examples: list[Array] | None = None
    groups: Labels | None = None


def _row(record: Record) -> Row:
    c = record.checkpoint
    return Row(c.name, c.encoder, c.pretrain_dataset or "", c.pretrain_epochs)


def _column(name: tuple[str, str, str], records: list[Record]) -> Column:
    done = [record for record in records if record.status == "ok"]
    first = (done or records)[0]
    values = [record.scores[record.headline].value for record in done]
    share = first.chance is not None and all(0 <= value <= 1 for value in values)
    return Column(*name, first.task_version, first.higher_is_better, first.chance, share)


def _cell(records: list[Record]) -> _Evidence:
    done = sorted(
        (record for record in records if record.status == "ok"),
        key=attrgetter("checkpoint.pretrain_seed", "eval_seed"),
    )
    others = [record for record in records if record.status != "ok"]
    if not done:
        failed = any(record.status == "failed" for record in others)
        return _Evidence(Cell("failed" if failed else "not_applicable", others))
    seeds = grouped(done, attrgetter("checkpoint.pretrain_seed"))
    scores = {
        seed: float(np.mean([record.scores[record.headline].value for record in same]))
        for seed, same in seeds.items()
    }
    cell = Cell("ok", done, others, float(np.mean(list(scores.values()))), seeds=scores)
    if len(seeds) > 1 and cell.ok:
        cell.over_seeds = over_seeds(list(scores.values()))[1:]
    examples, groups = per_seed(list(seeds.values()), done[0].headline)
    low, high = _interval(done, examples, groups)
    if low is not None and high is not None and math.isfinite(high - low):
        cell.interval = (low, high)
    return _Evidence(cell, examples, groups)


def _interval(
    records: list[Record], examples: list[Array] | None, groups: Labels | None
) -> tuple[float | None, float | None]:
    """Over the examples: what the record says if there is one, else of the scores' mean."""
    if len(records) == 1:
        score = records[0].scores[records[0].headline]
        return score.low, score.high
    if examples is None:
        return None, None
    return interval(np.mean(examples, axis=0), groups)[1:]


def per_seed(seeds: list[list[Record]], metric: str) -> tuple[list[Array] | None, Labels | None]:
    """Per pretraining seed, the score per example averaged over evaluation seeds; the groups.

    None where they are missing or of different lengths, or where their mean is not the score, as
    for F1 or mAP.
    """
    loaded = [[_unpack(record, metric) for record in same] for same in seeds]
    arrays = [[array for array, _ in same if array is not None] for same in loaded]
    groups = [own for same in loaded for _, own in same]
    lengths = {len(array) for same in arrays for array in same}
    complete = sum(map(len, arrays)) == len(groups)
    if not complete or len(lengths) > 1 or not all(_same(groups[0], own) for own in groups):
        return None, None
    return [np.mean(same, axis=0) for same in arrays], groups[0]


def _unpack(record: Record, metric: str) -> tuple[Array | None, Labels | None]:
    inline = record.inline or {}
    if metric not in inline:
        return None, None
    examples = unpack(inline[metric]).astype(np.float64)
    value = record.scores[metric].value
    if not math.isclose(examples.mean(), value, rel_tol=1e-5, abs_tol=1e-6):  # they are float32
        return None, None
    groups = unpack(inline["groups"]) if "groups" in inline else None
    return examples, groups if groups is not None and len(groups) == len(examples) else None


def _same(a: Labels | None, b: Labels | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b)


def _mark(found: list[_Evidence], higher_is_better: bool) -> None:
    """Mark the best cell of a column and those that cannot be told from it."""
    if len(found) < 2:
        return
    groups = next((e.groups for e in found if e.examples is not None), None)
    values = [e.cell.value for e in found]
    examples = [e.examples if _same(e.groups, groups) else None for e in found]
    standing = best_and_tied(values, examples, groups, higher_is_better)
    for row, (value, tied) in enumerate(zip(values, standing.tied, strict=True)):
        cell = found[row].cell
        cell.mark = "best" if value == values[standing.best] else "tied" if tied else None
        cell.p = standing.p[row]
