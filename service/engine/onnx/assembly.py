"""Construction of graph nodes from the nodes of an ONNX file.

An `Assembly` visits the nodes that the wanted outputs need. Known values, such as shapes, are computed at once with
NumPy, within bounds. Everything else becomes operations of the graph. A subgraph runs where its node stands: `If` with
a known condition runs one branch, and loops are unrolled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import EngineError, Fault, InvalidRequest
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph, Node, Shape
from service.engine.graph.operations import table, to_floats
from service.engine.onnx.analysis import Linked, ordered
from service.engine.onnx.composing import shape_of_all
from service.engine.onnx.file import PATH, Body, Step
from service.engine.onnx.refusal import Refusal
from service.engine.onnx.registry import SAME, Operator, operator_of
from service.engine.onnx.unsupported import unsupported
from service.engine.onnx.values import Sequences, Value
from service.engine.watch import NODES_BETWEEN_LOOKS

MOST_KNOWN = 2**21
"""The largest number of elements of an array that is computed before the graph runs."""
FOLDED = 2**16
"""The largest number of elements that are computed at once for operators without a NumPy function of their own."""
MOST_RUNS = 30_000
"""The largest number of visited nodes of subgraphs and functions: about two seconds. Nodes of a loop count once per
repetition."""
SCRATCH_BYTES = 2**26


class Scope:
    """The values of one graph by name, with the scope of the graph around it."""

    __slots__ = ("arguments", "body", "parent", "values")

    def __init__(self, body: Body, parent: Scope | None = None, arguments: Mapping[str, Any] | None = None) -> None:
        self.body = body
        self.parent = parent
        self.arguments = arguments
        """The attributes of the call, inside a function."""
        self.values: dict[str, Value] = {}


class Assembly:
    """A construction of graph nodes from a file."""

    def __init__(
        self,
        linked: Linked,
        graph: Graph,
        parameter: Callable[[str, str, Array], Node] | None = None,
        built: Callable[[Step, list[Value | None]], None] | None = None,
    ) -> None:
        """Prepare a construction.

        `parameter` makes the node of a parameter. `built` is called for every top node with its results.
        """
        self.linked = linked
        self.graph = graph
        self._parameter = parameter
        self._built = built
        self._nodes: dict[int, tuple[Value, Node]] = {}
        self._constants: dict[tuple[int, str], Value] = {}
        self.vocabularies: dict[str, tuple[str, int]] = {}
        """For each input that holds indices: the layer that allows the fewest, and their number."""
        self.files: dict[int, Array] = {}
        """The array in the file of each parameter, by the identity of the parameter's value."""
        self.runs = 0
        self._visited = 0
        self._watch = graph.watch

    def run(self, scope: Scope, wanted: Sequence[str]) -> list[Value]:
        """Return the values of these names, after running every node of the scope's graph that they need."""
        inner = scope.parent is not None or scope.arguments is not None
        for step in ordered(scope.body, tuple(wanted)):
            if inner:
                self.check_runs(1)
                self.runs += 1
            self._visited += 1
            if self._watch is not None and not self._visited % NODES_BETWEEN_LOOKS:
                self._watch.look()
            self._run_step(step, scope)
        return [self.find(scope, name) for name in wanted]

    def check_runs(self, more: int) -> None:
        """Raise `Refusal` where so many more nodes of subgraphs are too many."""
        if self.runs + more > MOST_RUNS:
            raise Refusal(
                f"more than {MOST_RUNS:,} nodes of subgraphs would be built, those of loops counted each time"
            )

    def close(self) -> None:
        """Release all references, because the callbacks may refer back to this object."""
        self._parameter = self._built = self._watch = None
        self._nodes.clear()
        self._constants.clear()
        self.files.clear()

    def find(self, scope: Scope, name: str) -> Value:
        """Return the value of a name. Raise `Refusal` if there is none."""
        place: Scope | None = scope
        while place is not None:
            value = place.values.get(name)
            if value is not None:
                return value
            array = place.body.initializers.get(name)
            if array is not None:
                return self._constant(place.body, name, array)
            if name in place.body.refused:
                raise Refusal(place.body.refused[name])
            place = place.parent
        raise Refusal(f"takes {name[:100]!r}, which nothing gives")

    def _constant(self, body: Body, name: str, array: Array) -> Value:
        """Return the value of an initializer: the node of a parameter, or a known array."""
        key = (id(body), name)
        value = self._constants.get(key)
        if value is None:
            owner = self.linked.owners.get(key)
            if owner is None or self._parameter is None:
                value = Value(array)
            else:
                value = Value(None, self._parameter(*owner, array), array.dtype.name)
                self.files[id(value)] = array
            self._constants[key] = value
        return value

    def _run_step(self, step: Step, scope: Scope) -> None:
        """Build one node and store its outputs in the scope. Raise `InvalidRequest` with its name if it is refused."""
        top = scope.parent is None and scope.arguments is None
        try:
            values = [self.find(scope, name) if name else None for name in step.inputs]
            while values and values[-1] is None:
                values.pop()
            call = Call(self, step, scope)
            if top:
                with self.graph.scoped(self.linked.names[id(step)]):
                    results = call.results(values)
            else:
                results = call.results(values)
        except EngineError:
            raise
        except Refusal as refusal:
            raise self._fault(step, refusal.reason) from None
        except Exception as error:
            raise self._fault(step, f"its inputs or attributes do not fit ({type(error).__name__}: {error})") from None
        for name, value in zip(step.outputs, results, strict=False):
            if name and value is not None:
                scope.values[name] = value
        if top and self._built is not None:
            self._built(step, results)

    def _fault(self, step: Step, reason: str) -> InvalidRequest:
        """Return the error for a node that is refused for a reason."""
        name = self.linked.names.get(id(step)) or step.name
        return InvalidRequest([Fault(PATH, f"node {name[:100]!r} ({step.operation[:60]}): {reason[:500]}")])

    def see_vocabulary(self, name: str, layer: str, count: int) -> None:
        """Note that an input is looked up among `count` elements."""
        before = self.vocabularies.get(name)
        if before is None or count < before[1]:
            self.vocabularies[name] = (layer, count)

    def node(self, value: Value) -> Node:
        """Return a value as a node of floats."""
        if value.node is not None:
            return value.node if value.node.dtype != "int64" else to_floats(value.node)
        if isinstance(value, Sequences):
            raise Refusal("gives a sequence of tensors where one tensor is needed, as in an output")
        made = self._nodes.get(id(value))
        if made is None:
            assert value.array is not None
            array = value.array if value.array.dtype.kind != "c" else value.array.real
            made = self._nodes[id(value)] = (value, table(self.graph, array.astype(np.float64)))
        return made[1]


