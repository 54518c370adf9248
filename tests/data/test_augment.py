"""Views against torchvision: operations, distributions of parameters, and the whole."""

import itertools
import math
import tomllib
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.v2 import functional as TF

from sslbench.data import augment, color_ops, image_ops
from sslbench.data.augment import Augmentation, Parameters, crop_boxes, multi_crop
from sslbench.data.image_ops import sizes_of
from sslbench.data.split import Batch
from sslbench.random import Random

EVERYTHING = Augmentation(
    rotation_p=0.5, jitter_p=0.7, grayscale_p=0.3, solarize_p=0.5, sobel_p=0.3, noise_p=0.5,
    cutout_p=0.5,
)  # fmt: skip
ADJUST = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]


def make_images(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth colours with some exact greys, black and white among them: (count, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, height, width, generator=generator)
    images[:, :, ::5] = images[:, :1, ::5]
    images[:, :, :, ::7] = images[:, :, :, ::7].round()
    return images


def make_batch(count: int, high: int = 32, low: int | None = None, seed: int = 0) -> Batch:
    """Images of `high` px, or a list of images of low to high px."""
    generator = torch.Generator().manual_seed(seed)
    images = (255 * make_images(count, high, high, seed)).to(torch.uint8)
    if low is None:
        return Batch(torch.arange(count), images)
    sizes = torch.randint(low, high + 1, (count, 2), generator=generator).tolist()
    some = [image[:, :height, :width] for image, (height, width) in zip(images, sizes, strict=True)]
    return Batch(torch.arange(count), some)


def rows(batch: Batch, part: Tensor) -> Batch:
    if isinstance(batch.images, list):
        return Batch(batch.index[part], [batch.images[i] for i in part])
    return Batch(batch.index[part], batch.images[part])


def draws(count: int, seed: int = 0, step: int = 0) -> Random:
    return Random(seed, step, torch.arange(count), count)


def assert_near(ours: Tensor, reference: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, reference, rtol=0, atol=tolerance)


# Crop and resize


@pytest.fixture(params=["matrices", "one by one"])
def resampling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of resizing on a CPU, whatever the size of the images."""
    limit = {"matrices": 10**6, "one by one": 0}[request.param]
    monkeypatch.setattr(image_ops, "_DENSE", limit)


@pytest.mark.usefixtures("resampling")
@pytest.mark.parametrize(("high", "size"), [(32, 32), (40, 24), (20, 64), (150, 48)])
def test_resized_crop_equals_torchvision(high: int, size: int) -> None:
    images, random = make_images(12, high, high), draws(12)
    boxes = crop_boxes(sizes_of(images), (0.05, 1.0), (0.5, 2.0), random)
    flip = random.uniform() < 0.5
    assert flip.any()
    assert not flip.all()
    listed = image_ops.resized_crop([*images], boxes, size, flip)
    ours = image_ops.resized_crop(images, boxes, size, flip)
    for view, image, box, mirrored in zip(ours, images, boxes.tolist(), flip, strict=True):
        reference = TF.resized_crop(image, *box, [size, size], antialias=True)
        assert_near(view, TF.horizontal_flip(reference) if mirrored else reference)
    assert_near(listed, ours)


@pytest.mark.usefixtures("resampling")
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("shape", "size", "crop"), [((40, 31), 24, 0.875), ((30, 33), 32, 1.0), ((60, 120), 28, 0.88)]
)
def test_resize_equals_torchvision(
    shape: tuple[int, int], size: int, crop: float, interpolation: str
) -> None:
    images, mode = make_images(6, *shape), transforms.InterpolationMode(interpolation)
    resized = TF.resize(images, [int(size / crop)], mode, antialias=True)
    expected = TF.center_crop(resized, [size, size]).clamp(0, 1)
    assert_near(image_ops.resize(images, size, crop, interpolation), expected)
    assert_near(image_ops.resize([*images], size, crop, interpolation), expected)


@pytest.mark.usefixtures("resampling")
def test_uint8_means_shares_of_255() -> None:
    images = make_batch(6, 24).images
    floats = images.float() / 255
    boxes = crop_boxes(sizes_of(images), (0.2, 1.0), (0.5, 2.0), draws(6))
    assert_near(
        image_ops.resized_crop(images, boxes, 16), image_ops.resized_crop(floats, boxes, 16)
    )
    assert_near(image_ops.resize(images, 16), image_ops.resize(floats, 16))


def test_bytes_in_a_list_become_the_bytes_of_torchvision() -> None:
    images, random = make_batch(12, 90, 40).images, draws(12)
    boxes = crop_boxes(sizes_of(images), (0.05, 1.0), (0.5, 2.0), random)
    flip = random.uniform() < 0.5
    cut = image_ops.resized_crop(images, boxes, 24, flip)
    mode = transforms.InterpolationMode.BICUBIC
    whole = image_ops.resize(images, 24, 0.875, "bicubic")
    for i, image in enumerate(images):
        view = TF.resized_crop(image, *boxes[i].tolist(), [24, 24], antialias=True)
        expected = TF.horizontal_flip(view) if flip[i] else view
        assert torch.equal((cut[i] * 255).round().byte(), expected)
        resized = TF.center_crop(TF.resize(image, [27], mode, antialias=True), [24, 24])
        assert torch.equal((whole[i] * 255).round().byte(), resized)


def test_resize_refuses_what_it_cannot_do() -> None:
    images = make_images(1, 8, 8)
    with pytest.raises(ValueError, match=r"crop: .* got 1\.5"):
        image_ops.resize(images, 8, crop=1.5)
    with pytest.raises(ValueError, match=r"interpolation: .* got 'nearest'"):
        image_ops.resize(images, 8, interpolation="nearest")


# Colour


def test_blend_equals_torchvision() -> None:
    images = make_images(24, 10, 14)
    kind, factor = torch.arange(24) % 3, torch.linspace(0, 2.5, 24)
    for ours, image, k, f in zip(
        color_ops.blend(images, kind, factor), images, kind, factor.tolist(), strict=True
    ):
        assert_near(ours, ADJUST[k](image, f))


def test_hue_equals_torchvision() -> None:
    levels = torch.linspace(0, 1, 9)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 27, 27)
    shifts = torch.linspace(-0.5, 0.5, 21)
    ours = color_ops.adjust_hue(colours.expand(21, -1, -1, -1), shifts)
    for view, shift in zip(ours, shifts.tolist(), strict=True):
        assert_near(view, TF.adjust_hue(colours[0], shift))


def test_color_jitter_equals_torchvision_in_every_order() -> None:
    orders = list(itertools.permutations(range(4)))
    images = make_images(24, 9, 12)
    before = images.clone()
    generator = torch.Generator().manual_seed(1)
    factors = 2 * torch.rand(24, 4, generator=generator)
    factors[:, 3] = torch.rand(24, generator=generator) - 0.5
    ours = color_ops.color_jitter(images, factors, torch.tensor(orders))
    for view, image, factor, order in zip(ours, images, factors.tolist(), orders, strict=True):
        for kind in order:
            image = ADJUST[kind](image, factor[kind])
        assert_near(view, image)
    assert torch.equal(images, before)


# The other operations


def test_grayscale_and_solarize_equal_torchvision() -> None:
    images = make_images(5, 8, 8)
    assert_near(color_ops.grayscale(images), TF.rgb_to_grayscale(images, 3))
    assert_near(image_ops.solarize(images, 0.3), TF.solarize(images, 0.3))


@pytest.mark.parametrize(("side", "kernel"), [(12, 3), (40, 9)])
def test_blur_equals_torchvision(side: int, kernel: int) -> None:
    images, sigma = make_images(6, side, side + 3), torch.linspace(0.1, 3.0, 6)
    ours = image_ops.gaussian_blur(images, sigma, kernel)
    for view, image, s in zip(ours, images, sigma.tolist(), strict=True):
        assert_near(view, TF.gaussian_blur(image, [kernel, kernel], [s, s]))


def test_rotation_equals_torchvision() -> None:
    images, turns = make_images(8, 7, 7), torch.arange(8)
    ours = image_ops.rotate90(images, turns)
    for view, image, turn in zip(ours, images, turns.tolist(), strict=True):
        assert torch.equal(view, TF.rotate(image, 90.0 * (turn % 4)))
    with pytest.raises(ValueError, match="square"):
        image_ops.rotate90(make_images(1, 7, 8), turns[:1])


@pytest.mark.parametrize("side", [4, 5])
def test_cutout_fills_a_square(side: int) -> None:
    images = make_images(4, 12, 12)
    centers = torch.tensor([[6, 5], [0, 0], [11, 3], [2, 11]])
    ours = image_ops.cutout(images, centers, side, fill=2.0)
    for view, image, (y, x) in zip(ours, images, centers.tolist(), strict=True):
        reference = image.clone()
        for i, j in itertools.product(range(12), range(12)):
            if 0 <= i - y + side // 2 < side and 0 <= j - x + side // 2 < side:
                reference[:, i, j] = 2
        assert torch.equal(view, reference)
    assert (ours[0, 0] == 2).sum() == side**2


def test_noise_is_added_and_clamped() -> None:
    images, noise = make_images(3, 6, 6), torch.randn(3, 3, 6, 6)
    expected = np.clip(images.numpy() + 0.3 * noise.numpy(), 0, 1)
    assert_near(image_ops.gaussian_noise(images, noise, 0.3), torch.from_numpy(expected))


def test_sobel_equals_scipy() -> None:
    images = make_images(4, 9, 11)
    for view, image in zip(image_ops.sobel(images), images.numpy(), strict=True):
        grey = image.astype(np.float64).mean(0)
        horizontal, vertical = (ndimage.sobel(grey, axis, mode="nearest") for axis in (1, 0))
        length = np.sqrt(horizontal**2 + vertical**2) / np.sqrt(20)
        reference = np.stack([horizontal / 8 + 0.5, vertical / 8 + 0.5, length])
        assert_near(view, torch.from_numpy(reference).float())


def test_sobel_uses_its_whole_range() -> None:
    corner = torch.zeros(1, 3, 3, 3)
    corner[..., 2] = corner[:, :, 2, 1] = 1  # the steepest 3 × 3 pixels there are
    assert math.isclose(image_ops.sobel(corner)[0, 2, 1, 1].item(), 1, abs_tol=1e-6)


# Distributions

SAMPLES = 4000
SAME = 0.044  # largest Kolmogorov–Smirnov distance of two samples of 4,000 at p = .001


def distance(ours: Tensor, reference: Tensor) -> float:
    return float(stats.ks_2samp(ours.numpy(), reference.numpy()).statistic)


@pytest.mark.parametrize(
    ("size", "ratio"), [((32, 32), (3 / 4, 4 / 3)), ((96, 64), (0.4, 1.2)), ((20, 100), (0.5, 3.0))]
)
def test_crops_are_distributed_as_torchvisions(
    size: tuple[int, int], ratio: tuple[float, float]
) -> None:
    scale = (0.08, 1.0)
    ours = crop_boxes(torch.tensor(size).expand(SAMPLES, 2), scale, ratio, draws(SAMPLES)).float()
    torch.manual_seed(0)
    image = torch.empty(3, *size)
    crop = transforms.RandomResizedCrop.get_params
    reference = torch.tensor([crop(image, scale, ratio) for _ in range(SAMPLES)]).float()
    for of in (
        lambda box: box[:, 0],  # top
        lambda box: box[:, 1],  # left
        lambda box: box[:, 2] * box[:, 3],  # area
        lambda box: box[:, 3] / box[:, 2],  # ratio
        lambda box: box[:, 0] + box[:, 2],  # bottom
    ):
        assert distance(of(ours), of(reference)) < SAME


@pytest.mark.parametrize("size", [(10, 100), (100, 10), (7, 7)])
def test_crop_that_never_fits_is_torchvisions_central_one(size: tuple[int, int]) -> None:
    scale, ratio = (0.99, 1.0), (1.9, 2.0)  # ten tries out of ten are too wide or too high
    ours = crop_boxes(torch.tensor([size]), scale, ratio, draws(1))
    reference = transforms.RandomResizedCrop.get_params(torch.empty(3, *size), scale, ratio)
    assert ours.tolist() == [list(reference)]


def test_crop_of_the_whole_is_the_central_square() -> None:
    sizes = torch.tensor([[32, 32], [20, 41]] + [[32, 33]] * 10)
    boxes = crop_boxes(sizes, (1.0, 1.0), (0.75, 1.3), draws(12))
    assert boxes.tolist() == [[0, 0, 32, 32], [0, 10, 20, 20]] + [[0, 0, 32, 32]] * 10


def test_colour_factors_are_distributed_as_torchvisions() -> None:
    augmentation = Augmentation(brightness=0.8, contrast=0.3, saturation=1.4, hue=0.2)
    drawn = augmentation.draw(torch.full((SAMPLES, 2), 32), 32, draws(SAMPLES))
    torch.manual_seed(0)
    jitter = transforms.ColorJitter(0.8, 0.3, 1.4, 0.2)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    samples = [jitter.get_params(*ranges)[1:] for _ in range(SAMPLES)]
    for ours, reference in zip(drawn.factors.T, torch.tensor(samples).T, strict=True):
        assert distance(ours, reference) < SAME
    sigma = torch.tensor(np.random.default_rng(0).uniform(0.1, 2.0, SAMPLES))
    assert distance(drawn.sigma, sigma) < SAME


def test_every_order_is_equally_frequent() -> None:
    drawn = Augmentation().draw(torch.full((SAMPLES, 2), 32), 32, draws(SAMPLES))
    assert torch.equal(drawn.order.sort(1).values, torch.arange(4).expand(SAMPLES, 4))
    _, counts = drawn.order.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_operations_hit_as_often_as_they_should_and_independently() -> None:
    shares = {
        "flip": 0.5, "rotation": 0.1, "jitter": 0.8, "grayscale": 0.2, "blur": 0.6,
        "solarize": 0.3, "sobel": 0.4, "noise": 0.7, "cutout": 0.9,
    }  # fmt: skip
    augmentation = Augmentation(**{f"{name}_p": share for name, share in shares.items()})
    drawn = augmentation.draw(torch.full((SAMPLES, 2), 8), 8, draws(SAMPLES))._asdict()
    drawn["rotation"] = drawn["turns"] > 0
    hits = torch.stack([drawn[name] for name in shares]).float()  # (9, n)
    expected = torch.tensor(list(shares.values()))
    error = (hits.mean(1) - expected) / (expected * (1 - expected) / SAMPLES).sqrt()
    assert error.abs().max() < 4
    noise = drawn["normal"][:, :, :2, 0].flatten(1).T  # two pixels of three channels
    correlation = torch.corrcoef(torch.cat([hits, noise])) - torch.eye(15)
    assert correlation.abs().max() < 4 / math.sqrt(SAMPLES)
    turns = drawn["turns"][drawn["rotation"]]
    assert turns.unique().tolist() == [1, 2, 3]
    assert stats.chisquare(turns.bincount()[1:].numpy()).pvalue > 1e-3
    assert drawn["center"].unique().tolist() == list(range(8))
    assert stats.kstest(drawn["normal"][:, 0, 0, 0].numpy(), "norm").pvalue > 1e-3


# Views


def reference_view(image: Tensor, size: int, a: Augmentation, p: Parameters) -> Tensor:
    """What `p`, one row, says, by torchvision and one image at a time."""
    kernel = 2 * (size // 20) + 1
    view = TF.resized_crop(image, *p.boxes.tolist(), [size, size], antialias=True)
    view = TF.to_dtype(view, torch.float32, scale=True)
    if p.flip:
        view = TF.horizontal_flip(view)
    view = TF.rotate(view, 90.0 * int(p.turns))
    if p.jitter:
        for kind in p.order.tolist():
            view = ADJUST[kind](view, float(p.factors[kind]))
    if p.grayscale:
        view = TF.rgb_to_grayscale(view, 3)
    if p.blur:
        view = TF.gaussian_blur(view, [kernel, kernel], [float(p.sigma)] * 2)
    if p.solarize:
        view = TF.solarize(view, a.solarize_threshold)
    if p.sobel:
        view = image_ops.sobel(view[None])[0]
    if p.noise:
        view = (view + a.noise_std * p.normal).clamp(0, 1)
    if p.cutout:
        side = round(a.cutout_size * size)
        top, left = (p.center - side // 2).tolist()
        bottom, right = top + side, left + side
        view = view.clone()
        view[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 0.5
    return view


@pytest.mark.parametrize("chunk", [1, 1 << 12, 1 << 20])
def test_views_equal_torchvision_one_by_one(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "_PIXELS", chunk)
    batch, size = make_batch(64, 36, 20), 24
    # Solarisation jumps at its threshold: away from it, or rounding errors would show.
    augmentation = replace(EVERYTHING, solarize_threshold=0.0)
    drawn = augmentation.draw(sizes_of(batch.images), size, draws(64))
    views = augmentation(batch, size, draws(64))
    for i, view in enumerate(views):
        row = Parameters(*(value[i] for value in drawn))
        reference = reference_view(batch.images[i], size, augmentation, row)
        assert_near(view, reference, 2e-5)


@pytest.mark.parametrize(("high", "size"), [(32, 32), (120, 40)])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_make_the_views_of_one(high: int, size: int, processes: int) -> None:
    batch, random = make_batch(48, high, high // 2), draws(48)
    whole, after = EVERYTHING(batch, size, random), random.uniform()
    for places in torch.arange(48).chunk(processes):
        random = Random(0, 0, places, 48)
        assert torch.equal(EVERYTHING(rows(batch, places), size, random), whole[places])
        assert torch.equal(random.uniform(), after[places])


def test_a_list_of_images_makes_the_views_of_an_array() -> None:
    batch = make_batch(48, 40)
    batch = replace(batch, images=batch.images.float() / 255)
    listed = replace(batch, images=[*batch.images])
    augmentation = replace(EVERYTHING, solarize_threshold=0.0)
    assert_near(augmentation(listed, 24, draws(48)), augmentation(batch, 24, draws(48)), 2e-5)


def test_images_of_several_sizes_stay_on_the_cpu_and_only_crops_travel() -> None:
    batch = make_batch(4, 40, 20)
    assert batch.to("meta").images is batch.images
    assert batch.to("meta").index.is_meta
    random = draws(4).to("meta")
    assert random.places.is_meta
    assert random.on_cpu.places.tolist() == [0, 1, 2, 3]


def test_threads_change_no_view() -> None:
    batch, threads = make_batch(96), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = EVERYTHING(batch, 32, draws(96))
        torch.set_num_threads(3)
        assert torch.equal(EVERYTHING(batch, 32, draws(96)), one)
    finally:
        torch.set_num_threads(threads)


def test_views_depend_on_seed_and_step_and_on_nothing_else() -> None:
    batch = make_batch(16)
    views = Augmentation()(batch, 16, draws(16, seed=1, step=2))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(Augmentation()(batch, 16, draws(16, seed=1, step=2)), views)
    assert torch.equal(torch.get_rng_state(), state)
    for other in (draws(16, seed=1, step=3), draws(16, seed=2, step=2)):
        assert not torch.equal(Augmentation()(batch, 16, other), views)


def test_the_batch_is_left_as_it_was_and_views_can_be_trained_on() -> None:
    batch = make_batch(8)
    before = batch.images.clone()
    views = EVERYTHING(batch, 16, draws(8))
    assert torch.equal(batch.images, before)
    weight = torch.ones(1, 3, 3, 3, requires_grad=True)
    torch.conv2d(views, weight).sum().backward()
    assert weight.grad is not None


NO_CHANGE = Augmentation(
    crop_scale=(1, 1), flip_p=0, jitter_p=0, grayscale_p=0, blur_p=0
)  # fmt: skip


def test_nothing_switched_on_changes_nothing() -> None:
    batch = make_batch(5)
    assert_near(NO_CHANGE(batch, 32, draws(5)), batch.images / 255, 1e-7)
    assert_near(NO_CHANGE(batch, 16, draws(5)), image_ops.resize(batch.images, 16))


def test_multi_crop() -> None:
    batch, random = make_batch(6), draws(6)
    local = replace(Augmentation(), crop_scale=(0.05, 0.25))
    views = multi_crop(batch, [(Augmentation(), 32, 2), (local, 16, 3)], random)
    assert [view.shape[2] for view in views] == [32, 32, 16, 16, 16]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(views[2:], 2))
    again = draws(6)
    assert torch.equal(Augmentation()(batch, 32, again), views[0])
    assert torch.equal(Augmentation()(batch, 32, again), views[1])
    assert torch.equal(local(batch, 16, again), views[2])


# Laws


def probabilities() -> st.SearchStrategy[float]:
    return st.sampled_from([0.0, 0.5, 1.0])


@settings(max_examples=30, deadline=None)
@given(
    chances=st.fixed_dictionaries(
        {f.name: probabilities() for f in fields(Augmentation) if f.name.endswith("_p")}
    ),
    strengths=st.fixed_dictionaries(
        {name: st.floats(0, 3) for name in ("brightness", "contrast", "saturation", "noise_std")}
    ),
    hue=st.floats(0, 0.5),
    count=st.integers(1, 6),
    high=st.integers(2, 40),
    size=st.integers(2, 30),
    seed=st.integers(0, 99),
)
def test_views_are_images(
    chances: dict[str, float],
    strengths: dict[str, float],
    hue: float,
    count: int,
    high: int,
    size: int,
    seed: int,
) -> None:
    augmentation = Augmentation(**chances, **strengths, hue=hue)
    views = augmentation(make_batch(count, high, high // 2, seed), size, draws(count, seed))
    assert views.shape == (count, 3, size, size)
    assert views.dtype == torch.float32
    assert views.min() >= 0
    assert views.max() <= 1


@settings(max_examples=20, deadline=None)
@given(side=st.integers(2, 24), count=st.integers(1, 5), seed=st.integers(0, 99))
def test_flips_and_rotations_are_groups(side: int, count: int, seed: int) -> None:
    images = make_images(count, side, side, seed)
    box = torch.tensor([[0, 0, side, side]]).expand(count, 4)
    flip = torch.arange(count) % 2 == 0
    flipped = image_ops.resized_crop(images, box, side, flip)
    assert_near(flipped[flip], images[flip].flip(3), 1e-7)
    assert_near(image_ops.resized_crop(flipped, box, side, flip), images, 1e-7)
    turns = torch.arange(count) + seed
    turned = images
    for _ in range(4):
        turned = image_ops.rotate90(turned, turns)
    assert torch.equal(turned, images)
    assert torch.equal(image_ops.rotate90(image_ops.rotate90(images, turns), 4 - turns % 4), images)


@settings(max_examples=20, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    low=st.floats(0.01, 1),
    ratio=st.sampled_from([(0.5, 2.0), (3.0, 4.0), (0.1, 0.2)]),
)
@example(size=(60, 1), low=0.5, ratio=(3.0, 4.0))
def test_crops_lie_inside(size: tuple[int, int], low: float, ratio: tuple[float, float]) -> None:
    sizes = torch.tensor([size]).expand(50, 2)
    boxes = crop_boxes(sizes, (low, 1.0), ratio, draws(50))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()


# Settings


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("flip_p", 1.1),
        ("flip_p", -0.1),
        ("flip_p", math.nan),
        ("flip_p", "often"),
        ("flip_p", (0.1, 0.2)),
        ("hue", 0.6),
        ("brightness", -1),
        ("contrast", math.inf),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.8, 0.2)),
        ("crop_scale", 0.5),
        ("crop_scale", (0.1, 0.2, 0.3)),
        ("crop_ratio", (-1.0, 1.0)),
        ("blur_sigma", (0.0, 2.0)),
        ("cutout_size", 2),
    ],
)
def test_wrong_settings_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{setting}: .* in \[.*\] expected, got"):
        Augmentation(**{setting: value})


def test_settings_can_be_written_in_toml_and_recorded() -> None:
    table = tomllib.loads("crop_scale = [0.2, 1]\nhue = 0.1\nblur_p = 0")
    augmentation = Augmentation(**table)
    assert augmentation == Augmentation(crop_scale=(0.2, 1.0), hue=0.1, blur_p=0.0)
    assert Augmentation(**asdict(augmentation)) == augmentation
    values = asdict(augmentation).values()
    assert all(type(n) is float for v in values for n in (v if isinstance(v, tuple) else (v,)))


def test_batches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="batch with images"):
        Augmentation()(Batch(torch.arange(3)), 8, draws(3))
    with pytest.raises(ValueError, match="5 places for 3 images"):
        Augmentation()(make_batch(3), 8, draws(5))
