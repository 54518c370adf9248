"""A transformer that reads an image's colours pixel by pixel and sees only those before.

Chen, Radford, Child, Wu, Jun, Luan, Sutskever. Generative Pretraining From Pixels. ICML 2020
(iGPT). Defaults are those of iGPT-S; weights start as in the authors' released code.
"""

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.data.image_ops import resize
from sslbench.data.split import Split
from sslbench.encoder import Encoder, ImageEncoder
from sslbench.errors import NotApplicable, UserError
from sslbench.kmeans import kmeans

if TYPE_CHECKING:
    from sslbench.tokenizer import Tokenizer

IMAGES = 4096  # at most so many are looked at to find the palette …
PIXELS = 256  # … and so many of their pixels for each colour


class Block(nn.Module):
    """Causal attention, then two linear layers, each normalised before and added afterwards.

    Args:
        dim: D.
        heads: of the attention.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.Linear(dim, 3 * dim)  # to queries, keys and values
        self.mixed = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → the same shape; no position receives anything from a later one."""
        parts = self.attention(self.norm1(x)).unflatten(2, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # (B, heads, N, D / heads) each
        values = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mixed(values.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class CausalTransformer(nn.Module):
    """Predicts each of a row of symbols from those before it (GPT-2's formulation).

    Position i is given the symbol i − 1, the first one a start token; the last symbol is predicted
    only.

    Args:
        kinds: K, number of symbols.
        length: N, positions.
        dim: D.
        depth: number of blocks.
        heads: of the attention.

    Raises:
        UserError: no block, or heads that do not divide D.
    """

    def __init__(self, kinds: int, length: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        if depth < 1 or heads < 1 or dim % heads:
            found = f"depth {depth} and {heads} heads of {dim} dimensions"
            raise UserError(f"a transformer of at least one block and equal heads, not {found}")
        self.start = nn.Parameter(0.02 * torch.randn(dim))
        self.embeddings = nn.Embedding(kinds, dim)
        self.pos_embed = nn.Parameter(0.01 * torch.randn(length, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, kinds, bias=False)
        nn.init.normal_(self.embeddings.weight, std=0.02)
        nn.init.zeros_(self.head.weight)  # every symbol is equally likely at first
        scales = {"attention": 1 / math.sqrt(dim), "mixed": 1 / math.sqrt(dim * depth), "mlp": 0.02}
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=scales[name.split(".")[1]])
                nn.init.zeros_(module.bias)

    def outputs(self, ids: Tensor) -> list[Tensor]:
        """Symbols (B, N) → what each block adds up, (B, N, D)."""
        before = self.embeddings(ids[:, :-1])
        x = torch.cat([self.start.expand(len(ids), 1, -1), before], dim=1) + self.pos_embed
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return states

    def forward(self, ids: Tensor) -> Tensor:
        """Symbols (B, N) → (B, N, D); `head` makes logits of the symbol at each position."""
        return self.norm(self.outputs(ids)[-1])  # type: ignore[no-any-return]


class ImageGPT(ImageEncoder):
    """Layers are the blocks' outputs, normalised and averaged over the positions.

    As in the paper's linear probes the norm is the one that the following block begins with, after
    the last block the one before the logits; those of the middle are the best (sections 2.4, 4.1).

    Args:
        config: see `ImageEncoder`.
        side: images are resized to side × side pixels, which are read in raster order.
        colours: in the palette, which k-means finds in the data that the encoder is made for.
        dim: D.
        depth: number of blocks.
        heads: of the attention.
    """

    palette: Tensor

    @classmethod
    def make(
        cls, config: dict[str, Any], data: Split | None, tokenizer: "Tokenizer | None"
    ) -> Self:
        """As every encoder of images; the palette is the data's, black until weights are loaded."""
        made = super().make(config, data, tokenizer)
        if data is not None:
            made.palette.copy_(palette(data, made.image_size, made.side, len(made.palette)))
        return made

    def __init__(
        self,
        config: dict[str, Any],
        *,
        side: int = 32,
        colours: int = 512,
        dim: int = 512,
        depth: int = 24,
        heads: int = 8,
    ) -> None:
        super().__init__(config)
        if config.get("sees", "colours") != "colours":
            raise NotApplicable(f"image_gpt reads colours, it cannot see {config['sees']}")
        if not 1 <= side <= self.image_size:
            raise UserError(f"side: 1 to {self.image_size} pixels of the image, got {side}")
        self.side, self.dim = side, dim
        self.register_buffer("palette", torch.zeros(colours, 3))
        self.transformer = CausalTransformer(colours, side**2, dim, depth, heads)
        self.parts = tuple(f"transformer.blocks.{number}" for number in range(depth))

    def variant(self, **changes: Any) -> Encoder:
        """Freshly initialised, with the palette: the data that it comes from are not at hand."""
        made = super().variant(**changes)
        if isinstance(made, ImageGPT) and made.palette.shape == self.palette.shape:
            made.palette.copy_(self.palette)
        return made

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] → (B, side²) int64: the nearest colour of each pixel."""
        found = pixels(images, self.side)
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(found, self.palette.to(found.dtype), compute_mode=exact).argmin(2)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (…, colours) at positions of the last layer (…, D)."""
        return self.transformer.head(hidden)  # type: ignore[no-any-return]

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """`block1.avg` … up to the last block."""
        outputs = self.transformer.outputs(self.read(inputs))
        following = [block.get_submodule("norm1") for block in self.transformer.blocks[1:]]
        norms = [*following, self.transformer.norm]
        normed = (norm(states) for norm, states in zip(norms, outputs, strict=True))
        return {f"block{i}.avg": states.mean(1) for i, states in enumerate(normed, 1)}

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, D): the last block, averaged."""
        return self.tokens(inputs).mean(1)

    def tokens(self, inputs: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, side², D): what predicts each pixel, knowing those before it."""
        if keep is not None:
            raise NotApplicable(f"{self.label} cannot leave out pixels")
        return self.transformer(self.read(inputs))  # type: ignore[no-any-return]


def pixels(images: Tensor, side: int) -> Tensor:
    """Images (B, 3, S, S) → their colours (B, side², 3) at a lower resolution, in raster order."""
    small = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return small.flatten(2).mT.contiguous()


@cache
def palette(data: Split, size: int, side: int, colours: int) -> Tensor:
    """(colours, 3): centres of the pixels of evenly spaced images, by k-means.

    Args:
        data: images.
        size: of the images that the encoder is given.
        side: see `ImageGPT`.
        colours: how many.

    Raises:
        UserError: fewer pixels than colours.
    """
    chosen = torch.linspace(0, len(data) - 1, min(IMAGES, len(data))).long()
    found = []
    for index in chosen.split(64):
        images = data[index].images
        assert images is not None
        seen = pixels(resize(images, size), side).flatten(0, 1)
        wanted = min(len(seen), math.ceil(PIXELS * colours * len(index) / len(chosen)))
        found.append(seen[torch.linspace(0, len(seen) - 1, wanted).long()])
    points = torch.cat(found)
    if len(points) < colours:
        raise UserError(f"colours: at most one for each of {len(points)} pixels, got {colours}")
    return kmeans(points, colours, seed=0)[0]
