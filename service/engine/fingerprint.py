"""The fingerprint of this process's numerics: equal fingerprints mean equal bits for equal computations.

Matrix products differ in their last bits between types of processors, because OpenBLAS has kernels for each; elementary
functions differ between versions of NumPy, of the C library, and between instruction sets. Processes that share one
computation must have the same fingerprint, and a computation that continues elsewhere can tell whether it gives the
same bits there.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from service import __version__
from service.engine.arrays import Array
from service.engine.float_warnings import without_float_warnings

DIGITS = 12
"""The hexadecimal digits of a fingerprint."""
PRODUCTS = ((1, 700, 1), (1, 300, 9), (3, 5, 7), (8, 1000, 12), (33, 65, 17), (70, 810, 40))
"""Rows, inner size and columns of the matrix products; each kernel has rules of its own for small and uneven shapes."""
FUNCTIONS = (
    *(np.exp, np.exp2, np.expm1, np.log, np.log1p, np.log2, np.sqrt, np.cbrt),
    *(np.sin, np.cos, np.tan, np.arctan, np.sinh, np.cosh, np.tanh, np.reciprocal),
)
POINTS = 512
"""Arguments of each function, between 0 and 8."""
PREFIXES = ("scipy_openblas", "openblas")
"""The beginnings of the names of OpenBLAS's functions: those of NumPy's own wheels, and those of other builds."""


class Numerics(NamedTuple):
    """All that decides about the bits of a computation."""

    nabla: str
    numpy: str
    kernel: str
    """The kernel of OpenBLAS, such as SkylakeX; empty if another BLAS is used."""
    threads: int
    """Threads of OpenBLAS, 0 if another BLAS is used: products that are shared among threads may have other bits."""
    results: str
    """A hash of the results of fixed computations."""


def fingerprint() -> str:
    """Return 12 hexadecimal digits that are equal in processes which compute the same bits. Computed once, in 10 ms."""
    return _hash(repr(numerics()).encode())


def describe() -> str:
    """Return what the fingerprint is made of, in words for messages."""
    own = numerics()
    blas = f"OpenBLAS for {own.kernel} with {own.threads} thread{'s' * (own.threads != 1)}" if own.kernel else "a BLAS"
    return f"{fingerprint()} (Nabla {own.nabla}, NumPy {own.numpy}, {blas}, results {own.results})"


@functools.cache
def numerics() -> Numerics:
    """Return what decides about the bits of this process."""
    kernel = _ask_openblas("get_corename", ctypes.c_char_p)
    return Numerics(
        nabla=__version__,
        numpy=np.__version__,
        kernel=kernel.decode(errors="replace") if kernel else "",
        threads=_ask_openblas("get_num_threads", ctypes.c_int) or 0,
        results=_hash(b"".join(array.tobytes() for array in without_float_warnings(lambda: list(_results())))),
    )


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _results() -> Iterator[Array]:
    """Compute what differs between machines: products, sums and elementary functions, in both types of numbers."""
    for dtype in (np.float64, np.float32):
        for rows, inner, columns in PRODUCTS:
            left, right = _numbers(rows * inner, dtype), _numbers(inner * columns, dtype)
            left, right = left.reshape(rows, inner) - dtype(0.5), right.reshape(inner, columns)
            yield left @ right
            yield right.T @ left.T
            yield left @ left.T  # a product with itself has a kernel of its own
            yield np.einsum("ij,ij->j", left, left)
        points = 8 * _numbers(POINTS, dtype)
        for function in FUNCTIONS:
            yield function(points)
        yield np.arctan2(points, points[::-1])
        yield np.hypot(points, points[::-1])
        yield np.power(points, dtype(1.7))
        for count in (7, 127, POINTS):
            yield points[:count].sum(keepdims=True)
        yield points.reshape(-1, 32).sum(axis=0)
        yield points.reshape(-1, 32).sum(axis=1)


def _numbers(count: int, dtype: type[np.floating[Any]]) -> Array:
    """Return numbers between 0 and 1 that look random: products and remainders are the same on every machine."""
    numbers: Array = np.fmod(np.arange(1, count + 1) * 0.6180339887498949, 1.0)
    return numbers.astype(dtype)


def _ask_openblas(name: str, kind: type[Any]) -> Any:
    """Call a function of the OpenBLAS that NumPy has loaded; return None if NumPy uses another BLAS."""
    with suppress(KeyError, OSError):
        library = ctypes.CDLL(sys.modules["numpy._core._multiarray_umath"].__file__)  # with the names of what it loaded
        for prefix in PREFIXES:
            for suffix in ("64_", ""):
                function = getattr(library, f"{prefix}_{name}{suffix}", None)
                if function is not None:
                    function.restype = kind
                    return function()
    return None
