"""Run the backend tests that come with the package `onnx`, and confirm the gradients of their models.

    .venv/bin/python benchmarks/onnx_models/backend.py [node|pytorch-converted|pytorch-operator|simple] [part of a name]

Every model is read by the service's own importer. Its outputs are compared with those of the test, by the tolerance
that the tests of the package have. Where inputs and outputs are floats, the directional derivative of a random sum of
the outputs is compared with central differences of the forward pass.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from service.engine.errors import EngineError
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Graph
from service.engine.graph.operations import sum_over
from service.engine.graph.plan import Program
from service.engine.onnx import read

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
SLOPE = 1e-4


def load(path: Path, described: object) -> object:
    """Return the value in a file of a test, or None where it is not an array of numbers."""
    kind = described.type.WhichOneof("value")
    if kind != "tensor_type":
        return None
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    try:
        return numpy_helper.to_array(tensor)
    except (TypeError, ValueError):
        return None


def cases(suite: str) -> Iterator[tuple[str, bytes, list[tuple[list, list]], float, float]]:
    """Yield the name, the model, pairs of inputs and outputs, and both tolerances of each test."""
    for case in load_model_tests(kind=suite):
        if case.model is not None:
            yield case.name, case.model.SerializeToString(), case.data_sets, case.rtol, case.atol
            continue
        folder = Path(case.model_dir)
        data = (folder / "model.onnx").read_bytes()
        proto = onnx.ModelProto()
        proto.ParseFromString(data)
        initializers = {each.name for each in proto.graph.initializer}
        sets = []
        for place in sorted(folder.glob("test_data_set_*")):
            every = len(list(place.glob("input_*"))) == len(proto.graph.input)
            slots = [each for each in proto.graph.input if every or each.name not in initializers]
            inputs = [load(place / f"input_{k}.pb", each) for k, each in enumerate(slots)]
            sets.append((inputs, [load(place / f"output_{k}.pb", each) for k, each in enumerate(proto.graph.output)]))
        yield case.name, data, sets, case.rtol, case.atol


def run(data: bytes, sets: list[tuple[list, list]], rtol: float, atol: float) -> tuple[str, str]:
    """Return the verdict of one test and the reason."""
    proto = onnx.ModelProto()
    proto.ParseFromString(data)
    names = [each.name for each in proto.graph.output if each.name]
    try:
        imported = read(data, names)
    except EngineError as error:
        return "refused", str(error)
    definition = imported.definition
    verdict = "no data"
    initializers = {each.name for each in proto.graph.initializer}
    for values, expected in sets:
        every = len(values) == len(proto.graph.input)
        slots = [each.name for each in proto.graph.input if every or each.name not in initializers]
        inputs = dict(zip(slots, values, strict=False))
        wanted = [value for value, each in zip(expected, proto.graph.output, strict=False) if each.name]
        arrays = [inputs.get(name) for name in definition.inputs] + wanted
        if any(not isinstance(value, np.ndarray | np.generic) for value in arrays):
            return "refused", "values that are no arrays"
        given = {name: np.asarray(inputs[name]) for name in definition.inputs}
        verdict, reason = check(imported, given, wanted, rtol, atol)
        if verdict not in ("agrees", "agrees, gradient confirmed"):
            return verdict, reason
    return verdict, reason


def check(imported: object, given: dict, wanted: list, rtol: float, atol: float) -> tuple[str, str]:
    """Return the verdict on one set of inputs and wanted outputs, and the reason. Confirm the gradient as well."""
    definition = imported.definition
    known = tuple(
        (name, given[name].shape, tuple(given[name].reshape(-1).tolist())) for name in sorted(definition.known_inputs)
    )
    shapes = [(name, array.shape) for name, array in given.items()]
    faults = definition.faults_of_inputs(shapes)
    if faults:
        return "refused", faults[0].detail
    for name, (_, count) in model_vocabularies(definition, shapes, known).items():
        if given[name].size and (given[name].min() < 0 or given[name].max() >= count):
            return "refused", f"input {name} holds a place from the end of an axis"
    graph = Graph("float64", 200_000, 2**31)
    try:
        model = definition.assemble(graph, dict(shapes), known=known)
    except EngineError as error:
        return "refused", str(error)
    outputs = {name: model.layers[name].output for name in definition.output_names}
    rng = np.random.default_rng(0)
    total, seeds = None, {}
    for name, node in outputs.items():
        seeds[name] = rng.standard_normal(node.shape)
        part = sum_over(node * graph.input(f"seed/{name}", node.shape))
        total = part if total is None else total + part
    floats = {name: node for name, node in model.inputs.items() if node.dtype != "int64"}
    nodes = [*floats.values(), *(each.node for each in model.parameters)]
    gradient = []
    if nodes and total is not None:
        gradient = dense(differentiate(total, nodes).nodes, nodes)
    every = {**outputs, "total": total, **{f"g{k}": node for k, node in enumerate(gradient)}}
    program = Program(every)
    base = {f"inputs/{name}": np.asarray(given[name], float) for name in floats}
    base |= {f"{p.layer}.{p.name}": imported.parameters[p.layer][p.name] for p in model.parameters}

    with program.workspace() as workspace:

        def forward(values: dict) -> dict:
            for name, out in workspace.inputs.items():
                if name.startswith("inputs/") and name[7:] not in floats:
                    out[...] = given[name[7:]]
                elif name.startswith("seed/"):
                    out[...] = seeds[name[5:]]
                else:
                    out[...] = values[name]
            workspace.run()
            return {name: array.copy() for name, array in workspace.outputs.items()}

        found = forward(base)
        for name, value in zip(outputs, wanted, strict=True):
            mine, theirs = found[name], np.asarray(value)
            if mine.shape != theirs.shape:
                return "WRONG", f"{name}: shape {mine.shape}, not {theirs.shape}"
            if theirs.dtype == np.float16:
                mine = mine.astype(np.float16)
            # Expected values are float32: where terms cancel, the rounding error of the largest remains.
            noise = 1e-6 * np.max(np.abs(theirs[np.isfinite(theirs)]), initial=0.0) if theirs.dtype.kind == "f" else 0.0
            if not np.allclose(mine.astype(float), theirs.astype(float), rtol, atol + noise, equal_nan=True):
                worst = np.nanmax(np.abs(mine.astype(float) - theirs.astype(float)))
                return "WRONG", f"{name}: {theirs.dtype} differs by {worst:.2g}"
        if not gradient or not any(np.asarray(value).dtype.kind == "f" for value in wanted):
            return "agrees", "no floats to differentiate"
        if not all(np.isfinite(found[name]).all() for name in outputs) or any(
            not np.isfinite(value).all() for value in base.values()
        ):
            return "agrees", "not finite"
        keys = [*(f"inputs/{name}" for name in floats), *(f"{p.layer}.{p.name}" for p in model.parameters)]
        reasons = []
        for attempt in range(4):
            directions = {key: np.random.default_rng(attempt).standard_normal(np.shape(base[key])) for key in keys}
            exact = sum(float(np.sum(found[f"g{k}"] * directions[key])) for k, key in enumerate(keys))
            for step in (1e-6, 1e-5, 1e-7, 1e-4):
                ahead = forward({key: base[key] + step * directions[key] for key in keys})["total"]
                behind = forward({key: base[key] - step * directions[key] for key in keys})["total"]
                difference = float(ahead - behind) / (2 * step)
                scale = max(abs(exact), abs(difference), 1e-3)
                if abs(exact - difference) <= SLOPE * scale:
                    return "agrees, gradient confirmed", ""
            if kinked(forward, base, directions, float(found["total"])):
                return "agrees, at a kink or jump", ""
            reasons.append(f"{exact:.6g} is not {difference:.6g}")
        return "agrees, gradient NOT confirmed", "; ".join(reasons)


def model_vocabularies(definition: object, shapes: list, known: tuple) -> dict:
    """Return the number of places for each input that holds places. Requests are checked for these numbers."""
    try:
        return definition.assemble(Graph("float64", 200_000, 2**31), dict(shapes), known=known).vocabularies
    except EngineError:
        return {}


def kinked(forward: object, base: dict, directions: dict, here: float) -> bool:
    """Return whether the slopes on both sides differ, or grow without bound as the step shrinks."""
    sides = []
    for step in (1e-5, 1e-6):
        ahead, behind = (
            float(forward({key: value + sign * step * directions[key] for key, value in base.items()})["total"])
            for sign in (1.0, -1.0)
        )
        sides.append(((ahead - here) / step, (here - behind) / step))
    (a, b), (c, d) = sides
    if not all(np.isfinite([a, b, c, d])):
        return True  # beyond the domain of the function
    scale = max(1e-6, abs(a), abs(b))
    if max(abs(c), abs(d)) > 5.0 * scale:
        return True
    return abs(a - b) > 1e-3 * scale and abs((a - b) - (c - d)) < 0.1 * abs(a - b)


def main() -> None:
    """Run the tests of the suite on the command line and print the verdicts."""
    suite = sys.argv[1] if len(sys.argv) > 1 else "node"
    part = sys.argv[2] if len(sys.argv) > 2 else ""
    counts: Counter[str] = Counter()
    warnings.simplefilter("ignore")
    lines = []
    start = time.perf_counter()
    for name, data, sets, rtol, atol in cases(suite):
        if part not in name:
            continue
        before = time.perf_counter()
        try:
            verdict, reason = run(data, sets, rtol, atol)
        except Exception as error:
            verdict, reason = "CRASHED", f"{type(error).__name__}: {error}"
        counts[verdict] += 1
        seconds = time.perf_counter() - before
        lines.append(f"{verdict}\t{name}\t{seconds:.2f}\t{reason[:220]}")
    print("\n".join(lines))
    print(f"# {dict(counts)} of {sum(counts.values())} in {time.perf_counter() - start:.0f} s")


main()
