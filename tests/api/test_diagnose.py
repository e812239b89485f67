"""`/v1/gradients/diagnose`: what a caller gets for what they send."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from service.api.examples import GRADIENTS
from service.engine.findings import findings
from tests.conftest import MakeClient, Post
from tests.engine.findings import EXAMPLES, XOR, body, dense, line, normal, trace
from tests.support import answered, assert_described, assert_problem, every, faults, strict_json

PATH = "/v1/gradients/diagnose"
FINDING = {"code", "severity", "text", "meaning", "advice", "source"}
DOCS = Path(__file__).parents[2] / "docs" / "examples"
HEALTHY = body(dense(8, "tanh"), dense(1))
SWEEP = {"depths": [1, 3], "activations": ["tanh", "relu"], "seeds": [0, 1], "units": 6, "samples": 8}

DATA_SENT = {key: value for key, value in SWEEP.items() if key != "samples"}


def codes(answer: dict[str, Any], *severities: str) -> list[str]:
    return [each["code"] for each in answer["findings"] if not severities or each["severity"] in severities]


def named(answer: dict[str, Any], code: str) -> dict[str, Any]:
    """Return the first finding with a code."""
    found: dict[str, Any] = next(each for each in answer["findings"] if each["code"] == code)
    return found


def refused(post: Post, request: dict[str, Any]) -> dict[str, str]:
    return faults(assert_problem(post(request, PATH), "invalid", request))


# --- findings -----------------------------------------------------------------------------------


@every("code", [finding.name for finding in findings])
def test_every_finding_is_found_with_all_that_there_is_to_say(
    post: Post, schemas: dict[str, Any], client: FlaskClient, code: str
) -> None:
    answer = answered(post, EXAMPLES[code], PATH)
    assert_described(schemas, "DiagnoseResponse", answer)
    found = next(each for each in answer["findings"] if each["code"] == code)
    assert found.keys() >= FINDING
    assert all(found[key] for key in FINDING)
    entry = client.get(f"/v1/findings/{code}").json
    assert found["severity"] in entry["severities"]
    bound = entry["severities"][found["severity"]]
    assert found.get("threshold") == bound or code == "dead_units"
    if bound is not None and found["value"] is not None and code not in ("dead_units", "saturated_left"):
        assert found["value"] <= bound if entry["below"] else found["value"] >= bound
    chinese = answered(post, EXAMPLES[code] | {"language": "zh"}, PATH)
    (told,) = [
        each for each in chinese["findings"] if each["code"] == code and each.get("layer") == found.get("layer")
    ][:1]
    assert any("\u4e00" <= letter <= "\u9fff" for letter in told["text"])
    assert told["meaning"] == entry["description"]["zh"] and told["advice"] == entry["advice"]["zh"]


@every(
    "code",
    [
        *("constant_output", "one_class", "probabilities_as_logits", "gradient_blocked", "disconnected", "dead_units"),
        *(
            "unusual_targets",
            "unreachable_targets",
            "normalize_weights",
            "no_probabilities",
            "no_rates",
            "symmetric_units",
            "non_finite",
        ),
    ],
)
def test_a_warning_of_a_gradient_is_the_finding_in_the_same_words(post: Post, code: str) -> None:
    warning = next(each for each in answered(post, EXAMPLES[code], "/v1/gradients")["warnings"] if each["code"] == code)
    found = next(each for each in answered(post, EXAMPLES[code], PATH)["findings"] if each["code"] == code)
    assert found["text"] == warning["message"]
    assert found.get("layer") == warning.get("layer")


@every("code", ["loss_grew", "full_batch"])
def test_a_warning_of_a_training_is_the_finding_in_the_same_words(post: Post, code: str) -> None:
    warnings = answered(post, EXAMPLES[code], "/v1/train")["warnings"]
    (warning,) = [each for each in warnings if each["code"] == code]
    (found,) = [each for each in answered(post, EXAMPLES[code], PATH)["findings"] if each["code"] == code]
    assert found["text"] == warning["message"]


def test_findings_come_with_the_gravest_first_and_give_the_verdict(post: Post) -> None:
    answer = answered(post, EXAMPLES["badly_scaled_inputs"], PATH)
    ranks = ["problem", "warning", "note"]
    severities = [each["severity"] for each in answer["findings"]]
    assert severities == sorted(severities, key=ranks.index)
    assert answer["verdict"] == "problem"
    assert answered(post, HEALTHY, PATH)["verdict"] == "healthy"


@every(
    "name", ["lenet", "transformer_block", "character_lstm", "two_inputs_two_outputs", "residual_mlp", "spiral_adam"]
)
def test_the_examples_of_the_docs_are_healthy(post: Post, name: str) -> None:
    request = json.loads((DOCS / f"{name}.json").read_text())
    request = {key: value for key, value in request.items() if key not in ("include", "exclude", "trace")}
    answer = answered(post, request, PATH)
    assert answer["verdict"] == "healthy", answer["findings"]


def test_the_numbers_are_those_of_the_gradient(post: Post) -> None:
    request = {key: value for key, value in GRADIENTS["xor"].items() if key not in ("include", "exclude")}
    answer = answered(post, request, PATH)
    gradient = answered(post, request | {"include": ["layers", "norms"]}, "/v1/gradients")
    assert answer["loss"] == gradient["loss"] and answer["gradient_norm"] == gradient["gradient_norm"]
    for layer in answer["layers"]:
        assert layer["delta_norm"] == gradient["norms"]["deltas"][layer["name"]]
        parts = gradient["norms"]["gradients"][layer["name"]]
        assert layer["gradient_norm"] == pytest.approx(math.hypot(*parts.values()), rel=1e-12)
    first, last = (layer["delta_norm"] for layer in answer["layers"])
    assert answer["chain"] == {"layers": ["hidden", "output"], "ratio": first / last, "factor": first / last}


def test_the_same_request_gives_the_same_bytes_in_each_precision(post: Post) -> None:
    for dtype in ("float64", "float32"):
        request = EXAMPLES["vanishing_gradient"] | {"dtype": dtype}
        assert post(request, PATH).get_data() == post(request, PATH).get_data()
        assert "vanishing_gradient" in codes(answered(post, request, PATH))


def test_why_a_gradient_is_0_is_told(post: Post) -> None:
    def reason(request: dict[str, Any]) -> str:
        text: str = next(each for each in answered(post, request, PATH)["findings"] if each["code"] == "zero_gradient")[
            "text"
        ]
        return text.partition(": ")[2]

    assert reason(EXAMPLES["zero_gradient"]) == "the weights of layer 'dense_2', through which they act, are all 0"
    assert (
        reason(body(dense(2), dense(1)) | {"inputs": [[0, 0]] * 4})
        == "what comes into layer 'dense_1' is 0 for every sample"
    )
    exact = {"dense_1": {"kernel": [[0.0], [1.0]], "bias": [0.0]}}
    right = body(dense(1), parameters=exact) | {"targets": [[0], [1], [0], [1]]}
    assert reason(right) == "the outputs are what the targets want, so there is no error"
    assert reason(body(dense(2, "step"), dense(1))) == "layer 'dense_1' has the slope 0 for every sample"


# --- trainings ----------------------------------------------------------------------------------


def test_a_training_is_that_of_train(post: Post) -> None:
    request = line(0.05, 30)
    answer, trained = answered(post, request, PATH), answered(post, request, "/v1/train")
    training = answer["training"]
    assert {key: training[key] for key in ("status", "reason", "steps_done", "loss")} == {
        key: trained[key] for key in ("status", "reason", "steps_done", "loss")
    }
    assert training["curve"]["loss"] == [step["loss"] for step in trained["steps"]]
    assert answer["loss"] == trained["steps"][0]["loss"]
    assert not codes(answer, "warning", "problem")


def test_a_rate_above_two_over_the_curvature_is_told_with_the_limit(post: Post) -> None:
    found = next(
        each for each in answered(post, line(0.2, 20), PATH)["findings"] if each["code"] == "learning_rate_too_large"
    )
    x = np.array([[1.0, 1], [2, 1], [3, 1], [4, 1]])
    limit = 2.0 / np.linalg.eigvalsh(2.0 * x.T @ x / 4.0)[-1]
    assert found["value"] == pytest.approx(0.2 / limit, rel=1e-9)
    assert f"{limit:.6g}" in found["text"]


def test_a_trace_gives_the_findings_of_its_training(post: Post) -> None:
    request = line(0.5, 60)
    steps = answered(post, request | {"trace": {"include": ["updates", "parameters"]}}, "/v1/train")["steps"]
    of_trace = [each for each in answered(post, {"trace": steps}, PATH)["findings"] if each["code"] == "diverged"]
    of_training = [each for each in answered(post, request, PATH)["findings"] if each["code"] == "diverged"]
    assert of_trace == of_training
    assert "updates_too_large" in codes(answered(post, {"trace": steps}, PATH))


@every(
    ("request_", "code", "step"),
    [
        (trace([1.0, 0.5, None]), "diverged", 3),
        (trace([1.0, 0.5, 1e14]), "diverged", 3),
        (EXAMPLES["loss_rose"], "loss_rose", 30),
        (EXAMPLES["gradient_vanished"], "gradient_vanished", 11),
        (EXAMPLES["gradient_spike"], "gradient_spike", 11),
        (EXAMPLES["passed_plateau"], "passed_plateau", 1),
        (trace([1.0 - 0.02 * n for n in range(9)] + [0.84] * 100), "plateau", 9),
        (EXAMPLES["overfitting"], "overfitting", 10),
    ],
)
def test_the_step_is_told_at_which_something_went_wrong(
    post: Post, request_: dict[str, Any], code: str, step: int
) -> None:
    assert named(answered(post, request_, PATH), code)["step"] == step


@every(
    "losses",
    [
        np.geomspace(1.0, 1e-6, 200).tolist(),
        [1.0 / (1 + n) for n in range(500)],
        (np.geomspace(1.0, 0.01, 100) * (1.0 + 0.02 * np.sin(np.arange(100)))).tolist(),
        [0.7 * 0.9**n + 0.02 for n in range(300)],
    ],
)
def test_losses_that_fall_have_no_findings(post: Post, losses: list[float | None]) -> None:
    assert not codes(answered(post, trace(losses), PATH), "warning", "problem")


@every(
    "recipe",
    [
        {"optimizer": {"type": "adam", "learning_rate": 0.02}, "steps": 80},
        {"optimizer": {"type": "sgd", "learning_rate": 0.1}, "epochs": 12, "batch_size": 8},
    ],
    ids=["adam", "sgd"],
)
def test_trainings_that_learn_have_nothing_but_notes(post: Post, recipe: dict[str, Any]) -> None:
    inputs = np.random.default_rng(5).standard_normal((48, 3))
    targets = np.sin(inputs[:, :1]) + 0.3 * inputs[:, 1:2]
    data = {"inputs": inputs.tolist(), "targets": targets.tolist(), **recipe}
    for activation, start in (("tanh", "glorot_uniform"), ("relu", "he_normal")):
        hidden = dense(12, activation, kernel_initializer=start)
        answer = answered(post, body(hidden, hidden, dense(1)) | data, PATH)
        assert not codes(answer, "warning", "problem"), answer["findings"]
        assert answer["training"]["loss"] < 0.5 * answer["loss"]


def test_a_training_that_takes_too_long_tells_what_it_saw(make_client: MakeClient) -> None:
    client = make_client(max_seconds=0.5)
    response = client.post(PATH, json=line(1e-9, 1_000_000))
    assert response.status_code == 200
    assert response.json["status"] == "cancelled" and response.json["training"]["status"] == "cancelled"
    assert 0 < response.json["training"]["steps_done"] < 1_000_000
    assert "updates_too_small" in codes(response.json)


@pytest.mark.parametrize("request_", [HEALTHY, line(0.1, 5), trace([1.0, 0.5])], ids=["network", "training", "trace"])
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_what_has_no_time_at_all_is_told_so(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, request_: dict[str, Any], accept: str
) -> None:
    """The first turn of the work comes when its time is over."""
    monkeypatch.setattr("service.api.streaming.ENDING", 1e6)
    response = make_client().post(PATH, json=request_, headers={"Accept": accept}, buffered=True)
    problem = response.json if accept == "application/json" else strict_json(response.get_data())["problem"]
    assert problem["status"] == 503


# --- sweeps -------------------------------------------------------------------------------------


def test_a_sweep_has_a_network_for_each_combination(post: Post, schemas: dict[str, Any]) -> None:
    answer = answered(post, {"sweep": SWEEP}, PATH)
    assert_described(schemas, "DiagnoseResponse", answer)
    assert answer["networks"] == len(answer["runs"]) == 8
    keys = [(run["depth"], run["activation"]["type"], run["seed"]) for run in answer["runs"]]
    assert keys == [(d, a, s) for d in (1, 3) for a in ("tanh", "relu") for s in (0, 1)]
    for run in answer["runs"]:
        for name in ("gradient_norms", "delta_norms", "variances", "saturated", "dead"):
            assert len(run[name]) == run["depth"] + 1
    for row in answer["table"]:
        own = [run for run in answer["runs"] if (run["depth"], run["activation"]) == (row["depth"], row["activation"])]
        assert row["networks"] == 2
        assert row["ratio"] == pytest.approx(np.median([run["ratio"] for run in own]))


def test_a_network_of_a_sweep_is_what_a_single_diagnosis_of_it_is(post: Post) -> None:
    inputs, targets = normal(5, 3), normal(5, 2, seed=1)
    sweep = {"depths": [2], "activations": ["sigmoid"], "initializers": ["he_normal"], "seeds": [7], "units": 4}
    (run,) = answered(post, {"sweep": sweep, "inputs": inputs, "targets": targets}, PATH)["runs"]
    start = {"kernel_initializer": "he_normal"}
    layers = [
        dense(4, "sigmoid", name="hidden_1", **start),
        dense(4, "sigmoid", name="hidden_2", **start),
        dense(2, name="output", **start),
    ]
    alone = answered(post, body(*layers, seed=7) | {"inputs": inputs, "targets": targets}, PATH)
    assert run["loss"] == alone["loss"] and run["ratio"] == alone["chain"]["ratio"]
    assert run["gradient_norms"] == [layer["gradient_norm"] for layer in alone["layers"]]
    assert [each["code"] for each in run["findings"]] == codes(alone)


def test_a_sweep_is_streamed_network_by_network(post: Post) -> None:
    whole = answered(post, {"sweep": SWEEP}, PATH)
    response = post({"sweep": SWEEP}, PATH, Accept="application/x-ndjson")
    *lines, last = map(strict_json, response.get_data().splitlines())
    assert [each["step"] for each in lines] == list(range(1, 9))
    assert [each["run"] for each in lines] == whole["runs"]
    assert last["table"] == whole["table"] and last["status"] == "completed"


def test_findings_are_streamed_too(post: Post) -> None:
    whole = answered(post, EXAMPLES["badly_scaled_inputs"], PATH)
    response = post(EXAMPLES["badly_scaled_inputs"], PATH, Accept="application/x-ndjson")
    *lines, last = map(strict_json, response.get_data().splitlines())
    assert [each["finding"] for each in lines] == whole["findings"]
    assert last["verdict"] == whole["verdict"] and last["layers"] == whole["layers"]


@every("loss", ["binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_targets_of_a_sweep_suit_its_loss(post: Post, loss: str) -> None:
    answer = answered(post, {"sweep": SWEEP | {"outputs": 3}, "loss": loss}, PATH)
    assert {"unusual_targets", "no_probabilities", "one_class"}.isdisjoint(codes(answer))


def test_a_sweep_that_takes_too_long_has_the_networks_so_far(make_client: MakeClient) -> None:
    client = make_client(max_seconds=0.7)
    sweep = {
        "depths": list(range(1, 41)),
        "activations": ["tanh", "relu", "gelu"],
        "seeds": list(range(50)),
        "units": 32,
    }
    response = client.post(PATH, json={"sweep": sweep})
    assert response.status_code == 200
    assert response.json["status"] == "cancelled" and "networks were diagnosed" in response.json["reason"]
    assert 0 < response.json["networks"] == len(response.json["runs"]) < 6000


# --- what is refused ----------------------------------------------------------------------------


@every(
    ("request_", "pointer", "words"),
    [
        ({}, "#/network", "or send a sweep, or a trace"),
        (HEALTHY | {"steps": 3}, "#/steps", "without an optimizer"),
        (HEALTHY | {"optimizer": "sgd"}, "#/steps", "is required, or epochs"),
        (line(0.1, 3) | {"reduction": "none"}, "#/reduction", "mean or sum"),
        (HEALTHY | {"sweep": SWEEP}, "#/network", "no use beside a sweep"),
        (trace([1.0]) | {"sweep": SWEEP}, "#/trace", "no use beside a sweep"),
        (HEALTHY | {"trace": []}, "#/trace", "a list of 1 to"),
        ({"trace": [{"step": 1}]}, "#/trace/0/loss", "is required"),
        ({"trace": [{"step": 2, "loss": 1}, {"step": 2, "loss": 1}]}, "#/trace/1/step", "in their order"),
        ({"trace": [{"step": 1, "loss": 1, "lss": 1}]}, "#/trace/0/lss", "did you mean 'loss'"),
        ({"trace": [{"step": 1, "loss": "x"}]}, "#/trace/0/loss", "takes a number"),
        ({"sweep": SWEEP | {"depths": [0]}}, "#/sweep/depths/0", "at least 1"),
        ({"sweep": SWEEP | {"activations": ["sigmod"]}}, "#/sweep/activations/0", "did you mean 'sigmoid'"),
        ({"sweep": SWEEP, "targets": [[1]]}, "#/inputs", "beside targets"),
        ({"sweep": SWEEP, "inputs": [1, 2]}, "#/inputs", "one row per sample"),
        ({"sweep": SWEEP, "loss": {"a": "mse"}}, "#/loss", "takes one loss"),
        (
            {"sweep": DATA_SENT, "loss": "sparse_categorical_crossentropy", "inputs": [[1, 2]], "targets": [-1]},
            "#/targets/0",
            "a class index",
        ),
        (HEALTHY | {"targets": [[0], [1]]}, "#/targets", "shape"),
        (HEALTHY | {"include": ["layers"]}, "#/include", "unknown key"),
    ],
)
def test_what_does_not_fit_is_named(post: Post, request_: dict[str, Any], pointer: str, words: str) -> None:
    errors = refused(post, request_)
    assert pointer in errors and words in errors[pointer], errors
    errors = refused(post, copy.deepcopy(request_))  # the second time its recipe may be known
    assert pointer in errors


def test_a_step_may_be_a_whole_number_of_either_kind(post: Post) -> None:
    body = trace([1.0, 0.5, 0.25])
    floats = json.loads(json.dumps(body))
    for step in floats["trace"]:
        step["step"] = float(step["step"])
    assert answered(post, floats, PATH) == answered(post, body, PATH)


@every(
    ("sweep", "name"),
    [
        ({"depths": [1_000]}, "layers"),
        ({"depths": list(range(1, 101)), "activations": ["relu"] * 100, "seeds": list(range(100))}, "combinations"),
        ({"samples": 65_536, "features": 16_384}, "numbers to draw"),
        ({"samples": 65_536, "outputs": 16_384, "features": 1}, "numbers to draw"),
        ({"units": 16_384, "features": 2, "depths": [9]}, "parameters"),
    ],
)
def test_a_sweep_that_is_too_large_is_refused_at_once(post: Post, sweep: dict[str, Any], name: str) -> None:
    problem = assert_problem(post({"sweep": SWEEP | sweep}, PATH), "limit-exceeded")
    (error,) = problem["errors"]
    assert error["limit"] == name and error["pointer"].startswith("#/sweep")


@every(
    "changes",
    [
        {"inputs": [[1e308, -1e308]] * 4},
        {"inputs": [[0, 0]] * 4},
        {"inputs": [[1, 1]], "targets": [[1]]},
        {"inputs": [[5e-324, 1e300]] * 4},
        {"targets": [[1e308]] * 4},
        {"sample_weights": [0, 0, 0, 0]},
        {"reduction": "none"},
        {"training": True},
        {"loss": "hinge"},
    ],
)
def test_strange_numbers_are_diagnosed_too(post: Post, schemas: dict[str, Any], changes: dict[str, Any]) -> None:
    for layers in ((dense(3, "relu"), dense(1)), (dense(3, "sigmoid"), dense(1, "sigmoid"))):
        assert_described(schemas, "DiagnoseResponse", answered(post, body(*layers) | changes, PATH))


def test_networks_without_weights_have_no_chain(post: Post) -> None:
    answer = answered(post, body({"type": "activation", "activation": "relu"}) | {"targets": XOR["inputs"]}, PATH)
    assert answer["chain"] == {"layers": [], "ratio": None, "factor": None}
