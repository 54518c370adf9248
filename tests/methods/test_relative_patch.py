"""Where the patches of a pair lie, what they show of it, and what the head makes of them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sslbench.data import image_ops
from sslbench.data.split import Batch
from sslbench.encoder import Encoder
from sslbench.methods.pretext.relative_patch import RelativePatch
from sslbench.random import Random
from tests.conftest import tiny_resnet
from tests.methods.loops import (
    D,
    Flat,
    apply,
    check_slope,
    check_value,
    draw,
    log_softmax,
    make,
    matrix,
    rows,
    slopes,
)

PLACES = torch.arange(64)
AROUND = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]  # row, column


def relative_patch(data, encoder: Encoder | None = None, **settings: object) -> RelativePatch:
    return RelativePatch(encoder or tiny_resnet(), data, **{"size": 32, "hidden": 8, **settings})


def look(method: RelativePatch, places: Tensor = PLACES) -> tuple[Tensor, Tensor]:
    """What the encoder sees of the patches, after its normalisation, and the directions."""
    shown, directions = method.views(method.data[places], Random(0, 0, places, 64))
    seen = method.encoder.normalise(shown.flatten(0, 1)).view_as(shown)
    return seen, directions


@pytest.fixture
def corners(monkeypatch) -> list[Tensor]:
    """Corners of patches as they were cut."""
    found, cut = [], image_ops.patches

    def spy(images, corners, size):
        found.append(corners)
        return cut(images, corners, size)

    monkeypatch.setattr(image_ops, "patches", spy)
    return found


# --------------------------------------------------------------------------------------- loss


def pairs(features, directions, weight):
    """Mean of −log softmax(W [h of the middle, h of a neighbour]) over images and neighbours."""
    total = count = 0.0
    for (middle, *others), labels in zip(features, directions, strict=True):
        for other, label in zip(others, labels, strict=True):
            total -= log_softmax(apply(weight, [*middle, *other]), label)
            count += 1
    return total / count


def test_loss():
    method = make("relative_patch", Flat(), size=12, patch=0.2, gap=1.0, jitter=0.0, hidden=4)
    assert method.patch == 2
    method.head = matrix(1, rows=8, columns=2 * D)
    method.encoder.linear = matrix(2)
    patches = draw(3, 3, 3, 2, 2, seed=3).requires_grad_()
    directions = [[2, 7], [0, 4], [5, 1]]
    loss = method.loss((patches, torch.tensor(directions)), 0.0)
    loss.backward()
    x, w, v = (rows(t) for t in (patches.flatten(0, 1), *method.parameters()))

    def reference(x, encoder, head):
        h = [apply(encoder, patch) for patch in x]
        return pairs([h[3 * i : 3 * i + 3] for i in range(3)], directions, head)

    check_value(loss, reference(x, w, v))
    check_slope(patches.grad.flatten(0, 1), slopes(lambda x: reference(x, w, v), x))
    check_slope(method.encoder.linear.weight.grad, slopes(lambda w: reference(x, w, v), w))
    check_slope(method.head.weight.grad, slopes(lambda v: reference(x, w, v), v))


# ---------------------------------------------------------------------------------- geometry


def test_directions_are_where_the_neighbours_lie(images, corners):
    method = relative_patch(images)
    _, directions = look(method)
    assert directions.sort(1).values.equal(torch.arange(8).expand(64, 8))
    assert not directions[0].equal(directions[1])
    middle, others = corners[0][:, :1], corners[0][:, 1:]
    expected = torch.tensor(AROUND)[directions] * (method.patch + method.gap)
    assert ((others - middle) - expected).abs().max() == 2 * method.jitter


def test_fewer_neighbours_are_distinct_and_drawn_at_random(images):
    seen, directions = look(relative_patch(images, per_image=2))
    assert seen.shape == (64, 3, 3, 7, 7)
    assert (directions[:, 0] != directions[:, 1]).all()
    assert directions.flatten().bincount(minlength=8).min() > 5


@pytest.mark.parametrize("size", [32, 224])
def test_edges_do_not_continue_because_patches_never_touch(images, corners, size):
    method = relative_patch(images, size=size)
    look(method)
    distance = (corners[0][:, :, None] - corners[0][:, None]).abs().amax(3)  # (B, 9, 9)
    distance += torch.eye(9, dtype=torch.long) * size
    between = distance.amin() - method.patch  # pixels from edge to edge
    assert between == method.gap - 2 * method.jitter > 0
    assert corners[0].min() == 0
    assert corners[0].max() == size - method.patch


def test_where_the_middle_lies_does_not_tell_the_direction(images, corners):
    _, directions = look(relative_patch(images, size=48, patch=0.15, per_image=1), PLACES)
    middle = corners[0][:, 0].float()
    for direction in range(8):
        away = middle[directions[:, 0] == direction].mean(0) - middle.mean(0)
        assert away.abs().max() < 3 * middle.std() / 2  # of some eight draws


def test_blocks_of_jpeg_do_not_lie_alike_in_both_patches(images, corners):
    """Even where a patch and a gap are a multiple of 8 pixels, by which blocks repeat."""
    method = relative_patch(images, size=72, patch=0.23, jitter=0.1)
    assert (method.patch + method.gap) % 8 == 0
    look(method)
    phase = (corners[0][:, 1:] - corners[0][:, :1]) % 8
    assert len(phase.unique()) == 8  # −4 … 4 pixels
    assert len((corners[0][:, 0] % 8).unique()) > 4


@pytest.mark.parametrize(("size", "expected"), [(32, (7, 4, 1)), (224, (49, 25, 4))])
def test_sizes_follow_from_the_encoder_s(images, size, expected):
    method = relative_patch(images, tiny_resnet().variant(image_size=size), size=None)
    assert (method.patch, method.gap, method.jitter) == expected


def test_patches_are_whole_tokens_of_a_vit(images, vit):
    method = relative_patch(images, vit, size=64)
    assert (method.patch, method.gap, method.jitter) == (12, 6, 1)
    places = torch.arange(4)
    views = method.views(images[places], Random(0, 0, places, 4))
    assert views[0].shape == (4, 9, 3, 12, 12)
    assert method.loss(views, 0.0) > 1


# ------------------------------------------------------------------------------------ colours


def painted(batch: Batch, change: Tensor) -> Batch:
    """With `change` (3,) times a random pattern added to the pixels."""
    pattern = torch.randint(0, 20, (len(batch.images), 1, *batch.images.shape[2:]))
    values = batch.images // 2 + 40 + pattern * change.view(3, 1, 1)
    return replace(batch, images=values.to(torch.uint8))


def twice(method: RelativePatch, images, change: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """What is seen of images, and of the same ones with their colours changed."""
    torch.manual_seed(0)
    return tuple(
        method.views(painted(images[PLACES], c), Random(0, 0, PLACES, 64))[0]
        for c in (torch.zeros(3, dtype=torch.long), torch.tensor(change))
    )


def test_chromatic_aberration_is_not_seen_where_one_channel_is_left(images):
    """Where green lies, compared with red and blue, shows in no patch but those that are green."""
    method = relative_patch(images)
    a, b = twice(method, images, (0, 2, 0))
    same = (a - b).abs().amax((2, 3, 4)) < 1e-6
    seen, _ = look(method)
    kept = seen.square().mean((3, 4)).argmax(2)  # (B, 9)
    assert torch.equal(same, kept != 1)
    assert kept.flatten().bincount(minlength=3).min() > 150
    assert not (kept == kept[:, :1]).all(1).any()  # each patch of an image has its own


def test_dropped_channels_are_faint_noise(images):
    seen, _ = look(relative_patch(images))
    deviation = seen.std((3, 4)).sort(2).values  # (B, 9, 3)
    ratio = deviation[..., :2] / deviation[..., 2:]
    assert 0.008 < ratio.mean() < 0.012
    noise = seen.flatten(0, 1)[:, 0][seen.flatten(0, 1).square().mean((2, 3)).argmax(1) != 0]
    assert (torch.corrcoef(noise.flatten(1)[:50]) - torch.eye(50)).abs().mean() < 0.15


def test_chromatic_aberration_is_not_seen_where_green_and_magenta_are_grey(images):
    a, b = twice(relative_patch(images, colour="project"), images, (-1, 2, -1))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    seen, _ = look(relative_patch(images, colour="project"))
    across = (2 * seen[:, :, 1] - seen[:, :, 0] - seen[:, :, 2]).abs()
    assert across.max() < 1e-5
    assert seen.abs().mean() > 0.5


def test_all_colours_are_seen_where_they_are_kept(images):
    a, b = twice(relative_patch(images, colour="keep"), images, (-1, 2, -1))
    assert ((a - b).abs().amax((2, 3, 4)) > 0.01).all()


@pytest.mark.parametrize("colour", ["drop", "project", "keep"])
def test_brightness_and_contrast_do_not_tell_patches_apart(images, colour):
    seen, _ = look(relative_patch(images, colour=colour))
    assert seen.square().mean((2, 3, 4)).sub(1).abs().max() < 1e-2
    if colour != "drop":
        assert seen.mean((3, 4)).abs().max() < 1e-5


# ------------------------------------------------------------------------- draws and settings


def test_a_draw_depends_on_the_place_only(images):
    method = relative_patch(images, per_image=3)
    everything, some = look(method), look(method, PLACES[40:])
    for whole, part in zip(everything, some, strict=True):
        torch.testing.assert_close(part, whole[40:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour": "grey"}, "colour 'grey'; allowed: drop, project, keep"),
        ({"per_image": 9}, "1 to 8 expected, got 9"),
        ({"per_image": 0}, "1 to 8 expected, got 0"),
        ({"patch": 0.3}, "patches of 9 pixels, 5 apart, shifted by up to 1, in images of 32"),
        ({"patch": 0.01}, "patches of 0 pixels"),
        ({"gap": 0.0}, "patches of 7 pixels, 0 apart.*never touch"),
        ({"jitter": 0.25}, "4 apart, shifted by up to 2"),
        ({"jitter": -1.0}, "shifted by up to -7"),
        ({"size": None}, "patches of 3 pixels, 2 apart.*larger size makes room"),
    ],
)
def test_settings_that_do_not_fit_are_refused(images, settings, message):
    with pytest.raises(ValueError, match=message):
        relative_patch(images, **settings)
