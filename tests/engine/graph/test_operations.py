"""Every row of the table of operations: types, values, pullbacks, simplifications."""

import itertools
import math

import numpy as np
import pytest

from service.engine.graph import operations as ops
from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import evaluate, interpret
from service.engine.graph.ir import OPERATIONS, Graph, GraphTypeError, Node, NoGradient, check, reachable
from tests.engine.graph.examples import (
    ALL_EXAMPLES,
    EXAMPLES,
    LEAVES,
    NOT_ANALYTIC,
    OPAQUE,
    STEPPED,
    missing_examples,
)
from tests.support import every

TINY = 1e-30
STEP = 1e-3

# An integer input cannot be moved, and softmax does not depend on the shift by the largest element.
DETACHED = ("one_hot", "floats", "row_maximum", "stop_gradient")

DIFFERENTIABLE = [
    example for example in ALL_EXAMPLES if example.operation not in STEPPED and example.operation not in DETACHED
]
STEPS = [example for example in ALL_EXAMPLES if example.operation in STEPPED]
FLOATING = [example for example in ALL_EXAMPLES if example.indices is None]


def numeric_gradient(output, inputs, values, position, is_analytic):
    """Compute d sum(output) / d input, element by element."""

    def total(array):
        return interpret([output], values | {inputs[position]: array})[output].sum()

    base = values[inputs[position]]
    gradient = np.empty(base.shape)
    for index in np.ndindex(base.shape):
        direction = np.zeros(base.shape)
        direction[index] = 1.0
        if is_analytic:
            gradient[index] = total(base + 1j * TINY * direction).imag / TINY
        else:  # fourth-order central differences
            near = total(base + STEP * direction) - total(base - STEP * direction)
            far = total(base + 2 * STEP * direction) - total(base - 2 * STEP * direction)
            gradient[index] = (8.0 * near - far) / (12.0 * STEP)
    return gradient


def assert_gradients(output, inputs, values, is_analytic, cotangent=None):
    """Compare `differentiate` with numeric gradients at every input. Return the gradient nodes."""
    found = differentiate(output, inputs, cotangent).nodes
    weighted = output if cotangent is None else output * cotangent
    for position, (node, gradient) in enumerate(zip(inputs, found, strict=True)):
        if node.dtype == "int64":
            assert gradient is NoGradient.DISCONNECTED
            continue
        expected = numeric_gradient(weighted, inputs, values, position, is_analytic)
        if isinstance(gradient, NoGradient):
            assert not expected.any()
        else:
            assert gradient.shape == node.shape
            actual = interpret([gradient], values)[gradient]
            tolerance = {"rtol": 1e-12, "atol": 1e-13} if is_analytic else {"rtol": 1e-9, "atol": 1e-10}
            np.testing.assert_allclose(actual, expected, **tolerance)
    return found


def test_every_operation_has_an_example():
    assert not missing_examples(), (
        f"add an Example of {', '.join(missing_examples())} to tests/engine/graph/examples.py: "
        "the pullback, the batch rule and the plan are then tested"
    )


def test_examples_are_of_operations_that_exist():
    assert {example.operation for example in EXAMPLES} <= set(OPERATIONS)


@every("example", ALL_EXAMPLES, ids=str)
def test_an_example_builds_its_operation(example):
    assert example.apply(example.inputs(Graph("float64"))).operation.name == example.operation


@every("operation", [OPERATIONS[name] for name in OPERATIONS if name not in LEAVES], ids=lambda o: o.name)
def test_a_row_of_the_table_is_complete(operation):
    assert operation.pullbacks is not None
    assert operation.batch is not None
    assert operation.latex
    assert operation.work > 0


@every("example", DIFFERENTIABLE, ids=str)
def test_pullbacks_agree_with_numeric_derivatives(example):
    graph = Graph("float64")
    inputs = example.inputs(graph)
    output = example.apply(inputs)
    cotangent = graph.input("cotangent", output.shape)
    values = dict(zip(inputs, example.values(), strict=True))
    values[cotangent] = np.random.default_rng(1).standard_normal(output.shape)
    assert_gradients(output, inputs, values, example.operation not in NOT_ANALYTIC, cotangent)
    check(graph)


