"""Losses against slow loops written from the papers' equations; the loops know nothing of sslbench.

Values, and gradients for every view and every trained part, by finite differences of the loops: a
branch behind a stop-gradient is a constant there and must get exactly no gradient here. Everything
is in double precision. Encoders and heads are linear maps, so that nothing hides the loss.
"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from sslbench import distributed
from sslbench.method import Method, ema
from sslbench.methods.non_contrastive.byol import regression as regression_loss
from sslbench.optim import optimizer
from tests.conftest import run_processes
from tests.methods.loops import (
    SIDE,
    B,
    D,
    Flat,
    apply,
    check_slope,
    check_value,
    cosine,
    dot,
    draw,
    images,
    log_softmax,
    make,
    matrix,
    rows,
    slopes,
    softplus,
)

# ------------------------------------------------------------------------------------- simclr


def nt_xent(first, second, temperature):
    """Algorithm 1: ℓ(i, j) of equation 1 over both views of all images, divided by 2N."""
    z, n = [*first, *second], len(first)
    total = 0.0
    for i in range(2 * n):
        j = i + n if i < n else i - n
        others = [math.exp(cosine(z[i], z[k]) / temperature) for k in range(2 * n) if k != i]
        total -= math.log(math.exp(cosine(z[i], z[j]) / temperature) / sum(others))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr(temperature):
    method = make("simclr", temperature=temperature)
    method.projector = matrix(3, rows=5)
    first, second = images(1), images(2)
    loss = method.loss((first, second), 0.0)
    loss.backward()
    weight = rows(method.projector.weight)

    def reference(a, b):
        return nt_xent([apply(weight, x) for x in a], [apply(weight, x) for x in b], temperature)

    a, b = rows(first), rows(second)
    check_value(loss, reference(a, b))
    check_slope(first.grad, slopes(lambda x: reference(x, b), a))
    check_slope(second.grad, slopes(lambda x: reference(a, x), b))


# --------------------------------------------------------------------------------------- moco


def info_nce(queries, keys, queue, temperature):
    """Equation 1 of v1: the key among the key and the queue, all of length 1."""
    total = 0.0
    for q, k in zip(queries, keys, strict=True):
        scores = [cosine(q, k) / temperature, *(cosine(q, old) / temperature for old in queue)]
        total -= log_softmax(scores, 0)
    return total / len(queries)


def moco(**settings: object) -> Method:
    """With a key encoder of its own and a queue shorter than the data."""
    method = make("moco", hidden=0, dim=5, queue=6, groups=1, **settings)
    method.projector, method.key_projector = matrix(3, rows=5), matrix(4, rows=5)
    method.key_projector.requires_grad_(False)
    method.keys.copy_(nn.functional.normalize(draw(6, 5, seed=5)))
    return method


ORDER = torch.tensor([2, 0, 3, 1])


def test_moco():
    method = moco()
    query, key = images(1), images(2)
    queue = rows(method.keys)
    loss = method.loss((query, key, ORDER), 0.0)
    loss.backward()
    student, teacher = rows(method.projector.weight), rows(method.key_projector.weight)
    keys = [apply(teacher, x) for x in rows(key)]

    def reference(q):
        return info_nce([apply(student, x) for x in q], keys, queue, 0.2)

    check_value(loss, reference(rows(query)))
    check_slope(query.grad, slopes(reference, rows(query)))
    assert key.grad is None
    assert all(p.grad is None for p in method.key_encoder.parameters())
    assert method.key_projector.weight.grad is None


def test_moco_queue_receives_keys_after_the_logits():
    """A positive that is its own negative would keep the loss above ln 2."""
    method = moco(temperature=0.01)
    method.key_projector.load_state_dict(method.projector.state_dict())
    same, before = images(1), method.keys.clone()
    loss = method.loss((same, same.detach(), ORDER), 0.0)
    assert loss < 0.01 < math.log(2)
    assert torch.equal(method.keys, before)
    method.after_step(0.1)
    z = nn.functional.normalize(same.detach().flatten(1) @ method.key_projector.weight.T)
    assert any(torch.allclose(key, z[0]) for key in method.keys)


def test_moco_queue_is_first_in_first_out_and_saved():
    method = moco()
    pushed = []
    for step in range(3):
        key = images(step)
        method.loss((images(9), key, ORDER), 0.0)
        z = key.flatten(1) @ method.key_projector.weight.T
        pushed += nn.functional.normalize(z).detach()
        method.after_step(0.1)
    newest = torch.stack(pushed[-6:])
    match = (method.keys @ newest.T).isclose(torch.ones(()).double())  # every one exactly once
    assert match.sum(0).tolist() == match.sum(1).tolist() == [1] * 6
    state = method.state_dict()
    assert torch.equal(state["keys"], method.keys)
    assert torch.equal(state["oldest"], method.oldest)


def test_moco_shuffles_the_groups_of_batch_norm():
    """A key's batch norm must see other images than its query's: the order decides which."""
    method = make("moco", hidden=0, dim=5, groups=2)
    key_encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(D, affine=False))
    method.key_encoder = distributed.group_batch_norm(key_encoder, 2).double()
    key = images(2)
    x = key.detach().flatten(1)

    def keys(order):
        group = {place: list(half) for half in (order[:2], order[2:]) for place in half}
        out = []
        for place in range(B):
            part = x[group[place]]
            z = (x[place] - part.mean(0)) / (part.var(0, correction=0) + 1e-5).sqrt()
            out.append(nn.functional.normalize(method.key_projector(z), dim=0))
        return torch.stack(out)

    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        torch.testing.assert_close(method.embed_keys(key, torch.tensor(order)), keys(order))
    assert not torch.allclose(keys([0, 1, 2, 3]), keys([2, 0, 3, 1]))


# --------------------------------------------------------------------------------------- byol


def regression(predictions, targets):
    """Equation 2: ‖q̄ − z̄‖² of vectors divided by their lengths."""
    total = 0.0
    for q, z in zip(predictions, targets, strict=True):
        q_length, z_length = math.sqrt(dot(q, q)), math.sqrt(dot(z, z))
        total += sum((a / q_length - b / z_length) ** 2 for a, b in zip(q, z, strict=True))
    return total / len(predictions)


def byol() -> Method:
    """With a teacher of its own."""
    method = make("byol", hidden=6, dim=5)
    method.projector, method.predictor = matrix(3, rows=5), matrix(4, 5, 5)
    method.teacher_projector = matrix(5, rows=5).requires_grad_(False)
    return method


def test_byol():
    method = byol()
    first, second = images(1), images(2)
    loss = method.loss((first, second), 0.0)
    loss.backward()
    a, b = rows(first), rows(second)
    teacher = rows(method.teacher_projector.weight)
    of_first, of_second = ([apply(teacher, x) for x in view] for view in (a, b))  # constants

    def reference(a, b, projector, predictor):
        p, q = ([apply(predictor, apply(projector, x)) for x in view] for view in (a, b))
        return regression(p, of_second) + regression(q, of_first)

    w, v = rows(method.projector.weight), rows(method.predictor.weight)
    check_value(loss, reference(a, b, w, v))
    check_slope(first.grad, slopes(lambda x: reference(x, b, w, v), a))
    check_slope(second.grad, slopes(lambda x: reference(a, x, w, v), b))
    check_slope(method.projector.weight.grad, slopes(lambda x: reference(a, b, x, v), w))
    check_slope(method.predictor.weight.grad, slopes(lambda x: reference(a, b, w, x), v))
    assert all(p.grad is None for p in method.teacher_encoder.parameters())
    assert method.teacher_projector.weight.grad is None


def test_byol_targets_are_constants():
    prediction, target = draw(B, D, seed=1).requires_grad_(), draw(B, D, seed=2).requires_grad_()
    regression_loss(prediction, target).backward()
    assert prediction.grad is not None
    assert target.grad is None


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_byol_teacher_moves_once_per_step_along_a_cosine(progress):
    """Equation 1 and τ = 1 − (1 − τ₀)(cos(πk/K) + 1)/2 of section 3.2; never inside the loss."""
    method = byol()
    student, before = method.projector.weight, method.teacher_projector.weight.clone()
    for _ in range(2):
        method.loss((images(1), images(2)), progress)
    assert torch.equal(method.teacher_projector.weight, before)
    method.after_step(progress)
    tau = 1 - (1 - 0.996) * (math.cos(math.pi * progress) + 1) / 2
    expected = tau * before + (1 - tau) * student
    torch.testing.assert_close(method.teacher_projector.weight, expected, rtol=0, atol=1e-12)


def test_ema_averages_running_statistics_and_copies_counters():
    teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    student.running_mean.fill_(1.0)
    student.num_batches_tracked.fill_(7)
    ema(teacher, student, 0.75)
    assert teacher.running_mean.tolist() == [0.25, 0.25]
    assert teacher.num_batches_tracked.item() == 7


# ------------------------------------------------------------------------------------- vicreg


def vicreg(a, b, weights):
    """Algorithm 1 with equations 1 to 4: 25 · mse + 25 · (v + v′) + 1 · (c + c′)."""
    n, d = len(a), len(a[0])
    invariance = sum((a[i][j] - b[i][j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    variance = covariance = 0.0
    for z in (a, b):
        mean = [sum(z[i][j] for i in range(n)) / n for j in range(d)]
        c = [
            [
                sum((z[i][j] - mean[j]) * (z[i][k] - mean[k]) for i in range(n)) / (n - 1)
                for k in range(d)
            ]
            for j in range(d)
        ]
        variance += sum(max(0.0, 1 - math.sqrt(c[j][j] + 1e-4)) for j in range(d)) / d
        covariance += sum(c[j][k] ** 2 for j in range(d) for k in range(d) if j != k) / d
    return weights[0] * invariance + weights[1] * variance + weights[2] * covariance


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 2.0)])
def test_vicreg(weights):
    names = ("invariance", "variance", "covariance")
    method = make("vicreg", hidden=6, dim=5, **dict(zip(names, weights, strict=True)))
    method.expander = matrix(3, rows=5)
    first, second = images(1), images(2)
    loss = method.loss((first, second), 0.0)
    loss.backward()
    weight = rows(method.expander.weight)
    deviations = torch.tensor([apply(weight, x) for x in rows(first)]).std(0)
    assert deviations.min() < 1 < deviations.max()  # both sides of the hinge

    def reference(a, b):
        return vicreg([apply(weight, x) for x in a], [apply(weight, x) for x in b], weights)

    a, b = rows(first), rows(second)
    check_value(loss, reference(a, b))
    check_slope(first.grad, slopes(lambda x: reference(x, b), a))
    check_slope(second.grad, slopes(lambda x: reference(a, x), b))


# ---------------------------------------------------------------------------------------- mae


def mae(predictions, pictures, order, visible, normalised, mean, std):
    """Mean squared error over the pixels of masked patches of 2 × 2 in a picture of 4 × 4."""
    total = count = 0.0
    for prediction, picture, places in zip(predictions, pictures, order, strict=True):
        for position, place in enumerate(places[visible:]):
            top, left = 2 * (place // 2), 2 * (place % 2)
            patch = [
                (picture[c * 16 + (top + y) * 4 + left + x] - mean[c]) / std[c]
                for c in range(3)
                for y in range(2)
                for x in range(2)
            ]
            if normalised:
                middle = sum(patch) / 12
                spread = sum((p - middle) ** 2 for p in patch) / 11
                patch = [(p - middle) / math.sqrt(spread + 1e-6) for p in patch]
            for value, target in zip(
                prediction[position * 12 : (position + 1) * 12], patch, strict=True
            ):
                total += (value - target) ** 2
                count += 1
    return total / count


@pytest.mark.parametrize("normalised", [True, False])
def test_mae(normalised):
    settings = {"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2, "mask_ratio": 0.5}
    method = make("mae", Flat(4, patch=2), normalised=normalised, **settings)
    predictions, seen = draw(B, 2, 12, seed=1).requires_grad_(), []

    def decode(tokens, order):
        seen.append(tokens)
        return predictions

    method.decode = decode
    pictures = draw(B, 3, 4, 4, seed=2).requires_grad_()
    order = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0], [1, 0, 3, 2]])
    loss = method.loss((pictures, order), 0.0)
    config = method.encoder.config

    def reference(x):
        given = rows(pictures), order.tolist(), 2, normalised
        return mae(x, *given, config["mean"], config["std"])

    check_value(loss, reference(rows(predictions)))
    loss.backward()
    check_slope(predictions.grad, slopes(reference, rows(predictions)))
    assert seen[0].shape == (B, 2, 48)  # as many tokens as patches are visible


def test_mae_predicts_masked_patches_by_their_places_whatever_the_order():
    settings = {"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2, "mask_ratio": 0.5}
    method = make("mae", Flat(4, patch=2), **settings)
    tokens = draw(1, 2, 48, seed=1)

    def predict(tokens, *order):
        return method.decode(tokens, torch.tensor([order]))

    expected = predict(tokens, 0, 3, 1, 2)
    assert not torch.allclose(expected[:, 0], expected[:, 1])
    torch.testing.assert_close(predict(tokens.flip(1), 3, 0, 1, 2), expected)
    torch.testing.assert_close(predict(tokens, 0, 3, 2, 1), expected.flip(1))
    assert not torch.allclose(predict(tokens, 3, 0, 1, 2), expected)


# ----------------------------------------------------- rotation, supervised and deepcluster


def cross_entropy(features, labels, weight, bias, factors):
    """(1/B) Σ −factor(y) · log softmax(W h + b)_y."""
    total = 0.0
    for h, y in zip(features, labels, strict=True):
        scores = [s + b for s, b in zip(apply(weight, h), bias, strict=True)]
        total -= factors[y] * log_softmax(scores, y)
    return total / len(features)


LABELS = {"rotation": [3, 0, 1, 2], "supervised": [2, 0, 1, 1], "deepcluster": [0, 2, 2, 1]}
SIZES = [5, 1, 2]  # of the clusters among the 2 B images


@pytest.mark.parametrize("name", list(LABELS))
def test_classification(name):
    method = make(name, **({"clusters": 3, "sobel": False} if name == "deepcluster" else {}))
    factors = [1.0] * 4
    if name == "deepcluster":  # section 3.3: by the inverse of the size of the cluster
        factors = [2 * B / (3 * size) for size in SIZES]
        method.weights.copy_(torch.tensor(factors, dtype=torch.double))
    inputs, labels = images(1), LABELS[name]
    loss = method.loss((inputs, torch.tensor(labels)), 0.0)
    loss.backward()
    h, weight = rows(inputs), rows(method.classifier.weight)
    bias = method.classifier.bias.tolist()
    check_value(loss, cross_entropy(h, labels, weight, bias, factors))
    by_input = slopes(lambda x: cross_entropy(x, labels, weight, bias, factors), h)
    by_weight = slopes(lambda x: cross_entropy(h, labels, x, bias, factors), weight)
    check_slope(inputs.grad, by_input)
    check_slope(method.classifier.weight.grad, by_weight)


# --------------------------------------------------------------------------------- inpainting


def inpainted(pictures, masks, decoder, fill):
    """tanh of a linear map of the pictures, the missing part filled with the mean colours."""
    out = []
    for picture, mask in zip(pictures, masks, strict=True):
        pixels = len(mask)
        visible = [
            fill[i // pixels] if mask[i % pixels] else value for i, value in enumerate(picture)
        ]
        out.append([math.tanh(x) for x in apply(decoder, visible)])
    return out


def masked_l2(outputs, pictures, masks):
    """Equation 1, ‖M ⊙ (x − x̂)‖², per missing value; x in [−1, 1]."""
    total = 0.0
    for output, picture, mask in zip(outputs, pictures, masks, strict=True):
        pixels, error = len(mask), 0.0
        for i, (value, x) in enumerate(zip(output, picture, strict=True)):
            error += mask[i % pixels] * (2 * x - 1 - value) ** 2
        total += error / (3 * sum(mask))
    return total / len(outputs)


def fools(outputs, judge):
    """Mean of −log D(x̂), with D a logistic function of a linear one."""
    return sum(softplus(-apply(judge, x)[0]) for x in outputs) / len(outputs)


def judges(pictures, outputs, judge):
    """Negative of equation 2: mean of −log D(x) − log(1 − D(x̂))."""
    real = sum(softplus(-apply(judge, [2 * v - 1 for v in x])[0]) for x in pictures)
    return (real + sum(softplus(apply(judge, x)[0]) for x in outputs)) / len(outputs)


MASK = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]])


def linear_inpainting(reconstruction: float, adversarial: float) -> Method:
    settings = {"reconstruction": reconstruction, "adversarial": adversarial}
    method = make("inpainting", **settings)
    unflatten = nn.Unflatten(1, (3, SIDE, SIDE))
    method.decoder = nn.Sequential(nn.Flatten(), matrix(3), unflatten, nn.Tanh())
    method.discriminator.judge = nn.Sequential(nn.Flatten(), matrix(4, rows=1))
    return method


@pytest.mark.parametrize("weights", [(0.999, 0.001), (0.5, 0.5)])
def test_inpainting(weights):
    method = linear_inpainting(*weights)
    pictures = images(1)
    mask = MASK.view(B, 1, SIDE, SIDE).double()
    loss = method.loss((pictures, mask), 0.0)
    loss.backward()
    x, m, fill = rows(pictures), MASK.tolist(), method.encoder.config["mean"]
    decoder, judge = rows(method.decoder[1].weight), rows(method.discriminator.judge[1].weight)

    def generator(decoder, encoder=None):  # the discriminator is a constant
        encoder = encoder or rows(torch.eye(D))
        both = [apply(decoder, column) for column in zip(*encoder, strict=True)]  # its columns
        outputs = inpainted(x, m, list(zip(*both, strict=True)), fill)
        return weights[0] * masked_l2(outputs, x, m) + weights[1] * fools(outputs, judge)

    outputs = inpainted(x, m, decoder, fill)  # a constant for the discriminator
    check_value(loss, generator(decoder) + judges(x, outputs, judge))
    check_slope(method.decoder[1].weight.grad, slopes(generator, decoder))
    by_encoder = slopes(lambda e: generator(decoder, e), rows(torch.eye(D).double()))
    check_slope(method.encoder.linear.weight.grad, by_encoder)
    by_judge = slopes(lambda w: judges(x, outputs, w), judge)
    check_slope(method.discriminator.judge[1].weight.grad, by_judge)


def test_inpainting_without_an_adversary_has_no_discriminator():
    method = make("inpainting", reconstruction=1.0, adversarial=0.0)
    assert not any("discriminator" in name for name in method.state_dict())
    optimizer(method, method.recipe)  # which knows no group of the discriminator's
    pictures, mask = images(1), MASK.view(B, 1, SIDE, SIDE).double()
    output = method.decoder(method.encoder.stages(torch.lerp(pictures, method.fill, mask))[-1])
    expected = masked_l2(rows(output), rows(pictures), MASK.tolist())
    check_value(method.loss((pictures, mask), 0.0), expected)
    assert set(method.logged) == {"embedding", "reconstruction"}


def test_inpainting_discriminator_tracks_each_batch_once():
    """The generator's pass through it leaves its running statistics alone."""
    method = linear_inpainting(0.999, 0.001)
    norm = nn.BatchNorm1d(1).double()
    method.discriminator.judge.append(norm)
    pictures, mask = images(1), MASK.view(B, 1, SIDE, SIDE).double()
    method.loss((pictures, mask), 0.0)
    outputs = inpainted(
        rows(pictures),
        MASK.tolist(),
        rows(method.decoder[1].weight),
        method.encoder.config["mean"],
    )
    judge, expected = rows(method.discriminator.judge[1].weight), 0.0
    for batch in ([[2 * v - 1 for v in x] for x in rows(pictures)], outputs):
        mean = sum(apply(judge, x)[0] for x in batch) / B
        expected = 0.9 * expected + 0.1 * mean
    assert norm.num_batches_tracked.item() == 2
    assert norm.running_mean.item() == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------- another library's losses


def unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x.flatten(1), dim=1)


def against(name: str, theirs, **settings: object) -> None:
    """Value and gradients of our loss on two views equal those of `theirs`."""
    method = make(name, **settings)
    for head in ("projector", "predictor", "teacher_projector", "key_projector", "expander"):
        if head in dict(method.named_children()):
            setattr(method, head, nn.Identity())
    ours, other = [images(1), images(2)], [images(1), images(2)]
    given = (*ours, ORDER) if name == "moco" else tuple(ours)
    loss, reference = method.loss(given, 0.0), theirs(*(x.flatten(1) for x in other))
    torch.testing.assert_close(loss, reference, rtol=1e-9, atol=0)
    loss.backward()
    reference.backward()
    for x, y in zip(ours, other, strict=True):
        if y.grad is None:
            assert x.grad is None
        else:
            torch.testing.assert_close(x.grad, y.grad, rtol=1e-7, atol=1e-10)


def test_simclr_equals_lightly():
    from lightly.loss import NTXentLoss

    against("simclr", NTXentLoss(temperature=0.3), temperature=0.3)


def test_moco_equals_lightly():
    from lightly.loss import NTXentLoss

    theirs = NTXentLoss(temperature=0.3, memory_bank_size=(6, D))
    bank = make("moco", hidden=0, dim=D, queue=6, groups=1).keys  # as `against` will draw it
    theirs.memory_bank.bank = bank.clone()
    settings = {"hidden": 0, "dim": D, "queue": 6, "groups": 1, "temperature": 0.3}
    against("moco", lambda q, k: theirs(q, k.detach()), **settings)


