"""/docs in a real browser: what it shows, and that Execute works."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from service.api.examples import TRAIN
from service.engine.network.layers import layers
from tests.browser.conftest import PHONE
from tests.browser.profiles import Profiles
from tests.browser.quick import quick_server
from tests.browser.tab import Tab
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


class Docs(Tab):
    """The page /docs in a browser tab."""

    def __init__(self, profiles: Profiles, server: Server, root: str = "", **options: Any) -> None:
        super().__init__(profiles.take(**options), f"http://{LOOPBACK}:{server.port}{root}")
        self.go("/docs")
        self.until("return document.querySelector('.opblock')")

    def what(self, script: str, *arguments: Any) -> Any:
        """Return the result of a script, which gets the page's helpers and the arguments."""
        return self.run(f"(arguments) => {{ {HELPERS} {script} }}", arguments)

    def until(self, script: str, *arguments: Any) -> Any:
        """Return the result of a script as soon as it is a true value."""
        return self.wait(f"(arguments) => {{ {HELPERS} {script} }}", arguments)

    def open(self, name: str) -> None:
        """Open an operation."""
        self.what("operation(arguments[0]).querySelector('.opblock-summary-control').click()", name)
        self.until("return operation(arguments[0]).querySelector('.responses-wrapper')", name)

    def unfold(self, name: str, *path: str) -> None:
        """Show the schema of an operation's request, and unfold what has these titles."""
        if not self.what("return request(arguments[0]).querySelector('.json-schema-2020-12')", name):
            self.what("all(request(arguments[0]), '.tablinks').at(-1).click()", name)
        for title in path:
            self.until("return titled(request(arguments[0]), arguments[1])", name, title)
            self.what("titled(request(arguments[0]), arguments[1]).click()", name, title)

    def execute(self, name: str, accept: str = "application/json") -> tuple[int, str]:
        """Press Execute; the status and the body that the page shows."""
        self.what(
            "const types = operation(arguments[0]).querySelector('.response-controls .content-type');"
            "if (types.value !== arguments[1]) choose(types, arguments[1])",
            name,
            accept,
        )
        self.what("operation(arguments[0]).querySelector('button.execute').click()", name)
        status, text = self.until(
            "const live = operation(arguments[0]).querySelector('.live-responses-table');"
            "const body = live?.querySelector('.response .microlight');"
            "return body && [live.querySelector('tbody .response-col_status').innerText, body.innerText]",
            name,
        )
        return int(re.findall(r"\d+", status)[0]), text


@pytest.fixture(scope="module")
def docs(profiles: Profiles, server: Server) -> Iterator[Docs]:
    """Yield the page as it was loaded once for tests of this module that change nothing."""
    page = Docs(profiles, server)
    yield page
    page.done()


@pytest.fixture
def fresh(profiles: Profiles, server: Server) -> Iterator[Docs]:
    """Yield the page as it is loaded for one test."""
    page = Docs(profiles, server)
    yield page
    page.done()


def test_the_page_loads_all_of_itself_from_the_service_and_complains_of_nothing(docs: Docs) -> None:
    assert f"{docs.origin}/openapi.json" in docs.requests
    assert [address for address in docs.requests if not address.startswith((f"{docs.origin}/", "data:"))] == []
    assert docs.complaints == []


def test_gradients_stand_first(docs: Docs) -> None:
    assert docs.what("return document.querySelector('.opblock-summary-path').dataset.path") == "/v1/gradients"


def test_nothing_is_locked_where_no_keys_are_set(docs: Docs) -> None:
    assert docs.what("return document.querySelectorAll('.authorize, .authorization__btn').length") == 0


def test_what_needs_a_key_is_locked_where_keys_are_set(profiles: Profiles) -> None:
    with quick_server(api_keys=("secret",)) as server:
        page = Docs(profiles, server)
        locked = page.what(
            "return all(document, '.opblock').filter(each => each.querySelector('.authorization__btn'))"
            ".map(each => each.querySelector('.opblock-summary-path').dataset.path)"
        )
        paths = page.what("return all(document, '.opblock-summary-path').map(each => each.dataset.path)")
        assert locked == [path for path in paths if path.startswith("/v1")]
        page.open("gradients")
        page.expect_status(401)
        assert page.execute("gradients")[0] == 401
        page.what("document.querySelector('.authorize').click()")
        page.until("return document.querySelector('.auth-container input')")
        page.page.locator(".auth-container input").fill("secret")
        page.what("document.querySelector('.auth-container .authorize').click()")
        page.what("document.querySelector('.auth-container .btn-done').click()")
        page.what("operation('gradients').querySelector('.btn-clear').click()")
        assert page.execute("gradients")[0] == 200
        page.done()


