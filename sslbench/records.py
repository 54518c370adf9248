"""The result record and its store: one JSON file per cell, and its per-example scores beside it."""

import base64
import binascii
import gc
import io
import json
import math
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sslbench.errors import UserError
from sslbench.hashing import file_sha256
from sslbench.storage import write_atomic, write_text

SCHEMA = 1
_HEAD = b'{"schema_version":%d,' % SCHEMA  # of each line that we write
_NEXT = ',"task":'  # what follows its checkpoint

Status = Literal["ok", "failed", "not_applicable"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Score(_Model):
    """One number of a task on one dataset.

    Attributes:
        value: the score; shares lie in [0, 1].
        n: number of examples (or episodes) behind it.
        standard_error: of `value` over the examples, None where the protocol has none.
        low: lower bound of the 95 % interval over the examples.
        high: upper bound.
    """

    value: float
    n: int
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None


class Checkpoint(_Model):
    """What was evaluated.

    Attributes:
        key: hash of all that determined the weights.
        name: of the method (or the variant of it in the grid) or of the external checkpoint.
        family: the method's folder, or "external".
        encoder: short label of the encoder's configuration.
        pretraining: precision and provenance of the training.
        external: what was found in somebody else's checkpoint: format, files with their sha256,
            how many weights matched, where its preprocessing comes from.
        at: share of the pretraining after which the weights were taken, in (0, 1].
    """

    key: str
    name: str
    family: str
    method: str | None = None
    method_version: int | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    encoder: str
    encoder_config: dict[str, Any] = Field(default_factory=dict)
    parameters: int | None = None
    weights_hash: str | None = None
    pretrain_dataset: str | None = None
    pretrain_dataset_hash: str | None = None
    pretrain_epochs: int = 0
    pretrain_step: int = 0
    pretrain_seed: int = 0
    pretrain_loss: float | None = None
    pretrain_seconds: float | None = None
    pretraining: dict[str, Any] = Field(default_factory=dict)
    external: dict[str, Any] = Field(default_factory=dict)
    at: float = 1.0


_NOBODY = b'{"key":"","name":"","family":"","encoder":""}'  # stands in for one that is shared


class Provenance(_Model):
    """Where and with what a cell was computed."""

    created: str
    git_commit: str | None = None
    git_dirty: bool | None = None
    code: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: str = ""
    threads: int = 1
    world_size: int = 1
    seconds: float = 0.0
    peak_memory_mb: float = 0.0


class Verification(_Model):
    """The same cell, computed apart from the record that it stands in.

    Attributes:
        value: of the headline metric.
    """

    value: float
    provenance: Provenance


class Record(_Model):
    """One cell of the grid: a checkpoint, a task and a dataset, and what came out.

    Attributes:
        key: hash of all that determines the cell.
        task: name of the column; a variant of a protocol has its own.
        protocol: the task as in the registry.
        headline: the metric that a table shows.
        chance: score of the headline metric without looking at the input; None where undefined.
        higher_is_better: direction of the headline metric, None where it only describes.
        overlap: what the pretraining data and the dataset are known to share (see
            `sslbench.data.overlap`); None where nothing is known.
        selected: what the protocol chose, and on which split.
        examples: sha256 of KEY.npz with the per-example scores, None without them.
        inline: per-example scores of the headline metric (and "groups") as text, in records.jsonl
            and in what was merged from one; see `pack`.
        completions: how often the cell was computed in its run folder, with the same scores.
        verified: who else computed it, in the order of their dates.
    """

    schema_version: int = SCHEMA
    key: str = Field(pattern=r"^[0-9a-f]{4,64}$")  # it becomes a path
    status: Status
    reason: str | None = None
    checkpoint: Checkpoint
    task: str
    protocol: str
    task_version: int
    task_settings: dict[str, Any] = Field(default_factory=dict)
    dataset: str
    dataset_hash: str | None = None
    overlap: str | None = None
    n_train: int | None = None
    n_test: int | None = None
    headline: str
    chance: float | None = None
    higher_is_better: bool | None = True
    eval_seed: int = 0
    selected: dict[str, Any] = Field(default_factory=dict)
    scores: dict[str, Score] = Field(default_factory=dict)
    examples: str | None = None
    inline: dict[str, str] | None = None
    completions: int = 1
    verified: list[Verification] = Field(default_factory=list)
    provenance: Provenance


class Store:
    """Records under `folder`/ab/KEY.json, with per-example scores in KEY.npz.

    Writes are atomic, and the scores are written before the record that names their sha256.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """The file of the record with this key."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> Record | None:
        """The record, or None if there is none. Raises UserError where it is damaged."""
        path = self.path(key)
        return read_record(path) if path.exists() else None

    def put(self, record: Record, examples: dict[str, np.ndarray] | None = None) -> Record:
        """Store a record; a second completion of a cell must agree with the first.

        Args:
            record: with `examples` unset; it is filled in here.
            examples: per-example scores (n,) by metric.

        Raises:
            UserError: the cell was completed before, with other scores.
        """
        path = self.path(record.key)
        before = self.get(record.key)
        if before is not None and before.status == "ok":
            if record.status != "ok":
                return before
            if not agree(before, record):
                raise UserError(
                    f"{path}: computed again with other scores: {_values(before)}, now "
                    f"{_values(record)}; the first record was kept"
                )
            again = before.model_copy(update={"completions": before.completions + 1})
            write_text(path, again.model_dump_json(indent=1) + "\n")
            return again
        if examples:
            arrays = path.with_suffix(".npz")
            buffer = io.BytesIO()
            np.savez(buffer, **examples)  # type: ignore[arg-type]
            write_atomic(arrays, lambda temporary: temporary.write_bytes(buffer.getvalue()))
            record = record.model_copy(update={"examples": file_sha256(arrays)})
        write_text(path, record.model_dump_json(indent=1) + "\n")
        return record

    def examples(self, record: Record) -> dict[str, np.ndarray]:
        """Per-example scores (n,) by metric; empty without them. Raises UserError if altered."""
        if record.examples is None:
            return {}
        path = self.path(record.key).with_suffix(".npz")
        if not path.exists() or file_sha256(path) != record.examples:
            raise UserError(f"{path}: missing, or not the file that its record names")
        with np.load(path) as arrays:
            return dict(arrays)

    def take_over(self, record: Record, arrays: Path | None) -> None:
        """Store a record that was computed elsewhere.

        Args:
            record: as `read_records` gives it.
            arrays: the file of its per-example scores; None: `inline` has some, and is kept.
        """
        path = self.path(record.key)
        if arrays is not None:
            copy = path.with_suffix(".npz")
            write_atomic(copy, lambda temporary: shutil.copyfile(arrays, temporary))
            record = record.model_copy(update={"inline": None})
        write_text(path, record.model_dump_json(indent=1) + "\n")

    def __iter__(self) -> Iterator[Record]:
        for path in sorted(self.folder.glob("??/*.json")):
            yield read_record(path)


def agree(first: Record, second: Record) -> bool:
    """Whether two completions of a cell have the same scores.

    Up to 1e-6, relative: sums depend in their last digits on threads, batch sizes and hardware.
    """
    return first.scores.keys() == second.scores.keys() and all(
        score.n == second.scores[name].n
        and math.isclose(score.value, second.scores[name].value, rel_tol=1e-6, abs_tol=1e-9)
        for name, score in first.scores.items()
    )


def pack(array: np.ndarray) -> str:
    """A vector as "kind:n:base64": bits where all values are 0 or 1, else int32 or float32."""
    if np.isin(array, (0, 1)).all():
        kind, data = "bits", np.packbits(array.astype(bool))
    elif np.issubdtype(array.dtype, np.integer):
        kind, data = "i4", array.astype("<i4")
    else:
        kind, data = "f4", array.astype("<f4")
    return f"{kind}:{len(array)}:{base64.b64encode(data.tobytes()).decode()}"


def unpack(text: str) -> np.ndarray:
    """The vector (n,) that `pack` wrote: float64, or int64 for kind i4.

    Raises:
        ValueError: another kind, or data of another length than the text says.
    """
    try:
        kind, length, data = text.split(":")
        n, raw = int(length), binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        kind, n, raw = "", 0, b""
    size = {"bits": (n + 7) // 8, "i4": 4 * n, "f4": 4 * n}.get(kind, 0)
    if not 0 < size == len(raw):
        raise ValueError(f"KIND:N:BASE64 expected, found {text[:40]!r}")
    if kind == "bits":
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=n).astype(np.float64)
    return np.frombuffer(raw, f"<{kind}").astype(np.int64 if kind == "i4" else np.float64)


def _values(record: Record) -> str:
    return ", ".join(f"{name} {score.value:.6g}" for name, score in sorted(record.scores.items()))


def read_record(path: Path) -> Record:
    """Read and check one record file. Raises UserError with what is wrong in it."""
    try:
        return parse_record(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise UserError(
            f"{path}: not a valid record ({error}); remove the file and run again"
        ) from None


def parse_record(text: str | bytes) -> Record:
    """A record from its JSON. Raises ValueError with what is wrong in one line."""
    try:
        record = Record.model_validate_json(text)
        version = record.schema_version if "schema_version" in record.model_fields_set else None
        if version == SCHEMA:
            return record
        raise ValueError(f"schema version {version}; this sslbench reads {SCHEMA}")
    except ValidationError as error:
        try:  # one of another version is not read, so its fields do not count
            version = json.loads(text).get("schema_version")
        except (ValueError, AttributeError):
            raise ValueError("not a JSON object") from None
        if version != SCHEMA:
            raise ValueError(f"schema version {version}; this sslbench reads {SCHEMA}") from None
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}") from None


@contextmanager
def without_collection() -> Iterator[None]:
    """While many objects are made that stay: to look for garbage in them takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # else they are looked through as soon as it is enabled
            gc.freeze()
            gc.unfreeze()  # they are now among the oldest
        if enabled:
            gc.enable()


@without_collection()
def read_records(source: Path) -> list[Record]:
    """All records of a run folder, a store, a records.jsonl or a board, in the order of their keys.

    Per-example scores of the headline metric come along in `inline`, and of its variants
    (`top1_few_linear`) those that are right or wrong, a bit each, and that at the best layer.

    Raises:
        UserError: nothing is there, or a record is damaged.
    """
    if source.is_file():
        records = list(_read_lines(source))
    else:
        store = store_in(source)
        records = [_with_inline(record, store) for record in store]
        lines = source / "records.jsonl"
        if not records and lines.is_file():  # the folder of a board
            records = list(_read_lines(lines))
    if not records:
        raise UserError(
            f"{source}: no records found; expected a run folder, a board or a records.jsonl"
        )
    return sorted(records, key=lambda record: record.key)


def store_in(source: Path) -> Store:
    """The store of a run folder, or the one that the folder itself is."""
    return Store(source / "records" if (source / "records").is_dir() else source)


def _with_inline(record: Record, store: Store) -> Record:
    if record.inline is not None:  # it came from a records.jsonl
        return record
    examples = store.examples(record)
    wanted = (record.headline, f"{record.headline}_best_layer", "groups")
    inline = {}
    for name in sorted(examples):
        packed = pack(examples[name])
        variant = name.startswith(f"{record.headline}_") and packed.startswith("bits:")
        if name in wanted or variant:
            inline[name] = packed
    return record.model_copy(update={"inline": inline or None})


def _read_lines(path: Path) -> Iterator[Record]:
    parse = _Parser()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line == b"\n":
                continue
            try:
                yield parse(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}") from None


class _Parser:
    """Records from their lines. Those of one checkpoint share it, and its text is read once.

    It is more than half of a line, and the same in as many lines as the grid has columns.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, Checkpoint]] = {}  # by how their text begins

    def __call__(self, line: bytes) -> Record:
        head, mark, tail = line.partition(b'"checkpoint":')
        if not head.startswith(_HEAD) or head.count(b"{") > 1 or not mark:  # not as we write them
            return parse_record(line)
        begin = tail[:64]
        text, checkpoint = self._known.get(begin, (b"", None))
        if checkpoint is not None and tail.startswith(text):
            try:
                record = Record.model_validate_json(head + mark + _NOBODY + tail[len(text) :])
            except ValidationError:
                return parse_record(line)  # it says what is wrong
            vars(record)["checkpoint"] = checkpoint  # frozen, but nobody else has it yet
            return record
        record = parse_record(line)
        text = record.checkpoint.model_dump_json().encode()
        if tail.startswith(text):
            self._known[begin] = text, record.checkpoint
        return record


def write_lines(records: Iterable[Record], path: Path) -> None:
    """Write records.jsonl: one record a line, in the order of their keys."""
    write_text(path, _lines(sorted(records, key=lambda record: record.key)))


def _lines(records: list[Record]) -> Iterator[str]:
    texts: dict[int, str] = {}  # records of one checkpoint share it
    for record in records:
        own = record.checkpoint
        text = texts.get(id(own)) or texts.setdefault(id(own), own.model_dump_json())
        line = record.model_dump_json(exclude={"checkpoint"})
        yield line.replace(_NEXT, f',"checkpoint":{text}{_NEXT}', 1) + "\n"
