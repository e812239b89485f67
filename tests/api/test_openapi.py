"""The committed openapi.yaml: it is what the code says, and the service does what it says."""

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import openapi_spec_validator
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings

from service import openapi
from service.api.endpoint import in_order
from service.api.examples import XOR_NETWORK, XOR_PARAMETERS, misspelt
from service.app import create_app
from service.config import Settings
from service.engine.declarations import Reference
from service.engine.network.layers import layers
from service.problems import KINDS, MEDIA_TYPE
from tests.conftest import Post
from tests.support import every, openapi_document, strict_json, violations

DOCUMENT: dict[str, Any] = openapi_document()
ENDPOINTS = [
    pytest.param(path, method, operation, id=operation["operationId"])
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]
EXAMPLES = [
    pytest.param(path, operation, name, id=f"{operation['operationId']}-{name}")
    for path, item in DOCUMENT["paths"].items()
    for operation in item.values()
    if "requestBody" in operation
    for name in operation["requestBody"]["content"]["application/json"]["examples"]
]
BODIES = {operation.path: operation.examples for operation in in_order() if operation.takes is not None}
MISTAKES = {operation.path: operation.mistake for operation in in_order() if operation.takes is not None}


RANDOM = {operation.path: operation.random for operation in in_order() if operation.takes is not None}


def answer_of(operation: dict[str, Any]) -> dict[str, Any]:
    """Return the described JSON response of an operation that goes well."""
    good = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
    described: dict[str, Any] = good["content"]["application/json"]
    return described


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    """Return a client of an application with a store of its own, where nothing waits for long."""
    return create_app(Settings(log_requests=False, data=str(tmp_path_factory.mktemp("data")))).test_client()


def filled(path: str, asked: FlaskClient) -> str:
    """Return a path with the id of a run that was just computed, or of a stored network."""
    if path.startswith("/v1/runs/{id}"):
        return path.format(id=openapi.computed_run(asked))
    if "{id}" in path:
        network = next(iter(BODIES["/v1/networks"].values()))
        return path.format(id=asked.post("/v1/networks", json=network).json["id"])
    return path


def test_the_committed_file_is_what_the_code_writes() -> None:
    assert openapi.agree(openapi.describe(), DOCUMENT), "run 'make openapi'"


def test_only_the_last_digits_of_two_documents_may_differ() -> None:
    document = {"a": [1.0, {"b": "text"}], "c": 2}
    assert openapi.agree(document, {"a": [1.0 + 1e-15, {"b": "text"}], "c": 2})
    for other in ({"a": [1.001, {"b": "text"}], "c": 2}, {"a": [1.0], "c": 2}, {"a": [1.0, {"b": "x"}], "c": 2}, {}):
        assert not openapi.agree(document, other)


def test_committed_digits_stay_where_they_agree() -> None:
    committed = {"a": [1.0, {"b": 2.0}], "c": [1.0, 2.0], "d": "text"}
    new = {"a": [1.0 + 1e-15, {"b": 2.5}], "c": [1.0 + 1e-15], "d": "new text", "e": 1.0 + 1e-15}
    kept = {"a": [1.0, {"b": 2.5}], "c": [1.0 + 1e-15], "d": "new text", "e": 1.0 + 1e-15}
    assert openapi.kept(new, committed) == kept
    assert openapi.kept(new, None) == new


def references(schema: Any) -> set[str]:
    """Return the components that a schema refers to."""
    if isinstance(schema, dict):
        here = {schema["$ref"].rsplit("/", 1)[1]} if "$ref" in schema else set()
        return here.union(*map(references, schema.values()))
    return set().union(*map(references, schema)) if isinstance(schema, list) else set()


def test_only_layers_hold_layers() -> None:
    """Most generators of clients cannot read a schema that refers to itself; a discriminator helps them."""
    schemas = DOCUMENT["components"]["schemas"]
    inside = {name: references(schema) for name, schema in schemas.items()}
    for _ in schemas:
        wider = {name: names.union(*(inside[each] for each in names)) for name, names in inside.items()}
        if wider == inside:
            break
        inside = wider
    assert {name for name, names in inside.items() if name in names} == {"TimeDistributedLayer", "StepwiseLayer"}


