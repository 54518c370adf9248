"""Whether the monitor sees a broken method collapse, and leaves a whole one alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sslbench import registry
from sslbench.data.augment import Augmentation
from sslbench.method import Method, Recipe
from sslbench.monitor import CollapseWarning
from sslbench.pretrain import Options, train
from tests.conftest import tiny_images
from tests.methods.small import make

VIEWS = ("augmentation", "first", "second")  # settings
MILD = Augmentation(crop_scale=(0.5, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


def collapses(
    name: str,
    damage: Callable[[Method], None],
    lr: float,
    folder: Path,
    **settings: Any,
) -> None:
    """Train a method as it is and damaged, at a rate at which the damage shows in 80 steps."""
    mild = {key: MILD for key in registry.settings(registry.method(name), {}) if key in VIEWS}

    def last(broken: bool) -> dict[str, float]:
        method = make(name, data=tiny_images(64, classes=16), **mild | settings)
        if broken:
            damage(method)
        method.recipe = Recipe("adamw", lr=lr, batch_size=32, schedule="constant")
        place = folder / ("broken" if broken else "whole")
        train(method, place, epochs=40, seed=0, options=Options(log_steps=40))
        lines: list[dict[str, float]] = [
            json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()
        ]
        return lines[-1]

    whole = last(broken=False)  # a warning would be an error
    assert whole["embedding_std"] > 0.5
    assert whole["rankme"] > 3
    with pytest.warns(
        CollapseWarning, match=r"step \d+: .*standard deviation 0\.0.*RankMe 1\."
    ) as all_:
        broken = last(broken=True)
    assert f"{broken['embedding_std']:.4f}" in str(all_[-1].message)
    assert f"{broken['rankme']:.2f}" in str(all_[-1].message)
