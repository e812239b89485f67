"""Large tensors as base64: the same answers as small ones, and little memory."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from service.wire import long_text
from service.wire.long_text import LONG
from tests.conftest import Post, ServerFactory
from tests.support import strict_json

TYPED = "application/json; tensors=base64"
UNITS = 128
MARK = Path("/proc/self/clear_refs")


def typed(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    text = base64.b64encode(array.tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": text}


def values(tensor: Any) -> np.ndarray[Any, Any]:
    """Return the numbers of a tensor of an answer."""
    content = base64.b64decode(tensor["base64"], validate=True)
    return np.frombuffer(content, tensor["dtype"]).reshape(tensor["shape"])


def request(units: int = UNITS, layers: int = 2, dtype: str = "float64") -> dict[str, Any]:
    """Return a request of dense layers with typed arrays throughout; the text of a kernel is long."""
    generator = np.random.default_rng(1986)
    names = [f"dense_{number}" for number in range(layers)]
    shapes = {"kernel": (units, units), "bias": (units,)}
    return {
        "network": {
            "layers": [{"type": "dense", "name": name, "units": units, "activation": "relu"} for name in names]
        },
        "parameters": {
            name: {key: typed(generator.normal(0.0, units**-0.5, shape).astype(dtype)) for key, shape in shapes.items()}
            for name in names
        },
        "inputs": typed(generator.standard_normal((1, units)).astype(dtype)),
        "targets": typed(generator.standard_normal((1, units)).astype(dtype)),
        "loss": "mean_squared_error",
        "dtype": dtype,
    }


def test_long_texts_give_the_answer_of_lists(post: Post) -> None:
    body = request()
    assert len(body["parameters"]["dense_0"]["kernel"]["base64"]) >= LONG
    lists = body | {"parameters": {}}
    for layer, tensors in body["parameters"].items():
        lists["parameters"][layer] = {name: values(tensor).tolist() for name, tensor in tensors.items()}
    expected = post(lists).json
    short = post(body).json
    long = post(body, Accept=TYPED)
    assert short == expected
    assert int(long.headers["Content-Length"]) == len(long.get_data())
    answer = strict_json(long.get_data())
    assert list(answer) == list(expected)
    assert answer["loss"] == expected["loss"]
    for layer, tensors in expected["gradients"].items():
        for name, tensor in tensors.items():
            assert np.array_equal(values(answer["gradients"][layer][name]), np.array(tensor))


def test_long_answers_are_compressed_whole(post: Post) -> None:
    body = request()
    plain, packed = (post(body, Accept=TYPED, Accept_Encoding=encoding) for encoding in ("identity", "gzip"))
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) == len(packed.get_data()) < len(plain.get_data())
    assert gzip.decompress(packed.get_data()) == plain.get_data()


def test_an_input_may_be_called_as_a_key_of_a_typed_array(post: Post) -> None:
    body = request()
    layers = [
        layer | {"inputs": [name]} for layer, name in zip(body["network"]["layers"], ("shape", "dense_0"), strict=True)
    ]
    body["network"] = {"layers": layers, "inputs": ["shape", "base64"]}
    body |= {"inputs": {"shape": body["inputs"], "base64": body["inputs"]}, "include": ["input_gradients"]}
    lists, long = post(body), post(body, Accept=TYPED)
    assert lists.status_code == long.status_code == 200
    for name, tensor in lists.json["input_gradients"].items():
        assert np.array_equal(values(long.json["input_gradients"][name]), np.array(tensor))


def test_parameters_that_were_sent_are_answered_where_that_is_asked(post: Post) -> None:
    body = request()
    answer = post(body | {"include": ["parameters"]}, Accept=TYPED).json
    assert answer["parameters"] == body["parameters"]


def changed(*path: str | int, to: Any) -> bytes:
    """Return the request with another value at one place, `...` for none."""
    body = request()
    inner: Any = body
    for key in path[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return json.dumps(body).encode()


KERNEL = ("parameters", "dense_1", "kernel")
TEXT = request()["parameters"]["dense_1"]["kernel"]["base64"]
PLAIN = json.dumps(request()).encode()
BROKEN = TEXT[:5000], TEXT[5001:]
INFINITE = typed(np.full((UNITS, UNITS), np.inf))
STRANGE = {
    "as it is": PLAIN,
    "spaces": json.dumps(request(), indent=2).encode(),
    "another dtype": changed(*KERNEL, "dtype", to="float32"),
    "no dtype": changed(*KERNEL, "dtype", to=...),
    "another shape": changed(*KERNEL, "shape", to=[UNITS, 1]),
    "infinite": changed(*KERNEL, to=INFINITE),
    "no base64": changed(*KERNEL, "base64", to="*".join(BROKEN)),
    "not ASCII": changed(*KERNEL, "base64", to="é".join(BROKEN)),
    "UTF-8": changed(*KERNEL, "base64", to="e".join(BROKEN)).replace(b"Ae", "Aé".encode()),
    "a line break": changed(*KERNEL, "base64", to="\n".join(BROKEN)),
    "a bare line break": changed(*KERNEL, "base64", to="@".join(BROKEN)).replace(b"@", b"\n"),
    "an escape": PLAIN.replace(TEXT[:1000].encode(), f"\\u{ord(TEXT[0]):04x}{TEXT[1:1000]}".encode()),
    "escaped slashes": PLAIN.replace(b"/", b"\\/"),
    "a tensor too deep": changed(*KERNEL, to={"inner": {"dtype": "float64", "shape": [1], "base64": TEXT}}),
    "a layer that is a tensor": changed("parameters", "dense_1", to=typed(np.zeros((UNITS, UNITS)))),
    "parameters that are a tensor": changed("parameters", to=typed(np.zeros((UNITS, UNITS)))),
    "unknown key of a tensor": changed(*KERNEL, "more", to=1),
    "text alone": changed(*KERNEL, to=TEXT),
    "in a list": changed(*KERNEL, to=[{"base64": TEXT}]),
    "in the seed": changed("seed", to={"base64": TEXT}),
    "in the network": changed("network", "layers", 0, "base64", to=TEXT),
    "in the loss": changed("loss", to={"type": "mean_squared_error", "base64": TEXT}),
    "as the loss": changed("loss", to={"base64": TEXT}),
    "an unknown key": changed("base64", to=TEXT),
    "a key that ends like it": changed("parameters", 'a"base64', to=TEXT),
    "the character NUL": changed("network", "layers", 0, "name", to="\0" + "0"),
    "NUL for a text": changed(*KERNEL, "base64", to="\0" + "0"),
    "a text twice": PLAIN.replace(b'"base64"', f'"base64": "{TEXT}", "base64"'.encode()),
    "a tensor twice": PLAIN.replace(b'"bias"', f'"kernel": {{"base64": "{TEXT}"}}, "bias"'.encode()),
    "cut off in a text": PLAIN[: PLAIN.index(TEXT[-1000:].encode())],
    "cut off after it": PLAIN[: PLAIN.index(TEXT.encode()) + len(TEXT) + 1],
    "no comma": PLAIN.replace(b'", "shape"', b'" "shape"').replace(b"=}, ", b"=} "),
    "another quote": PLAIN.replace(b'"base64"', b'"x"base64"'),
    "not an object": b"[" + PLAIN + b"]",
    "text only": json.dumps({"base64": TEXT}).encode(),
}


@pytest.mark.parametrize("name", STRANGE)
def test_whatever_comes_is_answered_as_if_nothing_were_cut_out(
    name: str, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> tuple[int, Any]:
        response = client.post("/v1/gradients", data=STRANGE[name], content_type="application/json")
        return response.status_code, {key: value for key, value in response.json.items() if key != "instance"}

    found = ask()
    monkeypatch.setattr(long_text, "LONG", 10**9)
    assert found == ask()


@pytest.mark.skipif(not MARK.exists(), reason="this system does not tell the peak of a process")
def test_a_large_network_takes_few_times_its_parameters(start_server: ServerFactory) -> None:
    body = request(units=1024, layers=4, dtype="float32")
    nbytes = sum(values(tensor).nbytes for tensors in body["parameters"].values() for tensor in tensors.values())
    content = json.dumps(body).encode()
    with start_server(WEB_CONCURRENCY="1") as server:
        assert server.post(json.dumps(request(units=4)).encode()).status_code == 200
        idle = server.resident_bytes
        (worker,) = server.workers
        for _ in range(3):
            Path(f"/proc/{worker}/clear_refs").write_text("5")  # its peak starts again from what is resident
            answer = server.post(content, Accept=TYPED)
            assert answer.status_code == 200
            assert len(answer.body) > nbytes * 4 / 3
            status = Path(f"/proc/{worker}/status").read_text()
            peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
            assert peak - idle < 6 * nbytes
