"""The base of all schemas and fields: they refuse unknown keys and wrong JSON types, and say what they expected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from marshmallow import RAISE, Schema, ValidationError, fields, missing
from marshmallow.exceptions import ValidationError as MarshmallowError

from schemas.components import Components, JSONSchema, closed_object, or_null, schema_name, sentence_of
from schemas.messages import PREVIEW, Message, plain, shown
from service.engine.errors import MOST_ERRORS
from service.engine.suggestions import MOST_SUGGESTIONS, Suggestion, suggest, translated

K = TypeVar("K")

MOST_KEYS = 1000
"""Keys of an object that are examined one by one; no valid object has as many."""
LONG_LIST = 15
"""Names that may be listed beside a suggestion; a longer list would only hide it."""


def read_each(
    items: Iterable[tuple[K, Any]], read: Callable[[Any], Any], most_errors: int = MOST_ERRORS
) -> dict[K, Any]:
    """Return `read(value)` by key. Raise one `ValidationError` with the first `most_errors` values that are wrong."""
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
    """A schema that refuses unknown keys and suggests the key that was probably meant."""

    elsewhere: Mapping[str, str] = MappingProxyType({})
    """Keys that callers may look for here, and their right place: the key of an object, the path of an endpoint, or
    words such as "beside 'loss'"."""
    called: Mapping[str, str] = MappingProxyType({})
    """Names that callers have for keys of this schema, with these keys; elsewhere the names mean other things."""

    bounds: Mapping[str, int] = MappingProxyType({})
    """The number of keys that may occur together, as JSON Schema keywords; the schema's validation refuses others."""

    class Meta:
        unknown = RAISE

    def without_defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what an object says beyond defaults, which generated clients send too."""
        defaults = {
            key: field.default_value() for key, field in self.load_fields.items() if isinstance(field, StrictField)
        }
        return {
            key: value
            for key, value in given.items()
            if type(value) is not type(default := defaults.get(key, missing)) or value != default
        }

    def load(self, data: Any, **kwargs: Any) -> Any:
        """Load an object as marshmallow does, but with an error that does not keep the refused value in memory."""
        if isinstance(data, Mapping) and len(data) > MOST_KEYS:
            unknown = islice((key for key in data if key not in self.load_fields), MOST_ERRORS + 1)
            kept = {*self.load_fields, *unknown}
            data = {key: value for key, value in data.items() if key in kept}
        try:
            return super().load(data, **kwargs)
        except MarshmallowError as error:
            # marshmallow's frame holds the error, its traceback the frame, and the frame the data: all of them
            # would stay until the garbage collector runs.
            raise error.with_traceback(None) from None

    def _deserialize(self, data: Any, *, error_store: Any, **kwargs: Any) -> Any:
        """Deserialize the fields of an object as marshmallow does, without its choices that no schema here makes.

        Most keys of a request are left out. To find that takes marshmallow as long as to read a word.
        """
        if not isinstance(data, Mapping) or kwargs.get("many") or kwargs["unknown"] != RAISE:
            return super()._deserialize(data, error_store=error_store, **kwargs)
        loaded: dict[str, Any] = {}
        for name, field in self.load_fields.items():
            value = data.get(name, missing)
            if value is missing and not field.required and field.load_default is missing:
                continue
            try:
                loaded[name] = field.deserialize(value, name, data)
            except MarshmallowError as error:
                error_store.store_error(error.messages, name)
        for key in data:
            if key not in self.load_fields:
                error_store.store_error([self.error_messages["unknown"]], key)
        return loaded

    def handle_error(self, error: MarshmallowError, data: Any, *, many: bool, **kwargs: Any) -> None:
        if isinstance(error.messages, dict):
            known = list(self.load_fields)
            # In the order of the body; marshmallow's order is that of a set, different in each process.
            given = data if isinstance(data, Mapping) else ()
            unknown = [key for key in given if key in error.messages and key not in (*self.load_fields, "_schema")]
            for key in unknown[MOST_ERRORS:]:
                del error.messages[key]
            messages = {
                key: [
                    self._unknown(key, data[key], known) if place < MOST_SUGGESTIONS else Message("unknown key", known)
                ]
                for place, key in enumerate(unknown[:MOST_ERRORS])
            }
            # First, because a missing key is often there under another name.
            error.messages = messages | {key: value for key, value in error.messages.items() if key not in messages}
            if "_schema" in error.messages and not isinstance(data, Mapping):
                error.messages = {"_schema": [Message(f"takes an object, got {shown(plain(data))}")]}

    def _unknown(self, key: str, value: Any, known: Sequence[str]) -> Message:
        """Return the error for an unknown key, with a suggestion or the `known` ones."""
        instead = self._instead(key, value)
        size = f" of {len(key):,} characters" if len(key) > PREVIEW else ""
        return Message(f"unknown key{size}{instead}", () if instead and len(known) > LONG_LIST else known)

    def _instead(self, key: str, value: Any) -> str:
        """Return a suggestion for an unknown key: a similar key, or the place where it, or what is in it, belongs."""
        if isinstance(value, list | np.ndarray) and key in self.elsewhere and f"{key}s" in self.load_fields:
            return f"; did you mean '{key}s'? It takes a list"
        found = translated("key", key, self.load_fields)
        if not found.name:
            found = Suggestion(key) if key in self.elsewhere else suggest("key", key, self.load_fields, self.elsewhere)
        found = Suggestion(self.called[key]) if key in self.called else found
        within = "" if key in self.elsewhere else self._within(value, found.name)
        if within:
            return f"; write what is in it directly into this object: {within}"
        place = self.elsewhere.get(found.name)
        if place is None or found.name in self.load_fields:
            return str(found)
        where = f"to {place}" if place.startswith("/") else place if " " in place else f"into {place!r}"
        note = f". {found.note.rstrip('.')}" if found.note else ""
        return f"; it belongs {where}" + (f" as {found.name!r}" if found.name != key else "") + note

    def _called(self, key: str, value: Any) -> str:
        """Return the key here that a foreign key with this value certainly stands for; "" if there is none."""
        name = translated("key", key, self.load_fields).name
        field = self.load_fields.get(name)
        # An object is hardly a list or a number: a layer may be called hidden, as other libraries call 'layers'.
        return name if not isinstance(value, Mapping) or (isinstance(field, StrictField) and field.has_keys) else ""

    def _within(self, value: Any, meant: str) -> str:
        """Return the keys in the value of an unknown key, as they are called here, if most of them belong here; "" if
        they do not. If the key was `meant` to be one with such a value, all must belong here, and not there."""
        if not isinstance(value, Mapping):
            return ""
        given = list(islice(value, MOST_SUGGESTIONS))
        here = {each: each for each in given if each in self.load_fields}
        field = self.load_fields.get(meant)
        if isinstance(field, StrictField) and field.has_keys:
            its = isinstance(field, ObjectField) and set(given) <= set(field.schema.load_fields)
            known = given if len(here) == len(given) > 1 and not its else []
        else:
            here = {each: here.get(each) or self._called(each, value[each]) for each in given}
            known = [each for each in given if here[each]]
        if not known or 2 * len(known) < len(given):
            return ""
        return ", ".join(repr(here[each]) + (f" for {each!r}" if here[each] != each else "") for each in known)


class KnownWrong(NamedTuple):
    """A placeholder for a value that was refused: its errors are kept, so that it is not validated again.

    It may be large. The error itself cannot take its place: raised again, it would refer to a frame that refers to it.
    """

    messages: Any


class StrictField(fields.Field[Any]):
    """The base of all fields of requests. Its errors say `is required` or `takes …, got …`."""

    has_keys = False
    """Whether the field takes an object with keys of its own."""
    default_error_messages: dict[str, Any] = {  # noqa: RUF012 (marshmallow merges it over the classes)
        "required": "is required",
        "null": "may not be null",
    }

    def read(self, value: Any) -> Any:
        """Deserialize a value without marshmallow's steps that no field here needs."""
        return self.deserialize(value) if value is None else self._deserialize(value, None, None)

    def deserialize(self, value: Any, attr: str | None = None, data: Any = None, **kwargs: Any) -> Any:
        """Deserialize a value as marshmallow does; a `KnownWrong` raises the errors it holds.

        The fields of requests have no validators beside `_deserialize`: marshmallow would look for them at each value.
        """
        if value is missing:
            if self.required:
                raise self.make_error("required")
            return self.load_default() if callable(self.load_default) else self.load_default
        if value is None:
            if not self.allow_none:
                raise self.make_error("null")
            return None
        if isinstance(value, KnownWrong):
            raise ValidationError(value.messages)
        return self._deserialize(value, attr, data, **kwargs)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        assert not (self.validators or self.pre_load or self.post_load)
        if not self.required:
            self.error_messages["null"] = "may not be null; leave it out instead"

    def json_schema(self, components: Components) -> JSONSchema:
        """Return the JSON Schema of the accepted values; named schemas are added to `components`."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it takes: it needs json_schema")

    def described(self, components: Components) -> JSONSchema:
        """Return the JSON Schema of the field as a property, with its description and default."""
        schema = self.json_schema(components)
        if self.allow_none:
            schema = or_null(schema)
        default = self.default_value()
        if default is not missing:
            schema = schema | {"default": default}
        if self.metadata.get("description"):
            schema = schema | {"description": self.metadata["description"]}
        return schema

    def default_value(self) -> Any:
        """Return the value, as JSON, that means the same as leaving the key out; `missing` if there is none."""
        default = self.metadata.get("default", self.load_default)
        if callable(default):
            return missing
        if isinstance(default, frozenset):
            return sorted(default)
        return list(default) if isinstance(default, tuple) else default

    def refuse(self, takes: str, value: Any, allowed: Iterable[Any] = (), instead: str = "") -> ValidationError:
        return ValidationError(Message(f"takes {takes}, got {shown(plain(value))}{instead}", allowed))


class ObjectField(StrictField):
    """An object that is validated by another schema."""

    has_keys = True

    def __init__(self, schema: StrictSchema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.schema = schema

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self.refuse(f"an object with any of {', '.join(map(repr, self.schema.load_fields))}", value)
        loaded: dict[str, Any] = self.schema.load(value)
        return loaded

    def json_schema(self, components: Components) -> JSONSchema:
        return components.refer(schema_name(self.schema), lambda: object_schema(self.schema, components))


def object_schema(schema: StrictSchema, components: Components) -> JSONSchema:
    """Return the JSON Schema of an object with the fields of `schema`."""
    properties = properties_of(schema, components)
    required = [name for name, field in schema.load_fields.items() if field.required]
    return closed_object(properties, required) | dict(schema.bounds) | {"description": sentence_of(schema)}


def properties_of(schema: StrictSchema, components: Components) -> dict[str, JSONSchema]:
    """Return the JSON Schema of each field of a schema, by its name."""
    described = {}
    for name, field in schema.load_fields.items():
        assert isinstance(field, StrictField), f"{name} of {schema_name(schema)} cannot describe itself"
        described[name] = field.described(components)
    return described
