"""The right of a runner to write to a run, which the database grants for a time.

A computation of long steps does not come to the database in time, so a thread does: it renews the lease and reports the
computing time once a second. It and the computation write one after the other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.store_errors import StoreError

if TYPE_CHECKING:
    from service.store.runs import Claim, Kept, Progress
    from service.store.store import Store

SECONDS = 15.0
"""The time in seconds for which the database grants a lease. A run of a dead runner waits so long for another one."""
BEAT_SECONDS = 0.8
"""Time in seconds after which the thread reports, if the computation has not. With the write it is below a second."""

log = logging.getLogger("nabla.runner")


class Lease:
    """The lease on one run, as a context manager that renews it. The thread that computes and its own thread use it."""

    def __init__(self, store: Store, claim: Claim, progress: Callable[[], Progress]) -> None:
        """`progress` returns the present progress of the run; the thread of the lease calls it too."""
        self.lost = False
        """Whether another runner has the run, or it was removed: whatever is computed here is of no use."""
        self.cancelled = claim.cancel
        """Whether the owner of the run wants it to end."""
        self.others_wait = False
        """Whether other runs wait for a runner."""
        self._store, self._claim, self._progress = store, claim, progress
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._renewed = time.monotonic()

    def __enter__(self) -> Lease:
        threading.Thread(target=self._beat_on, name="nabla-lease", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def keep(self, lines: bytes | None, first: int, last: int, progress: Progress, state: bytes | None) -> bool:
        """Write records, progress and state in one transaction; return whether the lease still holds.

        Raises `StoreError`; then nothing was written.
        """
        with self._lock:
            self._note(self._store.runs.keep(self._claim, lines, first, last, progress, state, SECONDS))
        return not self.lost

    def _note(self, kept: Kept) -> None:
        """Take over what the database said at a renewal. The lock is held."""
        self._renewed = time.monotonic()
        self.lost = not kept.alive
        self.cancelled = self.cancelled or kept.cancel
        self.others_wait = kept.others_wait

    def _beat_on(self) -> None:
        """Renew the lease whenever the computation has not done so for `BEAT_SECONDS`, until it is lost or closed."""
        while not self._closed.wait(max(0.05, self._renewed + BEAT_SECONDS - time.monotonic())):
            # While the computation writes, or waits for the database, there is nothing to add.
            if time.monotonic() < self._renewed + BEAT_SECONDS or not self._lock.acquire(blocking=False):
                continue
            try:
                if self._closed.is_set():
                    return
                self._note(self._store.runs.keep(self._claim, None, 0, 0, self._progress(), None, SECONDS))
            except StoreError:
                self._renewed = time.monotonic()  # the store has logged the error; the next attempt is in a second
            except Exception:
                log.exception("the lease of run %s is not renewed", self._claim.id)
                self._renewed = time.monotonic()
            finally:
                self._lock.release()
            if self.lost:
                return
