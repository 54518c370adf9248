"""Image GPT: who sees which pixel, in which colours, and what is predicted."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.backbones.image_gpt import CausalTransformer, ImageGPT
from sslbench.checkpoint import load_encoder, save_encoder, weights_hash
from sslbench.data.split import Batch, ImageArray
from sslbench.encoder import build
from sslbench.errors import NotApplicable, UserError
from sslbench.method import Recipe
from sslbench.methods.contrastive.deepcluster import DeepCluster
from sslbench.methods.contrastive.simclr import SimCLR
from sslbench.methods.reconstruction.image_gpt import IGPT
from sslbench.methods.reconstruction.inpainting import Inpainting
from sslbench.methods.reconstruction.mae import MAE
from sslbench.pretrain import Options, train
from sslbench.random import Random
from tests.conftest import tiny_image_gpt, tiny_images
from tests.methods.loops import apply, check_slope, check_value, dot, log_softmax, slopes

PLACES = torch.arange(8)
SETTINGS = {"colours": 5, "dim": 4, "depth": 2, "heads": 2, "mean": [0.5] * 3, "std": [0.25] * 3}


def tiny(size: int = 2, data: ImageArray | None = None, **settings: object) -> ImageGPT:
    """Two blocks with random weights everywhere, on images of 2 × 2 pixels."""
    torch.manual_seed(0)
    config = {"name": "image_gpt", "image_size": size, "side": size, **SETTINGS, **settings}
    encoder = build(config, data)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder


def make(encoder: ImageGPT | None = None) -> IGPT:
    data = ImageArray(np.zeros((8, 3, 2, 2), np.uint8), None)
    return IGPT(encoder or tiny(), data).double().train()


def colours(n: int = 3, seed: int = 0) -> Tensor:
    """Random colours (n, 4) of 2 × 2 pixels."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 5, (n, 4)))


# ------------------------------------------------------------------------------------ the loss


def layer_norm(x, weight, bias):
    mean = sum(x) / len(x)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in x) / len(x) + 1e-5)
    return [(v - mean) / deviation * w + b for v, w, b in zip(x, weight[0], bias[0], strict=True)]


def add(*vectors):
    return [sum(values) for values in zip(*vectors, strict=True)]


def attend(queries, keys, values, heads):
    """The last query over all keys, head by head."""
    size = len(keys[0]) // heads
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = [dot(queries[-1][part], key[part]) / math.sqrt(size) for key in keys]
        shares = [math.exp(log_softmax(scores, j)) for j in range(len(keys))]
        for d in range(part.start, part.stop):
            out.append(sum(share * value[d] for share, value in zip(shares, values, strict=True)))
    return out


