"""The service over HTTP: requests per second against an empty Flask view, answer times against Tesseract and UM-Bridge.

Every server is one process with one worker, on the loopback interface and a free port. Where the system allows it,
servers stay on one processor and the clients on another, so that neither pushes the other around. Answers are compared
before anything is timed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.by_hand import sigmoid_gradients, softmax_gradients
from benchmarks.measure import Bar, Timing, blas, free_port, in_turns, installed, ratio_rows, table, typical_ratio
from benchmarks.networks import DIGITS, XOR, Case
from schemas.tensor import encode

ROOT = Path(__file__).resolve().parent.parent
OURS, QUIET, AGAINST, TYPED, EMPTY, EMPTY_POST, TESSERACT, UM_BRIDGE = (
    "this service",
    "this service, no request log",
    "the other checkout",
    "this service, typed arrays",
    "empty Flask view, GET",
    "empty Flask view, the same POST",
    "Tesseract",
    "UM-Bridge",
)
CONNECTIONS = (8, 64)
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Request:
    """One request to a server, and a function that finds the first layer's kernel gradient in the response."""

    port: int
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    first_gradient: Callable[[Any], Any] | None = None

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    def send(self, connection: http.client.HTTPConnection) -> bytes:
        connection.request(self.method, self.path, self.body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{self.path} answered {answer.status}: {content[:500]!r}")
        return content


def processors() -> tuple[set[int], set[int]] | None:
    """Return a set with one processor for the servers and the set of all others for the clients.

    Return None if there is only one processor, or if this system cannot pin processes.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    first, *others = sorted(os.sched_getaffinity(0))
    return ({first}, set(others)) if others else None


PROCESSORS = processors()


@contextlib.contextmanager
def server(
    name: str,
    command: Sequence[str],
    ready: str,
    port: int,
    extra: Mapping[str, str] | None = None,
    root: Path = ROOT,
) -> Iterator[int]:
    """Run a server during the block and yield its port; it is ready once `GET ready` gets a response.

    Exit the process and print the server's log if it does not start within a minute.
    """
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, "PYTHONPATH": str(root), "NABLA_RUNNERS": "0", **(extra or {})}
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT)
        if PROCESSORS is not None:
            os.sched_setaffinity(process.pid, PROCESSORS[0])
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                    connection.request("GET", ready)
                    connection.getresponse().read()
                    connection.close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        print(log.read().decode(errors="replace")[-3000:])
                        raise SystemExit(f"{name} did not start") from None
                    time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def gunicorn(
    name: str, application: str, ready: str, root: Path = ROOT, extra: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[int]:
    """Run an application with one worker and a checkout's gunicorn.conf.py, on a free port, which `with` yields."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--config", str(root / "gunicorn.conf.py")]
    command += ["--bind", f"127.0.0.1:{port}", "--workers", "1", application]
    return server(name, command, ready, port, extra, root)


def tesseract() -> contextlib.AbstractContextManager[int]:
    port = free_port()
    # As its command-line tool starts it; it keeps one directory per request, which the benchmark throws away.
    outputs = tempfile.TemporaryDirectory(prefix="tesseract-")
    extra = {
        "TESSERACT_API_PATH": str(ROOT / "benchmarks" / "peers" / "tesseract_api.py"),
        "TESSERACT_OUTPUT_PATH": outputs.name,
    }
    command = [sys.executable, "-m", "tesseract_core.runtime", "serve", "--host", "127.0.0.1", "--port", str(port)]

    @contextlib.contextmanager
    def running() -> Iterator[int]:
        with outputs, server(TESSERACT, command, "/health", port, extra):
            yield port

    return running()


def um_bridge() -> contextlib.AbstractContextManager[int]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.umbridge_server", str(port)]
    return server(UM_BRIDGE, command, "/Info", port)


def our_request(case: Case, port: int) -> Request:
    layer = case.layer_names[0]
    body = json.dumps(case.request()).encode()
    return Request(port, "/v1/gradients", body, JSON, lambda answer: answer["gradients"][layer]["kernel"])


def our_typed_request(case: Case, port: int) -> Request:
    """Return the request of `our_request`, with every array as base64 in the request and in the response."""
    numbers = case.numbers("float64")
    body = case.request()
    body |= {"inputs": encode(numbers.inputs), "targets": encode(numbers.targets)}
    body["parameters"] = case.tree(numbers.kernels, numbers.biases, encode)

    def first(answer: Any) -> Any:
        tensor = answer["gradients"][case.layer_names[0]]["kernel"]
        return np.frombuffer(base64.b64decode(tensor["base64"])).reshape(tensor["shape"])

    headers = {**JSON, "Accept": "application/json; tensors=base64"}
    return Request(port, "/v1/gradients", json.dumps(body).encode(), headers, first)


def tesseract_request(case: Case, port: int) -> Request:
    numbers = case.numbers("float64")

    def encoded(array: Any) -> dict[str, Any]:
        data = {"buffer": array.tolist(), "encoding": "json"}
        return {"object_type": "array", "shape": list(array.shape), "dtype": "float64", "data": data}

    inputs: dict[str, Any] = {"inputs": encoded(numbers.inputs), "targets": encoded(numbers.targets), "loss": case.loss}
    weights = []
    for number, (kernel, bias) in enumerate(zip(numbers.kernels, numbers.biases, strict=True), 1):
        inputs |= {f"kernel_{number}": encoded(kernel), f"bias_{number}": encoded(bias)}
        weights += [f"kernel_{number}", f"bias_{number}"]
    one = {"object_type": "array", "shape": [], "dtype": "float64", "data": {"buffer": 1.0, "encoding": "json"}}
    body = {"inputs": inputs, "vjp_inputs": weights, "vjp_outputs": ["loss"], "cotangent_vector": {"loss": one}}
    return Request(
        port,
        "/vector_jacobian_product",
        json.dumps(body).encode(),
        JSON,
        lambda answer: answer["kernel_1"]["data"]["buffer"],
    )


def um_bridge_request(case: Case, port: int) -> Request:
    numbers = case.numbers("float64")
    vectors = [numbers.flat_parameters(), numbers.inputs.reshape(-1), numbers.targets.reshape(-1)]
    body: dict[str, Any] = {
        "name": "xor" if case is XOR else "digits",
        "outWrt": 0,
        "inWrt": 0,
        "input": [vector.tolist() for vector in vectors],
        "sens": [1.0],
        "config": {},
    }

    def first(answer: Any) -> Any:
        features, hidden = case.sizes[:2]
        rows = answer["output"][: features * hidden]
        return [rows[start : start + hidden] for start in range(0, features * hidden, hidden)]

    return Request(port, "/Gradient", json.dumps(body).encode(), JSON, first)


def check_answers(case: Case, requests: Mapping[str, Request]) -> None:
    """Exit the process if a server's gradient is not that of NumPy: then the times cannot be compared."""
    numbers = case.numbers("float64")
    compute = sigmoid_gradients if case is XOR else softmax_gradients
    _, _, (expected, *_) = compute(numbers.kernels, numbers.biases, numbers.inputs, numbers.targets)
    for name, request in requests.items():
        if request.first_gradient is None:
            continue
        connection = http.client.HTTPConnection("127.0.0.1", request.port)
        found = np.asarray(request.first_gradient(json.loads(request.send(connection))))
        connection.close()
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-9, atol=1e-12):
            raise SystemExit(f"{case.name}: {name} answers another gradient")


