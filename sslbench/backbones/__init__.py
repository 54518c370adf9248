"""Backbones by name: ours, those of timm and torchvision, and transformers' language models.

A backbone is an Encoder whose `make` builds it from a configuration.
"""

from importlib import import_module
from typing import TYPE_CHECKING, cast

from sslbench.errors import UserError, suggest

if TYPE_CHECKING:
    from sslbench.encoder import Encoder

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
MASKED = ("bert", "roberta", "modernbert")
CAUSAL = ("gpt2", "gpt_neox", "llama", "opt", "qwen2")
# Bidirectional too, but only without a language-model head: checkpoints of others.
HEADLESS = ("albert", "camembert", "deberta-v2", "distilbert", "electra", "mpnet", "xlm-roberta")
NAMES = ("pixels", *RESNETS, "rbm", "image_gpt", "embeddings", *MASKED, *CAUSAL, "dual", "pair")
_CLASSES = {  # imported when they are needed
    "pixels": "pixels:Pixels",
    **dict.fromkeys(RESNETS, "resnet:ResNet"),
    "rbm": "rbm:SigmoidLayers",
    "image_gpt": "image_gpt:ImageGPT",
    "embeddings": "embeddings:Embeddings",
    **dict.fromkeys((*MASKED, *CAUSAL, *HEADLESS), "transformers_model:TransformersModel"),
    "dual": "dual:Dual",
    "pair": "pair:Pair",
    # Not in NAMES: they come with their weights.
    "open_clip": "open_clip_model:OpenClip",
    **dict.fromkeys(("onnx", "torch_export", "python_file"), "opaque:Opaque"),
}
_FAMILIES = {
    "hf/": "transformers_image:TransformersImage",
    "torchvision/": "torchvision_model:TorchvisionModel",
}


def causal(name: str) -> bool:
    """Whether a token of this language model sees only those before it."""
    return name in CAUSAL


def constructor(name: str) -> "type[Encoder]":
    """The class of the backbone with this name.

    Raises:
        UserError: neither ours, nor timm's, torchvision's or transformers'.
    """
    family = name.partition("/")[0] + "/"
    place = _CLASSES.get(name) or _FAMILIES.get(family)
    if place is None:
        import timm

        if not timm.is_model(name):
            raise UserError(f"unknown encoder {name!r}; {_near(name, timm.list_models())}")
        place = "timm_model:TimmModel"
    module, _, cls = place.partition(":")
    return cast("type[Encoder]", getattr(import_module(f"sslbench.backbones.{module}"), cls))


def _near(name: str, theirs: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, [*NAMES, *theirs], n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"allowed: {suggest(name, list(NAMES)).removeprefix('allowed: ')}, or any timm model"
