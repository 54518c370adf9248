"""CLIP and SigLIP: losses against loops and OpenCLIP with 1, 2 and 4 processes; what is learned."""

import math
from dataclasses import replace

import open_clip.loss
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench import distributed, optim, registry
from sslbench.data.split import Texts
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.method import Method
from sslbench.pretrain import train
from sslbench.prompts import classifier
from sslbench.random import Random
from tests.conftest import SIZE, run_processes, tiny_captions, tiny_dual, tiny_images

NAMES = ("clip", "siglip")
B = 8
D = 5


class Towers(Encoder):
    """Vectors in the places of images and token ids, each through a linear map; double."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.words = nn.Linear(6, D), nn.Linear(7, D)
        self.log_scale, self.bias = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def embed(self, inputs: Tensor) -> Tensor:
        return self.image(inputs)

    @property
    def text(self):
        return lambda tokens: self.words(tokens.ids)


def towers(name: str) -> Method:
    torch.manual_seed(0)
    return registry.method(name)(Towers(), tiny_captions(4)).double()


def make(name: str, n: int = 64, **settings: object) -> Method:
    torch.manual_seed(0)
    return registry.method(name)(tiny_dual(), tiny_captions(n), **settings)


def data() -> tuple[Tensor, Tensor]:
    """Stand-ins of the global batch's images (B, 6) and captions (B, 7)."""
    random = torch.Generator().manual_seed(1)
    images, texts = (torch.randn(B, d, generator=random, dtype=torch.double) for d in (6, 7))
    return images, texts


# ---------------------------------------------------------------------------------- the loops


def unit(vector: Tensor) -> list[Tensor]:
    length = sum(x * x for x in vector) ** 0.5
    return [x / length for x in vector]


def log_softmax(scores: list[Tensor], i: int) -> Tensor:
    return scores[i] - torch.log(sum(torch.exp(s) for s in scores))


def clip_by_loops(cosines: list[list[Tensor]], scale: Tensor, bias: Tensor) -> Tensor:
    """Figure 3: cross-entropy along both axes, the labels on the diagonal."""
    total = 0.0
    for i in range(B):
        total -= log_softmax([scale * cosines[i][j] for j in range(B)], i)
        total -= log_softmax([scale * cosines[j][i] for j in range(B)], i)
    return total / (2 * B)


def siglip_by_loops(cosines: list[list[Tensor]], scale: Tensor, bias: Tensor) -> Tensor:
    """Algorithm 1: the sum over all pairs, divided by the number of images."""
    total = 0.0
    for i in range(B):
        for j in range(B):
            logit = scale * cosines[i][j] + bias
            total += torch.log(1 + torch.exp(-logit if i == j else logit))
    return total / B


LOOPS = {"clip": clip_by_loops, "siglip": siglip_by_loops}


def by_loops(name: str, method: Method, images: Tensor, texts: Tensor) -> Tensor:
    encoder = method.encoder
    seen = [unit(row) for row in encoder.image(images)]
    read = [unit(row) for row in encoder.words(texts)]
    cosines = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in read] for x in seen]
    return LOOPS[name](cosines, encoder.log_scale.exp(), encoder.bias)


def by_open_clip(name: str, method: Method, images: Tensor, texts: Tensor) -> Tensor:
    encoder, world = method.encoder, distributed.world()
    seen, read = F.normalize(encoder.image(images)), F.normalize(encoder.words(texts))
    place = {"rank": distributed.rank(), "world_size": world}
    if name == "clip":
        loss = open_clip.loss.ClipLoss(gather_with_grad=True, **place)
        return loss(seen, read, encoder.log_scale.exp())
    loss = open_clip.loss.SigLipLoss(**place)
    return loss(seen, read, encoder.log_scale.exp(), encoder.bias)


def ours(name: str, method: Method, images: Tensor, texts: Tensor) -> Tensor:
    nothing = torch.ones(len(texts), 1)
    return method.loss((images, texts, nothing, nothing), 0.0)


FUNCTIONS = {"ours": ours, "open_clip": by_open_clip, "loops": by_loops}


def measure(name: str, function: str) -> tuple[float, dict[str, Tensor]]:
    """Mean loss and mean gradients over the processes, as the training loop takes them."""
    method = towers(name)
    world, rank = distributed.world(), distributed.rank()
    parts = (x.chunk(world)[rank] for x in data())
    loss = FUNCTIONS[function](name, method, *parts)
    loss.backward()
    distributed.average_gradients(method.parameters())
    mean = distributed.total(loss.detach()) / world
    grads = {k: p.grad for k, p in method.named_parameters() if p.grad is not None}
    return float(mean), grads


