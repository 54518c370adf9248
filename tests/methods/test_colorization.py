"""Colours, their bins and weights, and who gets to see them."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sslbench import registry
from sslbench.data.color_ops import lab
from sslbench.data.image_ops import resize
from sslbench.data.split import ImageArray, Split
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.methods.reconstruction.colorization import (
    Colorization,
    cross_entropy,
    frequencies,
    gamut,
    rebalancing,
    soft_encoding,
)
from sslbench.random import Random
from tests.conftest import SIZE
from tests.methods.loops import (
    SIDE,
    B,
    D,
    Flat,
    apply,
    check_slope,
    check_value,
    draw,
    images,
    log_softmax,
    rows,
    slopes,
)

PLACES = torch.arange(8)
KNOWN = {  # sRGB: L, a, b, as tables of the sRGB colours have them (D65)
    (1, 0, 0): (53.24, 80.09, 67.20),
    (0, 1, 0): (87.73, -86.18, 83.18),
    (0, 0, 1): (32.30, 79.19, -107.86),
    (1, 1, 0): (97.14, -21.55, 94.48),
    (0, 0, 0): (0, 0, 0),
    (1, 1, 1): (100, 0, 0),
}
MATRIX = [  # of linear sRGB, as the loops know it
    [0.4124, 0.3576, 0.1805],
    [0.2126, 0.7152, 0.0722],
    [0.0193, 0.1192, 0.9505],
]


def look(method: Colorization, places=PLACES) -> tuple[Tensor, Tensor, Tensor]:
    return method.views(method.data[places], Random(0, 0, places, 8))


def uniform_images(colours: list[tuple[int, int, int]]) -> Split:
    """One image of each colour, given in 0 … 255."""
    pixels = np.array(colours, np.uint8)[:, :, None, None]
    return ImageArray(np.tile(pixels, (1, 1, SIZE, SIZE)), None)


# ---------------------------------------------------------------------------- Lab and its bins


def from_lab(color):
    """CIE Lab → sRGB, one colour, by the inverse formulas."""
    level, a, b = color
    f = [(level + 16) / 116 + a / 500, (level + 16) / 116, (level + 16) / 116 - b / 200]
    xyz = [x**3 if x > 6 / 29 else 3 * (6 / 29) ** 2 * (x - 4 / 29) for x in f]
    xyz = [x * white for x, white in zip(xyz, (0.9505, 1.0, 1.089), strict=True)]
    linear = np.linalg.solve(np.array(MATRIX), np.array(xyz))
    return [x * 12.92 if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055 for x in linear]


def test_lab_of_known_colours():
    found = lab(torch.tensor(list(KNOWN)).double()[..., None, None])[..., 0, 0]
    expected = torch.tensor(list(KNOWN.values())).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


def test_lab_can_be_turned_back():
    colours = torch.from_numpy(np.random.default_rng(0).uniform(size=(200, 3)))
    found = lab(colours[..., None, None])[..., 0, 0]
    back = torch.tensor([from_lab(color) for color in found.tolist()])
    torch.testing.assert_close(back, colours, rtol=0, atol=1e-6)


def test_the_bins_of_known_colours():
    ab = torch.tensor([color[1:] for color in KNOWN.values()])[..., None, None]
    nearest, _ = soft_encoding(ab, gamut(10), 1, 5.0)
    expected = [[80, 70], [-90, 80], [80, -110], [-20, 90], [0, 0], [0, 0]]
    assert gamut(10)[nearest.flatten()].tolist() == expected


def test_the_bins_are_those_that_colours_of_srgb_fall_into():
    bins = gamut(10)
    assert bins.shape == (261, 2)
    levels = torch.linspace(0, 1, 65).double()
    cube = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).flatten(2)
    found = (lab(cube[None])[0, 1:].flatten(1).T / 10).round() * 10
    assert torch.equal(found.long().unique(dim=0), bins)


# ------------------------------------------------------------------------------ soft encoding


def encode(color, bins, count, sigma):
    """The nearest bins of a colour, and the Gaussian of their distances, normalised."""
    distances = [math.dist(color, bin_) for bin_ in bins]
    order = sorted(range(len(bins)), key=distances.__getitem__)[:count]
    shares = [math.exp(-(distances[q] ** 2) / (2 * sigma**2)) for q in order]
    return order, [share / sum(shares) for share in shares]


@pytest.mark.parametrize(("count", "sigma"), [(5, 5.0), (3, 8.0), (1, 5.0)])
def test_soft_encoding(count, sigma):
    ab, bins = 30 * draw(3, 2, 4, 5), gamut(10)
    nearest, shares = soft_encoding(ab, bins, count, sigma)
    assert nearest.shape == shares.shape == (3, count, 4, 5)
    colours = ab.movedim(1, -1).reshape(-1, 2).tolist()
    expected = [encode(color, bins.tolist(), count, sigma) for color in colours]
    by_cell = (x.movedim(1, -1).reshape(-1, count) for x in (nearest, shares))
    for (order, weights), found, share in zip(expected, *by_cell, strict=True):
        assert found.tolist() == order
        assert share.tolist() == pytest.approx(weights, rel=1e-9)


# -------------------------------------------------------------------------------- rebalancing


def weigh(shares, bins, sigma, uniform):
    """Equation 4, with Σ p̃ w = 1; each bin's share spreads over all bins like a Gaussian."""
    smooth = [0.0] * len(bins)
    for share, center in zip(shares, bins, strict=True):
        spread = [math.exp(-(math.dist(center, q) ** 2) / (2 * sigma**2)) for q in bins]
        for q, part in enumerate(spread):
            smooth[q] += share * part / sum(spread)
    weights = [1 / ((1 - uniform) * p + uniform / len(bins)) for p in smooth]
    expected = sum(p * w for p, w in zip(smooth, weights, strict=True))
    return smooth, [w / expected for w in weights]


