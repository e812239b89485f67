"""Helpers of the tests of runs: clients with a store of their own, a runner in a thread, and one by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.runner.loop import Runner
from tests.conftest import wait_for
from tests.support import strict_json

if TYPE_CHECKING:
    from service.store.runs import Claim, Kept, Runs

PATH = "/v1/runs"
NDJSON, EVENTS = "application/x-ndjson", "text/event-stream"
UNKNOWN = "0123456789abcdef0123456789abcdef"
LINE: dict[str, Any] = {
    "network": {"layers": [{"type": "dense", "name": "line", "units": 1}]},
    "parameters": {"line": {"kernel": [[0]], "bias": [0]}},
    "inputs": [[0], [1], [2]],
    "targets": [[1], [3], [5]],
    "loss": "half_squared_error",
    "optimizer": {"type": "adam", "learning_rate": 0.5},
    "steps": 5,
}


def run_of(kind: str = "train", **changes: Any) -> dict[str, Any]:
    """Return the request for a run, by default of a small training, with some keys of its request changed."""
    return {"kind": kind, "request": LINE | changes}


def started(client: FlaskClient, body: Any = None, **headers: str) -> str:
    """Start a run, and return its id."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    response = client.post(PATH, json=run_of() if body is None else body, headers=named)
    assert response.status_code == 202, response.text
    name: str = response.json["id"]
    assert response.headers["Location"] == f"{PATH}/{name}"
    return name


def runs_of(client: FlaskClient) -> Runs:
    runs: Runs = client.application.extensions["nabla.store"].runs
    return runs


@contextmanager
def runner(client: FlaskClient, name: str = "test") -> Iterator[None]:
    """Compute the runs of an application in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=Runner(client.application.extensions["nabla"], name).run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def compute(client: FlaskClient) -> None:
    """Compute all runs that wait, to their ends."""
    with runner(client):
        wait_for(lambda: not {"queued", "running"} & set(runs_of(client).counts()))


def lines(response: TestResponse) -> list[Any]:
    """Return the lines of a stream without its heartbeats."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].split(";")[0] == NDJSON
    content = response.get_data()
    response.close()
    return [line for line in map(strict_json, content.splitlines()) if line]


class Hand:
    """A runner by hand: it keeps what a test tells it to keep."""

    def __init__(self, client: FlaskClient, name: str, worker: str = "hand", lease: float = 60.0) -> None:
        """Claim the run of this name, which must be the one whose turn it is."""
        self.client, self.lease = client, lease
        claim = runs_of(client).claim(worker, lease)
        assert claim is not None and claim.id == name
        self.claim: Claim = claim

    def keep(self, first: int, last: int, **more: Any) -> Kept:
        """Keep a record for each step from `first` to `last`."""
        from service.store.runs import Progress

        content = b"".join(json.dumps({"step": step, **more}).encode() + b"\n" for step in range(first, last + 1))
        content = content.replace(b'{"step": ', b'{"step":')
        progress = Progress(last, 0.5, 0.1, last / 100)
        return runs_of(self.client).keep(self.claim, content, first, last, progress, None, self.lease)

    def finish(self, step: int, status: str = "completed", result: bytes | None = None) -> None:
        from service.store.runs import Progress

        progress = Progress(step, 0.25, 0.1, step / 100)
        assert runs_of(self.client).finish(self.claim, status, "it ends", None, 0, 0, progress, None, result)

    def release(self) -> None:
        runs_of(self.client).release(self.claim)