def block(w, name, xs, heads):
    """Every position after attention over itself and what came before, and after the MLP."""
    normed = [layer_norm(x, w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"]) for x in xs]
    bias, dim = w[f"{name}.attention.bias"][0], len(xs[0])
    mapped = [add(apply(w[f"{name}.attention.weight"], x), bias) for x in normed]
    q, k, v = ([m[i * dim : (i + 1) * dim] for m in mapped] for i in range(3))
    out = []
    for i, x in enumerate(xs):
        mixed = attend(q[: i + 1], k[: i + 1], v[: i + 1], heads)
        x = add(x, apply(w[f"{name}.mixed.weight"], mixed), w[f"{name}.mixed.bias"][0])
        inner = layer_norm(x, w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"])
        inner = add(apply(w[f"{name}.mlp.0.weight"], inner), w[f"{name}.mlp.0.bias"][0])
        inner = [h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in inner]
        out.append(add(x, apply(w[f"{name}.mlp.2.weight"], inner), w[f"{name}.mlp.2.bias"][0]))
    return out


def chain_rule(w, images):
    """−(1/BN) Σ log p(x), p(x) = Π p(x_i | x_1 … x_{i−1}); each from a network fed the past."""
    total, count = 0.0, 0
    for image in images:
        for i, colour in enumerate(image):
            past = [w["start"][0], *(w["embeddings.weight"][c] for c in image[:i])]
            xs = [add(x, w["pos_embed"][place]) for place, x in enumerate(past)]
            for name in ("blocks.0", "blocks.1"):
                xs = block(w, name, xs, heads=2)
            last = layer_norm(xs[-1], w["norm.weight"], w["norm.bias"])
            total -= log_softmax(apply(w["head.weight"], last), colour)
            count += 1
    return total / count


@pytest.mark.parametrize(
    "name", ["start", "pos_embed", "embeddings.weight", "head.weight", "blocks.0.attention.weight"]
)
def test_loss_and_gradients_are_those_of_the_chain_rule(name):
    method = make()
    ids = colours()
    loss = method.loss(ids, 0.0)
    loss.backward()
    weights = dict(method.encoder.transformer.named_parameters())
    lists = {n: torch.atleast_2d(p.detach()).tolist() for n, p in weights.items()}
    check_value(loss, chain_rule(lists, ids.tolist()))
    by = slopes(lambda x: chain_rule({**lists, name: x}, ids.tolist()), lists[name])
    check_slope(weights[name].grad, by)
    assert method.logged["embedding"].shape == (3, 4)


def test_at_first_every_colour_is_equally_likely():
    torch.manual_seed(0)
    method = IGPT(tiny_image_gpt(), tiny_images())
    loss = method.loss(method.views(method.data[PLACES], Random(0, 0, PLACES, 8)), 0.0)
    assert loss.item() == pytest.approx(math.log(16), rel=1e-6)


def test_it_learns_more_than_how_frequent_colours_are(tmp_path):
    torch.manual_seed(0)
    data = tiny_images()
    method = IGPT(tiny_image_gpt(), data)
    method.recipe = Recipe("adamw", lr=3e-3, batch_size=32, schedule="constant")
    train(method, tmp_path, epochs=20, seed=0, options=Options(log_steps=40))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    ids = method.encoder.read(method.encoder.preprocess(data[torch.arange(64)]))
    shares = ids.flatten().bincount() / ids.numel()
    assert lines[-1]["loss"] < 0.8 * float(torch.special.entr(shares).sum())


# ------------------------------------------------------------------------------ past and future


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_changing_the_future_changes_nothing_in_the_past(place):
    """What predicts a pixel sees neither it nor those after it, in any block."""
    network = tiny().double().transformer
    ids = colours()
    changed = ids.clone()
    changed[:, place:] = (changed[:, place:] + 1) % 5
    with torch.no_grad():
        pairs = [*zip(network.outputs(ids), network.outputs(changed), strict=True)]
        pairs += [(network.head(network(ids)), network.head(network(changed)))]
    for before, after in pairs:
        assert torch.equal(after[:, : place + 1], before[:, : place + 1])
        assert (after[:, place + 1 :] != before[:, place + 1 :]).any(2).all()


def test_no_gradient_flows_from_the_future():
    network = tiny().double().transformer
    seen = []
    network.embeddings.register_forward_hook(lambda _, __, out: seen.append(out) or out)
    states = network(colours())
    (slope,) = torch.autograd.grad(states[:, 2].square().sum(), seen)
    assert (slope.abs().sum((0, 2)) > 0).tolist() == [True, True, False]


def test_the_first_pixel_is_predicted_from_the_start_token_alone():
    network = tiny().double().transformer
    states = network(colours())
    torch.testing.assert_close(states[:, 0], states[:1, 0].expand(3, -1))
    (slope,) = torch.autograd.grad(states[:, 0].square().sum(), network.start)
    assert slope.abs().sum() > 0


# -------------------------------------------------------------------------------------- colours


def flat(n: int = 40) -> tuple[ImageArray, Tensor]:
    """Images whose pixels have one of five colours, and which."""
    random = np.random.default_rng(0)
    which = random.integers(0, 5, (n, 4, 4))
    values = np.array([[0, 0, 0], [255, 0, 0], [0, 200, 40], [20, 30, 250], [250, 240, 230]])
    pictures = values[which].astype(np.uint8).transpose(0, 3, 1, 2)
    return ImageArray(pictures, None), torch.from_numpy(values / 255).float()


def test_the_palette_is_the_colours_of_the_data():
    data, values = flat()
    found = tiny(4, data, colours=12).palette
    order = torch.cdist(values, found).argmin(1)
    torch.testing.assert_close(found[order], values, rtol=0, atol=2e-3)
    assert torch.equal(tiny(4, flat()[0], colours=12).palette, found)


def test_colours_are_read_from_left_to_right_and_from_the_top_down():
    data, _ = flat()
    encoder = tiny(4, data, colours=12)
    pictures = data[torch.arange(3)].images / 255
    ids = encoder.read(pictures)
    assert ids.shape == (3, 16)
    painted = encoder.palette[ids]  # (3, 16, 3)
    for image, row in zip(pictures, painted, strict=True):
        for number, colour in enumerate(row):
            torch.testing.assert_close(image[:, number // 4, number % 4], colour, rtol=0, atol=2e-3)


def test_every_pixel_gets_the_nearest_colour_of_the_smaller_image():
    encoder = tiny_image_gpt()
    pictures = torch.rand(2, 3, 16, 16)
    ids = encoder.read(pictures)
    small = F.interpolate(pictures, (8, 8), mode="bilinear", antialias=True)
    for image, found in zip(small, ids.tolist(), strict=True):
        for number, colour in enumerate(found):
            pixel = image[:, number // 8, number % 8].tolist()
            distances = [math.dist(pixel, other) for other in encoder.palette.tolist()]
            assert distances[colour] == pytest.approx(min(distances), abs=1e-6)
    assert encoder.read(torch.rand(2, 3, 32, 32)).shape == ids.shape  # of any size


def test_the_palette_is_found_once_and_goes_with_the_weights(tmp_path):
    encoder = tiny_image_gpt().eval()
    assert encoder.palette.unique(dim=0).shape == (16, 3)
    assert not build(encoder.config).palette.any()
    save_encoder(encoder, tmp_path / "encoder", {})
    loaded, _ = load_encoder(tmp_path)
    assert weights_hash(loaded) == weights_hash(encoder)
    pictures = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(pictures), encoder(pictures))
    assert torch.equal(encoder.variant(depth=3).palette, encoder.palette)


def test_views_are_the_colours_of_the_augmented_images():
    method = IGPT(tiny_image_gpt(), tiny_images())
    ids = method.views(method.data[PLACES], Random(0, 0, PLACES, 8))
    pictures = method.augmentation(method.data[PLACES], 16, Random(0, 0, PLACES, 8))
    assert torch.equal(ids, method.encoder.read(pictures))
    assert not torch.equal(ids, method.views(method.data[PLACES], Random(0, 1, PLACES, 8)))


# ------------------------------------------------------------------------------- representations


def test_layers_are_averages_of_what_the_next_norm_gives():
    encoder = tiny_image_gpt().eval()
    for parameter in encoder.parameters():  # no norm is like another
        nn.init.normal_(parameter, std=0.5)
    pictures, seen = torch.rand(2, 3, 16, 16), []
    entry = encoder.transformer.blocks[1].attention
    handle = entry.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = encoder.layers(pictures)
    handle.remove()
    assert list(found) == ["block1.avg", "block2.avg"]
    torch.testing.assert_close(found["block1.avg"], seen[0].mean(1))
    torch.testing.assert_close(found["block2.avg"], encoder(pictures))
    torch.testing.assert_close(found["block2.avg"], encoder.tokens(pictures).mean(1))
    assert encoder(pictures).shape == (2, encoder.dim)
    assert encoder.head(encoder.tokens(pictures)).shape == (2, 64, 16)
    assert all(encoder.get_submodule(part) is not None for part in encoder.parts)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MAE, "no vision transformer"),
        (Inpainting, "no feature maps"),
        (DeepCluster, "image_gpt reads colours, it cannot see gradients"),
    ],
)
def test_methods_that_need_something_else_do_not_apply(method, message):
    with pytest.raises(NotApplicable, match=message):
        method(tiny_image_gpt(), tiny_images())
    with pytest.raises(NotApplicable, match="cannot leave out pixels"):
        tiny_image_gpt().tokens(torch.rand(2, 3, 16, 16), keep=torch.zeros(2, 1).long())


def test_methods_that_compare_representations_train_it():
    method = SimCLR(tiny_image_gpt(), tiny_images()).train()
    method.loss(method.views(method.data[PLACES], Random(0, 0, PLACES, 8)), 0.0).backward()
    slopes_of = [p.grad for p in method.encoder.transformer.blocks.parameters()]
    assert all(slope is not None and slope.abs().sum() > 0 for slope in slopes_of)


def test_what_does_not_fit_is_refused(resnet):
    with pytest.raises(NotApplicable, match=r"image_gpt trains the encoder image_gpt, not resnet"):
        IGPT(resnet, tiny_images())
    with pytest.raises(NotApplicable, match="has no feature maps"):
        tiny_image_gpt().stages(torch.rand(2, 3, 16, 16))
    with pytest.raises(NotApplicable, match="needs images"):
        tiny_image_gpt().preprocess(Batch(torch.arange(2)))
    with pytest.raises(UserError, match="side: 1 to 2 pixels of the image, got 4"):
        tiny(2, side=4)
    with pytest.raises(UserError, match="at most one for each of 64 pixels, got 65"):
        tiny(4, flat(4)[0], colours=65)
    for wrong in ({"heads": 3}, {"depth": 0}, {"heads": 0}):
        with pytest.raises(UserError, match="at least one block and equal heads, not depth"):
            CausalTransformer(3, 4, **{"dim": 4, "depth": 2, "heads": 2, **wrong})
