"""Schemas and fields that several endpoints share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from marshmallow import INCLUDE, ValidationError, fields, post_load, validates_schema

from schemas.components import Components, JSONSchema, list_of
from schemas.declared import ChoiceField
from schemas.fields import NumberField, WordField
from schemas.messages import PREVIEW, Message, shown
from schemas.strict import StrictSchema, read_each
from service.engine.declarations import Registry
from service.engine.descent.comparison import MOST_TRAININGS
from service.engine.descent.update import Clip
from service.engine.texts import LANGUAGES

TO_ONE_NUMBER = ("mean", "sum")
"""Reductions that give one number, as descents and derivatives of a loss need."""
MOST_STEPS = 10**12
"""A number of steps above every server's limit, which every JSON parser still reads exactly."""
STATUSES = {
    "completed": "all steps are done",
    "stopped": "a stop rule was met",
    "diverged": "loss or gradient are not finite, or have run away",
    "cancelled": "time ran out, the server stops, or the connection was closed",
}


def about(text: str) -> Mapping[str, str]:
    """Return the metadata with which a field describes itself in the OpenAPI document."""
    return {"description": text}


class PartSchema(StrictSchema):
    """The schema of an object within a request, which is loaded into an instance of the class `made`."""

    made: type[Any]

    @post_load
    def _make(self, loaded: dict[str, Any], **kwargs: Any) -> Any:
        return self.made(**loaded)


class Trace(NamedTuple):
    """The choice of what to record of a training: every how many steps, what beside the loss, and checkpoints."""

    every: int
    include: frozenset[str] = frozenset()
    checkpoint_every: int | None = None


ONE_OF_THEM: Mapping[str, int] = MappingProxyType({"minProperties": 1, "maxProperties": 1})
"""JSON Schema of an object with alternatives, of which exactly one is chosen."""


class GradientClipSchema(PartSchema):
    """Clipping of gradients, by value or by norm, before the optimizer sees them."""

    made = Clip
    bounds = ONE_OF_THEM

    value = NumberField(minimum=0.0, open_minimum=True, metadata=about("clip each number to between -value and value"))
    norm = NumberField(
        minimum=0.0,
        open_minimum=True,
        metadata=about("scale all gradients together down to this Euclidean norm if they are longer"),
    )

    @validates_schema
    def _fit(self, loaded: dict[str, Any], **kwargs: Any) -> None:
        if len(loaded) != 1:
            raise ValidationError([Message("takes one of 'value' and 'norm'" + (", not both" if loaded else ""))])


class ChoicesField(ChoiceField):
    """A list of up to `most` blocks of one kind: names, or objects with options."""

    def __init__(self, registry: Registry[Any], most: int = MOST_TRAININGS, **kwargs: Any) -> None:
        super().__init__(registry, **kwargs)
        self.most = most

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, list) or not 0 < len(value) <= self.most:
            one = isinstance(value, str) or (isinstance(value, Mapping) and "type" in value)
            instead = f"; write [{shown(value)}]" if one and len(shown(value)) < PREVIEW else ""
            raise self.refuse(f"a list of 1 to {self.most} {self.registry.plural}", value, instead=instead)
        read = super()._deserialize
        return tuple(read_each(enumerate(value), lambda entry: read(entry, attr, data, **kwargs)).values())

    def json_schema(self, components: Components) -> JSONSchema:
        return list_of(super().json_schema(components), minItems=1, maxItems=self.most)


class OpenSchema(StrictSchema):
    """An object that may have more keys than are listed."""

    class Meta:
        unknown = INCLUDE


class SelectedBlockSchema(OpenSchema):
    """A block in a response: the name of its type, and beside it all its options."""

    type = fields.String(required=True, metadata=about("the name of the block; its options stand beside it"))


class AnswerWarningSchema(StrictSchema):
    """One warning in a response: a fact about a right answer that the caller should know."""

    code = fields.String(required=True)
    message = fields.String(required=True)
    layer = fields.String()
    quantity = fields.String()


def finite_field() -> fields.Boolean:
    return fields.Boolean(required=True, metadata=about("false: some values are not finite, and null in lists"))


def warnings_field() -> fields.List[Any]:
    return fields.List(fields.Nested(AnswerWarningSchema), required=True)


def language_field() -> WordField:
    """Return the field `language`: a request with it gets the sentences of its response in that language."""
    return WordField(
        LANGUAGES,
        "SentenceLanguage",
        metadata=about("language of the sentences; by default that of Accept-Language (en)"),
    )
