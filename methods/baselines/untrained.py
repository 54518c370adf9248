"""Untrained: the encoder as it was initialised, where every other row of a table starts from.

The same encoder under the same seed as the other rows, never trained, and evaluated as any
checkpoint is: in evaluation mode. The running statistics of batch norm are then still 0 and 1, and
an untrained batch norm the identity, so that what is probed is a random network without
normalisation. Statistics of the data would already be learned from it, and make a weaker reference.

Measured: digits at 16 pixels, 1,000 for training and 797 for testing, ResNet-18 of width 16, last
layer, 3 seeds: as initialised kNN .80–.85 and linear .91–.93; after one pass over the training
images that only set the statistics, .65–.72 and .57–.66.
"""

from typing import Any

from torch import Tensor

from sslbench.data.split import Batch
from sslbench.errors import NotApplicable
from sslbench.method import Method
from sslbench.random import Random


class Untrained(Method):
    """Random initialisation."""

    paper = ""
    modality = "any"
    pseudo_label = "none: the encoder as initialised"
    phases = 0

    def views(self, batch: Batch, random: Random) -> Any:
        """The inputs as they are."""
        return self.encoder.preprocess(batch)

    def loss(self, views: Any, progress: float) -> Tensor:
        """There is none."""
        raise NotApplicable("an untrained encoder is not trained")
