"""`vectorize` against a Python loop over the samples."""

import itertools

import numpy as np
import pytest
from hypothesis import given

from service.engine.graph import operations as ops
from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import OPERATIONS, Graph, check
from service.engine.graph.plan import Program
from service.engine.graph.vectorize import vectorize
from tests.engine.graph.examples import ALL_EXAMPLES, OPAQUE, Example
from tests.engine.support import dense_gradients, generators, random_examples, random_graph
from tests.support import every

SMOOTH = (
    "add", "subtract", "multiply", "negate", "tanh", "sigmoid", "softplus", "softmax", "log_softmax", "logsumexp",
    "sum", "matmul", "concatenate", "pad", "slice", "reshape", "transpose", "broadcast", "stop_gradient",
)  # fmt: skip

# A batched scalar and a vector of as many elements as there are samples have the same shape.
AMBIGUOUS = [
    Example(name, shapes, low=0.2)
    for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "greater", "greater_equal")
    for shapes in (((), (3,)), ((3,), ()), ((3,), (3,)), ((3, 3), (3, 3)), ((), (3, 3)))
]


def assert_vectorized(outputs, inputs, values, batched, size, **tolerance):
    """Compare `vectorize` with a loop. `values` hold `size` samples, along a new axis, of the batched inputs."""
    graph = outputs[0].graph
    whole = {x: graph.input(f"all {x.attributes[0]}", (size, *x.shape), x.dtype) for x in batched}
    answers = vectorize(outputs, whole, size)
    check(graph)
    known = {whole.get(x, x): values[x] for x in inputs}
    found = interpret(answers, known)
    for output, answer in zip(outputs, answers, strict=True):
        assert answer.shape == (size, *output.shape) and answer.dtype == output.dtype
        for sample in range(size):
            single = {x: values[x][sample] if x in batched else values[x] for x in inputs}
            np.testing.assert_allclose(found[answer][sample], interpret([output], single)[output], **tolerance)


def sampled_values(example, inputs, batched, size):
    many, one = example.values(seed=4, leading=(size,)), example.values(seed=5)
    return {x: many[k] if x in batched else one[k] for k, x in enumerate(inputs)}


def subsets(inputs):
    return itertools.chain.from_iterable(itertools.combinations(inputs, n) for n in range(1, len(inputs) + 1))


@every("example", [*ALL_EXAMPLES, *AMBIGUOUS])
@pytest.mark.parametrize("size", [1, 3])
def test_every_operation_gives_each_sample_its_value(example, size):
    inputs = example.inputs(Graph("float64"))
    for batched in subsets(inputs):
        graph = Graph("float64")
        inputs = example.inputs(graph)
        chosen = [inputs[int(x.attributes[0][1:])] for x in batched]
        values = sampled_values(example, inputs, chosen, size)
        assert_vectorized([example.apply(inputs)], inputs, values, chosen, size, rtol=1e-14, atol=1e-15)


@every("example", [e for e in ALL_EXAMPLES if e.operation != "one_hot"])
def test_every_operation_gives_each_sample_its_gradient(example):
    graph = Graph("float64")
    inputs = example.inputs(graph)
    loss = ops.sum_over(ops.square(example.apply(inputs)))
    floats = [x for x in inputs if x.dtype != "int64"]
    gradients = dense_gradients(differentiate(loss, floats).nodes, floats)
    values = sampled_values(example, inputs, inputs, 3)
    assert_vectorized([loss, *gradients], inputs, values, inputs, 3, rtol=1e-13, atol=1e-14)


