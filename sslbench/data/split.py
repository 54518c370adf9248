"""What the rest of the program sees of data: batches, splits and datasets."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslbench.hashing import digest


@dataclass(frozen=True)
class Tokens:
    """Texts as a language model takes them; N is the longest of them, in tokens.

    Attributes:
        ids: (B, N) int64.
        mask: (B, N) bool, False where the text has ended.
        segments: (B, N) int64, 0 in the first text of a pair and 1 in the second.
    """

    ids: Tensor
    mask: Tensor
    segments: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> "Tokens":
        """The rows at `index`."""
        return Tokens(self.ids[index], self.mask[index], self.segments[index])

    def to(self, device: torch.device | str) -> "Tokens":
        """The same tokens on `device`."""
        parts = (self.ids, self.mask, self.segments)
        return Tokens(*(part.to(device, non_blocking=True) for part in parts))

    def split(self, size: int) -> list["Tokens"]:
        """Parts of at most `size` rows, in order."""
        return [self[start : start + size] for start in range(0, len(self), size)]


@dataclass(frozen=True)
class Batch:
    """Some examples of a split; what a modality does not have is None.

    Attributes:
        index: (B,) int64 positions in the split.
        images: (B, 3, H, W) uint8; of images that may differ in size, a list of B (3, H_i, W_i).
        texts: B strings, pairs of strings, tuples of words, or tuples of an image's captions.
        tokens: rows of tokens, where a method packed them itself.
        target: (B,) int64 labels, (B, C) multilabel, or what the dataset's target is.
    """

    index: Tensor
    images: Tensor | list[Tensor] | None = None
    texts: list[Any] | None = None
    tokens: Tokens | None = None
    target: Any = None

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`; a list of images stays where it is."""

        def move(value: Any) -> Any:
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        return replace(
            self,
            index=move(self.index),
            images=move(self.images),
            tokens=None if self.tokens is None else self.tokens.to(device),
            target=move(self.target),
        )


