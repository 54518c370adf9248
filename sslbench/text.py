"""What protocols on texts share: the texts of a split, rows of ids, and pairs of features."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sslbench.data.split import Batch, Dataset, Split, Tokens
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable
from sslbench.features import features
from sslbench.text_encoder import TextEncoder

_PART = 256


def text_encoder(encoder: Encoder) -> TextEncoder:
    """The encoder, which must be one of texts. Raises NotApplicable."""
    if not isinstance(encoder, TextEncoder):
        raise NotApplicable(f"{encoder.label} has no states of tokens")
    return encoder


def strings(data: Dataset, split: str) -> list[str]:
    """All texts of a split.

    Raises:
        NotApplicable: they are pairs, or tuples of words, or there is none with a character.
    """
    found = []
    for index in torch.arange(len(data[split])).split(_PART):
        for text in data[split][index].texts or [None] * len(index):
            if not isinstance(text, str):
                kind = "none" if text is None else "several for each example"
                raise NotApplicable(f"{data.name}: plain texts needed, found {kind}")
            found.append(text)
    if not any(found):
        raise NotApplicable(f"{data.name}: all texts of the {split} split are empty")
    return found


def padded(rows: Sequence[Sequence[int]], encoder: TextEncoder) -> Tokens:
    """Rows of ids as tokens (B, N), on the encoder's device."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    ids = pad_sequence(tensors, batch_first=True, padding_value=encoder.tokenizer.pad or 0)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return Tokens(ids, mask, torch.zeros_like(ids)).to(encoder.device)


def nats(encoder: TextEncoder, states: Tensor, ids: Tensor, values: int = 4_000_000) -> Tensor:
    """−ln p (M,) float64, on the CPU, of ids by the language-model head.

    Args:
        encoder: that has the head.
        states: (M, D) of the last layer, where the ids are predicted.
        ids: (M,) what to predict.
        values: logits to hold at once.
    """
    size = max(1, values // len(encoder.tokenizer))
    parts = [
        F.cross_entropy(encoder.head(h).float(), target, reduction="none")
        for h, target in zip(states.split(size), ids.split(size), strict=True)
    ]
    return torch.cat(parts).double().cpu()


def side(split: Split, place: int) -> Split:
    """The text at `place` of every tuple, as a split of single texts."""

    def pick(batch: Batch) -> Batch:
        if not batch.texts or isinstance(batch.texts[0], str):
            raise NotApplicable("needs pairs of texts")
        return replace(batch, texts=[text[place] for text in batch.texts])

    return split.map(pick, f"text {place}")


def two_sides(
    encoder: Encoder, split: Split, layer: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Layer by layer its name and features (n, D) of the first and of the second text."""
    first, second = (features(encoder, side(split, place), layer) for place in (0, 1))
    for name in first:
        yield name, first[name], second[name]


def combined(encoder: Encoder, split: Split, layer: str) -> Mapping[str, np.ndarray]:
    """[u, v, |u − v|, u · v] (n, 4 D) of the two texts' features by layer.

    Conneau, Kiela, Schwenk, Barrault, Bordes. Supervised Learning of Universal Sentence
    Representations from Natural Language Inference Data. EMNLP 2017. arXiv:1705.02364, section 3.1.
    """
    return {
        name: np.concatenate([u, v, np.abs(u - v), u * v], axis=1)
        for name, u, v in two_sides(encoder, split, layer)
    }
