"""A TOML file → a checked model; errors name the file, the line, and what is allowed."""

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sslbench.errors import UserError, suggest

Model = TypeVar("Model", bound=BaseModel)


class Table(BaseModel):
    """A table of a file: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def load(path: Path, what: str) -> dict[str, Any]:
    """The tables of a file.

    Args:
        path: of the file.
        what: it is, for the error.

    Raises:
        UserError: no file, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot read the {what}: {reason}") from None


# What says most of a wrong file: an unknown key more than the required one that it was meant to be.
_TELLING = {"extra_forbidden": 0, "missing": 2}


def check(model: type[Model], given: dict[str, Any], path: Path) -> Model:
    """The tables as a model.

    Raises:
        UserError: an unknown key (with its line and what is allowed) or a value of another type.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = min(error.errors(), key=lambda found: _TELLING.get(found["type"], 1))
        where = [part for part in first["loc"] if isinstance(part, str)]
        place = ".".join(str(part) for part in first["loc"])
        at = line_of(path, *where)
        if first["type"] == "extra_forbidden":
            allowed = suggest(where[-1], list(_fields(model, where[:-1])))
            raise UserError(f"{at}: unknown key {place!r}; {allowed}") from None
        found = "" if first["type"] == "missing" else f", found {first['input']!r}"
        raise UserError(f"{at}: {place}: {first['msg']}{found}") from None


def _fields(model: Any, where: list[str]) -> dict[str, Any]:
    """The fields of the table at `where`."""
    for name in where:
        options = [model.model_fields[name].annotation]
        while options and not (isinstance(options[0], type) and issubclass(options[0], BaseModel)):
            options = [*getattr(options[0], "__args__", ()), *options[1:]]
        model = options[0]
    return dict(model.model_fields)


def _line(text: str, where: list[str]) -> int | None:
    """Number of the line that sets the key at `where`, or opens its table."""
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
            section = [part.strip(" \"'") for part in match[1].split(".")]
            if section == where:
                return number
        elif match := re.match(r"\s*([\w\"'.-]+)\s*=", line):
            key = [part.strip("\"'") for part in match[1].split(".")]
            if [*section, *key] == where[: len(section) + len(key)] and len(key) + len(section) > 0:
                return number
    return None


def line_of(path: Path, *where: str) -> str:
    """Where a key stands, as `FILE, line N`, or just the file where the line is not found."""
    line = _line(path.read_text(encoding="utf-8"), list(where))
    return f"{path}, line {line}" if line else str(path)
