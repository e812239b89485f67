"""An ONNX file as plain Python objects: nodes with decoded attributes, initializers as arrays.

Only protobuf's `ParseFromString` and the functions here touch the bytes. The checker, the shape inference and the
version converter of the library are C++ and are never called.
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
"""How deep subgraphs may lie within each other."""
MOST_NODES = 50_000
"""Nodes of a file, those of subgraphs and functions included."""
MOST_TENSOR_BYTES = 2**31
DEFAULT_DOMAINS = ("", "ai.onnx")
ML_DOMAIN = "ai.onnx.ml"
OLDEST = 6
"""Earlier opsets keep in attributes what is an input since, and have other names."""
NEWEST = 28
PATH = ("network", "onnx")


@dataclass(slots=True, eq=False)
class Body:
    """A graph or subgraph."""

    inputs: list[tuple[str, str | None, tuple[int | str | None, ...] | None]]
    """Name, element type and shape, as far as they are given; a dimension is a number, a name or unknown."""
    outputs: list[tuple[str, str | None]]
    """Name and element type."""
    initializers: dict[str, Array]
    refused: dict[str, str]
    """Initializers that are not read, and why."""
    steps: list[Step]
    constants: set[str] = field(default_factory=set)
    """Those of the initializers that are nodes of type Constant in the file."""
    orders: dict[tuple[str, ...], list[Step]] = field(default_factory=dict)
    """What `analysis.ordered` found."""
    makers: dict[str, Step] | None = None
    """The node that gives each name, where `analysis.makers_of` was asked."""
    captures: list[str] | None = None
    """What `analysis.captured` found."""

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
    """Numbers, strings, lists of these, arrays and subgraphs as `Body`."""
    references: Mapping[str, str]
    """Attributes of a function's body that take the value of one of the call's."""
    refusal: str | None = None
    """Why an attribute was not read."""
    opsets: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = (self.name, self.operation, self.domain)
        _check_names(names, self.inputs, self.outputs, self.attributes, self.references.values())

    @property
    def subgraphs(self) -> list[Body]:
        return [value for value in self.attributes.values() if isinstance(value, Body)]

    @property
    def version(self) -> int:
        return self.opsets.get(self.domain, 0)


@dataclass(slots=True, eq=False)
class Function:
    """A function of a file: a node of its name stands for its body."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    defaults: Mapping[str, Any]
    body: Body

    def __post_init__(self) -> None:
        _check_names(self.inputs, self.outputs, self.defaults)


@dataclass(slots=True, eq=False)
class File:
    """A file, read."""

    producer: str
    opsets: Mapping[str, int]
    graph: Body
    functions: Mapping[tuple[str, str], Function]


def _check_names(*names: Iterable[object]) -> None:
    """Raise `Refusal` for names that are not UTF-8: protobuf gives them as bytes, which no answer could hold."""
    for each in names:
        if bytes in map(type, each):
            raise Refusal("has names that are not UTF-8")


def library() -> Any:
    """The package `onnx`, imported at first use. Raises `ExtraMissing` where it is not installed."""
    try:
        return importlib.import_module("onnx")
    except ImportError:
        raise ExtraMissing("onnx", "ONNX files are read with the package onnx") from None


def load(data: bytes) -> File:
    """Parse a file. Raises `InvalidRequest` where it is none or holds what is never read."""
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
    """Raise `Refusal` where functions call themselves, by way of others perhaps, or more than a few levels deep."""
    calls = {key: {(step.domain, step.operation) for step in each.body.steps} for key, each in functions.items()}
    for key in functions:
        reached, depth = {key}, 0
        while reached:
            reached = {called for each in reached for called in calls[each] if called in functions}
            depth += 1
            if key in reached or depth > MOST_DEPTH:
                raise Refusal(f"function {key[1][:60]!r} calls itself, or others too deeply")


def refused(detail: str) -> InvalidRequest:
    """The error for a whole file."""
    return InvalidRequest([Fault(PATH, detail)])


def _domain(domain: str) -> str:
    return "" if domain in DEFAULT_DOMAINS else domain


class _Reader:
    def __init__(self) -> None:
        self.count = 0

    def opsets(self, imports: Any) -> dict[str, int]:
        """Versions of the operator sets by domain."""
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
        inner = {**opsets, **{_domain(each.domain): each.version for each in proto.opset_import}}
        _check_newest(inner[""])
        steps = [self.step(node, inner, 1) for node in proto.node]
        defaults = {each.name: self.attribute(each, inner, 1) for each in proto.attribute_proto}
        body = self.without_constants(Body([], [(name, None) for name in proto.output], {}, {}, steps))
        return Function(tuple(proto.input), tuple(proto.output), defaults, body)

    def body(self, proto: Any, opsets: Mapping[str, int], depth: int) -> Body:
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
        """The same graph with its Constant nodes among the initializers."""
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
        kind = proto.type
        if kind == 0:  # files before IR version 2 say no type
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
    """The value of a Constant node; None where it is not an array of numbers."""
    if len(step.attributes) != 1 or len(step.outputs) != 1:
        return None
    ((name, value),) = step.attributes.items()
    if name == "value" and isinstance(value, np.ndarray):
        return value
    if name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    return np.array(value, np.int64) if name in ("value_int", "value_ints") else None


def _described(value: Any) -> tuple[str, str | None, tuple[int | str | None, ...] | None]:
    """Name, element type and shape of a value of the file."""
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
