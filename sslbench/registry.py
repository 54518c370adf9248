"""Names → methods and tasks. The file name is the name; files are found, never registered.

Built-in files, the entry-point groups `sslbench.methods` and `sslbench.tasks` of other packages,
and the user's own folders named by $SSLBENCH_PLUGINS (set by `--plugins`, inherited by jobs), in
which `methods/NAME.py` and `tasks/NAME.py` are looked up.
"""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import os
import re
import sys
import types
import typing
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslbench.errors import UserError, suggest

if TYPE_CHECKING:
    from sslbench.method import Method
    from sslbench.task import Task

KINDS = {"methods": "Method", "tasks": "Task"}
# Where a class has said what it is: the first method, or its decorator, mostly a third of the file.
_BODY = re.compile(r"^    (?:@|def |async def )", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """A method or task that can be had by name.

    Attributes:
        name: the file's.
        kind: "methods" or "tasks".
        family: the folder's name for methods, "" for tasks.
        module: its import path, or an own one for files in plugin folders.
        path: its source.
    """

    name: str
    kind: str
    family: str
    module: str
    path: Path

    def describe(self) -> dict[str, Any]:
        """Name, family, summary and the literal class attributes, without importing the file."""
        text = self.path.read_text(encoding="utf-8")
        found: dict[str, Any] = {}
        with suppress(SyntaxError):
            found = _described(_BODY.split(text, 1)[0])
        if "paper" not in found:
            try:
                found = _described(text)
            except SyntaxError as error:
                raise UserError(f"{self.path}: line {error.lineno}: {error.msg}") from None
        out = {"name": self.name, "family": self.family} | found
        return {key: value for key, value in out.items() if value != ""}


def _described(text: str) -> dict[str, Any]:
    tree = ast.parse(text)
    out: dict[str, Any] = {"summary": (ast.get_docstring(tree) or "").partition("\n")[0]}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            out |= {"version": 1, "modality": "image"} | _literals(node)
    return out


def _literals(node: ast.ClassDef) -> dict[str, Any]:
    wanted = {"paper", "metric", "version", "modality", "target", "pseudo_label"}
    found = {}
    for line in node.body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            name = line.targets[0].id
            if name in wanted:
                found[name] = ast.literal_eval(line.value)
    return found


def installed(group: str) -> EntryPoints:
    """The entry points of one group in all packages, which are looked through once."""
    return _installed().select(group=group)


_installed = cache(entry_points)


def plugin_folders() -> list[Path]:
    """The folders in $SSLBENCH_PLUGINS."""
    return [Path(p) for p in os.environ.get("SSLBENCH_PLUGINS", "").split(os.pathsep) if p]


def entries(kind: str) -> dict[str, Entry]:
    """Everything of one kind by name, "methods" or "tasks".

    Raises:
        UserError: two files with one name.
    """
    found: dict[str, Entry] = {}
    for entry in _discover(kind):
        if entry.name in found:
            both = f"{found[entry.name].path} and {entry.path}"
            raise UserError(f"two {kind} are called {entry.name!r}: {both}")
        found[entry.name] = entry
    return dict(sorted(found.items()))


def _discover(kind: str) -> "typing.Iterator[Entry]":
    package = importlib.util.find_spec(f"sslbench.{kind}")
    for root in (package.submodule_search_locations if package else None) or []:
        for path in sorted(Path(root).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if path.stem != "__init__":
                module = ".".join(("sslbench", kind, *parts))
                yield Entry(path.stem, kind, parts[-2] if len(parts) > 1 else "", module, path)
    for point in installed(f"sslbench.{kind}"):
        spec = importlib.util.find_spec(point.module)
        if spec and spec.origin:
            yield Entry(point.name, kind, "plugin", point.module, Path(spec.origin))
    for folder in plugin_folders():
        if not folder.is_dir():
            raise UserError(f"plugin folder {folder}: no such folder")
        for path in sorted((folder / kind).glob("*.py")):
            yield Entry(path.stem, kind, "plugin", f"sslbench_plugins.{kind}.{path.stem}", path)


def entry(kind: str, name: str) -> Entry:
    """One method or task by name. Raises UserError with the nearest name."""
    known = entries(kind)
    if name not in known:
        raise UserError(f"unknown {kind.removesuffix('s')} {name!r}; {suggest(name, list(known))}")
    return known[name]


def method(name: str) -> "type[Method]":
    """The class of a method. Raises UserError for an unknown name or an unfit file."""
    return _load(entry("methods", name))  # type: ignore[no-any-return]


def task(name: str) -> "type[Task]":
    """The class of a task. Raises UserError for an unknown name or an unfit file."""
    return _load(entry("tasks", name))  # type: ignore[no-any-return]


def _load(entry: Entry) -> Any:
    contract = getattr(
        importlib.import_module(f"sslbench.{entry.kind.removesuffix('s')}"), KINDS[entry.kind]
    )
    module = _module(entry)
    fits = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, contract)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]
    if len(fits) != 1:
        names = ", ".join(cls.__name__ for cls in fits) or "none"
        raise UserError(
            f"{entry.path}: expected one public subclass of {contract.__name__}, found {names}"
        )
    return fits[0]


