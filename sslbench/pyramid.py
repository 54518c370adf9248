"""An encoder's feature maps as a pyramid: as many channels at every scale.

From maps of several scales the feature pyramid network of Lin et al., arXiv:1612.03144, in
torchvision's implementation. From a plain vision transformer, whose maps all have one scale, the
simple feature pyramid of Li et al. (ViTDet), arXiv:2203.16527, section 3: its last map alone,
brought to four scales, from a quarter of its stride on, or from 2 pixels where that is less.

All convolutions are followed by batch norm, as in MoCo's transfer (arXiv:1911.05722, section 4.2):
the features of different methods differ in magnitude, which would otherwise decide for them.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork

from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable

SCALES = 4


class Pyramid(nn.Module):
    """Images (B, 3, H, W) in [0, 1] → maps (B, out_channels, H / stride, W / stride) by name.

    Args:
        encoder: taken over, not copied; its weights get no gradient if they are frozen.
        frozen: keep the encoder in eval mode and its weights as they are.
        out_channels: of each map; None: 256, or half the channels of the last map where that is
            less, so that a small encoder has a small pyramid.

    Attributes:
        strides: pixels per cell of each map, fine to coarse.

    Raises:
        NotApplicable: the encoder has no feature maps.
    """

    def __init__(self, encoder: Encoder, *, frozen: bool, out_channels: int | None = None) -> None:
        super().__init__()
        self.encoder, self.frozen = encoder.requires_grad_(not frozen), frozen
        shapes, size = _shapes(encoder), encoder.image_size
        assert size is not None  # it has maps
        dim = shapes[-1][0]
        self.out_channels = out_channels or min(256, max(1, dim // 2))
        self.plain = len({shape[1:] for shape in shapes}) == 1
        if self.plain:
            stride = round(size / shapes[-1][1])
            finest = max(p for p in range(3) if p == 0 or (stride % 2**p == 0 and stride > 2**p))
            powers = range(finest, finest - SCALES, -1)  # maps of 2^power times the size
            self.levels: nn.Module = nn.ModuleList(
                _resampled(dim, self.out_channels, power) for power in powers
            )
            self.strides = [round(stride / 2.0**power) for power in powers]
        else:
            shapes = shapes[-SCALES:]
            channels = [shape[0] for shape in shapes]
            self.levels = FeaturePyramidNetwork(
                channels, self.out_channels, norm_layer=nn.BatchNorm2d
            )
            # Where the size does not divide, maps are rounded up: the stride is the power of two.
            self.strides = [2 ** round(math.log2(size / shape[1])) for shape in shapes]
        self.to(encoder.device)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps "0" (finest) … of `strides`; H and W are multiples of the coarsest stride."""
        if self.frozen:
            self.encoder.eval()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.encoder.stages(images)
        if self.plain:
            assert isinstance(self.levels, nn.ModuleList)
            return OrderedDict((str(i), level(maps[-1])) for i, level in enumerate(self.levels))
        named = OrderedDict((str(i), stage) for i, stage in enumerate(maps[-SCALES:]))
        return self.levels(named)  # type: ignore[no-any-return]


def _shapes(encoder: Encoder) -> list[tuple[int, ...]]:
    """(C, H, W) of each of the encoder's maps, at the size that it was made for."""
    if encoder.image_size is None:
        raise NotApplicable(f"{encoder.label} has no feature maps: it is no encoder of images")
    training, size = encoder.training, encoder.image_size
    with torch.no_grad():
        maps = encoder.eval().stages(torch.zeros(1, 3, size, size, device=encoder.device))
    encoder.train(training)
    return [tuple(stage.shape[1:]) for stage in maps]


def _resampled(dim: int, channels: int, power: int) -> nn.Sequential:
    """One scale of the simple pyramid: (B, dim, h, w) → (B, channels, 2^power h, 2^power w)."""
    layers: list[nn.Module] = []
    for _ in range(power):
        layers += [nn.ConvTranspose2d(dim, dim // 2, 2, 2), nn.BatchNorm2d(dim // 2), nn.GELU()]
        dim //= 2
    if power < 0:
        layers.append(nn.MaxPool2d(2**-power))
    for inputs, kernel in ((dim, 1), (channels, 3)):
        layers.append(Conv2dNormActivation(inputs, channels, kernel, activation_layer=None))
    return nn.Sequential(*layers)
