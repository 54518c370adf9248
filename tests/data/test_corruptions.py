"""The corruptions against loops over single images, written with SciPy, Pillow and colorsys.

The loops follow the definitions of the paper and of the published sets in float64 and take the
same random draws, so that pixels can be compared. Tolerances are in levels of 255.
"""

import colorsys
import io
import itertools
import math
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torchvision.transforms.functional import pil_to_tensor
from typer.testing import CliRunner

from sslbench.__main__ import app
from sslbench.data import corruptions, corruptions_weather, frost, load
from sslbench.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted
from sslbench.data.fetch import fetch
from sslbench.data.split import ImageArray, Texts
from sslbench.errors import NotApplicable, UserError
from sslbench.random import Random

NAMES = list(CORRUPTIONS)
SIZES = (32, 40)  # with CIFAR-10-C's constants, with ImageNet-C's


def photographs(n, size, seed=0):
    """Smooth colours with edges and grain: (n, 3, size, size) uint8."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.normal(size=(n, 3, size, size)), (0, 0, 3, 3))
    edges = ndimage.gaussian_filter(random.normal(size=(n, 1, size, size)), (0, 0, 4, 4)) > 0
    grey = smooth / smooth.std() * 45 + edges * 60 + random.normal(size=smooth.shape) * 4 + 95
    return torch.from_numpy(grey.clip(0, 255).astype(np.uint8))


@pytest.fixture(autouse=True)
def textures(monkeypatch):
    """Five photographs of different sizes."""
    sizes = [(350, 240), (300, 310), (300, 275), (290, 300), (260, 400)]
    random = np.random.default_rng(1)
    made = [torch.from_numpy(random.integers(256, size=(3, *s), dtype=np.uint8)) for s in sizes]
    monkeypatch.setattr(corruptions_weather, "textures", lambda: made)
    return made


def draws(name, severity, n):
    """The generator that `corrupt` makes for the first n images of a split."""
    step = NAMES.index(name) * 5 + severity
    return Random(corruptions._SEED, step, torch.arange(n), n)


def constants(name, severity, size):
    entry = CORRUPTIONS[name]
    return (entry.small if size <= 32 else entry.large)[severity - 1]


def gaussian_noise(x, c, draw):
    return x + c * draw.normal(*x.shape)


def disk(radius, sigma):
    reach, taps = (8, [-1, 0, 1]) if radius <= 8 else (radius, [-2, -1, 0, 1, 2])
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = (x**2 + y**2 <= radius**2).astype(float)
    weights = stats.norm.pdf(taps, scale=sigma)
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, weights / weights.sum(), axis, mode="mirror")
    return kernel / (x**2 + y**2 <= radius**2).sum()


def defocus_blur(x, c, draw):
    return np.stack([ndimage.correlate(channel, disk(*c), mode="mirror") for channel in x])


def glass_blur(x, c, draw):
    sigma, delta, passes = c
    height, width = x.shape[1:]
    blurred = ndimage.gaussian_filter(x, (0, sigma, sigma), mode="nearest")
    pixels = np.floor(blurred * 255 + 1e-4)
    for _ in range(passes):
        offset = draw.integers(2 * delta, 2, height * width).reshape(2, height, width) - delta
        for h in range(height - delta, delta, -1):
            for w in range(width - delta, delta, -1):
                right, down = offset[:, h, w]
                pixels[:, h, w] = pixels[:, h + down, w + right]
    return ndimage.gaussian_filter(pixels / 255, (0, sigma, sigma), mode="nearest")


def trail(x, angle, radius, sigma):
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    (y, z), angle = np.mgrid[: x.shape[1], : x.shape[2]], math.radians(angle)
    result = np.zeros_like(x)
    for i, weight in enumerate(weights / weights.sum()):
        below = (y + math.ceil(i * math.sin(angle) - 0.5)).clip(0, x.shape[1] - 1)
        beside = (z + math.ceil(i * math.cos(angle) - 0.5)).clip(0, x.shape[2] - 1)
        result += weight * x[:, below, beside]
    return result


def motion_blur(x, c, draw):
    return trail(x, float(draw.uniform(low=-45, high=45)), *c)


def enlarged(x, factor):
    """The centre, by scipy.ndimage.zoom, cut to the image's size."""
    n = x.shape[1]
    kept = math.ceil(n / factor)
    start = (n - kept) // 2
    part = x[:, start : start + kept, start : start + kept]
    large = ndimage.zoom(part, (1, factor, factor), order=1)
    start = (large.shape[1] - n) // 2
    return large[:, start : start + n, start : start + n]


def zoom_blur(x, c, draw):
    return np.mean([x, *(enlarged(x, factor) for factor in np.arange(1, *c))], axis=0)


