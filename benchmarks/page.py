"""Time the demo in a real browser without a graphics card: how soon it can be used, and how fast it draws."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.measure import Bar, duration, table
from benchmarks.service import gunicorn
from scripts import demo
from tests.browser.conftest import FLAGS

SCRIPT, USABLE, RELIEF, MAP, STEPS, CLICK = (
    Bar(60_000), Bar(1.0), Bar(15, at_least=True), Bar(30, at_least=True), Bar(30, at_least=True), Bar(0.1),
)  # fmt: skip
WINDOW = {"width": 1440, "height": 900}
BALLS = "race/starts=grid&side=20"
"""400 balls with each of four optimizers."""
FRAMES = """(seconds) => new Promise(done => {
  let frames = 0
  const start = performance.now()
  const tick = now => {
    if (now - start >= 1000 * seconds) done(frames / (now - start) * 1000)
    else { frames += 1; requestAnimationFrame(tick) }
  }
  requestAnimationFrame(tick)
})"""
STEPPED = """(seconds) => new Promise(done => {
  const scrubber = document.querySelector('.scrub input')
  const seen = new Set()
  let start
  const tick = now => {
    const step = Number(scrubber.value)
    if (step > 0) { start ??= now; seen.add(step) }
    if (start && now - start >= 1000 * seconds) done(seen.size / (now - start) * 1000)
    else requestAnimationFrame(tick)
  }
  requestAnimationFrame(tick)
})"""
PAINTED = """new MutationObserver((_, observer) => {
  if (!document.querySelector('main li .now data')) return
  observer.disconnect()
  requestAnimationFrame(() => setTimeout(() => { window.usable = performance.now() / 1000 }))
}).observe(document, { subtree: true, childList: true })"""
"""Notes when the numbers of the race are on the screen: after the frame that follows them in the document."""
DERIVED = """(address) => new Promise(done => {
  const place = document.querySelector(`svg [data-address="${address}"]`)
  const value = document.querySelector('.weight select').value
  const start = performance.now()
  place.dispatchEvent(new MouseEvent('click', { bubbles: true }))
  const tick = () => {
    const chosen = document.querySelector('.weight select')?.value
    const text = document.querySelector('.meaning')?.textContent ?? ''
    if (chosen === address && chosen !== value && text.includes(address)) done((performance.now() - start) / 1000)
    else requestAnimationFrame(tick)
  }
  tick()
})"""


def first_script() -> int:
    """Return the compressed size of the scripts, in bytes, that a browser loads before the first lab's own."""
    manifest = json.loads((demo.RESULT / "manifest.json").read_text())
    names: set[str] = set()

    def visit(key: str) -> None:
        entry = manifest[key]
        if entry["file"] not in names:
            names.add(entry["file"])
            for each in entry.get("imports", ()):
                visit(each)

    for key, entry in manifest.items():
        if entry.get("isEntry") or key.endswith("texts/en.json"):
            visit(key)
    sizes = ((demo.RESULT / f"{name}.gz", demo.RESULT / name) for name in names if name.endswith(".js"))
    return sum((small if small.exists() else large).stat().st_size for small, large in sizes)


def opened(browser: Browser, origin: str, link: str, **options: Any) -> Page:
    page = browser.new_context(viewport=WINDOW, **options).new_page()
    page.goto(f"{origin}/?lang=en#{link}", wait_until="commit")
    return page


def usable(browser: Browser, origin: str) -> float:
    """Return the seconds from opening the page, with an empty cache, until the race shows numbers."""
    page = browser.new_context(viewport=WINDOW).new_page()
    page.add_init_script(PAINTED)
    page.goto(f"{origin}/?lang=en", wait_until="commit")
    seconds = page.wait_for_function("() => window.usable").json_value()
    page.context.close()
    return float(seconds)


def frames(browser: Browser, origin: str, view: str, seconds: float) -> float:
    page = opened(browser, origin, f"{BALLS}&view={view}")
    page.locator("main td").first.wait_for()
    page.wait_for_load_state("networkidle")
    page.locator("body").press("Home")
    page.locator("body").press("Space")
    found = page.evaluate(FRAMES, seconds)
    page.context.close()
    return float(found)


def steps(browser: Browser, origin: str, seconds: float) -> float:
    """Return how many different steps of a running XOR training appear on screen in a second."""
    page = opened(browser, origin, "backprop/steps=2000")
    page.locator("svg text.value.known").wait_for()
    page.locator("button.primary", has_text="Train").click()
    found = page.evaluate(STEPPED, seconds)
    page.context.close()
    return float(found)


def clicks(browser: Browser, origin: str) -> float:
    """Return the seconds from a click on a weight until its derivation appears; the median of four weights."""
    page = opened(browser, origin, "backprop", reduced_motion="reduce")
    page.locator(".meaning").wait_for()
    page.wait_for_load_state("networkidle")
    places = ("output.kernel[0][0]", "hidden.kernel[1][1]", "output.kernel[1][0]", "hidden.kernel[0][0]")
    found = [page.evaluate(DERIVED, address) for address in places]
    page.context.close()
    return statistics.median(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a second each, only to see that everything runs")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("skipped: there is no Chromium")
        return 0
    try:
        demo.build()
    except demo.NoNode as error:
        print(f"skipped: {error}")
        return 0
    seconds, turns = (1.0, 1) if options.quick else (4.0, 5)
    with gunicorn("nabla", "service.app:create_app()", "/health/ready") as port, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        origin = f"http://127.0.0.1:{port}"
        opening = [usable(browser, origin) for _ in range(turns + 1)][1:]  # the first warms the service
        size = first_script()
        relief, flat = (frames(browser, origin, view, seconds) for view in ("3d", "2d"))
        drawn = steps(browser, origin, seconds)
        click = clicks(browser, origin)
        browser.close()
    rows = [
        ("script before the first paint, compressed", f"{size / 1000:.1f} kB", SCRIPT.verdict(size)),
        (
            "first lab usable after opening",
            duration(statistics.median(opening)),
            USABLE.verdict(statistics.median(opening)),
        ),
        ("400 balls x 4 optimizers, 3-D", f"{relief:.1f} frames/s", RELIEF.verdict(relief)),
        ("400 balls x 4 optimizers, 2-D", f"{flat:.1f} frames/s", MAP.verdict(flat)),
        ("live training of XOR", f"{drawn:.1f} steps/s", STEPS.verdict(drawn)),
        ("click on a weight to its derivation", duration(click), CLICK.verdict(click)),
    ]
    table("the demo in Chromium, drawn by the processor", ("what", "measured", "bar"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
