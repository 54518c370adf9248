"""The commands around a grid: each parses, calls one function, prints."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sslbench.cli import Progress, console
from sslbench.errors import UserError, suggest

if TYPE_CHECKING:
    from sslbench.grid.cells import External, Pretraining, Work
    from sslbench.grid.config import Grid as Config
    from sslbench.grid.run import Missing

WATCH_SECONDS = 5.0
EXECUTORS = ["debug", "local", "slurm"]


def grid_file(path: Path) -> Path:
    """The grid file in a folder, or the path as it is."""
    return path / "grid.toml" if path.is_dir() else path


app = typer.Typer()
Grid = Annotated[
    Path, typer.Argument(help="The grid file, or a folder with grid.toml.", callback=grid_file)
]
Out = Annotated[
    Path | None, typer.Option(help="Run folder; default: that of the grid file, or runs/NAME.")
]
Executor = Annotated[
    str, typer.Option(help="debug (this process), local, or slurm (submits and returns).")
]
Parallel = Annotated[int | None, typer.Option(help="Local jobs at a time.", min=1)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")]


@app.command(epilog="Example: sslbench run leaderboards/quickstart/grid.toml --dry-run")
def run(
    grid: Grid,
    executor: Executor = "local",
    out: Out = None,
    parallel: Parallel = None,
    dry_run: DryRun = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute failed cells again.")
    ] = False,
) -> None:
    """Run what is missing of a grid; run it again to resume."""
    if executor not in EXECUTORS:
        raise UserError(f"executor {executor!r}; {suggest(executor, EXECUTORS)}")
    from sslbench.grid import report as say
    from sslbench.grid.local import execute
    from sslbench.grid.run import arranged, launch, missing

    config, work, folder = _planned(grid, out)
    before = missing(work, folder, retry_failed)
    print(_summary(before, folder))
    if executor == "slurm":
        if dry_run:
            print(say.scripts(arranged(config, work, folder, retry_failed), folder))
        else:
            found = launch(
                config, grid, work, folder, retry_failed=retry_failed, report=say.submitted
            )
            print(say.launched(found, grid))
        return
    if dry_run:
        for item in before.work:
            print(f"  {item.source.name}, {_label(item.source)}: {len(item.cells)} cells to do")
        return
    if before.open:
        with Progress(config.name) as report:
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
    _show(config, work, folder)


@app.command(epilog="Example: sslbench retry leaderboards/quickstart/grid.toml --failed")
def retry(
    grid: Grid,
    failed: Annotated[bool, typer.Option("--failed", help="Cells whose record says so.")] = False,
    executor: Executor = "local",
    out: Out = None,
    parallel: Parallel = None,
    dry_run: DryRun = False,
) -> None:
    """Compute failed cells again, and what is missing; the same as run --retry-failed."""
    if not failed:
        raise UserError("nothing was named to be tried again; allowed: --failed")
    run(grid, executor, out, parallel, dry_run, retry_failed=True)


@app.command(epilog="Example: sslbench status leaderboards/quickstart/grid.toml --watch")
def status(
    grid: Grid,
    out: Out = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again every few seconds until everything is done.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    disk: Annotated[bool, typer.Option("--disk", help="What its files take, too.")] = False,
) -> None:
    """Show how far a grid is: what is done, queued, lost or failed, the reasons and the cost."""
    if watch and json:
        raise UserError("--watch and --json exclude each other")
    planned = _planned(grid, out)
    try:
        while True:
            begun = time.monotonic()
            done = _show(*planned, json=json, disk=disk, clear=watch)
            if done or not watch:
                return
            # A large grid is not read all the time.
            time.sleep(max(WATCH_SECONDS, 10 * (time.monotonic() - begun)))
    except KeyboardInterrupt:
        if not watch:
            raise


@app.command(epilog="Example: sslbench cancel leaderboards/quickstart/grid.toml")
def cancel(grid: Grid, out: Out = None) -> None:
    """End all queued and running SLURM jobs of a grid; what they have saved stays."""
    from sslbench.grid.cancel import cancel as end
    from sslbench.lock import holder

    folder = _folder(grid, out)
    jobs = end(folder)
    print(f"{folder}: " + (f"{jobs} jobs cancelled" if jobs else "no job is queued or running"))
    if (who := holder(folder)) is not None:
        print(f"{who} still works in the folder, and may submit more: end it too")


@app.command(epilog="Example: sslbench logs leaderboards/quickstart/grid.toml 3f6ab634")
def logs(
    grid: Grid,
    cell: Annotated[
        str, typer.Argument(help="Key of a cell or a pretraining run, or its first characters.")
    ],
    out: Out = None,
) -> None:
    """Print the logs of the newest job that had a cell or a pretraining run."""
    from sslbench.grid.logs import find

    _, work, folder = _planned(grid, out)
    for path in find(work, folder, cell):
        print(f"==> {path} <==")
        print(path.read_text(encoding="utf-8", errors="replace"))


@app.command(epilog="Example: sslbench clean leaderboards/quickstart/grid.toml")
def clean(
    grid: Grid,
    out: Out = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what can be made again or is not needed any more, after saying what that is."""
    from sslbench.grid.clean import leftovers, remove
    from sslbench.grid.disk import text

    folder = _folder(grid, out)
    with leftovers(folder) as found:
        for leftover in found:
            print(f"{leftover.name}: {len(leftover.paths)}, {text(leftover.bytes)}")
        if not found:
            print(f"{folder}: nothing to remove")
            return
        if not yes and not sys.stdin.isatty():
            raise UserError("nothing was removed: no terminal to ask on; --yes removes it")
        if yes or typer.confirm("Remove?"):
            remove(found)
            print(f"{text(sum(leftover.bytes for leftover in found))} removed")


def _folder(grid: Path, out: Path | None) -> Path:
    """The run folder: the one given, the one that the grid file lies in, or runs/NAME."""
    from sslbench.grid.config import read

    name = read(grid).name
    if out is not None:
        return out
    own = grid.parent
    return own if (own / "work").is_dir() or (own / "records").is_dir() else Path("runs") / name


def _planned(grid: Path, out: Path | None) -> "tuple[Config, list[Work], Path]":
    """The checked file, the whole plan, and the run folder."""
    from sslbench.grid.config import read
    from sslbench.grid.plan import plan

    config = read(grid)
    return config, plan(config, grid), _folder(grid, out)


def _show(
    config: "Config",
    work: "list[Work]",
    folder: Path,
    *,
    json: bool = False,
    disk: bool = False,
    clear: bool = False,
) -> bool:
    """Print the status; returns whether everything is done."""
    from dataclasses import asdict

    from sslbench.grid.disk import table, usage
    from sslbench.grid.status import status, view
    from sslbench.listing import print_json

    found, parts = status(config, work, folder), usage(folder) if disk else None
    if json:
        listed = None if parts is None else [asdict(part) for part in parts]
        print_json({**found.as_json(), "disk": listed})
        return found.done
    screen = console(wide=True)
    if clear:
        screen.clear()
    screen.print(view(found))
    if parts is not None:
        screen.print(table(parts))
    return found.done


def _summary(left: "Missing", folder: Path) -> str:
    return (
        f"{folder}: {left.cells - left.open} of {left.cells} cells done, "
        f"{left.trained} of {left.pretrainings} pretraining runs finished"
    )


def _label(source: "Pretraining | External") -> str:
    from sslbench.grid.cells import Pretraining

    if not isinstance(source, Pretraining):
        return source.path
    encoder = source.checkpoint().encoder
    return f"{encoder}, {source.dataset}, {source.epochs} epochs, seed {source.seed}"
