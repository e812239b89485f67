"""Work that may stop and go on in another process, as if it had never stopped."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from service.api.streaming import Work


class Standing(NamedTuple):
    """The step that a work has reached."""

    step: int
    """Steps that are done. Of several trainings, the steps of all together."""
    of: int
    """The steps that it makes at most."""
    loss: float | None
    """The loss of the last step; None before the first one, and where there is not one loss."""
    learning_rate: float | None


class LongWork(Work, Protocol):
    """A `Work` whose state can be kept, and given to the constructor of an equal work in another process.

    From there the records, the summary and every word in them are those of a work that never stopped. A work that was
    cancelled goes on from its state as if it had not been. One that has ended stays at its end; if it then gets more
    steps, it makes them, unless it diverged.
    """

    def standing(self) -> Standing:
        """Return how far the work has come. It costs next to nothing."""

    def state(self) -> dict[str, Any]:
        """Return all that the work remembers between two steps, for `state_bytes`. The next step changes the arrays."""
