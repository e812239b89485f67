"""Send corrupted ONNX files, and files that ask for too much, and look for crashes and for excessive time and memory.

    .venv/bin/python benchmarks/onnx_models/corrupted.py model.onnx [count]

Each file is read, built and differentiated as a request would do it. Anything but a result or an error of the engine
counts as a crash.
"""

from __future__ import annotations

import math
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from service.engine.errors import EngineError
from service.engine.graph.ir import sealing
from service.engine.limits import Limits
from service.engine.network.evaluate import compile_task
from service.engine.network.losses import losses
from service.engine.network.task import Task
from service.engine.onnx import read

LIMITS = Limits(workspace_bytes=2**28)


def attempt(data: bytes) -> str:
    """Return the outcome for a file: `refused`, `built`, or the name of an exception that must not occur."""
    try:
        definition = read(data).definition
        inputs = tuple(
            (name, tuple(n if isinstance(n, int) and n > 0 else 2 for n in (shape or (2, 4))))
            for name, shape in definition.shapes.items()
        )
        known = tuple(
            (name, shape, (1.0,) * math.prod(shape))
            for name, shape in inputs
            if name in definition.known_inputs and math.prod(shape) < 4096
        )
        task = Task(definition, "float64", inputs, known=known)
        with sealing():
            evaluation = compile_task(task, LIMITS)
        outputs = evaluation.model.layers[definition.output_names[0]].output.shape
        mean = losses.select("mean_squared_error")
        if len(definition.output_names) == 1 and len(outputs) > 1:
            task = task._replace(losses=(mean,), targets=((definition.output_names[0], outputs),))
            with sealing():
                compile_task(task, LIMITS)
    except EngineError:
        return "refused"
    except Exception as error:
        return f"CRASH {type(error).__name__}: {error}"[:160]
    return "built"


