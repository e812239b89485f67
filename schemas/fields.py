"""Strict scalar fields and the base schema: what came is refused in words that teach.

marshmallow's own Integer, Float and Boolean accept strings; JSON has types, so these do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import orjson
from marshmallow import RAISE, Schema, ValidationError, fields
from marshmallow.exceptions import ValidationError as MarshmallowError

from service.engine.errors import MOST_ERRORS
from service.engine.foreign import NUMBERS
from service.engine.suggestions import Suggestion, suggest

K = TypeVar("K")

LARGEST_INTEGER = 2**63 - 1
"""What JSON parsers of other languages can still read exactly or nearly so."""
PREVIEW = 60
"""Characters of a refused value that are shown back."""


LONG_LIST = 15
"""Names that are listed beside a suggestion; more would only hide it."""
NOT_FINITE = "JSON has no NaN and no infinity, and no number may be one"


class Message(str):
    """An error message that also knows which values would have been accepted."""

    allowed: tuple[Any, ...]

    def __new__(cls, text: str, allowed: Iterable[Any] = ()) -> Message:
        message = super().__new__(cls, text)
        message.allowed = tuple(allowed)
        return message


def plain(value: Any) -> Any:
    """A parsed JSON value without NumPy arrays, which large bodies have where numbers stand in rows."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def shown(value: Any) -> str:
    """A refused value as JSON, shortened."""
    if isinstance(value, list) and len(value) > PREVIEW:
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
    """What to write instead of a string that holds a number or a truth value."""
    if not isinstance(value, str) or len(value) > PREVIEW:
        return ""
    text = value.strip().lower()
    if text in ("true", "false"):
        return f"; write {text}, without quotation marks"
    try:
        number = float(text)
    except ValueError:
        return ""
    return f"; write {text}, without quotation marks" if math.isfinite(number) else f"; {NOT_FINITE}"


def _beginning(text: Any) -> str:
    """More than is shown of a long text of ASCII that is still in the body it came in."""
    if isinstance(text, memoryview):
        return str(text[: 2 * PREVIEW], "ascii")
    raise TypeError


def hint(name: object, known: Iterable[str], kind: str = "") -> str:
    """`; did you mean 'x'?` where a known name was probably meant; `kind` names a table of foreign names."""
    return str(suggest(kind, name, known))


def unknown_name(kind: str, name: object, known: Sequence[str]) -> Message:
    """The message for a name that is not one of the known ones."""
    return Message(f"no {kind} is called {shown(name)}{hint(name, known, kind)}", known)


def read_each(
    items: Iterable[tuple[K, Any]], read: Callable[[Any], Any], most_errors: int = MOST_ERRORS
) -> dict[K, Any]:
    """What `read` makes of each value, by its key. Raises with the messages of those that it refuses."""
    values: dict[K, Any] = {}
    errors: dict[K, Any] = {}
    for key, value in items:
        try:
            values[key] = read(value)
        except ValidationError as error:
            errors[key] = error.messages
            if len(errors) >= most_errors:
                break
    if errors:
        raise ValidationError(errors)
    return values


class StrictSchema(Schema):
    """Refuses unknown keys with the nearest known one."""

    elsewhere: Mapping[str, str] = MappingProxyType({})
    """Keys that callers may look for here, and where they belong: the key of an object, or the path of an operation."""

    class Meta:
        unknown = RAISE

    def handle_error(self, error: MarshmallowError, data: Any, *, many: bool, **kwargs: Any) -> None:
        if isinstance(error.messages, dict):
            known = list(self.load_fields)
            # In the order of the body; marshmallow's own is that of a set, another one in each process.
            given = data if isinstance(data, Mapping) else ()
            unknown = [key for key in given if key in error.messages and key not in (*self.load_fields, "_schema")]
            for key in unknown[MOST_ERRORS:]:
                del error.messages[key]
            told = {key: [self._unknown(key, known)] for key in unknown[:MOST_ERRORS]}
            # First, for what is missing is often there under another name.
            error.messages = told | {key: value for key, value in error.messages.items() if key not in told}
            if "_schema" in error.messages and not isinstance(data, Mapping):
                error.messages = {"_schema": [Message(f"takes an object, got {shown(plain(data))}")]}

    def _unknown(self, key: str, known: Sequence[str]) -> Message:
        instead = self._instead(key)
        return Message(f"unknown key{instead}", () if instead and len(known) > LONG_LIST else known)

    def _instead(self, key: str) -> str:
        """What may have been meant by an unknown key, or where it belongs."""
        found = Suggestion(key) if key in self.elsewhere else suggest("key", key, self.load_fields, self.elsewhere)
        place = self.elsewhere.get(found.name)
        if place is None or found.name in self.load_fields:
            return str(found)
        where = f"to {place}" if place.startswith("/") else f"into {place!r}"
        return f"; it belongs {where}" + (f" as {found.name!r}" if found.name != key else "")


