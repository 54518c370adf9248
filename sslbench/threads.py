"""How many threads computations use, and that those beside them stay out of their way."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

# PyTorch, faiss and threadpoolctl are imported where they are used: planning needs none of them.

Result = TypeVar("Result")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Bound the threads of torch, faiss and BLAS; what they compute may depend on it."""
    import faiss
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    try:
        with threadpool_limits(count), warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        torch.set_num_threads(before)


def alone() -> None:
    """What PyTorch computes in the calling thread from now on, it computes without help.

    Every thread that calls PyTorch gets a team of OpenMP threads of its own, whose members go on
    spinning for some milliseconds after their work. Those of a thread that reads or decodes beside
    the computation take a tenth of its time.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.get_num_threads()  # the first call in a thread sets its count; ours must come later
    threadpool_limits(1, user_api="openmp")


def pool(name: str, workers: int) -> ThreadPoolExecutor:
    """Threads that compute `alone`, the same ones for as long as the process lives.

    What is done in them by one name must not wait for more of the same name.
    """
    return _pool(name, workers, os.getpid())  # threads do not survive a fork


@cache
def _pool(name: str, workers: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, f"{name}-{process}", initializer=alone)


def spread(work: Callable[..., Result], *items: Iterable[Any]) -> list[Result]:
    """`work` of each item, or of several side by side, on as many threads as PyTorch has here.

    What is computed does not depend on their number. For work of a tenth of a millisecond and more
    in few calls: the threads wait for each other between calls of PyTorch.
    """
    import torch

    count = torch.get_num_threads()
    if count == 1:  # also within `work`, where this may be called again
        return list(map(work, *items))
    return list(pool("spread", count).map(work, *items))
