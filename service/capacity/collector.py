"""Garbage collection of compiled programs: it frees their reference cycles early.

Python collects once many more objects were made than freed. Once the cache of programs is full, each new program frees
another one, so Python would wait until all programs are new. Then it examines a million objects at once, and nobody
computes for a quarter of a second.
"""

from __future__ import annotations

import gc

NODES = 2_000
"""Compiled nodes between two collections: a collection of so many takes about a millisecond."""
OTHERS = 20
"""The size of a compiled task and its request beside its nodes, in nodes."""
YOUNG = 1
"""The oldest generation that is collected: it has the objects made since the last collection."""


class Collector:
    """A counter of compiled nodes that starts a garbage collection at every `NODES` of them. Threads share it."""

    def __init__(self) -> None:
        self._nodes = 0

    def made(self, nodes: int) -> None:
        """Count a compiled task with `nodes` nodes, and collect if it is time."""
        self._nodes += nodes + OTHERS
        if self._nodes >= NODES and gc.isenabled():
            self._nodes = 0
            gc.collect(YOUNG)
