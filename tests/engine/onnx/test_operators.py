"""Tests that each family of operators has the reference implementation's results and the right gradient."""

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from service.engine.errors import InvalidRequest
from service.engine.onnx.registry import OPERATORS
from tests.engine.onnx.models import BOOL, INT64, model, node, single, value
from tests.engine.onnx.running import Run
from tests.support import every

RNG = np.random.default_rng(3)


def floats(*shape: int, low: float | None = None) -> Any:
    """Return distinct numbers of a shape that are not near 0, or that start at `low` if given."""
    count = int(np.prod(shape))
    grid = RNG.permutation(
        np.linspace(-1.93 if low is None else low, 2.11 if low is None else low + 1.5, count + 1)[:-1]
    )
    return grid.reshape(shape).astype(np.float32)


def ints(*values: Any) -> Any:
    """Return values as an int64 array."""
    return np.array(values, np.int64)


X = floats(2, 3, 4)
IMAGE = floats(2, 4, 6, 5)
CASES: dict[str, tuple[str, list[Any], list[Any], dict[str, Any]]] = {
    **{name: (name, [X], [], {}) for name in ("Exp", "Erf", "Sigmoid", "Tanh", "Relu", "Softsign", "Abs", "Neg", "Mish",
                                              "Elu", "Selu", "Celu", "HardSwish", "Softplus", "Gelu", "Flatten")},
    **{name: (name, [floats(2, 3, low=0.2)], [], {}) for name in ("Log", "Sqrt", "Reciprocal", "Sin", "Atan", "Asinh")},
    **{name: (name, [X, floats(3, 1, low=0.4)], [], {}) for name in ("Add", "Sub", "Mul", "Div", "PRelu", "Max")},
    "Min": ("Min", [X, floats(3, 1)], [], {}),
    "Pow": ("Pow", [floats(2, 3, low=0.3)], [np.float32(2.5)], {}),
    "fmod": ("Mod", [X, floats(1, low=0.7)], [], {"fmod": 1}),
    "clip": ("Clip", [X], [np.float32(-0.5), np.float32(0.8)], {}),
    "softmax of an inner axis": ("Softmax", [X], [], {"axis": 1}),
    "log softmax": ("LogSoftmax", [X], [], {}),
    "reduce mean": ("ReduceMean", [X], [ints(0, 2)], {"keepdims": 0}),
    "reduce max": ("ReduceMax", [X], [ints(1)], {}),
    "reduce product": ("ReduceProd", [floats(2, 3)], [ints(1)], {}),
    "reduce log sum exp": ("ReduceLogSumExp", [X], [ints(-1)], {}),
    "reduce l2": ("ReduceL2", [X], [ints(1)], {}),
    "exclusive sums from the end": ("CumSum", [X], [ints(1).reshape(())], {"exclusive": 1, "reverse": 1}),
    "norm": ("LpNormalization", [X], [], {"axis": 1}),
    "matmul with a vector": ("MatMul", [floats(2, 3, 4), floats(4)], [], {}),
    "gemm": ("Gemm", [floats(3, 2), floats(4, 3), floats(4)], [], {"transA": 1, "transB": 1, "alpha": 0.5}),
    "einsum": ("Einsum", [floats(2, 3, 4), floats(2, 4, 5)], [], {"equation": "bij,bjk->kbi"}),
    "einsum of a trace": ("Einsum", [floats(3, 3)], [], {"equation": "ii->"}),
    "transpose": ("Transpose", [X], [], {"perm": [2, 0, 1]}),
    "reshape": ("Reshape", [X], [ints(0, -1)], {}),
    "slice backwards": ("Slice", [X], [ints(3, -1), ints(-5, 0), ints(2, 1), ints(-2, -1)], {}),
    "split": ("Split", [X], [ints(1, 3)], {"axis": 2}),
    "tile": ("Tile", [X], [ints(1, 2, 3)], {}),
    "reflected": ("Pad", [X], [ints(0, 1, 2, 0, 0, 3)], {"mode": "reflect"}),
    "padded with a number": ("Pad", [X], [ints(0, 1, 1, 0, 0, 3), np.float32(1.5)], {}),
    "gather": ("Gather", [X], [ints([0, -1], [2, 2])], {"axis": 1}),
    "gather elements": ("GatherElements", [X], [RNG.integers(-3, 3, (2, 2, 4))], {"axis": 1}),
    "gather nd": ("GatherND", [X], [ints([0, 2], [1, 1])], {}),
    "scatter elements": ("ScatterElements", [floats(3, 4)], [ints([1, 0, 2, 0]), floats(1, 4)], {"axis": 0}),
    "scatter and add": ("ScatterND", [floats(4, 3)], [ints([1], [1]), floats(2, 3)], {"reduction": "add"}),
    "scatter and multiply": ("ScatterND", [floats(4, 3)], [ints([1], [1]), floats(2, 3)], {"reduction": "mul"}),
    "top": ("TopK", [X], [ints(2)], {"axis": 1}),
    "triangle": ("Trilu", [X], [ints(1).reshape(())], {"upper": 0}),
    "depth to space": ("DepthToSpace", [IMAGE], [], {"blocksize": 2, "mode": "CRD"}),
    "reversed": ("ReverseSequence", [floats(4, 3, 2)], [ints(1, 4, 2)], {"time_axis": 0, "batch_axis": 1}),
    "convolution": ("Conv", [IMAGE, floats(6, 2, 3, 2), floats(6)], [],
                    {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
    "convolution in three axes": ("Conv", [floats(1, 2, 3, 4, 3), floats(2, 2, 2, 2, 2)], [], {}),
    "transposed convolution": ("ConvTranspose", [floats(2, 4, 3, 3), floats(4, 2, 3, 3)], [],
                               {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}),
    "largest of windows": ("MaxPool", [IMAGE], [], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    "means of windows": ("AveragePool", [IMAGE], [], {"kernel_shape": [2, 3], "pads": [1, 1, 0, 0]}),
    "global mean": ("GlobalAveragePool", [IMAGE], [], {}),
    "batch normalization": ("BatchNormalization", [IMAGE, floats(4), floats(4)], [floats(4), floats(4, low=0.5)], {}),
    "layer normalization": ("LayerNormalization", [X, floats(4), floats(4)], [], {}),
    "group normalization": ("GroupNormalization", [IMAGE, floats(4), floats(4)], [], {"num_groups": 2}),
    "instance normalization": ("InstanceNormalization", [IMAGE, floats(4), floats(4)], [], {}),
    "response": ("LRN", [floats(4, 4, 3, 2)], [], {"size": 3, "alpha": 0.1}),
    "resize linearly": ("Resize", [IMAGE], [None, None, ints(2, 4, 9, 3)], {"mode": "linear"}),
    "resize by cubes": ("Resize", [IMAGE], [None, np.array([1, 1, 1.5, 2], np.float32)], {"mode": "cubic"}),
    "resize to the nearest": ("Resize", [IMAGE], [None, None, ints(2, 4, 9, 3)], {"mode": "nearest"}),
    "sampled": ("GridSample", [IMAGE, floats(2, 3, 3, 2) * np.float32(0.45)], [], {"mode": "linear"}),
    "fourier": ("DFT", [floats(1, 6, 1)], [], {"onesided": 1}),
    "rotary": ("RotaryEmbedding", [floats(1, 2, 3, 4), floats(1, 3, 2), floats(1, 3, 2)], [], {}),
}  # fmt: skip
NEWER = {"RotaryEmbedding": 23, "RMSNormalization": 23, "Swish": 24, "CumProd": 26}


def compare(data: bytes, inputs: dict[str, Any], expected: list[Any] | None = None) -> Run:
    """Check the outputs of a file against the reference implementation, or against `expected`. Return the run."""
    run = Run(data, inputs, None)
    if expected is None:
        with np.errstate(all="ignore"):
            expected = ReferenceEvaluator(data).run(list(run.outputs), inputs)
    for found, wanted in zip(run.results().values(), expected, strict=True):
        assert found.shape == np.shape(wanted)
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)
    return run


@every("name", CASES)
def test_an_operator_is_that_of_the_reference_and_has_the_right_gradient(name):
    operation, arrays, weights, attributes = CASES[name]
    outputs = 2 if operation in ("Split", "TopK") else 1
    data = single(operation, arrays, weights, outputs, NEWER.get(operation, 21), **attributes)
    inputs = {f"x{k}": array for k, array in enumerate(arrays)}
    exact, difference = compare(data, inputs).slopes()
    assert exact == pytest.approx(difference, rel=1e-5, abs=1e-7)


RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}


@every("operation", RECURRENT)
@every("direction", ["forward", "bidirectional"])
def test_recurrent_operators_in_both_directions(operation, direction):
    gates, units, features = RECURRENT[operation], 3, 2
    count = 2 if direction == "bidirectional" else 1
    shapes = [(count, gates * units, features), (count, gates * units, units), (count, 2 * gates * units)]
    x, weights = floats(4, 2, features), [0.4 * floats(*shape) for shape in shapes]
    data = single(operation, [x], weights, 2, hidden_size=units, direction=direction)
    run = Run(data, {"x0": x})
    if count == 1:  # the reference implementation has only one direction
        compare(data, {"x0": x})
    else:
        # The second direction equals the first one on the reversed sequence, with its own weights.
        forward, backward = (
            Run(single(operation, [x], [w[k : k + 1] for w in weights], 2, hidden_size=units), {"x0": series}).results()
            for k, series in ((0, x), (1, x[::-1]))
        )
        y = run.results()["y0"]
        np.testing.assert_allclose(y[:, :1], forward["y0"], rtol=1e-12)
        np.testing.assert_allclose(y[::-1, 1:], backward["y0"], rtol=1e-12)
    exact, difference = run.slopes()
    assert exact == pytest.approx(difference, rel=1e-5)


def test_masked_attention_of_rows_that_see_nothing():
    q, k, v = floats(1, 2, 3, 4), floats(1, 2, 5, 4), floats(1, 2, 5, 4)
    mask = np.ones((3, 5), bool)
    mask[1] = False
    data = model(
        [node("Attention", ["q", "k", "v", "m"], ["y"])],
        [value("q", q.shape), value("k", k.shape), value("v", v.shape), value("m", mask.shape, BOOL)],
        [value("y")],
        opset=24,
    )
    run = compare(data, {"q": q, "k": k, "v": v, "m": mask})
    assert not run.results()["y"][:, :, 1].any()
    exact, difference = run.slopes()
    assert exact == pytest.approx(difference, rel=1e-6)


def test_a_choice_hides_what_is_not_finite_from_the_gradient():
    x = np.array([[-1.0, 2.0], [-0.5, 3.0]], np.float32)
    nodes = [
        node("Greater", ["x", "zero"], ["c"]),
        node("Log", ["x"], ["l"]),
        node("Where", ["c", "l", "x"], ["y"]),
    ]
    run = compare(model(nodes, [value("x", [2, 2])], [value("y")], {"zero": np.float32(0)}), {"x": x})
    exact, difference = run.slopes()
    assert exact == pytest.approx(difference, rel=1e-6)


def test_integers_that_are_computed_wrap_around_as_theirs_do():
    nodes = [
        node("Cast", ["x"], ["i"], to=3),
        node("Add", ["i", "i"], ["s"]),
        node("Cast", ["s"], ["y"], to=1),
    ]
    x = np.array([[100.7, -100.2, 3.0]], np.float32)
    compare(model(nodes, [value("x", [1, 3])], [value("y")]), {"x": x})


def test_indices_that_are_computed():
    nodes = [node("ArgMax", ["x"], ["i"], axis=1, keepdims=1), node("GatherElements", ["x", "i"], ["y"], axis=1)]
    x = floats(3, 4)
    run = compare(model(nodes, [value("x", [3, 4])], [value("y")]), {"x": x})
    np.testing.assert_array_equal(run.results()["y"][:, 0], x.max(1))


def test_an_index_beyond_the_end_gives_no_number():
    nodes = [node("Add", ["i", "one"], ["j"]), node("Gather", ["w", "j"], ["y"])]
    data = model(
        nodes,
        [value("i", [2], INT64)],
        [value("y")],
        {"one": ints(1).reshape(()), "w": floats(3, 2)},
    )
    found = Run(data, {"i": ints(0, 2)}).results()["y"]
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


def test_scikit_learn_operators():
    x = floats(5, 3)
    nodes = [
        node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.1, 0.2, 0.3], scale=[1.0, 2.0, 0.5]),
        node("Normalizer", ["s"], ["n"], domain="ai.onnx.ml", norm="L2"),
        node("LinearRegressor", ["n"], ["l"], domain="ai.onnx.ml", coefficients=[1.0, -1.0, 0.5], intercepts=[0.25]),
        node(
            "SVMRegressor",
            ["x"],
            ["v"],
            domain="ai.onnx.ml",
            kernel_type="RBF",
            kernel_params=[0.3, 0.0, 3.0],
            support_vectors=[1.0, 0.0, 0.0, 0.0, 1.0, 0.5],
            coefficients=[0.7, -0.4],
            rho=[0.2],
            n_supports=2,
        ),
        node("Add", ["l", "v"], ["y"]),
    ]
    data = model(nodes, [value("x", [5, 3])], [value("y")], domains={"ai.onnx.ml": 3})
    exact, difference = compare(data, {"x": x}).slopes()
    assert exact == pytest.approx(difference, rel=1e-6)


