"""Who may stop a computation: the time that is left for it, and whether anybody still waits for its answer.

Loops of the engine that may take longer than 50 milliseconds look at the watch they were given, once in each round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")

NODES_BETWEEN_LOOKS = 256
"""Nodes of a graph that are made, planned or bound between two looks: they take a few milliseconds."""


class Watch(Protocol):
    """What long computations look at."""

    def look(self) -> float:
        """Come back when the computation may go on, with the reading of `time.monotonic` at which to look again.

        Raises `DeadlineExceeded` when the time is over, `Abandoned` when nobody waits for the answer. The watch may
        hold the computation up, or end it with an exception of its own.
        """


def looked_at(things: Sequence[T], watch: Watch | None) -> Iterable[T]:
    """The same things; going through many of them looks at the watch now and then."""
    return things if watch is None or len(things) < NODES_BETWEEN_LOOKS else _looked_at(things, watch)


def _looked_at(things: Iterable[T], watch: Watch) -> Iterator[T]:
    for place, thing in enumerate(things, 1):
        yield thing
        if not place % NODES_BETWEEN_LOOKS:
            watch.look()
