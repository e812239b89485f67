"""Each limit at its edge: what equals it passes, one more is refused with what was asked and what is allowed."""

import gzip
import json
from typing import Any

import pytest

from service.capacity import memory
from service.capacity.memory import Account
from tests.conftest import MakeClient, Post
from tests.support import Server, assert_problem, every, head, network, xor

GRADIENTS = "/v1/gradients"
XOR = json.dumps(xor()).encode()


def padded(size: int) -> bytes:
    """Return the XOR request in exactly `size` bytes."""
    return XOR + b" " * (size - len(XOR))


def chunks(content: bytes, size: int = 65536) -> bytes:
    """Return a body in the chunked transfer coding."""
    parts = (content[start : start + size] for start in range(0, len(content), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


LIMITS = ("layers", "parameters", "tensor_elements", "operations", "workspace_bytes")
"""Limits of every computation on a network; the setting `max_layers` sets `layers`, and so on."""


@pytest.mark.parametrize("name", LIMITS)
def test_a_request_at_a_limit_passes_and_one_above_does_not(make_client: MakeClient, name: str) -> None:
    body = xor(include=["layers", "per_sample"])

    def ask(limit: int) -> Any:
        return make_client(**{f"max_{name}": limit}).post(GRADIENTS, json=body)

    limit, refused = 0, []
    while (response := ask(limit)).status_code != 200:
        (error,) = assert_problem(response, "limit-exceeded", body)["errors"]
        assert error["limit"] == name
        assert error["allowed"] == [limit]
        assert error["asked"] > limit
        limit = int(error["asked"])
        refused.append(limit)
        assert len(refused) < 10
    document = assert_problem(ask(limit - 1), "limit-exceeded", body)
    assert document["errors"][0]["asked"] == limit
    words = name.replace("_", " ")
    assert document["detail"] == f"The request asks for {limit:,} {words}; the limit is {limit - 1:,}."
    if name in ("layers", "parameters"):
        assert limit == {"layers": 2, "parameters": 9}[name]


def test_a_definition_within_one_servers_limits_is_not_remembered_by_another(make_client: MakeClient) -> None:
    assert make_client().post(GRADIENTS, json=xor()).status_code == 200
    assert_problem(make_client(max_layers=1).post(GRADIENTS, json=xor()), "limit-exceeded")
    assert make_client().post(GRADIENTS, json=xor()).status_code == 200


@every("units", [10**9, 2**53, 2**62, 2**63 - 1])
@every("count", [1, 2, 100])
def test_giants_are_refused_before_any_memory_is_taken(post: Post, units: int, count: int) -> None:
    body = xor(network=network(*[{"type": "dense", "units": units}] * count), parameters=...)
    (error,) = assert_problem(post(body), "limit-exceeded", body)["errors"]
    assert error["limit"] == "parameters"
    assert error["asked"] >= units
    assert error["allowed"] == [25_000_000]


def test_more_layers_than_allowed_are_refused_and_as_many_are_computed(make_client: MakeClient) -> None:
    client = make_client(max_layers=64)
    body = xor(network=network(*[{"type": "dense", "units": 1}] * 64), parameters=...)
    assert client.post(GRADIENTS, json=body).status_code == 200
    body["network"]["layers"].append({"type": "flatten"})
    (error,) = assert_problem(client.post(GRADIENTS, json=body), "limit-exceeded", body)["errors"]
    assert (error["pointer"], error["asked"], error["allowed"]) == ("#/network/layers", 65, [64])


def test_all_layers_allowed_by_default_are_computed(post: Post) -> None:
    layers = [{"type": "dense", "units": 2, "use_bias": False, "kernel_initializer": "orthogonal"}] * 512
    answer = post(xor(network=network(*layers), parameters=..., targets=[[0, 0]] * 4))
    assert answer.status_code == 200
    assert len(answer.json["gradients"]) == 512


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_body_may_be_as_long_as_the_limit(make_client: MakeClient, size: int) -> None:
    client = make_client(max_body_bytes=size)
    kind = {"content_type": "application/json"}
    assert client.post(GRADIENTS, data=padded(size), **kind).status_code == 200
    document = assert_problem(client.post(GRADIENTS, data=padded(size + 1), **kind), "too-large")
    assert f"{size:,} bytes" in document["detail"]


def test_the_limit_holds_for_decompressed_bodies(make_client: MakeClient) -> None:
    client = make_client(max_body_bytes=50_000)
    kind: Any = {"content_type": "application/json", "headers": {"Content-Encoding": "gzip"}}
    assert client.post(GRADIENTS, data=gzip.compress(padded(50_000)), **kind).status_code == 200
    assert_problem(client.post(GRADIENTS, data=gzip.compress(padded(50_001)), **kind), "too-large")
    assert_problem(client.post(GRADIENTS, data=gzip.compress(b"[" * 30_000_000), **kind), "too-large")


def test_the_limit_holds_for_bodies_that_announce_nothing(server: Server) -> None:
    limit = 4 * 2**20
    assert server.get("/v1").json["limits"]["body_bytes"] == limit
    start = head(GRADIENTS, None, Transfer_Encoding="chunked")
    assert server.send(start + chunks(padded(limit))).status_code == 200
    assert_problem(server.send(start + chunks(padded(limit + 1))), "too-large")
    assert server.send(start + chunks(XOR, 1)).status_code == 200


def test_the_limit_holds_for_what_is_announced(server: Server) -> None:
    for length in (4 * 2**20 + 1, 10**15, 10**30):
        assert_problem(server.send(head(GRADIENTS, length) + XOR), "too-large")


def test_a_compressed_bomb_is_not_unpacked(server: Server) -> None:
    bomb = gzip.compress(b" " * 100 * 2**20, 9)
    before = server.resident_bytes
    assert_problem(server.post(bomb, Content_Encoding="gzip"), "too-large")
    assert server.resident_bytes - before < 50 * 2**20


LARGE = {"network": network({"type": "dense", "units": 1000}), "inputs": [[0.5] * 1000] * 2}


def test_a_run_past_its_time_is_stopped_and_leaves_nothing_behind(make_client: MakeClient) -> None:
    client = make_client(max_seconds=0.0)
    for _ in range(3):
        document = assert_problem(client.post("/v1/forward", json=LARGE), "deadline-exceeded")
        assert document["detail"] == "The computation was stopped after 0 seconds, the limit of this server."
    assert client.post(GRADIENTS, json=xor()).get_data() == make_client().post(GRADIENTS, json=xor()).get_data()


def test_a_worker_outlives_a_run_past_its_time(open_server: Server) -> None:
    (worker,) = open_server.workers
    for _ in range(3):
        answer = open_server.post(json.dumps(LARGE).encode(), "/v1/forward")
        assert_problem(answer, "deadline-exceeded")
        assert answer.headers["Retry-After"] == "1"
        assert open_server.post(XOR).status_code == 200
    assert open_server.workers == [worker]


def test_requests_wait_for_memory_and_are_sent_away_in_the_end(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client()
    account: Account = client.application.extensions["nabla.memory"]
    monkeypatch.setattr(memory, "PATIENCE", 0.0)
    others = [account.reservation() for _ in range(1 + memory.LIGHT_SHARE)]
    for share, nbytes in zip(
        others, [account.most, *[account.aside // memory.LIGHT_SHARE] * memory.LIGHT_SHARE], strict=True
    ):
        share.need(nbytes)
    response = client.post(GRADIENTS, data=padded(70_000), content_type="application/json")
    assert_problem(response, "busy")
    assert int(response.headers["Retry-After"]) >= 1
    assert client.post(GRADIENTS, json=xor()).status_code == 200  # small ones need not wait
    assert client.get("/health/ready").status_code == 200
    assert account.held == account.total
    for share in others:
        share.release()
    with client.post(GRADIENTS, data=padded(70_000), content_type="application/json") as response:
        assert response.status_code == 200
    assert account.held == 0


def test_a_request_that_fails_gives_its_memory_back(make_client: MakeClient) -> None:
    client = make_client()
    account: Account = client.application.extensions["nabla.memory"]
    for body in (b"[" * 70_000, XOR[:-1] + b" " * 70_000, b'{"seed": -1}' + b" " * 70_000):
        assert client.post(GRADIENTS, data=body, content_type="application/json").status_code in (400, 422)
        assert account.held == 0


def test_a_definition_that_compiles_to_too_much_is_refused(make_client: MakeClient) -> None:
    body = xor(
        network=network(*[{"type": "dense", "units": 2, "activation": "gelu"}] * 20, {"type": "dense", "units": 1})
    )
    del body["parameters"]
    assert make_client().post(GRADIENTS, json=body).status_code == 200
    document = assert_problem(make_client(max_graph_nodes=100).post(GRADIENTS, json=body), "limit-exceeded")
    assert document["errors"][0] | {"detail": ""} == {
        "pointer": "#/network",
        "detail": "",
        "limit": "graph_nodes",
        "asked": 101,
        "allowed": [100],
    }


def test_sizes_that_no_number_holds_are_refused(make_client: MakeClient) -> None:
    layers = [{"type": "concatenate", "name": "c0", "inputs": ["input"] * 8}]
    layers += [{"type": "concatenate", "name": f"c{n}", "inputs": [f"c{n - 1}"] * 8} for n in range(1, 400)]
    body = {"network": {"layers": layers}, "inputs": [[1.0]], "targets": [[1.0]], "loss": "mse"}
    assert_problem(make_client().post(GRADIENTS, json=body), "limit-exceeded")


def test_a_layer_merges_a_bounded_number_of_others(make_client: MakeClient) -> None:
    body = xor(network=network({"type": "concatenate", "inputs": ["input"] * 300}, {"type": "dense", "units": 1}))
    document = assert_problem(make_client().post(GRADIENTS, json=body), "invalid")
    assert "1 to 256 names" in document["detail"]
