"""The order in which training sees its data, as a function of the seed and the step alone."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from sslbench import distributed
from sslbench.data.split import Batch
from sslbench.random import Random, mix
from sslbench.threads import alone

X = TypeVar("X")
Y = TypeVar("Y")


class Examples(Protocol):
    """What the training loop draws from: a Split, or rows that a method packed itself."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Batch: ...


def read_ahead(read: Callable[[X], Y], items: Iterable[X]) -> Iterator[Y]:
    """`read` of each item in order; the next is read while the caller works on the last."""
    coming: Future[Y] | None = None
    with ThreadPoolExecutor(1, initializer=alone) as pool:
        for item in items:
            read_now, coming = coming, pool.submit(read, item)
            if read_now:
                yield read_now.result()
        if coming:
            yield coming.result()


class Feed:
    """Global batches of a permutation for each epoch; what does not fill a batch is left out.

    Args:
        data: what to draw from.
        batch_size: of the global batch, at most the data's size.
        seed: of the order.
    """

    def __init__(self, data: Examples, batch_size: int, seed: int) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.epoch_steps = len(data) // batch_size
        local = batch_size // distributed.world()
        self.places = torch.arange(local) + distributed.rank() * local
        self._order = (-1, torch.empty(0))  # an epoch, and the data's order in it

    def batches(self, start: int, end: int) -> Iterator[Batch]:
        """This process's part of the global batches `start` … `end` − 1, read one step ahead."""
        return read_ahead(self._read, range(start, end))

    def _read(self, step: int) -> Batch:
        epoch, position = divmod(step, self.epoch_steps)
        if self._order[0] != epoch:
            random = Random(mix(self.seed, 0xDA7A), epoch, torch.zeros(1), 1)
            self._order = (epoch, random.permutation(len(self.data))[0])
        return self.data[self._order[1][position * self.batch_size + self.places]]
