"""The dialog of a cell, and what can be copied."""

import pytest
from playwright.sync_api import expect

from sslbench.leaderboard import text
from tests.leaderboard.browser import boards
from tests.leaderboard.browser.shown import packed

KNN, PROBE, RANK, ROBUST = ("knn/digits/top1", "probe/cifar/top1", "rank/digits/rankme",
                            "robust/cifar/mce")  # fmt: skip
DIALOG = """(dialog) => ({
  title: [...dialog.querySelector("h2").childNodes].map((one) => one.textContent),
  value: dialog.querySelector(".value").textContent,
  facts: [...dialog.querySelectorAll("#details-body > p:not(.value)")].map((one) => one.textContent),
  reasons: [...dialog.querySelectorAll("#details-body > pre")].map((one) => one.textContent),
  sections: [...dialog.querySelectorAll("section:has(dl)")].map((one) => [
    one.querySelector("h3").textContent,
    [...one.querySelectorAll("dt")].map((label) => [label.textContent, label.nextElementSibling.textContent]),
  ]),
  again: dialog.querySelector("pre.code")?.textContent ?? "",
})"""  # noqa: E501


def button(page, name, column):
    data = packed(page, "data")
    row, column = (
        [one["name"] for one in data[axis]].index(wanted)
        for axis, wanted in (("rows", name), ("columns", column))
    )
    return page.locator(f"button[data-row='{row}'][data-column='{column}']")


def opened(page, name, column):
    button(page, name, column).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    return dialog.evaluate(DIALOG)


@pytest.mark.parametrize("name", boards.ROWS)
def test_it_holds_all_that_is_known_of_a_cell(page, models, name):
    place = [row.name for row in text.order(models.board)].index(name)
    known = packed(page, f"row-{place}")
    for place, column in enumerate(models.board.columns):
        found = opened(page, name, column.name)
        own = known["cells"][place]
        assert found["title"][0] == name
        assert found["title"][1].startswith(f"{column.task} on {column.dataset}, {column.metric}")
        assert found["facts"] == own["facts"]
        assert found["reasons"] == own["reasons"]
        sections = [*own["sections"], *known["sections"]]
        assert found["sections"] == sections
        if own["reproduce"]:
            assert found["again"].startswith(known["reproduce"])
            assert found["again"].endswith(own["reproduce"])
        else:
            assert found["again"] == ""
        page.keyboard.press("Escape")


def test_numbers_seeds_choices_and_provenance(page):
    found = opened(page, "simclr", KNN)
    sections = {title: dict(lines) for title, lines in found["sections"]}
    assert any("(n = 147)" in fact and "95 % interval" in fact for fact in found["facts"])
    assert any("3 pretraining seeds" in fact for fact in found["facts"])
    assert any("on 1 × GPU, 2026-02-03" in fact for fact in found["facts"])
    assert sections["Scores"]["pretraining seed"] == "0 · 1 · 2"
    assert sections["Chosen by the protocol"] == {"k": "20", "temperature": "0.07"}
    where = sections["Where and when"]
    assert where["commit"] == "0123456789ab, with uncommitted changes"
    assert (where["hardware"], where["time"]) == ("2 × CPU", "7 s")
    assert sections["Versions"]["torch"] == "2.9.0"
    assert sections["Checkpoint"]["settings.temperature"] == "0.5"
    assert 'methods = ["simclr"]' in found["again"]
    assert "seeds = [0, 1, 2]" in found["again"]


def test_somebody_elses_checkpoint_is_evaluated_by_a_command(page):
    found = opened(page, "resnet50", KNN)
    assert found["again"].startswith("sslbench evaluate resnet50.safetensors --name resnet50")
    assert ["weights found", "318 of 320"] in dict(found["sections"])["Checkpoint"]


@pytest.mark.parametrize(
    ("name", "column", "value", "reason"),
    [
        ("mae", PROBE, "failed", boards.FAILED),
        ("byol", RANK, "n/a", boards.NOT_APPLICABLE),
        ("untrained", ROBUST, "not run", "There is no record of this cell"),
    ],
)
def test_it_says_why_there_is_no_number(page, name, column, value, reason):
    found = opened(page, name, column)
    assert found["value"] == value
    assert reason in "\n".join([*found["facts"], *found["reasons"]])


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_it_opens_by_the_keyboard_and_gives_the_focus_back(page, key):
    own = button(page, "byol", KNN)
    own.focus()
    page.keyboard.press(key)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    assert dialog.evaluate("(dialog) => dialog.contains(document.activeElement)")
    assert "cell=byol" in page.evaluate("location.hash")
    page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    expect(own).to_be_focused()
    page.wait_for_function("location.hash === ''")


@pytest.mark.parametrize("how", ["cross", "backdrop"])
def test_it_closes_by_the_mouse(page, how):
    opened(page, "byol", KNN)
    dialog = page.get_by_role("dialog")
    if how == "cross":
        dialog.get_by_role("button", name="Close").click()
    else:
        page.mouse.click(5, 5)
    expect(dialog).not_to_be_visible()
    expect(button(page, "byol", KNN)).to_be_focused()


def test_copying_works_where_the_browser_allows_it_and_is_harmless_elsewhere(show):
    page = show("models", permissions=["clipboard-read", "clipboard-write"])
    link, dialog = page.locator("#link"), page.get_by_role("dialog")
    copy = dialog.locator(".copy")
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', { configurable: true, value: undefined })"
    )
    link.click()
    expect(link).to_have_text("Not allowed by the browser")
    opened(page, "byol", KNN)
    copy.click()
    expect(copy).to_have_text("Not allowed by the browser")
    page.keyboard.press("Escape")
    page.evaluate("delete navigator.clipboard")
    link.click()
    expect(link).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    found = opened(page, "byol", KNN)
    copy.click()
    expect(copy).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == found["again"]
