"""squad: SQuAD 1.1 (Rajpurkar et al. 2016, arXiv:1606.05250), from the official files on disk.

The labels of the official test split are not public. So dev-v1.1.json, on which papers report, is
the test split here, and carve.py deals a tenth of train's articles to validation. Articles are the
groups. Answers are kept as they are in the files.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sslbench.data.files import data_root
from sslbench.data.parts import complete
from sslbench.data.split import Split, Texts
from sslbench.data.table import Row
from sslbench.errors import UserError


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """No classes; questions with their passages, and answers as targets."""
    root = data_root() / "squad"
    files = {"train": root / "train-v1.1.json", "test": root / "dev-v1.1.json"}
    return [], complete({name: _split(path) for name, path in files.items()}, row.name)


def _split(path: Path) -> Texts:
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        examples = [
            (group, (question["question"], paragraph["context"]), _target(question))
            for group, article in enumerate(articles)
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except FileNotFoundError:
        raise UserError(f"{path} is not there; put the official files there") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a file of SQuAD 1.1: {type(error).__name__}: {error}"
        ) from error
    groups, texts, targets = zip(*examples, strict=True) if examples else ((), (), ())
    return Texts(texts, groups=np.array(groups, np.int64), targets=targets)


def _target(question: dict[str, Any]) -> dict[str, Any]:
    answers = question["answers"]
    return {
        "id": question["id"],
        "answers": [answer["text"] for answer in answers],
        "starts": [answer["answer_start"] for answer in answers],
    }
