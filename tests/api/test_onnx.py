"""An ONNX file in place of a network, in every operation."""

import base64
from typing import Any

import numpy as np
import pytest

from service.engine.onnx import file, read
from tests.conftest import Post
from tests.engine.onnx.models import INT64, model, node, perceptron, value
from tests.support import answered, assert_problem, every, faults

DATA = perceptron()
X = np.random.default_rng(5).standard_normal((3, 4))
TARGETS = np.random.default_rng(6).standard_normal((3, 3))


def onnx(data: bytes, **more: Any) -> dict[str, Any]:
    return {"onnx": {"base64": base64.b64encode(data).decode(), **more}}


NETWORK = {"network": onnx(DATA), "inputs": X.tolist()}
REQUEST = {**NETWORK, "targets": TARGETS.tolist(), "loss": "mean_squared_error"}


DIRECTION = {layer: {name: np.ones_like(each).tolist() for name, each in tree.items()}
             for layer, tree in read(DATA).parameters.items()}  # fmt: skip


def by_hand() -> dict[str, dict[str, Any]]:
    """The gradients of the request, by the chain rule."""
    weights = read(DATA).parameters
    (w1, b1), (w2, b2) = ((weights[name]["weight"], weights[name]["bias"]) for name in ("fc1", "fc2"))
    z = X @ w1.T + b1
    h = np.maximum(z, 0.0)
    delta = 2.0 * (h @ w2.T + b2 - TARGETS) / TARGETS.size
    inner = delta @ w2 * (z > 0)
    return {
        "fc1": {"weight": inner.T @ X, "bias": inner.sum(0)},
        "fc2": {"weight": delta.T @ h, "bias": delta.sum(0)},
    }


def test_gradients_have_the_names_of_the_file(post: Post):
    answer = post(REQUEST | {"include": ["layers", "norms", "per_sample", "input_gradients"]}).get_json()
    for layer, tree in by_hand().items():
        for name, wanted in tree.items():
            np.testing.assert_allclose(answer["gradients"][layer][name], wanted, rtol=1e-12, atol=1e-15)
            each = np.array(answer["per_sample"]["gradients"][layer][name])
            np.testing.assert_allclose(each.mean(0), wanted, rtol=1e-12, atol=1e-15)
    assert [(layer["name"], layer["type"]) for layer in answer["layers"]] == [
        ("fc1", "Gemm"),
        ("rectified", "Relu"),
        ("fc2", "Gemm"),
        ("y", "output"),
    ]
    np.testing.assert_array_equal(answer["layers"][1]["output"], np.maximum(answer["layers"][0]["output"], 0.0))
    assert "parameters" not in answer


def test_parameters_of_a_request_replace_those_of_the_file(post: Post):
    changed = {"fc2": {"bias": [10.0, 20.0, 30.0]}}
    before = post(NETWORK, "/v1/forward").get_json()["outputs"]
    after = post(NETWORK | {"parameters": changed}, "/v1/forward").get_json()["outputs"]
    own = read(DATA).parameters["fc2"]["bias"]
    np.testing.assert_allclose(np.subtract(after, before), [np.array([10.0, 20.0, 30.0]) - own] * 3, rtol=1e-12)


@every(
    ("path", "more"),
    [
        ("/v1/gradients/check", {}),
        ("/v1/gradients/explain", {"parameter": "fc1.weight[0][0]"}),
        ("/v1/gradients/verify", {"claimed": {"fc1": {"bias": [0.0] * 5}}}),
        ("/v1/gradients/diagnose", {}),
        ("/v1/graph", {"detail": "layers"}),
        ("/v1/graph", {"detail": "operations"}),
        ("/v1/landscape", {"along": [{"direction": "gradient"}]}),
        ("/v1/train", {"steps": 2, "optimizer": {"type": "adam"}, "batch_size": 2}),
        ("/v1/derivatives", {"kind": "hvp", "vectors": [DIRECTION]}),
        ("/v1/derivatives", {"kind": "hessian"}),
    ],
)
def test_every_operation_takes_a_file(post: Post, path: str, more: dict[str, Any]):
    answer = post(REQUEST | more, path)
    assert answer.status_code == 200, answer.get_data(as_text=True)


def test_samples_have_jacobians_of_their_own(post: Post):
    answer = post(NETWORK | {"kind": "jacobian"}, "/v1/derivatives").get_json()
    weights = {
        layer: {name: each.astype(float) for name, each in tree.items()}
        for layer, tree in read(DATA).parameters.items()
    }
    active = (X @ weights["fc1"]["weight"].T + weights["fc1"]["bias"] > 0)[:, None, :]
    wanted = (weights["fc2"]["weight"] * active) @ weights["fc1"]["weight"]
    np.testing.assert_allclose(answer["result"], wanted, rtol=1e-12)


