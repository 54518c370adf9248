"""Records → the files of a leaderboard."""

from pathlib import Path

from sslbench.leaderboard import reported, tables
from sslbench.leaderboard.board import Board, build
from sslbench.leaderboard.page import page
from sslbench.records import read_records, without_collection, write_lines
from sslbench.storage import write_text


@without_collection()
def publish(sources: list[Path], out: Path) -> Board:
    """Write records.jsonl, records.csv, leaderboard.csv and index.html into `out`.

    Each file is written atomically and depends on the records only, and on the `reported.csv` that
    may stand in `out`: published again from its own records.jsonl, a board is the same byte for
    byte.

    Args:
        sources: run folders, stores or records.jsonl files; where they overlap they must agree.
        out: folder of the board; its name is the title.

    Raises:
        UserError: a source has no or damaged records, or some that contradict each other.
    """
    records = [record for source in sources for record in read_records(source)]
    board = build(records, out.resolve().name, reported.read(out / reported.FILE))
    files = {
        "records.csv": tables.text(tables.long(board.records)),
        "leaderboard.csv": tables.text(tables.wide(board)),
        "index.html": page(board),
    }
    write_lines(board.records, out / "records.jsonl")
    for name, text in files.items():
        write_text(out / name, text)
    return board
