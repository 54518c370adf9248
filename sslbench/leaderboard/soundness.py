"""Whether a record is right in itself: its numbers, and the key that hashes them."""

import math
import re
from datetime import UTC, datetime, timedelta

from sslbench.checkpoint import external_key
from sslbench.grid.cells import Evaluation
from sslbench.leaderboard.findings import Said
from sslbench.records import Record, Score

AHEAD = timedelta(days=1)  # by which another machine's clock and time zone may be


def values(record: Record) -> Said:
    """Numbers that cannot be, and a status that its scores and reason contradict."""
    if record.status == "ok" and record.headline not in record.scores:
        found = ", ".join(record.scores) or "none"
        yield "problem", f"headline {record.headline!r} expected among the scores, found {found}"
    if record.status != "ok":
        if not record.reason:
            yield "problem", f"{record.status} without a reason"
        if record.scores or record.examples or record.inline:
            yield "problem", f"{record.status}, but it has scores: none expected"
    for name, score in record.scores.items():
        for text in _score(score, *_range(record, name)):
            yield "problem", f"{name}: {text}"
    if not 0 < record.checkpoint.at <= 1:
        yield "problem", f"at = {record.checkpoint.at}: a share in (0, 1] expected"
    for name, seconds in (
        ("seconds", record.provenance.seconds),
        ("pretrain_seconds", record.checkpoint.pretrain_seconds),
    ):
        if seconds is not None and not 0 <= seconds < math.inf:
            yield "problem", f"{name} = {seconds}: at least 0 expected"
    yield from _created(record.provenance.created)


def key(record: Record) -> Said:
    """Keys that are not the hash of what the record says.

    The record's own key is computed for datasets of the table; of folders and files it hashes the
    path as it was given, which the record has in full. A checkpoint's key is computed for those of
    others. That of a pretraining run hashes the encoder as the grid gave it and all shares at which
    weights were kept, which no record has; of a checkpoint of ours that was given a name of its
    own, nothing tells the two kinds apart.
    """
    c = record.checkpoint
    if not re.fullmatch("[0-9a-f]{32}", record.key):  # it names files
        yield "problem", f"key {record.key!r}: 32 hex digits expected"
    cell = Evaluation(
        c.key,
        c.at,
        record.task,
        record.protocol,
        record.task_version,
        record.task_settings,
        record.dataset,
        record.dataset_hash or "",
        record.eval_seed,
    )
    if ":" not in record.dataset and cell.key != record.key:
        yield (
            "problem",
            f"the key is not the hash of checkpoint key, at, task, version, settings, dataset and "
            f"seed, {cell.key} expected: one of them was changed",
        )
    if c.family == "external" and c.weights_hash is not None:
        about = {
            "family": c.family,
            "encoder_config": c.encoder_config,
            "weights_hash": c.weights_hash,
            "pretrain_dataset": c.pretrain_dataset,
        }
        if (expected := external_key(c.name, about)) != c.key:
            yield (
                "problem",
                f"checkpoint key {c.key} is not the hash of name, encoder_config, weights_hash and "
                f"pretrain_dataset, {expected} expected: one of them was changed",
            )


def _range(record: Record, name: str) -> tuple[float, float]:
    """Where a score may lie.

    The headline and its variants are shares where they have a chance level. Where that is 0 they
    may be below it, as the adjusted Rand index and correlations are.
    """
    if record.chance is None or not (name + "_").startswith(record.headline + "_"):
        return -math.inf, math.inf
    return (0.0 if record.chance else -1.0), 1.0


def _score(score: Score, least: float, most: float) -> list[str]:
    out = []
    value, low, high, rounding = score.value, score.low, score.high, 1e-9
    if not math.isfinite(value):
        return [f"{value}: a finite number expected"]
    if not least - rounding <= value <= most + rounding:
        out.append(f"{value}: a share in [{least:g}, {most:g}] expected")
    if score.n < 1:
        out.append(f"n = {score.n}: at least 1 expected")
    if score.standard_error is not None and not score.standard_error >= 0:
        out.append(f"standard_error = {score.standard_error}: at least 0 expected")
    if (low is None) != (high is None):
        out.append(f"interval [{low}, {high}]: both bounds or none expected")
    elif low is not None and high is not None:
        rounding *= max(1.0, abs(value))
        if not low - rounding <= value <= high + rounding:
            out.append(f"{value} is not in its interval [{low}, {high}]")
    return out


def _created(text: str) -> Said:
    try:
        created = datetime.fromisoformat(text)
    except ValueError:
        yield "problem", f"created {text!r}: an ISO 8601 time expected"
        return
    if created.tzinfo is None:
        created = created.replace(tzinfo=UTC)
    if created - datetime.now(UTC) > AHEAD:
        yield "problem", f"created {text}, which is in the future"