def snow(x, c, draw):
    flakes = enlarged(c[0] + c[1] * draw.normal(1, *x.shape[1:]).astype(float), c[2])
    flakes = np.where(flakes < c[3], 0, flakes).clip(0, 1)
    flakes = np.floor(flakes * 255 + 1e-4) / 255
    flakes = trail(flakes, float(draw.uniform(low=-135, high=-45)), c[4], c[5])
    flakes = np.round(flakes * 255) / 255
    grey = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    white = c[6] * x + (1 - c[6]) * np.maximum(x, grey * 1.5 + 0.5)
    return white + flakes + np.rot90(flakes, 2, axes=(1, 2))


def frosted(textures):
    def reference(x, c, draw):
        ice = textures[int(draw.integers(5))].numpy() / 255
        if c[2] == 0.2:
            ice = ice[:, 2::5, 2::5]  # bilinear, at the middle of five pixels
        room = np.array(ice.shape[1:]) - x.shape[1:]
        top, left = (draw.uniform(2) * room.astype(np.float32)).astype(int)
        piece = ice[:, top : top + x.shape[1], left : left + x.shape[2]]
        return c[0] * x + c[1] * piece

    return reference


def fog(x, c, draw):
    side = 2 ** math.ceil(math.log2(x.shape[1]))
    cloud, step, wobble = np.zeros((side, side)), side, 100.0
    while step >= 2:
        half, cells = step // 2, side // step
        noise = [
            wobble * draw.uniform(cells, cells, low=-wobble, high=wobble).astype(float)
            for _ in range(3)
        ]

        grid = list(itertools.product(range(cells), repeat=2))
        corners = list(itertools.product((-half, half), repeat=2))
        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        places = [(half, half, corners), (0, half, cross), (half, 0, cross)]
        for change, (down, right, around) in zip(noise, places, strict=True):
            for i, j in grid:
                y, z = i * step + down, j * step + right
                near = [cloud[(y + dy) % side, (z + dx) % side] for dy, dx in around]
                cloud[y, z] = sum(near) / 4 + change[i, j]
        step, wobble = half, wobble / c[1]
    cloud = (cloud - cloud.min()) / np.ptp(cloud)
    return (x + c[0] * cloud[: x.shape[1], : x.shape[2]]) * x.max() / (x.max() + c[0])


