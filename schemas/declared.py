"""Fields and schemas derived from the engine's declarations of blocks, so that nothing is listed twice."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import islice
from types import MappingProxyType
from typing import Any

from marshmallow import ValidationError

from schemas.components import Components, JSONSchema, any_of, closed_object
from schemas.fields import FlagField, NameField, NamesField, ValueField, WordField
from schemas.messages import Message, plain, shown
from schemas.rewriting import as_json, from_arguments, from_call, from_keras, is_keras
from schemas.strict import LONG_LIST, MOST_KEYS, StrictField, StrictSchema, properties_of
from service.engine.declarations import Declaration, Family, Reference, Registry, Selection
from service.engine.descent.optimizers import optimizers
from service.engine.descent.schedules import schedules
from service.engine.network.activations import activations
from service.engine.network.initializers import initializers
from service.engine.network.layers import Layer, layers
from service.engine.network.losses import losses
from service.engine.network.regularizers import regularizers
from service.engine.options import Choice, Option, Value
from service.engine.suggestions import NOTHING, suggest, translated


def field_for(option: Option) -> StrictField:
    """Return the marshmallow field that validates an option of a block."""
    metadata: dict[str, Any] = {"description": option.description}
    if not option.required:
        metadata["default"] = default_of(option)
    common: dict[str, Any] = {
        "required": option.required,
        "allow_none": not option.required and option.default is None,
        "metadata": metadata,
    }
    if isinstance(option, Reference):
        return ChoiceField(option.registry, option.family, **common)
    assert isinstance(option, Value)
    return ValueField(option, **common)


def default_of(option: Option) -> Any:
    """Return the default of an option as a request would write it."""
    value = option.default
    if isinstance(value, Selection):
        return {"type": value.name, **value.options}
    return list(value) if isinstance(value, tuple) else value


@cache
def options_schema(declaration: Declaration) -> StrictSchema:
    """Return the schema of all options of a block, without `type`, which chooses the block."""
    made = StrictSchema.from_dict(
        {option.name: field_for(option) for option in declaration.options},
        name=f"{type(declaration).__name__}_{declaration.name}",
    )
    schema = made()
    assert isinstance(schema, StrictSchema)
    kind = type(declaration).__name__.lower()
    schema.elsewhere = dict.fromkeys(BESIDE.get(kind, ()), f"beside {kind!r}")
    return schema


class LayerSchema(StrictSchema):
    """The keys that layers of every type have."""

    type = WordField(layers.names, required=True, metadata={"description": "the type of the layer"})
    name = NameField(metadata={"description": "its name in other layers' `inputs`; by default `<type>_<position>`"})
    inputs = NamesField(metadata={"description": "the layers that it takes, or 'input'; by default the layer before"})
    shares = NameField(metadata={"description": "the layer whose parameters it shares"})
    # Without a default: clients that send defaults would send it inside a layer too, where it is refused.
    trainable = FlagField(metadata={"description": "whether the gradients of its parameters are computed (true)"})


LAYER_KEYS = LayerSchema()
OUTSIDE = tuple(key for key in LAYER_KEYS.load_fields if key != "type")
"""The keys that a layer has in the list of a network, and not inside another layer."""
BESIDE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "layer": OUTSIDE,
        "loss": ("reduction", "loss_weights", "sample_weights", "normalize_weights"),
        "optimizer": (
            *("schedule", "clip", "steps", "epochs", "batch_size", "shuffle", "batches", "frozen", "validation"),
            *("stop", "trace", "checkpoint", "seed"),
        ),
    }
)
"""Keys of requests that callers look for among the options of blocks of a kind."""
NAMES = re.compile(r"[\w .-]*")
"""The characters of names of blocks, also those of other libraries; formulas and programs have others."""


REGISTRIES: tuple[Registry[Any], ...] = (layers, activations, losses, optimizers, schedules, initializers, regularizers)


def unknown_choice(registry: Registry[Any], name: object, kind: str = "") -> Message:
    """Return the error for a name that is not in a registry, with the name that was probably meant.

    `kind` is the word for the blocks of the registry, if it is not the registry's own.
    """
    text, known = f"no {kind or registry.kind} is called {shown(name)}", registry.names
    block = from_call(registry, name, options_schema) if isinstance(name, str) and not kind else {}
    if len(block) > 1:
        return Message(f"{text}; write {as_json(block)}")
    meant = _meant(registry, name)
    if not meant and isinstance(name, str) and NAMES.fullmatch(name) is None:
        meant = f"; formulas and programs are not read here: take {article(registry.kind)} by its name."
    if not meant:
        return Message(text, known)
    if len(known) <= LONG_LIST:
        return Message(text + meant, known)
    listed = f" GET /v1/{registry.path} lists all." if meant[-1] in "?." else ""
    return Message(f"{text}{meant}{listed}")


def meant_choice(registry: Registry[Any], name: object) -> str:
    """Return the registered name that another library's name certainly stands for; "" if there is none."""
    return translated(registry.kind, name, registry.names).name


