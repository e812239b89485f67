"""Settings from the environment."""

import hashlib

import pytest

from service.app import create_app
from service.config import ConfigurationError, Listening, Settings
from tests.support import every


def read(**variables: str) -> Settings:
    return Settings.from_environment(variables)


def test_nothing_set_is_the_defaults() -> None:
    assert read() == Settings()


def test_each_kind_of_setting_is_read() -> None:
    settings = read(
        NABLA_MAX_LAYERS="7", NABLA_MAX_SECONDS="0.5", NABLA_DOCS="no", NABLA_CORS_ORIGINS="http://a, http://b,"
    )
    assert (settings.max_layers, settings.max_seconds, settings.docs) == (7, 0.5, False)
    assert settings.cors_origins == ("http://a", "http://b")
    assert [read(NABLA_DEMO=word).demo for word in ("off", "FALSE", "on", "1")] == [False, False, True, True]
    assert read(NABLA_LOG_FORMAT="TEXT").log_format == "text"
    assert settings.limits.layers == 7
    assert settings.shown_limits["layers"] == 7


@every(
    ("variable", "text", "told"),
    [
        ("NABLA_MAX_LAYERS", "many", "takes a number"),
        ("NABLA_MAX_LAYERS", "-1", "not negative"),
        ("NABLA_MAX_SECONDS", "nan", "finite"),
        ("NABLA_MAX_SECONDS", "inf", "finite"),
        ("NABLA_DOCS", "maybe", "true or false"),
        ("NABLA_MAX_SECOND", "5", "did you mean NABLA_MAX_SECONDS"),
        ("NABLA_LOG_LEVL", "info", "did you mean NABLA_LOG_LEVEL"),
        ("NABLA_LOG_FORMAT", "xml", "takes one of auto, json, text"),
        ("NABLA_SLOTS", "0", "1 or more"),
        ("NABLA_MAX_CONNECTIONS", "0", "1 or more"),
        ("NABLA_API_KEYS", "sha256:abc", "64 hexadecimal digits"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(variable: str, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as refusal:
        read(**{variable: text})
    assert variable in str(refusal.value)


@every(
    ("origins", "meant"),
    [
        ("localhost:3000", "http://localhost:3000"),
        ("example.org", "http://example.org"),
        ("https://example.org/", "https://example.org"),
        ("http://localhost:3000/app/index.html", "http://localhost:3000"),
        ("https://example.org?x=1", "https://example.org"),
        ("https://Example.org", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://good.example,http://bad.example/", "http://bad.example"),
        ("https://", None),
        ("http://*.example.org", None),
        ("https://üben.example", None),
        ("https://user@example.org", None),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_with_the_one_that_was_meant(
    origins: str, meant: str | None
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        read(NABLA_CORS_ORIGINS=origins)
    text = str(refusal.value)
    assert "NABLA_CORS_ORIGINS" in text and "scheme://host" in text and "\n" not in text
    assert text.endswith(f"did you mean {meant}?") if meant else "did you mean" not in text
    if meant:
        assert read(NABLA_CORS_ORIGINS=meant).cors_origins == (meant,)


@every(
    "origin",
    ["*", "null", "https://a.example", "http://localhost:5173", "http://[::1]:8080", "app+x://id"],
)
def test_origins_as_browsers_send_them_are_taken(origin: str) -> None:
    assert read(NABLA_CORS_ORIGINS=origin).cors_origins == (origin,)


def listening(**variables: str) -> Listening:
    return Listening.from_environment(variables)


def test_the_server_listens_on_loopback_unless_told_otherwise() -> None:
    assert (listening().bind, listening().log_level) == ("127.0.0.1:8000", "warning")
    assert listening().workers >= 1
    assert listening(HOST="0.0.0.0", PORT="80").bind == "0.0.0.0:80"
    assert listening(HOST="::1", PORT="9000").bind == "[::1]:9000"
    assert listening(HOST="my-host.example", WEB_CONCURRENCY="3", NABLA_LOG_LEVEL="INFO").bind == "my-host.example:8000"


@every(
    ("variable", "text"),
    [
        ("HOST", ""),
        ("HOST", "http://localhost"),
        ("HOST", "localhost:8000"),
        ("HOST", "two words"),
        ("PORT", "http"),
        ("PORT", ""),
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "80.5"),
        ("WEB_CONCURRENCY", "many"),
        ("WEB_CONCURRENCY", "0"),
        ("NABLA_LOG_LEVEL", "loud"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_by_the_name_of_its_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{variable} takes ") as refusal:
        listening(**{variable: text})
    assert repr(text) in str(refusal.value) or text in str(refusal.value)


def test_variables_that_others_set_are_left_alone() -> None:
    assert read(NABLA_PORT="tcp://10.0.0.1:8000", NABLA_SERVICE_HOST="10.0.0.1", NABLA_LOG_LEVEL="info") == Settings()


def test_a_digest_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        _ = read(NABLA_API_KEYS="sha256:abc").keys


def test_settings_do_not_show_their_keys() -> None:
    assert "secret" not in repr(read(NABLA_API_KEYS="secret"))


@every("keys", ["", " ", ",", " ,, "])
def test_a_list_of_keys_without_a_key_does_not_open_the_service(keys: str) -> None:
    with pytest.raises(ConfigurationError, match="NABLA_API_KEYS holds no key"):
        read(NABLA_API_KEYS=keys)


@every(
    ("variable", "told"),
    [
        ("NABLA_KEYS", "docs/configuration.md|did you mean NABLA_API_KEYS"),
        ("NABLA_API_KEY", "did you mean NABLA_API_KEYS"),
        ("NABLA_WORKERS", "no setting is called NABLA_WORKERS"),
        ("NABLA_HOST", "did you mean HOST"),
        ("NABLA_PORT", "did you mean PORT"),
        ("NABLA_WEB_CONCURRENCY", "did you mean WEB_CONCURRENCY"),
        ("NABLA_", "no setting is called NABLA_;"),
        ("NABLA_max_layers", "no setting is called"),
        ("NABLA_SOMETHING_ELSE", "docs/configuration.md lists all"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused(variable: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as refusal:
        read(**{variable: "1"})
    assert variable in str(refusal.value) and "\n" not in str(refusal.value)


@every(
    "variable",
    [
        "NABLA_PORT",
        "NABLA_SERVICE_HOST",
        "NABLA_SERVICE_PORT",
        "NABLA_SERVICE_PORT_HTTP",
        "NABLA_PORT_8000_TCP",
        "NABLA_PORT_8000_TCP_ADDR",
        "NABLA_PORT_8000_TCP_PORT",
        "NABLA_PORT_8000_TCP_PROTO",
        "NABLA_PORT_53_UDP",
        "NABLA_WEB_PORT",
        "NABLA_WEB_SERVICE_HOST",
        "NABLA_WEB_PORT_8000_TCP_ADDR",
    ],
)
def test_variables_of_kubernetes_are_left_alone(variable: str) -> None:
    assert read(**{variable: "tcp://10.0.0.1:8000"}) == Settings()


@every("variable", ["NABLA_MAX_BODY_BYTES", "NABLA_MAX_WORKSPACE_BYTES"])
def test_limits_that_contradict_each_other_are_refused(variable: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{variable} is 3000000, more than NABLA_MAX_MEMORY_BYTES, 2000000"):
        read(**{"NABLA_MAX_BODY_BYTES": "1", "NABLA_MAX_WORKSPACE_BYTES": "1", variable: "3000000"}, **MEMORY)


@every("variable", ["NABLA_MAX_BODY_BYTES", "NABLA_MAX_WORKSPACE_BYTES"])
def test_a_limit_leaves_light_requests_their_memory(variable: str) -> None:
    others = {"NABLA_MAX_BODY_BYTES": "1", "NABLA_MAX_WORKSPACE_BYTES": "1", **MEMORY}
    account = create_app(read(**others)).extensions["nabla.memory"]
    assert read(**others | {variable: str(account.most)})
    with pytest.raises(ConfigurationError, match=f"{variable} is {account.most + 1}, .*, {account.most};"):
        read(**others | {variable: str(account.most + 1)})


MEMORY = {"NABLA_MAX_MEMORY_BYTES": "2000000"}
HEX = "ab" * 32


@every(
    ("entry", "name"),
    [
        (f"alice=sha256:{HEX}", "alice"),
        (f"team-1.b_c=sha256:{HEX.upper()}", "team-1.b_c"),
        (f"sha256:{HEX}", "sha256:abababab"),
    ],
)
def test_digests_may_have_names(entry: str, name: str) -> None:
    assert read(NABLA_API_KEYS=entry).keys == ((name, bytes.fromhex(HEX)),)


@every("key", ["a=b", "c2VjcmV0==", "alice=secret", "=", "x y=sha256:" + HEX])
def test_keys_given_as_they_are_keep_what_they_hold(key: str) -> None:
    ((name, digest),) = read(NABLA_API_KEYS=key).keys
    assert digest == hashlib.sha256(key.encode()).digest()
    assert name == f"sha256:{digest.hex()[:8]}"


@every("entry", ["alice=sha256:", "alice=sha256:12", f"alice=sha256:{HEX}0", "sha256:" + "g" * 64])
def test_a_named_digest_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        read(NABLA_API_KEYS=entry)
