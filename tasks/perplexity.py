"""Perplexity: how well a causal model predicts texts, in bits per byte.

`bits_per_byte` = −Σ log₂ p(token | tokens before it) / bytes of the text in UTF-8, lower is better,
from 0 up: the measure of Graves. Generating Sequences With Recurrent Neural Networks. 2013.
arXiv:1308.0850, and of Gao et al. The Pile. 2020. arXiv:2101.00027 (section 3.1), which does not
depend on the tokenizer. `word_perplexity` = exp(−Σ ln p / words), words being what spaces separate;
it is left out where it is beyond 10³⁰⁰.

That holds only if the tokens say all that the text says. A tokenizer that drops capitals, spaces
or unknown characters predicts something easier: it is not applicable unless every test text comes
back from its tokens as it was. Tokenizers of bytes are of that kind, and those of characters if
they know every character.

Every text is scored by itself, begun by [SEP], which causal models see before each document. One
that is longer than the encoder takes is scored in windows that move on by `stride` tokens: every
token once, and with at least length − stride tokens before it unless the text is younger than that.
That a text ends is not scored.

Both scores are functions of a ratio of sums; what each text contributes is its linearisation.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sslbench.contributions import ratio
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.task import Result, Score, Task
from sslbench.text import nats, padded, strings, text_encoder
from sslbench.text_encoder import TextEncoder
from sslbench.tokenizer import Tokenizer

TOKENS = 8_192  # in a batch
_LARGEST = 300 * math.log(10)


class Perplexity(Task):
    """Bits per byte of the test texts.

    Args:
        stride: tokens by which windows on a long text move on; 0: half of what the encoder takes.
    """

    paper = "arXiv:2101.00027"
    metric = "bits_per_byte"
    version = 2
    modality = "text"
    target = None
    higher_is_better = False

    def __init__(self, *, stride: int = 0) -> None:
        if stride < 0:
            raise UserError(f"stride ≥ 0 expected, found {stride}")
        self.stride = stride

    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Score every token of the test split once."""
        model = text_encoder(encoder)
        if not model.causal:
            raise NotApplicable(
                f"needs a causal model; {model.label} sees what comes after a token, for which "
                "there is pseudo_perplexity"
            )
        stride = self.stride or max(1, model.length // 2)
        if stride >= model.length:
            raise UserError(f"stride = {stride}: {model.label} takes {model.length} tokens")
        texts = strings(data, "test")
        lost = unfaithful(model.tokenizer, texts)
        if lost:
            raise NotApplicable(
                f"the tokenizer loses information, so that bits per byte would not compare: "
                f"{len(lost)} of {len(texts)} texts do not come back from their tokens "
                '(tokenizer = "bpe" keeps everything)'
            )
        found = negative_log_likelihood(model, texts, stride)
        size = np.array([len(text.encode()) for text in texts], np.float64)
        scores = {"bits_per_byte": Score.mean(ratio(found / math.log(2), size))}
        words = np.array([len(text.split()) for text in texts], np.float64)
        per_word = ratio(found, words)
        if words.any() and per_word.mean() < _LARGEST:
            value = math.exp(per_word.mean())
            parts = value * (1 + per_word - per_word.mean())
            scores["word_perplexity"] = Score(value, len(texts), examples=parts)
        return Result(scores, {"stride": stride})

    def chance(self, data: Dataset) -> None:
        """Bits have no chance level."""


def unfaithful(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Which texts do not come back, to the character, from their tokens."""
    inner, lost = tokenizer.inner, []
    for place, (text, ids) in enumerate(zip(texts, tokenizer.ids(texts), strict=True)):
        spelled = "".join(
            inner.id_to_token(i) or "" for i in ids
        )  # enough where tokens are characters
        if text not in (spelled, inner.decode(ids, skip_special_tokens=False)):
            lost.append(place)
    return lost


@torch.inference_mode()
def negative_log_likelihood(encoder: TextEncoder, texts: Sequence[str], stride: int) -> np.ndarray:
    """−ln p (n,) of each text, given that a text begins."""
    begun = encoder.tokenizer.encodings([""])[0].ids  # LLaMA's tokenizer: <s>, GPT-2's: nothing
    start = begun[0] if begun else encoder.tokenizer.sep
    if start is None:
        raise NotApplicable(f"{encoder.label} has no token that begins a text")
    rows = [[start, *ids] for ids in encoder.tokenizer.ids(texts)]
    windows = [
        w
        for place, row in enumerate(rows)
        for w in _windows(place, len(row), encoder.length, stride)
    ]
    windows.sort(key=lambda window: window.end - window.begin)
    out = np.zeros(len(texts))
    size = max(1, TOKENS // encoder.length)
    for first in range(0, len(windows), size):
        part = windows[first : first + size]
        tokens = padded([rows[w.text][w.begin : w.end] for w in part], encoder)
        known = torch.tensor([w.scored - w.begin for w in part], device=tokens.ids.device)
        scored = tokens.mask & (
            torch.arange(tokens.ids.shape[1], device=known.device) >= known[:, None]
        )
        states = encoder.tokens(tokens)[:, :-1][scored[:, 1:]]  # (M, D) before scored tokens
        row = scored.nonzero()[:, 0].cpu().numpy()
        owner = np.array([w.text for w in part])[row]
        np.add.at(out, owner, nats(encoder, states, tokens.ids[scored]).numpy())
    return out


class _Window(NamedTuple):
    """Tokens `begin` … `end` − 1 of a text, of which those from `scored` on are scored."""

    text: int
    begin: int
    end: int
    scored: int


def _windows(text: int, n: int, length: int, stride: int) -> Iterator[_Window]:
    """Windows on a text of n tokens, the one that begins it included."""
    begin, scored = 0, 1
    while scored < n:
        end = min(begin + length, n)
        yield _Window(text, begin, end, scored)
        begin, scored = begin + stride, end
