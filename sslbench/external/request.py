"""What a user says of a checkpoint that sslbench did not write, and what was found in it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from sslbench.errors import UserError


@dataclass(frozen=True)
class Request:
    """What a checkpoint does not say itself; plain values, so that it travels to a job.

    Attributes:
        encoder: configuration of the architecture, {} where the checkpoint tells it.
        preprocess: changes of what the checkpoint says (see `sslbench.external.preprocessing`).
        weights: which of several sets of weights, by a part of its place ("student"); None: the
            one that its own project evaluates.
        allow_missing: load although weights are missing, which keep their initialisation.
        trust_code: whether a Python file may run.
        pretrained_on: dataset that the weights saw.

    Raises:
        UserError: a value of another type.
    """

    encoder: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    allow_missing: bool = False
    trust_code: bool = False
    pretrained_on: str | None = None

    def __post_init__(self) -> None:
        for name in ("encoder", "preprocess"):
            if not isinstance(value := getattr(self, name), dict):
                raise UserError(f"{name} = {value!r}: a table expected")
        for name in ("weights", "pretrained_on"):
            if not isinstance(value := getattr(self, name), str | None):
                raise UserError(f"{name} = {value!r}: text expected")
        if not isinstance(name := self.encoder.get("name", ""), str):
            raise UserError(f"encoder: name = {name!r}: text expected")


@dataclass(frozen=True)
class Report:
    """What was found in a checkpoint, and how much of the encoder it filled.

    Attributes:
        format: of the files.
        files: name → sha256 of each file that was read.
        weights: place of the weights in it, a path of keys and a prefix; "" for the whole file.
        others: places of further sets of weights that would have fitted.
        matched: weights of the encoder found by name and shape.
        wanted: weights of the encoder, counting parameters and buffers one by one.
        missing: names of the encoder's that were not found, or have another shape.
        unused: names of the checkpoint's, beside the weights, that the encoder does not have.
        dtype: in which the weights are stored; they are computed with in float32.
        preprocessing: where it comes from.
        parameters: how many numbers the weights are, where torch does not see them.
    """

    format: str
    files: dict[str, str]
    weights: str = ""
    others: tuple[str, ...] = ()
    matched: int = 0
    wanted: int = 0
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    dtype: str = "float32"
    preprocessing: str = ""
    parameters: int | None = None

    def plain(self) -> dict[str, Any]:
        """As records keep it: `unused` is a number there."""
        return {**asdict(self), "missing": list(self.missing), "unused": len(self.unused)}
