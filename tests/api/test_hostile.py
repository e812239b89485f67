"""Bodies and requests made to do harm: each gets a problem document, and the service stays as it was."""

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from service.api.examples import COMPARE, TRAIN
from service.api.examples import GRADIENTS as EXAMPLES
from tests.conftest import MakeClient, Post
from tests.support import (
    PROBLEM,
    Server,
    assert_problem,
    every,
    head,
    network,
    places_in_turn,
    pointers,
    replaced,
    resolves,
    strict_json,
    xor,
)

GRADIENTS = "/v1/gradients"
XOR = json.dumps(xor()).encode()
PADDING = b" " * 40_000


def with_text(key: str, text: str, **changes: Any) -> bytes:
    """Return the XOR request with JSON text, valid or not, as the value of a key."""
    return json.dumps(xor(**changes) | {key: "HERE"}).replace('"HERE"', text).encode()


def with_layers(*layers: Any, **more: Any) -> bytes:
    return json.dumps(xor(network=network(*layers, **more), parameters=...)).encode()


DENSE = {"type": "dense", "units": 1}

# Of each body the statuses it may have. Those of more than 90,000 bytes are made when a test asks for them.
BODIES: dict[str, tuple[bytes | Callable[[], bytes], set[int]]] = {
    "brackets": (lambda: b"[" * 100_000, {400}),
    "brackets as inputs": (lambda: with_text("inputs", "[" * 100_000), {400}),
    "closed brackets as inputs": (with_text("inputs", "[" * 1000 + "1" + "]" * 1000), {422}),
    "closed brackets beyond the parser": (with_text("inputs", "[" * 5000 + "1" + "]" * 5000), {400}),
    "braces": (lambda: b'{"a":' * 100_000, {400}),
    "closed braces": (b'{"a":' * 1000 + b"1" + b"}" * 1000, {422}),
    "closed braces as network": (with_text("network", '{"layers":' * 1000 + "1" + "}" * 1000), {400, 422}),
    "closed braces as loss": (with_text("loss", '{"type":' * 200 + "1" + "}" * 200), {422}),
    "closed braces as parameters": (with_text("parameters", '{"hidden":' * 900 + "1" + "}" * 900), {422}),
    "closed braces as a typed array": (with_text("inputs", '{"base64":' * 900 + "1" + "}" * 900), {422}),
    "mixed nesting": (with_text("inputs", '[{"a":' * 400 + "1" + "}]" * 400), {422}),
    "a million empty lists": (lambda: with_text("inputs", "[" + "[]," * 1_000_000 + "[]]"), {422}),
    "a million empty lists as layers": (
        lambda: with_text("network", '{"layers":[' + "[]," * 1_000_000 + "[]]}"),
        {422},
    ),
    "a million zeros as layers": (lambda: with_text("network", '{"layers":[' + "0," * 1_000_000 + "0]}"), {422}),
    "a million words": (lambda: with_text("include", "[" + '"x",' * 500_000 + '"x"]'), {422}),
    "many unknown keys": (lambda: json.dumps({f"key{n}": n for n in range(100_000)}).encode(), {422}),
    "many unknown parameters": (
        lambda: json.dumps(xor(parameters={f"l{n}": {} for n in range(50_000)})).encode(),
        {422},
    ),
    "a million numbers and a word": (lambda: with_text("inputs", "[" + "1," * 1_000_000 + '"x"]'), {422}),
    "a huge integer": (with_text("seed", "9" * 400), {400, 422}),
    "a huge integer as a unit": (with_text("inputs", "[[" + "9" * 400 + ", 0]]"), {400, 422}),
    "a huger integer": (lambda: with_text("seed", "9" * 100_000), {400, 422}),
    "an integer of 64 bits": (with_text("seed", str(2**64 - 1)), {422}),
    "an integer of 65 bits": (with_text("seed", str(2**64)), {400, 422}),
    "the smallest integer": (with_text("seed", str(-(2**63))), {422}),
    "a number beyond float64": (with_text("inputs", "[[1e400, 0]]"), {400, 422}),
    "a number below float64": (with_text("inputs", "[[1e-400, 0],[0,0],[0,0],[0,0]]"), {200}),
    "minus zero": (with_text("inputs", "[[-0.0, -0],[0,0],[0,0],[0,0]]"), {200}),
    "NaN": (with_text("inputs", "[[NaN, 0]]"), {400}),
    "Infinity": (with_text("inputs", "[[-Infinity, 0]]"), {400}),
    "a leading zero": (with_text("seed", "01"), {400}),
    "a leading plus": (with_text("seed", "+1"), {400}),
    "hexadecimal": (with_text("seed", "0x10"), {400}),
    "a bare point": (with_text("seed", "1."), {400}),
    "a comment": (XOR + b"// done", {400}),
    "a second document": (XOR + XOR, {400}),
    "a trailing comma": (XOR[:-1] + b",}", {400}),
    "single quotes": (XOR.replace(b'"', b"'"), {400}),
    "a lone high surrogate": (with_text("loss", '"\\ud800"'), {400, 422}),
    "a lone low surrogate as key": (XOR[:-1] + b', "\\udc00": 1}', {400, 422}),
    "surrogates the wrong way round": (with_text("dtype", '"\\udc00\\ud800"'), {400, 422}),
    "surrogates as bytes": (with_text("dtype", '"HERE2"').replace(b"HERE2", b"\xed\xa0\x80"), {400}),
    "an overlong encoding": (with_text("dtype", '"HERE2"').replace(b"HERE2", b"\xc0\xaf"), {400}),
    "a byte order mark": (b"\xef\xbb\xbf" + XOR, {200, 400}),
    "UTF-16": (XOR.decode().encode("utf-16"), {400}),
    "UTF-16 without a mark": (XOR.decode().encode("utf-16-le"), {400}),
    "UTF-32": (XOR.decode().encode("utf-32"), {400}),
    "NUL after the document": (XOR + b"\0", {400}),
    "NUL before the document": (b"\0" + XOR, {400}),
    "NUL in a name": (with_layers(DENSE | {"name": "a\0b"}), {422}),
    "an escaped NUL as key": (XOR[:-1] + b', "\\u0000": 1}', {422}),
    "a control character in a string": (XOR[:-1] + b', "a\x01": 1}', {400}),
    "random bytes": (bytes(range(256)) * 10, {400}),
    "a name of a megabyte": (lambda: with_layers(DENSE | {"name": "x" * 1_000_000}), {422}),
    "a type of a megabyte": (lambda: with_layers({"type": "dense" * 200_000}), {422}),
    "a key of a megabyte": (lambda: json.dumps(xor() | {"inputs" * 150_000: 1}).encode(), {422}),
    "a loss of a megabyte": (lambda: json.dumps(xor(loss="mean" * 250_000)).encode(), {422}),
    "names that reverse the text": (with_layers(DENSE | {"name": "\u202eevil"}), {200}),
    "names of astral signs": (with_layers(DENSE | {"name": "😀" * 64}), {200}),
    "a thousand layers": (with_layers(*[DENSE] * 1000), {422}),
    "a billion units": (with_layers({"type": "dense", "units": 10**9}), {422}),
    "more units than 64 bits hold": (with_layers({"type": "dense", "units": 2**63}), {422}),
    "a huge input shape": (with_layers(DENSE, input_shape=[2**52] * 16), {422}),
    "a huge target shape": (with_layers({"type": "reshape", "target_shape": [2**52] * 16}), {422}),
    "a shape of unknowns": (with_layers({"type": "reshape", "target_shape": [-1, -1]}), {422}),
    "a cycle": (with_layers(DENSE | {"name": "a", "inputs": ["b"]}, DENSE | {"name": "b", "inputs": ["a"]}), {422}),
    "a layer that takes itself": (with_layers(DENSE | {"name": "a", "inputs": ["a"]}), {422}),
    "layers that share in a ring": (
        with_layers(DENSE | {"name": "a", "shares": "b"}, DENSE | {"name": "b", "shares": "a"}),
        {422},
    ),
    "the same input ten thousand times": (
        lambda: with_layers({"type": "concatenate", "inputs": ["input"] * 10_000}, DENSE),
        {200, 422},
    ),
    "an axis far away": (with_layers({"type": "concatenate", "inputs": ["input"] * 2, "axis": 10**18}), {422}),
    "a seed of 64 bits": (json.dumps(xor(seed=2**63)).encode(), {422}),
    "a constant beyond float32": (
        json.dumps(
            xor(
                network=network(DENSE | {"kernel_initializer": {"type": "constant", "value": 1e308}}),
                parameters=...,
                dtype="float32",
            )
        ).encode(),
        {200, 422},
    ),
    "a gain that overflows": (
        with_layers(DENSE | {"kernel_initializer": {"type": "glorot_uniform", "gain": 1e308}}),
        {200, 422},
    ),
    "weights that cancel out": (json.dumps(xor(sample_weights=[1, -1, 0, 0], normalize_weights=True)).encode(), {200}),
    "numbers that overflow": (json.dumps(xor(inputs=[[1e308, 1e308]] * 4)).encode(), {200}),
    "targets that overflow": (json.dumps(xor(targets=[[1e308]] * 4)).encode(), {200}),
    "keys of marshmallow": (json.dumps(xor() | {"_schema": 1}).encode(), {422}),
    "keys of objects": (json.dumps(xor() | {"__class__": 1, "__proto__": {}, "constructor": 1}).encode(), {422}),
    "a reference": (json.dumps(xor(network={"$ref": "file:/etc/passwd"})).encode(), {422}),
    "a format string": (json.dumps(xor(loss="{0.__class__} %s %n")).encode(), {422}),
}


