"""The examples of CONTRIBUTING.md do what they say: one declaration, and everything knows it."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from flask.cli import cli as flask

from service.observing.access import log_requests

ROOT = Path(__file__).parents[1]
SECTIONS = re.findall(r"## How to add (.*?)\n(.*?)(?=\n## )", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
SNIPPETS = {
    thing: found[0] for thing, text in SECTIONS if (found := re.findall(r"```python\n(.*?)```", text, re.DOTALL))
}
"""The first example of each section, by what it adds."""

ACTIVATION = """
import json, sys
from service.engine.network import activations as module
from service.engine.graph.operations import log1p
exec(sys.stdin.read(), vars(module) | {"log1p": log1p})
from service.app import create_app
from service.config import Settings
from service.openapi import describe
client = create_app(Settings(log_requests=False)).test_client()
entry = client.get("/v1/activations/signed_log?from=0.75&to=1&points=2").json
answer = client.post("/v1/gradients", json={
    "network": {"layers": [{"type": "activation", "activation": "signed_log"}]},
    "inputs": [[0.75]], "targets": [[0.0]], "loss": "half_squared_error", "include": ["input_gradients"],
}).json
choices = describe()["components"]["schemas"]["ActivationName"]["enum"]
print(json.dumps({"entry": entry, "answer": answer, "listed": "signed_log" in choices}))
"""


LOSS = """
import json, sys
from service.engine.network import losses as module
exec(sys.stdin.read(), vars(module))
from service.app import create_app
from service.config import Settings
from service.openapi import describe
client = create_app(Settings(log_requests=False)).test_client()
body = {
    "network": {"layers": [{"type": "activation", "activation": "linear"}]},
    "inputs": [[1.0, 5.0]], "targets": [[2.0, 2.0]], "loss": {"type": "quantile", "level": 0.75},
    "include": ["input_gradients"],
}
document = describe()["components"]["schemas"]
print(json.dumps({
    "entry": client.get("/v1/losses/quantile").json,
    "answer": client.post("/v1/gradients", json=body).json,
    "wrong": client.post("/v1/gradients", json=body | {"loss": {"type": "quantile", "level": 1.5}}).json,
    "options": list(document["QuantileLoss"]["properties"]),
}))
"""

LAYER = """
import json, sys
from service.engine.network.layers import core as module
from service.engine.network.layers.declaration import initializer, regularizer, same
exec(sys.stdin.read(), vars(module) | {"initializer": initializer, "regularizer": regularizer, "same": same})
from service.app import create_app
from service.config import Settings
from service.openapi import describe
client = create_app(Settings(log_requests=False)).test_client()
body = {
    "network": {"layers": [{"type": "feature_gain", "name": "s", "factor_regularizer": {"l2": 0.5}}]},
    "parameters": {"s": {"factor": [2.0, 3.0]}},
    "inputs": [[1.0, 5.0], [2.0, 7.0]], "targets": [[0.0, 0.0], [0.0, 0.0]],
    "loss": "half_squared_error", "reduction": "sum", "include": ["per_sample"],
}
print(json.dumps({
    "entry": client.get("/v1/layers/feature_gain").json,
    "answer": client.post("/v1/gradients", json=body).json,
    "wrong": client.post("/v1/gradients", json=body | {"parameters": {"s": {"factor": [2.0]}}}).json,
    "options": list(describe()["components"]["schemas"]["FeatureGainLayer"]["properties"]),
}))
"""

OPTIMIZER = """
import json, sys
from service.engine.descent.optimizers import signed as module
exec(sys.stdin.read(), vars(module))
from service.app import create_app
from service.config import Settings
from service.openapi import describe
client = create_app(Settings(log_requests=False)).test_client()
body = {
    "network": {"layers": [{"type": "dense", "name": "w", "units": 2, "use_bias": False}]},
    "parameters": {"w": {"kernel": [[1.0, -2.0]]}}, "inputs": [[1.0]], "targets": [[0.0, 0.0]],
    "loss": "half_squared_error", "optimizer": {"type": "signum", "learning_rate": 0.25, "beta": 0.5},
    "trace": {"include": ["updates", "effective_learning_rate"]},
}
whole = client.post("/v1/train", json=body | {"steps": 4}).json
first = client.post("/v1/train", json=body | {"steps": 3}).json
del body["parameters"]
last = client.post("/v1/train", json=body | {"steps": 1, "checkpoint": first["checkpoint"]}).json
document = describe()["components"]["schemas"]
print(json.dumps({
    "entry": client.get("/v1/optimizers/signum").json,
    "whole": whole, "last": last,
    "wrong": client.post("/v1/train", json=body | {"optimizer": {"type": "signum", "beta": 1.0}, "steps": 1}).json,
    "listed": "signum" in document["OptimizerName"]["enum"],
    "options": list(document["SignumOptimizer"]["properties"]),
}))
"""

WORD = """
import json, sys
from service.engine.functions import vocabulary as module
exec(sys.stdin.read(), vars(module))
from service.app import create_app
from service.config import Settings
client = create_app(Settings(log_requests=False)).test_client()
body = {"expression": "logit(x)", "points": [0.25, 0.0, 2.0], "include": ["symbolic"]}
print(json.dumps({
    "entry": client.get("/v1/functions/vocabulary/logit").json,
    "answer": client.post("/v1/functions/gradient", json=body).json,
    "wrong": client.post("/v1/functions/gradient", json=body | {"expression": "logit(x, 2)"}).json,
}))
"""

PRESET = """
import json, sys
from service.engine.functions import presets as module
exec(sys.stdin.read(), vars(module))
from service.app import create_app
from service.config import Settings
client = create_app(Settings(log_requests=False)).test_client()
entry = client.get("/v1/functions/presets/leaning_bowl").json
body = {"expression": entry["expression"], "variables": entry["variables"]}
(trial,) = entry["trials"]
print(json.dumps({
    "entry": entry,
    "stationary": client.post("/v1/functions/stationary", json=body | {"box": entry["domain"]}).json,
    "descend": client.post("/v1/functions/descend", json=body | {
        "starts": entry["starts"], "optimizers": [trial["optimizer"]], "steps": trial["steps"],
    }).json,
}))
"""


KIND = """
import json, sys
from service.engine import options as module
exec(sys.stdin.read(), vars(module))
from service.engine.building import OddInteger
from service.engine.network.activations import activations
window = OddInteger(name="window", default=3, minimum=1, description="how many neighbours count")
activations.declare("windowed", en="A test.", zh="测试。", options=(window,))(lambda x, window: x * float(window))
from service.app import create_app
from service.config import Settings
from service.openapi import describe
client = create_app(Settings(log_requests=False)).test_client()
def ask(value):
    return client.post("/v1/forward", json={
        "network": {"layers": [{"type": "activation", "activation": {"type": "windowed", "window": value}}]},
        "inputs": [[2.0]],
    }).json
