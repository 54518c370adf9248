"""What a check says of a record: where, which check, how bad, in one harmless line."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sslbench.records import Record

Level = Literal["problem", "note"]
Said = Iterator[tuple[Level, str]]  # by a check, of one record


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or worth knowing.

    Attributes:
        place: PATH:LINE in a records.jsonl, else the path of the record's file.
        key: of the record, and so on; "" where it is not known or several are meant.
        check: short name that does not change.
        level: a "note" is no reason to refuse a record.
        text: what is wrong, what was found and what is expected.
    """

    place: str
    key: str
    name: str
    task: str
    dataset: str
    check: str
    level: Level
    text: str

    @classmethod
    def of(cls, record: Record, place: str, check: str, level: Level, text: str) -> "Finding":
        """A finding in one record."""
        name = record.checkpoint.name
        return cls(place, record.key, name, record.task, record.dataset, check, level, text)

    def plain(self) -> dict[str, Any]:
        """For `--json`; what could move a terminal's cursor or reverse text is escaped."""
        return {field: harmless(value) for field, value in asdict(self).items()}

    def __str__(self) -> str:
        shown = self.plain()
        level = "note: " if self.level == "note" else ""
        if not self.name:
            return "{place}: {0}{text}".format(level, **shown)
        return "{place}: {name} in {task}/{dataset} ({key}): {0}{text}".format(level, **shown)


@dataclass(frozen=True)
class Report:
    """All findings.

    Attributes:
        records: how many were read, damaged ones included.
        findings: notes, too.
    """

    records: int
    findings: list[Finding]

    @property
    def problems(self) -> int:
        """How many findings are no notes."""
        return sum(finding.level == "problem" for finding in self.findings)

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        findings = [finding.plain() for finding in self.findings]
        return {"records": self.records, "problems": findings}

    def __str__(self) -> str:
        notes = len(self.findings) - self.problems
        last = f"{self.records} records, {self.problems} problems, {notes} notes"
        return "\n".join([*map(str, self.findings), last])


def harmless(text: str) -> str:
    """The text in one line, with backslashes for whatever is not to be printed."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
