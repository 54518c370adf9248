"""A corpus as rows of tokens: documents packed end to end, sentences, passages; and their masks."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from sslbench.data.split import Batch, Split, Tokens
from sslbench.errors import NotApplicable
from sslbench.random import Random
from sslbench.text_encoder import TextEncoder
from sslbench.tokenizer import Tokenizer, documents

IGNORED = -100  # label of a token that is not to be predicted
# A sentence ends with a full stop and its like, before a space and what may begin another one.
_BREAK = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9])|\s*\n+\s*")


class Rows:
    """Rows of tokens, as a method draws them; `Batch.tokens` has them without special tokens.

    Args:
        ids: (n, N) int32, padded.
        lengths: (n,) int64: number of tokens in each row.
    """

    def __init__(self, ids: Tensor, lengths: Tensor) -> None:
        self.ids, self.lengths = ids, lengths

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Tensor) -> Batch:
        ids, lengths = self.ids[index].long(), self.lengths[index]
        longest = int(lengths.max()) if len(lengths) else 0
        ids = ids[:, :longest]
        mask = torch.arange(longest) < lengths[:, None]
        return Batch(index, tokens=Tokens(ids, mask, torch.zeros_like(ids)))


def row_length(encoder: TextEncoder, length: int, least: int = 1) -> int:
    """Tokens of a row: `length`, or where it is 0 as many as the encoder takes.

    Raises:
        ValueError: more than the encoder takes, or fewer than `least`.
    """
    if not least <= (length or encoder.length) <= encoder.length:
        allowed = f"takes {least} to {encoder.length} tokens"
        raise ValueError(f"length = {length}: {encoder.label} {allowed}")
    return length or encoder.length


def sentences(text: str) -> list[str]:
    """The sentences of a text, by its punctuation and line breaks."""
    return [part.strip() for part in _BREAK.split(text) if part and part.strip()]


def stream(split: Split, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The tokens of each document, without special tokens."""
    for texts in documents(split):
        yield from tokenizer.ids(texts)


def packed(split: Split, tokenizer: Tokenizer, length: int) -> Rows:
    """Documents one after the other, each begun by [SEP], cut into rows of `length` tokens.

    What does not fill the last row is left out.

    Raises:
        NotApplicable: the corpus does not fill one row.
    """
    ids = list(chain.from_iterable([tokenizer.sep, *part] for part in stream(split, tokenizer)))
    count = len(ids) // length
    if count == 0:
        raise NotApplicable(f"the corpus has {len(ids)} tokens, fewer than one row of {length}")
    rows = torch.tensor(ids[: count * length], dtype=torch.int32).view(count, length)
    return Rows(rows, torch.full((count,), length))


def sentence_rows(split: Split, tokenizer: Tokenizer, length: int, least: int = 2) -> Rows:
    """One row for each sentence of at least `least` tokens, cut off after `length`.

    Raises:
        NotApplicable: the corpus has no such sentence.
    """
    texts = [s for part in documents(split) for text in part for s in sentences(text)]
    rows = [ids[:length] for ids in tokenizer.ids(texts) if len(ids) >= least]
    if not rows:
        raise NotApplicable(f"the corpus has no sentence of {least} tokens or more")
    return Rows(*_padded(rows))


class Passages:
    """Neighbouring passages of whole sentences: the first of each pair is what is drawn.

    `Batch.tokens` is a passage that another one follows in its document, `Batch.target` (B,) its
    number; the next passage has the next number.

    Args:
        split: the corpus.
        tokenizer: that splits it.
        length: most tokens of a passage; a longer sentence is cut.

    Attributes:
        rows: all passages.
        first: (n,) numbers of the passages that are followed by another.
        start, count: (m,) first passage, and number of passages, of each passage's document.
    """

    def __init__(self, split: Split, tokenizer: Tokenizer, length: int) -> None:
        passages: list[list[int]] = []
        first: list[int] = []
        start: list[int] = []
        count: list[int] = []
        for texts in documents(split):
            for text in texts:
                here = _grouped(tokenizer.ids(sentences(text)), length)
                first += range(len(passages), len(passages) + len(here) - 1)
                start += [len(passages)] * len(here)
                count += [len(here)] * len(here)
                passages += here
        if not first:
            raise NotApplicable("no document of the corpus has two passages in a row")
        if max(count) == len(passages):
            raise NotApplicable("pairs of passages need two documents or more, the corpus has one")
        self.rows = Rows(*_padded(passages))
        self.first, self.start, self.count = map(torch.tensor, (first, start, count))

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: Tensor) -> Batch:
        number = self.first[index]
        return Batch(index, tokens=self.rows[number].tokens, target=number)

    def elsewhere(self, number: Tensor, uniform: Tensor) -> Tensor:
        """A passage of another document than `number` (B,), by uniform draws (B,) in [0, 1)."""
        start, count = self.start[number], self.count[number]
        drawn = (uniform.double() * (len(self.rows) - count)).long()
        return torch.where(drawn >= start, drawn + count, drawn)


