"""Backbones by name: ours for small images, and every timm model.

A backbone is a constructor `(config, *, setting=default, …) -> Encoder`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sslbench.errors import UserError, suggest

if TYPE_CHECKING:
    from sslbench.encoder import Encoder

NAMES = ("pixels", "resnet18", "resnet34", "resnet50", "resnet101")


def constructor(name: str) -> "Callable[..., Encoder]":
    """The constructor of the backbone with this name.

    Raises:
        UserError: neither ours nor timm's.
    """
    if name == "pixels":
        from sslbench.backbones.pixels import Pixels

        return Pixels
    if name in NAMES:
        from sslbench.backbones.resnet import ResNet

        return ResNet
    import timm

    from sslbench.backbones.timm_model import TimmModel

    if not timm.is_model(name):
        raise UserError(f"unknown encoder {name!r}; {_near(name, timm.list_models())}")
    return TimmModel


def _near(name: str, theirs: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, [*NAMES, *theirs], n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"allowed: {suggest(name, list(NAMES)).removeprefix('allowed: ')}, or any timm model"
