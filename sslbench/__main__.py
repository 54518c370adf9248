"""The command line: each command parses, calls one function, prints."""

import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslbench.errors import NotApplicable, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from sslbench.grid.plan import Pretraining
    from sslbench.grid.run import Missing

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting; can be given several times."),
]
Cpus = Annotated[int | None, typer.Option(help="Threads; default: all cores.", min=1)]


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    plugins: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with methods/, tasks/ or datasets/ of your own."),
    ] = None,
) -> None:
    """Pretrain, evaluate and compare learned representations under one set of protocols."""
    if debug:
        os.environ["SSLBENCH_DEBUG"] = "1"
    if plugins:
        before = os.environ.get("SSLBENCH_PLUGINS", "")
        folders = [str(folder.resolve()) for folder in plugins] + ([before] if before else [])
        os.environ["SSLBENCH_PLUGINS"] = os.pathsep.join(folders)


@app.command(
    name="list", epilog="Example: sslbench list methods --json", short_help="What there is."
)
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="methods, tasks, datasets or encoders; all if not given.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="A JSON array of objects.")] = False,
) -> None:
    """List methods, tasks, datasets and encoders, without importing any."""
    from sslbench import listing

    kinds = listing.KINDS if kind is None else (kind,)
    found = [(name, listing.rows(name)) for name in kinds]
    if json:
        listing.print_json([{"kind": name, **row} for name, rows in found for row in rows])
    else:
        for name, rows in found:
            listing.print_table(name, rows, _console())


@app.command(epilog="Example: sslbench fetch cifar10-mini koppen")
def fetch(
    datasets: Annotated[list[str], typer.Argument(help="Names; see sslbench list datasets.")],
    offline: Annotated[bool, typer.Option(help="Never touch the network.")] = False,
    archives: Annotated[
        Path | None, typer.Option("--from", help="Folder with archives downloaded before.")
    ] = None,
) -> None:
    """Download, verify and reduce datasets into the cache; a second call does nothing."""
    from sslbench.data import fetch as fetching
    from sslbench.data.table import find
    from sslbench.registry import plugin_folders

    rows = [find(name, plugin_folders()) for name in datasets]
    fetching.fetch(*rows, offline=offline, archives=archives)


@app.command(
    epilog="Example: sslbench pretrain simclr --dataset digits --encoder 'resnet18(width=16)' "
    "--epochs 2 --set temperature=0.2 --out runs/simclr-digits"
)
def pretrain(
    method: Annotated[str, typer.Argument(help="Name; see sslbench list methods.")],
    dataset: Annotated[str, typer.Option(help="Its train split is used.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder; the same command resumes in it.")],
    encoder: Annotated[
        str, typer.Option(help="Name, with settings in brackets: 'resnet18(width=16)'.")
    ] = "resnet18",
    epochs: Annotated[int | None, typer.Option(help="Default: the paper's.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of initialisation, order and draws.")] = 0,
    set_: Settings = None,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    online: Annotated[int, typer.Option(help="kNN on validation every so many epochs.")] = 0,
    save_seconds: Annotated[float, typer.Option(help="Between saved states.", min=0)] = 60.0,
    cpus: Cpus = None,
) -> None:
    """Pretrain one encoder with one method, or go on where it was interrupted.

    Settings of the recipe are `--set recipe.lr=0.1`; tables nest with dots.
    """
    from sslbench import single

    run = single.pretraining(
        method, dataset, parse_encoder(encoder), parse_settings(set_ or []), epochs, seed, precision
    )
    with _progress(method) as report:
        outcome = single.pretrain(
            run, out, online=online, save_seconds=save_seconds, cpus=cpus, report=report
        )
    loss = "no loss" if outcome.loss is None else f"loss {outcome.loss:.4f}"
    if os.environ.get("RANK", "0") == "0":
        print(f"{out}: {outcome.steps} steps, {loss}, weights {outcome.weights_hash}")


@app.command(epilog="Example: sslbench evaluate runs/simclr-digits --task knn --task linear_probe")
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder.")],
    task: Annotated[list[str] | None, typer.Option(help="Default: all that apply.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Default: the one it was pretrained on.")
    ] = None,
    set_: Settings = None,
    seed: Annotated[int, typer.Option(help="Of what the protocols leave to chance.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder that receives the records.")] = None,
    cpus: Cpus = None,
) -> None:
    """Evaluate a checkpoint and print its scores.

    With several tasks, settings name theirs: `--set linear_probe.layer=all`.
    """
    from sslbench import single

    records = single.evaluate(
        checkpoint, task or [], dataset or [], parse_settings(set_ or []), seed, out, cpus
    )
    _console(wide=True).print(single.table(records))
    if any(record.status == "failed" for record in records):
        raise typer.Exit(1)


