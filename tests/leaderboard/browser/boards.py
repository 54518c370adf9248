"""Boards to open in a browser."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sslbench.records import Provenance, Record, Verification

Make = Callable[..., Record]

# Odd: no mean of a few scores is halfway between two that are shown, where JavaScript and Python
# round differently.
N = 147
HTML = '</script><img src=x onerror="window.run = 1">'
BOLD = "<b>bold</b>"
LINK = '<a href="https://example.com">link</a> &lt; &amp; <br>'
SHARES = [("knn", "digits"), ("knn", "cifar"), ("probe", "digits"), ("probe", "cifar")]


def hits(p: float, *seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(N) < p).astype(float)


def models(make: Make) -> list[Record]:
    """Six rows: of three seeds, of one, without pretraining, somebody else's; some cells empty."""
    return [*_scores(make), *_descriptions(make), *_empty(make), *_along_the_way(make)]


ROWS: dict[str, dict[str, Any]] = {
    "simclr": {"family": "contrastive"},
    "byol": {"family": "non_contrastive"},
    "mae": {"family": "reconstruction", "encoder": "vit", "pretrain_dataset": "stl10"},
    "Rotation": {"family": "pretext", "pretrain_dataset": "stl10", "parameters": None},
    "untrained": {
        "family": "baselines",
        "pretrain_dataset": None,
        "pretrain_epochs": 0,
        "pretrain_seconds": None,
    },
    "resnet50": {
        "family": "external",
        "method": None,
        "encoder": "resnet50",
        "pretrain_dataset": None,
        "pretrain_epochs": 0,
        "pretrain_seconds": None,
        "parameters": 25_600_000,
        "external": {
            "format": "safetensors", "matched": 318, "wanted": 320, "weights": "model",
            "missing": ["fc.weight", "fc.bias"], "dtype": "float32", "preprocessing": "config",
            "files": {"resnet50.safetensors": "ab12"},
        },
    },
}  # fmt: skip
FAILED = "Traceback (most recent call last):\nFloatingPointError: the loss is nan"
NOT_APPLICABLE = "it needs patches, and resnet18 has none"


def _record(make: Make, name: str, task: str, dataset: str, seed: int = 0, **fields: Any) -> Record:
    own = {
        "settings": {"temperature": 0.5},
        "recipe": {"optimizer": "lars", "lr": 0.3},
        "encoder_config": {"name": "resnet18", "image_size": 32},
        "pretrain_loss": 4.0 - 0.5 * seed if name in ("simclr", "byol") else None,
        "pretrain_seconds": 90.0 + 1_000 * list(ROWS).index(name),
        **ROWS[name],
        **fields.pop("checkpoint", {}),
    }
    return make(name, task=task, dataset=dataset, seed=seed, checkpoint=own, **fields)


WHERE = Provenance(
    created="2026-01-02T03:04:05+00:00",
    git_commit="0123456789abcdef",
    git_dirty=True,
    versions={"torch": "2.9.0"},
    hardware="2 × CPU",
    seconds=7.0,
)
ELSEWHERE = Provenance(created="2026-02-03T04:05:06+00:00", hardware="1 × GPU")


def _scores(make: Make) -> Iterator[Record]:
    absent = {("mae", "probe", "cifar"), ("resnet50", "knn", "cifar")}
    for place, name in enumerate(ROWS):
        for column, (task, dataset) in enumerate(SHARES):
            for seed in range(3 if name == "simclr" else 1):
                if (name, task, dataset) in absent:
                    continue
                examples = hits(0.8 - 0.1 * place - 0.03 * column, place, column, seed)
                again = Verification(value=examples.mean(), provenance=ELSEWHERE)
                twice = place < 2 and seed == column == 0
                yield _record(
                    make, name, task, dataset, seed,
                    examples=examples,
                    selected={"k": 20, "temperature": 0.07},
                    provenance=WHERE,
                    verified=[again] if twice else [],
                )  # fmt: skip


