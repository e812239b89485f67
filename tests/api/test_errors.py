"""Every kind of problem, made by a real request, in the one shape that all have."""

import io
import json
import math
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.api.runs_examples import RUNS
from service.engine.network.evaluate import EvaluationTask
from service.engine.onnx import file
from service.problems import KINDS, Problem, pointer
from tests.conftest import MakeClient, Post
from tests.support import LOOPBACK, PROBLEM, Server, assert_problem, every, faults, head, network, strict_json, xor

GRADIENTS = "/v1/gradients"


class _Silent(io.RawIOBase):
    """A request body of which no byte ever comes."""

    def read(self, size: int = -1) -> bytes:
        raise TimeoutError


def _out_of_memory(*_: Any) -> None:
    raise MemoryError


def _broken(*_: Any) -> None:
    raise RuntimeError("secret detail")


def unauthorized(make: MakeClient, patch: pytest.MonkeyPatch) -> TestResponse:
    return make(api_keys=("key",)).post(GRADIENTS, json=xor())


def forbidden(make: MakeClient, patch: pytest.MonkeyPatch) -> TestResponse:
    return make(api_keys=("key",)).post(GRADIENTS, json=xor(), headers={"Authorization": "Bearer other"})


def timeout(make: MakeClient, patch: pytest.MonkeyPatch) -> TestResponse:
    stream = {"wsgi.input": _Silent(), "CONTENT_LENGTH": "10"}
    return make().post(GRADIENTS, content_type="application/json", environ_overrides=stream)


def too_many_requests(make: MakeClient, patch: pytest.MonkeyPatch) -> TestResponse:
    client = make(max_requests_per_second=0.001)
    assert client.get("/v1").status_code == 200
    return client.get("/v1")


def busy(make: MakeClient, patch: pytest.MonkeyPatch) -> TestResponse:
    patch.setattr(EvaluationTask, "compile", _out_of_memory)
    return make().post(GRADIENTS, json=xor())


def internal_error(make: MakeClient, patch: pytest.MonkeyPatch) -> TestResponse:
    patch.setattr(EvaluationTask, "compile", _broken)
    return make().post(GRADIENTS, json=xor())


def deadline_exceeded(make: MakeClient, patch: pytest.MonkeyPatch) -> TestResponse:
    return make(max_seconds=0.0).post("/v1/forward", json=LARGE)


def bad_request(make: MakeClient, patch: pytest.MonkeyPatch) -> TestResponse:
    return make().get("/docs/swagger-ui.css", headers={"Range": "bytes=999999999-"})


LARGE = {"network": network({"type": "dense", "units": 1000}), "inputs": [[0.5] * 1000] * 2}


NEW_NETWORK = {"network": network({"type": "dense", "name": "stored_by_nobody", "units": 1})}


def abandoned(make: MakeClient, patch: pytest.MonkeyPatch) -> TestResponse:
    client = make()
    ticket = client.application.extensions["nabla.admission"].ticket("address:test", time.monotonic())
    ticket.leave()
    return client.post("/v1/forward", json=LARGE, environ_overrides={"nabla.ticket": ticket})


def extra_missing(make: MakeClient, patch: pytest.MonkeyPatch) -> TestResponse:
    def missing(name: str) -> Any:
        raise ImportError(name)

    patch.setattr(file.importlib, "import_module", missing)
    return make().post("/v1/forward", json={"network": {"onnx": {"base64": "AQID"}}, "inputs": [[0]]})


def store_full(make: MakeClient, _: pytest.MonkeyPatch) -> TestResponse:
    return make(max_stored_bytes=10).post("/v1/networks", json=NEW_NETWORK)


def store_unavailable(make: MakeClient, patch: pytest.MonkeyPatch) -> TestResponse:
    client = make()
    assert client.get("/v1/networks").status_code == 200
    database = client.application.extensions["nabla.store"].networks.database
    patch.setattr(database, "_unreachable_until", math.inf)
    return client.get("/v1/networks")


def conflict(make: MakeClient, _: pytest.MonkeyPatch) -> TestResponse:
    client = make()
    run = client.post("/v1/runs", json=RUNS["train"]).json["id"]
    assert client.post(f"/v1/runs/{run}/cancel").status_code == 200
    return client.post(f"/v1/runs/{run}/cancel")


def cluster_unavailable(make: MakeClient, _: pytest.MonkeyPatch) -> TestResponse:
    long = xor(loss="mse", optimizers=["sgd", "adam"], steps=100_000, include=...)
    return make(cluster=f"tcp://{LOOPBACK}:1").post("/v1/train/compare", json=long)


