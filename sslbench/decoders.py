"""Networks that make images of feature maps, and the adversary that judges them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class Adversary(nn.Module):
    """A discriminator, and both sides of the game in one step (Goodfellow 2014, arXiv:1406.2661).

    Args:
        size: side of the images that it judges; halved by convolutions until it is at most 4.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width, side = 3, size
        while side > 4:
            wide = min(2 * width, 512) if layers else 64
            layers.append(nn.Conv2d(width, wide, 4, 2, 1, bias=not layers))
            layers += [nn.BatchNorm2d(wide)] if width > 3 else []
            layers.append(nn.LeakyReLU(0.2))
            width, side = wide, side // 2
        self.judge = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side * side, 1))

    def forward(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """What the images' maker and what the discriminator has to minimise.

        The former is −log D(x̂), without gradient for the discriminator, the latter
        −log D(x) − log(1 − D(x̂)), without gradient for the images.

        Args:
            real: x (B, 3, S, S).
            fake: x̂ (B, 3, S, S).
        """
        # Copies: this pass moves neither D's parameters nor, a second time, its statistics.
        copies = {name: value.clone().detach() for name, value in self.judge.state_dict().items()}
        fooled = F.softplus(-functional_call(self.judge, copies, (fake,))).mean()
        found = F.softplus(-self.judge(real)).mean() + F.softplus(self.judge(fake.detach())).mean()
        return fooled, found


def decoder(channels: int, side: int, size: int, *, connected: bool = False) -> nn.Sequential:
    """(B, C, side, side) → (B, 3, size, size) in [−1, 1], doubling the side at each layer.

    Args:
        channels: C.
        side: of the feature map.
        size: of the images.
        connected: whether all positions meet within each channel before that.
    """
    width = min(channels, 512)
    layers: list[nn.Module] = [_ChannelWise(channels, side * side)] if connected else []
    layers.append(nn.Conv2d(channels, width, 1))
    for _ in range(math.ceil(math.log2(size / side))):
        narrow = max(width // 2, 16)
        layers.append(nn.ConvTranspose2d(width, narrow, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(narrow), nn.ReLU()]
        width = narrow
    layers.append(nn.Conv2d(width, 3, 3, padding=1))
    return nn.Sequential(*layers, nn.Upsample((size, size), mode="bilinear"), nn.Tanh())


class _ChannelWise(nn.Module):
    """Fully connected over the positions within each channel.

    Context encoders: Pathak 2016, arXiv:1604.07379, section 3.1.

    Args:
        channels: C.
        cells: N = H · W, positions of the map.
    """

    def __init__(self, channels: int, cells: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, cells, cells) / math.sqrt(cells))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return torch.einsum("bcn,cnm->bcm", maps.flatten(2), self.weight).view_as(maps)
