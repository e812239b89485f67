"""The cost of requests in seconds of processor time: the engine's estimate of work, corrected by measurements."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from service.engine.graph.plan import Program

OPERATION_SECONDS = 4e-10
"""The cost of a floating-point operation as the engine counts them; one in a matrix product takes a tenth of it."""
NODE_SECONDS = 2e-5
"""The cost of a node of a graph: to build, differentiate, plan and bind it."""
CALL_SECONDS = 1e-6
"""The cost of a NumPy call on small arrays; a program makes one or two for each of its nodes."""
NUMBER_SECONDS = 5e-8
"""The cost of a number in a response: to copy and to write it."""
SMALLEST = 0.005
"""Seconds of a request below which its cost is not learned."""
LATEST = 0.5
"""The weight of the last measurement in the average."""
BOUNDS = 0.01, 100.0


class Costs:
    """Factors that correct the estimated costs of programs, learned from measurements. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._factors: WeakKeyDictionary[Program, dict[str, float]] = WeakKeyDictionary()

    def factor(self, program: Program, kind: str) -> float:
        """Return measured / estimated cost for computations of this `kind` (a path) with a program; 1 if unknown."""
        return self._factors.get(program, {}).get(kind, 1.0)

    def learn(self, program: Program, kind: str, estimated: float, measured: float) -> None:
        """Learn from one computation: its estimate in seconds, without any factor, and the measured seconds."""
        if max(estimated, measured) < SMALLEST:
            return
        low, high = BOUNDS
        found = min(max(measured / max(estimated, SMALLEST / high), low), high)
        with self._lock:
            factors = self._factors.setdefault(program, {})
            factors[kind] = found if kind not in factors else factors[kind] + LATEST * (found - factors[kind])
