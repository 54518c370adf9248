"""The command line as a new user meets it, with wrong input too."""

import json
import os
import subprocess
import sys

import pytest

from sslbench import registry
from sslbench.cli import last_line
from sslbench.wanted import _usual as usual
from tests.conftest import tiny_resnet

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def sslbench(*words, **environment):
    """(exit status, standard output, standard error) of one command."""
    done = subprocess.run(
        [sys.executable, "-m", "sslbench", *map(str, words)],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def fails(*words, **environment):
    """The one line on standard error of a command that must fail."""
    status, _, error = sslbench(*words, **environment)
    assert status != 0
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny checkpoint and the cache that it was made with."""
    folder = tmp_path_factory.mktemp("cli")
    status, out, error = sslbench(
        "pretrain", "simclr", "--dataset", "digits", "--encoder", "resnet18(width=4)",
        "--epochs", 1, "--set", "recipe.batch_size=256", "--out", folder / "run",
        SSLBENCH_CACHE=str(folder / "cache"),
    )  # fmt: skip
    assert status == 0, error
    assert "steps" in out
    return folder


COMMANDS = [
    "list", "fetch", "pretrain", "evaluate", "run", "retry", "status", "cancel", "logs", "clean",
    "publish", "merge", "validate", "compare", "predict", "doctor",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    status, out, _ = sslbench(command, "--help")
    assert status == 0
    assert f"Example: sslbench {command}" in out


def test_in_a_pipe_each_row_of_a_list_is_one_line():
    _, out, _ = sslbench("list", "methods", "--json")
    names = [row["name"] for row in json.loads(out)]
    _, out, _ = sslbench("list", "methods")
    title, head, *lines = out.splitlines()
    assert (title, head.split()) == ("methods", ["name", "family", "paper", "summary"])
    assert [line.split()[0] for line in lines if line] == names


@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "methods", "--json"]])
def test_help_and_lists_do_not_import_torch(words):
    code = (
        "import sys; sys.argv = ['sslbench', *sys.argv[1:]]\n"
        "from sslbench.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)


@pytest.mark.parametrize("kind", ["methods", "tasks", "datasets", "suites", "encoders"])
def test_lists_are_json_arrays_with_names(kind):
    status, out, _ = sslbench("list", kind, "--json")
    rows = json.loads(out)
    assert status == 0
    assert all(row["name"] for row in rows)
    if kind == "methods":
        assert {"pixels", "untrained", "simclr", "byol", "mae"} <= {row["name"] for row in rows}
        assert all(row["family"] and row["version"] for row in rows)
    if kind == "suites":
        assert {row["name"]: row["datasets"] for row in rows}["vision-frozen"] == [
            "cifar10-mini",
            "koppen",
        ]


def test_evaluation_of_a_checkpoint_prints_and_keeps_its_scores(trained, tmp_path):
    status, out, error = sslbench(
        "evaluate", trained / "run", "--task", "knn", "--out", tmp_path / "run",
        SSLBENCH_CACHE=str(trained / "cache"),
    )  # fmt: skip
    assert status == 0, error
    assert "top1" in out
    status, out, error = sslbench("publish", tmp_path / "run", "--out", tmp_path / "board")
    assert status == 0, error
    assert (tmp_path / "board" / "index.html").exists()


SUITE = """\
name = "mine"
[evaluate]
tasks = ["knn", "few_shot"]
datasets = ["digits"]
[override.few_shot]
episodes = 20
"""


def test_a_suite_is_evaluated_at_once(trained, tmp_path):
    path, cache = tmp_path / "mine.toml", str(trained / "cache")
    path.write_text(SUITE)
    words = ["evaluate", trained / "run", "--suite", path]
    status, out, error = sslbench(*words, "--out", tmp_path / "run", SSLBENCH_CACHE=cache)
    assert status == 0, error
    assert {line.split()[0] for line in out.splitlines()[1:]} == {"knn", "few_shot"}
    assert len(list((tmp_path / "run" / "records").glob("*/*.json"))) == 2
    path.write_text(SUITE.replace("episodes", "episode"))
    assert f"{path}, line 5: FewShot has no setting 'episode'" in fails(*words)
    line = fails(*words, "--task", "knn")
    assert "(--suite)" in line
    assert "(--task)" in line
    message = fails("evaluate", trained / "run", "--suite", "vison")
    assert "no suite 'vison'; did you mean 'vision'?" in message
    message = fails("evaluate", trained / "run", "--suite", "vision-frozen", SSLBENCH_CACHE=cache)
    assert "run `sslbench fetch cifar10-mini koppen`" in message


def pretrain(*words, out=f"{os.devnull}/never"):
    return fails("pretrain", *words, "--out", out)


def test_unknown_names_get_the_nearest_one(tmp_path, trained):
    digits = ["--dataset", "digits"]
    assert "unknown method 'simclt'; did you mean 'simclr'?" in pretrain("simclt", *digits)
    assert "did you mean 'digits'?" in pretrain("simclr", "--dataset", "digit")
    assert "did you mean 'resnet18'?" in pretrain("simclr", *digits, "--encoder", "resnet19")
    message = fails("evaluate", trained / "run", "--task", "knnn")
    assert "unknown task 'knnn'; did you mean 'knn'?" in message
    assert "did you mean 'methods'?" in fails("list", "method")


def test_wrong_settings_are_named():
    digits = ["--dataset", "digits"]
    message = pretrain("simclr", *digits, "--set", "temperature=hot")
    assert "temperature = 'hot': expected float, found str" in message
    message = pretrain("simclr", *digits, "--set", "temprature=0.1")
    assert "did you mean 'temperature'?" in message
    assert "expected NAME=VALUE" in pretrain("simclr", *digits, "--set", "temperature")
    assert "did you mean 'lr'" in pretrain("simclr", *digits, "--set", "recipe.lrr=1")
    message = pretrain("simclr", *digits, "--encoder", "resnet18(wdth=4)")
    assert "wdth" in message


def test_a_missing_dataset_says_which_command_brings_it(tmp_path):
    message = fails("fetch", "koppen", "--offline", SSLBENCH_CACHE=str(tmp_path))
    assert "sslbench fetch koppen" in message
    words = ["pretrain", "simclr", "--dataset", "koppen", "--out", tmp_path / "x"]
    assert "sslbench fetch koppen" in fails(*words, SSLBENCH_CACHE=str(tmp_path))


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    words = ["untrained", "--dataset", "digits"]
    assert "file" in pretrain(*words, out=tmp_path / "file" / "run")
    assert "/proc" in pretrain(*words, out="/proc/run")


@pytest.mark.parametrize(
    ("method", "kilobytes"), [("untrained", 64), ("simclr", 64), ("simclr", 700)]
)
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, method, kilobytes):
    """/dev/full cannot hold a folder: a small file system of its own fills up instead."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    try:
        words = [method, "--dataset", "digits", "--encoder", "resnet18(width=8)", "--epochs", 1]
        assert "no space left" in pretrain(*words, out=place / "run").lower()
        assert not list((place / "run").glob("encoder*"))
        assert not list((place / "run").glob("state*"))
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_damaged_checkpoint_is_refused(trained, tmp_path):
    import shutil

    shutil.copytree(trained / "run", tmp_path / "run")
    path = tmp_path / "run" / "encoder" / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "damaged checkpoint" in fails("evaluate", tmp_path / "run")
    assert "no such file or folder" in fails("evaluate", tmp_path / "gone")


def test_another_run_is_not_overwritten(trained):
    message = fails(
        "pretrain", "simclr", "--dataset", "digits", "--encoder", "resnet18(width=4)",
        "--epochs", 3, "--out", trained / "run",
    )  # fmt: skip
    assert "holds another run" in message


def test_debug_shows_the_traceback():
    status, _, error = sslbench("--debug", "pretrain", "no", "--dataset", "digits", "--out", "x")
    assert status != 0
    assert "Traceback" in error


def test_two_processes_of_torchrun_train_what_one_does(tmp_path):
    words = ["-m", "sslbench", "pretrain", "simclr", "--dataset", "digits", "--encoder",
             "resnet18(width=4)", "--epochs", "3", "--cpus", "1", "--out"]  # fmt: skip
    one = [sys.executable, *words, str(tmp_path / "1")]
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port",
           "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *words,
           str(tmp_path / "2")]  # fmt: skip
    losses = []
    for command, name in ((one, "1"), (two, "2")):
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
        run = json.loads((tmp_path / name / "run.json").read_text())
        assert run["about"]["pretraining"]["world_size"] == int(name)
        losses.append(run["outcome"]["loss"])
    # In float32 rounding grows with every step; the conformance suite compares in float64.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_task_s_wrong_setting_is_refused_before_anything_runs(trained, tmp_path):
    words = ("evaluate", trained / "run", "--task", "clustering", "--set", "restarts=0")
    line = fails(*words, "--out", tmp_path / "out", SSLBENCH_CACHE=str(trained / "cache"))
    assert line == "sslbench: restarts ≥ 1 expected, found 0"
    assert not (tmp_path / "out").exists()


def test_long_tasks_run_only_if_they_are_named():
    encoder = tiny_resnet()
    unasked = {name for name in registry.entries("tasks") if usual(registry.task(name), encoder)}
    assert unasked >= {"knn", "linear_probe", "few_shot", "clustering", "retrieval", "invariance"}
    assert unasked.isdisjoint({"fine_tune", "transfer", "detection", "segmentation", "robustness"})
    assert "tagging" not in unasked  # it takes texts


def test_the_progress_of_a_task_that_trains_is_in_its_newest_log(tmp_path):
    assert last_line(tmp_path) is None
    for age, name in ((0, "new"), (1_000, "old")):
        path = tmp_path / name / "log.jsonl"
        path.parent.mkdir()
        path.write_text(f'{{"step": {age + 1}}}\n{{"step": {age + 2}}}\n{{"step": ')
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    assert last_line(tmp_path) == {"step": 2}
