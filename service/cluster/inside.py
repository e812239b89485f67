"""What a part may ask while it is computed: whether its time is over, and whether anybody still waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from service.engine.errors import Abandoned, DeadlineExceeded

LOOK_SECONDS = 0.05
"""Seconds between two looks."""

_thread = threading.local()


def computing(is_unwanted: Callable[[], bool]) -> None:
    """Say how this thread can tell that nobody waits for the part that it is about to compute."""
    _thread.unwanted = is_unwanted


def unwanted() -> Callable[[], bool]:
    """Return the function that tells whether nobody waits any more for the part that this thread computes."""
    found: Callable[[], bool] = getattr(_thread, "unwanted", _never)
    return found


class PartWatch:
    """The watch of a part. Make it in the thread that computes the part."""

    def __init__(self, seconds: float | None) -> None:
        """Stop the part after so many seconds; None: its time is never over."""
        self._end = None if seconds is None else time.monotonic() + seconds
        self._unwanted = unwanted()

    def look(self) -> float:
        """Return when to look again. Raise `DeadlineExceeded` or `Abandoned` where the part is to end."""
        now = time.monotonic()
        if self._end is not None and now >= self._end:
            raise DeadlineExceeded
        if self._unwanted():
            raise Abandoned
        return now + LOOK_SECONDS


def _never() -> bool:
    return False
