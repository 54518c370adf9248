"""A board as one HTML file that needs nothing but itself."""

import base64
import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sslbench.leaderboard import notes, tables, text
from sslbench.leaderboard.board import Board, Cell, Column, Row
from sslbench.leaderboard.figures import figures
from sslbench.records import Checkpoint, Record

Section = tuple[str, list[tuple[str, str]]]  # a heading, and labelled values


def page(board: Board) -> str:
    """The HTML: the table as plain markup, the details of its cells as JSON beside it."""
    environment = Environment(
        loader=PackageLoader("sslbench", "leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = text.order(board)
    scales = {column: _scale(board, column) for column in board.columns}
    noted = {column: notes.of_column(board, column) for column in board.columns}
    csv = tables.csv(tables.wide(board)).encode()
    return environment.get_template("page.html.j2").render(
        board=board,
        text=text,
        rows=rows,
        tasks=[(task, list(own)) for task, own in groupby(board.columns, lambda c: c.task)],
        position=_position,
        place=lambda column, value: _position(scales[column], value),
        figures=figures(board),
        notes=noted,
        marks={cell.mark for cell in board.cells.values() if cell.mark},
        empty={cell.status for cell in board.cells.values()} - {"ok"},
        csv=base64.b64encode(csv).decode(),
        details={
            "rows": [[_checkpoint(board.checkpoints(row))] for row in rows],
            "cells": [[_details(board, row, column) for column in board.columns] for row in rows],
        },
    )


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


def _details(board: Board, row: Row, column: Column) -> dict[str, Any]:
    """What the dialog of a cell shows besides its row's checkpoints."""
    cell = board.cells[row, column]
    return {
        "title": row.name,
        "subtitle": f"{column.task} on {column.dataset}, {text.unit(column)}",
        "status": cell.status,
        "value": text.score(column, cell.value) if cell.ok else text.EMPTY.get(cell.status, "nan"),
        "half": text.half(column, cell),
        "facts": _facts(board, row, column),
        "reasons": _reasons(cell),
        "sections": _sections(cell.records) if cell.records else [],
    }


def _facts(board: Board, row: Row, column: Column) -> list[str]:
    """A cell's numbers in sentences."""
    cell = board.cells[row, column]
    if cell.status == "not_run":
        return ["There is no record of this cell: it was not run, or not published."]
    if not cell.ok:
        return []
    facts = []
    if cell.interval:
        n = cell.records[0].scores[column.metric].n
        facts.append(
            f"95 % interval over the examples (n = {n:,}): {_range(column, cell.interval)}."
        )
    if cell.over_seeds:
        facts.append(
            f"95 % interval over {len(cell.seeds)} pretraining seeds: "
            f"{_range(column, cell.over_seeds)}."
        )
    elif len(cell.seeds) == 1:
        facts.append("One pretraining seed: a number about this checkpoint, not the method.")
    if column.chance is not None:
        facts.append(f"Chance: {text.score(column, column.chance)}.")
    shared = {record.overlap for record in cell.records if record.overlap}
    facts += [f"Known overlap with the pretraining data: {text_}." for text_ in sorted(shared)]
    best = [r.name for r in board.rows if board.cells[r, column].mark == "best"]
    if cell.mark == "best":
        facts.append("Best of its column.")
    elif cell.p is not None:
        verb = "Cannot be told from" if cell.mark == "tied" else "Differs from"
        facts.append(
            f"{verb} {best[0]}, the best of its column: {text.probability(cell.p)} on the same "
            "examples, Holm-corrected."
        )
    elif best:
        facts.append(f"Not tested against {best[0]}: no scores on the same examples.")
    return facts


def _range(column: Column, ends: tuple[float, float]) -> str:
    return " to ".join(text.score(column, end) for end in ends)


def _reasons(cell: Cell) -> list[str]:
    """Why records are not ok, each with its seeds."""
    records = cell.failures if cell.status == "ok" else cell.records
    return [
        f"{text.EMPTY[record.status]} (pretraining seed {record.checkpoint.pretrain_seed}, "
        f"evaluation seed {record.eval_seed})\n{record.reason or 'no reason was given'}"
        for record in records
    ]


def _sections(records: list[Record]) -> list[Section]:
    first = records[0]
    metrics = sorted({metric for record in records for metric in record.scores})
    scores = [(metric, _scores(metric, records)) for metric in metrics]
    seeds = {
        "pretraining seed": [record.checkpoint.pretrain_seed for record in records],
        "evaluation seed": [record.eval_seed for record in records],
    }
    by_seed = [(name, " · ".join(map(str, numbers))) for name, numbers in seeds.items()]
    protocol = {
        "protocol": f"{first.protocol}, version {first.task_version}",
        **first.task_settings,
        "training examples": first.n_train,
        "test examples": first.n_test,
        "data": first.dataset_hash,
    }
    where = [_where(record) for record in records]
    sections = [
        ("Scores" if metrics else "Seeds", by_seed + scores),
        ("Chosen by the protocol", _merged(record.selected for record in records)),
        ("Protocol", _merged([protocol])),
        ("Where and when", _merged(where)),
    ]
    return [(title, lines) for title, lines in sections if lines]


def _scores(metric: str, records: list[Record]) -> str:
    """The scores as in the CSV, seed by seed; for a single record with n and interval."""
    scores = [record.scores[metric] for record in records if metric in record.scores]
    shown = " · ".join(f"{score.value:.4g}" for score in scores)
    if len(scores) > 1 or scores[0].low is None or scores[0].high is None:
        return shown
    return f"{shown} ({scores[0].low:.4g} to {scores[0].high:.4g}, n = {scores[0].n:,})"


def _where(record: Record) -> dict[str, Any]:
    where = record.provenance
    commit = where.git_commit and where.git_commit[:12]
    return {
        "created": where.created,
        "commit": f"{commit}, with uncommitted changes" if commit and where.git_dirty else commit,
        "code snapshot": where.code,
        "hardware": where.hardware,
        "threads": where.threads,
        "processes": where.world_size,
        "time": text.duration(where.seconds),
        "peak memory": f"{where.peak_memory_mb:,.0f} MB",
        **where.versions,
        "record": record.key,
    }


def _checkpoint(checkpoints: list[Checkpoint]) -> Section:
    """What was evaluated, over all pretraining seeds of a row."""
    about = [
        {
            "family": c.family,
            "method": c.method and f"{c.method}, version {c.method_version}",
            "encoder": c.encoder,
            "parameters": c.parameters and f"{c.parameters:,}",
            "pretraining data": c.pretrain_dataset,
            "epochs": c.pretrain_epochs,
            "steps": c.pretrain_step,
            "pretraining seed": c.pretrain_seed,
            "final loss": c.pretrain_loss,
            "pretraining time": c.pretrain_seconds and text.duration(c.pretrain_seconds),
            "weights": c.weights_hash,
            **_found(c.external),
            "checkpoint": c.key,
            **{f"settings.{name}": value for name, value in c.settings.items()},
            **{f"recipe.{name}": value for name, value in c.recipe.items()},
            **{f"encoder.{name}": value for name, value in c.encoder_config.items()},
        }
        for c in checkpoints
    ]
    return "Checkpoint", _merged(about)


def _found(external: dict[str, Any]) -> dict[str, Any]:
    """What was found in somebody else's checkpoint, in a few words."""
    if not external:
        return {}
    return {
        "format": external["format"],
        "weights found": f"{external['matched']} of {external['wanted']}",
        "weights at": external["weights"] or None,
        "weights missing": ", ".join(external["missing"]) or None,
        "stored as": external["dtype"],
        "preprocessing from": external["preprocessing"],
        **{f"sha256 of {name}": sha256 for name, sha256 in external["files"].items()},
    }


def _merged(facts: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Labels with their values; different values of one label side by side, None left out."""
    found: dict[str, dict[str, None]] = {}
    for fact in facts:
        for name, value in fact.items():
            if value is not None:
                found.setdefault(name, {})[_plain(value)] = None
    return [(name, " · ".join(values)) for name, values in found.items()]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
