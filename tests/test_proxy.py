"""Headers of proxies, and the proxies that are trusted."""

import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from service.config import ConfigurationError, Settings
from service.proxy import Proxies, network_of
from tests.conftest import MakeClient
from tests.support import assert_problem, every

TRUSTED = Proxies(("127.0.0.1", "10.0.0.0/8", "2001:db8::/32"))


@every(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("192.0.2.1", "192.0.2.7", "192.0.2.1"),  # a stranger
        ("127.0.0.2", "192.0.2.7", "127.0.0.2"),
        ("127.0.0.1", "6.6.6.6, 192.0.2.7", "192.0.2.7"),  # the client wrote the first
        ("127.0.0.1", "6.6.6.6, 192.0.2.7, 10.1.2.3", "192.0.2.7"),  # two proxies
        ("10.9.9.9", "10.1.1.1, 10.2.2.2", "10.1.1.1"),  # nobody but proxies
        ("127.0.0.1", "192.0.2.7:51234", "192.0.2.7"),
        ("127.0.0.1", "[2001:db9::1]:443", "2001:db9::1"),
        ("127.0.0.1", "2001:db9::1", "2001:db9::1"),
        ("2001:db8::5", "192.0.2.7", "192.0.2.7"),
        ("::ffff:127.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "::ffff:192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.7, garbage, 10.0.0.1", "10.0.0.1"),
        ("127.0.0.1", "192.0.2.7,", "127.0.0.1"),
        ("", "192.0.2.7", ""),  # a Unix socket
        ("127.0.0.1", ", ".join(["10.0.0.1"] * 1000), "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_is(peer: str, forwarded: str | None, client: str) -> None:
    assert TRUSTED.client_of(peer, forwarded) == client


def test_by_default_nobody_is_believed(make_client: MakeClient) -> None:
    nobody = Proxies()
    assert not nobody
    assert nobody.client_of("127.0.0.1", "192.0.2.7") == "127.0.0.1"
    client = make_client()
    headers = {"X-Forwarded-Prefix": "/evil", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    assert client.get("/nothing", headers=headers).json["type"] == "/problems/not-found"
    assert client.get("/", headers=headers).text == client.get("/").text


def test_a_unix_socket_can_be_trusted() -> None:
    assert Proxies(("unix",)).client_of("", "192.0.2.7") == "192.0.2.7"
    assert Proxies(("unix",)).client_of("192.0.2.1", "192.0.2.7") == "192.0.2.1"


@pytest.mark.parametrize("word", ["localhost", "10.0.0.1/8", "10.0.0.0/33", "*", "0.0.0", "UNIX "])
def test_what_is_no_network_is_refused_at_the_start(word: str) -> None:
    with pytest.raises(ConfigurationError, match="NABLA_TRUSTED_PROXIES") as refusal:
        Settings.from_environment({"NABLA_TRUSTED_PROXIES": f"127.0.0.1,{word}x"})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a name", "a name"),
    ],
)
def test_one_client_is_an_address_or_a_network_of_ipv6(address: str, network: str) -> None:
    assert network_of(address) == network


def environ(**headers: str) -> dict[str, Any]:
    made = {"REMOTE_ADDR": "127.0.0.1", "SCRIPT_NAME": "", "wsgi.url_scheme": "http", "HTTP_HOST": "inside:8000"}
    made |= {f"HTTP_X_FORWARDED_{name.upper()}": value for name, value in headers.items()}
    TRUSTED.apply(made)
    return made


@every(
    ("prefix", "root"),
    [
        ("/nabla", "/nabla"),
        ("/nabla/", "/nabla"),
        ("/a/b-c_d.e~f/1", "/a/b-c_d.e~f/1"),
        ("/outer, /inner", "/inner"),
        *(
            (wrong, "")
            for wrong in ("", "/", "nabla", "//evil.example", "/a//b", "/a/../b", "/./a", "/.hidden", "/a b")
        ),
        *(
            (wrong, "")
            for wrong in ("https://evil.example", '/a"onload=x', "/a\r\nb", "/%2e", "/a\\b", "/" + "x" * 300)
        ),
    ],
)
def test_a_prefix_is_a_plain_path(prefix: str, root: str) -> None:
    assert environ(prefix=prefix)["SCRIPT_NAME"] == root


def test_scheme_and_host_are_those_that_the_client_asked() -> None:
    made = environ(proto="HTTPS", host="gradients.example:8443", **{"for": "192.0.2.7"})
    assert (made["wsgi.url_scheme"], made["HTTP_HOST"]) == ("https", "gradients.example:8443")
    assert made["nabla.peer"] == "192.0.2.7"
    wrong = environ(proto="javascript", host="evil.example/path")
    assert (wrong["wsgi.url_scheme"], wrong["HTTP_HOST"]) == ("http", "inside:8000")


ROOT_OF = {"X-Forwarded-Prefix": "/nabla", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.org"}


def test_everything_that_leads_somewhere_leads_below_the_prefix(make_client: MakeClient) -> None:
    client = make_client(trusted_proxies=("127.0.0.0/8",))
    for rule in client.application.url_map.iter_rules():
        if not rule.endpoint.startswith(("pages.", "problems.")):
            continue
        path = rule.rule.replace("<name>", "relu").replace("<kind>", "invalid").replace("<path:filename>", "page.css")
        with client.get(path, headers=ROOT_OF) as response:
            assert "Location" not in response.headers
            if response.mimetype == "text/html":
                for link in re.findall(r"(?:href|src|data-root)=\"([^\"]+)\"", response.text):
                    assert link == "/nabla" or link.startswith("/nabla/"), (path, link)
    assert "curl -s https://example.org/nabla/v1/gradients" in client.get("/reference", headers=ROOT_OF).text
    assert client.get("/openapi.yaml", headers=ROOT_OF).text.endswith("\nservers:\n- url: /nabla\n")
    assert client.get("/openapi.json", headers=ROOT_OF).json["servers"] == [{"url": "/nabla"}]


def test_problems_of_every_origin_name_their_page_below_the_prefix(make_client: MakeClient) -> None:
    client = make_client(trusted_proxies=("127.0.0.1",), api_keys=("key",))
    for method, path in (("GET", "/nothing"), ("PUT", "/v1"), ("POST", "/v1/gradients"), ("GET", "/problems/none")):
        problem = client.open(path, method=method, headers=ROOT_OF).json
        assert problem["type"].startswith("/nabla/problems/")


@pytest.mark.parametrize("path", ["/metrics/", "//metrics", "///metrics", "/metrics//", "/metrics/x", "/./metrics"])
def test_metrics_have_one_path(client: FlaskClient, path: str) -> None:
    assert client.get("/metrics").status_code == 200
    assert_problem(client.get("/", environ_overrides={"PATH_INFO": path}), "not-found")


def test_quotas_and_logs_see_the_client_behind_the_proxy(
    make_client: MakeClient, capfd: pytest.CaptureFixture[str]
) -> None:
    client = make_client(
        trusted_proxies=("127.0.0.1",), max_requests_per_second=1e-3, log_requests=True, log_format="json"
    )
    capfd.readouterr()
    answers = [
        client.get("/v1", headers={"X-Forwarded-For": address}).status_code
        for address in ("192.0.2.1", "192.0.2.2", "6.6.6.6, 192.0.2.1")
    ]
    assert answers == [200, 200, 429]
    lines = capfd.readouterr().out.splitlines()
    assert [re.findall(r'"client":"([^"]+)"', line) for line in lines] == [["192.0.2.1"], ["192.0.2.2"], ["192.0.2.1"]]
    assert '"reason":"too-many-requests"' in lines[-1]
