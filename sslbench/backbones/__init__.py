"""Backbones by name: ours, those of timm and torchvision, and transformers' language models.

A backbone is an Encoder whose `make` builds it from a configuration.
"""

from typing import TYPE_CHECKING

from sslbench.errors import UserError, suggest

if TYPE_CHECKING:
    from sslbench.encoder import Encoder

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
MASKED = ("bert", "roberta", "modernbert")
CAUSAL = ("gpt2", "gpt_neox", "llama", "opt", "qwen2")
# Bidirectional too, but only without a language-model head: checkpoints of others.
HEADLESS = ("albert", "camembert", "deberta-v2", "distilbert", "electra", "mpnet", "xlm-roberta")
NAMES = ("pixels", *RESNETS, "rbm", "image_gpt", "embeddings", *MASKED, *CAUSAL, "dual", "pair")


def causal(name: str) -> bool:
    """Whether a token of this language model sees only those before it."""
    return name in CAUSAL


def constructor(name: str) -> "type[Encoder]":
    """The class of the backbone with this name.

    Raises:
        UserError: neither ours, nor timm's, nor a language model of transformers that fits.
    """
    if name == "pixels":
        from sslbench.backbones.pixels import Pixels

        return Pixels
    if name in RESNETS:
        from sslbench.backbones.resnet import ResNet

        return ResNet
    if name == "rbm":
        from sslbench.backbones.rbm import SigmoidLayers

        return SigmoidLayers
    if name == "image_gpt":
        from sslbench.backbones.image_gpt import ImageGPT

        return ImageGPT
    if name == "embeddings":
        from sslbench.backbones.embeddings import Embeddings

        return Embeddings
    if name in (*MASKED, *CAUSAL, *HEADLESS):
        from sslbench.backbones.transformers_model import TransformersModel

        return TransformersModel
    if name.startswith("hf/"):
        from sslbench.backbones.transformers_image import TransformersImage

        return TransformersImage
    if name == "open_clip":
        from sslbench.backbones.open_clip_model import OpenClip

        return OpenClip
    if name == "dual":
        from sslbench.backbones.dual import Dual

        return Dual
    if name == "pair":
        from sslbench.backbones.pair import Pair

        return Pair
    if name.startswith("torchvision/"):
        from sslbench.backbones.torchvision_model import TorchvisionModel

        return TorchvisionModel
    if name in ("onnx", "torch_export", "python_file"):  # not in NAMES: they have their weights
        from sslbench.backbones.opaque import Opaque

        return Opaque
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
