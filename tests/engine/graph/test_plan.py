"""The plan gives the same bits as plainer ways to run a graph: the reuse of memory never shows."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.errors import DeadlineExceeded
from service.engine.graph import operations as ops
from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import evaluate, interpret
from service.engine.graph.ir import Graph, check, count_work, reachable
from service.engine.graph.layout import ALIGNMENT
from service.engine.graph.plan import Program, WorkspacePool
from tests.engine.graph.examples import ALL_EXAMPLES
from tests.engine.support import dense_gradients, generators, random_examples, random_graph, some_of
from tests.support import every
from tests.watches import Looks


def keep_everything(outputs, inputs):
    """Run as `interpret` does, but leave views as views, so that kernels see the same strides as in a plan."""
    values = dict(inputs)
    with np.errstate(all="ignore"):
        for node in reachable(outputs):
            if node in values:
                continue
            if node.operation.view is not None:
                values[node] = node.operation.view(values[node.inputs[0]], node.attributes, node.shape)
            else:
                values[node] = evaluate(node, [values[x] for x in node.operands])
    return values


def random_values(node, seed):
    rng = np.random.default_rng([seed, node.index])
    if node.dtype == "int64":
        return rng.integers(3, size=node.shape)
    return np.asarray(rng.standard_normal(node.shape), node.dtype)


def run(program, workspace, values):
    """Run a workspace. Return copies of all outputs by name, and of the gradients."""
    start = 0
    for node in program.parameters:
        workspace.parameters[start : start + node.size] = values[node].reshape(-1)
        start += node.size
    for node in values:
        if node not in program.parameters and node.attributes[0] in workspace.inputs:
            workspace.inputs[node.attributes[0]][...] = values[node]
    workspace.run()
    found = {name: array.copy() for name, array in workspace.outputs.items()}
    start = 0
    for position, node in enumerate(program.gradients):
        found[f"gradient {position}"] = workspace.gradients[start : start + node.size].reshape(node.shape).copy()
        start += node.size
    return found


def run_once(program, values):
    with program.workspace() as workspace:
        return run(program, workspace, values)


def assert_identical(actual, expected):
    assert list(actual) == list(expected)
    for name, array in actual.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name], err_msg=name, strict=True)


def named(program, values):
    """Return the values of a plain run under the names that `run` gives."""
    found = {name: values[node] for name, node in program.outputs.items()}
    return found | {f"gradient {position}": values[node] for position, node in enumerate(program.gradients)}


def assert_as_if_kept(outputs, values):
    """Compare a program with a run that keeps every value."""
    program = Program(outputs)
    assert_identical(run_once(program, values), named(program, keep_everything(outputs.values(), values)))


def input_values(graph, seed):
    return {node: random_values(node, seed) for node in graph.nodes if node.operation.name == "input"}


def plan_of(chance):
    """Return a random graph with gradients, and the outputs, parameters and gradients of a program."""
    graph, inputs, pool = random_graph(chance)
    loss = graph.constant(0.0)
    for term in some_of(chance, pool, 1, 3):
        loss = loss + ops.sum_over(term)
    targets = [*inputs, *some_of(chance, pool, 0, 2)]
    gradients = dense_gradients(differentiate(loss, targets).nodes, targets)
    chosen = some_of(chance, [*pool, *gradients, loss], 1, 5)
    outputs = {f"output {position}": node for position, node in enumerate(chosen)}
    parameters = chance.sample(inputs, chance.randint(0, len(inputs)))
    slots = [*gradients, *some_of(chance, gradients, 0, 2)]
    return graph, outputs, parameters, slots if chance.randrange(2) else []


planned = generators.map(plan_of)


@given(planned, st.integers(0, 1000))
@random_examples(max_examples=250)
def test_reusing_memory_changes_no_bit(plan, seed):
    graph, outputs, parameters, gradients = plan
    check(graph)
    values = input_values(graph, seed)
    reusing = Program(outputs, parameters, gradients)
    keeping = Program(outputs, parameters, gradients, reuse=False)
    assert reusing.nbytes <= keeping.nbytes
    actual = run_once(reusing, values)
    wanted = [*outputs.values(), *gradients]
    assert_identical(actual, run_once(keeping, values))
    assert_identical(actual, named(reusing, keep_everything(wanted, values)))
    if all(node.operation.name not in ("transpose", "broadcast", "slice") for node in reachable(wanted)):
        assert_identical(actual, named(reusing, interpret(wanted, values)))


@given(planned, st.integers(0, 1000))
@random_examples(max_examples=100)
def test_a_workspace_forgets_the_run_before(plan, seed):
    graph, *program = plan
    assert_run_before_forgotten(graph, Program(*program), seed)


def assert_run_before_forgotten(graph, program, seed):
    first, second = input_values(graph, seed), input_values(graph, seed + 1)
    with program.workspace() as workspace:
        fresh = run(program, workspace, first)
        run(program, workspace, second)
        assert_identical(run(program, workspace, first), fresh)


@every("example", ALL_EXAMPLES)
@pytest.mark.parametrize("repeat", [1, 40])
def test_every_operation_works_in_reused_memory(example, repeat):
    """Try each operand as an input, and as an intermediate value whose memory may be written over."""
    operands = len(example.shapes)
    for intermediate in itertools.product((False, True), repeat=operands):
        graph = Graph("float64")
        inputs = example.inputs(graph)
        moved = [
            x * 1.25 if is_intermediate and x.dtype != "int64" else x
            for x, is_intermediate in zip(inputs, intermediate, strict=True)
        ]
        outputs = {"y": example.apply(moved) * 1.0}
        for _ in range(repeat - 1):  # more work, so that freed memory finds new owners
            outputs["z"] = ops.sum_over(ops.square(example.apply(moved))) + outputs.get("z", 0.0)
        assert_as_if_kept(outputs, dict(zip(inputs, example.values(), strict=True)))


def vectors(count, size=4):
    """Return inputs of one graph."""
    graph = Graph("float64")
    return [graph.input(name, (size,)) for name in "xyzuvw"[:count]]


def vector(size=4):
    (x,) = vectors(1, size)
    return x


def test_outputs_may_be_inputs_constants_and_duplicates():
    x, parameter = vectors(2)
    graph = x.graph
    y = ops.tanh(x)
    outputs = {
        "input": x,
        "parameter": parameter,
        "constant": graph.constant(2.5),
        "vector": graph.vector((1.0, 2.0)),
        "first": y,
        "second": y,
        "repeated": ops.broadcast(graph.constant(0.0), (3, 2)),
    }
    program = Program(outputs, [parameter])
    values = {x: np.arange(4.0), parameter: np.arange(4.0) - 2.0}
    actual = run_once(program, values)
    assert actual["input"].tolist() == [0, 1, 2, 3]
    assert actual["parameter"].tolist() == [-2, -1, 0, 1]
    assert actual["constant"] == 2.5
    assert actual["vector"].tolist() == [1, 2]
    assert not actual["repeated"].any() and actual["repeated"].shape == (3, 2)
    np.testing.assert_array_equal(actual["first"], np.tanh(values[x]))
    np.testing.assert_array_equal(actual["second"], actual["first"])


def test_an_output_that_is_a_view_keeps_its_source():
    x = vector(6)
    hidden = ops.exp(x)
    view = ops.slice_axis(ops.transpose(ops.reshape(hidden, (2, 3))), 0, 1, 3)
    later = x
    for _ in range(6):  # would take the memory of `hidden` if it were free
        later = ops.square(ops.tanh(later))
    program = Program({"view": view, "later": later})
    values = {x: np.linspace(-1.0, 1.0, 6)}
    actual = run_once(program, values)
    np.testing.assert_array_equal(actual["view"], np.exp(values[x]).reshape(2, 3).T[1:3])


def test_a_value_lives_until_the_last_use_of_its_last_view():
    x = vector(6)
    hidden = ops.exp(x)
    view = ops.transpose(ops.reshape(hidden, (2, 3)))
    other = x
    for _ in range(4):
        other = ops.tanh(other)
    outputs = {"y": ops.sum_over(view * ops.transpose(ops.reshape(other, (2, 3))), [0])}
    assert_as_if_kept(outputs, {x: np.linspace(-1.0, 1.0, 6)})


def test_a_value_that_an_operation_reads_twice_is_not_written_over():
    x = vector(4)
    hidden = ops.reshape(ops.exp(x), (2, 2))
    outputs = {"y": hidden + ops.transpose(hidden), "z": ops.square(hidden) * ops.reshape(ops.tanh(x), (2, 2))}
    assert_as_if_kept(outputs, {x: np.linspace(-1.0, 1.0, 4)})


def test_declared_slopes_and_stopped_gradients_are_views():
    x = vector(4)
    hidden = ops.exp(x)
    outputs = {"y": ops.with_slope(x, hidden, hidden) + 1.0, "z": ops.square(ops.stop_gradient(hidden))}
    assert_as_if_kept(outputs, {x: np.linspace(-1.0, 1.0, 4)})


def test_scratch_memory_is_not_shared():
    x = vector(4)
    y = ops.softplus(ops.exp(x))
    outputs = {"y": ops.softplus(y) * ops.softmax(y) + y}
    assert_as_if_kept(outputs, {x: np.linspace(-1.0, 1.0, 4)})


def test_gradients_may_alias_one_another_inputs_and_constants():
    x, y, z, u = vectors(4)
    loss = ops.sum_over(x + y) + ops.sum_over(z * u)
    gradients = differentiate(loss, [x, y, z, u]).nodes
    assert gradients[0] is gradients[1] and gradients[2] is u and gradients[3] is z
    program = Program({"loss": loss}, [x, y, z, u], gradients)
    values = {node: random_values(node, 5) for node in (x, y, z, u)}
    actual = run_once(program, values)
    np.testing.assert_array_equal(actual["gradient 0"], np.ones(4))
    np.testing.assert_array_equal(actual["gradient 1"], np.ones(4))
    np.testing.assert_array_equal(actual["gradient 2"], values[u])
    np.testing.assert_array_equal(actual["gradient 3"], values[z])


def test_a_gradient_that_other_gradients_read_keeps_its_slot():
    x, y = vectors(2)
    hidden = x + y * 2.0
    loss = ops.sum_over(ops.tanh(hidden))
    gradients = differentiate(loss, [x, y]).nodes  # that of y is twice that of x
    program = Program({"loss": loss, "x": gradients[0]}, [x, y], gradients)
    values = {x: np.linspace(-1.0, 1.0, 4), y: np.linspace(0.0, 1.0, 4)}
    actual = run_once(program, values)
    np.testing.assert_array_equal(actual["gradient 1"], 2.0 * actual["gradient 0"])
    np.testing.assert_array_equal(actual["x"], actual["gradient 0"])


def test_parameters_and_gradients_are_one_vector_each():
    graph = Graph("float64")
    kernel, bias, x = graph.input("kernel", (2, 3)), graph.input("bias", (3,)), graph.input("x", (4, 2))
    y = x @ kernel + ops.broadcast(bias, (4, 3))
    gradients = differentiate(ops.sum_over(ops.square(y)), [kernel, bias]).nodes
    program = Program({"y": y}, [kernel, bias], gradients)
    with program.workspace() as workspace:
        assert workspace.parameters.shape == workspace.gradients.shape == (9,)
        weights = np.arange(9.0)
        workspace.parameters[...] = weights
        data = np.arange(8.0).reshape(4, 2)
        workspace.inputs["x"][...] = data
        workspace.run()
        answer = data @ weights[:6].reshape(2, 3) + weights[6:]
        np.testing.assert_array_equal(workspace.outputs["y"], answer)
        np.testing.assert_allclose(workspace.gradients[:6].reshape(2, 3), 2.0 * data.T @ answer, rtol=1e-15)
        np.testing.assert_allclose(workspace.gradients[6:], 2.0 * answer.sum(0), rtol=1e-15)


def test_memory_is_reused_and_aligned():
    x = vector(1000)
    y = x
    for _ in range(50):
        y = ops.softplus(y)
    program = Program({"y": y})
    assert program.nbytes < 5 * 8000
    with program.workspace() as workspace:
        assert all(array.ctypes.data % ALIGNMENT == 0 for array in (workspace.outputs["y"], workspace.inputs["x"]))


def test_the_work_of_a_program_is_the_sum_over_its_nodes():
    graph = Graph("float64")
    a, b = graph.input("a", (4, 3)), graph.input("b", (3, 5))
    product = a @ b
    assert count_work(product) == 2 * 4 * 3 * 5
    assert count_work(ops.transpose(product)) == 0
    assert count_work(a) == 0
    assert Program({"y": product + 1.0}).work == 120 + 20


def test_an_empty_program_runs():
    x = vector()
    program = Program({}, [x])
    with program.workspace() as workspace:
        workspace.run()
    assert workspace.parameters.shape == (4,)


def test_a_workspace_is_lent_to_one_caller_at_a_time():
    x = vector()
    program = Program({"y": ops.exp(x)})
    with program.workspace() as first, program.workspace() as second:
        assert first is not second
        assert not program.idle
    assert len(program.idle) == 2
    with program.workspace() as again:
        assert again in (first, second)


def test_a_workspace_comes_back_after_an_error():
    x = vector()
    program = Program({"y": ops.exp(x)})
    with pytest.raises(ZeroDivisionError), program.workspace() as workspace:
        raise ZeroDivisionError
    assert program.idle == [workspace]


def test_a_full_pool_drops_the_workspace_idle_for_longest():
    def program(pool):
        x = vector(100)
        return Program({"y": ops.exp(x)}, pool=pool)

    size = program(None).weight
    pool = WorkspacePool(nbytes=2 * size)
    programs = [program(pool) for _ in range(3)]
    for each in programs:
        with each.workspace():
            assert pool.nbytes <= 2 * size
    assert [len(each.idle) for each in programs] == [0, 1, 1]
    assert pool.nbytes == 2 * size
    with programs[1].workspace():
        assert pool.nbytes == size


def test_a_workspace_larger_than_the_pool_does_not_empty_it():
    small, large = vector(4), vector(100_000)
    pool = WorkspacePool(nbytes=100_000)
    kept, passing = Program({"y": ops.exp(small)}, pool=pool), Program({"y": ops.exp(large)}, pool=pool)
    for program in (kept, passing):
        with program.workspace():
            pass
    assert len(kept.idle) == 1 and not passing.idle


def test_a_pool_without_room_still_lends():
    x = vector()
    pool = WorkspacePool(nbytes=0)
    program = Program({"y": ops.exp(x)}, pool=pool)
    values = {x: np.zeros(4)}
    assert run_once(program, values)["y"].tolist() == [1.0] * 4
    assert run_once(program, values)["y"].tolist() == [1.0] * 4
    assert not program.idle and pool.nbytes == 0


def test_a_program_serves_several_threads_at_once():
    graph = Graph("float64")
    x, kernel = graph.input("x", (8, 16)), graph.input("kernel", (16, 16))
    hidden = ops.tanh(x @ kernel)
    y = ops.concatenate([ops.softmax(hidden), ops.softplus(hidden)], 1)
    loss = ops.sum_over(ops.square(y))
    program = Program({"y": y}, [kernel], differentiate(loss, [kernel]).nodes)
    jobs = [{x: random_values(x, seed), kernel: random_values(kernel, seed)} for seed in range(4)]
    expected = [run_once(program, values) for values in jobs]
    start = threading.Barrier(len(jobs))

    def work(position):
        start.wait()
        return [run_once(program, jobs[position]) for _ in range(25)]

    with ThreadPoolExecutor(len(jobs)) as pool:
        for answers, wanted in zip(pool.map(work, range(len(jobs))), expected, strict=True):
            for answer in answers:
                assert_identical(answer, wanted)
    assert 1 <= len(program.idle) <= len(jobs)


def test_a_run_past_its_deadline_stops():
    x = vector()
    program = Program({"y": ops.tanh(ops.exp(x))})
    values = {x: np.zeros(4)}
    with program.workspace() as workspace:
        workspace.inputs["x"][...] = 0.0
        with pytest.raises(DeadlineExceeded):
            workspace.run(Looks(0))
        workspace.run(Looks())
        np.testing.assert_array_equal(workspace.outputs["y"], np.tanh(np.exp(values[x])))


def test_a_program_prints_the_place_of_every_value():
    x = vector(4)
    hidden = ops.exp(x)
    assert str(Program({"y": ops.sum_over(ops.square(hidden) * 2.0)})).splitlines() == [
        f"{line:<68}# {place}"
        for line, place in (
            ("%0: float64[4] = input(name='x', shape=(4,), dtype='float64')", "at 64"),
            ("%1: float64[4] = exp(%0)", "at 192"),
            ("%2: float64[4] = square(%1)", "over %1"),
            ("%3: float64[] = constant(value=2.0)", "constant"),
            ("%4: float64[4] = multiply(%3, %2)", "over %2"),
            ("%5: float64[] = sum(%4, axes=(0,))", "at 256"),
        )
    ] + ["# 6 nodes, 320 bytes"]
