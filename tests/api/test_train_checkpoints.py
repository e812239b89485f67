"""Checkpoints in the steps of a training: whoever loses the connection loses no more than the steps since the last."""

from typing import Any

from flask.testing import FlaskClient

from tests.api.training import numbers_in
from tests.conftest import MakeClient
from tests.support import assert_problem, every, network, strict_json

PATH = "/v1/train"
NDJSON = "application/x-ndjson"
SAMPLES = [[0.2, 1.1], [1.3, 0.4], [-0.5, 0.9], [1.8, -0.6], [-1.2, 0.3]]
DATA = {"inputs": SAMPLES, "targets": [[1.0], [0.5], [-0.25], [2.0], [0.0]], "loss": "half_squared_error"}
DENSE = network({"type": "dense", "name": "hidden", "units": 3, "activation": "tanh"}, {"type": "dense", "units": 1})
WITH_NOISE = network(
    {"type": "dense", "units": 4, "activation": "tanh"},
    {"type": "batch_normalization"},
    {"type": "dropout", "rate": 0.4},
    {"type": "dense", "units": 1},
)
VALIDATED = {"validation": {"inputs": SAMPLES[:2], "targets": [[1.0], [0.0]]}}
TRAININGS: dict[str, dict[str, Any]] = {
    "batches in random order, noise and validation": {
        "network": WITH_NOISE,
        "training": True,
        "optimizer": {"type": "adam", "learning_rate": 0.05},
        "batch_size": 2,
        "schedule": {"type": "plateau", "patience": 1},
        "stop": {"patience": 50},
        "seed": 3,
        **VALIDATED,
    },
    "a search with a history": {"network": DENSE, "optimizer": "lbfgs", "seed": 5},
    "float32": {"network": DENSE, "optimizer": {"type": "nadam", "learning_rate": 0.01}, "dtype": "float32"},
}


def training(**changes: Any) -> dict[str, Any]:
    return {"steps": 23, **DATA, **changes}


def streamed(client: FlaskClient, body: dict[str, Any], accept: str = NDJSON) -> list[dict[str, Any]]:
    answer = client.post(PATH, json=body, headers={"Accept": accept}, buffered=True)
    assert answer.status_code == 200, answer.text
    return [strict_json(line) for line in answer.text.splitlines() if line != "{}"]


@every("accept", [NDJSON, f"{NDJSON}; tensors=base64"])
@every("name", TRAININGS)
def test_a_training_goes_on_from_the_last_checkpoint_that_came_with_the_same_bits(
    client: FlaskClient, name: str, accept: str
) -> None:
    trace = {"every": 4, "checkpoint_every": 5, "include": ["parameters", "state"]}
    whole = streamed(client, training(**TRAININGS[name], trace=trace), accept)
    came = [line for line in whole if line.get("step", 99) <= 17]  # then the connection broke
    last = [line for line in came if "checkpoint" in line][-1]
    assert last["step"] == last["checkpoint"]["step"] == 15
    again = streamed(client, training(**TRAININGS[name], trace=trace, checkpoint=last["checkpoint"], steps=8), accept)
    after = [line for line in whole if line.get("step", 99) > 15]
    # A resumed run counts its steps on, so it records the same ones.
    assert (again[-1].pop("reason"), after[-1].pop("reason")) == ("all 8 steps are done", "all 23 steps are done")
    assert again == after
    assert again[-1]["checkpoint"]["step"] == 23


def test_steps_with_a_checkpoint_are_told_beside_the_others(client: FlaskClient) -> None:
    body = training(network=DENSE, optimizer="sgd", steps=10, trace={"every": 6, "checkpoint_every": 4})
    steps = client.post(PATH, json=body).json["steps"]
    assert [(step["step"], "checkpoint" in step) for step in steps] == [
        (1, False),
        (4, True),
        (7, False),
        (8, True),
        (10, False),
    ]
    assert [line for line in streamed(client, body) if "epoch" in line] == steps


def test_asking_for_checkpoints_changes_no_number(client: FlaskClient) -> None:
    body = training(**TRAININGS["batches in random order, noise and validation"])
    with_them = client.post(PATH, json=body | {"trace": {"checkpoint_every": 3}}).json
    without = client.post(PATH, json=body).json
    for step in with_them["steps"]:
        step.pop("checkpoint", None)
    assert with_them == without


def test_there_is_no_checkpoint_of_numbers_that_are_not_finite(client: FlaskClient) -> None:
    line = network({"type": "dense", "name": "line", "units": 1, "use_bias": False})
    body = {"network": line, "inputs": [[1.0]], "targets": [[0.0]], "loss": "half_squared_error", "steps": 5}
    trace = {"checkpoint_every": 1}
    # The step that finds the loss run away is not made: the first one here, the second one there.
    for start, learning_rate, made in ((1e200, 1.0, []), (1.0, 1e150, [1])):
        parameters = {"line": {"kernel": [[start]]}}
        optimizer = {"type": "sgd", "learning_rate": learning_rate}
        steps = client.post(PATH, json=body | {"parameters": parameters, "optimizer": optimizer, "trace": trace}).json[
            "steps"
        ]
        assert [step["step"] for step in steps if "checkpoint" in step] == made


def test_checkpoints_count_as_numbers_of_the_trace(make_client: MakeClient) -> None:
    body = training(network=DENSE, optimizer="adam", steps=1000, trace={"every": 1000})
    client = make_client(max_trace_elements=2_000)
    assert client.post(PATH, json=body).status_code == 200
    body["trace"] = {"every": 1000, "checkpoint_every": 1}
    document = assert_problem(client.post(PATH, json=body), "limit-exceeded", body)
    (error,) = document["errors"]
    assert (error["pointer"], error["limit"]) == ("#/trace", "trace_elements")

    steps = make_client().post(PATH, json=body).json["steps"]
    assert numbers_in(steps) <= error["asked"] <= 1.5 * numbers_in(steps)
