"""Tiny requests beside a runner that computes without a pause, against an idle one; and how often runs report.

    python -m benchmarks.runs.beside [--rounds 6] [--seconds 3]

Rounds with and without a run take turns. A client sends the XOR gradients over one kept connection. The bar: the
95th percentile beside a full runner is at most 1.5 times that of an idle one.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import time
from typing import Any

from benchmarks.runs.harness import HOST, Follower, Server, database, end_orderly, serving
from benchmarks.runs.kill import training
from service.api.examples import GRADIENTS

XOR = json.dumps({key: value for key, value in GRADIENTS["xor"].items() if key != "include"})
BAR = 1.5
LAYERS = 5
"""Convolutional layers of the run with long steps; a step then takes some seconds."""


def requests(port: int, seconds: float) -> list[float]:
    """Return the times in milliseconds of tiny requests, one after the other, with a pause between them."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        connection.request("POST", "/v1/gradients", XOR, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        times.append(1e3 * (time.perf_counter() - began))
        assert response.status == 200
        time.sleep(0.002)
    connection.close()
    return times


def start(server: Server, kind: str, request: dict[str, Any]) -> str:
    status, made = server.ask("POST", "/v1/runs", {"kind": kind, "request": request})
    assert status == 202, made
    name: str = made["id"]
    return name


def p95(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[94]


def beside(server: Server, rounds: int, seconds: float) -> None:
    found: dict[bool, list[float]] = {False: [], True: []}
    requests(server.port, 1.0)
    for _ in range(rounds):
        found[False] += requests(server.port, seconds)
        run = start(server, "train", training(10_000_000) | {"trace": {"every": 100}})
        while server.ask("GET", f"/v1/runs/{run}")[1]["status"] != "running":
            time.sleep(0.05)
        found[True] += requests(server.port, seconds)
        server.ask("DELETE", f"/v1/runs/{run}")
        time.sleep(0.5)
    ratio = p95(found[True]) / p95(found[False])
    for full, words in ((False, "idle runner"), (True, "full runner")):
        times = found[full]
        print(f"{words}: p50 {statistics.median(times):.2f} ms, p95 {p95(times):.2f} ms, {len(times)} requests")
    print(f"p95 ratio {ratio:.2f}, {'within' if ratio <= BAR else 'MISSED'} the bar of {BAR}")


def silences(server: Server) -> None:
    """Print for runs of several kinds the longest time between two lines of their streams, and between two reports."""
    filters = {"type": "conv2d", "filters": 64, "kernel_size": 3, "padding": "same", "activation": "tanh"}
    slow = training(3) | {
        "network": {"layers": [*[filters] * LAYERS, {"type": "global_max_pooling2d"}, {"type": "dense", "units": 1}]},
        "inputs": [[[[(x * y) % 7] for x in range(64)] for y in range(64)]],
        "targets": [[1]],
        "batch_size": 1,
        "optimizer": "sgd",
    }
    compare = {key: value for key, value in training(3000).items() if key != "optimizer"}
    compare |= {"optimizers": ["sgd", "adam"], "learning_rates": [0.001, 0.01]}
    sweep = {"request": training(300), "vary": {"/seed": list(range(10))}}
    descend = {
        "expression": "(x^2 + y - 11)^2 + (x + y^2 - 7)^2",
        "starts": [[0, 0]],
        "optimizers": ["adam", "sgd"],
        "steps": 20_000,
    }
    short = ("train, short steps", "train", training(8000))
    for words, kind, request in (
        short,
        ("train, long steps", "train", slow),
        ("compare", "compare", compare),
        ("sweep", "sweep", sweep),
        ("descend", "descend", descend),
    ):
        run = start(server, kind, request)
        follower = Follower(server.port, run)
        follower.start()
        reported, longest, seen = time.monotonic(), 0.0, 0.0
        began = reported
        while follower.summary is None and time.monotonic() < began + 60:
            entry = server.ask("GET", f"/v1/runs/{run}")[1]
            now = time.monotonic()
            if entry["status"] == "queued":
                reported = now
            if entry["seconds"] > seen:
                longest, reported, seen = max(longest, now - reported), now, entry["seconds"]
            time.sleep(0.05)
        print(
            f"{words}: {time.monotonic() - began:.1f} s, longest silence of the stream "
            f"{follower.longest_silence:.2f} s, of the entry {longest:.2f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    end_orderly()
    with database("sqlite") as environment, serving(environment, web=1) as server:
        if options.rounds:
            beside(server, options.rounds, options.seconds)
        silences(server)


if __name__ == "__main__":
    main()
