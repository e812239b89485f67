"""The budget of the search for mistakes, counted in work and not in time, so that equal requests get equal answers.

A verdict is due whatever the search costs. The cost of each family of wrong gradients is estimated before they are
made. Families that no longer fit are left out, and the answer says so. Only the deadline of the request is measured in
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from service.engine.graph.ir import Node, count_work
from service.engine.graph.plan import Program
from service.engine.watch import Watch

OPERATION = 4e-10
"""Seconds of a floating-point operation on elements, memory included."""
PRODUCT = 6e-11
"""Seconds of one in a product of matrices."""
CALL = 1.5e-6
"""Seconds of a call of NumPy on small arrays."""
NODE = 2e-5
"""Seconds to make and plan a node of a graph."""
FIT = 2e-5
"""Seconds to compare a tensor with its wrong versions, without their numbers."""
MOST = 4.0
"""Seconds of one request."""
LEAST = 2.0
"""Seconds that a search in a small network may take."""
SHARE = 50.0
"""Multiple of the time of its gradient that a search in a larger network may take."""

Reserve = Callable[[Program, float, int], bool]
"""Reserves a program before it runs, from its floating-point operations and its bytes beside the request's. Returns
False if this server has too little. It may wait for a slot and for memory, and raises what refuses the request."""


def cost_of(node: Node) -> float:
    """Return roughly how many seconds one evaluation of a node takes."""
    if node.operation.view is not None or not node.inputs:
        return 0.0
    return CALL + count_work(node) * (PRODUCT if node.operation.name == "matmul" else OPERATION)


def cost(nodes: Iterable[Node]) -> float:
    """Return roughly how many seconds one evaluation of all these nodes takes."""
    return sum(map(cost_of, nodes))


class Budget:
    """The seconds of work that the search for mistakes in one request may still spend."""

    def __init__(self, gradient: float, most: float, held: int, reserve: Reserve, watch: Watch | None) -> None:
        """Set the limit from the costs, in seconds, of the right gradient and of the largest search (`most`). `held`
        are the bytes of the verdict itself."""
        self.left = self._whole = min(max(LEAST, SHARE * gradient), most)
        self.watch = watch
        self.missed: dict[str, None] = {}
        """Families of mistakes that were not tried completely: `rules`, `data` or `pairs`."""
        self._reserve = reserve
        self._held = held

    @property
    def spent_share(self) -> float:
        """The share of the whole budget that is spent."""
        return 1.0 - self.left / self._whole if self._whole else 1.0

    def spend(self, seconds: float) -> None:
        """Count seconds of work that is done in any case."""
        self.left -= seconds

    def may(self, family: str, seconds: float) -> bool:
        """Return whether a part of a family fits into the budget, and spend its seconds if it does."""
        if self.watch is not None:
            self.watch.look()
        if seconds > self.left:
            self.missed[family] = None
            return False
        self.left -= seconds
        return True

    def reserve(self, family: str, program: Program, nbytes: int) -> bool:
        """Return whether there is memory for a program and its results. May wait for it."""
        if self._reserve(program, program.work, self._held + nbytes):
            return True
        self.missed[family] = None
        return False

    def keep(self, nbytes: int) -> None:
        """Count bytes that the search keeps until the end of the request."""
        self._held += nbytes
