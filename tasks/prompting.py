"""Prompting: a causal language model classifies by which label it finds likeliest after a text.

Brown et al. Language Models are Few-Shot Learners. NeurIPS 2020. arXiv:2005.14165 (section 2.4):
without training, from a template, after no or a few labelled examples in the same context; these
are drawn from train anew for each question. The template and the names of the labels are ours.

- `top1` chooses by the log-likelihood of the label's tokens, given all that stands before them;
- `top1_normalised` by the same per byte (UTF-8) of the label, so that long ones are not unlikely;
- `top1_pmi` by how much likelier the text, and the examples, make the label: its log-likelihood
  after the template without a text is subtracted. Holtzman et al. Surface Form Competition: Why
  the Highest Probability Answer Isn't Always Right. EMNLP 2021. arXiv:2104.08315 (section 3).

Of equals the first is chosen; `mean_per_class` belongs to `top1`. Where the whole is longer than
the model's context, all texts in it are cut to the same number of characters, the largest with
which every label fits; template and labels are never cut. Nothing is chosen, so validation is not
used.
"""

from bisect import bisect
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Encoding

from sslbench.classification import per_class
from sslbench.data.carve import scramble
from sslbench.data.split import Dataset, Split
from sslbench.encoder import Encoder
from sslbench.episodes import draw_episodes
from sslbench.errors import NotApplicable, UserError
from sslbench.random import Random
from sslbench.task import Result, Score, Task
from sslbench.text import strings
from sslbench.text_encoder import TextEncoder

ROWS = 32  # that the model sees at a time


