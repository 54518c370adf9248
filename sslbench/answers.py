"""Answers that are spans of a passage: windows over it, the best span, and SQuAD's scores.

Rajpurkar, Zhang, Lopyrev, Liang. SQuAD: 100,000+ Questions for Machine Comprehension of Text.
EMNLP 2016. arXiv:1606.05250 (section 6.1, and the official scoring of version 1.1).
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding

from sslbench.errors import NotApplicable
from sslbench.tokenizer import Tokenizer

QUESTION = 64  # most tokens of a question, BERT's

_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as the official scoring


def normalised(answer: str) -> str:
    """An answer in lower case without punctuation, articles and superfluous spaces."""
    plain = answer.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", plain).split())


def exact(prediction: str, answer: str) -> float:
    """1 if both are the same once normalised, else 0."""
    return float(normalised(prediction) == normalised(answer))


def overlap(prediction: str, answer: str) -> float:
    """F1 of the words of two normalised answers, in [0, 1]; 0 if one has none."""
    found, wanted = normalised(prediction).split(), normalised(answer).split()
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


def best_of(score: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    """The score of a prediction against the answer that it fits best; 0 without answers."""
    return max((score(prediction, answer) for answer in answers), default=0.0)


@dataclass(frozen=True)
class Window:
    """What an encoder sees at once of a question and its passage.

    Attributes:
        encoding: of both together.
        places: (M,) where the passage's tokens stand among all.
        begin: (M,) first character of each in the passage.
        end: (M,) the character after its last.
    """

    encoding: Encoding
    places: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def of(cls, encoding: Encoding) -> "Window":
        """The window that an encoding of a pair is."""
        places = [i for i, text in enumerate(encoding.sequence_ids) if text == 1]
        offsets = np.array([encoding.offsets[i] for i in places], np.int64).reshape(-1, 2)
        return cls(encoding, np.array(places, np.int64), offsets[:, 0], offsets[:, 1])

    def span(self, begin: int, end: int) -> tuple[int, int] | None:
        """First and last token of the characters begin … end − 1; None if not all are in here."""
        if not len(self) or begin < self.begin[0] or end > self.end[-1]:
            return None
        first, last = int((self.end <= begin).sum()), int((self.begin < end).sum()) - 1
        return (first, last) if first <= last else None


def windows(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], length: int, stride: int
) -> list[list[Window]]:
    """The windows, one or more, that cover the passage of each pair (question, passage).

    A question is cut after `QUESTION` tokens, or a third of `length` if that is less.

    Args:
        tokenizer: of the encoder that will see them.
        pairs: B questions with their passages.
        length: most tokens of a window, the question and special tokens included.
        stride: tokens that neighbouring windows share; at most half of the passage's share.

    Raises:
        NotApplicable: there would be no room for the passage.
    """
    most = min(QUESTION, length // 3)
    room = length - most - tokenizer.inner.num_special_tokens_to_add(True)
    if most < 1 or room < 2:
        raise NotApplicable(f"windows of {length} tokens have no room for question and passage")
    questions = [question for question, _ in pairs]
    cut = [
        question[: encoding.offsets[most - 1][1]] if len(encoding.ids) > most else question
        for question, encoding in zip(questions, _plain(tokenizer, questions), strict=True)
    ]
    both = [(question, passage) for question, (_, passage) in zip(cut, pairs, strict=True)]
    encodings = tokenizer.encodings(both, length, overlap=min(stride, room // 2))
    return [[Window.of(part) for part in (first, *first.overflowing)] for first in encodings]


def _plain(tokenizer: Tokenizer, texts: list[str]) -> list[Encoding]:
    """Encodings without special tokens."""
    tokenizer.inner.no_truncation()
    return list(tokenizer.inner.encode_batch(texts, add_special_tokens=False))


def best_span(start: np.ndarray, end: np.ndarray, longest: int) -> tuple[float, int, int]:
    """Score, first and last token of the best span, the earliest of equals.

    Args:
        start: logit of every token as the first, (M,) with M ≥ 1.
        end: logit of every token as the last, (M,).
        longest: most tokens of a span.
    """
    padded = np.concatenate([end, np.full(longest - 1, -np.inf, end.dtype)])
    scores = start[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)
    first, further = divmod(int(scores.argmax()), longest)
    return float(scores[first, further]), first, first + further
