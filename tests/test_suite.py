"""Suites: what the files may say, and that their cells are those of a grid."""

import shutil
from pathlib import Path

import pytest

from sslbench import single, suite
from sslbench.data import load_all
from sslbench.data.frost import FROST
from sslbench.errors import UserError
from sslbench.grid.columns import columns
from sslbench.grid.config import read
from sslbench.grid.plan import plan
from sslbench.grid.run import opened
from sslbench.records import Checkpoint
from sslbench.wanted import Wanted, chosen
from tests.conftest import tiny_resnet
from tests.grid.test_config import GOOD

SMALL = """\
name = "small"

[evaluate]
tasks = ["knn", "few_shot"]
datasets = ["digits"]
seeds = [1]

[override.few_shot]
episodes = 20

[override.knn-5]
of = "knn"
k = 5
"""
WITH_SUITE = GOOD.replace('tasks = ["knn"]\ndatasets = ["digits"]', 'suite = "SUITE"')
CHECKPOINT = Checkpoint(key="c", name="x", family="baselines", encoder="resnet18()")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty one."""
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small(tmp_path):
    """The path of a suite with this text."""

    def write(text=SMALL):
        path = tmp_path / "small.toml"
        path.write_text(text)
        return path

    return write


def grid(folder, text):
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def planned(path):
    return plan(read(path), path)


def found(**wanted):
    """The columns and seeds of what a user says."""
    return chosen(Wanted(**wanted), tiny_resnet(), CHECKPOINT)


@pytest.mark.parametrize("name", suite.names())
def test_every_suite_that_comes_along_is_valid_and_lists_all_its_columns(name):
    path = suite.find(name, Path())
    read_ = suite.read(path)
    assert read_.name == name
    assert [column.task for column in columns(read_, path)] == read_.evaluate.tasks


def test_a_frozen_suite_trains_no_network():
    path = suite.find("vision-frozen", Path())
    unasked = {c.task for c in found(datasets=["cifar10-mini"])[0]}
    assert {column.task for column in columns(suite.read(path), path)} == unasked


def test_frozen_cells_of_vision_are_those_of_vision_frozen():
    both = []
    for name in ("vision", "vision-frozen"):
        path = suite.find(name, Path())
        both.append({column.task: column.settings for column in columns(suite.read(path), path)})
    assert both[1].items() <= both[0].items()


def test_a_suite_has_the_keys_of_a_grid_with_the_same_settings(small, tmp_path):
    text = GOOD.replace("seeds = [0, 1]", "seeds = [0]")
    text = text.replace(
        'tasks = ["knn"]\ndatasets = ["digits"]', SMALL.partition("[evaluate]\n")[2]
    )
    (spelled,) = planned(grid(tmp_path, text))
    method = spelled.source.build()
    checkpoint = Checkpoint(**spelled.source.about(method))
    loaded = single.Loaded(method.encoder.eval(), checkpoint)
    records = single.evaluate(loaded, Wanted(suite=str(small())), cpus=1)
    assert [record.key for record in records] == [cell.key for cell in spelled.cells]
    assert [(r.task, r.eval_seed) for r in records] == [("knn", 1), ("few_shot", 1), ("knn-5", 1)]


def test_named_tasks_have_the_keys_of_a_grid(tmp_path):
    (work, _) = planned(grid(tmp_path, GOOD))
    method = work.source.build()
    checkpoint = Checkpoint(**work.source.about(method))
    loaded = single.Loaded(method.encoder.eval(), checkpoint)
    (record,) = single.evaluate(loaded, Wanted(tasks=["knn"], datasets=["digits"]), cpus=1)
    assert record.key == work.cells[0].key


def test_a_grid_with_a_suite_is_the_grid_that_says_the_same(small, tmp_path):
    small()
    said = SMALL.partition("[evaluate]\n")[2]
    spelled = GOOD.replace('tasks = ["knn"]\ndatasets = ["digits"]', said)
    suited = WITH_SUITE.replace("SUITE", "small.toml")
    assert planned(grid(tmp_path, suited)) == planned(grid(tmp_path, spelled))


def test_a_grid_can_change_a_suite_s_settings_and_seeds(small, tmp_path):
    small()
    text = WITH_SUITE.replace('"SUITE"', '"small.toml"\nseeds = [7]')
    text += "[override.few_shot]\nways = 3\nresources = { cpus = 2 }\n"
    cells = planned(grid(tmp_path, text))[0].cells
    few_shot = next(cell for cell in cells if cell.task == "few_shot")
    assert (few_shot.settings["episodes"], few_shot.settings["ways"]) == (20, 3)
    assert {cell.seed for cell in cells} == {7}
    assert read(tmp_path / "grid.toml").override["few_shot"]["resources"] == {"cpus": 2}


def test_a_suite_of_one_s_own_lies_beside_the_copy_of_the_grid(small, tmp_path):
    (tmp_path / "suites").mkdir()
    shutil.move(small(), tmp_path / "suites")
    path = grid(tmp_path, WITH_SUITE.replace("SUITE", "suites/small.toml"))
    with opened(tmp_path / "run", path):
        pass
    copy = tmp_path / "run" / "grid.toml"
    assert planned(copy) == planned(path)
    with opened(tmp_path / "run", copy):  # `sslbench run RUN_FOLDER`
        pass
    assert planned(copy) == planned(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SUITE", "vison", r"grid.toml, line 11: no suite 'vison'; did you mean 'vision'\?.*lang"),
        ("SUITE", "gone.toml", "line 11: .*gone.toml: cannot read the suite file: No such file"),
        ('"SUITE"', "5", "line 11: evaluate.suite: .*string, found 5"),
        ('"SUITE"', '"small.toml"\ntasks = ["knn"]', "line 11: .* has a suite, .* and tasks"),
        (
            '"SUITE"',
            '"small.toml"\ndatasets = ["digits"]\ntasks = ["knn"]',
            "line 11: .* has a suite, which says what is evaluated, and datasets and tasks",
        ),
        ('"SUITE"', '"small.toml"\nsets = []', "line 12: unknown key 'evaluate.sets'"),
        (
            "[override.simclr]",
            "[override.knn]\nkk = 1\n[override.simclr]",
            r"grid.toml, line 13: .*no setting 'kk'",
        ),
    ],
)
def test_a_wrong_suite_in_a_grid_gets_its_line(small, tmp_path, old, new, message):
    small()
    text = WITH_SUITE.replace(old, new).replace("SUITE", "small.toml")
    with pytest.raises(UserError, match=message):
        planned(grid(tmp_path, text))


WRONG = [
    ('["knn", ', '["kn", ', "small.toml, line 4: unknown task 'kn'; did you mean 'knn'"),
    ('"digits"', '"digit"', "small.toml, line 5: no dataset 'digit'; did you mean 'digits'"),
    ("episodes", "episode", "small.toml, line 8: .*no setting 'episode'; did you mean 'episodes'"),
    ("episodes = 20", 'episodes = "x"', "line 8: FewShot.episodes = 'x': expected int, found str"),
    ("episodes = 20", 'datasets = ["koppen"]', "line 8: datasets = .*expected: digits"),
    ('of = "knn"', 'of = "simclr"', "small.toml, line 11: 'simclr' is not a task; "),
    ("tasks", "task", "small.toml, line 4: unknown key 'evaluate.task'; did you mean 'tasks'"),
    ('tasks = ["knn", "few_shot"]', "tasks = []", "small.toml, line 4: evaluate.tasks: .*at least"),
    ('["digits"]', '"digits"', "small.toml, line 5: evaluate.datasets: .*list, found 'digits'"),
    ("[1]", '["a"]', "small.toml, line 6: evaluate.seeds.0: .*integer, found 'a'"),
    ("name =", "nam =", "small.toml, line 1: unknown key 'nam'; did you mean 'name'"),
    ('name = "small"', "", "small.toml: name: Field required"),
    ("seeds = [1]", 'suite = "vision"', "small.toml, line 6: unknown key 'evaluate.suite'"),
    ("[evaluate]", "[evaluate", "small.toml: .*line 3"),
    ("[evaluate]", "[pretrain]", "small.toml, line 3: unknown key 'pretrain'"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG)
def test_a_wrong_suite_gets_one_error_with_its_line(small, tmp_path, old, new, message):
    path = small(SMALL.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        found(suite=str(path))
    with pytest.raises(UserError, match=message):
        planned(grid(tmp_path, WITH_SUITE.replace("SUITE", "small.toml")))


def test_an_unknown_suite_gets_the_nearest_one():
    message = r"no suite 'vision-frosen'; did you mean 'vision-frozen'\? allowed: PATH.toml, image"
    with pytest.raises(UserError, match=message):
        found(suite="vision-frosen")
    with pytest.raises(UserError, match="cannot read the suite file"):
        found(suite="gone.toml")


@pytest.mark.parametrize(
    ("also", "named"),
    [
        ({"tasks": ["knn"]}, r"tasks \(--task\)"),
        ({"datasets": ["digits"]}, r"datasets \(--dataset\)"),
        ({"settings": {"k": 5}}, r"settings \(--set\)"),
        ({"tasks": ["knn"], "settings": {"k": 5}}, r"tasks \(--task\) and settings \(--set\)"),
    ],
)
def test_a_suite_takes_neither_tasks_nor_datasets_nor_settings(also, named):
    with pytest.raises(UserError, match=rf"a suite \(--suite\) .* excludes {named};"):
        found(suite="vision", **also)


def test_a_seed_takes_the_place_of_the_suite_s(small):
    path = str(small())
    assert found(suite=path)[1] == [1]
    assert found(suite=path, seed=0)[1] == [0]
    assert found(tasks=["knn"], datasets=["digits"])[1] == [0]


def test_several_tasks_are_run_on_the_datasets_that_have_their_targets():
    named, _ = found(tasks=["knn", "segmentation"], datasets=["digits", "landmask"])
    assert [(column.task, column.datasets) for column in named] == [
        ("knn", ["digits"]),
        ("segmentation", ["landmask"]),
    ]


def test_one_error_names_everything_that_was_not_fetched():
    loaded = single.Loaded(tiny_resnet(), CHECKPOINT)
    started = []
    with pytest.raises(
        UserError, match="run `sslbench fetch cifar10-mini koppen landmask treecrowns frost` on"
    ):
        single.evaluate(loaded, Wanted(suite="vision"), report=lambda *_: started.append(1))
    assert not started


def test_what_is_there_is_not_named():
    with pytest.raises(UserError, match="run `sslbench fetch koppen frost` on") as error:
        load_all(["digits", "koppen"], [FROST, FROST])
    assert "digits" not in str(error.value)


def test_a_grid_names_everything_that_was_not_fetched(tmp_path):
    text = WITH_SUITE.replace("SUITE", "vision-frozen")
    with pytest.raises(UserError, match="run `sslbench fetch cifar10-mini koppen` on"):
        planned(grid(tmp_path, text))
