"""Directions through the space of the parameters, which are the axes of a loss landscape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, norm_of_flat
from service.engine.errors import Fault, InvalidRequest, Path
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.network.definition import Definition, LayerDefinition
from service.engine.network.flat import Piece

DIRECTIONS: Mapping[str, str] = {
    "random": "standard normal numbers, by default as long in each filter as its weights are",
    "gradient": "the gradient at the parameters, of length 1: downhill is to the left",
    "hessian": "an eigenvector of the Hessian at the parameters, of length 1",
    "trajectory": "a principal direction of the trajectory that is sent, of length 1",
}
NORMALIZATIONS: Mapping[str, str] = {
    "filter": "each filter as long as its weights, biases and the like do not move (Li et al. 2018)",
    "layer": "each parameter as long as its numbers are",
    "none": "the whole direction has length 1",
}
STREAM = 2
"""The stream of random numbers for directions, apart from those for parameters (0) and noise (1)."""
PARALLEL = 1e-9
"""Directions span no plane if their cosine is closer than this to 1 or -1."""
FLAT = 1e-12
"""Singular values below this share of the first one are rounding."""


@dataclass(frozen=True)
class AskedAxis:
    """One axis of a landscape as a request describes it. Exactly one of `parameter` and `direction` is given."""

    parameter: str | None = None
    direction: str | None = None
    normalize: str = "filter"
    """The normalisation of a random direction."""
    seed: int | None = None
    """The seed of a random direction; None for the seed of the request."""
    index: int = 0
    """The position of an eigenvector from the largest eigenvalue on; negative from the smallest back, which is -1. For
    a principal direction, the position from the largest variance on."""
    values: tuple[float, ...] | None = None
    """Places along the axis; None: `resolution` places over `range`."""
    range: tuple[float, float] | None = None
    resolution: int | None = None


class Direction(NamedTuple):
    """The direction of an axis as a vector, with what is known of it."""

    vector: Array
    """The direction over the flat vector of all parameters, in float64."""
    place: int | None = None
    """The number that the axis is, of an axis that is one parameter."""
    eigenvalue: float | None = None
    residual: float | None = None
    explained: float | None = None
    """The share of the variance of a trajectory."""


def random_direction(
    definition: Definition, trained: Sequence[Piece], base: Array, normalize: str, stream: Sequence[int]
) -> Array:
    """Return random normal numbers for all trained parameters, normalised, as one flat vector.

    `base` holds all parameters, and `stream` seeds the numbers. Filter normalisation is that of Li, Xu, Taylor, Studer,
    Goldstein, "Visualizing the Loss Landscape of Neural Nets", 2018, arXiv:1712.09913: d ← d / ‖d‖ · ‖w‖ for each
    filter.
    """
    generator = np.random.Generator(np.random.PCG64(list(stream)))
    layers = {layer.name: layer for layer in definition.layers}
    direction = np.zeros(base.size)
    for part in trained:
        way = generator.standard_normal(part.shape)
        weights = base[part.start : part.stop].reshape(part.shape)
        if normalize == "filter":
            way = _by_filter(way, weights, layers[part.layer], part.name)
        elif normalize == "layer":
            way *= norm_of_flat(weights.reshape(-1)) / norm_of_flat(way.reshape(-1))
        direction[part.start : part.stop] = way.reshape(-1)
    return direction / norm_of_flat(direction) if normalize == "none" else direction


def _by_filter(way: Array, weights: Array, layer: LayerDefinition, name: str) -> Array:
    """Scale a way to the lengths of the filters: a filter is all weights into one unit, or of one word."""
    if not name.endswith(("kernel", "embeddings")):
        return np.zeros(way.shape)
    selection = layer.layer
    while "layer" in selection.options:  # a wrapper has the parameters of the layer inside
        selection = selection.options["layer"]
    units = selection.declaration.unit_axes.get(name, (-1,))
    others = tuple(axis for axis in range(way.ndim) if axis not in units and axis - way.ndim not in units)
    lengths = np.sqrt((weights * weights).sum(others, keepdims=True))
    own = np.sqrt((way * way).sum(others, keepdims=True))
    result: Array = way * (lengths / own)
    return result


class Principal(NamedTuple):
    """The principal directions of a trajectory."""

    vectors: Array
    """(directions, trained parameters), of length 1, the one with the largest variance first."""
    explained: Array
    """The share of the variance of each."""


@ignoring_float_warnings
def principal_directions(points: Array, count: int, paths: Sequence[Path]) -> Principal:
    """Return the `count` directions along which points vary most about their mean.

    `points` are (steps, trained parameters); `paths` are the places of the axes in the request. Raises `InvalidRequest`
    where there are fewer such directions.
    """
    centred = points - points.mean(0)
    largest = float(np.abs(centred).max())
    if not np.isfinite(largest):
        detail = "holds numbers that are too large for the differences between its points"
        raise InvalidRequest([Fault(("trajectory",), detail)])
    spread = points.max(0) - points.min(0)
    if largest <= FLAT * float(np.abs(points).max(initial=0.0)) or not spread.any():
        detail = "is a principal direction of a trajectory that does not move: all its points are the same"
        raise InvalidRequest([Fault(path, detail, ("random", "gradient", "hessian")) for path in paths])
    _, sizes, rows = np.linalg.svd(centred / largest, full_matrices=False)
    rank = int((sizes > FLAT * sizes[0]).sum())
    if rank < count:
        lies = "on a line" if rank == 1 else f"in a space of {rank} dimensions"
        takes = "0 alone" if rank == 1 else f"0 to {rank - 1}"
        detail = f"takes {takes}, because the trajectory lies {lies}; got {count - 1}"
        raise InvalidRequest([Fault((*paths[-1], "index"), detail, tuple(range(rank)))])
    vectors = rows[:count]
    vectors *= np.sign(vectors[np.arange(count), np.abs(vectors).argmax(1)])[:, None]
    return Principal(vectors, sizes[:count] ** 2 / float((sizes**2).sum()))


def check_plane(one: Array, other: Array, path: Path) -> float:
    """Return the cosine of the angle between two directions. Raises `InvalidRequest` at `path` where they are parallel
    and span no plane."""
    cosine = float((one / norm_of_flat(one)) @ (other / norm_of_flat(other)))
    if 1.0 - abs(cosine) <= PARALLEL:
        way = "the same way as" if cosine > 0.0 else "the opposite way of"
        detail = f"leads {way} the first axis; a plane takes two directions, a curve one entry alone"
        raise InvalidRequest([Fault(path, detail)])
    return cosine
