"""Image models of transformers as encoders.

Wolf et al. Transformers: State-of-the-Art Natural Language Processing. EMNLP 2020 (demos).
"""

import inspect
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sslbench.backbones.transformers_config import described
from sslbench.encoder import ImageEncoder, pooled
from sslbench.errors import NotApplicable, UserError, suggest

# Vision transformers, and how many tokens (class, distillation) stand before registers and patches.
TOKENS = {
    **dict.fromkeys(("vit", "vit_mae", "vit_msn", "beit", "data2vec-vision"), 1),
    **dict.fromkeys(("dinov2", "dinov2_with_registers", "dinov3_vit", "clip_vision_model"), 1),
    "deit": 2,
    **dict.fromkeys(("ijepa", "siglip_vision_model"), 0),
}
SWIN = ("swin", "swinv2")
STAGED = (
    *SWIN, "convnext", "convnextv2", "dinov3_convnext", "resnet", "regnet", "bit", "mobilenet_v1",
    "mobilenet_v2",
)  # fmt: skip
KINDS = (*TOKENS, *STAGED)
POOLERS = ("vit", "deit", "beit", "data2vec-vision", "ijepa")  # whose class can go without one


class TransformersImage(ImageEncoder):
    """Layers are the stages, or a vision transformer's blocks at four depths, averaged.

    The last layer is the pooled output: `last.first`, `last.avg` or `head`.

    Args:
        config: see `ImageEncoder`; "name" is "hf/" and transformers' model type.
        pooling: "first" (the class token after the last norm), "mean" (of the patches after it), or
            "own": the average of a model with stages, SigLIP's attention, and the norm of the
            average of a BEiT that was fine-tuned with it. None: "own" where there is one, else
            "first" where there is a class token, else "mean". The pooler of a plain ViT, which most
            checkpoints lack, is never used.
        img_size: that position embeddings are made for, in pixels; None: image_size.
        settings: of the model's configuration, as transformers names them. Dropout is 0 by default.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        pooling: str | None = None,
        img_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(config)
        import transformers

        self.kind = config["name"].removeprefix("hf/")
        if self.kind not in KINDS:
            raise UserError(f"unknown encoder {config['name']!r}; {suggest(self.kind, [*KINDS])}")
        self.native = img_size or self.image_size
        model = described(self.kind, settings, image_size=self.native)
        self.before = TOKENS.get(self.kind, 0) + getattr(model, "num_register_tokens", 0)
        self.pooling = pooling or self._poolings(model)[0]
        if self.pooling not in self._poolings(model):
            allowed = ", ".join(self._poolings(model))
            raise UserError(f"pooling = {pooling!r} of {config['name']}; allowed: {allowed}")
        if self.kind == "vit_mae":
            model.mask_ratio = 0.0
        pooler = {"add_pooling_layer": self.pooling == "own"}
        self.construct = pooler if self.kind in POOLERS else {}
        make: Any = transformers.AutoModel.from_config
        self.model: Any = make(model, **self.construct)
        taken = inspect.signature(self.model.forward).parameters
        self.interpolates = "interpolate_pos_encoding" in taken
        self.parts = tuple(parts(self.model, "model"))
        if self.kind in TOKENS:
            self.patch, self.dim = model.patch_size, model.hidden_size
            quarters = (round(model.num_hidden_layers * part / 4) for part in (1, 2, 3, 4))
            self.depths = sorted({*quarters} - {0})
        else:
            with torch.no_grad():  # each model names its widths in its own way
                self.dim = self.eval().embed(torch.zeros(1, 3, 64, 64)).shape[1]
            self.train()

    def _poolings(self, model: Any) -> list[str]:
        """What a configuration allows, the default first."""
        with_own = ("vision_use_head", "use_mean_pooling")  # SigLIP's, and that of BEiT
        own = self.kind in STAGED or any(getattr(model, name, False) for name in with_own)
        allowed = {"own": own, "first": self.before > 0, "mean": self.kind in TOKENS}
        return [name for name, fits in allowed.items() if fits]

    def _grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        size: int = self.model.config.patch_size
        return images.shape[2] // size, images.shape[3] // size

    def _run(self, images: Tensor, **more: Any) -> Any:
        given: dict[str, Any] = {}
        if self.interpolates and images.shape[2:] != (self.native, self.native):
            given["interpolate_pos_encoding"] = True
        if self.kind == "vit_mae":  # sorts the patches by this noise: they stay in their order
            order = torch.arange(math.prod(self._grid(images)), device=images.device)
            given["noise"] = order.expand(len(images), -1)
        return self.model(pixel_values=self.normalise(images), **given, **more)

    def _normed(self, out: Any) -> Tensor:
        """(B, N, D) of all tokens after the last norm, which CLIP gives to its class token only."""
        last: Tensor = out.last_hidden_state
        if self.kind == "clip_vision_model":
            last = self.model.post_layernorm(last)
        return last

    def _pooled(self, out: Any) -> Tensor:
        if self.pooling == "own":
            return out.pooler_output.flatten(1)  # type: ignore[no-any-return]
        tokens = self._normed(out)
        return tokens[:, 0] if self.pooling == "first" else tokens[:, self.before :].mean(1)

    def _through(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps (B, C_i, H_i, W_i), shallow to deep, and the pooled output (B, D)."""
        if self.kind in SWIN:  # whose model shows the maps only after they were merged
            x, grid = self.model.embeddings(
                self.normalise(images), interpolate_pos_encoding=self.native != images.shape[2]
            )
            out = self.model.encoder(
                x, grid, output_hidden_states=True, output_hidden_states_before_downsampling=True
            )
            last = self.model.layernorm(out.last_hidden_state).transpose(1, 2)
            return _deepest(images, out.reshaped_hidden_states), self.model.pooler(last).flatten(1)
        out = self._run(images, output_hidden_states=True)
        if self.kind in STAGED:
            return _deepest(images, out.hidden_states), self._pooled(out)
        patches = (out.hidden_states[depth][:, self.before :] for depth in self.depths)
        maps = [x.transpose(1, 2).unflatten(2, self._grid(images)) for x in patches]
        return maps, self._pooled(out)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The last map of each resolution, or the patches of a transformer at four depths."""
        return self._through(images)[0]

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """`stage1.avg3` … or `block3.avg` …, then `head`, `last.first` or `last.avg`."""
        maps, last = self._through(inputs)
        if self.kind in STAGED:
            named = {f"stage{i}.avg3": pooled(x, 3) for i, x in enumerate(maps, start=1)}
        else:
            both = zip(self.depths, maps, strict=True)
            named = {f"block{depth}.avg": pooled(x, 1) for depth, x in both}
        names = {"own": "head", "first": "last.first", "mean": "last.avg"}
        return {**named, names[self.pooling]: last}

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, D): the last token states, pooled."""
        return self._pooled(self._run(inputs))

    def tokens(self, inputs: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D) patches after the last norm; a BEiT that averages them has none before that."""
        if self.kind in STAGED:
            return super().tokens(inputs, keep)
        if keep is not None:
            raise NotApplicable(f"{self.label} cannot leave out patches")
        return self._normed(self._run(inputs))[:, self.before :]


def parts(module: nn.Module, name: str) -> Iterator[str]:
    """Names of submodules from input to output; what holds a list of blocks is taken apart."""
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}"
        if isinstance(child, nn.ModuleList) or child_name in ("blocks", "stages"):
            yield from (f"{path}.{i}" for i, _ in child.named_children())
        elif any(isinstance(inner, nn.ModuleList) for inner in child.children()):
            yield from parts(child, path)
        elif [*child.parameters()]:
            yield path


def _deepest(images: Tensor, maps: Iterable[Tensor]) -> list[Tensor]:
    """Of maps (B, C_i, H_i, W_i) of several resolutions, the last of each below the image's."""
    return list({x.shape[2]: x for x in maps if x.shape[2] < images.shape[2]}.values())
