"""Records of several places → one run folder, where a grid then computes only what is missing."""

from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from sslbench.hashing import file_sha256
from sslbench.leaderboard.checks import grouped, one_version, unique, verify
from sslbench.lock import exclusive
from sslbench.records import Record, Store, read_records, store_in


class Merged(NamedTuple):
    """How many records were added, were verified by others of their key, and there are now."""

    added: int
    verified: int
    total: int


def merge(sources: list[Path], out: Path) -> Merged:
    """Add the records of `sources` to a run folder.

    A record's key says all that determined it, so a grid that has some of these cells takes them
    as done. Of two records of one key an ok one goes before others; otherwise what `out` has
    stays, and counts the other as its verification (see `checks.verify`). Per-example scores come
    along; a records.jsonl has those of the headline metric.

    Args:
        sources: run folders, stores or records.jsonl files.
        out: the run folder, made if it does not exist; no other process may work in it.

    Raises:
        UserError: a source has no or damaged records, some that contradict others or those of
            `out`, or other versions of a task than they; nothing is written then.
    """
    found = [record for source in sources for record in read_records(source)]
    stores = [store_in(source) for source in sources if source.is_dir()]
    with exclusive(out):
        target = Store(out / "records")
        held = {record.key: record for record in target}
        kept = [
            _joined(held.get(key), same) for key, same in grouped(found, attrgetter("key")).items()
        ]
        all_ = {**held, **{record.key: record for record in kept}}
        one_version(list(all_.values()))
        changed = [record for record in kept if record != held.get(record.key)]
        verified = [r for r in changed if r.key in held and held[r.key].status == r.status]
        for record in changed:
            target.take_over(record, None if record in verified else _arrays(record, stores))
    return Merged(len(changed) - len(verified), len(verified), len(all_))


def _joined(held: Record | None, found: list[Record]) -> Record:
    """What the run folder keeps of one key."""
    (best,) = unique(found)
    if held is None or (held.status != "ok" and best.status == "ok"):
        return best
    return verify(held, [best] if held.status == best.status == "ok" else [])


def _arrays(record: Record, stores: list[Store]) -> Path | None:
    """The file of the record's per-example scores."""
    for store in stores:
        path = store.path(record.key).with_suffix(".npz")
        if path.exists() and file_sha256(path) == record.examples:
            return path
    return None
