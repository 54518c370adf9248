"""LM: predict each token from those before it.

Radford, Narasimhan, Salimans, Sutskever. Improving Language Understanding by Generative
Pre-Training. 2018 (GPT). Section 3.1, equation 1: by the chain rule, the likelihood of a text is
the product of the likelihoods of its tokens, each given the ones before it.

Defaults: section 4.1 (Adam, learning rate 2.5e-4 at batch 64, rows of 512 tokens, 100 epochs,
cosine, weight decay 0.01 on weights).

Differs from the paper: documents are packed end to end, so that a row may begin inside one; the
learning rate warms up over a share of the steps instead of 2,000 of them; no dropout.

Measured: leaderboards/language (10 MB of prose, two passes, 3 seeds), gain over the same encoder
untrained: tags of words +.193 [.184, .203] to .782, sentiment +.022 [.010, .034] to .614, exact
match on squad-dev +.021 [.008, .034] to .023; 1.71 bits per byte of held-out documents, untrained
2.86.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sslbench.corpus import packed, row_length
from sslbench.data.split import Batch, Split, Tokens
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe
from sslbench.random import Random
from sslbench.text_encoder import TextEncoder


class LM(Method):
    """Causal language modelling.

    Args:
        encoder: a causal language model.
        data: the corpus, one document an example.
        length: tokens in a row; 0: as many as the encoder takes.
    """

    paper = "GPT"
    modality = "text"
    pseudo_label = "the next token"
    recipe = Recipe("adamw", lr=2.5e-4, weight_decay=0.01, batch_size=64, epochs=100, warmup=0.02)
    encoder: TextEncoder

    def __init__(self, encoder: TextEncoder, data: Split, *, length: int = 0) -> None:
        if not encoder.causal:
            raise NotApplicable(f"lm needs a causal encoder; {encoder.label} sees the future")
        super().__init__(encoder, packed(data, encoder.tokenizer, row_length(encoder, length, 2)))

    def views(self, batch: Batch, random: Random) -> Tensor:
        """Ids (B, N)."""
        assert batch.tokens is not None
        return batch.tokens.ids

    def loss(self, views: Tensor, progress: float) -> Tensor:
        """−(1/B(N − 1)) Σ log p(token i | tokens before i), equation 1."""
        whole = Tokens(views, torch.ones_like(views, dtype=torch.bool), torch.zeros_like(views))
        states = self.encoder.tokens(whole)  # (B, N, D)
        self.log(embedding=states.mean(1))
        logits = self.encoder.head(states[:, :-1])  # (B, N − 1, V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # under autocast
        return F.cross_entropy(logits.flatten(0, 1), views[:, 1:].flatten())
