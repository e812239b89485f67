"""Large requests that other processes share are answered with the bytes of one process, however many there are."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flask import Flask

import service.api.parts
import service.api.sharing
from service.app import create_app
from service.cluster.dask_cluster import Cluster
from service.cluster.pool import Pool
from service.config import Settings
from service.engine.parallel import Executor
from tests.cluster.test_pool import wait_for
from tests.support import network

distributed = pytest.importorskip("distributed")
random = np.random.default_rng(11)

INPUTS, TARGETS = random.normal(size=(48, 6)).round(3).tolist(), random.normal(size=(48, 2)).round(3).tolist()
NETWORK = network({"type": "dense", "units": 5, "activation": "tanh"}, {"type": "dropout", "rate": 0.25},
                  {"type": "dense", "units": 2, "kernel_regularizer": "l2"})  # fmt: skip
DATA = {"network": NETWORK, "inputs": INPUTS, "targets": TARGETS, "loss": "mean_squared_error", "seed": 3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gradients": ("/v1/gradients", DATA | {"shards": 5, "training": True}),
    "train": ("/v1/train", DATA | {"shards": 8, "optimizer": "adam", "steps": 4, "batch_size": 32, "shuffle": True}),
    "compare": (
        "/v1/train/compare",
        DATA | {"optimizers": ["sgd", "adam", "rmsprop"], "learning_rates": [0.01, 1e30], "steps": 12},
    ),
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


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_pool_gives_the_bytes_of_one_process(width: int, answers: dict[str, bytes]) -> None:
    app = create_app(Settings(pool=width))
    pool = app.extensions["nabla"].executor
    assert isinstance(pool, Pool)
    check(app, pool, answers)
    pool.close()


def test_dask_gives_the_bytes_of_one_process(answers: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(__import__("sys").path))
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as local:
        app = create_app(Settings(cluster=local.scheduler_address))
        cluster = app.extensions["nabla"].executor
        assert isinstance(cluster, Cluster)
        for width in (1, 2, 3):
            local.scale(width)
            wait_for(lambda width=width: len(local.scheduler.workers) == width and cluster.width == width)  # type: ignore[misc]
            check(app, cluster, answers)
        cluster.close()
