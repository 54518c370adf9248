import pytest

from sslbench import registry
from sslbench.errors import UserError


def write(folder, text, name="mine", kind="methods"):
    path = folder / kind / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


METHOD = '''"""Mine: an example."""

from sslbench.method import Method


class Mine(Method):
    """Nothing but the contract."""

    paper = "none"
    version = 3

    def views(self, batch, random):
        return batch.images

    def loss(self, views, progress):
        raise ValueError
'''


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_PLUGINS", str(tmp_path))
    return tmp_path


def test_the_file_name_is_the_name():
    for kind in ("methods", "tasks"):
        for name, entry in registry.entries(kind).items():
            assert entry.path.stem == name
            assert entry.describe()["name"] == name


def test_description_needs_no_import_and_agrees_with_the_class():
    for name, entry in registry.entries("methods").items():
        cls, described = registry.method(name), entry.describe()
        assert described.get("paper", "") == cls.paper
        assert described["version"] == cls.version
        assert described["summary"]


@pytest.mark.parametrize(
    "text",
    [
        METHOD.replace("class Mine", "class Part:\n    def f(self):\n        pass\n\n\nclass Mine"),
        METHOD.replace("class Mine", "def f():\n    def g():\n        pass\n\n\nclass Mine"),
        METHOD.replace("but the contract", "but\n\n    def of the contract"),
    ],
)
def test_a_description_is_found_behind_other_functions(plugins, text):
    write(plugins, text)
    described = registry.entries("methods")["mine"].describe()
    assert (described["paper"], described["version"]) == ("none", 3)


def test_a_file_that_is_not_python_is_named(plugins):
    path = write(plugins, "class (:\n")
    with pytest.raises(UserError, match=f"{path}: line 1: invalid syntax"):
        registry.entries("methods")["mine"].describe()


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UserError, match="unknown method 'simclt'; did you mean 'simclr'"):
        registry.method("simclt")


def test_a_file_in_a_plugin_folder_is_a_method(plugins):
    write(plugins, METHOD)
    assert registry.method("mine").version == 3
    assert registry.entries("methods")["mine"].family == "plugin"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("'''No class.'''", "found none"),
        (METHOD + "\n\nclass Other(Mine):\n    pass\n", "Mine, Other"),
    ],
)
def test_a_file_holds_exactly_one_method(plugins, text, found):
    write(plugins, text, "odd")
    with pytest.raises(UserError, match=found):
        registry.method("odd")


def test_two_files_of_one_name_are_refused(plugins):
    write(plugins, METHOD, "simclr")
    with pytest.raises(UserError, match="two methods are called 'simclr'"):
        registry.entries("methods")


def test_a_missing_plugin_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SSLBENCH_PLUGINS", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="gone: no such folder"):
        registry.entries("tasks")


class Example:
    def __init__(self, encoder, *, rate: float = 0.1, name: str | None = None, n: int = 3,
                 flag: bool = False, pair: tuple[float, float] = (0.0, 1.0),
                 many: tuple[int, ...] = ()):  # fmt: skip
        pass


def test_settings_are_the_keyword_only_arguments():
    found = registry.settings(
        Example, {"rate": 1, "pair": [1, 2.5], "many": [1, 2, 3], "name": "x"}
    )
    assert found == {"rate": 1.0, "name": "x", "n": 3, "flag": False, "pair": (1.0, 2.5),
                     "many": (1, 2, 3)}  # fmt: skip
    assert isinstance(found["rate"], float)


@pytest.mark.parametrize(
    "given",
    [{"rate": "high"}, {"n": 1.5}, {"n": True}, {"flag": 1}, {"pair": [1]}, {"many": ["a"]},
     {"name": 3}, {"rate": None}],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(given):
    (name,) = given
    with pytest.raises(UserError, match=rf"Example\.{name} = .*expected"):
        registry.settings(Example, given)


def test_an_unknown_setting_gets_the_nearest_one():
    with pytest.raises(UserError, match="no setting 'rat'; did you mean 'rate'"):
        registry.settings(Example, {"rat": 1.0})


def test_plain_settings_survive_json():
    import json

    for name in registry.entries("methods"):
        cls = registry.method(name)
        plain = registry.plain(registry.settings(cls, {}))
        again = registry.settings(cls, json.loads(json.dumps(plain)))
        assert registry.plain(again) == plain
