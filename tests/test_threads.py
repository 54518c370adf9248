"""Reading beside the computation leaves the computation its threads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sslbench.data.feed import read_ahead
from sslbench.threads import alone, threads


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
