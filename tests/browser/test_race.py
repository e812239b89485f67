"""The Race lab: each number that it shows is the service's."""

import math
import re
import time
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import Visit
from tests.browser.tab import Demo, number, numbers, shown

EXPRESSION = "(x^2 + y - 11)^2 + (x + y^2 - 7)^2"
BOX = [[-5, 5], [-5, 5]]
OPTIMIZERS = [
    {"type": "sgd", "learning_rate": 0.01},
    {"type": "momentum", "learning_rate": 0.01},
    {"type": "rmsprop", "learning_rate": 0.1},
    {"type": "adam", "learning_rate": 0.2},
]
STEPS = 150
RACE = {"expression": EXPRESSION, "starts": [[0, -3]], "optimizers": OPTIMIZERS, "steps": STEPS}
"""The first race of the lab."""
DESCEND, SURFACE, GRADIENT = "/v1/functions/descend", "/v1/functions/surface", "/v1/functions/gradient"
STATIONARY = "/v1/functions/stationary"


def full(numbers: list[float]) -> list[float]:
    return [float(each) for each in numbers]


def titled(place: Locator) -> list[float]:
    """Return all coordinates in a part of the page, in full precision."""
    return [float(each) for each in (place.get_attribute("title") or "").split(", ")]


def panel(demo: Demo, key: str) -> Locator:
    """Open a panel of the evidence, and return it."""
    part = demo.page.locator("details.panel").filter(
        has=demo.page.get_by_role("heading", name=demo.text(key), exact=True)
    )
    if part.get_attribute("open") is None:
        part.locator("summary").first.click()
    return part


def answered(demo: Demo) -> None:
    """Wait until the ends of all balls are there."""
    panel(demo, "race.ends").locator("data, td").first.wait_for()


def ends(demo: Demo) -> list[tuple[str, float, list[float] | None]]:
    """Return optimizer, shown value and valley of each ball on the page."""
    found = []
    for row in panel(demo, "race.ends").locator(".runs > li").all():
        valley = row.locator("p.end .number")
        found.append((row.locator("strong").inner_text(), number(row), titled(valley) if valley.count() else None))
    return found


def told(answer: dict[str, Any], step: int | None = None) -> list[tuple[str, float, list[float] | None]]:
    """Return the same as `ends` from an answer of the service: at the end, or after `step` steps."""
    found = []
    for run in answer["runs"]:
        value = run["value"] if step is None or step >= run["steps_done"] else run["values"][step]
        valley = None if run["valley"] is None else full(answer["valleys"][run["valley"]]["point"])
        found.append((str(OPTIMIZERS[run["optimizer"]]["type"]), value, valley))
    return found


@pytest.fixture
def race(visit: Visit) -> Demo:
    """Return the lab as it opens, its first race answered and at its start."""
    demo = visit("race/view=2d")
    answered(demo)
    demo.page.keyboard.press("Home")
    return demo


def test_it_opens_first_and_runs(visit: Visit) -> None:
    demo = visit(reduced_motion="no-preference")
    demo.button("stage.transport.pause").wait_for()
    demo.wait("() => Number(document.querySelector('.scrub input').value) > 0")
    assert demo.last == STEPS
    assert demo.page.locator("nav a[aria-current]").inner_text() == demo.text("race.title")
    # 3-D is drawn where the browser can.
    expect(demo.page.get_by_role("button", name="3-D")).to_have_attribute("aria-pressed", "true")


def test_who_ended_where_is_what_the_service_says(race: Demo) -> None:
    answer = race.ask(DESCEND, RACE | {"trace": {"every": 1}})
    assert ends(race) == told(answer, 0)
    race.seek(37)
    assert ends(race) == told(answer, 37)
    race.page.locator("body").press("End")
    assert ends(race) == told(answer)
    best = panel(race, "race.ends").locator("li").filter(has=race.page.locator(".best"))
    assert best.locator("strong").inner_text() == OPTIMIZERS[answer["best"]]["type"]
    # Not one of the four ended on the hill.
    minima = [(3, 2), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848127)]
    for _, value, valley in ends(race):
        assert value < 1e-2 and valley is not None
        assert min(math.dist(valley, minimum) for minimum in minima) < 1e-5