def _module(entry: Entry) -> types.ModuleType:
    if not entry.module.startswith("sslbench_plugins."):
        return importlib.import_module(entry.module)
    known = sys.modules.get(entry.module)
    if known is not None and known.__file__ == str(entry.path):
        return known
    spec = importlib.util.spec_from_file_location(entry.module, entry.path)
    if spec is None or spec.loader is None:
        raise UserError(f"{entry.path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[entry.module] = module
    try:
        spec.loader.exec_module(module)
    except Exception:
        del sys.modules[entry.module]
        raise
    return module


def settings(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """All settings of a method or task: its keyword-only arguments, with `given` checked.

    Args:
        cls: the class whose constructor is read.
        given: name → value; a table for a setting that is a dataclass.

    Raises:
        UserError: an unknown name or a value of another type.
    """
    hints = typing.get_type_hints(vars(cls).get("__init__", object.__init__))
    parameters = inspect.signature(cls).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return known | _checked(cls.__name__, known, hints, given)


def _checked(
    owner: str, known: dict[str, Any], hints: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise UserError(f"{owner} = {given!r}: expected a table of settings")
    out = {}
    for name, value in given.items():
        if name not in known:
            allowed = suggest(name, list(known)) if known else "it has none"
            raise UserError(f"{owner} has no setting {name!r}; {allowed}")
        default = known[name]
        if dataclasses.is_dataclass(default) and isinstance(value, dict):
            out[name] = override(default, value, f"{owner}.{name}")
        else:
            out[name] = _fit(f"{owner}.{name}", value, hints[name])
    return out


def override(instance: Any, given: dict[str, Any], owner: str = "") -> Any:
    """A dataclass instance with fields changed, names and types checked. Raises UserError."""
    hints = typing.get_type_hints(type(instance))
    known = {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}
    checked = _checked(owner or type(instance).__name__, known, hints, given)
    try:
        return dataclasses.replace(instance, **checked)
    except ValueError as error:
        raise UserError(f"{owner or type(instance).__name__}: {error}") from None


def _fit(what: str, value: Any, hint: Any) -> Any:
    """`value` as type `hint`. Raises UserError if it is of another one."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        for option in typing.get_args(hint):
            try:
                return _fit(what, value, option)
            except UserError:
                continue
    elif hint is Any or (hint is types.NoneType and value in (None, "none")):
        return None if hint is types.NoneType else value
    elif typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(hint)
        if inner[-1] is Ellipsis:
            return tuple(_fit(what, item, inner[0]) for item in value)
        if len(value) == len(inner):
            return tuple(_fit(what, item, kind) for item, kind in zip(value, inner, strict=True))
    elif isinstance(typing.get_origin(hint) or hint, type):
        kind = typing.get_origin(hint) or hint
        if kind is float and type(value) is int:
            return float(value)
        if isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool)):
            return value
    name = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)
    raise UserError(f"{what} = {value!r}: expected {name}, found {type(value).__name__}")


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them: dataclasses as tables, tuples as lists."""

    def convert(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: convert(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, tuple | list):
            return [convert(item) for item in value]
        if isinstance(value, dict):
            return {name: convert(item) for name, item in value.items()}
        return value

    return {name: convert(value) for name, value in settings.items()}
