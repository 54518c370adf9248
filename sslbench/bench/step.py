"""A training step of sslbench against the same step written by hand with plain torch.

What the loop adds (feed, seeding, checks, schedules, log, collapse monitor) is to cost 5 % at most.
Both sides share the encoder's network and what makes the views; the hand-written one has its own
heads, losses, teacher, parameter groups and learning rates, and neither checks nor logs.
"""

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from sslbench import registry
from sslbench.bench.timing import Goal, Timing, close
from sslbench.corpus import corrupted, enclosed
from sslbench.data.feed import Feed
from sslbench.data.split import Batch, ImageArray, Split, Texts
from sslbench.encoder import build
from sslbench.method import Method
from sslbench.optim import LARS
from sslbench.pretrain import Options, train
from sslbench.random import Random

SEED = 0
SAME = 5  # steps whose losses are compared
TOLERANCE = 1e-4  # of their ratio

Step = Callable[[int, Tensor], Tensor]
"""Number of the step, and positions (B,) of its examples in the data → the loss."""


@dataclass(frozen=True)
class Work:
    """A method at one size.

    Attributes:
        name: of the method.
        by_hand: (method, steps, settings that differ) → the step written by hand, with the weights
            of the method.
        encoder: its configuration.
        batch_size: B.
        epochs: passes over `data`.
        data: what to train on.
        settings: of the method.
    """

    name: str
    by_hand: Callable[..., Step]
    encoder: dict[str, Any]
    batch_size: int
    epochs: int
    data: Callable[[], Split]
    settings: dict[str, Any] = field(default_factory=dict)

    def method(self) -> Method:
        """A new one, always with the same weights."""
        torch.manual_seed(SEED)
        data = self.data()
        method = registry.method(self.name)(build(self.encoder, data), data, **self.settings)
        method.recipe = method.recipe.override(batch_size=self.batch_size)
        return method.train()


def measure(rounds: int) -> Iterator[Timing]:
    """One line for each method; see `sslbench.bench.measure`."""
    for work in WORKS:
        method = work.method()
        same = compare(work, method)
        found = [in_turn(work, method) for _ in range(rounds)]
        ours, theirs = zip(*found, strict=True)
        yield Timing(
            f"step/{work.name}",
            f"one step of {method.encoder.label}, batch {work.batch_size}",
            "by hand",
            ours,
            theirs,
            Goal("within", 1.05),
            same,
        )


