"""The files through which the metrics of all workers add up, in the format of prometheus_client.

Every process writes its own files. A place names them instead of a process number: a new worker takes the place of one
that died and continues its counts. So there are as many files as workers ever ran at once.

This module does not import prometheus_client, which looks for the folder when it is imported.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
BEGINNING = "nabla-metrics-"
LOCK = "lock"

_place = ""
"""The place of this process; "" as long as it has none, as in the master."""


def identifier() -> str:
    """Return the part of metric file names that stands for this process: its place, or else its process id."""
    return _place or str(os.getpid())


def open_folder(parent: str | None) -> None:
    """Create the folder for a server's metric files below `parent`, unless the environment names one.

    It is removed when the process ends. If a server is killed, the next start removes the folder that it left.
    """
    if VARIABLE in os.environ:
        return
    parent = parent or tempfile.gettempdir()
    remove_left_behind(parent)
    # The folder gets its name after its lock, so that nobody takes it for one left behind.
    made = tempfile.mkdtemp(prefix=f".{BEGINNING}", dir=parent)
    # This process and the workers that are forked from it hold the lock as long as one of them lives.
    fcntl.flock(os.open(os.path.join(made, LOCK), os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
    folder = os.path.join(parent, os.path.basename(made).removeprefix("."))
    os.rename(made, folder)
    os.environ[VARIABLE] = folder
    atexit.register(_remove, folder, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # workers leave it alone
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_behind(parent: str) -> None:
    """Remove the folders of dead servers: those whose locks nobody holds."""
    for folder in Path(parent).glob(f"{BEGINNING}*"):
        # Other users' folders cannot be opened.
        with suppress(OSError), (folder / LOCK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def reserve(worker: Any, others: Iterable[Any]) -> None:
    """Give a worker the first place that none of the others has. Call this in the master, before the fork."""
    worker.metrics_place = first_free({getattr(other, "metrics_place", -1) for other in others})


def first_free(taken: set[int]) -> int:
    """Return the lowest number from 0 on that is not taken."""
    return next(number for number in range(len(taken) + 1) if number not in taken)


def take(worker: Any) -> None:
    """Let this process write the files of the worker's place. Call this in the worker, after the fork."""
    global _place
    # Two servers may use a folder at once, if it outlives them.
    _place = f"{os.getppid()}-{worker.metrics_place}"


def give_back(worker: Any) -> None:
    """Remove the gauges of a dead worker; its counts stay, for its successor. Call this in the master."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(f"{os.getpid()}-{worker.metrics_place}")  # type: ignore[no-untyped-call]
