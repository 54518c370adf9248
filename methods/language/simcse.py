"""SimCSE: a sentence, read twice with different dropout, must find itself among the others.

Gao, Yao, Chen. SimCSE: Simple Contrastive Learning of Sentence Embeddings. EMNLP 2021.
arXiv:2104.08821. The unsupervised one (section 3, equation 4).

Defaults: section 3 and appendix A for BERT-base (temperature 0.05, dropout 0.1, sentences of 32
tokens; Adam, learning rate 3e-5 at batch 64, linear decay, one pass over 10⁶ sentences).

Differs from the paper: the encoder starts as it is given, where the paper starts from BERT; it is
pooled in its own way in training and evaluation (`pooling = "first"` is the paper's [CLS]), with
the paper's extra layer after it in training only; dropout is in the embeddings and after each
sublayer, not in the attention weights; the paper keeps the checkpoint that does best on the
development set of STS-B, this is the last one.

Measured: leaderboards/language (10 MB of prose, one pass, 3 seeds), gain over the same encoder
untrained: nothing: tags of words +.001 [−.002, .003], sentiment +.003 [−.010, .016]. From a random
encoder the task is solved at once (loss below .001 at step 10).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench.blockwise import blockwise
from sslbench.corpus import enclosed, row_length, sentence_rows
from sslbench.data.split import Batch, Split, Tokens
from sslbench.distributed import gather, rank
from sslbench.dropout import dropout, layers
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe
from sslbench.random import Random
from sslbench.text_encoder import TextEncoder

Views = tuple[Tensor, Tensor, Tensor, Tensor]


class SimCSE(Method):
    """Two passes with different dropout are each other's positives.

    Args:
        encoder: a bidirectional language model with dropout layers.
        data: the corpus, one document an example; its sentences are the examples here.
        length: most tokens of a sentence, special ones included; no more than the encoder takes.
        dropout: share of the activations that each pass leaves out.
        temperature: τ.
    """

    paper = "arXiv:2104.08821"
    modality = "text"
    pseudo_label = "the same sentence among the batch's"
    recipe = Recipe("adamw", lr=3e-5, batch_size=64, epochs=1, schedule="linear")
    encoder: TextEncoder

    def __init__(
        self,
        encoder: TextEncoder,
        data: Split,
        *,
        length: int = 32,
        dropout: float = 0.1,
        temperature: float = 0.05,
    ) -> None:
        if encoder.causal or not layers(encoder):
            raise NotApplicable(
                f"simcse needs a bidirectional encoder with dropout layers: {encoder.label}"
            )
        most = row_length(encoder, min(length, encoder.length), 3) - 2
        super().__init__(encoder, sentence_rows(data, encoder.tokenizer, most))
        encoder.drop_head()
        self.dropout, self.temperature = dropout, temperature
        self.head = nn.Sequential(nn.Linear(encoder.dim, encoder.dim), nn.Tanh())

    def views(self, batch: Batch, random: Random) -> Views:
        """Ids, mask and segments (b, N), and the seeds (b, 2) of each sentence's two dropouts."""
        assert batch.tokens is not None
        tokens = enclosed(self.encoder.tokenizer, batch.tokens)
        return tokens.ids, tokens.mask, tokens.segments, random.integers(2**31 - 1, 2)

    def loss(self, views: Views, progress: float) -> Tensor:
        """Equation 4 over the global batch; logs the first pass without head as `embedding`."""
        *parts, seeds = views
        twice = Tokens(*(part.repeat(2, 1) for part in parts))
        with dropout(self.encoder, seeds.T.flatten(), self.dropout):
            pooled = self.encoder.embed(twice)  # (2b, D)
        self.log(embedding=pooled[: len(seeds)])
        first, second = self.head(pooled).chunk(2)
        return info_nce(first, gather(second), self.temperature)


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """−log( exp(s_ii / τ) / Σ_j exp(s_ij / τ) ), s the cosine similarity, averaged over i.

    Args:
        first: (b, D), of this process.
        second: (B, D), of the global batch.
        temperature: τ.
    """
    keys = F.normalize(second, dim=1)
    itself = torch.arange(len(first), device=first.device) + rank() * len(first)

    def rows(x: Tensor, itself: Tensor) -> Tensor:
        return F.cross_entropy(x @ keys.T / temperature, itself)

    return blockwise(rows, len(keys), F.normalize(first, dim=1), itself)
