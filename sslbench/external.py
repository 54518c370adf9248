"""Other people's checkpoints → an Encoder: folders as Hugging Face's transformers writes them."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sslbench.backbones import CAUSAL, MASKED
from sslbench.backbones.transformers_model import TransformersModel
from sslbench.encoder import build
from sslbench.errors import UserError, suggest
from sslbench.tokenizer import Tokenizer

log = logging.getLogger(__name__)

# What stands in a configuration without changing what the model computes when it is evaluated.
_IGNORED = {"model_type", "architectures", "vocab_size", "torch_dtype", "dtype", "use_cache"}
_IGNORED |= {"transformers_version"}


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder looks as `save_pretrained` leaves it."""
    return (folder / "config.json").exists() and not (folder / "encoder.json").exists()


def hugging_face(folder: Path) -> TransformersModel:
    """The text encoder of a folder with config.json, model.safetensors and tokenizer.json.

    Pooling and the most tokens of a text are those of sentence-transformers' files where the
    folder has them, else the mean and as many as the model has positions.

    Raises:
        UserError: a file is missing or damaged, the model type is not known here, or the weights
            do not fit: every weight of the encoder must be there, by name and shape.
    """
    config = _json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in (*MASKED, *CAUSAL):
        hint = suggest(str(kind), [*MASKED, *CAUSAL])
        raise UserError(f"{folder}: model type {kind!r} is no text encoder known here; {hint}")
    for name in ("tokenizer.json", "model.safetensors"):
        if not (folder / name).exists():
            raise UserError(f"{folder}: {name} is missing")
    try:
        tokenizer = Tokenizer.parse((folder / "tokenizer.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except (OSError, UnicodeDecodeError, SafetensorError) as error:
        raise UserError(f"{folder}: {error}") from None
    described = {
        "name": kind,
        "tokenizer": "own",
        "vocabulary": len(tokenizer),
        "head": any("LM" in name for name in config.get("architectures") or ()),
        **_sentence_transformers(folder),
        **_settings(kind, config),
    }
    if config.get("vocab_size", 0) > len(tokenizer):
        described["vocab_size"] = config["vocab_size"]
    with torch.random.fork_rng(devices=[]):
        encoder = build(described, tokenizer=tokenizer)
    assert isinstance(encoder, TransformersModel)
    _load(encoder, weights, folder)
    return encoder.eval()


def _settings(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """What differs from the model type's defaults, without what only training needs."""
    from transformers import AutoConfig

    plain = AutoConfig.for_model(kind)
    known = {*plain.to_dict(), *type(plain).attribute_map}
    return {
        name: value
        for name, value in config.items()
        if name in known - _IGNORED
        and "drop" not in name
        and not name.startswith("_")
        and value != getattr(plain, name, None)
    }


def _sentence_transformers(folder: Path) -> dict[str, Any]:
    """Pooling and length as sentence-transformers stores them."""
    found: dict[str, Any] = {}
    if (folder / "sentence_bert_config.json").exists():
        length = _json(folder / "sentence_bert_config.json").get("max_seq_length")
        found = {"length": length} if length else {}
    if (folder / "1_Pooling" / "config.json").exists():
        modes = _json(folder / "1_Pooling" / "config.json")
        names = {"mean_tokens": "mean", "cls_token": "first", "lasttoken": "last"}
        chosen = [ours for theirs, ours in names.items() if modes.get(f"pooling_mode_{theirs}")]
        if len(chosen) != 1:
            raise UserError(f"{folder}: pooling {modes} is none of {', '.join(names)}")
        found["pooling"] = chosen[0]
    return found


def _load(encoder: TransformersModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Copy the weights by name, with or without the model's prefix, all of them or none."""
    prefix = f"{encoder.model.base_model_prefix}."
    wanted = encoder.model.state_dict()
    chosen, used = {}, set()
    for name in wanted:
        spellings = (name, name.removeprefix(prefix), prefix + name)
        found = next((spelling for spelling in spellings if spelling in weights), None)
        if found is not None and weights[found].shape == wanted[name].shape:
            chosen[name] = weights[found]
            used.add(found)
    tied = set[str]()  # to the embeddings, which are there
    if encoder.model.config.tie_word_embeddings:
        tied = set(getattr(encoder.model, "_tied_weights_keys", None) or ())
    lost = [name for name in wanted if name not in chosen and name not in tied]
    if lost:
        share = f"{len(chosen)} of {len(wanted)}"
        raise UserError(
            f"{folder}: {share} weights found by name and shape; not {', '.join(lost[:3])}"
            + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        )
    encoder.model.load_state_dict(chosen, strict=False)
    if unused := sorted(set(weights) - used):
        log.info("%s: %d weights not used: %s", folder, len(unused), ", ".join(unused[:3]))


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    return found
