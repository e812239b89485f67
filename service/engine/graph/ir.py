"""The graph: what a computation is, as data.

A `Graph` holds `Node`s in the order they were made, which is a topological order because a node
can only name nodes that exist. A node is one application of one `Operation` of the table in
`operations.py`; two applications that are equal are the same node (hash-consing), so a shared
subexpression is computed once however often a formula writes it.

Shapes are static and known when a node is made. A shape that does not fit is a bug in the code
that builds the graph, never a mistake of the caller of the service: those are found before, in
terms of layers and tensors.
"""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from service.engine.errors import LimitExceeded
from service.engine.watch import NODES_BETWEEN_LOOKS, Watch

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Attributes = tuple[Any, ...]
Call = Callable[[], object]


MOST_BYTES = 10**300
"""Sizes are exact integers, but they are compared and told as floats, which end a little beyond this."""


class NoGradient(enum.Enum):
    """Why a cotangent does not reach an input. The reasons differ, so they are never one silent zero."""

    DISCONNECTED = "the output does not depend on it"
    ZERO = "the derivative is zero everywhere"


class Smoothness(enum.Enum):
    """What may be assumed of an operation when its gradient is tested or explained."""

    ANALYTIC = "analytic"
    """Extends to complex numbers: its gradient can be tested by the complex step."""
    SMOOTH = "smooth"
    """Differentiable everywhere, but computed with comparisons or absolute values."""
    KINKED = "kinked"
    """Differentiable except at isolated points, where a convention is stated."""
    STEPPED = "stepped"
    """Constant between jumps: its derivative is zero."""


Rule = Callable[..., "Node | NoGradient"]
"""A pullback for one input: `(cotangent, output, *inputs)` to the cotangent of that input."""
Selection = Callable[[int, "Node"], "Node | None"]
"""`(position, node)`: 1 wherever the input at that position takes part in the value of `node`, a tie included, else 0;
None: it takes part everywhere."""
JointRule = Callable[[int, "Sequence[Node]", "Sequence[Node]"], "Node | None"]
"""`(position, cotangents, outputs)`: the cotangent of an input that several nodes of one operation share at that
position, or None where they have to be pulled back one by one."""

Branch = Callable[["Sequence[Array]", Attributes], Array]
"""`(inputs, attributes)`: a whole number for the branch that each element takes; even where it lies between two."""
Continuation = Callable[["Sequence[Array]", Attributes], Array]
"""`(inputs, attributes)`: the value for complex inputs. Where there are branches, real parts choose among them."""
_FIELDS = {"sliding": ("at", "axes", "sizes", "strides", "dilations", "padding")}
"""The names of the fields of attributes that have some."""


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One row of the table of primitive operations."""

    name: str
    infer: Callable[[Sequence[Node], Attributes], tuple[Shape, str]]
    """Shape and dtype of the output; raises `GraphTypeError` when the inputs do not fit."""
    bind: Callable[[Array, Sequence[Array], Attributes, Sequence[Array]], Iterable[Call]]
    """`(out, inputs, attributes, scratch)` to the calls that fill `out`. A view returns none."""
    pullbacks: tuple[Rule, ...] | Callable[[int], Rule] | None
    """One rule per input, or a function from the input's position; None: not implemented."""
    batch: Callable[..., Node] | None
    """`(node, inputs, is_batched, size)` to the same operation over a new leading axis."""
    latex: str
    smoothness: Smoothness = Smoothness.ANALYTIC
    simplify: Callable[[Graph, tuple[Node, ...], Attributes], Node | None] | None = None
    view: Callable[[Array, Attributes, Shape], Array] | None = None
    """For operations that only look at their first input differently."""
    elementwise: bool = False
    """Every element of the output depends on the elements at its place alone: it can be computed in parts."""
    in_place: bool = False
    """True when `bind` reads each input only while or before it first writes `out`."""
    keeps_order: bool = False
    """For views: elements that lie one after the other still do."""
    scratch: Callable[[Node], tuple[Shape, ...]] | None = None
    """Shapes of the temporary arrays that the kernel needs."""
    selects: Selection | None = None
    """For operations that choose among their inputs: one that is not chosen has the derivative 0, come what may."""
    singular: Callable[[Node], bool] | None = None
    """For operations with a derivative that can be infinite: whether that of a node can."""
    linear: tuple[int, ...] = ()
    """Positions of inputs whose derivative is finite wherever the value is, in spite of `singular`."""
    joint: JointRule | None = None
    """For operations whose uses of one value are cheaper to differentiate together."""
    work: float = 1.0
    """Floating-point operations per output element, where `count_work` does not know better."""
    numpy: str = ""
    """What it computes: a NumPy expression of its inputs a and b, or `parts`, and of its attributes by their names."""
    attribute_names: tuple[str, ...] = ()
    """The names of its attributes, in their order. An attribute with fields has the names of these instead."""
    branch: Branch | None = None
    """For operations with kinks or jumps: which branch each element takes."""
    continuation: Continuation | None = None
    """Its value for complex inputs near real ones; None: that of its kernel if it is analytic, else there is none."""

    @property
    def signature(self) -> str:
        """Its inputs and attributes, as a Python function takes them. A view shows the one input that it looks at."""
        names = [*(_FIELDS.get(name, (name,)) for name in self.attribute_names)]
        attributes = [f"{name}=None" for several in names for name in several]
        if self.view is not None:
            inputs = ["a"]
        elif isinstance(self.pullbacks, tuple):
            inputs = list("abc"[: len(self.pullbacks)])
        else:
            inputs = ["*parts"]
        star = ["*"] if attributes and inputs != ["*parts"] else []
        return ", ".join([*inputs, *star, *attributes])

    def named(self, attributes: Attributes) -> dict[str, Any]:
        """Attributes of a node by their names."""
        found: dict[str, Any] = {}
        for name, value in zip(self.attribute_names, attributes, strict=False):
            found |= value._asdict() if name in _FIELDS else {name: value}
        return found

    def pullback(self, position: int) -> Rule:
        """The rule for one input; raises `NotImplementedError` where there is none."""
        if self.pullbacks is None:
            raise NotImplementedError(f"{self.name} has no pullback")
        return self.pullbacks[position] if isinstance(self.pullbacks, tuple) else self.pullbacks(position)


