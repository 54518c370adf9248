"""MLM: guess the words that are masked, and whether two passages follow each other.

Devlin, Chang, Lee, Toutanova. BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding. NAACL 2019. arXiv:1810.04805.

Defaults: section 3.1 and appendices A.1, A.2 (15 % of the tokens are selected, of which 80 % are
masked, 10 % replaced and 10 % left; half of the pairs are neighbours; Adam, learning rate 1e-4 at
batch 256, weight decay 0.01, 40 epochs, warm-up over 1 % of the steps, linear decay).

Differs from the paper: tokens are selected and masked anew at every step (as RoBERTa does,
arXiv:1907.11692 section 4.1) and each with probability 15 %; passages are whole sentences up to
half the length; no dropout, no clipping of gradients, no first phase of shorter rows.

Measured: leaderboards/language (10 MB of prose, two passes, 3 seeds), gain over the same encoder
untrained: tags of words +.122 [.117, .128] to .777, exact match on squad-dev +.029 [.007, .052] to
.032; sentiment −.001 [−.012, .011], fine-tuned −.024 [−.046, −.002].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslbench import distributed
from sslbench.corpus import IGNORED, Passages, corrupted, enclosed, packed, row_length
from sslbench.data.split import Batch, Split, Tokens
from sslbench.errors import NotApplicable
from sslbench.method import Method, Recipe
from sslbench.random import Random
from sslbench.text_encoder import TextEncoder

Views = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class MLM(Method):
    """Masked language modelling with next-sentence prediction.

    Args:
        encoder: a bidirectional language model.
        data: the corpus, one document an example.
        length: tokens in a row, special ones included; 0: as many as the encoder takes.
        selected: share of tokens to predict.
        masked: share of those that are masked.
        replaced: share of those that are replaced by a random token; the others stay.
        next_sentence: whether rows are pairs of passages, half of them neighbours, to be told
            apart; otherwise rows are packed documents.
    """

    paper = "arXiv:1810.04805"
    modality = "text"
    pseudo_label = "the masked words, and whether two passages are neighbours"
    recipe = Recipe(
        "adamw", lr=1e-4, weight_decay=0.01, batch_size=256, epochs=40, warmup=0.01,
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
        masked: float = 0.8,
        replaced: float = 0.1,
        next_sentence: bool = True,
    ) -> None:
        if encoder.causal or encoder.tokenizer.mask is None:
            raise NotApplicable(f"mlm needs a bidirectional encoder with a mask: {encoder.label}")
        if min(selected, masked, replaced) < 0 or selected > 1 or masked + replaced > 1:
            found = f"selected = {selected}, masked = {masked}, replaced = {replaced}"
            raise ValueError(f"shares of 1 expected, masked and replaced together too: {found}")
        length = row_length(encoder, length, 5 if next_sentence else 3)
        if next_sentence:
            self.passages = Passages(data, encoder.tokenizer, (length - 3) // 2)
            super().__init__(encoder, self.passages)
            self.pooler = nn.Sequential(nn.Linear(encoder.dim, encoder.dim), nn.Tanh())
            self.follows = nn.Linear(encoder.dim, 2)
        else:
            super().__init__(encoder, packed(data, encoder.tokenizer, length - 2))
        self.shares = (selected, masked, replaced)
        self.next_sentence = next_sentence

    def views(self, batch: Batch, random: Random) -> Views:
        """Ids, mask and segments (B, N), labels (B, N), and whether they are neighbours (B,)."""
        assert batch.tokens is not None
        tokens, neighbours = batch.tokens, torch.ones(len(batch), dtype=torch.long)
        second = None
        if self.next_sentence:
            draw = random.on_cpu.uniform(2)
            neighbours = (draw[:, 0] < 0.5).long()
            number = batch.target.cpu()
            other = self.passages.elsewhere(number, draw[:, 1])
            chosen = torch.where(neighbours.bool(), number + 1, other)
            second = self.passages.rows[chosen].tokens
            second = second.to(tokens.ids.device) if second is not None else None
        tokens = enclosed(self.encoder.tokenizer, tokens, second)
        selected, masked, replaced = self.shares
        ids, labels = corrupted(
            self.encoder.tokenizer, tokens, random,
            selected=selected, masked=masked, replaced=replaced,
        )  # fmt: skip
        return ids, tokens.mask, tokens.segments, labels, neighbours.to(ids.device)

    def loss(self, views: Views, progress: float) -> Tensor:
        """Cross-entropy of the words plus that of the pairs (appendix A.2).

        Each selected token of the global batch weighs the same.
        """
        ids, mask, segments, labels, neighbours = views
        states = self.encoder.tokens(Tokens(ids, mask, segments))  # (B, N, D)
        chosen = labels != IGNORED
        logits = self.encoder.head(states[chosen])  # (K, V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # under autocast
        words = distributed.mean(F.cross_entropy(logits, labels[chosen], reduction="none"))
        self.log(embedding=(states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        if not self.next_sentence:
            return words
        pairs = F.cross_entropy(self.follows(self.pooler(states[:, 0])), neighbours)
        self.log(words=words, pairs=pairs)
        return words + pairs
