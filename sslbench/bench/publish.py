"""100,000 records to CSV and a page, and the page in a browser."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sslbench.bench.timing import Goal, Timing, repeated, seconds
from sslbench.hashing import digest
from sslbench.leaderboard import publish
from sslbench.provenance import provenance
from sslbench.records import Checkpoint, Provenance, Record, Score, pack, write_lines
from sslbench.statistics import interval

ROWS, COLUMNS, SEEDS, EXAMPLES = 400, 50, 5, 1_000
FAMILIES = ("contrastive", "non_contrastive", "pretext", "reconstruction", "external")
TASKS = ("knn", "linear_probe", "few_shot", "fine_tune", "clustering")
SETTINGS = {f"setting_{number}": number / 7 for number in range(20)}


def records(rows: int, columns: int, seeds: int) -> Iterator[Record]:
    """Of methods that differ in ability, in columns that differ in difficulty."""
    rng = np.random.default_rng(0)
    ability, difficulty = rng.normal(0, 0.6, rows), rng.normal(0, 0.6, columns)
    where = Provenance(**provenance(1.0))
    for row in range(rows):
        for seed in range(seeds):
            checkpoint = Checkpoint(
                key=digest("checkpoint", row, seed),
                name=f"method-{row:03}",
                family=FAMILIES[row % len(FAMILIES)],
                method="simclr",
                method_version=1,
                settings=SETTINGS,
                recipe=SETTINGS,
                encoder="resnet18(width=16)",
                encoder_config={"name": "resnet18", "width": 16, "image_size": 32},
                parameters=700_176,
                weights_hash=digest("weights", row, seed),
                pretrain_dataset="cifar10-mini",
                pretrain_epochs=20,
                pretrain_seed=seed,
                pretrain_loss=float(rng.random()),
                pretrain_seconds=100.0 + row,
            )
            for column in range(columns):
                place = ability[row] + difficulty[column] + rng.normal(0, 0.05)
                hits = (rng.random(EXAMPLES) < 1 / (1 + np.exp(-place))).astype(float)
                stderr, low, high = interval(hits)
                score = Score(
                    value=hits.mean(), n=EXAMPLES, standard_error=stderr, low=low, high=high
                )
                task = TASKS[column % len(TASKS)]
                yield Record(
                    key=digest("cell", row, seed, column),
                    status="ok",
                    checkpoint=checkpoint,
                    task=task,
                    protocol=task,
                    task_version=1,
                    dataset=f"data-{column // len(TASKS)}",
                    dataset_hash=digest("data", column // len(TASKS)),
                    n_train=8_000,
                    n_test=EXAMPLES,
                    headline="top1",
                    chance=0.1,
                    scores={"top1": score},
                    inline={"top1": pack(hits)},
                    provenance=where,
                )


def measure(rounds: int) -> Iterator[Timing]:
    """Publishing, and the page in Chromium where there is one."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_lines(records(ROWS, COLUMNS, SEEDS), folder / "records.jsonl")
        out = folder / "board"
        work = f"{ROWS * COLUMNS * SEEDS:,} records: {ROWS} rows, {COLUMNS} columns, {SEEDS} seeds"
        times = tuple(
            seconds(lambda: publish([folder / "records.jsonl"], out))
            for _ in range(max(1, rounds // 3))
        )
        page = out / "index.html"
        numbers = {"page_mb": page.stat().st_size / 1e6}
        yield Timing("publish", work, "", times, goal=Goal("seconds", 20), numbers=numbers)
        if (browser := shutil.which("chromium")) is not None:
            yield from _opened(page, browser, work, rounds)


def _opened(page: Path, browser: str, work: str, rounds: int) -> Iterator[Timing]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])

        def ready() -> None:
            context = chromium.new_context(offline=True)
            view = context.new_page()
            view.goto(page.as_uri())
            view.wait_for_selector("html[data-ready]", timeout=60_000)
            context.close()

        name = f"the page of {work}, until it can be used, in Chromium {chromium.version}"
        yield Timing("publish/page", name, "", repeated(ready, rounds), goal=Goal("seconds", 2))
        chromium.close()
