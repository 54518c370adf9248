"""I-JEPA: its loss against slow loops, what context and targets are made of, and its collapse."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslbench.encoder import build
from sslbench.errors import NotApplicable
from sslbench.method import Method
from sslbench.methods.non_contrastive.ijepa import IJEPA, rectangles
from sslbench.random import Random
from tests.conftest import tiny_images
from tests.methods.collapse import MILD, collapses
from tests.methods.loops import (
    B,
    Flat,
    apply,
    check_slope,
    check_value,
    draw,
    make,
    matrix,
    rows,
    slopes,
)

SMALL: dict[str, Any] = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
SIDE, PATCH, D = 4, 2, 12  # an image of 2 × 2 patches with 12 numbers each


class Patches(Flat):
    """Each patch on its own through a linear map."""

    def __init__(self) -> None:
        super().__init__(SIDE, PATCH)
        self.dim, self.linear = D, matrix(3, D, D).float()

    def tokens(self, inputs: Tensor, keep: Tensor | None = None) -> Tensor:
        tokens = self.linear(nn.functional.unfold(inputs, PATCH, stride=PATCH).mT)
        return tokens if keep is None else tokens.gather(1, keep[..., None].expand(-1, -1, D))


CONTEXT = torch.tensor([[0, 1], [3, 1], [2, 0], [1, 3]])
TARGETS = torch.tensor([[[2], [3]], [[0], [2]], [[1], [1]], [[0], [2]]])  # (B, M, P)


def patch_of(picture, number):
    top, left = PATCH * (number // 2), PATCH * (number % 2)
    return [
        picture[c * SIDE**2 + (top + y) * SIDE + left + x]
        for c in range(3)
        for y in range(PATCH)
        for x in range(PATCH)
    ]


def standardised(x):
    """Layer norm without parameters."""
    mean = sum(x) / len(x)
    spread = sum((v - mean) ** 2 for v in x) / len(x)
    return [(v - mean) / math.sqrt(spread + 1e-5) for v in x]


def jepa(pictures, encoder, truth, predictor, table):
    """Mean squared difference of predictions, from the mean of the context, and targets."""
    total = count = 0
    for picture, context, blocks, true in zip(pictures, CONTEXT, TARGETS, truth, strict=True):
        tokens = [apply(encoder, patch_of(picture, place)) for place in context.tolist()]
        mean = [sum(column) / len(tokens) for column in zip(*tokens, strict=True)]
        for block in blocks.tolist():
            for place in block:
                predicted = apply(predictor, mean)
                for j in range(D):
                    total += (predicted[j] + table[place][j] - true[place][j]) ** 2
                    count += 1
    return total / count


def linear() -> tuple[Method, nn.Linear, Tensor]:
    """With a target encoder of its own, and a linear predictor of the context's mean."""
    method = make("ijepa", Patches(), targets=2, context=0.5, **SMALL)
    method.encoder.linear.weight.copy_(draw(D, D, seed=4))
    predictor, table = matrix(5, D, D), draw(4, D, seed=6)
    method.predict = lambda seen, context, targets: (
        predictor(seen.mean(1))[:, None, None] + table[targets]
    )
    return method, predictor, table


def test_loss():
    method, predictor, table = linear()
    pictures = draw(B, 3, SIDE, SIDE, seed=1).requires_grad_()
    loss = method.loss((pictures, CONTEXT, TARGETS), 0.0)
    loss.backward()
    x, teacher = rows(pictures), rows(method.encoder.linear.weight)
    truth = [[standardised(apply(teacher, patch_of(p, n))) for n in range(4)] for p in x]
    student, mapped = rows(method.student.linear.weight), rows(predictor.weight)

    def reference(x, student, mapped):
        return jepa(x, student, truth, mapped, table.tolist())

    check_value(loss, reference(x, student, mapped))
    check_slope(pictures.grad, slopes(lambda x: reference(x, student, mapped), x))
    check_slope(
        method.student.linear.weight.grad, slopes(lambda w: reference(x, w, mapped), student)
    )
    check_slope(predictor.weight.grad, slopes(lambda w: reference(x, student, w), mapped))


