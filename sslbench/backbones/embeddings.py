"""Static word embeddings: a vector for each word, whatever stands around it."""

from typing import Any, ClassVar

from torch import Tensor, nn

from sslbench.data.split import Tokens
from sslbench.text_encoder import TextEncoder
from sslbench.tokenizer import Tokenizer


class Embeddings(TextEncoder):
    """A table of word vectors; a text is the mean of its words.

    Args:
        config: see `TextEncoder`; words are lower case unless "tokenizer" says otherwise.
        tokenizer: whose vocabulary the table has.
        dim: D, width of a vector.
        length: most tokens of a text.
    """

    kind: ClassVar[str] = "words"

    def __init__(
        self, config: dict[str, Any], tokenizer: Tokenizer, *, dim: int = 300, length: int = 512
    ) -> None:
        super().__init__(config, tokenizer, "mean")
        self.dim, self.length = dim, length
        self.table = nn.Embedding(len(tokenizer), dim)
        self.parts = ("table",)

    def hidden(self, inputs: Tokens) -> list[Tensor]:
        """(B, N, D): the vectors of the tokens."""
        return [self.table(inputs.ids)]

    def layers(self, inputs: Tokens) -> dict[str, Tensor]:
        """`mean` of the words' vectors."""
        return {"mean": self.embed(inputs)}