def test_operators_are_declared_once_for_each_version():
    for variants in OPERATORS.values():
        assert len({each.since for each in variants}) == len(variants)


def test_what_is_random_is_refused_by_name():
    with pytest.raises(InvalidRequest, match=r"'Bernoulli' \(Bernoulli\): random numbers"):
        Run(single("Bernoulli", [X]), {"x0": X})


@every("operation", RECURRENT)
def test_recurrent_operators_keep_samples_apart(operation):
    """Per-sample gradients and Jacobians must be those of each sample alone."""
    gates, units, features = RECURRENT[operation], 3, 2
    shapes = [(1, gates * units, features), (1, gates * units, units), (1, 2 * gates * units)]
    given = dict(zip("wrb", [0.4 * floats(*shape) for shape in shapes], strict=True))
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node(operation, ["t", "w", "r", "b"], ["h"], hidden_size=units),
        node("Transpose", ["h"], ["y"], perm=[2, 0, 1, 3]),
    ]
    x = floats(4, 5, features)
    data = model(nodes, [value("x", ["batch", 5, features])], [value("y")], given)
    run = Run(data, {"x": x})
    assert not run.model.couples_samples
    for place, own in enumerate(x):
        alone = Run(data, {"x": own[None]}).results()["y"]
        np.testing.assert_allclose(run.results()["y"][place], alone[0], rtol=1e-12)
