"""Records → the files of a leaderboard."""

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from sslbench.leaderboard import reported, tables
from sslbench.leaderboard.beside import beside
from sslbench.leaderboard.board import Board, arranged, board_of
from sslbench.leaderboard.page import page
from sslbench.records import Record, read_records, without_collection, write_lines
from sslbench.storage import write_atomic, write_text

PARTIAL = ".partial-"  # how the names of folders for unfinished lists begin
ABANDONED = 3_600  # seconds after which whoever fills such a folder must have been killed


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
    found = arranged(record for source in sources for record in read_records(source))
    others = reported.read(out / reported.FILE)
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(f"{PARTIAL}*"):
        with suppress(FileNotFoundError):  # its owner lived, and has finished
            if time.time() - leftover.stat().st_mtime > ABANDONED:
                shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=out, prefix=PARTIAL) as temporary:
        folder = Path(temporary)
        with beside(lambda: _lists(found.all, folder)) as listed:
            board = board_of(found, out.resolve().name, others)
            csv = "".join(tables.text(tables.wide(board)))
            texts = {"leaderboard.csv": csv, "index.html": page(board, csv)}
            listed()
        for file in sorted(folder.iterdir()):
            write_atomic(out / file.name, file.replace)
    for name, text in texts.items():
        write_text(out / name, text)
    return board


def _lists(records: list[Record], folder: Path) -> None:
    """The files of single records, which need no board."""
    write_lines(records, folder / "records.jsonl")
    write_text(folder / "records.csv", tables.text(tables.long(records)))
