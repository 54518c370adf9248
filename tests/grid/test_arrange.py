"""Which cells share a job, and which jobs an array."""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslbench.grid.arrange import Array, Costs, arrange
from sslbench.grid.cells import Evaluation, External, Pretraining, Work
from sslbench.grid.config import Grid, Resources
from sslbench.grid.job import checkpoint_folder
from sslbench.records import Checkpoint, Provenance, Record

MOST = 12  # sources of a case
TASKS = ("quick", "slow", "wide")
OVERRIDE = {"large": {"resources": {"gpus": 2}}, "wide": {"resources": {"cpus": 4}}}
FINISHED, FRESH = "finished", "fresh"  # names of datasets, so that keys differ


def grid(pack_minutes: float = 60.0, hours: float = 2.0) -> Grid:
    """Method "large" and task "wide" have resources of their own."""
    return Grid.model_validate(
        {
            "name": "g",
            "evaluate": {"tasks": list(TASKS), "datasets": ["digits"]},
            "override": OVERRIDE,
            "resources": {
                "pretrain": {"hours": hours},
                "evaluate": {"pack_minutes": pack_minutes, "cell_minutes": 1.0},
            },
        }
    )


def run(number: int, method: str = "small", dataset: str = FRESH, epochs: int = 3) -> Pretraining:
    encoder = {"name": "resnet18", "image_size": 8}
    return Pretraining(method, method, 1, "f", {}, {}, encoder, dataset, "h", epochs, number)


def external(number: int) -> External:
    return External("mine", f"/there/{number}", f"external-{number}")


def work(source: Pretraining | External, *tasks: str) -> Work:
    """A cell for each task; a repeated task gets another seed."""
    return Work(
        source,
        [
            Evaluation(source.key, 1.0, task, task, 1, {}, "digits", "h", seed)
            for seed, task in enumerate(tasks)
        ],
    )


def costs(**minutes: float) -> Costs:
    found = Costs()
    for task, value in minutes.items():
        found.cells[task, "digits"].append(60 * value)
    return found


def keys(works: list[Work]) -> list[str]:
    return [cell.key for item in works for cell in item.cells]


