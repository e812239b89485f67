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
    """The mistakes that are switched on (`made`), and all that a backward pass could have made (`asked`)."""

    made: frozenset[Slip] = frozenset()
    asked: dict[Slip, None] = field(default_factory=dict)

    def at(self, layer: str) -> Wrong:
        def wrong(mistake: str) -> bool:
            self.asked[Slip(mistake, layer)] = None
            return Slip(mistake, layer) in self.made or Slip(mistake) in self.made

        return wrong
