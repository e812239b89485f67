"""The catalogue: everything a request may name is listed, and nothing else is accepted."""

import re
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
import pytest
from flask.testing import FlaskClient

from service.api.catalogue import MOST_POINTS, REGISTRIES
from service.engine.declarations import Declaration, Registry
from service.engine.functions.presets import Preset, presets
from service.engine.functions.vocabulary import Word, vocabulary
from tests.conftest import Post
from tests.engine.functions.formula_checks import sets
from tests.engine.functions.latex_reader import read
from tests.schemas.test_fields import CHOICES, path_of, request_with
from tests.support import assert_problem, every, faults, strict_json

CHINESE = re.compile("[\u4e00-\u9fff]")
ENTRIES = [
    pytest.param(registry, declaration, id=f"{registry.kind}-{declaration.name}")
    for registry in REGISTRIES.values()
    for declaration in registry
]
CHOSEN = [entry for entry in ENTRIES if entry.values[0].plural in CHOICES]
DRAWN = [
    pytest.param(plural, declaration, id=declaration.name)
    for plural in ("activations", "losses")
    for declaration in REGISTRIES[plural]
]


@every("plural", REGISTRIES)
def test_every_registry_is_listed_in_full(client: FlaskClient, plural: str) -> None:
    response = client.get(f"/v1/{REGISTRIES[plural].path}")
    assert response.headers["Content-Type"] == "application/json"
    listed = strict_json(response.get_data())[plural]
    assert [entry["name"] for entry in listed] == [declaration.name for declaration in REGISTRIES[plural]]
    assert {name for entry in listed for name in (entry["name"], *entry["aliases"])} == set(REGISTRIES[plural].names)


@every(("registry", "declaration"), ENTRIES)
def test_every_entry_has_a_page_that_says_all(
    client: FlaskClient, registry: Registry[Any], declaration: Declaration
) -> None:
    response = client.get(f"/v1/{registry.path}/{declaration.name}")
    assert response.status_code == 200
    entry = strict_json(response.get_data())
    entry.pop("curve", None)
    (listed,) = (
        one for one in client.get(f"/v1/{registry.path}").json[registry.plural] if one["name"] == entry["name"]
    )
    assert entry == listed
    assert client.get(entry["href"]).status_code == 200
    assert entry["description"]["en"] and not CHINESE.search(entry["description"]["en"])
    assert CHINESE.search(entry["description"]["zh"])
    assert entry["latex"] or (entry["change"]["en"] and entry["change"]["zh"]), "a mistake has no formula, but a cure"
    assert [option["name"] for option in entry["options"]] == [option.name for option in declaration.options]
    for option in entry["options"]:
        assert option["description"]
        assert option["required"] is ("default" not in option)
        if "of" in option:
            (listed,) = client.get(option["of"]).json.values()
            assert set(option.get("values", ())) <= {
                name for each in listed for name in (each["name"], *each["aliases"])
            }


@every("plural", REGISTRIES)
def test_every_formula_sets(client: FlaskClient, plural: str) -> None:
    for entry in client.get(f"/v1/{REGISTRIES[plural].path}").json[plural]:
        formulas = [formula for formula in (entry["latex"], entry["derivative"]) if formula]
        assert {formula: sets(formula) for formula in formulas} == dict.fromkeys(formulas, ""), entry["name"]
        if plural == "vocabulary":
            for formula in entry["derivative"].split(r",\quad "):
                assert not formula or read(formula)


@every(("registry", "declaration"), CHOSEN)
def test_everything_listed_is_accepted_by_each_of_its_names(
    post: Post, registry: Registry[Any], declaration: Declaration
) -> None:
    body, place = request_with(registry, declaration)
    for name in (declaration.name, *declaration.aliases):
        block: Any = body
        for key in place[2:].split("/"):
            block = block[int(key)] if key.isdigit() else block[key]
        block["type"] = name
        response = post(body, path_of(registry))
        if response.status_code != 200:  # the name is understood, though XOR's shapes may not suit it
            errors = faults(assert_problem(response, "invalid", body))
            assert not any("is called" in detail or "unknown" in detail for detail in errors.values())
        named: Any = body | {"loss": name} if registry.plural == "losses" else None
        if named is not None and not any(option.required for option in declaration.options):
            assert post(named).get_data() == response.get_data() or response.status_code == 422


