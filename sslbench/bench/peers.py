"""Peers run in environments of their own, beside the running one, and answer over a pipe."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Self

from sslbench.bench.timing import in_turn
from sslbench.errors import UserError
from sslbench.lock import exclusive
from sslbench.storage import cache_root, folder_atomic, write_json, write_text

PATIENCE_SECONDS = 10.0  # for a program whose input has ended


def environment(name: str, *requirements: str) -> Path:
    """Python of an environment with a peer on top of all that the running one has; made once.

    It sees the running environment's packages after its own: torch is the very same and is not
    fetched again, the peer is its own whether or not the running environment has it, too.

    Args:
        name: of the folder below `cache_root()`/peers.
        requirements: what pip is to install.

    Raises:
        UserError: pip could not.
    """
    folder = cache_root() / "peers" / name
    wanted = {
        "requirements": list(requirements),
        "python": [sys.base_prefix, sys.version],
        "below": [
            path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")
        ],
    }
    with exclusive(folder.parent, wait=True):
        if _made(folder) != wanted:
            with folder_atomic(folder) as partial:
                _make(partial, name, wanted)
                write_json(partial / "made.json", wanted)
    return _python(folder)


def _made(folder: Path) -> Any:
    """What the environment was made of; None if there is none."""
    if not _python(folder).exists():  # also where the interpreter that it points to has gone
        return None
    try:
        return json.loads((folder / "made.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _make(folder: Path, name: str, wanted: Mapping[str, Any]) -> None:
    venv.create(folder, symlinks=True)
    own = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    write_text(Path(own) / "below.pth", "".join(f"{path}\n" for path in wanted["below"]))
    # First the peer without a look at what is there, which may be the same release of it; then
    # what it needs and is not there.
    for options in (("--no-deps", "--ignore-installed"), ()):
        command = [_python(folder), "-m", "pip", "install", *options, *wanted["requirements"]]
        quiet = ("--quiet", "--no-input", "--disable-pip-version-check")
        done = subprocess.run([*command, *quiet], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"pip could not install {name}: {_last_line(done.stderr)}")


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"


class Peer:
    """A running program that answers each request, a line of JSON, with a line of JSON.

    It idles between requests, so that its work and ours take turns on the same cores, and measures
    its own seconds. It ends with the `with` block, and where this process dies.

    Args:
        name: what errors call it.
        python: of its environment; see `environment`.
        program: its file, or its text.
        variables: of its process, on top of this one's.
    """

    def __init__(
        self,
        name: str,
        python: Path,
        program: Path | str,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._said = TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # Isolated: neither the program's folder nor PYTHONPATH comes before its packages.
        text = ["-c", program] if isinstance(program, str) else [str(program)]
        self._process = subprocess.Popen(
            [python, "-I", *text],
            env={**os.environ, **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def ask(self, do: str, **settings: Any) -> Any:
        """Its answer to {"do": do, **settings}.

        Raises:
            UserError: it ended instead, with the last line that it wrote to standard error.
        """
        answer = ""
        with suppress(BrokenPipeError):
            self._requests.write(json.dumps({"do": do, **settings}) + "\n")
            self._requests.flush()
            answer = self._answers.readline()
        if answer:
            return json.loads(answer)
        code = self._process.wait(PATIENCE_SECONDS)
        self._said.seek(0)
        said = _last_line(self._said.read())
        raise UserError(f"{self.name} ended with code {code} when asked for {do!r}: {said}")

    def close(self, patience: float = PATIENCE_SECONDS) -> None:
        """End its input, and it after some patience."""
        with suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(0.0 if kind else PATIENCE_SECONDS)


def own_seconds_in_turn(
    ours: Callable[[], float], theirs: Callable[[], float], rounds: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`in_turn` of work that measures its own seconds."""
    a: list[float] = []
    b: list[float] = []
    in_turn(lambda: a.append(ours()), lambda: b.append(theirs()), rounds)
    return tuple(a[1:]), tuple(b[1:])  # without the first calls, which do not count
