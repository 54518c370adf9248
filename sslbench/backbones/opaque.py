"""Encoders of which nothing is known but what goes in and what comes out."""

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.data.split import Split
from sslbench.encoder import ImageEncoder
from sslbench.errors import NotApplicable, UserError, suggest
from sslbench.tokenizer import Tokenizer

KINDS = {"onnx": "ONNX", "torch_export": "torch.export", "python_file": "Python"}
POOLINGS = ("first", "mean")
PIECE = 64  # images at a time without gradients: what a runtime keeps for reuse grows with it


class Opaque(ImageEncoder):
    """A network from a file: normalised images (B, 3, S, S) → a tensor or several.

    One output is the representation: the one that the setting `output` names, else the only one,
    else the only one of shape (B, D). It is pooled: (B, D) stays as it is; of tokens (B, N, D) the
    setting `pooling` takes the "first", which is a vision transformer's class token, or the "mean"
    of all, a class token included; maps (B, C, H, W) are averaged over H and W.

    Args:
        config: see `ImageEncoder`; also "sha256" and, unless default, "output" and "pooling".
        network: gives a tensor, or tensors by name, or by position ("0", "1", …).
        sha256: 64 hex digits of each file that the network comes from, one after the other; kept
            with the weights, so that two files differ also where torch does not see their weights.
        batch: how many images the network takes, no more and no fewer; None: any number.

    Raises:
        UserError: the network fails on blank images, or no output can be told to be the one.
    """

    def __init__(
        self, config: dict[str, Any], network: nn.Module, sha256: str, batch: int | None = None
    ) -> None:
        super().__init__(config)
        self.pooling = config.get("pooling", "first")
        if self.pooling not in POOLINGS:
            raise UserError(f"pooling = {self.pooling!r}; {suggest(self.pooling, list(POOLINGS))}")
        self.network, self.batch = network.cpu().eval(), batch
        self.register_buffer("sha256", torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8))
        blank = torch.zeros(batch or 2, 3, self.image_size, self.image_size)
        try:
            with torch.no_grad():
                found = self._outputs(blank)
        except Exception as error:  # the network's own, of any kind
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            shape = tuple(blank.shape)
            raise UserError(f"the network fails on images {shape}: {reason}") from error
        self.output = _choice(found, len(blank), config.get("output"))
        self.dim = self._pool(found[self.output]).shape[1]

    @classmethod
    def make(
        cls, config: dict[str, Any], data: Split | None, tokenizer: Tokenizer | None
    ) -> NoReturn:
        """Raise UserError: the configuration does not hold the network."""
        raise UserError(
            f"encoder {config['name']} comes from its {KINDS[config['name']]} file: "
            "it can be evaluated, not built or pretrained"
        )

    def variant(self, **changes: Any) -> NoReturn:
        """Raise NotApplicable: the network comes with its weights only."""
        kind = KINDS[self.config["name"]]
        raise NotApplicable(f"{self.label}: a {kind} file cannot be made again without its weights")

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """`output` (B, D): the chosen output, pooled."""
        return {"output": self._pool(self._chosen(inputs))}

    def stages(self, images: Tensor) -> list[Tensor]:
        """The chosen output, where it is a map (B, C, H, W)."""
        found = self._chosen(images)
        if found.ndim != 4:
            shape = tuple(found.shape)
            raise NotApplicable(f"{self.label}: output {self.output} is no map: {shape}")
        return [found]

    def _chosen(self, images: Tensor) -> Tensor:
        """The chosen output (B, …); to a fixed batch size, black images fill the last batch."""
        if self.training and torch.is_grad_enabled() and not any(True for _ in self.parameters()):
            raise NotApplicable(f"{self.label} has no weights that torch could train")
        size = self.batch or len(images)
        if self.batch is None and not torch.is_grad_enabled():
            size = min(size, PIECE)
        size = max(size, 1)
        filled = F.pad(images, (*[0] * 7, -len(images) % size))
        parts = [self._outputs(part)[self.output] for part in filled.split(size)]
        return torch.cat(parts)[: len(images)]

    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        found = self.network(self.normalise(images))
        if isinstance(found, Tensor):
            return {"output": found}
        named = found.items() if isinstance(found, Mapping) else enumerate(found)
        return {str(name): value for name, value in named if isinstance(value, Tensor)}

    def _pool(self, found: Tensor) -> Tensor:
        if found.ndim == 4:
            return found.float().mean((2, 3))
        if found.ndim == 3:
            return (found[:, 0] if self.pooling == "first" else found.mean(1)).float()
        return found.float()


def _choice(found: dict[str, Tensor], count: int, wanted: str | None) -> str:
    """Name of the output that represents `count` images."""
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in found.items())
    shapes = shapes or "no tensor"
    if wanted is not None and wanted not in found:
        raise UserError(f"no output {wanted!r}; {suggest(wanted, list(found))}")
    names = [wanted] if wanted is not None else list(found)
    fitting = [n for n in names if found[n].ndim in (2, 3, 4) and len(found[n]) == count]
    if not fitting:
        raise UserError(
            f"{count} images give {shapes}; expected (B, D), tokens (B, N, D) or maps (B, C, H, W)"
        )
    if any(found[name].is_complex() for name in fitting):
        raise UserError(f"complex features: {shapes}; real numbers expected")
    vectors = [name for name in fitting if found[name].ndim == 2]
    for names in (fitting, vectors):
        if len(names) == 1:
            return names[0]
    raise UserError(f"output=… must name one of its outputs: {shapes}")
