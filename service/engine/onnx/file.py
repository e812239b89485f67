"""An ONNX file as plain Python objects: nodes with decoded attributes, initializers as arrays.

Only protobuf's `ParseFromString` and the functions here touch the bytes. The checker, the shape inference and the
version converter of the package `onnx` are C++ and are never called.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import ExtraMissing, Fault, InvalidRequest
from service.engine.onnx.refusal import Refusal
from service.engine.onnx.tensors import array_of, dtype_of

MOST_DEPTH = 16
"""The largest depth of nested subgraphs."""
MOST_NODES = 50_000
"""The largest number of nodes of a file, including those of subgraphs and functions."""
DEFAULT_DOMAINS = ("", "ai.onnx")
ML_DOMAIN = "ai.onnx.ml"
OLDEST = 6
"""The oldest opset that is read. Earlier opsets use attributes for what are inputs since then, and other names."""
NEWEST = 28
PATH = ("network", "onnx")


@dataclass(slots=True, eq=False)
class Body:
    """A graph or subgraph of a file."""

    inputs: list[tuple[str, str | None, tuple[int | str | None, ...] | None]]
    """The name, element type and shape of each input, as far as the file gives them. A dimension is a number, a name or
    unknown."""
    outputs: list[tuple[str, str | None]]
    """The name of each output, and its element type if the file gives one."""
    initializers: dict[str, Array]
    refused: dict[str, str]
    """The reasons why initializers are not read, by their names."""
    steps: list[Step]
    constants: set[str] = field(default_factory=set)
    """The names of the initializers that are nodes of type Constant in the file."""
    orders: dict[tuple[str, ...], list[Step]] = field(default_factory=dict)
    """The results of `analysis.ordered`, by the wanted names."""
    makers: dict[str, Step] | None = None
    """The node that gives each name, once `analysis.makers_of` has been called."""
    captures: list[str] | None = None
    """The result of `analysis.captured`."""

    def __post_init__(self) -> None:
        lengths = [length for _, _, shape in self.inputs for length in shape or ()]
        named = [each[0] for each in (*self.inputs, *self.outputs)]
        _check_names(named, self.initializers, self.refused, (each for each in lengths if isinstance(each, bytes)))


@dataclass(slots=True, eq=False)
class Step:
    """One node of a file."""

    name: str
    operation: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    """The values of the attributes: numbers, strings, lists of these, arrays, and subgraphs as `Body`."""
    references: Mapping[str, str]
    """The attributes, in the body of a function, whose value is an attribute of the call: its name by theirs."""
    refusal: str | None = None
    """The reason why an attribute was not read, if there is one."""
    opsets: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = (self.name, self.operation, self.domain)
        _check_names(names, self.inputs, self.outputs, self.attributes, self.references.values())

    @property
    def subgraphs(self) -> list[Body]:
        """Return the subgraphs among the attributes."""
        return [value for value in self.attributes.values() if isinstance(value, Body)]

    @property
    def version(self) -> int:
        """Return the version of the operator set that applies to this node."""
        return self.opsets.get(self.domain, 0)


@dataclass(slots=True, eq=False)
class Function:
    """A function of a file. A node with its name is replaced by its body."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    defaults: Mapping[str, Any]
    body: Body

    def __post_init__(self) -> None:
        _check_names(self.inputs, self.outputs, self.defaults)


@dataclass(slots=True, eq=False)
class File:
    """The contents of an ONNX file after parsing."""

    producer: str
    opsets: Mapping[str, int]
    graph: Body
    functions: Mapping[tuple[str, str], Function]


def _check_names(*names: Iterable[object]) -> None:
    """Raise `Refusal` for names that are not UTF-8. Protobuf gives those as bytes, which an answer cannot hold."""
    for each in names:
        if bytes in map(type, each):
            raise Refusal("has names that are not UTF-8")


def library() -> Any:
    """Return the package `onnx`, imported at first use. Raise `ExtraMissing` where it is not installed."""
    try:
        return importlib.import_module("onnx")
    except ImportError:
        raise ExtraMissing("onnx", "ONNX files are read with the package onnx") from None


