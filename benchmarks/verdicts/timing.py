"""Time verdicts, beyond what the gradient alone costs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.by_hand import sigmoid_gradients, softmax_gradients
from benchmarks.networks import DIGITS, XOR, Array, Case
from benchmarks.verdicts.judge import PATH, Send
from schemas.tensor import encode as typed

CLASS = Case("784-30-10, batch 64", (784, 30, 10), ("sigmoid", "softmax"), 64, "categorical_crossentropy")
SUBMISSIONS = 200


def typed_single(array: Array) -> dict[str, Any]:
    """Return a typed array in float32: in float64, 200 submissions would exceed the largest body."""
    return typed(array.astype("float32"))


def request_of(case: Case, encode: Any) -> tuple[dict[str, Any], dict[str, dict[str, Array]]]:
    """Return the body of a request, and the right gradients, computed by hand."""
    numbers = case.numbers("float64")
    body = case.request() | {"inputs": encode(numbers.inputs), "targets": encode(numbers.targets)}
    body["parameters"] = case.tree(numbers.kernels, numbers.biases, encode)
    if case.activations == ("sigmoid", "softmax"):
        flat = _mixed_gradients(numbers.kernels, numbers.biases, numbers.inputs, numbers.targets)
    else:
        by_hand = sigmoid_gradients if case is XOR else softmax_gradients
        _, _, flat = by_hand(numbers.kernels, numbers.biases, numbers.inputs, numbers.targets)
    return body, case.tree(flat[::2], flat[1::2])


def _mixed_gradients(kernels: list[Array], biases: list[Array], x: Array, t: Array) -> list[Array]:
    hidden = 1.0 / (1.0 + np.exp(-(x @ kernels[0] + biases[0])))
    powers = np.exp(hidden @ kernels[1] + biases[1])
    delta = (powers / powers.sum(1, keepdims=True) - t) / len(x)
    before = (delta @ kernels[1].T) * hidden * (1.0 - hidden)
    return [x.T @ before, before.sum(0), hidden.T @ delta, delta.sum(0)]


def _encoded(tree: Mapping[str, Mapping[str, Array]], encode: Any, factor: float = 1.0) -> dict[str, Any]:
    return {name: {key: encode(factor * array) for key, array in each.items()} for name, each in tree.items()}


def _milliseconds(send: Send, path: str, body: Mapping[str, Any], rounds: int) -> float:
    """Return the median response time in milliseconds; infinity if the request is refused, as at its deadline."""
    times = []
    for place in range(-2, rounds):
        start = time.perf_counter()
        status, answer = send(path, body)
        if status != 200:
            print(f"{path}: {answer['detail']}")
            return math.inf
        if place >= 0:
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def times(send: Send) -> list[list[str]]:
    """Return table rows: network, claim, ms of the gradient alone, ms of the verdict, the difference, and the bar."""
    rows = []
    for case, encode, rounds, bar in ((XOR, np.ndarray.tolist, 50, 5.0), (DIGITS, typed, 9, 100.0)):
        body, right = request_of(case, encode)
        alone = _milliseconds(send, "/v1/gradients", body, rounds)
        noise = {
            name: {key: array + np.sin(np.arange(array.size)).reshape(array.shape) for key, array in tree.items()}
            for name, tree in right.items()
        }
        for what, claimed in (
            ("right", _encoded(right, encode)),
            ("mean forgotten", _encoded(right, encode, float(case.batch))),
            ("no known mistake", _encoded(noise, encode)),
        ):
            whole = _milliseconds(send, PATH, body | {"claimed": claimed}, rounds)
            rows.append([case.name, what, f"{alone:.2f}", f"{whole:.2f}", f"{whole - alone:.2f}", f"≤ {bar:g}"])
    body, right = request_of(CLASS, typed_single)
    body["dtype"] = "float32"
    factors = (1.0, -1.0, 2.0, 64.0, 1.37)
    listed = [
        {"id": f"student {place}", "claimed": _encoded(right, typed_single, factors[place % len(factors)])}
        for place in range(SUBMISSIONS)
    ]
    alone = _milliseconds(send, "/v1/gradients", body, 5)
    whole = _milliseconds(send, PATH, body | {"submissions": listed}, 3)
    rows.append(
        [CLASS.name, f"{SUBMISSIONS} submissions", f"{alone:.2f}", f"{whole:.0f}", f"{whole - alone:.0f}", "≤ 2000"]
    )
    return rows
