"""How tiles are cut and shuffled, and how far from each other the permutations are."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from sslbench.data import image_ops
from sslbench.encoder import Encoder
from sslbench.methods.pretext.jigsaw import Jigsaw, distant_permutations
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


def jigsaw(data, encoder: Encoder | None = None, **settings: object) -> Jigsaw:
    small = {"permutations": 30, "size": 52, "hidden": 8}  # cells of 17 pixels, tiles of 12
    return Jigsaw(encoder or tiny_resnet(), data, **{**small, **settings})


def look(method: Jigsaw, places: Tensor = PLACES) -> tuple[Tensor, Tensor]:
    """What the encoder sees of the tiles, after its normalisation, and the permutations."""
    shown, numbers = method.views(method.data[places], Random(0, 0, places, 64))
    return method.encoder.normalise(shown.flatten(0, 1)).view_as(shown), numbers


@pytest.fixture
def cuts(monkeypatch) -> list[tuple[Tensor, Tensor]]:
    """Corners (B, 3, 9, 2) and tiles (B, 3, 9, t, t) as they were cut, cell by cell."""
    found, cut = [], image_ops.patches

    def spy(images, corners, size):
        tiles = cut(images, corners, size)
        found.append((corners.view(-1, 3, 9, 2), tiles.view(-1, 3, 9, size, size)))
        return tiles

    monkeypatch.setattr(image_ops, "patches", spy)
    return found


# --------------------------------------------------------------------------------------- loss


def test_loss():
    method = make("jigsaw", Flat(), permutations=5, size=9, hidden=4)
    assert (method.cell, method.tile) == (3, 2)
    method.head = matrix(1, rows=5, columns=9 * D)
    method.encoder.linear = matrix(2)
    tiles, numbers = draw(2, 9, 3, 2, 2, seed=3).requires_grad_(), [4, 1]
    loss = method.loss((tiles, torch.tensor(numbers)), 0.0)
    loss.backward()
    x, w, v = (rows(t) for t in (tiles.flatten(0, 1), *method.parameters()))

    def reference(x, encoder, head):
        """Equation 2: mean of −log p(permutation | features of all tiles, one after the other)."""
        total = 0.0
        for i, number in enumerate(numbers):
            features = [apply(encoder, tile) for tile in x[9 * i : 9 * i + 9]]
            total -= log_softmax(apply(head, list(itertools.chain(*features))), number)
        return total / len(numbers)

    check_value(loss, reference(x, w, v))
    check_slope(tiles.grad.flatten(0, 1), slopes(lambda x: reference(x, w, v), x))
    check_slope(method.encoder.linear.weight.grad, slopes(lambda w: reference(x, w, v), w))
    check_slope(method.head.weight.grad, slopes(lambda v: reference(x, w, v), v))


# ------------------------------------------------------------------------------ permutations


def hamming(chosen: np.ndarray) -> np.ndarray:
    """Distances of all pairs."""
    return (chosen[:, None] != chosen).sum(2)[np.triu_indices(len(chosen), 1)]


def test_permutations_are_chosen_greedily():
    """The same by slow loops: farthest from the nearest, then from all, then the first."""
    candidates, chosen = list(itertools.permutations(range(4))), [(0, 1, 2, 3)]
    while len(chosen) < 15:
        best = None
        for candidate in candidates:
            distances = [sum(a != b for a, b in zip(candidate, c, strict=True)) for c in chosen]
            score = (min(distances), sum(distances))
            if best is None or score > best[0]:
                best = (score, candidate)
        chosen.append(best[1])
    assert distant_permutations(15, 4).tolist() == [list(c) for c in chosen]


@pytest.mark.parametrize(("count", "nearest"), [(9, 9), (24, 7), (100, 6), (1000, 5)])
def test_permutations_are_far_from_each_other(count, nearest):
    chosen = distant_permutations(count)
    assert np.array_equal(np.sort(chosen, axis=1), np.tile(np.arange(9), (count, 1)))
    assert hamming(chosen).min() == nearest
    assert hamming(chosen).mean() > 8


def test_permutations_drawn_at_random_are_not():
    """What the choice is for: two that differ in few tiles are hard to tell apart."""
    random = np.random.default_rng(0)
    assert hamming(np.array([random.permutation(9) for _ in range(1000)])).min() < 4


def test_permutations_are_always_the_same_and_begin_alike(images):
    first = distant_permutations(40)
    distant_permutations.cache_clear()
    assert np.array_equal(first, distant_permutations(40))
    assert np.array_equal(first[:30], jigsaw(images).orders)
    assert first[0].tolist() == list(range(9))


# -------------------------------------------------------------------------------------- tiles


def test_tiles_are_in_the_order_of_the_permutation(images, cuts):
    method = jigsaw(images)
    seen, numbers = look(method)
    tiles = cuts[0][1]
    assert len(numbers.unique()) > 20
    for image in range(64):
        for position, cell in enumerate(distant_permutations(30)[numbers[image]]):
            tile = tiles[image, :, cell]
            mean, deviation = tile.mean((1, 2)), tile.std((1, 2), correction=0)
            expected = (tile - mean[:, None, None]) / deviation[:, None, None]
            torch.testing.assert_close(seen[image, position], expected, rtol=1e-2, atol=1e-2)


def test_edges_do_not_continue_because_tiles_move_in_their_cells(images, cuts):
    method = jigsaw(images)
    look(method)
    corners = cuts[0][0]
    grid = corners.view(64, 3, 3, 3, 2)
    gaps = grid[:, 0, :, 1:, 1] - grid[:, 0, :, :-1, 1] - method.tile
    assert gaps.min() >= 0
    assert abs(gaps.float().mean() - 5) < 0.5  # cells of 17, tiles of 12
    assert len(gaps.unique()) > 8  # 0 … 10
    cells = torch.cartesian_prod(torch.arange(3), torch.arange(3)) * 17
    inside = corners - cells
    assert inside.amin() == 0
    assert inside.amax() == 17 - 12 + 1  # and a pixel that 3 cells leave of 52


def test_blocks_of_jpeg_do_not_lie_alike_in_all_tiles(images, cuts):
    """Even where cells are a multiple of 8 pixels, by which blocks repeat."""
    method = jigsaw(images, size=72)
    assert method.cell == 24
    look(method)
    phase = cuts[0][0][:, 0] % 8  # (B, 9, 2)
    assert len((phase[:, 1:] - phase[:, :1]).remainder(8).unique()) == 8


def test_brightness_and_contrast_do_not_tell_tiles_apart(images):
    seen, _ = look(jigsaw(images))
    assert seen.mean((3, 4)).abs().max() < 1e-4
    assert (seen.std((3, 4), correction=0) - 1).abs().max() < 1e-2


def test_chromatic_aberration_is_hidden_by_shifting_the_channels(images, cuts):
    """Each channel of each tile has a shift of its own, but in its cell; grey images have none."""
    method = jigsaw(images, shift=0.2, grey=0.3)
    assert method.shift == 2
    seen, _ = look(method)
    corners = cuts[0][0]  # (B, 3, 9, 2)
    relative = corners[:, 1] - corners[:, 0]
    grey = (seen[:, :, 0] - seen[:, :, 1]).abs().amax((1, 2, 3)) < 1e-5
    assert 0.15 < grey.float().mean() < 0.45
    assert (relative[grey] == 0).all()
    assert sorted(relative[~grey].unique().tolist()) == list(range(-4, 5))
    assert (relative[~grey] != relative[~grey][:, :1]).any(1).all()  # not one for all tiles
    cells = torch.cartesian_prod(torch.arange(3), torch.arange(3)) * 17
    assert (corners - cells).amin() == 0
    assert (corners - cells).amax() == 17 - 12 + 1


def test_sizes_follow_from_the_encoder_s(images):
    for size, expected in ((32, (10, 7, 0)), (224, (74, 55, 2))):
        method = jigsaw(images, tiny_resnet().variant(image_size=size), size=None)
        assert (method.cell, method.tile, method.shift) == expected


def test_tiles_are_whole_tokens_of_a_vit(images, vit):
    method = jigsaw(images, vit)
    places = torch.arange(4)
    views = method.views(images[places], Random(0, 0, places, 4))
    assert views[0].shape == (4, 9, 3, 12, 12)
    assert method.loss(views, 0.0) > 1


# ------------------------------------------------------------------------- draws and settings


def test_a_draw_depends_on_the_place_only(images):
    method = jigsaw(images)
    everything, some = look(method), look(method, PLACES[40:])
    for whole, part in zip(everything, some, strict=True):
        torch.testing.assert_close(part, whole[40:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"permutations": 1}, "2 to 362880 expected, got 1"),
        ({"permutations": 400000}, "2 to 362880 expected, got 400000"),
        ({"tile": 1.0}, "tiles of 17 pixels in cells of 17"),
        ({"tile": 0.01}, "tiles of 0 pixels"),
        ({"size": 3}, "tiles of 0 pixels in cells of 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(images, settings, message):
    with pytest.raises(ValueError, match=message):
        jigsaw(images, **settings)
