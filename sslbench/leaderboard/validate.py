"""Records as the maintainer of a leaderboard checks a contribution: each, and all together."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslbench.errors import UserError
from sslbench.leaderboard import checks, recomputed
from sslbench.leaderboard.board import column_key, row_of
from sslbench.leaderboard.findings import Finding, Level, Report, Said
from sslbench.leaderboard.reading import opened, parsed, raw
from sslbench.records import Record, agree

if TYPE_CHECKING:
    from sslbench.leaderboard.expected import Expected

CELL = attrgetter(
    "checkpoint.key", "checkpoint.name", "checkpoint.at", "task", "dataset", "eval_seed"
)
CELL_DETAILS = ("protocol", "task_settings", "dataset_hash")
CHECKPOINT_DETAILS = (  # which the key of a checkpoint hashes
    "name",
    "family",
    "method",
    "method_version",
    "settings",
    "recipe",
    "pretrain_dataset",
    "pretrain_dataset_hash",
    "pretrain_epochs",
    "pretrain_seed",
)


def validate(sources: list[Path]) -> Report:
    """Check all records; one that is damaged does not hide the others.

    Args:
        sources: run folders, stores, folders of boards or records.jsonl files.

    Raises:
        UserError: a source is not there, or has no records.
    """
    stores = [opened(source) for source in sources]
    from sslbench.leaderboard import soundness  # torch waits until there is something to check
    from sslbench.leaderboard.expected import Expected

    expected, together = Expected(), _Together()
    findings: list[Finding] = []
    count = 0
    for number, (source, store) in enumerate(zip(sources, stores, strict=True)):
        before = count
        for place, content in raw(source, store):
            count += 1
            record = parsed(place, content)
            if isinstance(record, list):
                findings += record
                continue
            named = store is None or place == str(store.path(record.key))
            read = _Read(record.model_copy(update={"inline": None}), place, number)
            said = {
                "identity": together.add(read, named),
                "task": expected.task(record),
                "method": expected.method(record),
                "data": expected.data(record),
                "values": soundness.values(record),
                "key": chain(soundness.key(record), together.checkpoint(read)),
                "examples": recomputed.examples(record, store if named else None),
            }
            findings += [
                Finding.of(record, place, check, *each) for check in said for each in said[check]
            ]
        if count == before:
            raise UserError(
                f"{source}: no records found; expected a run folder, a board or a records.jsonl"
            )
    return Report(count, [*findings, *together.outdated(expected), *together.refused()])


@dataclass(frozen=True)
class _Read:
    """A record without its per-example scores, and where it stands."""

    record: Record
    place: str
    source: int


class _Together:
    """What only shows where several records are seen."""

    def __init__(self) -> None:
        self._by_key: dict[str, _Read] = {}  # one that is ok before others, else the first
        self._by_cell: dict[Any, _Read] = {}  # and version of the task: the first
        self._newest: dict[Any, _Read] = {}  # of a cell
        self._by_checkpoint: dict[str, _Read] = {}  # the first that is ok

    def add(self, new: _Read, named: bool) -> Said:
        """A key that stands elsewhere, or a cell that has another key there.

        Args:
            new: what was read.
            named: whether its file has the name that its key gives it.
        """
        record = new.record
        cell = CELL(record)
        if not named:
            yield "problem", f"the file's name is not the record's key: {record.key}.json expected"
        first = self._by_key.setdefault(record.key, new)
        if first is not new:
            yield _duplicate(first, new)
            if record.status == "ok" != first.record.status:
                self._by_key[record.key] = new
        other = self._by_cell.setdefault((cell, record.task_version), new)
        if other.record.key != record.key:
            differ = [d for d in CELL_DETAILS if getattr(record, d) != getattr(other.record, d)]
            what = f"differs in {', '.join(differ)}" if differ else "says the same"
            yield "problem", f"this cell has another key at {other.place}, whose record {what}"
        newest = self._newest.setdefault(cell, new)
        if record.task_version > newest.record.task_version:
            self._newest[cell] = new

    def checkpoint(self, new: _Read) -> Said:
        """A checkpoint whose key stands for another one elsewhere."""
        if new.record.status != "ok":
            return
        own = new.record.checkpoint
        first = self._by_checkpoint.setdefault(own.key, new)
        other = first.record.checkpoint
        differ = [d for d in CHECKPOINT_DETAILS if getattr(own, d) != getattr(other, d)]
        if differ:
            text = f"checkpoint key {own.key} stands for another {', '.join(differ)}"
            yield "problem", f"{text} at {first.place}"

    def outdated(self, expected: "Expected") -> Iterator[Finding]:
        """Records of an older version of their task than this sslbench's."""
        for read in self._by_key.values():
            record, newest = read.record, self._newest[CELL(read.record)]
            version = expected.version(record.protocol)
            if version is None or record.task_version >= version:
                continue
            text = f"version {record.task_version} of {record.protocol}; "
            if newest.record.task_version > record.task_version:
                text += f"only version {newest.record.task_version} is published ({newest.place})"
                yield Finding.of(record, read.place, "task", "note", text)
            else:
                text += f"this sslbench has {version}: evaluate again"
                yield Finding.of(record, read.place, "task", "problem", text)

    def refused(self) -> Iterator[Finding]:
        """What `sslbench.leaderboard.board.build` does not put into one row or column."""
        current = checks.current(read.record for read in self._by_key.values())
        final = [record for record in current if record.checkpoint.at == 1.0]
        if current and not final:
            yield self._of_several(
                current[0], "no records of fully pretrained checkpoints (at = 1.0)"
            )
        for row, members in checks.grouped(final, row_of).items():
            yield from self._told(checks.row, ", ".join(map(str, row)), members)
        for name, members in checks.grouped(final, column_key).items():
            yield from self._told(checks.column, "/".join(name), members)

    def _told(
        self, check: Callable[[str, list[Record]], None], name: str, members: list[Record]
    ) -> Iterator[Finding]:
        try:
            check(name, members)
        except UserError as error:
            yield self._of_several(members[0], str(error))

    def _of_several(self, first: Record, text: str) -> Finding:
        place = self._by_key[first.key].place
        return Finding(place, "", "", "", "", "together", "problem", text)


def _duplicate(first: _Read, new: _Read) -> tuple[Level, str]:
    """What to say of a record whose key stands elsewhere, too."""
    a, b = first.record, new.record
    try:
        with suppress(KeyError):  # without a headline score, which `values` says
            checks.unique([a, b])
    except UserError:
        return "problem", f"contradicts the record at {first.place}: {_contrast(b, a)}"
    if not a.status == b.status == "ok":
        how = f"{a.status} there and {b.status} here"
    else:
        how = "with equal scores" if agree(a, b) else "as near as another machine's scores may be"
    level: Level = "problem" if first.source == new.source else "note"
    return level, f"the same key stands at {first.place}, {how}"


def _contrast(here: Record, there: Record) -> str:
    """The first score that differs."""
    for name in {**here.scores, **there.scores}:
        pair = here.scores.get(name), there.scores.get(name)
        if pair[0] != pair[1]:
            values = [f"{score.value:.6g} (n = {score.n})" if score else "none" for score in pair]
            return f"{name} {values[0]} here, {values[1]} there"
    return ""
