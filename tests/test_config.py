"""Settings from the environment."""

import pytest

from service.config import ConfigurationError, Settings


def read(**variables: str) -> Settings:
    return Settings.from_environment(variables)


def test_nothing_set_is_the_defaults() -> None:
    assert read() == Settings()


def test_each_kind_of_setting_is_read() -> None:
    settings = read(NABLA_MAX_LAYERS="7", NABLA_MAX_SECONDS="0.5", NABLA_DOCS="no", NABLA_CORS_ORIGINS="a, b,")
    assert (settings.max_layers, settings.max_seconds, settings.docs) == (7, 0.5, False)
    assert settings.cors_origins == ("a", "b")
    assert settings.limits.layers == 7
    assert settings.shown_limits["layers"] == 7


@pytest.mark.parametrize(
    ("variable", "text", "told"),
    [
        ("NABLA_MAX_LAYERS", "many", "takes a number"),
        ("NABLA_MAX_LAYERS", "-1", "not negative"),
        ("NABLA_MAX_SECONDS", "nan", "finite"),
        ("NABLA_MAX_SECONDS", "inf", "finite"),
        ("NABLA_DOCS", "maybe", "true or false"),
        ("NABLA_MAX_SECOND", "5", "did you mean NABLA_MAX_SECONDS"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(variable: str, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as refusal:
        read(**{variable: text})
    assert variable in str(refusal.value)


def test_variables_that_others_set_are_left_alone() -> None:
    assert read(NABLA_PORT="tcp://10.0.0.1:8000", NABLA_SERVICE_HOST="10.0.0.1", NABLA_LOG_LEVEL="info") == Settings()


def test_a_digest_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        _ = read(NABLA_API_KEYS="sha256:abc").key_digests


def test_settings_do_not_show_their_keys() -> None:
    assert "secret" not in repr(read(NABLA_API_KEYS="secret"))