@given(generators)
@random_examples(max_examples=150)
def test_whole_graphs_and_their_gradients_for_many_samples(chance):
    _graph, inputs, pool = random_graph(chance, SMOOTH, ("float64",))
    loss = ops.sum_over(pool[-1])
    batched = chance.sample(inputs, chance.randint(1, len(inputs)))
    gradients = dense_gradients(differentiate(loss, inputs).nodes, inputs)
    size = chance.randint(1, 4)
    rng = np.random.default_rng(0)
    values = {x: rng.uniform(-1.0, 1.0, (size, *x.shape) if x in batched else x.shape) for x in inputs}
    outputs = [pool[-1], loss, *gradients]
    flat = {x: values[x][0] if x in batched else values[x] for x in inputs}
    scale = max(1.0, *(float(np.abs(array).max()) for array in interpret(outputs, flat).values()))
    assert_vectorized(outputs, inputs, values, batched, size, rtol=1e-10, atol=1e-12 * scale)


def network(x, kernels, bias):
    """Build a small network of one sample: a row of features goes through two branches."""
    hidden = ops.tanh(x @ kernels[0] + ops.broadcast(bias, (1, 4)))
    both = ops.concatenate([hidden, ops.square(hidden)], 1)
    return ops.softmax(both @ kernels[1])


def test_a_whole_network_for_many_samples():
    graph = Graph("float64")
    x, target = graph.input("x", (1, 3)), graph.input("target", (1, 2))
    kernels = [graph.input("first", (3, 4)), graph.input("second", (8, 2))]
    bias = graph.input("bias", (4,))
    inputs = [x, target, *kernels, bias]
    loss = ops.sum_over(ops.square(network(x, kernels, bias) - target))
    gradients = differentiate(loss, [*kernels, bias, x]).nodes
    rng = np.random.default_rng(0)
    values = {node: rng.standard_normal((6, *node.shape) if node in (x, target) else node.shape) for node in inputs}
    assert_vectorized([loss, *gradients], inputs, values, [x, target], 6, rtol=1e-12, atol=1e-15)


def test_jacobians_are_gradients_for_many_cotangents():
    graph = Graph("float64")
    z, cotangent = graph.input("z", (3,)), graph.input("cotangent", (3,))
    p = ops.softmax(z)
    (row,) = differentiate(p, [z], cotangent).nodes
    identity = graph.input("identity", (3, 3))
    (jacobian,) = vectorize([row], {cotangent: identity}, 3)
    point = np.array([0.5, -1.0, 2.0])
    values = interpret([jacobian, p], {z: point, identity: np.eye(3)})
    expected = np.diag(values[p]) - np.outer(values[p], values[p])
    np.testing.assert_allclose(values[jacobian], expected, rtol=1e-14, atol=1e-17)


def test_values_that_depend_on_no_sample_are_computed_once():
    graph = Graph("float64")
    x, weight = graph.input("x", (2,)), graph.input("weight", (2,))
    shared = ops.tanh(weight)
    whole = graph.input("whole", (5, 2))
    alone, together = vectorize([shared, x * shared], {x: whole}, 5)
    assert alone is ops.broadcast(shared, (5, 2))
    assert sum(node.operation.name == "tanh" for node in graph.nodes) == 1
    assert together.shape == (5, 2)


def test_a_declared_slope_holds_for_every_sample():
    graph = Graph("float64")
    x, whole = graph.input("x", ()), graph.input("whole", (3,))
    y = ops.with_slope(x, ops.square(x), 7.0 * x)
    (many,) = vectorize([y], {x: whole}, 3)
    (gradient,) = differentiate(ops.sum_over(many), [whole]).nodes
    np.testing.assert_array_equal(
        interpret([gradient], {whole: np.array([1.0, 2.0, 3.0])})[gradient], [7.0, 14.0, 21.0]
    )


def test_a_replaced_node_may_be_an_output():
    graph = Graph("float64")
    x, whole = graph.input("x", (2,)), graph.input("whole", (5, 2))
    assert vectorize([x], {x: whole}, 5) == [whole]


def test_intermediate_values_can_be_replaced():
    graph = Graph("float64")
    hidden = ops.tanh(graph.input("x", (2,)))
    whole = graph.input("whole", (5, 2))
    (answer,) = vectorize([ops.square(hidden)], {hidden: whole}, 5)
    assert answer is ops.square(whole)


