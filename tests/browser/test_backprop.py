"""The Backprop lab: each number on edges, neurons and in tables is the service's."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import Visit
from tests.browser.tab import Demo, number, numbers, shown
from tests.support import head, xor

SAMPLES = [[1, 0], [0, 0], [0, 1], [1, 1]]
TARGETS = [[1], [0], [1], [0]]
"""The samples in the order of the lab, which begins with the one of Heaton's example."""
ONE = xor(inputs=SAMPLES[:1], targets=TARGETS[:1])
ALL = xor(inputs=SAMPLES, targets=TARGETS, reduction="sum")
INCLUDE = {"include": ["layers", "input_gradients", "per_sample"]}
GRADIENTS, TRAIN = "/v1/gradients", "/v1/train"
WEIGHTS = [f"hidden.kernel[{i}][{j}]" for i in (0, 1) for j in (0, 1)] + [
    "hidden.bias[0]",
    "hidden.bias[1]",
    "output.kernel[0][0]",
    "output.kernel[1][0]",
    "output.bias[0]",
]


def at(tree: dict[str, Any], address: str) -> float:
    """Return the number of a weight in a tree of parameters."""
    layer, name, *places = re.split(r"[.\[\]]+", address.removesuffix("]"))
    found = tree[layer][name]
    for place in places:
        found = found[int(place)]
    return float(found)


def written(demo: Demo, address: str) -> list[float]:
    """Return the numbers in the picture at a weight: its value and its gradient."""
    return numbers(demo.page.locator(f'svg [data-edge="{address}"]'))


def tab(demo: Demo, name: str) -> Locator:
    """Open a tab of the evidence, and return it."""
    demo.page.get_by_role("tab", name=demo.text(f"backprop.tabs.{name}"), exact=True).click()
    return demo.page.get_by_role("tabpanel")


def fresh(demo: Demo) -> None:
    """Wait until the numbers are those of the present weights."""
    demo.page.locator(".network:not(.stale)").wait_for()
    expect(demo.page.locator("svg text.value.known")).to_be_visible()


@pytest.fixture
def backprop(visit: Visit) -> Demo:
    """Return the lab as it opens: XOR with Heaton's weights, one sample, all numbers known."""
    demo = visit("backprop")
    fresh(demo)
    return demo