def test_samples_that_are_mixed_are_told_apart_from_those_that_are_not(post: Post):
    data = model(
        [node("Softmax", ["x"], ["s"], axis=0), node("MatMul", ["s", "w"], ["y"])],
        [value("x", ["batch", 2])],
        [value("y", ["batch", 1])],
        {"w": np.float32([[1.0], [2.0]])},
    )
    request = {"network": onnx(data), "inputs": [[1.0, 2.0], [0.5, -1.0]]}
    assert_problem(post(request | {"kind": "jacobian"}, "/v1/derivatives"), "invalid")
    answer = post(request | {"targets": [[0.0], [1.0]], "loss": "mean_squared_error", "include": ["per_sample"]})
    per_sample = np.array(answer.get_json()["per_sample"]["gradients"]["model"]["w"])
    np.testing.assert_allclose(per_sample.mean(0), answer.get_json()["gradients"]["model"]["w"], rtol=1e-12)


def test_the_check_confirms_the_gradient(post: Post):
    assert post(REQUEST, "/v1/gradients/check").get_json()["verdict"] == "right"


def test_training_goes_down_and_keeps_the_names(post: Post):
    answer = post(REQUEST | {"steps": 20, "optimizer": {"type": "adam", "learning_rate": 0.02}}, "/v1/train").get_json()
    losses = [step["loss"] for step in answer["steps"]]
    assert losses[-1] < losses[0]
    assert {layer: list(tree) for layer, tree in answer["parameters"].items()} == {
        "fc1": ["weight", "bias"],
        "fc2": ["weight", "bias"],
    }


def test_an_input_that_decides_is_known(post: Post):
    nodes = [
        node("Range", ["zero", "n", "one"], ["r"]),
        node("Cast", ["r"], ["f"], to=1),
        node("Mul", ["x", "f"], ["y"]),
    ]
    weights = {"zero": np.array(0), "one": np.array(1)}
    data = model(nodes, [value("x", ["batch", "n"]), value("n", [], INT64)], [value("y")], weights)
    answer = post({"network": onnx(data), "inputs": {"x": [[1.0, 2.0, 3.0]], "n": 3}}, "/v1/forward")
    assert answer.get_json()["outputs"] == [[0.0, 2.0, 6.0]]


def test_an_input_that_decides_is_whole_in_every_batch_and_shard(post: Post):
    steps = [node("MatMul", ["x", "w"], ["all"]), node("Slice", ["all", "start", "end", "axis"], ["y"])]
    weights = {"w": np.ones((2, 3), np.float32), "start": np.array([0]), "axis": np.array([1])}
    data = model(steps, [value("x", ["b", 2]), value("end", [1], INT64)], [value("y", ["b", "k"])], weights)
    body = {
        "network": onnx(data),
        "inputs": {"x": [[1, 2], [3, 4], [5, 6], [1, 0.5], [2, 0]], "end": [2]},
        "targets": [[1, 2]] * 5,
        "loss": "mean_squared_error",
        "epochs": 2,
        "shuffle": False,
    }
    for optimizer in ("sgd", "newton"):
        for plan in ({}, {"batch_size": 2}):
            asked = body | plan | {"optimizer": optimizer}
            theirs = answered(post, asked, "/v1/train")
            ours = answered(post, asked | {"shards": 1}, "/v1/train")
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-9)
            assert [step["loss"] for step in ours["steps"]] == pytest.approx([step["loss"] for step in theirs["steps"]])


def test_indices_are_checked_where_they_come_in(post: Post):
    data = model(
        [node("Gather", ["emb.weight", "i"], ["y"])],
        [value("i", ["batch", 2], INT64)],
        [value("y")],
        {"emb.weight": np.arange(6, dtype=np.float32).reshape(3, 2)},
    )
    request = {"network": onnx(data), "inputs": [[0, 2]]}
    assert post(request, "/v1/forward").get_json()["outputs"] == [[[0.0, 1.0], [4.0, 5.0]]]
    assert faults(assert_problem(post(request | {"inputs": [[0, 3]]}, "/v1/forward"), "invalid")) == {
        "#/inputs/0/1": "takes an index for layer 'emb' from 0 to 2, got 3"
    }


def test_an_inner_value_may_be_the_output(post: Post):
    answer = post({"network": onnx(DATA, outputs=["r"]), "inputs": X.tolist()}, "/v1/forward").get_json()
    assert np.shape(answer["outputs"]) == (3, 5)


def test_a_softmax_at_the_end_keeps_the_loss_exact(post: Post):
    data = model(
        [node("MatMul", ["x", "w"], ["z"]), node("Softmax", ["z"], ["y"])],
        [value("x", ["batch", 1])],
        [value("y")],
        {"w": np.float32([[1000.0, 0.0, -1000.0]])},
    )
    request = {"network": onnx(data), "inputs": [[1.0]], "targets": [2], "loss": "sparse_categorical_crossentropy"}
    answer = post(request, "/v1/gradients").get_json()
    assert answer["loss"] == 2000.0
    np.testing.assert_allclose(answer["gradients"]["model"]["w"], [[1.0, 0.0, -1.0]], atol=1e-12)


