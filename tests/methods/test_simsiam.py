"""SimSiam's loss against loops, what is a constant in it, and what happens where nothing is."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench import optim
from sslbench.method import Method, Recipe
from sslbench.methods.non_contrastive.simsiam import SimSiam, negative_cosine
from sslbench.monitor import CollapseWarning
from sslbench.pretrain import Options, train
from tests.conftest import tiny_images
from tests.methods import small
from tests.methods.collapse import MILD, collapses
from tests.methods.loops import (
    B,
    D,
    apply,
    check_slope,
    check_value,
    cosine,
    draw,
    images,
    make,
    matrix,
    rows,
    slopes,
)


def negative_similarity(predictions, targets):
    """Equation 1, averaged over the batch."""
    pairs = zip(predictions, targets, strict=True)
    return -sum(cosine(p, z) for p, z in pairs) / len(predictions)


def test_loss_and_gradients_with_the_other_projection_as_a_constant():
    method = make("simsiam", hidden=6, dim=5, bottleneck=3)
    method.projector, method.predictor = matrix(3, rows=5), matrix(4, 5, 5)
    first, second = images(1), images(2)
    loss = method.loss((first, second), 0.0)
    loss.backward()
    a, b = rows(first), rows(second)
    w, v = rows(method.projector.weight), rows(method.predictor.weight)
    of_first, of_second = ([apply(w, x) for x in view] for view in (a, b))  # constants

    def reference(a, b, projector, predictor):
        p, q = ([apply(predictor, apply(projector, x)) for x in view] for view in (a, b))
        return negative_similarity(p, of_second) / 2 + negative_similarity(q, of_first) / 2

    check_value(loss, reference(a, b, w, v))
    check_slope(first.grad, slopes(lambda x: reference(x, b, w, v), a))
    check_slope(second.grad, slopes(lambda x: reference(a, x, w, v), b))
    check_slope(method.projector.weight.grad, slopes(lambda x: reference(a, b, x, v), w))
    check_slope(method.predictor.weight.grad, slopes(lambda x: reference(a, b, w, x), v))


def test_targets_get_no_gradient():
    prediction, target = draw(B, D, seed=1).requires_grad_(), draw(B, D, seed=2).requires_grad_()
    negative_cosine(prediction, target).backward()
    assert prediction.grad is not None
    assert target.grad is None


def test_loss_equals_lightly():
    from lightly.loss import NegativeCosineSimilarity

    method, theirs = make("simsiam", hidden=6, dim=D, bottleneck=3), NegativeCosineSimilarity()
    method.projector, method.predictor = nn.Identity(), matrix(4)
    ours, other = [images(1), images(2)], [images(1), images(2)]
    loss = method.loss(tuple(ours), 0.0)
    z = [x.flatten(1) for x in other]
    p = [method.predictor(x) for x in z]
    reference = (theirs(p[0], z[1].detach()) + theirs(p[1], z[0].detach())) / 2
    torch.testing.assert_close(loss, reference, rtol=1e-9, atol=0)
    loss.backward()
    reference.backward()
    for x, y in zip(ours, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-7, atol=1e-10)


def test_the_predictors_learning_rate_does_not_decay(resnet):
    method = SimSiam(resnet, tiny_images(), hidden=8, dim=8, bottleneck=4)
    optimizer = optim.optimizer(method, method.recipe)
    for progress in (0.0, 0.5, 0.99):
        optim.set_rates(optimizer, method.recipe, progress)
        for group in optimizer.param_groups:
            constant = {name.startswith("predictor.") for name in group["names"]}
            assert len(constant) == 1
            share = 1.0 if constant.pop() else optim.rate(method.recipe, "cosine", progress)
            assert group["lr"] == pytest.approx(0.1 * share)


@pytest.mark.parametrize("layers", [2, 3])
def test_every_layer_of_the_projector_is_normalised_and_the_last_without_affine(layers, resnet):
    method = SimSiam(resnet, tiny_images(), layers=layers, hidden=8, dim=6, bottleneck=4)
    linear = [m for m in method.projector if isinstance(m, nn.Linear)]
    norms = [m for m in method.projector if isinstance(m, nn.BatchNorm1d)]
    assert [(m.in_features, m.out_features) for m in linear] == [
        (32, 8),
        *[(8, 8)] * (layers - 2),
        (8, 6),
    ]
    assert [norm.affine for norm in norms] == [True] * (layers - 1) + [False]
    assert method.projector[-1] is norms[-1]
    assert [type(m).__name__ for m in method.predictor] == [
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Linear",
    ]
    assert method.predictor[0].out_features == 4


def test_a_projector_without_layers_is_refused(resnet):
    with pytest.raises(ValueError, match="layers: at least 1 expected, got 0"):
        SimSiam(resnet, tiny_images(), layers=0)


def both_ways(method: Method, views: tuple[Tensor, Tensor]) -> Tensor:
    """The loss with its gradient in both branches."""
    first, second = (method.projector(method.encoder(view)) for view in views)
    method.log(embedding=first)
    forward = F.cosine_similarity(method.predictor(first), second, dim=1).mean()
    return -(forward + F.cosine_similarity(method.predictor(second), first, dim=1).mean()) / 2


def without_stop_gradient(method: Method) -> None:
    method.loss = lambda views, progress: both_ways(method, views)


def without_stop_gradient_and_last_norm(method: Method) -> None:
    method.projector[-1] = nn.Identity()
    without_stop_gradient(method)


def test_without_stop_gradient_all_embeddings_become_multiples_of_one(tmp_path: Path):
    """To a point they cannot shrink: the projector's last norm keeps their mean at zero."""
    method = small.make("simsiam", data=tiny_images(64, classes=16), augmentation=MILD)
    without_stop_gradient(method)
    method.recipe = Recipe("adamw", lr=0.03, batch_size=32, schedule="constant")
    with pytest.warns(CollapseWarning, match=r"RankMe 1\."):
        train(method, tmp_path, epochs=40, seed=0, options=Options(log_steps=40))


def test_without_stop_gradient_and_last_norm_all_embeddings_become_one(tmp_path: Path):
    widths = {"hidden": 64, "dim": 32}
    collapses("simsiam", without_stop_gradient_and_last_norm, 0.02, tmp_path, **widths)
