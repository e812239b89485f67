"""The graph: a computation as data.

A `Graph` holds `Node`s in the order of their making. It is a topological order, because a node
can only name nodes that exist. A node is one application of one `Operation` of the table in
`operations/`; two applications that are equal are the same node (hash-consing), so a shared
subexpression is computed once however often a formula writes it.

Shapes are static and known when a node is made. A shape that does not fit is a bug in the code
that builds the graph. Mistakes in requests are found earlier, in terms of layers and tensors.
"""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from service.engine.arrays import Array
from service.engine.errors import LimitExceeded
from service.engine.watch import NODES_BETWEEN_LOOKS, Watch

Shape = tuple[int, ...]
Attributes = tuple[Any, ...]
Call = Callable[[], object]


MOST_BYTES = 10**300
"""The largest size that is compared: sizes are exact integers, and floats end a little beyond this."""


class NoGradient(enum.Enum):
    """The reason why no cotangent reaches an input: never a silent zero."""

    DISCONNECTED = "the output does not depend on it"
    ZERO = "the derivative is zero everywhere"


Pullback = Callable[..., "Node | NoGradient"]
"""A pullback for one input: `(cotangent, output, *inputs)` to the cotangent of that input."""
Selector = Callable[[int, "Node"], "Node | None"]
"""`(position, node)`: a mask, 1 wherever the input at that position takes part in the value of `node`, a tie included;
None if it takes part everywhere."""
JointPullback = Callable[[int, "Sequence[Node]", "Sequence[Node]"], "Node | None"]
"""`(position, cotangents, outputs)`: the cotangent of an input that several nodes of one operation share at that
position, or None where they have to be pulled back one by one."""

