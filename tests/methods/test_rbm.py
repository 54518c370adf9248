"""Contrastive divergence against sums over all states, and the stack that learns in phases."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sslbench.data.split import ImageArray
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.method import Recipe
from sslbench.methods.reconstruction.rbm import RBM, free_energy
from sslbench.optim import parameter_groups
from sslbench.pretrain import Options, train
from sslbench.random import Random
from tests.conftest import tiny_images, tiny_rbm
from tests.methods.loops import apply, check_slope, check_value, dot, draw, rows

KINDS = pytest.mark.parametrize("visible", ["gaussian", "bernoulli"])
COLOURS = {"mean": [0.25, 0.5, 0.75], "std": [0.5, 0.25, 0.125]}
HIDDEN = 2


def tiny(visible: str, *, layers: int = 1, steps: int = 1, n: int = 4, seed: int = 0) -> RBM:
    """Three visible units, an image's one pixel; two in each hidden layer; double precision."""
    config = {"name": "rbm", "image_size": 1, "widths": [HIDDEN] * layers, "visible": visible}
    bits = np.random.default_rng(seed).random((n, 3, 1, 1)) < [[[0.8]], [[0.3]], [[0.6]]]
    bits[:, 1] |= bits[:, 0]  # which are not independent
    data = ImageArray(255 * bits.astype(np.uint8), np.arange(n) % 2)
    method = RBM(build({**config, **COLOURS}), data, steps=steps).double()
    with torch.no_grad():
        for number, parameter in enumerate(method.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed + number))
    return method


def weights(method: RBM, turn: int = 0) -> tuple[list[list[float]], list[float], list[float]]:
    """W by hidden unit, visible biases a, hidden biases b."""
    layer = method.layer(turn)
    return layer.weight.tolist(), method.visible[turn].tolist(), layer.bias.tolist()


def states(units: int) -> list[tuple[float, ...]]:
    return list(itertools.product((0.0, 1.0), repeat=units))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def above(v, w, b):
    """Probabilities of the hidden units."""
    return [sigmoid(x + c) for x, c in zip(apply(w, v), b, strict=True)]


def standardised(v):
    return [(x - m) / s for x, m, s in zip(v, COLOURS["mean"], COLOURS["std"], strict=True)]


def energy(v, h, w, a, b, visible):
    """E(v, h); Gaussian units have variance 1."""
    if visible == "gaussian":
        own = sum((x - y) ** 2 for x, y in zip(v, a, strict=True)) / 2
    else:
        own = -dot(a, v)
    return own - dot(b, h) - dot(h, apply(w, v))


def free(v, w, a, b, visible):
    """−log Σ_h exp(−E(v, h)), over all states of the hidden units."""
    return -math.log(sum(math.exp(-energy(v, h, w, a, b, visible)) for h in states(len(b))))


# ------------------------------------------------------------------- against sums over all states


@KINDS
def test_the_free_energy_sums_over_all_hidden_states(visible):
    method = tiny(visible)
    v = draw(5, 3, seed=7) if visible == "gaussian" else torch.tensor(states(3)).double()
    found = free_energy(v, method.layer(0), method.visible[0], gaussian=visible == "gaussian")
    expected = [free(x, *weights(method), visible) for x in v.tolist()]
    torch.testing.assert_close(found.tolist(), expected, rtol=1e-12, atol=1e-12)


def log_likelihood(data: Tensor, method: RBM, visible: str) -> Tensor:
    """Mean log p(v) of (N, 3), normalised over all states; Gaussian units are integrated out."""
    w, a, b = method.layer(0).weight, method.visible[0], method.layer(0).bias
    h = torch.tensor(states(HIDDEN)).double()  # (4, 2)
    if visible == "gaussian":  # ∫ exp(−½‖v − a‖² + hWv) dv
        log_z = (h @ b + h @ w @ a + (h @ w).square().sum(1) / 2).logsumexp(0)
        log_z = log_z + 1.5 * math.log(2 * math.pi)
        own = -(data - a).square().sum(1) / 2
    else:
        v = torch.tensor(states(3)).double()  # (8, 3)
        log_z = ((v @ a)[:, None] + h @ b + v @ w.T @ h.T).flatten().logsumexp(0)
        own = data @ a
    return (own + (h @ b + data @ w.T @ h.T).logsumexp(1)).mean() - log_z


def gradients(value: Tensor, method: RBM) -> Tensor:
    parameters = [method.layer(0).weight, method.layer(0).bias, method.visible[0]]
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])


def views(method: RBM, places: Tensor, step: int = 0) -> tuple[Tensor, list]:
    images, draws = method.views(method.data[places], Random(0, step, places, len(places)))
    return images.double(), draws