def test_the_largest_stable_step_stands_beside_each_learning_rate(race: Demo) -> None:
    def largest(x: float, y: float) -> float:
        hessian = [[12 * x**2 + 4 * y - 42, 4 * (x + y)], [4 * (x + y), 12 * y**2 + 4 * x - 26]]
        return float(np.linalg.eigvalsh(hessian)[-1])

    answer = race.ask(DESCEND, RACE)
    points = [valley["point"] for valley in answer["valleys"]]
    curvatures = race.ask(GRADIENT, {"expression": EXPRESSION, "points": points, "include": ["hessian"]})["points"]
    rows = panel(race, "race.stable").locator("tbody tr")
    expect(rows).to_have_count(len(points) + 1)
    for row, point, curvature in zip(rows.all(), points, curvatures, strict=False):
        assert numbers(row) == [curvature["eigenvalues"][-1], curvature["largest_stable_step"]]
        np.testing.assert_allclose(numbers(row), [largest(*point), 2 / largest(*point)], rtol=1e-9)
    listed = race.page.request.get(f"{race.origin}/v1/optimizers").json()["optimizers"]
    factors = {optimizer["name"]: optimizer["stable_factor"] for optimizer in listed}
    for index, run in enumerate(answer["runs"]):
        factor = factors[OPTIMIZERS[index]["type"]]
        if factor is None:  # its steps are scaled by earlier gradients
            expect(race.page.locator(".optimizers .one").nth(index).locator(".bound")).to_have_count(0)
            expect(panel(race, "race.stable")).to_contain_text(OPTIMIZERS[index]["type"])
            continue
        bound = curvatures[run["valley"]]["largest_stable_step"]
        rate = OPTIMIZERS[index]["learning_rate"]
        beside = race.page.locator(".optimizers .one").nth(index).locator(".bound")
        expect(beside).to_contain_text(f"= {shown(bound)}")
        assert rate < bound * factor / 2


def test_a_typed_function_is_raced_on_and_a_wrong_one_is_explained_beside_it(race: Demo) -> None:
    typed = race.page.get_by_label(race.text("race.type_function"))
    expression = "x^4/4 - x^2 + y^2 + x*y/3"
    typed.fill(expression)
    typed.press("Enter")
    expect(race.page.locator(".host")).to_have_attribute("aria-label", re.compile(re.escape(expression)))
    answer = race.ask(DESCEND, RACE | {"expression": expression})
    expect(panel(race, "race.ends").locator(".now data").last).to_have_attribute(
        "value", str(answer["runs"][3]["value"])
    )
    assert ends(race) == told(answer)

    race.expect_status(422)
    typed.fill("x^2 + foo(y)")
    problem = race.server.post(b'{"expression": "x^2 + foo(y)", "box": [-1, 1]}', STATIONARY).json
    fault = race.page.locator(".function").get_by_role("alert")
    expect(fault).to_contain_text(problem["errors"][0]["detail"])
    expect(typed).to_have_attribute("aria-invalid", "true")
    # The picture before is still there, and typing mends it.
    assert ends(race) == told(answer)
    typed.fill(expression)
    expect(fault).to_have_count(0)


def start_of(demo: Demo) -> list[float]:
    """Return the start in the fields of the control rail."""
    return [
        float(demo.page.get_by_label(demo.text("race.start_of", name=name, number=1), exact=True).input_value())
        for name in ("x", "y")
    ]


def moved(demo: Demo, before: list[float]) -> list[float]:
    """Wait until the start has moved and the runs from there have ended; return the new start."""
    demo.wait(
        "before => [...document.querySelectorAll('fieldset .row input')].some((each, i) => +each.value !== before[i])",
        before,
    )
    start = start_of(demo)
    answer = demo.ask(DESCEND, RACE | {"starts": [start]})
    # The new ends come on their own; until then the old ones stand there.
    end = time.monotonic() + 10
    while ends(demo) != told(answer) and time.monotonic() < end:
        demo.page.keyboard.press("End")
        demo.page.wait_for_timeout(20)
    assert ends(demo) == told(answer)
    return start


def test_a_click_moves_the_start_and_a_drag_takes_it_along(race: Demo) -> None:
    picture = race.page.locator(".host")
    box = picture.bounding_box()
    assert box is not None
    place = {"x": box["width"] * 0.4, "y": box["height"] * 0.35}
    picture.click(position=place)
    clicked = moved(race, [0, -3])
    assert -5 < clicked[0] < 0 < clicked[1] < 5
    mouse = race.page.mouse
    mouse.move(box["x"] + place["x"], box["y"] + place["y"])
    mouse.down()
    mouse.move(box["x"] + place["x"] + 30, box["y"] + place["y"], steps=3)
    mouse.move(box["x"] + place["x"] + 60, box["y"] + place["y"], steps=3)
    mouse.up()
    dragged = moved(race, clicked)
    assert dragged[0] > clicked[0] and dragged[1] == pytest.approx(clicked[1], abs=0.02)
    # The same by keyboard, and by numbers.
    picture.press("Shift+ArrowUp")
    higher = moved(race, dragged)
    assert higher == pytest.approx([dragged[0], dragged[1] + 0.25], abs=1e-9)
    race.page.get_by_label(race.text("race.start_of", name="x", number=1), exact=True).fill("1.5")
    race.page.keyboard.press("Enter")
    assert moved(race, higher) == [1.5, higher[1]]