def load(data: bytes) -> File:
    """Parse the bytes of an ONNX file. Raise `InvalidRequest` for other bytes and for contents that are never read."""
    model = library().ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        raise refused("is no ONNX file: protobuf cannot read its bytes") from None
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise refused("is no ONNX file: it holds no graph")
    reader = _Reader()
    try:
        opsets = reader.opsets(model.opset_import)
        functions = {
            (_domain(each.domain), each.name): reader.function(each, opsets) for each in model.functions[:MOST_NODES]
        }
        _check_calls(functions)
        body = reader.body(model.graph, opsets, 0)
    except Refusal as refusal:
        raise refused(refusal.reason) from None
    except RecursionError:
        raise refused(f"has subgraphs deeper than {MOST_DEPTH} levels") from None
    producer = model.producer_name
    return File(producer[:100] if isinstance(producer, str) else "", opsets, body, functions)


def _check_calls(functions: Mapping[tuple[str, str], Function]) -> None:
    """Raise `Refusal` where functions call themselves, directly or indirectly, or where calls are nested too deeply."""
    calls = {key: {(step.domain, step.operation) for step in each.body.steps} for key, each in functions.items()}
    for key in functions:
        reached, depth = {key}, 0
        while reached:
            reached = {called for each in reached for called in calls[each] if called in functions}
            depth += 1
            if key in reached or depth > MOST_DEPTH:
                raise Refusal(f"function {key[1][:60]!r} calls itself, or others too deeply")


def refused(detail: str) -> InvalidRequest:
    """Return the error for a file that is refused as a whole, with `detail` as its text."""
    return InvalidRequest([Fault(PATH, detail)])


def _domain(domain: str) -> str:
    """Return a domain, with the empty string for every name of the default domain."""
    return "" if domain in DEFAULT_DOMAINS else domain


