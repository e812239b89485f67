"""Long trainings of the Backprop lab are runs: they survive a reload and a runner that ends, stop, and go on."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Route, expect

from tests.browser.conftest import PHONE, WINDOW, Visit
from tests.browser.quick import quick_server
from tests.browser.tab import Demo
from tests.browser.test_accessibility import findings
from tests.browser.test_backprop import fresh, state_of, state_table, tab
from tests.support import ROOT, Server

STEPS = 60_000
"""Of these every 30th is recorded: the page draws at most 2,000."""
LINK = "backprop/sample=-1"
RUN = "0123456789abcdef0123456789abcdef"
Runner = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def runs(tmp_path: Path, built_demo: Path) -> Iterator[tuple[Server, Runner]]:
    """Yield a service that stores runs and computes none, and a function that starts a runner beside it."""
    database = f"sqlite:///{tmp_path / 'nabla.db'}"

    @contextmanager
    def runner() -> Iterator[None]:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "worker"],
            cwd=ROOT,
            env={"PATH": "", "NABLA_DATABASE": database, "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0

    with quick_server(database=database) as server:
        yield server, runner


@pytest.fixture
def demo(runs: tuple[Server, Runner], chromium: Browser) -> Iterator[Demo]:
    """Yield a tab for that service."""
    demo = Demo(chromium.new_context(viewport=WINDOW, reduced_motion="reduce"), runs[0])
    yield demo
    demo.done()


def bar(demo: Demo, status: str) -> Locator:
    """Return the bar of the run once it tells a status."""
    found = demo.page.locator(f'section.run[data-status="{status}"]')
    found.wait_for()
    expect(found.locator(".word")).to_have_text(demo.text(f"runs.status.{status}"))
    return found


def percent(demo: Demo) -> int:
    return int(demo.page.get_by_role("progressbar").get_attribute("aria-valuenow") or -1)


def stored(demo: Demo, path: str) -> Any:
    """Return what the service tells of the run that the page shows."""
    name = demo.page.url.rpartition("run=")[2].partition("&")[0]
    answer = demo.server.get(f"/v1/runs/{name}{path}")
    assert answer.status_code == 200
    return answer.json


def test_a_training_goes_on_while_runner_and_page_come_and_go(demo: Demo, runs: tuple[Server, Runner]) -> None:
    _, runner = runs
    demo.open(f"{LINK}&steps={STEPS}")
    fresh(demo)
    demo.button("backprop.controls.train", steps=STEPS).click()
    waiting = bar(demo, "waiting")
    expect(waiting).to_contain_text(demo.text("runs.no_runner"))
    with runner():
        bar(demo, "computing")
        demo.wait("() => Number(document.querySelector('.scrub input').value) > 20")
    bar(demo, "paused")
    before, at = percent(demo), demo.last
    assert 0 < before < 100
    demo.page.reload(wait_until="domcontentloaded")
    bar(demo, "paused")
    # The records of the past are all there again.
    expect(demo.scrubber).to_have_attribute("max", str(at))
    assert percent(demo) == before
    with runner():
        bar(demo, "completed")
    assert percent(demo) == 100
    expect(demo.scrubber).to_have_attribute("max", "2001")
    expect(demo.scrubber).to_have_value("2001")
    expect(demo.page.locator(".scrub output")).to_have_text(f"{STEPS} {demo.text('stage.transport.of', last=STEPS)}")
    result = stored(demo, "")["result"]
    assert result["steps_done"] == STEPS
    tab(demo, "optimizer")
    lines = {line["step"]: line for line in stored(demo, "/steps")["steps"]}
    assert set(lines) == {*range(1, STEPS, 30), STEPS}
    assert lines[STEPS]["parameters"] == result["parameters"]
    for place, step in ((2001, STEPS), (1, 1), (at, 30 * at - 29), (1000, 29_971)):
        demo.seek(place)
        assert state_table(demo) == state_of(lines[step])


def test_a_training_is_stopped_goes_on_with_more_steps_and_is_removed(demo: Demo, runs: tuple[Server, Runner]) -> None:
    _, runner = runs
    demo.open(f"{LINK}&steps={STEPS}")
    fresh(demo)
    with runner():
        demo.button("backprop.controls.train", steps=STEPS).click()
        bar(demo, "computing").get_by_role("button", name=demo.text("runs.stop"), exact=True).click()
        cancelled = bar(demo, "cancelled")
        step = stored(demo, "")["step"]
        assert 0 < step < STEPS
        cancelled.get_by_role("button", name=demo.text("runs.on"), exact=True).click()
        completed = bar(demo, "completed")
        completed.get_by_role("spinbutton").fill("600")
        completed.get_by_role("button", name=demo.text("runs.on"), exact=True).click()
        expect(demo.page.locator(".scrub output")).to_contain_text(str(STEPS + 600))
        completed = bar(demo, "completed")
    # It is the training that nobody stopped.
    tab(demo, "optimizer")
    result = stored(demo, "")["result"]
    assert [row[-1] for row in state_table(demo).values()] == state_of_parameters(result)
    demo.page.locator("details.mine > summary").click()
    expect(demo.page.locator("details.mine li")).to_have_count(1)
    completed.get_by_role("button", name=demo.text("runs.remove"), exact=True).click()
    expect(demo.page.locator("details.mine li, section.run")).to_have_count(0)
    assert stored_count(demo) == 0


def state_of_parameters(result: dict[str, Any]) -> list[float]:
    blank = {"gradients": result["parameters"], "state": {}, "updates": result["parameters"]}
    return [row[-1] for row in state_of(blank | {"parameters": result["parameters"]}).values()]


def stored_count(demo: Demo) -> int:
    return int(demo.server.get("/v1/runs").json["count"])


def test_a_service_without_a_database_offers_the_live_stream(visit: Visit) -> None:
    demo = visit(f"{LINK}&steps=40&keep=true")
    demo.expect_status(501)
    demo.page.route("**/v1/runs", lambda route: route.fulfill(status=501, json={"title": "No database"}))
    fresh(demo)
    demo.button("backprop.controls.train", steps=40).click()
    expect(demo.page.locator("section.run")).to_contain_text(demo.text("runs.not_kept"))
    demo.button("runs.live").click()
    expect(demo.scrubber).to_have_attribute("max", "40")
    expect(demo.page.locator("section.run")).to_have_count(0)


def test_a_run_that_is_gone_is_said_to_be(visit: Visit) -> None:
    demo = visit("backprop")
    demo.expect_status(404)
    fresh(demo)
    demo.page.route("**/v1/runs/**", lambda route: route.fulfill(status=404, json={"title": "Not found"}))
    demo.open(f"{LINK}&mode=training&run={RUN}")
    expect(demo.page.locator("section.run")).to_contain_text(demo.text("runs.gone"))
    demo.button("runs.dismiss").click()
    expect(demo.page.locator("section.run")).to_have_count(0)
    demo.wait("() => !location.hash.includes('run=')")


@pytest.mark.parametrize("device", [{"viewport": WINDOW}, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("status", ["queued", "running", "completed", "cancelled"])
def test_axe_finds_nothing_in_the_bar_of_a_run(visit: Visit, status: str, device: dict[str, Any]) -> None:
    entry = {"id": RUN, "kind": "train", "status": status, "step": 30, "of": 90, "loss": 0.5, "remaining_seconds": 70.0}

    def answer(route: Route) -> None:
        if "/steps" not in route.request.url:
            route.fulfill(json=entry)
        elif status in ("completed", "cancelled"):
            end = {"status": status, "reason": "", "steps_done": 30, "loss": 0.5, "parameters": {}}
            route.fulfill(body=json.dumps(end), content_type="application/x-ndjson")

    demo = visit("backprop", **device)
    demo.page.route("**/v1/runs/**", answer)
    demo.open(f"{LINK}&mode=training&run={RUN}")
    demo.page.get_by_role("progressbar").wait_for()
    fresh(demo)
    assert findings(demo) == []
    assert percent(demo) == 33
    width = demo.run("() => document.documentElement.scrollWidth - innerWidth")
    assert width <= 0
