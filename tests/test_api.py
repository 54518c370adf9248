"""The package as a notebook uses it."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

import sslbench
from sslbench.errors import UserError
from sslbench.grid.plan import pretraining
from sslbench.leaderboard import publish
from sslbench.pretrain import train
from sslbench.records import Store

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("api") / "run"
    encoder = {"name": "resnet18", "width": 4, "image_size": 8}
    run = pretraining("untrained", "digits", encoder, given={}, epochs=None, seed=0)
    method = run.build()
    train(method, folder, epochs=0, seed=0, about=run.about(method))
    return folder


@pytest.fixture
def encoder(checkpoint):
    return sslbench.load(checkpoint)


def test_what_is_public_is_there_and_documented():
    assert sslbench.__all__ == sorted(sslbench.__all__)
    for name in sslbench.__all__:
        assert getattr(sslbench, name).__doc__


def test_the_version_is_the_installed_one():
    assert sslbench.__version__ == version("sslbench")


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, sslbench; sslbench.load, sslbench.evaluate, sslbench.results\n"
        "heavy = {'torch', 'pandas', 'numpy', 'pydantic', 'typer', 'rich'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_lines_of_the_readme_run(checkpoint):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "runs/simclr" in code
    code = code.replace("runs/simclr", str(checkpoint)).replace("cifar10-mini", "digits")
    names = {}
    exec(code, names)
    assert isinstance(names["frame"], pd.DataFrame)
    assert set(names["frame"]["dataset"]) == {"digits"}


def test_a_frame_has_the_columns_of_records_csv_and_the_numbers_of_the_records(encoder, tmp_path):
    frame = sslbench.evaluate(
        encoder,
        tasks=["knn", "few_shot"],
        datasets=["digits"],
        settings={"few_shot": {"episodes": 20}},
        seed=3,
        out=tmp_path / "run",
    )
    publish([tmp_path / "run"], tmp_path / "board")
    published = pd.read_csv(tmp_path / "board" / "records.csv")
    assert list(frame.columns) == list(published.columns)
    assert list(frame["value"]) == list(published["value"])
    stored = {record.task: record for record in Store(tmp_path / "run" / "records")}
    rows = frame.set_index(["task", "metric"])
    for task, record in stored.items():
        assert record.eval_seed == 3
        for metric, score in record.scores.items():
            assert rows.loc[(task, metric), "value"] == score.value
    assert stored["few_shot"].task_settings["episodes"] == 20
    pd.testing.assert_frame_equal(sslbench.results(tmp_path / "run"), frame)
    pd.testing.assert_frame_equal(sslbench.results(str(tmp_path / "run")), frame)


def test_without_names_the_pretraining_dataset_and_the_settings_of_the_only_task(encoder):
    frame = sslbench.evaluate(encoder, tasks=["knn"], settings={"k": 5})
    assert set(frame["dataset"]) == {"digits"}
    assert all('"k": 5' in text for text in frame["task_settings"])


def test_a_suite_of_one_s_own(encoder, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[evaluate]\ntasks = ["knn"]\ndatasets = ["digits"]\n')
    frame = sslbench.evaluate(encoder, suite=path)
    alone = sslbench.evaluate(encoder, tasks=["knn"], datasets=["digits"])
    same = ["task", "metric", "value", "low", "high", "key"]
    pd.testing.assert_frame_equal(frame[same], alone[same])


def test_what_does_not_apply_is_a_row(encoder):
    frame = sslbench.evaluate(encoder, tasks=["perplexity"], datasets=["digits"])
    assert list(frame["status"]) == ["not_applicable"]
    assert frame["value"].isna().all()
    assert "needs an encoder of text" in frame["reason"][0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": "knn"}, "tasks = 'knn': expected a list of names"),
        ({"tasks": ["knn"], "datasets": "digits"}, "datasets = 'digits': expected a list"),
        ({"tasks": ["knnn"]}, "unknown task 'knnn'; did you mean 'knn'"),
        ({"tasks": ["knn"], "datasets": ["digit"]}, "no dataset 'digit'; did you mean 'digits'"),
        ({"tasks": ["knn"], "settings": {"kk": 1}}, "KNN has no setting 'kk'"),
        ({"tasks": ["knn"], "settings": {"k": "x"}}, "KNN.k = 'x': expected int, found str"),
        ({"tasks": ["knn", "retrieval"], "settings": {"k": 1}}, "names no task that runs"),
        ({"tasks": ["knn", "retrieval"], "settings": {"knn": 1}}, "expected a table of settings"),
        ({"suite": "vison"}, "no suite 'vison'; did you mean 'vision'"),
        ({"suite": "vision", "tasks": ["knn"]}, r"a suite \(--suite\) .* excludes tasks"),
    ],
)
def test_wrong_input_is_named(encoder, given, message):
    with pytest.raises(UserError, match=message):
        sslbench.evaluate(encoder, **given)


def test_a_path_must_be_loaded_first(checkpoint):
    with pytest.raises(UserError, match=r"what sslbench.load gives expected, found PosixPath"):
        sslbench.evaluate(checkpoint, tasks=["knn"])


def test_wrong_paths_are_named(tmp_path):
    with pytest.raises(UserError, match="gone"):
        sslbench.load(tmp_path / "gone")
    with pytest.raises(UserError, match="gone: no records found"):
        sslbench.results(tmp_path / "gone")
    with pytest.raises(UserError, match="expected NAME or NAME"):
        sslbench.load(tmp_path / "gone", encoder="resnet18(width=4")


def test_all_that_is_said_of_a_checkpoint_is_passed_on(tmp_path, monkeypatch):
    """What each of it does is tested with the formats."""
    seen = []
    monkeypatch.setattr("sslbench.single.load", lambda path, request, name: seen.append(request))
    said = {
        "preprocess": {"image_size": 8},
        "weights": "student",
        "allow_missing": True,
        "trust_code": True,
        "pretrained_on": "digits",
    }
    sslbench.load("x", encoder="resnet18(width=4)", **said)
    sslbench.load("x", encoder={"name": "resnet18", "width": 4}, **said)
    assert seen[0] == seen[1]
    assert vars(seen[0]) == {"encoder": {"name": "resnet18", "width": 4}, **said}
    sslbench.load("x")
    assert not any(vars(seen[2]).values())
