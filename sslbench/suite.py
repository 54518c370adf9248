"""Suites: named lists of tasks and datasets, with the settings of the tasks."""

from pathlib import Path
from typing import Any

from pydantic import Field

from sslbench import toml_file
from sslbench.errors import UserError, suggest
from sslbench.toml_file import Table

FOLDER = Path(__file__).parent / "suites"


class EvaluateTable(Table):
    """[evaluate]: every task on every dataset that has its targets, for each seed."""

    tasks: list[str] = Field(min_length=1)
    datasets: list[str] = Field(min_length=1)
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)


class Suite(Table):
    """A suite file; a grid file says the same of what it evaluates.

    Attributes:
        override: task or variant name → its settings, with the keys `datasets` (some of
            [evaluate]'s) and `resources` (in a grid); `of` makes it a variant with a column of its
            own.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    evaluate: EvaluateTable
    override: dict[str, dict[str, Any]] = Field(default_factory=dict)


def names() -> list[str]:
    """The suites that come with sslbench."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(name: str, base: Path) -> Path:
    """The file of a suite.

    Args:
        name: of one that comes with sslbench, or the path of a file, ending in .toml.
        base: folder that the path is relative to; in a run folder the file lies there itself,
            beside the copy of the grid.

    Raises:
        UserError: no such name.
    """
    if name.endswith(".toml"):
        path, beside = base / name, base / Path(name).name
        return beside if beside.exists() and not path.exists() else path
    if name not in names():
        raise UserError(f"no suite {name!r}; {suggest(name, [*names(), 'PATH.toml'])}")
    return FOLDER / f"{name}.toml"


def read(path: Path) -> Suite:
    """Parse and check a suite file; its names and settings are checked by `sslbench.grid.columns`.

    Raises:
        UserError: no file, no TOML, an unknown key or a value of another type, with the line.
    """
    return toml_file.check(Suite, toml_file.load(path, "suite file"), path)


def changed(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings with changes; tables are joined, but for an encoder, which is one thing."""
    out = dict(settings)
    for key, value in changes.items():
        before = out.get(key)
        tables = isinstance(before, dict) and isinstance(value, dict) and key != "encoder"
        out[key] = {**before, **value} if tables else value  # type: ignore[dict-item]
    return out
