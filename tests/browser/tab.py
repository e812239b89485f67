"""A tab of Chromium that remembers whatever is wrong with its page."""

import json
import re
import time
from functools import cache
from typing import Any

from playwright.sync_api import ConsoleMessage, Error, Locator, Request, Response, expect

from tests.browser.profiles import SECONDS, Profile
from tests.support import LOOPBACK, ROOT, Server

expect.set_options(timeout=1000 * SECONDS)
DRIVER = re.compile(r"GL Driver Message|Automatic fallback to software WebGL")
"""Messages of Chromium about drawing without a graphics card."""
ENDED = "net::ERR_ABORTED"
"""The failure of a request that the page aborted because a newer one replaced it."""


class Tab:
    """A page, what it asked for, and what it complained of. `done` fails for each complaint that no test expected."""

    def __init__(self, profile: Profile, origin: str, *others: str) -> None:
        self.profile = profile
        self.page = profile.page
        self.origin = origin
        self.origins = tuple(f"{each}/" for each in (origin, *others))
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._expected: set[int] = set()
        self._listeners: dict[Any, Any] = {
            "request": self._asked,
            "response": self._answered,
            "requestfailed": self._failed,
            "console": self._said,
            "pageerror": self._erred,
        }
        for event, listener in self._listeners.items():
            self.page.on(event, listener)

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)
        if not request.url.startswith((*self.origins, "data:", "blob:")):
            self.complaints.append(f"a request leaves the service: {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self._expected:
            self.complaints.append(f"{response.status} for {response.request.method} {response.url}")

    def _failed(self, request: Request) -> None:
        if request.failure != ENDED:
            self.complaints.append(f"{request.failure} for {request.url}")

    def _said(self, message: ConsoleMessage) -> None:
        refused = re.search(r"Failed to load resource: .* status of (\d+)", message.text)
        if refused is not None and int(refused[1]) in self._expected:
            return
        if message.type in ("warning", "error") and not DRIVER.search(message.text):
            self.complaints.append(f"{message.type} in the console: {message.text}")

    def _erred(self, error: Error) -> None:
        self.complaints.append(f"error of the page: {error}")

    def expect_status(self, status: int) -> None:
        """Expect answers of this status from now on."""
        self._expected.add(status)

    def done(self) -> None:
        """Leave the page; fails if something was wrong with it. Another test uses its profile only if nothing was."""
        self.profile.leave()
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)
        assert self.complaints == []
        self.profile.give_back()

    def go(self, path: str) -> None:
        """Open a page of the service."""
        self.page.goto(f"{self.origin}{path}", wait_until="domcontentloaded")

    def run(self, script: str, argument: Any = None) -> Any:
        """Return the result of a function in the page."""
        return self.page.evaluate(script, argument)

    def wait(self, script: str, argument: Any = None) -> Any:
        """Wait until a function in the page returns a true value, and return it."""
        # Playwright's own way to wait evaluates text in the page, which its policy forbids.
        end = time.monotonic() + SECONDS
        while not (found := self.run(script, argument)):
            assert time.monotonic() < end, f"in vain: {script}"
            self.page.wait_for_timeout(20)
        return found


class Demo(Tab):
    """The demo in a tab, in one language."""

    def __init__(self, profile: Profile, server: Server, language: str = "en", root: str = "") -> None:
        super().__init__(profile, f"http://{LOOPBACK}:{server.port}{root}")
        self.server = server
        self.language = language

    def open(self, link: str = "", query: str = "") -> None:
        """Open a link of the demo, such as `race/steps=20`, and wait for its lab."""
        lab = link.split("/")[0] or "race"
        self.page.goto("about:blank")
        self.page.goto(f"{self.origin}/?lang={self.language}{query}#{link}", wait_until="domcontentloaded")
        self.page.locator(f'main[data-lab="{lab}"]').wait_for()

    def text(self, key: str, **places: str | int) -> str:
        """Return a text of the page, by its key."""
        return text(self.language, key, **places)

    def button(self, key: str, **places: str | int) -> Locator:
        """Return the button that is called by a text."""
        return self.page.get_by_role("button", name=self.text(key, **places), exact=True)

    def ask(self, path: str, body: Any) -> Any:
        """Return the service's answer to a request outside the page."""
        answer = self.server.post(json.dumps(body).encode(), path)
        assert answer.status_code == 200, answer.body
        return answer.json

    def position(self) -> int:
        """Return the step that the transport shows."""
        return int(self.scrubber.input_value())

    @property
    def scrubber(self) -> Locator:
        return self.page.get_by_role("slider", name=self.text("stage.transport.scrub"))

    @property
    def last(self) -> int:
        """Return the last step of the transport."""
        return int(self.scrubber.get_attribute("max") or 0)

    def seek(self, step: int) -> None:
        """Move the scrubber to a step."""
        self.scrubber.fill(str(step))
        expect(self.scrubber).to_have_value(str(step))


@cache
def texts(language: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "demo" / "src" / "texts" / f"{language}.json").read_text())
    return found


def text(language: str, key: str, **places: str | int) -> str:
    """Return a text of the page in a language; each key of `places` replaces what stands in braces."""
    found: Any = texts(language)
    for part in key.split("."):
        found = found[part]
    assert isinstance(found, str), key
    return re.sub(r"\{(\w+)\}", lambda place: str(places.get(place[1], place[0])), found)


def numbers(place: Locator) -> list[float]:
    """Return the full values of all numbers in a part of the page, in the order in which they stand there."""
    found = place.locator("data[value], [data-value]").evaluate_all(
        "all => all.map(each => each.dataset.value ?? each.getAttribute('value'))"
    )
    return [float(value) for value in found]


def number(place: Locator) -> float:
    """Return the one number in a part of the page."""
    (found,) = numbers(place)
    return found


def shown(value: float) -> str:
    """Return a number as the page writes it, in four significant digits."""
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{abs(value):.3e}".partition("e")
    power = int(exponent)
    text = f"{abs(value):.{max(0, 3 - power)}f}" if -4 <= power < 6 else f"{mantissa}e{power}"
    return ("-" + text if value < 0 else text).replace("-", "−")
