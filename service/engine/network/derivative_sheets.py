"""The arrays of a derivative's answer, and how the results of one block of vectors after the other fill them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Shape
from service.engine.network.flat import Space
from service.engine.network.vectors import Entry, LossSide, Side

Write = Callable[[int, int, Sequence[Array]], None]
"""`write(start, stop, results)` stores the results of the vectors `start` to `stop`, one array for each piece."""


@dataclass
class AnswerArrays:
    """The arrays of one answer, which are filled while block after block of vectors goes through the graph."""

    write: Write
    entry: Callable[[], Entry]
    """Returns the filled arrays in the form of the answer."""


class AnswerLayout:
    """The shapes of an answer: what its rows and columns stand for. Each method allocates an empty answer."""

    def __init__(self, of: Side, wrt: Side, samples: int, dtype: str, *, per_sample: bool, alone: bool) -> None:
        """`per_sample`: one vector serves all samples. `alone`: each sample is differentiated alone."""
        self.of, self.dtype = of, dtype
        self.apart = samples if per_sample or alone else 1
        """Rows that one vector gives."""
        self.columns: Space = wrt.of_a_sample() if per_sample else wrt
        """The numbers in a row of a matrix."""
        self.rows: Space = of.of_a_sample() if per_sample or alone else of
        """The numbers in one vector of cotangents."""
        whole = isinstance(of, LossSide)
        self.leads: list[Shape] = [
            () if whole else (samples, piece.stop - piece.start) for piece in of.of_a_sample().pieces
        ]
        """For each output, the axes that come before those of a row."""

    def listed(self, space: Space, count: int) -> AnswerArrays:
        """Allocate the answer of a vjp, jvp or hvp: a list with an entry of `space` for each of `count` vectors."""
        arrays = [np.empty((count, *piece.shape), self.dtype) for piece in space.pieces]

        def write(start: int, stop: int, block: Sequence[Array]) -> None:
            for array, values in zip(arrays, block, strict=True):
                array[start:stop] = values[: stop - start]

        return AnswerArrays(write, lambda: [space.nested([array[n] for array in arrays]) for n in range(count)])

    def jacobian_by_rows(self) -> AnswerArrays:
        """Allocate a Jacobian that is filled row by row: each vector gives one row for each sample."""
        arrays = self._jacobians()
        sizes = [piece.stop - piece.start for piece in self.columns.pieces]
        targets = [
            [array.reshape(self.apart, -1, size) for array, size in zip(row, sizes, strict=True)] for row in arrays
        ]
        return AnswerArrays(self._write_rows(targets, 1), lambda: self._nested(arrays))

    def jacobian_by_columns(self) -> AnswerArrays:
        """Allocate a Jacobian that is filled column by column: each vector gives one column."""
        arrays = self._jacobians()

        def write(start: int, stop: int, block: Sequence[Array]) -> None:
            for row, lead, values in zip(arrays, self.leads, block, strict=True):
                for array, (_, first, last, _shape) in zip(row, self.columns.pieces, strict=True):
                    low, high = max(start, first), min(stop, last)
                    if low < high:
                        part = values[low - start : high - start].reshape(-1, *lead)
                        array.reshape(*lead, -1)[..., low - first : high - first] = np.moveaxis(part, 0, -1)

        return AnswerArrays(write, lambda: self._nested(arrays))

    def hessian(self) -> AnswerArrays:
        """Allocate Hessians, one for each output and sample. Each becomes the mean of both halves, which differ by
        rounding: no less exact, and symmetric to the last bit, as factorisations expect."""
        width = self.columns.size
        matrices = [np.empty((*lead, width, width), self.dtype) for lead in self.leads]
        targets = [
            [matrix.reshape(self.apart, -1, width)[..., piece.start : piece.stop] for piece in self.columns.pieces]
            for matrix in matrices
        ]

        def entry() -> Entry:
            for matrix in matrices:
                matrix *= 0.5
                matrix += matrix.swapaxes(-1, -2)
            return self.of.nested(matrices)

        return AnswerArrays(self._write_rows(targets, width), entry)

    def _jacobians(self) -> list[list[Array]]:
        """Return empty Jacobians, by output: an array for each input or parameter that the columns stand for."""
        return [[np.empty((*lead, *piece.shape), self.dtype) for piece in self.columns.pieces] for lead in self.leads]

    def _nested(self, jacobians: list[list[Array]]) -> Entry:
        return self.of.nested(map(self.columns.nested, jacobians))

    def _write_rows(self, targets: Sequence[Sequence[Array]], rows_of_each: int) -> Write:
        """Return a function that writes rows into `targets`: by output and piece, arrays `(apart, rows, size)`. Each
        number of an output has `rows_of_each` rows."""

        def write(start: int, stop: int, block: Sequence[Array]) -> None:
            for row, piece in zip(targets, self.rows.pieces, strict=True):
                first = piece.start * rows_of_each
                low, high = max(start, first), min(stop, piece.stop * rows_of_each)
                if low >= high:
                    continue
                for target, values in zip(row, block, strict=True):
                    part = values[low - start : high - start].reshape(high - low, self.apart, -1)
                    target[:, low - first : high - first] = part.swapaxes(0, 1)

        return write
