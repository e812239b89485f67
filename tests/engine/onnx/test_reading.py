"""Tests of what is read of a file, and of what is refused by name."""

import random
import time
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.engine.errors import EngineError, ExtraMissing, InvalidRequest
from service.engine.graph.ir import Graph, sealing
from service.engine.limits import Limits
from service.engine.network.evaluate import compile_task
from service.engine.network.task import Task
from service.engine.onnx import file, read
from tests.engine.onnx.models import BOOL, INT64, model, node, perceptron, tensor, value
from tests.engine.onnx.running import Run
from tests.support import every

W = np.arange(12, dtype=np.float32).reshape(4, 3)
X = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
INPUT = [value("x", ["batch", 4])]


def product(weights: dict[str, Any], inputs: Any = INPUT, **more: Any) -> bytes:
    """Return the bytes of a file that multiplies x with the first weight."""
    return model([node("MatMul", ["x", next(iter(weights))], ["y"])], inputs, [value("y")], weights, **more)


def refusal(data: bytes, outputs: list[str] | None = None) -> str:
    """Return the message with which a file is refused."""
    with pytest.raises(InvalidRequest) as caught:
        read(data, outputs)
    return str(caught.value)


def test_parameters_are_named_as_the_file_names_them():
    imported = read(perceptron())
    assert {layer: list(tree) for layer, tree in imported.parameters.items()} == {
        "fc1": ["weight", "bias"],
        "fc2": ["weight", "bias"],
    }
    assert imported.operations == {"Gemm": 2, "Relu": 1}
    assert not imported.refused
    assert not imported.warnings


def test_a_name_is_cut_at_its_last_dot():
    names = {"encoder.layers.0.linear.weight": W, "scale": W, ".odd": W}
    nodes = [node("MatMul", ["x", name], [f"y{k}"]) for k, name in enumerate(names)]
    found = read(model(nodes, INPUT, [value(f"y{k}") for k in range(3)], names)).parameters
    assert {(layer, name) for layer, tree in found.items() for name in tree} == {
        ("encoder.layers.0.linear", "weight"),
        ("model", "scale"),
        ("model", ".odd"),
    }


def test_nodes_are_named_after_their_parameters_and_outputs():
    layers = {each.name: (each.layer.name, each.inputs) for each in read(perceptron()).definition.layers}
    assert layers == {
        "fc1": ("Gemm", ("x",)),
        "rectified": ("Relu", ("fc1",)),
        "fc2": ("Gemm", ("rectified",)),
        "y": ("output", ("fc2",)),
    }


def test_equal_files_give_the_same_definition():
    assert read(perceptron()).definition is read(perceptron()).definition
    assert read(perceptron(), ["r"]).definition is not read(perceptron()).definition


def test_constants_are_parameters_where_they_are_weights():
    nodes = [
        node("Constant", [], ["conv.w_0"], value=tensor(W, "")),
        node("Constant", [], ["half"], value_float=0.5),
        node("MatMul", ["x", "conv.w_0"], ["m"]),
        node("Mul", ["m", "half"], ["y"]),
    ]
    run = Run(model(nodes, INPUT, [value("y")]), {"x": X})
    assert list(run.imported.parameters) == ["conv"]
    np.testing.assert_allclose(run.results()["y"], 0.5 * (X @ W), rtol=1e-6)


def test_statistics_are_parameters_that_are_not_trained():
    weights = {f"bn.{name}": np.ones(4, np.float32) for name in ("weight", "bias", "running_mean", "running_var")}
    data = model([node("BatchNormalization", ["x", *weights], ["y"])], INPUT, [value("y")], weights)
    parameters = Run(data, {"x": X}).model.parameters
    assert [each.trainable for each in parameters] == [True, True, False, False]