print(json.dumps({
    "taken": [ask(value) for value in window.accepted()],
    "refused": {json.dumps(value): ask(value) for value in window.refused() if value != 1e300},
    "entry": client.get("/v1/activations/windowed").json,
    "described": describe()["components"]["schemas"]["WindowedActivation"]["properties"]["window"],
}))
"""


MISTAKE = """
import json, sys
from service.engine.insight.mistakes import factors as module
from service.engine.texts import LANGUAGES, texts_of
for language in LANGUAGES:
    for part in ("what", "change"):
        texts_of(language)[f"mistake.percent.{part}"] = {"other": f"{part} {language}."}
exec(sys.stdin.read(), vars(module))
from service.app import create_app
from service.config import Settings
client = create_app(Settings(log_requests=False)).test_client()
body = {
    "network": {"layers": [{"type": "dense", "name": "w", "units": 1, "use_bias": False}]},
    "parameters": {"w": {"kernel": [[0.5], [-0.25]]}}, "inputs": [[1.0, 3.0], [2.0, 7.0]], "targets": [[1.0], [0.0]],
    "loss": "mse",
}
gradient = client.post("/v1/gradients", json=body).json["gradients"]["w"]["kernel"]
claimed = {"w": {"kernel": [[100.0 * number for number in row] for row in gradient]}}
answer = client.post("/v1/gradients/verify", json=body | {"claimed": claimed, "language": "zh"}).json
print(json.dumps({"entry": client.get("/v1/mistakes/percent").json, "diagnoses": answer["diagnoses"]}))
"""


ENDPOINT = """
import json, sys
from schemas import functions as schemas
from service.api import functions as views
schema, view = json.load(sys.stdin)
exec(schema, found := dict(vars(schemas)))
exec(view, vars(views) | found)
from service.app import create_app
from service.config import Settings
from service.openapi import describe
client = create_app(Settings(log_requests=False)).test_client()
body = {"expression": "x^2 + 3y", "points": [[1, 0], [2, 0]]}
# log has no value at -1, where the formula of its slope gives -1.
lost = {"expression": "log(x)", "points": [[1], [0], [-1]]}
document = describe()
components = document["components"]["schemas"]
print(json.dumps({
    "answers": [client.post("/v1/functions/slopes", json=body).json for _ in range(2)],
    "lost": client.post("/v1/functions/slopes", json=lost).json,
    "wrong": [
        client.post("/v1/functions/slopes", json=change).json["errors"][0]
        for change in (body | {"points": [[1]]}, {"points": [[1]]}, body | {"point": [1]}, body | {"expression": "x +"})
    ],
    "method": client.get("/v1/functions/slopes").status_code,
    "described": document["paths"]["/v1/functions/slopes"]["post"],
    "request": list(components["SlopesRequest"]["properties"]),
    "response": list(components["SlopesResponse"]["properties"]),
}))
"""


OPERATION = """
import json, sys
from service.engine.graph.operations import arithmetic as module
exec(sys.stdin.read(), vars(module))
from service.app import create_app
from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import OPERATIONS, Graph
x = Graph("float64").input("x", ())
values = [x.graph.apply("reciprocal", x)]
for _ in range(2):
    values += differentiate(values[-1], [x]).nodes
