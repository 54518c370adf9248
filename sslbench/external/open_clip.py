"""Other people's checkpoints → an Encoder: folders as open_clip's `local-dir:` reads them."""

import json
from pathlib import Path
from typing import Any

import torch

from sslbench.backbones.open_clip_model import OpenClip, package
from sslbench.encoder import Encoder, build
from sslbench.errors import UserError
from sslbench.external.folder import Folder, account
from sslbench.external.hugging_face import chosen
from sslbench.external.preprocessing import from_open_clip, resolved
from sslbench.external.request import Report, Request
from sslbench.tokenizer import Tokenizer

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load(folder: Path, request: Request) -> tuple[Encoder, Report]:
    """The image encoder of a folder with open_clip_config.json, with its encoder of captions.

    Captions are read by open_clip's own tokenizer, or by the folder's where "text_cfg" names one of
    Hugging Face's.

    Args:
        folder: with open_clip_model.safetensors or open_clip_pytorch_model.bin.
        request: what the user says of it.

    Raises:
        UserError: open_clip is not installed, a file is missing or damaged, or the weights do not
            fit: every weight of both towers must be there, by name and shape.
    """
    convert = package().model.convert_to_custom_text_state_dict
    files = Folder(folder)
    whole = files.table(CONFIG)
    model = whole.get("model_cfg")
    if not isinstance(model, dict) or not {"vision_cfg", "text_cfg", "embed_dim"} <= {*model}:
        raise UserError(f"{folder / CONFIG}: no model_cfg with vision_cfg, text_cfg and embed_dim")
    size = model["vision_cfg"].get("image_size", 224)
    found = from_open_clip(whole.get("preprocess_cfg") or {}, size)
    kept, source = resolved(found, CONFIG, request.preprocess)
    described: dict[str, Any] = {
        "name": "open_clip",
        "model": json.dumps(model, sort_keys=True),
        **kept,
    }
    tokenizer = None
    if model["text_cfg"].get("hf_tokenizer_name"):
        tokenizer = Tokenizer.parse(files.text("tokenizer.json"))
        described |= {"pad": _pad(files), "tokenizer_hash": tokenizer.hash}
    described = chosen(files, request, described, "open_clip")
    tensors = files.weights(*WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what is missing gets the same values every time
        encoder = build(described, tokenizer=tokenizer)
    assert isinstance(encoder, OpenClip)
    if model.get("custom_text"):
        tensors = convert(tensors)  # from when the text tower's names had no prefix
    state = encoder.state_dict()
    ours = {n if n.startswith("visual.") else f"captions.model.{n}": v for n, v in tensors.items()}
    fitting = {n: v for n, v in ours.items() if n in state and state[n].shape == v.shape}
    missing, unused = {*state} - {*fitting}, {*ours} - {*state}
    report = account(files, request, "open_clip", tensors, state, missing, unused, source)
    encoder.load_state_dict(fitting, strict=False)
    return encoder.eval(), report


def _pad(files: Folder) -> int:
    """Id of the token that captions are filled up with, which tokenizer.json does not say."""
    from transformers import AutoTokenizer

    files.table("tokenizer_config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{files.path}: tokenizer: {error}") from None
    if tokenizer.pad_token_id is None:
        raise UserError(f"{files.path}: its tokenizer has no token for padding")
    return int(tokenizer.pad_token_id)
