"""States of the words of sentences: those of their first tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from sslbench.data.split import Split
from sslbench.text_encoder import TextEncoder

BATCH = 64


class Words(NamedTuple):
    """The m words of n sentences that have a token.

    Attributes:
        states: (m, D) float32 of their first tokens.
        sentence: (m,) which sentence they are in.
        place: (m,) and where in it.
        tags: the tags of all words, sentence by sentence.
    """

    states: np.ndarray
    sentence: np.ndarray
    place: np.ndarray
    tags: list[list[str]]

    @property
    def known(self) -> np.ndarray:
        """(m,) the true tags of these words."""
        pairs = zip(self.sentence, self.place, strict=True)
        return np.array([self.tags[i][j] for i, j in pairs])

    def filled(self, found: np.ndarray) -> list[list[str]]:
        """The m predicted tags by sentence and word, "" for words without a token."""
        out = [[""] * len(tags) for tags in self.tags]
        for i, j, tag in zip(self.sentence, self.place, found.tolist(), strict=True):
            out[i][j] = tag
        return out


@torch.inference_mode()
def word_states(encoder: TextEncoder, split: Split, layer: int) -> Words:
    """States of the words of a split of tagged sentences, at `layer` of `hidden`.

    A sentence is its words with spaces between them, so that tokenizers to which the space belongs
    to a word see what they learned from.
    """
    order = torch.arange(len(split))
    if split.lengths is not None:  # sentences of one length share a batch
        order = torch.from_numpy(np.argsort(split.lengths, kind="stable"))
    states, at = [], []
    tags: list[list[str]] = [[]] * len(split)
    for index in order.split(BATCH):
        batch = split[index]
        sentences = batch.texts or []
        joined = [" ".join(words) for words in sentences]
        encodings = encoder.tokenizer.encodings(joined, encoder.length)
        hidden = encoder.hidden(encoder.tokenizer.pad_together(encodings).to(encoder.device))[layer]
        for row, (i, words) in enumerate(zip(index.tolist(), sentences, strict=True)):
            tags[i] = list(batch.target[row])
            if len(words) != len(tags[i]):
                raise ValueError(f"sentence {i} has {len(words)} words, {len(tags[i])} tags")
            first = _first_tokens(words, encodings[row].offsets)
            states.append(hidden[row, list(first.values())].float().cpu().numpy())
            at += [(i, j) for j in first]
    sentence, place = np.array(at, np.int64).reshape(-1, 2).T
    return Words(np.concatenate(states), sentence, place, tags)


def _first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Position of the first token of each word that has one; a space belongs to the word before.

    Args:
        words: which were joined by spaces.
        offsets: first character and end of each token; special tokens have none.
    """
    owner = [place for place, word in enumerate(words) for _ in range(len(word) + 1)]
    first: dict[int, int] = {}
    for position, (start, end) in enumerate(offsets):
        if end > start:
            first.setdefault(owner[end - 1], position)
    return first
