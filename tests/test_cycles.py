"""Dropped objects are freed at once: no reference cycles wait for the garbage collector."""

import asyncio
import gc
import json
import socket
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from schemas.requests import recipes
from service.api.endpoint import ENDPOINTS
from service.app import create_app
from service.capacity import collector
from service.capacity.collector import Collector
from service.config import Settings
from service.edge.connection import Connection
from service.edge.edge import Edge
from service.engine.errors import EngineError
from service.engine.functions.compiled import FunctionTask
from service.engine.functions.expression import parse
from service.engine.graph import plan
from service.engine.graph.ir import Graph, Node, sealing
from service.engine.limits import Limits
from service.engine.onnx import files
from tests.conftest import MakeClient
from tests.support import network, xor

POSTS = {
    f"{operation.path} {name}": (operation.path, dict(body))
    for operation in ENDPOINTS
    if operation.method == "POST" and "{" not in operation.path
    for name, body in operation.examples.items()
}


INTERPRETED = ("/v1/graph", "/v1/gradients/explain")
"""They compile graphs and look at every value; they compile no programs."""


def freeze() -> None:
    """Freeze all present objects, so that collections only examine those that a test makes."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_collector() -> Iterator[None]:
    freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def made(monkeypatch: pytest.MonkeyPatch, kind: type[Any]) -> list[weakref.ref[Any]]:
    """Return a list that collects weak references to all objects of a class that are made from now on."""
    references: list[weakref.ref[Any]] = []
    before = kind.__init__

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        references.append(weakref.ref(self))
        before(self, *arguments, **named)

    monkeypatch.setattr(kind, "__init__", init)
    return references


@pytest.fixture(scope="module")
def emptied(make_client: MakeClient) -> FlaskClient:
    """Yield a client of an application that has compiled nothing when a test begins."""
    return make_client()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("example", POSTS)
def test_programs_and_graphs_are_gone_when_they_are_evicted(
    emptied: FlaskClient, monkeypatch: pytest.MonkeyPatch, example: str, accept: str
) -> None:
    path, body = POSTS[example]
    client = emptied
    programs, workspaces = made(monkeypatch, plan.Program), made(monkeypatch, plan.Workspace)
    graphs = made(monkeypatch, Graph)
    answer = client.post(path, json=body, headers={"Accept": accept}, buffered=True)
    assert answer.status_code in (200, 201, 202, 406)
    if answer.status_code == 200 and path != "/v1/networks":  # which compiles nothing
        assert any(program() for program in programs) or path in INTERPRETED
        assert any(graph() for graph in graphs) or path.startswith("/v1/functions")
    client.application.extensions["nabla.memory"]._caches[1].shrink(2**40)  # the compiled definitions
    assert not any(program() for program in programs)
    assert not any(workspace() for workspace in workspaces)
    assert not any(graph() for graph in graphs)
    stored = client.application.extensions["nabla.store"].loaded.nbytes
    assert client.application.extensions["nabla.memory"].cached == recipes.nbytes + files.nbytes + stored


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
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
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
    assert client.post("/v1/gradients", json=xor()).status_code == 200  # known from now on

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


def unreachable(act: Callable[[], object]) -> Counter[str]:
    """Return the types of all objects that only the garbage collector can free after calling `act`."""
    act()  # what is made once is made now
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        act()
        gc.collect()
        return Counter(f"{type(found).__module__}.{type(found).__qualname__}" for found in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


@pytest.fixture(scope="module")
def served() -> FlaskClient:
    freeze()
    return create_app(Settings(log_requests=False)).test_client()


@pytest.fixture(scope="module")
def least(served: FlaskClient) -> Counter[str]:
    """Return the reference cycles that any request leaves: those of the router and the test client."""
    return unreachable(lambda: served.get("/health/live", buffered=True).close())


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("path", dict.fromkeys(path for path, _ in POSTS.values()))
def test_requests_leave_nothing_to_the_collector(
    served: FlaskClient, least: Counter[str], path: str, accept: str
) -> None:
    bodies = [body | wrong for place, body in POSTS.values() if place == path for wrong in ({}, {"foo": 1})]

    def ask() -> None:
        served.application.extensions["nabla.memory"]._caches[1].shrink(2**40)  # so that all is compiled again
        for body in bodies:
            served.post(path, json=body, headers={"Accept": accept}, buffered=True).close()

    found = unreachable(ask)
    assert found.total() <= least.total() * len(bodies), found


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("GET", "/v1/gradients"), ("POST", "/v1/layers")])
def test_requests_to_no_view_leave_nothing_to_the_collector(
    served: FlaskClient, least: Counter[str], method: str, path: str
) -> None:
    found = unreachable(lambda: served.open(path, method=method, buffered=True).close())
    assert found.total() <= least.total(), found - least


@pytest.mark.usefixtures("no_collector")
def test_a_connection_is_gone_when_it_is_lost() -> None:
    async def connect() -> None:
        loop = asyncio.get_running_loop()
        edge = Edge(create_app(Settings(log_requests=False)), loop, keep_alive=1.0, parser_options={})
        for _ in range(2):
            here, there = socket.socketpair()
            here.setblocking(False)
            there.setblocking(False)
            await loop.connect_accepted_socket(lambda: Connection(edge), there)
            await loop.sock_sendall(here, b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await loop.sock_recv(here, 1000)).startswith(b"HTTP/1.1 200")
            (connection,) = edge.connections
            gone = weakref.ref(connection), weakref.ref(connection.transport)
            del connection
            here.close()
            while edge.connections:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [reference() for reference in gone] == [None, None]

    asyncio.run(connect())


def test_what_was_compiled_is_looked_at_once_it_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(gc, "collect", looks.append)
    collecting = Collector()
    collecting.made(collector.NODES - 2 * collector.OTHERS - 1)
    assert not looks
    collecting.made(1)
    assert looks == [1]
    for _ in range(collector.NODES // (collector.OTHERS + 10) + 1):
        collecting.made(10)
    assert looks == [1, 1]


@pytest.mark.usefixtures("no_collector")
def test_nothing_is_looked_for_where_the_collector_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda _: pytest.fail("it looked"))
    Collector().made(10**9)


def test_objects_wait_for_no_look_at_all_programs(make_client: MakeClient) -> None:
    """With a full cache, as many objects are freed as are made: Python's own count stays low meanwhile."""
    client = make_client(cached_bytes=2**20)
    before = gc.get_threshold()
    found: list[int] = []

    def look(phase: str, about: dict[str, int]) -> None:
        if phase == "start" and about["generation"] < 2:
            found.append(sum(len(gc.get_objects(generation)) for generation in range(about["generation"] + 1)))

    def ask(number: int) -> None:
        layers = [{"type": "lstm", "name": f"lstm_{number}", "units": 2}, {"type": "dense", "units": 1}]
        body = {"network": {"layers": layers}, "inputs": [[[1.0, 0.5]] * 20], "targets": [[1.0]]}
        assert client.post("/v1/gradients", json=body | {"loss": "mean_squared_error"}).status_code == 200

    gc.collect()
    gc.callbacks.append(look)
    gc.set_threshold(20_000, 5, 1_000_000)
    try:
        for number in range(30):
            ask(number)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(look)
    assert found
    assert max(found) < 30_000
