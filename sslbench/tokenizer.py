"""Texts → tokens, by tokenizers that learn from the pretraining corpus."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import Encoding, decoders, models, normalizers, pre_tokenizers, processors, trainers

from sslbench.data.split import Split, Tokens
from sslbench.errors import NotApplicable, UserError, suggest
from sslbench.hashing import digest
from sslbench.storage import cache_root, write_text

KINDS = ("wordpiece", "bpe", "characters", "words")
VERSION = 1  # raised by whatever here can change what is learned from a corpus
# What each special token is called here and elsewhere.
SPECIAL = {
    "pad": ("[PAD]", "<pad>", "<|endoftext|>"),
    "unknown": ("[UNK]", "<unk>", "<|endoftext|>"),
    "cls": ("[CLS]", "<s>", "<|endoftext|>"),
    "sep": ("[SEP]", "</s>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}


class Tokenizer:
    """A trained tokenizer of the `tokenizers` library, with its template for one or two texts.

    Attributes:
        pad, unknown, cls, sep, mask: ids of the special tokens, None where it has no such token.
    """

    pad: int | None
    unknown: int | None
    cls: int | None
    sep: int | None
    mask: int | None

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.no_truncation()
        inner.no_padding()
        self.inner = inner
        for name, spellings in SPECIAL.items():
            ids = (inner.token_to_id(spelling) for spelling in spellings)
            setattr(self, name, next((i for i in ids if i is not None), None))

    def __len__(self) -> int:
        return int(self.inner.get_vocab_size())

    @cached_property
    def hash(self) -> str:
        """Of everything that it does."""
        return digest(self.json)

    @cached_property
    def json(self) -> str:
        """What `parse` makes the same tokenizer from."""
        return str(self.inner.to_str())

    @classmethod
    def parse(cls, text: str) -> "Tokenizer":
        """The inverse of `json`. Raises UserError if the text is no tokenizer."""
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # the library raises no other type
            raise UserError(f"not a tokenizer: {error}") from None

    @cached_property
    def special(self) -> torch.Tensor:
        """(V,) bool: which ids stand for no text."""
        found = torch.zeros(len(self), dtype=torch.bool)
        for name in SPECIAL:
            number = getattr(self, name)
            if number is not None:
                found[number] = True
        return found

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, whole and without special tokens."""
        self.inner.no_truncation()  # as `encodings` may have left it
        found = self.inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def encodings(
        self,
        texts: Sequence[Any],
        length: int | None = None,
        words: bool = False,
        overlap: int | None = None,
    ) -> list[Encoding]:
        """Encodings with special tokens, and offsets into the texts.

        Args:
            texts: strings or pairs of strings; with `words`, tuples of words.
            length: most tokens; the longer text of a pair is cut first.
            words: whether the texts are split into words already.
            overlap: where given, a pair's second text is cut into windows that share as many
                tokens; the windows after the first are in `overflowing`.
        """
        if length is None:
            self.inner.no_truncation()
        elif overlap is not None:
            self.inner.enable_truncation(length, stride=overlap, strategy="only_second")
        else:
            self.inner.enable_truncation(length)
        given = [list(text) for text in texts] if words else list(texts)
        return list(self.inner.encode_batch(given, is_pretokenized=words))

    def __call__(self, texts: Sequence[Any], length: int, words: bool = False) -> Tokens:
        """Strings or pairs of strings as padded tokens; see `encodings`."""
        return self.pad_together(self.encodings(texts, length, words))

    def pad_together(self, encodings: Sequence[Encoding]) -> Tokens:
        """Encodings (B) as tokens (B, N), N the longest of them and at least 1."""
        longest = max(1, *(len(encoding.ids) for encoding in encodings))
        ids = torch.full((len(encodings), longest), self.pad or 0)
        mask = torch.zeros(len(encodings), longest, dtype=torch.bool)
        segments = torch.zeros(len(encodings), longest, dtype=torch.long)
        for row, encoding in enumerate(encodings):
            n = len(encoding.ids)
            ids[row, :n] = torch.tensor(encoding.ids, dtype=torch.long)
            segments[row, :n] = torch.tensor(encoding.type_ids, dtype=torch.long)
            mask[row, :n] = True
        return Tokens(ids, mask, segments)


