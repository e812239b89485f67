"""`shards` of gradients and trainings: the answers of the whole batch, whoever computes, in less memory."""

import base64
import itertools
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from service.api.examples import COMPARE, GRADIENTS, TRAIN
from service.api.network_request import SHARDS_NEED_LESS
from service.api.parts import MOST_RECIPES, Recipe, Workers, described
from service.capacity.admission import Ticket
from service.engine.parallel import Computed, Executor
from tests.conftest import MakeClient, Post
from tests.support import answered, assert_problem, every, faults, network

RNG = np.random.default_rng(4)
SAMPLES = 22
NETWORK = network(
    {"type": "dense", "name": "hidden", "units": 5, "activation": "tanh", "kernel_regularizer": "l2"},
    {"type": "dropout", "name": "drop", "rate": 0.25},
    {"type": "dense", "name": "out", "units": 3, "activation": "softmax"},
)
BODY: dict[str, Any] = {
    "network": NETWORK,
    "inputs": RNG.standard_normal((SAMPLES, 4)).tolist(),
    "targets": RNG.integers(3, size=SAMPLES).tolist(),
    "sample_weights": RNG.uniform(0.5, 2.0, SAMPLES).tolist(),
    "normalize_weights": True,
    "loss": {"type": "sparse_categorical_crossentropy", "class_weights": [1.0, 2.0, 3.0]},
}
EVERYTHING = {"include": ["layers", "norms", "input_gradients", "per_sample"], "training": True}
TRAINING = BODY | {"optimizer": "adam", "epochs": 2, "batch_size": 8, "validation": {"inputs": BODY["inputs"][:5]}}
TRAINING["validation"]["targets"] = BODY["targets"][:5]
COMPARISON = {key: value for key, value in TRAINING.items() if key != "optimizer"} | {"optimizers": ["sgd", "adam"]}


def assert_alike(ours: Any, theirs: Any, place: str = "") -> None:
    """Assert that two documents are equal but for the rounding of numbers."""
    assert type(ours) is type(theirs), place
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), place
        for key, value in theirs.items():
            assert_alike(ours[key], value, f"{place}/{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), place
        for position, value in enumerate(theirs):
            assert_alike(ours[position], value, f"{place}/{position}")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-11, abs=1e-14), place
    else:
        assert ours == theirs, place


# --- the same answers -------------------------------------------------------------------------------


@every(
    "path, example",
    [
        *(("/v1/gradients", body) for body in GRADIENTS.values()),
        *(("/v1/train", body) for body in TRAIN.values()),
        *(("/v1/train/compare", body) for body in COMPARE.values()),
        ("/v1/gradients", BODY | EVERYTHING),
        ("/v1/gradients", BODY | EVERYTHING | {"reduction": "none"}),
        ("/v1/train", TRAINING),
    ],
)
def test_requests_in_shards_have_the_answers_of_those_without(path: str, example: Any, post: Post) -> None:
    theirs = post(example, path)
    for size in (1, 3, 1000):
        ours = post(dict(example) | {"shards": size}, path)
        if ours.status_code == 422 and theirs.status_code == 200:
            words = {"#/shards": "batch_normalization", "#/include": "onnx"}
            assert [words[place] in str(example) for place in faults(ours.json)] == [True]
        else:
            assert ours.status_code == theirs.status_code == 200
            assert_alike(ours.json, theirs.json)


def test_equal_requests_in_shards_have_equal_bytes(post: Post) -> None:
    for path, body in (("/v1/gradients", BODY), ("/v1/train", TRAINING)):
        first, second = (post(body | {"shards": 5}, path).get_data() for _ in range(2))
        assert first == second


# --- other processes --------------------------------------------------------------------------------


class Travelling:
    """An executor that computes at once, from the bytes that would travel to another process."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.shared: dict[str, bytes] = {}
        self.parts = 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Computed[Any]:
        self.parts += 1
        function, arguments = pickle.loads(pickle.dumps((function, arguments)))
        values = [pickle.loads(self.shared[each]) if isinstance(each, str) else each for each in arguments]
        return Computed(function, *values)

    def share(self, name: str, value: Any, *, keep: bool = True) -> Any:
        written = pickle.dumps(value)
        assert self.shared.setdefault(name, written) == written
        return name


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even the smallest computations ask other processes."""
    monkeypatch.setattr(Workers, "least_work", 0.0)


def with_executor(make_client: MakeClient, executor: Executor, **settings: Any) -> FlaskClient:
    client = make_client(**settings)
    extensions = client.application.extensions
    extensions["nabla"] = replace(extensions["nabla"], executor=executor)
    return client


def posting(client: FlaskClient) -> Post:
    """Return a function that posts a body to a path, as the fixture `post` does."""
    return lambda body, path="/v1/gradients": client.post(path, json=body)


