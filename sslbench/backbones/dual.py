"""An encoder of images and one of captions, into the same space."""

import math
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sslbench.data.split import Batch, Split, Tokens
from sslbench.encoder import Encoder, ImageEncoder, build
from sslbench.errors import UserError
from sslbench.text_encoder import TextEncoder

if TYPE_CHECKING:
    from sslbench.tokenizer import Tokenizer


class Captions(TextEncoder):
    """The encoder of captions: a text encoder and a linear map into the common space."""

    def __init__(self, inner: TextEncoder, dim: int) -> None:
        super().__init__({"name": "captions", "of": inner.config}, inner.tokenizer, inner.pooling)
        self.inner, self.dim, self.length = inner, dim, inner.length
        self.causal = inner.causal
        self.projection = nn.Linear(inner.dim, dim, bias=False)

    def hidden(self, inputs: Tokens) -> list[Tensor]:
        """(B, N, D) of the text encoder, before the projection."""
        return self.inner.hidden(inputs)

    def layers(self, inputs: Tokens) -> dict[str, Tensor]:
        """The text encoder's, then `projection`."""
        named = self.inner.layers(inputs)
        return {**named, "projection": self.projection(list(named.values())[-1])}

    def embed(self, inputs: Tokens) -> Tensor:
        """(B, dim): in the common space."""
        return self.projection(self.inner(inputs))  # type: ignore[no-any-return]


class Dual(Encoder):
    """An encoder of images whose `text` maps captions into the same space.

    Args:
        image: encoder of the images.
        text: encoder of the captions.
        dim: width of the common space.

    Attributes:
        log_scale: logarithm of what cosines are multiplied by; a method learns it.
        bias: what is added then; only methods that judge pairs one by one learn it.
    """

    tokenizer: "Tokenizer"
    common: ClassVar[tuple[str, ...]] = ("name", "image", "text")

    @classmethod
    def make(
        cls, config: dict[str, Any], data: Split | None, tokenizer: "Tokenizer | None"
    ) -> Self:
        """Both encoders from the tables "image" and "text" of the configuration.

        "image_size" may stand beside them, as for other encoders.

        Raises:
            UserError: a table is missing, or names an encoder of the other modality.
        """
        size = {"image_size": config.pop("image_size")} if "image_size" in config else {}
        towers: dict[str, Any] = {}
        for kind in ("image", "text"):
            if not isinstance(config.get(kind), dict):
                raise UserError(
                    f"encoder dual needs a table {kind!r} ({kind}.name=…); found {config}"
                )
            given = {**size, **config[kind]} if kind == "image" else config[kind]
            tower = build(given, data, tokenizer if kind == "text" else None)
            if tower.modality != kind:
                raise UserError(f"encoder dual: {tower.label} is no encoder of {kind}")
            towers[kind] = tower
            config = {**config, kind: tower.config}
        settings = {k: v for k, v in config.items() if k not in cls.common}
        return cls(config, **towers, **settings)

    def __init__(
        self, config: dict[str, Any], image: ImageEncoder, text: TextEncoder, *, dim: int = 128
    ) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        self.image, self.captions = image, Captions(text, dim)
        self.image_size, self.patch = image.image_size, image.patch
        self.tokenizer = text.tokenizer
        self.parts = tuple(f"image.{part}" for part in image.parts)
        self.projection = nn.Linear(image.dim, dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.bias = nn.Parameter(torch.zeros(()))

    @property
    def text(self) -> Captions:  # type: ignore[override]
        """The encoder of captions."""
        return self.captions

    def preprocess(self, batch: Batch) -> Any:
        """The image encoder's inputs."""
        return self.image.preprocess(batch)

    def layers(self, inputs: Any) -> dict[str, Tensor]:
        """The image encoder's, then `projection`."""
        named = self.image.layers(inputs)
        return {**named, "projection": self.projection(list(named.values())[-1])}

    def embed(self, inputs: Any) -> Tensor:
        """(B, dim): in the common space."""
        return self.projection(self.image(inputs))  # type: ignore[no-any-return]

    def tokens(self, inputs: Any, keep: Tensor | None = None) -> Tensor:
        """The image encoder's patches."""
        return self.image.tokens(inputs, keep)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The image encoder's feature maps."""
        return self.image.stages(images)
