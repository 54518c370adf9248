"""Chromium and pages in it, for the tests of this folder, which all have the marker `browser`."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from sslbench.leaderboard import Board, publish
from sslbench.records import write_lines
from tests.leaderboard.browser import boards

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[3]
MILLISECONDS = 30_000  # for a slow machine

WINDOW = {"width": 1400, "height": 900}
AS_OPENED = """() => {
  document.getElementById("details").close();
  for (const box of document.querySelectorAll("details[open]")) box.open = false;
  document.activeElement.blur();
  scrollTo(0, 0);
  history.replaceState(null, "", "#");
  dispatchEvent(new HashChangeEvent("hashchange"));
}"""

expect.set_options(timeout=MILLISECONDS)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")
            item.add_marker(pytest.mark.xdist_group("browser"))


class Published(NamedTuple):
    """A board and the folder that it was written to."""

    folder: Path
    board: Board


class Context:
    """Pages without a network, and what went wrong on them."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.problems: list[str] = []
        self.context: BrowserContext = browser.new_context(offline=True, **options)
        self.context.set_default_timeout(MILLISECONDS)

    def open(self, folder: Path, hash: str = "") -> Page:
        """The board's page, as soon as its table is there."""
        address = f"{(folder / 'index.html').as_uri()}{hash}"
        page = self.context.new_page()
        page.on("console", lambda message: self._note(message.type == "error", message.text))
        page.on("pageerror", lambda error: self._note(True, str(error)))
        own = ((folder / "index.html").as_uri(), "data:", "blob:")
        page.on("request", lambda sent: self._note(not sent.url.startswith(own), sent.url))
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        return page

    def _note(self, wrong: bool, what: str) -> None:
        if wrong:
            self.problems.append(what)

    def check(self) -> None:
        found, self.problems = self.problems, []
        assert not found


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    executable = _chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield started
        started.close()


def _chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip("there is no chromium in PATH, and only Debian's root can install it")
        get = ["apt-get", "--quiet", "--yes", "--no-install-recommends",
               "--option=DPkg::Lock::Timeout=300", "--option=Acquire::Retries=0"]  # fmt: skip
        for command in (["update"], ["install", "chromium"]):
            done = subprocess.run(
                [*get, *command], capture_output=True, text=True,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )  # fmt: skip
        found = shutil.which("chromium")
        if found is None:
            pytest.skip(f"cannot install chromium: {done.stderr.strip()[-500:]}")
    return found


@pytest.fixture(scope="package")
def _written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Published]:
    found: dict[str, Published] = {}

    def get(name: str, make: boards.Make) -> Published:
        if name not in found:
            folder = tmp_path_factory.mktemp("board") / name
            source = ROOT / "leaderboards" / name / "records.jsonl"
            if not source.exists():
                source = folder.with_suffix(".jsonl")
                write_lines(getattr(boards, name)(make), source)
            found[name] = Published(folder, publish([source], folder))
        return found[name]

    return get


@pytest.fixture
def published(make, _written) -> Callable[[str], Published]:
    """A board by its name: a function of `boards`, or a folder of leaderboards/."""
    return lambda name: _written(name, make)


@pytest.fixture
def models(published) -> Published:
    return published("models")


@pytest.fixture
def show(browser, published) -> Iterator[Callable[..., Page]]:
    """Opens a board's page in a context of its own, with playwright's options."""
    contexts: list[Context] = []

    def show(name: str, hash: str = "", **options: Any) -> Page:
        contexts.append(Context(browser, **options))
        return contexts[-1].open(published(name).folder, hash)

    yield show
    for context in contexts:
        context.context.close()
    for context in contexts:
        context.check()


@pytest.fixture(scope="package")
def _shared(browser) -> Iterator[tuple[Context, dict[str, Page]]]:
    context = Context(browser, viewport=WINDOW)
    yield context, {}
    context.context.close()


@pytest.fixture
def page_of(_shared, published) -> Iterator[Callable[[str], Page]]:
    """A board's page, which all tests share, as if it were just opened."""
    context, pages = _shared

    def get(name: str) -> Page:
        if name not in pages:
            pages[name] = context.open(published(name).folder)
        page = pages[name]
        page.bring_to_front()
        page.set_viewport_size(WINDOW)
        page.emulate_media(color_scheme="light", media="screen")
        page.evaluate(AS_OPENED)
        return page

    yield get
    context.check()


@pytest.fixture
def page(page_of) -> Page:
    """The page of the board `models`."""
    return page_of("models")