# --- answer times -------------------------------------------------------------------------------


def time_answers(
    case: Case, requests: Mapping[str, Request], rounds: int, count: int, bars: Mapping[str, Bar]
) -> list[list[str]]:
    """Return a table row per server with the median response time on one kept connection.

    Servers take turns of `count` requests; `bars` judge the ratio of ours to each server.
    """
    connections = {name: http.client.HTTPConnection("127.0.0.1", one.port) for name, one in requests.items()}

    def turn(name: str) -> float:
        request, connection = requests[name], connections[name]
        request.send(connection)  # a connection that was closed meanwhile is opened again here
        taken = []
        for _ in range(count):
            start = time.perf_counter()
            request.send(connection)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    timings = {name: Timing(tuple(values)) for name, values in in_turns(list(requests), rounds, turn).items()}
    for connection in connections.values():
        connection.close()
    return ratio_rows(timings, OURS, bars)


# --- requests per second ------------------------------------------------------------------------


def wrk_script(request: Request) -> str:
    """Return the Lua script with which the load generator wrk sends the request."""
    lines = [f'wrk.method = "{request.method}"', *(f'wrk.headers["{k}"] = "{v}"' for k, v in request.headers.items())]
    if request.body is not None:
        lines.append(f"wrk.body = [==[{request.body.decode()}]==]")
    return "\n".join(lines)