found = interpret(values, {x: module.np.array(4.0)})
print(json.dumps({"numpy": OPERATIONS["reciprocal"].numpy, "values": [float(found[each]) for each in values]}))
"""
PROGRAMS = {
    "a kind of option": KIND,
    "an operation": OPERATION,
    "an activation": ACTIVATION,
    "a loss": LOSS,
    "a layer": LAYER,
    "an optimizer": OPTIMIZER,
    "a word to expressions": WORD,
    "a preset": PRESET,
    "a mistake": MISTAKE,
    "an endpoint": ENDPOINT,
}
"""A kind stands first: blocks import it from `building`. The endpoint stands last: it imports the schemas, which know
what was declared before."""
TOGETHER = """
import contextlib, functools, io, json, sys
programs = json.load(sys.stdin)
namespaces, found = {}, {}
for thing, (declaring, _, snippet) in programs.items():
    sys.stdin = io.StringIO(snippet)
    exec(declaring, namespaces.setdefault(thing, {}))
from service import openapi
openapi.describe = functools.cache(openapi.describe)
for thing, (_, asking, _) in programs.items():
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(asking, namespaces[thing])
    found[thing] = json.loads(printed.getvalue())
print(json.dumps(found))
"""


def run(program, snippet):
    # In a process of its own, because a declaration cannot be taken back.
    # It is no worker of pytest-xdist, where `every` would give each thing no test of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, input=snippet, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def schema_and_view():
    """Return the two examples of the section about endpoints."""
    return re.findall(r"```python\n(.*?)```", dict(SECTIONS)["an endpoint"], re.DOTALL)


@pytest.fixture(scope="module")
def added():
    """Run all programs in one process, declarations first, and return the findings of each."""
    snippets = SNIPPETS | {"an endpoint": json.dumps(schema_and_view())}
    first = "from service.app import create_app\n"
    programs = {}
    for thing, program in PROGRAMS.items():
        declaring, asking = program.split(first)
        programs[thing] = [declaring, first + asking, snippets[thing]]
    return run(TOGETHER, json.dumps(programs))


def test_an_operation_is_one_declaration(added):
    # 1/x, -1/x² and 2/x³ at 4.
    assert added["an operation"] == {"numpy": "np.reciprocal(a)", "values": [0.25, -0.0625, 0.03125]}


def test_an_activation_is_one_declaration(added):
    found = added["an activation"]
    value, slope = math.log(1.75), 1.0 / 1.75
    assert found["entry"]["curve"]["value"][0] == pytest.approx(value, rel=1e-15)
    assert found["entry"]["curve"]["derivative"][0] == slope
    assert found["answer"]["outputs"] == [[pytest.approx(value, rel=1e-15)]]
    assert found["answer"]["input_gradients"] == [[pytest.approx(value * slope, rel=1e-15)]]
    assert found["listed"]


def test_a_loss_is_one_declaration(added):
    found = added["a loss"]
    # 1 is 1 too low and costs 0.75, 5 is 3 too high and costs 3 quarters; the mean of both.
    assert found["answer"]["loss"] == 0.75
    assert found["answer"]["input_gradients"] == [[-0.375, 0.125]]
    assert found["entry"]["name"] == "quantile"
    assert found["wrong"]["errors"][0]["pointer"] == "#/loss/level"
    assert found["options"] == ["type", "level"]


def test_a_layer_is_one_declaration(added):
    found = added["a layer"]
    answer = found["answer"]
    # dL/ds = sum of s x^2 over the samples, and 2 * 0.5 s of the penalty.
    assert answer["gradients"]["s"]["factor"] == [2.0 * (1.0 + 4.0) + 2.0, 3.0 * (25.0 + 49.0) + 3.0]
    assert answer["per_sample"]["gradients"]["s"]["factor"] == [[2.0, 75.0], [8.0, 147.0]]
    assert found["entry"]["parameters"] == {"factor": "[features]"}
    (error,) = found["wrong"]["errors"]
    assert error["pointer"] == "#/parameters/s/factor"
    assert error["detail"].endswith("it takes [2] because the inputs have 2 features")
    assert {"type", "factor_initializer", "factor_regularizer"} <= set(found["options"])


def test_an_optimizer_is_one_declaration(added):
    found = added["an optimizer"]
    whole, last = found["whole"], found["last"]
    # Each number is its own gradient and goes 0.25 towards 0 at each step: from 1 to 0, and from -2 to -1.
    assert [step["updates"]["w"]["kernel"] for step in whole["steps"]] == [[[-0.25, 0.25]]] * 4
    assert whole["parameters"] == {"w": {"kernel": [[0.0, -1.0]]}}
    assert whole["steps"][-1]["effective_learning_rate"] == 0.25
    assert whole["checkpoint"]["state"] == {"mean_gradient": {"w": {"kernel": [[0.40625, -1.34375]]}}}
    assert last["steps"] == whole["steps"][3:]
    assert last["checkpoint"] == whole["checkpoint"]
    assert found["entry"]["counter_example"] is False
    assert found["wrong"]["errors"][0]["pointer"] == "#/optimizer/beta"
    assert found["listed"]
    assert {"type", "learning_rate", "beta", "weight_decay", "maximize"} <= set(found["options"])


def test_a_word_is_one_declaration(added):
    found = added["a word to expressions"]
    inside, end, outside = found["answer"]["points"]
    assert inside["value"] == pytest.approx(-math.log(3.0), rel=1e-15)
    assert inside["gradient"] == [1.0 / 0.25 + 1.0 / 0.75]
    assert "problems" not in inside
    assert [problem["kind"] for problem in end["problems"]] == ["pole"]
    assert [problem["message"] for problem in outside["problems"]] == ["logit takes numbers between 0 and 1"]
    assert end["value"] is None
    assert outside["value"] is None
    (partial,) = found["answer"]["symbolic"]["gradient"]
    assert partial["expression"]
    assert found["entry"]["derivative"]
    assert "logit takes 1 argument" in found["wrong"]["errors"][0]["detail"]


def test_a_preset_is_one_declaration(added):
    found = added["a preset"]
    (minimum,) = found["stationary"]["points"]
    (stated,) = found["entry"]["minima"]
    assert minimum["point"] == stated["point"]
    assert minimum["value"] == stated["value"]
    assert minimum["classification"] == "minimum"
    assert minimum["eigenvalues"] == pytest.approx([1.0, 3.0])
    (only,) = found["descend"]["runs"]
    assert only["valley"] == 0
    assert found["descend"]["valleys"][0]["point"] == stated["point"]


def test_a_mistake_is_one_declaration(added):
    found = added["a mistake"]
    first = found["diagnoses"][0]
    assert first["mistakes"] == ["percent"]
    assert (first["text"], first["change"]) == ("what zh.", "change zh.")
    assert found["entry"]["example"] == {"wrong": "dW = 100 * X.T @ delta", "right": "dW = X.T @ delta"}


def test_a_kind_of_option_is_one_class(added):
    found = added["a kind of option"]
    assert [answer["outputs"] for answer in found["taken"]] == [[[2.0]], [[6.0]]]
    for value, problem in found["refused"].items():
        (error,) = problem["errors"]
        assert error["pointer"] == "#/network/layers/0/activation/window"
        assert f", got {value}" in error["detail"]
    assert found["refused"]["2"]["errors"][0]["detail"] == "takes an odd integer, got 2"
    (option,) = found["entry"]["options"]
    assert option == {
        "name": "window",
        "type": "integer",
        "required": False,
        "description": "how many neighbours count",
        "default": 3,
        "minimum": 1,
    }
    assert found["described"] == {
        "type": "integer",
        "minimum": 1,
        "not": {"multipleOf": 2},
        "default": 3,
        "description": "how many neighbours count",
    }


def test_an_endpoint_is_a_schema_and_a_view(added):
    found = added["an endpoint"]
    assert found["answers"] == [{"slopes": [[2.0, 3.0], [4.0, 3.0]], "finite": True, "warnings": []}] * 2
    assert found["lost"]["slopes"] == [[1.0], [None], [None]]
    assert not found["lost"]["finite"]
    (warning,) = found["lost"]["warnings"]
    assert (warning["code"], warning["quantity"]) == ("non_finite", "slopes[1]")
    assert "at 2 of the points" in warning["message"]
    assert [error["pointer"] for error in found["wrong"]] == ["#/points", "#/expression", "#/point", "#/expression"]
    assert found["wrong"][2]["detail"] == "unknown key; did you mean 'points'?"
    assert found["method"] == 405
    described = found["described"]
    assert described["description"] == "Compute the slope of a function along each of its variables."
    (example,) = described["responses"]["200"]["content"]["application/json"]["examples"].values()
    assert example["value"] == found["answers"][0]
    mistake = described["responses"]["default"]["content"]["application/problem+json"]["examples"]["mistake"]
    assert [error["pointer"] for error in mistake["value"]["errors"]] == ["#/points"]
    assert found["request"] == ["expression", "variables", "points"]
    assert found["response"] == ["slopes", "finite", "warnings"]


# --- how to debug ---------------------------------------------------------------------------------


def test_the_request_without_a_server_is_answered(capsys):
    (program,) = re.findall(r"<<'EOF'\n(.*?)EOF\n", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    try:
        exec(program, {})
    finally:
        log_requests(None)  # the application of the program logs
    printed = capsys.readouterr().out
    assert "200 OK receive;dur=" in printed
    assert '"gradients":' in printed


def words_of(command):
    """Return the words of a command of the document that the pattern takes out of it."""
    (words,) = re.findall(rf"^\.venv/bin/.*?{command}", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return words.split()


def test_flask_finds_the_application(capsys):
    try:
        flask.main([*words_of(r"flask (--app \S+)"), "routes"], standalone_mode=False)
    finally:
        log_requests(None)
    assert "/v1/gradients" in capsys.readouterr().out


# --- the generic tests take them up ---------------------------------------------------------------

ADDED = {
    "an activation": "signed_log",
    "a loss": "quantile",
    "a layer": "feature_gain",
    "an optimizer": "signum",
    "a kind of option": "OddInteger",
}
MISTAKES = {
    "an activation": ("- log1p(maximum(-x, 0.0))", "- with_slope(x, log1p(maximum(-x, 0.0)), x)"),
    "a loss": ("_average(maximum(", "_average(with_slope(error, error, error) + maximum("),
    "a layer": ("same(x * ", "same(with_slope(x, x, x) + x * "),
    "an optimizer": ("(1.0 - beta) * (", "beta * ("),
}
"""Three have a wrong slope, the optimizer's mean forgets too much."""
TESTS = """
import contextlib, json, sys
import pytest
from service.engine import options
from service.engine.descent.optimizers import signed
from service.engine.graph.operations import log1p, with_slope
from service.engine.network import activations, losses, regularizers
from service.engine.network.layers import core
from tests.engine.descent.references import REFERENCES
snippets, (schema, *written), *commands = json.load(sys.stdin)
modules = {"an activation": activations, "a loss": losses, "a layer": core, "an optimizer": signed}
modules |= {"a kind of option": options}
for thing, snippet in snippets:
    vars(modules[thing]).update(log1p=log1p, with_slope=with_slope)
    exec(snippet, vars(modules[thing]))
REFERENCES["spoilt_signum"] = REFERENCES["signum"]
window = options.OddInteger(name="window", default=3, minimum=1, description="A test.")
regularizers.regularizers.declare(
    "with_OddInteger", en="A test.", zh="测试。", latex=r"k \\sum w^2", options=(window,)
)(lambda w, window: regularizers.ridge(w, float(window)))
# The schemas know what was declared before they are imported.
from schemas import functions as schemas
from service.api import functions as views
exec(schema, vars(schemas))
for view in written:
    exec(view, vars(views) | vars(schemas))
from service import openapi
from tests import support
document = json.loads(json.dumps(openapi.describe()))
support.openapi_document = lambda: document

class Outcomes:
    def __init__(self):
        self.tests, self.reports = [], []
    def pytest_collection_finish(self, session):
        self.tests = [item.nodeid for item in session.items]
    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.reports.append((report.nodeid, report.outcome, str(report.longrepr)))
found = []
with contextlib.redirect_stdout(sys.stderr):
    for command in commands:
        outcomes = Outcomes()
        pytest.main([*command, "-p", "no:cacheprovider", "--tb=line"], plugins=[outcomes])
        found.append(vars(outcomes))
print(json.dumps(found))
"""
GENERIC_TESTS = (
    "engine/network/test_activation_formulas.py",
    "engine/network/test_activations.py",
    "engine/network/test_digits.py",
    "engine/network/test_losses.py",
    "engine/network/test_losses_to_the_last_digit.py",
    "engine/network/test_layer_declarations.py",
    "engine/network/test_layer_gradients.py",
    "engine/network/test_derivatives.py",
    "engine/descent/test_optimizers.py",
    "schemas/test_fields.py",
    "api/test_bounds_of_options.py",
    "api/test_catalogue.py",
)
DOCUMENT = "tests/api/test_openapi.py"


