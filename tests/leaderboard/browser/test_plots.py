"""The plots of a page: what they draw, and what they say of it."""

import re

import numpy as np
import pytest
from playwright.sync_api import expect
from scipy import stats

from sslbench.leaderboard import text
from tests.leaderboard.browser import shown
from tests.leaderboard.browser.shown import choose

KINDS = {
    "Ranks": "Ranks of|no ranks",
    "Heat map": "more intense|better direction",
    "Score against cost": "pretraining time",
    "Learning curves": "along its|along their",
    "Pretraining loss against score": "loss",
}  # with what only its captions say
KNN = "knn/digits/top1"
MARKS = "#chart .points path, #chart .heatmaplayer image"
DRAWN = """() => (document.getElementById("chart").data ?? []).map((trace) => ({
  name: trace.name, x: [...trace.x], y: [...trace.y], z: trace.z?.map((line) => [...line]),
  text: trace.text, up: trace.error_x?.array ?? trace.error_y?.array,
  down: trace.error_x?.arrayminus ?? trace.error_y?.arrayminus,
}))"""


def plot(page, kind, caption="", column=None):
    """What Plotly was given, once the caption says this and, with a column, the axis that."""
    page.locator("#plots").scroll_into_view_if_needed()
    page.locator("#plot").select_option(kind)
    if column:
        page.locator("#plot-column").select_option(column)
        task, dataset, _ = column.split("/")
        page.wait_for_function(
            "(own) => document.getElementById('chart').layout?.yaxis?.title?.text?.startsWith(own)",
            arg=f"{task} on {dataset},",
        )
    told = page.locator("#chart-caption")
    expect(told).to_contain_text(re.compile(KINDS[kind]))
    expect(told).to_contain_text(caption)
    drawn = page.evaluate(DRAWN)
    if drawn:
        expect(page.locator(MARKS).first).to_be_attached()
    return drawn


def groups(trace):
    """The tie groups that a plot of ranks tells of its points."""
    return [int(told.rpartition(" ")[2]) for told in trace["text"]]


def checkpoints(board, name, column=KNN):
    """Epochs, loss and score in percent of a row's checkpoints, also those along the way."""
    found = {}
    for record in board.records:
        c = record.checkpoint
        if c.name == name and f"{record.task}/{record.dataset}/top1" == column:
            own = found.setdefault((c.pretrain_seed, c.at), [])
            score = 100 * record.scores["top1"].value
            own.append((c.at * c.pretrain_epochs, c.pretrain_loss, score))
    return np.array([np.mean(own, axis=0) for own in found.values()])  # over evaluation seeds


def test_ranks_with_their_intervals(page, models):
    (trace,) = plot(page, "Ranks", "Ranks of 6 rows")
    own = models.board.aggregates
    rows = text.order(models.board)[::-1]
    assert trace["y"] == [row.name for row in rows]
    assert trace["x"] == [own[row].rank for row in rows]
    assert trace["up"] == [own[row].rank_high - own[row].rank for row in rows]
    assert trace["down"] == [own[row].rank - own[row].rank_low for row in rows]
    assert groups(trace) == [own[row].group for row in rows]
    best = ", ".join(row.name for row in reversed(rows) if own[row].group == 1)
    expect(page.locator("#chart-caption")).to_contain_text(f"Best group: {best}.")


def test_the_heat_map_goes_from_worst_to_best(page, models):
    (trace,) = plot(page, "Heat map", "the better, the more intense")
    cells = models.board.cells
    rows = text.order(models.board)[::-1]
    assert trace["y"] == [row.name for row in rows]
    assert trace["x"] == [f"{column.task}/{column.dataset}" for column in models.board.columns]
    for place, column in enumerate(models.board.columns):
        values = np.array([cells[row, column].value for row in rows])
        scaled = (values - np.nanmin(values)) / np.ptp(values[~np.isnan(values)])
        scaled = {True: scaled, False: 1 - scaled, None: values * np.nan}[column.higher_is_better]
        found = np.array([line[place] for line in trace["z"]], float)
        np.testing.assert_allclose(found, scaled, atol=1e-5)
        told = [line[place] for line in trace["text"]]
        assert told == ["" if np.isnan(v) else text.score(column, v) for v in values]


def test_scores_against_their_cost(page, models):
    board = models.board
    (trace,) = plot(page, "Score against cost", "4 rows with their pretraining time", KNN)
    (column,) = [column for column in board.columns if column.name == KNN]
    rows = [row for row in text.order(board) if board.seconds(row)]
    cells = [board.cells[row, column] for row in rows]
    assert trace["text"] == [row.name for row in rows]
    assert trace["x"] == [board.seconds(row) for row in rows]
    assert trace["y"] == pytest.approx([100 * cell.value for cell in cells], abs=1e-3)
    lows, highs = np.array([cell.interval for cell in cells]).T * 100
    assert np.subtract(trace["y"], trace["down"]) == pytest.approx(lows, abs=1e-3)
    assert np.add(trace["y"], trace["up"]) == pytest.approx(highs, abs=1e-3)
    rho = stats.spearmanr(trace["x"], trace["y"]).statistic
    expect(page.locator("#chart-caption")).to_have_text(
        f"4 rows with their pretraining time; Spearman's correlation {rho:.2f} over 4 points."
    )