LARGE = [name for name, (body, _) in BODIES.items() if callable(body)]


def hostile(name: str) -> tuple[bytes, set[int]]:
    body, statuses = BODIES[name]
    return (body() if callable(body) else body), statuses


def check(answer: Any, statuses: set[int]) -> None:
    """Assert the rules of every answer to a hostile body."""
    body = answer.get_data()
    assert answer.status_code in statuses, body[:500]
    if answer.status_code == 200:
        assert answer.headers["Content-Type"] == "application/json"
        strict_json(body)
    else:
        kinds = {400: {"malformed-body"}, 413: {"too-large"}, 422: {"invalid", "limit-exceeded"}}
        document = strict_json(body)
        assert document["type"].removeprefix("/problems/") in kinds[answer.status_code]
        assert_problem(answer, document["type"].removeprefix("/problems/"))
        assert len(body) < 3_000_000


@every("name", BODIES)
def test_hostile_bodies_get_an_answer(post: Post, name: str) -> None:
    body, statuses = hostile(name)
    check(post(body), statuses)


@every("place", ["body", "network", "layer", "parameters", "layer of parameters"])
def test_a_key_of_a_megabyte_is_not_repeated(post: Post, place: str) -> None:
    key = "é" * 500_000
    request = {
        "body": lambda: xor(**{key: 1}),
        "network": lambda: xor(network=network(DENSE, **{key: 1}), parameters=...),
        "layer": lambda: xor(network=network(DENSE | {key: 1}), parameters=...),
        "parameters": lambda: xor(parameters={key: {"kernel": "x"}}),
        "layer of parameters": lambda: xor(parameters={"hidden": {key: "x"}}),
    }[place]()
    answer = post(request)
    assert_problem(answer, "invalid", request)
    assert len(answer.get_data()) < 5000


