"""VQ-VAE: what each term of equation 3 moves, what the second phase leaves, who sees which code."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.checkpoint import load_encoder, load_state, weights_hash
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.method import Recipe
from sslbench.methods.reconstruction.vq_autoregressive import (
    VQVAE,
    decoder,
    nearest,
    straight_through,
)
from sslbench.pretrain import Options, train
from sslbench.random import Random
from tests.conftest import tiny_images, tiny_resnet, tiny_vit
from tests.methods.loops import apply, check_slope, check_value, images, make, rows, slopes

SMALL = {"codes": 8, "dim": 4, "hidden": 8, "depth": 1, "heads": 2}
STEPS = 4  # of an epoch


def tiny(encoder: Encoder | None = None, seed: int = 0, **settings: object) -> VQVAE:
    torch.manual_seed(seed)
    method = VQVAE(encoder or tiny_resnet(), tiny_images(), **SMALL | settings)
    method.recipe = Recipe("adamw", lr=3e-3, weight_decay=0.1, batch_size=16)
    return method.train()


def draw(method: VQVAE) -> Tensor:
    places = torch.arange(16)
    return method.views(method.data[places], Random(0, 0, places, 16))


def flat(**settings: object) -> VQVAE:
    """A linear encoder whose map has 2 × 2 positions, and a linear decoder of each of them."""
    method = make("vq_autoregressive", **SMALL | settings)
    method.decoder = nn.Conv2d(method.codebook.embedding_dim, 3, 1).double()
    return method


def terms_of(method: VQVAE, views: Tensor) -> dict[str, Tensor]:
    """The logged values as they are, not detached."""
    terms: dict[str, Tensor] = {}
    method.log = lambda **values: terms.update(values)
    terms["loss"] = method.loss(views, 0.0)
    return terms


# ------------------------------------------------------------------------------------ equation 3

MEAN, STD = (0.25, 0.5, 0.75), (0.5, 0.25, 0.125)


def project(image, w):
    """z_e at each of the four positions of an image, whose channels follow one another."""
    features = apply(w["encoder"], image)
    maps = [apply(w["projector"], features[place::4]) for place in range(4)]
    return [[value + b for value, b in zip(z, w["offset"][0], strict=True)] for z in maps]


def closest(z, codebook):
    return min(range(len(codebook)), key=lambda k: math.dist(z, codebook[k]))


def equation_3(w, pictures, beta, still):
    """log p(x | z_q) + ‖sg z_e − e‖² + β ‖z_e − sg e‖², each a mean over its values.

    `still` holds the weights that everything behind a stop-gradient, and the choice of the codes,
    is computed from. z_q is e, with the gradient of z_e: z_e + sg(e − z_e).
    """
    reconstruction, codebook, commitment, values = 0.0, 0.0, 0.0, 0
    for image in pictures:
        z_all, z_still = project(image, w), project(image, still)
        for place, (z, constant) in enumerate(zip(z_all, z_still, strict=True)):
            k = closest(constant, still["codebook"])
            e, e_still = w["codebook"][k], still["codebook"][k]
            z_q = [a + b - c for a, b, c in zip(z, e_still, constant, strict=True)]
            painted = apply(w["decoder"], z_q)
            for channel in range(3):
                pixel = (image[4 * channel + place] - MEAN[channel]) / STD[channel]
                reconstruction += (painted[channel] + w["shift"][0][channel] - pixel) ** 2 / 3
            for a, b, c, d in zip(constant, e, z, e_still, strict=True):
                codebook += (a - b) ** 2 / len(z)
                commitment += (c - d) ** 2 / len(z)
            values += 1
    return (reconstruction + codebook + beta * commitment) / values


def weights_of(method: VQVAE) -> dict[str, Tensor]:
    return {
        "encoder": method.encoder.linear.weight,
        "projector": method.projector.weight,
        "offset": method.projector.bias,
        "codebook": method.codebook.weight,
        "decoder": method.decoder.weight,
        "shift": method.decoder.bias,
    }


@pytest.mark.parametrize("beta", [0.25, 2.0])
@pytest.mark.parametrize("name", ["encoder", "projector", "offset", "codebook", "decoder", "shift"])
def test_loss_and_gradients(name, beta):
    method = flat(commitment=beta)
    pictures = images(1)
    loss = method.loss(pictures, 0.0)
    loss.backward()
    weights = weights_of(method)
    lists = {n: torch.atleast_2d(w.detach().squeeze()).tolist() for n, w in weights.items()}
    function = partial(equation_3, pictures=rows(pictures), beta=beta, still=lists)
    check_value(loss, function(lists))
    chosen = {closest(z, lists["codebook"]) for x in rows(pictures) for z in project(x, lists)}
    assert 1 < len(chosen) < SMALL["codes"]
    by = slopes(lambda x: function({**lists, name: x}), [list(row) for row in lists[name]])
    check_slope(weights[name].grad.squeeze(), by.squeeze())
    if name == "codebook":  # whose other entries stay, as in the paper
        moved = method.codebook.weight.grad.abs().sum(1).nonzero().flatten().tolist()
        assert moved == sorted(chosen)


def test_the_encoder_gets_the_gradient_of_the_decoder_straight_through():
    z, e = (torch.rand(4, 3, 2, 2).double().requires_grad_() for _ in range(2))
    z_q = straight_through(z, e)
    torch.testing.assert_close(z_q, e)
    z_q.retain_grad()
    z_q.pow(3).sum().backward()
    assert torch.equal(z.grad, z_q.grad)
    assert e.grad is None


def test_what_reaches_the_map_of_codes_is_what_reaches_the_encoder():
    """Within the method, of the reconstruction alone."""
    method = flat()
    seen = []
    method.projector.register_forward_hook(lambda _, __, out: seen.append(out))
    method.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    terms = terms_of(method, images(1))
    z, z_q = seen
    slopes_of = torch.autograd.grad(terms["reconstruction"], [z, z_q])
    assert slopes_of[0].abs().sum() > 0
    assert torch.equal(*slopes_of)


def test_commitment_moves_the_encoder_only_and_the_codebook_loss_the_codebook_only():
    method = flat()
    terms = terms_of(method, images(1))
    names, parameters = zip(*method.named_parameters(), strict=True)
    moved = {}
    for term in ("reconstruction", "codebook", "commitment", "loss"):
        found = torch.autograd.grad(terms[term], parameters, retain_graph=True, allow_unused=True)
        slopes_of = dict(zip(names, found, strict=True))
        moved[term] = {
            name.partition(".")[0]
            for name, slope in slopes_of.items()
            if slope is not None and slope.abs().sum() > 0
        }
    assert moved["commitment"] == {"encoder", "projector"}
    assert moved["codebook"] == {"codebook"}
    assert moved["reconstruction"] == {"encoder", "projector", "decoder"}
    assert moved["loss"] == {"encoder", "projector", "codebook", "decoder"}  # and not the prior
    assert terms["commitment"].item() == pytest.approx(terms["codebook"].item(), rel=1e-12)


def test_each_position_takes_the_nearest_code():
    z, codebook = torch.randn(2, 5, 3, 4), torch.randn(7, 5)
    found = nearest(z, codebook)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(z, codebook), found)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                assert found[b, y, x] == closest(z[b, :, y, x].tolist(), codebook.tolist())


@pytest.mark.parametrize(("used", "expected"), [([0], 1), ([0, 1], 2), (range(4), 4)])
def test_perplexity_is_the_number_of_codes_in_use(used, expected):
    method = flat(codes=4)
    ids = torch.tensor(list(used) * (16 // len(used))).view(4, 2, 2)
    nn.init.eye_(method.codebook.weight)
    method.projector.register_forward_hook(lambda *_: method.codebook(ids).movedim(3, 1))
    found = terms_of(method, images(1))["perplexity"]
    assert found.item() == pytest.approx(expected)
    assert not found.requires_grad


# ----------------------------------------------------------------------------------- second phase


def run(method: VQVAE, folder, stop: int | None = None, **options: object) -> dict[int, dict]:
    """Train two epochs in each phase; the method's state after every step, by step."""
    states = {}

    def progress(step: int, steps: int, line: dict[str, float]) -> None:
        assert steps == 4 * STEPS
        states[step] = {name: value.clone() for name, value in method.state_dict().items()}
        if step == stop:
            raise InterruptedError

    given = Options(log_steps=1, save_seconds=0.0, progress=progress, **options)
    train(method, folder, epochs=2, seed=3, options=given)
    return states


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    assert a.keys() == b.keys()
    return {name.partition(".")[0] for name in a if not torch.equal(a[name], b[name])}