@pytest.fixture(scope="module")
def tested():
    """Run the tests of all that is added, as it stands and once more with a mistake under another name.

    In one process, because it takes two seconds to import the service and the tests. Return the reports on all tests,
    and the names of the tests that the document's command for the debugger finds.
    """
    snippets = [(thing, SNIPPETS[thing]) for thing in ADDED]
    for thing, change in MISTAKES.items():
        assert change[0] in SNIPPETS[thing]
        changed = SNIPPETS[thing].replace(*change)
        snippets.append((thing, re.sub(rf'(?<=[" ]){ADDED[thing]}(?=["(])', f"spoilt_{ADDED[thing]}", changed)))
    schema, view = schema_and_view()
    right, wrong = '{"slopes": slopes, ', '{"slope": slopes, '
    assert right in view
    spoilt = (
        view.replace(right, wrong).replace("function_slopes", "spoilt_function_slopes").replace("/slopes", "/spoilt")
    )
    names = " or ".join([*ADDED.values(), "function_slopes"])
    tests = [*(f"tests/{test}" for test in GENERIC_TESTS), DOCUMENT, "-k", names]
    debugged = [*words_of(r"pytest (\S+ -k \S+) -x --pdb"), "--co"]
    ran, collected = run(TESTS, json.dumps([snippets, [schema, view, spoilt], tests, debugged]))
    return ran["reports"], collected["tests"]