def brightness(x, c, draw):
    result = np.empty_like(x)
    for h, w in np.ndindex(x.shape[1:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[:, h, w])
        result[:, h, w] = colorsys.hsv_to_rgb(hue, saturation, min(value + c, 1))
    return result


def contrast(x, c, draw):
    mean = x.mean((1, 2), keepdims=True)
    return (x - mean) * c + mean


def elastic_transform(x, c, draw):
    side = x.shape[1]
    reach, sigma, jitter = (value * side for value in c)
    half, third = side // 2, side // 3
    three = np.array(
        [[half + third, half + third], [half + third, half - third], [half - third, half - third]]
    )
    moved = three + draw.uniform(3, 2, low=-jitter, high=jitter).astype(float)
    forward = np.linalg.solve(np.c_[three, np.ones(3)], moved).T  # (2, 3)
    y, z = np.mgrid[:side, :side]
    at = np.linalg.solve(forward[:, :2], np.stack([z, y]).reshape(2, -1) - forward[:, 2:]).reshape(
        2, side, side
    )
    x = np.stack([ndimage.map_coordinates(part, at[::-1], order=1, mode="mirror") for part in x])
    if reach == 0:
        return x
    field = draw.uniform(2, side, side, low=-1).astype(float)
    field = ndimage.gaussian_filter(field, (0, sigma, sigma), mode="reflect", truncate=3) * reach
    at = [y + field[1], z + field[0]]
    return np.stack([ndimage.map_coordinates(part, at, order=1, mode="reflect") for part in x])


def pixelate(x, c, draw):
    image = Image.fromarray(np.round(x * 255).astype(np.uint8).transpose(1, 2, 0))
    small = int(image.width * c)
    back = image.resize((small, small), Image.Resampling.BOX).resize(
        image.size, Image.Resampling.BOX
    )
    return np.asarray(back).transpose(2, 0, 1) / 255


def jpeg_compression(x, c, draw):
    file = io.BytesIO()
    image = Image.fromarray(np.round(x * 255).astype(np.uint8).transpose(1, 2, 0))
    image.save(file, "JPEG", quality=c)
    return np.asarray(Image.open(file)).transpose(2, 0, 1) / 255


class Draws:
    """The draws of one image of several, as arrays without the first axis."""

    def __init__(self, random, i):
        self.random, self.i = random, i

    def normal(self, *shape):
        return self.random.normal(*shape)[self.i].numpy()

    def uniform(self, *shape, low=0.0, high=1.0):
        return self.random.uniform(*shape, low=low, high=high)[self.i].numpy()

    def integers(self, high, *shape):
        return self.random.integers(high, *shape)[self.i].numpy()


# The share of values that may be one level off: where the exact value is a whole number, the last
# digit decides on which side of it a value is cut off. Flakes may be rounded differently twice.
EXACT = {
    "gaussian_noise": (gaussian_noise, 1, 0.001),
    "defocus_blur": (defocus_blur, 1, 0.1),
    "glass_blur": (glass_blur, 1, 0.02),
    "motion_blur": (motion_blur, 1, 0.03),
    "zoom_blur": (zoom_blur, 1, 0.03),
    "snow": (snow, 2, 0.05),
    "frost": (None, 1, 0.03),
    "fog": (fog, 1, 0.005),
    "brightness": (brightness, 1, 0.05),
    "contrast": (contrast, 1, 0.02),
    "elastic_transform": (elastic_transform, 1, 0.005),
    "pixelate": (pixelate, 0, 0),
    "jpeg_compression": (jpeg_compression, 0, 0),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EXACT)
def test_pixels_are_those_of_a_loop(name, size, textures):
    reference, most, share = EXACT[name]
    images = photographs(3, size)
    for severity in SEVERITIES:
        found = corrupt(images, name, severity, torch.arange(3)).numpy().astype(int)
        for i, image in enumerate(images.numpy()):
            draw = Draws(draws(name, severity, 3), i)
            x = (reference or frosted(textures))(image / 255, constants(name, severity, size), draw)
            expected = np.floor(np.clip(x, 0, 1) * 255 + 1e-4).astype(int)
            difference = np.abs(found[i] - expected)
            assert difference.max() <= most, severity
            assert (difference > 0).mean() <= share, severity
    assert (found != images.numpy()).mean() > 0.2  # something happened


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_is_poisson(size, severity):
    photons, n = constants("shot_noise", severity, size), 40
    for level in (0, 1, 40, 128, 250):
        images = torch.full((n, 3, size, size), level, dtype=torch.uint8)
        found = corrupt(images, "shot_noise", severity, torch.arange(n)).flatten().numpy()
        mean = level / 255 * photons
        counts = np.arange(photons + 1)
        shown = np.floor(np.minimum(counts / photons, 1) * 255 + 1e-4)
        share = np.r_[stats.poisson.pmf(counts[:-1], mean), stats.poisson.sf(photons - 1, mean)]
        first, second = (share * shown).sum(), (share * shown**2).sum()
        std = math.sqrt(second - first**2)
        assert found.mean() == pytest.approx(first, abs=4.5 * std / math.sqrt(found.size))
        assert found.std() == pytest.approx(std, rel=0.03)
        assert set(found) <= set(shown)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_is_half_salt_and_half_pepper(size, severity):
    images = torch.full((40, 3, size, size), 100, dtype=torch.uint8)
    found = corrupt(images, "impulse_noise", severity, torch.arange(40))
    share = constants("impulse_noise", severity, size)
    bound = 4.5 * math.sqrt(share / found.numel())
    for value, expected in ((0, share / 2), (255, share / 2), (100, 1 - share)):
        assert (found == value).double().mean() == pytest.approx(expected, abs=bound)


def test_gaussian_noise_is_normal():
    images = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    found = corrupt(images, "gaussian_noise", 5, torch.arange(40)).double()
    assert found.mean() == pytest.approx(127.5, abs=0.4)  # half a level is cut off
    assert found.std() == pytest.approx(25.5, rel=0.01)


@pytest.mark.parametrize("size", [1, 2, 4, 7, 32, 33])
@pytest.mark.parametrize("name", NAMES)
def test_an_image_depends_on_its_place_alone(name, size):
    images, places = photographs(5, size), torch.tensor([3, 800, 4, 0, 9])
    for severity in (1, 5):
        together = corrupt(images, name, severity, places)
        assert together.shape == images.shape
        assert together.dtype == torch.uint8
        for i in range(5):
            alone = corrupt(images[i : i + 1], name, severity, places[i : i + 1])
            assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("name", NAMES)
def test_chunks_and_shapes_make_no_difference(name, monkeypatch):
    images = photographs(5, 40)
    expected = corrupt(images, name, 3, torch.arange(5))
    monkeypatch.setattr(corruptions, "_PIXELS", 3_300)
    assert torch.equal(corrupt(images, name, 3, torch.arange(5)), expected)
    wide = images[:, :, :36]
    assert corrupt(wide, name, 3, torch.arange(5)).shape == wide.shape


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"brightness", "contrast", "defocus_blur"}))
def test_places_draw_for_themselves(name):
    images = photographs(1, 32).expand(4, -1, -1, -1)
    found = corrupt(images, name, 5, torch.arange(4))
    fixed = name in ("zoom_blur", "pixelate", "jpeg_compression")
    assert torch.equal(found[0], found[1]) == fixed


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_more_severe_is_further_away(name, size):
    images = photographs(24, size)
    change = [
        float((corrupt(images, name, s, torch.arange(24)).float() - images).square().mean())
        for s in SEVERITIES
    ]
    # Other constants change in two ways at once, or hardly: motion_blur's third and fourth.
    mixed = {"glass_blur", "frost", "fog", "snow", "elastic_transform", "pixelate"}
    if name not in mixed:
        assert all(more > 0.95 * less for less, more in itertools.pairwise(change))
    assert name == "elastic_transform" or change[-1] > change[0]
    assert min(change) > 0


