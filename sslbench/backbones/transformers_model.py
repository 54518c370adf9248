"""Any of transformers' language models as an encoder, at any size.

Wolf et al. Transformers: State-of-the-Art Natural Language Processing. EMNLP 2020 (demos).
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from sslbench.backbones import HEADLESS, causal
from sslbench.backbones.transformers_config import described
from sslbench.data.split import Tokens
from sslbench.errors import UserError
from sslbench.text_encoder import TextEncoder
from sslbench.tokenizer import Tokenizer

# Whose plain models have a layer on top that nobody trained.
POOLED = ("bert", "roberta", "albert", "camembert", "mpnet", "xlm-roberta")
COUNTING = ("roberta", "camembert", "xlm-roberta")  # positions from the padding token's id + 1
_POOLERLESS: dict[str, Any] = {"add_pooling_layer": False}
PLAIN = ("deberta-v2", "mpnet")  # which have no other attention than their own


class TransformersModel(TextEncoder):
    """A bidirectional ("bert", …) or causal ("gpt2", …) transformer with its language-model head.

    Dropout is 0 unless the settings say otherwise, so that training does not depend on the number
    of processes.

    Args:
        config: see `TextEncoder`; "name" is transformers' model type.
        tokenizer: whose vocabulary the model gets.
        pooling: of the last layer, see `TextEncoder`.
        length: most tokens of a text; 0: as many as the model has positions.
        head: whether there is a language-model head; there is none for types of `HEADLESS`.
        vocab_size: rows of the table of tokens, 0: as many as the tokenizer has; others' models
            have some to spare.
        settings: of the model's configuration, as transformers names them (hidden_size,
            num_hidden_layers, num_attention_heads, intermediate_size, max_position_embeddings, …).
    """

    kind: ClassVar[str] = "wordpiece"

    def __init__(
        self,
        config: dict[str, Any],
        tokenizer: Tokenizer,
        *,
        pooling: str = "mean",
        length: int = 0,
        head: bool = True,
        vocab_size: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(config, tokenizer, pooling)
        import transformers

        kind = config["name"]
        self.causal = causal(kind)
        rows = vocab_size or len(tokenizer)
        if rows < len(tokenizer):
            raise UserError(f"vocab_size = {rows}: the tokenizer has {len(tokenizer)} tokens")
        ids = {"pad": tokenizer.pad, "bos": tokenizer.sep, "eos": tokenizer.sep}
        ids |= {"cls": tokenizer.cls, "sep": tokenizer.sep}
        special = {f"{name}_token_id": number for name, number in ids.items()}
        model = described(kind, settings, vocab_size=rows, **special)
        auto = "AutoModelForCausalLM" if self.causal else "AutoModelForMaskedLM"
        self.headless, self.construct = not head or kind in HEADLESS, {}
        if self.headless:
            auto, self.construct = "AutoModel", _POOLERLESS if kind in POOLED else {}
        attention = "eager" if kind in PLAIN else "sdpa"
        try:
            self.model = getattr(transformers, auto).from_config(
                model, attn_implementation=attention, **self.construct
            )
        except ValueError as error:
            raise UserError(f"encoder {kind}: {error}") from None
        self.dim = model.hidden_size
        lost = (tokenizer.pad or 0) + 1 if kind in COUNTING else 2 if kind == "mpnet" else 0
        positions = model.max_position_embeddings - lost
        if not 0 <= length <= positions:
            raise UserError(f"length = {length}: encoder {kind} has {positions} positions")
        self.length = length or positions
        self.pairs = getattr(model, "type_vocab_size", 0) > 1
        self._name_parts()

    def _name_parts(self) -> None:
        modules = self.model.named_modules()
        name, blocks = next((n, m) for n, m in modules if isinstance(m, nn.ModuleList))
        self.parts = tuple(f"model.{name}.{i}" for i in range(len(blocks)))

    def drop_head(self) -> None:
        """Leave the language-model head out of the encoder and of its checkpoint."""
        if not self.headless:
            self.model, self.headless = self.model.base_model, True
            self.config = {**self.config, "head": False}
            self._name_parts()

    def hidden(self, inputs: Tokens) -> list[Tensor]:
        """(B, N, D) of the embeddings and of every block; the last one is normalised."""
        given: dict[str, Any] = {"token_type_ids": inputs.segments} if self.pairs else {}
        if self.causal:
            given["use_cache"] = False
        out = self.model.base_model(
            input_ids=inputs.ids,
            attention_mask=inputs.mask.long(),
            output_hidden_states=True,
            **given,
        )
        return list(out.hidden_states)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of the vocabulary at positions of the last layer (…, D)."""
        if self.headless:
            return super().head(hidden)
        if self.causal:
            return self.model.get_output_embeddings()(hidden)  # type: ignore[no-any-return]
        if self.config["name"] == "bert":
            return self.model.cls(hidden)  # type: ignore[no-any-return]
        if self.config["name"] == "roberta":
            return self.model.lm_head(hidden)  # type: ignore[no-any-return]
        return self.model.decoder(self.model.head(hidden))  # type: ignore[no-any-return]
