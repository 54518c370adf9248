"""The neighbours of the kNN protocol, against faiss and against the bare matrix product."""

from collections.abc import Iterator
from importlib.metadata import version

import faiss
import numpy as np
import torch
import torch.nn.functional as F

from sslbench.bench.timing import Goal, Timing, UnequalError, close, in_turn
from sslbench.neighbors import SIMILARITIES, label_rank, nearest

BANK, QUERIES, DIM, CLASSES = 50_000, 10_000, 384, 100
KS, TEMPERATURES = (10, 20, 100, 200), (0.03, 0.07, 0.1)  # of the protocol
K = max(KS)


def measure(rounds: int) -> Iterator[Timing]:
    """The search, and the whole protocol with all its k and temperatures."""
    torch.manual_seed(0)
    centres = torch.randn(CLASSES, DIM)
    label = torch.randint(CLASSES, (BANK + QUERIES,))
    rows = F.normalize(centres[label] + 2 * torch.randn(len(label), DIM), dim=1)
    bank, queries = rows[:BANK].contiguous(), rows[BANK:].contiguous()
    work = f"{QUERIES:,} × {BANK:,} × {DIM}, k = {K}"

    def search() -> tuple[torch.Tensor, torch.Tensor]:
        return nearest(bank, queries, K)

    def product() -> None:  # as much at a time as the search holds
        rows = max(1, SIMILARITIES // BANK)
        out = torch.empty(rows, BANK)
        for chunk in queries.split(rows):
            torch.mm(chunk, bank.T, out=out[: len(chunk)])

    faiss.omp_set_num_threads(torch.get_num_threads())

    def theirs() -> tuple[np.ndarray, np.ndarray]:
        index = faiss.IndexFlatIP(DIM)
        index.add(bank.numpy())
        found: tuple[np.ndarray, np.ndarray] = index.search(queries.numpy(), K)
        return found

    def protocol() -> None:
        near, index = nearest(bank, queries, K)
        labels, truth = label[:BANK][index], label[BANK:]
        for k in KS:
            for temperature in TEMPERATURES:
                label_rank(near[:, :k], labels[:, :k], truth, CLASSES, temperature)

    (near, found), (similarity, index) = search(), theirs()
    same = close("similarities", near, similarity, 1e-5)
    agree = float((found.numpy() == index).mean())
    if agree < 0.999:
        raise UnequalError(f"neighbours: only {agree:.4f} of them the same")
    same += f"; {agree:.5f} of the neighbours in the same place"
    name = f"faiss {version('faiss-gpu')} IndexFlatIP"
    yield Timing("knn/faiss", work, name, *in_turn(search, theirs, rounds), Goal("faster", 1), same)
    limit = "the bare matrix product"
    yield Timing(
        "knn/product", work, limit, *in_turn(search, product, rounds), Goal("within", 1.36)
    )
    whole = f"{work}, votes at {len(KS)} k × {len(TEMPERATURES)} temperatures, {CLASSES} classes"
    times = in_turn(protocol, theirs, rounds)
    yield Timing("knn/protocol", whole, f"{name}, its search alone", *times)
