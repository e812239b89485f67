"""The mistakes of hand-written backward passes, which can be switched on one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Wrong = Callable[[str], bool]
"""Returns whether the layer makes the mistake of this name."""


@dataclass(frozen=True, order=True)
class Slip:
    """A mistake by name, in one layer, or in every layer that can make it if `layer` is None."""

    mistake: str
    layer: str | None = None

    def __str__(self) -> str:
        return f"{self.mistake} in {self.layer or 'all layers'}"


@dataclass
class Slips:
    """The mistakes that are switched on, and all that a backward pass could have made (`asked`)."""

    made: frozenset[Slip] = frozenset()
    _asked: dict[tuple[str, str], None] = field(default_factory=dict)

    @property
    def asked(self) -> list[Slip]:
        return [Slip(mistake, layer) for layer, mistake in self._asked]

    def at(self, layer: str) -> Wrong:
        here = {slip.mistake for slip in self.made if slip.layer in (layer, None)}

        def wrong(mistake: str) -> bool:
            self._asked[layer, mistake] = None
            return mistake in here

        return wrong
