"""Mistakes of newcomers in requests, JSON, paths and expressions, and words that the answers must have."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from marshmallow import Schema

from schemas.declared import LAYER_KEYS, options_schema
from schemas.network import SCHEMA
from schemas.strict import ObjectField, StrictSchema
from schemas.verify import KEYS as SUBMISSION_KEYS
from service.api.endpoint import ENDPOINTS
from service.api.hints import BODIES, WORDS
from service.engine.declarations import Registry
from service.engine.descent.optimizers import optimizers
from service.engine.descent.schedules import schedules
from service.engine.foreign import FOREIGN
from service.engine.network.activations import activations
from service.engine.network.initializers import initializers
from service.engine.network.layers import layers
from service.engine.network.losses import losses
from service.engine.network.regularizers import regularizers
from tests.conftest import Post
from tests.support import assert_problem, every, resolves

DENSE: dict[str, Any] = {"type": "dense", "units": 1}
GRADIENTS: dict[str, Any] = {"network": {"layers": [DENSE]}, "inputs": [[1, 2]], "targets": [[1]], "loss": "mse"}


def initialised(initializer: dict[str, Any]) -> dict[str, Any]:
    """Return a network whose first kernel has this initializer."""
    return {"network": {"layers": [{"type": "dense", "units": 1, "kernel_initializer": initializer}]}}


TRAIN = GRADIENTS | {"optimizer": "sgd", "steps": 1}
KERNEL, BIAS = [[1], [2]], [0]
KERAS = {
    "class_name": "Sequential",
    "config": {
        "layers": [
            {"class_name": "InputLayer", "config": {"batch_shape": [None, 2]}},
            {"class_name": "Dense", "config": {"units": 4, "activation": "relu"}},
            {"class_name": "Dense", "config": {"units": 1, "activation": "linear"}},
        ]
    },
}

LAYERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"type": "Linear", "in_features": 2, "out_features": 1}, ["did you mean 'dense'", "'units'", "inferred"]),
    ({"type": "nn.Linear"}, ["'dense'"]),
    ({"type": "torch.nn.Linear(2, 1)"}, ["'dense'"]),
    ({"type": "Dense", "units": 1}, ["'dense'"]),
    ({"type": "keras.layers.Dense", "units": 1}, ["'dense'"]),
    ({"type": "FullyConnected"}, ["'dense'"]),
    ({"type": "DenseLayer"}, ["'dense'"]),
    ({"type": "dens"}, ["'dense'"]),
    ({"type": "relu"}, ["'activation'", "relu"]),
    ({"type": "ReLU"}, ["'activation'"]),
    ({"type": "nn.LeakyReLU"}, ["'activation'", "leaky_relu"]),
    ({"type": "Softmax"}, ["'activation'"]),
    ({"type": "tanh"}, ["'activation'"]),
    ({"type": "Conv2d", "out_channels": 3, "kernel_size": 3}, ["'conv2d'", "'filters'"]),
    ({"type": "conv2d", "filters": 1, "kernel_size": 3, "padding": 1}, ["zero_padding2d"]),
    ({"type": "conv2d", "filters": 1, "kernel_size": 3, "padding": "SAME"}, ["'same'"]),
    ({"type": "conv2d", "filters": 1, "kernel_size": 3, "data_format": "NCHW"}, ["'channels_first'"]),
    ({"type": "conv2d", "filters": 1, "kernel_size": 3, "stride": 2}, ["'strides'"]),
    ({"type": "BatchNorm1d", "num_features": 2}, ["'batch_normalization'", "inferred"]),
    ({"type": "BatchNorm2d"}, ["'batch_normalization'"]),
    ({"type": "LayerNorm", "normalized_shape": [2]}, ["'layer_normalization'"]),
    ({"type": "Dropout", "p": 0.5}, ["'dropout'", "'rate'"]),
    ({"type": "LSTM", "input_size": 2, "hidden_size": 3}, ["'lstm'", "'units'"]),
    ({"type": "nn.GRU", "hidden_size": 3, "batch_first": True}, ["'gru'", "leave it out"]),
    ({"type": "RNN"}, ["'simple_rnn'"]),
    ({"type": "Embedding", "num_embeddings": 3, "embedding_dim": 2}, ["'input_dim'", "'output_dim'"]),
    ({"type": "Flatten"}, ["'flatten'"]),
    ({"type": "MaxPool2d", "kernel_size": 2}, ["'max_pooling2d'", "'pool_size'"]),
    ({"type": "MultiheadAttention"}, ["'multi_head_attention'"]),
    ({"type": "Sequential", "layers": []}, ["'layers'"]),
    ({"type": "InputLayer"}, ["input_shape"]),
    ({"type": "Input"}, ["input_shape"]),
    ({"type": "adam"}, ["'adam' is an optimizer"]),
    ({"type": "dense", "neurons": 3, "activation_fn": "relu"}, ["'units'", "'activation'"]),
    ({"type": "dense", "n_neurons": 3}, ["'units'"]),
    ({"type": "dense", "nodes": 3}, ["'units'"]),
    ({"type": "dense", "units": 1, "input_shape": [2]}, ["'input_shape'", "network"]),
    ({"type": "dense", "units": 1, "input_dim": 2}, ["inferred"]),
    ({"type": "dense", "units": 1, "bias": False}, ["'use_bias'"]),
    ({"type": "dense", "units": 1, "kernel_initializer": "xavier_uniform_"}, ["xavier_uniform"]),
    ({"type": "dense", "units": 1, "kernel_initializer": "Xavier"}, ["'glorot_uniform'"]),
    ({"type": "dense", "units": 1, "kernel_initializer": "KaimingNormal"}, ["'he_normal'"]),
    ({"type": "dense", "units": 1, "kernel_regularizer": 0.01}, ['{\\"l2\\": 0.01}']),
    ({"type": "dense", "units": 1, "weight_init": "zeros"}, ["'kernel_initializer'"]),
    ({"type": "dense", "units": "1"}, ["without quotation marks"]),
    ({"type": "dense", "units": 1, "use_bias": "True"}, ["write true"]),
    ({"type": "dense", "units": 1, "activation": None}, ["leave it out"]),
    ({"type": "dense", "units": 1, "activation": "None"}, ["'linear'"]),
    ({"type": "dense", "units": 1, "activation": "nn.Tanh()"}, ["'tanh'"]),
    ({"type": "dense", "units": 1, "activation": "LeakyReLU"}, ["'leaky_relu'"]),
    ({"type": "dense", "units": 1, "activation": "Rectifier"}, ["'relu'"]),
    ({"type": "dense", "units": 1, "activation": "mse"}, ["'mse' is a loss"]),
    ({"type": "dense", "units": 1, "activation": {"name": "relu"}}, ["it came as 'name'"]),
    ({"type": "dense", "units": 1, "activation": {"type": "LeakyReLU", "negative_slope": 0.1}}, ["'alpha'"]),
    ({"class_name": "Dense", "config": {"units": 1}}, ["keras", '{\\"type\\": \\"dense\\", \\"units\\": 1}']),
    ({"name": "dense", "units": 1}, ["it came as 'name'"]),
]

REQUESTS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("/v1/gradients", {"weights": {}}, ["'parameters'"]),
    ("/v1/gradients", {"theta": {}}, ["'parameters'"]),
    ("/v1/gradients", {"x": [[1, 2]]}, ["'inputs'"]),
    ("/v1/gradients", {"X": [[1, 2]]}, ["'inputs'"]),
    ("/v1/gradients", {"data": [[1, 2]]}, ["'inputs'"]),
    ("/v1/gradients", {"y": [[1]]}, ["'targets'"]),
    ("/v1/gradients", {"labels": [[1]]}, ["'targets'"]),
    ("/v1/gradients", {"y_true": [[1]]}, ["'targets'"]),
    ("/v1/gradients", {"model": {}}, ["'network'"]),
    ("/v1/gradients", {"criterion": "mse"}, ["'loss'"]),
    ("/v1/gradients", {"loss_fn": "mse"}, ["'loss'"]),
    ("/v1/gradients", {"random_state": 1}, ["'seed'"]),
    ("/v1/gradients", {"device": "cuda"}, ["leave it out"]),
    ("/v1/gradients", {"optimizer": "sgd"}, ["/v1/train"]),
    ("/v1/gradients", {"epochs": 1}, ["/v1/train"]),
    ("/v1/gradients", {"batch_size": 1}, ["/v1/train"]),
    ("/v1/gradients", {"shuffle": True}, ["/v1/train"]),
    ("/v1/gradients", {"lr": 0.1}, ["/v1/train", "'learning_rate'"]),
    ("/v1/gradients", {"kind": "hessian"}, ["/v1/derivatives"]),
    ("/v1/gradients", {"expression": "x^2"}, ["/v1/functions/gradient"]),
    ("/v1/gradients", {"loss": "CrossEntropyLoss"}, ["'sparse_categorical_crossentropy'", "from_logits"]),
    ("/v1/gradients", {"loss": "nn.BCEWithLogitsLoss()"}, ["'binary_crossentropy'", "from_logits"]),
    ("/v1/gradients", {"loss": "NLLLoss"}, ["'sparse_categorical_crossentropy'"]),
    ("/v1/gradients", {"loss": "MSELoss"}, ["'mean_squared_error'"]),
    ("/v1/gradients", {"loss": "MSE"}, ["'mean_squared_error'"]),
    ("/v1/gradients", {"loss": "L1Loss"}, ["'mean_absolute_error'"]),
    ("/v1/gradients", {"loss": "msee"}, ["'mse'"]),
    ("/v1/gradients", {"loss": {"type": "BCEWithLogitsLoss", "pos_weight": 2}}, ["'positive_weight'"]),
    ("/v1/gradients", {"class_weight": [1, 2]}, ["'loss'", "'class_weights'"]),
    ("/v1/gradients", {"from_logits": True}, ["'loss'"]),
    ("/v1/gradients", {"network": {"layers": [DENSE], "input_shape": [None, 2]}}, ["axis of the samples"]),
    ("/v1/gradients", {"reduction": "batchmean"}, ["'mean'"]),
    ("/v1/gradients", {"dtype": "torch.float32"}, ["'float32'"]),
    ("/v1/gradients", {"dtype": "double"}, ["'float64'"]),
    ("/v1/gradients", {"include": "layers"}, ['write [\\"layers\\"]']),
    ("/v1/gradients", {"seed": "42"}, ["without quotation marks"]),
    ("/v1/gradients", {"network": [DENSE]}, ['{\\"layers\\": …}']),
    ("/v1/gradients", {"network": {"hidden_layer_sizes": [3]}}, ["'layers'"]),
    ("/v1/gradients", {"network": {"layers": [DENSE], "input_size": 2}}, ["'input_shape'"]),
    ("/v1/gradients", {"network": {"layers": ["dense"]}}, ['{\\"type\\": \\"dense\\"']),
    ("/v1/gradients", {"network": json.dumps({"layers": [DENSE]})}, ["string"]),
    ("/v1/gradients", {"network": "Sequential(\n  (0): Linear(in_features=2)\n)"}, ["python"]),
    ("/v1/gradients", {"network": {"graph": {"node": [{"opType": "Gemm"}]}, "irVersion": "8"}}, ["onnx"]),
    ("/v1/gradients", {"network": {"0.weight": [[1, 2]], "0.bias": [0]}}, ["state_dict"]),
    ("/v1/gradients", {"network": {"modelTopology": {}}}, ["keras"]),
    ("/v1/gradients", {"parameters": {"fc1.weight": [[1, 2]], "fc2.weight": [[0]]}}, ["module", "names", "'dense_1'"]),
    ("/v1/gradients", {"network": {"layers": [KERAS["config"]["layers"][0]]}}, ["keras layer", "to_json"]),
    ("/v1/gradients", {"parameters": {"W1": KERNEL, "b1": BIAS}}, ["grouped by layer"]),
    ("/v1/gradients", {"parameters": {"kernel": KERNEL, "bias": BIAS}}, ["grouped by layer"]),
    ("/v1/gradients", {"parameters": [KERNEL, BIAS]}, ["a list has no names"]),
    ("/v1/gradients", {"parameters": {"dense_1": {"weight": KERNEL, "bias": BIAS}}}, ["did you mean 'kernel'"]),
    ("/v1/gradients", {"parameters": {"dense_1": {"W": KERNEL, "b": BIAS}}}, ["'kernel'?", "'bias'?"]),
    ("/v1/gradients", {"parameters": {"dense_1": {"kernel": [[1, 2]], "bias": BIAS}}}, ["transposed"]),
    ("/v1/gradients", {"parameters": {"dense_1": {"kernel": [1, 2], "bias": [[0]]}}}, ["list of its own", "flat list"]),
    ("/v1/gradients", {"parameters": {"Dense_1": {"kernel": KERNEL, "bias": BIAS}}}, ["did you mean 'dense_1'"]),
    ("/v1/gradients", {"inputs": [1, 2]}, ["[[1, 2]]"]),
    ("/v1/gradients", {"inputs": [["NaN", 2]]}, ["json has no nan"]),
    ("/v1/gradients", {"inputs": [[None, 2]]}, ["json has no nan"]),
    ("/v1/gradients", {"inputs": [["1", 2]]}, ["without quotation marks"]),
    ("/v1/gradients", {"inputs": "[[1, 2]]"}, ["without quotation marks"]),
    ("/v1/gradients", {"targets": [1]}, ["list of its own"]),
    ("/v1/forward", {"loss": "mse"}, ["/v1/gradients"]),
    ("/v1/derivatives", {"epochs": 3}, ["/v1/train"]),
    ("/v1/train", {"lr": 0.1}, ["'optimizer'", "'learning_rate'"]),
    ("/v1/train", {"eta": 0.1}, ["'learning_rate'"]),
    ("/v1/train", {"optimizer": {"type": "sgd", "lr": 0.1}}, ["'learning_rate'"]),
    ("/v1/train", {"optimizer": {"type": "sgd", "alpha": 0.1}}, ["'learning_rate'"]),
    ("/v1/train", {"optimizer": {"type": "Adam", "betas": [0.9, 0.999], "eps": 1e-8}}, ["beta_1", "'epsilon'"]),
    (
        "/v1/gradients",
        initialised({"type": "random_normal", "stddev": 1, "loc": 0}),
        ["'standard_deviation'", "'mean'"],
    ),
    ("/v1/gradients", initialised({"type": "random_uniform", "minval": 0, "high": 1}), ["'minimum'", "'maximum'"]),
    ("/v1/gradients", initialised({"type": "constant", "fill_value": 1}), ["'value'"]),
    ("/v1/train", {"optimizer": "torch.optim.SGD"}, ["'sgd'"]),
    ("/v1/train", {"optimizer": "AdamOptimizer"}, ["'adam'"]),
    ("/v1/train", {"optimizer": "RMSProp"}, ["'rmsprop'"]),
    ("/v1/train", {"optimizer": "GradientDescent"}, ["'sgd'"]),
    ("/v1/train", {"optimizer": {"name": "adam"}}, ["it came as 'name'"]),
    ("/v1/train", {"optimizer": "mse"}, ["'mse' is a loss"]),
    ("/v1/train", {"optim": "adam"}, ["'optimizer'"]),
    ("/v1/train", {"metrics": ["accuracy"]}, ["losses"]),
    ("/v1/train", {"max_iter": 10}, ["'steps'"]),
    ("/v1/train", {"n_epochs": 10}, ["'epochs'"]),
    ("/v1/train", {"schedule": "StepLR"}, ["'step_decay'"]),
    ("/v1/train", {"schedule": {"type": "CosineAnnealingLR", "T_max": 10}}, ["'cosine'", "'decay_steps'"]),
    ("/v1/train", {"scheduler": "cosine"}, ["'schedule'"]),
    ("/v1/train", {"early_stopping": True}, ["'stop'", "patience"]),
    ("/v1/train", {"validation_data": []}, ["'validation'"]),
    ("/v1/train", {"clipnorm": 1.0}, ["'clip'"]),
    ("/v1/train/compare", {"lr": 0.1}, ["'optimizers'", "'learning_rate'"]),
]
ROUTES = {
    "/v1/forward": {"network": GRADIENTS["network"], "inputs": [[1, 2]]},
    "/v1/gradients": GRADIENTS,
    "/v1/derivatives": {"network": GRADIENTS["network"], "inputs": [[1, 2]], "kind": "jacobian"},
    "/v1/train": TRAIN,
    "/v1/train/compare": GRADIENTS | {"optimizers": ["sgd"], "steps": 1},
}


def told(document: dict[str, Any]) -> str:
    """Return all text of a problem document, as JSON."""
    return json.dumps(document, ensure_ascii=False).lower()


@every("path", ROUTES)
def test_the_requests_that_are_changed_below_are_right(post: Post, path: str) -> None:
    assert post(ROUTES[path], path).status_code == 200


@every(("layer", "words"), LAYERS, ids=lambda value: json.dumps(value)[:60])
def test_a_layer_in_the_words_of_others(post: Post, layer: dict[str, Any], words: list[str]) -> None:
    body = GRADIENTS | {"network": {"layers": [layer, DENSE]}}
    document = assert_problem(post(body), "invalid", body)
    assert [word for word in words if word.lower() not in told(document)] == []
    assert document["errors"][0]["detail"] in document["detail"]


@every(("path", "change", "words"), REQUESTS, ids=lambda value: json.dumps(value)[:60])
def test_a_request_in_the_words_of_others(post: Post, path: str, change: dict[str, Any], words: list[str]) -> None:
    body = ROUTES[path] | change
    document = assert_problem(post(body, path), "invalid", body)
    assert [word for word in words if word.lower() not in told(document)] == []
    assert document["errors"][0]["detail"] in document["detail"]
    assert all(resolves(error["pointer"], body) and len(error["detail"]) < 420 for error in document["errors"])


@every("body", [KERAS, {"graph": {"node": []}}, {"0.weight": [[1]], "0.bias": [1]}])
def test_a_body_that_is_a_model_of_others_is_named(post: Post, body: dict[str, Any]) -> None:
    (error,) = assert_problem(post(body), "invalid")["errors"]
    assert error["pointer"] == "#"
    assert any(name in error["detail"] for name in ("Keras", "ONNX", "state_dict"))


def test_a_kernel_of_a_convolution_in_the_layout_of_pytorch_is_told_its_axes(post: Post) -> None:
    conv = {"type": "conv2d", "name": "c", "filters": 4, "kernel_size": [2, 3]}
    body = GRADIENTS | {
        "network": {"layers": [conv, {"type": "flatten"}, DENSE]},
        "inputs": [[[[1] * 5] * 4] * 3],
        "parameters": {"c": {"kernel": [[[[1] * 3] * 2] * 5] * 4, "bias": [0] * 4}},
    }
    errors = assert_problem(post(body), "invalid", body)["errors"]
    detail = next(error["detail"] for error in errors if error["pointer"] == "#/parameters/c/kernel")
    assert "transposed" in detail and "[2, 3, 1, 0]" in detail


def test_the_detail_names_the_first_fault_and_counts_the_others(post: Post) -> None:
    body = GRADIENTS | {"loss": "msee", "seed": -1, "dtype": "x"}
    document = assert_problem(post(body), "invalid", body)
    first = document["errors"][0]
    assert document["detail"] == f"{first['pointer']}: {first['detail']} (and 2 more)"


@pytest.mark.parametrize(
    ("registry", "field"), [(activations, "activation"), (losses, "loss"), (optimizers, "optimizer")]
)
def test_a_long_list_yields_to_a_suggestion(post: Post, registry: Registry[Any], field: str) -> None:
    def errors(name: str) -> Any:
        body = TRAIN | ({"network": {"layers": [DENSE | {field: name}]}} if field == "activation" else {field: name})
        return assert_problem(post(body, "/v1/train"), "invalid", body)["errors"]

    (near,) = errors(registry.names[0] + "x")
    assert "allowed" not in near and f"GET /v1/{registry.path} lists all" in near["detail"]
    (far,) = errors("qqqqq")
    assert far["allowed"] == registry.names


def test_foreign_keys_mean_keys_that_there_are() -> None:
    schemas: list[Schema] = [LAYER_KEYS, SCHEMA, *(each.takes for each in ENDPOINTS if each.takes is not None)]
    every: list[Registry[Any]] = [layers, activations, losses, initializers, optimizers, schedules, regularizers]
    schemas += [options_schema(declaration) for registry in every for declaration in registry]
    objects = [field for schema in schemas for field in schema.load_fields.values() if isinstance(field, ObjectField)]
    schemas += [field.schema for field in objects]
    known = {key for schema in schemas for key in schema.load_fields} | {"type", *SUBMISSION_KEYS}
    for name, foreign in FOREIGN["key"].items():
        assert foreign.here or foreign.note, name
        assert set(foreign.here) <= known, name


def test_keys_of_other_operations_are_keys_of_those() -> None:
    taken = {each.path: each.takes for each in ENDPOINTS if each.takes is not None}
    for schema in taken.values():
        assert isinstance(schema, StrictSchema)
        for key, place in schema.elsewhere.items():
            if place.startswith("/"):
                belongs = taken[place]
                assert isinstance(belongs, StrictSchema)
                assert key in belongs.load_fields or key in belongs.elsewhere, key


# --- JSON ---------------------------------------------------------------------------------------

BODIES_THAT_ARE_NO_JSON: list[tuple[bytes, str]] = [
    (b'{"a": NaN}', "nan"),
    (b'{"a": [1, -Infinity]}', "infinity"),
    (b'{"a": nan}', "nan"),
    (b'{"a": undefined}', "undefined"),
    (b'{"a": None}', "null"),
    (b'{"a": True}', "lower case"),
    (b"{'a': 1}", "double"),
    (b"{\"a\": 'x'}", "double"),
    ("{“a”: 1}".encode(), "quotation mark"),
    (b'{"a": 1,}', "comma"),
    (b'{"a": [1, 2,]}', "comma"),
    (b'{"a": 1 // x\n}', "comments"),
    (b'{"a": 1} # x', "comments"),
    (b'/* x */ {"a": 1}', "comments"),
    (b"{a: 1}", "double quotation marks"),
    (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
    ('{"a": 1}'.encode("utf-16"), "utf-16"),
    (b'{"a": "\xe4"}', "utf-8"),
    (b'{"a": .5}', "0.5"),
    (b'{"a": 1.}', "1.0"),
    (b'{"a": +1}', "no sign"),
    (b'{"a": 01}', "leading zero"),
    (b'{"a": 0x1F}', "decimal digits"),
    (b'{"a": 1_000}', "1000"),
    (b'{"a": 1/3}', "arithmetic"),
    (b'{"a": 2*3}', "arithmetic"),
    (b'{"a": [0,5, 1,]}', "comma"),
    (b'{"a": 0,5}', "decimal point"),
    (b'{"a": 1e999}', "too large"),
    (b'{"a": (1, 2)}', "parentheses"),
    (b'{"a": np.array([1])}', "nested lists"),
    (b'{"a": tensor([1.])}', "nested lists"),
    (b'{"a": [1, ...]}', "three dots"),
    (b'{"a": 1; "b": 2}', "commas"),
    (b'{"a": 1 "b": 2}', "comma is missing"),
    (b'{"a" 1}', "colon"),
    (b'{"a": "x\ny"}', "line break"),
    (b'{"a": [1, 2', "too early"),
    (b'{"a": [1, 2}', "bracket"),
    (b'{"a": 1}}', "bracket too many"),
    (b'{"a": 1}\n{"a": 2}', "one object"),
    (b"a=1&b=2", "form"),
    (b"--x\r\nContent-Disposition: form-data", "form"),
    (b"<a>1</a>", "xml"),
    (b"a: 1\n", "yaml"),
    (b"", "empty"),
    (b" \n", "empty"),
]


@every(("body", "word"), BODIES_THAT_ARE_NO_JSON)
def test_a_body_that_is_no_json_is_told_what_json_has_instead(post: Post, body: bytes, word: str) -> None:
    detail = assert_problem(post(body), "malformed-body")["detail"]
    assert word in detail.lower()
    assert len(detail) < 250


def test_a_body_that_was_encoded_twice_is_told_so(post: Post) -> None:
    document = assert_problem(post(json.dumps(json.dumps(GRADIENTS)).encode()), "invalid")
    assert "encoded twice" in document["detail"]


@every(
    ("content_type", "word"),
    [
        ("", "missing"),
        ("application/x-www-form-urlencoded", "curl"),
        ("multipart/form-data; boundary=x", "forms"),
        ("text/plain;charset=UTF-8", "fetch"),
        ("application/json; charset=latin-1", "utf-8"),
    ],
)
def test_another_content_type_is_told_how_to_send_json(client: FlaskClient, content_type: str, word: str) -> None:
    response = client.post("/v1/gradients", data=json.dumps(GRADIENTS), content_type=content_type)
    assert word in assert_problem(response, "unsupported-media-type")["detail"].lower()


# --- paths and methods --------------------------------------------------------------------------


@every(
    ("path", "instead"),
    [
        ("/gradients", "POST /v1/gradients"),
        ("/v1/gradient", "POST /v1/gradients"),
        ("/v1/Gradients", "POST /v1/gradients"),
        ("/api/v1/gradients", "POST /v1/gradients"),
        ("/v2/gradients", "POST /v1/gradients"),
        ("/v1/gradients/xor", "POST /v1/gradients"),
        ("/v1/gradients.json", "POST /v1/gradients"),
        ("//v1/gradients", "POST /v1/gradients"),
        ("/predict", "POST /v1/forward"),
        ("/v1/fit", "POST /v1/train"),
        ("/v1/trian", "POST /v1/train"),
        ("/backward", "POST /v1/gradients"),
        ("/v1/hessian", "POST /v1/derivatives"),
        ("/functions/gradient", "POST /v1/functions/gradient"),
        ("/v1/activation", "GET /v1/activations"),
        ("/health", "GET /health/live"),
        ("/swagger", "GET /docs"),
        ("/openapi", "GET /openapi.json"),
        ("/v1/jobs", "POST /v1/runs"),
        ("/tasks", "POST /v1/runs"),
        ("/v1/run", "POST /v1/runs"),
        ("/v2", "GET /v1"),
    ],
)
def test_a_path_that_there_is_not_is_told_the_nearest(client: FlaskClient, path: str, instead: str) -> None:
    document = assert_problem(client.get(path), "not-found")
    assert f"did you mean {instead}?" in document["detail"]


@every("path", ["/v1/nothing", "/wp-admin", "/" + "x" * 3000, "/v1/%00"])
def test_a_path_like_none_is_told_where_the_list_is(client: FlaskClient, path: str) -> None:
    detail = assert_problem(client.get(path), "not-found")["detail"]
    assert "GET /v1 lists" in detail and len(detail) < 250


def test_pages_that_are_switched_off_are_not_suggested(make_client: Any) -> None:
    detail = assert_problem(make_client(docs=False).get("/swagger"), "not-found")["detail"]
    assert "/docs" not in detail


@every("operation", ENDPOINTS, ids=lambda operation: operation.path)
def test_a_wrong_method_is_told_the_right_one_with_a_body_that_works(client: FlaskClient, operation: Any) -> None:
    path = operation.path.format(name="relu", id="0" * 32)
    methods = {each.method for each in ENDPOINTS if each.path == operation.path}
    wrong = next(method for method in ("POST", "GET", "PUT") if method not in methods)
    detail = assert_problem(client.open(path, method=wrong), "method-not-allowed")["detail"]
    assert any(f"send {method}" in detail for method in methods)
    if operation.method == "POST" and operation.takes is None:
        assert detail.endswith("send POST, without a body.")
    elif operation.method == "POST":
        body = json.loads(detail.split("such as ")[1])
        # Where the path has an id, the body is read before it is looked for.
        assert client.post(path, json=body).status_code in ((404,) if "{id}" in operation.path else (200, 201, 202))


def test_paths_of_hints_are_paths_of_the_service(client: FlaskClient) -> None:
    known = {rule.rule for rule in client.application.url_map.iter_rules()}
    assert set(BODIES) <= known and set(WORDS.values()) <= known


# --- expressions --------------------------------------------------------------------------------


@every(
    ("expression", "words"),
    [
        ("np.sin(x)", ["sin(x)"]),
        ("math.exp(x)", ["write exp(x)"]),
        ("Math.pow(x, 2)", ["write pow(x, 2)"]),
        ("torch.relu(x)", ["write relu(x)"]),
        ("tf.math.log(x)", ["write log(x)"]),
        ("lambda x: x**2", ["lambda", "write x**2"]),
        ("f = lambda x: x**2", ["write x**2"]),
        ("def f(x): return x^2", ["write x^2"]),
        ("f(x) = x^2", ["write x^2"]),
        ("y = x^2", ["write x^2"]),
        ("x => x*x", ["write x*x"]),
        ("x -> x*x", ["write x*x"]),
        ("sin^2(x)", ["sin(x)^2"]),
        ("sin x", ["write sin(x)"]),
        ("2 sin 3x", ["write 2 sin(3x)"]),
        ("√x", ["√(x)"]),
        ("Sin(x)", ["sin(x)"]),
        ("Exp[x]", ["write exp(x)"]),
        (r"\frac{1}{x}", ["latex", "(1)/(x)"]),
        (r"\frac{\frac{1}{x}}{2}", ["((1)/(x))/(2)"]),
        (r"\sin x", ["latex", "sin(x)"]),
        (r"\sqrt{x^2 + 1}", ["sqrt(x^2 + 1)"]),
        (r"e^{-x}", ["e^(-x)"]),
        ("$x^2$", ["write x^2"]),
        ("∂f/∂x", ["derivative"]),
        ("d/dx(x^2)", ["derivative", "(x^2)"]),
        ("f'(x)", ["derivative"]),
        ("∫x", ["integrals"]),
        ("0 < x < 1", ["comparison", "(0 < x)*(x < 1)"]),
        ("x^2 if x > 0 else -x", ["choice", "where(x > 0, x^2, -x)"]),
        ("x > 0 ? x^2 : -x", ["choice", "where(x > 0, x^2, -x)"]),
        ("np.where(x > 0, x, 0)", ["write where(x > 0, x, 0)"]),
        ("x != 1", ["comparison"]),
        ("x == 1", ["comparison"]),
        ("x && 1", ["logic"]),
        ("x // 2", ["floor"]),
        ("x^2 # square", ["comments", "write x^2"]),
        ("square(x)", ["(…)^2"]),
        ("|x", ['close the \\"|\\"']),
        ("1_000x", ["1000x"]),
        ("½x", ["(1/2)x"]),
        ("x^2;", ["write x^2"]),
        # calls of other libraries
        ("np.maximum(x, 0)", ["module", "write max(x, 0)"]),
        ("np.square(x)", ["write x^2"]),
        ("np.clip(x, 0, 1)", ["write min(max(x, 0), 1)"]),
        (r"\frac{\sin(x)}{x}+np.maximum(x,2)", ["write (sin(x))/(x)+max(x, 2)"]),
        ("F.gelu(x)", ["write x*erfc(-x/sqrt(2))/2"]),
        ("nn.ReLU()(x)", ["write relu(x)"]),
        ("np.linalg.norm(x)", ["write abs(x)"]),
        ("Math.PI*x", ["write pi*x"]),
        ("np.sum(x**2)", ["module", "write the terms out"]),
        ("np.frobnicate(x)", ["module", "/v1/functions/vocabulary", "frobnicate"]),
        ("x.sin()", ["write sin(x)"]),
        ("max(x, 2, 3)", ["max takes 2 arguments", "write max(max(x, 2), 3)"]),
        ("max([x, 1])", ["write max(x, 1)"]),
        ("log(x, 2)", ["log takes 1 argument", "write log(x)/log(2)"]),
        ("Log[2, x]", ["(log(x)/log(2))"]),
        ("Rational(1, 2)*x", ["(1/2)*x"]),
        ("Piecewise((x, x > 0), (0, True))", ["write where(x > 0, x, 0)"]),
        ("diff(x**2, x)", ["derivative", "write x**2"]),
        ("sech(x)", ["1/cosh(x)"]),
        ("factorial(x)", ["no factorial"]),
        ("x(x - 1)", ["x*(x - 1)"]),
        # functions and programs
        ("double f(double x) { return x*x; }", ["write x*x"]),
        ("function f(x) { return x*x }", ["write x*x"]),
        ("const f = x => x*x;", ["write x*x"]),
        ("f <- function(x) x^2", ["write x^2"]),
        ("f = @(x) x.^2", ["write x^2"]),
        ("f[x_] := Sin[x]", ["write sin(x)"]),
        ("x.^2 .* x", ["write x^2 * x"]),
        ("=a1^2+1", ["write a1^2+1"]),
        ("=IF(x>0;x;0)", ["write if(x>0, x, 0)"]),
        ("for i in range(3): x", ["no program"]),
        # signs
        ("sin⁻¹(x)", ["asin(x)", "1/sin(x)"]),
        ("sin x^2", ["write sin(x^2)"]),
        ("sin cos x", ["write sin(cos(x))"]),
        ("exp^x", ["write e^x"]),
        ("exp-x", ["write exp(-x)"]),
        ("∛x", ["write cbrt(x)"]),
        ("e⁻ˣ", ["write e^-x"]),
        ("x₁² + x₂", ["write x1² + x2"]),
        ("x[0]^2", ["write x0^2"]),
        ("x % 2", ["write mod(x, 2)"]),
        ("x mod 2", ["write mod(x, 2)"]),
        ("x//2", ["write floor(x/2)"]),
        ("50% x", ["(50/100) x"]),
        ("x >= 0 and x < 1", ["logic", "write (x >= 0)*(x < 1)"]),
        ("x > 0 || x < -1", ["logic", "write max(x > 0, x < -1)"]),
        ("!x", ["logic"]),
        ("x <> 1", ["comparisons"]),
        ("x => 0", ["write x >= 0"]),
        ("x^2 = 4", ["difference", "write x^2 - (4)"]),
        ("“x^2”", ["quotation", "write x^2"]),
        ("sin(x", ["write sin(x)"]),
        ("sin(x))", ["write sin(x)"]),
        ("[x, 1]", ["one number"]),
        ("x, 1", ["one number"]),
        ("w @ x", ["terms of a product"]),
        # LaTeX
        (r"\sum_i x_i", ["latex", "sums"]),
        (r"\frac{\partial f}{\partial x}", ["latex", "derivative"]),
        (r"x^{2y}", ["latex", "write x^(2y)"]),
    ],
)
def test_an_expression_in_the_words_of_others(post: Post, expression: str, words: list[str]) -> None:
    body = {"expression": expression, "points": [[1]]}
    document = assert_problem(post(body, "/v1/functions/gradient"), "invalid", body)
    assert [word for word in words if word not in told(document)] == []


@every(
    ("expression", "words"),
    [
        ("sinx + cosx", ["sin(x)", "cos(x)"]),
        ("lnx", ["ln(x)"]),
        ("sin2x", ["sin(2x)"]),
        ("xsinx + x", ["x*sin(x)"]),
        ("sqrtx", ["sqrt(x)"]),
        ("arctanx", ["arctan(x)"]),
        ("xy + x + y", ["x*y"]),
        ("x and y", ["logic"]),
        ("nan", ["no such number"]),
        ("cotx", ["1/tan(x)"]),
        ("sinwt", ["sin(w*t)"]),
        ("xsin", ["x*sin(…)"]),
        ("Pi*x", ["pi"]),
        ("x squared", ["x^2"]),
        ("dy/dx", ["quotient", "derivative"]),
        ("minimize x^2", ["function only"]),
        ("E^x", ["e?"]),
        ("0x1F", ["decimal"]),
        ("2 + 1j", ["complex"]),
        ("e^(i*x)", ["complex"]),
        ("x_1 + x1", ["two variables"]),
        ("x_1x_2 + x_1 + x_2", ["x_1*x_2"]),
        ("d/dx x", ["derivative"]),
    ],
)
def test_names_that_are_slips_are_computed_and_warned_of(post: Post, expression: str, words: list[str]) -> None:
    count = len(assert_ok(post, expression, 1)["variables"])
    answer = assert_ok(post, expression, count)
    messages = " ".join(warning["message"] for warning in answer["warnings"] if warning["code"] == "unusual_name")
    assert [word for word in words if word not in messages] == []


@every(
    "expression",
    [
        "cost + sine",
        "x1 + x_2",
        "step1 + max2",
        "theta^2 + alpha",
        "time*rate",
        "logistic(x)",
        "xy",
        "min1",
        "signal",
        "E*x",
        "i*j",
        "sigmax + maxx",
        "const1 + logit",
        "sqrt2",
        "x1_2",
    ],
)
def test_names_that_are_names_are_not_warned_of(post: Post, expression: str) -> None:
    count = len(assert_ok(post, expression, 1)["variables"])
    assert assert_ok(post, expression, count)["warnings"] == []


def test_a_name_that_was_listed_was_meant(post: Post) -> None:
    body = {"expression": "sinx^2", "variables": ["sinx"], "points": [[1]], "include": []}
    assert post(body, "/v1/functions/gradient").json["warnings"] == []


def assert_ok(post: Post, expression: str, count: int) -> dict[str, Any]:
    """Return the answer at one point of an expression with `count` variables; fewer give its list of variables."""
    body = {"expression": expression, "points": [[0.5] * count], "include": []}
    answer: dict[str, Any] = post(body, "/v1/functions/gradient").json
    if "errors" in answer:
        names = answer["errors"][0]["detail"].split("[")[1].split("]")[0].split(", ")
        assert len(names) != count, answer
        return {"variables": names}
    return answer


def test_a_keras_layer_without_a_name_is_told_that_keras_gives_names(post: Post) -> None:
    layers = [{"class_name": "Dense", "config": {"units": 1}}]
    network = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    body = {"network": network, "inputs": [[1, 2]], "targets": [[1]], "loss": "mean_squared_error"}
    (error,) = assert_problem(post(body), "invalid")["errors"]
    assert error["pointer"] == "#/network/config/layers/0"
    assert error["detail"].startswith("a layer (Dense)") and "Keras" in error["detail"]


POINT: dict[str, Any] = {"expression": "x^2 + y^2", "points": [[1, 2]], "include": []}


@every(
    ("path", "body", "words"),
    [
        ("gradient", POINT | {"points": {"x": 1, "y": 2}}, ["write [[1,2]]", "order of the variables"]),
        ("gradient", POINT | {"points": [{"y": 2, "x": 1}]}, ["write [[1,2]]"]),
        ("gradient", POINT | {"points": [["1/2", 1]]}, ["arithmetic", "write 0.5"]),
        ("gradient", POINT | {"points": [["0,5", 1]]}, ["write 0.5"]),
        ("gradient", POINT | {"points": [["pi", 1]]}, ["write 3.14159"]),
        ("gradient", POINT | {"variables": "x, y"}, ['write [\\"x\\",\\"y\\"]']),
        ("gradient", POINT | {"function": "x^2"}, ["'expression'"]),
        ("gradient", POINT | {"order": 2}, ["'include'"]),
        ("gradient", POINT | {"include": ["latex"]}, ["'symbolic'"]),
        ("gradient", {"expression": "x^2", "at": [1]}, ["'points'"]),
        ("stationary", {"expression": "x^2", "box": {"x": [-1, 1]}}, ["write [[-1,1]]"]),
        ("surface", {"expression": "x*y", "box": [[-1, 1], [-1, 1]]}, ["'x'", '\\"y\\": [low, high]']),
        ("descend", {"expression": "x", "starts": [1], "optimizers": ["sgd"], "epochs": 5}, ["'steps'"]),
        ("descend", {"expression": "x", "starts": [{"x": 1}], "optimizers": ["sgd"]}, ["write [[1]]"]),
        ("fit", {"points": [[1, 2], [2, 3]], "degree": 2}, ["line"]),
    ],
)
def test_a_request_about_a_function_in_other_words(post: Post, path: str, body: Any, words: list[str]) -> None:
    document = assert_problem(post(body, f"/v1/functions/{path}"), "invalid", body)
    assert [word for word in words if word not in told(document)] == []
