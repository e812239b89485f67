"""Large requests that other processes share are answered with the bytes of one process, however many there are."""

import copy
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flask import Flask

import service.api.parts
import service.api.sharing
import service.engine.descent.run_tiles
from service.app import create_app
from service.cluster.dask_cluster import Cluster
from service.cluster.dask_session import Session
from service.cluster.pool import Pool
from service.config import Settings
from service.engine.parallel import Executor
from tests.cluster.test_pool import wait_for
from tests.support import HIMMELBLAU, network

random = np.random.default_rng(11)

INPUTS, TARGETS = random.normal(size=(48, 6)).round(3).tolist(), random.normal(size=(48, 2)).round(3).tolist()
NETWORK = network(
    {"type": "dense", "name": "first", "units": 5, "activation": "tanh"},
    {"type": "dropout", "rate": 0.25},
    {"type": "dense", "units": 2, "kernel_regularizer": "l2"},
)
DATA = {"network": NETWORK, "inputs": INPUTS, "targets": TARGETS, "loss": "mean_squared_error", "seed": 3}
STARTS = random.uniform(-5, 5, (37, 2)).round(3).tolist()
CLAIMED = [
    {"id": f"student {place}", "claimed": {"first": {"kernel": (random.normal(size=(6, 5)) * place).round(3).tolist()}}}
    for place in range(5)
]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gradients": ("/v1/gradients", DATA | {"shards": 5, "training": True}),
    "train": ("/v1/train", DATA | {"shards": 8, "optimizer": "adam", "steps": 4, "batch_size": 32, "shuffle": True}),
    "compare": (
        "/v1/train/compare",
        DATA | {"optimizers": ["sgd", "adam", "rmsprop"], "learning_rates": [0.01, 1e30], "steps": 12},
    ),
    "descend": (
        "/v1/functions/descend",
        {
            "expression": HIMMELBLAU,
            "starts": STARTS,
            "optimizers": [{"type": "sgd", "learning_rate": 0.01}, {"type": "adam", "learning_rate": 3.0}, "nesterov"],
            "noise": {"scale": 0.5, "seed": 4},
            "clip": {"norm": 20.0},
            "stop": {"gradient_norm_below": 0.4},
            "steps": 60,
            "trace": {"every": 7, "include": ["gradients"]},
        },
    ),
    "searches": (
        "/v1/functions/descend",
        {
            "expression": "sqrt(abs(x)) + (y - 1)^2",
            "starts": STARTS,
            "optimizers": ["l_bfgs", {"type": "sgd", "learning_rate": 0.3}],
            "steps": 12,
            "trace": {"every": 3},
        },
    ),
    "basins": (
        "/v1/functions/surface",
        {"expression": HIMMELBLAU, "x": [-5, 5], "y": [-5, 5], "resolution": 9, "basins": True, "optimizer": "adam"},
    ),
    "sweep": (
        "/v1/gradients/diagnose",
        {"sweep": {"depths": [2, 9], "activations": ["relu", "tanh"], "seeds": [0, 1, 2], "units": 8}, "seed": 3},
    ),
    "verify": ("/v1/gradients/verify", DATA | {"submissions": CLAIMED}),
}


def counting(executor: Executor) -> list[str]:
    """Return the names of the functions that an executor is given from now on."""
    names: list[str] = []
    submit = executor.submit

    def counted(function: Callable[..., Any], /, *arguments: Any) -> Any:
        names.append(function.__name__)
        return submit(function, *arguments)

    executor.submit = counted  # type: ignore[method-assign]
    return names


@pytest.fixture(scope="module", autouse=True)
def everything_is_large() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.api.sharing, "LEAST_SECONDS", 0.0)
        patch.setattr(service.api.parts.Workers, "least_work", 0.0)
        patch.setattr(service.engine.descent.run_tiles, "STARTS", 8)
        yield


@pytest.fixture(scope="module")
def alone() -> Flask:
    return create_app(Settings())


@pytest.fixture(scope="module")
def answers(alone: Flask) -> dict[str, bytes]:
    return {name: answer(alone, name) for name in CASES}


def answer(app: Flask, name: str) -> bytes:
    path, body = CASES[name]
    response = app.test_client().post(path, json=copy.deepcopy(body))
    assert response.status_code == 200, response.text
    return response.data


def check(app: Flask, executor: Executor, answers: dict[str, bytes]) -> None:
    names = counting(executor)
    for name, expected in answers.items():
        names.clear()
        assert answer(app, name) == expected, name
        assert names, f"{name} was computed here"


def check_with_a_loss(app: Flask, executor: Executor, answers: dict[str, bytes], name: str) -> None:
    """Check an answer while one of the processes is killed."""
    victim, submit = executor.submit(os.getpid).result(), executor.submit
    left = [victim]

    def killing(function: Callable[..., Any], /, *arguments: Any) -> Any:
        part = submit(function, *arguments)
        if left:
            os.kill(left.pop(), signal.SIGKILL)
        return part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "submit", killing)
        assert answer(app, name) == answers[name], name
    assert not left


def test_a_pool_gives_the_bytes_of_one_process(answers: dict[str, bytes]) -> None:
    app = create_app(Settings(pool=2))
    pool = app.extensions["nabla"].executor
    assert isinstance(pool, Pool)
    for width in (1, 2, 3):
        pool.width = width  # by which computations are cut; there are two processes
        check(app, pool, answers)
    check_with_a_loss(app, pool, answers, "compare")
    pool.close()


def test_dask_gives_the_bytes_of_one_process(
    local: Any, answers: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(Settings(cluster=local.scheduler_address))
    cluster = app.extensions["nabla"].executor
    assert isinstance(cluster, Cluster)
    wait_for(lambda: cluster.width == 2)
    check(app, cluster, answers)
    fitting = Session.fitting.fget
    assert fitting is not None
    monkeypatch.setattr(Session, "fitting", property(lambda session: fitting(session)[:1]))
    assert cluster.width == 1
    check(app, cluster, answers)
    monkeypatch.undo()
    check_with_a_loss(app, cluster, answers, "gradients")
    cluster.close()
