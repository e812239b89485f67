"""/docs in a real browser: what it shows, and that Execute works."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import WSGIRequestHandler, make_server

from service.api.examples import TRAIN
from service.app import create_app
from service.config import Settings
from service.engine.network.layers import layers
from tests.browser.conftest import Browser
from tests.support import LOOPBACK, ROOT, Server

LARGEST = 200_000
"""Characters of an operation that is open; with every schema copied into it, /v1/gradients has several millions."""
HELPERS = """
const operation = name => document.querySelector(`.opblock[id$="-${name}"]`);
const request = name => operation(name).querySelector(".opblock-section-request-body");
const all = (inside, selector) => [...inside.querySelectorAll(selector)];
const titled = (inside, title) =>
  all(inside, ".json-schema-2020-12-accordion").find(each => each.innerText.replace("*", "") === title);
const choose = (select, value) => {
  Object.getOwnPropertyDescriptor(HTMLSelectElement.prototype, "value").set.call(select, value);
  select.dispatchEvent(new Event("change", { bubbles: true }));
};
"""


class Page:
    """/docs in the browser."""

    def __init__(self, browser: Browser, server: Server, fragment: str = "", root: str = "") -> None:
        self.browser = browser
        self.origin = f"http://{LOOPBACK}:{server.port}{root}"
        browser.open(f"{self.origin}/docs{fragment}")
        self.wait("return document.querySelector('.opblock')")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.run(HELPERS + script, *arguments)

    def wait(self, script: str, *arguments: Any) -> Any:
        return self.browser.wait(HELPERS + script, *arguments)

    def open(self, name: str) -> None:
        """Open an operation."""
        self.run("operation(arguments[0]).querySelector('.opblock-summary-control').click()", name)
        self.wait("return operation(arguments[0]).querySelector('.responses-wrapper')", name)

    def unfold(self, name: str, *path: str) -> None:
        """Show the schema of an operation's request, and unfold what has these titles."""
        if not self.run("return request(arguments[0]).querySelector('.json-schema-2020-12')", name):
            self.run("all(request(arguments[0]), '.tablinks').at(-1).click()", name)
        for title in path:
            self.wait("return titled(request(arguments[0]), arguments[1])", name, title)
            self.run("titled(request(arguments[0]), arguments[1]).click()", name, title)

    def execute(self, name: str, accept: str = "application/json") -> tuple[int, str]:
        """Press Execute; the status and the body that the page shows."""
        self.run(
            "const types = operation(arguments[0]).querySelector('.response-controls .content-type');"
            "if (types.value !== arguments[1]) choose(types, arguments[1])",
            name,
            accept,
        )
        self.run("operation(arguments[0]).querySelector('button.execute').click()", name)
        status, text = self.wait(
            "const live = operation(arguments[0]).querySelector('.live-responses-table');"
            "const body = live?.querySelector('.response .microlight');"
            "return body && [live.querySelector('tbody .response-col_status').innerText, body.innerText]",
            name,
        )
        return int(re.findall(r"\d+", status)[0]), text


@pytest.fixture(scope="module")
def page(browser: Browser, server: Server) -> Page:
    """The page as it was loaded once for the tests of this module."""
    return Page(browser, server)


def test_the_page_loads_all_of_itself_from_the_service_and_complains_of_nothing(page: Page) -> None:
    asked = page.browser.requests()
    assert f"{page.origin}/openapi.json" in asked
    assert [address for address in asked if not address.startswith((f"{page.origin}/", "data:"))] == []
    assert page.browser.complaints() == []


def test_gradients_stand_first(page: Page) -> None:
    assert page.run("return document.querySelector('.opblock-summary-path').dataset.path") == "/v1/gradients"


def test_nothing_is_locked_where_no_keys_are_set(page: Page) -> None:
    assert page.run("return document.querySelectorAll('.authorize, .authorization__btn').length") == 0