MERGING = {"add", "subtract", "multiply", "average", "maximum", "minimum", "concatenate", "dot"}
LAYERS = {declaration.name: declaration for declaration in layers}
UNIONS = {
    "Layer": LAYERS.keys(),
    "StepwiseLayer": LAYERS.keys() - MERGING - {"attention", "additive_attention", "embedding"},
    "RecurrentLayer": {"simple_rnn", "lstm", "gru"},
}


@every(("union", "types"), UNIONS.items())
def test_every_name_of_a_layer_leads_to_its_schema(union: str, types: set[str]) -> None:
    layer = DOCUMENT["components"]["schemas"][union]
    mapping = layer["discriminator"]["mapping"]
    assert set(mapping) == {name for kind in types for name in (kind, *LAYERS[kind].aliases)}
    assert {each["$ref"] for each in layer["oneOf"]} == set(mapping.values())
    for name, reference in mapping.items():
        kind = DOCUMENT["components"]["schemas"][reference.rsplit("/", 1)[1]]["properties"]["type"]
        assert name in kind.get("enum", [kind.get("const")])


def test_options_carry_their_defaults_and_seeds_survive_javascript() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["DenseLayer"]["properties"]["kernel_initializer"]["default"] == "glorot_uniform"
    assert schemas["DenseLayer"]["properties"]["use_bias"]["default"] is True
    assert schemas["AdamOptimizer"]["properties"]["beta_1"]["default"] == 0.9
    # The convention has its own default, which a client that sends another would overrule.
    assert "default" not in schemas["AdamOptimizer"]["properties"]["epsilon"]
    assert schemas["GridStarts"]["properties"]["resolution"]["default"] == [5]
    seeds = [schema["properties"]["seed"] for schema in schemas.values() if "seed" in schema.get("properties", ())]
    taken = [seed for seed in seeds if "minimum" in seed]
    assert len(taken) >= 7
    assert {seed["maximum"] for seed in taken} == {2**53 - 1}
    assert schemas["CompareRequest"]["properties"]["seeds"]["items"]["maximum"] == 2**53 - 1


def test_defaults_are_as_their_schemas_say() -> None:
    properties = [
        each for schema in DOCUMENT["components"]["schemas"].values() for each in schema.get("properties", {}).values()
    ]
    with_default = [each for each in properties if "default" in each]
    assert len(with_default) > 300
    # All in one schema, because a validator is compiled with all components.
    numbered = {str(number): schema for number, schema in enumerate(with_default)}
    defaults = {number: schema["default"] for number, schema in numbered.items()}
    assert violations({"required": list(numbered), "properties": numbered}, defaults) == []


def test_the_document_is_valid() -> None:
    openapi_spec_validator.validate(DOCUMENT)


def test_every_route_is_described(app: Flask) -> None:
    described = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if not rule.endpoint.startswith(("pages.", "problems."))
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == described


