"""What encoders of texts share: the tokenizer, and how tokens are pooled."""

from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from sslbench.data.split import Batch, Split, Tokens
from sslbench.encoder import Encoder
from sslbench.errors import NotApplicable, UserError, suggest

if TYPE_CHECKING:
    from sslbench.tokenizer import Tokenizer

POOLINGS = ("mean", "first", "last")


class TextEncoder(Encoder):
    """What encoders of texts share: the tokenizer, and how tokens are pooled.

    The layers are the embeddings and the blocks, each averaged over its tokens, then the last
    block pooled in the other ways, and `pooling` of it as the very last.

    Args:
        config: "tokenizer" (see `sslbench.tokenizer.trained`), "vocabulary", the number of tokens,
            and "tokenizer_hash", which is what was learned.
        pooling: "mean" over the tokens, "first" ([CLS]) or "last" of them.

    Attributes:
        length: most tokens; longer texts are cut.
    """

    modality = "text"
    tokenizer: "Tokenizer"
    length: int
    kind: ClassVar[str]
    common: ClassVar[tuple[str, ...]] = ("name", "tokenizer", "vocabulary", "tokenizer_hash")

    @classmethod
    def make(
        cls, config: dict[str, Any], data: Split | None, tokenizer: "Tokenizer | None"
    ) -> Self:
        """An encoder with the given tokenizer, or with one that learns from the data.

        Raises:
            UserError: neither, or not the tokenizer of the configuration.
        """
        from sslbench.backbones import causal
        from sslbench.tokenizer import trained

        kind = "bpe" if causal(config["name"]) else cls.kind  # nothing of the text may be lost
        config = {"tokenizer": kind, "vocabulary": 8000, **config}
        if tokenizer is None:
            if data is None:
                raise UserError(f"encoder {config['name']}: no data to learn a tokenizer from")
            tokenizer = trained(
                data, config["tokenizer"], config["vocabulary"], causal(config["name"])
            )
        if config.setdefault("tokenizer_hash", tokenizer.hash) != tokenizer.hash:
            raise UserError(f"encoder {config['name']}: not the tokenizer that it was made with")
        settings = {k: v for k, v in config.items() if k not in cls.common}
        return cls(config, tokenizer, **settings)

    def __init__(self, config: dict[str, Any], tokenizer: "Tokenizer", pooling: str) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError(f"pooling {pooling!r}; {suggest(pooling, list(POOLINGS))}")
        self.config, self.tokenizer, self.pooling = config, tokenizer, pooling

    def preprocess(self, batch: Batch) -> Tokens:
        """Tokens of the texts, at most `length` of them; pairs are encoded together.

        Raises:
            NotApplicable: no texts, or several for each example that are no pair.
        """
        if batch.tokens is not None:
            return batch.tokens.to(self.device)
        if batch.texts is None:
            raise NotApplicable(f"{self.label} needs texts")
        paired = batch.images is None  # two captions of an image are no pair
        if not all(isinstance(t, str) or (paired and len(t) == 2) for t in batch.texts):
            found = "words, or a context with its endings" if paired else "the captions of images"
            raise NotApplicable(f"{self.label} needs texts or pairs of texts, these are {found}")
        return self.tokenizer(batch.texts, self.length).to(self.device)

    def hidden(self, inputs: Tokens) -> list[Tensor]:
        """(B, N, D) of the embeddings and of every block."""
        raise NotImplementedError

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) over the vocabulary at positions of the last layer (…, D)."""
        raise NotApplicable(f"{self.label} has no language-model head")

    def drop_head(self) -> None:
        """Leave out the language-model head, where there is one, for whoever does not train it."""

    def logits(self, inputs: Tokens) -> Tensor:
        """(B, N, V): of the next token if `causal`, else of the token at the place itself."""
        return self.head(self.tokens(inputs))

    def layers(self, inputs: Tokens) -> dict[str, Tensor]:
        """`embeddings.mean`, `block1.mean` …, and the poolings of the last block."""
        hidden = self.hidden(inputs)
        names = ["embeddings", *(f"block{i}" for i in range(1, len(hidden)))]
        named = {
            f"{name}.mean": pool_tokens(states, inputs.mask, "mean")
            for name, states in zip(names[:-1], hidden[:-1], strict=True)
        }
        for pooling in (*(p for p in POOLINGS if p != self.pooling), self.pooling):
            named[f"{names[-1]}.{pooling}"] = pool_tokens(hidden[-1], inputs.mask, pooling)
        return named

    def embed(self, inputs: Tokens) -> Tensor:
        """(B, D): the last block, pooled."""
        return pool_tokens(self.tokens(inputs), inputs.mask, self.pooling)

    def tokens(self, inputs: Tokens, keep: Tensor | None = None) -> Tensor:
        """(B, N, D) of all positions, special tokens included."""
        if keep is not None:
            raise NotApplicable(f"{self.label} cannot leave out tokens")
        return self.hidden(inputs)[-1]


def pool_tokens(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """States (B, N, D) of the tokens in `mask` (B, N) → (B, D); 0 where there is no token."""
    if pooling == "first":
        return states[:, 0] * mask[:, :1]
    if pooling == "last":
        last = mask.sum(1).sub(1).clamp_min(0)
        return states[torch.arange(len(states)), last] * mask[:, :1]
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1)