class _Reader:
    """A converter of protobuf messages to the classes of this module, which checks the limits of a file."""

    def __init__(self) -> None:
        self.count = 0

    def opsets(self, imports: Any) -> dict[str, int]:
        """Return the versions of the imported operator sets, by domain."""
        found = {_domain(each.domain): each.version for each in imports}
        version = found.setdefault("", 1 if not imports else NEWEST)
        if version < OLDEST:
            raise Refusal(
                f"uses opset {version} of ONNX, which is older than {OLDEST} and not read; convert the file with "
                "onnx.version_converter on your own machine"
            )
        _check_newest(version)
        return found

    def function(self, proto: Any, opsets: Mapping[str, int]) -> Function:
        """Convert a `FunctionProto`."""
        inner = {**opsets, **{_domain(each.domain): each.version for each in proto.opset_import}}
        _check_newest(inner[""])
        steps = [self.step(node, inner, 1) for node in proto.node]
        defaults = {each.name: self.attribute(each, inner, 1) for each in proto.attribute_proto}
        body = self.without_constants(Body([], [(name, None) for name in proto.output], {}, {}, steps))
        return Function(tuple(proto.input), tuple(proto.output), defaults, body)

    def body(self, proto: Any, opsets: Mapping[str, int], depth: int) -> Body:
        """Convert a `GraphProto` that lies `depth` levels deep, with all its subgraphs."""
        if depth > MOST_DEPTH:
            raise Refusal(f"has subgraphs deeper than {MOST_DEPTH} levels")
        initializers: dict[str, Array] = {}
        unread: dict[str, str] = {}
        for tensor in proto.initializer:
            try:
                initializers[tensor.name] = array_of(tensor)
            except Refusal as refusal:
                if "another file" in refusal.reason:
                    raise
                unread[tensor.name] = refusal.reason
        for sparse in proto.sparse_initializer:
            unread[sparse.values.name] = "sparse tensors are not read"
        return self.without_constants(
            Body(
                [_described(each) for each in proto.input],
                [_described(each)[:2] for each in proto.output],
                initializers,
                unread,
                [self.step(node, opsets, depth) for node in proto.node],
            )
        )

    def without_constants(self, body: Body) -> Body:
        """Return the same graph with the values of its Constant nodes among the initializers."""
        rest = []
        for step in body.steps:
            value = _constant(step) if step.operation == "Constant" and not step.domain else None
            if value is None:
                rest.append(step)
            else:
                body.initializers[step.outputs[0]] = value
                body.constants.add(step.outputs[0])
        body.steps = rest
        return body

    def step(self, node: Any, opsets: Mapping[str, int], depth: int) -> Step:
        """Convert a `NodeProto` of a graph that lies `depth` levels deep."""
        self.count += 1
        if self.count > MOST_NODES:
            raise Refusal(f"has more than {MOST_NODES:,} nodes")
        attributes: dict[str, Any] = {}
        references: dict[str, str] = {}
        refusal = None
        for each in node.attribute:
            if each.ref_attr_name:
                references[each.name] = each.ref_attr_name
                continue
            try:
                attributes[each.name] = self.attribute(each, opsets, depth)
            except Refusal as error:
                if "another file" in error.reason or "deeper" in error.reason or "nodes" in error.reason:
                    raise
                refusal = error.reason
        return Step(
            node.name[:200],
            node.op_type,
            _domain(node.domain),
            tuple(node.input),
            tuple(node.output),
            attributes,
            references,
            refusal,
            opsets,
        )

    def attribute(self, proto: Any, opsets: Mapping[str, int], depth: int) -> Any:
        """Return the value of an `AttributeProto`. Raise `Refusal` for kinds that are not read."""
        kind = proto.type
        if kind == 0:  # files before IR version 2 do not give the type
            for number, name in ((1, "f"), (2, "i"), (3, "s"), (6, "floats"), (7, "ints"), (4, "t")):
                value = getattr(proto, name)
                if (len(value) if name.endswith("s") else proto.HasField(name)) and number:
                    kind = number
                    break
        if kind == 1:
            return proto.f
        if kind == 2:
            return proto.i
        if kind == 3:
            return proto.s.decode("utf-8", "replace")
        if kind == 4:
            return array_of(proto.t)
        if kind == 5:
            return self.body(proto.g, opsets, depth + 1)
        if kind == 6:
            return list(proto.floats)
        if kind == 7:
            return list(proto.ints)
        if kind == 8:
            return [each.decode("utf-8", "replace") for each in proto.strings]
        if kind == 9:
            return [array_of(each) for each in proto.tensors]
        raise Refusal(f"attribute {proto.name[:60]!r} is of a kind that is not read")


def _check_newest(version: int) -> None:
    if version > NEWEST:
        raise Refusal(f"uses opset {version} of ONNX; the newest that is read is {NEWEST}")


def _constant(step: Step) -> Array | None:
    """Return the value of a Constant node, or None where the value is not an array of numbers."""
    if len(step.attributes) != 1 or len(step.outputs) != 1:
        return None
    ((name, value),) = step.attributes.items()
    if name == "value" and isinstance(value, np.ndarray):
        return value
    if name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    return np.array(value, np.int64) if name in ("value_int", "value_ints") else None


def _described(value: Any) -> tuple[str, str | None, tuple[int | str | None, ...] | None]:
    """Return the name, element type and shape of a `ValueInfoProto`; None stands for what the file does not give."""
    kind = value.type.WhichOneof("value")
    if kind is None:
        return value.name, None, None
    if kind != "tensor_type":
        return value.name, kind.removesuffix("_type"), None
    tensor = value.type.tensor_type
    try:
        dtype = dtype_of(tensor.elem_type) if tensor.elem_type else None
    except Refusal as refusal:
        dtype = refusal.reason
    if not tensor.HasField("shape"):
        return value.name, dtype, None
    shape = tuple(
        each.dim_value if each.HasField("dim_value") else (each.dim_param or None) for each in tensor.shape.dim
    )
    return value.name, dtype, shape
