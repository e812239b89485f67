"""From the bytes of an ONNX file to a definition with its parameters."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from service.engine.arrays import Array
from service.engine.cache import LeastRecentlyUsed
from service.engine.errors import Fault, InvalidRequest
from service.engine.findings import found
from service.engine.network.definition import LayerDefinition
from service.engine.onnx import operators
from service.engine.onnx.analysis import (
    MODEL,
    Found,
    Linked,
    directly_static,
    dtypes_of,
    flags_of,
    inputs_of,
    looks_folded,
    ordered,
    parameters_of,
    static_names,
    unbuildable,
)
from service.engine.onnx.definition import OUTPUT, OnnxDefinition, layer_type
from service.engine.onnx.file import PATH, File, Step, load, refused
from service.engine.onnx.refusal import Refusal
from service.engine.onnx.tensors import DTYPES, is_float
from service.engine.texts import telling

CACHE_BYTES = 256 * 2**20
"""Memory of the files that are remembered."""
FILE_FACTOR = 6
"""What a file takes, as a multiple of its bytes: its arrays and the objects of its nodes."""
MOST_TOLD = 20
MOST_REFUSED = 100
"""Refused outputs that are told of a file whose other outputs are built."""
MOST_SOURCES = 64
"""Layers that are remembered as the sources of a value that is none: a long chain of these would keep all of them."""
OF_SEQUENCES = frozenset(
    ("SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SplitToSequence", "Optional")
)
"""Operators that give no tensor."""

assert operators


@dataclass(frozen=True)
class Imported:
    """A file as the engine takes it, and what there is to know of it."""

    definition: OnnxDefinition
    parameters: Mapping[str, Mapping[str, Array]]
    operations: Mapping[str, int]
    """How often each operator stands in the file, subgraphs included."""
    refused: Sequence[Mapping[str, str]] = ()
    """For each output that cannot be built: `output`, and the `node`, `operation` and `reason`."""
    warnings: Sequence[str] = field(default=())


files: LeastRecentlyUsed[tuple[bytes, tuple[str, ...] | None], tuple[Imported, int]] = LeastRecentlyUsed(
    CACHE_BYTES, lambda _, made: made[1]
)
"""One for the process: files by the digest of their bytes and the outputs that are wanted."""


def read(data: bytes, outputs: Sequence[str] | None = None) -> Imported:
    """The graph of a file. Equal files with equal `outputs` give the same definition.

    `outputs` name values of the top graph; by default they are the outputs of the file that hold floats, or all where
    none does.

    Raises `InvalidRequest` with paths below `network/onnx`, `ExtraMissing` where the package onnx is not installed.
    """
    chosen = None if outputs is None else tuple(outputs)
    key = (hashlib.sha256(data).digest(), chosen)
    known = files.get(key, lambda: (_import(load(data), chosen), FILE_FACTOR * len(data) + 2**14))
    return known[0]


def _import(file: File, chosen: tuple[str, ...] | None) -> Imported:
    try:
        return _link(file, chosen)
    except Refusal as refusal:
        raise refused(refusal.reason) from None


def _link(file: File, chosen: tuple[str, ...] | None) -> Imported:
    graph = file.graph
    linked = Linked(file, file.functions)
    everything = tuple(name for name, _ in graph.outputs if name) if chosen is None else chosen
    _check_outputs(linked, everything, chosen)
    dtypes = dtypes_of(linked, ordered(graph, everything))
    wanted, refusals = _wanted(linked, everything, dtypes, chosen is not None)
    steps = ordered(graph, wanted)
    linked.names = _names(linked, steps, wanted)
    parameters = parameters_of(linked, wanted)
    flags = flags_of(linked, steps)
    described = _inputs(linked, steps, wanted)
    if not described:
        raise Refusal(f"output {wanted[0][:100]!r} needs no input of the file, so there is nothing to compute it from")
    static = static_names(graph, wanted, file.functions)
    direct = directly_static(steps)
    known = frozenset(
        name for name, (dtype, _) in described.items() if name in static and (not is_float(dtype) or name in direct)
    )
    layers = _layers(linked, steps, wanted, dtypes, flags)
    folded = _folded(file, parameters)
    more = len(refusals) - MOST_REFUSED
    warnings = [*_warnings(folded), *([f"{more:,} more outputs cannot be built"] if more > 0 else [])]
    definition = OnnxDefinition(linked, wanted, layers, described, known, parameters, folded)
    return Imported(definition, definition.parameters, _count(file), refusals[:MOST_REFUSED], warnings)


def _check_outputs(linked: Linked, names: tuple[str, ...], chosen: tuple[str, ...] | None) -> None:
    graph = linked.file.graph
    given = {name for name, _, _ in graph.inputs} | graph.initializers.keys()
    given |= {name for step in graph.steps for name in step.outputs}
    unknown = [name for name in names if name not in given]
    if unknown:
        path = (*PATH, "outputs") if chosen is not None else PATH
        some = tuple(name for name, _ in graph.outputs)[:MOST_TOLD]
        raise InvalidRequest([Fault(path, f"no node gives {unknown[0][:100]!r}", some)])
    if not names or len(set(names)) != len(names):
        raise InvalidRequest([Fault(PATH, "names an output twice" if names else "has no outputs")])


def _wanted(
    linked: Linked, names: tuple[str, ...], dtypes: Mapping[str, str], is_chosen: bool
) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """The outputs that are built, and why the others are not."""
    reasons = unbuildable(linked, names, dtypes)
    wanted = [name for name in names if name not in reasons]
    refusals = [
        {"output": name, "node": node, "operation": operation, "reason": why}
        for name, (node, operation, why) in reasons.items()
    ]
    floats = [name for name in wanted if is_float(dtypes.get(name, "float32"))]
    if floats and not is_chosen:
        refusals += [
            {"output": name, "node": name, "operation": "output", "reason": f"holds {dtypes[name]}, not floats"}
            for name in wanted
            if not is_float(dtypes.get(name, "float32"))
        ]
        wanted = floats
    if not wanted or (is_chosen and refusals):
        faults = [
            Fault(PATH, f"output {each['output'][:100]!r} cannot be built: node {each['node'][:100]!r} "
                  f"({each['operation'][:60]}): {each['reason']}")
            for each in refusals[:MOST_TOLD]
        ]  # fmt: skip
        if len(refusals) > MOST_TOLD:
            faults.append(Fault(PATH, f"{len(refusals) - MOST_TOLD:,} more outputs cannot be built"))
        raise InvalidRequest(faults or [Fault(PATH, "has no outputs")])
    return tuple(wanted), refusals


def _names(linked: Linked, steps: Sequence[Step], wanted: tuple[str, ...]) -> dict[int, str]:
    """A name of its own for every top node: that of the parameters it uses, of its output, or its own."""
    graph = linked.file.graph
    inputs = {name for name, _, _ in graph.inputs if name not in graph.initializers}
    flags = flags_of(linked, steps)
    owners: dict[str, frozenset[str]] = {}
    ends = frozenset(wanted)
    last: dict[str, Step] = {}
    for step in steps:
        layers: set[str] = set()
        for name in inputs_of(step):
            if name in owners:
                layers |= owners[name]
            elif name in graph.initializers and "." in name and is_float(graph.initializers[name].dtype.name):
                layers.add(name.rpartition(".")[0])
        for name in step.outputs:
            if name and not flags.get(name):
                # Two stand for many: only a node of a single layer is named after it.
                owners[name] = frozenset(sorted(layers)[:2])
        if any(flags.get(name) for name in step.outputs if name) and len(layers) == 1:
            last[next(iter(layers))] = step
    preferred = {id(step): layer for layer, step in last.items() if layer not in inputs and layer not in ends}
    taken = {*inputs, *wanted, *preferred.values(), "loss", MODEL}
    names: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for position, step in enumerate(steps):
        first = next((each for each in step.outputs if each), "")
        usual = first if first in ends else _free(step.name or f"{step.operation}_{position}", taken, numbers)
        name = preferred.get(id(step), usual)
        taken.add(name)
        names[id(step)] = name
    return names


def _free(name: str, taken: set[str], numbers: dict[str, int]) -> str:
    """The name, with the next of its numbers where it is taken."""
    found = name
    while found in taken:
        numbers[name] = number = numbers.get(name, 1) + 1
        found = f"{name}_{number}"
    return found


def _layers(
    linked: Linked,
    steps: Sequence[Step],
    wanted: tuple[str, ...],
    dtypes: Mapping[str, str],
    flags: Mapping[str, bool],
) -> tuple[LayerDefinition, ...]:
    """The nodes that compute floats from the inputs, and one more for each output that none is named after."""
    graph = linked.file.graph
    inputs = [name for name, _, _ in graph.inputs if name not in graph.initializers]
    sources: dict[str, tuple[str, ...]] = {name: (name,) for name in inputs}
    layers = []
    for step in steps:
        name = linked.names[id(step)]
        outputs = [each for each in step.outputs if each]
        takes = tuple(dict.fromkeys(each for given in inputs_of(step) for each in sources.get(given, ())))
        is_layer = step.operation not in OF_SEQUENCES and bool(
            outputs and takes and flags.get(outputs[0]) and is_float(dtypes.get(outputs[0], "float32"))
        )
        if is_layer:
            layers.append(LayerDefinition(name, layer_type(step.operation), takes))
        for each in outputs:
            sources[each] = (name,) if is_layer else takes[:MOST_SOURCES]
    named = {layer.name for layer in layers}
    for output in wanted:
        if output not in named:
            layers.append(LayerDefinition(output, layer_type(OUTPUT), sources.get(output) or tuple(inputs[:1])))
    return tuple(layers)


def _inputs(
    linked: Linked, steps: Sequence[Step], wanted: tuple[str, ...]
) -> dict[str, tuple[str, tuple[int | str | None, ...] | None]]:
    """Element types and shapes of the inputs that are needed."""
    graph = linked.file.graph
    needed = {name for step in steps for name in inputs_of(step)} | set(wanted)
    described = {}
    for name, dtype, shape in graph.inputs:
        if name in graph.initializers or name not in needed:
            continue
        if dtype is not None and dtype not in DTYPES.values():
            raise Refusal(f"input {name[:100]!r}: {dtype}")
        described[name] = (dtype or "float32", shape)
    return described


def _count(file: File) -> dict[str, int]:
    counts: Counter[str] = Counter()

    def add(steps: Iterable[Step]) -> None:
        for step in steps:
            counts[step.operation] += 1
            for body in step.subgraphs:
                add(body.steps)

    add(file.graph.steps)
    return dict(sorted(counts.items()))


def _folded(file: File, found: Mapping[tuple[str, str], Found]) -> tuple[str, ...]:
    """Names of parameters that PyTorch made up when it changed them."""
    return tuple(looks_folded(name for _, name in found)) if file.producer.startswith("pytorch") else ()


def _warnings(folded: tuple[str, ...]) -> list[str]:
    if not folded:
        return []
    return [telling("en")(found("folded_parameters", names=", ".join(map(repr, folded[:3]))).text)]