CASES = [
    ("/v1/gradients", BODY | EVERYTHING),
    ("/v1/gradients", BODY | EVERYTHING | {"reduction": "none", "dtype": "float32"}),
    ("/v1/train", TRAINING),
    ("/v1/train", TRAINING | {"optimizer": "l_bfgs"}),
    ("/v1/train/compare", COMPARISON),
]


@pytest.mark.usefixtures("eager")
def test_the_answer_has_the_same_bytes_for_any_number_of_processes(post: Post, make_client: MakeClient) -> None:
    for (path, body), width in itertools.product(CASES, (1, 2, 3)):
        body = body | {"shards": 3}
        executor = Travelling(width)
        response = with_executor(make_client, executor).post(path, json=body)
        assert response.status_code == 200
        assert response.get_data() == post(body, path).get_data()
        assert executor.parts >= width


@pytest.mark.usefixtures("eager")
def test_samples_travel_once_and_parameters_once_for_each_evaluation(make_client: MakeClient) -> None:
    executor = Travelling(2)
    body = {key: value for key, value in TRAINING.items() if key not in ("validation", "batch_size", "epochs")}
    answered(posting(with_executor(make_client, executor)), body | {"shards": 6, "steps": 4}, "/v1/train")
    kinds = [name.split("/")[0] for name in executor.shared]
    assert (kinds.count("recipe"), kinds.count("samples"), kinds.count("parameters")) == (1, 2, 5)


def test_small_computations_ask_nobody(make_client: MakeClient) -> None:
    executor = Travelling(2)
    answered(posting(with_executor(make_client, executor)), BODY | {"shards": 4})
    assert executor.parts == 0


def test_a_process_remembers_networks_as_objects() -> None:
    described.cache_clear()
    recipe = Recipe(b'{"loss":"mse","network":{"layers":[{"type":"dense","units":2}]}}')
    assert described(recipe)[0] is described(Recipe(bytes(bytearray(recipe.json))))[0]
    definition, losses = described(recipe)
    assert definition.output_names == ("dense_1",)
    assert [loss.name for loss in losses] == ["mean_squared_error"]
    assert described.cache_info().maxsize == MOST_RECIPES


class Endless:
    """An executor whose parts never end."""

    width = 2

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]

    def share(self, name: str, value: Any, *, keep: bool = True) -> Any:
        return value


@pytest.mark.usefixtures("eager")
def test_a_deadline_cancels_the_parts(make_client: MakeClient) -> None:
    executor = Endless()
    client = with_executor(make_client, executor, max_seconds=0.3)
    began = time.monotonic()
    assert_problem(client.post("/v1/gradients", json=BODY | {"shards": 4}), "deadline-exceeded")
    assert time.monotonic() - began < 20.0
    assert len(executor.futures) == 6
    assert all(future.cancelled() for future in executor.futures)


# --- networks of the store and of files -------------------------------------------------------------


@pytest.fixture
def stored(make_client: MakeClient, tmp_path: Path) -> Iterator[tuple[FlaskClient, Travelling]]:
    """A client with a store of its own, and the executor of its application."""
    executor = Travelling(2)
    client = with_executor(make_client, executor, data=str(tmp_path))
    yield client, executor
    client.application.extensions["nabla.store"].close()


@pytest.mark.usefixtures("eager")
def test_a_stored_network_travels_as_what_it_is(stored: tuple[FlaskClient, Travelling]) -> None:
    client, executor = stored
    made = client.post("/v1/networks", json={"network": NETWORK | {"input_shape": [4]}}).json
    body = BODY | {"shards": 4, "training": True}
    ours = answered(posting(client), body | {"network": {"id": made["id"]}})
    assert executor.parts == 6
    assert ours == answered(posting(client), body)


@pytest.mark.usefixtures("eager")
def test_an_onnx_file_travels_stored_or_sent(stored: tuple[FlaskClient, Travelling]) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    from tests.engine.onnx.models import perceptron

    client, executor = stored
    data = perceptron()
    sent = {"onnx": {"base64": base64.b64encode(data).decode()}}
    made = client.post("/v1/networks", json={"network": sent}).json
    body = {"inputs": RNG.standard_normal((7, 4)).tolist(), "targets": [[0, 1, 0]] * 7, "loss": "mse"}
    theirs = answered(posting(client), body | {"network": sent})
    assert executor.parts == 0
    for given in (sent, {"id": made["id"]}):
        assert_alike(answered(posting(client), body | {"network": given, "shards": 2}), theirs)
    assert executor.parts == 4
    for asked in ("layers", "norms"):
        refused = client.post("/v1/gradients", json=body | {"network": sent, "shards": 2, "include": [asked]})
        assert "ONNX" in faults(assert_problem(refused, "invalid"))["#/include"]