OPERATIONS: dict[str, Operation] = {}
"""The one table, filled by `operations.py`."""


class GraphTypeError(TypeError):
    """A node was asked for whose inputs do not fit its operation."""


class Node:
    """One value of the computation. Made by `Graph.apply` only; compared by identity."""

    __slots__ = (
        "attributes",
        "dtype",
        "graph",
        "index",
        "inputs",
        "operands",
        "operation",
        "scope",
        "serves",
        "shape",
        "size",
        "value",
    )

    def __init__(
        self,
        graph: Graph,
        operation: Operation,
        inputs: tuple[Node, ...],
        attributes: Attributes,
        shape: Shape,
        dtype: str,
    ) -> None:
        self.graph = graph
        self.index = len(graph.nodes)
        self.operation = operation
        self.inputs = inputs
        self.operands = inputs if operation.view is None else inputs[:1]
        """The inputs whose values its own value needs: a view needs only the first."""
        self.attributes = attributes
        self.shape = shape
        self.size = math.prod(shape)
        self.dtype = dtype
        self.value: float | None = attributes[0] if operation.name == "constant" else None
        """The number a scalar constant holds; None for every other node."""
        self.scope = graph.scope
        self.serves = graph.serves

    @property
    def is_leaf(self) -> bool:
        return not self.inputs

    @property
    def is_constant(self) -> bool:
        return not self.inputs and self.operation.name != "input"

    def __repr__(self) -> str:
        inputs = ", ".join(f"%{node.index}" for node in self.inputs)
        details = "".join(f", {attribute!r}" for attribute in self.attributes)
        return f"%{self.index}: {self.dtype}{list(self.shape)} = {self.operation.name}({inputs}{details})"

    def __add__(self, other: Node | float) -> Node:
        return self.graph.apply("add", self, other)

    def __radd__(self, other: float) -> Node:
        return self.graph.apply("add", other, self)

    def __sub__(self, other: Node | float) -> Node:
        return self.graph.apply("subtract", self, other)

    def __rsub__(self, other: float) -> Node:
        return self.graph.apply("subtract", other, self)

    def __mul__(self, other: Node | float) -> Node:
        return self.graph.apply("multiply", self, other)

    def __rmul__(self, other: float) -> Node:
        return self.graph.apply("multiply", other, self)

    def __truediv__(self, other: Node | float) -> Node:
        return self.graph.apply("divide", self, other)

    def __rtruediv__(self, other: float) -> Node:
        return self.graph.apply("divide", other, self)

    def __matmul__(self, other: Node) -> Node:
        return self.graph.apply("matmul", self, other)

    def __neg__(self) -> Node:
        return self.graph.apply("negate", self)