def test_pytest_finds_the_test(tested):
    _, found = tested
    assert found
    assert all("::test_" in test for test in found)


def test_the_generic_tests_take_up_what_is_added_and_find_mistakes_in_it(tested):
    every = [report for report in tested[0] if not report[0].startswith(DOCUMENT)]
    spoilt = {test for test, outcome, _ in every if outcome == "failed" and "spoilt_" in test}
    found = [(test, outcome, message) for test, outcome, message in every if "spoilt_" not in test]
    assert [(test, message) for test, outcome, message in found if outcome == "failed"] == []
    # Nobody else has a quantile loss: its digits wait for a second formula.
    waiting = "test_every_loss_has_a_second_formula[quantile]"
    assert [test.split("::")[1] for test, outcome, _ in found if outcome == "skipped"] == [waiting]
    for name in ADDED.values():
        assert len({test.split("::")[0] for test, *_ in found if name in test}) >= 3
    for thing in MISTAKES:
        assert any(f"spoilt_{ADDED[thing]}" in test for test in spoilt)


def test_the_tests_of_the_document_take_up_an_endpoint_and_find_a_mistake_in_it(tested):
    """The mistake is a response that has another key than its schema."""
    every = [report for report in tested[0] if report[0].startswith(DOCUMENT)]
    found = [(test, outcome, message) for test, outcome, message in every if "spoilt" not in test]
    assert [(test, message) for test, outcome, message in found if outcome != "passed"] == []
    for test in ("every_operation_says", "examples_give_the_answers", "problems_that_stand"):
        assert any(test in name for name, *_ in found)
    assert {name.split("[")[0] for name, outcome, _ in every if outcome == "failed"} == {
        f"{DOCUMENT}::test_examples_are_as_their_schemas_say",
        f"{DOCUMENT}::test_examples_give_the_answers_that_stand_beside_them",
    }
