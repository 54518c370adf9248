"""Work in a copy of this process, for what Python does not do on two cores."""

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar

Result = TypeVar("Result")


@contextmanager
def beside(work: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Do `work` in a copy of this process while the body runs in this one.

    It sees what was there when the body began; files and what it returns are all that stays of it.
    Where processes cannot be copied, or the copy ended otherwise, it is done in this one.

    Yields:
        What waits for it and gives its result, or raises what it raises.
    """
    copy = _copied(work)
    if copy is None:
        yield work
        return
    process, answer = copy

    def result() -> Result:
        try:
            found: Result = answer.recv()
        except (EOFError, OSError):  # before its answer, or within it
            return work()
        return found

    try:
        yield result
    finally:
        process.kill()
        process.join()
        answer.close()


def _copied(work: Callable[[], object]) -> tuple[BaseProcess, Connection] | None:
    """A copy of this process that sends what `work` returns; None where there can be none."""
    if sys.platform != "linux":  # elsewhere what is copied cannot be relied on
        return None
    if multiprocessing.current_process().daemon:  # a pool's process, which may have no children
        return None
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(work, here, there), daemon=True)
    with warnings.catch_warnings(), there:
        # Python 3.12 warns of threads, whose locks a copy keeps; `work` must wait for none.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            process.start()
        except OSError:  # too little memory, or too many processes
            here.close()
            return None
    return process, here


def _answer(work: Callable[[], object], here: Connection, there: Connection) -> None:
    here.close()  # or an answer would wait for ever where the other process was killed
    try:
        there.send(work())
    except BaseException:
        os._exit(1)  # done again in the other process, it says why
