"""Stored networks: sent once, named by an id everywhere, owned by keys."""

import base64
import hashlib
import io
import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from safetensors.numpy import load, save
from werkzeug.test import TestResponse

from schemas.documents import is_state_dict
from service.api.endpoint import ENDPOINTS as OPERATIONS
from service.api.examples import XOR_DATA, XOR_NETWORK, XOR_PARAMETERS
from service.api.stored import INSTEAD
from service.config import Settings
from service.multipart import MOST_PARTS
from service.store.loaded import LEASE_SECONDS
from service.store.store import FILE, Store
from tests.support import Server, assert_problem, faults, head, network, strict_json, xor

MakeClient = Callable[..., FlaskClient]
STORED: dict[str, Any] = {"network": XOR_NETWORK | {"input_shape": [2]}, "parameters": XOR_PARAMETERS}
UNKNOWN = "0123456789abcdef0123456789abcdef01234567"
NO_ONNX = "onnx is not installed"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables and nothing in them: making them takes longer than most tests here."""
    folder = tmp_path_factory.mktemp("tables")
    made = Store(Settings(data=str(folder)))
    assert made.networks.usage("").networks == 0
    made.close()
    return folder / FILE


@pytest.fixture
def client(make_client: MakeClient, tmp_path: Path, tables: Path) -> Iterator[FlaskClient]:
    """A client of an application with an empty store of its own."""
    shutil.copy(tables, tmp_path / FILE)
    made = make_client(data=str(tmp_path))
    yield made
    made.application.extensions["nabla.store"].close()


def store(client: FlaskClient, body: Any = STORED, status: int = 201, **headers: str) -> dict[str, Any]:
    """Store a network; gives the answer."""
    response = client.post("/v1/networks", json=body, headers=headers)
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json
    assert response.headers["Location"] == f"/v1/networks/{answer['id']}"
    return answer


def typed_array(array: Any) -> dict[str, Any]:
    return {"dtype": "float64", "shape": list(array.shape), "base64": base64.b64encode(array.tobytes()).decode()}


def form(client: FlaskClient, **parts: bytes) -> TestResponse:
    files = {name: (io.BytesIO(content), f"{name}.bin") for name, content in parts.items()}
    return client.post("/v1/networks", data=files, content_type="multipart/form-data")


def onnx_file() -> bytes:
    """y = x @ layer.weight + layer.bias, and the index of the largest, which has no gradient."""
    onnx = pytest.importorskip("onnx", reason=NO_ONNX)
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    nodes = [
        helper.make_node("MatMul", ["x", "layer.weight"], ["product"]),
        helper.make_node("Add", ["product", "layer.bias"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["label"], axis=1),
    ]
    tensors = {"layer.weight": weight, "layer.bias": np.ones(3, np.float32)}
    graph = helper.make_graph(
        nodes,
        "line",
        [helper.make_tensor_value_info("x", kinds.FLOAT, ["N", 2])],
        [
            helper.make_tensor_value_info("y", kinds.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("label", kinds.INT64, ["N", 1]),
        ],
        [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return content


# --- storing, finding, removing -----------------------------------------------------------------


def test_a_network_is_stored_found_listed_and_removed(client: FlaskClient) -> None:
    answer = store(client)
    assert store(client, status=200) == answer
    assert answer["inputs"] == [{"name": "input", "dtype": "float64", "shape": ["batch", 2]}]
    assert answer["outputs"] == [{"name": "output", "dtype": "float64", "shape": ["batch", 1]}]
    assert answer["operations"] == {"dense": 2} and answer["refused"] == answer["warnings"] == []
    told = answer["parameters"]
    assert (told["stored"], told["count"]) == (True, 9)
    assert [(each["layer"], each["name"], each["shape"]) for each in told["tensors"]] == [
        ("hidden", "kernel", [2, 2]),
        ("hidden", "bias", [2]),
        ("output", "kernel", [2, 1]),
        ("output", "bias", [1]),
    ]
    kept = client.get(f"/v1/networks/{answer['id']}").json
    assert {key: kept[key] for key in answer} == answer
    assert kept["network"] == STORED["network"]
    assert kept["created"] <= kept["used"]
    listing = client.get("/v1/networks").json
    assert [each["id"] for each in listing["networks"]] == [answer["id"]]
    assert (listing["count"], listing["bytes"], listing["next"]) == (1, answer["bytes"], None)
    parameters = client.get(f"/v1/networks/{answer['id']}/parameters").json["parameters"]
    assert parameters == XOR_PARAMETERS
    removed = client.delete(f"/v1/networks/{answer['id']}")
    assert (removed.status_code, removed.get_data()) == (204, b"")
    for path in (answer["id"], f"{answer['id']}/parameters"):
        assert_problem(client.get(f"/v1/networks/{path}"), "not-found")
    assert_problem(client.delete(f"/v1/networks/{answer['id']}"), "not-found")
    assert client.get("/v1/networks").json["count"] == 0


def test_an_id_is_made_of_the_content_however_it_is_written(client: FlaskClient) -> None:
    one = store(client)["id"]
    parameters, architecture = dict(reversed(XOR_PARAMETERS.items())), dict(reversed(STORED["network"].items()))
    reordered = {"parameters": parameters, "network": architecture}
    typed = {
        layer: {
            name: {
                "dtype": "float64",
                "shape": list(np.shape(rows)),
                "base64": base64.b64encode(np.array(rows)).decode(),
            }
            for name, rows in tensors.items()
        }
        for layer, tensors in XOR_PARAMETERS.items()
    }
    content = json.dumps(STORED).encode() + b" " * 40_000  # by the other parser
    again = client.post("/v1/networks", data=content, content_type="application/json")
    assert (again.status_code, again.json["id"]) == (200, one)
    assert store(client, STORED | {"parameters": typed}, 200)["id"] == one
    assert store(client, reordered, 200)["id"] == one
    others = [
        STORED | {"parameters": XOR_PARAMETERS | {"output": {"kernel": [[1], [1]], "bias": [1]}}},
        {"network": STORED["network"]},
        {"network": XOR_NETWORK, "parameters": XOR_PARAMETERS},
    ]
    assert len({store(client, other)["id"] for other in others} | {one}) == 4


def test_pages_of_the_listing(client: FlaskClient) -> None:
    ids = [store(client, {"network": network({"type": "dense", "units": units})})["id"] for units in range(1, 6)]
    found, after = [], ""
    for _ in range(3):
        page = client.get(f"/v1/networks?limit=2{after}").json
        found += [each["id"] for each in page["networks"]]
        after = f"&after={page['next']}"
    assert found == ids[::-1] and page["next"] is None
    for query in ("limit=0", "limit=201", "limit=x", "limit=1&limit=2", "after=x", f"after=nan_{UNKNOWN}", "page=2"):
        problem = assert_problem(client.get(f"/v1/networks?{query}"), "invalid")
        assert problem["errors"][0]["pointer"] == f"#/query/{query.partition('=')[0]}"


def test_a_network_without_an_input_shape_is_told_as_far_as_it_is_known(client: FlaskClient) -> None:
    answer = store(client, {"network": XOR_NETWORK})
    assert answer["inputs"][0]["shape"] is None and answer["outputs"][0]["shape"] is None
    assert answer["parameters"] == {"stored": False, "count": None, "tensors": None}
    assert [warning["code"] for warning in answer["warnings"]] == ["unknown_shapes"]
    answer = client.post("/v1/forward", json={"network": {"id": answer["id"]}, "inputs": [[1, 2]], "seed": 1})
    assert answer.status_code == 200
    assert_problem(
        client.get(f"/v1/networks/{store(client, {'network': XOR_NETWORK}, 200)['id']}/parameters"), "not-found"
    )


def test_what_does_not_fit_is_refused_when_it_is_stored(client: FlaskClient) -> None:
    for body, place in (
        ({}, "#/network"),
        ({"network": {"layers": []}}, "#/network/layers"),
        ({"network": network({"type": "dense", "units": 0})}, "#/network/layers/0/units"),
        (
            STORED | {"parameters": XOR_PARAMETERS | {"output": {"kernel": [[1]], "bias": [1]}}},
            "#/parameters/output/kernel",
        ),
        (STORED | {"parameters": {"hidden": XOR_PARAMETERS["hidden"]}}, "#/parameters/output"),
        (
            {"network": network({"type": "conv2d", "filters": 1, "kernel_size": 3}, input_shape=[4])},
            "#/network/layers/0",
        ),
        ({"network": {"id": UNKNOWN}}, "#/network/id"),
        (STORED | {"name": "xor"}, "#/name"),
    ):
        problem = assert_problem(client.post("/v1/networks", json=body), "invalid", body)
        assert any(each.startswith(place) for each in faults(problem)), problem
    assert client.get("/v1/networks").json["count"] == 0


# --- by id, everywhere --------------------------------------------------------------------------

ABOUT_NETWORKS = [operation for operation in OPERATIONS if operation.takes and operation.path != "/v1/networks"]
EXAMPLES = [
    pytest.param(operation.path, example, id=f"{operation.path} {name}")
    for operation in ABOUT_NETWORKS
    for name, example in operation.examples.items()
    if isinstance(example.get("network"), dict)
]


def test_every_endpoint_that_takes_a_network_has_an_example_here() -> None:
    taking = {each.path for each in ABOUT_NETWORKS if each.takes and "network" in each.takes.load_fields}
    assert {parameter.values[0] for parameter in EXAMPLES} == taking and len(taking) >= 10


@pytest.mark.parametrize(("path", "example"), EXAMPLES)
def test_an_id_in_place_of_a_network_gives_the_same_bytes(
    client: FlaskClient, path: str, example: dict[str, Any]
) -> None:
    sent = {key: example[key] for key in ("network", "parameters") if key in example}
    name = client.post("/v1/networks", json=sent).json["id"]
    expected = client.post(path, json=example)
    assert expected.status_code == 200
    rest = {key: value for key, value in example.items() if key not in sent}
    asked = [rest | {"network": {"id": name}, **({"parameters": sent["parameters"]} if "parameters" in sent else {})}]
    if "parameters" in sent:
        asked.append(rest | {"network": {"id": name}, "parameters": {"id": name}})
        asked.append(rest | {"network": sent["network"], "parameters": {"id": name}})
        if not any(key in rest for key in INSTEAD):
            asked.append(rest | {"network": {"id": name}})
    if is_state_dict(sent.get("parameters", {})):  # whose layout the answer has only where it was asked for
        path = f"{path}?layout=pytorch"
    for body in asked * 2:  # with a recipe that is new, and with one that is known
        assert client.post(path, json=body).get_data() == expected.get_data()


def test_stored_parameters_stay_out_where_the_request_says_which_to_use(client: FlaskClient) -> None:
    name = store(client)["id"]
    by_id: dict[str, Any] = {"network": {"id": name}, "inputs": [[0, 1]]}
    inline: dict[str, Any] = {"network": STORED["network"], "inputs": [[0, 1]]}
    other = {
        layer: {key: np.multiply(2, rows).tolist() for key, rows in each.items()}
        for layer, each in XOR_PARAMETERS.items()
    }
    for more in ({"seed": 3}, {"parameters": other}, {"parameters": other, "seed": 3}, {"dtype": "float32", "seed": 3}):
        assert client.post("/v1/forward", json=by_id | more).json == client.post("/v1/forward", json=inline | more).json
    training = {"targets": [[1]], "loss": "mse", "optimizer": "sgd", "steps": 2}
    first = client.post("/v1/train", json=by_id | training).json
    assert first == client.post("/v1/train", json=inline | training | {"parameters": XOR_PARAMETERS}).json
    went_on = client.post("/v1/train", json=by_id | training | {"checkpoint": first["checkpoint"]}).json
    assert went_on == client.post("/v1/train", json=inline | training | {"checkpoint": first["checkpoint"]}).json
    narrow = client.post("/v1/forward", json=by_id | {"dtype": "float32"}).json
    assert narrow == client.post("/v1/forward", json=inline | {"dtype": "float32", "parameters": XOR_PARAMETERS}).json
    assert client.get(f"/v1/networks/{name}/parameters").json["parameters"] == XOR_PARAMETERS  # nobody changed them


def test_streams_take_ids_too(client: FlaskClient) -> None:
    name = store(client)["id"]
    body = {"network": {"id": name}, **XOR_DATA, "loss": "mse", "optimizer": "adam", "steps": 3}
    lines = client.post("/v1/train", json=body, headers={"Accept": "application/x-ndjson"}).get_data().splitlines()
    assert [json.loads(line).get("step") for line in lines] == [1, 2, 3, None]


@pytest.mark.parametrize("path", sorted({parameter.values[0] for parameter in EXAMPLES}))
def test_an_unknown_id_is_told_in_every_endpoint(client: FlaskClient, path: str) -> None:
    example = next(parameter.values[1] for parameter in EXAMPLES if parameter.values[0] == path)
    for key, value in (("network", {"id": UNKNOWN}), ("parameters", {"id": UNKNOWN})):
        body = dict(example) | {key: value}
        problem = assert_problem(client.post(path, json=body), "not-found", body)
        assert list(faults(problem)) == [f"#/{key}/id"]


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        ({"id": "x"}, "#/network/id"),
        ({"id": ""}, "#/network/id"),
        ({"id": None}, "#/network/id"),
        ({"id": 5}, "#/network/id"),
        ({"id": UNKNOWN.upper()}, "#/network/id"),
        ({"id": UNKNOWN + "\n"}, "#/network/id"),
        ({"id": UNKNOWN[:-1]}, "#/network/id"),
        ({"id": "../" * 13 + "a"}, "#/network/id"),
        ({"id": "' OR 1=1 --"}, "#/network/id"),
        ({"id": "é" * 40}, "#/network/id"),
        ({"id": "a" * 10**6}, "#/network/id"),
        ({"id": UNKNOWN, "layers": []}, "#/network"),
        ({"id": UNKNOWN, "parameters": {}}, "#/network/parameters"),
    ],
)
def test_an_id_of_another_form_is_refused(client: FlaskClient, reference: Any, place: str) -> None:
    body = xor(network=reference)
    problem = assert_problem(client.post("/v1/gradients", json=body), "invalid", body)
    assert any(each.startswith(place) for each in faults(problem)), problem
    assert all(len(each) < 400 for each in faults(problem).values())


def test_parameters_by_id_of_another_form_are_refused_and_a_layer_may_be_called_id(client: FlaskClient) -> None:
    body = xor(parameters={"id": "x"})
    assert list(faults(assert_problem(client.post("/v1/gradients", json=body), "invalid", body))) == ["#/parameters/id"]
    bare = store(client, {"network": XOR_NETWORK})["id"]
    body = xor(parameters={"id": bare})
    problem = assert_problem(client.post("/v1/gradients", json=body), "invalid", body)
    assert "stored without parameters" in faults(problem)["#/parameters/id"]
    line = network({"type": "dense", "name": "id", "units": 1})
    body = {"network": line, "parameters": {"id": {"kernel": [[2]], "bias": [1]}}, "inputs": [[3]]}
    assert client.post("/v1/forward", json=body).json["outputs"] == [[7.0]]


def test_what_is_wrong_with_a_stored_network_is_told_at_its_place(client: FlaskClient) -> None:
    name = store(client)["id"]
    body = xor(network={"id": name}, parameters={"hidden": {"kernel": [[1.0]]}})
    problem = assert_problem(client.post("/v1/gradients", json=body), "invalid", body)
    assert "#/parameters/output" in faults(problem)
    body = xor(network={"id": name}, parameters=..., inputs=[[1, 2, 3]] * 4)
    assert list(faults(assert_problem(client.post("/v1/gradients", json=body), "invalid", body))) == ["#/inputs"]
    other = store(client, {"network": network({"type": "conv2d", "filters": 1, "kernel_size": 3})})["id"]
    body = {"network": {"id": other}, "inputs": [[1.0, 2.0]]}
    assert list(faults(assert_problem(client.post("/v1/forward", json=body), "invalid", body))) == ["#/network"]


# --- files --------------------------------------------------------------------------------------


def test_a_form_takes_a_network_and_its_parameters_as_files(client: FlaskClient) -> None:
    tree = {f"{layer}.{name}": np.array(rows) for layer, each in XOR_PARAMETERS.items() for name, rows in each.items()}
    content = json.dumps(STORED["network"]).encode()
    answers = [form(client, network=content, parameters=save(tree)), client.post("/v1/networks", json=STORED)]
    answers += [form(client, network=content, parameters=json.dumps(XOR_PARAMETERS).encode())]
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    assert answers[0].json == answers[1].json == answers[2].json
    assert form(client, network=content).json["parameters"]["stored"] is False


@pytest.mark.parametrize("way", ["onnx", "octet-stream", "format", "form", "inline"])
def test_an_onnx_file_is_stored_however_it_comes(client: FlaskClient, way: str) -> None:
    content = onnx_file()
    sent: dict[str, Callable[[], TestResponse]] = {
        "onnx": lambda: client.post("/v1/networks", data=content, content_type="application/onnx"),
        "octet-stream": lambda: client.post("/v1/networks", data=content, content_type="application/octet-stream"),
        "format": lambda: client.post("/v1/networks?format=onnx", data=content, content_type="application/json"),
        "form": lambda: form(client, network=content),
        "inline": lambda: client.post(
            "/v1/networks", json={"network": {"onnx": {"base64": base64.b64encode(content).decode()}}}
        ),
    }
    answer = sent[way]()
    assert answer.status_code == 201, answer.text
    told = answer.json
    assert (told["format"], told["bytes"]) == ("onnx", len(content))
    assert told["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 2]}]
    assert told["operations"] == {"Add": 1, "ArgMax": 1, "MatMul": 1}
    assert [(each["output"], each["reason"]) for each in told["refused"]] == [("label", "holds int64, not floats")]
    assert [(each["layer"], each["name"]) for each in told["parameters"]["tensors"]] == [
        ("layer", "weight"),
        ("layer", "bias"),
    ]
    by_id = {"network": {"id": told["id"]}, "inputs": [[1, 2]], "targets": [[0, 0, 0]], "loss": "half_squared_error"}
    found = client.post("/v1/gradients", json=by_id).json
    assert found["outputs"] == [[7.0, 10.0, 13.0]]
    assert np.allclose(found["gradients"]["layer"]["weight"], np.outer([1, 2], np.array([7, 10, 13])) / 1.0, rtol=0.7)
    client.application.extensions["nabla.store"].loaded.shrink(2**40)
    assert client.post("/v1/gradients", json=by_id).json == found
    assert client.get(f"/v1/networks/{told['id']}").json["network"] is None
    parameters = client.get(f"/v1/networks/{told['id']}/parameters").json["parameters"]["layer"]
    assert parameters == {"weight": [[0, 1, 2], [3, 4, 5]], "bias": [1, 1, 1]}
    changed = client.post(
        "/v1/forward", json={k: by_id[k] for k in ("network", "inputs")} | {"parameters": {"id": told["id"]}}
    )
    assert changed.json["outputs"] == found["outputs"]


def test_a_model_of_keras_is_stored_as_its_text_or_as_json(client: FlaskClient) -> None:
    dense = {"class_name": "Dense", "config": {"name": "line", "units": 3, "activation": "linear"}}
    first = {"class_name": "InputLayer", "config": {"batch_shape": [None, 2], "name": "x"}}
    model = {"class_name": "Sequential", "config": {"name": "net", "layers": [first, dense]}}
    answer = client.post("/v1/networks?format=keras", json=model)
    assert answer.status_code == 201, answer.text
    assert answer.json["parameters"]["count"] == 9 and answer.json["operations"] == {"dense": 1}
    for other in (model, json.dumps(model)):
        assert store(client, {"network": other}, 200) == answer.json
    assert form(client, network=json.dumps(model).encode()).json == answer.json
    kept = client.get(f"/v1/networks/{answer.json['id']}").json["network"]
    assert kept == model
    body = {"inputs": [[1, 2]], "seed": 5}
    by_id = client.post("/v1/forward", json=body | {"network": {"id": answer.json["id"]}})
    assert by_id.get_data() == client.post("/v1/forward", json=body | {"network": model}).get_data()


def test_weights_of_pytorch_are_stored_in_this_layout_and_go_back_in_theirs(client: FlaskClient) -> None:
    rng = np.random.default_rng(0)
    weights = {"line.weight": rng.normal(size=(3, 2)), "line.bias": rng.normal(size=3)}
    layers = network({"type": "dense", "name": "line", "units": 3}, input_shape=[2])
    content = save(weights)
    answer = form(client, network=json.dumps(layers).encode(), parameters=content, layout=b"pytorch")
    assert answer.status_code == 201, answer.text
    file = {"safetensors": base64.b64encode(content).decode(), "layout": "pytorch"}
    assert store(client, {"network": layers, "parameters": file}, 200) == answer.json
    path = f"/v1/networks/{answer.json['id']}/parameters"
    assert client.get(path).json["parameters"]["line"]["kernel"] == weights["line.weight"].T.tolist()
    back = load(client.get(f"{path}?format=safetensors&layout=pytorch").get_data())
    assert set(back) == set(weights) and all(back[name].tobytes() == weights[name].tobytes() for name in weights)
    for accept in ("application/vnd.safetensors", "application/x-npz"):
        own = client.get(path, headers={"Accept": accept})
        assert own.status_code == 200 and "attachment" in own.headers["Content-Disposition"]
        kind = "npz" if accept.endswith("npz") else "safetensors"
        again = {"network": layers, "parameters": {kind: base64.b64encode(own.get_data()).decode()}}
        assert store(client, again, 200) == answer.json
        assert form(client, network=json.dumps(layers).encode(), parameters=own.get_data()).json == answer.json
    assert_problem(client.get(f"{path}?layout=keras"), "bad-request")
    wrong = form(client, network=json.dumps(layers).encode(), parameters=content, layout=b"keras")
    assert_problem(wrong, "malformed-body")
    missing = form(client, network=json.dumps(layers).encode(), parameters=content)
    assert "pytorch" in faults(assert_problem(missing, "invalid"))["#/parameters"]


def test_outputs_that_a_request_chose_of_a_file_are_stored_with_it(client: FlaskClient) -> None:
    file = {"base64": base64.b64encode(onnx_file()).decode(), "outputs": ["product"]}
    answer = store(client, {"network": {"onnx": file}})
    assert [each["name"] for each in answer["outputs"]] == ["product"]
    client.application.extensions["nabla.store"].loaded.shrink(2**40)
    found = client.post("/v1/forward", json={"network": {"id": answer["id"]}, "inputs": [[1, 2]]})
    assert found.json["outputs"] == [[6.0, 9.0, 12.0]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"PK\x03\x04" + b"x" * 100, "zip archive"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x93NUMPY\x01", "NumPy"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xff" * 1000, ""),
        (b"\x00", ""),
        (b"hello", ""),
    ],
    ids=repr,
)
def test_a_file_that_is_no_network_is_refused_by_what_it_is(client: FlaskClient, content: bytes, told: str) -> None:
    if not told:
        pytest.importorskip("onnx", reason=NO_ONNX)
    answer = client.post("/v1/networks", data=content, content_type="application/octet-stream")
    assert 400 <= answer.status_code < 500 and told in answer.json["detail"]
    if content:
        answer = form(client, network=content)
        assert answer.status_code == 422 and told in answer.json["detail"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "#/parameters"),
        (b"\xff" * 100, "#/parameters"),
        (b"[1, 2]", "#/parameters"),
        (b"{", "not JSON"),
        (b'{"hidden": 5}', "#/parameters/hidden"),
        (save({"hidden.kernel": np.ones((2, 2))})[:-8], "#/parameters"),
        (save({"hidden.kernel": np.array([[np.nan, 1], [1, 1]])}), "must be finite"),
        (save({"hidden.kernel": np.ones((2, 2), bool)}), "BOOL"),
        (save({"nodots": np.ones(2)}), "#/parameters"),
        (save({"hidden.kernel": np.ones((3, 2))}), "#/parameters/hidden/kernel"),
        ((2**63).to_bytes(8, "little") + b"{}", "#/parameters"),
        ((20).to_bytes(8, "little") + b'{"a":{"dtype":"F64",', "#/parameters"),
        (save({}), "has no tensors"),
        (save({"abcdef.k": np.ones(2)}).replace(b"abcdef", b"\\ud800"), "unpaired surrogate"),
    ],
    ids=range(14),
)
def test_parameters_of_a_form_that_are_none_are_refused(client: FlaskClient, content: bytes, told: str) -> None:
    answer = form(client, network=json.dumps(STORED["network"]).encode(), parameters=content)
    assert answer.status_code in (400, 422), answer.text
    assert told in answer.json["detail"], answer.json
    if content[:1] not in (b"{", b"[") and not told.startswith("#/parameters/"):
        inline = {"safetensors": base64.b64encode(content).decode()}
        answer = client.post("/v1/networks", json={"network": STORED["network"], "parameters": inline})
        assert told in assert_problem(answer, "invalid")["detail"]


BOUNDARY = "multipart/form-data; boundary=xyz"
PART = b'--xyz\r\nContent-Disposition: form-data; name="network"\r\n\r\n%b\r\n'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--xyz--"),
        ("multipart/form-data; boundary=", b"--xyz--"),
        (f"multipart/form-data; boundary={'x' * 201}", b"--xyz--"),
        (BOUNDARY, b"nothing"),
        (BOUNDARY, b"--xyz"),
        (BOUNDARY, PART % b"{}"),
        (BOUNDARY, PART % b"{}" * 2 + b"--xyz--"),
        (BOUNDARY, b"--xyz\r\n\r\n{}\r\n--xyz--"),
        (BOUNDARY, b"--xyz surplus\r\nA: b\r\n\r\n{}\r\n--xyz--"),
        (BOUNDARY, b'--xyz\r\nContent-Disposition: form-data; name=""\r\n\r\n{}\r\n--xyz--'),
        (BOUNDARY, b"--xyz\r\n" + b"A: b\r\n" * 10_000 + b"\r\n{}\r\n--xyz--"),
        (BOUNDARY, b"".join(PART.replace(b"network", b"n%d" % n) % b"" for n in range(MOST_PARTS + 1)) + b"--xyz--"),
        (BOUNDARY, b"\r\n--xyz" * 100_000),
        (BOUNDARY, b"\r\n" * 500_000),
        (BOUNDARY, PART.replace(b"network", b"file") % b"{}" + b"--xyz--"),
    ],
    ids=range(15),
)
def test_a_form_that_is_none_is_refused_at_once(client: FlaskClient, content_type: str, body: bytes) -> None:
    started = time.process_time()
    assert_problem(client.post("/v1/networks", data=body, content_type=content_type), "malformed-body")
    assert time.process_time() - started < 5  # in proportion to its length


def test_a_form_may_begin_with_something_else(client: FlaskClient) -> None:
    body = b"preamble\r\n" + PART % json.dumps(STORED["network"]).encode() + b"--xyz--\r\nepilogue"
    assert client.post("/v1/networks", data=body, content_type=BOUNDARY).status_code == 201


def test_files_are_taken_here_and_nowhere_else(client: FlaskClient) -> None:
    for media_type in ("application/octet-stream", "application/onnx", BOUNDARY):
        answer = client.post("/v1/forward", data=b"x", content_type=media_type)
        assert_problem(answer, "unsupported-media-type")
    assert_problem(client.post("/v1/networks", data=b"x", content_type="text/plain"), "unsupported-media-type")


@pytest.mark.parametrize("query", ["format=h5", "format=", "pretty=1", "format=json&format=json", "a=b"])
def test_a_query_that_is_none_is_told_by_its_name_and_not_as_a_place_of_the_body(
    client: FlaskClient, query: str
) -> None:
    problem = assert_problem(client.post(f"/v1/networks?{query}", json=STORED), "bad-request")
    assert problem["status"] == 400 and "errors" not in problem
    assert repr(query.partition("=")[0]) in problem["detail"]


@pytest.mark.parametrize("query", ["format=", "layout="])
def test_an_empty_word_of_a_query_is_refused_as_any_other(client: FlaskClient, query: str) -> None:
    body = STORED | {"inputs": [[0, 1]], "targets": [[1]], "loss": "mean_squared_error"}
    assert query[:-1] in assert_problem(client.post(f"/v1/gradients?{query}", json=body), "bad-request")["detail"]


# --- owners, quotas, retention ------------------------------------------------------------------


def keyed(make_client: MakeClient, folder: Path, **settings: Any) -> FlaskClient:
    digests = [f"{name}=sha256:{hashlib.sha256(name.encode()).hexdigest()}" for name in ("alice", "bob")]
    return make_client(data=str(folder), api_keys=tuple(digests), **settings)


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


def test_a_network_belongs_to_the_key_that_sent_it(make_client: MakeClient, tmp_path: Path) -> None:
    client = keyed(make_client, tmp_path)
    name = store(client, Authorization="Bearer alice")["id"]
    body = {"network": {"id": name}, "inputs": [[0, 1]]}
    assert client.post("/v1/forward", json=body, headers=key("alice")).status_code == 200
    unknown = client.post("/v1/forward", json=body | {"network": {"id": UNKNOWN}}, headers=key("bob"))
    for _ in range(2):
        foreign = client.post("/v1/forward", json=body, headers=key("bob"))
        assert_problem(foreign, "not-found")
        assert foreign.json["detail"].replace(name, UNKNOWN) == unknown.json["detail"]
        for method, path in (("GET", name), ("GET", f"{name}/parameters"), ("DELETE", name)):
            assert_problem(client.open(f"/v1/networks/{path}", method=method, headers=key("bob")), "not-found")
    assert client.get("/v1/networks", headers=key("bob")).json["count"] == 0
    assert_problem(client.get("/v1/networks"), "unauthorized")
    assert_problem(client.get("/v1/networks", headers=key("mallory")), "forbidden")
    assert store(client, Authorization="Bearer bob")["id"] == name
    assert client.delete(f"/v1/networks/{name}", headers=key("alice")).status_code == 204
    assert_problem(client.post("/v1/forward", json=body, headers=key("alice")), "not-found")
    assert client.post("/v1/forward", json=body, headers=key("bob")).status_code == 200
    client.application.extensions["nabla.store"].close()


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"max_stored_networks": 1}, "stored_networks"),
        ({"max_stored_bytes_per_key": 550}, "stored_bytes_per_key"),
        ({"max_stored_network_bytes": 200}, "stored_network_bytes"),
    ],
)
def test_quotas_of_a_key_name_the_limit(
    make_client: MakeClient, tmp_path: Path, settings: dict[str, int], limit: str
) -> None:
    client = make_client(data=str(tmp_path), **settings)
    small = {"network": network({"type": "dense", "units": 1})}
    store(client, small)
    problem = assert_problem(client.post("/v1/networks", json=STORED), "limit-exceeded")
    if limit == "stored_bytes_per_key":
        assert problem["errors"][0]["asked"] > 500
    assert problem["errors"][0]["limit"] == limit and problem["errors"][0]["allowed"] == [settings[f"max_{limit}"]]
    assert client.get("/v1").json["limits"][limit] == settings[f"max_{limit}"]
    assert store(client, small, 200)
    assert client.get("/v1/networks").json["count"] == 1
    client.application.extensions["nabla.store"].close()


def test_a_full_server_says_so(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(data=str(tmp_path), max_stored_bytes=100)
    assert_problem(client.post("/v1/networks", json=STORED), "store-full")
    assert client.get("/v1/networks").json["count"] == 0


def test_what_is_used_is_not_old(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(data=str(tmp_path), stored_days=30)
    shelf = client.application.extensions["nabla.store"]
    now = [1_800_000_000.0]
    shelf.clock = lambda: now[-1]
    used, forgotten = store(client)["id"], store(client, {"network": XOR_NETWORK})["id"]
    now.append(now[-1] + 20 * 86400)
    assert client.post("/v1/forward", json={"network": {"id": used}, "inputs": [[0, 1]]}).status_code == 200
    shelf.tidy()
    now.append(now[-1] + 20 * 86400)
    shelf.tidy()
    assert [each["id"] for each in client.get("/v1/networks").json["networks"]] == [used]
    assert forgotten != used
    shelf.close()


# --- without a store ----------------------------------------------------------------------------


def test_without_a_folder_everything_else_works(make_client: MakeClient) -> None:
    client = make_client(data="/dev/null/nowhere")
    for answer in (
        client.post("/v1/networks", json=STORED),
        client.get("/v1/networks"),
        client.get(f"/v1/networks/{UNKNOWN}"),
        client.delete(f"/v1/networks/{UNKNOWN}"),
        client.post("/v1/gradients", json=xor(network={"id": UNKNOWN})),
        client.post("/v1/gradients", json=xor(parameters={"id": UNKNOWN})),
    ):
        problem = assert_problem(answer, "nothing-stored")
        assert "nowhere" not in problem["detail"]
    assert client.post("/v1/gradients", json=xor()).status_code == 200
    assert client.get("/v1").status_code == client.get("/health/ready").status_code == 200


def test_a_database_that_is_gone_stops_nothing_else(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    name = store(client)["id"]
    body = {"network": {"id": name}, "inputs": [[0, 1]]}
    assert client.post("/v1/forward", json=body).status_code == 200
    shelf = client.application.extensions["nabla.store"]
    monkeypatch.setattr(shelf.networks.database, "_unreachable_until", math.inf)
    assert client.post("/v1/forward", json=body).status_code == 200  # for as long as it may be believed
    monkeypatch.setattr(shelf.loaded, "_clock", lambda: time.monotonic() + LEASE_SECONDS)
    for answer in (
        client.post("/v1/forward", json=body),
        client.get("/v1/networks"),
        client.post("/v1/networks", json=STORED),
    ):
        assert_problem(answer, "store-unavailable")
        assert answer.headers["Retry-After"] == "5"
    assert client.post("/v1/gradients", json=xor()).status_code == 200
    monkeypatch.setattr(shelf.networks.database, "_unreachable_until", 0.0)
    assert client.post("/v1/forward", json=body).status_code == 200


def test_requests_that_wait_for_the_database_leave_the_slots_of_others_alone(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = store(client)["id"]
    shelf, gate = client.application.extensions["nabla.store"], threading.Event()
    shelf.loaded.drop("", name)
    find = shelf.networks.find

    def slow(*arguments: Any) -> Any:
        gate.wait(30)
        return find(*arguments)

    monkeypatch.setattr(shelf.networks, "find", slow)
    answers: list[int] = []

    def ask() -> None:
        other = client.application.test_client()
        answers.append(other.post("/v1/forward", json={"network": {"id": name}, "inputs": [[0, 1]]}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    admission = client.application.extensions["nabla.admission"]
    end = time.monotonic() + 20
    while admission.storage.length < 8 and time.monotonic() < end:
        time.sleep(0.01)
    assert (len(admission.storage.running), admission.storage.length) == (4, 8)
    assert not admission.tiny.running and not admission.system.running
    assert client.post("/v1/gradients", json=xor()).status_code == 200
    gate.set()
    for thread in threads:
        thread.join()
    assert answers == [200] * 12
    assert not admission.storage.running and not admission.tiny.running


# --- memory -------------------------------------------------------------------------------------


def test_networks_that_are_kept_are_in_the_account_and_given_up_first(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(data=str(tmp_path), loaded_bytes=3 * 2**20)
    extensions = client.application.extensions
    account, loaded = extensions["nabla.memory"], extensions["nabla.store"].loaded
    rng = np.random.default_rng(0)
    ids = []
    for units in (128, 129, 130, 131):
        layers = network({"type": "dense", "name": "a", "units": units}, input_shape=[784])
        parameters = {"a": {"kernel": typed_array(rng.normal(size=(784, units))), "bias": [0] * units}}
        ids.append(store(client, {"network": layers, "parameters": parameters})["id"])
    assert 2 * 2**20 < loaded.nbytes <= 3 * 2**20 and account.cached >= loaded.nbytes
    bodies = [{"network": {"id": each}, "inputs": [[1] * 784]} for each in ids]
    before = [client.post("/v1/forward", json=body).json["outputs"] for body in bodies]
    loaded.shrink(2**40)
    assert [client.post("/v1/forward", json=body).json["outputs"] for body in bodies] == before
    assert account.held == 0
    few = {"max_memory_bytes": 2 * 2**20, "max_body_bytes": 2**20, "max_workspace_bytes": 2**20}
    tight = make_client(data=str(tmp_path), **few)
    assert_problem(tight.post("/v1/forward", json=bodies[0]), "limit-exceeded")


# --- several workers ----------------------------------------------------------------------------


def test_workers_share_what_is_stored_and_forget_it_within_a_moment(server: Server) -> None:
    output = {"kernel": [[0.25], [-0.75]], "bias": [0.125]}  # which no other test stores there
    content = json.dumps(STORED | {"parameters": XOR_PARAMETERS | {"output": output}}).encode()
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(server.post(content, "/v1/networks"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    (name,) = {answer.json["id"] for answer in answers}
    body = json.dumps({"network": {"id": name}, "inputs": [[0, 1]]}).encode()
    assert {server.post(body, "/v1/forward").status_code for _ in range(12)} == {200}
    whole = server.send(f"DELETE /v1/networks/{name} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode())
    assert whole.status_code == 204 and whole.body == b""
    time.sleep(LEASE_SECONDS + 0.1)
    assert {server.post(body, "/v1/forward").status_code for _ in range(12)} == {404}
    # A large file passes the edge, which looks at heads alone; elsewhere it is refused there.
    file = b"PK\x03\x04" + bytes(200_000)
    wrong = server.post(file, "/v1/networks", Content_Type="application/octet-stream")
    assert wrong.status_code == 422 and "zip archive" in strict_json(wrong.body)["detail"]
    refused = server.send(head("/v1/forward", len(file), Content_Type="application/octet-stream"))
    assert refused.status_code == 415