@every("word", list(vocabulary), ids=lambda word: word.name)
def test_every_word_is_understood_by_each_of_its_names(post: Post, word: Word) -> None:
    answers = set()
    for name in (*([] if word.operator else [word.name]), *word.aliases):
        if word.operator:
            expression = f"x {name} 0.5"
        else:
            expression = f"{name}({', '.join(['x', '0.5', '2'][: word.arguments])})" if word.arguments else f"x*{name}"
        body = {"expression": expression, "points": [[1.25]], "include": ["hessian"]}
        answer = strict_json(post(body, "/v1/functions/gradient").get_data())
        answer["points"][0].pop("problems", None)  # which quote the expression
        answers.add(orjson.dumps([answer["points"], answer["finite"]]))
    assert len(answers) <= 1


@every("preset", list(presets), ids=lambda preset: preset.name)
def test_every_preset_can_be_sent(client: FlaskClient, post: Post, preset: Preset) -> None:
    entry = client.get(f"/v1/functions/presets/{preset.name}").json
    points = [minimum["point"] for minimum in entry["minima"]] or entry["starts"]
    body = {"expression": entry["expression"], "variables": entry["variables"], "points": points}
    answer = strict_json(post(body, "/v1/functions/gradient").get_data())
    for minimum, point in zip(entry["minima"], answer["points"], strict=False):
        assert point["value"] == pytest.approx(minimum["value"], rel=1e-12, abs=1e-12)
    assert entry["latex"] == answer["symbolic"]["latex"]


@every(("registry", "declaration"), CHOSEN)
def test_defaults_written_out_change_nothing(
    client: FlaskClient, post: Post, registry: Registry[Any], declaration: Declaration
) -> None:
    entry = client.get(f"/v1/{registry.path}/{declaration.name}").json
    defaults = {option["name"]: option["default"] for option in entry["options"] if "default" in option}
    short, _ = request_with(registry, declaration)
    long, _ = request_with(registry, declaration, **defaults)
    first, second = post(short, path_of(registry)), post(long, path_of(registry))
    assert first.status_code == second.status_code
    if first.status_code == 200:
        assert first.get_data() == second.get_data()


@every("plural", CHOICES)
@every("name", ["nonsense", "Dense", " relu", "relu ", "", "__class__", "linear\0"])
def test_what_is_not_listed_is_refused(client: FlaskClient, post: Post, plural: str, name: str) -> None:
    registry = REGISTRIES[plural]
    if name:
        assert_problem(client.get(f"/v1/{plural}/{name}"), "not-found")
    declaration = next(iter(registry))
    body, place = request_with(registry, declaration)
    block: Any = body
    for key in place[2:].split("/"):
        block = block[int(key)] if key.isdigit() else block[key]
    block["type"] = name
    error, *_ = assert_problem(post(body, path_of(registry)), "invalid", body)["errors"]
    assert error["pointer"] == f"{place}/type"
    told = "did you mean" in error["detail"] or " is a" in error["detail"]
    assert told or set(error["allowed"]) == set(registry.names)


@every(("name", "fewest", "most"), [("dense", 1, 1), ("subtract", 2, 2), ("add", 2, None), ("lstm", 1, 3)])
def test_layers_say_how_many_inputs_they_take(client: FlaskClient, name: str, fewest: int, most: int | None) -> None:
    assert client.get(f"/v1/layers/{name}").json["inputs"] == {"minimum": fewest, "maximum": most}


def test_names_that_are_nearly_right_get_a_hint(client: FlaskClient) -> None:
    document = assert_problem(client.get("/v1/activations/rellu"), "not-found")
    assert document["detail"] == "No activation is called 'rellu'; did you mean 'relu'?"


def test_aliases_have_the_page_of_what_they_mean(client: FlaskClient) -> None:
    for registry in REGISTRIES.values():
        for declaration in registry:
            for alias in declaration.aliases:
                if alias == "/":
                    continue  # which parts a path
                content = client.get(f"/v1/{registry.path}/{quote(alias)}").get_data()
                assert content == client.get(f"/v1/{registry.path}/{declaration.name}").get_data()