def _grouped(parts: Sequence[list[int]], length: int) -> list[list[int]]:
    """Sentences joined as long as they fit into `length` tokens."""
    groups: list[list[int]] = []
    for ids in parts:
        ids = ids[:length]
        if groups and len(groups[-1]) + len(ids) <= length:
            groups[-1] = groups[-1] + ids
        elif ids:
            groups.append(ids)
    return groups


def _padded(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """(n, N) int32 filled up with 0, and the lengths (n,)."""
    lengths = torch.tensor([len(row) for row in rows])
    out = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int32)
    mask = torch.arange(out.shape[1]) < lengths[:, None]
    out[mask] = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int32)
    return out, lengths


def enclosed(tokenizer: Tokenizer, first: Tokens, second: Tokens | None = None) -> Tokens:
    """Rows as bidirectional models take them: [CLS] a [SEP], or [CLS] a [SEP] b [SEP].

    Args:
        tokenizer: that has the special tokens.
        first: (B, N) without special tokens, at the start of their rows.
        second: (B, M) likewise.
    """
    a = first.mask.sum(1, keepdim=True)
    b = torch.zeros_like(a) if second is None else second.mask.sum(1, keepdim=True)
    width = int((a + b).max()) + (2 if second is None else 3)
    place = torch.arange(width, device=a.device).expand(len(a), -1)
    middle = a + 1  # where the first text's [SEP] stands
    end = middle if second is None else middle + b + 1
    assert tokenizer.cls is not None
    assert tokenizer.sep is not None
    ids = torch.full_like(place, tokenizer.pad or 0)
    ids = torch.where(place < middle, _shifted(first.ids, place - 1), ids)
    if second is not None:
        ids = torch.where(
            (place > middle) & (place < end), _shifted(second.ids, place - a - 2), ids
        )
    ids = ids.masked_fill((place == middle) | (place == end), tokenizer.sep)
    ids = ids.masked_fill(place == 0, tokenizer.cls)
    segments = ((place > middle) & (place <= end)).long()
    return Tokens(ids, place <= end, segments)


def _shifted(ids: Tensor, place: Tensor) -> Tensor:
    """`ids` (B, N) at `place` (B, W), which may lie outside."""
    return ids.gather(1, place.clamp(0, ids.shape[1] - 1))


def corrupted(
    tokenizer: Tokenizer,
    tokens: Tokens,
    random: Random,
    *,
    selected: float,
    masked: float = 1.0,
    replaced: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Tokens to predict: ids (B, N) after masking, and labels (B, N), the true id or `IGNORED`.

    Args:
        tokenizer: that has a [MASK]; special tokens are never selected.
        tokens: (B, N) on the device of `random`.
        random: its numbers are indexed by place in the row too, whatever N is.
        selected: share of the tokens to predict, each drawn by itself.
        masked: share of those that become [MASK].
        replaced: share of those that become any token; the others stay.
    """
    width = tokens.ids.shape[1]
    draw = random.uniform(width, 2)
    anything = random.integers(len(tokenizer), width)
    free = tokens.mask & ~tokenizer.special.to(tokens.ids.device)[tokens.ids]
    chosen = free & (draw[..., 0] < selected)
    swap = chosen & (draw[..., 1] >= masked) & (draw[..., 1] < masked + replaced)
    ids = torch.where(swap, anything, tokens.ids)
    assert tokenizer.mask is not None
    ids = ids.masked_fill(chosen & (draw[..., 1] < masked), tokenizer.mask)
    return ids, tokens.ids.masked_fill(~chosen, IGNORED)
