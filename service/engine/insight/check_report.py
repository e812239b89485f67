"""The report of a gradient check: a verdict with its evidence, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.engine.arrays import Array
from service.engine.graph.ir import Node
from service.engine.insight.differences import DifferenceCurve, Taylor
from service.engine.insight.subject import Path
from service.engine.network.flat import Space

VERDICTS = ("right", "kink", "unsure", "wrong", "undefined")
"""The verdicts, from good to bad."""


@dataclass
class CheckedEntry:
    """One entry of a gradient that was compared with the complex step."""

    label: str
    """The name of the entry, such as `hidden.kernel[0][1]`."""
    gradient: float
    """The value that is claimed, or computed here."""
    reference: float
    """The value by the complex step."""
    error: float
    """Their difference, as a share of the larger one."""


@dataclass
class TensorCheck:
    """The result of checking the gradient of one parameter or variable."""

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
    """The ratio of all entries to the right ones, where it is one number."""
    sides: tuple[float, float] | None = None
    """At a kink, the slopes on either side of the worst entry."""
    curve: DifferenceCurve | None = None
    """Along a random direction of this tensor."""


@dataclass
class Report:
    """The verdict of a check on a whole gradient, with its evidence."""

    verdict: str
    value: float
    gradient: Array
    """The tested gradient, flat."""
    space: Space
    """The positions of its tensors."""
    tensors: list[TensorCheck] = field(default_factory=list)
    curve: DifferenceCurve | None = None
    """Along a random direction through everything."""
    taylor: list[Taylor] = field(default_factory=list)
    declared: list[Node] = field(default_factory=list)
    """Nodes with a declared slope in place of 0, which the check accepts."""
    second: Report | None = None
    """The check of the second derivatives, if they were asked for."""

    def parts(self) -> dict[Path, Array]:
        """Return the tested gradient as tensors, by the paths of parameters or variables."""
        return {piece.path: self.gradient[piece.start : piece.stop].reshape(piece.shape) for piece in self.space.pieces}

    @property
    def is_right(self) -> bool:
        """True if nothing contradicts the gradient. At a kink the gradient follows a convention."""
        return self.verdict in ("right", "kink") and (self.second is None or self.second.is_right)
