"""Pages of this machine, and pages that are refused. Listed origins are tested with the other settings of access."""

import json

import pytest
from flask import Flask
from flask.testing import FlaskClient

from service.callers import cors
from service.listening import on_loopback
from tests.api.training import NDJSON, training
from tests.conftest import MakeClient
from tests.support import Answer, Server, assert_problem, every, head, strict_json, xor

GRADIENTS = "/v1/gradients"
PAGE = "http://localhost:5173"
ELSEWHERE = "https://pages.example"


@pytest.fixture
def local(make_client: MakeClient) -> MakeClient:
    """Return a function that makes clients of an application that listens on loopback addresses only."""

    def make(**settings: object) -> FlaskClient:
        client = make_client(**settings)
        client.application.extensions["nabla.cors"].on_loopback = True
        return client

    return make


@pytest.mark.parametrize(
    "origin",
    [
        PAGE,
        "http://localhost",
        "https://localhost:8443",
        "http://127.0.0.1:3000",
        "https://127.0.0.1",
        "http://[::1]:8080",
    ],
)
def test_pages_of_this_machine_may_call_a_server_on_loopback(local: MakeClient, origin: str) -> None:
    client = local()
    preflight = client.options(
        GRADIENTS,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == origin
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "content-type" in preflight.headers["Access-Control-Allow-Headers"].lower()
    response = client.post(GRADIENTS, json=xor(), headers={"Origin": origin})
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == origin
    assert "Origin" in response.headers.getlist("Vary")
    assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize(
    "origin",
    [
        ELSEWHERE,
        "null",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example:3000",
        "http://evil.example#localhost",
        "http://evil.example:3000/localhost",
        "http://localhost@evil.example",
        "http://notlocalhost",
        "http://localhost:3000/",
        "http://localhost:",
        "http://LOCALHOST:3000",
        "http://localhost\n",
        "http://128.0.0.1",
        "http://[::2]",
        "ftp://localhost",
        "localhost:3000",
    ],
)
def test_other_pages_may_not(local: MakeClient, origin: str) -> None:
    for response in (
        local().options(GRADIENTS, headers={"Access-Control-Request-Method": "POST"}, environ_base=sent(origin)),
        local().post(GRADIENTS, json=xor(), environ_base=sent(origin)),
    ):
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]
        assert "Origin" in response.headers.getlist("Vary")


def sent(origin: str) -> dict[str, str]:
    """Return an Origin header with this value, whatever it is."""
    return {"HTTP_ORIGIN": origin}


def test_pages_of_this_machine_may_not_call_a_server_that_others_reach(client: FlaskClient) -> None:
    for host in ("localhost:8000", "127.0.0.1:8000", "gradients.example"):
        response = client.post(GRADIENTS, json=xor(), headers={"Origin": PAGE, "Host": host})
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]


def test_listed_origins_are_allowed_beside_the_pages_of_this_machine(local: MakeClient) -> None:
    client = local(cors_origins=(ELSEWHERE,))
    for origin in (ELSEWHERE, PAGE):
        assert client.get("/v1", headers={"Origin": origin}).headers["Access-Control-Allow-Origin"] == origin


def test_keys_are_asked_of_pages_of_this_machine_too(local: MakeClient) -> None:
    client = local(api_keys=("secret",))
    preflight = client.options(GRADIENTS, headers={"Origin": PAGE, "Access-Control-Request-Headers": "authorization"})
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"].lower()
    refused = client.post(GRADIENTS, json=xor(), headers={"Origin": PAGE})
    assert_problem(refused, "unauthorized")
    assert refused.headers["Access-Control-Allow-Origin"] == PAGE
    allowed = client.post(GRADIENTS, json=xor(), headers={"Origin": PAGE, "Authorization": "Bearer secret"})
    assert allowed.status_code == 200


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "nabla.cors"]


