"""Numbers that others report and that sslbench did not compute: `reported.csv` beside a board."""

import csv
from dataclasses import dataclass
from pathlib import Path

from sslbench.errors import UserError

FILE = "reported.csv"
FIELDS = (
    "name",
    "encoder",
    "pretrain_dataset",
    "pretrain_epochs",
    "task",
    "dataset",
    "metric",
    "value",
    "source",
)


@dataclass(frozen=True)
class Reported:
    """One number of somebody else.

    Attributes:
        row: name, encoder, pretraining data and epochs, as on the board.
        column: task, dataset and metric.
        source: where it stands, such as "arXiv:2002.05709, table 8".
    """

    row: tuple[str, str, str, int]
    column: tuple[str, str, str]
    value: float
    source: str


def read(path: Path) -> list[Reported]:
    """The numbers of a file, none where there is no file.

    Raises:
        UserError: with the line, what was found and what is expected.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as lines:
        table = csv.DictReader(lines)
        if set(table.fieldnames or ()) != set(FIELDS):
            found = ", ".join(table.fieldnames or ()) or "nothing"
            raise UserError(f"{path}: expected the columns {', '.join(FIELDS)}; found {found}")
        return [_line(line, f"{path}, line {table.line_num}") for line in table]


def _line(line: dict[str, str], place: str) -> Reported:
    try:
        value, epochs = float(line["value"]), int(line["pretrain_epochs"] or 0)
    except ValueError:
        raise UserError(
            f"{place}: expected numbers, found value {line['value']!r} and pretrain_epochs "
            f"{line['pretrain_epochs']!r}"
        ) from None
    if not (line["source"] or "").strip():
        raise UserError(f"{place}: no source; say where the number stands")
    row = (line["name"], line["encoder"], line["pretrain_dataset"], epochs)
    return Reported(row, (line["task"], line["dataset"], line["metric"]), value, line["source"])
