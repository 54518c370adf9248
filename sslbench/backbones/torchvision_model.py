"""Any of torchvision's classification models as an encoder; its state dicts fit.

Marcel, Rodriguez. Torchvision: the machine-vision package of Torch. ACM Multimedia 2010.
"""

from typing import Any

from torch import Tensor, nn
from torchvision import models

from sslbench.encoder import ImageEncoder, pooled
from sslbench.errors import UserError, suggest

PREFIX = "torchvision/"


class TorchvisionModel(ImageEncoder):
    """The representation is what enters the last linear layer.

    Layers are the last map at each resolution, averaged over 3×3 cells, where the model has a
    sequence of convolutional `features`, and `head`.

    Args:
        config: see `ImageEncoder`; "name" is torchvision's after `torchvision/`.
        settings: passed to the model's constructor.
    """

    def __init__(self, config: dict[str, Any], **settings: Any) -> None:
        super().__init__(config)
        name = config["name"].removeprefix(PREFIX)
        known = models.list_models(module=models)
        if name not in known:
            raise UserError(f"torchvision has no classifier {name!r}; {suggest(name, known)}")
        if name.startswith("vit"):  # its position embeddings fit one size
            settings = {"image_size": self.image_size, **settings}
        if name in ("googlenet", "inception_v3"):  # heads and slow initialisation for training only
            settings = {"aux_logits": False, "init_weights": False, **settings}
        self.model = models.get_model(name, weights=None, **settings)
        linear = [(n, m) for n, m in self.model.named_modules() if isinstance(m, nn.Linear)]
        if not linear:
            raise UserError(f"torchvision's {name} ends in no linear layer to take off")
        last, layer = linear[-1]
        self.model.set_submodule(last, nn.Identity())
        self.dim = layer.in_features
        children = dict(self.model.named_children())
        self.parts = tuple(f"model.{child}" for child in children)
        self.maps = "features" in children and not name.startswith("swin")  # channels come last

    def stages(self, images: Tensor) -> list[Tensor]:
        """The last map (B, C, H, W) at each resolution."""
        if not self.maps:
            return super().stages(images)
        x, maps = self.normalise(images), dict[int, Tensor]()
        for layer in self.model.features:
            x = layer(x)
            if x.shape[2] > 1:
                maps[x.shape[2]] = x
        return list(maps.values())

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """`stage1.avg3` …, where there are maps, and `head`."""
        maps = self.stages(inputs) if self.maps else []
        named = {f"stage{i}.avg3": pooled(stage, 3) for i, stage in enumerate(maps, 1)}
        return {**named, "head": self.embed(inputs)}

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, D): the model without its last linear layer."""
        return self.model(self.normalise(inputs))  # type: ignore[no-any-return]