@pytest.mark.parametrize(("sigma", "uniform"), [(5.0, 0.5), (12.0, 0.1), (5.0, 1.0)])
def test_rebalancing(sigma, uniform):
    bins = gamut(20)
    shares = draw(len(bins)).exp().square()
    shares /= shares.sum()
    found = rebalancing(shares, bins, sigma, uniform)
    smooth, expected = weigh(shares.tolist(), bins.tolist(), sigma, uniform)
    assert sum(smooth) == pytest.approx(1)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    assert sum(p * w for p, w in zip(smooth, found.tolist(), strict=True)) == pytest.approx(1)
    if uniform == 1:
        assert found.tolist() == pytest.approx([1] * len(bins))


def test_rare_colours_weigh_more(resnet):
    method = Colorization(resnet, uniform_images([(128, 128, 128)] * 9 + [(255, 0, 0)]))
    weights = dict(zip(map(tuple, method.bins.tolist()), method.weights.tolist(), strict=True))
    assert weights[0, 0] == min(weights.values()) < weights[80, 70] < weights[-90, 80]
    assert weights[-90, 80] == pytest.approx(max(weights.values()))


def test_colours_are_counted_in_evenly_spaced_images():
    data = uniform_images([(128, 128, 128), (255, 0, 0)] * 20 + [(0, 255, 0)])
    bins = gamut(10).tolist()

    def counted(most: int) -> dict[tuple[int, ...], float]:
        shares = frequencies(data, SIZE, 4, 10, most).tolist()
        return {tuple(q): share for q, share in zip(bins, shares, strict=True) if share}

    assert counted(100) == pytest.approx({(0, 0): 20 / 41, (80, 70): 20 / 41, (-90, 80): 1 / 41})
    assert counted(21) == pytest.approx({(0, 0): 20 / 21, (-90, 80): 1 / 21})


def test_colours_of_cells_are_counted_as_a_loop_does(images):
    counts = torch.zeros(261)
    bins = gamut(10)
    for image in resize(images.images, SIZE):
        ab = lab(image[None])[0, 1:]
        for row in range(0, SIZE, 4):
            for column in range(0, SIZE, 4):
                color = ab[:, row : row + 4, column : column + 4].mean((1, 2))
                counts[(bins - color).square().sum(1).argmin()] += 1
    found = frequencies(images, SIZE, SIZE // 4, 10)
    torch.testing.assert_close(found.float(), counts / counts.sum())


def test_the_weights_are_kept_with_the_state(resnet, images):
    assert "weights" in Colorization(resnet, images).state_dict()


# ----------------------------------------------------------------------------------- the loss


class Grey(Flat):
    """The linear encoder; what it sees does not matter to the loss."""

    def variant(self, **changes: object) -> Encoder:
        assert changes == {"sees": "lightness"}
        return self


def multinomial(pictures, encoder, head, nearest, shares, weights):
    """Equation 2 with v of equation 3, averaged; pixels are the cells."""
    total, pixels = 0.0, SIDE**2
    for picture, bins, weight in zip(pictures, nearest, shares, strict=True):
        hidden = apply(encoder, picture)
        for cell in range(pixels):
            logits = apply(head, [hidden[channel * pixels + cell] for channel in range(3)])
            z = [0.0] * len(weights)
            for q, share in zip(bins[cell::pixels], weight[cell::pixels], strict=True):
                z[q] = share
            v = weights[max(range(len(z)), key=z.__getitem__)]
            error = (share * log_softmax(logits, q) for q, share in enumerate(z) if share)
            total -= v * sum(error)
    return total / (len(pictures) * pixels)


def test_loss_and_gradients():
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (2 * B, 3, SIDE, SIDE))
    data = ImageArray(pixels.astype(np.uint8), None)
    settings = {"factor": 1, "grid": 40, "neighbours": 3, "sigma": 20.0}
    method = registry.method("colorization")(Grey(), data, **settings).double()
    assert method.weights.max() > 1.5 * method.weights.min()
    method.head = nn.Conv2d(3, len(method.bins), 1, bias=False).double()
    pictures = images(1)
    nearest, share = soft_encoding(30 * draw(B, 2, SIDE, SIDE, seed=2), method.bins, 3, 20.0)
    loss = method.loss((pictures, nearest, share), 0.0)
    loss.backward()
    x, eye, head = rows(pictures), rows(torch.eye(D)), rows(method.head.weight)
    constants = nearest.flatten(1).tolist(), rows(share), method.weights.tolist()
    check_value(loss, multinomial(x, eye, head, *constants))
    by_head = slopes(lambda w: multinomial(x, eye, w, *constants), rows(method.head.weight))
    check_slope(method.head.weight.grad.flatten(1), by_head)
    by_encoder = slopes(lambda e: multinomial(x, e, head, *constants), rows(torch.eye(D)))
    check_slope(method.encoder.linear.weight.grad, by_encoder)


