"""What the documentation shows works: commands parse, grids load, the examples run."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch
import typer.main

from sslbench import registry
from sslbench.__main__ import app
from sslbench.data import load
from sslbench.grid.config import read

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands():
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == "sslbench":
                    yield pytest.param(words[1:], id=f"{page.name}: {' '.join(words)}"[:80])


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_in_the_docs_parses(words):
    command = typer.main.get_command(app)
    context = command.make_context("sslbench", list(words))
    name, sub, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    sub.make_context(name, rest, parent=context)


def generated():
    found = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    for page, name, content in found["pages"]():
        yield pytest.param(found["written"], page, name, content, id=f"{page.name}: {name}")


@pytest.mark.parametrize(("written", "page", "name", "content"), list(generated()))
def test_tables_are_those_of_the_code_and_of_the_records(written, page, name, content):
    text = page.read_text()
    assert written(text, name, content()) == text, "run `make tables`"


def test_every_test_that_the_docs_name_exists():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs/methods.md").read_text())
    assert len(named) > 30
    for file, name in named:
        found = [path.read_text() for path in ROOT.glob(f"tests/**/{file}")]
        assert any(f"def {name}(" in text for text in found), f"{file}::{name}"


def targets():
    for page in PAGES:
        for block in blocks(page, "sh"):
            for name in re.findall(r"^make ([\w/.-]+)", block, re.MULTILINE):
                yield pytest.param(name, id=f"{page.name}: make {name}")


@pytest.mark.parametrize("name", list(targets()))
def test_every_make_target_in_the_docs_exists(name):
    makefile = (ROOT / "Makefile").read_text()
    exists = re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE)
    assert exists or (ROOT / name / "grid.toml").exists()


def test_every_link_in_the_docs_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def grids():
    yield from ROOT.glob("leaderboards/*/grid.toml")


@pytest.mark.parametrize("path", list(grids()), ids=lambda path: path.parent.name)
def test_every_grid_of_a_leaderboard_is_valid(path):
    config = read(path)
    assert config.name == path.parent.name
    assert config.evaluate.tasks


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "toml")], ids=lambda p: p.name)
def test_every_grid_in_the_docs_is_valid(page, tmp_path):
    for number, block in enumerate(b for b in blocks(page, "toml") if "[evaluate]" in b):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        read(path)


def test_the_examples_for_contributors_run(tmp_path, monkeypatch):
    for kind, code in zip(
        ("methods", "tasks"), blocks(ROOT / "CONTRIBUTING.md", "python"), strict=True
    ):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "example.py").write_text(code)
    monkeypatch.setenv("SSLBENCH_PLUGINS", str(tmp_path))
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    from sslbench.grid.plan import pretraining
    from sslbench.pretrain import train

    digits = load("digits")
    encoder = {"name": "resnet18", "width": 4, "image_size": 8}
    run = pretraining("example", "digits", encoder, given={"scale": 2}, epochs=1, seed=0)
    method = run.build()
    assert train(method, tmp_path / "run", epochs=1, seed=0).steps > 0
    torch.manual_seed(0)
    task = registry.task("example")()
    result = task.run(method.encoder.eval(), digits, seed=0, folder=tmp_path)
    assert result.scores["top1"].value > 2 * digits.chance
