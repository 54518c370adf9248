"""ResNets of any width, with a stem for small images.

He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016. arXiv:1512.03385.
Parameter names are torchvision's, so that its state dicts fit at width 64 with the 7×7 stem.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from sslbench.encoder import ImageEncoder, pooled

DEPTHS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
STEMS = {"conv7": (7, 2, 3), "conv3": (3, 1, 1), "conv3_stride2": (3, 2, 1)}  # kernel, stride, pad


class ResNet(ImageEncoder):
    """Layers are the four stages averaged over 3×3 cells, and the last one over all of it.

    Args:
        config: see `ImageEncoder`.
        width: channels of the first stage.
        stem: "conv7" (stride 2, then max-pooling), "conv3" (stride 1, the usual one for 32-pixel
            images) or "conv3_stride2". None: conv3 up to 64 pixels, else conv7.
        in_channels: of the images.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        width: int = 64,
        stem: str | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__(config)
        block, depths = DEPTHS[config["name"]]
        stem = stem or ("conv3" if self.image_size <= 64 else "conv7")
        if stem not in STEMS:
            raise ValueError(f"stem {stem!r}; allowed: {', '.join(STEMS)}")
        kernel, stride, padding = STEMS[stem]
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool_stem = stem == "conv7"
        channels = width
        for number, depth in enumerate(depths):
            blocks = []
            for position in range(depth):
                step = 2 if number and not position else 1
                planes = width * 2**number
                out = planes * block.expansion
                shortcut = None
                if step > 1 or channels != out:
                    shortcut = nn.Sequential(
                        nn.Conv2d(channels, out, 1, step, bias=False), nn.BatchNorm2d(out)
                    )
                blocks.append(block(channels, planes, step, shortcut))
                channels = out
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        self.dim = channels
        self.parts = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, images: Tensor) -> list[Tensor]:
        """Four maps; with stem conv3 at 32 pixels of 32, 16, 8 and 4 pixels a side."""
        x = F.relu(self.bn1(self.conv1(self.normalise(images))), inplace=True)
        if self.pool_stem:
            x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            maps.append(x)
        return maps

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """`stage1.avg3` … `stage4.avg3`, `stage4.avg`."""
        maps = self.stages(inputs)
        named = {f"stage{i}.avg3": pooled(stage, 3) for i, stage in enumerate(maps, 1)}
        return {**named, "stage4.avg": pooled(maps[-1], 1)}

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, D): the last stage averaged."""
        return pooled(self.stages(inputs)[-1], 1)
