"""What may stand on one board: numbers of one row or column must mean the same."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import TypeVar

from sslbench.errors import UserError
from sslbench.records import Provenance, Record, Verification, agree

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

    Other ok records of the key are kept as its verifications; see `verify`.

    Raises:
        UserError: two ok records of one key contradict each other.
    """
    kept = []
    for _, same in sorted(grouped(records, attrgetter("key")).items()):
        if len(same) == 1:
            kept += same
            continue
        done = sorted((r for r in same if r.status == "ok"), key=_precedence)
        kept.append(verify(done[0], done[1:]) if done else min(same, key=_precedence))
    return kept


def verify(first: Record, others: Sequence[Record]) -> Record:
    """The first record, with what the others of its key say of it.

    Scores of one key must be the same. Where they were computed on other hardware or with other
    versions, the headline score may differ by up to half its 95 % interval over the examples.

    Raises:
        UserError: one differs by more.
    """
    found = {_when(v.provenance): v for v in first.verified}
    for other in others:
        if not agree(first, other) and not _near(first, other):
            raise UserError(
                f"two records of {_name(other)} (key {first.key}) have different scores: "
                f"{_scores(first)}; {_scores(other)}; remove the wrong one"
            )
        own = Verification(value=other.scores[other.headline].value, provenance=other.provenance)
        found |= {_when(v.provenance): v for v in (own, *other.verified)}
    found.pop(_when(first.provenance), None)
    if len(found) == len(first.verified):
        return first
    return first.model_copy(update={"verified": [found[when] for when in sorted(found)]})


def _when(provenance: Provenance) -> tuple[str, str]:
    return provenance.created, provenance.hardware


def _near(first: Record, other: Record) -> bool:
    """Whether two records that were computed on different machines differ by little."""
    a, b = first.provenance, other.provenance
    same = (a.hardware, a.threads, a.world_size, a.versions)
    if same == (b.hardware, b.threads, b.world_size, b.versions):
        return False  # nothing explains a difference
    x, y = first.scores.get(first.headline), other.scores.get(first.headline)
    if x is None or y is None or x.low is None or x.high is None or x.n != y.n:
        return False
    return abs(x.value - y.value) <= (x.high - x.low) / 2


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
    of_each = list({id(record.checkpoint): record for record in done}.values())
    for field in OF_A_ROW:
        _agree(f"row {name}", field, of_each, remedy)
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


def one_version(records: list[Record]) -> None:
    """Numbers of different versions of a task are not comparable, so they are not joined.

    Raises:
        UserError: naming the column, the versions and the records' names.
    """
    for name, members in grouped(current(records), attrgetter("task", "dataset")).items():
        done = [record for record in members if record.status == "ok"]
        remedy = "keep them apart, or evaluate the older ones again"
        _agree(f"column {'/'.join(name)}", "task_version", done, remedy)


def _agree(place: str, field: str, records: list[Record], remedy: str) -> None:
    """Raise UserError unless all records have the same value in a field."""
    value = attrgetter(field)
    values = [value(record) for record in records]
    if all(one is values[0] or one == values[0] for one in values):
        return
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