def measure_all() -> dict[tuple[str, str], tuple[float, dict[str, Tensor]]]:
    return {(name, f): measure(name, f) for name in NAMES for f in ("ours", "open_clip")}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_loss_and_gradients(world):
    results = [measure_all()] if world == 1 else run_processes(world, measure_all)
    for name in NAMES:
        value, grads = measure(name, "loops")
        assert set(grads) == {
            f"encoder.{key}"
            for key in ("log_scale", "image.weight", "image.bias", "words.weight", "words.bias")
            + (("bias",) if name == "siglip" else ())
        }
        assert all(grad.abs().max() > 1e-3 for grad in grads.values())  # or nothing is compared
        for result in results:
            for function in ("ours", "open_clip"):
                found, slopes = result[name, function]
                assert found == pytest.approx(value, rel=1e-12), function
                slopes = {key: slopes[key] for key in grads}
                torch.testing.assert_close(slopes, grads, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------------------- the views


@pytest.mark.parametrize("name", NAMES)
def test_each_step_draws_one_caption_of_each_image_and_a_crop(name):
    method = make(name)
    places = torch.arange(8)
    batch, text = method.data[places], method.encoder.text
    two = [[text.preprocess(replace(batch, texts=[caption])) for caption in c] for c in batch.texts]
    counts = torch.zeros(8)
    for step in range(100):
        images, ids, mask, segments = method.views(batch, Random(0, step, places, 8))
        assert images.shape == (8, 3, SIZE, SIZE)
        assert ids.shape == mask.shape == segments.shape
        for row, captions in enumerate(two):
            drawn = [torch.equal(ids[row][mask[row]], tokens.ids[0]) for tokens in captions]
            assert sum(drawn) == 1
            counts[row] += drawn[0]
    assert counts.sum() / 800 == pytest.approx(0.5, abs=0.07)  # 4 standard errors
    assert ((counts > 30) & (counts < 70)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_view_depends_on_its_place_alone(name):
    method, places = make(name), torch.arange(8)
    whole = method.views(method.data[places], Random(0, 3, places, 8))
    part = method.views(method.data[places[5:]], Random(0, 3, places[5:], 8))
    assert torch.equal(whole[0][5:], part[0])
    for row in range(3):
        texts = [ids[at][mask[at]] for (_, ids, mask, _), at in ((whole, row + 5), (part, row))]
        assert torch.equal(*texts)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [tiny_images(4), Texts(["one", "two"])])
def test_data_without_captions_do_not_apply(name, wrong):
    with pytest.raises(NotApplicable, match="images with captions"):
        registry.method(name)(tiny_dual(), wrong)


# ---------------------------------------------------------------------------- scale and bias


def test_what_scale_and_bias_start_from():
    clip, siglip = make("clip").encoder, make("siglip").encoder
    assert clip.log_scale.exp().item() == pytest.approx(1 / 0.07)
    assert clip.bias.item() == 0
    assert siglip.log_scale.item() == pytest.approx(math.log(10))
    assert siglip.bias.item() == -10
    assert make("clip", temperature=0.5).encoder.log_scale.exp().item() == pytest.approx(2)
    assert make("siglip", scale=3.0, bias=-1.0).encoder.bias.item() == -1


def test_the_scale_is_kept_at_100_or_below_after_each_step():
    method = make("clip", temperature=0.011)
    with torch.no_grad():
        method.encoder.log_scale.fill_(7.0)
    method.after_step(0.5)
    assert method.encoder.log_scale.exp().item() == pytest.approx(100, rel=1e-5)
    below = make("clip").encoder.log_scale.clone()
    method = make("clip")
    method.after_step(0.5)
    assert torch.equal(method.encoder.log_scale, below)


@pytest.mark.parametrize("name", NAMES)
def test_neither_scale_nor_bias_decays(name):
    method = make(name)
    groups = optim.parameter_groups(method, method.recipe)
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert decay["encoder.log_scale"] == decay["encoder.bias"] == 0
    assert decay["encoder.projection.weight"] == 0.2
    assert decay["encoder.captions.projection.weight"] == 0.2


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("clip", {"temperature": 0.0}),
        ("clip", {"temperature": 0.005}),
        ("siglip", {"scale": 0.0}),
        ("siglip", {"bias": 0.0}),
    ],
)
def test_impossible_settings_are_refused(name, wrong):
    with pytest.raises(ValueError, match="expected, found"):
        make(name, **wrong)


# --------------------------------------------------------------------------------- it learns


@pytest.mark.parametrize("name", NAMES)
def test_names_of_classes_are_learned_from_captions(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    method = make(name)
    method.recipe = replace(method.recipe, batch_size=16, lr=3e-3)
    start = {key: value.clone() for key, value in method.encoder.state_dict().items()}
    outcome = train(method, tmp_path / "run", epochs=12, seed=0)
    assert outcome.loss < 0.7 * math.log(16) if name == "clip" else outcome.loss < 3
    encoder = method.encoder.eval()
    assert encoder.log_scale != start["log_scale"]
    assert (encoder.bias == start["bias"]) == (name == "clip")
    words = [captions[0].removeprefix("a ") for captions in method.data[torch.arange(4)].texts]
    images = encoder(encoder.preprocess(method.data[torch.arange(64)]))
    guesses = (images @ classifier(encoder, words, ("a {}",)).T).argmax(1)
    assert (guesses == torch.arange(64) % 4).float().mean() > 0.8