def test_learning_curves_are_means_over_seeds(page, models):
    traces = plot(page, "Learning curves", "Scores of 2 rows along", KNN)
    assert {trace["name"] for trace in traces} == {"simclr", "byol"}
    for trace in traces:
        epochs, _, scores = checkpoints(models.board, trace["name"]).T
        assert trace["x"] == [5, 10, 20]
        groups = [scores[epochs == epoch] for epoch in trace["x"]]
        assert trace["y"] == pytest.approx([own.mean() for own in groups], abs=1e-3)
        spread = [own.std(ddof=1) if len(own) > 1 else 0 for own in groups]
        assert trace["up"] == pytest.approx(spread, abs=1e-3)


def test_pretraining_loss_against_the_score(page, models):
    traces = plot(page, "Pretraining loss against score", "Spearman's ρ", KNN)
    every = []
    assert len(traces) == 2
    for trace in traces:
        name = trace["name"].split()[0]
        _, losses, scores = checkpoints(models.board, name).T
        assert sorted(trace["x"]) == pytest.approx(sorted(losses))
        assert sorted(trace["y"]) == pytest.approx(sorted(scores), abs=1e-3)
        rho = stats.spearmanr(losses, scores).statistic
        assert trace["name"] == f"{name} (ρ = {rho:.2f}, n = {len(losses)})"
        every.append((losses, scores))
    lower = sum(stats.spearmanr(*own).statistic < 0 for own in every)
    rho = stats.spearmanr(*np.concatenate(every, axis=1)).statistic
    told = page.locator("#chart-caption").inner_text()
    assert f"better score in {lower} of 2 rows" in told
    assert f"Over all 12 checkpoints Spearman's ρ is {rho:.2f};" in told


def test_plots_follow_the_filter_and_the_choice_of_tasks(page, models):
    plot(page, "Ranks", "Ranks of 6 rows")
    choose(page, "source", "own")
    caption = page.locator("#chart-caption")
    expect(caption).to_contain_text("Ranks of 5 rows")
    (trace,) = page.evaluate(DRAWN)
    assert trace["y"] == list(shown.table(page))[::-1]
    rows = [row for row in models.board.rows if row.name in trace["y"]]
    expected = shown.recomputed(models.board, rows, models.board.columns, 200)
    assert trace["x"] == [expected[name].rank for name in trace["y"]]
    assert groups(trace) == [expected[name].group for name in trace["y"]]
    (trace,) = plot(page, "Heat map", "the better, the more intense")
    assert (len(trace["x"]), len(trace["y"])) == (6, 5)
    choose(page, "task", "knn", "rank")
    page.wait_for_function("document.getElementById('chart').data[0].x.length === 3")
    page.get_by_label("Filter rows").fill("resnet18")
    page.wait_for_function("document.getElementById('chart').data[0].y.length === 4")
    plot(page, "Score against cost", "3 rows with their pretraining time", KNN)
    page.get_by_label("Filter rows").fill("untrained")
    expect(caption).to_have_text("No row shown has a pretraining time and a score in this column.")
    assert page.evaluate(DRAWN) == []
    plot(page, "Learning curves", "No row shown has checkpoints along")
    plot(page, "Pretraining loss against score", "No row shown has a pretraining loss")
    choose(page, "task", "rank")
    plot(page, "Ranks", "No column that is averaged is shared by all rows shown: no ranks.")
    page.get_by_role("button", name="Show all").click()
    expect(caption).to_contain_text("Ranks of 6 rows")


def test_the_last_plot_that_was_chosen_is_the_one_that_is_drawn(page):
    plot(page, "Ranks", "Ranks of 6 rows")
    page.locator("#plot").evaluate(
        "(select) => { for (const kind of ['Learning curves', 'Heat map'])"
        " { select.value = kind; select.dispatchEvent(new Event('change')); } }"
    )
    expect(page.locator("#chart-caption")).to_contain_text("the better, the more intense")
    expect(page.locator("#chart .heatmaplayer image")).to_be_attached()
    assert len(page.evaluate(DRAWN)) == 1


def test_every_plot_of_a_large_board_draws_or_says_why_not(page_of):
    page = page_of("vision-methods")
    for kind in KINDS:
        drawn = plot(page, kind)
        told = page.locator("#chart-caption").inner_text()
        assert bool(drawn) != told.startswith("No "), (kind, told)


def test_a_plot_can_be_saved_and_not_sent_to_anybody(page):
    plot(page, "Ranks", "Ranks of 6 rows")
    buttons = page.locator("#chart .modebar").get_by_role("button")
    names = [button.get_attribute("aria-label") for button in buttons.all()]
    assert "Download plot as a PNG" in names
    assert not [name for name in names if "Share" in name or "Edit" in name or "loud" in name]
    with page.expect_download() as download:
        buttons.first.click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    bar, points = (page.locator(f"#chart {own}").bounding_box() for own in (".modebar", ".bglayer"))
    assert bar["y"] + bar["height"] <= points["y"] + 1


@pytest.mark.parametrize("kind", ["Ranks", "Heat map"])
def test_names_that_are_numbers_are_names(page_of, kind):
    page = page_of("apart")
    choose(page, "task", "knn")
    (trace,) = plot(page, kind)
    assert {"10", "7", "2024"} <= set(trace["y"])
    assert page.locator("#chart .ytick text").all_text_contents() == trace["y"]


def test_plots_say_why_there_is_nothing_to_draw(page_of):
    page = page_of("bare")
    for kind in KINDS:
        drawn = plot(page, kind, "No " if kind != "Heat map" else "the better")
        assert bool(drawn) == (kind == "Heat map")
    choose(page, "task", "rank")
    assert plot(page, "Heat map", "No column shown has a better direction") == []
