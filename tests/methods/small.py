"""Small instances of methods."""

import typing

import torch

from sslbench import registry
from sslbench.data.split import Split
from sslbench.errors import NotApplicable
from sslbench.method import Method
from tests.conftest import (
    tiny_bert,
    tiny_captions,
    tiny_dual,
    tiny_embeddings,
    tiny_gpt,
    tiny_image_gpt,
    tiny_images,
    tiny_rbm,
    tiny_resnet,
    tiny_texts,
    tiny_vit,
)

BATCH = 16
STEPS = 4  # of an epoch of 64 images
SMALL = {  # settings that make a method large, by name
    "hidden": 32,
    "dim": 16,
    "queue": 40,  # no multiple of the batch: it wraps around
    "permutations": 24,
    "size": 32,  # of which patches are cut
    "prototypes": 24,
    "crops": 2,
    "decoder_dim": 32,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "shrinkage": 0.1,  # a batch does not span as many dimensions
    "threshold": 1e-2,  # of which words of a small corpus are frequent
}


ENCODERS = {
    "any": (tiny_resnet,),
    "image": (tiny_resnet, tiny_vit, tiny_rbm, tiny_image_gpt),
    "text": (tiny_bert, tiny_gpt, tiny_embeddings),
    "image_text": (tiny_dual,),
}


def examples(modality: str, steps: int) -> Split:
    """Data for so many steps of an epoch, at least."""
    if modality == "text":
        return tiny_texts(6 * steps)
    return tiny_captions(steps * BATCH) if modality == "image_text" else tiny_images(steps * BATCH)


def make(name: str, seed: int = 0, data: Split | None = None, **settings: typing.Any) -> Method:
    """A small instance of a method, on the first tiny encoder that suits it."""
    cls = registry.method(name)
    known = registry.settings(cls, {})
    small = {key: value for key, value in SMALL.items() if key in known}
    for encoder in ENCODERS[cls.modality]:
        torch.manual_seed(seed)
        try:
            given = examples(cls.modality, STEPS) if data is None else data
            method = cls(encoder(), given, **small | settings)
        except NotApplicable:
            continue
        method.recipe = method.recipe.override(batch_size=BATCH)
        return method
    raise AssertionError(f"{name} accepts no encoder of {cls.modality}")
