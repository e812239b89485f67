"""The threads of a worker in which requests are computed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

log = logging.getLogger("nabla.error")


class Pool:
    """Threads that take jobs from one queue. Only the thread of the event loop uses the pool.

    A job that finds all threads busy starts a new one. So there are as many threads as requests ever ran at once, which
    admission bounds.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.threads = 0
        self.busy = 0

    def run(self, job: Callable[[], None]) -> None:
        """Run a job in a thread. It must not raise. `done` has to be called once its result is there."""
        self.busy += 1
        self._jobs.put(job)
        if self.busy > self.threads:
            # A daemon: a computation that outlasts a stop must not delay the end of the process.
            thread = threading.Thread(target=self._work, name=f"request-{self.threads + 1}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system allows no more threads; another one will take the job
                log.warning("no more than %d threads can be started", self.threads)
            else:
                self.threads += 1

    def done(self) -> None:
        """Count a job as over: its thread is free for the next one."""
        self.busy -= 1

    def _work(self) -> None:
        get = self._jobs.get
        while True:
            get()()
