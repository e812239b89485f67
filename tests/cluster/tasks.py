"""Functions that other processes compute in these tests."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from service.cluster.inside import unwanted
from service.engine.arrays import Array
from service.engine.errors import Abandoned, Fault, InvalidRequest, LimitExceeded


def product(left: Array, right: Array) -> Array:
    return left @ right


def aligned(*arrays: Array) -> list[bool]:
    return [array.flags.aligned for array in arrays]


def aligned_in(arrays: list[Array]) -> list[bool]:
    return aligned(*arrays)


def about(array: Array) -> tuple[int, bool, int, bool]:
    """Return the process, whether the array may be written to, its address' remainder and whether it is shared."""
    return os.getpid(), array.flags.writeable, array.ctypes.data % 64, array.base is not None


def process_id(seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return os.getpid()


def die_once(marker: str) -> int:
    """Kill this process, unless the file is there, which the first call makes."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(kind: str) -> None:
    if kind == "fault":
        raise InvalidRequest([Fault(("network", 0), "no such thing", ("one", "two"))])
    if kind == "limit":
        raise LimitExceeded("steps", 5, 4, ("steps",))

    class LocalError(Exception):
        """An exception that pickle cannot write."""

    raise LocalError("of this process alone")


def last_until_unwanted(marker: str) -> None:
    """Compute until nobody waits; then make the file."""
    end, is_unwanted = time.monotonic() + 60.0, unwanted()
    while not is_unwanted():
        assert time.monotonic() < end
        time.sleep(0.01)
    Path(marker).touch()
    raise Abandoned


def descriptors() -> list[str]:
    """Return what the open descriptors of this process are."""
    found = []
    for each in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{each}"))
        except OSError:
            continue  # the one of the listing
    return found


def surroundings() -> tuple[int, str, bool]:
    """Return session, BLAS threads and whether the terminal's Ctrl-C is ignored."""
    return os.getsid(0), os.environ["OPENBLAS_NUM_THREADS"], signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def large(count: int) -> Array:
    return np.arange(float(count))