@contextmanager
def quick_server(root: str = "", **settings: Any) -> Iterator[Server]:
    """The application in a thread of this process: it is there at once. `root` is the path that it is mounted at."""
    app: Any = create_app(Settings(log_requests=False, **settings))
    if root:
        app = DispatcherMiddleware(NotFound(), {root: app})
    server = make_server(LOOPBACK, 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Server(os.getpid(), server.port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        """Say nothing."""


def test_what_needs_a_key_is_locked_where_keys_are_set(browser: Browser) -> None:
    with quick_server(api_keys=("secret",)) as server:
        page = Page(browser, server)
        locked = page.run(
            "return all(document, '.opblock').filter(each => each.querySelector('.authorization__btn'))"
            ".map(each => each.querySelector('.opblock-summary-path').dataset.path)"
        )
        paths = page.run("return all(document, '.opblock-summary-path').map(each => each.dataset.path)")
        assert locked == [path for path in paths if path.startswith("/v1")]
        page.open("gradients")
        assert page.execute("gradients")[0] == 401
        page.run("document.querySelector('.authorize').click()")
        # React hears of a value only if it is set as a person sets it.
        page.wait("return document.querySelector('.auth-container input')")
        page.browser.driver.find_element("css selector", ".auth-container input").send_keys("secret")
        page.run("document.querySelector('.auth-container .authorize').click()")
        page.run("document.querySelector('.auth-container .btn-done').click()")
        page.run("operation('gradients').querySelector('.btn-clear').click()")
        assert page.execute("gradients")[0] == 200


def test_execute_shows_the_gradient_of_the_readme(browser: Browser, server: Server) -> None:
    page = Page(browser, server)
    page.open("gradients")
    size = page.run(
        "return JSON.stringify(ui.specSelectors.specResolvedSubtree(['paths', '/v1/gradients', 'post'])).length"
    )
    assert 1000 < size < LARGEST
    status, text = page.execute("gradients")
    expected = json.loads(re.findall(r"^```json\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)[0])
    assert status == 200
    assert json.loads(text)["gradients"] == expected["gradients"]
    assert browser.complaints() == []


def test_the_schema_names_the_types_of_layers(browser: Browser, server: Server) -> None:
    page = Page(browser, server)
    page.open("gradients")
    page.unfold("gradients", "network", "layers", "Items", "One of")
    page.wait("return titled(request('gradients'), 'dense')")
    titles = page.run("return all(request('gradients'), '.json-schema-2020-12__title').map(each => each.innerText)")
    assert [declaration.name for declaration in layers if declaration.name not in titles] == []
    assert [title for title in titles if title.startswith("#")] == []
    page.unfold("gradients", "dense", "name")
    page.wait("return request('gradients').innerText.includes('by default <type>_<position>')")
    # A layer in a layer is looked up when it is unfolded.
    page.unfold("gradients", "dense", "time_distributed", "layer")
    page.wait("return all(request('gradients'), '.json-schema-2020-12-keyword--oneOf').length === 2")
    assert browser.complaints() == []


def test_examples_say_what_they_show(browser: Browser, server: Server) -> None:
    page = Page(browser, server)
    page.open("train")
    titles = page.run("return all(request('train'), '.examples-select option').map(each => each.text)")
    assert titles == [example.summary for example in TRAIN.values()]
    problem = page.run("return all(operation('train'), '.response[data-code=default] .microlight').at(-1).innerText")
    assert json.loads(problem)["errors"][0]["pointer"] == "#/parameter"


@pytest.mark.parametrize("name", ["train", "function_descend"])
def test_a_stream_is_shown_as_its_lines(browser: Browser, server: Server, name: str) -> None:
    page = Page(browser, server)
    page.open(name)
    status, text = page.execute(name, "application/x-ndjson")
    assert status == 200
    *steps, end = map(json.loads, text.strip().splitlines())
    assert len(steps) >= 3 and all("step" in step for step in steps)
    assert "step" not in end
    page.run("operation(arguments[0]).querySelector('.btn-clear').click()", name)
    status, text = page.execute(name, "text/event-stream")
    assert status == 200
    assert re.findall(r"^event: (\w+)$", text, re.MULTILINE) == ["step"] * len(steps) + ["end"]
    assert browser.complaints() == []


def test_the_page_follows_the_colours_of_the_system(page: Page) -> None:
    send = page.browser.driver.execute_cdp_cmd
    try:
        for scheme in ("dark", "light"):
            send("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
            page.wait(
                "return document.documentElement.classList.contains('dark-mode') === arguments[0]", scheme == "dark"
            )
    finally:
        send("Emulation.setEmulatedMedia", {"features": []})


def test_the_page_fits_a_telephone(browser: Browser, server: Server) -> None:
    send = browser.driver.execute_cdp_cmd
    send("Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True})
    try:
        page = Page(browser, server)
        page.open("gradients")
        page.unfold("gradients", "network", "layers", "Items", "One of", "dense", "name")
        assert page.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    finally:
        send("Emulation.clearDeviceMetricsOverride", {})


def test_it_works_under_a_path(browser: Browser) -> None:
    with quick_server(root="/nabla") as server:
        page = Page(browser, server, root="/nabla")
        asked = page.browser.requests()
        assert f"{page.origin}/openapi.json" in asked
        assert [address for address in asked if not address.startswith((f"{page.origin}/", "data:"))] == []
        page.open("about")
        status, text = page.execute("about")
        assert status == 200 and "/nabla/v1/gradients" in text
        assert f"{page.origin}/v1" in page.browser.requests()
        assert page.browser.complaints() == []
