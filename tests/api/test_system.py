"""Health, metrics, the description of the service, and the pages for people."""

import re

from flask.testing import FlaskClient

from service import __version__
from service.config import Settings
from service.problems import KINDS
from tests.conftest import MakeClient
from tests.support import Server, assert_problem, every, read_yaml, strict_json

PAGES = ["/", "/reference", "/docs", *(f"/problems/{kind}" for kind in KINDS)]


@every("path", ["/health/live", "/health/ready"])
def test_health_answers(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert strict_json(response.get_data()) == {"status": "ok"}


def test_the_service_describes_itself(client: FlaskClient) -> None:
    about = client.get("/v1").json
    assert about["version"] == __version__
    assert about["limits"]["layers"] == 512
    assert {"/v1/gradients", "/v1/forward", "/v1/activations", "/openapi.yaml"} <= set(about["links"].values())
    for path in about["links"].values():
        assert client.get(path).status_code in (200, 405), path


def test_the_limits_shown_are_those_in_force(make_client: MakeClient) -> None:
    limits = make_client(max_layers=7, max_seconds=1.5).get("/v1").json["limits"]
    assert limits["layers"] == 7
    assert limits["seconds"] == 1.5
    named = {name[4:] for name in Settings.__dataclass_fields__ if name.startswith("max_")}
    assert set(limits) == named | {"streams", "stored_days", "run_days"}


def test_the_description_is_the_committed_file(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    response = client.get("/openapi.yaml")
    assert response.headers["Content-Type"] == "application/yaml"
    assert read_yaml(response.get_data()) == document


def samples(text: str, name: str) -> dict[str, float]:
    """Return the values of a metric by their labels."""
    pattern = rf"^{name}\{{(.*)\}} (\S+)$"
    return {labels: float(value) for labels, value in re.findall(pattern, text, re.MULTILINE)}


def test_requests_are_counted_by_route_not_by_path(client: FlaskClient) -> None:
    before = samples(client.get("/metrics").text, "nabla_requests_total")
    client.get("/v1/activations/relu")
    client.get("/v1/activations/tanh")
    client.get("/nothing/at/all")
    client.open("/v1", method="INVENTED")
    after = samples(client.get("/metrics").text, "nabla_requests_total")
    grown = {labels: value - before.get(labels, 0) for labels, value in after.items() if value != before.get(labels)}
    one = '/v1/activations/<name>"'
    assert [count for labels, count in grown.items() if one in labels] == [2]
    assert [count for labels, count in grown.items() if '"unmatched"' in labels] == [1, 1]
    assert not any("INVENTED" in labels or "/nothing" in labels for labels in after)


def test_metrics_of_all_workers_add_up(server: Server) -> None:
    def count() -> float:
        found = samples(server.get("/metrics").body.decode(), "nabla_requests_total")
        return sum(value for labels, value in found.items() if 'route="/v1/regularizers"' in labels)

    before = count()
    for _ in range(40):
        assert server.get("/v1/regularizers").status_code == 200
    # Whichever worker answers, it tells the sum over both.
    assert {count() for _ in range(10)} == {before + 40}


def test_metrics_have_the_media_type_of_prometheus(client: FlaskClient) -> None:
    assert client.get("/metrics").headers["Content-Type"].startswith("text/plain; version=")


@every("path", PAGES)
def test_pages_load_nothing_from_elsewhere(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "//" not in policy and "unsafe-eval" not in policy
    for loaded in re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"([^\"]+)\"", response.text):
        assert loaded.startswith("/") and not loaded.startswith("//"), loaded
        with client.get(loaded) as own:
            assert own.status_code == 200, loaded
    assert "<script>" not in response.text and " onclick=" not in response.text
    assert "style=" not in response.text


def test_own_scripts_and_styles_name_no_other_host(client: FlaskClient) -> None:
    for path in ("/static/docs.js", "/static/page.css"):
        with client.get(path) as response:
            assert response.status_code == 200
            assert not re.search(r"(https?:)?//\w", response.text.split("\n", 1)[1])


@every("path", PAGES)
def test_links_on_pages_lead_somewhere(client: FlaskClient, path: str) -> None:
    for link in set(re.findall(r"<a[^>]+href=\"([^\"]+)\"", client.get(path).text)):
        assert link.startswith("/"), link
        assert client.get(link).status_code == 200, link


@every("kind", KINDS)
def test_every_kind_of_problem_has_a_page(client: FlaskClient, kind: str) -> None:
    text = client.get(f"/problems/{kind}").text
    assert kind in text
    assert str(KINDS[kind].status) in text


@every("path", ["/problems/nothing", "/docs/index.html", "/docs/..%2fpage.css", "/static/../app.py"])
def test_pages_that_are_not_there(client: FlaskClient, path: str) -> None:
    assert_problem(client.get(path), "not-found")


def test_swagger_ui_is_told_whether_keys_are_set(make_client: MakeClient) -> None:
    assert '<body data-keys="none">' in make_client().get("/docs").text
    assert '<body data-keys="set">' in make_client(api_keys=("secret",)).get("/docs").text


def test_pages_can_be_left_out(make_client: MakeClient) -> None:
    bare = make_client(docs=False)
    for path in ("/", "/reference", "/docs", "/static/page.css"):
        assert_problem(bare.get(path), "not-found")
    for path in ("/v1", "/openapi.yaml", "/metrics", "/health/live", "/problems/invalid"):
        assert bare.get(path).status_code == 200


@every("path", ["/v1", "/v1/activations", "/health/live", "/docs", "/v1/gradients", "/nothing"])
def test_answers_keep_browsers_from_guessing_their_type(client: FlaskClient, path: str) -> None:
    assert client.get(path).headers["X-Content-Type-Options"] == "nosniff"


def test_no_answer_sets_a_cookie(client: FlaskClient) -> None:
    for path in ("/", "/docs", "/v1", "/v1/activations", "/nothing"):
        assert "Set-Cookie" not in client.get(path).headers
