"""The functions that a worker of the cluster runs for this service: its report, and the parts of computations.

Calls, values and results are pickles of ours, which Dask carries as bytes. Arrays that Dask itself takes apart and puts
together may begin at any byte, and NumPy sums such arrays in other blocks, which gives other bits.
"""

from __future__ import annotations

import gc
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from service.cluster.inside import computing
from service.cluster.process import DONE, RAISED, Named, written
from service.engine.fingerprint import describe, fingerprint

SHARED_BYTES = 256 * 2**20
"""Memory of shared values that each worker keeps for later parts, at most, as pickles and once more as they are."""
OTHER = "other"
"""The outcome of a part that was not computed, because the numerics of the worker are others."""


class Report(NamedTuple):
    """The numerics of a worker, in its own words; an empty fingerprint means that it cannot say."""

    fingerprint: str
    about: str


def report() -> Report:
    """Return the report of this worker.

    The server asks once, before the first part. From then on the garbage collector leaves alone what Dask has made, and
    comes more rarely: it took four percent of small steps.
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    return Report(fingerprint(), describe())


def compute(expected: str, call: bytes, names: list[str], keys: list[str], *values: bytes) -> bytes:
    """Compute a part; return a pickle of how it ended, and of its result, its exception or the report of this worker.

    `call` is the pickle of a function and its arguments; `names` and `values` are those of the shared arguments, and
    `keys` say which ones this worker has read before.
    """
    return written(*_computed(expected, call, names, keys, values))


def _computed(
    expected: str, call: bytes, names: list[str], keys: list[str], values: Sequence[bytes]
) -> tuple[str, Any]:
    if fingerprint() != expected:
        return OTHER, report()
    computing(_unwanted())
    try:
        shared = dict(zip(names, map(_value, keys, values), strict=True))
        function, arguments = pickle.loads(call)
        return DONE, function(*(shared[each.name] if isinstance(each, Named) else each for each in arguments))
    except Exception as error:
        return RAISED, error


def _value(key: str, pickled: bytes) -> Any:
    """Return a shared value, the same object as long as Dask keeps it: what was compiled for it is found again."""
    from distributed import get_worker

    data = get_worker().data
    with _reading:
        for gone in [each for each in _read if each not in data]:
            del _read[gone]
        if key not in _read:
            _read[key] = pickle.loads(pickled)
        return _read[key]


_reading = threading.Lock()
_read: dict[str, Any] = {}
"""The shared values that Dask keeps at this worker, as they are."""


def _unwanted() -> Callable[[], bool]:
    """Return whether the client has given up the task that this thread computes."""
    from distributed import get_worker

    worker = get_worker()
    key, tasks = worker.get_current_task(), worker.state.tasks

    def unwanted() -> bool:
        task = tasks.get(key)
        return task is None or task.state == "cancelled"

    return unwanted
