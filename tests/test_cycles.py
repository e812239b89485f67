"""What is dropped is gone at once: no reference cycles wait for the garbage collector."""

from __future__ import annotations

import gc
import json
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from schemas.requests import recipes
from service.api.operation import OPERATIONS
from service.engine.errors import EngineError
from service.engine.functions.expression import parse
from service.engine.functions.function import FunctionTask
from service.engine.graph import plan
from service.engine.graph.ir import Graph, Node, sealing
from service.engine.limits import Limits
from tests.support import network, xor

POSTS = {
    f"{operation.path} {name}": (operation.path, dict(body))
    for operation in OPERATIONS
    if operation.method == "POST"
    for name, body in operation.examples.items()
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def made(monkeypatch: pytest.MonkeyPatch, kind: type[Any]) -> list[weakref.ref[Any]]:
    """References to all objects of a class that are made from now on."""
    references: list[weakref.ref[Any]] = []
    before = kind.__init__

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        references.append(weakref.ref(self))
        before(self, *arguments, **named)

    monkeypatch.setattr(kind, "__init__", init)
    return references


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("example", POSTS)
def test_programs_and_graphs_are_gone_when_they_are_evicted(
    make_client: Callable[..., FlaskClient], monkeypatch: pytest.MonkeyPatch, example: str, accept: str
) -> None:
    path, body = POSTS[example]
    client = make_client()
    programs, workspaces = made(monkeypatch, plan.Program), made(monkeypatch, plan.Workspace)
    graphs = made(monkeypatch, Graph)
    answer = client.post(path, json=body, headers={"Accept": accept}, buffered=True)
    assert answer.status_code in (200, 406)
    if answer.status_code == 200:
        assert any(program() for program in programs)
        assert any(graph() for graph in graphs) or path.startswith("/v1/functions")
    client.application.extensions["nabla.memory"]._caches[1].shrink(2**40)  # the compiled definitions
    assert not any(program() for program in programs)
    assert not any(workspace() for workspace in workspaces)
    assert not any(graph() for graph in graphs)
    assert client.application.extensions["nabla.memory"].cached == recipes.nbytes


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "change",
    [
        {"targets": [[0, 1, 2]] * 4},
        {"network": network(*[{"type": "dense", "units": 2}] * 600), "parameters": ...},
        {"network": network({"type": "conv2d", "filters": 2, "kernel_size": 3}), "parameters": ...},
        {"inputs": [["x"]]},
        {"parameters": {"hidden": {"kernel": [[1.0]]}}},
    ],
    ids=repr,
)
def test_refused_requests_leave_no_graph(
    make_client: Callable[..., FlaskClient], monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    client = make_client(max_graph_nodes=50)
    graphs = made(monkeypatch, Graph)
    assert client.post("/v1/gradients", json=xor(**change)).status_code == 422
    client.application.extensions["nabla.memory"]._caches[1].shrink(2**40)
    assert not any(graph() for graph in graphs)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "body",
    [
        xor(inputs=[[0.123456789 * n, n] for n in range(20_000)] + [["x", 1]]),
        xor(foo=[0.123456789 * n for n in range(40_000)]),
        xor(network={"layers": [{"type": "dense", "units": 1, "foo": [[0.5, n] for n in range(20_000)]}]}),
        xor(network={"layers": [{"type": "nonsense", "name": "x" * 400_000}]}),
        xor(parameters={"hidden": {"kernel": [[n, "x"] for n in range(20_000)]}}),
        xor(loss={"type": "huber", "delta": [n * 0.5 for n in range(20_000)]}),
        xor(targets={"a": [[n * 0.5] for n in range(20_000)]}),
    ],
    ids=["inputs", "unknown key", "unknown option", "type", "parameters", "option", "targets"],
)
def test_refused_bodies_are_gone(client: FlaskClient, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    assert len(content) > 100_000

    def refuse() -> None:
        assert client.post("/v1/gradients", data=content, content_type="application/json").status_code == 422

    refuse()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        refuse()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50_000


def test_a_sealed_graph_forgets_its_nodes_also_after_an_error() -> None:
    graphs: list[Graph] = []
    kept: list[Node] = []

    def fail() -> None:
        graphs.append(Graph("float64"))
        kept.append(graphs[0].input("x", ()))
        with sealing():
            inner = Graph("float64")
            inner.input("y", ())
        assert not inner.nodes and graphs[0].nodes
        raise EngineError

    with pytest.raises(EngineError), sealing():
        fail()
    assert not graphs[0].nodes
    assert kept[0].graph is graphs[0]


def test_a_program_that_ends_takes_its_workspaces_out_of_the_pool() -> None:
    pool = plan.WorkspacePool()
    with sealing():
        function = FunctionTask(parse("x*y"), 3, 2).compile(Limits(), pool)
    with function.program.workspace(), function.program.workspace():
        pass
    assert pool.nbytes == 2 * function.program.weight
    del function
    assert pool.nbytes == 0
