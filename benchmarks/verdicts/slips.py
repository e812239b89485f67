"""The mistakes of hand-written backward passes, and the layers that they can be in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Wrong = Callable[[str], bool]
"""Returns whether the layer makes the mistake of this name."""


@dataclass(frozen=True, order=True)
class Slip:
    """A mistake, in one layer or, with no layer, wherever it can be made."""

    mistake: str
    layer: str | None = None

    def __str__(self) -> str:
        return f"{self.mistake} in {self.layer or 'all layers'}"


@dataclass
class Slips:
    """The mistakes that are switched on. A backward pass asks for each at its place; `asked` remembers all of them."""

    made: frozenset[Slip] = frozenset()
    asked: dict[Slip, None] = field(default_factory=dict)

    def at(self, layer: str) -> Wrong:
        def wrong(mistake: str) -> bool:
            self.asked[Slip(mistake, layer)] = None
            return Slip(mistake, layer) in self.made or Slip(mistake) in self.made

        return wrong