@every("example", DIFFERENTIABLE, ids=str)
def test_gradients_can_be_differentiated_again(example):
    graph = Graph("float64")
    inputs = example.inputs(graph)
    output = example.apply(inputs)
    cotangent = graph.input("cotangent", output.shape)
    rng = np.random.default_rng(2)
    values = dict(zip(inputs, example.values(), strict=True))
    values[cotangent] = rng.standard_normal(output.shape)
    # The pullback of a smooth operation may hold one that is not analytic, such as sign in that of absolute.
    for node, gradient in zip(inputs, differentiate(output, inputs, cotangent).nodes, strict=True):
        if node.dtype == "int64" or gradient is NoGradient.DISCONNECTED:  # as the mask of a gate is
            continue
        assert not isinstance(gradient, NoGradient)
        is_analytic = NOT_ANALYTIC.isdisjoint(x.operation.name for x in reachable([gradient]))
        direction = graph.input(f"direction {node.attributes[0]}", node.shape)
        values[direction] = rng.standard_normal(node.shape)
        assert_gradients(gradient, [*inputs, cotangent], values, is_analytic, direction)
    check(graph)


@every("example", STEPS, ids=str)
def test_step_functions_report_a_zero_derivative(example):
    graph = Graph("float64")
    inputs = example.inputs(graph)
    output = example.apply(inputs)
    found = differentiate(output, inputs, graph.input("cotangent", output.shape))
    if example.operation in DETACHED:
        assert found.nodes == [NoGradient.DISCONNECTED] * len(inputs)
        assert not found.blocked_by
    else:
        assert found.nodes == [NoGradient.ZERO] * len(inputs)
        assert found.blocked_by == [output] * len(inputs)


@every("example", FLOATING, ids=str)
def test_float32_agrees_with_float64_to_its_precision(example):
    answers = {}
    for dtype in ("float64", "float32"):
        graph = Graph(dtype)
        inputs = example.inputs(graph)
        output = example.apply(inputs)
        arrays = [values.astype(dtype) for values in example.values()]
        answers[dtype] = interpret([output], dict(zip(inputs, arrays, strict=True)))[output]
        assert answers[dtype].dtype == output.dtype == dtype
        assert answers[dtype].shape == output.shape
    if example.operation not in STEPPED:
        np.testing.assert_allclose(answers["float32"], answers["float64"], rtol=2e-6, atol=1e-6)


@every("example", FLOATING, ids=str)
def test_gradients_keep_the_dtype(example):
    graph = Graph("float32")
    inputs = example.inputs(graph)
    output = example.apply(inputs)
    found = differentiate(output, inputs, graph.input("cotangent", output.shape)).nodes
    values = {node: array.astype("float32") for node, array in zip(inputs, example.values(), strict=True)}
    values[graph.input("cotangent", output.shape)] = np.ones(output.shape, "float32")
    for gradient in found:
        if not isinstance(gradient, NoGradient):
            assert interpret([gradient], values)[gradient].dtype == "float32"


def test_a_disconnected_target_differs_from_a_zero_derivative():
    graph = Graph("float64")
    x, y, z, w = (graph.input(name, (3,)) for name in "xyzw")
    found = differentiate(ops.sum_over(ops.square(x) * ops.sign(y) + ops.stop_gradient(z)), [x, y, z, w])
    assert isinstance(found.nodes[0], Node)
    assert found.nodes[1:] == [NoGradient.ZERO, NoGradient.DISCONNECTED, NoGradient.DISCONNECTED]
    assert [node.operation.name for node in found.blocked_by] == ["sign"]


def test_a_zero_derivative_is_reported_through_earlier_operations():
    graph = Graph("float64")
    x, y = graph.input("x", (3,)), graph.input("y", (3,))
    found = differentiate(ops.sum_over(ops.sign(ops.tanh(x * 2.0)) * y), [x, y])
    assert found.nodes[0] is NoGradient.ZERO
    assert isinstance(found.nodes[1], Node)


def test_a_second_path_beside_a_step_carries_the_gradient():
    graph = Graph("float64")
    x = graph.input("x", (3,))
    found = differentiate(ops.sum_over(ops.sign(x) + 2.0 * x), [x])
    gradient = found.nodes[0]
    assert [node.operation.name for node in found.blocked_by] == ["sign"]
    np.testing.assert_array_equal(interpret([gradient], {})[gradient], [2.0, 2.0, 2.0])


