"""Small requests that ask for giants: each is answered, in little memory, before the giant is made."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from schemas.tensor import encode
from tests.conftest import MakeClient, Post
from tests.support import assert_problem, every, faults

PIXEL = [[[[1.0]]]]


def up(*size: int, interpolation: str = "nearest") -> dict[str, Any]:
    return {"type": "up_sampling2d", "size": list(size), "interpolation": interpolation}


def repeat(n: int) -> dict[str, Any]:
    return {"type": "repeat_vector", "n": n}


ATTENTION = {"type": "multi_head_attention", "num_heads": 1, "key_dim": 1, "use_causal_mask": True}
POOL = {"type": "average_pooling2d", "pool_size": [3, 1], "strides": 1, "padding": "same"}


@every(
    ("inputs", "layers"),
    [
        ([[1.0]], [repeat(2**40), {"type": "average_pooling1d"}]),
        ([[1.0]], [repeat(2**40), ATTENTION]),
        ([[1.0]], [repeat(3 * 10**7), ATTENTION]),
        ([[1.0]], [repeat(2**62), {"type": "lstm", "units": 1}]),
        (PIXEL, [up(2**62, 2**62)]),
        (PIXEL, [up(256, 256, interpolation="bilinear")] * 4),
        (PIXEL, [up(2**31, 1), POOL]),
        (PIXEL, [up(2**62, 2**62)] * 300),
        (PIXEL, [{"type": "zero_padding2d", "padding": 2**62}]),
        (PIXEL, [{"type": "conv2d", "filters": 2**62, "kernel_size": 1}]),
        (PIXEL, [{"type": "conv2d", "filters": 1, "kernel_size": 2**62, "padding": "same"}]),
        (PIXEL, [{"type": "conv2d", "filters": 1, "kernel_size": 3, "dilation_rate": 2**62, "padding": "same"}]),
        (PIXEL, [{"type": "conv2d_transpose", "filters": 1, "kernel_size": 1, "strides": 2**62}, POOL]),
        (PIXEL, [{"type": "max_pooling2d", "pool_size": 2**62, "padding": "same"}]),
        ([[1.0]], [{"type": "maxout", "units": 2**62, "pieces": 2**62}]),
        ([[[1.0]]], [{"type": "gru", "units": 2**62}]),
        ([[1.0]], [{"type": "embedding", "input_dim": 2**62, "output_dim": 2**62}]),
    ],
)
def test_giants_are_refused_before_they_are_made(post: Post, inputs: Any, layers: list[dict[str, Any]]) -> None:
    body = {"network": {"layers": layers}, "inputs": inputs}
    tracemalloc.start()
    try:
        document = assert_problem(post(body, "/v1/forward"), "limit-exceeded", body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
    assert all(each.get("asked", 0) < float("inf") for each in document["errors"])


def test_a_window_larger_than_the_image_costs_no_more_than_the_image(post: Post) -> None:
    pool = {"type": "max_pooling2d", "pool_size": 1000, "padding": "same"}
    response = post({"network": {"layers": [pool]}, "inputs": np.eye(6)[None, :, :, None].tolist()}, "/v1/forward")
    assert response.status_code == 200 and response.json["outputs"] == [[[[1.0]]]]


def test_many_wrong_indices_cost_no_list_of_them(post: Post) -> None:
    indices = np.full((2_000_000, *(1,) * 15), 255, np.uint8)
    body = {
        "network": {"layers": [{"type": "embedding", "name": "e", "input_dim": 3, "output_dim": 1}]},
        "inputs": encode(indices),
        "parameters": {"e": {"embeddings": [[1.0], [2.0], [3.0]]}},
    }
    tracemalloc.start()
    try:
        told = faults(assert_problem(post(body, "/v1/forward"), "invalid", body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(told) == ["#/inputs"]
    assert peak < 64 * 2**20


@pytest.mark.parametrize("kind", ["embedding", "global_max_pooling1d"])
def test_kernels_take_little_memory_that_no_plan_knows_of(make_client: MakeClient, kind: str) -> None:
    client = make_client(max_body_bytes=2**27, max_workspace_bytes=2**30, max_memory_bytes=2**32)
    if kind == "embedding":
        layers: list[dict[str, Any]] = [
            {"type": "embedding", "input_dim": 3, "output_dim": 32},
            {"type": "global_average_pooling1d"},
        ]
        inputs = encode(np.zeros((4, 50_000), np.uint8))
        targets = np.zeros((4, 32)).tolist()
    else:
        layers, targets = [{"type": kind}], np.zeros((4, 8)).tolist()
        inputs = encode(np.random.default_rng(0).random((4, 200_000, 8)))
    body = {"network": {"layers": layers}, "inputs": inputs, "targets": targets, "loss": "mse"}
    body["include"] = [] if kind == "embedding" else ["input_gradients"]
    tracemalloc.start()
    try:
        response = client.post("/v1/gradients", json=body, headers={"Accept": "application/json; tensors=base64"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert response.status_code == 200
    claimed = int(response.headers["Server-Timing"].split('memory;desc="')[1].split()[0])
    size = 50_000 * 4 * 32 * 8 if kind == "embedding" else 4 * 200_000 * 8 * 8
    assert claimed >= size
    assert peak < claimed + 6 * size, (
        peak,
        claimed,
    )  # beside the plan: the request and the answer, as text and as arrays


@every("path", ["/v1/forward", "/v1/gradients", "/v1/derivatives"])
def test_a_number_in_place_of_one_of_several_inputs(post: Post, path: str) -> None:
    body: dict[str, Any] = {
        "network": {"inputs": ["a", "b"], "layers": [{"type": "add", "name": "s", "inputs": ["a", "b"]}]},
        "inputs": {"a": 1.0, "b": [[1.0]]},
    }
    if path == "/v1/gradients":
        body |= {"targets": [[1.0]], "loss": "mse"}
    if path == "/v1/derivatives":
        body["kind"] = "jacobian"
    told = faults(assert_problem(post(body, path), "invalid", body))
    assert "they take one row per sample" in told["#/inputs/a"]


def test_indices_are_checked_before_they_are_rounded(post: Post) -> None:
    layers = [{"type": "embedding", "name": "e", "input_dim": 2, "output_dim": 1}]
    for wrong in (1.000000001, 2**24 + 1):
        body = {"network": {"layers": layers}, "inputs": [[wrong]], "dtype": "float32"}
        assert "#/inputs/0/0" in faults(assert_problem(post(body, "/v1/forward"), "invalid", body))
    classes = {
        "network": {"layers": [{"type": "dense", "units": 2}]},
        "inputs": [[1.0]],
        "targets": [1.000000001],
        "loss": {"type": "sparse_categorical_crossentropy", "from_logits": True},
        "dtype": "float32",
    }
    assert "#/targets/0" in faults(assert_problem(post(classes), "invalid", classes))


def test_class_weights_of_one_of_several_losses_are_named(post: Post) -> None:
    sparse = {"type": "sparse_categorical_crossentropy", "from_logits": True, "class_weights": [1, 2]}
    body: dict[str, Any] = {
        "network": {
            "layers": [
                {"type": "dense", "name": "a", "units": 1},
                {"type": "dense", "name": "b", "units": 3, "inputs": ["input"]},
            ],
            "outputs": ["a", "b"],
        },
        "inputs": [[1.0]],
        "targets": {"a": [[0.0]], "b": [0]},
        "loss": {"a": "mse", "b": sparse},
    }
    told = faults(assert_problem(post(body), "invalid", body))
    assert told == {"#/loss/b/class_weights": "2 class weights came; layer 'b' has 3 outputs"}


def test_the_padding_of_a_maximum_is_not_blamed_for_what_comes_later(post: Post) -> None:
    layers = [
        {"type": "max_pooling1d", "name": "pool", "pool_size": 2, "padding": "same"},
        {"type": "activation", "name": "boom", "activation": "exponential"},
    ]
    response = post({"network": {"layers": layers}, "inputs": [[[1000], [2], [1000]]]}, "/v1/forward")
    (warning,) = [each for each in response.json["warnings"] if each["code"] == "non_finite"]
    assert warning["layer"] == "boom"


def test_weights_near_the_largest_number_keep_gradients_that_are_numbers(post: Post) -> None:
    body = {
        "network": {"layers": [{"type": "dense", "name": "a", "units": 1, "use_bias": False}]},
        "parameters": {"a": {"kernel": [[1.0]]}},
        "inputs": [[1e-300]],
        "targets": [[0.0]],
        "loss": "squared_error",
        "loss_weights": {"a": 1e308},
    }
    (((gradient,),),) = [post(body).json["gradients"]["a"]["kernel"]]
    assert gradient is not None
