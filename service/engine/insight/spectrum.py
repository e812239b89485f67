"""Eigenvalues of the Hessian of a loss with respect to the trained parameters.

A small Hessian is computed whole and factorised. Of a large one, products with vectors alone are computed, and
Lanczos' method finds the extreme eigenvalues and, from random probes, the density of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, is_finite
from service.engine.compiling import Compiler
from service.engine.errors import LimitExceeded
from service.engine.float_warnings import without_float_warnings
from service.engine.insight.lanczos import Pairs, Quadrature, extremes, quadratures
from service.engine.limits import WATCHED_OPERATIONS, Limits
from service.engine.network.derivatives import Derivation, DerivativeTask
from service.engine.network.feed import Feed
from service.engine.network.task import Task
from service.engine.watch import Watch

DENSE_SIZE = 512
"""Parameters up to which the whole Hessian is computed: its eigenvalues take a tenth of a second then."""
TOLERANCES = {"float64": 1e-9, "float32": 1e-4}
"""Residuals that a search stops at, in terms of the largest absolute eigenvalue. Products are no more exact."""
STREAMS = {"extremes": 3, "density": 4}
"""The streams of random numbers, apart from those for parameters (0), noise (1) and directions (2)."""
FULL_WIDTH = 60.0
"""The density is smoothed with a Gaussian of so small a part of the spectrum's width."""


class AskedSpectrum(NamedTuple):
    """The question of a request about the eigenvalues of a Hessian: their number, and the work that they may take."""

    largest: int = 5
    smallest: int = 5
    density: bool = False
    steps: int = 200
    """Products with the Hessian that one search may take."""
    probes: int = 8
    """Random vectors of a density."""
    probe_steps: int = 50
    """Products for each of them."""
    points: int = 101
    """The count of points on the curve of the density."""


class NotFinite(Exception):
    """Raised where the Hessian holds values that are not finite."""


@dataclass
class Density:
    """The density of the eigenvalues: a smooth curve with area 1."""

    values: Array
    density: Array
    width: float
    """The standard deviation of the Gaussian of each eigenvalue."""
    probes: int
    """The count of random vectors of the estimate; 0 if it uses all eigenvalues."""


@dataclass
class Spectrum:
    """Eigenvalues of a Hessian, all or the extreme ones, and their density if it was asked for."""

    method: str
    """dense or lanczos."""
    size: int
    """The count of eigenvalues."""
    largest: Pairs
    smallest: Pairs
    """The smallest last, as the largest ones are first."""
    products: int
    """Products of the Hessian with vectors that were computed; of a whole Hessian as many as it has rows."""
    converged: bool
    trace: float | None = None
    """The sum of all eigenvalues; None if it was not asked for."""
    trace_error: float = 0.0
    """The standard error of an estimated trace."""
    eigenvalues: Array | None = None
    """All of them, the largest first, where the whole Hessian was computed."""
    zero: float = 0.0
    """Eigenvalues of no larger size are rounding."""
    density: Density | None = None

    @property
    def largest_stable_step(self) -> float | None:
        """2 / λ of the largest eigenvalue: with a larger learning rate plain descent grows along its vector."""
        if not self.largest.values.size:
            return None
        value = float(self.largest.values[0])
        step = 2.0 / value if value > max(self.zero, float(self.largest.residuals[0])) else math.inf
        return step if math.isfinite(step) else None

    @property
    def signs(self) -> dict[str, int] | None:
        """The counts of positive, zero (up to rounding) and negative eigenvalues, where all are known."""
        if self.eigenvalues is None:
            return None
        positive, negative = int((self.eigenvalues > self.zero).sum()), int((self.eigenvalues < -self.zero).sum())
        return {"positive": positive, "zero": self.size - positive - negative, "negative": negative}


class Hessian:
    """A function that multiplies the Hessian of a loss with vectors, at the parameters of a feed. It holds memory until
    it is closed."""

    def __init__(self, derivation: Derivation, feed: Feed, watch: Watch | None) -> None:
        """Take memory and fill in the feed. `derivation` computes one product of the Hessian with a vector."""
        self._stack = ExitStack()
        self.watch = watch
        workspace = self._workspace = self._stack.enter_context(derivation.program.workspace(watch))
        derivation.feeder.fill(workspace, feed, watch)
        self._vector = workspace.inputs.get("vectors")
        assert derivation.sent is not None
        self.size: int = derivation.sent.size
        self._results = [
            (workspace.outputs[f"result/{place}"], piece.start, piece.stop)
            for place, piece in enumerate(derivation.sent.pieces)
        ]

    def close(self) -> None:
        """Give the borrowed memory back to the pool."""
        self._stack.close()

    def __call__(self, vector: Array) -> Array:
        """Return H v in float64, whatever the precision of the graph. Raises `NotFinite` and what the watch raises."""
        if self._vector is not None:  # None: the Hessian is constant
            self._vector[0] = vector
        self._workspace.run(self.watch)
        product = np.empty(self.size)
        for array, start, stop in self._results:
            product[start:stop] = array[0].reshape(-1)
        if not is_finite(product):
            raise NotFinite
        return product


