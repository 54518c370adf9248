"""What `sslbench list` shows, found without importing torch or any method."""

import json
import sys
from pathlib import Path
from typing import Any

from sslbench import registry, suite
from sslbench.backbones import CAUSAL, MASKED
from sslbench.data import table
from sslbench.data.weights import WEIGHTS
from sslbench.errors import UserError, suggest

KINDS = ("methods", "tasks", "datasets", "suites", "encoders", "checkpoints")
COLUMNS = {
    "methods": ("name", "family", "paper", "summary"),
    "tasks": ("name", "metric", "version", "target", "paper", "summary"),
    "datasets": ("name", "modality", "classes", "splits", "metric", "licence", "description"),
    "suites": ("name", "tasks", "datasets"),
    "encoders": ("name", "summary"),
    "checkpoints": ("name", "modality", "licence", "description"),
}
ENCODERS = {
    "pixels": "The image itself.",
    "resnet18": "Settings: width, stem (conv7, conv3, conv3_stride2), image_size.",
    "resnet34": "As resnet18.",
    "resnet50": "As resnet18, with bottleneck blocks.",
    "resnet101": "As resnet50.",
    "image_gpt": "Causal, over pixels. Settings: side, colours, dim, depth, heads, image_size.",
    "rbm": "Sigmoid layers. Settings: widths, visible (gaussian, bernoulli), image_size.",
    "pair": "Two encoders of images side by side: tables first and second, each an encoder.",
    "embeddings": "Static word vectors. Settings: dim, length, vocabulary, tokenizer.",
    "dual": "Images and captions in one space: tables image and text, each an encoder; dim.",
    **dict.fromkeys(MASKED, "Bidirectional; settings as transformers names them, vocabulary."),
    **dict.fromkeys(CAUSAL, "Causal; settings as transformers names them, vocabulary."),
    "NAME": "Any timm model; settings are those of its constructor.",
    "torchvision/NAME": "Any torchvision classifier without its last linear layer; likewise.",
    "hf/NAME": "An image model of transformers, by model type; settings of its configuration.",
}


def rows(kind: str) -> list[dict[str, Any]]:
    """One object per method, task, dataset, suite, encoder or checkpoint to fetch.

    Raises:
        UserError: another kind.
    """
    if kind == "datasets":
        found = table.rows(registry.plugin_folders())
        return [_dataset(found[name]) for name in found]
    if kind == "checkpoints":
        return [_dataset(row) for row in WEIGHTS]
    if kind == "suites":
        return [_suite(name) for name in suite.names()]
    if kind == "encoders":
        return [{"name": name, "summary": text} for name, text in ENCODERS.items()]
    if kind in KINDS:
        return [entry.describe() for entry in registry.entries(kind).values()]
    raise UserError(f"cannot list {kind!r}; {suggest(kind, list(KINDS))}")


def _dataset(row: table.Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "modality": row.modality,
        "classes": row.classes,
        "splits": dict(row.splits),
        "metric": row.metric,
        "chance": row.chance,
        "licence": row.licence,
        "source": row.source,
        "hash": row.hash,
        "sha256": [archive.sha256 for archive in row.archives],
        "description": row.description,
    }


def _suite(name: str) -> dict[str, Any]:
    wanted = suite.read(suite.find(name, Path())).evaluate
    return {"name": name, "tasks": wanted.tasks, "datasets": wanted.datasets}


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(kind: str, rows: list[dict[str, Any]]) -> None:
    """A table with the columns of its kind; in a file or a pipe each row is one line."""
    names = COLUMNS[kind]
    lines = [[_text(row.get(name)) for name in names] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(names, *lines, strict=True)]
        print(kind)
        for line in (names, *lines):
            cells = (text.ljust(width) for text, width in zip(line, widths, strict=True))
            print("  ".join(cells).rstrip())
        print()
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=kind, title_justify="left", box=None, pad_edge=False)
    for name in names:
        shown.add_column(name, overflow="fold")
    for line in lines:
        shown.add_row(*line)
    Console(highlight=False).print(shown, "", sep="\n")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {'?' if n is None else n}" for name, n in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