class Call:
    """One node of the file during its construction: its attributes, and the helpers that operators use."""

    def __init__(self, assembly: Assembly, step: Step, scope: Scope) -> None:
        self.assembly = assembly
        self.step = step
        self.scope = scope
        self.graph = assembly.graph
        self.version = step.version

    # --- attributes -----------------------------------------------------------------------------

    def attr(self, name: str, default: Any = None) -> Any:
        """Return the value of an attribute, or `default`.

        Inside a function, resolve references to the call's attributes.
        """
        found = self.step.attributes.get(name)
        if found is not None:
            return found
        reference = self.step.references.get(name)
        if reference is None or self.scope.arguments is None:
            return default
        found = self.scope.arguments.get(reference)
        return default if found is None else found

    def has(self, name: str) -> bool:
        """Return whether the node has an attribute."""
        return self.attr(name) is not None

    def integer(self, name: str, default: int = 0) -> int:
        """Return an attribute as an integer."""
        return int(self.attr(name, default))

    def number(self, name: str, default: float = 0.0) -> float:
        """Return an attribute as a float."""
        return float(self.attr(name, default))

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """Return an attribute as a list of integers, empty if there is neither attribute nor default."""
        found = self.attr(name, default)
        return [] if found is None else [int(each) for each in found]

    def word(self, name: str, default: str = "") -> str:
        """Return an attribute as text."""
        found = self.attr(name, default)
        return str(found)

    def wants(self, position: int) -> bool:
        """Return whether the output at a position is named, and so may be used."""
        return position < len(self.step.outputs) and bool(self.step.outputs[position])

    # --- values ---------------------------------------------------------------------------------

    def refuse(self, reason: str) -> NoReturn:
        """Raise `Refusal` with a reason."""
        raise Refusal(reason)

    def x(self, value: Value | None) -> Node:
        """Return a value as a node of floats. Raise `Refusal` if the value is missing."""
        if value is None:
            raise Refusal("a required input is missing")
        return self.assembly.node(value)

    def known(self, value: Value | None, what: str) -> Array:
        """Return the array of a value that must be known before the graph runs. `what` names the value in the error."""
        if value is None:
            raise Refusal(f"{what} is missing")
        if value.array is not None:
            return value.array
        given = self.assembly.files.get(id(value))
        if given is not None:
            return given
        raise Refusal(f"{what} must be known before anything runs; here it is computed from the inputs")

    def ints(self, value: Value | None, what: str) -> list[int]:
        """Return a value that must be known as a flat list of integers."""
        return [int(each) for each in self.known(value, what).reshape(-1).tolist()]

    def bounded(self, shape: Sequence[int]) -> Shape:
        """Return the shape of an array that is to be created. Raise `Refusal` if the array would be too large."""
        if any(n < 0 for n in shape) or math.prod(shape) > MOST_KNOWN:
            raise Refusal(f"would make an array of shape {list(shape)[:8]}; at most {MOST_KNOWN:,} numbers are made")
        return tuple(shape)

    def run(self, body: Body, values: Mapping[str, Value], wanted: Sequence[str] | None = None) -> list[Value]:
        """Return the wanted values of a subgraph, by default its outputs, with `values` as its inputs."""
        scope = Scope(body, self.scope, self.scope.arguments)
        scope.values.update(values)
        return self.assembly.run(scope, [name for name, _ in body.outputs] if wanted is None else wanted)

    # --- the operator ---------------------------------------------------------------------------

    def results(self, values: list[Value | None]) -> list[Value | None]:
        """Return the outputs of the node: by its function, by folding known inputs, or by building its operator."""
        step = self.step
        if step.refusal is not None:
            raise Refusal(step.refusal)
        function = self.assembly.linked.functions.get((step.domain, step.operation))
        if function is not None:
            return self._called(function, values)
        operator = operator_of(step)
        if operator is None:
            raise Refusal(unsupported(step))
        if not operator.integers:
            for position, value in enumerate(values):
                if value is not None and not value.is_known and not value.is_float and not operator.is_static(position):
                    raise Refusal(
                        f"is not computed for {value.dtype} here: integers that only become known when the graph runs "
                        "have no division, rounding and overflow of their own"
                    )
        if not operator.sequences and any(isinstance(value, Sequences) for value in values):
            raise Refusal("takes a sequence of tensors, which is not read here")
        if values and all(value is None or value.array is not None for value in values):
            folded = self._folded(operator, values)
            if folded is not None:
                return folded
        return self._values(operator.build(self, *values), operator, values)

    def _called(self, function: Any, values: list[Value | None]) -> list[Value | None]:
        """Return the outputs of a function of the file for these inputs."""
        arguments = {**function.defaults, **self.step.attributes}
        for name, reference in self.step.references.items():
            found = (self.scope.arguments or {}).get(reference)
            if found is not None:
                arguments[name] = found
        depth, place = 0, self.scope
        while place.parent is not None:
            depth, place = depth + 1, place.parent
        if depth > 64:
            raise Refusal("functions call each other too deeply")
        scope = Scope(function.body, _rootless(self.scope), arguments)
        scope.values.update({n: v for n, v in zip(function.inputs, values, strict=False) if v is not None})
        for name in function.inputs[len([*values]) :]:
            scope.values.setdefault(name, MISSING)
        wanted = [name for name, taken in zip(function.outputs, self.step.outputs, strict=False) if taken]
        found = dict(zip(wanted, self.assembly.run(scope, wanted), strict=True))
        return [found.get(name) for name in function.outputs]

    def _folded(self, operator: Operator, values: list[Value | None]) -> list[Value | None] | None:
        """Return the results computed from known inputs, or None where they are left to the graph."""
        # Floats are folded in double precision, because the file's precision would round factors of the graph.
        arrays = [
            None
            if value is None or value.array is None
            else value.array.astype(np.float64)
            if value.array.dtype.kind == "f"
            else value.array
            for value in values
        ]
        sizes = sum(array.size for array in arrays if array is not None)
        if operator.fold is not None:
            if isinstance(operator.fold, np.ufunc):
                self.bounded(shape_of_all(*(array.shape for array in arrays if array is not None)))
            elif sizes > MOST_KNOWN:
                return None
            with np.errstate(all="ignore"):
                found = operator.fold(*arrays) if isinstance(operator.fold, np.ufunc) else operator.fold(self, *arrays)
            return self._values(Value(np.asarray(found)), operator, values)
        if sizes > FOLDED or self.step.subgraphs or self.graph.most_bytes == SCRATCH_BYTES:
            return None
        with Graph("float64", 10_000, SCRATCH_BYTES) as scratch:
            call = Call(Assembly(self.assembly.linked, scratch), self.step, self.scope)
            results = call._values(operator.build(call, *values), operator, values)
            nodes = [value.node for value in results if value is not None and value.node is not None]
            if sum(node.size for node in nodes) > FOLDED:
                return None
            computed = interpret(nodes, {})
            found_values: list[Value | None] = []
            for value in results:
                if value is None or value.node is None:
                    found_values.append(value)
                else:
                    with np.errstate(all="ignore"):
                        dtype = "float64" if value.is_float else value.dtype
                        found_values.append(Value(computed[value.node].astype(dtype)))
            return found_values

    def _values(self, made: Any, operator: Operator, values: Sequence[Value | None]) -> list[Value | None]:
        """Return what a builder made as a list of values, with the element type of the operator's results."""
        results = made if isinstance(made, tuple | list) else (made,)
        dtype = operator.result
        if dtype == SAME:
            dtype = next((value.dtype for value in values if value is not None), "float32")
        return [Value(None, each, dtype) if isinstance(each, Node) else each for each in results]


class _Missing(Value):
    """The value of a function's input that the call leaves out."""


MISSING = _Missing(np.zeros(0))


def _rootless(scope: Scope) -> Scope:
    """Return the scope around a function's body, which sees no names of the caller but keeps the depth."""
    return Scope(Body([], [], {}, {}, []), scope.parent and _rootless(scope.parent), {})