def compare(work: Work, method: Method) -> str:
    """What to say of the losses of the first steps of both. Raises UnequalError."""
    epochs = -(-SAME // (len(method.data) // work.batch_size))
    ours: list[float] = []
    options = Options(progress=lambda _, __, line: ours.append(line["loss"]), log_steps=1)
    _train(method, epochs, options)
    batches = order(work, method, epochs)
    step = work.by_hand(method, len(batches))
    theirs = [float(step(number, batches[number])) for number in range(SAME)]
    ratio = np.array(theirs) / np.array(ours[:SAME])
    return close(f"losses of {SAME} steps, their ratio to 1", ratio, np.ones(SAME), TOLERANCE)


def in_turn(work: Work, method: Method) -> tuple[float, float]:
    """Seconds of a step of both in one run each, a step of ours and then the same by hand.

    The step by hand runs where the loop of sslbench asks whether it is interrupted, so that what
    else the machine does slows down both. The first step of each is left out.
    """
    batches = order(work, method, work.epochs)
    turns = _Turns(work.by_hand(method, len(batches)), batches)
    _train(method, work.epochs, Options(interruption=turns))
    timed = len(batches) - 1
    return turns.ours / timed, turns.theirs / timed


class _Turns:
    """An Interruption that never asks for one, but takes a step of its own."""

    def __init__(self, step: Step, batches: list[Tensor]) -> None:
        self.step, self.batches = step, batches
        self.number, self.ours, self.theirs, self.begun = 0, 0.0, 0.0, 0.0

    def asked(self) -> bool:
        """No."""
        ended = time.perf_counter()
        self.step(self.number, self.batches[self.number])
        begun = time.perf_counter()
        if self.number:
            self.ours += ended - self.begun
            self.theirs += begun - ended
        self.number, self.begun = self.number + 1, time.perf_counter()
        return False

    def saved(self) -> None:
        """Of no interest."""


def _train(method: Method, epochs: int, options: Options) -> None:
    with TemporaryDirectory() as folder:
        train(deepcopy(method), Path(folder), epochs=epochs, seed=SEED, options=options)


def order(work: Work, method: Method, epochs: int) -> list[Tensor]:
    """Positions (B,) of the examples of every step."""
    feed = Feed(method.data, work.batch_size, SEED)
    return [batch.index for batch in feed.batches(0, epochs * feed.epoch_steps)]


# ------------------------------------------------------------------ by hand: what steps share


def draws(number: int, size: int) -> Random:
    """Those of sslbench for a batch."""
    return Random(SEED, number, torch.arange(size), size)


def warm_cosine(progress: float, warmup: float) -> float:
    """Factor of the learning rate: linear from 0 to 1, then half a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def lars(parts: list[nn.Module], weight_decay: float) -> LARS:
    """Over the parts; biases and norms neither decay nor adapt."""
    weights = [p for part in parts for p in part.parameters()]
    plain = {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0, "adapt": False}
    large = {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay}
    return LARS([large, plain], lr=0.0)


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, lr: float) -> Tensor:
    """One step of the optimiser; gives the loss."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return loss.detach()


def perceptron(of: nn.Module, *dims: int, norm: bool = True) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them, with the weights of `of`."""
    layers: list[nn.Module] = []
    for width, out in pairwise(dims[:-1]):
        layers.append(nn.Linear(width, out, bias=not norm))
        layers += [nn.BatchNorm1d(out), nn.ReLU()] if norm else [nn.ReLU()]
    head = nn.Sequential(*layers, nn.Linear(dims[-2], dims[-1]))
    head.load_state_dict(of.state_dict())
    return head


# ------------------------------------------------------------------ by hand: one function a method


def simclr(method: Any, steps: int, temperature: float = 0.1) -> Step:
    """NT-Xent: algorithm 1 of arXiv:2002.05709."""
    encoder, images, augment = deepcopy(method.encoder), method.data.images, method.augmentation
    hidden, dim = encoder.dim, method.projector[-1].out_features
    projector = perceptron(method.projector, hidden, hidden, dim, norm=False)
    optimizer = lars([encoder, projector], 1e-6)

    def step(number: int, index: Tensor) -> Tensor:
        B, batch, random = len(index), Batch(index, images[index]), draws(number, len(index))
        views = [augment(batch, encoder.image_size, random) for _ in range(2)]
        z = F.normalize(projector(encoder(torch.cat(views))), dim=1)
        logits = (z @ z.T / temperature).fill_diagonal_(-math.inf)
        loss = F.cross_entropy(logits, (torch.arange(2 * B) + B) % (2 * B))
        return descend(loss, optimizer, 0.3 * B / 256 * warm_cosine(number / steps, 0.1))

    return step


def byol(method: Any, steps: int, tau: float = 0.996) -> Step:
    """Equations 1 and 2 of arXiv:2006.07733."""
    encoder, images = deepcopy(method.encoder), method.data.images
    hidden, dim = method.predictor[0].out_features, method.predictor[0].in_features
    student = nn.Sequential(encoder, perceptron(method.projector, encoder.dim, hidden, dim))
    predictor = perceptron(method.predictor, dim, hidden, dim)
    teacher = deepcopy(student).requires_grad_(False)
    state = student.state_dict()
    pairs = [(slow, state[name]) for name, slow in teacher.state_dict().items()]
    pairs = [(slow, fast) for slow, fast in pairs if slow.is_floating_point()]
    optimizer = lars([student, predictor], 1.5e-6)

    def regression(p: Tensor, z: Tensor) -> Tensor:
        cosine = (F.normalize(p, dim=1) * F.normalize(z, dim=1)).sum(1)
        return 2 - 2 * cosine.mean()

    def step(number: int, index: Tensor) -> Tensor:
        batch, random = Batch(index, images[index]), draws(number, len(index))
        a, b = (view(batch, encoder.image_size, random) for view in (method.first, method.second))
        p, q = predictor(student(a)), predictor(student(b))
        with torch.no_grad():
            x, y = teacher(a), teacher(b)
        loss = regression(p, y) + regression(q, x)
        lr = 0.2 * len(index) / 256 * warm_cosine(number / steps, 0.01)
        descend(loss, optimizer, lr)
        share = (1 - tau) * (math.cos(math.pi * (number + 1) / steps) + 1) / 2
        with torch.no_grad():
            for slow, fast in pairs:
                slow.lerp_(fast, share)
        return loss.detach()

    return step


def vicreg(method: Any, steps: int, weights: tuple[float, float, float] = (25, 25, 1)) -> Step:
    """Algorithm 1 of arXiv:2105.04906."""
    encoder, images, augment = deepcopy(method.encoder), method.data.images, method.augmentation
    hidden, dim = method.expander[0].out_features, method.expander[-1].out_features
    expander = perceptron(method.expander, encoder.dim, hidden, hidden, dim)
    optimizer = lars([encoder, expander], 1e-6)

    def spread(z: Tensor) -> Tensor:
        return torch.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean()

    def redundancy(z: Tensor) -> Tensor:
        z = z - z.mean(0)
        c = z.T @ z / (len(z) - 1)
        return (c.square().sum() - c.diagonal().square().sum()) / z.shape[1]

    def step(number: int, index: Tensor) -> Tensor:
        batch, random = Batch(index, images[index]), draws(number, len(index))
        views = [augment(batch, encoder.image_size, random) for _ in range(2)]
        a, b = (expander(encoder(view)) for view in views)
        s, v, c = F.mse_loss(a, b), spread(a) + spread(b), redundancy(a) + redundancy(b)
        loss = weights[0] * s + weights[1] * v + weights[2] * c
        lr = 0.2 * len(index) / 256 * warm_cosine(number / steps, 0.01)
        return descend(loss, optimizer, lr)

    return step


def mae(method: Any, steps: int, mask_ratio: float = 0.75) -> Step:
    """Section 3 of arXiv:2111.06377, with normalised targets."""
    images, augment, positions = method.data.images, method.augmentation, method.positions
    parts = {name: getattr(method, name) for name in ("encoder", "embed", "decoder", "head")}
    net: Any = nn.ModuleDict(deepcopy(parts))
    encoder, vit, hole = net["encoder"], net["encoder"].model, deepcopy(method.mask_token)
    side = encoder.image_size // encoder.patch
    kept, width = int(side**2 * (1 - mask_ratio)), 3 * encoder.patch**2
    weights = [*net.named_parameters()]
    plain = [p for n, p in weights if p.ndim < 2 or n.endswith(("cls_token", "pos_embed"))]
    large = [p for _, p in weights if all(p is not q for q in plain)]
    groups = [
        {"params": large, "weight_decay": 0.05},
        {"params": [*plain, hole], "weight_decay": 0.0},
    ]
    optimizer = AdamW(groups, betas=(0.9, 0.95))

    def step(number: int, index: Tensor) -> Tensor:
        B, batch, random = len(index), Batch(index, images[index]), draws(number, len(index))
        pixels = (augment(batch, encoder.image_size, random) - encoder.mean) / encoder.std
        shuffle = random.permutation(side**2)
        rows = torch.arange(B)[:, None]

        x = vit.patch_embed(pixels).flatten(1, -2) + vit.pos_embed[:, 1:]
        token = (vit.cls_token + vit.pos_embed[:, :1]).expand(B, -1, -1)
        x = vit.norm(vit.blocks(torch.cat([token, x[rows, shuffle[:, :kept]]], 1)))[:, 1:]
        holes = hole.expand(B, side**2 - kept, -1)
        y = torch.cat([net["embed"](x), holes], 1) + positions[shuffle]
        y = net["head"](net["decoder"](y)[:, kept:])

        cut = pixels.view(B, 3, side, encoder.patch, side, encoder.patch)
        target = cut.permute(0, 2, 4, 1, 3, 5).reshape(B, side**2, width)[rows, shuffle[:, kept:]]
        var, mean = torch.var_mean(target, 2, keepdim=True)
        loss = F.mse_loss(y, (target - mean) / (var + 1e-6).sqrt())
        return descend(loss, optimizer, 1.5e-4 * B / 256 * warm_cosine(number / steps, 0.05))

    return step


def mlm(method: Any, steps: int, selected: float = 0.15) -> Step:
    """Section 3.1 of arXiv:1810.04805: masked words, and whether two passages are neighbours."""
    passages, tokenizer = method.passages, method.encoder.tokenizer
    bert, D = deepcopy(method.encoder.model), method.encoder.dim
    pooler, follows = nn.Linear(D, D), nn.Linear(D, 2)
    pooler.load_state_dict(method.pooler[0].state_dict())
    follows.load_state_dict(method.follows.state_dict())
    weights = [*bert.named_parameters(), *pooler.named_parameters(), *follows.named_parameters()]
    large = [p for n, p in weights if p.ndim > 1 and "embeddings" not in n]
    plain = [p for n, p in weights if p.ndim < 2 or "embeddings" in n]
    groups = [{"params": large, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = AdamW(groups, betas=(0.9, 0.999))

    def step(number: int, index: Tensor) -> Tensor:
        B, first, random = len(index), passages.first[index], draws(number, len(index))
        draw = random.uniform(2)
        neighbours = draw[:, 0] < 0.5
        second = torch.where(neighbours, first + 1, passages.elsewhere(first, draw[:, 1]))
        row = enclosed(tokenizer, passages.rows[first].tokens, passages.rows[second].tokens)
        ids, labels = corrupted(tokenizer, row, random, selected=selected, masked=0.8, replaced=0.1)

        x = bert.bert(ids, row.mask.long(), row.segments).last_hidden_state
        chosen = labels >= 0
        words = F.cross_entropy(bert.cls(x[chosen]), labels[chosen])
        pairs = F.cross_entropy(follows(pooler(x[:, 0]).tanh()), neighbours.long())
        progress = number / steps
        lr = progress / 0.01 if progress < 0.01 else (1 - progress) / 0.99
        return descend(words + pairs, optimizer, 1e-4 * B / 256 * lr)

    return step


# ------------------------------------------------------------------ sizes


def patterns(n: int, size: int) -> ImageArray:
    """Random images (n, 3, size, size): coarse patterns with noise."""
    random = np.random.default_rng(0)
    coarse = random.uniform(40, 215, (n, 3, 4, 4)).repeat(size // 4, 2).repeat(size // 4, 3)
    noisy = coarse + random.normal(0, 20, coarse.shape)
    return ImageArray(noisy.clip(0, 255).astype(np.uint8), None)


def prose(n: int, sentences: int, words: int = 3000) -> Texts:
    """Documents of random words, the first of them the most frequent."""
    random = np.random.default_rng(0)
    syllables = np.array([a + b for a in "bdfghklmnprstvz" for b in "aeiou"])
    known = np.array(["".join(random.choice(syllables, 3)) for _ in range(words)])

    def sentence() -> str:
        ranks = words ** random.random(random.integers(6, 18))
        return " ".join(known[ranks.astype(int)]).capitalize() + "."

    return Texts([" ".join(sentence() for _ in range(sentences)) for _ in range(n)])


RESNET = {"name": "resnet18", "width": 16, "image_size": 32, "stem": "conv3_stride2"}
VIT = {
    "name": "vit_tiny_patch16_224",
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 192,
    "depth": 3,
    "num_heads": 3,
}
BERT = {
    "name": "bert",
    "vocabulary": 2000,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 64,
}
DECODER = {"decoder_dim": 96, "decoder_depth": 1, "decoder_heads": 3}


def _images() -> ImageArray:
    return patterns(5 * 128, 32)


def _texts() -> Texts:
    return prose(26, 40)


WORKS = (
    Work("simclr", simclr, RESNET, 128, 4, _images),
    Work("byol", byol, RESNET, 128, 4, _images, {"hidden": 512}),
    Work("vicreg", vicreg, RESNET, 128, 4, _images, {"hidden": 512, "dim": 512}),
    Work("mae", mae, VIT, 128, 4, _images, DECODER),
    Work("mlm", mlm, BERT, 64, 2, _texts),
)
