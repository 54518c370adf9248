"""A page for everybody: axe's rules, dark and light, a phone, paper."""

import shutil
import subprocess
import tarfile
from collections import Counter
from functools import partial

import pytest
from playwright.sync_api import expect

from tests.leaderboard.browser import shown
from tests.leaderboard.browser.shown import box
from tests.leaderboard.browser.test_plots import KINDS, plot

RULES = ["wcag2a", "wcag2aa", "best-practice"]
RUN = """async (tags) => (await axe.run(document, { runOnly: { type: "tag", values: tags } }))
  .violations.map((one) => ({
    rule: one.id, impact: one.impact, help: one.help,
    nodes: one.nodes.map((node) => `${node.target}: ${node.failureSummary}`),
  }))"""
SEEN = """() => {
  const own = document.activeElement;
  const { left, right, top, bottom } = own.getBoundingClientRect();
  const points = [left + 3, (left + right) / 2, right - 3].flatMap((x) => [[x, top + 3], [x, bottom - 3]]);
  return points.some((point) => own.contains(document.elementFromPoint(...point)));
}"""  # noqa: E501
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def axe(request):
    """The script of axe-core, from npm, kept in pytest's cache."""
    folder = request.config.cache.mkdir("axe-core")
    script = folder / "package/axe.min.js"
    if not script.exists():
        if shutil.which("npm") is None:
            pytest.skip("there is no npm to fetch axe-core")
        command = ["npm", "pack", "axe-core@4", "--silent", "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot fetch axe-core: {done.stderr.strip()[-500:]}")
        with tarfile.open(folder / done.stdout.split()[-1]) as archive:
            archive.extract("package/axe.min.js", folder, filter="data")
    return script


def dialog(page):
    page.locator("#board tbody tr").first.get_by_role("button").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()


def facet(page):
    page.keyboard.press("Escape")
    box(page, "encoder").locator("summary").click()
    expect(box(page, "encoder").get_by_role("checkbox").first).to_be_visible()


def no_rows(page):
    page.keyboard.press("Escape")
    page.get_by_label("Filter rows").fill("nothing such")
    expect(page.locator("#nothing")).to_be_visible()


def dark(page):
    page.emulate_media(color_scheme="dark")


def phone(page):
    page.set_viewport_size(PHONE)


PLOTS = [partial(plot, kind=kind) for kind in KINDS]
VIEWS = {
    "light": ("models", [dialog, facet, no_rows]),
    "dark": ("models", [dark, dialog, facet, no_rows]),
    "phone": ("models", [phone, dialog, facet, no_rows]),
    "figures": ("markup", [dialog]),
    "pages": ("many", []),
    "plots": ("models", PLOTS),
    "dark plots": ("models", [dark, *PLOTS[:2]]),
}


@pytest.mark.network
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(page_of, axe, view):
    name, steps = VIEWS[view]
    page = page_of(name)
    page.add_script_tag(path=axe)
    found = page.evaluate(RUN, RULES)
    for step in steps:
        step(page)
        found += page.evaluate(RUN, RULES)
    print(f"\naxe, {view}: {dict(Counter(one['impact'] for one in found))}")
    for one in found:
        print(f"  {one['impact']} {one['rule']}: {one['help']} ({len(one['nodes'])})")
    assert not [one for one in found if one["impact"] in ("serious", "critical")]