def evaluated(arrays: list[Array]) -> list[str]:
    return [key for a in arrays if a.stage == "evaluate" for job in a.jobs for key in keys(job)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which the runs on the data `FINISHED` have finished."""
    folder = tmp_path_factory.mktemp("run")
    for number in range(MOST):
        for method in ("small", "large"):
            encoder = checkpoint_folder(folder, run(number, method, FINISHED)) / "encoder"
            encoder.mkdir(parents=True)
            (encoder / "encoder.json").touch()
    return folder


def arranged(folder: Path, left: list[Work], *, pack_minutes: float = 60.0, longest: int = 100,
             known: Costs | None = None, **awaited: str) -> list[Array]:  # fmt: skip
    return arrange(
        grid(pack_minutes), left, folder, longest=longest, costs=known or Costs(), awaited=awaited
    )


# ------------------------------------------------------------------------------ laws


@dataclass
class Case:
    """What is given to `arrange`, and the numbers behind it."""

    left: list[Work]
    longest: int
    pack_minutes: float
    minutes: dict[str, float]
    awaited: dict[str, str]

    def arranged(self, folder: Path) -> list[Array]:
        return arrange(
            grid(self.pack_minutes), self.left, folder, longest=self.longest,
            costs=costs(**self.minutes), awaited=self.awaited,
        )  # fmt: skip

    def seconds(self, works: list[Work]) -> float:
        return sum(60 * self.minutes.get(cell.task, 1.0) for w in works for cell in w.cells)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    menus = draw(st.lists(st.lists(st.sampled_from(TASKS), min_size=1, max_size=9), min_size=1,
                          max_size=3))  # fmt: skip
    left, awaited = [], {}
    for number in range(draw(st.integers(1, MOST))):
        method = draw(st.sampled_from(("small", "large")))
        kind = draw(st.sampled_from(("fresh", "fresh", "finished", "awaited", "plain", "external")))
        source = {
            "fresh": run(number, method),
            "awaited": run(number, method),
            "finished": run(number, method, FINISHED),
            "plain": run(number, method, epochs=0),
            "external": external(number),
        }[kind]
        left.append(work(source, *draw(st.sampled_from(menus))))
        if kind == "awaited":
            awaited[source.key] = f"7_{number}"
    times = st.sampled_from((0.0, 0.1, 1.0, 7.0, 300.0))
    minutes = draw(st.dictionaries(st.sampled_from(TASKS), times))
    pack = draw(st.sampled_from((0.0, 1.0, 10.0, 60.0)))
    return Case(left, draw(st.integers(1, 5)), pack, minutes, awaited)


laws = settings(max_examples=80, deadline=None)


@laws
@given(cases())
def test_every_cell_is_evaluated_once_and_every_fresh_run_trained_once(folder, case):
    arrays = case.arranged(folder)
    assert sorted(evaluated(arrays)) == sorted(keys(case.left))
    trained = [item for a in arrays if a.stage == "pretrain" for job in a.jobs for item in job]
    fresh = [
        item for item in case.left
        if isinstance(item.source, Pretraining) and item.source.epochs
        and item.source.dataset == FRESH and item.source.key not in case.awaited
    ]  # fmt: skip
    assert Counter(item.source.key for item in trained) == {i.source.key: 1 for i in fresh}
    assert sorted(keys(trained)) == sorted(keys(fresh))  # a failed run fails all of its cells


@laws
@given(cases())
def test_a_child_follows_its_parent_job_by_job(folder, case):
    arrays = case.arranged(folder)
    parents = {item.source.key: (number, place)
               for number, a in enumerate(arrays) if a.stage == "pretrain"
               for place, job in enumerate(a.jobs) for item in job}  # fmt: skip
    for number, array in enumerate(arrays):
        if array.stage == "pretrain":
            assert array.after is None
            continue
        for place, job in enumerate(array.jobs):
            for item in job:
                if item.source.key in parents:
                    assert (array.after, place) == parents[item.source.key]
                    assert isinstance(array.after, int)
                    assert array.after < number
                    assert len(array.jobs) == len(arrays[array.after].jobs)
                else:
                    assert array.after == case.awaited.get(item.source.key)


@laws
@given(cases())
def test_an_array_is_never_longer_than_allowed_and_no_job_is_empty(folder, case):
    for array in case.arranged(folder):
        assert 1 <= len(array.jobs) <= case.longest
        assert all(job and all(item.cells for item in job) for job in array.jobs)


@laws
@given(cases())
def test_a_job_has_the_resources_of_all_that_it_does(folder, case):
    for array in case.arranged(folder):
        for item in (item for job in array.jobs for item in job):
            if array.stage == "pretrain":
                assert array.resources.gpus == (2 if item.source.method == "large" else 0)
                assert array.resources.hours == 2.0
            else:
                wide = {cell.task == "wide" for cell in item.cells}
                assert wide == {array.resources.cpus == 4}


@laws
@given(cases())
def test_cells_stay_in_their_order(folder, case):
    """And with them, features of a checkpoint are read once for neighbouring cells."""
    places = {key: place for place, key in enumerate(keys(case.left))}
    for array in case.arranged(folder):
        for job in array.jobs:
            found = [places[key] for key in keys(job)]
            assert found == sorted(found)


@laws
@given(cases())
def test_the_estimate_is_the_sum_over_all_jobs(folder, case):
    for array in case.arranged(folder):
        works = [item for job in array.jobs for item in job]
        hours = 2 * len(works)  # no record tells how long a run takes: its time limit
        expected = 3600 * hours if array.stage == "pretrain" else case.seconds(works)
        assert array.seconds == pytest.approx(expected)


@laws
@given(cases())
def test_packs_of_one_source_are_few_and_of_about_the_same_length(folder, case):
    arrays = case.arranged(folder)
    target = max(1.0, 60 * case.pack_minutes)
    for item in case.left:
        for cpus in (1, 4):
            packs = [
                mine
                for a in arrays if a.stage == "evaluate" and a.resources.cpus == cpus
                for job in a.jobs for mine in job if mine.source == item.source
            ]  # fmt: skip
            total, cells = case.seconds(packs), sum(len(pack.cells) for pack in packs)
            most = max(1, min(cells, math.ceil(total / target)))
            assert len(packs) <= most
            for pack in packs:
                longest = max(case.seconds([Work(item.source, [cell])]) for cell in pack.cells)
                assert case.seconds([pack]) <= total / most + longest + 1e-6


@laws
@given(cases())
def test_jobs_across_sources_are_filled_to_the_target_and_not_beyond(folder, case):
    target = 60 * case.pack_minutes
    loose = [a for a in case.arranged(folder) if a.stage == "evaluate" and a.after is None]
    for cpus in (1, 4):
        mine = [array for array in loose if array.resources.cpus == cpus]
        assert all(len(array.jobs) == case.longest for array in mine[:-1])
        jobs = [job for array in mine for job in array.jobs]
        assert all(len(job) == 1 or case.seconds(job) <= target for job in jobs)
        for job, following in pairwise(jobs):
            assert case.seconds([*job, following[0]]) > target


# ------------------------------------------------------------------------------ examples


def shape(arrays: list[Array]) -> list[tuple[str, int, int | str | None]]:
    return [(array.stage, len(array.jobs), array.after) for array in arrays]


def test_runs_alike_are_one_array_in_chunks_each_followed_by_its_evaluations(folder):
    arrays = arranged(folder, [work(run(n), "quick", "slow") for n in range(10)], longest=4)
    assert shape(arrays) == [
        ("pretrain", 4, None), ("evaluate", 4, 0),
        ("pretrain", 4, None), ("evaluate", 4, 2),
        ("pretrain", 2, None), ("evaluate", 2, 4),
    ]  # fmt: skip
    trained = [[item.source.seed for (item,) in array.jobs] for array in arrays[::2]]
    assert trained == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for parent, child in zip(arrays[::2], arrays[1::2], strict=True):
        assert [job[0].source for job in parent.jobs] == [job[0].source for job in child.jobs]


def test_each_pack_of_evaluations_is_an_array_after_the_same_parent(folder):
    left = [work(run(n), *["quick"] * 6) for n in range(3)]
    arrays = arranged(folder, left, pack_minutes=20, known=costs(quick=10))
    assert shape(arrays) == [("pretrain", 3, None)] + [("evaluate", 3, 0)] * 3
    assert {len(item.cells) for array in arrays[1:] for (item,) in array.jobs} == {2}


def test_methods_and_tasks_with_resources_of_their_own_have_arrays_of_their_own(folder):
    left = [work(run(n, method), "quick", "wide") for method in ("small", "large") for n in (0, 1)]
    arrays = arranged(folder, left)
    assert shape(arrays) == [
        ("pretrain", 2, None), ("evaluate", 2, 0), ("evaluate", 2, 0),
        ("pretrain", 2, None), ("evaluate", 2, 3), ("evaluate", 2, 3),
    ]  # fmt: skip
    assert [array.resources.gpus for array in arrays] == [0, 0, 0, 2, 0, 0]
    assert [array.resources.cpus for array in arrays] == [1, 1, 4, 1, 1, 4]


def test_a_run_with_other_cells_left_is_no_part_of_the_array(folder):
    left = [work(run(0), "quick", "wide"), work(run(1), "quick"), work(run(2), "quick", "wide")]
    arrays = arranged(folder, left)
    assert [len(array.jobs) for array in arrays if array.stage == "pretrain"] == [2, 1]


def test_what_needs_no_training_shares_jobs_across_sources(folder):
    left = [
        work(external(0), "quick"),
        work(run(0, dataset=FINISHED), "quick", "quick"),
        work(run(1, epochs=0), "quick"),
        work(external(2), "wide"),
    ]
    first, second = arranged(folder, left)
    assert (first.stage, first.after, len(first.jobs)) == ("evaluate", None, 1)
    assert [item.source for item in first.jobs[0]] == [item.source for item in left[:3]]
    assert [item.source for item in second.jobs[0]] == [left[3].source]


def test_new_cells_of_a_queued_run_wait_for_its_job(folder):
    source = run(0)
    left = [work(source, "quick", "wide")]
    arrays = arranged(folder, left, **{source.key: "41_3"})
    assert shape(arrays) == [("evaluate", 1, "41_3")] * 2
    assert sorted(evaluated(arrays)) == sorted(keys(left))


def test_short_cells_do_not_lie_alone_behind_a_long_one(folder):
    left = [work(run(0), "slow", "quick", "quick", "quick")]
    arrays = arranged(folder, left, pack_minutes=5, known=costs(slow=60, quick=0.1))
    assert [len(array.jobs[0][0].cells) for array in arrays[1:]] == [1, 3]


def test_cells_that_take_no_time_share_a_job(folder):
    for tasks in (["quick"] * 50, ["slow", "quick", "quick"]):
        arrays = arranged(folder, [work(run(0), *tasks)], known=costs(quick=0, slow=60))
        assert shape(arrays) == [("pretrain", 1, None), ("evaluate", 1, 0)]


@pytest.mark.parametrize(("pack_minutes", "sources"), [(20, [2, 2, 1]), (19.9, [1] * 5)])
def test_a_job_takes_as_many_sources_as_fit_into_the_target(folder, pack_minutes, sources):
    left = [work(external(n), "quick") for n in range(5)]
    (array,) = arranged(folder, left, pack_minutes=pack_minutes, known=costs(quick=10))
    assert [len(job) for job in array.jobs] == sources


def test_nothing_left_is_no_array(folder):
    assert arranged(folder, []) == []


# ------------------------------------------------------------------------------ costs


def record(seconds: float, status: str = "ok", **made: object) -> Record:
    checkpoint = Checkpoint(**{"key": "k", "name": "n", "family": "f", "encoder": "e", **made})
    return Record(
        key="ab12", status=status, checkpoint=checkpoint, task="mine", protocol="quick",
        task_version=1, dataset="digits", headline="top1",
        provenance=Provenance(created="now", seconds=seconds),
    )  # fmt: skip


def test_what_was_measured_is_estimated_by_its_median():
    cell = work(run(0), "quick").cells[0]
    known = Costs.of([record(10), record(20), record(90), record(1, "failed")])
    assert known.cell(cell, Resources()) == 20
    other = work(run(0), "slow").cells[0]
    assert known.cell(other, Resources(cell_minutes=2)) == 120


def test_a_run_costs_its_epochs_by_the_median_of_finished_ones():
    source = run(0, epochs=6)
    made = {"method": "small", "pretrain_dataset": FRESH, "pretrain_epochs": 2,
            "encoder": source.checkpoint().encoder}  # fmt: skip
    measured = [record(1, **made, pretrain_seconds=seconds) for seconds in (20, 40, 600)]
    along = record(1, **made, pretrain_seconds=7, at=0.5)  # the time is that of the whole run
    known = Costs.of([*measured, *[along] * 9, record(1), record(1, **made)])
    assert known.run(source, Resources()) == 6 * 20
    assert known.run(run(0, method="large"), Resources(hours=3)) == 3 * 3600
    assert known.run(run(0, dataset=FINISHED), Resources(hours=3)) == 3 * 3600


def test_the_estimate_of_an_array_of_runs_counts_each(folder):
    known = Costs()
    known.runs["small", FRESH, run(0).checkpoint().encoder].append(50.0)
    arrays = arranged(folder, [work(run(n), "quick") for n in range(4)], known=known)
    assert arrays[0].seconds == 4 * 3 * 50
    assert arrays[1].seconds == 4 * 60
