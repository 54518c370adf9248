"""Ours and the peer on the same work, in turn, and what comes of it."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

import numpy as np
from scipy import special

from sslbench.statistics import LEVEL


class UnequalError(RuntimeError):
    """Ours and the peer do not compute the same."""


@dataclass(frozen=True)
class Goal:
    """What is wanted of a measurement.

    Attributes:
        kind: "faster": the peer takes at least `bound` times as long; "within": ours takes at most
            `bound` times as long as the peer; "seconds": at most so many.
        bound: the number.
    """

    kind: Literal["faster", "within", "seconds"]
    bound: float

    def __str__(self) -> str:
        sign = "≥" if self.kind == "faster" else "≤"
        unit = {"faster": "×", "within": "×", "seconds": " s"}[self.kind]
        return f"{sign} {self.bound:g}{unit}"


@dataclass(frozen=True)
class Timing:
    """One line of the table.

    Attributes:
        name: such as "knn" or "step/simclr".
        work: what is computed, with its sizes.
        peer: who else computes it; "" where there is only a limit in seconds.
        ours: seconds of each round.
        theirs: of the peer, in the same rounds; empty without one.
        goal: None for what is only reported.
        same: what was found equal before anything was timed, and how far apart.
        numbers: others that belong to it, such as "peak_mb".
    """

    name: str
    work: str
    peer: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...] = ()
    goal: Goal | None = None
    same: str = ""
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def values(self) -> list[float]:
        """What the goal is about, round by round: a ratio, or seconds."""
        if not self.theirs:
            return list(self.ours)
        pairs = zip(self.ours, self.theirs, strict=True)
        if self.goal is not None and self.goal.kind == "within":
            return [ours / theirs for ours, theirs in pairs]
        return [theirs / ours for ours, theirs in pairs]

    @property
    def value(self) -> float:
        """Their median."""
        return median(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % over the rounds, paired: Student's on the logarithms; infinite for one round."""
        logs = np.log(self.values)
        if len(logs) < 2:
            return 0.0, math.inf
        half = float(special.stdtrit(len(logs) - 1, 1 - LEVEL / 2)) * logs.std(ddof=1)
        half /= math.sqrt(len(logs))
        return math.exp(logs.mean() - half), math.exp(logs.mean() + half)

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the goal; None without one."""
        if self.goal is None:
            return None
        if self.goal.kind == "faster":
            return self.value >= self.goal.bound
        return self.value <= self.goal.bound

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        low, high = self.interval
        return {
            "name": self.name,
            "work": self.work,
            "peer": self.peer,
            "ours": list(self.ours),
            "theirs": list(self.theirs),
            "value": self.value,
            "low": low if len(self.ours) > 1 else None,
            "high": high if len(self.ours) > 1 else None,
            "goal": None if self.goal is None else asdict(self.goal),
            "reached": self.reached,
            "same": self.same,
            "numbers": self.numbers,
        }


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of both in each round; who begins changes, a first call of each does not count."""
    seconds(ours), seconds(theirs)
    found: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            second = seconds(theirs)
            found.append((seconds(ours), second))
        else:
            first = seconds(ours)
            found.append((first, seconds(theirs)))
    return tuple(a for a, _ in found), tuple(b for _, b in found)


def repeated(work: Callable[[], object], rounds: int) -> tuple[float, ...]:
    """Seconds of each call, the first aside."""
    seconds(work)
    return tuple(seconds(work) for _ in range(rounds))


def close(what: str, ours: Any, theirs: Any, tolerance: float) -> str:
    """What to say of two results that are equal up to the tolerance. Raises UnequalError."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape:
        raise UnequalError(f"{what}: ours has shape {a.shape}, the peer's {b.shape}")
    apart = float(np.abs(a - b).max(initial=0.0))
    if not apart <= tolerance:
        raise UnequalError(f"{what}: {apart:.3g} apart, more than {tolerance:g}")
    return f"{what}: {apart:.1e} apart"
