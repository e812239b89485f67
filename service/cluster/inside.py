"""The question of a part that is computed: does anybody still wait for it?"""

from __future__ import annotations

import threading
from collections.abc import Callable

_thread = threading.local()


def computing(is_unwanted: Callable[[], bool]) -> None:
    """Say how this thread can tell that nobody waits for the part that it is about to compute."""
    _thread.unwanted = is_unwanted


def unwanted() -> Callable[[], bool]:
    """Return the function that tells whether nobody waits any more for the part that this thread computes."""
    found: Callable[[], bool] = getattr(_thread, "unwanted", _never)
    return found


def _never() -> bool:
    return False