def test_an_operation_without_a_pullback_is_refused(monkeypatch):
    monkeypatch.setitem(OPERATIONS, "opaque", OPAQUE)
    graph = Graph("float64")
    x, y = graph.input("x", (3,)), graph.input("y", (3,))
    output = ops.sum_over(graph.apply("opaque", x) * y)
    with pytest.raises(NotImplementedError, match="opaque has no pullback"):
        differentiate(output, [x])
    assert isinstance(differentiate(output, [y]).nodes[0], Node)  # its path does not pass there


def test_the_gradient_of_an_array_needs_a_cotangent():
    x = Graph("float64").input("x", (3,))
    with pytest.raises(ValueError, match="needs a cotangent"):
        differentiate(ops.square(x), [x])


def test_the_gradient_with_respect_to_the_output_is_its_cotangent():
    graph = Graph("float64")
    y = ops.sum_over(ops.square(graph.input("x", (3,))))
    assert differentiate(y, [y]).nodes[0].value == 1.0


def test_a_target_made_after_the_output_is_disconnected():
    graph = Graph("float64")
    x = graph.input("x", (3,))
    y = ops.sum_over(ops.square(x))
    assert differentiate(y, [graph.input("late", (2,)), y * 2.0]).nodes == [NoGradient.DISCONNECTED] * 2


def test_intermediate_values_have_gradients_too():
    graph = Graph("float64")
    x = graph.input("x", (3,))
    z = 3.0 * x
    found = differentiate(ops.sum_over(ops.square(z)), [z, x]).nodes
    values = interpret(found, {x: np.array([1.0, 2.0, -1.0])})
    np.testing.assert_array_equal(values[found[0]], [6.0, 12.0, -6.0])
    np.testing.assert_array_equal(values[found[1]], [18.0, 36.0, -18.0])


def test_backward_nodes_name_the_forward_node_they_serve():
    graph = Graph("float64")
    x = graph.input("x", (3,))
    with graph.scoped("hidden"):
        hidden = ops.tanh(x)
    loss = ops.sum_over(ops.square(hidden))
    before = len(graph.nodes)
    differentiate(loss, [x])
    made = [node for node in graph.nodes[before:] if node.inputs]
    assert made
    assert all(node.serves is not None and node.serves < before for node in made)
    assert any(node.scope == "hidden" and node.serves == hidden.index for node in made)
    assert graph.serves is None and graph.scope is None


def value_at(build, *points):
    """Return f and its gradients at scalars."""
    graph = Graph("float64")
    inputs = [graph.input(f"x{position}", ()) for position, _ in enumerate(points)]
    output = build(*inputs)
    found = differentiate(output, inputs).nodes
    values = interpret([output, *found], dict(zip(inputs, map(np.float64, points), strict=True)))
    return float(values[output]), *[float(values[node]) for node in found]


def test_the_absolute_value_has_slope_0_at_0():
    assert value_at(ops.absolute, 0.0) == (0.0, 0.0)


@every("build", [ops.maximum, ops.minimum])
def test_ties_split_evenly(build):
    assert value_at(build, 2.0, 2.0) == (2.0, 0.5, 0.5)


def test_the_root_is_infinitely_steep_at_0():
    assert value_at(ops.sqrt, 0.0) == (0.0, math.inf)


def test_a_declared_slope_is_used_instead_of_the_chain_rule():
    assert value_at(lambda x: ops.with_slope(x, ops.square(x), x * 10.0), 3.0) == (9.0, 30.0)


def test_comparisons_give_one_and_zero():
    graph = Graph("float64")
    x = graph.input("x", (3,))
    nodes = [
        ops.less(x, 1.0),
        ops.less_equal(x, 1.0),
        graph.apply("greater", x, 1.0),
        graph.apply("greater_equal", x, 1.0),
    ]
    values = interpret(nodes, {x: np.array([0.0, 1.0, 2.0])})
    assert [values[node].tolist() for node in nodes] == [[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]]


