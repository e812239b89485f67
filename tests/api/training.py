"""Requests to `/v1/train`, and how answers of trainings are compared."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from werkzeug.test import TestResponse

from tests.api.test_gradients import plain
from tests.support import network, strict_json, xor

PATH = "/v1/train"
NDJSON, EVENTS = "application/x-ndjson", "text/event-stream"
EVERYTHING = ["gradients", "parameters", "state", "updates", "effective_learning_rate", "batch"]
BASIC = {"step", "epoch", "loss", "learning_rate", "gradient_norm"}
SUMMARY = {"dtype", "status", "reason", "steps_done", "epochs_done", "loss", "finite", "warnings", "parameters"}
CLOSE = {"rtol": 1e-12, "atol": 0.0}
SGD = {"type": "sgd", "learning_rate": 0.5}
LINE = network({"type": "dense", "name": "line", "units": 1})
VALIDATION = {"inputs": [[0.5, 0.5], [0.0, 0.2]], "targets": [[1.0], [0.0]]}
Train = Callable[..., TestResponse]


def training(**changes: Any) -> dict[str, Any]:
    """Return a request of three steps on XOR, some keys changed; `...` leaves one out."""
    return xor(**({"optimizer": SGD, "steps": 3} | changes))


Told = Callable[..., dict[str, Any]]


def leaves(tree: dict[str, Any]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield the arrays of a tree with their names."""
    for layer, arrays in tree.items():
        for name, array in arrays.items():
            yield layer, name, np.array(array)


def assert_trees_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = list(leaves(one)), list(leaves(other))
    assert sorted((layer, name) for layer, name, _ in first) == sorted((layer, name) for layer, name, _ in second)
    for layer, name, array in first:
        np.testing.assert_allclose(array, other[layer][name], **CLOSE)


def rounded(value: Any, dtype: str) -> Any:
    """Return an answer with typed arrays as lists, and with numbers rounded to `dtype`."""
    if isinstance(value, dict):
        return {key: rounded(item, dtype) for key, item in plain(value).items()}
    if isinstance(value, list):
        return [rounded(item, dtype) for item in value]
    return float(np.dtype(dtype).type(value)) if isinstance(value, float) else value


def times(factor: float, tree: dict[str, Any], plus: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a tree multiplied by a number, plus another tree."""
    result: dict[str, Any] = {}
    for layer, name, array in leaves(tree):
        result.setdefault(layer, {})[name] = factor * array + (0.0 if plus is None else np.array(plus[layer][name]))
    return result


def lines(response: TestResponse) -> list[Any]:
    """Return the JSON lines of a stream, without heartbeats."""
    assert response.headers["Content-Type"].split(";")[0] == NDJSON
    content = response.get_data()
    assert content.endswith(b"\n")
    return [strict_json(line) for line in content.splitlines() if line != b"{}"]


def numbers_in(value: Any) -> int:
    """Return how many numbers and words a JSON value holds."""
    if isinstance(value, dict | list):
        return sum(map(numbers_in, value.values() if isinstance(value, dict) else value))
    return 1