def test_the_loss_is_not_divided_by_a_batch_s_own_weights():
    """The mean of two halves' losses is the whole batch's, however rare the colours of each."""
    logits, weights = draw(4, 6, 2, 2), torch.tensor([9.0, 9, 9, 0.1, 0.1, 0.1]).double()
    nearest = torch.tensor([0, 1, 3, 4]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    parts = logits, nearest, torch.ones(4, 1, 2, 2).double()
    halves = zip(*(part.chunk(2) for part in parts), strict=True)
    first, second = (cross_entropy(*half, weights) for half in halves)
    assert first > 5 * second
    torch.testing.assert_close((first + second) / 2, cross_entropy(*parts, weights))


# ----------------------------------------------------------------------- who sees and what for


@pytest.mark.parametrize("backbone", ["resnet", "vit"])
def test_the_encoder_does_not_see_colour(backbone, images, request):
    """Another chroma at the same lightness leaves every feature as it is."""
    given = request.getfixturevalue(backbone)
    encoder = Colorization(given, images).encoder.eval()
    assert encoder.config["sees"] == "lightness"
    linear = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) / 2 + 0.25
    change = torch.tensor([0.0722, 0.0, -0.2126]) / 2  # of no luminance: red for blue
    other = linear + change.view(1, 3, 1, 1) * torch.linspace(-1, 1, SIZE)
    pair = [1.055 * x ** (1 / 2.4) - 0.055 for x in (linear, other)]
    one, two = (lab(x) for x in pair)
    assert (one - two)[:, 1:].abs().max() > 10
    torch.testing.assert_close(one[:, 0], two[:, 0], rtol=0, atol=1e-4)
    for a, b in zip(*(encoder.stages(x) for x in pair), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(*(given.eval()(x) for x in pair), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", ["resnet", "vit"])
@pytest.mark.parametrize(("factor", "side"), [(4, 4), (2, 8), (1, 16), (5, 3), (16, 1)])
def test_every_cell_gets_a_prediction_and_a_truth(backbone, factor, side, images, request):
    method = Colorization(request.getfixturevalue(backbone), images, factor=factor)
    pictures, nearest, shares = look(method)
    assert nearest.shape == shares.shape == (8, 5, side, side)
    logits = method.head(method.encoder.stages(pictures)[-1])
    assert logits.shape == (8, 261, side, side)
    torch.testing.assert_close(shares.sum(1), torch.ones(8, side, side))


def test_the_truth_is_the_colour_of_the_view(resnet):
    data = uniform_images([(255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)] * 2)
    method = Colorization(resnet, data)
    _, nearest, shares = look(method)
    expected = torch.tensor([[80, 70], [-90, 80], [80, -110], [0, 0]] * 2)
    assert torch.equal(method.bins[nearest[:, 0, 2, 1]], expected)
    assert (shares.diff(dim=1) <= 1e-6).all()


def test_views_depend_on_the_place_in_the_batch_only(resnet, images):
    method = Colorization(resnet, images)
    for part, whole in zip(look(method, PLACES[4:]), look(method), strict=True):
        assert torch.equal(part, whole[4:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 0}, "factor: 1 to 16 expected, got 0"),
        ({"factor": 17}, "factor: 1 to 16 expected, got 17"),
        ({"grid": 0}, "grid and sigma: positive ones expected, got 0 and 5.0"),
        ({"sigma": 0.0}, "grid and sigma: positive ones expected, got 10 and 0.0"),
        ({"uniform": 0.0}, "uniform: .* got 0.0"),
        ({"uniform": 1.5}, "uniform: .* got 1.5"),
        ({"neighbours": 0}, "neighbours: 1 to 261 bins expected, got 0"),
    ],
)
def test_wrong_settings_are_refused(settings, message, resnet, images):
    with pytest.raises(ValueError, match=message):
        Colorization(resnet, images, **settings)


def test_an_encoder_without_feature_maps_does_not_apply(resnet, images, monkeypatch):
    monkeypatch.setattr(resnet, "stages", partial(Encoder.stages, resnet))
    with pytest.raises(NotApplicable, match="no feature maps"):
        Colorization(resnet, images)
