"""The address of a page says what it shows, and a page opened with it shows the same."""

from urllib.parse import parse_qsl

import pytest
from playwright.sync_api import expect

from tests.leaderboard.browser import shown
from tests.leaderboard.browser.shown import box, choose

VIEW = """() => ({
  filter: document.getElementById("filter").value,
  facets: [...document.querySelectorAll(".facet summary")].map((one) => one.textContent),
  checked: [...document.querySelectorAll(".facet input")].map((one) => one.checked),
  sorted: [...document.querySelectorAll("#board th[aria-sort]")].map((one) => [one.dataset.dtColumn, one.ariaSort]),
  theme: document.getElementById("theme").value,
  paper: getComputedStyle(document.body).backgroundColor,
  plot: document.getElementById("plot").value,
  column: document.getElementById("plot-column").value,
  caption: document.getElementById("chart-caption").textContent,
  title: document.getElementById("details").open && document.getElementById("details-title").textContent,
  common: document.getElementById("common").textContent,
})"""  # noqa: E501


def plots(page):
    """Scroll to the plots and wait for one."""
    page.locator("#plots").scroll_into_view_if_needed()
    expect(page.locator("#chart-caption")).not_to_be_empty()


def test_a_page_opened_with_an_address_shows_what_it_was_copied_from(page, show):
    page.get_by_label("Filter rows").fill("RESNET")
    choose(page, "source", "own")
    choose(page, "family", "contrastive", "non_contrastive", "baselines", "pretext")
    choose(page, "task", "knn", "robust")
    head = shown.head(page, "robust/cifar/mce")
    for way in ("ascending", "descending"):
        head.click()
        expect(head).to_have_attribute("aria-sort", way)
    page.get_by_label("Theme").select_option("dark")
    plots(page)
    page.locator("#plot").select_option("Score against cost")
    page.locator("#plot-column").select_option("robust/cifar/mce")
    expect(page.locator("#chart-caption")).to_contain_text("pretraining time")
    page.get_by_role("row", name="Rotation").get_by_role("button").nth(1).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    hash = page.evaluate("location.hash")
    other = show("models", hash)
    expect(other.get_by_role("dialog")).to_be_visible()
    plots(other)
    expect(other.locator("#chart-caption")).to_contain_text("pretraining time")
    found = other.evaluate(VIEW)
    assert found == page.evaluate(VIEW)
    assert shown.table(other) == shown.table(page)
    assert sorted(parse_qsl(other.evaluate("location.hash"))) == sorted(parse_qsl(hash))
    assert found["filter"] == "RESNET"
    assert found["facets"][-2:] == ["task: 2 of 4", "dataset"]
    assert found["theme"] == "dark"
    assert found["title"].startswith("Rotation")
    other.keyboard.press("Escape")
    expect(other.get_by_role("dialog")).not_to_be_visible()
    other.wait_for_function("!location.hash.includes('cell=')")


def test_a_page_as_it_opens_needs_no_address(page):
    assert page.evaluate("location.hash") == ""


@pytest.mark.parametrize(
    "hash",
    [
        "##&&==",
        "#%E0%A4%A",
        "#task=nothing&dataset=&family=%00&source=<b>",
        "#sort=nothing+sideways&theme=pink&plot=nothing&column=nothing&cell=nothing",
        "#plot=constructor&column=constructor&sort=constructor&cell=simclr%0Anothing",
        "#__proto__=1&constructor=2&toString=3",
        "#theme=red;background:url(x)",
    ],
)
def test_what_an_address_says_in_vain_is_harmless(page, hash):
    plots(page)
    before = page.evaluate(VIEW), shown.table(page)
    page.evaluate(
        "(hash) => new Promise((done) => { location.hash = hash;"
        " addEventListener('hashchange', () => setTimeout(done), { once: true }); })",
        hash,
    )
    assert (page.evaluate(VIEW), shown.table(page)) == before


def test_a_page_opens_with_an_address_that_says_nothing(page, show):
    other = show("models", "#plot=x&sort=x&theme=x&cell=x&task=x&%E0%A4%A")
    for one in (page, other):
        plots(one)
    assert other.evaluate(VIEW) == page.evaluate(VIEW)
    assert shown.table(other) == shown.table(page)


def test_the_page_follows_the_address(page):
    plots(page)
    before = page.evaluate(VIEW)
    page.evaluate("location.hash = '#task=knn&q=byol&sort=name+desc&theme=dark'")
    expect(page.get_by_label("Filter rows")).to_have_value("byol")
    expect(box(page, "task").locator("summary")).to_have_text("task: 1 of 4")
    expect(shown.head(page, "name")).to_have_attribute("aria-sort", "descending")
    expect(page.get_by_label("Theme")).to_have_value("dark")
    assert list(shown.table(page)) == ["byol"]
    page.evaluate("location.hash = '#cell=byol%0Arank/digits/rankme'")
    expect(page.get_by_role("dialog")).to_contain_text("rank on digits")
    page.evaluate("location.hash = '#cell=byol%0Aknn/digits/top1'")
    expect(page.get_by_role("dialog")).to_contain_text("knn on digits")
    page.evaluate("location.hash = ''")
    expect(page.get_by_role("dialog")).not_to_be_visible()
    expect(page.locator("#chart-caption")).to_have_text(before["caption"])
    assert page.evaluate(VIEW) == before


def test_rows_of_one_name_have_links_of_their_own(page_of):
    page = page_of("twins")
    title = page.locator("#details-title + div")
    told = {}
    for button in page.locator("#board tbody").get_by_role("button").all():
        button.click()
        expect(page.get_by_role("dialog")).to_be_visible()
        told[page.evaluate("location.hash")] = title.inner_text()
        page.keyboard.press("Escape")
    assert len(told) == len(set(told.values())) == 2
    for hash, text in told.items():
        page.evaluate("(hash) => { location.hash = hash; }", hash)
        expect(title).to_have_text(text, use_inner_text=True)
        expect(page.get_by_role("dialog")).to_be_visible()