def test_an_onnx_file_for_a_fixed_number_of_samples_is_refused(post: Post) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    from tests.engine.onnx.models import model, node, value

    weights = {"w": np.ones((2, 3), np.float32)}
    fixed = model([node("MatMul", ["x", "w"], ["y"])], [value("x", [4, 2])], [value("y", [4, 3])], weights)
    steps = [
        node("ReduceMean", ["x"], ["mean"], axes=[0]),
        node("Sub", ["x", "mean"], ["rest"]),
        node("MatMul", ["rest", "w"], ["y"]),
    ]
    mixed = model(steps, [value("x", ["n", 2])], [value("y", ["n", 3])], weights, opset=13)
    body = {"inputs": [[1, 2]] * 4, "targets": [[0, 1, 0]] * 4, "loss": "mse"}
    for data, words in ((fixed, "takes [4, 2]"), (mixed, "may depend on other samples")):
        asked = body | {"network": {"onnx": {"base64": base64.b64encode(data).decode()}}}
        answered(post, asked)
        assert words in faults(assert_problem(post(asked | {"shards": 2}), "invalid"))["#/shards"]


# --- limits and refusals ----------------------------------------------------------------------------


def test_a_batch_that_is_too_large_for_the_memory_is_computed_in_shards(make_client: MakeClient) -> None:
    wide = network({"type": "dense", "units": 200, "activation": "tanh"}, {"type": "dense", "units": 1})
    inputs = RNG.standard_normal((3000, 4))
    body = {"network": wide, "inputs": inputs.tolist(), "targets": inputs[:, :1].tolist(), "loss": "mse"}
    client, whole = make_client(max_workspace_bytes=2_000_000), posting(make_client())
    training = body | {"optimizer": "sgd", "steps": 2}
    for path, asked in (("/v1/gradients", body), ("/v1/train", training)):
        refused = assert_problem(client.post(path, json=asked), "limit-exceeded")
        assert "workspace" in refused["detail"]
        assert refused["errors"][0]["detail"].endswith(SHARDS_NEED_LESS)
        assert_alike(answered(posting(client), asked | {"shards": 300}, path), answered(whole, asked, path))
    sweep = {"request": training, "vary": {"/seed": [1, 2]}}
    for kind, request in (("train", training), ("sweep", sweep)):
        refused = assert_problem(client.post("/v1/runs", json={"kind": kind, "request": request}), "limit-exceeded")
        assert refused["errors"][0]["detail"].endswith(SHARDS_NEED_LESS)


def test_a_request_waits_for_a_slot_of_all_its_work(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand shards of few operations take a thousand times the calls of one, and so long a slot."""
    weighed: list[float] = []
    weigh = Ticket.weigh

    def noted(ticket: Ticket, cost: float, *, alone: bool = False) -> None:
        weighed.append(cost)
        weigh(ticket, cost, alone=alone)

    monkeypatch.setattr(Ticket, "weigh", noted)
    inputs = RNG.standard_normal((1000, 2)).tolist()
    body = {"network": network({"type": "dense", "units": 2}), "inputs": inputs, "targets": inputs, "loss": "mse"}
    for path, asked in (("/v1/gradients", body), ("/v1/train", body | {"optimizer": "sgd", "steps": 2})):
        costs = []
        for size in (1000, 1):
            weighed.clear()
            answered(post, asked | {"shards": size}, path)
            costs.append(max(weighed, default=0.0))
        assert costs[1] > 10 * costs[0]


@every("value", [0, -1, 1.5, "4", True, None, [4], 10**10])
def test_a_size_that_is_none_is_refused(value: Any, post: Post) -> None:
    for path, body in (("/v1/gradients", BODY), ("/v1/train", TRAINING), ("/v1/train/compare", COMPARISON)):
        assert list(faults(assert_problem(post(body | {"shards": value}, path), "invalid"))) == ["#/shards"]


def test_faults_of_a_request_are_told_as_without_shards(post: Post) -> None:
    wrong = [
        {"targets": BODY["targets"][:-1]},
        {"inputs": BODY["inputs"][:-1]},
        {"inputs": [[1.0]], "targets": [7]},
        {"sample_weights": [1.0]},
        {"targets": [3] * SAMPLES},
        {"parameters": {"hidden": {"kernel": [[1.0]]}}},
        {"inputs": {"other": BODY["inputs"]}},
    ]
    for changes in wrong:
        theirs = faults(assert_problem(post(BODY | changes), "invalid"))
        assert faults(assert_problem(post(BODY | changes | {"shards": 4}), "invalid")) == theirs


def test_requests_that_know_no_shards_say_which_do(post: Post) -> None:
    forward = {"network": NETWORK, "inputs": BODY["inputs"], "shards": 4}
    for path, body in (("/v1/forward", forward), ("/v1/gradients/diagnose", BODY | {"shards": 4})):
        assert "/v1/gradients" in faults(assert_problem(post(body, path), "invalid"))["#/shards"]
