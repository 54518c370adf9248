"""word2vec: a word's vector tells which words stand around it.

Mikolov, Sutskever, Chen, Corrado, Dean. Distributed Representations of Words and Phrases and their
Compositionality. NIPS 2013. arXiv:1310.4546. Skip-gram with negative sampling.

Defaults: section 2 (5 negatives, noise from the unigrams to the power 3/4, t = 1e-5, vectors of 300
numbers and windows of 5 words in the experiments), and arXiv:1301.3781 section 4.3 (3 epochs,
linear decay of the learning rate). t = 1e-5 is for a billion words; with a few millions, 1e-3, as
in the authors' code, leaves more to learn from.

As in the authors' code, words that are unknown or discarded are taken out first, so that the window
reaches over them, and each word draws how far its window reaches, from 1 to `window`.
Differs from the paper: Adam over batches of sentences instead of a step of SGD for each pair, with
a learning rate of our own choice; input (the encoder's) and output vectors both start uniform in
±1/(2D), where the authors' code starts the output at 0.

Measured: leaderboards/language (10 MB of prose, ten passes, 3 seeds), gain over the same encoder
untrained: tags of words +.134 [.128, .140] to .794, sentiment +.044 [.026, .061] to .654; exact
match on squad-dev −.012 [−.021, −.003].
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench import distributed
from sslbench.backbones.embeddings import Embeddings
from sslbench.corpus import Rows, sentence_rows
from sslbench.data.split import Batch, Split
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe
from sslbench.random import Random
from sslbench.text_encoder import TextEncoder

Views = tuple[Tensor, Tensor, Tensor, Tensor]
FINE = 2**31 - 1  # steps of the noise's distribution function


class Word2Vec(Method):
    """Skip-gram: each word against its neighbours and against noise.

    Args:
        encoder: word vectors; they become the input vectors.
        data: the corpus, one document an example; its sentences are the examples here.
        window: farthest neighbour, in words to each side.
        negatives: words of noise for each pair.
        power: of the unigram distribution that the noise comes from.
        threshold: t; of a word of frequency f, 1 − √(t/f) of all occurrences are left out at
            random, anew at each step. 0 leaves out none.
    """

    paper = "arXiv:1310.4546"
    modality = "text"
    pseudo_label = "the words around a word, among words drawn at random"
    recipe = Recipe("adamw", lr=2.5e-3, batch_size=256, epochs=3, schedule="linear")
    encoder: Embeddings
    kept: Tensor
    noise: Tensor

    def __init__(
        self,
        encoder: TextEncoder,
        data: Split,
        *,
        window: int = 5,
        negatives: int = 5,
        power: float = 0.75,
        threshold: float = 1e-5,
    ) -> None:
        if not isinstance(encoder, Embeddings):
            raise NotApplicable(f"word2vec needs the encoder embeddings, not {encoder.label}")
        if window < 1 or negatives < 1:
            raise ValueError(f"window = {window}, negatives = {negatives}: at least 1 expected")
        rows = sentence_rows(data, encoder.tokenizer, encoder.length)
        super().__init__(encoder, rows)
        self.window, self.negatives = window, negatives
        counts = frequencies(rows, encoder.tokenizer.special)
        if not counts.any():
            raise NotApplicable("no word of the corpus is in the tokenizer's vocabulary")
        share = counts / counts.sum()
        kept = (threshold / share).sqrt().clamp_max(1) if threshold else torch.ones_like(share)
        self.register_buffer("kept", kept.where(counts > 0, 0.0).float(), persistent=False)
        below = (counts**power).where(counts > 0, 0.0).cumsum(0)
        steps = (below / below[-1] * FINE).round().long()
        self.register_buffer("noise", steps, persistent=False)
        self.output = nn.Parameter(torch.empty_like(encoder.table.weight))
        for vectors in (encoder.table.weight, self.output):
            nn.init.uniform_(vectors, -0.5 / encoder.dim, 0.5 / encoder.dim)

    def views(self, batch: Batch, random: Random) -> Views:
        """Of P pairs words (P,), their neighbours (P,) and noise (P, K); and a word of each row."""
        assert batch.tokens is not None
        ids, mask = batch.tokens.ids, batch.tokens.mask
        left = mask & (random.uniform(ids.shape[1]) < self.kept[ids])
        width = int(left.sum(1).max())
        order = (~left).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]  # (b, M)
        words, left = ids.gather(1, order), left.gather(1, order)
        reach = random.integers(self.window, width) + 1
        offsets = torch.arange(-self.window, self.window + 1, device=ids.device)
        offsets = offsets[offsets != 0]  # (2 window,)
        place = torch.arange(width, device=ids.device)[:, None] + offsets  # (M, 2 window)
        inside = (place >= 0) & (place < width)
        place = place.clamp(0, max(width - 1, 0))
        pairs = inside & left[..., None] & left[:, place] & (offsets.abs() <= reach[..., None])
        drawn = random.integers(FINE, width, 2 * self.window, self.negatives)[pairs]
        noise = torch.searchsorted(self.noise, drawn, right=True)
        centre = words[..., None].expand_as(pairs)[pairs]
        middle = ids.gather(1, mask.sum(1, keepdim=True) // 2)[:, 0]  # (b,)
        return centre, words[:, place][pairs], noise, middle

    def loss(self, views: Views, progress: float) -> Tensor:
        """Equation 4, −log σ(u_o·v_c) − Σ log σ(−u_n·v_c), mean over the global batch's pairs.

        Logs the vectors of the sentences' middle words as `embedding`. Means of sentences have too
        much in common for the monitor: what is against all noise is first the same for all words.
        """
        centre, context, noise, middle = views
        self.log(embedding=self.encoder.table(middle))
        v = self.encoder.table(centre)  # (P, D)
        others = torch.cat([context[:, None], noise], dim=1)  # (P, 1 + K)
        scores: Tensor = _Products.apply(v, self.output, others)
        terms = F.softplus(-scores[:, 0]) + F.softplus(scores[:, 1:]).sum(1)
        return distributed.mean(terms)


def frequencies(rows: Rows, special: Tensor) -> Tensor:
    """Occurrences (V,) float64 of each token in the rows, 0 for special tokens."""
    mask = torch.arange(rows.ids.shape[1]) < rows.lengths[:, None]
    counts = torch.bincount(rows.ids[mask].long(), minlength=len(special))
    return counts.double().masked_fill(special, 0)


class _Products(torch.autograd.Function):
    """v_p · table[index_pk] (P, K) of v (P, D), table (V, D) and index (P, K).

    Several times as fast on a CPU as to gather the rows and multiply: weighted sums of rows of a
    table need no copy of them, and the products are the slope of such a sum by its weights.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(v, table, index)
        weights = torch.zeros(index.shape, dtype=v.dtype, device=v.device, requires_grad=True)
        with torch.enable_grad():
            sums = F.embedding_bag(index, table, mode="sum", per_sample_weights=weights)  # (P, D)
        return torch.autograd.grad(sums, weights, v)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (v, table, index), grad = ctx.saved_tensors, grads[0].contiguous()
        of_v = F.embedding_bag(index, table, mode="sum", per_sample_weights=grad)
        columns, order = index.flatten().sort(stable=True)
        starts = torch.searchsorted(columns, torch.arange(len(table), device=v.device))
        pair, weights = order // index.shape[1], grad.flatten()[order]
        of_table = F.embedding_bag(pair, v, starts, mode="sum", per_sample_weights=weights)
        return of_v, of_table, None
