"""Import of an ONNX file: from its bytes to a definition with parameters."""

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
"""The memory for remembered files."""
FILE_FACTOR = 6
"""The memory that a file takes, arrays and objects of nodes included, as a multiple of its bytes."""
MOST_TOLD = 20
MOST_REFUSED = 100
"""Refused outputs that are told of a file whose other outputs are built."""
MOST_SOURCES = 64
"""Layers that are remembered as the sources of a value that is none: a long chain of these would keep all of them."""
OF_SEQUENCES = frozenset(
    ("SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SplitToSequence", "Optional")
)
"""The operators that give a sequence and no tensor."""

assert operators


@dataclass(frozen=True)
class Imported:
    """An imported file: the definition and parameters, and what answers tell about it."""

    definition: OnnxDefinition
    parameters: Mapping[str, Mapping[str, Array]]
    operations: Mapping[str, int]
    """The number of nodes of each operator in the file, subgraphs included."""
    refused: Sequence[Mapping[str, str]] = ()
    """The outputs that cannot be built: for each, `output`, and the `node`, `operation` and `reason`."""
    warnings: Sequence[str] = field(default=())


files: LeastRecentlyUsed[tuple[bytes, tuple[str, ...] | None], tuple[Imported, int]] = LeastRecentlyUsed(
    CACHE_BYTES, lambda _, made: made[1]
)
"""The imported files of this process, by the digest of their bytes and the wanted outputs."""


def read(data: bytes, outputs: Sequence[str] | None = None) -> Imported:
    """Return the imported graph of a file. Equal files with equal `outputs` give the same definition.

    `outputs` name values of the top graph. By default they are the outputs of the file that hold floats, or all outputs
    where none does.

    Raises `InvalidRequest` with paths below `network/onnx`, and `ExtraMissing` where the package onnx is not installed.
    """
    chosen = None if outputs is None else tuple(outputs)
    key = (hashlib.sha256(data).digest(), chosen)
    known = files.get(key, lambda: (_import(load(data), chosen), FILE_FACTOR * len(data) + 2**14))
    return known[0]


def _import(file: File, chosen: tuple[str, ...] | None) -> Imported:
    """Return the import of a parsed file. Raise `InvalidRequest` instead of `Refusal`."""
    try:
        return _link(file, chosen)
    except Refusal as refusal:
        raise refused(refusal.reason) from None


def _link(file: File, chosen: tuple[str, ...] | None) -> Imported:
    """Return the import of a parsed file, with the outputs in `chosen` or else those of the file.

    May raise `Refusal`.
    """
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
    """Raise `InvalidRequest` for outputs that are missing, unknown or named twice."""
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
    """Return the outputs that are built, and a record of the reason for each output that is not."""
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
    """Return a unique name for each top node, by the identity of the node.

    The name is that of the parameters it uses, of a wanted output, or the node's own.
    """
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
    """Return a name, with the next number at its end if the name itself is taken."""
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
    """Return a layer for each node that computes floats from the inputs, and for each output that no node is named
    after."""
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
    """Return the element type and shape of each input that is needed."""
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
    """Return the number of nodes of each operator, subgraphs included."""
    counts: Counter[str] = Counter()

    def add(steps: Iterable[Step]) -> None:
        """Count the operators of nodes and of their subgraphs."""
        for step in steps:
            counts[step.operation] += 1
            for body in step.subgraphs:
                add(body.steps)

    add(file.graph.steps)
    return dict(sorted(counts.items()))


def _folded(file: File, found: Mapping[tuple[str, str], Found]) -> tuple[str, ...]:
    """Return the names of parameters that PyTorch's exporter invented when it changed their values."""
    return tuple(looks_folded(name for _, name in found)) if file.producer.startswith("pytorch") else ()


def _warnings(folded: tuple[str, ...]) -> list[str]:
    """Return the warnings about a file with these folded parameters."""
    if not folded:
        return []
    return [telling("en")(found("folded_parameters", names=", ".join(map(repr, folded[:3]))).text)]
