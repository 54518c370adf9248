"""What the context sees of the future, and what its predictions are compared with."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench import distributed
from sslbench.data import image_ops
from sslbench.encoder import Encoder
from sslbench.method import Method
from sslbench.methods.contrastive.cpc import CPC, Block, causal
from sslbench.random import Random
from tests.conftest import run_processes, tiny_resnet
from tests.methods.collapse import collapses
from tests.methods.loops import (
    D,
    Flat,
    apply,
    check_slope,
    check_value,
    dot,
    draw,
    log_softmax,
    make,
    matrix,
    rows,
    slopes,
)

PLACES = torch.arange(64)


def small(data, encoder: Encoder | None = None, **settings: object) -> CPC:
    return CPC(encoder or tiny_resnet(), data, **{"hidden": 8, **settings})


# --------------------------------------------------------------------------------------- loss


class Above(nn.Module):
    """Twice a row plus the one above it: a context that is easy to write down."""

    def forward(self, maps: Tensor) -> Tensor:
        return 2 * maps + F.pad(maps, (0, 0, 1, 0))[:, :, :-1]


def linear_cpc() -> Method:
    """On 3 × 3 patches of 2 pixels, with predictions one and two rows ahead."""
    method = make("cpc", Flat(), size=4, grid=3, steps=2, skip=0, hidden=4)
    assert method.patch == 2
    method.context = Above()
    method.encoder.linear = matrix(1)
    method.predictors = nn.ModuleList([matrix(2), matrix(3)])
    return method


def patches(count: int) -> Tensor:
    return draw(count, 9, 3, 2, 2, seed=4)


def cpc(z, predictors):
    """Equations 3 and 4 over patches z of all images, averaged over k."""
    total = 0.0
    for k, weight in predictors.items():
        part = count = 0.0
        for start in range(0, len(z), 9):  # an image
            for row in range(3 - k):
                for column in range(3):
                    here = start + 3 * row + column
                    above = z[here - 3] if row else [0.0] * len(z[0])
                    context = [2 * a + b for a, b in zip(z[here], above, strict=True)]
                    predicted = apply(weight, context)
                    part -= log_softmax([dot(other, predicted) for other in z], here + 3 * k)
                    count += 1
        total += part / count
    return total / len(predictors)


def test_loss():
    method, x = linear_cpc(), patches(2).requires_grad_()
    loss = method.loss(x, 0.0)
    loss.backward()
    views, encoder = rows(x.flatten(0, 1)), rows(method.encoder.linear.weight)
    first, second = (rows(layer.weight) for layer in method.predictors)

    def reference(views, encoder, first, second):
        return cpc([apply(encoder, x) for x in views], {1: first, 2: second})

    given = [views, encoder, first, second]
    check_value(loss, reference(*given))
    grads = [x.grad, method.encoder.linear.weight.grad]
    grads += [layer.weight.grad for layer in method.predictors]
    for number, grad in enumerate(grads):

        def part(value, number=number):
            return reference(*given[:number], value, *given[number + 1 :])

        check_slope(grad.view(-1, D), slopes(part, given[number]))


def one_step() -> tuple[Tensor, list[Tensor]]:
    """Global loss and averaged gradients, of this process's part of four images."""
    method, world = linear_cpc(), distributed.world()
    loss = method.loss(patches(4).chunk(world)[distributed.rank()], 0.0)
    loss.backward()
    distributed.average_gradients(method.parameters())
    mean = distributed.total(loss.detach()) / world
    return mean, [p.grad for p in method.parameters() if p.grad is not None]


def test_patches_of_all_processes_are_gathered_with_gradient():
    expected = one_step()
    for found in run_processes(2, one_step):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


# ------------------------------------------------------------------------------------ context


def stack(depth: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block(4, 8) for _ in range(depth))).double()


@pytest.mark.parametrize("row", range(7))
def test_the_past_does_not_change_with_the_future(row):
    context, before = stack(5), draw(2, 7, 7, 4, seed=1)
    after = before.clone()
    after[:, row, 3] += 1
    changed = (causal(context, before) != causal(context, after)).any(3).any(2).any(0)
    sees = [row <= r <= row + 5 for r in range(7)]  # five blocks see five rows up
    assert changed.tolist() == sees


def test_a_row_sees_what_lies_above_it_on_both_sides():
    context, before = stack(2), draw(1, 4, 5, 4, seed=1)
    after = before.clone()
    after[:, 0, 2] += 1
    changed = (causal(context, before) != causal(context, after)).any(3)[0]
    assert changed.tolist()[1:] == [[True] * 5, [True] * 5, [False] * 5]


