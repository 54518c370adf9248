"""The table of a page: its texts, its order, its pages, its CSV."""

import pandas as pd
import pytest
from playwright.sync_api import expect

from sslbench.leaderboard import text
from tests.leaderboard.browser import shown

COLUMNS = ["knn/digits/top1", "knn/cifar/top1", "probe/digits/top1", "probe/cifar/top1",
           "rank/digits/rankme", "robust/cifar/mce"]  # fmt: skip
SCORES = ["knn/digits/top1", "knn/cifar/top1", "probe/cifar/top1", "rank/digits/rankme"]
LOWER_FIRST = ["name", "rank", "robust/cifar/mce", "parameters", "seconds"]
COUNTS = ["mean", "normalised", "borda", "winRate"]
CSV = {"winRate": "win_rate", "seconds": "pretrain_seconds"}  # where it has another name there


def read(folder):
    return pd.read_csv(folder / "leaderboard.csv").set_index("name", drop=False)


def check(page, published):
    folder, board = published
    wide = read(folder)
    found = shown.table(page)
    assert list(found) == [row.name for row in text.order(board)]
    for row in board.rows:
        line, cells = wide.loc[row.name], found[row.name]
        for column in board.columns:
            expected = shown.scores(column, line, board.cells[row, column])
            assert cells[column.name] in expected, (row, column.name)
        own = shown.aggregated(board.aggregates.get(row))
        assert {key: cells[key] for key in own} == own
        about = text.about(row) + ([f"{line.seeds} seeds"] if line.seeds > 1 else [])
        external = ["external"] if line.family == "external" else []
        assert cells["name"] == " ".join([row.name, *external, *about])
        known = pd.notna(line.parameters)
        assert cells["parameters"] == (text.count(int(line.parameters)) if known else "")
        known = pd.notna(line.pretrain_seconds)
        assert cells["seconds"] == (text.duration(line.pretrain_seconds) if known else "")


def test_every_cell_says_what_the_csv_says(page, models):
    check(page, models)
    found = shown.table(page)
    checked = {(row, column) for row in found for column in COLUMNS if "✓" in found[row][column]}
    assert checked == {("byol", "knn/digits/top1")}  # and of simclr one seed of three


def test_so_it_is_on_a_board_of_many_runs(page_of, published):
    check(page_of("vision-methods"), published("vision-methods"))


def test_the_heads_say_what_is_measured(page):
    heads = page.locator("#board thead th").all_inner_texts()
    heads = [" ".join(head.split()) for head in heads]
    assert heads[:7] == [
        "Name",
        "Over the common columns",
        "knn",
        "probe",
        "rank",
        "robust",
        "Cost",
    ]
    assert heads[7:12] == ["Rank 95 %", "Mean %", "Above chance %", "Borda points", "Wins %"]
    assert heads[12:16] == ["cifar top1 %", "digits top1 %"] * 2
    assert heads[16:] == ["digits rankme", "cifar mce ↓", "Params", "Pretrain time"]
    for name in ("Name", "Above chance", "robust on cifar, mce ↓", "Pretraining time"):
        assert page.get_by_role("button", name=f"{name}: Activate to sort", exact=True).count() == 1
    assert page.locator("header p").first.inner_text().startswith("6 rows, 6 columns.")


@pytest.mark.parametrize("column", [*LOWER_FIRST, *COUNTS, *SCORES])
def test_a_head_sorts_both_ways_and_missing_values_are_last(page, models, column):
    wide = read(models.folder)
    values = wide[CSV.get(column, column)]
    if column == "name":
        values = values.str.lower()
    known = sorted(values.dropna())
    head = shown.head(page, column)
    ways = ["ascending", "descending"]
    if (column in LOWER_FIRST) == (column == "rank"):  # the page is sorted by rank as it opens
        ways.reverse()
    for way, how in zip(ways * 2, ["click", "Enter", "Enter", "click"], strict=True):
        if how == "click":
            head.click()
        else:
            head.get_by_role("button").press("Enter")
        expect(head).to_have_attribute("aria-sort", way)  # it sorts after a moment
        assert page.locator("#board th[aria-sort]").count() == 1
        label = head.get_by_role("button").get_attribute("aria-label")
        assert label.endswith(": Activate to invert sorting")
        found = values[list(shown.table(page))]
        assert found[: len(known)].tolist() == known[:: 1 if way == "ascending" else -1]
        assert found[len(known) :].isna().all()


def test_the_download_is_the_csv(page, models):
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "leaderboard.csv"
    assert download.value.path().read_bytes() == (models.folder / "leaderboard.csv").read_bytes()


def test_more_than_a_hundred_rows_are_paged_and_sorted_over_all_pages(page_of, published):
    page = page_of("many")
    wide = read(published("many").folder)
    head = shown.head(page, "probe/digits/top1")
    head.click()
    expect(head).to_have_attribute("aria-sort", "descending")
    best = wide["probe/digits/top1"].sort_values(ascending=False)
    found = list(shown.table(page))
    while page.locator(".dt-paging .next:not(.disabled)").count():
        page.locator(".dt-paging .next").click()
        assert 0 < len(shown.table(page)) <= 50
        found += shown.table(page)
    assert sorted(found) == sorted(wide.index)
    assert found[:65] == best.index[:65].tolist()
    page.locator(".dt-paging").get_by_role("link", name="1", exact=True).click()
    page.get_by_label("Filter rows").fill("m12")
    assert page.locator("#count").inner_text() == "10 of 130 rows"
    assert len(shown.table(page)) == 10


def test_a_few_rows_are_not_paged(page):
    assert page.locator(".dt-paging").count() == 0