def test_byol_equals_lightly():
    """Theirs is −cos; ours the squared distance 2 − 2 cos, summed over both directions."""
    from lightly.loss import NegativeCosineSimilarity

    negative = NegativeCosineSimilarity()
    against(
        "byol",
        lambda a, b: 4 + 2 * negative(a, b.detach()) + 2 * negative(b, a.detach()),
        hidden=6,
        dim=D,
    )


def test_vicreg_equals_lightly():
    """Theirs halves the variance term, as the authors' code does."""
    from lightly.loss import VICRegLoss

    against("vicreg", VICRegLoss(), hidden=6, dim=D, variance=12.5)


# --------------------------------------------------------------------------- two processes

PARALLEL = ("simclr", "vicreg", "byol", "moco", "deepcluster", "inpainting")


def parallel(name: str) -> tuple[Method, tuple[Tensor, ...]]:
    """A method, and the views of a global batch of B."""
    mask = MASK.view(B, 1, SIDE, SIDE).double()
    first, second = images(1, requires_grad=False), images(2, requires_grad=False)
    if name == "simclr":
        method = make(name, dim=5)
    elif name == "vicreg":
        method = make(name, hidden=6, dim=5)
        method.expander = matrix(3, rows=5)
    elif name == "byol":
        method = byol()
    elif name == "moco":
        return moco(), (first, second, ORDER)
    elif name == "deepcluster":
        method = make(name, clusters=3, sobel=False)
        method.weights.copy_(torch.tensor([2 * B / (3 * size) for size in SIZES]))
        return method, (first, torch.tensor(LABELS[name]))
    else:
        return linear_inpainting(0.5, 0.5), (first, mask)
    return method, (first, second)


