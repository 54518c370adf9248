"""The contract of a downstream protocol."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sslbench.data.split import Dataset
from sslbench.data.table import Row
from sslbench.encoder import Encoder


@dataclass(frozen=True)
class Score:
    """One number; the core adds the interval.

    Attributes:
        value: the score; shares lie in [0, 1].
        n: number of examples (or episodes) behind it.
        stderr: standard error over the examples where `examples` cannot give it.
        examples: (n,) per-example scores whose mean is `value`, in the order of the test split.
    """

    value: float
    n: int
    stderr: float | None = None
    examples: np.ndarray | None = None

    @classmethod
    def mean(cls, examples: np.ndarray) -> "Score":
        """The mean of per-example scores (n,)."""
        return cls(float(np.mean(examples, dtype=np.float64)), len(examples), examples=examples)


@dataclass(frozen=True)
class Result:
    """What a task found.

    Attributes:
        scores: by metric name; the task's `metric` is among them.
        selected: what the protocol chose on the validation split.
        places: positions in the test split of the examples that were scored, None for all of them.
    """

    scores: Mapping[str, Score]
    selected: Mapping[str, Any] = field(default_factory=dict)
    places: np.ndarray | None = None


class Task(ABC):
    """One downstream protocol. One subclass per file; the file name is its name.

    Settings are keyword-only arguments of the constructor.

    Attributes:
        paper: where the protocol comes from.
        metric: the headline among its scores.
        version: raised by whatever can move a number.
        modality: of the encoders that it takes: "image", "text", "image_text", or "any".
        target: kind of target that the dataset must carry, None for none.
        higher_is_better: direction of the headline metric, None where it has none.
        long: takes many passes over the data or trains the network; `sslbench evaluate` runs it
            only if it is named.
    """

    paper: ClassVar[str]
    metric: ClassVar[str]
    version: ClassVar[int] = 1
    modality: ClassVar[str] = "image"
    target: ClassVar[str | None] = "label"
    higher_is_better: ClassVar[bool | None] = True
    long: ClassVar[bool] = False

    @abstractmethod
    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Evaluate a frozen encoder, in eval mode.

        Args:
            encoder: must come back unchanged; the core checks it.
            data: its test split is read once, after every choice was made.
            seed: of what the protocol leaves to chance.
            folder: for work in progress, so that an interrupted task goes on where it stopped.

        Raises:
            NotApplicable: the encoder or the dataset cannot do what the protocol needs.
        """

    def needs(self) -> tuple[Row, ...]:
        """What must have been fetched besides the dataset."""
        return ()

    def chance(self, data: Dataset) -> float | None:
        """Headline score without looking at the input; None where that has no meaning."""
        return data.chance