def test_a_refused_origin_is_logged_once_with_the_setting_that_would_allow_it(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(cors_origins=(ELSEWHERE,))
    for _ in range(3):
        client.options(GRADIENTS, headers={"Origin": PAGE, "Access-Control-Request-Method": "POST"})
        client.get("/v1", headers={"Origin": ELSEWHERE})
        client.get("/v1")
    assert refusals(caplog) == [
        f"Pages of {PAGE} may not read answers; NABLA_CORS_ORIGINS={ELSEWHERE},{PAGE} would let them."
    ]
    (setting,) = {word for word in refusals(caplog)[0].split() if word.startswith("NABLA_CORS_ORIGINS=")}
    allowed = make_client(cors_origins=tuple(setting.partition("=")[2].split(",")))
    assert allowed.get("/v1", headers={"Origin": PAGE}).headers["Access-Control-Allow-Origin"] == PAGE


def test_files_are_told_their_setting(make_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    make_client().get("/v1", headers={"Origin": "null"})
    assert "NABLA_CORS_ORIGINS=null " in refusals(caplog)[0]
    allowed = make_client(cors_origins=("null",)).get("/v1", headers={"Origin": "null"})
    assert allowed.headers["Access-Control-Allow-Origin"] == "null"


def test_the_pages_of_the_service_itself_are_not_called_refused(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Host": "gradients.example", "Origin": "https://gradients.example"}
    assert make_client().post(GRADIENTS, json=xor(), headers=headers).status_code == 200
    assert refusals(caplog) == []


def test_strangers_fill_neither_memory_nor_log(make_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    client = make_client()
    for number in range(cors.MOST_REFUSED + 50):
        client.get("/health/live", headers={"Origin": f"https://{number}.example"})
    for nonsense in ("x" * 5000, "https://" + "a" * 5000, "https://a.example\n{}", "\x1b[31m"):
        client.get("/health/live", environ_base=sent(nonsense))
    assert len(refusals(caplog)) == cors.MOST_REFUSED
    assert len(client.application.extensions["nabla.cors"]._refused) == cors.MOST_REFUSED


@every(
    ("addresses", "expected"),
    [
        ([("127.0.0.1", 8000)], True),
        ([("127.0.0.1", 8000), ("::1", 8000, 0, 0), ("127.1.2.3", 1)], True),
        ([("0.0.0.0", 8000)], False),
        ([("::", 8000, 0, 0)], False),
        ([("127.0.0.1", 8000), ("192.168.1.2", 8000)], False),
        ([("::1", 8000, 0, 0), ("0.0.0.0", 8000)], False),
        (["/run/nabla.sock"], False),
        ([("127.0.0.1", 8000), "/run/nabla.sock"], False),
        ([("fe80::1%eth0", 8000, 0, 2)], False),
        ([("not an address", 1)], False),
    ],
)
def test_only_loopback_addresses_are_loopback(addresses: list[object], expected: bool) -> None:
    assert on_loopback(addresses) is expected


def test_an_application_that_nobody_told_where_it_listens_takes_it_for_everywhere(app: Flask) -> None:
    assert app.extensions["nabla.cors"].on_loopback is False


def test_a_page_reads_gradients_and_a_stream_with_no_setting(server: Server) -> None:
    preflight = options(server, PAGE)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == PAGE
    answer = server.post(json.dumps(xor()).encode(), Origin=PAGE)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    body = json.dumps(training(steps=3)).encode()
    stream = server.send(head("/v1/train", len(body), Accept=NDJSON, Origin=PAGE) + body)
    assert (stream.status_code, stream.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    assert stream.headers["Content-Type"] == NDJSON
    assert "Access-Control-Allow-Origin" not in options(server, ELSEWHERE).headers


def test_a_server_for_others_wants_its_origins_listed(open_server: Server) -> None:
    assert "Access-Control-Allow-Origin" not in options(open_server, PAGE).headers
    assert options(open_server, ELSEWHERE).headers["Access-Control-Allow-Origin"] == ELSEWHERE
    assert strict_json(open_server.get("/v1").body)


def options(server: Server, origin: str) -> Answer:
    """Send a preflight request as a browser does, and return the answer."""
    text = f"OPTIONS {GRADIENTS} HTTP/1.1\r\nHost: localhost:{server.port}\r\nOrigin: {origin}\r\nConnection: close\r\n"
    more = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n\r\n"
    return server.send((text + more).encode())
