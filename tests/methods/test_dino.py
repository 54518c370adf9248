"""DINO: its loss against slow loops, what its teacher sees and becomes, and its two collapses."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslbench import distributed, optim
from sslbench.method import Method
from sslbench.methods.non_contrastive.dino import DINO
from sslbench.random import Random
from tests.conftest import run_processes, tiny_images, tiny_vit
from tests.methods import small
from tests.methods.collapse import MILD, collapses
from tests.methods.loops import (
    apply,
    check_slope,
    check_value,
    cosine,
    draw,
    images,
    log_softmax,
    make,
    matrix,
    rows,
    slopes,
)

SMALL: dict[str, Any] = {"hidden": 8, "dim": 4, "prototypes": 6, "crops": 2}
K, DIM = 3, 5
VIEWS = 4


def linear(**settings: Any) -> Method:
    """With linear heads, a teacher of its own, prototypes of any length, and a centre."""
    method = make("dino", hidden=6, dim=DIM, prototypes=K, crops=VIEWS - 2, **settings)
    method.head.mlp = matrix(3, rows=DIM)
    method.teacher_head.mlp = matrix(4, rows=DIM).requires_grad_(False)
    with torch.no_grad():
        method.head.prototypes.copy_(draw(K, DIM, seed=5))
        method.teacher_head.prototypes.copy_(draw(K, DIM, seed=6))
    method.centre.copy_(draw(K, seed=7) / 10)
    return method


def views(requires_grad: bool = True) -> list[Tensor]:
    return [images(seed, requires_grad) for seed in range(1, 1 + VIEWS)]


def outputs(pictures, weight, prototypes):
    """g(x): cosines of the bottleneck with the rows of the last layer."""
    return [[[cosine(apply(weight, x), c) for c in prototypes] for x in v] for v in pictures]


def distillation(students, teachers, centre, temperature, sharp):
    """Equation 3 with the centre of section 3.1, divided by the number of pairs."""
    total = pairs = 0
    for i, teacher in enumerate(teachers):
        for v, student in enumerate(students):
            if v == i:
                continue
            pairs += 1
            for t, s in zip(teacher, student, strict=True):
                told = [(x - c) / sharp for x, c in zip(t, centre, strict=True)]
                said = [x / temperature for x in s]
                total -= sum(
                    math.exp(log_softmax(told, k)) * log_softmax(said, k) for k in range(K)
                ) / len(student)
    return total / pairs


@pytest.mark.parametrize(
    ("progress", "sharp"), [(0.0, 0.04), (0.1, 0.055), (0.2, 0.07), (0.9, 0.07)]
)
def test_loss(progress, sharp):
    method = linear(temperature=0.2, teacher_warmup=0.2)
    pictures = views()
    loss = method.loss(pictures, progress)
    loss.backward()
    given, centre = [rows(x) for x in pictures], method.centre.tolist()
    teacher = method.teacher_head
    told = outputs(given[:2], rows(teacher.mlp.weight), rows(teacher.prototypes))  # constants

    def reference(given, weight, prototypes):
        return distillation(outputs(given, weight, prototypes), told, centre, 0.2, sharp)

    weight, prototypes = rows(method.head.mlp.weight), rows(method.head.prototypes)
    check_value(loss, reference(given, weight, prototypes))
    by_weight = slopes(lambda w: reference(given, w, prototypes), weight)
    check_slope(method.head.mlp.weight.grad, by_weight)
    by_prototypes = slopes(lambda c: reference(given, weight, c), prototypes)
    check_slope(method.head.prototypes.grad, by_prototypes)
    for number, picture in enumerate(pictures):

        def of_view(x, number=number):
            return reference([*given[:number], x, *given[number + 1 :]], weight, prototypes)

        check_slope(picture.grad, slopes(of_view, rows(picture)))
    teachers = (method.encoder, method.teacher_head)
    assert all(p.grad is None for module in teachers for p in module.parameters())


def test_loss_and_centre_equal_lightly():
    from lightly.loss import DINOLoss

    theirs = DINOLoss(K, teacher_temp=0.07).double()
    method = linear(teacher_warmup=0.0)
    theirs.center.copy_(method.centre)
    ours, other = views(), views()
    loss = method.loss(ours, 0.5)
    told = [method.teacher_head(x.detach().flatten(1)) for x in other[:2]]
    said = [nn.functional.normalize(x.flatten(1) @ method.head.mlp.weight.T) for x in other]
    last = nn.functional.normalize(method.head.prototypes).detach()
    reference = theirs(told, [z @ last.T for z in said])
    torch.testing.assert_close(loss, reference, rtol=1e-9, atol=0)
    loss.backward()
    reference.backward()
    for x, y in zip(ours, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-7, atol=1e-10)
    method.after_step(0.5)
    torch.testing.assert_close(method.centre, theirs.center[0, 0])


# ------------------------------------------------------------------------ teacher and centre


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_teacher_and_centre_move_once_per_step_and_never_inside_the_loss(progress):
    """m = 1 − (1 − m₀)(cos(πk/K) + 1)/2 of section 3.1, and equation 4."""
    method, pictures = linear(), views(requires_grad=False)
    before, centre = copy.deepcopy(method.teacher_head.state_dict()), method.centre.clone()
    for _ in range(2):
        method.loss(pictures, progress)
    assert torch.equal(method.centre, centre)
    for name, value in method.teacher_head.state_dict().items():
        assert torch.equal(value, before[name])
    told = torch.cat([method.teacher_head(x.flatten(1)) for x in pictures[:2]])
    method.after_step(progress)
    torch.testing.assert_close(method.centre, 0.9 * centre + 0.1 * told.mean(0))
    m = 1 - (1 - 0.996) * (math.cos(math.pi * progress) + 1) / 2
    student = method.head.state_dict()
    for name, value in method.teacher_head.state_dict().items():
        expected = m * before[name] + (1 - m) * student[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def test_teacher_and_centre_survive_a_resume():
    method, other = linear(), linear()
    for _ in range(2):
        method.loss(views(requires_grad=False), 0.5)
        method.after_step(0.5)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(other.centre, method.centre)
    again = [m.loss(views(requires_grad=False), 0.5) for m in (method, other)]
    assert torch.equal(*again)


def drawn(method: DINO, places: Tensor, total: int = 16) -> list[Tensor]:
    return method.views(method.data[places], Random(0, 0, places, total))


@pytest.mark.parametrize(("encoder", "side"), [("resnet", 7), ("vit", 8)])
def test_the_teacher_sees_large_crops_only(encoder, side, request):
    method = DINO(request.getfixturevalue(encoder), tiny_images(), **SMALL)
    seen: dict[str, list[tuple[int, ...]]] = {"student": [], "teacher": []}
    for name, module in (("student", method.student), ("teacher", method.encoder)):

        def note(module, inputs, name=name):
            seen[name].append((len(inputs[0]), inputs[0].shape[-1]))

        module.register_forward_pre_hook(note)
    pictures = drawn(method, torch.arange(16))
    assert torch.isfinite(method.loss(pictures, 0.0))
    assert seen == {"student": [(32, 16), (32, side)], "teacher": [(32, 16)]}


@pytest.mark.parametrize(("epoch", "frozen"), [(0, True), (1, False)])
def test_the_last_layer_is_frozen_in_the_first_of_800_epochs(epoch, frozen, vit):
    method = DINO(vit, tiny_images(), **SMALL)
    method.loss(drawn(method, torch.arange(16)), 0.0).backward()
    optimizer = optim.optimizer(method, method.recipe)
    optim.set_rates(optimizer, method.recipe, epoch / 800)
    without = {n for n, p in method.named_parameters() if p.requires_grad and p.grad is None}
    assert without == ({"head.prototypes"} if frozen else set())
    names = [name for group in optimizer.param_groups for name in group["names"]]
    assert not any(name.startswith("teacher") for name in names)


def test_the_head_has_batch_norm_unless_the_encoder_is_a_vision_transformer(resnet, vit):
    def normed(encoder, **settings):
        method = DINO(encoder, tiny_images(), **SMALL, **settings)
        return any(isinstance(m, nn.BatchNorm1d) for m in method.head.modules())

    assert normed(resnet)
    assert not normed(vit)
    assert not normed(resnet, norm=False)
    assert normed(vit, norm=True)


# -------------------------------------------------------------------------------- processes


def one_step(parts: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Global loss, averaged gradients, and state, of two steps of this process's part."""
    method = linear()
    here, world = distributed.rank(), distributed.world()
    given = [view.chunk(parts)[here] for view in views(requires_grad=False)]
    for _ in range(2):
        method.zero_grad()
        loss = method.loss(given, 0.5)
        loss.backward()
        distributed.average_gradients(method.parameters())
        method.after_step(0.5)
    grads = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    return distributed.total(loss.detach().clone()) / world, grads, method.state_dict()


