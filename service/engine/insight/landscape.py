"""The loss around the parameters of a network: along one axis or over two, and the curvature at the parameters.

The centre is the parameters of the request. An axis is one parameter, whose places are its values, or a direction
through all parameters, whose places are multiples of its vector, 0 at the centre.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, is_finite, norm_of_flat
from service.engine.cautions import Caution
from service.engine.compiling import Compiler
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest, Path
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.functions.surface import levels_for
from service.engine.insight.directions import STREAM as DIRECTIONS_STREAM
from service.engine.insight.directions import (
    AskedAxis,
    Direction,
    Principal,
    check_plane,
    principal_directions,
    random_direction,
)
from service.engine.insight.grid import Grid, GridTask
from service.engine.insight.landscape_values import AskedLandscape, AxisValues, Extreme, Landscape, PathValues
from service.engine.insight.selection import select_one
from service.engine.insight.spectrum import AskedSpectrum, NotFinite, Spectrum, spectrum_of
from service.engine.limits import WATCHED_OPERATIONS, Limits
from service.engine.network.evaluate import Evaluation
from service.engine.network.feed import Feed
from service.engine.network.parameters import Tree
from service.engine.network.task import Task
from service.engine.watch import Watch

MOST_SIDE = 1_000
"""Points along one axis."""
MOST_POINTS = 250_000
"""Points of a grid."""
MOST_INDEX = 20
"""Eigenvectors from either end of the spectrum that may be axes."""
DEFAULT_RESOLUTIONS = {1: 101, 2: 51}
"""Points along an axis, by the count of axes; odd numbers, so that one point is in the middle."""
MARGIN = 0.2
"""Margin on either side of a trajectory, as a share of its extent."""


def points_of(asked: AskedLandscape) -> int:
    """Return how many points the grid of a landscape has. Raises `InvalidRequest` where it has too many."""
    counts = [
        len(axis.values) if axis.values is not None else axis.resolution or DEFAULT_RESOLUTIONS[len(asked.axes)]
        for axis in asked.axes
    ]
    count = math.prod(counts) if counts else 0
    if count > MOST_POINTS:
        detail = f"makes a grid of {count:,} points, and at most {MOST_POINTS:,} are taken; lower a resolution"
        raise InvalidRequest([Fault(("along",), detail)])
    return count


class Trajectory(NamedTuple):
    """Parameters along a path, such as that of a training, and the place of each in the request."""

    trees: Sequence[Tree]
    paths: Sequence[Path]


class Survey:
    """The making of one landscape, with the state that its steps share."""

    def __init__(
        self,
        compile: Compiler,  # noqa: A002 (the verb fits)
        evaluation: Evaluation,
        feed: Feed,
        asked: AskedLandscape,
        trajectory: Trajectory | None,
        limits: Limits,
        reserve: Callable[[int], None],
        watch: Watch,
    ) -> None:
        """Prepare a landscape around the parameters of `feed`. `evaluation` computes the loss there. `reserve` is
        called with the bytes that the whole survey holds so far."""
        self.compile, self.limits, self.watch = compile, limits, watch
        self.evaluation, self.asked = evaluation, asked
        self.task: Task = evaluation.task
        self.vector = evaluation.feeder.parameters
        self.trajectory = trajectory
        self.feed = feed
        self._reserve = reserve
        self._held = 0
        self.base: Array
        self.gradient: Array

    @ignoring_float_warnings
    def run(self) -> Landscape:
        """Return the landscape. Raises `InvalidRequest`, `LimitExceeded` and what the watch raises."""
        size = self.vector.trained_size
        if not size:
            detail = "has no parameters that are trained, so the loss has no landscape"
            raise InvalidRequest([Fault(("network",), detail)])
        parameters = max(part.stop for part in self.vector.pieces)
        self.hold(2 * self.evaluation.program.nbytes + 8 * 4 * parameters)
        result = self.evaluation.run(self.feed, self.watched(self.evaluation.program.work))
        if result.parameters is not None:
            self.feed = replace(self.feed, parameters=result.parameters)
        assert self.feed.parameters is not None and result.loss is not None
        self.base = np.empty(parameters)
        self.vector.fill(self.base, self.feed.parameters)
        self.gradient = np.empty(size)
        for part in self.vector.trained:
            self.gradient[part.start : part.stop] = result.gradients[part.layer][part.name].reshape(-1)
        assert result.gradient_norm is not None
        found = Landscape(float(result.loss), result.gradient_norm, parameters=result.parameters)
        found.warnings = list(result.warnings)
        found.finite = result.finite
        points = self._points() if self.trajectory is not None else None
        directions = _Directions(self)
        directions.look_for_spectrum(found)
        if self.asked.axes:
            _Drawing(self, directions.find(points)).draw(found, points)
        self._check_finite(found)
        return found

    def hold(self, nbytes: int) -> None:
        """Reserve more bytes for the rest of the survey."""
        self._held += nbytes
        self._reserve(self._held)

    def watched(self, work: float) -> Watch | None:
        return self.watch if work > WATCHED_OPERATIONS else None

    # --- what is sent beside the parameters ---

    def _points(self) -> Array:
        """Return the trajectory as an array (points, all parameters)."""
        assert self.trajectory is not None
        trees, paths = self.trajectory
        faults: list[Fault] = []
        for tree, path in zip(trees, paths, strict=True):
            if not self.vector.fits(tree):
                faults += [replace(fault, path=(*path, *fault.path[1:])) for fault in self.vector.faults(tree)]
            if len(faults) >= MOST_ERRORS:
                break
        if faults:
            raise InvalidRequest(faults)
        count, size = len(trees), self.base.size
        self.hold(8 * 4 * count * size)
        self.limits.check_operations(20.0 * count * size * min(count, size))
        points = np.empty((count, size))
        for row, tree in zip(points, trees, strict=True):
            self.vector.fill(row, tree)
        return points

    def _check_finite(self, found: Landscape) -> None:
        """Add a warning about results that are not finite although the losses are, such as a far tangent."""
        arrays = {
            "loss": found.loss,
            "gradient": found.gradient_norm,
            "hessian": found.hessian,
            "tangent": found.tangent,
            "parabola": found.parabola,
            "trajectory": None if found.path is None else found.path.losses,
        }
        arrays["axes"] = np.array([(axis.norm, axis.slope, axis.curvature) for axis in found.axes])
        if found.spectrum is not None:
            arrays["spectrum"] = np.concatenate([found.spectrum.largest.residuals, found.spectrum.smallest.residuals])
        if found.spectrum is not None and found.spectrum.density is not None:
            arrays["density"] = found.spectrum.density.density
        lost = [name for name, array in arrays.items() if array is not None and not is_finite(np.asarray(array))]
        if lost and not any(caution.code == "non_finite" for caution in found.warnings):
            message = f"some values of {', '.join(lost)} are not finite, and null in JSON"
            found.warnings.append(Caution("non_finite", message, quantity=lost[0]))
        found.finite = found.finite and not lost


class _Directions:
    """The search for the directions of the axes, with the eigenvalues that the answer and the axes need."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        self._spectrum: Spectrum | None = None

    def look_for_spectrum(self, found: Landscape) -> None:
        """Find the eigenvalues of the answer and the eigenvectors of axes, in one search."""
        axes = [(place, axis) for place, axis in enumerate(self.survey.asked.axes) if axis.direction == "hessian"]
        if not axes and self.survey.asked.spectrum is None:
            return
        size = self.survey.vector.trained_size
        faults = [
            Fault(("along", place, "index"), f"takes {-size} to {size - 1}, for there are {size} eigenvalues")
            for place, axis in axes
            if not -size <= axis.index < size
        ]
        if faults:
            raise InvalidRequest(faults)
        asked = self.survey.asked.spectrum or AskedSpectrum(0, 0)
        indices = [axis.index for _, axis in axes]
        wanted = asked._replace(
            largest=max([asked.largest, *(index + 1 for index in indices)]),
            smallest=max([asked.smallest, *(-index for index in indices)]),
        )
        try:
            spectrum = spectrum_of(
                self.survey.compile,
                self.survey.task,
                self.survey.feed,
                wanted,
                self.survey.limits,
                self.survey.watch,
                size,
                self.survey.hold,
            )
        except NotFinite:
            message = "the Hessian holds values that are not finite at these parameters, so it has no eigenvalues"
            if axes:
                raise InvalidRequest([Fault(("along", place), message) for place, _ in axes]) from None
            found.finite = False
            found.warnings.append(Caution("non_finite", message, quantity="spectrum"))
            return
        self._spectrum = spectrum
        if not spectrum.converged:
            worst = max([*spectrum.largest.residuals, *spectrum.smallest.residuals], default=math.inf)
            message = (
                f"some eigenvalues are not found to the last digits: their residuals are up to {worst:.3g}, which "
                "bounds the distance to an eigenvalue, but others may lie between; more steps help"
            )
            found.warnings.append(Caution("not_converged", message, quantity="spectrum"))
        if self.survey.asked.spectrum is not None:
            found.spectrum = replace(
                spectrum, largest=spectrum.largest.first(asked.largest), smallest=spectrum.smallest.last(asked.smallest)
            )

    def find(self, points: Array | None) -> list[Direction]:
        axes = self.survey.asked.axes
        principal = self._principal(points)
        directions = [self._direction(place, axis, principal) for place, axis in enumerate(axes)]
        for place, direction in enumerate(directions):
            if not (is_finite(direction.vector) and direction.vector.any()):
                detail = "holds numbers that are too large: the parameters are, or the gradient is not finite"
                raise InvalidRequest([Fault(("along", place), detail)])
        return directions

    def _principal(self, points: Array | None) -> Principal | None:
        asking = [place for place, axis in enumerate(self.survey.asked.axes) if axis.direction == "trajectory"]
        if not asking:
            return None
        assert points is not None
        count = 1 + max(self.survey.asked.axes[place].index for place in asking)
        asking.sort(key=lambda place: self.survey.asked.axes[place].index)
        paths = [("along", place) for place in asking]
        return principal_directions(points[:, : self.survey.vector.trained_size], count, paths)

    def _direction(self, place: int, axis: AskedAxis, principal: Principal | None) -> Direction:
        path: Path = ("along", place)
        vector = np.zeros(self.survey.base.size)
        trained = vector[: self.survey.vector.trained_size]
        if axis.parameter is not None:
            selected = select_one(axis.parameter, self.survey.vector.pieces, (*path, "parameter"))
            vector[selected.start] = 1.0
            return Direction(vector, selected.start)
        if axis.direction == "random":
            seed = self.survey.feed.seed if axis.seed is None else axis.seed
            stream = (seed, DIRECTIONS_STREAM, place)
            vector = random_direction(
                self.survey.task.definition, self.survey.vector.trained, self.survey.base, axis.normalize, stream
            )
            if not vector.any():
                detail = "is 0: every kernel is 0, and filters are as long as their weights; set normalize to none"
                raise InvalidRequest([Fault((*path, "normalize"), detail, ("none",))])
            return Direction(vector)
        if axis.direction == "gradient":
            length = norm_of_flat(self.survey.gradient)
            if length == 0.0:
                detail = "the gradient is 0 at these parameters, so it gives no direction"
                raise InvalidRequest([Fault(path, detail, ("random", "hessian"))])
            trained[:] = self.survey.gradient / length
            return Direction(vector)
        if axis.direction == "hessian":
            assert self._spectrum is not None
            pairs = self._spectrum.largest if axis.index >= 0 else self._spectrum.smallest
            if not -len(pairs.values) <= axis.index < len(pairs.values):
                detail = "was not found within so many steps"
                raise InvalidRequest([Fault((*path, "index"), detail)])
            trained[:] = pairs.vectors[axis.index]
            return Direction(vector, None, float(pairs.values[axis.index]), float(pairs.residuals[axis.index]))
        assert principal is not None
        trained[:] = principal.vectors[axis.index]
        return Direction(vector, explained=float(principal.explained[axis.index]))