@every(
    ("network", "place", "words"),
    [
        ({"onnx": "AAAA"}, "#/network/onnx", "takes an object"),
        ({"onnx": {}}, "#/network/onnx/base64", "is required"),
        ({"onnx": {"base64": "?"}}, "#/network/onnx/base64", "is not base64"),
        ({"onnx": {"base64": "AAAA"}}, "#/network/onnx", "is no ONNX file"),
        (onnx(DATA) | {"layers": []}, "#/network/layers", "unknown key"),
        (onnx(DATA, outputs=["z"]), "#/network/onnx/outputs", "no node gives 'z'"),
    ],
)
def test_what_is_wrong_is_named(post: Post, network: Any, place: str, words: str):
    found = faults(assert_problem(post({"network": network, "inputs": [[0.0] * 4]}, "/v1/forward"), "invalid"))
    assert words in found[place]


def test_a_parameter_that_the_file_has_not_is_named(post: Post):
    wrong = {"fc1": {"kernel": [[0.0]]}, "fc3": {"weight": [[0.0]]}}
    found = faults(assert_problem(post(NETWORK | {"parameters": wrong}, "/v1/forward"), "invalid"))
    assert "no parameter 'kernel'" in found["#/parameters/fc1/kernel"]
    assert "no layer is called 'fc3'" in found["#/parameters/fc3"]


def test_without_the_package_the_answer_says_what_to_install(post: Post, monkeypatch):
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(file.importlib, "import_module", missing)
    request = {"network": onnx(perceptron(doc_string="never seen before")), "inputs": X.tolist()}
    document = assert_problem(post(request, "/v1/forward"), "extra-missing")
    assert "pip install 'nabla-service[onnx]'" in document["detail"]


PASSED_BY = (
    "CA46/QEKJxICYzAiCENvbnN0YW50KhcKBXZhbHVlKgsQAUIBa0oEAAAAAKABBAoYCgJjMAoBeBIBZBoCazEiCENhc3RMaWtlChUKAWQKAXMSAWUa"
    "AmsyIgZFeHBhbmQKGAoBeAoBYRIBdRoCazMiCVVuc3F1ZWV6ZQoWCgF1CgF3CgFlEgF5GgJrNCIEQ29udhIBZyolCAMIAggBEAFCAXdKGOwPIz98"
    "IYo+29MnPfdkhzx6MlA/WappPyoRCAEQB0IBc0oIAwAAAAAAAAAqEQgBEAdCAWFKCAIAAAAAAAAAWhQKAXgSDwoNCAESCQoDEgFiCgIIAmIJCgF5"
    "EgQKAggBQgQKABAU"
)
"""A bias of zeros that is made like the input, as PyTorch's exports make it: its nodes are simplified away."""


def test_the_graph_leaves_out_layers_that_are_not_computed(post: Post):
    request = {"network": {"onnx": {"base64": PASSED_BY}}, "inputs": [[1, 2]]}
    for more in ({}, {"targets": np.zeros((1, 3, 1)).tolist(), "loss": "mean_squared_error"}):
        answer = post(request | more | {"detail": "layers"}, "/v1/graph").get_json()
        names = [each["name"] for each in answer["nodes"]]
        assert {"x", "y"} <= set(names) and "k1" not in names
        assert {each[end] for each in answer["edges"] for end in ("source", "target")} <= set(names)


def test_the_graph_shows_plain_attributes(post: Post):
    nodes = [node("Relu", ["x"], ["y"]), node("Shape", ["x"], ["s"])]
    data = model(nodes, [value("x", ["b", 2])], [value("y")], {})
    request = {"network": onnx(data, outputs=["s"]), "inputs": [[1, 2]]}
    answer = post(request | {"detail": "operations"}, "/v1/graph")
    assert answer.status_code == 200
    tables = [each for each in answer.get_json()["nodes"] if each["operation"] == "table"]
    assert [(each["attributes"], each["value"]) for each in tables] == [
        ({"values": "float64[2]", "dtype": ""}, [1.0, 2.0])
    ]
    looked_up = model(
        [node("Gather", ["w", "i"], ["y"])],
        [value("i", ["b"], INT64)],
        [value("y")],
        {"w": np.eye(2, dtype=np.float32)},
    )
    assert post({"network": onnx(looked_up), "inputs": [1, 0]}, "/v1/graph").status_code == 200


def test_outputs_that_need_no_input_are_refused(post: Post):
    data = model([node("Add", ["w", "w"], ["y"])], [value("x", ["b", 2])], [value("y")], {"w": np.ones(2, np.float32)})
    for sent in ([[1, 2]], {"x": [[1, 2]]}, {}):
        answer = post({"network": onnx(data), "inputs": sent}, "/v1/forward")
        assert answer.status_code == 422, answer.get_json()
    assert "input" in str(post({"network": onnx(data), "inputs": [[1, 2]]}, "/v1/forward").get_json())


def test_an_output_that_is_a_sequence_is_refused(post: Post):
    data = model([node("SequenceConstruct", ["x", "x"], ["y"])], [value("x", ["b", 2])], [value("y")], {})
    answer = post({"network": onnx(data), "inputs": [[1, 2]]}, "/v1/forward")
    assert_problem(answer, "invalid")
    assert "a sequence of tensors" in answer.get_json()["detail"]