def test_the_loss_of_upper_rows_does_not_see_the_pixels_below(images):
    """Contexts from pixels to end: patches are encoded one by one, and the stack looks up only."""
    method = small(images).eval()
    views = method.views(images[PLACES[:8]], Random(0, 0, PLACES[:8], 8))

    def contexts(views):
        z = method.encoder(views.flatten(0, 1)).view(8, 7, 7, -1)
        return causal(method.context, z)

    covered = views.clone()
    covered[:, 28:] = 0.5  # all from the fifth row on
    a, b = contexts(views), contexts(covered)
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert ((a[:, 4:] - b[:, 4:]).abs().amax((0, 2, 3)) > 1e-3).all()


# -------------------------------------------------------------------------------------- views


def test_patches_of_the_grid_overlap_by_half_and_those_predicted_not_at_all(images, monkeypatch):
    found, cut = [], image_ops.patches

    def spy(images, corners, size):
        found.append((corners, size))
        return cut(images, corners, size)

    monkeypatch.setattr(image_ops, "patches", spy)
    method = small(images, size=70, subcrop=1.0)
    method.views(images[PLACES], Random(0, 0, PLACES, 64))
    corners, size = found[0]
    assert size == method.patch == 16
    assert (corners[:, 1:7, 1] - corners[:, :6, 1] == 8).all()
    assert (corners[:, 7:, 0] - corners[:, :-7, 0] == 8).all()
    assert corners[:, 0].amin() == 0
    assert corners.amax() == 70 - 16
    assert len(corners[:, 0, 0].unique()) == 7  # the grid lies anywhere
    method = small(images, size=70)
    method.views(images[PLACES], Random(0, 0, PLACES, 64))
    assert min(method.ahead) == 2  # rows down, of half a patch each: nothing to copy
    (moved, part), step = found[1], 2 * 8
    assert part == 15
    assert (moved[:, 14:, 0] - moved[:, :-14, 0] >= step - 1).all()
    assert len((moved[:, 1:, 0] - moved[:, :-1, 0]).unique()) > 2


def test_the_border_of_a_patch_is_blank_and_the_rest_grey(images):
    method = small(images, size=64)
    shown = method.views(images[PLACES], Random(0, 0, PLACES, 64))
    seen = method.encoder.normalise(shown.flatten(0, 1))
    assert seen.shape == (64 * 49, 3, 16, 16)
    blank = (seen == 0).all(1).all(0)
    assert blank.sum() == 16**2 - 15**2
    torch.testing.assert_close(shown[:, :, 0], shown[:, :, 2], rtol=0, atol=1e-6)


def test_patches_are_whole_tokens_of_a_vit(images, vit):
    method = small(images, vit, size=48)  # an eighth of 48 is 6: patches of 12 pixels
    assert method.patch == 12
    method = small(images, vit, size=44)
    assert method.patch == 8
    places = torch.arange(4)
    views = method.views(images[places], Random(0, 0, places, 4))
    assert views.shape == (4, 49, 3, 8, 8)
    assert method.loss(views, 0.0) > 0


def test_sizes_follow_from_the_encoder_s(images):
    for size, patch, part in ((32, 8, 7), (224, 56, 52), (256, 64, 60)):
        method = small(images, tiny_resnet().variant(image_size=size))
        assert (method.patch, method.part) == (patch, part)


def test_a_draw_depends_on_the_place_only(images):
    method = small(images)
    whole, part = (
        method.views(images[places], Random(0, 0, places, 64)) for places in (PLACES, PLACES[40:])
    )
    torch.testing.assert_close(part, whole[40:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 7}, "0 ≤ skip < steps < grid .*found 1, 7 and 7"),
        ({"skip": 5}, "found 5, 5 and 7"),
        ({"skip": -1}, "found -1, 5 and 7"),
        ({"subcrop": 0.0}, "a share in .* expected, got 0.0"),
        ({"subcrop": 1.5}, "a share in .* expected, got 1.5"),
        ({"grid": 20}, "grid 20: its patches in images of 16 are smaller than 2 pixels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(images, settings, message):
    with pytest.raises(ValueError, match=message):
        small(images, **settings)


# ----------------------------------------------------------------------------------- collapse


def without_negatives(method: Method) -> None:
    """Each patch's encoding comes close to those of patches below, and need not avoid any."""

    def align(views: Tensor, progress: float) -> Tensor:
        z = method.encoder(views.flatten(0, 1))
        method.log(embedding=z)
        z = z.view(len(views), method.grid, method.grid, -1)
        return -sum(F.cosine_similarity(z[:, :-k], z[:, k:], dim=3).mean() for k in method.ahead)

    method.loss = align


def test_without_negatives_it_collapses(tmp_path):
    collapses("cpc", without_negatives, 0.03, tmp_path, size=16, grid=3, steps=2, skip=0)
