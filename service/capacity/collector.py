"""When Python looks for reference cycles among what was compiled.

Python looks once many more objects were made than were freed. Once the cache of programs is full, each program that is
made frees another one, so Python would wait until all programs are new: then it looks at a million objects at once,
and nobody computes for a quarter of a second.
"""

from __future__ import annotations

import gc

NODES = 2_000
"""Nodes that are compiled between two looks: a look at them takes about a millisecond."""
OTHERS = 20
"""What a compiled task and its request keep beside the nodes, in nodes."""
YOUNG = 1
"""The generations up to this one are looked at: what was made since the last look."""


class Collector:
    """Looks at what was compiled lately, once it is much. For many threads; a count that is lost does no harm."""

    def __init__(self) -> None:
        self._nodes = 0

    def made(self, nodes: int) -> None:
        """A task of so many nodes has been compiled."""
        self._nodes += nodes + OTHERS
        if self._nodes >= NODES and gc.isenabled():
            self._nodes = 0
            gc.collect(YOUNG)
