"""Extreme eigenvalues and the spectral density of a symmetric matrix that is known by its products with vectors alone.

Lanczos' method with full reorthogonalisation, written out: after m products the matrix, restricted to the Krylov space
of a start vector, is a tridiagonal matrix of m rows. Its eigenvalues (Ritz values) approach the extreme eigenvalues
first (Golub, Van Loan, Matrix Computations, chapter 10). Every eigenvalue comes with its residual r = ‖A v - λ v‖,
‖v‖ = 1: a symmetric matrix has an eigenvalue within r of λ, and, where the next one is a gap g away, within r² / g.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from service.engine.arrays import Array

Product = Callable[[Array], Array]
"""The matrix times a vector of float64; raises where time is over."""

LOOSE = 1e-4
"""A search for missed eigenvalues ends at residuals of this share of the largest eigenvalue."""
MORE_PASSES = 2
"""Searches beyond those that find one eigenvalue each: they find missed ones, and confirm that there are no more."""
CHECKED_EVERY = 5
"""Steps before the first check of the Ritz values."""
CHECKED_SHARE = 8
"""Later checks come after this further share of the steps, as a check costs the cube of these."""
ORDINARY = 100
"""Powers of two by which a matrix may differ from 1 without any danger for squares."""
TINY = 1e-13
"""A new vector shorter than this share of the matrix is rounding: the Krylov space is closed."""


@dataclass
class Pairs:
    """Eigenvalues with their eigenvectors, the largest first."""

    values: Array
    vectors: Array
    """One a row, of length 1, with its largest component positive."""
    residuals: Array
    """‖A v - λ v‖ of each, computed with one more product."""
    products: int
    """The count of products, including those for residuals."""
    converged: bool
    """True if every residual is within the tolerance."""

    def first(self, count: int) -> Pairs:
        """Return the pairs with the `count` largest eigenvalues, or all if there are fewer."""
        return self.part(0, min(count, len(self.values)))

    def last(self, count: int) -> Pairs:
        """Return the pairs with the `count` smallest eigenvalues, or all if there are fewer."""
        return self.part(max(len(self.values) - count, 0), len(self.values))

    def part(self, start: int, stop: int) -> Pairs:
        """Return the pairs from position `start` to before `stop`."""
        kept = slice(start, stop)
        return replace(self, values=self.values[kept], vectors=self.vectors[kept], residuals=self.residuals[kept])


@dataclass
class Quadrature:
    """The spectrum as one random vector sees it: eigenvalues of the tridiagonal matrix with a weight for each."""

    nodes: Array
    weights: Array
    trace: float
    """The probe's own estimate of the mean eigenvalue."""


