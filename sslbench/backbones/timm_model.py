"""Any timm image model as an encoder.

Wightman. PyTorch Image Models. https://github.com/huggingface/pytorch-image-models.
"""

from typing import Any

import timm
import torch
from torch import Tensor

from sslbench.encoder import ImageEncoder, pooled
from sslbench.errors import NotApplicable, UserError

# Arguments of timm.create_model that are no settings of an architecture.
_RESERVED = (
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir",
    "scriptable", "exportable", "no_jit", "features_only", "num_classes",
)  # fmt: skip


class TimmModel(ImageEncoder):
    """Layers are the model's stages, or a vision transformer's blocks at four depths, averaged.

    The last layer, `head`, is the model's own pooling before its classifier.

    Args:
        config: see `ImageEncoder`; "name" is timm's.
        settings: passed to the model's constructor (depth, embed_dim, patch_size, …); "img_size"
            is the size that position embeddings are made for, image_size by default.
    """

    def __init__(self, config: dict[str, Any], **settings: Any) -> None:
        super().__init__(config)
        if "in_channels" in settings:
            settings["in_chans"] = settings.pop("in_channels")
        self.model = _create(config["name"], self.image_size, settings)
        self.dim = getattr(self.model, "head_hidden_size", self.model.num_features)
        self.transformer = hasattr(self.model, "blocks") and hasattr(self.model, "pos_embed")
        if self.transformer:
            self.patch = self.model.patch_embed.patch_size[0]
            count = len(self.model.blocks)
            self.depths = sorted({round(count * part / 4) - 1 for part in (1, 2, 3, 4)} - {-1})
            blocks = (f"model.blocks.{i}" for i in range(count))
            self.parts = ("model.patch_embed", *blocks, "model.norm")
        else:
            self.depths = list(range(len(getattr(self.model, "feature_info", ()))))
            self.parts = tuple(f"model.{name}" for name, _ in self.model.named_children())

    def _intermediates(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not hasattr(self.model, "forward_intermediates"):
            raise NotApplicable(f"timm gives no feature maps of {self.config['name']}")
        return self.model.forward_intermediates(  # type: ignore[no-any-return]
            self.normalise(images), indices=self.depths, output_fmt="NCHW"
        )

    def stages(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the stages, or of four depths of a vision transformer."""
        return self._intermediates(images)[1]

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """`stage1.avg3` … or `block3.avg` …, then `head`."""
        last, maps = self._intermediates(inputs)
        named = {}
        for depth, stage in zip(self.depths, maps, strict=True):
            name = f"block{depth + 1}.avg" if self.transformer else f"stage{depth + 1}.avg3"
            named[name] = pooled(stage, 1 if self.transformer else 3)
        return {**named, "head": self.model.forward_head(last, pre_logits=True)}

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, D): the model's own pooling."""
        features = self.model.forward_features(self.normalise(inputs))
        return self.model.forward_head(features, pre_logits=True)  # type: ignore[no-any-return]

    def tokens(self, inputs: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D) patches after the last norm; with `keep` (B, K) only those enter.

        A model of timm that pools by average has no norm before the pooling unless `fc_norm` is
        false.
        """
        if not self.transformer:
            return super().tokens(inputs, keep)
        model = self.model
        x = model._pos_embed(model.patch_embed(self.normalise(inputs)))
        prefix, x = x[:, : model.num_prefix_tokens], x[:, model.num_prefix_tokens :]
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))
        x = model.norm_pre(torch.cat([prefix, x], dim=1))
        for block in model.blocks:
            x = block(x)
        return model.norm(x)[:, model.num_prefix_tokens :]  # type: ignore[no-any-return]


def _create(name: str, size: int, settings: dict[str, Any]) -> Any:
    """Timm's model without classifier, for images of this size; other sizes where it can.

    Raises:
        UserError: a setting that would fetch or read weights, or one that timm refuses.
    """
    if reserved := sorted({*settings} & {*_RESERVED}):
        raise UserError(f"encoder {name}: {', '.join(reserved)} cannot be set")
    sized = {"img_size": settings.pop("img_size", size)}
    for flexible in ({**sized, "dynamic_img_size": True}, sized):
        try:
            return timm.create_model(name, num_classes=0, **flexible, **settings)
        except TypeError:  # a setting that this model does not know
            continue
    return timm.create_model(name, num_classes=0, **settings)  # convolutional: any size fits
