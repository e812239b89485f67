"""Every declared option of every registry, and every scalar field: bounds, types and places of refusals."""

import collections
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from schemas.catalogue import BlockOptionSchema
from schemas.common import ChoicesField
from schemas.components import Components
from schemas.strict import LONG_LIST, StrictField
from schemas.tensor import TensorField
from service.api.catalogue import REGISTRIES, option_entry
from service.engine.declarations import Declaration, Reference, Registry
from service.engine.options import Integer, Option, Value
from service.problems import MOST_ERRORS
from tests.conftest import Post
from tests.support import assert_problem, every, faults, network, xor

CHOICES = {
    plural: registry for plural, registry in REGISTRIES.items() if registry.path == plural and not registry.answers_only
}
"""The registries that requests choose from; words and presets are named within expressions."""

BLOCKS = [
    pytest.param(registry, declaration, id=f"{registry.kind}-{declaration.name}")
    for registry in CHOICES.values()
    for declaration in registry
    if declaration.options
]


def requires(declaration: Declaration) -> list[Option]:
    return [option for option in declaration.options if option.required]


def bad(option: Option) -> Iterator[Any]:
    """Yield values that the option must refuse."""
    if option.required or option.default is not None:
        yield None
    yield from option.refused()


def references() -> Iterator[tuple[Declaration, str, int]]:
    """Yield the options that choose from another registry, with how many there are before that take the same blocks."""
    met: collections.Counter[Any] = collections.Counter()
    for registry in CHOICES.values():
        for declaration in registry:
            for option in declaration.options:
                if isinstance(option, Reference):
                    yield declaration, option.name, met[option.registry.kind, option.family]
                    met[option.registry.kind, option.family] += 1


BEFORE = {(declaration, name): count for declaration, name, count in references()}


def in_turn(declaration: Declaration, option: Option, values: Iterator[Any]) -> list[Any]:
    """Return the values to try: all of them, or the next three for a choice that is read like that of another block,
    such as the initializer of each kernel."""
    every, before = list(values), BEFORE.get((declaration, option.name), 0)
    return [every[(3 * before + place) % len(every)] for place in range(3)] if before else every


TOGETHER: dict[str, dict[str, Any]] = {"piecewise_constant": {"boundaries": [1], "values": [1.0, 0.5]}}
"""Options that have to fit each other."""


def path_of(registry: Registry[Any]) -> str:
    """Return the path to which to post what `request_with` returns."""
    return "/v1/train" if registry.plural in ("optimizers", "schedules") else "/v1/gradients"


def request_with(registry: Registry[Any], declaration: Declaration, **options: Any) -> tuple[dict[str, Any], str]:
    """Return a request that uses a declared block with some options set, and the pointer to the block."""
    required = {option.name: next(option.accepted()) for option in requires(declaration)}
    block = {"type": declaration.name} | required | TOGETHER.get(declaration.name, {}) | options
    dense = {"type": "dense", "units": 1}
    if registry.plural == "optimizers":
        return xor(optimizer=block, steps=2), "#/optimizer"
    if registry.plural == "schedules":
        return xor(optimizer="sgd", schedule=block, steps=2), "#/schedule"
    if registry.plural == "layers":
        return xor(network=network(block), parameters=...), "#/network/layers/0"
    if registry.plural == "losses":
        return xor(loss=block), "#/loss"
    key = {"activations": "activation", "initializers": "kernel_initializer", "regularizers": "kernel_regularizer"}
    where = key[registry.plural]
    return xor(network=network(dense | {where: block}), parameters=...), f"#/network/layers/0/{where}"


@every(("registry", "declaration"), BLOCKS)
def test_options_refuse_wrong_values_at_their_place(
    post: Post, registry: Registry[Any], declaration: Declaration
) -> None:
    for option, value in (
        (each, value) for each in declaration.options for value in in_turn(declaration, each, bad(each))
    ):
        if isinstance(value, int) and value >= 2**64:
            body = request_with(registry, declaration, **{option.name: "HUGE"})[0]
            # Beyond 64 bits the parser itself refuses, or hands a float on.
            response = post(json.dumps(body).replace('"HUGE"', str(value)).encode(), path_of(registry))
            assert response.status_code in (400, 422)
            continue
        body, place = request_with(registry, declaration, **{option.name: value})
        document = assert_problem(post(body, path_of(registry)), "invalid", body)
        places = list(faults(document))
        inside = f"{place}/{option.name}"
        at_it = [pointer == inside or pointer.startswith(inside + "/") for pointer in places]
        assert all(at_it), (inside, value, document)