def _meant(registry: Registry[Any], name: object) -> str:
    """Return a suggestion for an unknown name: a name of this registry, or the block of another kind that has it."""
    if isinstance(name, str) and translated(registry.kind, name, registry.names) == NOTHING:
        for kind in ("", *(other.kind for other in (activations, losses, optimizers))):
            for other in REGISTRIES:
                there = name if name in other else translated(kind, name, other.names).name
                if there and other is not registry and kind in ("", other.kind):
                    return _of_another_kind(there, other, registry)
    found = suggest(registry.kind, name, registry.names)
    its = registry[found.name].name if found.name else ""
    alias = f" That is {its!r}." if its != found.name else ""
    return f"{found}{alias}"


def _of_another_kind(name: str, its: Registry[Any], wanted: Registry[Any]) -> str:
    if wanted is layers and its is activations:
        return (
            f"; {name!r} is an activation: write it as 'activation' of the layer before, or as a layer of its own, "
            f'{{"type": "activation", "activation": "{name}"}}'
        )
    place = " Its place is 'loss', beside 'network'." if wanted is layers and its is losses else ""
    return f"; {name!r} is {article(its.kind)}, not {article(wanted.kind)}.{place}"


def article(noun: str) -> str:
    """Return a noun with the indefinite article before it."""
    return f"a{'n' if noun[0] in 'aeiou' else ''} {noun}"


