"""Two encoders of the same images, side by side."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sslbench.data.split import Batch, Split
from sslbench.encoder import Encoder, ImageEncoder, build
from sslbench.errors import UserError
from sslbench.tokenizer import Tokenizer


class Pair(Encoder):
    """Features of both, one after the other; what each sees is its own affair.

    Args:
        first: one encoder.
        second: another one, for images of the same size.
    """

    common: ClassVar[tuple[str, ...]] = ("name", "first", "second")
    image_size: int

    @classmethod
    def make(cls, config: dict[str, Any], data: Split | None, tokenizer: Tokenizer | None) -> Self:
        """Both encoders from the tables "first" and "second" of the configuration.

        Raises:
            UserError: a table is missing, or there is something else.
        """
        if set(config) != set(cls.common):
            raise UserError(f"encoder pair: first and second expected, found {sorted(config)}")
        first, second = (build(config[name], data) for name in ("first", "second"))
        if not isinstance(first, ImageEncoder) or not isinstance(second, ImageEncoder):
            raise UserError(f"encoder pair: two of images expected, found {config}")
        return cls(first, second)

    def __init__(self, first: ImageEncoder, second: ImageEncoder) -> None:
        super().__init__()
        if first.image_size != second.image_size:
            sizes = f"{first.image_size} and {second.image_size}"
            raise UserError(f"encoder pair: images of one size expected, found {sizes}")
        self.first, self.second = first, second
        self.config = {"name": "pair", "first": first.config, "second": second.config}
        self.dim, self.image_size = first.dim + second.dim, first.image_size
        same = first.patch == second.patch
        self.patch = first.patch if same else None
        self.parts = tuple(f"{n}.{part}" for n in ("first", "second") for part in first.parts)

    def preprocess(self, batch: Batch) -> Tensor:
        """(B, 3, S, S) in [0, 1]."""
        return self.first.preprocess(batch)

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """Those of the two, layer by layer, under the first one's names."""
        both = self.first.layers(inputs).items(), self.second.layers(inputs).values()
        return {name: torch.cat([x, y], 1) for (name, x), y in zip(*both, strict=True)}

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, D₁ + D₂)."""
        return torch.cat([self.first(inputs), self.second(inputs)], dim=1)

    def tokens(self, inputs: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D₁ + D₂)."""
        both = self.first.tokens(inputs, keep), self.second.tokens(inputs, keep)
        return torch.cat(both, dim=2)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Maps of both, channel after channel."""
        both = zip(self.first.stages(images), self.second.stages(images), strict=True)
        return [torch.cat(maps, dim=1) for maps in both]
