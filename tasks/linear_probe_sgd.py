"""Linear probe by SGD: 52 linear classifiers on one pass over the features, validation takes one.

Oquab et al. DINOv2: Learning Robust Visual Features without Supervision. TMLR 2024.
arXiv:2304.07193 (section 7.1; as in the released evaluation: 13 learning rates, the last block or
the last four, with or without the pooled patches; SGD with momentum and cosine decay, no weight
decay).

Every classifier sees the same batches. The chosen one is trained again, on train and validation,
and the test split is read once. Learning rates are those of a global batch of 256 and scale
linearly with `batch_size`, whatever the number of processes.

Differs from the paper: on cached features of images as they are, without crops and flips; what is
classified are averages of the last one or four blocks (of a convolutional network: stages, over
3 × 3 cells), with or without the encoder's own pooling, because these are what every encoder has;
the paper takes what is best on the set that it reports.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.checkpoint import load_state
from sslbench.classification import correct
from sslbench.data.split import Batch, Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.features import features
from sslbench.method import Method, Recipe
from sslbench.pretrain import Options, train
from sslbench.probe import labels
from sslbench.random import Random, mix
from sslbench.task import Result, Score, Task

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
BLOCKS = (1, 4)
PER = 256  # examples in the batch that the rates are for
PART = 4_096

Layers = Mapping[str, np.ndarray]  # features (n, D_i) by layer
Inputs = Mapping[str, tuple[str, ...]]  # the layers that are put side by side, by name


class LinearProbeSGD(Task):
    """Linear separability of the classes, by 52 classifiers trained at once.

    Args:
        epochs: passes over the training examples.
        batch_size: examples of a step.
    """

    paper = "arXiv:2304.07193"
    modality = "any"
    metric = "top1"
    version = 1
    target = "label"

    def __init__(self, *, epochs: int = 10, batch_size: int = 128) -> None:
        if epochs < 1 or batch_size < 1:
            raise UserError(f"epochs ≥ 1, batch_size ≥ 1 expected, found {epochs}, {batch_size}")
        self.epochs, self.batch_size = epochs, batch_size

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Choose input and learning rate on validation, train again, score the test split."""
        truth = {name: labels(data, name) for name in ("train", "validation", "test")}
        if any(values.ndim != 1 for values in truth.values()):
            raise NotApplicable(f"{data.name}: one label per example needed, it has several")
        metric = "mean_per_class" if data.metric == "mean_per_class" else "top1"
        known, held_out = (features(encoder, data[s], "all") for s in ("train", "validation"))
        inputs = _inputs([*known])

        heads = _Heads(
            copy.deepcopy(encoder), _Rows(known, truth["train"]), data.classes, inputs, RATES
        )
        self._train(heads, seed, folder / "all")
        found = {
            (name, rate): float(correct(truth["validation"], guess)[metric].mean())
            for name, guesses in heads.judge(held_out).items()
            for rate, guess in zip(RATES, guesses, strict=True)
        }
        name, rate = max(found, key=lambda choice: found[choice])  # the first among equals

        parts = inputs[name]
        both = {layer: np.concatenate([known[layer], held_out[layer]]) for layer in parts}
        rows = _Rows(both, np.concatenate([truth["train"], truth["validation"]]))
        best = _Heads(copy.deepcopy(encoder), rows, data.classes, {name: parts}, (rate,))
        self._train(best, seed, folder / "best")
        (guess,) = best.judge(features(encoder, data["test"], "all"))[name]
        scores = correct(truth["test"], guess)
        return Result(
            {name: Score.mean(values) for name, values in scores.items()},
            {
                "split": "validation",
                "input": name,
                "lr": rate,
                metric: found[name, rate],
                "all": {f"{name}, {rate:g}": value for (name, rate), value in found.items()},
            },
        )

    def _train(self, heads: "_Heads", seed: int, folder: Path) -> None:
        """Train, or take what was trained before from the folder."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(seed, 1))
            heads.reset()
        lr, size = max(heads.rates), min(self.batch_size, len(heads.data))
        heads.recipe = Recipe("sgd", lr=lr * size / PER, momentum=0.9, batch_size=size)
        device = heads.encoder.device
        train(heads, folder, epochs=self.epochs, seed=seed, options=Options(device=str(device)))
        heads.load_state_dict(load_state(folder / "state.pt", device)["method"])


@dataclass(frozen=True)
class _Rows:
    """What the training loop draws from: features by layer, and labels (n,)."""

    layers: Layers
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Batch:
        return Batch(index, target=torch.from_numpy(self.labels[index.numpy()]))


class _Heads(Method):
    """A linear classifier for each input and learning rate, beside an encoder that rests."""

    paper = ""
    modality = "any"
    data: _Rows

    def __init__(
        self,
        encoder: Encoder,
        data: _Rows,
        classes: int,
        inputs: Inputs,
        rates: tuple[float, ...],
    ) -> None:
        super().__init__(encoder.requires_grad_(False), data)
        self.classes, self.inputs, self.rates = classes, inputs, rates
        widths = [sum(data.layers[layer].shape[1] for layer in parts) for parts in inputs.values()]
        self.linears = [nn.Linear(width, len(rates) * classes) for width in widths]
        self.heads = nn.ModuleList(self.linears).to(encoder.device)

    def reset(self) -> None:
        """Weights from N(0, 0.01²), no biases."""
        for head in self.linears:
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def views(self, batch: Batch, random: Random) -> tuple[list[Tensor], Tensor]:
        """Features (B, D) of each input, and labels (B,)."""
        return self._rows(self.data.layers, batch.index.cpu().numpy()), batch.target

    def loss(self, views: tuple[list[Tensor], Tensor], progress: float) -> Tensor:
        """Σ over classifiers of rate / largest rate · cross-entropy.

        With SGD that does not decay weights, a factor of the loss is one of the learning rate.
        """
        inputs, labels = views
        total = torch.zeros((), device=labels.device)
        for logits in self._logits(inputs):
            for rate, own in zip(self.rates, logits.unbind(1), strict=True):
                total = total + rate / max(self.rates) * F.cross_entropy(own, labels)
        return total

    @torch.inference_mode()
    def judge(self, layers: Layers) -> dict[str, np.ndarray]:
        """The predicted labels (rates, n) by input."""
        n = len(next(iter(layers.values())))
        parts = [
            [logits.argmax(2).cpu().numpy() for logits in self._logits(self._rows(layers, index))]
            for index in np.split(np.arange(n), range(PART, n, PART))
        ]
        found = (np.concatenate(part).T for part in zip(*parts, strict=True))
        return dict(zip(self.inputs, found, strict=True))

    def _rows(self, layers: Layers, index: np.ndarray) -> list[Tensor]:
        """Features (B, D) of each input at some positions."""
        device = self.encoder.device
        return [
            torch.from_numpy(np.concatenate([layers[part][index] for part in parts], 1)).to(device)
            for parts in self.inputs.values()
        ]

    def _logits(self, inputs: list[Tensor]) -> list[Tensor]:
        """(B, rates, classes) of each input."""
        pairs = zip(self.linears, inputs, strict=True)
        return [head(x).unflatten(1, (-1, self.classes)) for head, x in pairs]


def _inputs(layers: list[str]) -> dict[str, tuple[str, ...]]:
    """The last block or the last four, with and without the encoder's own pooling."""
    *blocks, pooled = layers
    if not blocks:
        return {pooled: (pooled,)}
    found = {}
    for count in BLOCKS:
        found[f"{count} blocks"] = tuple(blocks[-count:])
        found[f"{count} blocks and {pooled}"] = (*blocks[-count:], pooled)
    return found
