"""The loop of a runner: it takes one run after the other, and waits where there is none."""

from __future__ import annotations

import logging
import threading
from functools import partial

from service.api.context import Runtime
from service.api.run_queue import runs_by_status
from service.engine.fingerprint import fingerprint
from service.observing.metrics import RUNNERS, RUNS, sample, sample_rarely
from service.runner.execution import POSTPONED, Execution
from service.runner.idle import Idle
from service.runner.lease import SECONDS
from service.store_errors import NoStore, StoreError

UNAVAILABLE_SECONDS = 1.0
"""Seconds after which a database that cannot be reached is tried again."""
NO_STORE_SECONDS = 30.0
"""Seconds after which it is looked again whether there is a place to store anything."""
LATER_SECONDS = 5.0
"""Seconds of rest after a run that cannot be computed now, such as one that needs a cluster that is away."""
MISTAKE_SECONDS = 5.0
"""Seconds of rest after an unexpected error, which may come again at once."""

log = logging.getLogger("nabla.runner")


class Runner:
    """A runner of one process. `run` computes runs until it is told to stop; one thread calls it."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        """`name` tells this runner from all others at the same database.

        A run that a runner of the same name has left behind is taken over at once.
        """
        self.runtime, self.name = runtime, name
        self.busy = False
        """Whether a run is being computed."""
        self._idle = Idle(runtime.settings)

    def run(self, stop: threading.Event) -> None:
        """Compute runs until `stop` is set. The run of that moment is given back to the queue."""
        sample_rarely(RUNS, partial(runs_by_status, self.runtime.store))
        sample(RUNNERS, lambda: float(self.busy), "busy")
        sample(RUNNERS, lambda: float(not self.busy), "idle")
        while not stop.is_set():
            try:
                pause = self._idle.seconds
                if self._idle.is_worth_asking() and self._compute_one(stop):
                    self._idle.ask_soon()
                    continue
            except NoStore:
                pause = NO_STORE_SECONDS
                self._idle.ask_soon()
            except StoreError:  # the store has logged it
                pause = UNAVAILABLE_SECONDS
                self._idle.ask_soon()
            except Exception:
                log.exception("the runner fails, and goes on")
                pause = MISTAKE_SECONDS
                self._idle.ask_soon()
            stop.wait(pause)

    def _compute_one(self, stop: threading.Event) -> bool:
        """Take a run and compute it; return whether there was one."""
        claim = self.runtime.store.runs.claim(self.name, SECONDS, fingerprint())
        if claim is None:
            return False
        self.busy = True
        try:
            if Execution(self.runtime, claim, stop).compute() == POSTPONED:
                stop.wait(LATER_SECONDS)
        finally:
            self.busy = False
        return True
