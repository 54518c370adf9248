"""Other people's checkpoints → an Encoder: text models as transformers' save_pretrained writes."""

from pathlib import Path
from typing import Any

import torch

from sslbench.backbones import CAUSAL, HEADLESS, MASKED
from sslbench.backbones.transformers_model import TransformersModel
from sslbench.encoder import Encoder, build
from sslbench.errors import UserError
from sslbench.external.folder import Folder, account
from sslbench.external.hugging_face import WEIGHTS, chosen, configuration, fill, settings
from sslbench.external.request import Report, Request
from sslbench.tokenizer import Tokenizer

MODEL_TYPES = (*MASKED, *CAUSAL, *HEADLESS)


def load(folder: Path, request: Request) -> tuple[Encoder, Report]:
    """The text encoder of a folder with config.json, weights and tokenizer.json.

    Pooling and the most tokens of a text are those of sentence-transformers' files where the
    folder has them, else the mean and as many as the model has positions. Layers that
    sentence-transformers has behind the pooling are left out.

    Args:
        folder: with model.safetensors or pytorch_model.bin, whole or in shards.
        request: its `encoder` may hold settings such as "pooling" and "length".

    Raises:
        UserError: a file is missing or damaged, or the weights
            do not fit: every weight of the encoder must be there, by name and shape.
    """
    files = Folder(folder)
    config = configuration(files)
    kind = str(config.get("model_type"))
    if request.preprocess:
        raise UserError(f"{folder}: --preprocess is for images, {kind} reads texts")
    if "tokenizer.json" not in files:
        raise UserError(
            f"{folder}: tokenizer.json is missing; transformers writes it:"
            " AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    tokenizer = Tokenizer.parse(files.text("tokenizer.json"))
    described = {
        "name": kind,
        "tokenizer": "own",
        "vocabulary": len(tokenizer),
        "head": any("LM" in name for name in config.get("architectures") or ()),
        **_sentence_transformers(files),
        **settings(kind, config),
    }
    if config.get("vocab_size", 0) > len(tokenizer):
        described["vocab_size"] = config["vocab_size"]
    described = chosen(files, request, described, kind)
    tensors = files.weights(*WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what is missing gets the same values every time
        encoder = build(described, tokenizer=tokenizer)
        assert isinstance(encoder, TransformersModel)
        wanted, missing, unused = fill(encoder.model, tensors, **encoder.construct)
    report = account(files, request, "transformers", tensors, wanted, missing, unused)
    return encoder.eval(), report


def _sentence_transformers(files: Folder) -> dict[str, Any]:
    """Pooling and length as sentence-transformers stores them."""
    found: dict[str, Any] = {}
    if "sentence_bert_config.json" in files:
        length = files.table("sentence_bert_config.json").get("max_seq_length")
        found = {"length": length} if length else {}
    if "1_Pooling/config.json" in files:
        modes = files.table("1_Pooling/config.json")
        names = {"mean_tokens": "mean", "cls_token": "first", "lasttoken": "last"}
        wanted = [ours for theirs, ours in names.items() if modes.get(f"pooling_mode_{theirs}")]
        if len(wanted) != 1:
            raise UserError(f"{files.path}: pooling {modes} is none of {', '.join(names)}")
        found["pooling"] = wanted[0]
    return found