class Krylov:
    """A Krylov space: it grows by one vector with each product, orthogonal to the `locked` vectors."""

    def __init__(self, product: Product, start: Array, most: int, locked: Array) -> None:
        self.product, self.locked = product, locked
        self.basis = np.empty((most, start.size))
        self.diagonal: list[float] = []
        self.beside: list[float] = []
        self.scale = 0.0
        """An estimate of the norm of the matrix, from below."""
        vector = self._orthogonal(start, 0)
        length = float(np.linalg.norm(vector))
        self.closed = length <= TINY * float(np.linalg.norm(start))
        """No product leads out of the space."""
        self.next = vector / length if not self.closed else vector

    @property
    def size(self) -> int:
        return len(self.diagonal)

    def grow(self) -> None:
        """Add one vector to the space, by one product with the matrix."""
        size = self.size
        self.basis[size] = self.next
        image = self.product(self.next)
        self.diagonal.append(float(image @ self.next))
        rest = self._orthogonal(image, size + 1)
        length = float(np.linalg.norm(rest))
        self.scale = max(self.scale, float(np.linalg.norm(image)))
        self.closed = length <= TINY * self.scale
        self.beside.append(0.0 if self.closed else length)
        if not self.closed:
            self.next = rest / length

    def _orthogonal(self, vector: Array, size: int) -> Array:
        """Return a vector without its part in the basis and in the locked vectors. Removing it twice is enough
        (Parlett, Kahan)."""
        rest = vector.copy()
        for _ in range(2):
            rest -= self.basis[:size].T @ (self.basis[:size] @ rest)
            rest -= self.locked.T @ (self.locked @ rest)
        return rest

    def ritz(self) -> tuple[Array, Array, Array]:
        """Return Ritz values, the smallest first, bounds of their residuals, and Ritz vectors as columns."""
        beside = self.beside[: self.size - 1]
        values, columns = np.linalg.eigh(np.diag(self.diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        return values, np.abs(self.beside[-1] * columns[-1]), columns


def extremes(
    product: Product,
    size: int,
    largest: int,
    smallest: int,
    generator: np.random.Generator,
    most_steps: int,
    tolerance: float,
) -> Pairs:
    """Return the `largest` largest and `smallest` smallest eigenvalues of a matrix with `size` rows, or all.

    A search stops at residuals of `tolerance` times the largest absolute eigenvalue, or after `most_steps` products. A
    Krylov space holds one vector of a multiple eigenvalue, so further searches, orthogonal to all found vectors, look
    for anything as extreme that was missed.
    """
    above = min(largest, size)
    below = min(smallest, size - above)
    if not above + below:
        return Pairs(np.empty(0), np.empty((0, size)), np.empty(0), 0, True)
    product, factor = _scaled(product, generator.standard_normal(size))
    locked = np.empty((0, size))
    values = np.empty(0)
    products, whole, scale = 1, True, 0.0
    for attempt in range(above + below + MORE_PASSES):
        if len(locked) >= size:
            break
        wanted = (above, below) if attempt == 0 else (min(above, 1), min(below, 1))
        space = Krylov(product, generator.standard_normal(size), min(most_steps, size - len(locked)), locked)
        chosen, complete = _search(space, wanted, values, (above, below), tolerance)
        products += space.size
        scale = max(scale, space.scale)
        if not chosen.size:
            break
        found, _, columns = space.ritz()
        vectors = columns[:, chosen].T @ space.basis[: space.size]
        del space  # before the next one takes as much memory
        locked = np.concatenate([locked, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)])
        values = np.concatenate([values, found[chosen]])
        whole = whole and complete
        if not whole:
            break
    else:
        whole = False
    order = np.argsort(-values, kind="stable")
    kept = np.concatenate([order[:above], order[len(order) - below :]]) if len(order) > above + below else order
    pairs = _measured(product, factor, locked[kept])
    small = bool((pairs.residuals <= 10.0 * tolerance * scale * factor).all())
    return replace(pairs, products=products + len(kept), converged=whole and small)


def _scaled(product: Product, vector: Array) -> tuple[Product, float]:
    """Return the matrix times a power of two that brings it near 1, and the inverse of this power. The squares of its
    numbers then neither overflow nor vanish."""
    largest = float(np.abs(product(vector)).max())
    exponent = max(-1000, min(1000, int(np.frexp(largest)[1]))) if largest else 0
    if abs(exponent) < ORDINARY:
        return product, 1.0
    return lambda other: np.ldexp(product(other), -exponent), 2.0**exponent


def _search(
    space: Krylov, wanted: tuple[int, int], known: Array, counts: tuple[int, int], tolerance: float
) -> tuple[Array, bool]:
    """Grow a space until it holds the wanted counts of its largest and smallest Ritz values.

    Returns their positions, and whether all are converged. After values are known, later searches only look for more
    extreme values than the last one that counts, and return none if there are none.
    """
    most = len(space.basis)
    look = CHECKED_EVERY
    while not space.closed:
        space.grow()
        if not (space.closed or space.size >= min(look, most)):
            continue
        look = space.size + max(CHECKED_EVERY, space.size // CHECKED_SHARE)
        values, bounds, _ = space.ritz()
        above = min(wanted[0], space.size)
        below = min(wanted[1], space.size - above)
        places = np.concatenate([np.arange(below), np.arange(space.size - above, space.size)])
        scale = max(space.scale, float(np.abs(known).max(initial=0.0)))
        full = space.closed or space.size == most == len(space.basis[0]) - len(space.locked)
        if known.size and (full or bool((bounds[places] <= LOOSE * scale).all())):
            places = places[_more_extreme(values[places], bounds[places], known, counts, scale)]
            if not places.size:
                return places, True
        if full or (above + below == sum(wanted) and bool((bounds[places] <= tolerance * scale).all())):
            return places, True
        if space.size == most:
            # An unfinished later search does not invalidate the values found before.
            return (places, False) if not known.size else (places[:0], True)
    return np.empty(0, np.int64), True


def _more_extreme(values: Array, bounds: Array, known: Array, counts: tuple[int, int], scale: float) -> Array:
    """Return a mask of the values that belong among the known extreme ones, or are copies of the last of them. `bounds`
    are the errors of the values, `counts` how many largest and smallest ones are wanted."""
    above, below = counts
    ordered = np.sort(known)
    slack = bounds + 1e-9 * scale
    result = np.zeros(values.shape, bool)
    if above:
        result |= values > ordered[max(len(ordered) - above, 0)] + slack
    if below:
        result |= values < ordered[min(below, len(ordered)) - 1] - slack
    if len(ordered) < above + below:
        result[:] = True
    return result


def _measured(product: Product, factor: float, vectors: Array) -> Pairs:
    """Return the pairs of vectors that are nearly eigenvectors: Rayleigh quotients and residuals."""
    count = len(vectors)
    values, residuals = np.empty(count), np.empty(count)
    for place, vector in enumerate(vectors):
        vector *= np.sign(vector[np.abs(vector).argmax()])
        image = product(vector)
        values[place] = image @ vector
        residuals[place] = np.linalg.norm(image - values[place] * vector)
    return Pairs(values * factor, vectors, residuals * factor, count, True)


def quadratures(
    product: Product, size: int, probes: int, steps: int, generator: np.random.Generator
) -> list[Quadrature]:
    """Estimate the spectral density by stochastic Lanczos quadrature, with `probes` random vectors.

    For a random vector of signs the eigenvalues of its tridiagonal matrix, weighted with the squared first components
    of their vectors, integrate the spectrum as its mean over all directions does (Ubaru, Chen, Saad 2017,
    doi:10.1137/16M1104974).
    """
    found = []
    product, factor = _scaled(product, generator.standard_normal(size))
    for _ in range(probes):
        start = np.where(generator.random(size) < 0.5, -1.0, 1.0)
        space = Krylov(product, start, min(steps, size), np.empty((0, size)))
        while not space.closed and space.size < len(space.basis):
            space.grow()
        nodes, _, columns = space.ritz()
        found.append(Quadrature(nodes * factor, columns[0] ** 2, space.diagonal[0] * factor))
    return found
