"""The language of an answer: by the request, else by the header, and what the answer says of it."""

from __future__ import annotations

import pytest

from service import wire
from service.api.operation import OPERATIONS
from service.engine.texts import LANGUAGES

TRANSLATED = [operation.path for operation in OPERATIONS if operation.is_translated]


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("zh", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("zh-Hant-TW", "zh"),
        ("en-GB, zh;q=0.5", "en"),
        ("de, zh;q=0.5, en;q=0.1", "zh"),
        ("de", "en"),
        ("*", "en"),
        ("en;q=0, zh", "zh"),
        (";;;=,q", "en"),
    ],
)
def test_the_header_chooses_among_the_languages_there_are(header: str | None, language: str) -> None:
    environ = {} if header is None else {"HTTP_ACCEPT_LANGUAGE": header}
    assert wire.preferred_language(environ, LANGUAGES) == language
