"""Take the pictures of the pages: one of each board, and those of docs/leaderboards.md.

    make pictures

Needs Debian's chromium and `pip install playwright`; nothing is loaded from the network.
"""

import io
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import plotly.graph_objects as go
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from plotly.subplots import make_subplots

HERE = Path(__file__).parent
BOARDS = HERE.parent / "leaderboards"
SHOWN = BOARDS / "vision-methods" / "index.html"
WIDE, PHONE = (1400, 1000), (390, 844)


def opened(
    browser: Browser,
    page: Path,
    size: tuple[int, int],
    scheme: Literal["dark", "light"],
    hash_: str,
) -> Page:
    """The page with its table, and its plot if `hash_` names one."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    view = context.new_page()
    view.goto(f"{page.resolve().as_uri()}{hash_}")
    view.wait_for_selector("html[data-ready]")
    if "plot=" in hash_:
        view.locator("#plots").scroll_into_view_if_needed()
        view.wait_for_selector("#chart .main-svg")
        view.locator("#plots").evaluate("plots => plots.scrollIntoView()")
        view.wait_for_timeout(500)  # the plot's own animation
    return view


def save(view: Page, path: Path) -> None:
    """With 256 colours, which are as many as a page has."""
    image = Image.open(io.BytesIO(view.screenshot()))
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    view.context.close()


def scaling(browser: Browser) -> None:
    """Time and memory of docs/speed.json against the size of the work."""
    found = json.loads((HERE / "speed.json").read_text(encoding="utf-8"))
    series: dict[str, list[Any]] = {}
    for timing in found["timings"]:
        kind, _, rest = timing["name"].partition("/")
        if kind == "scaling":
            series.setdefault(rest.rpartition("/")[0], []).append(timing)
    titles = ("seconds", "MB at the peak, beyond what was held before")
    figure: Any = make_subplots(cols=2, subplot_titles=titles)
    colours = ("#1b6ca8", "#d1642a", "#3b8a4b", "#9b3fa0", "#8a6d3b", "#c2314b", "#444")
    for colour, (name, points) in zip(colours, series.items(), strict=True):
        sizes = [point["numbers"]["n"] for point in points]
        seconds = [point["value"] for point in points]
        memory = [max(point["numbers"]["peak_mb"], 0.1) for point in points]
        for place, values in enumerate((seconds, memory), 1):
            line = {"x": sizes, "y": values, "name": name, "line": {"color": colour}}
            trace = go.Scatter(**line, mode="lines+markers", showlegend=place == 1)
            figure.add_trace(trace, row=1, col=place)
    figure.update_xaxes(type="log", title="n", dtick=1, exponentformat="power")
    figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    figure.update_layout(template="plotly_white", width=1300, height=520)
    with TemporaryDirectory() as folder:
        page = Path(folder) / "scaling.html"
        figure.write_html(page, include_plotlyjs=True, config={"displayModeBar": False})
        context = browser.new_context(viewport={"width": 1320, "height": 540}, offline=True)
        view = context.new_page()
        view.goto(page.as_uri())
        view.wait_for_selector(".main-svg")
        save(view, HERE / "pictures" / "scaling.png")


def main() -> None:
    """Take all of them."""
    folder = HERE / "pictures"
    folder.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for page in sorted(BOARDS.glob("*/index.html")):
            save(opened(browser, page, WIDE, "light", ""), page.with_name("leaderboard.png"))
        save(
            opened(browser, SHOWN, WIDE, "dark", "#task=knn&task=linear_probe"), folder / "dark.png"
        )
        save(opened(browser, SHOWN, PHONE, "light", ""), folder / "phone.png")
        save(opened(browser, SHOWN, WIDE, "light", "#plot=Ranks"), folder / "ranks.png")
        curves = BOARDS / "learning-curves" / "index.html"
        save(opened(browser, curves, WIDE, "light", "#plot=Learning curves"), folder / "curves.png")
        loss = "#plot=Pretraining loss against score"
        save(opened(browser, SHOWN, WIDE, "light", loss), folder / "loss.png")
        view = opened(browser, SHOWN, WIDE, "light", "")
        view.locator("td.best button").first.click()
        view.wait_for_selector("dialog[open] h3")
        save(view, folder / "details.png")
        scaling(browser)
        browser.close()


if __name__ == "__main__":
    main()
