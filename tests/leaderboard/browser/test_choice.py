"""Filters and facets: which rows and columns are shown, and what is recomputed over them."""

import pytest
from playwright.sync_api import expect

from tests.leaderboard.browser import shown
from tests.leaderboard.browser.shown import box, choose

FACETS = ["family", "encoder", "pretraining data", "source", "task", "dataset"]
FACET_OF = {
    "encoder": lambda row, _: row.encoder,
    "pretraining data": lambda row, _: row.pretrain_dataset or "none",
    "source": lambda _, c: "external" if c.family == "external" else "own",
    "family": lambda _, c: c.family,
}


def check(page, board, rows, columns):
    """The page shows these rows and columns, and the aggregates of just these."""
    chosen = [row for row in board.rows if row.name in rows]
    own = [column for column in board.columns if column.name in columns]
    draws = shown.packed(page, "data")["noise"]["draws"]
    expected = shown.recomputed(board, chosen, own, draws)
    found = shown.table(page)
    assert set(found) == set(rows)
    assert page.locator("#count").inner_text() == f"{len(rows)} of {len(board.rows)} rows"
    for name, cells in found.items():
        assert [head for head in cells if "/" in head] == [column.name for column in own]
        reference = shown.aggregated(expected.get(name))
        (rank, bounds), (own_rank, own_bounds) = map(split, (cells["rank"], reference["rank"]))
        assert rank == own_rank
        assert bounds == pytest.approx(own_bounds, abs=1)  # a page's draws are rounded to bytes
        assert [cells[head] for head in shown.MEANS] == [reference[head] for head in shown.MEANS]
    places = [split(cells["rank"])[0][-1] for cells in found.values() if cells["rank"]]
    assert places == sorted(places, key=int)


def split(rank):
    """Mark and rank, and its bounds."""
    *marked, bounds = rank.split() or [""]
    ends = [int(end) for end in bounds.split("–") if end]
    return marked, [min(ends), max(ends)] if ends else []


ALL = ["simclr", "byol", "mae", "Rotation", "untrained", "resnet50"]
COLUMNS = ["knn/cifar/top1", "knn/digits/top1", "probe/cifar/top1", "probe/digits/top1",
           "rank/digits/rankme", "robust/cifar/mce"]  # fmt: skip
OWN = ALL[:-1]


@pytest.mark.parametrize(
    ("chosen", "rows", "columns"),
    [
        ({}, ALL, COLUMNS),
        ({"task": ["knn"]}, ALL, COLUMNS[:2]),
        ({"task": ["knn", "rank"]}, ALL, [*COLUMNS[:2], COLUMNS[4]]),
        ({"dataset": ["cifar"]}, ALL, [COLUMNS[0], COLUMNS[2], COLUMNS[5]]),
        ({"task": ["probe"], "dataset": ["digits"]}, ALL, COLUMNS[3:4]),
        ({"task": ["rank", "robust"]}, ALL, COLUMNS[4:]),
        ({"source": ["own"]}, OWN, COLUMNS),
        ({"source": ["external"]}, ALL[-1:], COLUMNS),
        ({"encoder": ["resnet18"]}, ["simclr", "byol", "Rotation", "untrained"], COLUMNS),
        ({"pretraining data": ["stl10", "none"]}, ALL[2:], COLUMNS),
        ({"family": ["contrastive", "pretext"]}, ["simclr", "Rotation"], COLUMNS),
        ({"source": ["own"], "dataset": ["cifar"]}, OWN, [COLUMNS[0], COLUMNS[2], COLUMNS[5]]),
        ({"task": ["robust"], "dataset": ["digits"]}, ALL, []),
    ],
)
def test_aggregates_are_those_of_the_rows_and_columns_chosen(page, models, chosen, rows, columns):
    for facet, values in chosen.items():
        choose(page, facet, *values)
    check(page, models.board, rows, columns)
    for facet in FACETS:
        summary = box(page, facet).locator("summary").inner_text()
        size = box(page, facet).locator("input").count()
        own = f"{facet}: {len(chosen[facet])} of {size}" if facet in chosen else facet
        assert summary == own
    heads = page.locator("#board thead th[scope=colgroup]").evaluate_all(
        "(heads) => heads.map((head) => [head.innerText.trim(), head.colSpan])"
    )
    tasks = dict.fromkeys(name.split("/")[0] for name in columns)
    spans = [[task, sum(name.startswith(f"{task}/") for name in columns)] for task in tasks]
    assert heads == [["Over the common columns", 5], *spans, ["Cost", 2]]
    reset = page.get_by_role("button", name="Show all")
    if chosen:
        reset.click()
        check(page, models.board, ALL, COLUMNS)
        expect(page.get_by_label("Filter rows")).to_be_focused()
    assert not reset.is_visible()