MADE: dict[str, Callable[[MakeClient, pytest.MonkeyPatch], TestResponse]] = {
    "malformed-body": lambda make, _: make().post(GRADIENTS, data=b"{", content_type="application/json"),
    "bad-request": bad_request,
    "unauthorized": unauthorized,
    "forbidden": forbidden,
    "not-found": lambda make, _: make().get("/v1/nothing"),
    "method-not-allowed": lambda make, _: make().get(GRADIENTS),
    "not-acceptable": lambda make, _: make().post(GRADIENTS, json=xor(), headers={"Accept": "text/html"}),
    "timeout": timeout,
    "too-large": lambda make, _: make(max_body_bytes=10).post(GRADIENTS, json=xor()),
    "unsupported-media-type": lambda make, _: make().post(GRADIENTS, data=b"{}", content_type="text/plain"),
    "invalid": lambda make, _: make().post(GRADIENTS, json={}),
    "limit-exceeded": lambda make, _: make(max_layers=1).post(GRADIENTS, json=xor()),
    "too-many-requests": too_many_requests,
    "internal-error": internal_error,
    "busy": busy,
    "deadline-exceeded": deadline_exceeded,
    "abandoned": abandoned,
    "extra-missing": extra_missing,
    "nothing-stored": lambda make, _: make(data="/dev/null/nabla").post("/v1/networks", json=NEW_NETWORK),
    "store-unavailable": store_unavailable,
    "store-full": store_full,
    "conflict": conflict,
    "cluster-unavailable": cluster_unavailable,
}


