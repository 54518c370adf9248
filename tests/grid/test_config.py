import pytest

from sslbench.errors import UserError
from sslbench.grid.config import read

GOOD = """\
name = "small"
seeds = [0, 1]

[pretrain]
methods = ["untrained"]
datasets = ["digits"]
encoders = [{ name = "resnet18", width = 4, image_size = 8 }]
epochs = [1]

[evaluate]
tasks = ["knn"]
datasets = ["digits"]

[override.simclr]
temperature = 0.2

[resources.pretrain]
cpus = 1
"""


@pytest.fixture
def grid(tmp_path):
    def write(text):
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return path

    return write


def test_a_good_file_is_read(grid):
    config = read(grid(GOOD))
    assert config.seeds == [0, 1]
    assert config.pretrain.epochs == [1]
    assert config.override == {"simclr": {"temperature": 0.2}}
    assert config.resources.evaluate.cpus == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds", "sedes", r"line 2: unknown key 'sedes'; did you mean 'seeds'"),
        ("epochs", "epoch", r"line 8: unknown key 'pretrain\.epoch'; did you mean 'epochs'"),
        ("cpus", "cpu", r"line 18: unknown key 'resources\.pretrain\.cpu'; did you mean 'cpus'"),
        ("[evaluate]", "[evaluat]", r"line 10: unknown key 'evaluat'|evaluate: Field required"),
        ("[0, 1]", '"all"', r"line 2: seeds: .*list, found 'all'"),
        ("epochs = [1]", "epochs = [1.5]", r"line 8: pretrain\.epochs\.0: .*found 1\.5"),
        ("cpus = 1", "cpus = 0", r"line 18: resources\.pretrain\.cpus: .*found 0"),
        ("seeds = [0, 1]", "seeds = [0, 1", r"grid\.toml: .*line"),
        ('name = "small"', 'name = "../up"', r"line 1: name: .*found '\.\./up'"),
    ],
)
def test_a_wrong_file_gets_one_error_with_its_line(grid, old, new, message):
    with pytest.raises(UserError, match=message):
        read(grid(GOOD.replace(old, new, 1)))


def test_no_file_is_said_so(tmp_path):
    with pytest.raises(UserError, match="cannot read the grid file"):
        read(tmp_path / "gone.toml")
