"""Keys, origins and rates."""

import hashlib

import pytest
from flask.testing import FlaskClient

from service.callers import quotas
from service.capacity.admission import Admission
from service.config import ConfigurationError, Settings
from tests.conftest import MakeClient
from tests.support import assert_problem, every, xor

GRADIENTS = "/v1/gradients"
KEY = "correct horse"
DIGEST = "sha256:" + hashlib.sha256(KEY.encode()).hexdigest()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "configured", [KEY, DIGEST, DIGEST.replace("sha256:", "sha256:").upper().replace("SHA", "sha")]
)
def test_a_key_opens_the_service(make_client: MakeClient, configured: str) -> None:
    client = make_client(api_keys=("another", configured))
    assert client.post(GRADIENTS, json=xor(), headers=bearer(KEY)).status_code == 200
    assert client.get("/v1/activations", headers=bearer("another")).status_code == 200
    assert client.get("/v1", headers={"Authorization": f"bearer  {KEY} "}).status_code == 200


@pytest.mark.parametrize("key", ["wrong", KEY + "x", KEY[:-1], DIGEST, DIGEST[7:], "ключ", "\x7f" * 5000])
def test_other_keys_are_refused(make_client: MakeClient, key: str) -> None:
    client = make_client(api_keys=(DIGEST,))
    header = bearer(key.encode().decode("latin-1"))
    assert_problem(client.post(GRADIENTS, json=xor(), headers=header), "forbidden")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", KEY, "Token " + KEY])
def test_a_key_is_asked_for(make_client: MakeClient, header: str | None) -> None:
    client = make_client(api_keys=(KEY,))
    headers = {} if header is None else {"Authorization": header}
    for response in (client.post(GRADIENTS, json=xor(), headers=headers), client.get("/v1", headers=headers)):
        assert_problem(response, "unauthorized")
        assert response.headers["WWW-Authenticate"] == "Bearer"


def test_keys_in_other_alphabets_are_compared_by_their_bytes(make_client: MakeClient) -> None:
    client = make_client(api_keys=("ключ",))
    assert client.get("/v1", headers=bearer("ключ".encode().decode("latin-1"))).status_code == 200


def test_everything_under_v1_needs_the_key_and_nothing_else(make_client: MakeClient) -> None:
    client = make_client(api_keys=(KEY,))
    for rule in client.application.url_map.iter_rules():
        path = rule.rule.replace("<name>", "relu").replace("<kind>", "invalid").replace("<path:filename>", "page.css")
        method = "POST" if "POST" in (rule.methods or ()) else "GET"
        with client.open(path, method=method) as response:
            assert (response.status_code == 401) is path.startswith("/v1"), path


@pytest.mark.parametrize(
    "path", ["//v1/gradients", "///v1/gradients", "/v1//gradients", "/v1/gradients/", "/./v1/gradients"]
)
def test_there_is_no_way_around_the_key(make_client: MakeClient, path: str) -> None:
    client = make_client(api_keys=(KEY,), max_requests_per_second=1)
    response = client.post("/", json=xor(), environ_overrides={"PATH_INFO": path})
    assert response.status_code in (308, 401, 404)


def test_a_service_without_keys_takes_any(make_client: MakeClient) -> None:
    assert make_client().get("/v1", headers=bearer("whatever")).status_code == 200


@every("key", ["sha256:", "sha256:12", "sha256:" + "g" * 64, "sha256:" + "0" * 63])
def test_digests_that_are_none_are_told_at_the_start(key: str) -> None:
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        _ = Settings(api_keys=(key,)).keys


ORIGIN = "https://pages.example"


def test_pages_of_a_listed_origin_may_call(make_client: MakeClient) -> None:
    client = make_client(cors_origins=(ORIGIN,), api_keys=(KEY,))
    preflight = client.options(
        GRADIENTS,
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )
    assert preflight.status_code == 200  # a browser sends no key with it
    assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
    assert {"authorization", "content-type", "content-encoding", "x-request-id"} <= set(allowed.split(", "))
    assert int(preflight.headers["Access-Control-Max-Age"]) > 0
    response = client.post(GRADIENTS, json=xor(), headers={"Origin": ORIGIN, **bearer(KEY)})
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "X-Request-Id" in response.headers["Access-Control-Expose-Headers"]
    assert "Origin" in response.headers.getlist("Vary")


def test_problems_can_be_read_by_pages_too(make_client: MakeClient) -> None:
    client = make_client(cors_origins=(ORIGIN,))
    for response in (
        client.post(GRADIENTS, json={}, headers={"Origin": ORIGIN}),
        client.get("/x", headers={"Origin": ORIGIN}),
    ):
        assert response.status_code >= 400
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN


