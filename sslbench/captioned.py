"""What methods and protocols on images with captions share."""

from dataclasses import replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.backbones.dual import Dual
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Split, Tokens
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.random import Random

_READ = 64  # examples at a time: their images are decoded with the captions

# The paper's only augmentation of CLIP, a random square crop of the resized image, leaves a square
# image as it is; OpenCLIP takes a crop of at least 90 % of the area in its place.
VIEW = Augmentation(crop_scale=(0.9, 1.0), flip_p=0.0, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)

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


def embeddings(encoder: Dual, views: Views) -> tuple[Tensor, Tensor]:
    """Images and captions in the common space, (B, D) each, of length 1."""
    images, *tokens = views
    texts = encoder.text(Tokens(*tokens))
    return F.normalize(encoder(images), dim=1), F.normalize(texts, dim=1)


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