def test_a_click_on_the_relief_moves_the_start_too(visit: Visit) -> None:
    demo = visit("race")
    answered(demo)
    picture = demo.page.locator(".host")
    # The scene is loaded when its own buttons do something.
    demo.wait("() => document.querySelector('.host canvas').width > 300")
    box = picture.bounding_box()
    assert box is not None
    picture.click(position={"x": box["width"] * 0.5, "y": box["height"] * 0.5})
    start = moved(demo, [0, -3])
    assert all(-5 <= each <= 5 for each in start)
    # The eye moves without the start.
    demo.page.get_by_role("button", name=demo.text("race.zoom_in")).click()
    picture.press("Alt+ArrowLeft")
    demo.wait("() => location.hash.includes('eye=')")
    assert start_of(demo) == start


def test_stationary_points_are_found_and_classified(race: Demo) -> None:
    part = panel(race, "race.critical")
    answer = race.ask(STATIONARY, {"expression": EXPRESSION, "variables": ["x", "y"], "box": BOX})
    assert answer["counts"] == {"minimum": 4, "saddle": 4, "maximum": 1}
    rows = part.locator("tbody tr")
    expect(rows).to_have_count(9)
    for row, point in zip(rows.all(), answer["points"], strict=True):
        assert race.text(f"race.class_{point['classification']}") in row.locator("th").inner_text()
        expected = [*point["point"], point["value"], *point["eigenvalues"]]
        step = point.get("largest_stable_step")
        assert numbers(row) == full(expected if step is None else [*expected, step])


def test_basins_are_counted_for_each_optimizer(visit: Visit) -> None:
    link = "race/view=2d&steps=40&expression=x^4-2x^2+y^2&box=[[-2,2],[-1,1]]&points=[[1,1]]"
    demo = visit(link)
    answered(demo)
    part = panel(demo, "race.basins")
    body = {"expression": "x^4-2x^2+y^2", "x": [-2, 2], "y": [-1, 1], "resolution": 61, "levels": 0, "basins": True}
    for optimizer in (OPTIMIZERS[0], OPTIMIZERS[3]):
        part.get_by_role("button", name=str(optimizer["type"])).click()
        basins = demo.ask(SURFACE, body | {"optimizer": optimizer, "steps": 40})["basins"]
        places = {key: basins[key] for key in ("arrived", "moving", "diverged")}
        expect(part.locator(".counts")).to_have_text(demo.text("race.basins_say", **places))
        valleys = part.locator("ol li .number[title]")
        assert [titled(each) for each in valleys.all()] == [full(each["point"]) for each in basins["valleys"]]
        assert [int(each.inner_text()) for each in part.locator("ol li b").all()][: len(basins["valleys"])] == [
            each["runs"] for each in basins["valleys"]
        ]


def test_a_divergence_is_explained_with_numbers(visit: Visit) -> None:
    optimizers = [{"type": "sgd", "learning_rate": 0.05}, {"type": "adam", "learning_rate": 0.2}]
    demo = visit('race/view=2d&optimizers=[{"type":"sgd","learning_rate":0.05},{"type":"adam","learning_rate":0.2}]')
    answered(demo)
    answer = demo.ask(DESCEND, RACE | {"optimizers": optimizers})
    run = answer["runs"][0]
    assert run["status"] == "diverged"
    row = panel(demo, "race.ends").locator("li.diverged")
    expect(row).to_contain_text(demo.text("race.diverged_after", steps=run["steps_done"]))
    expect(row).to_contain_text(run["reason"])
    point = answer["valleys"][answer["runs"][1]["valley"]]["point"]
    asked = {"expression": EXPRESSION, "points": [point], "include": ["hessian"]}
    bound = demo.ask(GRADIENT, asked)["points"][0]["largest_stable_step"]
    expect(demo.page.locator(".optimizers .bound").first).to_have_text(
        re.compile(re.escape(demo.text("race.bound_over", rate=shown(0.05), bound=shown(bound))))
    )
    demo.page.locator("body").press("End")
    expect(demo.page.locator(".legend .lost")).to_have_text(demo.text("race.diverged"))


