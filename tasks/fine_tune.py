"""Fine-tune: train all weights, or the last stages, and a linear layer on the labels.

Of texts as in Devlin, Chang, Lee, Toutanova. BERT. NAACL 2019. arXiv:1810.04805, appendix A.3: a
few epochs at small batches with AdamW, the learning rate chosen among a few on validation. Of
images with a share of the labels as in Chen, Kornblith, Norouzi, Hinton. SimCLR. ICML 2020.
arXiv:2002.05709 (section 6: 1 %, 10 % and 100 % of them), the last stages as in Yosinski, Clune,
Bengio, Lipson. How transferable are features in deep neural networks? NIPS 2014. arXiv:1411.1792,
the learning rate falling towards the input as in BEiT, arXiv:2106.08254.

The encoder is copied, so that the one that is evaluated stays as it is. Each learning rate is one
training run (the same loop as pretraining: killed at any moment, it goes on where it was), judged
on validation after every epoch. The best run at its best epoch is scored on test as it is, without
training again on the validation split.
"""

from dataclasses import replace
from pathlib import Path

import torch

from sslbench.classification import accuracies, reduced
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.finetune import tune
from sslbench.method import Recipe
from sslbench.probe import labels
from sslbench.task import Result, Score, Task

TEXT_RATES, TEXT_EPOCHS = (1e-5, 2e-5, 3e-5, 5e-5), 3  # the paper's
IMAGE_RATES, IMAGE_EPOCHS = (1e-4, 3e-4, 1e-3), 20


class FineTune(Task):
    """Classification with all weights trained, or those of the last stages.

    Args:
        rates: learning rates of AdamW, of which validation chooses one; none: 1e-5, 2e-5, 3e-5 and
            5e-5 for texts, 1e-4, 3e-4 and 1e-3 for images.
        epochs: passes over the training examples at most; 0: 3 for texts, 20 for images.
        batch_size: examples of a step.
        weight_decay: of the weights.
        stages: how many are trained, from the last one on; 0: all weights.
        layer_decay: factor of the learning rate from each stage to the one before it.
        share: of the training labels, in (0, 1], drawn with the seed, with as large a share of
            validation.
        train_examples: the same as a number; 0: all.
    """

    paper = "arXiv:1810.04805"
    modality = "any"
    metric = "top1"
    version = 2
    target = "label"
    long = True

    def __init__(
        self,
        *,
        rates: tuple[float, ...] = (),
        epochs: int = 0,
        batch_size: int = 32,
        weight_decay: float = 0.01,
        stages: int = 0,
        layer_decay: float = 1.0,
        share: float = 1.0,
        train_examples: int = 0,
    ) -> None:
        if min(rates, default=1) <= 0 or batch_size < 1 or min(epochs, stages, train_examples) < 0:
            raise UserError(
                "rates > 0, batch_size ≥ 1, epochs, stages and train_examples ≥ 0 expected, found "
                f"{rates}, {batch_size}, {epochs}, {stages} and {train_examples}"
            )
        if not (0 < share <= 1 and 0 < layer_decay <= 1):
            raise UserError(f"share, layer_decay in (0, 1] expected, found {share}, {layer_decay}")
        self.rates, self.epochs = rates, epochs
        self.stages, self.layer_decay = stages, layer_decay
        self.share, self.train_examples = share, train_examples
        self.recipe = Recipe(
            "adamw", weight_decay=weight_decay, batch_size=batch_size, warmup=0.1, schedule="linear"
        )

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Accuracy on test of the run and the epoch that are best on validation."""
        if any(labels(data, split).ndim != 1 for split in ("train", "validation", "test")):
            raise NotApplicable(f"{data.name}: one label per example needed, it has several")
        encoder.preprocess(data["train"][torch.zeros(1, dtype=torch.long)])  # can it read them?
        n = len(data["train"])
        count = min(round(self.share * n), self.train_examples or n)
        given = reduced(data, max(count, 1), seed)
        images = encoder.image_size is not None
        rates = self.rates or (IMAGE_RATES if images else TEXT_RATES)
        epochs = self.epochs or (IMAGE_EPOCHS if images else TEXT_EPOCHS)
        found = {
            lr: tune(
                encoder,
                given,
                replace(self.recipe, lr=lr),
                epochs=epochs,
                stages=self.stages,
                decay=self.layer_decay,
                seed=seed,
                folder=folder / f"lr-{lr:g}",
            )
            for lr in rates
        }
        lr = max(rates, key=lambda rate: found[rate][1])  # the first among equals
        method, _, epoch = found[lr]
        scores = accuracies(labels(data, "test"), method.predict(data["test"]))
        return Result(
            {name: Score.mean(values) for name, values in scores.items()},
            {
                "split": "validation",
                "lr": lr,
                "epoch": epoch,
                "train_examples": len(given["train"]),
                "validation": {f"{rate:g}": score for rate, (_, score, _) in found.items()},
            },
        )
