"""A landscape as data: its axes, its losses, and the slopes and curvatures at its centre."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from service.engine.arrays import Array
from service.engine.cautions import Caution
from service.engine.functions.surface import Levels
from service.engine.insight.directions import AskedAxis, Direction
from service.engine.insight.spectrum import AskedSpectrum, Spectrum


class AskedLandscape(NamedTuple):
    """The question of a request about the landscape of a loss: the axes along which parameters move, and the values to
    show."""

    axes: tuple[AskedAxis, ...] = ()
    """None, one or two."""
    slopes: bool = True
    levels: int = 12
    """Roughly the count of contour levels."""
    spectrum: AskedSpectrum | None = None


@dataclass
class AxisValues:
    """One axis of a landscape, with slope and curvature of the loss at the centre."""

    asked: AskedAxis
    direction: Direction
    centre: float
    """The place of the centre: the present value of a parameter, 0 of a direction."""
    values: Array
    """The places."""
    norm: float
    """The length of the direction."""
    slope: float = math.nan
    """The derivative of the loss along the axis, at the centre."""
    curvature: float = math.nan
    """The second one."""
    slopes: Array | None = None
    """The derivative at each point of the grid, shaped like the losses."""

    @property
    def bend(self) -> float:
        """The curvature of the loss per unit of length along the axis."""
        return self.curvature / self.norm / self.norm

    @property
    def largest_stable_step(self) -> float | None:
        """The learning rate beyond which plain gradient descent along this line alone overshoots more and more.

        Along a line with curvature c per unit of length a step multiplies the distance from the minimum of the
        parabola by 1 - η c, so it shrinks for η < 2 / c. None where the line does not bend upward.
        """
        step = 2.0 / self.bend if 0.0 < self.bend < math.inf else math.inf
        return step if math.isfinite(step) else None


class Extreme(NamedTuple):
    """The lowest or highest loss on the grid, and its place: the values on the axes."""

    place: list[float]
    loss: float


@dataclass
class PathValues:
    """A trajectory projected on the line or the plane of the axes."""

    coordinates: Array
    """(points, axes): the nearest places."""
    losses: Array
    """The losses at these places, not at the points of the trajectory."""
    distances: Array
    """The Euclidean distance of each point from the line or plane."""


@dataclass
class Landscape:
    """The loss around the parameters, as an answer holds it. Values that are not finite stay in place."""

    loss: float
    gradient_norm: float
    axes: list[AxisValues] = field(default_factory=list)
    losses: Array | None = None
    """(first axis) or (second axis, first axis)."""
    tangent: Array | None = None
    """For a single axis, the line that touches the curve at the centre."""
    parabola: Array | None = None
    """For a single axis, the parabola with the curve's slope and curvature at the centre."""
    hessian: Array | None = None
    """Second derivatives along the axes, at the centre."""
    cosine: float | None = None
    """The cosine of the angle between two axes."""
    minimum: Extreme | None = None
    maximum: Extreme | None = None
    levels: Levels | None = None
    path: PathValues | None = None
    spectrum: Spectrum | None = None
    parameters: dict[str, dict[str, Array]] | None = None
    """The parameters, if they were initialised here."""
    finite: bool = True
    warnings: list[Caution] = field(default_factory=list)
