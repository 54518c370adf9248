"""Tagging: a tag for each word, by logistic regression on frozen states of its first token.

Tenney et al. What do you learn from context? Probing for sentence structure in contextualized word
representations. ICLR 2019. arXiv:1905.06316 (linear and small probes of frozen states; the layers
compared); the state of a word's first sub-word: Devlin et al. BERT. NAACL 2019. arXiv:1810.04805
(section 5.3).

Multinomial, on standardised states, C chosen on validation by the dataset's main metric among
eleven values from 1e-4 to 10 (with tens of thousands of words, weaker penalties change little and
cost most of the time), and the probe fitted again on train and validation. `top1` is the share of
words with the right tag. Where tags mark spans (B-, I-, O), `span_f1` is the micro F1 of whole
spans, CoNLL's and seqeval's. Words that have no token, because the sentence is longer than the
encoder takes or the tokenizer drops them, count as wrong and as outside of spans. Intervals
resample sentences: each contributes what it adds to the ratio of sums.

A sentence is its words with spaces between them; a word's first token is the first one that ends
in it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sslbench.classification import reduced
from sslbench.contributions import ratio
from sslbench.data.split import Dataset, Split
from sslbench.encoder import Encoder
from sslbench.errors import UserError, suggest
from sslbench.probe import Probe, choose, fit_probes
from sslbench.tags import OUTSIDE, is_bio, span_f1
from sslbench.task import Result, Score, Task
from sslbench.text import text_encoder
from sslbench.text_encoder import TextEncoder
from sslbench.words import Words, word_states

PART = 2_000  # sentences of the test split whose states are held at once


PENALTIES = [10.0 ** (half / 2) for half in range(-8, 3)]


class Tagging(Task):
    """Linear separability of the tags of words.

    Args:
        layer: "last", "embeddings", "block1" …, or "all" for the layer that is best on validation.
        train_examples: sentences to train on, drawn with the seed, with as large a share of
            validation; 0: all.
    """

    paper = "arXiv:1905.06316"
    metric = "top1"
    version = 3
    modality = "text"
    target = "tags"

    def __init__(self, *, layer: str = "last", train_examples: int = 2_000) -> None:
        if train_examples < 0:
            raise UserError(f"train_examples ≥ 0 expected, found {train_examples}")
        self.layer, self.train_examples = layer, train_examples

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Choose C (and the layer) on validation, fit again, tag the test split."""
        model, data = text_encoder(encoder), reduced(data, self.train_examples, seed)
        layers = self._layers(model)

        def states(layer: str, split: Split) -> Words:
            return word_states(model, split, layers[layer])

        def known(layer: str) -> tuple[Words, Words]:
            return states(layer, data["train"]), states(layer, data["validation"])

        chosen = {layer: _choose(*known(layer), data.metric) for layer in layers}

        def test(layer: str) -> dict[str, Score]:
            both = known(layer)
            x = np.concatenate([words.states for words in both])
            y = np.concatenate([words.known for words in both])
            (fit,) = fit_probes(x, y, [chosen[layer]["C"]])
            tags: list[list[str]] = []
            found: list[list[str]] = []
            for index in torch.arange(len(data["test"])).split(PART):
                words = states(layer, data["test"].take(index.numpy()))
                tags += words.tags
                found += words.filled(fit.predict(torch.tensor(words.states)))
            parts = _scores(tags, found, is_bio(y))
            return {name: Score.mean(contributions) for name, contributions in parts.items()}

        last = list(layers)[-1]
        selected: dict[str, Any] = {"split": "validation", "layer": last, **chosen[last]}
        scores = test(last)
        if self.layer == "all":
            best = max(chosen, key=lambda layer: chosen[layer][data.metric])
            scores["top1_best_layer"] = test(best)["top1"]
            selected |= {"best_layer": best, "layers": chosen}
        return Result(scores, selected)

    @torch.inference_mode()
    def _layers(self, encoder: TextEncoder) -> dict[str, int]:
        """Place in `hidden` of each layer to probe, by name."""
        count = len(encoder.hidden(encoder.tokenizer(["a"], encoder.length).to(encoder.device)))
        names = ["embeddings", *(f"block{i}" for i in range(1, count))]
        if self.layer == "all":
            return {name: place for place, name in enumerate(names)}
        wanted = names[-1] if self.layer == "last" else self.layer
        if wanted not in names:
            raise UserError(f"layer {wanted!r}; {suggest(wanted, ['last', 'all', *names])}")
        return {wanted: names.index(wanted)}


def _choose(train: Words, validation: Words, metric: str) -> dict[str, float]:
    """The C of the best score on validation, and that score."""
    x, spans = torch.tensor(validation.states).double(), is_bio(train.known)

    def score(fit: Probe) -> float:
        found = validation.filled(fit.predict(x))
        return float(_scores(validation.tags, found, spans)[metric].mean())

    C, value = choose(train.states, train.known, score, PENALTIES)
    return {"C": C, metric: value}


def _scores(tags: list[list[str]], found: list[list[str]], spans: bool) -> dict[str, np.ndarray]:
    """Contributions (n,) of the sentences to each score; `spans`: whether tags mark spans."""
    pairs = list(zip(tags, found, strict=True))
    right = [sum(a == b for a, b in zip(true, own, strict=True)) for true, own in pairs]
    counts = np.array([len(true) for true in tags], np.float64)
    scores = {"top1": ratio(np.array(right, np.float64), counts)}
    if spans:
        scores["span_f1"] = span_f1(tags, [[tag or OUTSIDE for tag in own] for own in found])
    return scores