@every(("registry", "declaration"), BLOCKS)
def test_options_take_values_up_to_their_bounds(post: Post, registry: Registry[Any], declaration: Declaration) -> None:
    for option, value in (
        (each, value) for each in declaration.options for value in in_turn(declaration, each, each.accepted())
    ):
        body, place = request_with(registry, declaration, **{option.name: value})
        response = post(body, path_of(registry))
        assert response.status_code in (200, 422), response.text
        if response.status_code == 422:  # the network may still not fit together, but not for this option's type
            details = faults(assert_problem(response, "invalid", body))
            inside = f"{place}/{option.name}"
            told = [text for pointer, text in details.items() if pointer.startswith(inside)]
            # A layer inside this one takes samples of other shapes than these.
            assert not any(re.match("takes (?!samples of)", text) for text in told), (inside, value, told)


def parts(value: Any) -> Iterator[Any]:
    """Yield a value, and the entries of a list."""
    yield value
    if isinstance(value, list):
        for entry in value:
            yield from parts(entry)


@every(("registry", "declaration"), BLOCKS)
def test_the_schema_of_an_option_takes_what_it_accepts_and_little_else(
    registry: Registry[Any], declaration: Declaration
) -> None:
    for option in declaration.options:
        if isinstance(option, Value):
            schema = jsonschema.Draft202012Validator(option.schema())
            assert all(map(schema.is_valid, option.accepted())), option.name
            for value in filter(schema.is_valid, option.refused()):
                # To JSON Schema 1.0 is an integer, and no number is too large.
                large = (type(part) is float or (type(part) is int and part >= 2**63) for part in parts(value))
                assert any(large), (option.name, value)


TYPES = ("integer", "number", "string", "boolean", "array")


def assert_typed(option: Value) -> None:
    """Assert that a schema has what the catalogue shows: its type, which `anyOf` has last for a number or a list."""
    schema = option.schema()
    top = schema if "type" in schema else schema.get("anyOf", [{}])[-1]
    shown = [top, top["items"].get("anyOf", [top["items"]])[0]] if "items" in top else [top]
    kind = type(option).__name__
    assert all(each.get("type") in TYPES for each in shown), f"{kind}.schema() has no `type` at its top: {schema}"
    scalar = all(type(each) in (str, int, float, bool) for each in schema.get("enum", ()))
    assert scalar, f"{kind}.schema() has an `enum` of other values than numbers, words and flags: {schema}"


@every(("registry", "declaration"), BLOCKS)
def test_the_schema_of_an_option_has_its_type_at_the_top(registry: Registry[Any], declaration: Declaration) -> None:
    for option in declaration.options:
        if isinstance(option, Value):
            assert_typed(option)


@every("wrong", [{"anyOf": [{"const": 1}, {"const": 2}]}, {"enum": [1, 2]}, {"type": ["integer", "null"]}, {}])
def test_a_schema_without_a_type_is_found(wrong: dict[str, Any]) -> None:
    class Wrong(Integer):
        def schema(self) -> dict[str, Any]:
            return wrong

    with pytest.raises(AssertionError, match=r"Wrong.schema\(\) has no `type` at its top"):
        assert_typed(Wrong())


def test_the_catalogue_shows_an_enum_of_integers() -> None:
    class Small(Integer):
        def schema(self) -> dict[str, Any]:
            return {"type": "integer", "enum": [1, 2, 4]}

    assert_typed(Small())
    entry = BlockOptionSchema().dump(option_entry(Small(name="size", default=1)))
    assert (entry["type"], entry["values"]) == ("integer", [1, 2, 4])


def subclasses(parent: type[StrictField]) -> Iterator[type[StrictField]]:
    for child in parent.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_field_describes_itself() -> None:
    fields = set(subclasses(StrictField))
    assert {TensorField, ChoicesField} < fields
    assert [field for field in fields if field.json_schema is StrictField.json_schema] == []
    with pytest.raises(NotImplementedError, match="StrictField does not say what it takes"):
        StrictField().json_schema(Components())


@every(("registry", "declaration"), BLOCKS)
def test_required_options_are_asked_for(post: Post, registry: Registry[Any], declaration: Declaration) -> None:
    for option in declaration.options:
        body, place = request_with(registry, declaration)
        block: Any = body
        for key in place[2:].split("/"):
            block = block[int(key)] if key.isdigit() else block[key]
        block.pop(option.name, None)
        response = post(body, path_of(registry))
        if option.required:
            assert faults(assert_problem(response, "invalid", body))[f"{place}/{option.name}"] == "is required"
        elif response.status_code != 200:
            # A default need not fit these inputs, but it is a value that the option takes.
            told = faults(assert_problem(response, "invalid", body)).get(f"{place}/{option.name}", "")
            assert not told.startswith(("takes", "is required", "may not be null")), (option.name, told)