def test_execute_shows_the_gradient_of_the_readme(fresh: Docs) -> None:
    fresh.open("gradients")
    size = fresh.what(
        "return JSON.stringify(ui.specSelectors.specResolvedSubtree(['paths', '/v1/gradients', 'post'])).length"
    )
    assert 1000 < size < LARGEST
    status, text = fresh.execute("gradients")
    expected = json.loads(re.findall(r"^```json\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)[0])
    assert status == 200
    assert json.loads(text)["gradients"] == expected["gradients"]
    assert fresh.complaints == []


def test_the_schema_names_the_types_of_layers(fresh: Docs) -> None:
    fresh.open("gradients")
    fresh.unfold("gradients", "network", "Any of", "LayerNetwork", "layers", "Items", "One of")
    fresh.until("return titled(request('gradients'), 'dense')")
    titles = fresh.what("return all(request('gradients'), '.json-schema-2020-12__title').map(each => each.innerText)")
    assert [declaration.name for declaration in layers if declaration.name not in titles] == []
    assert [title for title in titles if title.startswith("#")] == []
    fresh.unfold("gradients", "dense", "name")
    fresh.until("return request('gradients').innerText.includes('by default <type>_<position>')")
    # A layer in a layer is looked up when it is unfolded.
    fresh.unfold("gradients", "dense", "bidirectional", "layer")
    fresh.until("return all(request('gradients'), '.json-schema-2020-12-keyword--oneOf').length === 2")
    assert fresh.complaints == []


def test_examples_say_what_they_show(fresh: Docs) -> None:
    fresh.open("train")
    titles = fresh.what("return all(request('train'), '.examples-select option').map(each => each.text)")
    assert titles == [example.summary for example in TRAIN.values()]
    problem = fresh.what("return all(operation('train'), '.response[data-code=default] .microlight').at(-1).innerText")
    assert json.loads(problem)["errors"][0]["pointer"] == "#/parameter"


def test_the_steps_of_a_run_are_shown_as_a_stream_or_a_page(fresh: Docs, server: Server) -> None:
    body = json.dumps({"kind": "train", "request": TRAIN["checkpoints"]}).encode()
    run = server.post(body, "/v1/runs").json["id"]
    assert server.post(b"", f"/v1/runs/{run}/cancel").json["status"] == "cancelled"
    fresh.open("run_steps")
    fresh.what(
        "const input = operation('run_steps').querySelector('tr[data-param-name=id] input');"
        "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, arguments[0]);"
        "input.dispatchEvent(new Event('input', { bubbles: true }));"
        "input.dispatchEvent(new FocusEvent('focusout', { bubbles: true }))",
        run,
    )
    status, text = fresh.execute("run_steps", "text/event-stream")
    assert status == 200 and re.findall(r"^event: (\w+)$", text, re.MULTILINE) == ["end"]
    fresh.what("operation('run_steps').querySelector('.btn-clear').click()")
    status, text = fresh.execute("run_steps")
    assert (status, json.loads(text)["next"]) == (200, None)
    assert fresh.complaints == []


@pytest.mark.parametrize("name", ["train", "function_descend"])
def test_a_stream_is_shown_as_its_lines(fresh: Docs, name: str) -> None:
    fresh.open(name)
    status, text = fresh.execute(name, "application/x-ndjson")
    assert status == 200
    *steps, end = map(json.loads, text.strip().splitlines())
    assert len(steps) >= 3 and all("step" in step for step in steps)
    assert "step" not in end
    fresh.what("operation(arguments[0]).querySelector('.btn-clear').click()", name)
    status, text = fresh.execute(name, "text/event-stream")
    assert status == 200
    assert re.findall(r"^event: (\w+)$", text, re.MULTILINE) == ["step"] * len(steps) + ["end"]
    assert fresh.complaints == []


def test_long_answers_are_shown_without_colours(fresh: Docs) -> None:
    """Colours for a description of a megabyte, an element for each of its words, took ten seconds."""
    fresh.open("openapi_json")
    fresh.what("operation('openapi_json').querySelector('button.execute').click()")
    fresh.until("return operation('openapi_json').querySelector('.live-responses-table pre.microlight')")
    shown = "operation('openapi_json').querySelector('.live-responses-table .microlight')"
    assert fresh.what(f"return JSON.parse({shown}.textContent).info.title") == "Nabla, the gradient service"
    assert fresh.what(f"return {shown}.childElementCount") == 0
    assert fresh.complaints == []


def test_the_page_follows_the_colours_of_the_system(docs: Docs) -> None:
    for scheme in ("dark", "light"):
        docs.page.emulate_media(color_scheme=scheme)
        docs.until("return document.documentElement.classList.contains('dark-mode') === arguments[0]", scheme == "dark")


def test_the_page_fits_a_telephone(profiles: Profiles, server: Server) -> None:
    page = Docs(profiles, server, **PHONE)
    page.open("gradients")
    page.unfold("gradients", "network", "Any of", "LayerNetwork", "layers", "Items", "One of", "dense", "name")
    assert page.what("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    page.done()


def test_it_works_under_a_path(profiles: Profiles) -> None:
    with quick_server(root="/nabla") as server:
        page = Docs(profiles, server, root="/nabla")
        assert f"{page.origin}/openapi.json" in page.requests
        assert [address for address in page.requests if not address.startswith((f"{page.origin}/", "data:"))] == []
        page.open("about")
        status, text = page.execute("about")
        assert status == 200 and "/nabla/v1/gradients" in text
        assert f"{page.origin}/v1" in page.requests
        page.done()
