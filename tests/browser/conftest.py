"""A real browser: Debian's Chromium, driven by Playwright. Without it these tests are skipped."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.tab import Demo, Tab
from tests.support import LOOPBACK, Server

CHROMIUM = shutil.which("chromium")
INSTALL = "no Chromium: tests in a browser need it; on Debian: apt install chromium"
# It runs as root in containers, it draws 3-D pictures without a graphics card, and asks nothing of the network itself.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)
WITHOUT_WEBGL = ("--disable-3d-apis",)
WINDOW = {"width": 1280, "height": 1000}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}

Launch = Callable[..., Browser]
Visit = Callable[..., Demo]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder if there is no browser; pytest reports that in one line for each file."""
    if CHROMIUM is None:
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason=INSTALL))


@pytest.fixture(scope="package")
def launch() -> Iterator[Launch]:
    """Yield a function that starts Chromium with more flags. Its event loop ends after the tests of this folder."""
    with sync_playwright() as playwright:
        yield lambda *flags: playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])


@pytest.fixture(scope="package")
def chromium(launch: Launch) -> Iterator[Browser]:
    """Yield the browser that all tests share; each has a profile of its own in it."""
    browser = launch()
    yield browser
    browser.close()


@pytest.fixture
def tab(chromium: Browser, server: Server) -> Iterator[Tab]:
    """Yield a tab for pages of the service."""
    tab = Tab(chromium.new_context(viewport=WINDOW), f"http://{LOOPBACK}:{server.port}")
    yield tab
    tab.done()


@pytest.fixture
def visit(chromium: Browser, server: Server, built_demo: Path) -> Iterator[Visit]:
    """Return a function that opens a link of the demo in a new tab: `visit("race", "zh", color_scheme="dark")`.

    Motion is reduced unless a test is about it, so that results show at once.
    """
    demos: list[Demo] = []

    def open_link(
        link: str = "", language: str = "en", *, browser: Browser = chromium, query: str = "", **options: Any
    ) -> Demo:
        context = browser.new_context(**({"viewport": WINDOW, "reduced_motion": "reduce"} | options))
        demos.append(Demo(context, server, language))
        demos[-1].open(link, query)
        return demos[-1]

    yield open_link
    for demo in demos:
        demo.done()
