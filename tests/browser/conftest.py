"""A real browser: Debian's Chromium, driven by Playwright. Without it these tests are skipped."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.profiles import Profiles
from tests.browser.tab import Demo
from tests.support import Server

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
def profiles(launch: Launch) -> Iterator[Profiles]:
    """Yield the profiles of the browser that all tests share."""
    browser = launch()
    yield Profiles(browser)
    browser.close()


@pytest.fixture
def visit(profiles: Profiles, server: Server, built_demo: Path) -> Iterator[Visit]:
    """Return a function that opens a link of the demo in a new tab: `visit("race", "zh", color_scheme="dark")`.

    Motion is reduced unless a test is about it, so that results show at once.
    """
    demos: list[Demo] = []

    def open_link(
        link: str = "", language: str = "en", *, profiles: Profiles = profiles, query: str = "", **options: Any
    ) -> Demo:
        demos.append(Demo(profiles.take(**({"reduced_motion": "reduce"} | options)), server, language))
        demos[-1].open(link, query)
        return demos[-1]

    yield open_link
    for demo in demos:
        demo.done()