def spectrum_of(
    compile: Compiler,  # noqa: A002
    task: Task,
    feed: Feed,
    asked: AskedSpectrum,
    limits: Limits,
    watch: Watch | None,
    size: int,
    hold: Callable[[int], None] = lambda nbytes: None,
) -> Spectrum:
    """Compute the spectrum of the Hessian of a task's loss, at the parameters of a feed.

    `size` is the number of trained parameters. `hold` is called with the bytes of memory before they are used. Raises
    `NotFinite`, `LimitExceeded` and what `watch` raises.
    """
    nbytes = memory_of(size, asked)
    if nbytes > limits.workspace_bytes:
        raise LimitExceeded("workspace_bytes", nbytes, limits.workspace_bytes, ("spectrum",))
    hold(nbytes)
    if size <= DENSE_SIZE:
        derivation = compile(DerivativeTask(task, "hessian", "loss", "parameters"))
        hold(2 * derivation.program.nbytes)
        return without_float_warnings(_dense, derivation, task, feed, asked, watch)
    derivation = compile(DerivativeTask(task, "hvp", "loss", "parameters", 1))
    hold(2 * derivation.program.nbytes)
    products = 2 * asked.steps + (asked.probes * asked.probe_steps if asked.density else 0)
    limits.check_operations(derivation.program.work * products)
    hessian = Hessian(derivation, feed, watch)
    try:
        return without_float_warnings(_lanczos, hessian, asked, feed.seed, task.dtype)
    finally:
        hessian.close()


def memory_of(size: int, asked: AskedSpectrum) -> int:
    """Return roughly how many bytes the vectors of a spectrum take, beside the programs."""
    if size <= DENSE_SIZE:
        return 8 * 4 * size * size
    steps = max(asked.steps, asked.probe_steps if asked.density else 0)
    return 8 * size * (min(steps, size) + 2 * (asked.largest + asked.smallest) + 8)


def _dense(derivation: Derivation, task: Task, feed: Feed, asked: AskedSpectrum, watch: Watch | None) -> Spectrum:
    watched = watch if derivation.work > WATCHED_OPERATIONS else None
    matrix = np.asarray(derivation.run(replace(feed), watch=watched).result, np.float64)
    if not is_finite(matrix):
        raise NotFinite
    size = len(matrix)
    values, columns = np.linalg.eigh(matrix)
    values, vectors = values[::-1], columns.T[::-1].copy()
    for vector in vectors:
        vector *= np.sign(vector[np.abs(vector).argmax()])
    residuals = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    everything = Pairs(values, vectors, residuals, size, True)
    zero = size * float(np.finfo(task.dtype).eps) * float(np.abs(values).max())
    density = _density([Quadrature(values, np.full(size, 1.0 / size), float(values.mean()))], asked, 0)
    return Spectrum(
        "dense",
        size,
        everything.first(asked.largest),
        everything.last(asked.smallest),
        size,
        True,
        float(np.trace(matrix)),
        0.0,
        values,
        zero,
        density if asked.density else None,
    )


def _lanczos(hessian: Hessian, asked: AskedSpectrum, seed: int, dtype: str) -> Spectrum:
    size = hessian.size
    generator = np.random.Generator(np.random.PCG64([seed, STREAMS["extremes"]]))
    found = extremes(hessian, size, asked.largest, asked.smallest, generator, asked.steps, TOLERANCES[dtype])
    above = min(asked.largest, len(found.values))
    largest, smallest = found.first(above), found.part(above, len(found.values))
    result = Spectrum("lanczos", size, largest, smallest, found.products, found.converged)
    if asked.density:
        generator = np.random.Generator(np.random.PCG64([seed, STREAMS["density"]]))
        probes = quadratures(hessian, size, asked.probes, asked.probe_steps, generator)
        traces = size * np.array([probe.trace for probe in probes])
        result.trace = float(traces.mean())
        result.trace_error = float(traces.std(ddof=1) / np.sqrt(len(traces))) if len(traces) > 1 else float("nan")
        result.products += sum(len(probe.nodes) for probe in probes)
        result.density = _density(probes, asked, len(probes))
    return result


def _density(probes: list[Quadrature], asked: AskedSpectrum, estimated: int) -> Density:
    """Return the density as a sum of Gaussians, one for each node, over a range that shows the ends of the spectrum.
    `estimated` is the number of random vectors behind it."""
    low = min(float(probe.nodes.min()) for probe in probes)
    high = max(float(probe.nodes.max()) for probe in probes)
    width = (high - low) / FULL_WIDTH or max(abs(high), 1.0) / FULL_WIDTH
    values = np.linspace(low - 4.0 * width, high + 4.0 * width, asked.points)
    heights = np.zeros(asked.points)
    for probe in probes:
        heights += np.exp(-0.5 * ((values[:, None] - probe.nodes) / width) ** 2) @ probe.weights
    heights /= len(probes)
    return Density(values, heights / (width * np.sqrt(2.0 * np.pi)), width, estimated)
