"""Pixels: the image itself is its representation, what any learned one has to beat.

Nothing is trained. The encoder given is replaced by one that returns the normalised pixels, and the
same pixels averaged over 8×8 cells, at the same image size and with the same colour statistics.
"""

from torch import Tensor

from sslbench.data.split import Batch, Split
from sslbench.encoder import Encoder, build
from sslbench.errors import NotApplicable
from sslbench.method import Method
from sslbench.random import Random


class Pixels(Method):
    """Raw pixels."""

    paper = ""
    pseudo_label = "none: the image is its own representation"
    phases = 0

    def __init__(self, encoder: Encoder, data: Split) -> None:
        if encoder.modality != "image":
            raise NotApplicable(f"pixels need an image encoder; {encoder.label} reads text")
        kept = {name: encoder.config[name] for name in ("image_size", "mean", "std")}
        super().__init__(build({"name": "pixels", **kept}), data)

    def views(self, batch: Batch, random: Random) -> Tensor:
        """The images as they are: (B, 3, S, S)."""
        return self.encoder.preprocess(batch)  # type: ignore[no-any-return]

    def loss(self, views: Tensor, progress: float) -> Tensor:
        """There is none."""
        raise NotApplicable("pixels are not trained")
