"""Other people's checkpoints → an Encoder: image models as transformers' save_pretrained writes."""

from pathlib import Path
from typing import Any

import torch

from sslbench.backbones.transformers_image import KINDS, TransformersImage
from sslbench.encoder import Encoder, build
from sslbench.errors import UserError
from sslbench.external import reading
from sslbench.external.folder import Folder, account
from sslbench.external.hugging_face import WEIGHTS, chosen, configuration, fill, settings
from sslbench.external.preprocessing import from_hugging_face, resolved
from sslbench.external.request import Report, Request

# Image–text models, of which the image tower is taken.
TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
NORMED = ("beit", "data2vec-vision")  # whose average has a norm once they were fine-tuned
MODEL_TYPES = (*KINDS, *TOWERS)


def load(folder: Path, request: Request) -> tuple[Encoder, Report]:
    """The image encoder of a folder with config.json and weights.

    What else is in the file of weights, such as a classifier, is reported as unused.

    Args:
        folder: with model.safetensors or pytorch_model.bin, whole or in shards, and, if the images
            are not to be prepared as ImageNet's usually are, preprocessor_config.json.
        request: its `encoder` may hold settings such as "pooling".

    Raises:
        UserError: a file is missing or damaged, or the weights
            do not fit: every weight of the encoder must be there, by name and shape.
    """
    files = Folder(folder)
    config = configuration(files)
    kind = str(config.get("model_type"))
    if kind in TOWERS:
        config, kind = _tower(config), TOWERS[kind]
    special = settings(kind, config)
    size = special.pop("image_size", _size(kind))
    found, source = _preprocessing(files, size)
    kept, source = resolved(found, source, request.preprocess)
    described = {"name": f"hf/{kind}", **kept, **special}
    if size is not None:
        described["img_size"] = size
    tensors = files.weights(*WEIGHTS)
    averages = kind in NORMED and config.get("use_mean_pooling", True)
    if averages and not any("pooler.layernorm" in name for name in tensors):
        described["pooling"] = "mean"
    described = chosen(files, request, described, kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what is missing gets the same values every time
        encoder = build(described)
        assert isinstance(encoder, TransformersImage)
        wanted, missing, unused = fill(encoder.model, tensors, **encoder.construct)
    report = account(files, request, "transformers", tensors, wanted, missing, unused, source)
    return encoder.eval(), report


def _tower(config: dict[str, Any]) -> dict[str, Any]:
    """The image tower's configuration, which old files have in two places."""
    from transformers import AutoConfig

    given = {k: v for k, v in config.items() if k != "model_type"}
    whole = AutoConfig.for_model(config["model_type"], **given)
    return whole.vision_config.to_dict()  # type: ignore[no-any-return]


def _size(kind: str) -> int | None:
    """Side of the images that the model type takes by default; None where it does not say."""
    from transformers import AutoConfig

    return getattr(AutoConfig.for_model(kind), "image_size", None)


def _preprocessing(files: Folder, size: int | None) -> tuple[dict[str, Any], str]:
    """What the folder says of it, and where; without that, images have the model's size."""
    from transformers import AutoImageProcessor

    # The latter's table "image_processor" comes first for transformers, where there is one.
    name, whole = "preprocessor_config.json", "processor_config.json"
    if whole in files and "image_processor" in reading.table(files.path / whole):
        name = whole
    if name not in files:
        said = f"no {name}: ImageNet's mean and std"
        return ({}, said) if size is None else ({"image_size": size}, f"{said}, config.json's size")
    files.table(name)
    read: Any = AutoImageProcessor.from_pretrained
    try:  # the processor's class has defaults of its own, and knows the files of old versions
        processor = read(files.path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{files.path / name}: {error}") from None
    return from_hugging_face(processor.to_dict()), name