class ChoiceField(StrictField):
    """The choice of a block of one kind: its name, or an object with `type` and options. It loads a `Selection`."""

    has_keys = True

    def __init__(self, registry: Registry[Any], family: Family[Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.registry = registry
        self.option = Reference(registry=registry, family=family)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Selection[Any]:
        value = plain(value)
        if isinstance(value, str):
            if value not in self.registry:
                raise ValidationError(unknown_choice(self.registry, value))
            self._check_family(value)
            needed = [option.name for option in self.registry[value].required]
            if needed:
                options = ", ".join(f'"{name}": …' for name in needed)
                whole = f'{{"type": "{value}", {options}}}'
                raise ValidationError(Message(f"{value!r} needs {' and '.join(needed)}: send {whole}"))
            value = {"type": value}
        if not isinstance(value, Mapping):
            takes = f"the name of {article(self.registry.kind)} or an object with 'type'"
            instead = self._instead(value)
            raise self.refuse(takes, value, () if instead else self.option.names, instead)
        if is_keras(value):
            block = from_keras(self.registry, value, options_schema)
            send = as_json(block) if block else "an object with 'type' and its options"
            raise ValidationError(Message(f"this is {article(self.registry.kind)} as Keras writes it; send {send}"))
        value = self.with_type(value)
        self._check_family(value.get("type"))
        return select(self.registry, value)

    def _check_family(self, name: object) -> None:
        """Refuse a block that is not of the family that the option takes."""
        family = self.option.family
        if family is not None and isinstance(name, str) and name in self.registry:
            block = self.registry[name]
            if not family.has(block):
                lacks = family.lacks.format(names=", ".join(self.option.names))
                raise ValidationError(Message(f"{article(self.registry.kind)} of type {block.name!r} {lacks}"))

    def _instead(self, value: Any) -> str:
        """Return advice for a value that is neither a name nor an object; "" if there is none."""
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | dict):
            return f"; write {shown(value[0])}, without the list"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if self.registry is regularizers and number:
            return f', such as {{"l2": {value}}}'
        if self.registry is initializers and number:
            return f'; write {{"type": "constant", "value": {value}}}'
        if self.registry is initializers and isinstance(value, list):
            return "; numbers for each weight are sent as 'parameters', beside 'network'"
        return ""

    def with_type(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the object with its `type`, which only regularizers may omit: their options imply it."""
        if self.registry is regularizers and "type" not in value:
            given = [key for key in ("l1", "l2") if key in value]
            if not given:
                raise self.refuse("an object with l1, l2 or both, or with 'type'", value, self.registry.names)
            return {"type": "_".join(given), **value}
        return value

    def json_schema(self, components: Components) -> JSONSchema:
        if self.registry is layers:
            return layer_inside(self.option, components)
        return choice(self.registry, components)


def choice(registry: Registry[Any], components: Components) -> JSONSchema:
    """Return the JSON Schema for the choice of a block: a name, or an object with options."""
    kind = registry.kind.capitalize()

    def make() -> JSONSchema:
        objects = [declared_object(registry, declaration, components) for declaration in registry]
        if registry is regularizers:
            factors = properties_of(options_schema(regularizers["l1_l2"]), components)
            penalties = closed_object(factors, []) | {"minProperties": 1, "description": "Factors of l1, l2 or both."}
            objects.append(components.refer("RegularizerFactors", lambda: penalties))
        text = f"The name of {article(registry.kind)}, or an object with its type and options."
        names = components.refer(f"{kind}Name", lambda: _plain_names(registry))
        return any_of([names, *objects], text)

    return components.refer(kind, make)


def _plain_names(blocks: Iterable[Declaration]) -> JSONSchema:
    """Return the JSON Schema of the names of those blocks that need no option."""
    plain = [name for block in blocks if not block.required for name in block.names]
    return {"type": "string", "enum": plain}


def layer_of_network(components: Components) -> JSONSchema:
    """Return the JSON Schema of a layer in the list of a network."""
    return components.refer(
        "Layer", lambda: _layer_of(layers, "A layer; its `type` says which keys it has.", components)
    )


def layer_inside(option: Reference, components: Components) -> JSONSchema:
    """Return the JSON Schema of the layer that an option of another holds: an object, or a name if that says all.

    It refuses the keys in `OUTSIDE` beside the schema of its type, which has them: a second schema of each type without
    them would double the types of generated clients.
    """
    family = option.family
    assert family is not None, "a layer takes layers of a family, whose name is that of their schema in openapi.yaml"
    keys = ", ".join(f"`{key}`" for key in OUTSIDE)
    text = f"{family.description}, inside another; its `type` says which keys it has. It has no {keys}."

    def make() -> JSONSchema:
        return _layer_of(option.blocks, text, components) | {"propertyNames": {"not": {"enum": list(OUTSIDE)}}}

    name = _capitals(family.name.replace(" ", "_"))
    whole = components.refer(name, make)
    names = _plain_names(option.blocks)
    return {"anyOf": [components.refer(f"{name}Type", lambda: names), whole]} if names["enum"] else whole


def _layer_of(blocks: Iterable[Layer], text: str, components: Components) -> JSONSchema:
    """Return the JSON Schema of a layer of one of these types, described by `text`; the key `type` says which."""
    common = {key: schema for key, schema in properties_of(LAYER_KEYS, components).items() if key in OUTSIDE}
    known: Registry[Any] = layers
    references = {block: declared_object(known, block, components, common) for block in blocks}
    mapping = {name: reference["$ref"] for block, reference in references.items() for name in block.names}
    discriminator = {"propertyName": "type", "mapping": mapping}
    return {"description": text, "oneOf": list(references.values()), "discriminator": discriminator}


def declared_object(
    registry: Registry[Any],
    declaration: Declaration,
    components: Components,
    common: Mapping[str, JSONSchema] = MappingProxyType({}),
) -> JSONSchema:
    """Return the JSON Schema of an object for one block with its options, after the properties `common` to all."""
    name = _capitals(f"{declaration.name}_{registry.kind}")

    def make() -> JSONSchema:
        kind = {"type": "string"} | (
            {"enum": declaration.names} if declaration.aliases else {"const": declaration.name}
        )
        options = properties_of(options_schema(declaration), components)
        for each in declaration.options:
            if isinstance(each, Choice) and _is_shared(registry, each):
                beside = {key: value for key, value in options[each.name].items() if key not in each.schema()}
                shared = components.refer(_capitals(f"{registry.kind}_{each.name}"), each.schema)
                options[each.name] = shared | beside
        properties = {"type": kind, **common, **options}
        for option in set().union(*declaration.conventions.values()):
            properties[option].pop("default", None)  # a client that sends the default would override the convention
        required = ["type", *(option.name for option in declaration.options if option.required)]
        return closed_object(properties, required) | {"description": declaration.description["en"]}

    return components.refer(name, make)


def _capitals(name: str) -> str:
    """Return the name of a component for a name with underscores."""
    return "".join(word.capitalize() for word in name.split("_"))


def _is_shared(registry: Registry[Any], words: Choice) -> bool:
    """Return whether several blocks take these words for an option of this name, and no other words are as frequent."""
    options = (each for declaration in registry for each in declaration.options if each.name == words.name)
    (commonest, count), *others = Counter(each.values for each in options if isinstance(each, Choice)).most_common(2)
    return commonest == words.values and count > max((number for _, number in others), default=1)


def select(registry: Registry[Any], value: Mapping[str, Any]) -> Selection[Any]:
    """Return the `Selection` that an object with `type` and options stands for. Raise `ValidationError`."""
    name = value.get("type")
    if name is None:
        raise ValidationError({"type": [missing_type(value, registry)]})
    given = {key: option for key, option in value.items() if key != "type"}
    if not isinstance(name, str) or name not in registry:
        raise ValidationError({"type": [unknown_choice(registry, name)], **_faults_of(given, registry, name)})
    declaration = registry[name]
    rate = given.get("learning_rate")
    if isinstance(rate, Mapping) or (isinstance(rate, str) and meant_choice(schedules, rate)):
        detail = f"takes a number, got {shown(rate)}; a rate that changes is a 'schedule', beside 'optimizer'"
        raise ValidationError({"learning_rate": [Message(detail)]})
    options = options_schema(declaration).load(given)
    selection = registry.select(name, **options)
    misfit = declaration.refuse(**selection.options) if declaration.refuse is not None else None
    if misfit is not None:
        option, message = misfit
        raise ValidationError({option: [Message(message)]})
    return selection


def missing_type(value: Mapping[str, Any], registry: Registry[Any]) -> Message:
    """Return the error for an object without `type`; it names the key that was probably meant to be `type`."""
    options = {option.name for declaration in registry for option in declaration.options}
    few = dict(islice(value.items(), MOST_KEYS))
    for key, name in few.items():
        may_be = isinstance(name, str) and (key not in options or translated("key", key, ("type",)).name)
        if may_be and (name in registry or meant_choice(registry, name)):
            return Message(f"is required; it came as {key!r}")
    if len(value) == 1:
        ((name, its),) = value.items()
        block = from_arguments(registry, name, (), its, options_schema) if isinstance(its, Mapping) else {}
        if block:
            return Message(f"is required; write {json.dumps(block)}")
    if registry is layers and ("units" in value or any(translated("key", key, ("units",)).name for key in few)):
        return Message('is required; for a layer of units that takes all inputs write "type": "dense"')
    return Message("is required", registry.names)


def _faults_of(options: Mapping[str, Any], registry: Registry[Any], name: object) -> dict[str, Any]:
    """Return the faults of the options of an unknown type, if it certainly stands for a known one."""
    meant = meant_choice(registry, name)
    if not meant:
        return {}
    errors: dict[str, Any] = options_schema(registry[meant]).validate(options)
    return errors