def test_targets_get_no_gradient():
    method, _, _ = linear()
    pictures = draw(B, 3, SIDE, SIDE, seed=1).requires_grad_()
    method.loss((pictures, CONTEXT, TARGETS), 0.0).backward()
    assert method.encoder.linear.weight.grad is None
    slope = nn.functional.unfold(pictures.grad, PATCH, stride=PATCH).mT.abs().sum(2)  # (B, 4)
    seen = torch.zeros(B, 4, dtype=torch.bool).scatter(1, CONTEXT, True)
    assert torch.equal(slope > 0, seen)


def test_predictions_belong_to_places_whatever_the_order_and_the_other_blocks():
    method = make("ijepa", Patches(), targets=2, context=0.5, **SMALL)
    tokens = draw(1, 2, D, seed=1)

    def predict(tokens, context, targets):
        return method.predict(tokens, torch.tensor([context]), torch.tensor([targets]))

    expected = predict(tokens, [0, 3], [[1, 2], [2, 3]])  # (1, M, P, D)
    assert expected.shape == (1, 2, 2, D)
    assert not torch.allclose(expected[:, 0, 0], expected[:, 0, 1])
    torch.testing.assert_close(predict(tokens.flip(1), [3, 0], [[1, 2], [2, 3]]), expected)
    torch.testing.assert_close(predict(tokens, [0, 3], [[2, 1], [3, 2]]), expected.flip(2))
    torch.testing.assert_close(predict(tokens, [0, 3], [[1, 2], [0, 1]])[:, 0], expected[:, 0])
    assert not torch.allclose(predict(tokens, [3, 0], [[1, 2], [2, 3]]), expected)
    assert not torch.allclose(predict(tokens.flip(1), [0, 3], [[1, 2], [2, 3]]), expected)


# --------------------------------------------------------------------------------------- masks


def masked(side: int, **settings: Any) -> IJEPA:
    """For a grid of side × side patches."""
    config = {"name": "vit_tiny_patch16_224", "patch_size": 4, "embed_dim": 16, "depth": 1}
    common = {"num_heads": 1, "image_size": 4 * side, "mean": [0.5] * 3, "std": [0.25] * 3}
    return IJEPA(build({**config, **common}), tiny_images(), **{**SMALL, **settings})


def masks(method: IJEPA, step: int, places: Tensor, total: int = 64) -> tuple[Tensor, Tensor]:
    return method.masks(Random(0, step, places, total))


@pytest.mark.parametrize(("side", "visible"), [(2, 1), (4, 5), (8, 19), (14, 59)])
@pytest.mark.parametrize("targets", [4, 30])  # 30 leave nothing of most grids
def test_the_context_never_holds_a_target_s_patch_and_is_always_as_large(side, visible, targets):
    method, shapes = masked(side, targets=targets), set()
    for step in range(20):
        context, blocks = masks(method, step, torch.arange(64))
        assert context.shape == (64, visible)
        for seen, hidden in zip(context.tolist(), blocks.flatten(1).tolist(), strict=True):
            assert len(set(seen)) == visible
            assert not set(seen) & set(hidden)
            assert 0 <= min(seen) <= max(seen) < side**2
            assert 0 <= min(hidden) <= max(hidden) < side**2
        shapes.add(tuple(blocks.shape))
        rows_, columns = blocks // side, blocks % side
        height = rows_[..., -1] - rows_[..., 0] + 1
        width = columns[..., -1] - columns[..., 0] + 1
        assert height.unique().numel() == width.unique().numel() == 1  # one size for the batch
        whole = rectangles(
            rows_[..., 0], columns[..., 0], int(height[0, 0]), int(width[0, 0]), side
        )
        assert torch.equal(blocks, whole)
        assert 0.75 - 1 / 3 <= height[0, 0] / width[0, 0] <= 1.5 + 1 / 2
        if side == 14:
            assert 0.13 < blocks.shape[2] / side**2 < 0.23
    assert side == 2 or len(shapes) > 1  # and another one in another step


