"""Who may stop a computation: the time that is left for it, and whether anybody still waits for its answer.

Loops of the engine that take longer than a blink call `look` of the watch they were given, once in each round.
"""

from __future__ import annotations

from typing import Protocol

from service.engine.errors import DeadlineExceeded


class Watch(Protocol):
    """Looked at by long computations."""

    def look(self) -> None:
        """Come back when the computation may go on; this may take a while.

        Raises `DeadlineExceeded` when the time is over, `Abandoned` when nobody waits for the answer.
        """


class Over:
    """The watch of a computation that has no time at all."""

    def look(self) -> None:
        """Raise `DeadlineExceeded`."""
        raise DeadlineExceeded
