"""Two rows, in all columns that either has: which is better where, by more than chance."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sslbench.errors import UserError
from sslbench.leaderboard import text
from sslbench.leaderboard.board import (
    Arranged,
    Column,
    Row,
    arranged,
    column_key,
    column_of,
    evidence_of,
)
from sslbench.leaderboard.checks import grouped
from sslbench.leaderboard.choose import choose, listed
from sslbench.leaderboard.differences import Compared, compared
from sslbench.records import Record, read_records
from sslbench.statistics import holm


@dataclass(frozen=True)
class Side:
    """One of the two rows; `source` is the file or folder it stands for, if it stands for one."""

    row: Row
    records: list[Record]
    source: str | None = None

    @property
    def seeds(self) -> int:
        """How many pretraining seeds have a score."""
        done = [record for record in self.records if record.status == "ok"]
        return len({record.checkpoint.pretrain_seed for record in done})


@dataclass(frozen=True)
class Comparison:
    """Two rows in all columns that either has, by dataset."""

    a: Side
    b: Side
    columns: list[Compared]

    @property
    def summary(self) -> str:
        """In how many columns which row is better."""
        names = (self.a.row.name, self.b.row.name)
        a, b = names if names[0] != names[1] else ("A", "B")
        count = Counter(one.verdict for one in self.columns)
        tested = sum(one.p_holm is not None for one in self.columns)
        if not tested:
            return "No column could be tested."
        untested = f"; {count['not tested']} not tested" if count["not tested"] else ""
        return (
            f"{a} is better in {count['A better']} of {tested} column{'s' * (tested != 1)}, "
            f"{b} in {count['B better']}, "
            f"{count['not distinguishable']} cannot be told apart{untested}."
        )

    @property
    def claim(self) -> str:
        """Whether the differences are about checkpoints or about methods."""
        return text.claim([self.a.seeds, self.b.seeds])


@dataclass(frozen=True)
class Comparisons:
    """All pairs of rows, and the rows that only one of two sources has."""

    pairs: list[Comparison]
    only_a: Sequence[Row] = ()
    only_b: Sequence[Row] = ()


def compare(a: str, b: str, records: Sequence[Path] = ()) -> Comparisons:
    """The differences A − B, each with a test and a 95 % interval.

    Args:
        a: a row of `records` (see `choose`). Without them, a run folder, store, board or
            records.jsonl, of which each row is compared with the same row of `b`; if both have
            but one row, these two are compared.
        b: the other.
        records: run folders, stores, boards or records.jsonl files.

    Raises:
        UserError: no such row or file, or records that could not be published together.
    """
    if records:
        found = _load(*records)
        one, other = (choose(found.rows, wanted) for wanted in (a, b))
        if one == other:
            raise UserError(f"{a!r} and {b!r} are the same row: {text.label(one)}")
        a_side, b_side = (Side(row, found.rows[row]) for row in (one, other))
        return Comparisons([_pair(a_side, b_side, _columns(found, found))])
    for wanted in (a, b):
        if not Path(wanted).exists():
            raise UserError(
                f"{wanted!r} is no file or folder; to compare rows by their names, say where they "
                f"are: sslbench compare {a} {b} --records leaderboards/quickstart"
            )
    first, second = _load(Path(a)), _load(Path(b))
    if len(first.rows) == len(second.rows) == 1:
        rows = [(*first.rows, *second.rows)]
    else:
        rows = [(row, row) for row in sorted(first.rows.keys() & second.rows.keys())]
    if not rows:
        raise UserError(
            f"no row is in both {a} ({listed(first.rows)}) and {b} ({listed(second.rows)}); "
            "to compare two rows by their names, give both with --records"
        )
    columns = _columns(first, second)
    return Comparisons(
        [
            _pair(Side(one, first.rows[one], a), Side(other, second.rows[other], b), columns)
            for one, other in rows
        ],
        sorted(first.rows.keys() - {one for one, _ in rows}),
        sorted(second.rows.keys() - {other for _, other in rows}),
    )


def _load(*sources: Path) -> Arranged:
    return arranged(record for source in sources for record in read_records(source))


def _columns(first: Arranged, second: Arranged) -> dict[tuple[str, str, str], Column]:
    """By dataset; from all rows, since all scores decide on whether a column is in percent."""
    names = sorted({*first.columns, *second.columns}, key=lambda name: (name[1], name))
    both = {name: first.columns.get(name, []) + second.columns.get(name, []) for name in names}
    return {name: column_of(name, records) for name, records in both.items()}


def _pair(a: Side, b: Side, columns: dict[tuple[str, str, str], Column]) -> Comparison:
    own, others = (grouped(side.records, column_key) for side in (a, b))
    found = [
        compared(column, evidence_of(own.get(name, [])), evidence_of(others.get(name, [])))
        for name, column in columns.items()
        if name in own or name in others
    ]
    p = {
        place: one.test.p
        for place, one in enumerate(found)
        if one.test is not None and one.column.higher_is_better is not None
    }
    for place, corrected in zip(p, holm(list(p.values())).tolist(), strict=True):
        found[place] = replace(found[place], p_holm=corrected)
    return Comparison(a, b, found)
