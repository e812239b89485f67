"""axe-core, with the rules of WCAG 2.2 AA and its best practices, finds nothing in any look of the labs."""

from functools import cache
from typing import Any

import pytest

from scripts import demo as building
from tests.browser.conftest import PHONE, Visit
from tests.browser.tab import Demo
from tests.browser.test_page import ready

AXE = building.SOURCE / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SCRIPT = """async (rules) => {
  // Of formulas, MathML is what is read; the thousands of boxes that draw them are hidden from readers.
  // Only a rule about sound and an experimental one need files to be loaded before, and the labs have no sound.
  const options = { runOnly: rules, resultTypes: ['violations'], preload: false }
  const found = await axe.run({ exclude: ['.katex-html'] }, options)
  return found.violations.flatMap(({ id, nodes }) => nodes.map(node => [
    id, node.target.join(' '), node.html.slice(0, 160), ...[...node.any, ...node.all].map(one => one.message),
  ].join(': ')))
}"""
UNFOLD = """(table) => document.querySelectorAll('main details:not([open]) > summary').forEach(
  each => { if (each.textContent.trim() !== table) each.click() })"""
DEVICES: dict[str, dict[str, Any]] = {"desktop": {}, "phone": PHONE}


@cache
def axe() -> str:
    if not AXE.exists():
        building.installed()
    return AXE.read_text()


def findings(demo: Demo, rules: Any = RULES) -> list[str]:
    """Return the findings of axe: rule and place."""
    demo.run(f"() => {{ if (!window.axe) {{ {axe()} }} }}")
    found = demo.run(SCRIPT, rules)
    return [str(each) for each in found]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("lab", ["race/view=2d", "backprop"])
def test_axe_finds_nothing(visit: Visit, lab: str, language: str, device: str) -> None:
    demo = visit(lab, language, **DEVICES[device])
    ready(demo, lab)
    if language == "en":
        # Whatever can be unfolded is, but for tables of hundreds of rows.
        demo.run(UNFOLD, demo.text("stage.table"))
    if device == "phone":
        demo.page.locator(".transport .opener").tap()
    demo.wait("() => !document.querySelector('.progress .bar')")
    assert findings(demo) == []
    # Of the rules, colours alone are another matter in the dark.
    demo.page.emulate_media(color_scheme="dark")
    demo.wait("() => document.documentElement.classList.contains('dark')")
    assert findings(demo, {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}) == []


@pytest.mark.parametrize("name", ["numbers", "flow", "optimizer", "graph", "help", "copy"])
def test_axe_finds_nothing_in_what_opens(visit: Visit, name: str) -> None:
    link = "backprop/mode=training&steps=20&step=20"
    demo = visit(
        f"{link}&view=graph" if name == "graph" else f"{link}&tab={name}" if name in "numbers flow optimizer" else link
    )
    if name == "help":
        demo.page.keyboard.press("?")
    elif name == "copy":
        demo.page.locator("section.evidence button[aria-haspopup=dialog]").first.click()
    elif name == "graph":
        demo.page.locator("svg [data-node]").first.wait_for()
    assert findings(demo) == []