@app.command(epilog="Example: sslbench run leaderboards/quickstart/grid.toml --dry-run")
def run(
    grid: Annotated[Path, typer.Argument(help="The grid file.")],
    executor: Annotated[str, typer.Option(help="debug (this process) or local.")] = "local",
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/NAME.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Local jobs at a time.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute failed cells again.")
    ] = False,
) -> None:
    """Run what is missing of a grid; run it again to resume."""
    if executor not in ("debug", "local"):
        raise UserError(f"executor {executor!r}; allowed: debug, local")
    from sslbench.grid.config import read
    from sslbench.grid.plan import plan
    from sslbench.grid.run import execute, missing

    config = read(grid)
    folder = out or Path("runs") / config.name
    work = plan(config, grid)
    before = missing(work, folder, retry_failed)
    print(_summary(before, folder))
    if dry_run:
        for item in before.work:
            print(f"  {item.source.name}, {_label(item.source)}: {len(item.cells)} cells to do")
        return
    if before.open:
        with _progress(config.name) as report:
            execute(
                config,
                grid,
                work,
                folder,
                executor=executor,
                parallel=parallel,
                retry_failed=retry_failed,
                report=lambda done, of: report(done, of, {}),
            )
    _status(work, folder)


@app.command(epilog="Example: sslbench status leaderboards/quickstart/grid.toml")
def status(
    grid: Annotated[Path, typer.Argument(help="The grid file.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/NAME.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show how far a grid is: cells done, failed, not applicable and missing, with reasons."""
    from sslbench.grid.config import read
    from sslbench.grid.plan import plan

    config = read(grid)
    _status(plan(config, grid), out or Path("runs") / config.name, json)


@app.command(epilog="Example: sslbench publish runs/quickstart --out leaderboards/quickstart")
def publish(
    records: Annotated[list[Path], typer.Argument(help="Run folders or records.jsonl files.")],
    out: Annotated[Path, typer.Option(help="Folder of the leaderboard.")],
) -> None:
    """Write records.jsonl, records.csv, leaderboard.csv and index.html, and print the table."""
    from sslbench import leaderboard

    board = leaderboard.publish(records, out)
    _console(wide=True).print(leaderboard.table(board))
    print(f"{out / 'leaderboard.csv'}, {out / 'records.csv'}, {out / 'index.html'}")


def parse_value(text: str) -> Any:
    """A value as TOML has it; what is not TOML is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`["a=1", "recipe.lr=0.1"]` → `{"a": 1, "recipe": {"lr": 0.1}}`. Raises UserError."""
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set {pair!r}: expected NAME=VALUE")
        *tables, last = name.strip().split(".")
        place = out
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise UserError(f"--set {pair!r}: {table} was given a value before")
        place[last] = parse_value(value.strip())
    return out


def parse_encoder(text: str) -> dict[str, Any]:
    """`resnet18(width=16,stem=conv3)` → its configuration. Raises UserError."""
    name, bracket, rest = text.partition("(")
    if bracket and not rest.endswith(")"):
        raise UserError(f"encoder {text!r}: expected NAME or NAME(setting=value,…)")
    pairs = [pair for pair in rest.removesuffix(")").split(",") if pair.strip()]
    return {"name": name.strip(), **parse_settings(pairs)}


def _console(wide: bool = False) -> "Console":
    from rich.console import Console

    console = Console(highlight=False)
    if wide and not console.is_terminal:  # a table in a file or a pipe is never cut
        console.width = 240
    return console


def _progress(title: str) -> "_Bar":
    return _Bar(title)


class _Bar:
    """A progress bar on standard error, quiet where that is no terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Remaining(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=None, text="")

    def __enter__(self) -> "_Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, done: int, of: int, line: dict[str, float]) -> None:
        shown = {"loss": "{:.4f}", "rankme": "{:.1f}", "images_per_second": "{:.0f}"}
        text = "  ".join(f"{k} {f.format(line[k])}" for k, f in shown.items() if k in line)
        self.bar.update(self.task, completed=done, total=of, text=text)


def _label(source: Any) -> str:
    if not hasattr(source, "encoder"):
        return str(source.path)
    run: Pretraining = source
    encoder = run.checkpoint().encoder
    return f"{encoder}, {run.dataset}, {run.epochs} epochs, seed {run.seed}"


def _summary(left: "Missing", folder: Path) -> str:
    return (
        f"{folder}: {left.cells - left.open} of {left.cells} cells done, "
        f"{left.trained} of {left.pretrainings} pretraining runs finished"
    )


def _status(work: list[Any], folder: Path, json: bool = False) -> None:
    from sslbench.grid import status as module

    found = module.status(work, folder)
    if json:
        from sslbench.listing import print_json

        print_json(found.as_json())
    else:
        _console(wide=True).print(module.table(found))


def main() -> None:
    """Run the command line; errors are one line and a non-zero exit."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get("SSLBENCH_DEBUG"):
            raise
        raise SystemExit(f"sslbench: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    """What is wrong, without a traceback."""
    if isinstance(error, UserError | NotApplicable | FloatingPointError):
        return str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    return f"{type(error).__name__}: {error} (--debug shows the traceback)"


if __name__ == "__main__":
    main()
