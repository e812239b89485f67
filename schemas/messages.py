"""The texts of errors: what a field takes, what came instead, and what the caller probably meant."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson
from marshmallow import ValidationError

from service.engine.suggestions import suggest

PREVIEW = 60
"""Characters of a refused value that a message shows."""
LONGEST_PLAIN = 100_000
"""The count of numbers in a value that is not a tensor, at most."""
NOT_FINITE = "JSON has no NaN and no infinity, and no number may be one"

CONSTANTS = {"pi": math.pi, "π": math.pi, "e": math.e}
FRACTION = re.compile(r"([+-]?[0-9]{1,9})\s*/\s*([1-9][0-9]{0,8})")
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")


class Message(str):
    """The text of an error, with the accepted values in `allowed`."""

    allowed: tuple[Any, ...]

    def __new__(cls, text: str, allowed: Iterable[Any] = ()) -> Message:
        message = super().__new__(cls, text)
        message.allowed = tuple(allowed)
        return message


def plain(value: Any) -> Any:
    """Return a parsed JSON value as plain Python: large bodies hold NumPy arrays in place of rows of numbers.

    Raise `ValidationError` if it has more numbers than any value but a tensor: as Python objects they would take four
    times the memory.
    """
    if not isinstance(value, np.ndarray):
        return value
    if value.size > LONGEST_PLAIN:
        raise ValidationError(Message(f"holds {value.size:,} numbers, more than anything but a tensor does"))
    return value.tolist()


def shown(value: Any) -> str:
    """Return a refused value as JSON for an error message, shortened."""
    if isinstance(value, list | np.ndarray) and len(value) > PREVIEW:
        return f"a list of {len(value)} values"
    if isinstance(value, memoryview):
        value = _beginning(value)
    if isinstance(value, str) and len(value) > PREVIEW:
        value = value[:PREVIEW] + "…"
    try:
        text = orjson.dumps(value, default=_beginning).decode()
    except (TypeError, ValueError):
        text = type(value).__name__
    return text if len(text) <= PREVIEW else text[:PREVIEW] + "…"


def unquoted(value: Any) -> str:
    """Return advice for a string that holds a number, true or false; "" for any other value."""
    if not isinstance(value, str) or len(value) > PREVIEW:
        return ""
    text = value.strip().lower()
    if text in ("true", "false"):
        return f"; write {text}, without quotation marks"
    if text in CONSTANTS:
        return f"; a name is no number: write {CONSTANTS[text]!r}"
    if fraction := FRACTION.fullmatch(text):
        return f"; JSON has no arithmetic: write {int(fraction.group(1)) / int(fraction.group(2))!r}"
    if DECIMAL_COMMA.fullmatch(text):
        return f"; write {text.replace(',', '.')}, with a point and without quotation marks"
    try:
        number = float(text)
    except ValueError:
        return ""
    return f"; write {text}, without quotation marks" if math.isfinite(number) else f"; {NOT_FINITE}"


def listed(name: Any) -> str:
    """Return advice for a name where a list of names is taken; "" for any other value."""
    return f"; write [{shown(name)}]" if isinstance(name, str) and len(name) <= PREVIEW else ""


def _beginning(text: Any) -> str:
    """Return the beginning of a text that is a view of the body, for a message. Raise `TypeError` for other values."""
    if isinstance(text, memoryview):
        return str(text[: 2 * PREVIEW], "ascii")
    raise TypeError


def hint(name: object, known: Iterable[str], kind: str = "") -> str:
    """Return `; did you mean 'x'?` if a known name was probably meant; `kind` chooses the table of foreign names."""
    return str(suggest(kind, name, known))


def unknown_name(kind: str, name: object, known: Sequence[str]) -> Message:
    """Return the error for a name that is not known, with the one that was probably meant."""
    return Message(f"no {kind} is called {shown(name)}{hint(name, known, kind)}", known)