class Boxes(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes: (k, 4) float32, left, top, right and bottom in pixels; right and bottom lie outside.
        labels: (k,) int64, from 0.
        ignored: (k,) bool, objects that are neither to be found nor counted as false (VOC's
            "difficult", COCO's crowds).
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray


class Split(ABC):
    """A fixed, ordered set of examples; nothing random happens inside.

    Attributes:
        hash: hash of everything that determines the examples and their labels.
        labels: (n,) int64 or (n, C) bool, or None without labels.
        groups: (n,) int64 where examples come in groups that belong together (spatial blocks,
            photographs, articles), else None. Intervals resample groups.
        lengths: (n,) of texts, so that texts of one length can share a batch; else None.
    """

    hash: str
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    lengths: np.ndarray | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: Tensor) -> Batch:
        """The examples at `index` (B,) int64, in that order."""

    def map(self, fn: Callable[[Batch], Batch], name: str) -> "Split":
        """This split with `fn` applied to every batch; `name` tells it apart in hashes."""
        return _Mapped(self, fn, name)

    def take(self, index: np.ndarray) -> "Split":
        """The examples at `index` as a split of their own."""
        return _Taken(self, np.asarray(index, dtype=np.int64))


class ImageArray(Split):
    """Images of one size, in memory.

    Args:
        images: (n, 3, H, W) uint8.
        labels: (n,) int64 or None.
        groups: (n,) int64 or None.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None,
        groups: np.ndarray | None = None,
    ) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images: (n, 3, H, W) uint8 expected, got {images.shape} {images.dtype}"
            )
        self.images = torch.from_numpy(np.ascontiguousarray(images))
        self.labels, self.groups = labels, groups
        self.hash = digest(images, labels, groups)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Batch:
        target = None if self.labels is None else torch.from_numpy(self.labels[index.numpy()])
        return Batch(index, self.images.index_select(0, index), target=target)


class Texts(Split):
    """Texts in memory.

    Args:
        texts: n strings, pairs of strings (sentence pairs, questions with their passage), or tuples
            of words.
        labels: (n,) int64 classes, (n,) float32 ratings, or None.
        groups: (n,) int64 or None.
        targets: n targets that are no labels (tags, answers), or None.
    """

    def __init__(
        self,
        texts: Sequence[str] | Sequence[tuple[str, ...]],
        labels: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        targets: Sequence[Any] | None = None,
    ) -> None:
        self.texts: list[Any] = list(texts)
        self.labels, self.groups = labels, groups
        self.targets = None if targets is None else list(targets)
        self.lengths = np.array([_length(text) for text in self.texts], np.int64)
        self.hash = digest(self.texts, labels, groups, self.targets)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: Tensor) -> Batch:
        at = index.tolist()
        target: Any = None
        if self.targets is not None:
            target = [self.targets[i] for i in at]
        elif self.labels is not None:
            target = torch.from_numpy(self.labels[index.numpy()])
        return Batch(index, texts=[self.texts[i] for i in at], target=target)


def _length(text: str | tuple[str, ...]) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def with_targets(split: Split, targets: Sequence[Any], name: str) -> Split:
    """A split whose n targets are `Boxes` or masks (H, W) uint8; `name` is their hash."""
    if len(targets) != len(split):
        raise ValueError(f"{len(split)} examples, but {len(targets)} targets")
    return split.map(partial(_give, targets), name)


def _give(targets: Sequence[Any], batch: Batch) -> Batch:
    return replace(batch, target=[targets[i] for i in batch.index.tolist()])


class _Mapped(Split):
    def __init__(self, inner: Split, fn: Callable[[Batch], Batch], name: str) -> None:
        self.inner, self.fn = inner, fn
        self.labels, self.groups, self.lengths = inner.labels, inner.groups, inner.lengths
        self.hash = digest(inner.hash, name)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: Tensor) -> Batch:
        return self.fn(self.inner[index])


class _Taken(Split):
    def __init__(self, inner: Split, index: np.ndarray) -> None:
        self.inner, self.index = inner, torch.from_numpy(index)
        self.labels = None if inner.labels is None else inner.labels[index]
        self.groups = None if inner.groups is None else inner.groups[index]
        self.lengths = None if inner.lengths is None else inner.lengths[index]
        self.hash = digest(inner.hash, index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor) -> Batch:
        return replace(self.inner[self.index[index]], index=index)


class Joined(Split):
    """Two splits end to end."""

    def __init__(self, first: Split, second: Split) -> None:
        self.parts = (first, second)
        self.labels = _joined(first.labels, second.labels)
        self.groups = _joined(first.groups, second.groups)
        self.lengths = _joined(first.lengths, second.lengths)
        self.hash = digest(first.hash, second.hash)

    def __len__(self) -> int:
        return len(self.parts[0]) + len(self.parts[1])

    def __getitem__(self, index: Tensor) -> Batch:
        first, second = self.parts
        here = index < len(first)
        if here.all():
            return first[index]
        if not here.any():
            return replace(second[index - len(first)], index=index)
        return _interleave(here, first[index[here]], second[index[~here] - len(first)], index)


def _joined(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return None if a is None or b is None else np.concatenate([a, b])


def _interleave(here: Tensor, a: Batch, b: Batch, index: Tensor) -> Batch:
    """Batches `a` (where `here`) and `b` (elsewhere) in the order of `index`."""
    order = torch.empty_like(index)
    order[here], order[~here] = torch.arange(len(a)), torch.arange(len(b)) + len(a)

    def rows(x: Any, y: Any) -> Any:
        if x is None or y is None:
            return None
        if isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape[1:] == y.shape[1:]:
            return torch.cat([x, y])[order]
        both = [*x, *y]
        return [both[i] for i in order.tolist()]

    return Batch(
        index,
        rows(a.images, b.images),
        rows(a.texts, b.texts),
        target=rows(a.target, b.target),
    )


@dataclass(frozen=True)
class Dataset:
    """Named splits of one source of data, and how they are scored.

    Attributes:
        name: as in the dataset table.
        modality: "image", "text" or "image_text".
        targets: kinds of target that the splits carry, e.g. ("label",).
        classes: number of classes; 0 without labels.
        class_names: `classes` names.
        metric: main metric of classification on it, "top1" or "mean_per_class".
        chance: score of `metric` that needs no input, in [0, 1].
        splits: "train", "validation", "test", and what else there is ("unlabelled").
    """

    name: str
    modality: str
    targets: tuple[str, ...]
    classes: int
    class_names: tuple[str, ...]
    metric: str
    chance: float
    splits: Mapping[str, Split] = field(repr=False)

    def __getitem__(self, name: str) -> Split:
        if "+" in name:
            return reduce(Joined, [self[part] for part in name.split("+")])
        if name not in self.splits:
            raise LookupError(f"{self.name} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]

    @property
    def hash(self) -> str:
        """Hash of all splits."""
        return digest({name: split.hash for name, split in self.splits.items()})
