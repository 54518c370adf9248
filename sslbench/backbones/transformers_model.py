"""Any of transformers' language models as an encoder, at any size.

Wolf et al. Transformers: State-of-the-Art Natural Language Processing. EMNLP 2020 (demos).
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from sslbench.backbones import causal
from sslbench.data.split import Tokens
from sslbench.errors import UserError, suggest
from sslbench.text_encoder import TextEncoder
from sslbench.tokenizer import Tokenizer

POOLED = ("bert", "roberta")  # whose plain models have a layer on top that nobody trained


class TransformersModel(TextEncoder):
    """A bidirectional ("bert", …) or causal ("gpt2", …) transformer with its language-model head.

    Dropout is 0 unless the settings say otherwise, so that training does not depend on the number
    of processes.

    Args:
        config: see `TextEncoder`; "name" is transformers' model type.
        tokenizer: whose vocabulary the model gets.
        pooling: of the last layer, see `TextEncoder`.
        length: most tokens of a text; 0: as many as the model has positions.
        head: whether there is a language-model head.
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
        plain = transformers.AutoConfig.for_model(kind)
        known = {*plain.to_dict(), *type(plain).attribute_map} - {"vocab_size"}
        for name in settings:
            if name not in known:
                raise UserError(f"encoder {kind} has no setting {name!r}; {_near(name, known)}")
        rows = vocab_size or len(tokenizer)
        if rows < len(tokenizer):
            raise UserError(f"vocab_size = {rows}: the tokenizer has {len(tokenizer)} tokens")
        still = {name: 0.0 for name in known if "drop" in name and _is_share(plain, name)}
        ids = {"pad": tokenizer.pad, "bos": tokenizer.sep, "eos": tokenizer.sep}
        ids |= {"cls": tokenizer.cls, "sep": tokenizer.sep}
        special = {f"{name}_token_id": number for name, number in ids.items()}
        try:
            described = transformers.AutoConfig.for_model(
                kind, vocab_size=rows, **{**special, **still, **settings}
            )
            auto = "AutoModelForCausalLM" if self.causal else "AutoModelForMaskedLM"
            more = {}
            if not head:
                auto, more = "AutoModel", {"add_pooling_layer": False} if kind in POOLED else {}
            self.model = getattr(transformers, auto).from_config(
                described, attn_implementation="sdpa", **more
            )
        except ValueError as error:
            raise UserError(f"encoder {kind}: {error}") from None
        self.dim = described.hidden_size
        # RoBERTa counts positions from the padding token's id + 1.
        lost = (tokenizer.pad or 0) + 1 if kind == "roberta" else 0
        positions = described.max_position_embeddings - lost
        if not 0 <= length <= positions:
            raise UserError(f"length = {length}: encoder {kind} has {positions} positions")
        self.length, self.headless = length or positions, not head
        self.pairs = getattr(described, "type_vocab_size", 0) > 1
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


def _is_share(config: Any, name: str) -> bool:
    return isinstance(getattr(config, name, None), float)


def _near(name: str, known: set[str]) -> str:
    return suggest(name, sorted(n for n in known if not n.startswith("_")))
