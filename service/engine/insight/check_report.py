"""The report of a gradient check."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.engine.arrays import Array
from service.engine.graph.ir import Node
from service.engine.insight.differences import DifferenceCurve, Taylor
from service.engine.insight.subject import Path
from service.engine.network.vectors import Space

VERDICTS = ("right", "kink", "unsure", "wrong", "undefined")
"""From good to bad."""


@dataclass
class CheckedEntry:
    """One number of a gradient."""

    label: str
    """Such as `hidden.kernel[0][1]`."""
    gradient: float
    """As it is claimed, or computed here."""
    reference: float
    """By the complex step."""
    error: float
    """Their difference, as a share of the larger one."""


@dataclass
class TensorCheck:
    """What there is to say of one parameter or variable."""

    path: Path
    size: int
    verdict: str
    compared: str
    """`each`: every entry by itself; `probes`: along random directions through all of them; `exact`: a claim, entry by
    entry with the exact gradient, which was checked by one of these."""
    error: float
    """The largest relative error found: of an entry, or along a direction."""
    wrong: int = 0
    """Entries that differ by more than rounding."""
    worst: CheckedEntry | None = None
    """The entry with the largest error; None: none was compared by itself, or all agree exactly."""
    ratio: float | None = None
    """Of all entries to what they should be, where that is one number."""
    sides: tuple[float, float] | None = None
    """At a kink, the slopes on either side of the worst entry."""
    curve: DifferenceCurve | None = None
    """Along a random direction of this tensor."""


@dataclass
class Report:
    """Whether a gradient is right, and what speaks for it."""

    verdict: str
    value: float
    gradient: Array
    """What was checked, flat."""
    space: Space
    """Where its parts are."""
    tensors: list[TensorCheck] = field(default_factory=list)
    curve: DifferenceCurve | None = None
    """Along a random direction through everything."""
    taylor: list[Taylor] = field(default_factory=list)
    declared: list[Node] = field(default_factory=list)
    """Nodes with a slope that is declared in place of 0: it was taken as it is."""
    second: Report | None = None
    """Of the second derivatives, where they were asked for."""

    def parts(self) -> dict[Path, Array]:
        """The gradient that was checked, in parts."""
        return {piece.path: self.gradient[piece.start : piece.stop].reshape(piece.shape) for piece in self.space.pieces}

    @property
    def is_right(self) -> bool:
        """Whether nothing speaks against the gradient; at a kink it follows a convention."""
        return self.verdict in ("right", "kink") and (self.second is None or self.second.is_right)