@every("name", [name for name in BODIES if name not in LARGE])
def test_hostile_bodies_get_the_same_answer_from_the_other_parser(post: Post, name: str) -> None:
    body, statuses = hostile(name)
    check(post(PADDING + body), statuses)


@every("name", LARGE)
def test_hostile_bodies_do_not_fill_the_memory_of_a_server(server: Server, name: str) -> None:
    body, statuses = hostile(name)
    assert 90_000 < len(body) < 4 * 2**20
    before, workers = server.resident_bytes, server.workers
    check(server.post(body), statuses)
    assert server.workers == workers
    assert server.resident_bytes - before < 300 * 2**20


def test_a_request_cut_off_at_any_byte_is_refused(post: Post) -> None:
    for length in range(len(XOR)):
        assert_problem(post(XOR[:length]), "malformed-body")


def test_a_request_with_any_byte_replaced_is_answered(post: Post) -> None:
    for place in range(len(XOR)):
        for byte in (b"\0", b"\xff", b'"', b"{", b"9"):
            answer = post(XOR[:place] + byte + XOR[place + 1 :])
            assert answer.status_code in (200, 400, 422)
            strict_json(answer.get_data())


REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {name: (GRADIENTS, request) for name, request in EXAMPLES.items()} | {
    "training": ("/v1/train", TRAIN["xor"]),
    "options of training": (
        "/v1/train",
        xor(
            steps=2,
            optimizer={"type": "adam", "beta_1": 0.5, "amsgrad": True},
            schedule={"type": "piecewise_constant", "boundaries": [1], "values": [0.1, 0.2], "unit": "epoch"},
            clip={"norm": 1.0},
            batches=[[0, 1], [2]],
            frozen=["hidden.bias"],
            validation={"inputs": [[0, 1]], "targets": [[1]]},
            stop={"loss_below": 0.01, "patience": 2, "min_delta": 0.1},
            trace={"every": 2, "include": ["gradients", "updates", "batch"]},
        ),
    ),
    "checkpoint": (
        "/v1/train",
        xor(
            parameters=...,
            steps=2,
            optimizer={"type": "momentum"},
            schedule={"type": "plateau", "patience": 0},
            checkpoint={
                "step": 3,
                "seed": 1,
                "parameters": xor()["parameters"],
                "optimizer": "momentum",
                "state": {"velocity": xor()["parameters"]},
                "progress": {"epoch_loss": 0.0, "best": 0.2, "best_step": 1, "waited": 2, "first_loss": 0.3},
                "schedule": {"scale": 0.1, "best": 0.2, "watched": 1, "bad": 0, "resting": 0},
            },
        ),
    ),
    "comparison": ("/v1/train/compare", COMPARE["xor"] | {"steps": 3, "seeds": [1], "trace": {"every": 2}}),
}
REPLACEMENTS = [None, True, "x", -1, 0, 1e308, [], {}, [[]], "", 2**63, [None], {"type": "x"}, [1, [2]], "\u0000~/"]


