"""The examples of CONTRIBUTING.md do what they say: one declaration, and everything knows it."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)

ACTIVATION = """
import json, sys
from service.engine.network import activations as module
from service.engine.graph.operations import sqrt
exec(sys.stdin.read(), vars(module) | {"sqrt": sqrt})
from service.app import create_app
from service.config import Settings
from service.openapi import describe
client = create_app(Settings(log_requests=False)).test_client()
entry = client.get("/v1/activations/bent_identity?from=0.75&to=1&points=2").json
answer = client.post("/v1/gradients", json={
    "network": {"layers": [{"type": "activation", "activation": "bent_identity"}]},
    "inputs": [[0.75]], "targets": [[0.0]], "loss": "half_squared_error", "include": ["input_gradients"],
}).json
choices = describe()["components"]["schemas"]["ActivationName"]["enum"]
print(json.dumps({"entry": entry, "answer": answer, "listed": "bent_identity" in choices}))
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
    "network": {"layers": [{"type": "scale", "name": "s", "factor_regularizer": {"l2": 0.5}}]},
    "parameters": {"s": {"factor": [2.0, 3.0]}},
    "inputs": [[1.0, 5.0], [2.0, 7.0]], "targets": [[0.0, 0.0], [0.0, 0.0]],
    "loss": "half_squared_error", "reduction": "sum", "include": ["per_sample"],
}
print(json.dumps({
    "entry": client.get("/v1/layers/scale").json,
    "answer": client.post("/v1/gradients", json=body).json,
    "wrong": client.post("/v1/gradients", json=body | {"parameters": {"s": {"factor": [2.0]}}}).json,
    "options": list(describe()["components"]["schemas"]["ScaleLayer"]["properties"]),
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
from service.engine.network.activations import activations
window = module.OddInteger(name="window", default=3, minimum=1, description="how many neighbours count")
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


ENDPOINT = """
import json, sys
from schemas import functions as schemas
from schemas.common import warnings_field
from schemas.tensor import TensorAnswerField
from service.api import functions as views
from service.api.examples import Example
schema, view = json.load(sys.stdin)
exec(schema, vars(schemas) | {"warnings_field": warnings_field, "TensorAnswerField": TensorAnswerField}, found := {})
exec(view, vars(views) | {"Example": Example} | found)
from service.app import create_app
from service.config import Settings
from service.openapi import describe
client = create_app(Settings(log_requests=False)).test_client()
body = {"expression": "x^2 + 3y", "points": [[1, 0], [2, 0]]}
document = describe()
components = document["components"]["schemas"]
print(json.dumps({
    "answers": [client.post("/v1/functions/slopes", json=body).json for _ in range(2)],
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


def run(program, snippet):
    # In a process of its own, because a declaration cannot be taken back.
    finished = subprocess.run(
        [sys.executable, "-c", program], input=snippet, capture_output=True, text=True, cwd=ROOT, check=True
    )
    return json.loads(finished.stdout)


def test_an_activation_is_one_declaration():
    found = run(ACTIVATION, SNIPPETS[0])
    value, slope = 0.5 * 0.25 + 0.75, 0.75 / 2.5 + 1.0
    assert found["entry"]["curve"]["value"][0] == value
    assert found["entry"]["curve"]["derivative"][0] == slope
    assert found["answer"]["outputs"] == [[value]]
    assert found["answer"]["input_gradients"] == [[value * slope]]
    assert found["listed"]


def test_a_layer_is_one_declaration():
    found = run(LAYER, SNIPPETS[1])
    answer = found["answer"]
    # dL/ds = sum of s x^2 over the samples, and 2 * 0.5 s of the penalty.
    assert answer["gradients"]["s"]["factor"] == [2.0 * (1.0 + 4.0) + 2.0, 3.0 * (25.0 + 49.0) + 3.0]
    assert answer["per_sample"]["gradients"]["s"]["factor"] == [[2.0, 75.0], [8.0, 147.0]]
    assert found["entry"]["parameters"] == {"factor": "[features]"}
    (error,) = found["wrong"]["errors"]
    assert error["pointer"] == "#/parameters/s/factor"
    assert error["detail"].endswith("it takes [2] because the inputs have 2 features")
    assert {"type", "factor_initializer", "factor_regularizer"} <= set(found["options"])


def test_an_optimizer_is_one_declaration():
    found = run(OPTIMIZER, SNIPPETS[2])
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


def test_a_word_is_one_declaration():
    found = run(WORD, SNIPPETS[3])
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


def test_a_preset_is_one_declaration():
    found = run(PRESET, SNIPPETS[4])
    (minimum,) = found["stationary"]["points"]
    (stated,) = found["entry"]["minima"]
    assert minimum["point"] == stated["point"]
    assert minimum["value"] == stated["value"]
    assert minimum["classification"] == "minimum"
    assert minimum["eigenvalues"] == pytest.approx([1.0, 3.0])
    (only,) = found["descend"]["runs"]
    assert only["valley"] == 0
    assert found["descend"]["valleys"][0]["point"] == stated["point"]


def test_a_kind_of_option_is_one_class():
    (snippet,) = (snippet for snippet in SNIPPETS if "(Integer)" in snippet)
    found = run(KIND, snippet)
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


def test_an_endpoint_is_a_schema_and_a_view():
    section = re.search(r"## How to add an endpoint\n(.*?)\n## ", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    found = run(ENDPOINT, json.dumps(re.findall(r"```python\n(.*?)```", section[1], re.DOTALL)))
    assert found["answers"] == [{"slopes": [[2.0, 3.0], [4.0, 3.0]], "warnings": []}] * 2
    assert [error["pointer"] for error in found["wrong"]] == ["#/points", "#/expression", "#/point", "#/expression"]
    assert found["wrong"][2]["detail"] == "unknown key; did you mean 'points'?"
    assert found["method"] == 405
    described = found["described"]
    assert described["description"] == "Compute the slope of a function along each of its variables."
    (example,) = described["responses"]["200"]["content"]["application/json"]["examples"].values()
    assert example["value"] == found["answers"][0]
    assert found["request"] == ["expression", "variables", "points"]
    assert found["response"] == ["slopes", "warnings"]