@every(("path", "method", "operation"), ENDPOINTS)
def test_every_operation_says_what_it_does(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["summary"] and operation["description"] and operation["tags"]
    assert operation["responses"]["default"]["content"].keys() == {MEDIA_TYPE}
    if "requestBody" in operation:
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        assert examples
        # One plain sentence each: Swagger UI shows it in place of the name.
        assert all(re.fullmatch(r"[A-Z][^.]+\.", example["summary"]) for example in examples.values())
    for parameter in operation.get("parameters", ()):
        assert parameter["schema"]


def test_operation_ids_are_unique() -> None:
    names = [operation["operationId"] for item in DOCUMENT["paths"].values() for operation in item.values()]
    assert len(set(names)) == len(names)


@every(("path", "operation", "name"), EXAMPLES)
def test_examples_are_as_their_schemas_say(path: str, operation: dict[str, Any], name: str) -> None:
    request = operation["requestBody"]["content"]["application/json"]
    answer = answer_of(operation)
    assert violations(request["schema"], request["examples"][name]["value"]) == []
    assert violations(answer["schema"], answer["examples"][name]["value"]) == []


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema, or the component that it refers to."""
    return DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def chooses(value: dict[str, Any], form: dict[str, Any]) -> bool:
    """Return whether an object is meant to have one of several forms."""
    kind = form.get("properties", {}).get("type", {})
    if "type" in value and kind:
        return value["type"] in kind.get("enum", [kind.get("const")])
    return bool(set(form.get("required", ())) <= set(value) <= set(form.get("properties", ())))


def with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """Return a value as a client sends it that writes every default out."""
    schema = resolved(schema)
    if isinstance(value, list):
        return [with_defaults(each, schema["items"]) for each in value] if "items" in schema else value
    if not isinstance(value, dict):
        return value
    forms = [resolved(form) for form in (*schema.get("anyOf", ()), *schema.get("oneOf", ()))]
    if forms:
        form = next((form for form in forms if chooses(value, form)), None)
        return value if form is None else with_defaults(value, form)
    known = schema.get("properties", {})
    defaults = {key: each["default"] for key, each in known.items() if "default" in each}
    return defaults | {key: with_defaults(each, known.get(key, {})) for key, each in value.items()}


@every(("path", "operation", "name"), EXAMPLES)
def test_examples_give_the_answers_that_stand_beside_them(
    asked: FlaskClient, path: str, operation: dict[str, Any], name: str
) -> None:
    request = operation["requestBody"]["content"]["application/json"]["examples"][name]["value"]
    answer = answer_of(operation)
    response = asked.post(filled(path, asked), json=request)
    assert response.status_code in (200, 201, 202)
    assert openapi.agree(strict_json(response.get_data()) | RANDOM[path], answer["examples"][name]["value"])
    # Clients made by openapi-python-client send all defaults, so none may be refused, whatever stands beside it.
    body = with_defaults(request, operation["requestBody"]["content"]["application/json"]["schema"])
    typed = asked.post(filled(path, asked), json=body, headers={"Accept": "application/json; tensors=base64"})
    assert typed.status_code == response.status_code, typed.text
    assert violations(answer["schema"], strict_json(typed.get_data())) == []


@every(("path", "method", "operation"), ENDPOINTS)
def test_problems_that_stand_beside_an_operation_are_of_the_service(
    path: str, method: str, operation: dict[str, Any], post: Post
) -> None:
    place = path.format(name="unknown", id=openapi.unknown_id(operation.get("parameters", ())))
    content = operation["responses"]["default"]["content"][MEDIA_TYPE]
    problems = {name: example["value"] for name, example in content["examples"].items()}
    for name, problem in problems.items():
        assert violations(content["schema"], problem) == []
        assert problem["instance"] == f"example-{name}"
    if "requestBody" in operation:
        wrong = {"misspelt_key": misspelt(next(iter(BODIES[path].values()))), "mistake": MISTAKES[path]}
        assert problems == {
            name: post(body, place, X_Request_Id=f"example-{name}").json for name, body in wrong.items()
        }
        assert {problem["status"] for problem in problems.values()} == {422}
        assert any("did you mean" in error["detail"] for error in problems["misspelt_key"]["errors"])


STREAMED = ("application/x-ndjson", "text/event-stream")


@every(("path", "method", "operation"), ENDPOINTS)
def test_parts_of_a_stream_are_as_their_schema_says(
    path: str, method: str, operation: dict[str, Any], asked: FlaskClient, post: Post
) -> None:
    content = operation["responses"].get("200", {}).get("content", {})
    for media_type in STREAMED:
        if media_type in content:
            parts = [example["value"] for example in content[media_type]["examples"].values()]
            assert len(parts) == 2
            for part in parts:
                assert violations(content[media_type]["schema"], part) == []
            if method == "get":
                answer = asked.get(filled(path, asked), headers={"Accept": STREAMED[0]}, buffered=True)
            else:
                answer = post(next(iter(BODIES[path].values())), path, Accept=STREAMED[0])
            first, *_, last = answer.get_data().splitlines()
            assert openapi.agree([strict_json(first), strict_json(last)], parts)


def test_components_say_what_they_are() -> None:
    """A sentence each, which generated clients show; the words of an enumeration speak for themselves."""
    schemas = DOCUMENT["components"]["schemas"]
    sentences = {name: schema.get("description", "") for name, schema in schemas.items() if "enum" not in schema}
    begins = re.compile(r"[^a-z]|" + r"\b|".join(schemas["ActivationName"]["enum"]))
    assert [name for name, text in sentences.items() if not (begins.match(text) and text.endswith("."))] == []


def described(value: Any) -> list[str]:
    """Return all descriptions and summaries in a document, without those of examples."""
    if isinstance(value, list):
        return [text for each in value for text in described(each)]
    if not isinstance(value, dict):
        return []
    here = [text for key, text in value.items() if key in ("description", "summary") and isinstance(text, str)]
    return here + [
        text for key, each in value.items() if key not in ("examples", "example") for text in described(each)
    ]


def test_no_description_has_what_markdown_takes_for_html() -> None:
    assert len(described(DOCUMENT)) > 1000
    assert [text for text in described(DOCUMENT) if re.search(r"<\w", re.sub(r"`[^`]*`", "", text))] == []


def test_words_that_blocks_share_have_one_name() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["LayerDataFormat"]["enum"] == ["channels_last", "channels_first"]
    named = {"$ref": "#/components/schemas/LayerDataFormat"}
    taken = [
        layer["properties"]["data_format"] for layer in schemas.values() if "data_format" in layer.get("properties", ())
    ]
    assert len(taken) > 20 and all(option.items() >= named.items() for option in taken)
    # The words of these differ from those of the others, or nobody shares them.
    assert schemas["Conv1dLayer"]["properties"]["padding"]["enum"] == ["valid", "same", "causal"]
    assert schemas["CyclicSchedule"]["properties"]["mode"]["enum"] == ["triangular", "triangular2", "exp_range"]


@every(("path", "method", "operation"), ENDPOINTS)
def test_parameters_say_what_they_are(path: str, method: str, operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        assert parameter["description"], parameter["name"]
        if parameter["name"] == "id":  # a person at Swagger UI has to know where to find one
            assert f"`GET {path.split('/{')[0]}` lists yours" in parameter["description"]


@every(("path", "method", "operation"), ENDPOINTS)
def test_examples_of_answers_to_get_are_as_their_schema_says(path: str, method: str, operation: dict[str, Any]) -> None:
    shown = answer_of(operation).get("examples", {}) if method == "get" and "{" in path else {}
    for example in shown.values():
        assert violations(answer_of(operation)["schema"], example["value"]) == []
    assert bool(shown) == (method == "get" and "{" in path)


def test_gradients_stand_first() -> None:
    assert next(iter(DOCUMENT["paths"])) == "/v1/gradients"


@every(("path", "method", "operation"), ENDPOINTS)
def test_answers_to_get_are_as_their_schemas_say(
    asked: FlaskClient, path: str, method: str, operation: dict[str, Any]
) -> None:
    if method != "get":
        return
    place = filled(path, asked)
    names = [
        parameter["schema"]["enum"] for parameter in operation.get("parameters", ()) if parameter["name"] == "name"
    ]
    for name in names[0] if names else [""]:
        response = asked.get(place.format(name=name), buffered=True)
        assert response.status_code == 200
        media_type = response.headers["Content-Type"].split(";")[0]
        content = operation["responses"]["200"]["content"]
        if media_type == "application/json":
            described = content[media_type]
            assert violations(described["schema"], strict_json(response.get_data())) == []


def test_problems_are_as_their_schema_says(post: Post) -> None:
    schema = {"$ref": "#/components/schemas/Problem"}
    for body in (b"{", b"{}", b'{"seed": -1, "x": 1}', b"[]"):
        assert violations(schema, post(body).json) == []
    statuses = {str(kind.status) for kind in KINDS.values()}
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            assert statuses <= set(re.findall(r"\d{3}", operation["responses"]["default"]["description"]))


def test_the_schemas_refuse_what_the_service_refuses() -> None:
    operation = DOCUMENT["paths"]["/v1/gradients"]["post"]
    request = operation["requestBody"]["content"]["application/json"]
    good = request["examples"]["xor"]["value"]
    assert violations(request["schema"], good) == []
    for change in (
        {"loss": "nonsense"},
        {"surplus": 1},
        {"inputs": "x"},
        {"inputs": []},
        {"seed": -1},
        {"dtype": "float16"},
        {"network": {"layers": [{"type": "dense", "units": 0}]}},
        {"network": {"layers": [{"type": "dense"}]}},
        {"network": {"layers": [{"type": "flatten", "units": 1}]}},
        {"parameters": {"hidden": {"kernel": "x"}}},
    ):
        assert violations(request["schema"], good | change), change


def test_choices_of_blocks_are_as_strict_as_the_service() -> None:
    """An option for each kind of block and family of layers; tests/schemas/test_fields.py sends what is tried here."""
    schemas = DOCUMENT["components"]["schemas"]
    found = {
        (option.registry, option.family): (resolved({"$ref": reference})["properties"][option.name], option)
        for name, reference in schemas["Layer"]["discriminator"]["mapping"].items()
        for option in layers[name].options
        if isinstance(option, Reference)
    }
    assert len(found) == 5  # activations, initializers, regularizers and two families of layers
    for schema, option in found.values():
        accepted, refused = list(option.accepted()), list(option.refused())
        assert violations({"items": schema}, accepted) == []
        fitting = {"contains": schema, "minContains": 0, "maxContains": 0}
        assert violations(fitting, refused) == []


TYPED_ROW = {"dtype": "float64", "shape": [2], "base64": "AAAAAAAAAAAAAAAAAAAAAA=="}
GRADIENTS, DESCEND, FIT = "/v1/gradients", "/v1/functions/descend", "/v1/functions/fit"
LAYER = {"type": "dense", "units": 1}


def layers_in(kind: str, *, wrong: Any, right: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return a case of a layer in another one, of this type."""
    change, good = ({"network": {"layers": [{"type": kind, "layer": inner}]}} for inner in (wrong, right))
    return GRADIENTS, change, good


LSTM = {"type": "lstm", "units": 1}
OF_NETWORKS = ({"name": "a"}, {"inputs": ["input"]}, {"shares": "a"}, {"trainable": True})
"""The keys that a layer in another does not have."""


@every(
    ("path", "change", "good"),
    [
        (GRADIENTS, {"loss_weights": {}}, {"loss_weights": {"output": 1}}),
        (GRADIENTS, {"loss": {}}, {"loss": {"output": "mse"}}),
        (
            GRADIENTS,
            {"network": {"layers": [LAYER | {"name": "a/b"}]}},
            {"network": {"layers": [LAYER | {"name": "ab"}]}},
        ),
        (GRADIENTS, {"network": {"layers": [LAYER | {"name": "a\n"}]}}, None),
        (GRADIENTS, {"network": {"layers": [LAYER | {"name": "_schema"}]}}, None),
        (GRADIENTS, {"network": {"layers": [LAYER], "outputs": ["x" * 129]}}, None),
        (
            GRADIENTS,
            {"network": {"layers": [LAYER], "outputs": ["a", "a"]}},
            {"network": {"layers": [LAYER], "outputs": ["a"]}},
        ),
        (GRADIENTS, {"network": {"layers": [LAYER | {"inputs": ["x"] * 257}]}}, None),
        layers_in("bidirectional", wrong=LAYER, right=LSTM),
        layers_in("bidirectional", wrong="flatten", right=LSTM | {"go_backwards": True}),
        layers_in("time_distributed", wrong={"type": "add"}, right=LAYER),
        layers_in("time_distributed", wrong="add", right="flatten"),
        layers_in("time_distributed", wrong={"type": "embedding", "input_dim": 2, "output_dim": 1}, right=LSTM),
        *(layers_in("bidirectional", wrong=LSTM | key, right=LSTM) for key in OF_NETWORKS),
        *(layers_in("time_distributed", wrong=LAYER | key, right=LAYER) for key in OF_NETWORKS),
        (GRADIENTS, {"inputs": TYPED_ROW | {"shape": [0]}}, {"inputs": TYPED_ROW}),
        (
            GRADIENTS,
            {"network": {"layers": [LAYER], "inputs": [""]}},
            {"network": {"layers": [LAYER], "inputs": ["a"]}},
        ),
        (
            GRADIENTS,
            {"network": {"layers": [LAYER | {"kernel_regularizer": {}}]}},
            {"network": {"layers": [LAYER | {"kernel_regularizer": {"l2": 1}}]}},
        ),
        ("/v1/train", {"clip": {}}, {"clip": {"norm": 1}}),
        ("/v1/train", {"clip": {"value": 1, "norm": 1}}, {"clip": {"value": 1}}),
        (DESCEND, {"clip": {"value": 1, "norm": 1}}, {"clip": {"value": 1}}),
        (DESCEND, {"starts": 1}, {"starts": [1, 2]}),
        (DESCEND, {"starts": []}, {"starts": [[1, 2]]}),
        (DESCEND, {"starts": {}}, {"starts": {"grid": {"box": [0, 1]}}}),
        (DESCEND, {"starts": {"grid": {"box": [0, 1]}, "random": {"box": [0, 1]}}}, {"starts": TYPED_ROW}),
        *((DESCEND, {"variables": [name]}, None) for name in ("", "1x", "sin", "π", "a b", "x" * 32)),
        (DESCEND, {"variables": ["x", "x"]}, {"variables": ["x", "β_1"]}),
        (FIT, {"start": 0.0}, {"start": [0, 1]}),
        (FIT, {"start": [1, 2, 3]}, {"start": TYPED_ROW}),
        (FIT, {"start": TYPED_ROW | {"shape": [1, 2]}}, None),
        (FIT, {"points": [[1, 2]]}, {"points": [[1, 2], [3, 4]]}),
        (FIT, {"points": [1, 2]}, None),
        (FIT, {"variables": ["a"]}, {"variables": ["a", "b"]}),
        ("/v1/functions/gradient", {"points": 1}, {"points": [1]}),
        ("/v1/functions/gradient", {"points": [[[1]]]}, {"points": [[1, 2]]}),
    ],
)
def test_the_schemas_are_as_strict_as_the_service(
    post: Post, path: str, change: dict[str, Any], good: dict[str, Any] | None
) -> None:
    schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    example = next(iter(BODIES[path].values()))
    assert post(dict(example) | change, path).status_code == 422
    assert violations(schema, dict(example) | change)
    if good is not None:
        assert violations(schema, dict(example) | good) == []


FEWER: dict[str, tuple[str, ...]] = {
    "Layer": ("DenseLayer", "AddLayer"),
    "Activation": ("LeakyReluActivation",),
    "Loss": ("HuberLoss",),
    "Initializer": (),
    "Optimizer": ("LionOptimizer",),
    "Schedule": ("PiecewiseConstantSchedule",),
}
"""All blocks, and layers inside layers, would give the generator no end of cases. Every option of
every block is tried by tests/schemas/test_fields.py, right and wrong, and by test_bounds_of_options.py."""


def with_fewer_blocks(document: dict[str, Any]) -> dict[str, Any]:
    fewer = copy.deepcopy(document)
    schemas = fewer["components"]["schemas"]
    for kind, names in FEWER.items():
        schema = schemas[kind]
        key = "oneOf" if "oneOf" in schema else "anyOf"
        listed = () if kind == "Layer" else (f"{kind}Name",)  # names alone, all of which stay
        kept = [each for each in schema[key] if each["$ref"].rsplit("/", 1)[-1] in (*listed, *names)]
        assert len(kept) == len(names) + len(listed)
        schema[key] = kept
        schema.pop("discriminator", None)
    # For lists nested deeper Hypothesis draws many numbers, and tests/schemas/test_tensor.py tries all depths.
    nested = schemas["NestedNumbers"]
    nested["anyOf"] = nested["anyOf"][:2]
    for layer in FEWER["Layer"]:
        for name, option in schemas[layer]["properties"].items():
            if name.endswith("_regularizer"):
                option["anyOf"] = [{"type": "null"}]
    return fewer


def with_one_network(document: dict[str, Any]) -> dict[str, Any]:
    one = copy.deepcopy(document)
    schemas = one["components"]["schemas"]
    for name, value in (("Network", XOR_NETWORK), ("Parameters", XOR_PARAMETERS)):
        schemas[name] = {"const": value}
    return one


FEW = with_fewer_blocks(DOCUMENT)
ONE_NETWORK = with_one_network(FEW)
REPEATED = (
    *("/v1/forward", "/v1/derivatives", "/v1/train", "/v1/train/compare"),
    *("/v1/graph", "/v1/gradients/check", "/v1/gradients/verify", "/v1/gradients/explain", "/v1/landscape"),
    *("/v1/gradients/diagnose", "/v1/networks", "/v1/runs"),
)
"""Most of what these take is the network of `/v1/gradients`. The cases that Schemathesis makes for every keyword of a
schema take seconds, so they are tried there; here random ones with one network. Options of optimizers and schedules
are tried by tests/schemas/test_fields.py."""
ALIKE = [path for path in DOCUMENT["paths"] if path.endswith("{name}") and path != "/v1/activations/{name}"]
"""Every name of these is asked for by `test_answers_to_get_are_as_their_schemas_say`."""


@pytest.fixture(scope="module")
def schema_of(app: Flask) -> Callable[[dict[str, Any]], Any]:
    """Return a function that gives the schema of Schemathesis for a document, with the constants in the service's code.

    Schemathesis is imported here because that takes a process half a second, and few need it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own dependencies warn while they are imported
        import schemathesis
        from schemathesis.checks import load_all_checks
        from schemathesis.python._constants.orchestrator import make_constants_value_source

    load_all_checks()
    made: dict[int, Any] = {}

    def schema(document: dict[str, Any]) -> Any:
        if id(document) not in made:
            made[id(document)] = schemathesis.openapi.from_dict(document)
            made[id(document)].app = app
            make_constants_value_source(made[id(document)])  # otherwise once for each path
        return made[id(document)]

    return schema


@pytest.mark.long
@every("path", [path for path in DOCUMENT["paths"] if path != "/metrics"])
def test_the_service_keeps_what_the_file_promises(schema_of: Callable[[dict[str, Any]], Any], path: str) -> None:
    """One process tries all paths, because reading the constants of the code takes longer than trying most of them."""
    schema = schema_of(ONE_NETWORK if path in REPEATED else FEW).include(path=path)
    from schemathesis.pytest.lazy import get_all_tests
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    @settings(
        # One takes up to half a second to make; `python -m benchmarks.attacks.in_process` tries thousands.
        max_examples=5,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def keeps_its_promise(case: Any) -> None:
        # Shapes have to agree between fields, which no schema can say: valid fields may make an invalid request.
        case.call_and_validate(headers={"Accept-Encoding": "identity"}, excluded_checks=[positive_data_acceptance])

    schema.config.phases.coverage.enabled = path not in (*REPEATED, *ALIKE, "/openapi.yaml")
    # The tests above send the examples of the document and the names that are examples of a path.
    schema.config.phases.examples.enabled = False
    # Not `schema.parametrize`: every process would make all cases while it collects the tests, which takes 10 s.
    for test in get_all_tests(schema=schema, test_func=keeps_its_promise, settings=None, given_kwargs={}):
        _, check = test.ok()
        # Hypothesis takes half as long as a request to run a case that is not random.
        for example in vars(check).pop("hypothesis_explicit_examples", ()):
            keeps_its_promise(example.kwargs["case"])
        check()
