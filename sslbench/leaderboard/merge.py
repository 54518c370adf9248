"""Records of several places → one run folder, where a grid then computes only what is missing."""

from pathlib import Path

from sslbench.hashing import file_sha256
from sslbench.leaderboard.checks import unique
from sslbench.lock import exclusive
from sslbench.records import Record, Store, read_records, store_in


def merge(sources: list[Path], out: Path) -> tuple[int, int]:
    """Add the records of `sources` to a run folder.

    A record's key says all that determined it, so a grid that has some of these cells takes them
    as done. Of two records of one key an ok one goes before others; otherwise what `out` has
    stays. Per-example scores come along; a records.jsonl has those of the headline metric.

    Args:
        sources: run folders, stores or records.jsonl files.
        out: the run folder, made if it does not exist; no other process may work in it.

    Returns:
        How many records were added, and how many there are now.

    Raises:
        UserError: a source has no or damaged records, or some that contradict others or those of
            `out`; nothing is written then.
    """
    found = [record for source in sources for record in read_records(source)]
    stores = [store_in(source) for source in sources if source.is_dir()]
    with exclusive(out):
        target = Store(out / "records")
        held = {record.key: record.status for record in target}
        kept = unique([*target, *found])
        better = {r.key for r in kept if r.status == "ok" and held.get(r.key) != "ok"}
        new = [r for r in kept if r.key in better or r.key not in held]
        for record in new:
            target.take_over(record, _arrays(record, stores))
    return len(new), len(kept)


def _arrays(record: Record, stores: list[Store]) -> Path | None:
    """The file of the record's per-example scores."""
    for store in stores:
        path = store.path(record.key).with_suffix(".npz")
        if path.exists() and file_sha256(path) == record.examples:
            return path
    return None