def assert_finite_or_told(document: Any) -> None:
    """Assert that an answer with nulls for numbers says that some are not finite."""
    for layer in document.get("layers", ()):
        del layer["norms"]  # the norm of finite numbers may be too large for float64
    if "steps" not in document:
        document.pop("gradient_norm", None)
    if not document["finite"]:
        assert "non_finite" in [warning["code"] for warning in document["warnings"]]
    assert document["finite"] is ("null" not in json.dumps(document))


CHANGES = places_in_turn(REQUESTS, REPLACEMENTS)


@pytest.mark.parametrize("example", REQUESTS)
@every("number", range(len(REPLACEMENTS)), ids=lambda number: repr(REPLACEMENTS[number]))
def test_any_value_may_be_wrong_and_is_pointed_at(post: Post, example: str, number: int) -> None:
    path, request = REQUESTS[example]
    value = REPLACEMENTS[number]
    for place, numbers in CHANGES[example]:
        if number not in numbers:
            continue
        body = replaced(request, place, value)
        answer = post(body, path)
        assert answer.status_code in (200, 422), (place, answer.text)
        document = strict_json(answer.get_data())
        if answer.status_code == 200:
            assert answer.headers["Content-Type"] == "application/json"
            if "finite" in document:
                assert_finite_or_told(document)
            continue
        assert answer.headers["Content-Type"] == PROBLEM
        assert document["errors"], place
        for error in document["errors"]:
            assert resolves(error["pointer"], body), (place, error)


