"""Names that are HTML stay text wherever a page shows them."""

from playwright.sync_api import expect

from tests.leaderboard.browser.boards import BOLD, HTML, LINK
from tests.leaderboard.browser.test_plots import KINDS, plot

MADE = """() => [
  ...document.querySelectorAll("img, iframe, main a[href], dialog a[href]"),
  ...document.querySelectorAll("dialog b, #board b, .facet b, figure b, .figures b"),
  ...document.querySelectorAll("#chart a[href], #chart text [style*='font-weight']"),
].map((one) => one.outerHTML)"""


def harmless(page):
    assert page.evaluate(MADE) == []
    assert page.evaluate("window.run") is None


def test_in_the_table_and_the_facets(page_of):
    page = page_of("markup")
    harmless(page)
    names = page.locator("#board tbody .name > div").evaluate_all(
        "(cells) => cells.map((cell) => cell.firstChild.textContent)"
    )
    assert set(names) == {HTML, BOLD, LINK, f"{BOLD} + {HTML}"}
    heads = page.locator("#board thead").text_content()
    assert HTML in heads
    assert BOLD in heads
    for facet in page.locator(".facet").all():
        facet.locator("summary").click()
        values = [one.get_attribute("value") for one in facet.locator("input").all()]
        assert values == facet.locator("label").all_text_contents()
        facet.get_by_role("checkbox").first.uncheck()
        harmless(page)
    figures = page.locator(".figures").text_content()
    assert HTML in figures
    assert BOLD in figures


def test_in_the_dialog(page_of):
    page = page_of("markup")
    dialog = page.get_by_role("dialog")
    for button in page.locator("#board tbody tr").first.get_by_role("button").all():
        button.click()
        expect(dialog).to_be_visible()
        facts = dialog.locator("dt, dd").all_text_contents()
        assert {f"settings.{BOLD}", HTML, LINK} <= set(facts)
        title = dialog.get_by_role("heading").first.text_content()
        reasons = dialog.locator("pre:not(.code)").all_text_contents()
        assert all(reason.endswith(f"\n{HTML}\n{BOLD}") for reason in reasons)
        assert bool(reasons) == (f"{BOLD} on digits" in title)
        harmless(page)
        page.keyboard.press("Escape")
    assert page.locator("#board .empty").count() == 4  # of which one was opened


def test_in_the_plots(page_of):
    page = page_of("markup")
    page.locator("#plot-column").evaluate(
        "(select, column) => { select.value = column; select.dispatchEvent(new Event('change')); }",
        f"knn/{HTML}/top1",
    )
    for kind in KINDS:
        assert plot(page, kind)
        drawn = page.locator("#chart text").all_text_contents()
        for name in (HTML, BOLD, LINK, f"{BOLD} + {HTML}"):
            assert any(one.startswith(name) for one in drawn), (kind, name, drawn)
        harmless(page)
    page.locator("#chart .points path").first.hover(force=True)
    expect(page.locator("#chart .hoverlayer text").first).to_be_attached()
    harmless(page)