@every("path", ["/v1/activations", "/v1/losses/huber", "/v1/activations/relu?from=-1&to=1&points=3"])
def test_unchanged_entries_are_not_sent_again(client: FlaskClient, path: str) -> None:
    first = client.get(path)
    tag = first.headers["ETag"]
    assert client.get(path).headers["ETag"] == tag
    for condition in (tag, f'"other", {tag}', "*"):
        again = client.get(path, headers={"If-None-Match": condition})
        assert again.status_code == 304
        assert again.get_data() == b""
        assert again.headers["ETag"] == tag
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.get("/v1/layers").headers["ETag"] != tag
    head = client.head(path)
    assert head.headers["ETag"] == tag and head.get_data() == b""


@every(("plural", "declaration"), DRAWN)
def test_curves_are_drawn_without_being_asked(client: FlaskClient, plural: str, declaration: Declaration) -> None:
    response = client.get(f"/v1/{plural}/{declaration.name}")
    curve = strict_json(response.get_data())["curve"]
    assert len(curve["x"]) == len(curve["value"]) == len(curve["derivative"]) == 241
    assert curve["x"] == sorted(curve["x"])
    for quantity in ("value", "derivative"):
        assert all(isinstance(number, float) for number in curve[quantity]), quantity


@every(("plural", "declaration"), DRAWN)
def test_curves_have_the_range_and_the_slope_they_say(
    client: FlaskClient, plural: str, declaration: Declaration
) -> None:
    curve = client.get(f"/v1/{plural}/{declaration.name}?from=0.2&to=0.4&points=201").json["curve"]
    x, value, derivative = (np.array(curve[key], float) for key in ("x", "value", "derivative"))
    np.testing.assert_allclose(x, np.linspace(0.2, 0.4, 201), rtol=1e-12)
    if declaration.name not in ("step", "hard_shrink", "sign"):
        measured = (value[2:] - value[:-2]) / (x[2:] - x[:-2])
        assert np.median(np.abs(measured - derivative[1:-1])) < 1e-4


def test_a_loss_is_drawn_against_the_target_that_is_asked_for(client: FlaskClient) -> None:
    curve = client.get("/v1/losses/squared_error?from=0&to=4&points=5&target=3").json["curve"]
    assert curve["target"] == 3
    assert curve["value"] == [9.0, 4.0, 1.0, 0.0, 1.0]
    assert curve["derivative"] == [-6.0, -4.0, -2.0, 0.0, 2.0]


@every(
    ("query", "name"),
    [
        ("from=x", "from"),
        ("from=", "from"),
        ("to=nan", "to"),
        ("to=inf", "to"),
        ("from=1_0", "from"),
        ("to=1e10", "to"),
        ("points=1", "points"),
        ("points=2.5", "points"),
        (f"points={MOST_POINTS + 1}", "points"),
        ("points=-5", "points"),
        ("points=1e300", "points"),
        ("points=x", "points"),
        ("target=1", "target"),
        ("point=5", "point"),
        ("a/b~c=5", "a/b~c"),
    ],
)
def test_queries_are_checked(client: FlaskClient, query: str, name: str) -> None:
    document = assert_problem(client.get(f"/v1/activations/relu?{query}"), "invalid")
    (error,) = document["errors"]
    assert error["pointer"] == "#/query/" + name.replace("~", "~0").replace("/", "~1")


def test_the_most_points_are_drawn(client: FlaskClient) -> None:
    assert len(client.get(f"/v1/activations/relu?points={MOST_POINTS}").json["curve"]["x"]) == MOST_POINTS


def test_the_catalogue_is_linked_from_the_service(client: FlaskClient) -> None:
    links = client.get("/v1").json["links"].values()
    assert {f"/v1/{registry.path}" for registry in REGISTRIES.values()} <= set(links)


def test_the_stable_factor_of_an_optimizer_is_where_descent_on_a_parabola_begins_to_diverge(
    client: FlaskClient, post: Post
) -> None:
    factors = {each["name"]: each["stable_factor"] for each in client.get("/v1/optimizers").json["optimizers"]}
    known = {name: factor for name, factor in factors.items() if factor is not None}
    assert {"sgd", "momentum", "nesterov"} <= set(known) and factors["adam"] is None
    for name, factor in known.items():
        below, above = (
            abs(post(body, "/v1/functions/descend").json["runs"][0]["value"])
            for body in (
                {
                    "expression": "5*x^2",
                    "starts": [[1]],
                    "optimizers": [{"type": name, "learning_rate": share * factor / 10}],
                    "steps": 600,
                }
                for share in (0.97, 1.03)
            )
        )
        assert below < 1.0 < above, name