def test_softmax_and_logsumexp_do_not_overflow():
    graph = Graph("float64")
    x = graph.input("x", (2, 3))
    nodes = [ops.softmax(x), ops.logsumexp(x)]
    values = interpret(nodes, {x: np.array([[1000.0, 1000.0, -1000.0], [-1e308, 0.0, 1e308]])})
    np.testing.assert_array_equal(values[nodes[0]], [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(values[nodes[1]], [1000.0 + math.log(2.0), 1e308])


def test_softplus_and_sigmoid_keep_their_digits_in_the_tails():
    graph = Graph("float64")
    x = graph.input("x", (4,))
    points = np.array([-700.0, -40.0, 40.0, 1000.0])
    values = interpret([ops.softplus(x), ops.sigmoid(x)], {x: points})
    np.testing.assert_allclose(values[ops.softplus(x)], [math.exp(-700.0), math.exp(-40.0), 40.0, 1000.0], rtol=1e-15)
    np.testing.assert_allclose(values[ops.sigmoid(x)][:2], [math.exp(-700.0), math.exp(-40.0)], rtol=1e-15)
    assert values[ops.sigmoid(x)][2:].tolist() == [1.0, 1.0]


def run_erfc(points):
    x = Graph(points.dtype.name).input("x", points.shape)
    y = ops.erfc(x)
    return interpret([y], {x: points})[y]


def errors_of_erfc(points):
    expected = np.array([math.erfc(float(point)) for point in points])
    return np.abs(run_erfc(points) - expected) / expected


def test_erfc_is_accurate_to_the_last_digits():
    points = np.concatenate([np.linspace(-6.0, 26.0, 20_001), np.random.default_rng(0).uniform(-6.0, 26.0, 20_000)])
    assert errors_of_erfc(points).max() < 1e-14


def test_erfc_in_float32_is_accurate_to_its_own_digits():
    points = np.linspace(-6.0, 9.0, 20_001, dtype="float32")
    assert errors_of_erfc(points).max() < 1.5e-6


def test_erfc_at_0_and_far_away():
    answers = run_erfc(np.array([-1e300, -30.0, 0.0, 30.0, 1e300, np.nan]))
    assert answers[:5].tolist() == [2.0, 2.0, 1.0, 0.0, 0.0]
    assert np.isnan(answers[5])


def test_erfc_does_not_depend_on_the_size_of_the_array():
    points = np.linspace(-5.0, 5.0, 20_000).reshape(100, 200)
    whole = run_erfc(points)
    np.testing.assert_array_equal(whole[37], run_erfc(points[37].copy()))


# --- hash-consing and types ---------------------------------------------------------------------


def test_equal_applications_are_one_node():
    graph = Graph("float64")
    x, y = graph.input("x", (2,)), graph.input("y", (2,))
    assert ops.tanh(x) is ops.tanh(x)
    assert x + y is x + y
    assert x + y is not y + x
    assert graph.constant(2.0) is graph.constant(2.0)
    assert graph.input("x", (2,)) is x
    count = len(graph.nodes)
    _ = ops.square(ops.tanh(x)) + ops.tanh(x)
    _ = ops.square(ops.tanh(x)) + ops.tanh(x)
    assert len(graph.nodes) == count + 2


def test_zeros_of_both_signs_are_two_nodes():
    graph = Graph("float64")
    assert graph.constant(0.0) is not graph.constant(-0.0)
    assert graph.constant(math.nan) is graph.constant(math.nan)


def test_a_graph_prints_as_lines_of_code():
    graph = Graph("float64")
    x = graph.input("x", (2, 3))
    assert str((ops.transpose(x) @ x).graph) == (
        "%0: float64[2, 3] = input(name='x', shape=(2, 3), dtype='float64')\n"
        "%1: float64[3, 2] = transpose(%0, order=(1, 0))\n"
        "%2: float64[3, 3] = matmul(%1, %0)"
    )


@every(
    ("build", "words"),
    [
        (lambda g: g.input("x", (2, 3)) + g.input("y", (3, 2)), "equal shapes or scalars"),
        (lambda g: g.input("x", (2,)) + g.input("y", (2,), "float32"), "floats of one dtype"),
        (lambda g: ops.square(g.input("x", (2,), "int64")), "floats of one dtype"),
        (lambda g: g.input("x", (2, 3)) @ g.input("y", (2, 3)), "cannot multiply"),
        (lambda g: g.input("x", (2,)) @ g.input("y", (2,)), "cannot multiply"),
        (lambda g: ops.softmax(g.input("x", ())), "at least one axis"),
        (lambda g: ops.reshape(g.input("x", (2, 3)), (4,)), "cannot reshape"),
        (lambda g: ops.transpose(g.input("x", (2, 3)), (0, 0)), "no permutation"),
        (lambda g: ops.broadcast(g.input("x", (2, 3)), (3, 3)), "cannot broadcast"),
        (lambda g: ops.broadcast(g.input("x", (1, 3)), (3,)), "cannot broadcast"),
        (lambda g: ops.concatenate([g.input("x", (2, 3)), g.input("y", (3, 2))], 0), "cannot concatenate"),
        (lambda g: ops.slice_axis(g.input("x", (2, 3)), 1, 1, 4), "cannot take"),
        (lambda g: g.apply("pad", g.input("x", (2, 3)), attributes=(0, 2, 3)), "cannot place"),
        (lambda g: ops.one_hot(g.input("x", (2,)), 3), "int64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(build, words):
    with pytest.raises(GraphTypeError, match=words):
        build(Graph("float64"))


def test_check_finds_a_node_whose_shape_is_wrong():
    graph = Graph("float64")
    y = ops.square(graph.input("x", (2,)))
    check(graph)
    y.shape = (3,)
    with pytest.raises(GraphTypeError, match="should be"):
        check(graph)


def test_check_finds_a_node_out_of_order():
    graph = Graph("float64")
    ops.square(graph.input("x", (2,)))
    graph.nodes.reverse()
    with pytest.raises(GraphTypeError, match="out of order"):
        check(graph)


def test_only_nodes_that_outputs_need_are_reachable():
    graph = Graph("float64")
    x, y = graph.input("x", (2,)), graph.input("y", (2,))
    z = ops.tanh(x)
    ops.square(y)
    assert reachable([z]) == [x, z]
    slope = ops.square(y)
    declared = ops.with_slope(x, z, slope)
    assert slope not in reachable([declared])  # only a gradient asks for a slope


def test_an_input_without_a_value_is_an_error():
    x = Graph("float64").input("x", (2,))
    with pytest.raises(KeyError, match="no value"):
        interpret([ops.square(x)], {})


# --- simplification -----------------------------------------------------------------------------


def operands_that_invite_simplification(graph, values):
    """Return constants, repeated scalars and operations that simplifications look inside, all (2, 3) or scalar."""
    x, y, s = graph.input("x", (2, 3)), graph.input("y", (2, 3)), graph.input("s", ())
    rng = np.random.default_rng(3)
    values |= {x: rng.standard_normal((2, 3)), y: rng.standard_normal((2, 3)), s: np.array(1.25)}
    constants = [graph.constant(value) for value in (0.0, 1.0, -1.0, 2.5, -0.5)]
    repeated = [ops.broadcast(node, (2, 3)) for node in (*constants, s)]
    return [x, s, *constants, *repeated, -x, -s, x - y, 3.0 * x, ops.broadcast(3.0 * s, (2, 3)), x * y]


def without_simplification(name, nodes, attributes):
    operation = OPERATIONS[name]
    shape, dtype = operation.infer(nodes, attributes)
    return Node(Graph("float64"), operation, tuple(nodes), attributes, shape, dtype)


def assert_same_value(graph, name, nodes, attributes, values):
    plain = without_simplification(name, nodes, attributes)
    simple = graph.apply(name, *nodes, attributes=attributes)
    assert (simple.shape, simple.dtype) == (plain.shape, plain.dtype)
    known = interpret([*nodes, simple], values)
    with np.errstate(all="ignore"):
        expected = evaluate(plain, [known[node] for node in nodes])
    np.testing.assert_allclose(known[simple], expected, rtol=4e-16, atol=0, err_msg=repr(plain))


@every(
    "name",
    [
        example.operation
        for example in EXAMPLES
        if len(example.shapes) == 2 and example.indices is None and OPERATIONS[example.operation].simplify is not None
    ],
)
def test_simplifying_binaries_keeps_values(name):
    graph = Graph("float64")
    values = {}
    nodes = operands_that_invite_simplification(graph, values)
    if name == "concatenate":
        nodes = [node for node in nodes if len(node.shape) == 2]
    for a, b in itertools.product(nodes, repeat=2):
        assert_same_value(graph, name, [a, b], (1,) if name == "concatenate" else (), values)
    check(graph)


@every("name", [example.operation for example in EXAMPLES if len(example.shapes) == 1 and example.shapes == ((3, 2),)])
def test_simplifying_unaries_keeps_values(name):
    graph = Graph("float64")
    values = {}
    nodes = operands_that_invite_simplification(graph, values)
    choices = {
        "sum": [((),), ((0,),), ((1,),), ((0, 1),)],
        "reshape": [((3, 2),), ((2, 3),), ((6,),), ((1, 6, 1),)],
        "transpose": [((0, 1),), ((1, 0),)],
        "broadcast": [((2, 3),), ((4, 2, 3),)],
        "slice": [(0, 0, 2), (1, 1, 3), (1, 2, 2)],
        "pad": [(0, 0, 2), (0, 1, 4)],
        "cumulative_sum": [(0, False), (1, True)],
    }.get(name, [()])
    for x, attributes in itertools.product(nodes, choices):
        operands = (x, x, x) if name == "with_slope" else (x,)
        if x.shape == () and attributes:
            continue
        assert_same_value(graph, name, operands, attributes, values)
    check(graph)


@every(
    ("x", "shape", "name", "attributes"),
    [
        ((), (1, 1), "reshape", ((1, 1),)),
        ((1,), (), "reshape", ((),)),
        ((1, 1), (), "sum", ((0, 1),)),
        ((2, 1), (2,), "sum", ((1,),)),
        ((), (), "sum", ((),)),
        ((), (2, 3), "broadcast", ((2, 3),)),
        ((3,), (3,), "broadcast", ((3,),)),
        ((2, 3), (2, 3), "slice", (0, 0, 2)),
        ((2, 3), (2, 3), "transpose", ((0, 1),)),
    ],
)
def test_shapes_survive_simplification(x, shape, name, attributes):
    graph = Graph("float64")
    node = graph.apply(name, graph.input("x", x), attributes=attributes)
    assert node.shape == shape
    assert node.operation.name != "sum"


@every(
    ("build", "expected"),
    [
        (lambda x: x + 0.0, "x"),
        (lambda x: 1.0 * x, "x"),
        (lambda x: x / 1.0, "x"),
        (lambda x: -(0.0 - x), "x"),
        (lambda x: ops.transpose(ops.transpose(x)), "x"),
        (lambda x: ops.reshape(ops.reshape(x, (6,)), (2, 3)), "x"),
        (lambda x: ops.concatenate([x], 0), "x"),
        (lambda x: 2.0 * (3.0 * x), "6 x"),
        (lambda x: 2.0 * -x, "-2 x"),
    ],
)
def test_trivial_algebra_is_simplified_away(build, expected):
    graph = Graph("float64")
    x = graph.input("x", (2, 3))
    assert build(x) is {"x": x, "6 x": 6.0 * x, "-2 x": -2.0 * x}[expected]


def test_constants_fold():
    graph = Graph("float64")
    two = graph.constant(2.0)
    assert [(two + 3.0).value, (two - 3.0).value, (two * 3.0).value, (two / 4.0).value] == [5.0, -1.0, 6.0, 0.5]
    assert (-two).value == -2.0
    ones = ops.broadcast(graph.constant(1.0), (2, 3))
    assert ops.sum_over(ones).value == 6.0


def test_clipping_limits_both_ends():
    x = Graph("float64").input("x", (3,))
    y = ops.clip(x, -1.0, 2.0)
    assert interpret([y], {x: np.array([-5.0, 0.5, 5.0])})[y].tolist() == [-1.0, 0.5, 2.0]


def test_the_logarithm_of_0_is_minus_infinity_without_a_warning():
    x = Graph("float64").input("x", (2,))
    y = ops.log(x)
    assert interpret([y], {x: np.array([0.0, 1.0])})[y].tolist() == [-math.inf, 0.0]
