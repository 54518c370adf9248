"""The commands that answer at once, against Python alone."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from sslbench.bench.timing import Goal, Timing, in_turn

COMMANDS = {"help": ["--help"], "list": ["list"]}


def measure(rounds: int) -> Iterator[Timing]:
    """`sslbench --help` and `sslbench list`."""
    for name, words in COMMANDS.items():
        command = partial(_run, "-m", "sslbench", *words)
        ours, theirs = in_turn(command, partial(_run, "-c", "pass"), rounds)
        yield Timing(
            f"startup/{name}",
            f"sslbench {' '.join(words)}",
            "",
            ours,
            goal=Goal("seconds", 0.3),
            numbers={"python_alone": sorted(theirs)[rounds // 2]},
        )


def _run(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
