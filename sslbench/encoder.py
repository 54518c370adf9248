"""One interface to every backbone: what is evaluated, and all that a checkpoint holds."""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sslbench.data.color_ops import chroma, lightness
from sslbench.data.image_ops import resize, sobel
from sslbench.data.split import Batch, Split
from sslbench.errors import NotApplicable, UserError, suggest

if TYPE_CHECKING:
    from sslbench.tokenizer import Tokenizer


class Encoder(nn.Module):
    """Inputs in, representations out. What an encoder cannot do raises NotApplicable.

    Attributes:
        modality: "image" or "text".
        dim: D, width of `forward`.
        config: plain values from which `build` makes the same encoder again.
        text: of an image–text model, the encoder of captions into the same space.
        image_size: side of the images that it takes, in pixels; None for texts.
        patch: patch size in pixels of a vision transformer, else None.
        parts: names of submodules from input to output (layer-wise decay, freezing).
        tokenizer: of an encoder of texts (also inside an image–text model), else None.
        causal: whether a text's token sees only those before it.
        chunk: examples to recompute at a time in training, to save memory with the same gradient;
            batch norm then sees one chunk at a time. None: all at once.
    """

    modality: str = "image"
    dim: int
    config: dict[str, Any]
    text: "Encoder | None" = None
    image_size: int | None = None
    patch: int | None = None
    parts: tuple[str, ...] = ()
    tokenizer: "Tokenizer | None" = None
    causal: bool = False
    chunk: int | None = None

    @classmethod
    def make(
        cls, config: dict[str, Any], data: Split | None, tokenizer: "Tokenizer | None"
    ) -> Self:
        """An encoder from a configuration, with what it lacks taken from the data."""
        raise NotImplementedError

    def preprocess(self, batch: Batch) -> Any:
        """Turn raw examples into inputs: images (B, 3, S, S) float in [0, 1]."""
        raise NotApplicable(f"{self.label} has no preprocessing")

    def layers(self, inputs: Any) -> dict[str, Tensor]:
        """Pooled representations (B, D_i) by name, shallow to deep; the name says the pooling."""
        raise NotApplicable(f"{self.label} has no layers")

    def forward(self, inputs: Any) -> Tensor:
        """(B, D), the last of `layers`."""
        if self.chunk is None or not self.training or len(inputs) <= self.chunk:
            return self.embed(inputs)
        return recompute(self, self.embed, inputs, self.chunk)

    def embed(self, inputs: Any) -> Tensor:
        """(B, D) in one piece; what `forward` calls."""
        return list(self.layers(inputs).values())[-1]

    def tokens(self, inputs: Any, keep: Tensor | None = None) -> Tensor:
        """(B, N, D) patches without class token; with `keep` (B, K) only those are computed."""
        raise NotApplicable(f"{self.label} has no tokens: it is not a transformer")

    def stages(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C_i, H_i, W_i), shallow to deep."""
        raise NotApplicable(f"{self.label} has no feature maps")

    def variant(self, **changes: Any) -> "Encoder":
        """A freshly initialised encoder with changes in its configuration."""
        return build({**self.config, **changes}, tokenizer=self.tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights are, or the buffers of an encoder without weights."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")

    @property
    def label(self) -> str:
        """Name and settings in one short line, as tables show them."""
        return label(self.config)


class ImageEncoder(Encoder):
    """What image backbones share: the input size and the normalisation of colours.

    Args:
        config: "image_size", "mean" and "std" per channel in [0, 1], "sees" where the encoder is
            not shown the colours (see `SIGHTS`); of others' checkpoints also "crop" (side of the
            centre crop as a share of the shorter side, default 1), "squash" (true: both sides are
            resized to image_size, nothing is cut off), "interpolation" ("bilinear" or "bicubic")
            and "channels" ("rgb" or "bgr", which is also the order of mean and std).
    """

    image_size: int
    mean: Tensor
    std: Tensor
    common: ClassVar[tuple[str, ...]] = (
        "name", "image_size", "mean", "std", "sees", "crop", "squash", "interpolation", "channels"
    )  # fmt: skip

    @classmethod
    def make(
        cls, config: dict[str, Any], data: Split | None, tokenizer: "Tokenizer | None"
    ) -> Self:
        """An encoder whose colour statistics are the data's where the configuration has none.

        Raises:
            NotApplicable: the data have no images.
            UserError: no image size, or neither statistics nor data.
        """
        if data is not None and data[torch.zeros(1, dtype=torch.long)].images is None:
            raise NotApplicable(f"encoder {config['name']} needs images, the data have none")
        if "image_size" not in config:
            raise UserError(f"encoder {config['name']} needs image_size; found {config}")
        if "mean" not in config:
            if data is None:
                raise UserError(f"encoder {config['name']}: no data to take mean and std from")
            mean, std = colour_statistics(data)
            config = {**config, "mean": mean, "std": std}
        settings = {k: v for k, v in config.items() if k not in cls.common}
        taken = inspect.signature(cls).parameters.values()
        known = [p.name for p in taken if p.kind is p.KEYWORD_ONLY]
        if not any(p.kind is p.VAR_KEYWORD for p in taken) and (wrong := {*settings} - {*known}):
            name = min(wrong)
            hint = suggest(name, [*known, *cls.common])
            raise UserError(f"encoder {config['name']} has no setting {name!r}; {hint}")
        return cls(config, **settings)

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        for name in self.common:
            if name in config:
                check(name, config[name])
        self.image_size = config["image_size"]
        sees = config.get("sees", "colours")
        if sees not in SIGHTS:
            raise UserError(f"sees = {sees!r}; {suggest(sees, list(SIGHTS))}")
        self.shown, deviation = SIGHTS[sees]
        self.cut, self.squash = config.get("crop", 1.0), config.get("squash", False)
        self.interpolation = config.get("interpolation", "bilinear")
        self.channels = config.get("channels", "rgb")
        of = {"mean": [0.5] * 3, "std": [deviation] * 3} if deviation else config
        for name in ("mean", "std"):
            values = torch.tensor(of[name]).view(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def preprocess(self, batch: Batch) -> Tensor:
        """(B, 3, S, S) in [0, 1]: shorter side to S, centre crop, unless `config` has another."""
        if batch.images is None:
            raise NotApplicable(f"{self.label} needs images")
        images = resize(
            batch.images, self.image_size, self.cut, self.interpolation, squash=self.squash
        )
        return images.to(self.device)

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] → what the encoder sees of them, about standardised.

        Colours get zero mean and unit variance per channel of the pretraining data.
        """
        shown = self.shown(images)
        return ((shown.flip(1) if self.channels == "bgr" else shown) - self.mean) / self.std

    def shapes(self) -> list[tuple[int, ...]]:
        """(C, H, W) of each of `stages`."""
        training, size = self.training, self.image_size
        with torch.no_grad():
            maps = self.eval().stages(torch.zeros(2, 3, size, size, device=self.device))
        self.train(training)
        return [tuple(stage.shape[1:]) for stage in maps]