def test_the_centre_is_the_global_batch_s():
    expected = one_step(1)
    for found in run_processes(2, one_step, 2):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


# ------------------------------------------------------------------------------------ collapse


def without_centring(method: Method) -> None:
    """One prototype takes all (section 5.2)."""
    method.centre_momentum = 1.0


def without_sharpening(method: Method) -> None:
    """All prototypes take the same (section 5.2)."""
    method.teacher_temperatures = (1.0, 1.0)


TAMED: dict[str, Any] = {"norm": True, "crops": 0, "first": MILD, "second": MILD}  # for 80 steps


def test_without_centring_it_collapses(tmp_path):
    settings = {"momentum": 0.93, "temperature": 0.04, "teacher_temperature": 0.02}
    collapses("dino", without_centring, 0.001, tmp_path, teacher_warmup=0.0, **TAMED, **settings)


def test_without_sharpening_it_collapses(tmp_path, monkeypatch):
    monkeypatch.setitem(small.ENCODERS, "image", (tiny_vit,))
    settings = {"momentum": 0.95, "teacher_temperature": 0.04}
    collapses("dino", without_sharpening, 0.004, tmp_path, **TAMED, **settings)


# --------------------------------------------------------------------------------------- views


def test_views_depend_on_place_only(vit):
    method = DINO(vit, tiny_images(), **SMALL)
    places = torch.arange(16)
    whole, half = drawn(method, places), drawn(method, places[8:])
    assert [x.shape[1:] for x in whole] == [(3, 16, 16)] * 2 + [(3, 8, 8)] * 2
    assert all(torch.equal(x[8:], y) for x, y in zip(whole, half, strict=True))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[2], whole[3])


def test_it_works_with_large_crops_only(vit):
    method = DINO(vit, tiny_images(), **{**SMALL, "crops": 0})
    assert torch.isfinite(method.loss(drawn(method, torch.arange(16)), 0.0))


@pytest.mark.parametrize(
    ("settings", "found"), [({"crops": -1}, "-1 of"), ({"crop_size": 1.5}, "of 1.5")]
)
def test_settings_that_do_not_fit_are_refused(settings, found, vit):
    with pytest.raises(ValueError, match=rf"of a size in \(0, 1\] expected, got .*{found}"):
        DINO(vit, tiny_images(), **{**SMALL, **settings})