def test_every_kind_of_problem_is_made_below() -> None:
    assert set(MADE) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_problem_has_the_one_shape(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    document = assert_problem(MADE[kind](make_client, monkeypatch), kind)
    assert make_client().get(document["type"]).status_code == 200


@pytest.mark.parametrize(
    ("kind", "header", "value"),
    [
        ("unauthorized", "WWW-Authenticate", "Bearer"),
        ("too-many-requests", "Retry-After", "1000"),
        ("busy", "Retry-After", "1"),
        ("deadline-exceeded", "Retry-After", "1"),
        ("store-unavailable", "Retry-After", "5"),
    ],
)
def test_problems_carry_the_headers_their_status_asks_for(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, kind: str, header: str, value: str
) -> None:
    assert MADE[kind](make_client, monkeypatch).headers[header] == value


def test_a_fault_of_the_service_tells_nothing_internal_but_is_logged(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    response = MADE["internal-error"](make_client, monkeypatch)
    assert "secret" not in response.text and "Traceback" not in response.text
    (record,) = [record for record in caplog.records if record.name == "nabla.error"]
    assert record.exc_info
    assert record.fields["request_id"] == response.json["instance"]  # type: ignore[attr-defined]


@every("path", ["/v1", "/v1/activations", "/v1/losses/huber", "/health/live", "/openapi.yaml", "/"])
@every("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
def test_wrong_methods_are_told_the_right_ones(client: FlaskClient, path: str, method: str) -> None:
    response = client.open(path, method=method)
    assert_problem(response, "method-not-allowed")
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


@every("path", [GRADIENTS, "/v1/forward"])
@every("method", ["GET", "PUT", "DELETE"])
def test_operations_take_post_alone(client: FlaskClient, path: str, method: str) -> None:
    response = client.open(path, method=method, json=xor())
    assert_problem(response, "method-not-allowed")
    assert set(response.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


def test_head_answers_as_get_without_a_body(client: FlaskClient) -> None:
    for path in ("/v1", "/v1/activations", "/v1/losses/huber", "/metrics", "/openapi.json", "/"):
        head_, get = client.head(path), client.get(path)
        assert head_.status_code == 200
        assert head_.get_data() == b""
        assert head_.headers["Content-Type"] == get.headers["Content-Type"]
    missing = client.head("/v1/nothing")
    assert missing.status_code == 404
    assert missing.get_data() == b""
    assert missing.headers["Content-Type"] == PROBLEM


def test_options_tells_the_methods(client: FlaskClient) -> None:
    response = client.options(GRADIENTS)
    assert response.status_code == 200
    assert set(response.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    assert response.get_data() == b""
    assert_problem(client.options("/v1/nothing"), "not-found")


@every("given", ["abc", "a" * 128, "3f2b.x_Y-9", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"])
def test_request_ids_are_echoed(client: FlaskClient, given: str) -> None:
    headers = {"X-Request-Id": given}
    assert client.get("/v1", headers=headers).headers["X-Request-Id"] == given
    problem = client.get("/v1/nothing", headers=headers)
    assert problem.headers["X-Request-Id"] == problem.json["instance"] == given


@every("given", ["", "a" * 129, "a b", "a/b", "ä", "<script>", '"', "a,b"])
def test_request_ids_that_could_do_harm_are_replaced(client: FlaskClient, given: str) -> None:
    made = client.get("/v1", headers={"X-Request-Id": given}).headers["X-Request-Id"]
    assert made != given
    assert len(made) == 32 and int(made, 16) >= 0


def test_request_ids_that_are_made_differ(client: FlaskClient) -> None:
    assert len({client.get("/v1").headers["X-Request-Id"] for _ in range(50)}) == 50


@every("name", ["a/b", "a~b", "~1", "/", "~", "a b", "ü", "0", "", "a%2Fb", '"', "\\", "\u2028"])
def test_pointers_escape_what_keys_may_hold(post: Post, name: str) -> None:
    body = xor() | {name: 1}
    escaped = quote(name.replace("~", "~0").replace("/", "~1"), safe="~")
    assert set(faults(assert_problem(post(body), "invalid", body))) == {f"#/{escaped}"}
    body = xor(parameters={**xor()["parameters"], name: {}})
    assert set(faults(assert_problem(post(body), "invalid", body))) == {f"#/parameters/{escaped}"}


def test_the_first_fault_is_told_in_the_detail_too(post: Post) -> None:
    document = assert_problem(post(xor(seed=-1)), "invalid")
    assert document["detail"].startswith("#/seed: takes an integer")
    document = assert_problem(post(xor(seed=-1, dtype="x")), "invalid")
    assert document["detail"] == f"#/seed: {document['errors'][0]['detail']} (and 1 more)"


@every("body", [b"1", b"[]", b'"x"', b"null", b"true", b"[[1]]", b"[" + b"1," * 20_000 + b"1]"])
def test_a_body_is_an_object(post: Post, body: bytes) -> None:
    document = assert_problem(post(body), "invalid")
    assert "must be a JSON object" in document["detail"]
    assert document["errors"] == [{"pointer": "#", "detail": "takes an object"}]


@every("body", [b"", b" ", b"{", b"{}x", b"{'a': 1}", b'{"a": NaN}', b'{"a": 1,}', b"\xff", b"{\0}"])
def test_a_body_is_json(post: Post, body: bytes) -> None:
    assert "errors" not in assert_problem(post(body), "malformed-body")


@every(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        "multipart/form-data; boundary=x",
        "application/problem+json",
        "application/" + "x" * 1000,
        "nonsense",
        ";",
    ],
)
def test_other_content_types_are_refused(client: FlaskClient, content_type: str) -> None:
    response = client.post(GRADIENTS, data=json.dumps(xor()), content_type=content_type)
    assert len(assert_problem(response, "unsupported-media-type")["detail"]) < 200


@every(
    "content_type",
    ["application/json", "application/json; charset=utf-8", 'application/json;charset="UTF-8"', "Application/JSON"],
)
def test_content_types_of_json_are_taken(client: FlaskClient, content_type: str) -> None:
    assert client.post(GRADIENTS, data=json.dumps(xor()), content_type=content_type).status_code == 200


@every("encoding", ["br", "zstd", "deflate", "compress", "gzip, gzip", "gzip, br", "nonsense"])
def test_other_content_encodings_are_refused(post: Post, encoding: str) -> None:
    response = post(json.dumps(xor()).encode(), Content_Encoding=encoding)
    assert_problem(response, "unsupported-media-type")
    assert "gzip" in response.headers["Accept-Encoding"]


def test_problems_are_compressed_and_counted_like_answers(post: Post) -> None:
    body = xor(**{f"key{number}": 1 for number in range(60)})
    assert post(body, Accept_Encoding="gzip").headers["Content-Encoding"] == "gzip"


def test_a_body_that_pauses_is_not_waited_for(server: Server) -> None:
    content = json.dumps(xor()).encode()
    assert_problem(server.send(head(GRADIENTS, len(content)) + content[:-5]), "timeout")
    assert_problem(server.send(head(GRADIENTS, None, Transfer_Encoding="chunked") + b"5\r\nab"), "timeout")


def test_problems_cross_a_real_server_unchanged(server: Server) -> None:
    assert_problem(server.get("/v1/nothing"), "not-found")
    assert_problem(server.get(GRADIENTS), "method-not-allowed")
    assert_problem(server.post(b"{}"), "invalid", {})
    assert server.get(GRADIENTS).headers["Allow"]


def test_text_that_utf_8_cannot_hold_is_told_nevertheless() -> None:
    half = "\ud800"
    problem = Problem(
        "invalid", f"{half} is no character", [{"pointer": pointer(("parameters", half)), "detail": half}]
    )
    document = strict_json(problem.document("id"))
    assert document["detail"] == "? is no character"
    assert document["errors"] == [{"pointer": "#/parameters/%3F", "detail": "?"}]
