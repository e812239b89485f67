"""Fields of numbers, words, names and lists: they take only the right JSON type.

marshmallow's own Integer, Float and Boolean accept strings. JSON has types, so these fields do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from marshmallow import ValidationError

from schemas.components import Components, JSONSchema, by_name, list_of
from schemas.messages import Message, listed, plain, shown, unknown_name, unquoted
from schemas.strict import StrictField, read_each
from service.engine.errors import MOST_ERRORS
from service.engine.options import (
    LARGEST_EXACT_INTEGER,
    LONGEST_LIST,
    Choice,
    Flag,
    Integer,
    Integers,
    Number,
    Numbers,
    Refused,
    Value,
)


class ValueField(StrictField):
    """A field for a value of a kind that `service/engine/options.py` declares, such as a bounded number."""

    def __init__(self, kind: Value, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self._read = kind.read

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        try:
            return self._read(value.tolist() if type(value) is np.ndarray else value)
        except Refused as refused:
            raise ValidationError(_messages_of(refused)) from None

    def json_schema(self, components: Components) -> JSONSchema:
        return self.kind.schema()


def _messages_of(refused: Refused) -> Any:
    """Return the errors of a refused value, by place if its parts were refused."""
    if refused.parts:
        return {place: [_message(part)] for place, part in refused.parts.items()}
    return _message(refused)


def _message(refused: Refused) -> Message:
    instead = refused.instead or (unquoted(refused.value) if refused.bare else "")
    return Message(f"takes {refused.takes}, got {shown(refused.value)}{instead}", refused.allowed)


class NumberField(ValueField):
    """A finite JSON number within bounds."""

    def __init__(
        self, *, minimum: float | None = None, maximum: float | None = None, open_minimum: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(Number(minimum=minimum, maximum=maximum, open_minimum=open_minimum), **kwargs)


class IntegerField(ValueField):
    """A JSON integer within bounds."""

    def __init__(self, *, minimum: int | None = None, maximum: int | None = None, **kwargs: Any) -> None:
        super().__init__(Integer(minimum=minimum, maximum=maximum), **kwargs)


class SeedField(IntegerField):
    """A seed of random numbers: an integer that JSON readers in JavaScript keep exactly."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(minimum=0, maximum=LARGEST_EXACT_INTEGER, **kwargs)


class FlagField(ValueField):
    """A truth value: true or false."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Flag(), **kwargs)


class WordField(ValueField):
    """A string that must be one of a few given words; several fields of the same words share a named `component`."""

    def __init__(self, values: Sequence[str], component: str = "", **kwargs: Any) -> None:
        super().__init__(Choice(values=tuple(values)), **kwargs)
        self.component = component

    def json_schema(self, components: Components) -> JSONSchema:
        return components.refer(self.component, self.kind.schema) if self.component else self.kind.schema()


class IntegersField(ValueField):
    """A list of integers, such as a shape; with `single`, an integer may stand for a list of one."""

    def __init__(self, *, minimum: int = 1, longest: int = LONGEST_LIST, single: bool = False, **kwargs: Any) -> None:
        super().__init__(Integers(minimum=minimum, longest=longest, single=single), **kwargs)


class NumbersField(ValueField):
    """A list of numbers with a common lower bound."""

    def __init__(self, *, minimum: float | None = None, **kwargs: Any) -> None:
        super().__init__(Numbers(minimum=minimum), **kwargs)


class WordsField(StrictField):
    """A set of words, which requests write as a list."""

    def __init__(self, values: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.values = tuple(values)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> frozenset[str]:
        words = plain(value)
        if not isinstance(words, list):
            known = isinstance(words, str) and words in self.values
            chosen = list(words) if isinstance(words, Mapping) and set(words) <= set(self.values) else []
            instead = listed(words) if known else f"; write {shown(chosen)}" if chosen else ""
            raise self.refuse("a list of words", words, self.values, instead)
        wrong = ((place, word) for place, word in enumerate(words) if word not in self.values)
        errors = {place: [unknown_name("part", word, self.values)] for place, word in islice(wrong, MOST_ERRORS)}
        if errors:
            raise ValidationError(errors)
        return frozenset(words)

    def json_schema(self, components: Components) -> JSONSchema:
        return list_of({"type": "string", "enum": list(self.values)})


class NameField(StrictField):
    """The name of a layer: up to 128 characters without brackets, slashes and quotation marks, no dot at an end."""

    FORBIDDEN = frozenset('[]/\\"') | {chr(code) for code in range(32)}
    LONGEST = 128

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if (
            not isinstance(value, str)
            or not 0 < len(value) <= self.LONGEST
            or not self.FORBIDDEN.isdisjoint(value)
            or value[0] == "."
            or value[-1] == "."
            or value == "_schema"  # marshmallow's word for an error of a whole object
        ):
            takes = (
                f'a name of 1 to {self.LONGEST} characters without [ ] / \\ " and control characters, '
                'no . at its ends, and not "_schema"'
            )
            raise self.refuse(takes, value)
        return value

    def json_schema(self, components: Components) -> JSONSchema:
        refused = {"pattern": r'[\[\]/\\"\x00-\x1f]|^\.|\.$|^_schema$'}
        name: JSONSchema = {"type": "string", "minLength": 1, "maxLength": self.LONGEST, "not": refused}
        name["description"] = "The name of a layer: no bracket, slash or quotation mark, and no dot at its ends."
        return components.refer("LayerName", lambda: name)


MOST_NAMES = 256
"""The number of layers that one layer merges, or of outputs of a network, at most."""


class NamesField(StrictField):
    """A list of names of layers.

    The JSON Schema is stricter than this field where the network itself refuses names later: names that occur twice if
    they are `unique`, and names that no layer could have if they are `new`.
    """

    def __init__(self, *, unique: bool = False, new: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unique = unique
        self.new = NameField() if new else None

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        names = plain(value)
        if not isinstance(names, list) or not 0 < len(names) <= MOST_NAMES:
            number = isinstance(names, int) and not isinstance(names, bool)
            instead = "; numbers of inputs and outputs are inferred, leave it out" if number else listed(names)
            raise self.refuse(f"a list of 1 to {MOST_NAMES} names of layers", names, instead=instead)
        if not all(isinstance(name, str) and len(name) <= NameField.LONGEST for name in names):
            raise self.refuse("a list of names of layers", names)
        return tuple(names)

    def json_schema(self, components: Components) -> JSONSchema:
        bounds = {"minItems": 1, "maxItems": MOST_NAMES}
        name: JSONSchema = {"type": "string", "maxLength": NameField.LONGEST}
        if self.new is not None:
            name = self.new.json_schema(components)
        if self.unique:
            return list_of(name, **bounds, uniqueItems=True)
        return components.refer("LayerNames", lambda: list_of(name, **bounds) | {"description": "Names of layers."})


class NumbersByNameField(StrictField):
    """An object whose values are finite numbers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = NumberField()

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, float]:
        if not isinstance(value, Mapping) or not value:
            raise self.refuse("an object of numbers by name", plain(value))
        return read_each(
            islice(value.items(), MOST_NAMES), lambda number: self.number.deserialize(plain(number)), MOST_NAMES
        )

    def json_schema(self, components: Components) -> JSONSchema:
        return components.refer(
            "NumbersByName", lambda: by_name({"type": "number"}, "Numbers by name.", minProperties=1)
        )
