"""Time and peak memory against the size of the work; each point in a process of its own.

Peak memory is what the process holds at most, less what it held when the work began.
"""

import multiprocessing
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.bench.plan import planned
from sslbench.bench.publish import records
from sslbench.bench.timing import Timing, seconds
from sslbench.blockwise import blockwise
from sslbench.encoder import build
from sslbench.grid.run import missing
from sslbench.leaderboard import publish
from sslbench.logistic import fit_path
from sslbench.neighbors import nearest
from sslbench.provenance import peak_mb
from sslbench.records import Checkpoint, write_lines
from sslbench.single import Loaded, evaluate
from sslbench.threads import threads
from sslbench.wanted import Wanted

DIM, CLASSES, QUERIES, BANK = 64, 10, 1_000, 10_000
TASKS = ["knn", "few_shot", "k_shot_linear", "clustering", "retrieval", "linear_probe"]

Prepared = Callable[[], object]


def _bank(n: int, folder: Path) -> Prepared:
    """Neighbours of 1,000 queries among n rows."""
    bank, queries = torch.randn(n, DIM), torch.randn(QUERIES, DIM)
    return lambda: nearest(bank, queries, 20)


def _queries(n: int, folder: Path) -> Prepared:
    """Neighbours of n queries among 10,000 rows."""
    bank, queries = torch.randn(BANK, DIM), torch.randn(n, DIM)
    return lambda: nearest(bank, queries, 20)


def _probe(n: int, folder: Path) -> Prepared:
    """Logistic regression on n rows, nine penalties, 10 classes."""
    labels = torch.randint(CLASSES, (n,))
    x = torch.randn(CLASSES, DIM)[labels] / 2 + torch.randn(n, DIM)
    penalties = torch.logspace(-6, 2, 9).tolist()
    return lambda: list(fit_path(x, labels, penalties))


def _tasks(n: int, folder: Path) -> Prepared:
    """Scores of n tasks on one checkpoint and digits."""
    config = {"name": "resnet18", "width": 8, "image_size": 8, "mean": [0.5] * 3, "std": [0.25] * 3}
    encoder = build(config).eval()
    about = Checkpoint(key="0" * 32, name="a", family="external", encoder=encoder.label)
    loaded, wanted = Loaded(encoder, about), Wanted(tasks=TASKS[:n], datasets=["digits"])
    return lambda: evaluate(loaded, wanted, cpus=torch.get_num_threads())


def _contrast(n: int, folder: Path) -> Prepared:
    """Loss and gradient of n rows that are each compared with all others."""
    z = F.normalize(torch.randn(n, DIM), dim=1).requires_grad_()
    places = torch.arange(n)

    def rows(some: Tensor, own: Tensor) -> Tensor:
        return F.cross_entropy(some @ z.T / 0.1, own)

    return lambda: blockwise(rows, n, z, places).backward()


def _cells(n: int, folder: Path) -> Prepared:
    """The plan of a grid of n cells."""
    return lambda: missing(*planned(folder, n)).open


def _records(n: int, folder: Path) -> Prepared:
    """Publishing n records, in 25 columns of 4 seeds."""
    write_lines(records(n // 100, 25, 4), folder / "records.jsonl")
    return lambda: publish([folder / "records.jsonl"], folder / "board")


SERIES: dict[str, tuple[Callable[[int, Path], Prepared], tuple[int, ...]]] = {
    "knn-bank": (_bank, (1_000, 10_000, 100_000, 1_000_000)),
    "knn-queries": (_queries, (1_000, 10_000, 100_000, 1_000_000)),
    "linear_probe": (_probe, (1_000, 10_000, 100_000, 1_000_000)),
    "contrast": (_contrast, (1_024, 4_096, 16_384)),
    "evaluate": (_tasks, tuple(range(1, len(TASKS) + 1))),
    "plan": (_cells, (20, 100, 1_000, 10_000)),
    "publish": (_records, (100, 1_000, 10_000, 100_000)),
}


def measure(rounds: int) -> Iterator[Timing]:
    """Each series at each of its sizes, once."""
    for name, (prepare, sizes) in SERIES.items():
        for n in sizes:
            took, before, peak = _apart(name, n)
            numbers = {"n": n, "peak_mb": round(peak - before, 1), "before_mb": round(before, 1)}
            work = re.sub(r"\bn\b", f"{n:,}", (prepare.__doc__ or "").rstrip("."))
            yield Timing(f"scaling/{name}/{n}", work, "", (took,), numbers=numbers)


def _apart(name: str, n: int) -> tuple[float, float, float]:
    """Seconds, and peak memory in MB before the work and at its end, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measured, name, n, torch.get_num_threads()).result()


def _measured(name: str, n: int, cpus: int) -> tuple[float, float, float]:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, threads(cpus):
        work = SERIES[name][0](n, Path(folder))
        before = peak_mb()
        took = seconds(work)
        return took, before, peak_mb()
