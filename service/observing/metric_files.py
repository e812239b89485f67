"""The files through which the metrics of all workers add up, as prometheus_client has them.

Every process writes files of its own. They are named by places instead of process numbers, and a new worker takes the
place of one that died, so its counts go on where they stood. There are as many files as there were workers at once.

Nothing here imports prometheus_client, which has to find the folder when it is imported itself.
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
"""The place of this process; "" before it has one, as in the master."""


def identifier() -> str:
    """What names the files of this process."""
    return _place or str(os.getpid())


def open_folder(parent: str | None) -> None:
    """Make a folder for the metrics of a server, which is removed when the process ends; unless there is one given.

    However a server ended: folders that it left behind are removed by the next start.
    """
    if VARIABLE in os.environ:
        return
    parent = parent or tempfile.gettempdir()
    remove_left_behind(parent)
    # Nobody may take the folder for one left behind before it is locked, so it gets its name after that.
    made = tempfile.mkdtemp(prefix=f".{BEGINNING}", dir=parent)
    # The lock is held by whichever lives of this process and the workers that are forked from it.
    fcntl.flock(os.open(os.path.join(made, LOCK), os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
    folder = os.path.join(parent, os.path.basename(made).removeprefix("."))
    os.rename(made, folder)
    os.environ[VARIABLE] = folder
    atexit.register(_remove, folder, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # workers leave it alone
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_behind(parent: str) -> None:
    """Remove folders whose servers are gone: nobody holds their locks."""
    for folder in Path(parent).glob(f"{BEGINNING}*"):
        # Other users' folders cannot be opened.
        with suppress(OSError), (folder / LOCK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def reserve(worker: Any, others: Iterable[Any]) -> None:
    """In the master, before a worker is forked: give it the first place that none of the others has."""
    taken = {getattr(other, "metrics_place", -1) for other in others}
    worker.metrics_place = next(place for place in range(len(taken) + 1) if place not in taken)


def take(worker: Any) -> None:
    """In the worker, after the fork: write the files of its place."""
    global _place
    # With a folder that outlives servers, two of them may use it at once.
    _place = f"{os.getppid()}-{worker.metrics_place}"


def give_back(worker: Any) -> None:
    """In the master, when a worker is gone: forget its gauges. Its counts stay, and its successor adds to them."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(f"{os.getpid()}-{worker.metrics_place}")  # type: ignore[no-untyped-call]
