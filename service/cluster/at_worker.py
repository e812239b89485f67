"""What a worker of the cluster computes for this service: its report, and the parts of computations."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

from service.cluster.inside import computing
from service.cluster.process import Named
from service.engine.fingerprint import describe, fingerprint

DONE, RAISED, OTHER = "done", "raised", "other"
"""How a part ended: with a result, with an exception, or not at all, because the numerics of the worker are others."""


class Report(NamedTuple):
    """What a worker says about its numerics; an empty fingerprint means that it cannot say."""

    fingerprint: str
    about: str


def report() -> Report:
    """Return what decides about the bits of this worker."""
    return Report(fingerprint(), describe())


def compute(expected: str, call: bytes, names: list[str], *values: Any) -> tuple[str, Any]:
    """Compute a part, and return how it ended, with its result, its exception or the report of this worker.

    `call` is the pickle of a function and its arguments; `names` and `values` are those of the shared arguments.
    """
    if fingerprint() != expected:
        return OTHER, report()
    computing(_unwanted())
    shared = dict(zip(names, values, strict=True))
    try:
        function, arguments = pickle.loads(call)
        return DONE, function(*(shared[each.name] if isinstance(each, Named) else each for each in arguments))
    except Exception as error:
        return RAISED, error


def _unwanted() -> Callable[[], bool]:
    """Return whether the client has given up the task that this thread computes."""
    from distributed import get_worker

    worker = get_worker()
    key, tasks = worker.get_current_task(), worker.state.tasks

    def unwanted() -> bool:
        task = tasks.get(key)
        return task is None or task.state == "cancelled"

    return unwanted