def test_so_it_is_on_a_board_of_many_runs(page_of, published):
    page, board = page_of("vision-methods"), published("vision-methods").board
    choose(page, "dataset", "cifar10-mini")
    page.get_by_label("Filter rows").fill("3 resnet18")
    rows = [row.name for row in board.rows if "resnet18" in row.encoder]
    assert 10 < len(rows) < len(board.rows)
    check(page, board, rows, [c.name for c in board.columns if c.dataset == "cifar10-mini"])


def test_a_row_without_a_score_in_the_columns_shown_is_in_nobodys_way(page_of, published):
    page, board = page_of("apart"), published("apart").board
    assert not board.aggregates
    assert page.locator("#common").inner_text().startswith("No rank and no mean")
    choose(page, "task", "knn")
    check(page, board, ["2024", "7", "10", "3"], ["knn/digits/top1"])
    assert [cells["rank"][:3] for cells in shown.table(page).values()] == ["● 1", "2 2", "3 3", ""]


def test_facets_hold_what_the_rows_have(page, models):
    board = models.board
    for name, of in FACET_OF.items():
        found = [one.get_attribute("value") for one in box(page, name).locator("input").all()]
        assert found == sorted({of(row, board.checkpoints(row)[0]) for row in board.rows})
    assert page.locator(".facet").count() == len(FACETS)  # all rows have one modality


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("sim", ["simclr"]),
        ("  STL10  ", ["mae", "Rotation"]),
        ("resnet18 digits", ["simclr", "byol"]),
        ("external", ["resnet50"]),
        ("baselines", ["untrained"]),
        ("resnet50", ["resnet50"]),
        ("nothing such", []),
    ],
)
def test_the_filter_takes_words_of_name_encoder_data_and_family(page, models, words, rows):
    page.get_by_label("Filter rows").fill(words)
    check(page, models.board, rows, COLUMNS)
    assert page.locator("#nothing").is_visible() == (not rows)
    page.get_by_label("Filter rows").fill("")
    check(page, models.board, ALL, COLUMNS)


def test_without_a_common_column_the_page_says_so(page):
    choose(page, "task", "rank", "robust")
    assert page.locator("#common").inner_text().startswith("No rank and no mean")
    choose(page, "task", "knn")
    assert "over the 1 of 2 columns" in page.locator("#common").inner_text()
    assert "(knn/digits)" in page.locator("#common").inner_text()


def test_a_facet_opens_and_is_chosen_by_the_keyboard(page, models):
    board = models.board
    summary = box(page, "family").locator("summary")
    summary.focus()
    page.keyboard.press("Enter")
    boxes = box(page, "family").get_by_role("checkbox")
    expect(boxes.first).to_be_visible()
    page.keyboard.press("Tab")
    expect(boxes.first).to_be_focused()
    page.keyboard.press("Space")
    family = boxes.first.get_attribute("value")
    rows = [row.name for row in board.rows if board.checkpoints(row)[0].family != family]
    assert len(rows) == len(ALL) - 1
    check(page, models.board, rows, COLUMNS)
    page.keyboard.press("Escape")
    expect(boxes.first).not_to_be_visible()
    expect(summary).to_be_focused()


def test_nothing_checked_is_everything(page, models):
    choose(page, "source", "own")
    choose(page, "source")
    check(page, models.board, ALL, COLUMNS)
    assert box(page, "source").locator("input:checked").count() == 2


def test_a_click_elsewhere_closes_a_facet(page):
    box(page, "task").locator("summary").click()
    box(page, "encoder").locator("summary").click()
    assert page.locator(".facet[open]").count() == 1
    page.locator("h1").click()
    assert page.locator(".facet[open]").count() == 0