@KINDS
def test_many_steps_give_the_gradient_of_the_likelihood(visible):
    """Over 40,000 chains, and one step does not.

    Five standard errors are allowed: v h of bits deviates by at most 1/2, so that its mean's
    standard error is at most .0025; Gaussian units deviate by about 3 here, which makes .015.
    """
    n, allowed = 40_000, 0.0125 if visible == "bernoulli" else 0.075
    off = {}
    for steps in (1, 40):
        method = tiny(visible, steps=steps, n=n)
        with torch.no_grad():
            method.layer(0).weight.mul_(2)
        images, draws = views(method, torch.arange(n))
        found = gradients(method.loss((images, draws), 0.0), method)
        data = method.encoder.visible(images)
        exact = gradients(-log_likelihood(data, method, visible), method)
        off[steps] = (found - exact).abs().max().item()
    assert off[40] < allowed < off[1] / 2


@KINDS
def test_learning_raises_the_likelihood(visible):
    method, places = tiny(visible, n=200), torch.arange(200)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    data = method.encoder.visible(views(method, places)[0])
    before = log_likelihood(data, method, visible).item()
    for step in range(300):
        optimizer.zero_grad()
        method.loss(views(method, places, step), 0.0).backward()
        optimizer.step()
    assert log_likelihood(data, method, visible) > before + 0.4


# ------------------------------------------------------------------------------- CD's statistics


def gibbs(v, w, a, b, draws, visible):
    """The state of the visible units after as many steps as there are draws; the last means."""
    for chance, noise in draws:
        h = [float(u < p) for u, p in zip(chance, above(v, w, b), strict=True)]
        mean = [x + c for x, c in zip(apply(list(zip(*w, strict=True)), h), a, strict=True)]
        if visible == "gaussian":
            v = [m + e for m, e in zip(mean, noise, strict=True)]
        else:
            mean = [sigmoid(m) for m in mean]
            v = [float(u < p) for u, p in zip(noise, mean, strict=True)]
    return v, mean


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("steps", [1, 3])
@KINDS
def test_the_gradient_is_the_difference_of_cd_s_statistics(visible, steps, turn):
    """⟨v h⟩ of the data minus ⟨v h⟩ of the model, h being the probability of the hidden units."""
    method = tiny(visible, layers=2, steps=steps, seed=3)
    images = draw(4, 3, 1, 1, seed=1).sigmoid()
    _, draws = views(method, torch.arange(4))
    terms: dict[str, Tensor] = {}
    method.log = terms.update
    loss = method.loss((images, draws), turn / 2 + 0.1)
    loss.backward()

    data = rows(images)
    if visible == "gaussian":
        data = [standardised(v) for v in data]
    if turn:
        w, _, b = weights(method, 0)
        data = [above(v, w, b) for v in data]
    w, a, b = weights(method, turn)
    kind = "bernoulli" if turn else visible
    of_w, of_a, of_b = np.zeros((HIDDEN, len(a))), np.zeros(len(a)), np.zeros(HIDDEN)
    value = error = 0.0
    for i, v in enumerate(data):
        chances = [(u[i].tolist(), e[i].tolist()) for u, e in draws[turn]]
        model, mean = gibbs(v, w, a, b, chances, kind)
        for sign, x in ((1, v), (-1, model)):
            h = np.array(above(x, w, b))
            of_w += sign * np.outer(h, x) / 4
            of_a += sign * np.array(x) / 4
            of_b += sign * h / 4
            value += sign * free(x, w, a, b, kind) / 4
        error += sum((x - m) ** 2 for x, m in zip(v, mean, strict=True)) / (4 * len(v))
    check_value(loss, value)
    assert terms["reconstruction"].item() == pytest.approx(error, rel=1e-10)
    layer = method.layer(turn)
    for found, upwards in ((layer.weight, of_w), (method.visible[turn], of_a), (layer.bias, of_b)):
        check_slope(found.grad, -torch.from_numpy(upwards))
    assert method.layer(1 - turn).weight.grad is None
    assert method.layer(1 - turn).bias.grad is None
    assert method.visible[1 - turn].grad is None


# -------------------------------------------------------------------------------------- phases