@pytest.mark.parametrize(
    "origin", ["https://other.example", "null", "https://pages.example.evil", "http://pages.example"]
)
def test_pages_of_other_origins_may_not(make_client: MakeClient, origin: str) -> None:
    client = make_client(cors_origins=(ORIGIN,))
    for method in ("OPTIONS", "POST"):
        response = client.open(GRADIENTS, method=method, json=xor(), headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "Origin" in response.headers.getlist("Vary")


def test_all_origins_may_be_allowed(make_client: MakeClient) -> None:
    response = make_client(cors_origins=("*",)).get("/v1", headers={"Origin": "https://any.example"})
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in response.headers


def test_without_origins_nothing_is_said(client: FlaskClient) -> None:
    headers = client.get("/v1", headers={"Origin": ORIGIN}).headers
    assert not [name for name, _ in headers if name.startswith("Access-Control")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time that rates are measured by, which stands still unless moved."""
    now = [100.0]
    monkeypatch.setattr(quotas.time, "monotonic", lambda: now[0])
    return now


def test_a_client_may_ask_as_often_as_allowed(make_client: MakeClient, clock: list[float]) -> None:
    client = make_client(max_requests_per_second=5)
    assert [client.get("/v1").status_code for _ in range(7)] == [200] * 5 + [429] * 2
    clock[0] += 0.2
    assert [client.get("/v1").status_code for _ in range(2)] == [200, 429]
    clock[0] += 3600
    assert [client.get("/v1").status_code for _ in range(7)] == [200] * 5 + [429] * 2


def test_a_client_that_asks_too_often_is_told_when_to_come_back(make_client: MakeClient, clock: list[float]) -> None:
    client = make_client(max_requests_per_second=0.1)
    assert client.get("/v1").status_code == 200
    clock[0] += 2
    response = client.get("/v1")
    assert_problem(response, "too-many-requests")
    assert response.headers["Retry-After"] == "8"
    clock[0] += 8.001
    assert client.get("/v1").status_code == 200


def test_clients_do_not_share_their_rates(make_client: MakeClient, clock: list[float]) -> None:
    client = make_client(max_requests_per_second=1)
    answers = [client.get("/v1", environ_overrides={"REMOTE_ADDR": address}).status_code for address in "aabab"]
    assert answers == [200, 429, 200, 429, 429]


def test_health_and_preflights_are_not_limited(make_client: MakeClient, clock: list[float]) -> None:
    client = make_client(max_requests_per_second=1)
    assert client.get("/v1").status_code == 200
    for _ in range(5):
        assert client.get("/health/live").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.options(GRADIENTS).status_code == 200
    assert client.get("/v1").status_code == 429


@every(
    ("variable", "text"),
    [
        ("NABLA_MAX_LAYERS", "many"),
        ("NABLA_MAX_LAYERS", "1.5"),
        ("NABLA_MAX_LAYERS", "-1"),
        ("NABLA_MAX_SECONDS", "-0.5"),
        ("NABLA_DOCS", "perhaps"),
        ("NABLA_MAX_BODY_BYTES", ""),
    ],
)
def test_settings_that_cannot_be_understood_are_named(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        Settings.from_environment({variable: text})


def test_settings_come_from_the_environment() -> None:
    settings = Settings.from_environment(
        {"NABLA_MAX_LAYERS": "3", "NABLA_DOCS": "no", "NABLA_API_KEYS": "a, b,,", "NABLA_MAX_SECONDS": "0.5", "X": "y"}
    )
    assert (settings.max_layers, settings.docs, settings.max_seconds) == (3, False, 0.5)
    assert settings.api_keys == ("a", "b")


def test_a_client_is_a_valid_key_else_an_address(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up keys on an open server, and an address with several keys, have one share of it."""

    def client_of(client: FlaskClient, **headers: str) -> str:
        admission: Admission = client.application.extensions["nabla.admission"]
        ticket = Admission.ticket.__get__(admission)
        clients: list[str] = []
        monkeypatch.setattr(admission, "ticket", lambda name, arrived: clients.append(name) or ticket(name, arrived))
        answer = client.post(GRADIENTS, json=xor(), headers=headers, environ_overrides={"REMOTE_ADDR": "10.1.2.3"})
        assert answer.status_code == 200
        (name,) = clients
        return name

    open_to_all, closed = make_client(), make_client(api_keys=("one", "two"))
    names = {client_of(open_to_all, Authorization=f"Bearer {made_up}") for made_up in ("one", "two", "")}
    assert names == {client_of(open_to_all)} == {"address:10.1.2.3"}
    one, two = (client_of(closed, Authorization=f"Bearer {key}") for key in ("one", "two"))
    assert one != two and one.startswith("key:") and "one" not in one