@every("plural", CHOICES)
def test_unknown_names_are_refused_with_the_nearest_known(post: Post, plural: str) -> None:
    registry = CHOICES[plural]
    for declaration in registry:
        body, place = request_with(registry, declaration)
        wrong = declaration.name + "x"
        block: Any = body
        for key in place[2:].split("/"):
            block = block[int(key)] if key.isdigit() else block[key]
        block["type"] = wrong
        (error,) = assert_problem(post(body, path_of(registry)), "invalid", body)["errors"]
        assert error["pointer"] == f"{place}/type"
        assert wrong in error["detail"] and "did you mean" in error["detail"]
        if len(registry.names) <= LONG_LIST:
            assert set(error["allowed"]) == set(registry.names)
        else:
            assert "allowed" not in error and f"GET /v1/{registry.path} lists all" in error["detail"]


@every("plural", CHOICES)
def test_unknown_options_are_refused_with_what_there_is(post: Post, plural: str) -> None:
    registry = CHOICES[plural]
    for declaration in registry:
        body, place = request_with(registry, declaration, nonsense=1)
        (error,) = assert_problem(post(body, path_of(registry)), "invalid", body)["errors"]
        assert error["pointer"] == f"{place}/nonsense"
        assert {option.name for option in declaration.options} <= set(error.get("allowed", ()))


@every(
    ("key", "value", "detail"),
    [
        ("seed", -1, "takes an integer at least 0"),
        ("seed", 2**53, "at most"),
        ("seed", 1.0, "takes an integer"),
        ("seed", "1", "takes an integer"),
        ("seed", True, "takes an integer"),
        ("seed", None, "may not be null"),
        ("dtype", "float16", "takes one of 'float64', 'float32'"),
        ("dtype", 64, "takes one of"),
        ("training", 1, "takes true or false"),
        ("training", "true", "takes true or false"),
        ("normalize_weights", 0, "takes true or false"),
        ("reduction", "average", "takes one of 'mean', 'sum', 'none'"),
        ("include", "layers", "takes a list of words"),
        ("include", None, "may not be null"),
        ("loss", None, "may not be null"),
        ("loss", {}, "is required"),
        ("inputs", None, "may not be null"),
        ("targets", None, "may not be null"),
        ("parameters", [], "takes an object"),
        ("parameters", None, "may not be null"),
        ("network", [], "takes an object"),
        ("network", None, "may not be null"),
        ("sample_weights", None, "may not be null"),
    ],
)
def test_request_keys_are_strict(post: Post, key: str, value: Any, detail: str) -> None:
    body = xor(**{key: value})
    (error,) = assert_problem(post(body), "invalid", body)["errors"]
    assert error["pointer"] in (f"#/{key}", f"#/{key}/type")
    assert detail in error["detail"]


def test_the_largest_seed_is_taken(post: Post) -> None:
    assert post(xor(parameters=..., seed=2**53 - 1)).status_code == 200


def test_unknown_words_are_refused_each_at_its_place(post: Post) -> None:
    body = xor(include=["layers", "layer", 3])
    errors = faults(assert_problem(post(body), "invalid", body))
    assert "did you mean 'layers'?" in errors["#/include/1"]
    assert set(errors) == {"#/include/1", "#/include/2"}


@every(
    ("key", "hint"), [("input", "inputs"), ("netwrok", "network"), ("los", "loss"), ("sample_weight", "sample_weights")]
)
def test_unknown_keys_are_refused_with_the_nearest_known(post: Post, key: str, hint: str) -> None:
    body = xor(**{key: 1})
    (error,) = assert_problem(post(body), "invalid", body)["errors"]
    assert error["pointer"] == f"#/{key}"
    assert error["detail"] == f"unknown key; did you mean {hint!r}?"
    assert "network" in error["allowed"]


def test_everything_that_is_wrong_is_told_at_once(post: Post) -> None:
    body = xor(loss="mse_", dtype="int8", seed=-1, extra=1, inputs=[[0, 0], [0]], targets=[["x"]])
    errors = faults(assert_problem(post(body), "invalid", body))
    assert set(errors) == {"#/loss", "#/dtype", "#/seed", "#/extra", "#/inputs/1", "#/targets/0/0"}


@every(
    "body",
    [
        xor(**{f"key{number}": 1 for number in range(300)}),
        xor(include=["x"] * 300),
        xor(network=network(*[{"type": "x"}] * 300)),
        xor(network=network({"type": "dense", "units": 1} | {f"key{number}": 1 for number in range(300)})),
        xor(parameters={f"layer{number}": 1 for number in range(300)}),
        xor(parameters={"hidden": {f"array{number}": "x" for number in range(300)}}),
        xor(targets={f"output{number}": "x" for number in range(300)}),
        xor(loss={"type": "categorical_crossentropy", "class_weights": ["x"] * 300}),
    ],
)
def test_errors_beyond_a_hundred_are_not_listed(post: Post, body: dict[str, Any]) -> None:
    document = assert_problem(post(body), "invalid", body)
    assert len(document["errors"]) == MOST_ERRORS
