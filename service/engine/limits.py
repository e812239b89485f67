"""Limits of what one request may cost, checked before the work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.engine.errors import LimitExceeded, Path
from service.engine.graph.ir import Node
from service.engine.graph.plan import Program

WATCHED_OPERATIONS = 1e6
"""Runs of more floating-point operations look at the clock; shorter ones are over before it could matter."""
WATCHED_NODES = 10_000
"""Runs of more nodes look at the clock as well: each node is a call or two, however small."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that one request may cost: counts of layers, numbers, floating-point operations and bytes."""

    layers: int = 512
    graph_nodes: int = 100_000
    parameters: int = 25_000_000
    tensor_elements: int = 50_000_000
    operations: float = 2e11
    workspace_bytes: int = 4 * 2**30
    steps: int = 1_000_000
    trace_elements: int = 10_000_000
    """Numbers in a trace."""

    def check_layers(self, count: int) -> None:
        if count > self.layers:
            raise LimitExceeded("layers", count, self.layers, ("network", "layers"))

    def check_parameters(self, count: int) -> None:
        if count > self.parameters:
            raise LimitExceeded("parameters", count, self.parameters, ("network",))

    def check_tensors(self, tensors: Mapping[str, Node]) -> None:
        """Raise `LimitExceeded` if an output, such as per-sample gradients, would hold too many numbers."""
        for node in tensors.values():
            if node.size > self.tensor_elements:
                raise LimitExceeded("tensor_elements", node.size, self.tensor_elements)

    def check_operations(self, count: float) -> None:
        if count > self.operations:
            raise LimitExceeded("operations", count, self.operations)

    def check_steps(self, count: int, path: Path = ("steps",)) -> None:
        if count > self.steps:
            raise LimitExceeded("steps", count, self.steps, path)

    def check_trace(self, count: int) -> None:
        """Raise `LimitExceeded` for a trace that would hold too many numbers."""
        if count > self.trace_elements:
            raise LimitExceeded("trace_elements", count, self.trace_elements, ("trace",))

    def check_program(self, program: Program) -> None:
        self.check_operations(program.work)
        if program.nbytes > self.workspace_bytes:
            raise LimitExceeded("workspace_bytes", program.nbytes, self.workspace_bytes)