class StrictField(fields.Field[Any]):
    """Base of the fields here: says `is required`, and what it takes."""

    default_error_messages: dict[str, Any] = {  # noqa: RUF012 (marshmallow merges it over the classes)
        "required": "is required",
        "null": "may not be null",
    }

    def read(self, value: Any) -> Any:
        """As `deserialize`, without the steps that no field here needs."""
        return self.deserialize(value) if value is None else self._deserialize(value, None, None)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not self.required:
            self.error_messages["null"] = "may not be null; leave it out instead"

    def refuse(self, takes: str, value: Any, allowed: Iterable[Any] = (), instead: str = "") -> ValidationError:
        return ValidationError(Message(f"takes {takes}, got {shown(plain(value))}{instead}", allowed))


class NumberField(StrictField):
    """A finite JSON number within bounds."""

    def __init__(
        self,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
        open_minimum: bool = False,
        open_maximum: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.minimum, self.maximum = minimum, maximum
        self.open_minimum, self.open_maximum = open_minimum, open_maximum

    @property
    def takes(self) -> str:
        bounds = []
        if self.minimum is not None:
            bounds.append(f"{'above' if self.open_minimum else 'at least'} {self.minimum:g}")
        if self.maximum is not None:
            bounds.append(f"{'below' if self.open_maximum else 'at most'} {self.maximum:g}")
        return "a number" + (" " + " and ".join(bounds) if bounds else "")

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if type(value) not in (int, float):
            raise self.refuse(self.takes, value, instead=unquoted(value))
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.refuse("a number that float64 can hold", value)
        low, high = self.minimum, self.maximum
        if (low is not None and (number <= low if self.open_minimum else number < low)) or (
            high is not None and (number >= high if self.open_maximum else number > high)
        ):
            raise self.refuse(self.takes, value)
        return number


class IntegerField(StrictField):
    """A JSON integer within bounds."""

    def __init__(self, *, minimum: int | None = None, maximum: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.minimum, self.maximum = minimum, maximum

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        low, high = self.minimum, self.maximum
        if type(value) is int and abs(value) > LARGEST_INTEGER:
            raise self.refuse(f"an integer of at most {LARGEST_INTEGER} in size", value)
        if type(value) is not int or (low is not None and value < low) or (high is not None and value > high):
            bounds = [f"at least {low}"] if low is not None else []
            bounds += [f"at most {high}"] if high is not None else []
            takes = "an integer" + (" " + " and ".join(bounds) if bounds else "")
            raise self.refuse(takes, value, instead=unquoted(value))
        return value


class FlagField(StrictField):
    """true or false."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if type(value) is not bool:
            raise self.refuse("true or false", value, instead=unquoted(value))
        return value


class WordField(StrictField):
    """One of a few words."""

    def __init__(self, values: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.values = tuple(values)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if isinstance(value, str) and value in self.values:
            return value
        takes = f"one of {', '.join(map(repr, self.values))}"
        instead = hint(value, self.values, "choice") if isinstance(value, str) else ""
        if isinstance(value, int | list):
            instead = "".join(f"; {NUMBERS[word]}" for word in self.values if word in NUMBERS)
        raise self.refuse(takes, value, self.values, instead)


class WordsField(StrictField):
    """A list of words out of a few, as a set."""

    def __init__(self, values: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.values = tuple(values)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> frozenset[str]:
        words = plain(value)
        if not isinstance(words, list):
            instead = f"; write [{shown(words)}]" if words in self.values else ""
            raise self.refuse("a list of words", words, self.values, instead)
        wrong = ((place, word) for place, word in enumerate(words) if word not in self.values)
        errors = {place: [unknown_name("choice", word, self.values)] for place, word in islice(wrong, MOST_ERRORS)}
        if errors:
            raise ValidationError(errors)
        return frozenset(words)


class NameField(StrictField):
    """A name for a layer."""

    FORBIDDEN = frozenset('.[]/\\"') | {chr(code) for code in range(32)}
    LONGEST = 64

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if (
            not isinstance(value, str)
            or not 0 < len(value) <= self.LONGEST
            or not self.FORBIDDEN.isdisjoint(value)
            or value == "_schema"  # marshmallow's word for an error of a whole object
        ):
            takes = (
                f'a name of 1 to {self.LONGEST} characters without . [ ] / \\ " and control characters, '
                'and not "_schema"'
            )
            raise self.refuse(takes, value)
        return value


MOST_NAMES = 256
"""Layers that one layer merges, or outputs that a network has."""


class NamesField(StrictField):
    """A list of names of layers."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        names = plain(value)
        if not isinstance(names, list) or not 0 < len(names) <= MOST_NAMES:
            raise self.refuse(f"a list of 1 to {MOST_NAMES} names of layers", names)
        if not all(isinstance(name, str) and len(name) <= NameField.LONGEST for name in names):
            raise self.refuse("a list of names of layers", names)
        return tuple(names)


class IntegersField(StrictField):
    """A list of integers, such as a shape; of a fixed length, a single one may stand for all."""

    def __init__(
        self,
        *,
        minimum: int = 1,
        longest: int = 16,
        length: int | None = None,
        pairs: bool = False,
        single: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.minimum, self.longest = minimum, longest
        self.length, self.pairs, self.single = length, pairs, single

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[Any, ...]:
        numbers = plain(value)
        if type(numbers) is int and (self.length is not None or self.single):
            numbers = [numbers] * (self.length or 1)
        if not isinstance(numbers, list) or len(numbers) > self.longest or self.length not in (None, len(numbers)):
            raise self.refuse(self.expected, numbers)
        if self.pairs:
            numbers = [[number, number] if type(number) is int else number for number in numbers]
        errors: dict[int, Any] = {}
        entries: list[Any] = []
        for place, number in enumerate(numbers):
            pair = self.pairs and isinstance(number, list) and len(number) == 2
            if not all(map(self._fits, number if pair else [number])):
                takes = f"an integer at least {self.minimum}" + (" or a pair of them" if self.pairs else "")
                errors[place] = [Message(f"takes {takes}, got {shown(number)}")]
            entries.append(tuple(number) if pair else number)
        if errors:
            raise ValidationError(errors)
        return tuple(entries)

    def _fits(self, number: Any) -> bool:
        return type(number) is int and self.minimum <= number <= LARGEST_INTEGER

    @property
    def expected(self) -> str:
        """What it takes, in words."""
        if self.length is None:
            return ("an integer or " if self.single else "") + f"a list of at most {self.longest} integers"
        if self.pairs:
            return f"an integer, or a list of {self.length} integers or pairs"
        return f"an integer, or a list of {self.length}"


class NumbersField(StrictField):
    """A list of numbers with a common lower bound."""

    def __init__(self, *, minimum: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = NumberField(minimum=minimum)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[float, ...]:
        numbers = plain(value)
        if not isinstance(numbers, list) or not numbers:
            raise self.refuse("a list of numbers", numbers)
        return tuple(read_each(enumerate(numbers), self.number.deserialize).values())


class ObjectField(StrictField):
    """An object with the fields of a schema."""

    def __init__(self, schema: StrictSchema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.schema = schema

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self.refuse(f"an object with any of {', '.join(map(repr, self.schema.load_fields))}", value)
        loaded: dict[str, Any] = self.schema.load(value)
        return loaded


class NumbersByNameField(StrictField):
    """An object of finite numbers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = NumberField()

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, float]:
        if not isinstance(value, Mapping) or not value:
            raise self.refuse("an object of numbers by name", plain(value))
        return read_each(
            islice(value.items(), MOST_NAMES), lambda number: self.number.deserialize(plain(number)), MOST_NAMES
        )
