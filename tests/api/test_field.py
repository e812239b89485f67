"""Requests that users sent because an answer was wrong, each with what has to be answered.

`tests/data/field.json` holds them. An expectation names a place of the answer by JSON pointer, where `*` is every
element, and says what stands there.
"""

import json
import math
from collections.abc import Callable
from typing import Any

from flask.testing import FlaskClient

from tests.support import ROOT, every, strict_json

CASES: list[dict[str, Any]] = json.loads((ROOT / "tests" / "data" / "field.json").read_text(encoding="utf-8"))
MISSING = object()

Judge = Callable[[Any, Any, dict[str, Any]], bool]


def _close(found: Any, expected: float, details: dict[str, Any]) -> bool:
    number = isinstance(found, int | float) and not isinstance(found, bool)
    relative, absolute = details.get("rtol", 1e-9), details.get("atol", 1e-12)
    return number and math.isclose(found, expected, rel_tol=relative, abs_tol=absolute)


EACH: dict[str, Judge] = {
    "value": _close,
    "equals": lambda found, expected, _: bool(found == expected),
    "length": lambda found, expected, _: len(found) == expected,
}
"""Rules for every value at the place."""


def _text(values: list[Any]) -> str:
    return json.dumps([value for value in values if value is not MISSING], ensure_ascii=False).lower()


def _values_at(document: Any, pointer: str) -> list[Any]:
    found = [document]
    for token in pointer.split("/")[1:]:
        following: list[Any] = []
        for value in found:
            if isinstance(value, list) and token == "*":
                following += value
            elif isinstance(value, list) and token.isdigit() and int(token) < len(value):
                following.append(value[int(token)])
            else:
                following.append(value.get(token, MISSING) if isinstance(value, dict) else MISSING)
        found = following
    return found


def _fails(expectation: dict[str, Any], document: Any) -> str | None:
    """Return in words what an answer lacks of an expectation, or None."""
    details = dict(expectation)
    values = _values_at(document, details.pop("at"))
    if "contains" in details:
        words = details["contains"]
        words = words if isinstance(words, list) else [words]
        return None if any(word.lower() in _text(values) for word in words) else f"none of {words} in {_text(values)}"
    if "lacks" in details:
        return f"{details['lacks']!r} in {_text(values)}" if details["lacks"].lower() in _text(values) else None
    (name,) = set(details) & set(EACH)
    right = [value is not MISSING and EACH[name](value, details[name], details) for value in values]
    return None if right and all(right) else f"{values} instead of {name} {details[name]}"


@every("case", CASES, ids=[case["id"] for case in CASES])
def test_the_answer_is_right(client: FlaskClient, case: dict[str, Any]) -> None:
    response = client.post(case["post"], json=case["body"])
    assert response.status_code == case.get("status", 200), response.text
    document = strict_json(response.data)
    wrong = {expectation["at"]: _fails(expectation, document) for expectation in case["expect"]}
    assert not any(wrong.values()), (case["why"], wrong)
