"""What requests cost, in seconds of processor time: the engine's estimate of work, corrected by what was measured."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from service.engine.graph.plan import Program

OPERATION_SECONDS = 4e-10
"""Of a floating-point operation as the engine counts them: those of matrix products take a tenth of it."""
NODE_SECONDS = 2e-5
"""Of a node of a graph, to build, differentiate, plan and bind it."""
CALL_SECONDS = 1e-6
"""Of a call of NumPy on small arrays: a program makes one or two for each of its nodes."""
NUMBER_SECONDS = 5e-8
"""Of a number of an answer, to copy it and write it down."""
SMALLEST = 0.005
"""Requests that are measured to take less are not worth remembering."""
LATEST = 0.5
"""The weight of the last measurement."""
BOUNDS = 0.01, 100.0


class Costs:
    """Remembers how far the estimates of programs were off, as long as the programs live. For many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._factors: WeakKeyDictionary[Program, dict[str, float]] = WeakKeyDictionary()

    def factor(self, program: Program, kind: str) -> float:
        """How many times its estimate a computation of this kind has cost with this program."""
        return self._factors.get(program, {}).get(kind, 1.0)

    def learn(self, program: Program, kind: str, estimated: float, measured: float) -> None:
        """A computation that was estimated, without any factor, to cost so many seconds has cost others."""
        if max(estimated, measured) < SMALLEST:
            return
        low, high = BOUNDS
        found = min(max(measured / max(estimated, SMALLEST / high), low), high)
        with self._lock:
            factors = self._factors.setdefault(program, {})
            factors[kind] = found if kind not in factors else factors[kind] + LATEST * (found - factors[kind])
