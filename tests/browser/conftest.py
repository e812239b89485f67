"""A real browser: Debian's Chromium, driven by Selenium. Without it these tests are skipped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
INSTALL = "no Chromium: tests in a browser need it; on Debian: apt install chromium chromium-driver"
# It runs as root in containers, and it asks nothing of the network by itself.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--window-size=1280,1000",
)
SECONDS = 30
"""More than anything takes that a page does here, also while other tests compute."""


class Browser:
    """A tab of Chromium, what its console says and what it asks for."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        """Go to a page, and forget what was said and asked before."""
        self.driver.get("about:blank")
        self.complaints(), self.requests()
        self.driver.get(address)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns as soon as that is something."""
        condition: Callable[[Any], Any] = lambda _: self.run(script, *arguments)  # noqa: E731
        return WebDriverWait(self.driver, SECONDS, poll_frequency=0.03).until(condition, f"in vain: {script}")

    def complaints(self) -> list[str]:
        """Warnings and errors of the console since the last call."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a browser that is not there: by a mark, which pytest tells of in one line for each file."""
    if CHROMIUM is None or DRIVER is None:
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason=INSTALL))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as driver:
        driver.set_script_timeout(SECONDS)
        yield Browser(driver)