def paper(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_light_and_dark_follow_the_system_and_the_choice(page):
    light = paper(page)
    page.emulate_media(color_scheme="dark")
    dark = paper(page)
    assert light != dark
    theme = page.get_by_label("Theme")
    theme.select_option("light")
    assert paper(page) == light
    page.emulate_media(color_scheme="light")
    theme.select_option("dark")
    assert paper(page) == dark
    theme.select_option("system")
    assert paper(page) == light


def test_plots_are_drawn_again_in_the_colours_of_the_theme(page):
    def wait_for_ink_of(body):
        page.wait_for_function(
            "() => getComputedStyle(document.querySelector('#chart .ytick text')).fill"
            " === getComputedStyle(document.body).color"
        )
        assert page.evaluate("getComputedStyle(document.body).color") == body

    plot(page, "Ranks", "Ranks of 6 rows")
    light = page.evaluate("getComputedStyle(document.body).color")
    wait_for_ink_of(light)
    page.get_by_label("Theme").select_option("dark")
    dark = page.evaluate("getComputedStyle(document.body).color")
    assert dark != light
    wait_for_ink_of(dark)
    page.get_by_label("Theme").select_option("system")
    wait_for_ink_of(light)
    page.emulate_media(color_scheme="dark")
    wait_for_ink_of(dark)


def inside(page, locator):
    """Whether all of it is within the width of the window."""
    found = locator.bounding_box()
    return found["x"] >= 0 and found["x"] + found["width"] <= page.viewport_size["width"]


@pytest.mark.parametrize("name", ["markup", "vision-methods"])
def test_on_a_phone_everything_is_within_reach(show, page_of, name):
    if name == "markup":
        page = show(name, is_mobile=True, has_touch=True, viewport=PHONE)
    else:
        page = page_of(name)
        phone(page)
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    page.wait_for_function(fits)  # a plot follows the size of the window after a moment
    for control in page.locator(".bar :is(input[type=search], select, button, summary)").all():
        if control.is_visible():
            assert inside(page, control), control.inner_text()
    first = page.locator(".facet").first
    first.locator("summary").click()
    assert inside(page, first.locator("ul"))
    first.get_by_role("checkbox").last.click()
    page.mouse.click(5, 5)
    page.get_by_role("button", name="Show all").click()
    last = page.locator("#board tbody tr").first.get_by_role("button").last
    last.scroll_into_view_if_needed()
    assert inside(page, last)
    last.click()
    opened = page.get_by_role("dialog")
    assert inside(page, opened)
    assert opened.evaluate("(dialog) => dialog.scrollWidth <= dialog.clientWidth")
    assert opened.bounding_box()["height"] <= PHONE["height"]
    opened.get_by_role("button", name="Close").click()
    for kind in ("Ranks", "Heat map", "Score against cost"):
        plot(page, kind)
        assert inside(page, page.locator("#chart"))
        page.wait_for_function(fits)


def test_on_paper_there_are_no_controls(page):
    plot(page, "Ranks", "Ranks of 6 rows")
    page.emulate_media(media="print")
    for control in page.locator(".bar, .modebar").all():
        assert not control.is_visible()
    assert page.locator("#board").is_visible()
    assert page.locator("#chart").is_visible()
    scrolls = "(one) => one.scrollHeight > one.clientHeight"
    assert not page.locator(".scroll.board").evaluate(scrolls)


def test_the_table_can_be_walked_by_the_keyboard(page):
    page.get_by_label("Theme").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("region", name="Leaderboard")).to_be_focused()
    heads = page.locator("#board th[scope=col]").all()
    for head in sorted(heads, key=lambda head: int(head.get_attribute("data-dt-column"))):
        page.keyboard.press("Tab")
        expect(head.get_by_role("button")).to_be_focused()
        expect(head).to_have_css("outline-style", "solid")
    page.keyboard.press("Tab")
    expect(page.locator("#board tbody").get_by_role("button").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text(next(iter(shown.table(page))))


@pytest.mark.parametrize("size", [PHONE, {"width": 1000, "height": 700}])
def test_a_cell_with_the_focus_is_not_hidden_by_names_or_heads(page_of, size):
    page = page_of("vision-methods")
    page.set_viewport_size(size)
    page.locator("#board tbody").get_by_role("button").first.focus()
    for key in ["Tab"] * 26 + ["Shift+Tab"] * 26:
        page.keyboard.press(key)
        assert page.evaluate(SEEN), page.evaluate("document.activeElement.outerHTML")