def _descriptions(make: Make) -> Iterator[Record]:
    errors = {"simclr": 61.374, "byol": 1200.4, "mae": 75.5, "Rotation": 0.01237}
    for name, value in errors.items():
        for seed in range(3 if name == "simclr" else 1):
            yield _record(
                make, name, "robust", "cifar", seed, value=value, headline="mce", chance=None,
                higher_is_better=False,
            )  # fmt: skip
    ranks = {"mae": 31.13, "Rotation": 12.346, "untrained": 9.8764}
    for name, value in ranks.items():
        yield _record(
            make, name, "rank", "digits", value=value, headline="rankme", chance=None,
            higher_is_better=None,
        )  # fmt: skip


def _empty(make: Make) -> Iterator[Record]:
    yield _record(make, "mae", "probe", "cifar", status="failed", reason=FAILED)
    yield _record(
        make, "byol", "rank", "digits", status="not_applicable", reason=NOT_APPLICABLE,
        headline="rankme", chance=None, higher_is_better=None,
    )  # fmt: skip


def _along_the_way(make: Make) -> Iterator[Record]:
    for name, seeds in (("simclr", 3), ("byol", 1)):
        for seed in range(seeds):
            for at in (0.25, 0.5):
                along = {"at": at, "pretrain_loss": 6.0 - 2 * at - 0.1 * seed}
                for eval_seed in (0, 1) if at == 0.5 else (0,):
                    yield _record(
                        make, name, "knn", "digits", seed, checkpoint=along, eval_seed=eval_seed,
                        examples=hits(0.3 + at / 2, seed, int(100 * at), len(name), eval_seed),
                    )  # fmt: skip


def markup(make: Make) -> list[Record]:
    """Rows, columns and settings whose names are HTML; one row is a pair of two others."""
    names = [HTML, BOLD, LINK, f"{BOLD} + {HTML}"]
    made = []
    for place, name in enumerate(names):
        checkpoint = {
            "family": f"{BOLD} {place}",
            "encoder": f"{HTML} {place}",
            "pretrain_dataset": LINK,
            "settings": {BOLD: HTML},
            "pretrain_loss": 1.0 + place,
            "pretrain_seconds": 60.0 + place,
        }
        for dataset in (HTML, BOLD):
            made.append(
                make(
                    name, dataset=dataset, examples=hits(0.5 + 0.1 * place, place),
                    checkpoint=checkpoint, selected={LINK: BOLD},
                )
            )  # fmt: skip
        along = {**checkpoint, "at": 0.5, "pretrain_loss": 2.0 + place}
        made.append(make(name, dataset=HTML, examples=hits(0.4, place, 1), checkpoint=along))
        failed = {"status": "failed", "reason": f"{HTML}\n{BOLD}"}
        made.append(make(name, task=BOLD, checkpoint=checkpoint, **failed))
    return made


def many(make: Make) -> list[Record]:
    """130 rows with two columns, of which one has a score in every second row."""
    made = []
    for place in range(130):
        name = f"m{place:03}"
        made.append(make(name, value=((37 * place) % 130) / 130))
        if place % 2:
            made.append(make(name, task="probe", value=((53 * place) % 130) / 130))
    return made


def bare(make: Make) -> list[Record]:
    """Nothing that is averaged, no costs and no losses."""
    made = []
    for name, value in (("a", 3.5), ("b", 4.5)):
        for task, better in (("rank", None), ("robust", False)):
            made.append(
                make(
                    name, task=task, value=value, headline=task, chance=None,
                    higher_is_better=better, checkpoint={"pretrain_seconds": None},
                )
            )  # fmt: skip
    return made


def twins(make: Make) -> list[Record]:
    """One name with two encoders."""
    return [make("simclr", value=v, checkpoint={"encoder": e}) for v, e in ((0.5, "a"), (0.6, "b"))]


def apart(make: Make) -> list[Record]:
    """A row that no averaged column has, and three that one has; the names are numbers."""
    return [
        *(make(name, value=value) for name, value in (("7", 0.5), ("2024", 0.6), ("10", 0.4))),
        make("3", task="rank", value=3.0, headline="rankme", chance=None, higher_is_better=None),
    ]