def _colours(images: Tensor) -> Tensor:
    return images


INTERPOLATIONS = ("bilinear", "bicubic")
ORDERS = ("rgb", "bgr")
LARGEST = 8192  # px
SIGHTS: dict[str, tuple[Callable[[Tensor], Tensor], float | None]] = {
    # What encoders can see, and about its deviation around 1/2, None where that is the data's.
    "colours": (_colours, None),
    "gradients": (sobel, 0.5),
    "lightness": (lightness, 0.25),
    "chroma": (chroma, 0.05),
}


def check(name: str, value: Any) -> None:
    """Raise UserError where a setting that encoders of images share makes no sense."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "image_size":
        fits = isinstance(value, int) and number and 0 < value <= LARGEST
        wanted = f"pixels, 1 to {LARGEST}"
    elif name == "crop":
        fits, wanted = number and 0.05 <= value <= 1, "a share from 0.05 to 1"
    elif name == "squash":
        fits, wanted = isinstance(value, bool), "true or false"
    elif name in ("interpolation", "channels"):
        allowed = INTERPOLATIONS if name == "interpolation" else ORDERS
        fits, wanted = value in allowed, " or ".join(allowed)
    elif name in ("mean", "std"):
        fits = (
            isinstance(value, list)
            and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
            and not any(isinstance(v, bool) for v in value)
            and len(value) in (1, 3)
            and (name == "mean" or min(value) > 0)
        )
        wanted = "three numbers, such as [0.5, 0.5, 0.5],"
    else:
        return
    if not fits:
        raise UserError(f"{name} = {value!r}: {wanted} expected")


def label(config: dict[str, Any]) -> str:
    """`resnet18(image_size=32, width=16)`, without what was taken from the data."""
    hidden = {"name", "mean", "std", "tokenizer_hash", "head", "model"}
    settings = [
        f"{k}={label(v) if isinstance(v, dict) else v}"
        for k, v in sorted(config.items())
        if k not in hidden
    ]
    return f"{config['name']}({', '.join(settings)})"


def pooled(stage: Tensor, size: int) -> Tensor:
    """(B, C, H, W) averaged over a grid of at most size × size cells → (B, C · cells)."""
    cells = min(size, stage.shape[2])
    return F.adaptive_avg_pool2d(stage, cells).flatten(1)


def recompute(
    module: nn.Module, function: Callable[[Any], Tensor], inputs: Tensor, chunk: int
) -> Tensor:
    """`function` over chunks of `inputs`, whose activations are computed again for the gradient.

    Batch norm updates its running statistics in the first pass only.
    """

    def contexts() -> tuple[Any, Any]:
        return _as_is(), _without_tracking(module)

    parts = [
        checkpoint(function, part, use_reentrant=False, context_fn=contexts)
        for part in inputs.split(chunk)
    ]
    return torch.cat(parts)


@contextmanager
def _as_is() -> Iterator[None]:
    yield


@contextmanager
def _without_tracking(module: nn.Module) -> Iterator[None]:
    norms = [m for m in module.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms]  # type: ignore[operator]
    for norm in norms:
        norm.momentum = 0.0  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # type: ignore[operator]


@cache
def colour_statistics(split: Split, most: int = 10_000) -> tuple[list[float], list[float]]:
    """Mean and deviation per channel, in [0, 1], of at most `most` images, evenly spaced."""
    count, first, second = 0, torch.zeros(3).double(), torch.zeros(3).double()
    for index in torch.linspace(0, len(split) - 1, min(most, len(split))).long().split(16):
        images = split[index].images
        if images is None:
            raise NotApplicable("an image encoder needs images")
        for image in images:
            values = image.flatten(1).double() / 255
            count += values.shape[1]
            first += values.sum(1)
            second += values.square().sum(1)
    mean = first / count
    std = (second / count - mean.square()).clamp_min(1e-8).sqrt()
    return [round(v, 6) for v in mean.tolist()], [round(v, 6) for v in std.tolist()]


def build(
    config: dict[str, Any], data: Split | None = None, tokenizer: "Tokenizer | None" = None
) -> Encoder:
    """An encoder from its configuration, initialised from torch's global generator.

    Args:
        config: "name" of the backbone and its settings; "image_size" is required for images, and
            "sees" = "gradients", "lightness" or "chroma" makes any encoder of images see that only.
        data: where the configuration's colour statistics or the tokenizer come from, unless they
            are given.
        tokenizer: of an encoder of texts.

    Raises:
        UserError: an unknown name or setting.
    """
    from sslbench.backbones import constructor

    if "name" not in config:
        raise UserError(f"an encoder needs a name; found {config}")
    try:
        return constructor(config["name"]).make(dict(config), data, tokenizer)
    except (UserError, NotApplicable):
        raise
    except Exception as error:  # a value that the architecture refuses, each in its own way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"encoder {config['name']}: {reason}") from error