def documents(split: Split, size: int = 256) -> Iterator[list[str]]:
    """All texts of a split in parts of `size` examples; pairs and captions come one by one."""
    for index in torch.arange(len(split)).split(size):
        texts = split[index].texts
        if texts is None:
            raise NotApplicable("a text encoder needs texts")
        yield list(chain.from_iterable([t] if isinstance(t, str) else t for t in texts))


def trained(split: Split, kind: str, vocabulary: int, causal: bool = False) -> Tokenizer:
    """The tokenizer of a corpus; learned once, then read from the cache.

    Args:
        split: what it learns from.
        kind: "wordpiece" (lower case; BERT's), "bpe" (of bytes; GPT-2's), "characters", or "words"
            (lower case).
        vocabulary: most tokens, the special ones included.
        causal: texts begin with [SEP], which also ends documents; else they are [CLS] a [SEP] or
            [CLS] a [SEP] b [SEP], except for "words", which get no special tokens.

    Raises:
        UserError: an unknown kind, or a vocabulary without room for the special tokens.
    """
    if kind not in KINDS:
        raise UserError(f"tokenizer {kind!r}; {suggest(kind, list(KINDS))}")
    least = len(SPECIAL) + (256 if kind == "bpe" else 1)
    if vocabulary < least:
        raise UserError(f"vocabulary = {vocabulary}: at least {least} tokens for {kind!r}")
    path = place(split, kind, vocabulary, causal)
    if path.exists():
        return Tokenizer.parse(path.read_text(encoding="utf-8"))
    found = _train(split, kind, vocabulary, causal)
    write_text(path, found.json)
    return found


def place(split: Split, kind: str, vocabulary: int, causal: bool) -> Path:
    """Where the tokenizer of a corpus is kept."""
    key = digest(split.hash, kind, vocabulary, causal, VERSION, tokenizers.__version__)
    return cache_root() / "tokenizers" / f"{key}.json"


def _letters(split: Split) -> list[str]:
    """The characters of a corpus in lower case, without spaces, sorted."""
    normalizer, found = normalizers.BertNormalizer(lowercase=True), set[str]()
    for texts in documents(split):
        for text in texts:
            found.update(normalizer.normalize_str(text))
    return sorted(letter for letter in found if not letter.isspace())


def _train(split: Split, kind: str, vocabulary: int, causal: bool) -> Tokenizer:
    names = [spellings[0] for spellings in SPECIAL.values()]
    common: dict[str, Any] = {"vocab_size": vocabulary, "special_tokens": names}
    common["show_progress"] = False
    trainer: Any
    if kind == "wordpiece":
        inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        inner.decoder = decoders.WordPiece()
        # The trainer numbers these pieces as it meets them, in another order in every process, and
        # breaks ties by the numbers.
        common["special_tokens"] = [*names, *(f"##{letter}" for letter in _letters(split))]
        trainer = trainers.WordPieceTrainer(**common)
    elif kind == "bpe":
        inner = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
        inner.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **common)
    else:
        inner = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
        trainer = trainers.WordLevelTrainer(**common)
    if kind in ("wordpiece", "words"):
        inner.normalizer = normalizers.BertNormalizer(lowercase=True)
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    elif kind == "bpe":
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        one = tokenizers.Regex(r"[\s\S]")
        inner.pre_tokenizer = pre_tokenizers.Split(one, behavior="isolated")
    inner.train_from_iterator(documents(split), trainer)
    if kind == "wordpiece":  # the pieces are not special: take over the vocabulary alone
        learned = inner.get_vocab()
        taught, inner = inner, tokenizers.Tokenizer(models.WordPiece(learned, unk_token="[UNK]"))
        inner.decoder, inner.normalizer = taught.decoder, taught.normalizer
        inner.pre_tokenizer = taught.pre_tokenizer
        inner.add_special_tokens(names)
    special = [(name, inner.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    if causal:
        template = ("[SEP] $A", "[SEP] $A [SEP] $B:1")
    elif kind == "words":
        template = ("$A", "$A $B:1")
    else:
        template = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    inner.post_processor = processors.TemplateProcessing(
        single=template[0], pair=template[1], special_tokens=special
    )
    return Tokenizer(inner)
