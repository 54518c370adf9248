"""From records back to what computes them: a grid for a method, a command for a checkpoint."""

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sslbench.records import Checkpoint, Record

DERIVED = ("mean", "std", "tokenizer_hash")  # an encoder takes them from the training data
NAME = "reproduced"


def pretraining(checkpoints: Sequence[Checkpoint]) -> str:
    """The first part of a grid: how the checkpoints of a row came to be, one per seed.

    For somebody else's checkpoint, the command that evaluates it, without its tasks.
    """
    first = checkpoints[0]
    if first.method is None:
        return _external(first)
    grid = {
        "name": NAME,
        "seeds": [c.pretrain_seed for c in checkpoints],
        "pretrain": {
            "methods": [first.name],
            "datasets": [first.pretrain_dataset],
            "encoders": [_given(first.encoder_config)],
            "epochs": [first.pretrain_epochs or 1],  # a method without training ignores it
            "precision": first.pretraining.get("precision", "float32"),
        },
        "override": {
            first.name: {
                **({"of": first.method} if first.name != first.method else {}),
                **first.settings,
                "recipe": first.recipe,
            }
        },
    }
    return toml(grid)


def evaluation(records: Sequence[Record]) -> str:
    """The rest of the grid, or of the command: one column; empty without records."""
    if not records:
        return ""
    first = records[0]
    settings = json.dumps(first.task_settings)
    if first.checkpoint.method is None:
        return _evaluate(first.protocol, first.dataset, first.eval_seed, settings)
    return _column(first.task, first.protocol, first.dataset, settings)


@lru_cache(maxsize=1_000)  # the same in many rows
def _evaluate(protocol: str, dataset: str, seed: int, settings: str) -> str:
    given = [f"--set {_setting(n, v)}" for n, v in sorted(json.loads(settings).items())]
    words = [f"--task {protocol}", f"--dataset {shlex.quote(dataset)}", f"--seed {seed}"]
    return " ".join([*words, *given])


@lru_cache(maxsize=1_000)
def _column(task: str, protocol: str, dataset: str, settings: str) -> str:
    named = {} if task == protocol else {"of": protocol}
    grid = {
        "evaluate": {"tasks": [task], "datasets": [dataset]},
        "override": {task: {**named, **json.loads(settings)}},
    }
    return toml(grid)


def toml(tables: Mapping[str, Any], prefix: str = "") -> str:
    """As TOML; entries that are None, which it cannot say and which are defaults, are left out."""
    plain = {name: value for name, value in tables.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(n)} = {_value(v)}" for n, v in plain.items() if v is not None]
    for name, table in tables.items():
        if isinstance(table, Mapping) and table:
            inside = toml(table, f"{prefix}{_key(name)}.")
            bare = all(isinstance(value, Mapping) for value in table.values())
            lines += [inside] if bare else [f"\n[{prefix}{_key(name)}]\n{inside}"]
    return "\n".join(lines)


def _external(checkpoint: Checkpoint) -> str:
    config = _given(checkpoint.encoder_config, ())
    encoder = {n: v for n, v in config.items() if n not in PREPROCESSING}
    given = [f"--preprocess {_setting(n, v)}" for n, v in config.items() if n in PREPROCESSING]
    name = encoder.pop("name", "")
    inside = ",".join(f"{n}={_value(v)}" for n, v in encoder.items() if not isinstance(v, Mapping))
    files = checkpoint.external.get("files", {})
    path = next(iter(files), "CHECKPOINT")
    words = ["sslbench evaluate", shlex.quote(path), f"--name {shlex.quote(checkpoint.name)}"]
    return " ".join([*words, f"--encoder {shlex.quote(f'{name}({inside})')}", *given])


PREPROCESSING = ("image_size", "crop", "squash", "interpolation", "mean", "std", "channels")


def _given(config: Mapping[str, Any], derived: Sequence[str] = DERIVED) -> dict[str, Any]:
    """An encoder's configuration as a grid has it."""
    return {
        name: _given(value, derived) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in derived
    }


def _setting(name: str, value: Any) -> str:
    return shlex.quote(f"{name}={_value(value)}")


def _key(name: str) -> str:
    return (
        name
        if name.replace("-", "").replace("_", "").isalnum() and name.isascii()
        else json.dumps(name)
    )


def _value(value: Any) -> str:
    """On one line, so that it can stand in a list or after `=`."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(n)} = {_value(v)}" for n, v in value.items() if v is not None)
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    return json.dumps(value, ensure_ascii=False)
