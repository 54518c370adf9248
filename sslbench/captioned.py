"""What methods and protocols on images with captions share."""

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from sslbench.backbones.dual import Dual
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.random import Random

_READ = 64  # examples at a time: their images are decoded with the captions

Views = tuple[Tensor, Tensor, Tensor, Tensor]  # images (B, 3, S, S); ids, mask, segments (B, N)


def views(encoder: Dual, batch: Batch, augmentation: Augmentation, random: Random) -> Views:
    """One view of each image, and the tokens of one of its captions, drawn uniformly."""
    images = augmentation(batch, encoder.image.image_size, random)
    draws = random.on_cpu.uniform(1)[:, 0].tolist()
    drawn = [
        captions[int(u * len(captions))]
        for captions, u in zip(captions_of(batch), draws, strict=True)
    ]
    tokens = encoder.text.preprocess(replace(batch, texts=drawn))
    return images, tokens.ids, tokens.mask, tokens.segments


def captions_of(batch: Batch) -> list[tuple[str, ...]]:
    """The captions of each image of a batch.

    Raises:
        NotApplicable: it has no images, or they have no captions.
    """
    texts = batch.texts
    if batch.images is None or texts is None or not all(isinstance(t, tuple) for t in texts):
        raise NotApplicable("images with captions are needed, the data have none")
    return texts


@lru_cache(maxsize=1)
def captions(split: Split) -> list[tuple[str, ...]]:
    """The captions of each image of a split. Raises NotApplicable as `captions_of`."""
    parts = torch.arange(len(split)).split(_READ)
    return [each for part in parts for each in captions_of(split[part])]


def text_encoder(encoder: Encoder) -> Encoder:
    """The encoder of captions of an image–text model. Raises NotApplicable where there is none."""
    if encoder.text is None:
        raise NotApplicable(f"{encoder.label} has no encoder of captions")
    return encoder.text
