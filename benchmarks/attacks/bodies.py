"""Request bodies for the attacks: expensive requests, and bombs, which are small on the wire and large in memory."""

from __future__ import annotations

import functools
import gzip
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MEBI = 2**20

XOR: dict[str, Any] = {
    "network": {
        "layers": [
            {"type": "dense", "name": "hidden", "units": 2, "activation": "sigmoid"},
            {"type": "dense", "name": "output", "units": 1, "activation": "sigmoid"},
        ]
    },
    "inputs": [[0, 0], [0, 1], [1, 0], [1, 1]],
    "targets": [[0], [1], [1], [0]],
    "loss": "half_squared_error",
}


def packed(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def rows(count: int, width: int) -> list[list[float]]:
    """Return a matrix of pseudorandom numbers that are short in JSON; the same sizes give the same numbers."""
    dice = random.Random(count * 1000 + width)
    return [[dice.randrange(-99, 99) / 64 for _ in range(width)] for _ in range(count)]


@dataclass(frozen=True)
class Heavy:
    """The most expensive request of one kind that the default limits allow, and how to measure the work it got done."""

    family: str
    path: str
    body: Callable[[int], bytes]
    """The body of the request of that number; different numbers matter where caches would help."""
    work: Callable[[bytes], float]
    """The work in an answer of status 200: 1 for a whole answer, or its number of steps where steps are counted."""
    unit: str
    headers: Mapping[str, str] = field(default_factory=dict)


def _whole(answer: bytes) -> float:
    """Count a response as 1 unit of work, or as 0 if the server cancelled the computation."""
    return float(b'"status":"cancelled"' not in answer)


def _steps(answer: bytes) -> float:
    """Count the optimizer steps of all runs in a response, including those done before a cancellation."""
    return float(sum(map(int, re.findall(rb'"steps_done":(\d+)', answer))))


def _same(make: Callable[[], Any]) -> Callable[[int], bytes]:
    """Return a function that gives the same body for every request number; the body is built at the first call."""
    made = functools.cache(lambda: packed(make()))
    return lambda _: made()


def _gradients() -> dict[str, Any]:
    """Return a request of 30 kB that costs 44 billion operations: 30 dense layers, most of which share one kernel."""
    first = {"type": "dense", "name": "first", "units": 700, "activation": "tanh"}
    shared = {"type": "dense", "name": "shared", "units": 700, "activation": "tanh"}
    again = [{"type": "dense", "units": 700, "activation": "tanh", "shares": "shared"} for _ in range(28)]
    layers = [first, shared, *again, {"type": "dense", "name": "last", "units": 1}]
    return {
        "network": {"layers": layers},
        "inputs": rows(500, 2),
        "targets": rows(500, 1),
        "loss": "mean_squared_error",
        "exclude": ["parameters"],
    }


def elementwise(samples: int, layers: int = 240) -> bytes:
    """Return a forward request of `layers` activations on `samples` rows of 1,000 numbers: much work without BLAS."""
    hidden = [{"type": "activation", "activation": "softplus"} for _ in range(layers)]
    wide = {"type": "dense", "units": 1000, "activation": "tanh"}
    body = {
        "network": {"layers": [wide, *hidden, {"type": "dense", "units": 1}]},
        "inputs": rows(samples, 1),
        "exclude": ["parameters"],
    }
    return packed(body)


def _hessian() -> dict[str, Any]:
    """Return a request for the Hessian with respect to some 640 parameters, over 6,000 samples."""
    return {
        "network": {"layers": [{"type": "dense", "units": 20, "activation": "tanh"}, {"type": "dense", "units": 1}]},
        "inputs": rows(6000, 30),
        "targets": rows(6000, 1),
        "loss": "mean_squared_error",
        "kind": "hessian",
        "exclude": ["parameters"],
    }


EXPRESSION = " + ".join(f"sin({n}x + {n + 1}y)/{n + 1} + (x*y)^2/{n + 50}" for n in range(1, 15))
"""28 terms."""


def _descend() -> dict[str, Any]:
    starts = {"grid": {"box": [[-3, 3], [-3, 3]], "resolution": 100}}
    optimizers = [{"type": "sgd", "learning_rate": 0.0001 * n} for n in range(1, 6)]
    return {
        "expression": EXPRESSION,
        "starts": starts,
        "optimizers": optimizers,
        "steps": 40,
        "trace": {"every": 1000},
    }


def _train() -> dict[str, Any]:
    return XOR | {"optimizer": "adam", "steps": 100_000, "trace": {"every": 100_000}}


def _stationary() -> dict[str, Any]:
    expression = " + ".join(f"(x{n}^2 - 1)^2 + x{n}*x{n % 20 + 1}/9" for n in range(1, 21))
    return {"expression": expression, "box": [-2, 2], "starts": 2000}


def _basins() -> dict[str, Any]:
    return {
        "expression": "(x^2 + y - 11)^2 + (x + y^2 - 7)^2",
        "x": [-5, 5],
        "y": [-5, 5],
        "resolution": 220,
        "basins": True,
        "optimizer": {"type": "sgd", "learning_rate": 0.0001},
        "steps": 4000,
    }


def unique_lstm(number: int, steps: int = 1000) -> bytes:
    """Return an LSTM request that has to be compiled, to thousands of nodes: `number` is in its layer names."""
    units = 2 + number % 5
    body = {
        "network": {
            "layers": [
                {"type": "lstm", "name": f"lstm_{number}", "units": units},
                {"type": "dense", "name": f"last_{number}", "units": 1},
            ]
        },
        "inputs": [[[1, 0.5]] * steps],
        "targets": [[1]],
        "loss": "mean_squared_error",
        "exclude": ["parameters"],
    }
    return packed(body)


HEAVY: dict[str, Heavy] = {
    heavy.family: heavy
    for heavy in (
        Heavy("gradients", "/v1/gradients", _same(_gradients), _whole, "requests"),
        Heavy("elementwise", "/v1/forward", _same(lambda: json.loads(elementwise(1500))), _whole, "requests"),
        Heavy("hessian", "/v1/derivatives", _same(_hessian), _whole, "requests"),
        Heavy("descend", "/v1/functions/descend", _same(_descend), _steps, "steps"),
        Heavy("train", "/v1/train", _same(_train), _steps, "steps"),
        Heavy("stationary", "/v1/functions/stationary", _same(_stationary), _whole, "requests"),
        Heavy("basins", "/v1/functions/surface", _same(_basins), _whole, "requests"),
        Heavy("compile", "/v1/gradients", unique_lstm, _whole, "requests"),
    )
}


def large_answer(megabytes: float = 48) -> bytes:
    """Return a forward request of some kilobytes whose response has about `megabytes` of JSON."""
    samples = max(1, round(megabytes * 21.3))
    body = {
        "network": {"layers": [{"type": "dense", "units": 2300, "activation": "tanh"}]},
        "inputs": rows(samples, 1),
        "exclude": ["parameters"],
    }
    return packed(body)


def endless_stream() -> bytes:
    """Return a training request of a million steps; as a stream, it runs until its deadline."""
    return packed(XOR | {"optimizer": "adam", "steps": 1_000_000, "trace": {"every": 1}})


# --- bombs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bomb:
    """A body that the server has to refuse, such as one that takes far more memory than bytes."""

    name: str
    body: bytes
    path: str = "/v1/gradients"
    gzipped: bool = False

    @property
    def wire(self) -> bytes:
        return gzip.compress(self.body, 9, mtime=0) if self.gzipped else self.body


def with_text(key: str, text: str, **changes: Any) -> bytes:
    """Return the XOR request in which the value of `key` is `text`, inserted as it is, even if it is not valid JSON."""
    return json.dumps(XOR | changes | {key: "HERE"}, separators=(",", ":")).replace('"HERE"', text).encode()


def _filled(key: str, item: str, end: str, size: int, **changes: Any) -> bytes:
    return with_text(key, "[" + item * (size // len(item)) + end + "]", **changes)


def bombs(size: int) -> list[Bomb]:
    """Return bombs that have about `size` bytes when decompressed; those that compress well also come as gzip."""
    forward = "/v1/functions/gradient"
    train = "/v1/train"
    keys = "{" + ",".join(f'"k{n:07d}":1' for n in range(size // 14)) + "}"
    named = "{" + ",".join(f'"l{n:07d}":{{}}' for n in range(size // 15)) + "}"
    layers = size // 3
    plain = [
        Bomb("numbers and a word", _filled("inputs", "1,", '"x"', size)),
        Bomb("numbers and a word, as targets", _filled("targets", "1,", '"x"', size)),
        Bomb("long numbers and a word", _filled("inputs", "0.12345678901234567,", '"x"', size)),
        Bomb("rows and a word", _filled("inputs", "[1,2],", '"x"', size)),
        Bomb("empty lists", _filled("inputs", "[],", "[]", size)),
        Bomb("ragged rows", _filled("inputs", "[1],", "[1,2]", size)),
        Bomb("rows of rows and a word", _filled("inputs", "[[1]],", '"x"', size)),
        Bomb("empty objects", _filled("inputs", "{},", "{}", size)),
        Bomb("strings", _filled("inputs", '"a",', '"a"', size)),
        Bomb("null", _filled("inputs", "null,", "null", size)),
        Bomb("deep lists", _filled("inputs", "[" * 50 + "1" + "]" * 50 + ",", "1", size)),
        Bomb("deep brackets", with_text("inputs", "[" * (size // 2) + "]" * (size // 2))),
        Bomb("keys", keys.encode()),
        Bomb("keys within", with_text("network", keys)),
        Bomb("parameters by name", with_text("parameters", named)),
        Bomb("parameters of a layer by name", with_text("parameters", f'{{"hidden":{keys}}}')),
        Bomb("layers of {}", with_text("network", '{"layers":[' + "{}," * layers + "{}]}")),
        Bomb("layers of 0", with_text("network", '{"layers":[' + "0," * (size // 2) + "0]}")),
        Bomb("words", _filled("include", '"x",', '"x"', size)),
        Bomb("vectors", _filled("vectors", "[[1]],", '"x"', size, kind="jvp"), "/v1/derivatives"),
        Bomb(
            "expression points",
            _filled("points", "[1],", '"x"', size, expression="x").replace(b'"network"', b'"n"'),
            forward,
        ),
        Bomb("batches", _filled("batches", "[0],", '"x"', size, optimizer="sgd"), train),
        Bomb("optimizers", _filled("optimizers", '"sgd",', "1", size), "/v1/train/compare"),
        Bomb("sample weights", _filled("sample_weights", "1,", '"x"', size)),
        Bomb("a name", with_text("loss", '"' + "m" * size + '"')),
        Bomb("a key", with_text("loss", '{"' + "m" * size + '":1}')),
        Bomb("a number of digits", with_text("seed", "9" * size)),
        Bomb("an expression", json.dumps({"expression": "x+" * (size // 2) + "x", "points": [[1]]}).encode(), forward),
        Bomb("spaces", b" " * size + with_text("loss", "1")),
        Bomb("base64 and no shape", with_text("inputs", json.dumps({"base64": "A" * size, "dtype": "float64"}))),
        Bomb("base64 of another shape", with_text("inputs", _typed("A" * (size // 4 * 4), [3]))),
        Bomb("base64 that is none", with_text("inputs", _typed("!" * size, [size]))),
        Bomb(
            "a dtype of rows",
            b" " * 40_000 + with_text("inputs", '{"dtype":[[1,2],[3,4]],"shape":[1],"base64":"AAAA"}'),
        ),
    ]
    shapes = [
        Bomb("a shape of 2^62", with_text("inputs", _typed("AAAA", [2**31, 2**31]))),
        Bomb("a shape of a million axes", with_text("inputs", _typed("AAAA", [1] * min(1_000_000, size // 2)))),
        Bomb("a billion units", _layers({"type": "dense", "units": 10**9})),
        Bomb("an input shape of 2^52", _layers({"type": "dense", "units": 1}, input_shape=[2**52] * 16)),
        Bomb("a target shape of 2^52", _layers({"type": "reshape", "target_shape": [2**52] * 16})),
        Bomb("padding of 10^9", _layers({"type": "zero_padding1d", "padding": 10**9})),
        Bomb("a repeat of 10^9", _layers({"type": "repeat_vector", "n": 10**9})),
        Bomb("an upsampling of 10^9", _layers({"type": "upsampling1d", "size": 10**9})),
        Bomb("an embedding of 10^12", _layers({"type": "embedding", "input_dim": 10**12, "output_dim": 8})),
        Bomb("a million inputs", _layers({"type": "concatenate", "inputs": ["input"] * min(10**6, size // 10)})),
    ]
    repeated = ("numbers and a word", "empty lists", "spaces", "strings", "layers of {}", "base64 of another shape")
    zipped = [Bomb(f"gzip: {bomb.name}", bomb.body, bomb.path, True) for bomb in plain if bomb.name in repeated]
    return [*plain, *shapes, *zipped]


def _typed(text: str, shape: list[int]) -> str:
    return json.dumps({"dtype": "float64", "shape": shape, "base64": text})


def _layers(*layers: Any, **more: Any) -> bytes:
    return json.dumps(XOR | {"network": {"layers": list(layers), **more}}).encode()


def largest_valid(size: int) -> bytes:
    """Return a valid request of about `size` bytes of number lists, the form that takes the most memory to read."""
    count = size // 4 // 1000
    text = "[" + ",".join(["[" + ",".join(["0.5"] * 1000) + "]"] * max(1, count)) + "]"
    body = {"network": {"layers": [{"type": "dense", "units": 1}]}, "inputs": "HERE", "exclude": ["parameters"]}
    return packed(body).replace(b'"HERE"', text.encode())
