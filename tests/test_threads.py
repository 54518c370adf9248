"""Reading beside the computation leaves the computation its threads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from sslbench.data.feed import read_ahead
from sslbench.threads import alone, spread, threads


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    """Three threads for PyTorch here."""
    with threads(3):
        yield


def count(_: int = 0) -> int:
    """How many threads PyTorch uses where this is called, after it has computed something."""
    (torch.ones(100, 100) + 1).sum()
    return torch.get_num_threads()


def test_a_thread_alone_has_one_and_the_others_keep_theirs() -> None:
    with ThreadPoolExecutor(1, initializer=alone) as pool, ThreadPoolExecutor(1) as other:
        assert pool.submit(count).result() == 1
        assert other.submit(count).result() == 3
        assert count() == 3


def test_what_is_read_ahead_is_read_by_one_thread() -> None:
    assert list(read_ahead(count, range(3))) == [1, 1, 1]
    assert count() == 3


def test_work_is_spread_over_the_threads_that_there_are_and_keeps_its_order() -> None:
    barrier = Barrier(3, timeout=60)

    def work(number: int, other: int) -> tuple[int, int]:
        barrier.wait()  # passes only where three do this at once
        return number + other, count()

    assert spread(work, range(3), range(3)) == [(0, 1), (2, 1), (4, 1)]
    torch.set_num_threads(1)
    assert spread(count, range(3)) == [1, 1, 1]


def test_work_that_is_spread_may_spread_work() -> None:
    assert spread(lambda n: sum(spread(abs, range(n))), range(9)) == [
        sum(range(n)) for n in range(9)
    ]
