"""State_dicts of PyTorch as parameters, against modules recorded by scripts/record_pytorch_state_dicts.py."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.support import every

DATA = json.loads((Path(__file__).parents[1] / "data" / "pytorch" / "state_dicts.json").read_text())
MODULES = DATA["modules"]
EXACT = {"rtol": 1e-13, "atol": 1e-14}


def arrays_of(state_dict):
    return {name: np.asarray(array) for name, array in state_dict.items()}


def as_file(state_dict):
    content = safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in arrays_of(state_dict).items()})
    return {"safetensors": base64.b64encode(content).decode(), "layout": "pytorch"}


def request_of(record, **more):
    return {
        "network": record["network"],
        "parameters": as_file(record["state_dict"]),
        "inputs": record["inputs"],
        "targets": record["targets"],
        "loss": "mean_squared_error",
        "training": True,
        **more,
    }


def flat(tree):
    return {f"{module}.{entry}": array for module, own in tree.items() for entry, array in own.items()}


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, array in expected.items():
        scale = max(1.0, np.abs(array).max())
        np.testing.assert_allclose(actual[name], array, rtol=1e-13, atol=1e-14 * scale, err_msg=name)


@every("record", MODULES, ids=lambda record: record["title"])
def test_outputs_and_gradients_are_those_of_the_module(client, record):
    answer = client.post("/v1/gradients", json=request_of(record)).get_json()
    np.testing.assert_allclose(answer["outputs"], record["outputs"], **EXACT)
    assert answer["loss"] == pytest.approx(record["loss"], rel=1e-13)
    assert_same(flat(answer["gradients"]), record["gradients"])
    counted = {name: array for name, array in record["after"].items() if ".running_" in name}
    assert_same(flat(answer.get("state", {})), counted)
    assert {each["code"] for each in answer["warnings"]} <= {"unreachable_targets"}  # they are random


@every("record", MODULES, ids=lambda record: record["title"])
def test_a_training_step_gives_the_state_dict_of_the_module(client, record):
    request = request_of(record, optimizer={"type": "sgd", "learning_rate": DATA["rate"]}, steps=1)
    answer = client.post("/v1/train?format=safetensors", json=request)
    assert answer.status_code == 200
    after = {k: a for k, a in safetensors.numpy.load(answer.data).items() if "/" not in k}
    assert_same(after, {k: a for k, a in record["after"].items() if not k.endswith("num_batches_tracked")})


def test_a_state_dict_as_json_is_known_by_its_names(client):
    record = MODULES[2]
    request = request_of(record) | {"parameters": record["state_dict"]}
    answer = client.post("/v1/gradients", json=request).get_json()
    assert_same(flat(answer["gradients"]), record["gradients"])


def test_the_layout_of_the_answer_can_be_chosen(client):
    record = MODULES[2]
    own = client.post("/v1/gradients?layout=nabla", json=request_of(record)).get_json()
    assert set(own["gradients"]["0"]) == {"kernel", "bias"}
    np.testing.assert_allclose(np.transpose(own["gradients"]["0"]["kernel"]), record["gradients"]["0.weight"], **EXACT)
    request = request_of(record) | {"parameters": {}}
    del request["parameters"]
    answer = client.post("/v1/gradients?layout=pytorch", json=request).get_json()
    assert list(answer["parameters"]["0"]) == ["weight", "bias"]
    again = client.post("/v1/gradients", json=request | {"parameters": flat(answer["parameters"])}).get_json()
    assert again["loss"] == answer["loss"] and again["gradients"] == answer["gradients"]


def test_each_samples_gradients_come_in_the_layout_too(client):
    record = next(each for each in MODULES if each["title"] == "GRU both ways")
    answer = client.post("/v1/gradients", json=request_of(record, include=["per_sample"])).get_json()
    each = flat(answer["per_sample"]["gradients"])
    assert_same({name: np.mean(array, 0) for name, array in each.items()}, record["gradients"])


# --- names ----------------------------------------------------------------------------------------

DENSE = [{"type": "dense", "units": 4, "activation": "tanh"}, {"type": "dense", "units": 2}]


def forward(client, layers, parameters):
    request = {"network": {"layers": layers}, "inputs": MODULES[2]["inputs"], "parameters": parameters}
    return client.post("/v1/forward", json=request)


def test_numbered_modules_are_taken_in_their_order(client):
    renamed = {f"model.net.{name}": array for name, array in MODULES[2]["state_dict"].items()}
    for parameters in (MODULES[2]["state_dict"], renamed):
        answer = forward(client, DENSE, as_file(parameters))
        np.testing.assert_allclose(answer.get_json()["outputs"], MODULES[2]["outputs"], **EXACT)


def test_ten_modules_are_in_the_order_of_their_numbers(client):
    weights = {f"{2 * k}.weight": [[k + 1.0]] for k in range(12)}
    layers = [{"type": "dense", "units": 1, "use_bias": False} for _ in range(12)]
    request = {"network": {"layers": layers}, "inputs": [[1.0]], "parameters": as_file(weights)}
    answer = client.post("/v1/forward", json=request | {"include": ["layers"]}).get_json()
    assert [each["output"][0][0] for each in answer["layers"]] == list(np.cumprod(np.arange(1.0, 13.0)))


def test_names_map_modules_to_layers(client):
    renamed = {name.replace("0.", "first.").replace("2.", "second."): a for name, a in MODULES[2]["state_dict"].items()}
    refused = forward(client, DENSE, as_file(renamed))
    assert refused.status_code == 422
    (error,) = refused.get_json()["errors"]
    assert '"names": {"first": "dense_1", "second": "dense_2"}' in error["detail"]
    mapped = as_file(renamed) | {"names": {"first": "dense_1", "second": "dense_2"}}
    np.testing.assert_allclose(forward(client, DENSE, mapped).get_json()["outputs"], MODULES[2]["outputs"], **EXACT)


@every(
    ("change", "pointer", "detail"),
    [
        ({"names": {"nothing": "0"}}, "/names/nothing", "the file has no module 'nothing'"),
        ({"names": {"0": "nothing"}}, "/names/0", "no layer with parameters is called 'nothing'"),
        ({"layout": "keras"}, "/layout", "takes one of 'nabla', 'pytorch'"),
        ({"layout": "nabla"}, "/safetensors", 'add "layout": "pytorch"'),
        ({"safetensors": "!"}, "/safetensors", "is not base64"),
        ({"shape": 1}, "/shape", "unknown key"),
        ({"npz": "AAAA"}, "/npz", "not both"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_where_it_is(client, change, pointer, detail):
    answer = forward(client, MODULES[2]["network"]["layers"], as_file(MODULES[2]["state_dict"]) | change)
    assert answer.status_code == 422
    assert any(
        error["pointer"] == f"#/parameters{pointer}" and detail in error["detail"]
        for error in answer.get_json()["errors"]
    ), answer.get_json()["errors"]


def test_entries_that_belong_nowhere_or_do_not_fit_are_named(client):
    extra = MODULES[2]["state_dict"] | {"4.weight": [[1.0]], "0.bias_hh": [1.0]}
    answer = forward(client, MODULES[2]["network"]["layers"], as_file(extra)).get_json()
    assert [error["detail"].split(";")[0] for error in answer["errors"]] == [
        "'0.bias_hh' belongs to no layer",
        "'4.weight' belongs to no layer",
    ]
    wrong = MODULES[2]["state_dict"] | {"0.weight": [1.0, 2.0]}
    answer = forward(client, MODULES[2]["network"]["layers"], as_file(wrong)).get_json()
    assert answer["errors"][0]["detail"] == "'0.weight' has 1 axes; it takes 2"


def test_a_default_that_pytorch_does_not_share_is_told(client):
    record = next(each for each in MODULES if each["title"] == "BatchNorm1d")
    layer = {"type": "batch_normalization", "name": "0"}
    answer = client.post("/v1/gradients", json=request_of(record) | {"network": {"layers": [layer]}}).get_json()
    assert [each["code"] for each in answer["warnings"]].count("pytorch_default") == 2
    assert "PyTorch has 1e-05" in answer["warnings"][-1]["message"]


def test_tensors_of_multi_head_attention_are_known_by_their_names_alone(client) -> None:
    unit = [[1, 0], [0, 1]]
    layer = {"type": "multi_head_attention", "name": "attn", "num_heads": 1, "key_dim": 2}
    tensors = {"in_proj_weight": unit * 3, "in_proj_bias": [0] * 6, "out_proj.weight": unit, "out_proj.bias": [0, 0]}
    answer = client.post(
        "/v1/gradients",
        json={
            "network": {"layers": [layer]},
            "parameters": {f"attn.{name}": tensor for name, tensor in tensors.items()},
            "inputs": [unit],
            "targets": [unit],
            "loss": "mean_squared_error",
        },
    )
    assert answer.status_code == 200, answer.text
    assert set(answer.json["gradients"]["attn"]) == set(tensors)
