"""Multiple choice: which ending belongs to a context, by a linear model of frozen features.

The task is that of Zellers, Bisk, Schwartz, Choi. SWAG: A Large-Scale Adversarial Dataset for
Grounded Commonsense Inference. EMNLP 2018. arXiv:1808.05326. Every context and every ending is
encoded apart; [u, v, |u − v|, u · v] (Conneau et al. arXiv:1705.02364, section 3.1) goes into a
logistic regression that tells right endings from wrong ones, and the ending of highest logit is the
answer, which is that of highest softmax over the endings too.

C is chosen on validation by the share of right answers; the model is fitted again on train and
validation. `top1` is that share. It suits any number of endings; a causal model's likelihood of
each ending is another protocol.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sslbench.classification import reduced
from sslbench.data.split import Dataset, Split, Texts
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.probe import Probe, choose, fit_probes, labels
from sslbench.task import Result, Score, Task
from sslbench.text import combined


class MultipleChoice(Task):
    """Linear separability of right endings from wrong ones.

    Args:
        layer: "last" or a layer's name.
        train_examples: contexts to train on, drawn with the seed, with as large a share of
            validation; 0: all.
    """

    paper = "arXiv:1808.05326"
    metric = "top1"
    version = 3
    modality = "text"
    target = "choice"

    def __init__(self, *, layer: str = "last", train_examples: int = 5_000) -> None:
        if train_examples < 0:
            raise UserError(f"train_examples ≥ 0 expected, found {train_examples}")
        if layer == "all":
            raise UserError("layer = 'all': one layer expected, 'last' or its name")
        self.layer, self.train_examples = layer, train_examples

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Choose C on validation, fit again, answer the test split."""
        data = reduced(data, self.train_examples, seed)
        train = self._candidates(encoder, data, "train")
        held_out = self._candidates(encoder, data, "validation")
        C, value = choose(train.features, train.right, lambda fit: float(held_out.hits(fit).mean()))
        both = [np.concatenate(parts) for parts in zip(train[:2], held_out[:2], strict=True)]
        (fit,) = fit_probes(both[0], both[1], [C])
        scores = {"top1": Score.mean(self._candidates(encoder, data, "test").hits(fit))}
        return Result(scores, {"split": "validation", "C": C, "top1": value})

    def _candidates(self, encoder: Encoder, data: Dataset, name: str) -> "_Candidates":
        answers, texts = labels(data, name), _texts(data[name])
        if any(len(text) <= answer + 1 for text, answer in zip(texts, answers, strict=True)):
            raise NotApplicable(f"{data.name}: an answer that is none of its endings")
        pairs = Texts([(context, ending) for context, *endings in texts for ending in endings])
        counts = np.array([len(text) - 1 for text in texts])
        right = np.zeros(len(pairs), np.int64)
        right[counts.cumsum() - counts + answers] = 1
        found = list(combined(encoder, pairs, self.layer).values())[-1]
        return _Candidates(found, right, counts)


class _Candidates(NamedTuple):
    """Contexts with each of their endings, m in all.

    Attributes:
        features: (m, 4 D).
        right: (m,) 1 for right endings, else 0.
        counts: (n,) endings of each context.
    """

    features: np.ndarray
    right: np.ndarray
    counts: np.ndarray

    def hits(self, fit: Probe) -> np.ndarray:
        """(n,) 1 where the right ending has the highest logit, the first of equal ones."""
        logits = fit.classifier.logits(torch.tensor(self.features))[:, 1].numpy()
        ends = self.counts.cumsum()[:-1]
        pairs = zip(np.split(logits, ends), np.split(self.right, ends), strict=True)
        return np.array([right[logit.argmax()] for logit, right in pairs], np.float64)


def _texts(split: Split) -> list[tuple[str, ...]]:
    return [t for i in torch.arange(len(split)).split(256) for t in split[i].texts or []]