class _Drawing:
    """The computation of a landscape's grid: losses, slopes and the path of a trajectory."""

    def __init__(self, survey: Survey, directions: Sequence[Direction]) -> None:
        self.survey, self.directions = survey, directions

    def draw(self, found: Landscape, points: Array | None) -> None:
        rows = np.stack([direction.vector for direction in self.directions])
        if len(rows) == 2:
            found.cosine = check_plane(rows[0], rows[1], ("along", 1))
        # Places along a parameter are its values, so it is 0 at the origin and each value is exact.
        origin = self.survey.base.copy()
        for direction in self.directions:
            if direction.place is not None:
                origin[direction.place] = 0.0
        centre = [0.0 if each.place is None else float(self.survey.base[each.place]) for each in self.directions]
        way = None if points is None else self._projected(points, rows, centre)
        for position, (asked, direction) in enumerate(zip(self.survey.asked.axes, self.directions, strict=True)):
            places = self._places(
                position, asked, centre[position], None if way is None else way.coordinates[:, position]
            )
            length = norm_of_flat(direction.vector)
            found.axes.append(AxisValues(asked, direction, centre[position], places, length))
        shape = tuple(len(axis.values) for axis in reversed(found.axes))
        meshes = np.meshgrid(*[axis.values for axis in found.axes])
        coordinates = np.stack([mesh.reshape(-1) for mesh in meshes], -1)
        moved = tuple(
            f"{part.layer}.{part.name}"
            for part in sorted(self.survey.vector.pieces, key=lambda part: part.start)
            if rows[:, part.start : part.stop].any()
        )
        at_centre = self._grid(moved, len(rows), 1, 2)
        grid = self._grid(moved, len(rows), len(coordinates), 1 if self.survey.asked.slopes else 0)
        # At the centre the parameters themselves are used, without rounding.
        here = at_centre.run(
            self.survey.feed, self.survey.base, rows, np.zeros((1, len(rows))), self.survey.watched(at_centre.work)
        )
        values = grid.run(self.survey.feed, origin, rows, coordinates, self.survey.watched(grid.work))
        found.losses = losses = values.losses.reshape(shape)
        found.hessian = here.curvatures[0]
        for position, axis in enumerate(found.axes):
            axis.slope, axis.curvature = float(here.slopes[0, position]), float(here.curvatures[0, position, position])
            if self.survey.asked.slopes:
                axis.slopes = values.slopes[:, position].reshape(shape)
        found.levels = levels_for(losses, self.survey.asked.levels)
        finite = np.isfinite(losses)
        if finite.any():
            found.minimum = _extreme(coordinates, values.losses, np.where(finite, losses, np.inf).argmin())
            found.maximum = _extreme(coordinates, values.losses, np.where(finite, losses, -np.inf).argmax())
        if len(found.axes) == 1:
            away = found.axes[0].values - centre[0]
            slope, curvature = found.axes[0].slope, found.axes[0].curvature
            found.tangent = found.loss + slope * away
            found.parabola = found.loss + (slope + 0.5 * curvature * away) * away
        if way is not None:
            way.losses = grid.run(
                self.survey.feed, origin, rows, way.coordinates, self.survey.watched(grid.work)
            ).losses
            found.path = way
        self._warn(found, values.caution or here.caution, finite)

    def _grid(self, moved: tuple[str, ...], axes: int, points: int, order: int) -> Grid:
        grid = self.survey.compile(GridTask(self.survey.task, moved, axes, points, order))
        self.survey.hold(2 * grid.program.nbytes + 8 * points * (1 + axes) * 2)
        return grid

    def _projected(self, points: Array, rows: Array, centre: Sequence[float]) -> PathValues:
        """Return the places on the line or plane that are nearest to the points of a trajectory. `rows` are the
        directions of the axes, `centre` the place of the present parameters."""
        lengths = np.array([norm_of_flat(row) for row in rows])
        units = rows / lengths[:, None]
        away = points - self.survey.base
        moved = np.linalg.solve(units @ units.T, units @ away.T).T
        distances = np.array([norm_of_flat(row) for row in away - moved @ units])
        coordinates = moved / lengths + np.array(centre)
        if not (is_finite(coordinates) and is_finite(distances)):
            detail = "lies too far away to be shown on these axes"
            raise InvalidRequest([Fault(("trajectory",), detail)])
        return PathValues(coordinates, np.empty(0), distances)

    def _places(self, position: int, asked: AskedAxis, centre: float, way: Array | None) -> Array:
        if asked.values is not None:
            return np.array(asked.values)
        count = asked.resolution or DEFAULT_RESOLUTIONS[len(self.survey.asked.axes)]
        low, high = asked.range or _default_range(asked, centre, way)
        if not math.isfinite(high - low):
            detail = f"has the value {centre:g}, which is too large to choose a range around it; give a range"
            raise InvalidRequest([Fault(("along", position), detail)])
        places: Array = np.linspace(low, high, count)
        return places

    def _warn(self, found: Landscape, caution: Caution | None, finite: Array) -> None:
        if caution is None:
            return
        found.finite = False
        lost = int((~finite).sum())
        where = f"at {lost:,} of {finite.size:,} points the loss is not finite" if lost else "a slope is not finite"
        found.warnings.append(replace(caution, message=f"{where}: {caution.message}"))


def _default_range(asked: AskedAxis, centre: float, way: Array | None) -> tuple[float, float]:
    """Return a useful range for an axis. It shows all of a trajectory; a weight from its negative to three times
    itself; else one length to each side."""
    if way is not None:
        low, high = min(float(way.min()), centre), max(float(way.max()), centre)
        if high > low:
            margin = MARGIN * (high - low)
            return low - margin, high + margin
    reach = 1.0 if asked.parameter is None else 2.0 * max(1.0, abs(centre))
    return centre - reach, centre + reach


def _extreme(coordinates: Array, losses: Array, place: np.intp) -> Extreme:
    return Extreme(coordinates[place].tolist(), float(losses[place]))
