"""What a measurement says, its table and its command."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from sslbench.__main__ import app
from sslbench.bench import report, startup
from sslbench.bench.timing import Goal, Timing, UnequalError, close, in_turn
from sslbench.errors import UserError

OURS, THEIRS = (2.0, 1.0, 4.0), (6.0, 4.0, 8.0)


def timing(**changes):
    return Timing(
        **{"name": "a", "work": "w", "peer": "p", "ours": OURS, "theirs": THEIRS} | changes
    )


def test_the_ratio_is_the_median_of_the_rounds_ratios():
    faster = timing(goal=Goal("faster", 3))
    assert (faster.values, faster.value, faster.reached) == ([3.0, 4.0, 2.0], 3.0, True)
    assert not timing(goal=Goal("faster", 3.01)).reached
    within = timing(goal=Goal("within", 0.3))
    assert (within.value, within.reached) == (pytest.approx(1 / 3), False)
    assert timing(goal=Goal("within", 0.34)).reached
    alone = timing(theirs=(), goal=Goal("seconds", 2))
    assert (alone.value, alone.reached) == (2.0, True)
    assert timing().reached is None


def test_the_interval_is_students_on_the_logarithms():
    logs = np.log([3.0, 4.0, 2.0])
    expected = stats.t.interval(0.95, 2, logs.mean(), logs.std(ddof=1) / math.sqrt(3))
    assert timing().interval == pytest.approx(np.exp(expected))
    assert timing(ours=(1.0,), theirs=(2.0,)).interval == (0.0, math.inf)
    assert timing(ours=(1.0,), theirs=(2.0,)).plain()["high"] is None


def test_both_take_turns_and_the_first_call_of_each_does_not_count():
    said = []
    times = in_turn(lambda: said.append("a"), lambda: said.append("b"), 3)
    assert "".join(said) == "ab" + "ab" + "ba" + "ab"
    assert [len(part) for part in times] == [3, 3]
    assert min(min(part) for part in times) > 0


def test_what_differs_is_said():
    assert close("sums", [1.0, 2.0], [1.0, 2.5], 0.5) == "sums: 5.0e-01 apart"
    with pytest.raises(UnequalError, match=r"sums: 0\.5 apart, more than 0\.4"):
        close("sums", [1.0, 2.0], [1.0, 2.5], 0.4)
    with pytest.raises(UnequalError, match="shape"):
        close("sums", [1.0], [1.0, 2.0], 1.0)
    with pytest.raises(UnequalError, match="nan apart"):
        close("sums", [math.nan], [1.0], 1.0)


@pytest.fixture
def measured(monkeypatch):
    """Three measurements, of which two have no numbers."""

    def measure(rounds):
        yield timing(goal=Goal("faster", 3), numbers={"n": rounds})
        yield timing(name="b", theirs=(), ours=(0.5,))

    def unequal(rounds):
        raise UnequalError("sums: 1 apart")

    def missing(rounds):
        raise UserError("mini was not fetched")

    monkeypatch.setattr(report, "NAMES", ("startup", "knn", "suite"))
    parts = {"startup": measure, "knn": unequal, "suite": missing}
    module = lambda name: type("Module", (), {"measure": staticmethod(parts[name[15:]])})  # noqa: E731
    monkeypatch.setattr(report, "import_module", module)


def test_a_run_goes_on_where_one_cannot_be_measured_and_says_why(measured, capsys):
    found = CliRunner().invoke(app, ["bench", "--rounds", "3", "--json", "--cpus", "1"])
    assert found.exit_code == 1
    plain = json.loads(found.stdout)
    assert [one["name"] for one in plain["timings"]] == ["a", "b"]
    assert plain["timings"][0]["reached"] is True
    assert plain["timings"][0]["numbers"] == {"n": 3}
    assert plain["failed"] == {
        "knn": "not the same: sums: 1 apart",
        "suite": "mini was not fetched",
    }
    assert (plain["rounds"], plain["cpus"]) == (3, 1)
    assert "torch" in plain["machine"]["versions"]


def test_the_table(measured):
    found = report.run(["startup"], 5, 1, lambda name: None)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(report.table(found))
    text = captured.get()
    (line,) = (line.split() for line in text.splitlines() if line.startswith("a "))
    assert line == ["a", "2", "s", "6", "s", "3×", "1.21–6.85", "≥", "3×", "reached"]
    assert "a: w; peer: p" in text
    assert "medians of 5 rounds, 1 threads" in text


def test_a_wrong_name_is_refused_before_anything_is_measured():
    with pytest.raises(UserError, match="no measurement 'startupp'; did you mean 'startup'"):
        report.run(["knn", "startupp"], 1, 1, print)


def test_every_name_is_a_measurement():
    folder = report.__file__.rpartition("/")[0]
    files = {path.stem for path in Path(folder).glob("*.py")}
    assert set(report.NAMES) == files - {"__init__", "report", "timing", "peers", "lightly_peer"}


def test_starting_up_is_measured():
    first, second = startup.measure(1)
    assert (first.name, second.name) == ("startup/help", "startup/list")
    assert min(first.value, first.numbers["python_alone"]) > 0