@pytest.mark.filterwarnings("ignore::sslbench.monitor.CollapseWarning")
def test_what_is_not_its_turn_does_not_move(tmp_path):
    """Bit for bit, though the momentum of its own turn is still there, and weights decay."""
    torch.manual_seed(0)
    method = RBM(tiny_rbm(), tiny_images(32))
    method.recipe = Recipe("sgd", lr=0.1, weight_decay=0.1, batch_size=16, schedule="constant")
    assert method.phases == 2
    history = [{name: p.clone() for name, p in method.named_parameters()}]
    method.after_step = lambda progress: history.append(
        {name: p.clone() for name, p in method.named_parameters()}
    )
    train(method, tmp_path, epochs=3, seed=0)
    assert len(history) == 1 + 2 * 3 * 2
    turns = [{"encoder.hidden1", "visible.0"}, {"encoder.hidden2", "visible.1"}]
    for step, (before, after) in enumerate(itertools.pairwise(history)):
        for name in before:
            owner = next(i for i, turn in enumerate(turns) if name.startswith(tuple(turn)))
            assert before[name].equal(after[name]) == (owner != step // 6), (step, name)


@pytest.mark.filterwarnings("ignore::sslbench.monitor.CollapseWarning")
def test_a_run_that_dies_in_the_second_phase_ends_as_if_it_had_not(tmp_path):
    def dies(step: int, steps: int, line: dict[str, float]) -> None:
        if step == 7:
            raise InterruptedError

    def small(seed: int) -> RBM:
        torch.manual_seed(seed)
        method = RBM(tiny_rbm(), tiny_images(64))
        method.recipe = method.recipe.override(batch_size=16)
        return method

    whole = train(small(0), tmp_path / "whole", epochs=1, seed=0)
    often = Options(save_seconds=0.0, log_steps=1, progress=dies)
    with pytest.raises(InterruptedError):
        train(small(0), tmp_path / "parts", epochs=1, seed=0, options=often)
    parts = train(small(9), tmp_path / "parts", epochs=1, seed=0)
    assert parts.steps == whole.steps == 8
    assert parts.weights_hash == whole.weights_hash


def test_gaussian_units_learn_a_hundred_times_slower():
    method = RBM(tiny_rbm(), tiny_images())
    factors = {
        name: group["factor"]
        for group in parameter_groups(method, method.recipe)
        for name in group["names"]
    }
    of_first = {name for name in factors if name.startswith(("encoder.hidden1.", "visible.0"))}
    assert len(of_first) == 3
    for name, factor in factors.items():
        assert factor == (0.01 if name in of_first else 1.0)


# ----------------------------------------------------------------------- draws, encoder, settings


def test_draws_are_of_each_layer_s_kind_and_depend_on_the_place_only():
    data = tiny_images()
    method = RBM(tiny_rbm(), data, steps=2)
    images, draws = method.views(data[torch.arange(8)], Random(0, 0, torch.arange(8), 8))
    sizes = [[tuple(x.shape) for x in step] for turn in draws for step in turn]
    assert sizes == [[(8, 32), (8, 768)]] * 2 + [[(8, 16), (8, 32)]] * 2
    (_, noise), (chance, uniform) = draws[0][0], draws[1][0]
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    for x in (chance, uniform):
        assert 0 <= x.min() < 0.1 < 0.9 < x.max() < 1
    assert not draws[0][0][0].equal(draws[0][1][0])  # each step has its own
    half = torch.arange(4, 8)
    part = method.views(data[half], Random(0, 0, half, 8))
    assert part[0].equal(images[4:])
    for turn, parts in zip(draws, part[1], strict=True):
        for step, some in zip(turn, parts, strict=True):
            assert all(x[4:].equal(y) for x, y in zip(step, some, strict=True))
    assert images.equal(method.encoder.preprocess(data[torch.arange(8)]))  # as they are


@KINDS
def test_the_encoder_gives_the_hidden_units_probabilities(visible):
    method = tiny(visible, layers=2)
    encoder, images = method.encoder.eval(), draw(5, 3, 1, 1, seed=1).sigmoid()
    found = encoder.layers(images)
    assert list(found) == ["hidden1", "hidden2"] == list(encoder.parts)
    units = rows(images)
    if visible == "gaussian":
        units = [standardised(v) for v in units]
    for name, turn in (("hidden1", 0), ("hidden2", 1)):
        w, _, b = weights(method, turn)
        units = [above(v, w, b) for v in units]
        torch.testing.assert_close(found[name], torch.tensor(units).double(), rtol=1e-6, atol=0)
    assert encoder(images).equal(found["hidden2"])
    assert encoder.dim == HIDDEN
    again = build(encoder.config).double()
    again.load_state_dict(encoder.state_dict())
    assert again(images).equal(encoder(images))


def test_the_encoder_has_one_size_and_no_maps():
    encoder = tiny_rbm()
    with pytest.raises(NotApplicable, match=r"takes images of 16 pixels only, not 8×8"):
        encoder(torch.rand(2, 3, 8, 8))
    with pytest.raises(NotApplicable, match="no feature maps"):
        encoder.stages(torch.rand(2, 3, 16, 16))
    grey = torch.rand(2, 1, 16, 16).expand(-1, 3, -1, -1)
    colourless = encoder.variant(sees="chroma", visible="bernoulli")
    units = colourless.visible(grey)
    torch.testing.assert_close(units, torch.full((2, 768), 0.5), rtol=0, atol=1e-4)


def test_what_does_not_fit_is_refused(resnet, images):
    with pytest.raises(
        NotApplicable, match=r"sigmoid layers \(encoder rbm\); resnet18\(.* has not"
    ):
        RBM(resnet, images)
    with pytest.raises(ValueError, match="steps: at least 1 expected, got 0"):
        RBM(tiny_rbm(), images, steps=0)
    with pytest.raises(UserError, match="visible 'binary'; allowed: gaussian, bernoulli"):
        tiny_rbm().variant(visible="binary")
    with pytest.raises(UserError, match=r"widths: at least one layer .* got \[\]"):
        tiny_rbm().variant(widths=[])