def test_the_second_phase_moves_the_prior_and_nothing_else(tmp_path):
    """Neither weights, by decay or momentum, nor running statistics: bit for bit."""
    method = tiny()
    start = {name: value.clone() for name, value in method.state_dict().items()}
    states = run(method, tmp_path, at=(0.5,))
    half, end = states[2 * STEPS], states[4 * STEPS]
    assert differing(start, half) == {"encoder", "projector", "codebook", "decoder"}
    assert differing(half, end) == {"prior"}
    assert all(differing(half, states[2 * STEPS + i]) == {"prior"} for i in range(1, 8))
    kept, final = (load_encoder(tmp_path / name)[0] for name in ("encoder-0.5", "encoder"))
    assert weights_hash(kept) == weights_hash(final) == weights_hash(method.encoder)
    statistics = "encoder.layer4.1.bn2.running_mean"
    assert not torch.equal(states[1][statistics], states[2][statistics])


def test_both_phases_are_learned(tmp_path):
    method = tiny()
    views = draw(method)
    before = [method.loss(views, progress).item() for progress in (0.0, 0.5)]
    assert before[1] == pytest.approx(math.log(8), rel=1e-6)  # any code is equally likely
    method = tiny()
    method.recipe = method.recipe.override(lr=0.01)
    train(method, tmp_path, epochs=20, seed=0)
    after = [method.loss(views, progress).item() for progress in (0.0, 0.5)]
    assert after[0] < 0.8 * before[0]
    ids = nearest(method.encode(views), method.codebook.weight).flatten()
    shares = ids.bincount() / len(ids)
    # Below the entropy of the codes' frequencies, which no prior without context can get under.
    assert after[1] < float(torch.special.entr(shares).sum())