class Graph:
    """A growing list of nodes with one floating-point dtype (`float64` or `float32`)."""

    def __init__(
        self, dtype: str, most_nodes: int = 10**9, most_bytes: int = MOST_BYTES, watch: Watch | None = None
    ) -> None:
        """`watch` is looked at while the graph grows."""
        self.dtype = dtype
        self.most_nodes = most_nodes
        self.most_bytes = most_bytes
        """No value but an input may be larger, not even one that is a view and takes no memory of its own."""
        self.nodes: list[Node] = []
        self.watch = watch
        self.scope: str | None = None
        """The name put on new nodes: which layer or quantity they belong to."""
        self.serves: int | None = None
        """While the backward graph is built: the index of the forward node being differentiated."""
        self._known: dict[tuple[Any, ...], Node] = {}
        self._constants: dict[str, Node] = {}
        if _opened.graphs is not None:
            _opened.graphs.append(self)

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        self.seal()

    def input(self, name: str, shape: Shape, dtype: str | None = None) -> Node:
        """A value that is supplied at every run."""
        return self.apply("input", attributes=(name, shape, dtype or self.dtype))

    def constant(self, value: float) -> Node:
        """A scalar that never changes."""
        name = repr(value)  # tells 0.0 from -0.0, which compare equal as dictionary keys
        return self._constants.get(name) or self._constants.setdefault(
            name, self.apply("constant", attributes=(value, name))
        )

    def vector(self, values: tuple[float, ...]) -> Node:
        """A vector that never changes."""
        return self.apply("vector", attributes=(values,))

    def apply(self, name: str, *inputs: Node | float, attributes: Attributes = ()) -> Node:
        """The node for `name(*inputs)`; numbers among the inputs become constants.

        Raises `LimitExceeded` when the graph or the value would be too large, and what the watch raises.
        """
        operation = OPERATIONS[name]
        nodes: tuple[Node, ...] = inputs  # type: ignore[assignment]
        for x in inputs:
            if type(x) is not Node:
                nodes = tuple([y if isinstance(y, Node) else self.constant(float(y)) for y in inputs])
                break
        if operation.simplify is not None:
            simpler = operation.simplify(self, nodes, attributes)
            if simpler is not None:
                return simpler
        key = (name, attributes, nodes)
        known = self._known.get(key)
        if known is None:
            shape, dtype = operation.infer(nodes, attributes)
            if len(self.nodes) >= self.most_nodes:
                raise LimitExceeded("graph_nodes", len(self.nodes) + 1, self.most_nodes, ("network",))
            known = Node(self, operation, nodes, attributes, shape, dtype or self.dtype)
            if known.size * 4 > self.most_bytes and inputs:
                raise LimitExceeded("workspace_bytes", min(known.size * 4, MOST_BYTES), self.most_bytes, ("network",))
            self.nodes.append(known)
            self._known[key] = known
            if self.watch is not None and not len(self.nodes) % NODES_BETWEEN_LOOKS:
                self.watch.look()
        return known

    def seal(self) -> None:
        """Forget all nodes: no more can be made. Those that somebody holds stay, the others are gone.

        A graph and its nodes hold each other, and would stay until the garbage collector looks for such cycles.
        """
        self.nodes.clear()
        self._known.clear()
        self._constants.clear()
        self.watch = None

    @contextmanager
    def scoped(self, scope: str) -> Iterator[None]:
        """New nodes belong to `scope` (a layer's name, `loss`, …)."""
        before, self.scope = self.scope, scope
        try:
            yield
        finally:
            self.scope = before


class _Opened(threading.local):
    graphs: list[Graph] | None = None


_opened = _Opened()


@contextmanager
def sealing() -> Iterator[None]:
    """Every graph that this thread makes within is sealed at the end, also after an error."""
    before, made = _opened.graphs, list[Graph]()
    _opened.graphs = made
    try:
        yield
    finally:
        _opened.graphs = before
        for graph in made:
            graph.seal()


def reachable(outputs: Iterable[Node], *, gradients: bool = False) -> list[Node]:
    """All nodes that the values of the outputs need, in topological order; with `gradients` their slopes too."""
    wanted = list(outputs)
    if not wanted:
        return []
    found: list[Node | None] = [None] * (1 + max(node.index for node in wanted))
    while wanted:
        node = wanted.pop()
        if found[node.index] is None:
            found[node.index] = node
            wanted.extend(node.inputs if gradients else node.operands)
    return [node for node in found if node is not None]


def is_fixed(node: Node) -> bool:
    """Whether a value is a number, or a view of one."""
    while node.operation.view is not None:
        node = node.inputs[0]
    return node.is_constant


def check(graph: Graph) -> None:
    """Infer every node again and compare: the executable type rules of the graph.

    Raises `GraphTypeError` at the first node that is out of order or whose shape or dtype is not
    what its operation says.
    """
    for position, node in enumerate(graph.nodes):
        if node.index != position or any(x.index >= position or x.graph is not graph for x in node.inputs):
            raise GraphTypeError(f"{node!r} is out of order")
        shape, dtype = node.operation.infer(node.inputs, node.attributes)
        if (shape, dtype or graph.dtype) != (node.shape, node.dtype):
            raise GraphTypeError(f"{node!r} should be {dtype or graph.dtype}{list(shape)}")


def listing(nodes: Iterable[Node]) -> str:
    """The computation as straight-line code, one node a line."""
    return "\n".join(map(repr, nodes))


def count_work(node: Node) -> float:
    """An estimate of the floating-point operations that one evaluation of `node` takes."""
    operation = node.operation
    if operation.view is not None or not node.inputs:
        return 0.0
    if operation.name == "matmul":
        return 2.0 * node.size * node.inputs[0].shape[-1]
    return operation.work * max(node.size, node.inputs[0].size)
