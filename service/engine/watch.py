"""Watches: how a long computation learns that its time is over or that its client has left.

Loops of the engine that may take longer than 50 milliseconds call `look` of their watch once in each round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")

NODES_BETWEEN_LOOKS = 256
"""The nodes of a graph that are made, planned or bound between two looks, in a few milliseconds."""


class Watch(Protocol):
    """The clock that a long computation looks at."""

    def look(self) -> float:
        """Return the `time.monotonic` at which to look again. It may block before it returns. Raises `DeadlineExceeded`
        when the time is over, `Abandoned` when the client has left; a watch may raise exceptions of its own as well."""


def looked_at(things: Sequence[T], watch: Watch | None) -> Iterable[T]:
    """Return the same things; iterating over many of them looks at the watch now and then."""
    return things if watch is None or len(things) < NODES_BETWEEN_LOOKS else _looked_at(things, watch)


def _looked_at(things: Iterable[T], watch: Watch) -> Iterator[T]:
    for place, thing in enumerate(things, 1):
        yield thing
        if not place % NODES_BETWEEN_LOOKS:
            watch.look()
