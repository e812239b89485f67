"""The memory of recipes: it may save work, and must never be seen in an answer."""

import copy
import json
import threading
from types import UnionType
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from schemas.evaluation import GradientsRequest
from schemas.requests import MOST_DEPTH
from service.api.endpoint import ENDPOINTS, Endpoint
from service.api.examples import FORWARD, GRADIENTS
from service.engine.network.evaluate import EvaluationTask
from tests.conftest import MakeClient, Post
from tests.support import assert_problem, every, faults, network, xor

PLAIN = xor(network=network({"type": "dense", "units": 3, "activation": "tanh"}, {"type": "dense", "units": 1}))
INITIALISED = {key: value for key, value in PLAIN.items() if key != "parameters"}


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that grows by each task that is compiled."""
    tasks: list[Any] = []
    compile_it = EvaluationTask.compile

    def counted(task: EvaluationTask, *arguments: Any) -> Any:
        tasks.append(task)
        return compile_it(task, *arguments)

    monkeypatch.setattr(EvaluationTask, "compile", counted)
    return tasks


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/forward", body) for body in FORWARD.values()] + [("/v1/gradients", body) for body in GRADIENTS.values()],
)
def test_the_second_answer_is_the_first_byte_for_byte(make_client: MakeClient, path: str, body: Any) -> None:
    client = make_client()
    first, second = client.post(path, json=body), client.post(path, json=body)
    assert first.status_code == 200
    assert first.get_data() == second.get_data()


@every(
    "change",
    [
        {"inputs": [[1]]},
        {"inputs": [[0, 0], [0]]},
        {"targets": [[0]]},
        {"targets": ...},
        {"inputs": ...},
        {"seed": -1},
        {"seed": None},
        {"parameters": {}},
        {"parameters": {"hidden": {"kernel": [["x"]]}}},
        {"sample_weights": [1]},
        {"sample_weights": None},
        {"inputs": None, "targets": "x", "seed": "y"},
        {"surplus": 1},
        {"loss": "mse!"},
        {"dtype": "float32", "inputs": [[1e300, 0]]},
    ],
    ids=str,
)
def test_errors_are_the_same_before_and_after_the_recipe_is_known(
    make_client: MakeClient, change: dict[str, Any]
) -> None:
    client = make_client()
    wrong = xor(**change)

    def errors() -> Any:
        document = assert_problem(client.post("/v1/gradients", json=wrong), "invalid", wrong)
        return {key: value for key, value in document.items() if key != "instance"}

    before = errors()
    right = xor(**({"dtype": "float32"} if "dtype" in change else {}))
    assert client.post("/v1/gradients", json=right).status_code == 200
    assert errors() == before == errors()


def test_the_order_of_keys_and_white_space_do_not_matter(make_client: MakeClient, compiled: list[Any]) -> None:
    client = make_client()

    def backwards(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: backwards(value[key]) for key in reversed(value)}
        return [backwards(item) for item in value] if isinstance(value, list) else value

    answers = {
        client.post("/v1/gradients", data=text, content_type="application/json").get_data()
        for text in (
            json.dumps(xor()),
            json.dumps(xor(), indent=3),
            json.dumps(xor(), separators=(",", ":")),
            json.dumps(backwards(xor())),
        )
    }
    assert len(answers) == 1
    assert len(compiled) == 1


def test_seeds_and_values_do_not_compile_anew(make_client: MakeClient, compiled: list[Any]) -> None:
    client = make_client()
    answers = [client.post("/v1/gradients", json=INITIALISED | {"seed": seed}).get_data() for seed in range(8)]
    answers += [client.post("/v1/gradients", json=INITIALISED | {"inputs": [[n, 1]] * 4}).get_data() for n in range(8)]
    assert len(set(answers)) == 16
    assert len(compiled) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "mean_squared_error"},
        {"reduction": "sum"},
        {"dtype": "float32"},
        {"include": ["layers"]},
        {"inputs": [[0, 1]], "targets": [[1]]},
        {"sample_weights": [1, 1, 1, 1]},
        {"training": True},
    ],
    ids=str,
)
def test_what_changes_the_computation_compiles_anew(
    make_client: MakeClient, compiled: list[Any], change: dict[str, Any]
) -> None:
    client = make_client()
    for body in (xor(), xor(**change), xor(), xor(**change)):
        assert client.post("/v1/gradients", json=body).status_code == 200
    assert len(compiled) == 2


def test_tensors_never_leak_from_one_request_to_the_next(make_client: MakeClient) -> None:
    shared = make_client()
    bodies = []
    for scale in (1.0, -2.0, 0.5):
        body = xor(inputs=[[scale * value for value in row] for row in xor()["inputs"]])
        body["parameters"]["hidden"]["bias"] = [scale, -scale]
        bodies += [body, body | {"sample_weights": [scale, 1, 2, 3]}, INITIALISED | {"seed": int(10 * abs(scale))}]
    expected = [make_client().post("/v1/gradients", json=body).get_data() for body in bodies]
    for _ in range(3):
        assert [shared.post("/v1/gradients", json=body).get_data() for body in bodies] == expected
        assert [shared.post("/v1/gradients", json=body).get_data() for body in bodies[::-1]] == expected[::-1]


def test_optional_tensors_of_earlier_requests_are_forgotten() -> None:
    schema = GradientsRequest()
    full = xor(sample_weights=[1, 2, 3, 4], seed=5)
    assert set(schema.read(copy.deepcopy(full))) > {"sample_weights", "parameters"}
    bare = {key: value for key, value in full.items() if key not in ("sample_weights", "parameters", "seed")}
    for _ in range(2):
        loaded = schema.read(copy.deepcopy(bare))
        assert "sample_weights" not in loaded
        assert "parameters" not in loaded
        assert loaded["seed"] == 0


def test_changing_what_was_loaded_does_not_change_the_memory() -> None:
    schema = GradientsRequest()
    for _ in range(3):
        loaded = schema.read(xor())
        assert loaded["reduction"] == "mean"
        loaded["reduction"] = "sum"
        loaded["inputs"][...] = 7.0
        loaded.clear()


def test_a_recipe_seen_before_gives_the_same_objects() -> None:
    schema = GradientsRequest()
    first, second = schema.read(xor()), schema.read(xor(inputs=[[5, 5]]))
    assert first["network"] is second["network"]
    assert first["loss"] is second["loss"]


def test_integers_and_floats_of_a_recipe_are_told_apart(post: Post) -> None:
    one = network({"type": "dense", "units": 1})
    assert post(xor(network=one, parameters=...)).status_code == 200
    body = xor(network=network({"type": "dense", "units": 1.0}), parameters=...)
    assert "takes an integer" in faults(assert_problem(post(body), "invalid", body))["#/network/layers/0/units"]
    body = xor(network=network({"type": "dense", "units": True}), parameters=...)
    assert "takes an integer" in faults(assert_problem(post(body), "invalid", body))["#/network/layers/0/units"]


@every("depth", [MOST_DEPTH + 2, 300, 900])
@every("form", ["object", "list"])
@every("padding", [0, 40_000])
def test_recipes_that_are_nested_too_deep_are_refused(post: Post, depth: int, form: str, padding: int) -> None:
    opening, closing = ('{"a":', "}") if form == "object" else ("[", "]")
    deep = opening * depth + "1" + closing * depth
    text = json.dumps(xor(network="DEEP")).replace('"DEEP"', deep) + " " * padding
    document = assert_problem(post(text.encode()), "invalid")
    assert any("deeper than" in detail for detail in faults(document).values())


def test_large_bodies_mean_what_small_ones_do(post: Post) -> None:
    """Above some size another parser reads the body; nothing else may differ."""
    bodies = [
        xor(network=network({"type": "dense", "units": 1}, input_shape=[2]), parameters=...),
        xor(
            network=network({"type": "dense", "units": 1, "name": "a"}, outputs=["a"]),
            parameters=...,
            loss={"type": "binary_crossentropy", "from_logits": True},
            include=["layers"],
            sample_weights=[1, 2, 3, 4],
        ),
        *(xor(**{key: value}) for key in xor() for value in (None, True, 3, "x", [], {}, [0], [[0, "x"]], [{}])),
    ]
    for body in bodies:
        text = json.dumps(body).encode()
        small, large = post(text), post(text + b" " * 40_000)
        assert small.status_code == large.status_code, body
        if small.status_code == 200:
            assert small.get_data() == large.get_data()
        else:
            assert small.json["errors"] == large.json["errors"], body


def test_many_threads_get_their_own_answers(make_client: MakeClient) -> None:
    client = make_client()
    bodies = [INITIALISED | {"seed": seed} for seed in range(8)]
    expected = [make_client().post("/v1/gradients", json=body).get_data() for body in bodies]
    wrong: list[Any] = []

    def ask(number: int) -> None:
        own = client.application.test_client()
        for turn in range(20):
            place = (number + turn) % len(bodies)
            if own.post("/v1/gradients", json=bodies[place]).get_data() != expected[place]:
                wrong.append(place)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_unknown_keys_are_told_in_the_order_of_the_body(post: Post) -> None:
    surplus = [f"surplus_{letter}" for letter in "hbfdgace"]
    document = assert_problem(post(xor() | dict.fromkeys(surplus, 1)), "invalid")
    assert [error["pointer"] for error in document["errors"]] == [f"#/{key}" for key in surplus]


def kinds_of(hint: Any) -> tuple[type, ...]:
    """Return the classes of values that a type annotation allows."""
    if get_origin(hint) in (NotRequired, Union, UnionType):
        return tuple(kind for part in get_args(hint) for kind in kinds_of(part))
    found = get_origin(hint) or hint
    return (dict,) if is_typeddict(found) else (found,)


# The view of /v1/runs cuts the request of the kind out of the body before the schema reads it.
WHOLE = [each for each in ENDPOINTS if each.takes and each.path != "/v1/runs"]


@every("operation", WHOLE, ids=lambda each: each.path)
def test_requests_are_loaded_into_what_their_type_says(operation: Endpoint) -> None:
    """Types are checked by mypy; that values are of these types, nobody else checks."""
    schema: Any = operation.takes
    ((loaded_as,),) = [get_args(base) for base in type(schema).__orig_bases__]
    hints = get_type_hints(loaded_as, include_extras=True)
    always = {key for key, hint in hints.items() if get_origin(hint) is not NotRequired}
    assert set(schema.load_fields) <= set(hints)
    for example in operation.examples.values():
        for _ in range(2):  # validated, then recognised
            loaded = schema.read(copy.deepcopy(example))
            assert always <= set(loaded) <= set(hints)
            for key, value in loaded.items():
                assert isinstance(value, kinds_of(hints[key])), key
