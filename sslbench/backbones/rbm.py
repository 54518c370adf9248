"""Fully connected sigmoid layers: what a stack of restricted Boltzmann machines computes upwards.

Hinton, Salakhutdinov. Reducing the Dimensionality of Data with Neural Networks. Science 313, 2006.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sslbench.encoder import ImageEncoder
from sslbench.errors import NotApplicable


class SigmoidLayers(ImageEncoder):
    """Probabilities of hidden units, layer upon layer, of an image as one vector.

    Args:
        config: see `ImageEncoder`.
        widths: hidden units of each layer.
        visible: what the first layer takes: "gaussian", standardised colours, or "bernoulli",
            colours in [0, 1].
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        widths: Sequence[int] = (1024, 512),
        visible: str = "gaussian",
    ) -> None:
        super().__init__(config)
        if visible not in ("gaussian", "bernoulli"):
            raise ValueError(f"visible {visible!r}; allowed: gaussian, bernoulli")
        if not widths or min(widths) < 1:
            raise ValueError(f"widths: at least one layer of units expected, got {widths}")
        self.gaussian = visible == "gaussian"
        self.parts = tuple(f"hidden{number}" for number in range(1, len(widths) + 1))
        below = 3 * self.image_size**2
        for name, width in zip(self.parts, widths, strict=True):
            layer = nn.Linear(below, width)
            nn.init.normal_(layer.weight, std=0.01)  # Hinton 2010, UTML TR 2010-003, section 8
            nn.init.zeros_(layer.bias)
            self.add_module(name, layer)
            below = width
        self.dim = below

    def visible(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] → visible units (B, 3 S²).

        Raises:
            NotApplicable: images of another size.
        """
        size = self.image_size
        if images.shape[2:] != (size, size):
            found = "×".join(map(str, images.shape[2:]))
            raise NotApplicable(f"{self.label} takes images of {size} pixels only, not {found}")
        return (self.normalise(images) if self.gaussian else self.shown(images)).flatten(1)

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """`hidden1`, `hidden2` … (B, width): each unit's probability to be on."""
        h, named = self.visible(inputs), {}
        for name in self.parts:
            named[name] = h = torch.sigmoid(self.get_submodule(name)(h))
        return named