def test_positions_differ_between_images_and_blocks():
    method = masked(8)
    context, blocks = masks(method, 0, torch.arange(64))
    assert len({tuple(row) for row in context.tolist()}) == 64
    assert len({tuple(row) for row in blocks[:, :, 0].tolist()}) > 48
    for corner in (blocks[..., 0] // 8, blocks[..., 0] % 8):
        assert corner.unique().numel() == corner.max() + 1  # every one that fits
        assert corner.max() + (blocks[0, 0, -1] - blocks[0, 0, 0]) // 8 >= 7


def test_the_context_lies_in_its_block():
    method = masked(14, context_scale=(0.4, 0.4), context=0.05)
    context, _ = masks(method, 0, torch.arange(64))
    for part in (context // 14, context % 14):
        assert (part.amax(1) - part.amin(1)).max() < 9  # √.4 · 14 = 8.9


def test_masks_depend_on_place_only():
    method, places = masked(8), torch.arange(64)
    whole = masks(method, 3, places)
    parts = [masks(method, 3, part) for part in places.split(16)]
    for number, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[number] for part in parts]), expected)
    assert not torch.equal(masks(method, 4, places)[0], whole[0])


def test_masked_patches_do_not_reach_the_encoder(vit):
    method = IJEPA(vit, tiny_images(), **SMALL).eval()
    places = torch.arange(8)
    pictures, context, targets = method.views(method.data[places], Random(0, 0, places, 8))
    assert pictures.shape == (8, 3, 16, 16)
    covered = pictures.clone()
    for picture, hidden in zip(covered, targets.flatten(1).tolist(), strict=True):
        for patch in hidden:
            top, left = 4 * (patch // 4), 4 * (patch % 4)
            picture[:, top : top + 4, left : left + 4] = 0.5
    assert not covered.equal(pictures)
    a, b = (method.student.tokens(x, keep=context) for x in (pictures, covered))
    torch.testing.assert_close(a, b)
    assert not torch.equal(*(method.loss((x, context, targets), 0.0) for x in (pictures, covered)))


# -------------------------------------------------------------------------------------- teacher


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_the_target_encoder_moves_once_per_step_along_a_line(progress):
    method, _, _ = linear()
    student, before = method.student.linear.weight, method.encoder.linear.weight.clone()
    for _ in range(2):
        method.loss((draw(B, 3, SIDE, SIDE), CONTEXT, TARGETS), progress)
    assert torch.equal(method.encoder.linear.weight, before)
    method.after_step(progress)
    m = 0.996 + 0.004 * progress
    expected = m * before + (1 - m) * student
    torch.testing.assert_close(method.encoder.linear.weight, expected, rtol=0, atol=1e-12)


def test_the_target_encoder_survives_a_resume():
    method, other = linear()[0], linear()[0]
    method.after_step(0.5)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    weights = (m.encoder.linear.weight for m in (method, other))
    assert torch.equal(*weights)


def without_stop_gradient(method: Method) -> None:
    """The context encoder makes its own targets, as easy to predict as it likes."""

    def loss(views: tuple[Tensor, Tensor, Tensor], progress: float) -> Tensor:
        pictures, context, targets = views
        seen, whole = (method.student.tokens(pictures, keep=keep) for keep in (context, None))
        method.log(embedding=seen.mean(1))
        truth = whole[torch.arange(len(whole))[:, None, None], targets]
        return nn.functional.mse_loss(method.predict(seen, context, targets), truth)

    method.loss = loss


def test_without_stop_gradient_it_collapses(tmp_path):
    collapses("ijepa", without_stop_gradient, 0.003, tmp_path, augmentation=MILD)


# -------------------------------------------------------------------------------------- refusals


def test_an_encoder_without_patches_is_refused(resnet):
    with pytest.raises(NotApplicable, match=r"IJEPA masks patches; resnet18\(.*no vision transf"):
        IJEPA(resnet, tiny_images())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 0.9}, "context 0.9 is 14 of 16 patches; 1 to 12 expected"),
        ({"context": 0.01}, "context 0.01 is 0 of 16 patches; 1 to 12 expected"),
        ({"target_scale": (0.5, 0.9)}, "context 0.3 is 5 of 16 patches; 1 to 0 expected"),
        ({"decoder_dim": 18}, "decoder_dim 18: no multiple of 4 and 2"),
        ({"decoder_heads": 3}, "decoder_dim 16: no multiple of 4 and 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message, vit):
    with pytest.raises(ValueError, match=message):
        IJEPA(vit, tiny_images(), **{**SMALL, **settings})
