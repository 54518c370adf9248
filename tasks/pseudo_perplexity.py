"""Pseudo-perplexity: how well a masked model fills in each token of a text, from both sides.

Salazar, Liang, Nguyen, Kirchhoff. Masked Language Model Scoring. ACL 2020. arXiv:1910.14659
(section 2: the pseudo-log-likelihood of a text is the sum over its tokens of log p(token | all
others), each masked in turn; section 2.3: pseudo-perplexity over a corpus).

`pseudo_log_likelihood_per_token` in nats, (−∞, 0], and `pseudo_perplexity` = exp of its negative.
A token is guessed from both of its sides and their product is no probability of the text, so
neither compares with `perplexity`; nor do they across tokenizers, of which one with fewer or with
more unknown tokens (`unknown_share`) has less to guess.

The cost is one pass for each token: at most `examples` texts, drawn with the seed, each cut after
`tokens` of its own tokens.
"""

import math
from pathlib import Path

import numpy as np
import torch

from sslbench.contributions import ratio
from sslbench.data.split import Dataset
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError
from sslbench.random import Random
from sslbench.statistics import interval
from sslbench.task import Result, Score, Task
from sslbench.text import nats, padded, strings, text_encoder

TOKENS = 8_192  # in a batch
_LARGEST = 300 * math.log(10)


class PseudoPerplexity(Task):
    """Pseudo-log-likelihood of the test texts.

    Args:
        examples: most texts to score.
        tokens: most tokens of each.
    """

    paper = "arXiv:1910.14659"
    metric = "pseudo_log_likelihood_per_token"
    version = 1
    modality = "text"
    target = None

    def __init__(self, *, examples: int = 200, tokens: int = 64) -> None:
        if examples < 1 or tokens < 1:
            raise UserError(f"examples ≥ 1 and tokens ≥ 1 expected, found {examples} and {tokens}")
        self.examples, self.tokens = examples, tokens

    @torch.inference_mode()
    def run(self, encoder: Encoder, data: Dataset, *, seed: int, folder: Path) -> Result:
        """Mask every token in turn."""
        model = text_encoder(encoder)
        mask, unk = model.tokenizer.mask, model.tokenizer.unknown
        if model.causal or mask is None:
            raise NotApplicable(
                f"needs a masked model; {model.label} is none: perplexity is for causal ones"
            )
        texts = strings(data, "test")
        drawn = Random(seed, 0, torch.zeros(1), 1).permutation(len(texts))[0, : self.examples]
        chosen = drawn.sort().values.tolist()
        added = model.tokenizer.inner.num_special_tokens_to_add(False)
        length = min(self.tokens + added, model.length)
        encodings = model.tokenizer.encodings([texts[i] for i in chosen], length)
        places = [
            (row, at)
            for row, encoding in enumerate(encodings)
            for at, special in enumerate(encoding.special_tokens_mask)
            if not special
        ]
        if not places:
            raise NotApplicable(f"{data.name}: no token in the texts that were drawn")

        totals, unknown, counts = (np.zeros(len(encodings)) for _ in range(3))
        size = max(1, TOKENS // length)
        for first in range(0, len(places), size):
            row, at = np.array(places[first : first + size]).T
            tokens = padded([encodings[i].ids for i in row], model)
            each = torch.arange(len(row))
            truth = tokens.ids[each, at].clone()
            tokens.ids[each, at] = mask
            states = model.tokens(tokens)[each, at]  # (B, D)
            np.add.at(totals, row, -nats(model, states, truth).numpy())
            np.add.at(unknown, row, [i == unk for i in truth.tolist()])
            np.add.at(counts, row, 1)

        groups = data["test"].groups
        mean = ratio(totals, counts)
        parts = {self.metric: mean, "unknown_share": ratio(unknown, counts)}
        if (nats_per_token := -float(mean.mean())) < _LARGEST:
            value = math.exp(nats_per_token)
            parts["pseudo_perplexity"] = value * (1 + mean.mean() - mean)
        drawn_groups = None if groups is None else groups[chosen]
        return Result(
            {
                name: Score(float(x.mean()), len(x), interval(x, drawn_groups)[0])
                for name, x in parts.items()
            },
            {"texts": len(encodings), "tokens": len(places)},
        )

    def chance(self, data: Dataset) -> None:
        """Likelihoods have no chance level."""
