"""What may stand on one board: numbers of one row or column must mean the same."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from operator import attrgetter
from typing import TypeVar

from sslbench.errors import UserError
from sslbench.records import Record, agree

Key = TypeVar("Key", bound=Hashable)

OF_A_ROW = (
    "checkpoint.method",
    "checkpoint.method_version",
    "checkpoint.settings",
    "checkpoint.recipe",
    "checkpoint.encoder_config",
    "checkpoint.pretrain_dataset_hash",
)
OF_A_COLUMN = (
    "protocol",
    "task_version",
    "task_settings",
    "dataset_hash",
    "higher_is_better",
    "chance",
)


def grouped(records: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    """The records by the value of `key`, in the order in which they came."""
    found: defaultdict[Key, list[Record]] = defaultdict(list)
    for record in records:
        found[key(record)].append(record)
    return dict(found)


def unique(records: Iterable[Record]) -> list[Record]:
    """One record per key. Where sources overlap, an ok one before others, then the earliest.

    Raises:
        UserError: two ok records of one key have different scores.
    """
    kept = []
    for key, same in sorted(grouped(records, attrgetter("key")).items()):
        done = [record for record in same if record.status == "ok"]
        for other in done[1:]:
            if not agree(done[0], other):
                raise UserError(
                    f"two records of {_name(other)} (key {key}) have different scores: "
                    f"{_scores(done[0])}; {_scores(other)}; remove the wrong one"
                )
        kept.append(min(done or same, key=_precedence))
    return kept


def current(records: Iterable[Record]) -> list[Record]:
    """Without the records of cells that have one of a newer version of their task.

    A run folder keeps both where a grid was run again with a newer sslbench.
    """
    cell = attrgetter(
        "checkpoint.key", "checkpoint.name", "checkpoint.at", "task", "dataset", "eval_seed"
    )
    kept = []
    for same in grouped(records, cell).values():
        newest = max(record.task_version for record in same)
        kept += [record for record in same if record.task_version == newest]
    return kept


def _precedence(record: Record) -> tuple[bool, str, str]:
    return record.inline is None, record.provenance.created, record.model_dump_json()


def row(name: str, records: list[Record]) -> None:
    """One row: one method with one set of settings, one checkpoint per pretraining seed.

    Raises:
        UserError: naming the field, its values and the records' names.
    """
    done = [record for record in records if record.status == "ok"]
    remedy = "give one of them a name of its own ([override.NAME] in the grid)"
    for field in OF_A_ROW:
        _agree(f"row {name}", field, done, remedy)
    for seed, same in grouped(done, attrgetter("checkpoint.pretrain_seed")).items():
        hashed = [record for record in same if record.checkpoint.weights_hash]
        place = f"row {name}, pretraining seed {seed}"
        _agree(place, "checkpoint.weights_hash", hashed, remedy)
        for cell in grouped(same, attrgetter("task", "dataset", "headline", "eval_seed")).values():
            if len(cell) > 1:
                keys = ", ".join(record.key for record in cell)
                raise UserError(f"{_name(cell[0])}: several records with the same seeds: {keys}")


def column(name: str, records: list[Record]) -> None:
    """One column: one version and one set of settings of the protocol, on the same data.

    Raises:
        UserError: naming the field, its values and the records' names.
    """
    done = [record for record in records if record.status == "ok"]
    for field in OF_A_COLUMN:
        remedy = "publish them apart, or evaluate the older ones again"
        _agree(f"column {name}", field, done, remedy)


def _agree(place: str, field: str, records: list[Record], remedy: str) -> None:
    """Raise UserError unless all records have the same value in a field."""
    value = attrgetter(field)
    found = grouped(records, lambda record: repr(value(record)))
    if len(found) > 1:
        shown = "; ".join(
            f"{text} ({', '.join(sorted({record.checkpoint.name for record in same}))})"
            for text, same in sorted(found.items())
        )
        raise UserError(f"{place}: records with different {field}: {shown}; {remedy}")


def _name(record: Record) -> str:
    return f"{record.checkpoint.name} in {record.task}/{record.dataset}"


def _scores(record: Record) -> str:
    return ", ".join(f"{name} {score.value:.6g}" for name, score in sorted(record.scores.items()))