@every("example", REQUESTS)
def test_any_key_may_be_missing_or_misspelt(post: Post, example: str) -> None:
    path, request = REQUESTS[example]
    for place in pointers(request):
        if not place or isinstance(place[-1], int):
            continue
        value: Any = request
        for key in place[:-1]:
            value = value[key]
        rest = {key: item for key, item in value.items() if key != place[-1]}
        for body in (
            replaced(request, place[:-1], rest),
            replaced(request, place[:-1], rest | {place[-1] + "_": value[place[-1]]}),
        ):
            answer = post(body, path)
            assert answer.status_code in (200, 422)
            for error in strict_json(answer.get_data()).get("errors", ()):
                assert resolves(error["pointer"], body), (place, error)


@every("padding", [b"", PADDING])
def test_of_a_key_that_stands_twice_the_last_counts_in_both_parsers(post: Post, padding: bytes) -> None:
    twice = XOR[:-1] + b', "loss": "mean_squared_error", "loss": "half_squared_error"}' + padding
    assert post(twice).get_data() == post(XOR).get_data()


PACKED = gzip.compress(XOR)
BROKEN_GZIP = {
    "empty": b"",
    "not gzip": XOR,
    "cut in the header": PACKED[:5],
    "cut in the data": PACKED[: len(PACKED) // 2],
    "cut before the checksum": PACKED[:-8],
    "cut in the checksum": PACKED[:-1],
    "a wrong checksum": PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:],
    "a wrong length": PACKED[:-4] + b"\0\0\0\0",
    "bytes after it": PACKED + b"x",
    "a second member": PACKED + PACKED,
    "zlib": zlib.compress(XOR),
    "bare deflate": zlib.compress(XOR)[2:-4],
    "packed twice": gzip.compress(PACKED),
    "packed nothing": gzip.compress(b""),
    "a reserved flag": PACKED[:3] + b"\xe0" + PACKED[4:],
}


@every("name", BROKEN_GZIP)
def test_broken_gzip_is_refused(post: Post, name: str) -> None:
    assert_problem(post(BROKEN_GZIP[name], Content_Encoding="gzip"), "malformed-body")


@every("length", range(0, len(PACKED), 7))
def test_gzip_cut_off_anywhere_is_refused(post: Post, length: int) -> None:
    assert_problem(post(PACKED[:length], Content_Encoding="gzip"), "malformed-body")


@every(
    ("header", "value"),
    [
        ("Accept", "application/json;" * 500),
        ("Accept", "\x00"),
        ("Accept", ";;;,,,"),
        ("Accept", "application/json; q=nan"),
        ("Accept", "application/json; q=-1"),
        ("Accept", "application/json; tensors*=UTF-8''base64"),
        ("Accept-Encoding", "gzip;q=x"),
        ("Accept-Encoding", "," * 1000),
        ("Content-Encoding", "gzip\x00"),
        ("Content-Type", "application/json; charset*=x''%ff"),
        ("Content-Type", 'application/json; charset="'),
        ("X-Request-Id", "\xff" * 100),
        ("X-Request-Id", "a" * 8000),
        ("If-None-Match", '"' * 1000),
        ("Authorization", "Bearer \xff\xfe"),
        ("Origin", "\xff"),
        ("Range", "bytes=-1-"),
    ],
)
def test_hostile_headers_do_no_harm(post: Post, header: str, value: str) -> None:
    answer = post(XOR, **{header.replace("-", "_"): value})
    assert answer.status_code in (200, 400, 406, 415)
    strict_json(answer.get_data())