def test_rows_of_all_samples_meet_a_shared_matrix_in_one_product():
    graph = Graph("float64")
    x, matrix = graph.input("x", (1, 3)), graph.input("matrix", (3, 4))
    (answer,) = vectorize([x @ matrix], {x: graph.input("whole", (6, 1, 3))}, 6)
    products = [node for node in graph.nodes if node.operation.name == "matmul"]
    assert products[-1].shape == (6, 4)
    assert answer.shape == (6, 1, 4)


def test_scopes_and_served_nodes_carry_over():
    graph = Graph("float64")
    x, whole = graph.input("x", (3,)), graph.input("whole", (5, 3))
    with graph.scoped("hidden"):
        y = ops.tanh(x)
    (gradient,) = differentiate(ops.sum_over(y), [x]).nodes
    many, slope = vectorize([y, gradient], {x: whole}, 5)
    assert many.scope == "hidden" and many.serves is None
    assert slope.serves == y.index
    assert graph.scope is None and graph.serves is None


def test_a_replacement_of_the_wrong_shape_is_refused():
    graph = Graph("float64")
    x = graph.input("x", (2,))
    with pytest.raises(ValueError, match="cannot stand for"):
        vectorize([ops.square(x)], {x: graph.input("whole", (2, 5))}, 5)


def test_an_operation_without_a_batch_rule_is_refused(monkeypatch):
    monkeypatch.setitem(OPERATIONS, "opaque", OPAQUE)
    graph = Graph("float64")
    x = graph.input("x", (2,))
    with pytest.raises(NotImplementedError, match="opaque has no batch rule"):
        vectorize([graph.apply("opaque", x)], {x: graph.input("whole", (5, 2))}, 5)


def test_ranks_above_two_keep_their_axes():
    graph = Graph("float64")
    x = graph.input("x", (2, 3))
    outputs = [
        ops.transpose(x),
        ops.reshape(x, (3, 2)),
        ops.sum_over(x, [0]),
        ops.broadcast(ops.reshape(x, (2, 1, 3)), (2, 4, 3)),
        ops.transpose(x) @ x,
        ops.softmax(x),
    ]
    values = {x: np.random.default_rng(0).standard_normal((5, 2, 3))}
    assert_vectorized(outputs, [x], values, [x], 5, rtol=1e-14, atol=1e-15)


@every("batched", [(True, False), (False, True)])
def test_a_lookup_vectorized_twice_reads_computed_values(batched):
    """Binding must not copy leading axes that are views of values computed later."""
    graph = Graph("float64")
    table, indices = graph.input("table", (4, 3)), graph.input("indices", (5,), "int64")
    once = ops.gather_rows(table * 2.0, indices)
    many_tables, many_indices = graph.input("tables", (2, 4, 3)), graph.input("lists", (2, 5), "int64")
    (first,) = vectorize([once], {table: many_tables, indices: many_indices}, 2)
    thrice_tables, thrice_indices = graph.input("more", (3, 2, 4, 3)), graph.input("longer", (3, 2, 5), "int64")
    chosen = {many_tables: thrice_tables} if batched[0] else {many_indices: thrice_indices}
    (second,) = vectorize([first], chosen, 3)
    rng = np.random.default_rng(0)
    values = {
        node: rng.integers(4, size=node.shape) if node.dtype == "int64" else rng.standard_normal(node.shape)
        for node in (many_tables, many_indices, thrice_tables, thrice_indices)
    }
    program = Program({"y": second})
    with program.workspace() as workspace:
        for node, array in values.items():
            if node.attributes[0] in workspace.inputs:
                workspace.inputs[node.attributes[0]][...] = array
        workspace.run()
        actual = workspace.outputs["y"].copy()
    np.testing.assert_array_equal(actual, interpret([second], values)[second])