def corrupted(data: bytes, seed: int) -> bytes:
    """Return a file with some of its bytes changed, cut out, repeated or inserted."""
    rng = random.Random(seed)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(changed))
        kind = rng.randrange(5)
        if kind == 0:
            changed[place] = rng.randrange(256)
        elif kind == 1:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del changed[place : place + rng.randrange(1, 9)]
        elif kind == 3:
            changed[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        else:
            part = changed[place : place + rng.randrange(1, 33)]
            changed[place:place] = part
        if not changed:
            return b"\0"
    return bytes(changed)


def mutated(data: bytes, seed: int) -> bytes:
    """Return a well-formed file with its meaning broken: names, attributes, dimensions and types are changed."""
    rng = random.Random(seed)
    model = onnx.ModelProto()
    model.ParseFromString(data)
    numbers = (0, 1, -1, 2, 3, 7, 64, 2**31, 2**62, -(2**62))
    for _ in range(rng.choice((1, 1, 2, 4))):
        node = rng.choice(model.graph.node)
        kind = rng.randrange(8)
        if kind == 0 and node.input:
            other = rng.choice(model.graph.node)
            node.input[rng.randrange(len(node.input))] = rng.choice([*other.output, *other.input, "", "nothing"])
        elif kind == 1:
            node.op_type = rng.choice(OPERATORS)
        elif kind == 2 and node.attribute:
            each = rng.choice(node.attribute)
            if each.ints:
                each.ints[rng.randrange(len(each.ints))] = rng.choice(numbers)
            elif each.type == onnx.AttributeProto.INT:
                each.i = rng.choice(numbers)
            elif each.type == onnx.AttributeProto.FLOAT:
                each.f = rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
            else:
                each.type = rng.randrange(0, 14)
        elif kind == 3 and model.graph.initializer:
            each = rng.choice(model.graph.initializer)
            if each.dims and rng.random() < 0.7:
                each.dims[rng.randrange(len(each.dims))] = rng.choice(numbers)
            else:
                each.data_type = rng.randrange(0, 27)
        elif kind == 4:
            model.opset_import[0].version = rng.choice((0, 1, 5, 6, 7, 9, 11, 13, 18, 21, 25, 99))
        elif kind == 5 and node.output:
            node.output[0] = rng.choice(model.graph.node).output[0]
        elif kind == 6:
            node.attribute.append(
                helper.make_attribute(
                    rng.choice(("axis", "axes", "perm", "group", "pads")),
                    rng.choice((-3, 9, [1, 0], [2**40] * 3, 1.5, "x")),
                )
            )
        else:
            dims = rng.choice(model.graph.input).type.tensor_type.shape.dim
            if dims:
                dims[rng.randrange(len(dims))].dim_value = rng.choice((0, 1, 2, 5, 2**31, 2**62))
    return model.SerializeToString()


def model_of(nodes: list, initializers: list = (), inputs: list | None = None) -> bytes:
    """Return the bytes of a model with these nodes, initializers and inputs."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])] if inputs is None else inputs
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "bomb", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def bombs() -> dict[str, bytes]:
    """Return small files that ask for very much, by name."""
    node, ints = helper.make_node, lambda name, values: numpy_helper.from_array(np.array(values, np.int64), name)
    found = {}
    for size in (2**20, 2**40, 2**62):
        shape = ints("s", [size, 4])
        fill = node("ConstantOfShape", ["s"], ["c"])
        found[f"constant of shape {size}"] = model_of([fill, node("ReduceSum", ["c"], ["y"])], [shape])
        found[f"expand {size}"] = model_of(
            [node("Unsqueeze", ["x", "a"], ["u"]), node("Expand", ["u", "e"], ["w"]), node("Exp", ["w"], ["y"])],
            [ints("e", [size, 2, 4]), ints("a", [0])],
        )
        found[f"tile {size}"] = model_of(
            [node("Tile", ["x", "r"], ["t"]), node("Exp", ["t"], ["y"])], [ints("r", [size, 1])]
        )
        found[f"range {size}"] = model_of(
            [node("Range", ["a", "b", "c"], ["r"]), node("Cast", ["r"], ["y"], to=1)],
            [ints("a", 0), ints("b", size), ints("c", 1)],
        )
        found[f"one hot {size}"] = model_of(
            [node("Cast", ["x"], ["i"], to=7), node("OneHot", ["i", "d", "v"], ["y"])],
            [ints("d", [size]), numpy_helper.from_array(np.array([0, 1], np.float32), "v")],
        )
        found[f"pad {size}"] = model_of([node("Pad", ["x", "p"], ["y"])], [ints("p", [size, 0, 0, 0])])
        found[f"reflect {size}"] = model_of(
            [node("Pad", ["x", "p"], ["y"], mode="reflect")], [ints("p", [size, 0, 0, 0])]
        )
        found[f"resize {size}"] = model_of([node("Resize", ["x", "", "", "n"], ["y"])], [ints("n", [size, 4])])
        found[f"crop {size}"] = model_of([node("CenterCropPad", ["x", "n"], ["y"])], [ints("n", [size, 4])])
        found[f"eye {size}"] = model_of([node("ConstantOfShape", ["s"], ["c"]), node("EyeLike", ["c"], ["y"])], [shape])
        found[f"hann {size}"] = model_of([node("HannWindow", ["n"], ["y"])], [ints("n", size)])
        found[f"cum prod {size}"] = model_of(
            [node("Expand", ["x", "e"], ["w"]), node("CumProd", ["w", "z"], ["y"])],
            [ints("e", [size, 2, 4]), ints("z", 0)],
        )
        body = helper.make_graph(
            [node("Identity", ["c"], ["d"]), node("Mul", ["v", "v"], ["w"])],
            "b",
            [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("c", 9, []), ("v", 1, None))],
            [helper.make_tensor_value_info(n, t, None) for n, t in (("d", 9), ("w", 1))],
        )
        found[f"loop {size}"] = model_of([node("Loop", ["m", "", "x"], ["y"], body=body)], [ints("m", size)])
    tensor = TensorProto(name="w", data_type=1, dims=[2**31, 2**31])
    found["dimensions without data"] = model_of([node("MatMul", ["x", "w"], ["y"])], [tensor])
    external = TensorProto(name="w", data_type=1, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    external.external_data.add(key="location", value="/etc/passwd")
    found["external data"] = model_of([node("MatMul", ["x", "w"], ["y"])], [external])
    nested = helper.make_graph([node("Exp", ["x"], ["r"])], "g", [], [helper.make_tensor_value_info("r", 1, None)])
    for _ in range(20):
        nested = helper.make_graph(
            [node("If", ["k"], ["r"], then_branch=nested, else_branch=nested)]
            if _ < 3
            else [node("If", ["k"], ["r"], then_branch=nested)],
            "g",
            [],
            [helper.make_tensor_value_info("r", 1, None)],
        )
    found["nested subgraphs"] = model_of(
        [node("If", ["k"], ["y"], then_branch=nested, else_branch=nested)],
        [numpy_helper.from_array(np.array(True), "k")],
    )
    doubling = [node("Concat", [f"v{k}", f"v{k}"], [f"v{k + 1}"], axis=0) for k in range(60)]
    found["doubling"] = model_of([node("Identity", ["x"], ["v0"]), *doubling, node("Exp", ["v60"], ["y"])])
    found["shared folding"] = model_of(
        [node("Identity", ["a"], ["v0"]), *doubling, node("Cast", ["v60"], ["y"], to=1)], [ints("a", [1, 2])]
    )
    call = onnx.FunctionProto(name="f", domain="own")
    call.input.append("a")
    call.output.append("b")
    call.node.append(node("f", ["a"], ["b"], domain="own"))
    model = onnx.ModelProto()
    model.ParseFromString(model_of([node("f", ["x"], ["y"], domain="own")]))
    model.functions.append(call)
    found["function that calls itself"] = model.SerializeToString()
    call.node[0].CopyFrom(node("g", ["a"], ["b"], domain="own"))
    found["no graph"] = onnx.ModelProto(ir_version=8).SerializeToString()
    found["empty"] = b""
    return found


OPERATORS = [
    "Add",
    "MatMul",
    "Gemm",
    "Conv",
    "Reshape",
    "Transpose",
    "Concat",
    "Slice",
    "Gather",
    "LSTM",
    "Resize",
    "Pad",
    "Softmax",
    "Where",
    "Loop",
    "If",
    "Scan",
    "Einsum",
    "TopK",
    "Split",
    "Expand",
    "BatchNormalization",
    "MaxPool",
    "Attention",
    "Nonsense",
    "Identity",
    "ReduceSum",
    "Cast",
    "GridSample",
    "DFT",
    "ScatterND",
    "Range",
]


def main() -> None:
    """Try the bombs and the corrupted versions of a file, and print the results."""
    data = Path(sys.argv[1]).read_bytes()
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    slowest: tuple[float, str] = (0.0, "")
    for kind, make in (("bytes", corrupted), ("meaning", mutated)):
        counts: Counter[str] = Counter()
        for seed in range(count):
            try:
                changed = make(data, seed)
            except (ValueError, TypeError, IndexError):
                continue
            before = time.perf_counter()
            counts[attempt(changed)] += 1
            slowest = max(slowest, (time.perf_counter() - before, f"{kind} {seed}"))
        print(kind, dict(counts))
    for name, bomb in bombs().items():
        before = time.perf_counter()
        verdict = attempt(bomb)
        seconds = time.perf_counter() - before
        slowest = max(slowest, (seconds, name))
        print(f"{name:32s} {verdict:10s} {seconds:.3f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"slowest {slowest[0]:.2f} s ({slowest[1]}), peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
