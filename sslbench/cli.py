"""What the commands share: settings as text, tables and progress on the terminal."""

import json
import re
import tomllib
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from sslbench.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from sslbench.external.request import Request


def parse_value(text: str) -> Any:
    """A value as TOML has it; what is not TOML is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parse_settings(pairs: list[str], option: str = "--set") -> dict[str, Any]:
    """`["a=1", "recipe.lr=0.1"]` → `{"a": 1, "recipe": {"lr": 0.1}}`. Raises UserError."""
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UserError(f"{option} {pair!r}: expected NAME=VALUE")
        *tables, last = name.strip().split(".")
        place = out
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise UserError(f"{option} {pair!r}: {table} was given a value before")
        place[last] = parse_value(value.strip())
    return out


def parse_encoder(text: str) -> dict[str, Any]:
    """`resnet18(width=16,stem=conv3)` → its configuration. Raises UserError."""
    name, bracket, rest = text.partition("(")
    if bracket and not rest.endswith(")"):
        raise UserError(f"encoder {text!r}: expected NAME or NAME(setting=value,…)")
    inside = rest.removesuffix(")")
    pairs = [pair for pair in re.split(r",(?![^\[]*\])", inside) if pair.strip()]  # not in lists
    settings = parse_settings(pairs, "encoder")
    if "name" in settings:
        raise UserError(f"encoder {text!r}: its name stands before the bracket")
    return {"name": name.strip(), **settings}


def parse_request(
    encoder: str | None,
    preprocess: list[str] | None,
    weights: str | None,
    allow_missing: bool,
    trust_code: bool,
    pretrained_on: str | None = None,
) -> "Request":
    """What the options say of somebody else's checkpoint. Raises UserError."""
    from sslbench.external.request import Request

    return Request(
        parse_encoder(encoder) if encoder else {},
        parse_settings(preprocess or [], "--preprocess"),
        weights,
        allow_missing,
        trust_code,
        pretrained_on,
    )


def console(wide: bool = False) -> "Console":
    """Standard output; where it is a file or a pipe, `wide` tables are not cut."""
    from rich.console import Console

    out = Console(highlight=False)
    if wide and not out.is_terminal:
        out.width = 240
    return out


class Progress:
    """A progress bar on standard error, quiet where that is no terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.progress import TimeRemainingColumn as Remaining

        console = Console(stderr=True)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Remaining(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=None, text="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, text: str) -> None:
        """Show what is being done."""
        self.bar.update(self.task, description=text)

    def __call__(self, done: int, of: int, line: dict[str, float]) -> None:
        """Show how much is done, and numbers of the training log."""
        shown = {"loss": "{:.4f}", "rankme": "{:.1f}", "images_per_second": "{:.0f}"}
        text = "  ".join(f"{k} {f.format(line[k])}" for k, f in shown.items() if k in line)
        self.bar.update(self.task, completed=done, total=of, text=text)


class CellProgress(Progress):
    """The cell that is being computed; of one that trains, the last line of its log."""

    def __init__(self) -> None:
        super().__init__("")
        self.folder: Path | None = None
        self.ended = Event()
        self.reader = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "CellProgress":
        super().__enter__()
        if not self.bar.disable:
            self.reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        super().__exit__()

    def cell(self, number: int, of: int, name: str, folder: Path) -> None:
        """Show that the cell `number` of `of` begins, whose work in progress is in `folder`."""
        self.folder = folder
        self.bar.update(self.task, description=name, completed=number, total=of, text="")

    def _follow(self) -> None:
        while not self.ended.wait(1.0):
            if self.folder is not None and (line := last_line(self.folder)):
                text = f"step {line['step']}  loss {line['loss']:.4f}"
                left = f"{line['remaining_seconds']:.0f} s left in this run"
                self.bar.update(self.task, text=f"{text}  {left}")


def last_line(folder: Path) -> dict[str, Any] | None:
    """The last whole line of the newest training log below a folder, if there is one."""
    logs = sorted(folder.rglob("log.jsonl"), key=lambda path: path.stat().st_mtime)
    for text in reversed(logs[-1].read_text(encoding="utf-8").splitlines() if logs else []):
        with suppress(json.JSONDecodeError):  # half a line
            found: dict[str, Any] = json.loads(text)
            return found
    return None
