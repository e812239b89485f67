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
from playwright.sync_api import Locator, Route, expect

from tests.browser.conftest import Visit
from tests.browser.profiles import Profiles
from tests.browser.quick import quick_server
from tests.browser.tab import Demo
from tests.browser.test_accessibility import DEVICES, findings
from tests.browser.test_backprop import ALL, WEIGHTS, at, fresh, state_of, state_table, tab
from tests.conftest import wait_for
from tests.support import ROOT, Server

STEPS, EVERY = 30_000, 15
"""The steps of a training, and every how many of them one is recorded: at most 2,000 records are drawn."""
LINK = "backprop/sample=-1"
TRAINING = ALL | {"seed": 0, "optimizer": {"type": "momentum", "learning_rate": 0.7}}
RUN = "0123456789abcdef0123456789abcdef"
Runner = Callable[[], AbstractContextManager[subprocess.Popen[bytes]]]


@pytest.fixture
def runs(tmp_path: Path, built_demo: Path) -> Iterator[tuple[Server, Runner]]:
    """Yield a service that stores runs and computes none, and a function that starts a runner beside it."""
    database = f"sqlite:///{tmp_path / 'nabla.db'}"

    @contextmanager
    def runner() -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "worker"],
            cwd=ROOT,
            env={"PATH": "", "NABLA_DATABASE": database, "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            assert process.wait(timeout=30) == 0

    with quick_server(database=database) as server:
        yield server, runner


@pytest.fixture
def demo(runs: tuple[Server, Runner], profiles: Profiles) -> Iterator[Demo]:
    """Yield a tab for that service."""
    demo = Demo(profiles.take(reduced_motion="reduce"), runs[0])
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


def told(demo: Demo, path: str = "") -> list[dict[str, Any]]:
    """Return the lines that the service tells of the run that the page shows."""
    name = demo.page.url.rpartition("run=")[2].partition("&")[0]
    text = demo.run("async (path) => (await fetch(path)).text()", f"/v1/runs/{name}{path}")
    return [json.loads(line) for line in text.splitlines()]


def hold(runner: subprocess.Popen[bytes], demo: Demo) -> None:
    """Let a runner sleep in the middle of the run that the page shows, and wait until the page shows its records."""
    wait_for(lambda: any(run["step"] > 0 for run in demo.server.get("/v1/runs").json["runs"]))
    runner.send_signal(signal.SIGSTOP)
    bar(demo, "computing")
    demo.wait("() => Number(document.querySelector('.scrub input').value) > 0")


def parameters(tree: dict[str, Any]) -> list[float]:
    """Return the numbers of parameters in the order of the optimizer's table."""
    return [at(tree, address) for address in WEIGHTS]


def test_a_training_goes_on_while_runner_and_page_come_and_go(demo: Demo, runs: tuple[Server, Runner]) -> None:
    _, runner = runs
    demo.open(f"{LINK}&steps={STEPS}")
    fresh(demo)
    demo.button("backprop.controls.train", steps=STEPS).click()
    waiting = bar(demo, "waiting")
    expect(waiting).to_contain_text(demo.text("runs.no_runner"))
    with runner() as process:
        hold(process, demo)
    bar(demo, "paused")
    before, reached = percent(demo), demo.last
    assert 0 < before < 100
    demo.page.reload(wait_until="domcontentloaded")
    bar(demo, "paused")
    # The records of the past are all there again.
    expect(demo.scrubber).to_have_attribute("max", str(reached))
    assert percent(demo) == before
    with runner():
        bar(demo, "completed")
    assert percent(demo) == 100
    expect(demo.scrubber).to_have_attribute("max", "2001")
    expect(demo.scrubber).to_have_value("2001")
    expect(demo.page.locator(".scrub output")).to_have_text(f"{STEPS} {demo.text('stage.transport.of', last=STEPS)}")
    *lines, end = told(demo, "/steps")
    assert [line["step"] for line in lines] == [*range(1, STEPS, EVERY), STEPS]
    tab(demo, "optimizer")
    for place in (2001, 1, reached, 1000):
        demo.seek(place)
        assert state_table(demo) == state_of(lines[place - 1])
    (run,) = told(demo)
    assert run["result"] == end and end["steps_done"] == STEPS
    assert end["parameters"] == lines[-1]["parameters"]


def test_a_training_is_stopped_goes_on_with_more_steps_and_is_removed(demo: Demo, runs: tuple[Server, Runner]) -> None:
    _, runner = runs
    demo.open(f"{LINK}&steps={STEPS}")
    fresh(demo)
    with runner() as process:
        demo.button("backprop.controls.train", steps=STEPS).click()
        hold(process, demo)
        bar(demo, "computing").get_by_role("button", name=demo.text("runs.stop"), exact=True).click()
        bar(demo, "stopping")
        process.send_signal(signal.SIGCONT)
        cancelled = bar(demo, "cancelled")
        assert 0 < told(demo)[0]["step"] < STEPS
        cancelled.get_by_role("button", name=demo.text("runs.on"), exact=True).click()
        completed = bar(demo, "completed")
        completed.get_by_role("spinbutton").fill("600")
        completed.get_by_role("button", name=demo.text("runs.on"), exact=True).click()
        expect(demo.page.locator(".scrub output")).to_contain_text(str(STEPS + 600))
        completed = bar(demo, "completed")
    # It is the training that nobody stopped.
    whole = TRAINING | {"steps": STEPS + 600, "trace": {"every": STEPS}}
    end = demo.ask("/v1/train", whole)
    tab(demo, "optimizer")
    table = state_table(demo)
    assert [table[address][-1] for address in WEIGHTS] == parameters(end["parameters"])
    demo.page.locator("details.mine > summary").click()
    expect(demo.page.locator("details.mine li")).to_have_count(1)
    completed.get_by_role("button", name=demo.text("runs.remove"), exact=True).click()
    expect(demo.page.locator("details.mine li, section.run")).to_have_count(0)
    assert demo.server.get("/v1/runs").json["count"] == 0


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


@pytest.mark.parametrize(("status", "device"), [("queued", "desktop"), ("completed", "phone")])
def test_axe_finds_nothing_in_the_bar_of_a_run(visit: Visit, status: str, device: str) -> None:
    entry = {"id": RUN, "kind": "train", "status": status, "step": 30, "of": 90, "loss": 0.5, "remaining_seconds": 70.0}

    def answer(route: Route) -> None:
        if "/steps" not in route.request.url:
            route.fulfill(json=entry)
        elif status == "completed":
            end = {"status": status, "reason": "", "steps_done": 30, "loss": 0.5, "parameters": {}}
            route.fulfill(body=json.dumps(end), content_type="application/x-ndjson")

    demo = visit("backprop", **DEVICES[device])
    demo.page.route("**/v1/runs/**", answer)
    demo.open(f"{LINK}&mode=training&run={RUN}")
    demo.page.get_by_role("progressbar").wait_for()
    fresh(demo)
    assert findings(demo) == []
    assert percent(demo) == 33
    width = demo.run("() => document.documentElement.scrollWidth - innerWidth")
    assert width <= 0