def wrk_rate(wrk: str, request: Request, count: int, seconds: float, folder: str) -> float:
    script = Path(folder) / f"{request.port}-{request.method}.lua"
    script.write_text(wrk_script(request))
    command = [wrk, "-t1", f"-c{count}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
    command.append(f"http://127.0.0.1:{request.port}{request.path}")
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise SystemExit(f"{request.path} failed under load:\n{output}")
    found = re.search(r"Requests/sec:\s*([\d.]+)", output)
    assert found is not None, output
    return float(found[1])


def python_rate(request: Request, count: int, seconds: float) -> float:
    """Return the requests per second that threads of this process reach, for machines without wrk."""
    counts = [0] * count
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", request.port)
        while time.perf_counter() < end:
            request.send(connection)
            counts[number] += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def rates(
    requests: Mapping[str, Request], count: int, rounds: int, seconds: float, bars: Mapping[str, Bar]
) -> list[list[str]]:
    """Return a table row per server with the requests per second over `count` kept connections, in turns."""
    wrk = shutil.which("wrk")
    with tempfile.TemporaryDirectory() as folder:

        def turn(name: str) -> float:
            if wrk is None:
                return python_rate(requests[name], count, seconds)
            return wrk_rate(wrk, requests[name], count, seconds, folder)

        measured = in_turns(list(requests), rounds, turn)
    mine = measured[OURS]
    rows = []
    for name, values in measured.items():
        ratio = typical_ratio(mine, values)
        best = f"{max(mine) / max(values):.2f}"
        verdict = bars[name].verdict(ratio) if name in bars else ""
        rows.append([name, f"{statistics.median(values):.0f}", f"{max(values):.0f}", f"{ratio:.2f}", best, verdict])
    return rows


# --- all of it ----------------------------------------------------------------------------------


def compare_peers(ports: Mapping[str, int], rounds: int, quick: bool) -> None:
    header = ("one kept connection", "request", "median p50", "least p50", "ours/it", "of the least", "bar")
    for case, count in ((XOR, 40 if quick else 400), (DIGITS, 3 if quick else 10)):
        makers = {OURS: our_request, TYPED: our_typed_request, TESSERACT: tesseract_request}
        makers[UM_BRIDGE] = um_bridge_request
        requests = {name: make(case, ports[name]) for name, make in makers.items() if name in ports}
        check_answers(case, requests)
        rows = time_answers(case, requests, rounds, count, {TESSERACT: Bar(0.4)})
        for row, request in zip(rows, requests.values(), strict=True):
            row.insert(1, f"{len(request.body or b'') / 1e3:.1f} kB")
        table(f"{case.name}, weights in the request, float64", header, rows)


def compare_servers(
    stack: contextlib.ExitStack, port: int, against: Path | None, rounds: int, seconds: float, quick: bool
) -> None:
    """Print tables of our speed against an empty Flask view, and against another checkout if `against` names one."""
    ours = our_request(XOR, port)
    floor = stack.enter_context(gunicorn(EMPTY, "benchmarks.peers.empty:app", "/"))
    silent = {"NABLA_LOG_REQUESTS": "false"}
    quiet = stack.enter_context(gunicorn(QUIET, "service.app:create_app()", "/health/live", extra=silent))
    requests = {
        OURS: ours,
        QUIET: our_request(XOR, quiet),
        EMPTY: Request(floor, "/"),
        EMPTY_POST: Request(floor, "/", ours.body),
    }
    bars = {QUIET: Bar(0.95, at_least=True), EMPTY_POST: Bar(0.6, at_least=True)}
    if against is not None:
        other = stack.enter_context(gunicorn(AGAINST, "service.app:create_app()", "/health/live", against.resolve()))
        requests[AGAINST] = our_request(XOR, other)
        bars[AGAINST] = Bar(1.4, at_least=True)
    check_answers(XOR, requests)
    client = "wrk" if shutil.which("wrk") else "Python threads, wrk is not installed"
    header = ("contender", "median req/s", "best", "ours/it", "of the best", "bar")
    for count in CONNECTIONS:
        rows = rates(requests, count, rounds, seconds, bars)
        table(f"XOR over HTTP, one worker, {count} kept connections, {client}", header, rows)
    if against is not None:
        answered = {name: requests[name] for name in (OURS, QUIET, AGAINST)}
        rows = time_answers(XOR, answered, rounds, 40 if quick else 400, {AGAINST: Bar(1.0)})
        table("XOR over one kept connection", ("contender", "p50", "least p50", "ours/it", "of the least", "bar"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender (default 7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="load per turn (default 2)")
    parser.add_argument("--quick", action="store_true", help="two short turns, to see that it runs")
    parser.add_argument("--only", choices=("rate", "peers"), help="one of the two comparisons")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with the server of another checkout")
    options = parser.parse_args()
    rounds, seconds = (2, 1.0) if options.quick else (options.rounds, options.seconds)
    print(blas())
    if PROCESSORS is None:
        print("servers and clients share the processors")
    else:
        os.sched_setaffinity(0, PROCESSORS[1])
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(gunicorn(OURS, "service.app:create_app()", "/health/live"))
        if options.only != "peers":
            compare_servers(stack, port, options.against, rounds, seconds, options.quick)
        if options.only != "rate":
            ports = {OURS: port, TYPED: port}
            if installed("tesseract_core"):
                ports[TESSERACT] = stack.enter_context(tesseract())
            if installed("umbridge"):
                ports[UM_BRIDGE] = stack.enter_context(um_bridge())
            compare_peers(ports, rounds, options.quick)


if __name__ == "__main__":
    main()
