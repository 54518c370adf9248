"""ELECTRA: tell which tokens of a text a small generator has replaced.

Clark, Luong, Le, Manning. ELECTRA: Pre-training Text Encoders as Discriminators Rather Than
Generators. ICLR 2020. arXiv:2003.10555.

Defaults: section 3 and table 6 of the appendix, the base model (15 % of the tokens are masked, the
generator has a third of the width, λ = 50; Adam, learning rate 2e-4 at batch 256, weight decay
0.01, warm-up over 1 % of the steps, linear decay; 766,000 steps are 30 epochs of its corpus).

Differs from the paper: generator and discriminator share no embeddings; tokens are selected each
with probability 15 %; no dropout. The encoder that is kept is the discriminator, without a
language-model head.

Measured: leaderboards/language (10 MB of prose, four passes, 3 seeds), gain over the same encoder
untrained: tags of words +.050 [.018, .082] to .705, exact match on squad-dev +.017 [.009, .025] to
.020; sentiment +.006 [−.007, .020]. At a learning rate of 2e-3 and a generator of a third the
discriminator learned nothing in 1,800 steps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench import distributed
from sslbench.backbones.transformers_model import TransformersModel
from sslbench.corpus import IGNORED, corrupted, enclosed, packed, row_length
from sslbench.data.split import Batch, Split, Tokens
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe
from sslbench.random import Random
from sslbench.text_encoder import TextEncoder

Views = tuple[Tensor, Tensor, Tensor, Tensor]


class ELECTRA(Method):
    """A masked language model proposes replacements, the encoder finds them.

    Args:
        encoder: a bidirectional transformer; the discriminator.
        data: the corpus, one document an example.
        length: tokens in a row, special ones included; 0: as many as the encoder takes.
        selected: share of tokens that are masked for the generator.
        generator: its width, heads and feed-forward layers as a share of the encoder's.
        weight: λ of the discriminator's loss.
    """

    paper = "arXiv:2003.10555"
    modality = "text"
    pseudo_label = "which tokens were replaced"
    recipe = Recipe(
        "adamw", lr=2e-4, weight_decay=0.01, batch_size=256, epochs=30, warmup=0.01,
        schedule="linear",
    )  # fmt: skip
    encoder: TextEncoder

    def __init__(
        self,
        encoder: TextEncoder,
        data: Split,
        *,
        length: int = 0,
        selected: float = 0.15,
        generator: float = 1 / 3,
        weight: float = 50.0,
    ) -> None:
        if not isinstance(encoder, TransformersModel) or encoder.causal:
            raise NotApplicable(f"electra needs a bidirectional transformer: {encoder.label}")
        if encoder.tokenizer.mask is None:
            raise NotApplicable(f"electra needs a tokenizer with a mask: {encoder.label}")
        length = row_length(encoder, length, 3)
        super().__init__(encoder, packed(data, encoder.tokenizer, length - 2))
        self.selected, self.weight = selected, weight
        self.generator = smaller(encoder, generator)
        encoder.drop_head()
        self.replaced = nn.Linear(encoder.dim, 1)

    def views(self, batch: Batch, random: Random) -> Views:
        """Ids after masking, mask, labels and uniform draws for the replacements, (b, N) each."""
        assert batch.tokens is not None
        tokens = enclosed(self.encoder.tokenizer, batch.tokens)
        ids, labels = corrupted(self.encoder.tokenizer, tokens, random, selected=self.selected)
        return ids, tokens.mask, labels, random.uniform(ids.shape[1])

    def loss(self, views: Views, progress: float) -> Tensor:
        """L_MLM + λ L_Disc: means over the masked tokens, and over all, of the global batch.

        Logs both, and the discriminator's mean token as `embedding`.
        """
        ids, mask, labels, draw = views
        precision = self.replaced.weight.dtype  # whatever autocast computes in
        chosen, segments = labels != IGNORED, torch.zeros_like(ids)
        hidden = self.generator.tokens(Tokens(ids, mask, segments))[chosen]
        logits = self.generator.head(hidden).to(precision)  # (K, V)
        words = distributed.mean(F.cross_entropy(logits, labels[chosen], reduction="none"))

        guesses = ids.masked_scatter(chosen, sample(logits.detach(), draw[chosen]))
        truth = torch.where(chosen, labels, ids)
        states = self.encoder.tokens(Tokens(guesses, mask, segments))  # (b, N, D)
        scores = self.replaced(states)[..., 0][mask].to(precision)
        fake = (guesses != truth)[mask].to(precision)  # a right guess is no replacement
        found = distributed.mean(F.binary_cross_entropy_with_logits(scores, fake, reduction="none"))

        embedding = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        self.log(embedding=embedding, words=words, replaced=found)
        return words + self.weight * found


def smaller(encoder: TransformersModel, share: float) -> TextEncoder:
    """As deep as `encoder`, with a share of its heads of the same width, and of its other widths.

    Raises:
        ValueError: a share that is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"generator = {share}: more than 0 and at most 1 expected")
    config = encoder.model.config
    heads = max(1, round(config.num_attention_heads * share))
    changes = {
        "head": True,
        "num_attention_heads": heads,
        "hidden_size": config.hidden_size // config.num_attention_heads * heads,
        "intermediate_size": max(1, round(config.intermediate_size * share)),
    }
    generator = encoder.variant(**changes)
    assert isinstance(generator, TextEncoder)
    return generator


def sample(logits: Tensor, draw: Tensor) -> Tensor:
    """Ids (K,) from softmax(logits (K, V)): where its distribution function passes `draw` (K,)."""
    below = logits.softmax(1).cumsum(1)
    drawn = draw.to(below.dtype)[:, None] * below[:, -1:]  # rounding may end it beside 1
    return torch.searchsorted(below, drawn, right=True)[:, 0].clamp_max(logits.shape[1] - 1)
