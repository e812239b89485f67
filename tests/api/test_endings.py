"""JSON answers end in one newline, so that a terminal's prompt stands in a line of its own."""

import gzip
import json

from flask.testing import FlaskClient

from service.api.endpoint import ENDPOINTS, Endpoint
from tests.api.training import EVENTS, NDJSON, training
from tests.conftest import Post
from tests.support import Server, every, strict_json, xor

ASKED = [operation for operation in ENDPOINTS if operation.method == "POST" and "{" not in operation.path]
LISTED = [operation.path for operation in ENDPOINTS if operation.method == "GET" and "{" not in operation.path]


def assert_one_newline(content: bytes) -> None:
    assert content.endswith(b"\n") and not content.endswith(b"\n\n")
    strict_json(content)


@every("accept", ["application/json", "application/json; tensors=base64"])
@every("operation", ASKED, ids=lambda operation: operation.path)
def test_documents(post: Post, operation: Endpoint, accept: str) -> None:
    body = next(iter(operation.examples.values()))
    response = post(body, operation.path, Accept=accept)
    assert response.status_code in (200, 201, 202)
    assert_one_newline(response.get_data())
    assert response.content_length == len(response.get_data())


def test_documents_with_long_typed_arrays(post: Post) -> None:
    rows = [[float(number % 7)] for number in range(20_000)]
    request = {"network": {"layers": [{"type": "dense", "units": 1}]}, "inputs": rows}
    response = post(request, "/v1/forward", Accept="application/json; tensors=base64")
    assert_one_newline(response.get_data())
    assert response.content_length == len(response.get_data())


@every("path", [path for path in LISTED if path not in ("/metrics", "/openapi.yaml")])
def test_listings(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert_one_newline(response.get_data())
    assert response.content_length == len(response.get_data())


@every("path", ["/v1/activations/relu", "/v1/activations/relu?points=3", "/v1/nothing"])
def test_entries_and_problems(client: FlaskClient, path: str) -> None:
    assert_one_newline(client.get(path).get_data())


def test_problems_of_requests(post: Post) -> None:
    for response in (post(b"{"), post({}), post(xor(loss="nothing"))):
        assert response.status_code >= 400
        assert_one_newline(response.get_data())


def test_compressed_documents(post: Post) -> None:
    response = post(xor(include=["layers", "per_sample"]), Accept_Encoding="gzip")
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.content_length == len(response.get_data())
    assert_one_newline(gzip.decompress(response.get_data()))


def test_streams_have_one_newline_a_line_and_two_an_event(post: Post) -> None:
    lines = post(training(steps=3), "/v1/train", Accept=NDJSON).get_data()
    assert lines.endswith(b"}\n") and b"\n\n" not in lines
    events = post(training(steps=3), "/v1/train", Accept=EVENTS).get_data()
    assert events.endswith(b"}\n\n") and b"\n\n\n" not in events


def test_a_server_sends_it(server: Server) -> None:
    answer = server.post(json.dumps(xor()).encode())
    assert_one_newline(answer.body)
    assert answer.headers["Content-Length"] == str(len(answer.body))
