"""What docs/slurm.md shows works on a cluster, in the order of the page."""

import re
import shlex
from pathlib import Path

import pytest

from tests.slurm.grids import SECONDS, sslbench

PAGE = Path(__file__).parents[2] / "docs/slurm.md"
SMALLER = {
    "cifar10-mini": "digits",
    "image_size = 32": 'image_size = 8, stem = "conv3"',
    "width = 16": "width = 4",
    "epochs = [100]": "epochs = [1]",
    "[0, 1, 2]": "[0]",
    "batch_size = 512": "batch_size = 128",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_every_command_of_the_page_works_in_turn(cluster, tmp_path, monkeypatch):
    (text,) = blocks("toml")
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "grid.toml").write_text(text + "\n[override.few_shot]\nepisodes = 20\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    lines = [
        shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()
    ]
    commands = 0
    for words in lines:
        if words[:1] == ["export"]:
            name, _, value = words[1].partition("=")
            monkeypatch.setenv(name, value.replace("$HOME", str(tmp_path)))
        elif words:
            assert words[0] == "sslbench"
            if words[1] == "publish":
                cluster.wait(lambda: not cluster.squeue(), SECONDS)
            sslbench(*(word.replace("cifar10-mini", "digits") for word in words[1:]))
            commands += 1
    assert commands >= 5
    board = (tmp_path / "leaderboards/cluster/leaderboard.csv").read_text()
    assert all(name in board for name in ("untrained", "supervised", "simclr", "vicreg"))


@pytest.mark.parametrize("key", ["throttle", "attempts", "python", "options", "pack_minutes"])
def test_the_page_names_every_resource(key):
    assert f"`{key}`" in PAGE.read_text()
