"""Measure the memory that a worker needs for one large request over HTTP, in multiples of its parameters (Linux only).

The request has dense layers of 2048 units, with parameters and gradients as base64 in float32. The peak is the worker's
own high-water mark of resident memory while it answers the request; before, it has answered a small one.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import Bar, duration, table
from benchmarks.service import JSON, OURS, gunicorn
from schemas.tensor import encode

UNITS = 2048
BAR = Bar(6.0)
"""The largest multiple, beside what the activations take."""


def request(layers: int, samples: int, units: int = UNITS) -> tuple[bytes, int]:
    """Return a body for `POST /v1/gradients` with random dense layers, and the size of its parameters in bytes."""
    generator = np.random.default_rng(1986)
    names = [f"dense_{number}" for number in range(1, layers + 1)]
    parameters = {
        name: {
            "kernel": generator.normal(0.0, (2.0 / units) ** 0.5, (units, units)).astype(np.float32),
            "bias": np.zeros(units, np.float32),
        }
        for name in names
    }
    body = {
        "network": {
            "layers": [{"type": "dense", "name": name, "units": units, "activation": "relu"} for name in names]
        },
        "parameters": {
            name: {key: encode(array) for key, array in arrays.items()} for name, arrays in parameters.items()
        },
        "inputs": encode(generator.standard_normal((samples, units)).astype(np.float32)),
        "targets": encode(generator.standard_normal((samples, units)).astype(np.float32)),
        "loss": "mean_squared_error",
        "dtype": "float32",
    }
    return json.dumps(body).encode(), sum(array.nbytes for arrays in parameters.values() for array in arrays.values())


def worker_of(port: int) -> Path:
    """Return the /proc directory of the only worker of the server on `port`; exit if there is none."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            children = (process / "task" / process.name / "children").read_text().split()
        except OSError:
            continue
        if f"127.0.0.1:{port}".encode() in command and len(children) == 1:
            return Path("/proc") / children[0]
    raise SystemExit("the worker was not found")


def resident(worker: Path, which: str) -> int:
    """Return the resident memory of a worker in bytes: `which` is `VmRSS` for now, `VmHWM` for the peak."""
    (line,) = (line for line in (worker / "status").read_text().splitlines() if line.startswith(f"{which}:"))
    return int(line.split()[1]) * 1024


def send(port: int, body: bytes, gzip: bool) -> tuple[float, bytes]:
    """Post a body to `/v1/gradients`; return the seconds until the whole response was there, and its bytes.

    With `gzip` the response may be compressed. Exit the process if the status is not 200.
    """
    headers = {**JSON, "Accept": "application/json; tensors=base64"} | ({"Accept-Encoding": "gzip"} if gzip else {})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    start = time.perf_counter()
    connection.request("POST", "/v1/gradients", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"answered {answer.status}: {content[:500]!r}")
    return time.perf_counter() - start, content


def measure(layers: int, samples: int, repeats: int, gzip: bool) -> list[list[str]]:
    body, nbytes = request(layers, samples)
    small, _ = request(1, 1, units=4)
    rows = []
    with gunicorn(OURS, "service.app:create_app()", "/health/live") as port:
        worker = worker_of(port)
        send(port, small, gzip)
        idle = resident(worker, "VmRSS")
        for number in range(1, repeats + 1):
            (worker / "clear_refs").write_text("5")  # the high-water mark starts again from what is resident
            seconds, content = send(port, body, gzip)
            peak, after = resident(worker, "VmHWM") - idle, resident(worker, "VmRSS") - idle
            verdict = BAR.verdict(peak / nbytes)
            rows.append(
                [
                    f"request {number}",
                    f"{len(body) / 1e6:.0f} MB",
                    f"{len(content) / 1e6:.0f} MB",
                    duration(seconds),
                    f"{peak / 1e6:.0f} MB",
                    f"{after / 1e6:.0f} MB",
                    f"{peak / nbytes:.2f}",
                    verdict,
                ]
            )
    title = f"{layers} dense layers of {UNITS}, {samples} samples: {nbytes / 1e6:.0f} MB of parameters in float32"
    table(title, ("", "sent", "answered", "time", "peak", "kept", "multiple", "bar"), rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--layers", type=int, default=5, help="layers of 2048 units (default 5: 21 million parameters)")
    parser.add_argument("--samples", type=int, default=1, help="rows of the inputs (default 1)")
    parser.add_argument("--repeats", type=int, default=4, help="requests, one after the other (default 4)")
    parser.add_argument("--gzip", action="store_true", help="accept a compressed answer")
    parser.add_argument("--quick", action="store_true", help="one layer only, to see that it runs")
    options = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        print("skipped: this system does not tell the peak of a process")
        return
    os.environ.setdefault("NABLA_LOG_REQUESTS", "false")
    # More than the defaults, which are made for small machines.
    os.environ.setdefault("NABLA_MAX_BODY_BYTES", str(2**28))
    os.environ.setdefault("NABLA_MAX_MEMORY_BYTES", str(2**31))
    measure(1 if options.quick else options.layers, options.samples, options.repeats, options.gzip)


if __name__ == "__main__":
    main()