@pytest.mark.parametrize("stop", [2 * STEPS - 1, 2 * STEPS + 1, 3 * STEPS + 2])
def test_codes_and_prior_resume_exactly(stop, tmp_path):
    whole, resumed = tiny(), tiny(seed=9)
    run(whole, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        run(tiny(), tmp_path / "parts", stop)
    assert load_state(tmp_path / "parts" / "state.pt", torch.device("cpu"))["step"] == stop - 1
    run(resumed, tmp_path / "parts")
    assert differing(whole.state_dict(), resumed.state_dict()) == set()
    views = draw(whole)
    codes = [nearest(m.eval().encode(views), m.codebook.weight) for m in (whole, resumed)]
    assert torch.equal(*codes)


def test_a_code_is_predicted_from_those_before_it_in_raster_order():
    """Its own place and those after it change nothing, and the loss is that of the codes."""
    method = tiny().double()
    nn.init.normal_(method.prior.head.weight)
    views = draw(method).double()
    with torch.no_grad():
        loss = method.loss(views, 0.5)
        ids = nearest(method.encode(views), method.codebook.weight)  # (B, 4, 4)
        assert ids.shape == (16, 4, 4)
        total = 0.0
        for place in range(16):
            past = ids.flatten(1).clone()
            past[:, place:] = (past[:, place:] + 3) % 8  # whatever the future is
            logits = method.prior.head(method.prior(past))[:, place]
            truth = ids[:, place // 4, place % 4]
            total += F.cross_entropy(logits, truth).item() / 16
    assert loss.item() == pytest.approx(total, rel=1e-6)  # in single precision


# ---------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("sides", "size", "expected"),
    [
        ((32, 16, 8, 4), 32, 3),
        ((56, 28, 14, 7), 224, 1),
        ((8, 8, 8, 8), 32, 4),  # patches of 4 pixels
        ((14, 14, 14, 14), 224, 4),  # patches of 16: as fine as there is
    ],
)
def test_a_quarter_of_the_side_is_coded_unless_told_otherwise(sides, size, expected):
    encoder = tiny_resnet()
    encoder.image_size = size
    encoder.shapes = lambda: [(2, side, side) for side in sides]
    assert tiny(encoder).stage == expected
    assert tiny(encoder, stage=2).stage == 2


def test_it_trains_residual_networks_and_transformers():
    for encoder, stage in ((tiny_resnet(), 3), (tiny_vit(), 2)):
        method = tiny(encoder)
        method.loss(draw(method), 0.0).backward()
        assert method.stage == stage
        first = encoder.get_submodule(encoder.parts[0])
        assert all(p.grad.abs().sum() > 0 for p in first.parameters())


@pytest.mark.parametrize(("side", "size"), [(4, 32), (4, 28), (7, 224), (16, 16)])
def test_the_decoder_fits_any_size(side, size):
    assert decoder(4, 8, side, size)(torch.randn(2, 4, side, side)).shape == (2, 3, size, size)


def test_what_does_not_fit_is_refused(monkeypatch):
    for stage in (0, 5):
        with pytest.raises(ValueError, match=f"stage: 1 to 4 expected, got {stage}"):
            tiny(stage=stage)
    with pytest.raises(ValueError, match="codes: at least 2 expected, got 1"):
        tiny(codes=1)
    with pytest.raises(UserError, match="equal heads, not depth 1 and 3 heads of 8 dimensions"):
        tiny(heads=3)
    encoder = tiny_resnet()
    monkeypatch.setattr(encoder, "stages", partial(Encoder.stages, encoder))
    with pytest.raises(NotApplicable, match="no feature maps"):
        tiny(encoder)
