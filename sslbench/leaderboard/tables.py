"""The two CSV files: every number in the long form, and the board in the wide form."""

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from sslbench.leaderboard.board import Board, Row
from sslbench.records import Record

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


def long(records: list[Record]) -> pd.DataFrame:
    """records.csv: one row per cell and metric; a cell without scores has one row without values.

    First who, what and the numbers, then settings (as JSON), provenance and cost.
    """
    rows = [row for record in records for row in _lines(record)]
    order = ["name", "encoder", "pretrain_dataset", "pretrain_epochs", "pretrain_step"]
    order += ["pretrain_seed", "task", "task_version", "dataset", "metric", "eval_seed", "key"]
    return _frame(rows).sort_values(order, kind="stable", ignore_index=True)


def wide(board: Board) -> pd.DataFrame:
    """leaderboard.csv: one row per row of the board, then the scores, then what belongs to them.

    Scores are means over seeds; NAME/low and NAME/high is their 95 % interval over the examples,
    NAME/seeds_low and NAME/seeds_high the one over pretraining seeds, NAME/reported what others
    say, NAME/verified how many of its records others computed too. What is missing is empty.
    """
    table = _frame([_wide_row(board, row) for row in board.rows])
    return table.astype({f"{column.name}/verified": "Int64" for column in board.columns})


def csv(table: pd.DataFrame) -> str:
    """As text: full precision, so that reading it back gives the same numbers."""
    return table.to_csv(index=False, lineterminator="\n")


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    return table.astype({name: "Int64" for name in COUNTS if name in table})


def _lines(record: Record) -> list[dict[str, Any]]:
    c, where = record.checkpoint, record.provenance
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
                "value": score and score.value,
                "standard_error": score and score.standard_error,
                "low": score and score.low,
                "high": score and score.high,
                "n": score and score.n,
                "eval_seed": record.eval_seed,
                "status": record.status,
                "reason": record.reason,
                "headline": metric == record.headline,
                "at": c.at,
                "method": c.method,
                "method_version": c.method_version,
                "settings": _json(c.settings),
                "recipe": _json(c.recipe),
                "encoder_config": _json(c.encoder_config),
                "image_size": c.encoder_config.get("image_size"),
                "external": _json(c.external),
                "overlap": record.overlap,
                "protocol": record.protocol,
                "task_settings": _json(record.task_settings),
                "selected": _json(record.selected),
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
                "verified_values": json.dumps([v.value for v in record.verified]),
                "created": where.created,
                "git_commit": where.git_commit,
                "git_dirty": where.git_dirty,
                "code": where.code,
                "versions": _json(where.versions),
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


def _wide_row(board: Board, row: Row) -> dict[str, Any]:
    cells = {column: board.cells[row, column] for column in board.columns}
    checkpoints = board.checkpoints(row)
    line: dict[str, Any] = {
        "name": row.name,
        "family": checkpoints[0].family,
        "encoder": row.encoder,
        "pretrain_dataset": row.pretrain_dataset,
        "pretrain_epochs": row.pretrain_epochs,
        "seeds": len(checkpoints),
        "parameters": checkpoints[0].parameters,
        "pretrain_seconds": board.seconds(row),
        **(asdict(board.aggregates[row]) if row in board.aggregates else {}),
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


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)