# gunicorn has its own words for what it refuses itself.
RAW: dict[str, tuple[list[bytes], bool, set[int]]] = {
    "fewer bytes than announced": ([head(GRADIENTS, len(XOR) + 10) + XOR], True, {400}),
    "more bytes than announced": ([head(GRADIENTS, len(XOR) - 10) + XOR], False, {400}),
    "no length": ([head(GRADIENTS, None) + XOR], False, {400}),
    "a negative length": ([head(GRADIENTS, -5) + XOR], False, {400}),
    "a length in words": ([head(GRADIENTS, "many") + XOR], False, {400}),
    "a length in other digits": ([head(GRADIENTS, "\xb2") + XOR], False, {400}),
    "two lengths": ([head(GRADIENTS, len(XOR), content_length=str(len(XOR) + 1)) + XOR], False, {400}),
    "a length and chunks": ([head(GRADIENTS, len(XOR), Transfer_Encoding="chunked") + b"0\r\n\r\n"], False, {400}),
    "a chunk size that is none": ([head(GRADIENTS, None, Transfer_Encoding="chunked") + b"zz\r\n" + XOR], False, {400}),
    "a negative chunk size": ([head(GRADIENTS, None, Transfer_Encoding="chunked") + b"-5\r\n" + XOR], False, {400}),
    "a giant chunk size": (
        [head(GRADIENTS, None, Transfer_Encoding="chunked") + b"fffffffffffffff\r\n" + XOR],
        True,
        {400, 413},
    ),
    "a chunk that ends early": ([head(GRADIENTS, None, Transfer_Encoding="chunked") + b"5\r\nabc"], True, {400}),
    "chunks without an end": ([head(GRADIENTS, None, Transfer_Encoding="chunked") + b"1\r\n{\r\n"], True, {400}),
    "a chunk longer than it says": (
        [head(GRADIENTS, None, Transfer_Encoding="chunked") + b"1\r\n{}}}}\r\n0\r\n\r\n"],
        False,
        {400},
    ),
    "an unknown transfer coding": ([head(GRADIENTS, None, Transfer_Encoding="nonsense") + XOR], False, {400, 501}),
    "no host": ([b"GET /v1 HTTP/1.1\r\nConnection: close\r\n\r\n"], False, {200, 400}),
    "a host that is none": ([b"GET /v1 HTTP/1.1\r\nHost: [::1\r\nConnection: close\r\n\r\n"], False, {200, 400}),
    "a host of no encoding": ([b"GET /v1 HTTP/1.1\r\nHost: \xff\xfe\r\nConnection: close\r\n\r\n"], False, {200, 400}),
    "another protocol": ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"], True, {400}),
    "a method in small letters": ([b"get /v1 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"], False, {400, 405}),
    "a path of no encoding": ([b"GET /v1/%ff%00 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"], False, {404}),
    "a path of 5000 characters": ([b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: t\r\n\r\n"], False, {414}),
    "a header of 10000 characters": (
        [b"GET /v1 HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 10_000 + b"\r\n\r\n"],
        False,
        {431},
    ),
    "200 headers": ([b"GET /v1 HTTP/1.1\r\nHost: t\r\n" + b"X: y\r\n" * 200 + b"\r\n"], False, {431}),
}


@every("name", RAW)
def test_hostile_bytes_on_the_wire_get_an_answer(server: Server, name: str) -> None:
    parts, end, statuses = RAW[name]
    workers = server.workers
    answer = server.send(*parts, end=end)
    assert answer.status_code in statuses, answer
    if "X-Request-Id" in answer.headers:  # it came from the service
        strict_json(answer.body)
    assert server.workers == workers
    assert server.get("/health/live").status_code == 200


def test_clients_that_never_finish_leave_room_for_others(server: Server) -> None:
    connections = [server.connect() for _ in range(40)]
    try:
        for place, connection in enumerate(connections):
            whole = head(GRADIENTS, len(XOR)) + XOR
            connection.sendall(whole[: len(whole) // 2] if place % 2 else whole[:-1])
        for _ in range(3):
            assert server.post(XOR).status_code == 200
            assert server.get("/health/live").status_code == 200
    finally:
        for connection in connections:
            connection.close()


def test_the_server_answers_as_before(post: Post, server: Server) -> None:
    """After the attacks on it, every worker still answers."""
    expected = post(xor()).get_data()
    assert {server.post(XOR).body for _ in range(10)} == {expected}


def test_the_application_answers_as_before(post: Post, make_client: MakeClient) -> None:
    """After the attacks in this process, it answers as a new one does."""
    assert post(xor()).get_data() == make_client().post(GRADIENTS, json=xor()).get_data()
