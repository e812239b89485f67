"""Profiles of Chromium with one page each. One test after another uses them, and finds nothing that another left."""

from collections import defaultdict
from typing import Any

from playwright.sync_api import Browser, Page

SECONDS = 15
"""More than anything takes that a page does here, also while other tests compute."""
WINDOW = {"width": 1280, "height": 1000}
CLEAR = "() => { Storage.prototype.setItem = () => {}; localStorage.clear(); sessionStorage.clear() }"
"""Empties the storage of a page, which then stores nothing more."""


class Profiles:
    """The profiles of a browser: `take` returns an unused one, or a new one.

    A new one costs the processes of Chromium about a second: they start one more and fetch and compile all scripts.
    """

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self._unused: defaultdict[str, list[Page]] = defaultdict(list)

    def take(
        self, viewport: Any = WINDOW, color_scheme: Any = "light", reduced_motion: Any = "no-preference", **options: Any
    ) -> "Profile":
        """Return a profile with an empty page. Two profiles that are in use have nothing in common."""
        unused = self._unused[str(sorted(options.items()))]
        if unused:
            page = unused.pop()
        else:
            context = self.browser.new_context(viewport=viewport, **options)
            context.set_default_timeout(1000 * SECONDS)
            page = context.new_page()
        page.set_viewport_size(viewport)
        page.emulate_media(media="null", color_scheme=color_scheme, reduced_motion=reduced_motion)
        return Profile(page, unused)


class Profile:
    """A profile in use by one test."""

    def __init__(self, page: Page, unused: list[Page]) -> None:
        self.page = page
        self._unused = unused

    def leave(self) -> None:
        """Forget all that the page shows and stores. Only the cache of HTTP stays."""
        self.page.unroute_all()
        self.page.evaluate(CLEAR)
        self.page.context.clear_cookies()
        self.page.goto("about:blank")
        self.page.mouse.move(0, 0)

    def give_back(self) -> None:
        """Let another test use the profile."""
        self._unused.append(self.page)
