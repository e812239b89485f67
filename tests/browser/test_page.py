"""The page around the labs: languages, colours, links, keys, widths, requests to copy; and life without WebGL."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PHONE, WITHOUT_WEBGL, Launch, Visit
from tests.browser.profiles import Profiles
from tests.browser.quick import quick_server
from tests.browser.tab import Demo, numbers, shown, text
from tests.browser.test_backprop import ONE, WEIGHTS, fresh, written
from tests.browser.test_race import DESCEND, RACE, answered, ends, panel, told

LABS = ("race/view=2d", "backprop")
WIDTHS = (320, 390, 768, 1440)
CHINESE = """() => [...document.querySelectorAll('body *')].flatMap(each => [
  ...[...each.childNodes].filter(one => one.nodeType === 3).map(one => one.data.trim()),
  each.getAttribute('aria-label') ?? '', each.title ?? '',
]).filter(words => /[\u4e00-\u9fff]/.test(words))"""
SMALL = """() => [...document.querySelectorAll('main button, nav a, main select, main input:not([type=range])')]
  .filter(each => each.offsetParent && !each.closest('table, svg'))
  .map(each => [each.outerHTML.slice(0, 120), each.type === 'checkbox' ? each.closest('label') ?? each : each])
  .filter(([, each]) => each.getBoundingClientRect().height < 43.5).map(([html]) => html)"""
FOCUS_SHOWS = """() => document.activeElement.matches('svg *')
  || getComputedStyle(document.activeElement).outlineStyle !== 'none'"""


def ready(demo: Demo, lab: str) -> None:
    """Wait until a lab shows its numbers."""
    (answered if lab.startswith("race") else fresh)(demo)


def copied(demo: Demo, label: str, form: str = "curl") -> str:
    """Return the request behind a panel as a program, from the dialog that the button `label` opens."""
    demo.page.get_by_role("button", name=label, exact=True).first.click()
    dialog = demo.page.get_by_role("dialog")
    dialog.get_by_role("button", name=demo.text(f"stage.copy.{form}"), exact=True).click()
    program = dialog.get_by_role("textbox").input_value()
    demo.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    return program


@pytest.mark.parametrize("lab", LABS)
def test_the_whole_page_speaks_the_language_of_its_reader(visit: Visit, lab: str) -> None:
    demo = visit(lab, "zh", locale="en-GB")
    ready(demo, lab)
    page = demo.page
    title = text("zh", "race.title" if lab.startswith("race") else "backprop.title")
    assert page.title() == f"{title} · {text('zh', 'stage.page')}"
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    assert re.search("[一-鿿]", page.locator("nav").inner_text())
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    # No letter of the other language is left, but for the button that leads back to it.
    demo.wait(f"() => ({CHINESE})().join() === '中文'")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_language_is_asked_for_in_each_request_and_remembered(visit: Visit, language: str) -> None:
    demo = visit("backprop", language)
    fresh(demo)
    with demo.page.expect_request("**/v1/gradients/explain") as found:
        demo.page.locator(f'svg [data-edge="{WEIGHTS[0]}"]').click()
    assert found.value.headers["accept-language"] == language
    answer = demo.ask(
        "/v1/gradients/explain", ONE | {"parameter": WEIGHTS[0], "learning_rate": 0.7, "language": language}
    )
    expect(demo.page.locator(".meaning")).to_contain_text(answer["meanings"][0]["text"].replace("`", ""))
    other = {"en": "zh", "zh": "en"}[language]
    demo.page.get_by_role("button", name={"en": "English", "zh": "中文"}[other], exact=True).click()
    expect(demo.page.locator("nav a").first).to_have_text(text(other, "race.title"))
    demo.page.goto(f"{demo.origin}/#backprop")
    expect(demo.page.locator("nav a").first).to_have_text(text(other, "race.title"))


def test_colours_are_the_systems_until_one_chooses(visit: Visit) -> None:
    demo = visit("backprop", color_scheme="dark")
    root = demo.page.locator("html")
    expect(root).to_have_class(re.compile("dark"))
    demo.page.emulate_media(color_scheme="light")
    expect(root).to_have_class(re.compile("light"))
    for now, classes in (("system", "light"), ("light", "dark")):
        name = demo.text(f"stage.theme.{now}")
        demo.button("stage.switch_theme", name=name).click()
        if classes == "dark":
            expect(root).to_have_class(re.compile("dark"))
    demo.page.reload()
    expect(root).to_have_class(re.compile("dark"))


def test_a_link_of_a_race_shows_the_same_numbers_again(visit: Visit) -> None:
    demo = visit('race/view=2d&points=[[-1,2.5]]&steps=60&focus={"optimizer":3,"start":0}')
    answered(demo)
    demo.page.get_by_label(demo.text("race.steps"), exact=True).fill("70")
    demo.page.keyboard.press("Enter")
    demo.wait("() => location.hash.includes('steps=70')")
    expect(demo.scrubber).to_have_attribute("max", "70")
    again = visit(demo.page.url.split("#")[1])
    answered(again)
    again.page.locator("body").press("End")
    answer = demo.ask(DESCEND, RACE | {"starts": [[-1, 2.5]], "steps": 70})
    assert ends(again) == told(answer)
    expect(panel(again, "race.ends").locator("li.focus strong")).to_have_text("adam")


def test_a_link_of_backprop_shows_the_same_numbers_again(visit: Visit) -> None:
    demo = visit("backprop")
    fresh(demo)
    field = demo.page.get_by_label(demo.text("backprop.weight.value"), exact=True)
    field.fill("0.25")
    field.press("Enter")
    demo.page.get_by_role("tab", name=demo.text("backprop.tabs.numbers"), exact=True).click()
    demo.wait("() => location.hash.includes('0.25') && location.hash.includes('tab=numbers')")
    fresh(demo)
    expected = {address: written(demo, address) for address in WEIGHTS}
    assert expected["hidden.kernel[0][1]"][0] == 0.25
    again = visit(demo.page.url.split("#")[1])
    fresh(again)
    assert {address: written(again, address) for address in WEIGHTS} == expected
    expect(again.page.get_by_role("tab", selected=True)).to_have_text(demo.text("backprop.tabs.numbers"))


def test_a_link_that_says_nonsense_falls_back_and_says_so(visit: Visit) -> None:
    demo = visit("race/view=2d&steps=many&colour=red&points=[[1,1]]")
    answered(demo)
    notice = demo.text("stage.link_faults", parts="steps=many, colour=red")
    expect(demo.page.get_by_text(notice, exact=True)).to_be_visible()
    assert demo.last == RACE["steps"]
    demo.page.locator("body").press("End")
    assert ends(demo) == told(demo.ask(DESCEND, RACE | {"starts": [[1, 1]]}))
    demo.button("stage.dismiss").click()
    expect(demo.page.get_by_text(notice, exact=True)).to_have_count(0)


def test_keys_move_a_lab(visit: Visit) -> None:
    demo = visit("race/view=2d", reduced_motion="no-preference")
    answered(demo)
    keyboard = demo.page.keyboard
    demo.button("stage.transport.pause").wait_for()
    keyboard.press("Space")
    demo.button("stage.transport.play").wait_for()
    keyboard.press("Home")
    expect(demo.scrubber).to_have_value("0")
    for _ in range(3):
        keyboard.press("ArrowRight")
    expect(demo.scrubber).to_have_value("3")
    keyboard.press("ArrowLeft")
    expect(demo.scrubber).to_have_value("2")
    keyboard.press("End")
    expect(demo.scrubber).to_have_value("150")
    keyboard.press("?")
    expect(demo.page.get_by_role("dialog", name=demo.text("stage.help.title"))).to_be_visible()
    keyboard.press("Escape")
    expect(demo.page.get_by_role("dialog")).to_have_count(0)
    # Where one types, keys are letters.
    demo.page.get_by_label(demo.text("race.type_function")).press("Home")
    expect(demo.scrubber).to_have_value("150")


def test_all_of_backprop_is_done_by_keyboard(visit: Visit) -> None:
    demo = visit("backprop")
    fresh(demo)
    keyboard = demo.page.keyboard

    def tab_to(wanted: str) -> None:
        for _ in range(80):
            keyboard.press("Tab")
            if demo.run("wanted => document.activeElement.matches(wanted)", wanted):
                # The focused element shows its focus.
                assert demo.run(FOCUS_SHOWS)
                return
        raise AssertionError(f"Tab never comes to {wanted}")

    tab_to("header nav a")
    tab_to("svg [data-address]")
    keyboard.press("ArrowDown")
    chosen = demo.wait("() => document.querySelector('svg [data-address][aria-pressed=true]')?.dataset.address")
    demo.wait("address => document.activeElement.dataset.address === address", chosen)
    expect(demo.page.locator(".weight select").first).to_have_value(chosen)
    tab_to("[role=tab]")
    keyboard.press("ArrowRight")
    expect(demo.page.get_by_role("tab", selected=True)).to_have_text(demo.text("backprop.tabs.numbers"))
    keyboard.press("ArrowLeft")
    tab_to(".weight input[type=number]")
    keyboard.press("ControlOrMeta+a")
    keyboard.type("2")
    keyboard.press("Enter")
    demo.wait("() => location.hash.includes('weights=')")


def test_with_less_motion_everything_jumps(visit: Visit) -> None:
    demo = visit("race/view=2d")
    answered(demo)
    # The race is over at once, and nothing plays.
    expect(demo.scrubber).to_have_value("150")
    demo.button("stage.transport.play").wait_for()
    lab = visit("backprop")
    fresh(lab)
    lab.page.locator("body").press("Home")
    lab.page.locator("body").press("ArrowRight")
    assert lab.position() == 1
    assert lab.page.locator("svg .pulse").count() == 0
    running = "() => document.getAnimations().filter(each => each.playState === 'running').length"
    assert lab.run(running) == 0


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("lab", LABS)
def test_nothing_is_wider_than_the_window(visit: Visit, lab: str, language: str) -> None:
    demo = visit(lab, language)
    ready(demo, lab)
    demo.run("() => document.querySelectorAll('main details:not([open]) > summary').forEach(each => each.click())")
    for width in WIDTHS:
        demo.page.set_viewport_size({"width": width, "height": 800})
        demo.wait("width => innerWidth === width", width)
        demo.run("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        wide = demo.run("() => [document.documentElement.scrollWidth, document.body.scrollWidth]")
        assert max(wide) <= width, f"{lab} is {wide} wide at {width}"


def test_a_phone_has_the_picture_first_and_controls_as_a_sheet(visit: Visit) -> None:
    demo = visit("race/view=2d", **PHONE)
    answered(demo)
    box = {
        name: demo.page.locator(name).first.bounding_box()
        for name in ("section.stage", ".transport", "section.evidence")
    }
    tops = {name: each["y"] for name, each in box.items() if each}
    assert tops["section.stage"] < tops["section.evidence"] < 844
    assert tops[".transport"] + (box[".transport"] or {})["height"] == pytest.approx(844, abs=1)
    opener = demo.page.locator(".transport .opener")
    opener.tap()
    sheet = demo.page.locator("section.controls.sheet")
    expect(sheet).to_be_visible()
    expect(demo.page.get_by_label(demo.text("race.type_function"))).to_be_visible()
    assert demo.run(SMALL) == []
    demo.page.keyboard.press("Escape")
    expect(sheet).to_have_count(0)


def test_without_webgl_the_map_serves(launch: Launch, visit: Visit) -> None:
    demo = visit("race", profiles=Profiles(launch(*WITHOUT_WEBGL)))
    answered(demo)
    expect(demo.page.get_by_text(demo.text("race.no_webgl"), exact=True)).to_be_visible()
    expect(demo.page.get_by_role("button", name="3-D", exact=True)).to_be_disabled()
    expect(demo.page.get_by_role("button", name="2-D", exact=True)).to_have_attribute("aria-pressed", "true")
    demo.page.locator("body").press("End")
    assert ends(demo) == told(demo.ask(DESCEND, RACE))


def run(command: list[str]) -> Any:
    """Run a command, and return the JSON that it prints."""
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(finished.stdout.replace("'", '"').replace("True", "true").replace("None", "null"))


def test_a_copied_request_gives_the_numbers_of_its_panel(visit: Visit) -> None:
    demo = visit("backprop")
    fresh(demo)
    label = demo.text("stage.copy.of", name=demo.text("backprop.numbers.weights"))
    demo.page.get_by_role("tab", name=demo.text("backprop.tabs.numbers"), exact=True).click()
    buttons = demo.page.get_by_role("tabpanel").get_by_role("button", name=re.compile(demo.text("stage.copy.open")))
    name = buttons.first.get_attribute("aria-label") or label
    shown_numbers = numbers(demo.page.get_by_role("tabpanel").locator("table").first)
    if shutil.which("curl"):
        answer = run(["bash", "-c", copied(demo, name)])
        gradients = [
            *(each for row in answer["gradients"]["hidden"]["kernel"] for each in row),
            *answer["gradients"]["hidden"]["bias"],
        ]
        assert [each for each in gradients if each not in shown_numbers] == []
    python = copied(demo, name, "python")
    compile(python, "copied.py", "exec")
    answers = [run([sys.executable, "-c", python])]
    if shutil.which("node"):
        script = re.sub(
            r"console\.log\((.*)\);$", r"console.log(JSON.stringify(\1));", copied(demo, name, "javascript")
        )
        answers.append(run(["node", "--input-type=module", "-e", script]))
    for answer in answers:
        assert answer["loss"] == demo.ask("/v1/gradients", ONE)["loss"]


def test_a_copied_race_gives_the_ends_that_are_shown(visit: Visit) -> None:
    if not shutil.which("curl"):
        pytest.skip("no curl: the command that the page gives cannot be run")
    demo = visit("race/view=2d")
    answered(demo)
    demo.page.locator("body").press("End")
    part = panel(demo, "race.ends")
    name = part.get_by_role("button", name=re.compile("^" + demo.text("stage.copy.of", name="")[:7])).first
    label = name.get_attribute("aria-label") or ""
    answer = run(["bash", "-c", copied(demo, label)])
    assert ends(demo) == told(answer)


@pytest.mark.parametrize("lab", LABS)
def test_the_page_works_under_a_path(profiles: Profiles, built_demo: Path, lab: str) -> None:
    with quick_server(root="/nabla") as server:
        demo = Demo(profiles.take(reduced_motion="reduce"), server, root="/nabla")
        demo.open(lab)
        ready(demo, lab)
        asked = [address for address in demo.requests if "/v1/" in address]
        assert asked and all(address.startswith(f"{demo.origin}/v1/") for address in asked)
        expect(demo.page.locator("nav a").last).to_have_attribute("href", re.compile(f"{demo.origin}/reference$"))
        demo.done()


def test_a_closed_service_asks_for_its_key(profiles: Profiles, built_demo: Path) -> None:
    with quick_server(api_keys=("secret",)) as server:
        demo = Demo(profiles.take(reduced_motion="reduce"), server)
        demo.expect_status(401)
        demo.open("backprop")
        field = demo.page.get_by_label(demo.text("stage.fault.key")).first
        field.fill("secret")
        field.press("Enter")
        fresh(demo)
        demo.done()


def test_a_service_that_is_gone_is_told_of(visit: Visit) -> None:
    demo = visit("backprop")
    fresh(demo)
    demo.page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
    field = demo.page.get_by_label(demo.text("backprop.weight.value"), exact=True)
    field.fill("3")
    field.press("Enter")
    expect(demo.page.get_by_role("alert").filter(has_text=demo.text("stage.fault.unreachable")).first).to_be_visible()
    assert demo.complaints and all("ERR_CONNECTION_REFUSED" in each for each in demo.complaints)
    demo.complaints.clear()


def test_parts_can_be_left_out_of_a_lesson(visit: Visit) -> None:
    demo = visit("race/view=2d", query="&hide=controls,evidence")
    expect(demo.page.locator("main section.stage")).to_be_visible()
    expect(demo.page.locator("main section.controls, main section.evidence")).to_have_count(0)
    assert shown(1.0) == "1.000"
