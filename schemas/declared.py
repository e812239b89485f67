"""Fields and schemas made from the engine's declarations, so that nothing is listed twice."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from marshmallow import ValidationError

from schemas.fields import (
    FlagField,
    IntegerField,
    IntegersField,
    Message,
    NumberField,
    NumbersField,
    StrictField,
    StrictSchema,
    WordField,
    plain,
    unknown_name,
)
from service.engine.declarations import (
    Choice,
    Declaration,
    Flag,
    Integer,
    Integers,
    Number,
    Numbers,
    Option,
    Reference,
    Registry,
    Selection,
)
from service.engine.network.regularizers import regularizers


def field_for(option: Option) -> StrictField:
    """The field that validates one declared option."""
    common: dict[str, Any] = {
        "required": option.required,
        "allow_none": not option.required and option.default is None,
        "metadata": {"description": option.description},
    }
    match option:
        case Number():
            return NumberField(
                minimum=option.minimum,
                maximum=option.maximum,
                open_minimum=option.open_minimum,
                open_maximum=option.open_maximum,
                **common,
            )
        case Integer():
            return IntegerField(minimum=option.minimum, maximum=option.maximum, **common)
        case Flag():
            return FlagField(**common)
        case Choice():
            return WordField(option.values, **common)
        case Integers():
            return IntegersField(
                minimum=option.minimum, length=option.length, pairs=option.pairs, single=option.single, **common
            )
        case Numbers():
            return NumbersField(minimum=option.minimum, **common)
        case Reference():
            return ChoiceField(option.registry, **common)
    raise TypeError(f"no field is known for {option!r}")


@cache
def options_schema(declaration: Declaration) -> StrictSchema:
    """A schema for the options of one declared block; `type` is read before it."""
    made = StrictSchema.from_dict(
        {option.name: field_for(option) for option in declaration.options},
        name=f"{type(declaration).__name__}_{declaration.name}",
    )
    schema = made()
    assert isinstance(schema, StrictSchema)
    return schema


class ChoiceField(StrictField):
    """A declared block: its name, or an object with `type` and options. Gives a `Selection`."""

    def __init__(self, registry: Registry[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.registry = registry

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Selection[Any]:
        value = plain(value)
        if isinstance(value, str):
            if value not in self.registry:
                raise ValidationError(unknown_name(self.registry.kind, value, self.registry.names))
            needed = [option.name for option in self.registry[value].options if option.required]
            if needed:
                takes = f"needs {' and '.join(needed)}: send an object with 'type' and these"
                raise ValidationError(Message(f"{value!r} {takes}"))
            value = {"type": value}
        if not isinstance(value, Mapping):
            takes = f"the name of a{'n' if self.registry.kind[0] in 'aeiou' else ''} {self.registry.kind}"
            raise self.refuse(f"{takes} or an object with 'type'", value, self.registry.names)
        return select(self.registry, self.with_type(value))

    def with_type(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """A place to let the type be understood from the options: only regularizers do."""
        if self.registry is regularizers and "type" not in value:
            given = [key for key in ("l1", "l2") if key in value]
            if not given:
                raise self.refuse("an object with l1, l2 or both, or with 'type'", value, self.registry.names)
            return {"type": "_".join(given), **value}
        return value


def select(registry: Registry[Any], value: Mapping[str, Any]) -> Selection[Any]:
    """The selection that an object with `type` and options asks for."""
    name = value.get("type")
    if name is None:
        raise ValidationError({"type": [Message("is required", registry.names)]})
    if not isinstance(name, str) or name not in registry:
        raise ValidationError({"type": [unknown_name(registry.kind, name, registry.names)]})
    declaration = registry[name]
    options = options_schema(declaration).load({key: option for key, option in value.items() if key != "type"})
    selection = registry.select(name, **options)
    misfit = declaration.refuse(**selection.options) if declaration.refuse is not None else None
    if misfit is not None:
        option, message = misfit
        raise ValidationError({option: [Message(message)]})
    return selection
