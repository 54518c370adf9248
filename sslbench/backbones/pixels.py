"""The image itself as its representation."""

from typing import Any

from torch import Tensor

from sslbench.encoder import ImageEncoder, pooled


class Pixels(ImageEncoder):
    """Normalised pixels, also pooled to 8×8; nothing to train."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.dim = 3 * self.image_size**2

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """`pixels.avg8` (B, 192) and `pixels` (B, 3 S²)."""
        images = self.normalise(inputs)
        return {"pixels.avg8": pooled(images, 8), "pixels": images.flatten(1)}

    def stages(self, images: Tensor) -> list[Tensor]:
        """The image."""
        return [self.normalise(images)]
