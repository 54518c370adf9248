"""A board as one HTML file that needs nothing but itself.

The numbers of the table, the details of each row's cells, the libraries, the points of the plots
and the CSV are compressed, each until the browser wants it.
"""

import base64
import gzip
import json
from importlib.resources import files
from itertools import groupby
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from sslbench.leaderboard import details, notes, text
from sslbench.leaderboard.beside import beside
from sslbench.leaderboard.board import Board, Cell, Column, Row
from sslbench.leaderboard.figures import figures
from sslbench.statistics import LEVEL

NOISE_BYTES = 800_000  # of the draws behind the rank intervals, for choices of columns
DIGITS = 6


def page(board: Board, csv: str) -> str:
    """The HTML, with the board, its details and the libraries packed in it.

    Args:
        board: what it shows.
        csv: what it offers to download, the board's leaderboard.csv.
    """
    environment = Environment(
        loader=PackageLoader("sslbench", "leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows, best = text.order(board), details.best_rows(board)

    def of_rows() -> dict[str, str]:
        each = (details.of_row(board, row, best) for row in rows)
        return {f"row-{i}": _packed(_json(own)) for i, own in enumerate(each)}

    with beside(of_rows) as packed_rows:
        packed = {
            "data": _packed(_json(_data(board, rows))),
            "datatables": _packed(files("itables").joinpath("html/dt_bundle.js").read_bytes()),
            "plotly": _packed(get_plotlyjs().encode()),
            "csv": _packed(csv.encode()),
            "points": _packed(_json(_points(board, rows))),
            **packed_rows(),
        }
    noted = {column: notes.of_column(board, column) for column in board.columns}
    return environment.get_template("page.html.j2").render(
        board=board,
        text=text,
        rows=rows,
        tasks=[(task, list(own)) for task, own in groupby(board.columns, lambda c: c.task)],
        position=_position,
        figures=figures(board),
        notes=noted,
        marks={cell.mark for cell in board.cells.values() if cell.mark},
        empty={cell.status for cell in board.cells.values()} - {"ok"},
        verified=any(cell.verified == len(cell.records) > 0 for cell in board.cells.values()),
        packed=packed,
    )


def _data(board: Board, rows: list[Row]) -> dict[str, Any]:
    return {
        "rows": [_row(board, row) for row in rows],
        "columns": [_column(board, column) for column in board.columns],
        "cells": [[_cell(board.cells[row, c]) for c in board.columns] for row in rows],
        "noise": _noise(board, rows),
        "level": LEVEL,
        "text": {
            "empty": text.EMPTY,
            "marks": {mark: text.MARKS[mark] for mark in text.MEANING},
            "meaning": text.MEANING,
            "verified": text.VERIFIED,
        },
    }


def _row(board: Board, row: Row) -> dict[str, Any]:
    checkpoints = board.checkpoints(row)
    first, seconds = checkpoints[0], board.seconds(row)
    own = board.aggregates.get(row)
    return {
        "name": row.name,
        "about": text.about(row),
        "seeds": len(checkpoints),
        "parameters": first.parameters,
        "parametersText": text.count(first.parameters) if first.parameters is not None else "",
        "seconds": seconds,
        "secondsText": text.duration(seconds) if seconds is not None else "",
        "facets": {
            "family": first.family,
            "modality": _modality(first.encoder_config),
            "encoder": row.encoder,
            "pretraining data": row.pretrain_dataset or "none",
            "source": "external" if first.family == "external" else "own",
        },
        "aggregate": own
        and {
            "mean": own.mean,
            "normalised": own.normalised,
            "borda": own.borda,
            "winRate": own.win_rate,
            "rank": own.rank,
            "rankLow": own.rank_low,
            "rankHigh": own.rank_high,
            "group": own.group,
        },
    }


def _modality(encoder: dict[str, Any]) -> str:
    """What an encoder takes, by its configuration."""
    if "image" in encoder and "text" in encoder:
        return "image and text"
    images = ("image_size" in part for part in (encoder, encoder.get("first", {})))
    return "image" if any(images) else "text"


def _column(board: Board, column: Column) -> dict[str, Any]:
    low, high = _scale(board, column)
    return {
        "name": column.name,
        "task": column.task,
        "dataset": column.dataset,
        "unit": text.unit(column),
        "share": column.share,
        "chance": column.chance,
        "higher": column.higher_is_better,
        "averaged": column.averaged,
        "low": low,
        "high": high,
    }


def _scale(board: Board, column: Column) -> tuple[float, float]:
    """Range of a column's intervals, and of its chance level, to draw them on."""
    cells = [board.cells[row, column] for row in board.rows]
    ends = [end for cell in cells if cell.ok for end in cell.interval or (cell.value,)]
    if column.share and column.chance is not None:
        ends.append(column.chance)
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _position(scale: tuple[float, float], value: float) -> str:
    low, high = scale
    return f"{100 * (value - low) / (high - low) if high > low else 50:.1f}%"


def _cell(cell: Cell) -> list[Any]:
    """Value, ends of the interval, mark, whether others computed it too; or the status alone."""
    if not cell.ok:
        return [cell.status]
    ends = [_short(end) for end in cell.interval] if cell.interval else [None, None]
    return [_short(cell.value), *ends, cell.mark, cell.verified == len(cell.records)]


def _noise(board: Board, rows: list[Row]) -> dict[str, Any] | None:
    """The first draws of every averaged column as bytes (C, R, draws), and a scale per cell."""
    columns = [column for column in board.columns if column.averaged]
    if not columns:
        return None
    draws = max(40, min(200, NOISE_BYTES // (len(rows) * len(columns))))
    noise = np.zeros((len(columns), len(rows), draws), np.float32)
    for i, column in enumerate(columns):
        for j, row in enumerate(rows):
            own = board.cells[row, column].noise
            if own is not None:
                noise[i, j] = own[:draws]
    scale = np.abs(noise).max(axis=2) / 127
    steps = np.rint(noise / np.where(scale > 0, scale, 1)[:, :, None]).astype(np.int8)
    return {
        "draws": draws,
        "scale": [[_short(float(step)) for step in line] for line in scale],
        "steps": base64.b64encode(steps.tobytes()).decode(),
    }


def _points(board: Board, rows: list[Row]) -> dict[str, list[Any]]:
    """Of all checkpoints, also those along the way: loss, progress and score in each column."""
    place = {
        (r.name, r.encoder, r.pretrain_dataset, r.pretrain_epochs): i for i, r in enumerate(rows)
    }
    of = {(column.task, column.dataset): i for i, column in enumerate(board.columns)}
    found: dict[str, list[Any]] = {
        n: [] for n in ("row", "column", "seed", "epochs", "loss", "value")
    }
    for record in board.records:
        c = record.checkpoint
        row = place.get((c.name, c.encoder, c.pretrain_dataset or "", c.pretrain_epochs))
        column = of.get((record.task, record.dataset))
        if record.status != "ok" or row is None or column is None:
            continue
        if c.at == 1.0 and c.pretrain_loss is None:
            continue
        found["row"].append(row)
        found["column"].append(column)
        found["seed"].append(c.pretrain_seed)
        found["epochs"].append(_short(c.at * c.pretrain_epochs))
        found["loss"].append(c.pretrain_loss and _short(c.pretrain_loss))
        found["value"].append(_short(record.scores[record.headline].value))
    return found


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 7, mtime=0)).decode()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
