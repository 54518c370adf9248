"""An image–text model of open_clip: an encoder of images whose `text` encodes captions.

Ilharco, Wortsman et al. OpenCLIP. https://github.com/mlfoundations/open_clip.
"""

import json
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from sslbench.backbones.transformers_image import parts
from sslbench.data.split import Batch, Split, Tokens
from sslbench.encoder import Encoder, ImageEncoder, pooled
from sslbench.errors import NotApplicable, UserError

if TYPE_CHECKING:
    from sslbench.tokenizer import Tokenizer


def package() -> ModuleType:
    """open_clip. Raises UserError where it is not installed."""
    try:
        return import_module("open_clip")
    except ImportError:
        raise UserError("open_clip is missing: pip install 'sslbench[open_clip]'") from None


class OpenClip(ImageEncoder):
    """Layers are the image tower's stages, or its blocks at four depths, averaged.

    The last layer, `projection`, is the embedding in the space of the captions.

    Args:
        config: see `ImageEncoder`.
        tokenizer: of the captions, None for open_clip's own.
        model: "model_cfg" of open_clip_config.json, as JSON: tables within tables are encoders
            elsewhere in a configuration. CoCa and text towers of transformers are not known here.
        pad: id that fills up captions of `tokenizer`.
    """

    common: ClassVar[tuple[str, ...]] = (*ImageEncoder.common, "tokenizer_hash")

    @classmethod
    def make(
        cls, config: dict[str, Any], data: Split | None, tokenizer: "Tokenizer | None"
    ) -> Self:
        """As for other encoders of images, with the tokenizer that it was made with.

        Raises:
            UserError: another tokenizer.
        """
        if config.get("tokenizer_hash") != (tokenizer and tokenizer.hash):
            raise UserError(f"encoder {config['name']}: not the tokenizer that it was made with")
        made = super().make(config, data, None)
        made.tokenizer = made.captions.tokenizer = tokenizer
        return made

    def __init__(self, config: dict[str, Any], *, model: str, pad: int = 0) -> None:
        super().__init__(config)
        open_clip = package()
        described = json.loads(model)
        vision, text = described["vision_cfg"], described["text_cfg"]
        if "multimodal_cfg" in described or text.get("hf_model_name"):
            raise UserError("open_clip: CoCa and text towers of transformers are not known here")
        if vision.get("image_size", 224) != self.image_size:
            native = vision.get("image_size", 224)
            raise UserError(f"open_clip: image_size = {self.image_size}; this model takes {native}")
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False  # timm would fetch weights
        custom = described.pop("custom_text", False)
        whole = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**described)
        self.visual = whole.visual
        del whole.visual  # the rest is the text tower, and each weight has one name
        self.dim = described["embed_dim"]
        self.captions = Captions(config, whole, text, self.dim, pad)
        if "timm_model_name" in vision:
            trunk = dict(self.visual.trunk.named_children())
            if {"blocks", "patch_embed"} <= {*trunk}:
                self.patch = trunk["patch_embed"].patch_size[0]
            self.parts = tuple(parts(self.visual.trunk, "visual.trunk"))
        else:
            if isinstance(vision["layers"], int):  # else a ResNet, with a number for each stage
                self.patch = vision["patch_size"]
            self.parts = tuple(parts(self.visual, "visual"))

    @property
    def text(self) -> "Captions":  # type: ignore[override]
        """The encoder of captions."""
        return self.captions

    @property
    def log_scale(self) -> Tensor:
        """Logarithm of what cosines are multiplied by."""
        return self.captions.model.logit_scale  # type: ignore[no-any-return]

    @property
    def bias(self) -> Tensor:
        """What is added then; 0 where the model has none."""
        bias = self.captions.model.logit_bias
        return torch.zeros_like(self.log_scale) if bias is None else bias

    def _through(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Maps (B, C_i, H_i, W_i) by name, shallow to deep, and the embedding (B, dim)."""
        out = self.visual.forward_intermediates(self.normalise(images))
        maps, embedding = out["image_intermediates"], out["image_features"]
        if self.patch is None:
            return {f"stage{i}.avg3": x for i, x in enumerate(maps, start=1)}, embedding
        depths = sorted({round(len(maps) * part / 4) for part in (1, 2, 3, 4)} - {0})
        return {f"block{depth}.avg": maps[depth - 1] for depth in depths}, embedding

    def stages(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the stages, or of four depths of a vision transformer."""
        return [*self._through(images)[0].values()]

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """`stage1.avg3` … or `block3.avg` …, then `projection`."""
        maps, embedding = self._through(inputs)
        cells = 3 if self.patch is None else 1
        return {**{name: pooled(x, cells) for name, x in maps.items()}, "projection": embedding}

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, dim): in the common space."""
        return self.visual(self.normalise(inputs))  # type: ignore[no-any-return]

    def tokens(self, inputs: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D) patches after the last norm."""
        if self.patch is None or keep is not None:
            return super().tokens(inputs, keep)
        out = self.visual.forward_intermediates(
            self.normalise(inputs),
            indices=1,
            normalize_intermediates=True,
            intermediates_only=True,
        )
        return out["image_intermediates"][0].flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Captions(Encoder):
    """The encoder of captions: open_clip's model without its image tower.

    Args:
        config: of the whole.
        model: of open_clip.
        text: its "text_cfg".
        dim: of the common space.
        pad: id that fills up captions of `tokenizer`.

    Attributes:
        length: tokens of every caption; a tower of open_clip reads the padding too.
    """

    modality = "text"

    def __init__(
        self, config: dict[str, Any], model: Any, text: dict[str, Any], dim: int, pad: int
    ) -> None:
        super().__init__()
        tokenizers = package().tokenizer
        self.config = {"name": "captions", "of": config}
        self.model, self.dim, self.pad = model, dim, pad
        self.length: int = model.context_length
        given = text.get("tokenizer_kwargs") or {}
        if text.get("hf_tokenizer_name"):
            if {*given} - {"clean"} or text.get("tokenizer_mode"):
                raise UserError(f"open_clip: tokenizer settings {given} are not known here")
            self.clean = tokenizers.get_clean_fn(given.get("clean", "whitespace"))
        else:
            self.pieces = tokenizers.SimpleTokenizer(context_length=self.length, **given)

    def preprocess(self, batch: Batch) -> Tokens:
        """Tokens (B, length) of single texts. Raises NotApplicable where there are none."""
        if batch.texts is None or not all(isinstance(text, str) for text in batch.texts):
            raise NotApplicable(f"{self.label} needs single texts")
        if self.tokenizer is None:
            ids = self.pieces(list(batch.texts))
        else:
            encodings = self.tokenizer.encodings([self.clean(t) for t in batch.texts], self.length)
            ids = torch.full((len(encodings), self.length), self.pad)
            for row, encoding in zip(ids, encodings, strict=True):
                row[: len(encoding.ids)] = torch.tensor(encoding.ids)
        return Tokens(ids, torch.ones_like(ids).bool(), torch.zeros_like(ids)).to(self.device)

    def layers(self, inputs: Tokens) -> dict[str, Tensor]:
        """`projection` alone."""
        return {"projection": self.embed(inputs)}

    def embed(self, inputs: Tokens) -> Tensor:
        """(B, dim): in the common space."""
        return self.model.encode_text(inputs.ids)  # type: ignore[no-any-return]