def test_only_what_wanted_outputs_need_is_built():
    nodes = [
        node("RandomNormalLike", ["x"], ["noise"]),
        node("Add", ["x", "noise"], ["noisy"]),
        node("Exp", ["x"], ["y"]),
        node("ArgMax", ["x"], ["label"], axis=1),
    ]
    data = model(nodes, INPUT, [value("label", kind=INT64), value("noisy"), value("y")])
    imported = read(data)
    assert imported.definition.output_names == ("y",)
    assert [(each["output"], each["operation"]) for each in imported.refused] == [
        ("noisy", "RandomNormalLike"),
        ("label", "output"),
    ]
    assert "random numbers" in imported.refused[0]["reason"]
    assert "RandomNormalLike" in refusal(data, ["noisy"])
    np.testing.assert_array_equal(Run(data, {"x": X}, ["label"]).results()["label"][:, 0], X.argmax(1))


def test_inner_values_can_be_outputs():
    run = Run(perceptron(), {"x": X}, ["r"])
    assert list(run.outputs) == ["r"]
    assert {each.layer for each in run.model.parameters} == {"fc1"}


def test_a_condition_that_is_known_takes_a_branch():
    def branch(rate: float) -> Any:
        return helper.make_graph(
            [node("MatMul", ["x", "w"], ["r"])],
            "branch",
            [],
            [value("r")],
            [tensor(np.full((4, 2), rate, np.float32), "w")],
        )

    nodes = [
        node("Equal", ["rate", "wanted"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch(2.0), else_branch=branch(3.0), name="choice"),
    ]
    weights = {"wanted": np.array(16000)}
    data = model(nodes, [*INPUT, value("rate", [], INT64)], [value("y")], weights)
    for rate, factor in ((16000, 2.0), (8000, 3.0)):
        run = Run(data, {"x": X, "rate": np.array(rate)})
        assert run.imported.definition.known_inputs == {"rate"}
        np.testing.assert_allclose(run.results()["y"], factor * X.sum(1, keepdims=True).repeat(2, 1), rtol=1e-6)
        assert len(run.model.parameters) == 1
    assert len([name for tree in run.imported.parameters.values() for name in tree]) == 2


def test_a_condition_that_is_computed_chooses_between_both_branches():
    branches = [helper.make_graph([node(kind, ["x"], ["r"])], "b", [], [value("r")]) for kind in ("Exp", "Neg")]
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    data = model(nodes, INPUT, [value("y")], {"zero": np.float32(0)})
    for x in (np.abs(X), -np.abs(X)):
        expected = np.exp(x) if x.sum() > 0 else -x
        np.testing.assert_allclose(Run(data, {"x": x}).results()["y"], expected, rtol=1e-6)


def test_loops_and_scans_are_written_out():
    body = helper.make_graph(
        [node("Identity", ["c"], ["on"]), node("Mul", ["v", "w"], ["next"]), node("Identity", ["next"], ["seen"])],
        "body",
        [value("i", [], INT64), value("c", [], BOOL), value("v")],
        [value("on", [], BOOL), value("next"), value("seen")],
    )
    nodes = [node("Loop", ["count", "", "x"], ["last", "y"], body=body)]
    run = Run(model(nodes, INPUT, [value("y")], {"count": np.array(3), "w": np.float32([1.0, 2, 3, 4])}), {"x": X})
    expected = np.stack([X * np.float32([1, 2, 3, 4]) ** k for k in (1, 2, 3)])
    np.testing.assert_allclose(run.results()["y"], expected, rtol=1e-5)
    exact, difference = run.slopes()
    assert exact == pytest.approx(difference, rel=1e-6)
    step = helper.make_graph(
        [node("Add", ["s", "e"], ["t"]), node("Tanh", ["t"], ["o"])],
        "step",
        [value("s"), value("e")],
        [value("t"), value("o")],
    )
    data = model(
        [node("Scan", ["zero", "x"], ["final", "y"], body=step, num_scan_inputs=1, scan_input_axes=[1])],
        INPUT,
        [value("y")],
        {"zero": np.zeros(2, np.float32)},
    )
    np.testing.assert_allclose(Run(data, {"x": X}).results()["y"], np.tanh(np.cumsum(X, 1).T), rtol=1e-5)


def test_functions_of_the_file_are_expanded():
    own = helper.make_function(
        "own",
        "twice",
        ["a"],
        ["b"],
        [helper.make_node("Constant", [], ["k"]), node("Mul", ["a", "k"], ["b"])],
        [helper.make_opsetid("", 21)],
        ["factor"],
    )
    own.node[0].attribute.add(name="value_float", ref_attr_name="factor", type=onnx.AttributeProto.FLOAT)
    data = model(
        [node("twice", ["x"], ["y"], domain="own", factor=2.5)],
        INPUT,
        [value("y")],
        functions=[own],
        domains={"own": 1},
    )
    np.testing.assert_allclose(Run(data, {"x": X}).results()["y"], 2.5 * X, rtol=1e-6)


def test_shapes_are_known_from_those_of_a_request():
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "first"], ["n"]),
        node("Concat", ["n", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    data = model(nodes, INPUT, [value("y")], {"first": np.array([0]), "rest": np.array([2, 2])})
    assert Run(data, {"x": X}).results()["y"].shape == (2, 2, 2)


def test_folded_names_are_accepted_with_a_warning_that_names_the_setting():
    weights = {"val_7": W}
    assert not read(product(weights)).warnings
    imported = read(product(weights, producer_name="pytorch"))
    (warning,) = imported.warnings
    assert "'val_7'" in warning
    assert imported.definition.folded == ("val_7",)


@every(
    "wrong",
    [
        (b"", "no ONNX file"),
        (b"no protobuf at all", "no ONNX file"),
        (product({"w": W}, opset=5), "opset 5"),
        (model([node("Own", ["x"], ["y"], domain="com.acme")], INPUT, [value("y")], domains={"com.acme": 1}),
         "domain 'com.acme'"),
        (model([node("Nonsense", ["x"], ["y"])], INPUT, [value("y")]), r"'Nonsense'.*not read"),
        (model([node("QuantizeLinear", ["x", "s"], ["y"])], INPUT, [value("y")], {"s": np.float32(1)}), "quantised"),
        (model([node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)], INPUT, [value("y", kind=16)]), "bfloat16"),
        (model([node("Exp", ["x"], ["y"])], [value("x", [2], TensorProto.STRING)], [value("y")]), "strings"),
        (model([node("Exp", ["nothing"], ["y"])], INPUT, [value("y")]), "nothing"),
        (model([node("Add", ["x", "b"], ["a"]), node("Exp", ["a"], ["b"])], INPUT, [value("b")]), "cycle"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(wrong):
    data, words = wrong
    with pytest.raises(InvalidRequest, match=words):
        Run(data, {"x": X, "nothing": X})


def test_values_in_other_files_are_never_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(W.tobytes())
    proto = onnx.ModelProto()
    proto.ParseFromString(product({"w": W}))
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=str(secret))
    assert "another file" in refusal(proto.SerializeToString())


def test_dimensions_that_do_not_fit_the_data_are_refused():
    proto = onnx.ModelProto()
    proto.ParseFromString(product({"w": W}))
    proto.graph.initializer[0].dims[0] = 2**31
    with pytest.raises(InvalidRequest, match="dimensions"):
        Run(proto.SerializeToString(), {"x": X})
    proto.graph.initializer[0].dims[0] = 5
    assert "data for 12 values" in refusal(proto.SerializeToString())


def bomb(nodes: list[Any], **weights: Any) -> bytes:
    """Return the bytes of a file that asks for too much."""
    if not any("x" in each.input for each in nodes):
        nodes[-1].output[0] = "z"
        nodes = [*nodes, node("Add", ["x", "z"], ["y"])]
    return model(nodes, INPUT, [value("y")], {name: np.array(numbers) for name, numbers in weights.items()})


LOOP = helper.make_graph(
    [node("Identity", ["c"], ["d"]), node("Mul", ["v", "v"], ["w"])],
    "body",
    [value("i", [], INT64), value("c", [], BOOL), value("v")],
    [value("d", [], BOOL), value("w")],
)
HUGE = 2**40
BOMBS = {
    "constant": bomb([node("ConstantOfShape", ["s"], ["c"]), node("ReduceSum", ["c"], ["y"])], s=[HUGE, 4]),
    "expand": bomb([node("Expand", ["x", "s"], ["e"]), node("Exp", ["e"], ["y"])], s=[HUGE, 2, 4]),
    "tile": bomb([node("Tile", ["x", "s"], ["t"]), node("Exp", ["t"], ["y"])], s=[HUGE, 1]),
    "range": bomb([node("Range", ["a", "s", "b"], ["r"]), node("Cast", ["r"], ["y"], to=1)], s=HUGE, a=0, b=1),
    "pad": bomb([node("Pad", ["x", "s"], ["y"])], s=[HUGE, 0, 0, 0]),
    "reflect": bomb([node("Pad", ["x", "s"], ["y"], mode="reflect")], s=[HUGE, 0, 0, 0]),
    "resize": bomb([node("Resize", ["x", "", "", "s"], ["y"])], s=[HUGE, 4]),
    "one hot": bomb([node("OneHot", ["i", "s", "v"], ["y"])], i=[0], s=HUGE, v=np.float32([0, 1])),
    "window": bomb([node("HannWindow", ["s"], ["y"])], s=HUGE),
    "loop": bomb([node("Loop", ["s", "", "x"], ["y"], body=LOOP)], s=HUGE),
    "doubling": bomb([node("Identity", ["x"], ["v0"]), *(node("Concat", [f"v{k}", f"v{k}"], [f"v{k + 1}"], axis=0)
                                                         for k in range(60)), node("Exp", ["v60"], ["y"])]),
    "known doubling": bomb([*(node("Concat", [f"v{k}", f"v{k}"], [f"v{k + 1}"], axis=0) for k in range(60)),
                            node("Cast", ["v60"], ["y"], to=1)], v0=[1, 2]),
}  # fmt: skip


def nested(depth: int) -> Any:
    """The body of a loop that holds others, each of which repeats t times."""
    inner = node("Loop", ["t", "on", "v"], ["w"], body=nested(depth - 1)) if depth else node("Mul", ["v", "v"], ["w"])
    return helper.make_graph(
        [node("Identity", ["c"], ["d"]), inner],
        f"body{depth}",
        [value("i", [], INT64), value("c", [], BOOL), value("v")],
        [value("d", [], BOOL), value("w")],
    )


@every("depth", [1, 3])
def test_nested_loops_are_counted_before_they_are_written_out(depth):
    data = bomb([node("Loop", ["t", "on", "x"], ["y"], body=nested(depth))], t=2000, on=True)
    start = time.process_time()
    with pytest.raises(InvalidRequest, match="nodes of subgraphs"):
        Run(data, {"x": X})
    assert time.process_time() - start < 1.0


def test_nested_loops_that_are_short_are_written_out():
    data = bomb([node("Loop", ["t", "on", "x"], ["y"], body=nested(1))], t=2, on=True)
    np.testing.assert_allclose(Run(data, {"x": X}).results()["y"], X.astype(float) ** 16, rtol=1e-6)


def test_the_deadline_stops_loops_that_are_computed_at_once():
    class Over(EngineError):
        pass

    class Late:
        def look(self) -> float:
            raise Over

    ints = helper.make_graph(
        [node("Identity", ["c"], ["d"]), node("Mul", ["v", "v"], ["w"])],
        "body",
        [value("i", [], INT64), value("c", [], BOOL), value("v", [], INT64)],
        [value("d", [], BOOL), value("w", [], INT64)],
    )
    nodes = [node("Loop", ["t", "", "o"], ["k"], body=ints), node("Cast", ["k"], ["f"], to=1)]
    data = bomb([*nodes, node("Add", ["x", "f"], ["y"])], t=2000, o=1)
    definition = read(data).definition
    with pytest.raises(Over), Graph("float64", watch=Late()) as graph:
        definition.assemble(graph, {"x": X.shape})


@every("name", BOMBS)
def test_what_would_be_too_large_is_refused_before_it_is_made(name):
    with pytest.raises(EngineError):
        Run(BOMBS[name], {"x": X})


def test_functions_that_call_themselves_are_refused():
    own = helper.make_function("own", "f", ["a"], ["b"], [node("f", ["a"], ["b"], domain="own")],
                               [helper.make_opsetid("own", 1)])  # fmt: skip
    data = model([node("f", ["x"], ["y"], domain="own")], INPUT, [value("y")], functions=[own], domains={"own": 1})
    assert "calls itself" in refusal(data)


def test_subgraphs_deeper_than_any_need_are_refused():
    graph = helper.make_graph([node("Exp", ["x"], ["r"])], "g", [], [value("r")])
    for _ in range(20):
        graph = helper.make_graph([node("If", ["k"], ["r"], then_branch=graph)], "g", [], [value("r")])
    nodes = [node("If", ["k"], ["y"], then_branch=graph, else_branch=graph)]
    assert "deeper" in refusal(model(nodes, INPUT, [value("y")], {"k": np.array(True)}))


def corrupted(data: bytes, seed: int) -> bytes:
    """Return a file with some of its bytes changed."""
    rng = random.Random(seed)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        place = rng.randrange(len(changed))
        kind = rng.randrange(3)
        if kind == 0:
            changed[place] = rng.randrange(256)
        elif kind == 1:
            del changed[place : place + rng.randrange(1, 9)]
        else:
            changed[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
    return bytes(changed)


def test_corrupted_files_are_read_or_refused():
    good = perceptron()
    outcomes = set()
    for seed in range(300):
        data = corrupted(good, seed)
        try:
            definition = read(data).definition
            inputs = tuple((name, (2, 4)) for name in definition.inputs)
            with sealing():
                compile_task(Task(definition, "float64", inputs), Limits(workspace_bytes=2**24))
            outcomes.add("built")
        except EngineError:
            outcomes.add("refused")
    assert outcomes == {"built", "refused"}


def test_without_the_package_the_extra_is_named(monkeypatch):
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(file.importlib, "import_module", missing)
    with pytest.raises(ExtraMissing) as caught:
        read(product({"w": W}, doc_string="another file"))
    assert caught.value.extra == "onnx"


def test_shapes_of_inputs_that_do_not_fit_are_told():
    definition = read(perceptron()).definition
    (fault,) = definition.faults_of_inputs([("x", (2, 5))])
    assert fault.path == ("inputs", "x")
    assert "[batch, 4]" in fault.detail
    fixed = read(model([node("Exp", ["x"], ["y"])], [value("x", [1, 4])], [value("y")])).definition
    assert "dynamic first axis" in fixed.faults_of_inputs([("x", (2, 4))])[0].detail


def test_many_refused_outputs_are_told_in_time():
    count = 20_000
    nodes = [node("Bernoulli", ["x" if not k else f"y{k - 1}"], [f"y{k}"], name="same") for k in range(count)]
    start = time.process_time()
    told = refusal(model(nodes, INPUT, [value(f"y{k}") for k in range(count)], {}))
    assert time.process_time() - start < 5.0
    assert "random numbers" in told
    assert "19,980 more outputs cannot be built" in told


def test_many_outputs_of_nodes_of_one_name_are_read_in_time():
    count = 10_000
    nodes = [node("Relu", ["x"], [f"h{k}"], name="same") for k in range(count)]
    nodes += [node("Neg", [f"h{k}"], [f"y{k}"], name="same") for k in range(count)]
    start = time.process_time()
    read(model(nodes, INPUT, [value(f"y{k}") for k in range(count)], {}))
    assert time.process_time() - start < 5.0


def test_a_tensor_that_nothing_gives_is_named():
    assert "takes 'q', which nothing gives" in refusal(model([node("Relu", ["q"], ["y"])], INPUT, [value("y")], {}))


def test_an_opset_that_is_not_known_is_named():
    data = model([node("Relu", ["x"], ["y"])], INPUT, [value("y")], {}, opset=999)
    assert "opset 999" in refusal(data)


def test_many_refused_outputs_beside_one_are_counted():
    nodes = [node("Bernoulli", ["x"], [f"y{k}"]) for k in range(150)]
    outputs = [value(f"y{k}") for k in range(150)]
    imported = read(model([*nodes, node("Relu", ["x"], ["y"])], INPUT, [*outputs, value("y")], {}))
    assert len(imported.refused) == 100
    assert imported.warnings == ["50 more outputs cannot be built"]
