"""Compare real models with onnxruntime: outputs, a directional derivative, and time.

    python benchmarks/onnx_models/real.py model.onnx name=2x3x4 sr=16000 …

Inputs are random numbers of the shapes given, or the number given. The interpreter needs the packages onnx and
onnxruntime.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Graph
from service.engine.graph.operations import sum_over
from service.engine.graph.plan import Program
from service.engine.onnx import read

DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(double)": np.float64, "tensor(bool)": bool,
          "tensor(int32)": np.int32, "tensor(float16)": np.float16}  # fmt: skip


def best(function: object, times: int = 5) -> float:
    """Return the shortest time of several calls, in milliseconds."""
    found = []
    for _ in range(times):
        before = time.perf_counter()
        function()
        found.append(time.perf_counter() - before)
    return 1e3 * min(found)


def main() -> None:
    """Compare the model on the command line with onnxruntime and print the results."""
    data = Path(sys.argv[1]).read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    given = dict(each.split("=") for each in sys.argv[2:])
    rng = np.random.default_rng(0)
    feeds = {}
    for each in session.get_inputs():
        text = given.get(each.name, "x".join(str(n) if isinstance(n, int) else "1" for n in each.shape))
        if each.shape == []:
            feeds[each.name] = np.array(int(text), DTYPES[each.type])
        elif each.type == "tensor(int64)" or each.type == "tensor(int32)":
            feeds[each.name] = rng.integers(0, 100, [int(n) for n in text.split("x")]).astype(DTYPES[each.type])
        else:
            feeds[each.name] = rng.standard_normal([int(n) for n in text.split("x")]).astype(DTYPES[each.type])
    expected = session.run(None, feeds)

    read(data)
    from service.engine.onnx.file import load
    from service.engine.onnx.importing import _link

    parse = best(lambda: _link(load(data), None))
    imported = read(data)
    definition = imported.definition
    shapes = {name: feeds[name].shape for name in definition.inputs}
    known = tuple((n, feeds[n].shape, tuple(feeds[n].reshape(-1).tolist())) for n in sorted(definition.known_inputs))
    reports = []
    for dtype in ("float64", "float32"):
        before = time.perf_counter()
        graph = Graph(dtype, 10**6, 2**33)
        model = definition.assemble(graph, shapes, known=known)
        assembled = time.perf_counter() - before
        outputs = {name: model.layers[name].output for name in definition.output_names}
        floats = [node for node in model.inputs.values() if node.dtype != "int64"]
        nodes = [*floats, *(each.node for each in model.parameters if each.trainable)]
        total = sum_over(next(iter(outputs.values())))
        gradient = dense(differentiate(total, nodes).nodes, nodes)
        forward, whole = Program(outputs), Program({**outputs, "total": total}, (), gradient)
        built = time.perf_counter() - before

        places = {f"{each.layer}.{each.name}": (each.layer, each.name) for each in model.parameters}

        first = next((name for name, node in model.inputs.items() if node.dtype != "int64"), None)
        moved = nodes[0] if first is None else model.inputs[first]
        direction = np.random.default_rng(1).standard_normal(moved.shape)

        def fill(
            workspace: object,
            step: float = 0.0,
            first: str | None = first,
            direction: np.ndarray = direction,
            places: dict = places,
            moved: object = moved,
        ) -> None:
            for name, out in workspace.inputs.items():
                if name.startswith("inputs/"):
                    out[...] = feeds[name[7:]]
                    if step and name[7:] == first:
                        out += step * direction
                else:
                    layer, own = places[name]
                    out[...] = imported.parameters[layer][own]
                    if step and name == moved.attributes[0]:
                        out += step * direction

        with forward.workspace() as workspace:
            fill(workspace)
            run_forward = best(workspace.run)
            errors = []
            names = [each.name for each in session.get_outputs()]
            for name, value in zip(names, expected, strict=True):
                if name in workspace.outputs:
                    scale = max(1e-6, float(np.abs(value).max()))
                    errors.append(float(np.abs(workspace.outputs[name] - value).max()) / scale)
        with whole.workspace() as workspace:
            fill(workspace)
            run_whole = best(workspace.run)
            place = nodes.index(moved)
            start = sum(node.size for node in nodes[:place])
            exact = float(workspace.gradients[start : start + direction.size] @ direction.reshape(-1))
            h = 1e-6 if dtype == "float64" else 1e-2
            values = []
            for sign in (1.0, -1.0):
                fill(workspace, sign * h)
                workspace.run()
                values.append(float(workspace.outputs["total"]))
            slope = (values[0] - values[1]) / (2 * h)
        reports.append(
            f"  {dtype}: outputs {max(errors):.1e} of the largest; slope {exact:.8g} / {slope:.8g}; build "
            f"{1e3 * assembled:.0f}, with gradients {1e3 * built:.0f}; forward {run_forward:.1f}, with gradients "
            f"{run_whole:.1f} ms, {whole.nbytes / 2**20:.0f} MiB, {len(whole.nodes)} nodes"
        )
    parameters = sum(array.size for arrays in imported.parameters.values() for array in arrays.values())
    runtime = best(lambda: session.run(None, feeds))
    print(f"{Path(sys.argv[1]).name}: {parameters:,} parameters, read in {parse:.1f} ms; onnxruntime {runtime:.1f} ms")
    print("\n".join(reports))
    for each in imported.refused:
        print("  refused:", dict(each))


main()
