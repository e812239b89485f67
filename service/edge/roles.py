"""The roles of gunicorn's workers: most serve connections, some compute runs.

gunicorn starts, watches and restarts one kind of worker, and counts all of them together. So each gets its role just
before it is forked: as many as are wanted serve, and the others are runners. The number of serving workers is what
WEB_CONCURRENCY or `--workers` says, whatever happens to the runners, and TTIN and TTOU change that number alone. HUP
replaces all of them.
"""

from __future__ import annotations

from typing import Any

from service.observing.metric_files import first_free

YOUNG = 10**9
"""Added to the age of runners: gunicorn ends the oldest workers when there are too many, and none of these."""

_generation = 0
"""The number of reloads, which replace all workers."""


def add_runners(server: Any, runners: int) -> None:
    """Let gunicorn have so many workers more than it was told to. Call this when the server starts or reloads."""
    server.cfg.set("workers", server.cfg.workers + runners)
    server.num_workers = server.cfg.workers


def begin_generation(server: Any) -> None:
    """Count all present workers as old, runners too, so that they end once they are replaced."""
    global _generation
    _generation += 1
    for worker in server.WORKERS.values():
        worker.age %= YOUNG


def assign(server: Any, worker: Any, runners: int) -> None:
    """Decide the role of a worker. Call this in the master, before the fork.

    A runner also gets the first seat that no other runner has, so that it is called as its killed predecessor was.
    """
    worker.generation = _generation
    serving = sum(other.generation == _generation and not other.is_runner for other in server.WORKERS.values())
    worker.is_runner = serving >= max(1, server.num_workers - runners)
    if worker.is_runner:
        worker.age += YOUNG
        worker.seat = first_free({other.seat for other in server.WORKERS.values() if other.is_runner})


def keep_one(server: Any, runners: int) -> None:
    """Keep one worker that serves, when TTOU takes one away. gunicorn stops at one worker of any role."""
    if 0 < server.num_workers <= runners:
        server.num_workers = runners + 1
