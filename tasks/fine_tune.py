"""Fine-tune: train all weights and a linear layer on the labels.

Devlin, Chang, Lee, Toutanova. BERT. NAACL 2019. arXiv:1810.04805, appendix A.3: a few epochs at
small batches, the learning rate chosen among a few on the validation split.

The encoder is copied, so that the one that is evaluated stays as it is. Each learning rate is one
training run (the same loop as pretraining: killed at any moment, it goes on where it was), judged
on validation; the chosen run's weights are scored on test as they are, without training again on
the validation split.
"""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.checkpoint import load_state
from sslbench.classification import accuracies, reduced
from sslbench.data.augment import Augmentation
from sslbench.data.split import Batch, Dataset, Split
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe
from sslbench.pretrain import Options, train
from sslbench.probe import labels
from sslbench.random import Random, mix
from sslbench.task import Result, Score, Task

BATCH = 256
VIEWS = Augmentation(crop_scale=(0.5, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


class FineTune(Task):
    """Classification with all weights trained.

    Args:
        rates: learning rates of AdamW, of which validation chooses one.
        epochs: passes over the training examples.
        batch_size: examples of a step.
        weight_decay: of the weights.
        train_examples: how many to train on, drawn with the seed, with as large a share of
            validation; 0: all.
    """

    paper = "arXiv:1810.04805"
    modality = "any"
    metric = "top1"
    target = "label"

    def __init__(
        self,
        *,
        rates: tuple[float, ...] = (1e-5, 2e-5, 3e-5, 5e-5),
        epochs: int = 3,
        batch_size: int = 32,
        weight_decay: float = 0.01,
        train_examples: int = 0,
    ) -> None:
        if not rates or min(rates) <= 0 or epochs < 1 or batch_size < 1 or train_examples < 0:
            raise ValueError(
                "rates > 0, epochs ≥ 1, batch_size ≥ 1 and train_examples ≥ 0 expected, found "
                f"{rates}, {epochs}, {batch_size} and {train_examples}"
            )
        self.rates, self.epochs, self.train_examples = rates, epochs, train_examples
        self.recipe = Recipe(
            "adamw", weight_decay=weight_decay, batch_size=batch_size, warmup=0.1, schedule="linear"
        )

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Accuracy on test of the run that is best on validation."""
        if any(labels(data, split).ndim != 1 for split in ("train", "validation", "test")):
            raise NotApplicable(f"{data.name}: one label per example needed, it has several")
        encoder.preprocess(data["train"][torch.zeros(1, dtype=torch.long)])  # can it read them?
        given = reduced(data, self.train_examples, seed)
        found = {}
        for lr in self.rates:
            method = self._trained(encoder, given, lr, seed, folder)
            top1 = accuracies(*_judged(method, given["validation"]))["top1"]
            found[lr] = float(top1.mean())
        best = max(self.rates, key=lambda lr: found[lr])  # the first among equals
        method = self._trained(encoder, given, best, seed, folder)
        scores = accuracies(*_judged(method, data["test"]))
        return Result(
            {name: Score.mean(values) for name, values in scores.items()},
            {"lr": best, "validation": {f"{lr:g}": value for lr, value in found.items()}},
        )

    def _trained(
        self, encoder: Encoder, data: Dataset, lr: float, seed: int, folder: Path
    ) -> "_Classifier":
        """The run with one learning rate, from its folder if it has ended before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(seed, 1))
            method = _Classifier(copy.deepcopy(encoder), data["train"], data.classes)
        method.recipe = replace(self.recipe, lr=lr)
        place = folder / f"lr-{lr:g}"
        options = Options(device=str(encoder.device))
        train(method, place, epochs=self.epochs, seed=seed, options=options)
        method.load_state_dict(load_state(place / "state.pt", encoder.device)["method"])
        return method.eval()


class _Classifier(Method):
    """An encoder with a linear layer on top."""

    paper = ""
    modality = "any"

    def __init__(self, encoder: Encoder, data: Split, classes: int) -> None:
        super().__init__(encoder.requires_grad_(True), data)
        self.classifier = nn.Linear(encoder.dim, classes).to(encoder.device)

    def views(self, batch: Batch, random: Random) -> tuple[object, Tensor]:
        """Inputs, of images a random crop, and labels (B,)."""
        if self.encoder.image_size is not None:
            return VIEWS(batch, self.encoder.image_size, random), batch.target
        return self.encoder.preprocess(batch), batch.target

    def loss(self, views: tuple[object, Tensor], progress: float) -> Tensor:
        """−(1/B) Σ log softmax(W f(x))_y."""
        inputs, labels = views
        return F.cross_entropy(self.classifier(self.encoder(inputs)), labels)


@torch.inference_mode()
def _judged(method: _Classifier, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted labels (n,)."""
    found = []
    for index in torch.arange(len(split)).split(BATCH):
        inputs = method.encoder.preprocess(split[index].to(method.encoder.device))
        found.append(method.classifier(method.encoder(inputs)).argmax(1).cpu().numpy())
    assert split.labels is not None
    return split.labels, np.concatenate(found)
