"""Analysis of an ONNX file before anything is built: order, parameters, layers, and values that must be known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.engine.arrays import Array
from service.engine.onnx.file import Body, File, Function, Step
from service.engine.onnx.refusal import Refusal
from service.engine.onnx.registry import SAME, operator_of
from service.engine.onnx.tensors import DTYPES, is_float
from service.engine.onnx.unsupported import unsupported

MODEL = "model"
"""The layer of parameters whose names have no dot."""
GENERATED = re.compile(r"(val_\d+|onnx::.*|_.*|const.*|Constant.*|scalar.*|c_lifted.*|/.*|ortshared.*)\Z")
"""The names that exporters invent."""
FOLDED = re.compile(r"(val_\d+|onnx::\w+_\d+)\Z")
STATISTICS = {"BatchNormalization": (3, 4)}
"""The positions, by operator, of inputs that are running statistics and not trained."""


@dataclass(eq=False)
class Linked:
    """A file with the results of its analysis."""

    file: File
    functions: Mapping[tuple[str, str], Function]
    names: dict[int, str] = field(default_factory=dict)
    """The names of the top nodes, by their identity."""
    owners: dict[tuple[int, str], tuple[str, str]] = field(default_factory=dict)
    """The layer and name of each parameter, by the identity of the graph that holds it and its name there."""


def ordered(body: Body, wanted: tuple[str, ...]) -> list[Step]:
    """Return the nodes that names need, each after the nodes it takes from. Raise `Refusal` where there is a cycle."""
    known = body.orders.get(wanted)
    if known is not None:
        return known
    makers = makers_of(body)
    result: list[Step] = []
    state: dict[int, int] = {}
    for name in wanted:
        stack: list[tuple[Step, Iterator[str]]] = []
        start = makers.get(name)
        if start is not None and id(start) not in state:
            state[id(start)] = 1
            stack.append((start, iter(inputs_of(start))))
        while stack:
            step, rest = stack[-1]
            for needed in rest:
                maker = makers.get(needed)
                if maker is None or maker is step:
                    continue
                before = state.get(id(maker))
                if before == 1:
                    raise Refusal(f"nodes {step.name[:60]!r} and {maker.name[:60]!r} lie on a cycle")
                if before is None:
                    state[id(maker)] = 1
                    stack.append((maker, iter(inputs_of(maker))))
                    break
            else:
                stack.pop()
                state[id(step)] = 2
                result.append(step)
    body.orders[wanted] = result
    return result


def makers_of(body: Body) -> Mapping[str, Step]:
    """Return the node of a graph that gives each name."""
    if body.makers is None:
        body.makers = {name: step for step in body.steps for name in step.outputs if name}
    return body.makers


def inputs_of(step: Step) -> Sequence[str]:
    """Return the names that a node takes, including those that its subgraphs take from outside."""
    if not step.subgraphs:
        return step.inputs
    return (*step.inputs, *(name for body in step.subgraphs for name in captured(body)))


def captured(body: Body) -> list[str]:
    """Return the names that a subgraph takes from outside."""
    if body.captures is not None:
        return body.captures
    own = {name for name, _, _ in body.inputs} | body.initializers.keys()
    own |= {name for step in body.steps for name in step.outputs}
    used = dict.fromkeys(name for step in body.steps for name in inputs_of(step))
    used |= dict.fromkeys(name for name, _ in body.outputs)
    body.captures = [name for name in used if name and name not in own]
    return body.captures


def split(name: str) -> tuple[str, str]:
    """Return the layer and the parameter of a flat name, which is cut at its last dot."""
    layer, dot, own = name.rpartition(".")
    return (layer, own) if dot and layer and own else (MODEL, name)


@dataclass(eq=False)
class Found:
    """A parameter of a file: its layer, its name, its values, and whether it is trained."""

    layer: str
    name: str
    array: Array
    trained: bool = True


def parameters_of(linked: Linked, wanted: tuple[str, ...]) -> dict[tuple[str, str], Found]:
    """Return the parameters that wanted outputs may need, by layer and name. Fill in `owners`."""
    graph = linked.file.graph
    found: dict[tuple[int, str], Found] = {}
    taken: set[tuple[str, str]] = set()
    numbers: dict[tuple[str, str], int] = {}

    def see(name: str, bodies: Sequence[Body], path: Sequence[str], trained: bool) -> None:
        """Record an initializer as a parameter, if the name is that of one in these nested graphs."""
        for depth in range(len(bodies) - 1, -1, -1):
            body = bodies[depth]
            if name in body.initializers:
                break
        else:
            return
        key, array = (id(body), name), body.initializers[name]
        if key in found:
            found[key].trained = found[key].trained and trained
            return
        if not _may_be_parameter(name, array, name in body.constants):
            return
        layer, own = split(name)
        if (layer, own) in taken:
            layer = ".".join([*path[:depth], layer])
        usual = layer
        while (layer, own) in taken:
            numbers[usual, own] = number = numbers.get((usual, own), 1) + 1
            layer = f"{usual}_{number}"
        taken.add((layer, own))
        linked.owners[key] = (layer, own)
        found[key] = Found(layer, own, array, trained)

    def walk(steps: Iterable[Step], bodies: Sequence[Body], path: Sequence[str]) -> None:
        """Record the parameters of nodes and of their subgraphs."""
        for step in steps:
            operator = operator_of(step)
            statistics = STATISTICS.get(step.operation, ())
            for position, name in enumerate(step.inputs):
                if name and (operator is None or not operator.is_static(position)):
                    see(name, bodies, path, position not in statistics)
            for name, body in step.attributes.items():
                if isinstance(body, Body):
                    inner = tuple(each for each, _ in body.outputs)
                    label = linked.names.get(id(step)) or step.name or step.operation
                    walk(ordered(body, inner), (*bodies, body), (*path, f"{label}.{name}"))
                    for each in inner:
                        see(each, (*bodies, body), (*path, name), True)

    walk(ordered(graph, wanted), (graph,), ())
    return {(each.layer, each.name): each for each in found.values()}


def _may_be_parameter(name: str, array: Array, is_constant: bool) -> bool:
    """Return whether an initializer counts as a parameter, by its name, type and size."""
    if not is_float(array.dtype.name) or not array.size:
        return False
    if not array.ndim:
        return not is_constant and not GENERATED.fullmatch(name)
    return not is_constant or array.size > 1


def static_names(
    body: Body,
    wanted: Iterable[str],
    functions: Mapping[tuple[str, str], Function],
    known: dict[tuple[str, str], set[str]] | None = None,
) -> set[str]:
    """Return the names whose values must be known before the graph runs."""
    names: set[str] = set()
    inside: dict[tuple[str, str], set[str]] = {} if known is None else known
    """Those of each function."""

    def walk(steps: Sequence[Step]) -> None:
        """Add the names that nodes, from the last to the first, require to be known."""
        for step in reversed(steps):
            for inner in step.subgraphs:
                outputs = tuple(name for name, _ in inner.outputs)
                names.update(own for own, given in zip(outputs, step.outputs, strict=False) if given and given in names)
                walk(ordered(inner, outputs))
            key = (step.domain, step.operation)
            function = functions.get(key)
            if function is not None:
                inner_names = inside.get(key)
                if inner_names is None:
                    inner_names = inside[key] = static_names(function.body, function.outputs, functions, inside)
                names.update(
                    given for own, given in zip(function.inputs, step.inputs, strict=False) if own in inner_names
                )
            operator = operator_of(step)
            if operator is None:
                continue
            if step.operation == "If":
                names.add(step.inputs[0])  # one branch is taken if the condition is known
            passed_on = not operator.shape_only and any(name in names for name in step.outputs if name)
            for position, name in enumerate(step.inputs):
                if name and (passed_on or operator.is_static(position)):
                    names.add(name)

    # The second walk is for values that a loop carries from one repetition to the next.
    for _ in range(2):
        walk(ordered(body, tuple(wanted)))
    return names


def directly_static(steps: Iterable[Step]) -> set[str]:
    """Return the names that are themselves inputs whose values must be known."""
    found: set[str] = set()
    for step in steps:
        operator = operator_of(step)
        if operator is not None:
            found.update(name for place, name in enumerate(step.inputs) if name and operator.is_static(place))
        for body in step.subgraphs:
            found |= directly_static(body.steps)
    return found


def dtypes_of(linked: Linked, steps: Sequence[Step]) -> dict[str, str]:
    """Return the element types of the values of the top graph, by name, as far as they can be told."""
    graph = linked.file.graph
    found: dict[str, str] = {name: array.dtype.name for name, array in graph.initializers.items()}
    found |= {name: dtype for name, dtype, _ in graph.inputs if dtype is not None}
    for step in steps:
        operator = operator_of(step)
        given = [found.get(name, "float32") for name in step.inputs if name]
        dtype = "float32" if operator is None else operator.result
        if step.operation == "Cast":
            dtype = DTYPES.get(step.attributes.get("to", 1), "float32")
        elif step.operation in ("CastLike", "Where", "OneHot"):
            dtype = given[-1] if given else "float32"
        elif step.operation == "ConstantOfShape":
            value = step.attributes.get("value")
            dtype = value.dtype.name if isinstance(value, np.ndarray) else "float32"
        elif dtype == SAME:
            dtype = given[0] if given else "float32"
        found.update(dict.fromkeys((name for name in step.outputs if name), dtype))
    found |= {name: dtype for name, dtype in graph.outputs if dtype is not None}
    return found


Reason = tuple[str, str, str]
"""A node, its operator and why it cannot be built."""


def unbuildable(linked: Linked, wanted: tuple[str, ...], dtypes: Mapping[str, str]) -> dict[str, Reason]:
    """For each output that cannot be built: the first node that cannot, its operator and the reason.

    Each node is visited once for all outputs.
    """
    graph = linked.file.graph
    makers = makers_of(graph)
    inputs = {name: dtype for name, dtype, _ in graph.inputs if name not in graph.initializers}
    given = {*inputs, *graph.initializers, *graph.refused}
    found: dict[int, Reason] = {}

    def own(step: Step) -> str | None:
        if step.refusal is not None:
            return step.refusal
        if operator_of(step) is None and (step.domain, step.operation) not in linked.functions:
            return unsupported(step)
        for name in inputs_of(step):
            if name in graph.refused:
                return graph.refused[name]
            if name and name not in given and makers.get(name, step) is step:
                return f"takes {name[:100]!r}, which nothing gives"
            dtype = inputs.get(name)
            if dtype is not None and dtype not in DTYPES.values():
                return f"input {name[:60]!r}: {dtype}"
        return None

    for step in ordered(graph, wanted):
        before = (found.get(id(makers[name])) for name in inputs_of(step) if name in makers)
        reason = next((each for each in before if each is not None), None)
        if reason is None:
            why = own(step)
            reason = None if why is None else (step.name or step.operation, step.operation, why)
        if reason is not None:
            found[id(step)] = reason
    results: dict[str, Reason] = {}
    for name in wanted:
        reason = found.get(id(makers[name])) if name in makers else None
        if reason is None and dtypes.get(name, "float32") not in DTYPES.values():
            reason = (name, "output", f"holds {dtypes[name]}")
        if reason is not None:
            results[name] = reason
    return results


def flags_of(linked: Linked, steps: Sequence[Step]) -> dict[str, bool]:
    """Return, for each value of the top graph, whether it depends on the numbers of an input and not only on shapes."""
    graph = linked.file.graph
    depends = {name: name not in graph.initializers for name, _, _ in graph.inputs}
    for step in steps:
        operator = operator_of(step)
        some = any(depends.get(name, False) for name in inputs_of(step))
        if operator is not None and operator.shape_only:
            some = False
        depends.update(dict.fromkeys((name for name in step.outputs if name), some))
    return depends


def looks_folded(names: Iterable[str]) -> list[str]:
    """Return the names of parameters that an exporter invented when it changed their values."""
    return [name for name in names if FOLDED.fullmatch(name)]