def stream(demo: Demo, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of a training, which the test itself asks for."""
    content = json.dumps(body).encode()
    answer = demo.server.send(head(TRAIN, len(content), Accept="application/x-ndjson") + content)
    text = answer.body
    if "chunked" in str(answer.headers):
        text = b"".join(part for part in re.split(rb"(?:^|\r\n)[0-9a-f]+\r\n", text))
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def test_the_numbers_on_edges_and_neurons_are_those_of_the_service(backprop: Demo) -> None:
    answer = backprop.ask(GRADIENTS, ONE | INCLUDE)
    for address in WEIGHTS:
        assert written(backprop, address) == [at(ONE["parameters"], address), at(answer["gradients"], address)]
    hidden, output = answer["layers"]
    names = backprop.page.locator("g.neuron")
    expect(names).to_have_count(5)
    expected = [
        *([inputs, delta] for inputs, delta in zip(SAMPLES[0], answer["input_gradients"][0], strict=True)),
        *zip(hidden["pre_activation"][0], hidden["output"][0], hidden["delta"][0], strict=True),
        (output["pre_activation"][0][0], output["output"][0][0], output["delta"][0][0]),
    ]
    assert [numbers(each) for each in names.all()] == [[float(x) for x in each] for each in expected]
    assert number(backprop.page.locator("svg g:has(> text.value)")) == answer["loss"]
    # The example of the book: its output, and the sum and the delta of its output neuron.
    assert output["output"][0][0] == pytest.approx(0.7549, abs=1e-4)
    assert abs(output["delta"][0][0]) == pytest.approx(0.0453, abs=1e-4)


def test_a_pass_goes_forward_and_back_along_the_edges(visit: Visit) -> None:
    demo = visit("backprop", reduced_motion="no-preference")
    fresh(demo)
    assert demo.last == 6
    demo.page.locator("body").press("Home")
    assert written(demo, WEIGHTS[0]) == [ONE["parameters"]["hidden"]["kernel"][0][0]]
    expect(demo.page.locator(".said")).to_have_attribute("data-phase", "input")
    seen = []
    for _ in range(6):
        demo.button("stage.transport.step").click()
        demo.wait("at => document.querySelector('.scrub input').value === String(at)", len(seen) + 1)
        seen.append(demo.page.locator(".said").get_attribute("data-phase"))
    assert seen == ["forward", "forward", "loss", "backward", "backward", "update"]
    assert len(written(demo, WEIGHTS[0])) == 2
    demo.button("stage.transport.play").click()
    demo.wait("() => document.querySelector('svg .pulse')")
    demo.page.locator(".said[data-phase=update]").wait_for()


def test_a_batch_is_told_sample_by_sample(backprop: Demo) -> None:
    backprop.page.get_by_label(backprop.text("backprop.controls.samples"), exact=True).select_option("-1")
    answer = backprop.ask(GRADIENTS, ALL | INCLUDE)
    expect(backprop.page.locator("svg text.value")).to_have_attribute("data-value", str(answer["loss"]))
    weights, neurons, losses = tab(backprop, "numbers").locator("table").all()
    assert [numbers(row) for row in weights.locator("tbody tr").all()] == [
        [at(ALL["parameters"], address), at(answer["gradients"], address)]
        for address in weights.locator("tbody th").all_inner_texts()
    ]
    found = [numbers(row) for row in neurons.locator("tbody tr").all()]
    expected = [[SAMPLES[i][unit], answer["input_gradients"][i][unit]] for unit in (0, 1) for i in range(4)]
    for layer, units in zip(answer["layers"], (2, 1), strict=True):
        rows = [
            [layer[key][i][unit] for key in ("pre_activation", "output", "delta")]
            for unit in range(units)
            for i in range(4)
        ]
        expected += rows
    assert found == [[float(each) for each in row] for row in expected]
    assert numbers(losses) == [*answer["per_sample"]["loss"], answer["loss"]]


def test_a_click_on_a_weight_derives_its_gradient(backprop: Demo) -> None:
    address = "output.kernel[0][0]"
    backprop.page.locator(f'svg [data-edge="{address}"]').click()
    body = ONE | {"parameter": address, "learning_rate": 0.7, "language": "en"}
    answer = backprop.ask("/v1/gradients/explain", body)
    part = backprop.page.get_by_role("tabpanel")
    meaning = part.locator(".meaning")
    expect(meaning.locator("data")).to_have_attribute("value", str(answer["meanings"][0]["gradient"]))
    expect(meaning).to_contain_text(answer["meanings"][0]["text"].replace("`", ""))
    advice = answer["meanings"][0]["advice"]
    expect(meaning.locator(".advice")).to_contain_text(backprop.text(f"backprop.advice.{advice}"))
    steps = part.locator(".derivation li[data-id]")
    expect(steps).to_have_count(len(answer["steps"]))
    told = {step["id"]: step for step in answer["steps"]}
    for step in steps.all():
        wanted = told[step.get_attribute("data-id") or ""]
        assert step.locator("p").inner_text() == wanted["text"].replace("`", "")
        formulas = step.locator("annotation").all_text_contents()
        assert formulas[-1] == wanted["numbers"]
    # Pointing at the formula of a neuron points at it in the picture.
    steps.first.hover()
    expect(backprop.page.locator("svg .pointed")).not_to_have_count(0)


def test_the_error_curve_has_the_gradient_as_its_slope(backprop: Demo) -> None:
    address = "hidden.kernel[0][1]"
    value = at(ONE["parameters"], address)
    gradient = at(backprop.ask(GRADIENTS, ONE)["gradients"], address)
    label = backprop.text("backprop.curve.label", weight=address, value=shown(value), slope=shown(gradient))
    expect(backprop.page.get_by_role("img", name=label, exact=True)).to_be_visible()
    body = ONE | {"along": [{"parameter": address, "range": [-4, 4], "resolution": 81}], "language": "en"}
    answer = backprop.ask("/v1/landscape", body)
    for text in answer["axes"][0]["texts"]:
        expect(backprop.page.get_by_text(text.replace("`", ""), exact=True)).to_be_visible()


def test_a_gradient_is_checked_against_values(backprop: Demo) -> None:
    backprop.button("backprop.check.run").click()
    part = backprop.page.locator(".check")
    expect(part.locator(".verdict.right")).to_be_visible()
    claimed = backprop.ask(GRADIENTS, ONE)["gradients"]["hidden"]["kernel"]
    body = ONE | {"claimed": {"hidden": {"kernel": claimed}}, "language": "en"}
    answer = backprop.ask("/v1/gradients/check", body)
    expect(part.locator(".verdict")).to_contain_text(answer["text"].replace("`", ""))
    expect(part.get_by_text(answer["checks"][0]["curve"]["text"], exact=True)).to_be_visible()
    # A gradient of one's own with the wrong sign is judged wrong, in the service's words.
    part.locator("summary").click()
    wrong = {"output": {"bias": [-backprop.ask(GRADIENTS, ONE)["gradients"]["output"]["bias"][0]]}}
    part.locator("textarea").fill(json.dumps(wrong))
    backprop.button("backprop.check.judge").click()
    answer = backprop.ask("/v1/gradients/check", ONE | {"claimed": wrong, "language": "en"})
    expect(part.locator(".verdict.wrong")).to_contain_text(answer["text"].replace("`", ""))


def test_a_weight_is_edited_by_hand(backprop: Demo) -> None:
    field = backprop.page.get_by_label(backprop.text("backprop.weight.value"), exact=True)
    field.fill("-1.25")
    field.press("Enter")
    parameters = json.loads(json.dumps(ONE["parameters"]))
    parameters["hidden"]["kernel"][0][1] = -1.25
    answer = backprop.ask(GRADIENTS, ONE | {"parameters": parameters})
    expect(backprop.page.locator("svg text.value")).to_have_attribute("data-value", str(answer["loss"]))
    fresh(backprop)
    for address in WEIGHTS:
        assert written(backprop, address) == [at(parameters, address), at(answer["gradients"], address)]
    backprop.button("backprop.weight.restore").click()
    loss = backprop.ask(GRADIENTS, ONE)["loss"]
    expect(backprop.page.locator("svg text.value")).to_have_attribute("data-value", str(loss))


def training(**changes: Any) -> dict[str, Any]:
    """Return the request of the lab's training, some keys changed."""
    return ALL | {
        "seed": 0,
        "optimizer": {"type": "momentum", "learning_rate": 0.7},
        "steps": 500,
        "trace": {"include": ["gradients", "updates", "parameters", "state", "batch"]},
    } | changes  # fmt: skip


def state_table(demo: Demo) -> dict[str, list[float]]:
    """Return the optimizer's table: gradient, state, update and new value of each weight."""
    table = demo.page.get_by_role("region", name=demo.text("backprop.optimizer.state"))
    names = table.locator("tbody tr.name").all_inner_texts()
    return dict(zip(names, map(numbers, table.locator("tbody tr:not(.name)").all()), strict=True))


def state_of(line: dict[str, Any]) -> dict[str, list[float]]:
    trees = [line["gradients"], *(tree for tree in line["state"].values() if isinstance(tree, dict))]
    trees += [line["updates"], line["parameters"]]
    return {address: [at(tree, address) for tree in trees] for address in WEIGHTS}


def test_a_training_is_shown_step_by_step_and_none_is_left_out(backprop: Demo) -> None:
    backprop.button("backprop.controls.train", steps=500).click()
    *steps, end = stream(backprop, training())
    assert [step["step"] for step in steps] == list(range(1, 501)) and end["status"] == "completed"
    expect(backprop.scrubber).to_have_attribute("max", "500")
    tab(backprop, "optimizer")
    expect(backprop.page.get_by_role("tabpanel")).to_contain_text(end["reason"])
    # All of them are in the curve of the losses, and any of them can be gone to.
    points = backprop.page.locator(".loss svg path").first.get_attribute("d") or ""
    assert len(re.findall(r"[ML]", points)) >= 2
    for step in (1, 2, 73, 499, 500):
        backprop.seek(step)
        assert state_table(backprop) == state_of(steps[step - 1])
    backprop.seek(250)
    backprop.page.locator("body").press("ArrowLeft")
    expect(backprop.scrubber).to_have_value("249")
    assert state_table(backprop) == state_of(steps[248])
    backprop.page.locator("body").press("ArrowRight")
    backprop.page.locator("body").press("ArrowRight")
    assert state_table(backprop) == state_of(steps[250])
    # The picture shows the weights after the step, and the gradients that the service has for them.
    fresh(backprop)
    parameters = steps[250]["parameters"]
    answer = backprop.ask(GRADIENTS, ONE | {"parameters": parameters})
    expect(backprop.page.locator("svg text.value")).to_have_attribute("data-value", str(answer["loss"]))
    for address in WEIGHTS:
        assert written(backprop, address) == [at(parameters, address), at(answer["gradients"], address)]


def test_a_running_training_is_drawn_live(visit: Visit) -> None:
    demo = visit("backprop", reduced_motion="no-preference")
    fresh(demo)
    demo.button("backprop.controls.train", steps=500).click()
    demo.wait("() => Number(document.querySelector('.scrub input').value) > 3")
    demo.button("stage.transport.pause").click()
    step = demo.position()
    (*steps, _) = stream(demo, training())
    tab(demo, "optimizer")
    assert state_table(demo) == state_of(steps[step - 1])


def test_the_decision_boundary_is_asked_for_and_drawn(visit: Visit) -> None:
    demo = visit("backprop/mode=training&step=500&steps=500&sample=-1")
    fresh(demo)
    expect(demo.scrubber).to_have_value("500")
    (_, *_, last, _) = stream(demo, training())
    loss = demo.ask(GRADIENTS, ALL | {"parameters": last["parameters"]})["loss"]
    expect(demo.page.locator("svg text.value")).to_have_attribute("data-value", str(loss))
    expect(demo.page.locator(".boundary g.sample")).to_have_count(4)
    demo.wait("() => document.querySelector('.boundary path.cut').getAttribute('d').length > 20")


def test_conventions_change_signs_and_means(backprop: Demo) -> None:
    backprop.page.get_by_label(backprop.text("backprop.controls.samples"), exact=True).select_option("-1")
    backprop.page.get_by_text(backprop.text("stage.more"), exact=True).click()
    backprop.page.get_by_label(backprop.text("backprop.more.reduction"), exact=True).select_option("mean")
    backprop.page.get_by_label(backprop.text("backprop.more.convention"), exact=True).select_option("heaton")
    answer = backprop.ask(GRADIENTS, ALL | {"reduction": "mean"})
    assert answer["gradients"]["output"]["bias"][0] == pytest.approx(
        backprop.ask(GRADIENTS, ALL)["gradients"]["output"]["bias"][0] / 4
    )
    expect(backprop.page.locator("svg text.value")).to_have_attribute("data-value", str(answer["loss"]))
    for address in WEIGHTS:
        assert written(backprop, address) == [at(ALL["parameters"], address), -at(answer["gradients"], address)]
    expect(backprop.page.get_by_role("tabpanel").locator(".meaning")).to_contain_text("−∂L/∂w")


def test_the_computational_graph_has_every_operation_of_the_service(backprop: Demo) -> None:
    backprop.button("backprop.bar.graph").click()
    answer = backprop.ask("/v1/graph", ONE | {"detail": "operations", "language": "en"})
    nodes = answer["nodes"]
    expect(backprop.page.locator("svg [data-node]")).to_have_count(len(nodes))
    weight = next(each for each in nodes if each.get("adjoint") is not None and each["shape"] == [2, 2])
    backprop.page.locator(f'svg [data-node="{weight["name"]}"]').press("Enter")
    told = backprop.page.locator(".graph dl")
    expect(told).to_contain_text(str(weight["name"]))
    adjoint = told.locator("dt", has_text=backprop.text("backprop.graph.adjoint")).locator("+ dd").inner_text()
    for row, expected in zip(json.loads(adjoint), weight["adjoint"], strict=True):
        assert row == pytest.approx(expected, rel=1e-5)


def test_points_of_ones_own_are_read_or_explained(visit: Visit) -> None:
    demo = visit("backprop/data=own")
    demo.page.locator(".boundary g.sample").first.wait_for()
    before = demo.page.locator(".boundary g.sample").count()
    area = demo.page.get_by_label(demo.text("backprop.controls.own"), exact=True)
    area.fill(f"{area.input_value()}\n0.9, 0.9, 1")
    expect(demo.page.locator(".boundary g.sample")).to_have_count(before + 1)
    area.fill("0, 0, 1\n0, zero, 0")
    mistake = demo.text("backprop.csv.number", line=2, found="zero")
    expect(demo.page.get_by_text(mistake, exact=True)).to_be_visible()


@pytest.mark.parametrize("data", ["line", "circles", "moons", "spiral"])
def test_each_set_of_data_has_a_network_that_learns_it(visit: Visit, data: str) -> None:
    demo = visit(f"backprop/data={data}&sample=-1&steps=30&points=20")
    fresh(demo)
    demo.button("backprop.controls.train", steps=30).click()
    expect(demo.scrubber).to_have_attribute("max", "30")
    tab(demo, "optimizer")
    expect(demo.page.get_by_role("tabpanel").locator(".status.completed")).to_be_visible()
    before, after = (demo.seek(step) or number(demo.page.locator("dt + dd:has(data)").first) for step in (1, 30))
    assert after < before
