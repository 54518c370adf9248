"""What the page's dialog says of a cell: its numbers in sentences, and where they come from."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sslbench.leaderboard import text
from sslbench.leaderboard.board import Board, Cell, Column, Row
from sslbench.leaderboard.reproduce import evaluation, pretraining
from sslbench.records import Checkpoint, Record

SHOWN = 12  # digits of a key or a commit
Section = tuple[str, list[tuple[str, str]]]  # a heading, and labelled values


def of_row(board: Board, row: Row, best: Mapping[Column, str]) -> dict[str, Any]:
    """What all cells of a row share, and the cells in the order of the columns.

    Args:
        board: all of it.
        row: one of its rows.
        best: name of the best row of each column that has one, see `best_rows`.
    """
    checkpoints = board.checkpoints(row)
    records = [record for column in board.columns for record in board.cells[row, column].records]
    versions = _merged(record.provenance.versions for record in records)
    return {
        "sections": [_checkpoint(checkpoints), *([("Versions", versions)] if versions else [])],
        "reproduce": pretraining(checkpoints),
        "cells": [_cell(board, row, column, best.get(column)) for column in board.columns],
    }


def best_rows(board: Board) -> dict[Column, str]:
    """Name of the first row that is the best of its column."""
    found: dict[Column, str] = {}
    for (row, column), cell in board.cells.items():
        if cell.mark == "best":
            found.setdefault(column, row.name)
    return found


def _cell(board: Board, row: Row, column: Column, best: str | None) -> dict[str, Any]:
    cell = board.cells[row, column]
    return {
        "facts": _facts(board, row, column, best),
        "reasons": _reasons(cell),
        "sections": _sections(cell.records) if cell.records else [],
        "reproduce": evaluation(cell.records),
    }


def _facts(board: Board, row: Row, column: Column, best: str | None) -> list[str]:
    """A cell's numbers in sentences."""
    cell = board.cells[row, column]
    facts = _others(column, cell)
    if cell.status == "not_run":
        return ["There is no record of this cell: it was not run, or not published.", *facts]
    if not cell.ok:
        return facts
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
    if cell.mark == "best":
        facts.append("Best of its column.")
    elif cell.p is not None:
        verb = "Cannot be told from" if cell.mark == "tied" else "Differs from"
        facts.append(
            f"{verb} {best}, the best of its column: {text.probability(cell.p)} on the same "
            "examples, corrected for the number of rows."
        )
    elif best:
        facts.append(f"Not tested against {best}: no scores on the same examples.")
    return facts


def _others(column: Column, cell: Cell) -> list[str]:
    """What others report of the cell, and who computed it too."""
    facts = []
    if cell.reported:
        own = cell.reported
        facts.append(f"Reported: {text.score(column, own.value)} ({own.source}).")
    for record in cell.records:
        for other in record.verified:
            where = other.provenance
            facts.append(
                f"Verified: {text.score(column, other.value)} with seed "
                f"{record.checkpoint.pretrain_seed} on {where.hardware or 'unknown hardware'}, "
                f"{where.created[:10]}."
            )
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
    commit = where.git_commit and where.git_commit[:SHOWN]
    return {
        "created": where.created,
        "commit": f"{commit}, with uncommitted changes" if commit and where.git_dirty else commit,
        "code snapshot": where.code,
        "hardware": where.hardware,
        "threads": where.threads,
        "processes": where.world_size,
        "time": text.duration(where.seconds),
        "peak memory": f"{where.peak_memory_mb:,.0f} MB",
        "record": record.key[:SHOWN],
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
    before: dict[str, Any] = {}
    for fact in facts:
        if fact == before:
            continue
        before = fact
        for name, value in fact.items():
            if value is not None:
                found.setdefault(name, {})[_plain(value)] = None
    return [(name, " · ".join(values)) for name, values in found.items()]


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else _json(value)


_json = json.JSONEncoder(sort_keys=True).encode