def one_step(name: str) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Global loss, averaged gradients, and the state after the step, of this process's part."""
    method, views = parallel(name)
    here, world = distributed.rank(), distributed.world()
    # All but MoCo's order, which is the global batch's, is cut into parts.
    parts = tuple(v if v is ORDER else v.chunk(world)[here] for v in views)
    loss = method.loss(parts, 0.5)
    loss.backward()
    distributed.average_gradients(method.parameters())
    method.after_step(0.5)
    grads = {key: p.grad for key, p in method.named_parameters() if p.grad is not None}
    mean = distributed.total(loss.detach().clone()) / world
    return mean, copy.deepcopy(grads), method.state_dict()


def all_steps() -> dict[str, tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]]:
    return {name: one_step(name) for name in PARALLEL}


@pytest.fixture(scope="module")
def processes():
    return run_processes(2, all_steps)


def check_two_processes(name: str, processes) -> None:
    loss, grads, state = one_step(name)
    for result in processes:
        their_loss, their_grads, their_state = result[name]
        torch.testing.assert_close(their_loss, loss, rtol=1e-10, atol=0)
        torch.testing.assert_close(their_grads, grads, rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(their_state, state, rtol=1e-8, atol=1e-11)


def test_negatives_are_gathered_with_gradient(processes):
    check_two_processes("simclr", processes)


def test_vicreg_statistics_are_global(processes):
    check_two_processes("vicreg", processes)


def test_moco_keys_of_all_processes_enter_the_queue_in_order(processes):
    check_two_processes("moco", processes)


def test_deepcluster_is_not_normalised_by_a_process_s_own_weights(processes):
    check_two_processes("deepcluster", processes)


@pytest.mark.parametrize("name", ["byol", "inpainting"])
def test_a_mean_over_images_needs_no_gathering(name, processes):
    check_two_processes(name, processes)