def test_names_are_the_published_ones_in_their_order():
    assert NAMES[:6] == [
        *("gaussian_noise", "shot_noise", "impulse_noise"),
        *("defocus_blur", "glass_blur", "motion_blur"),
    ]
    assert NAMES[6:] == [
        *("zoom_blur", "snow", "frost", "fog", "brightness"),
        *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    ]
    assert all(len(c.small) == len(c.large) == 5 for c in CORRUPTIONS.values())


def test_a_corrupted_split_keeps_labels_and_order():
    images, labels = photographs(6, 32).numpy(), np.arange(6)
    split = ImageArray(images, labels)
    worse = corrupted(split, "fog", 2)
    index = torch.tensor([4, 1])
    expected = corrupt(torch.from_numpy(images), "fog", 2, torch.arange(6))
    assert torch.equal(worse[index].images, expected[index])
    assert worse[index].target.tolist() == [4, 1]
    assert worse.hash not in (split.hash, corrupted(split, "fog", 3).hash)


def test_files_are_brought_to_one_size(tmp_path):
    for split, kind in itertools.product(("train", "validation", "test"), "ab"):
        (tmp_path / split / kind).mkdir(parents=True)
        for number in range(2):
            size = (60 + number, 50)
            Image.new("RGB", size, (200, 90, 10)).save(tmp_path / split / kind / f"{number}.png")
    split = load(f"folder:{tmp_path}")["test"]
    found = corrupted(split, "brightness", 1)[torch.arange(4)].images
    assert found.shape == (4, 3, 256, 256)
    bright = torch.tensor([200 + 25.5, 90 * 225.5 / 200, 10 * 225.5 / 200]).floor()
    assert torch.equal(found.amax((2, 3)).float(), bright.expand(4, 3))


def test_texts_cannot_be_corrupted():
    split = corrupted(Texts(["a", "b"]), "fog", 1)
    with pytest.raises(NotApplicable, match="have none"):
        split[torch.arange(1)]


@pytest.fixture
def wheel(tmp_path):
    """What the package carries of frost: files named like the photographs, and others."""
    path = tmp_path / "imagecorruptions-1.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate([*frost.NAMES, "frost6.jpg"]):
            kind = name.rpartition(".")[2].replace("jpg", "jpeg")
            mode = "RGBA" if name == "frost1.png" else "RGB"
            file = io.BytesIO()
            Image.new(mode, (20 + number, 30), (number, 0, 0)).save(file, kind)
            archive.writestr(f"imagecorruptions/frost/{name}", file.getvalue())
    return path


def test_photographs_of_frost_come_from_the_cache(tmp_path, monkeypatch, wheel):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"frost is not in .*: run `sslbench fetch frost`"):
        frost.textures()
    folder = frost.dataset_folder(frost.FROST)
    folder.mkdir(parents=True)
    frost.reduce({"imagecorruptions": wheel}, folder)
    monkeypatch.setattr(frost, "problem", lambda row: None)
    found = frost.textures()
    assert [tuple(image.shape) for image in found] == [(3, 30, 20 + i) for i in range(5)]
    with Image.open(folder / "frost2.png") as file:
        assert torch.equal(found[1], pil_to_tensor(file))


def test_photographs_of_frost_are_no_dataset(tmp_path):
    with pytest.raises(UserError, match="frost is no dataset"):
        frost.FROST.loader(frost.FROST, tmp_path)


def test_photographs_of_frost_are_known_to_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path))
    result = CliRunner().invoke(app, ["fetch", "frost", "--offline"])
    assert isinstance(result.exception, UserError)
    assert "frost is not in the cache" in str(result.exception)


@pytest.mark.network
def test_photographs_of_frost_can_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path))
    fetch(frost.FROST)
    shapes = [tuple(image.shape[1:]) for image in frost.textures()]
    assert shapes == [(600, 900), (315, 560), (315, 560), (350, 527), (495, 660)]
