"""What the search for mistakes may cost: counted in work and not by a clock, so that equal requests get equal answers.

A verdict is due whatever the search costs. Before each family of wrong gradients is made, its cost is estimated. What
no longer fits is not tried, and the answer says so. The deadline of the request alone is measured in real time.
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
"""Seconds to compare a tensor with its wrong versions, beside those of their numbers."""
MOST = 4.0
"""Seconds of one request."""
LEAST = 2.0
"""A search in a small network may take so long,"""
SHARE = 50.0
"""and in a larger one so many times what its gradient takes."""

Reserve = Callable[[Program, float, int], bool]
"""Called before a program runs, with its floating-point operations and the bytes that it takes beside the request
itself. False: this server has not so many. It may wait for a slot and for memory, and raises what refuses the request.
"""


def cost_of(node: Node) -> float:
    """Seconds that one evaluation of a node takes, roughly."""
    if node.operation.view is not None or not node.inputs:
        return 0.0
    return CALL + count_work(node) * (PRODUCT if node.operation.name == "matmul" else OPERATION)


def cost(nodes: Iterable[Node]) -> float:
    """Seconds that one evaluation of each takes, roughly."""
    return sum(map(cost_of, nodes))


class Budget:
    """What is left for the search of one request."""

    def __init__(self, gradient: float, most: float, held: int, reserve: Reserve, watch: Watch | None) -> None:
        """`gradient` is what the right gradient costs and `most` what the search may, in seconds; `held` are the bytes
        that the verdict takes by itself.
        """
        self.left = min(max(LEAST, SHARE * gradient), most)
        self.watch = watch
        self.missed: dict[str, None] = {}
        """Families of mistakes of which some were not tried: `rules`, `data` or `pairs`."""
        self._reserve = reserve
        self._held = held

    def spend(self, seconds: float) -> None:
        """Count what is done in any case."""
        self.left -= seconds

    def may(self, family: str, seconds: float) -> bool:
        """Whether there is enough left for a part of a family, which is counted then."""
        if self.watch is not None:
            self.watch.look()
        if seconds > self.left:
            self.missed[family] = None
            return False
        self.left -= seconds
        return True

    def reserve(self, family: str, program: Program, nbytes: int) -> bool:
        """Whether there is memory for a program and what it gives, which is waited for."""
        if self._reserve(program, program.work, self._held + nbytes):
            return True
        self.missed[family] = None
        return False

    def keep(self, nbytes: int) -> None:
        """So many bytes more are kept to the end of the request."""
        self._held += nbytes