Branch = Callable[["Sequence[Array]", Attributes], Array]
"""`(inputs, attributes)`: a whole number for the branch of each element; even exactly between two branches."""
Continuation = Callable[["Sequence[Array]", Attributes], Array]
"""`(inputs, attributes)`: the value for complex inputs. Their real parts choose among branches."""
_FIELDS = {"sliding": ("at", "axes", "sizes", "strides", "dilations", "padding")}
"""The field names of attributes that are named tuples."""


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One primitive operation: a row of the table, with all rules that the engine needs about it."""

    name: str
    infer: Callable[[Sequence[Node], Attributes], tuple[Shape, str]]
    """`(inputs, attributes)` to the shape and dtype of the output. Raises `GraphTypeError` if the inputs do not fit."""
    bind: Callable[[Array, Sequence[Array], Attributes, Sequence[Array]], Iterable[Call]]
    """`(out, inputs, attributes, scratch)` to the NumPy calls that fill `out`. Views and leaves have none."""
    pullbacks: tuple[Pullback, ...] | Callable[[int], Pullback] | None
    """One rule for each input, or a function of the position of the input; None if not implemented."""
    batch: Callable[..., Node] | None
    """`(node, inputs, is_batched, size)` to the same operation over a new leading axis."""
    latex: str
    simplify: Callable[[Graph, tuple[Node, ...], Attributes], Node | None] | None = None
    view: Callable[[Array, Attributes, Shape], Array] | None = None
    """For operations that show their first input in another way: `(array, attributes, shape)` to a view of it."""
    elementwise: bool = False
    """True if each element of the output depends only on the elements at its index: parts can be computed alone."""
    in_place: bool = False
    """True when `bind` reads each input only while or before it first writes `out`."""
    keeps_order: bool = False
    """True for a view if consecutive elements stay consecutive."""
    scratch: Callable[[Node], tuple[Shape, ...]] | None = None
    """Shapes of the temporary arrays that the kernel needs."""
    selects: Selector | None = None
    """For operations that choose among their inputs: the derivative of an input that is not chosen is 0."""
    singular: Callable[[Node], bool] | None = None
    """For operations whose derivative can be infinite: whether that of a node can."""
    linear: tuple[int, ...] = ()
    """Positions of inputs whose derivative is finite wherever the value is, in spite of `singular`."""
    joint: JointPullback | None = None
    """For operations whose uses of one value are cheaper to differentiate together."""
    work: float = 1.0
    """Floating-point operations for each output element, unless `count_work` has a better estimate."""
    numpy: str = ""
    """The operation as a NumPy expression of its inputs a and b, or `parts`, and of its attributes by their names."""
    attribute_names: tuple[str, ...] = ()
    """The names of its attributes, in order. A named tuple has the names of its fields instead."""
    branch: Branch | None = None
    """For operations with kinks or jumps: the branch of each element."""
    continuation: Continuation | None = None
    """The value for complex inputs near real ones, if the kernel takes no complex numbers (see `operations/`)."""

    @property
    def signature(self) -> str:
        """The inputs and attributes, written as parameters of a Python function, for the list of operations. A view has
        only the input that it shows."""
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
        """Return the attributes of a node of this operation by their names."""
        found: dict[str, Any] = {}
        for name, value in zip(self.attribute_names, attributes, strict=False):
            found |= value._asdict() if name in _FIELDS else {name: value}
        return found

    def pullback(self, position: int) -> Pullback:
        """Return the pullback for the input at a position. Raises `NotImplementedError` where there is none."""
        if self.pullbacks is None:
            raise NotImplementedError(f"{self.name} has no pullback")
        return self.pullbacks[position] if isinstance(self.pullbacks, tuple) else self.pullbacks(position)


OPERATIONS: dict[str, Operation] = {}
"""The table of operations, filled by the modules of `operations/`."""


class GraphTypeError(TypeError):
    """The inputs of a new node do not fit its operation: a bug in the code that builds the graph."""


class Node:
    """One value of the computation. Only `Graph.apply` makes nodes; they are compared by identity."""

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
        """The inputs whose values this value needs: a view needs only the first."""
        self.attributes = attributes
        self.shape = shape
        self.size = math.prod(shape)
        self.dtype = dtype
        self.value: float | None = attributes[0] if operation.name == "constant" else None
        """The number of a scalar constant; None for every other node."""
        self.scope = graph.scope
        self.serves = graph.serves

    @property
    def is_leaf(self) -> bool:
        return not self.inputs

    @property
    def is_constant(self) -> bool:
        return not self.inputs and self.operation.name != "input"

    def __repr__(self) -> str:
        arguments = [f"%{node.index}" for node in self.inputs]
        arguments += [f"{name}={value!r}" for name, value in self.operation.named(self.attributes).items()]
        return f"%{self.index}: {self.dtype}{list(self.shape)} = {self.operation.name}({', '.join(arguments)})"

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
        """Make an empty graph. `watch` may stop the building of a large one: it is looked at while the graph grows."""
        self.dtype = dtype
        self.most_nodes = most_nodes
        self.most_bytes = most_bytes
        """The largest size of a value other than an input, views included, though they take no memory."""
        self.nodes: list[Node] = []
        self.watch = watch
        self.scope: str | None = None
        """The layer or quantity that new nodes belong to."""
        self.serves: int | None = None
        """The index of the forward node that is being differentiated, while the backward graph is built."""
        self._known: dict[tuple[Any, ...], Node] = {}
        self._constants: dict[str, Node] = {}
        if _opened.graphs is not None:
            _opened.graphs.append(self)

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        self.seal()

    def __str__(self) -> str:
        return "\n".join(map(repr, self.nodes))

    def input(self, name: str, shape: Shape, dtype: str | None = None) -> Node:
        """Return the node of an input, whose value every run of the graph is given."""
        return self.apply("input", attributes=(name, shape, dtype or self.dtype))

    def constant(self, value: float) -> Node:
        """Return the node of a constant number, of shape ()."""
        name = repr(value)  # 0.0 and -0.0 are equal as dictionary keys
        return self._constants.get(name) or self._constants.setdefault(
            name, self.apply("constant", attributes=(value, name))
        )

    def vector(self, values: tuple[float, ...]) -> Node:
        """Return the node of a constant vector."""
        return self.apply("vector", attributes=(values,))

    def apply(self, name: str, *inputs: Node | float, attributes: Attributes = ()) -> Node:
        """Return the node of the operation `name` applied to inputs; numbers among the inputs become constants. Raises
        `LimitExceeded` when the graph or the value would be too large, and what the watch raises."""
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
        """Forget all nodes, so that no more can be made. Nodes that are referenced elsewhere stay alive. A graph and
        its nodes reference each other, and would otherwise stay until the garbage collector finds such cycles."""
        self.nodes.clear()
        self._known.clear()
        self._constants.clear()
        self.watch = None

    @contextmanager
    def scoped(self, scope: str) -> Iterator[None]:
        """Give the nodes that are made within the block a scope: a layer's name, or `loss`."""
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
    """Seal every graph that this thread makes within the block when it ends, also after an error."""
    before, made = _opened.graphs, list[Graph]()
    _opened.graphs = made
    try:
        yield
    finally:
        _opened.graphs = before
        for graph in made:
            graph.seal()


def reachable(outputs: Iterable[Node], *, gradients: bool = False) -> list[Node]:
    """Return all nodes that the values of `outputs` need, in topological order. With `gradients`, also the nodes of
    declared slopes, which only gradients need."""
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
    """Return whether a value is a constant, or a view of one."""
    while node.operation.view is not None:
        node = node.inputs[0]
    return node.is_constant


def check(graph: Graph) -> None:
    """Raise `GraphTypeError` at the first node that is out of order or has a wrong shape or dtype, for tests."""
    for position, node in enumerate(graph.nodes):
        if node.index != position or any(x.index >= position or x.graph is not graph for x in node.inputs):
            raise GraphTypeError(f"{node!r} is out of order")
        shape, dtype = node.operation.infer(node.inputs, node.attributes)
        if (shape, dtype or graph.dtype) != (node.shape, node.dtype):
            raise GraphTypeError(f"{node!r} should be {dtype or graph.dtype}{list(shape)}")


def count_work(node: Node) -> float:
    """Return roughly how many floating-point operations one evaluation of a node takes."""
    operation = node.operation
    if operation.view is not None or not node.inputs:
        return 0.0
    if operation.name == "matmul":
        return 2.0 * node.size * node.inputs[0].shape[-1]
    return operation.work * max(node.size, node.inputs[0].size)