class Prompting(Task):
    """The likeliest label.

    Args:
        template: has "{text}" once and ends with "{label}".
        separator: between the examples in a context.
        labels: what the classes are called, in their order; empty for the dataset's names.
        shots: labelled examples in the context, as many of each class as can be.
        test_examples: test texts to classify, the same ones always; 0 for all.
    """

    paper = "arXiv:2005.14165"
    metric = "top1"
    version = 1
    modality = "text"
    target = "label"

    def __init__(
        self,
        *,
        template: str = "{text}\nLabel: {label}",
        separator: str = "\n\n",
        labels: tuple[str, ...] = (),
        shots: int = 0,
        test_examples: int = 0,
    ) -> None:
        before = template.removesuffix("{label}")
        if before == template or "{label}" in before or before.count("{text}") != 1:
            raise UserError(f"template needs one {{text}} and ends with {{label}}: {template!r}")
        if shots < 0 or test_examples < 0:
            found = f"{shots} and {test_examples}"
            raise UserError(f"shots ≥ 0 and test_examples ≥ 0 expected, found {found}")
        self.before, self.separator, self.labels = before, separator, labels
        self.shots, self.test_examples = shots, test_examples

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Score every label after every test text."""
        if not isinstance(encoder, TextEncoder) or not encoder.causal:
            raise NotApplicable(f"needs a causal language model; {encoder.label} is none")
        strings(data, "test")
        if not (self.labels or any(data.class_names)):
            raise NotApplicable(f"{data.name}: its classes have no names")
        names = self.labels or data.class_names
        if len(names) != data.classes or not all(names):
            found = f"{list(names)} for {data.classes} classes"
            raise UserError(f"labels: a name for each class of {data.name} expected, found {found}")
        test = data["test"]
        if test.labels is None or test.labels.ndim != 1:
            raise NotApplicable(f"{data.name}: one label per test text needed")
        places = np.arange(len(test))
        if self.test_examples:
            places = np.sort(np.argsort(scramble(places), kind="stable")[: self.test_examples])

        shown = self._shown(data["train"], len(test), seed)[places]
        lengths = np.zeros(len(test)) if test.lengths is None else test.lengths
        order = torch.from_numpy(np.argsort(lengths[places], kind="stable"))
        plain = np.empty((len(places), len(names)))
        for part in order.split(ROWS):
            texts = test[torch.from_numpy(places)[part]].texts or []
            rows: list[_Row] = []
            for examples, text in zip(shown[part.numpy()], texts, strict=True):
                known = _labelled(data["train"], examples, names)
                rows += self._rows(encoder, [*known, (text, "")], names)
            plain[part.numpy()] = _likelihoods(encoder, rows).reshape(-1, len(names))
        alone = _likelihoods(encoder, self._rows(encoder, [("", "")], names))

        truth = test.labels[places]
        sizes = np.array([len(name.encode()) for name in names])
        ways = {"top1": plain, "top1_normalised": plain / sizes, "top1_pmi": plain - alone}
        correct = {k: (v.argmax(axis=1) == truth).astype(float) for k, v in ways.items()}
        correct["mean_per_class"] = per_class(correct["top1"], truth)
        scores = {name: Score.mean(values) for name, values in correct.items()}
        return Result(scores, places=places)

    def _shown(self, train: Split, n: int, seed: int) -> np.ndarray:
        """Positions (n, shots) in train of the examples before each of n test texts."""
        if self.shots == 0:
            return np.empty((n, 0), np.int64)
        if train.labels is None:
            raise NotApplicable("examples in the context need labels of the train split")
        classes, counts = np.unique(train.labels, return_counts=True)
        ways = min(len(classes), self.shots)
        size = ceil(self.shots / ways)
        if counts.min() < size:
            raise NotApplicable(
                f"class {classes[counts.argmin()]} has {counts.min()} training texts; {size} needed"
            )
        drawn = draw_episodes(train.labels, ways, size, Random(seed, 0, torch.arange(n), n))
        return drawn.mT.flatten(1)[:, : self.shots].numpy()

    def _rows(
        self, encoder: TextEncoder, examples: list[tuple[str, str]], names: Sequence[str]
    ) -> list["_Row"]:
        """A row for each of `names` after the last example, whose own label is empty."""

        def rows(most: int) -> list[_Row]:
            shown = [self.before.replace("{text}", text[:most]) + y for text, y in examples]
            context = self.separator.join(shown)
            encodings = encoder.tokenizer.encodings([context + name for name in names])
            return [_Row(encoding, len(context)) for encoding in encodings]

        def size(most: int) -> int:
            return max(len(row.encoding.ids) for row in rows(most))

        longest = max(len(text) for text, _ in examples)
        found = rows(longest)
        if max(len(row.encoding.ids) for row in found) <= encoder.length:
            return found
        most = bisect(range(longest), encoder.length, key=size) - 1
        if most < 0:
            raise NotApplicable(
                f"{len(examples) - 1} examples without their texts take {size(0)} tokens; "
                f"{encoder.label} sees {encoder.length}"
            )
        return rows(most)


def _labelled(split: Split, places: np.ndarray, names: Sequence[str]) -> list[tuple[str, str]]:
    """The texts of a split at `places`, with their labels."""
    if split.labels is None or not len(places):
        return []
    texts = split[torch.from_numpy(places)].texts or []
    return [(text, names[y]) for text, y in zip(texts, split.labels[places], strict=True)]


class _Row(NamedTuple):
    """What the model sees, and the character at which the label begins."""

    encoding: Encoding
    start: int

    @property
    def places(self) -> list[int]:
        """Where the tokens of the label stand: all that reach into it."""
        return [i for i, (_, end) in enumerate(self.encoding.offsets) if end > self.start]


@torch.inference_mode()
def _likelihoods(encoder: TextEncoder, rows: Sequence[_Row]) -> np.ndarray:
    """Log-likelihood of each row's label, given what stands before it: (n,) float64."""
    sums = []
    for part in (rows[i : i + ROWS] for i in range(0, len(rows), ROWS)):
        tokens = encoder.tokenizer.pad_together([row.encoding for row in part])
        places = [row.places for row in part]
        for row, found in zip(part, places, strict=True):
            if not found or found[0] == 0:
                what = "no token is of the label" if not found else "no token is before the label"
                raise NotApplicable(f"{what} in {row.encoding.tokens}")
        which = torch.tensor([i for i, found in enumerate(places) for _ in found])
        place = torch.tensor([j for found in places for j in found])
        states = encoder.tokens(tokens.to(encoder.device))
        logits = encoder.head(states[which, place - 1]).float().cpu()  # (all labels' tokens, V)
        each = logits.log_softmax(1)[torch.arange(len(place)), tokens.ids[which, place]]
        sums.append(torch.zeros(len(part)).double().index_add(0, which, each.double()))
    likelihoods = torch.cat(sums)
    if not likelihoods.isfinite().all():
        raise FloatingPointError(f"{encoder.label}: log-likelihoods are not finite")
    return likelihoods.numpy()
