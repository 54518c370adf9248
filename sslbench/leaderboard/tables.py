"""The two CSV files: every number in the long form, and the board in the wide form."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

import pandas as pd

from sslbench.leaderboard.aggregates import Aggregate
from sslbench.leaderboard.board import Board, Row
from sslbench.records import Checkpoint, Record

Line = dict[str, Any]

COUNTS = (
    "n",
    "n_train",
    "n_test",
    "method_version",
    "parameters",
    "image_size",
    "rank",
    "rank_low",
    "rank_high",
    "group",
)  # integers that may be missing
TO_QUOTE = re.compile(r'[",\r\n]').search
AGGREGATES = tuple(field.name for field in fields(Aggregate))
_within = itemgetter("metric", "eval_seed", "key")  # the order of the lines of `_place`


def long(records: Iterable[Record]) -> Iterator[Line]:
    """records.csv: one line per cell and metric; a cell without scores has one without values.

    First who, what and the numbers, then settings (as JSON), provenance and cost.
    """
    texts: dict[int, Line] = {}  # records of one checkpoint share it
    for _, same in groupby(sorted(records, key=_place), key=_place):
        yield from sorted((line for record in same for line in _lines(record, texts)), key=_within)


def wide(board: Board) -> list[Line]:
    """leaderboard.csv: one line per row of the board, then the scores, then what belongs to them.

    Scores are means over seeds; NAME/low and NAME/high is their 95 % interval over the examples,
    NAME/seeds_low and NAME/seeds_high the one over pretraining seeds, NAME/reported what others
    say, NAME/verified how many of its records others computed too. What is missing is empty.
    """
    return [_wide_row(board, row) for row in board.rows]


def text(lines: Iterable[Line]) -> Iterator[str]:
    """As CSV (RFC 4180), line by line; each has the names of the first.

    At full precision, so that reading it back gives the same numbers.
    """
    quoted, names = _Quoted(), None
    for line in lines:
        if names is None:
            names = list(line)
            yield ",".join(map(quoted.__getitem__, names)) + "\n"
        values = [
            "" if value is None else quoted[value] if type(value) is str else str(value)
            for value in line.values()
        ]
        yield ",".join(values) + "\n"


class _Quoted(dict[str, str]):
    """Texts as CSV has them; the longest are the same in many lines."""

    def __missing__(self, text: str) -> str:
        own = '"' + text.replace('"', '""') + '"' if TO_QUOTE(text) else text
        self[text] = own
        return own


def frame(lines: Iterable[Line]) -> pd.DataFrame:
    """As a table."""
    table = pd.DataFrame(lines)
    return table.astype({name: "Int64" for name in COUNTS if name in table})


def _place(record: Record) -> tuple[Any, ...]:
    c = record.checkpoint
    first = (c.name, c.encoder, c.pretrain_dataset is None, c.pretrain_dataset or "")
    budget = (c.pretrain_epochs, c.pretrain_step, c.pretrain_seed)
    return (*first, *budget, record.task, record.task_version, record.dataset)


def _lines(record: Record, texts: dict[int, Line]) -> list[Line]:
    c, where = record.checkpoint, record.provenance
    own = texts.get(id(c)) or texts.setdefault(id(c), _texts(c))
    task_settings, selected = _json(record.task_settings), _json(record.selected)
    verified_values = _json([v.value for v in record.verified])
    versions = _versions(tuple(where.versions.items()))
    lines = []
    for metric in sorted(record.scores) or [record.headline]:
        score = record.scores.get(metric)
        lines.append(
            {
                "name": c.name,
                "family": c.family,
                "encoder": c.encoder,
                "pretrain_dataset": c.pretrain_dataset,
                "pretrain_epochs": c.pretrain_epochs,
                "pretrain_step": c.pretrain_step,
                "pretrain_seed": c.pretrain_seed,
                "task": record.task,
                "task_version": record.task_version,
                "dataset": record.dataset,
                "metric": metric,
                "value": score and _known(score.value),
                "standard_error": score and _known(score.standard_error),
                "low": score and _known(score.low),
                "high": score and _known(score.high),
                "n": score and score.n,
                "eval_seed": record.eval_seed,
                "status": record.status,
                "reason": record.reason,
                "headline": metric == record.headline,
                "at": c.at,
                "method": c.method,
                "method_version": c.method_version,
                **own,
                "overlap": record.overlap,
                "protocol": record.protocol,
                "task_settings": task_settings,
                "selected": selected,
                "chance": record.chance,
                "higher_is_better": record.higher_is_better,
                "n_train": record.n_train,
                "n_test": record.n_test,
                "pretrain_dataset_hash": c.pretrain_dataset_hash,
                "dataset_hash": record.dataset_hash,
                "weights_hash": c.weights_hash,
                "checkpoint_key": c.key,
                "key": record.key,
                "completions": record.completions,
                "verified": len(record.verified),
                "verified_values": verified_values,
                "created": where.created,
                "git_commit": where.git_commit,
                "git_dirty": where.git_dirty,
                "code": where.code,
                "versions": versions,
                "hardware": where.hardware,
                "threads": where.threads,
                "world_size": where.world_size,
                "parameters": c.parameters,
                "pretrain_loss": c.pretrain_loss,
                "pretrain_seconds": c.pretrain_seconds,
                "seconds": where.seconds,
                "peak_memory_mb": where.peak_memory_mb,
            }
        )
    return lines


def _texts(c: Checkpoint) -> Line:
    return {
        "settings": _json(c.settings),
        "recipe": _json(c.recipe),
        "encoder_config": _json(c.encoder_config),
        "image_size": c.encoder_config.get("image_size"),
        "external": _json(c.external),
    }


def _known(number: float | None) -> float | None:
    """Without what is not a number, which is empty in CSV."""
    return None if number is None or math.isnan(number) else number


def _wide_row(board: Board, row: Row) -> Line:
    cells = {column: board.cells[row, column] for column in board.columns}
    checkpoints, own = board.checkpoints(row), board.aggregates.get(row)
    line: Line = {
        "name": row.name,
        "family": checkpoints[0].family,
        "encoder": row.encoder,
        "pretrain_dataset": row.pretrain_dataset,
        "pretrain_epochs": row.pretrain_epochs,
        "seeds": len(checkpoints),
        "parameters": checkpoints[0].parameters,
        "pretrain_seconds": board.seconds(row),
        **({name: getattr(own, name, None) for name in AGGREGATES} if board.aggregates else {}),
        "columns_in_mean": len(board.shared),
        "columns_scored": sum(cell.ok for cell in cells.values()),
    }
    line |= {column.name: cell.value if cell.ok else None for column, cell in cells.items()}
    for column, cell in cells.items():
        line[f"{column.name}/low"], line[f"{column.name}/high"] = cell.interval or (None, None)
        line[f"{column.name}/seeds_low"], line[f"{column.name}/seeds_high"] = cell.over_seeds or (
            None,
            None,
        )
        line[f"{column.name}/status"] = cell.status
        line[f"{column.name}/reported"] = cell.reported and cell.reported.value
        line[f"{column.name}/verified"] = cell.verified if cell.ok else None
    return line


_encode = json.JSONEncoder(sort_keys=True).encode


def _json(value: dict[str, Any] | list[Any]) -> str:
    return _encode(value) if value else repr(value)


@lru_cache(maxsize=64)  # the same in most records
def _versions(items: tuple[tuple[str, str], ...]) -> str:
    return _encode(dict(items))
