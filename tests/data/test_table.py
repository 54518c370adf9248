import re
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest
import torch

from sslbench.data import load, load_train
from sslbench.data.builtin import BUILT_IN
from sslbench.data.table import Row, find, resolve, rows
from sslbench.errors import UserError

OWN = """
import numpy as np
from sslbench.data.split import ImageArray
from sslbench.data.table import Row

def load(row, folder):
    return ["dark", "light"], {
        name: ImageArray(np.zeros((n, 3, 4, 4), np.uint8), np.arange(n) % 2)
        for name, n in row.splits.items()
    }

row = Row(
    name="stripes", description="a test", licence="CC0-1.0", source="here", loader=load,
    splits={"train": 6, "validation": 2, "test": 3}, classes=2,
)
"""


@pytest.fixture
def plugins(tmp_path):
    """A plugin folder with one dataset."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "stripes.py").write_text(OWN)
    return tmp_path


@pytest.mark.parametrize("row", BUILT_IN, ids=lambda row: row.name)
def test_rows_are_complete(row):
    assert row.description
    assert row.licence
    assert row.source
    assert row.metric in ("top1", "mean_per_class")
    assert row.splits.keys() >= {"train", "validation", "test"}
    if row.metric == "mean_per_class":
        assert row.chance == 1 / row.classes
    if row.chance is not None:  # no class share can lie below that of equal classes
        assert 1 / row.classes <= row.chance < 1
    for archive in row.archives:
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
        assert archive.version in archive.filename
    for function in (row.loader, row.reducer, row.downloader):
        assert function is None or callable(resolve(function))


def test_names_and_conventions():
    table = rows()
    assert table.keys() > {row.name for row in BUILT_IN}
    assert table.keys() >= {
        *("cifar10-mini", "koppen", "digits", "mnist-mini", "cifar10", "cifar100", "stl10"),
        *("imagenet", "svhn", "flowers102", "pets", "dtd", "eurosat", "food101", "sun397"),
    }
    per_class = {name for name, row in table.items() if row.metric == "mean_per_class"}
    assert per_class == {"flowers102", "pets", "aircraft"}
    assert table["stl10"].splits["unlabelled"] == 100_000


def test_listing_needs_neither_torch_nor_numpy():
    code = (
        "import sys; from sslbench.data.table import rows; rows();"
        "print(sorted({'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match=r"no dataset 'cifar10mini'; did you mean 'cifar10-mini'"):
        find("cifar10mini")


def test_a_dataset_of_ones_own(plugins):
    assert find("stripes", [plugins]).licence == "CC0-1.0"
    data = load("stripes", [plugins])
    assert (data.classes, data.class_names, data.metric) == (2, ("dark", "light"), "top1")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 3,
    }
    assert data.chance == 2 / 3  # labels 0, 1, 0 in test
    assert data["test"][torch.tensor([2, 1])].target.tolist() == [0, 1]
    assert load("stripes", [plugins]) is data
    with pytest.raises(UserError, match="no dataset 'stripes'"):
        find("stripes")


def test_a_split_to_train_on_is_named_after_its_dataset():
    data, train = load_train("digits")
    assert train is data["train"]
    assert load_train("digits/validation")[1] is data["validation"]
    both = load_train("digits/validation+train")[1]
    assert len(both) == 1_258 + 180
    assert torch.equal(both[torch.tensor([180])].images[0], train[torch.tensor([0])].images[0])
    with pytest.raises(UserError, match=r"digits/train\+test: pretraining on the test split"):
        load_train("digits/train+test")
    with pytest.raises(UserError, match=r"has no split 'unlabelled'; it has train, validation"):
        load_train("digits/unlabelled")
    with pytest.raises(UserError, match="no dataset 'digit'; did you mean 'digits'"):
        load_train("digit/train")


def test_a_split_may_be_read_when_it_is_asked_for(plugins):
    text = OWN.replace("name: Image", "name: lambda n=n, name=name: read.append(name) or Image")
    (plugins / "datasets" / "stripes.py").write_text(text + "read = []")
    data = load("stripes", [plugins])
    read = resolve(find("stripes", [plugins]).loader).__globals__["read"]
    assert read == ["test"]  # for its chance level
    assert [len(data["train"]), len(data["train"])] == [6, 6]
    assert list(data.splits) == ["train", "validation", "test"]
    assert "validation" in data.splits
    assert read == ["test", "train"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("np.arange(n) %", "np.arange(n + 1) %"), "3 test examples, 4 labels"),
        (("np.arange(n) %", "np.arange(n) - 0 *"), "test labels must lie in 0 … 1, found 0 … 2"),
        (("in row.splits.items()", "in [('train', 6)]"), "there is no 'validation' split"),
        (
            ("in row.splits.items()", "in [*row.splits.items(), ('test', 4)]"),
            "3 test examples expected, 4 found",
        ),
        (('["dark", "light"]', '["dark"]'), "2 classes expected, 1 found"),
    ],
    ids=["lengths", "labels", "split", "size", "classes"],
)
def test_a_loader_is_held_to_its_row(plugins, change, message):
    old, new = change
    assert old in OWN
    (plugins / "datasets" / "stripes.py").write_text(OWN.replace(old, new))
    with pytest.raises(UserError, match=message):
        dict(load("stripes", [plugins]).splits)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("stripes", "row = 3", "expected a Row named 'stripes', found 3"),
        ("stripes", "", "expected a Row named 'stripes', found None"),
        ("stripes", "import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("stripes", OWN.replace('"stripes"', '"bars"'), "the row is named 'bars'"),
        ("digits", OWN.replace('"stripes"', '"digits"'), "there is a dataset 'digits' already"),
    ],
    ids=["value", "nothing", "import", "name", "taken"],
)
def test_an_unfit_plugin_is_named(tmp_path, name, text, message):
    (tmp_path / "datasets").mkdir()
    path = tmp_path / "datasets" / f"{name}.py"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*" + message):
        rows([tmp_path])


def test_a_missing_plugin_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        rows([tmp_path / "none"])


def test_other_packages_add_rows(monkeypatch):
    module = type(sys)("sslbench_test_package")
    module.row = Row(name="theirs", description="d", licence="l", source="s", loader="m:f")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    point = EntryPoint("theirs", f"{module.__name__}:row", "sslbench.datasets")
    monkeypatch.setattr("sslbench.registry._installed", lambda: EntryPoints([point]))
    assert find("theirs") is module.row


def test_archives_want_a_reducer():
    with pytest.raises(ValueError, match="archives and a reducer go together"):
        Row(name="x", description="d", licence="l", source="s", loader="m:f", reducer="m:g")


def test_the_hash_of_a_row_is_compared(plugins):
    path = plugins / "datasets" / "stripes.py"
    path.write_text(OWN.replace("classes=2,", 'classes=2, hash="0" * 32,'))
    with pytest.warns(UserWarning, match="are not those of the table"):
        load("stripes", [plugins])


def test_chance_needs_no_input():
    from sslbench.data.loading import chance_level

    labels = np.array([0, 0, 0, 1, 2])
    assert chance_level("top1", labels, 4) == 0.6
    assert chance_level("mean_per_class", labels, 4) == 0.25
    assert chance_level("top1", None, 0) == 0