def test_a_step_is_shown_in_slow_motion_with_the_numbers_of_the_trace(race: Demo) -> None:
    part = panel(race, "race.step_title")
    part.get_by_role("button", name="adam").click()
    race.seek(12)
    answer = race.ask(DESCEND, RACE | {"trace": {"every": 1, "include": ["gradients", "state"]}})
    run = answer["runs"][3]
    first, second, third, fourth = part.locator("ol > li").all()
    expect(first).to_contain_text(race.text("race.after_steps", steps=12))
    assert numbers(first) == full([*run["path"][12], *run["gradients"][12]])
    memory = [name for name in run["state"] if isinstance(run["state"][name][0], list)]
    kept = [name for name in memory if not name.startswith("corrected_")]
    assert len(kept) == 2
    expected = [number for name in kept for entry in (12, 13) for number in run["state"][name][entry]]
    assert numbers(second) == full(expected)
    assert len(numbers(third)) == 4
    assert numbers(fourth) == full([*run["path"][12], *run["path"][13], run["values"][12], run["values"][13]])
    # Adam's own arithmetic: the move from what is shown.
    mean, square = np.array(numbers(third)[:2]), np.array(numbers(third)[2:])
    np.testing.assert_allclose(
        np.array(run["path"][12]) - 0.2 * mean / (np.sqrt(square) + 1e-8), run["path"][13], rtol=1e-9
    )


def test_a_sweep_is_a_map_of_ends(race: Demo) -> None:
    part = panel(race, "race.sweep")
    field = part.get_by_role("group", name=race.text("race.sweep_says"))
    part.get_by_text(race.text("stage.table"), exact=True).click()
    expect(part.locator("tbody tr").nth(60)).to_be_attached()  # the table is made once it is opened
    rows = [numbers(row) for row in part.locator("tbody tr").all()]
    statuses = part.locator("tbody tr td:last-child").all_inner_texts()
    assert len(rows) > 60 and {"diverged"} < set(statuses)
    chosen = [0, 1, 40, len(rows) - 1]
    optimizers = [{"type": "momentum", "learning_rate": rows[i][0], "momentum": rows[i][1]} for i in chosen]
    answer = race.ask(DESCEND, RACE | {"optimizers": optimizers})
    for i, run in zip(chosen, answer["runs"], strict=True):
        assert statuses[i] == run["status"]
        assert rows[i][2] == pytest.approx(math.nan if run["value"] is None else run["value"], rel=0, nan_ok=True)
    # By keyboard one walks over the map, hears of a field, and races with its pair.
    field.press("ArrowRight")
    heard = part.locator(".told").inner_text()
    names = [f"η {shown(row[0])}, momentum {shown(row[1])}:" for row in rows]
    found = [i for i, name in enumerate(names) if heard.startswith(name)]
    assert len(found) == 1, (heard, names)
    field.press("Enter")
    race.wait('rate => decodeURIComponent(location.hash).includes(`"learning_rate":${rate}`)', rows[found[0]][0])


def test_hundreds_of_balls_are_counted_by_the_valley_that_they_end_in(visit: Visit) -> None:
    demo = visit("race/view=2d&starts=random&count=100&steps=60")
    answered(demo)
    starts = {"random": {"box": BOX, "count": 100, "seed": 0}}
    answer = demo.ask(DESCEND, RACE | {"starts": starts, "steps": 60})
    rows = panel(demo, "race.ends").locator("tbody tr")
    valleys = min(8, len(answer["valleys"]))
    for index, row in enumerate(rows.all()):
        runs = [run for run in answer["runs"] if run["optimizer"] == index]
        expected = [sum(run["valley"] == place for run in runs) for place in range(valleys)]
        lost = sum(run["status"] == "diverged" for run in runs)
        away = sum(run["valley"] is None and run["status"] != "diverged" for run in runs)
        assert [int(cell) for cell in row.locator("td").all_inner_texts()] == [*expected, away, lost]


def test_a_pointer_asks_for_gradient_and_curvature(race: Demo) -> None:
    part = panel(race, "race.here")
    expect(part.locator("dd")).not_to_have_count(0)
    first = numbers(part)
    race.page.locator(".host").hover(position={"x": 250, "y": 260})
    race.wait("first => Number(document.querySelector('dd data').value) !== first", first[0])
    expect(part.locator("dd data").nth(1)).to_be_visible()
    race.wait("() => !document.querySelector('.progress .bar')")
    found = numbers(part)
    answer = race.ask(GRADIENT, {"expression": EXPRESSION, "points": [found[:2]], "include": ["hessian"]})["points"][0]
    hessian = [each for row in answer["hessian"] for each in row]
    expected = [*found[:2], answer["value"], *answer["gradient"], answer["norm"], *hessian, *answer["eigenvalues"]]
    assert found[: len(expected)] == full(expected)
