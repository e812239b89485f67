"""Chains run block by block without changing a bit of any result, and follow the memory rules."""

import itertools
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.errors import DeadlineExceeded
from service.engine.graph import blocks
from service.engine.graph import operations as ops
from service.engine.graph.blocks import Blocks
from service.engine.graph.differentiate import differentiate
from service.engine.graph.ir import OPERATIONS, Graph, check
from service.engine.graph.plan import CALL_BYTES, NODE_BYTES, Program
from tests.engine.graph.examples import EXAMPLES
from tests.engine.graph.test_plan import (
    assert_identical,
    assert_run_before_forgotten,
    input_values,
    planned,
    run_once,
)
from tests.engine.support import dense_gradients, generators, random_examples, some_of
from tests.support import every
from tests.watches import Looks

ARITY = {
    example.operation: len(example.shapes)
    for example in EXAMPLES
    if OPERATIONS[example.operation].infer is OPERATIONS["add"].infer and OPERATIONS[example.operation].view is None
}
"""The number of operands of each elementwise operation."""
SHAPES = [(12,), (1, 20), (4, 4), (5, 4), (2, 3, 4), (3, 1, 5)]


@contextmanager
def small_blocks(large=8, block=4, calls=blocks.MOST_CALLS):
    """Make blocks of `block` numbers, for arrays of `large` numbers and more, both counted as float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "LARGE_BYTES", large * 8)
        patch.setattr(blocks, "BLOCK_BYTES", block * 8)
        patch.setattr(blocks, "MOST_CALLS", calls)
        yield


def chains_of(program):
    return [chain for _, chain in program.steps if chain is not None]


def planned_in_blocks(outputs, parameters=(), gradients=(), **sizes):
    with small_blocks(**sizes):
        return Program(outputs, parameters, gradients)


def assert_blocks_do_not_show(values, outputs, parameters=(), gradients=(), **sizes):
    """Compare a program in blocks with one without, and with one that reuses no memory."""
    program = planned_in_blocks(outputs, parameters, gradients, **sizes)
    assert_in_order(program)
    actual = run_once(program, values)
    assert_identical(actual, run_once(Program(outputs, parameters, gradients), values))
    assert_identical(actual, run_once(Program(outputs, parameters, gradients, reuse=False), values))
    return program


def assert_in_order(program):
    """Check that every node runs once, after its operands, and that no node of a chain reads another block."""
    seen = set()
    for plain, chain in program.steps:
        for node in (*plain, *(chain.nodes if chain else ())):
            assert all(x in seen for x in node.operands)
            seen.add(node)
        if chain is not None:
            assert all(node.shape == chain.blocks.shape for node in chain.nodes)
            assert [node for node in chain.nodes if node.index not in program.views] == list(chain.members)
    assert seen == set(program.nodes)
    assert sum(len(plain) + len(chain.nodes if chain else ()) for plain, chain in program.steps) == len(program.nodes)


def _grow(chance, pool, shape, bias):
    """Make one more value of `shape`, mostly by an elementwise operation on values of the pool."""
    number = chance.randrange
    x = pool[-1 - number(min(len(pool), 4))]
    other = pool[number(len(pool))]
    match number(20):
        case 0:
            return ops.mark(x, "here")
        case 1:
            return ops.with_slope(x, ops.square(x), ops.tanh(x))
        case 2:
            return ops.stop_gradient(x)
        case 3:
            return x + ops.broadcast(bias, shape)
        case 4:
            rows = ops.reshape(ops.sum_over(x, [len(shape) - 1]), (*shape[:-1], 1))
            return x * ops.broadcast(rows, shape)
        case 5:
            return x * ops.sum_over(other)
        case 6 | 12 if len(shape) == 2 and shape[0] == shape[1]:
            return ops.transpose(x)
        case 7 if len(shape) == 2 and shape[0] == shape[1]:
            return x @ other
        case 8 if len(shape) > 1:
            return ops.reshape(ops.exp(-ops.reshape(x, shape[::-1])), shape)
        case 9:
            half = shape[0] - 1
            return ops.concatenate([ops.slice_axis(x, 0, half, shape[0]), ops.slice_axis(other, 0, 0, half)], 0)
        case 10:
            return (
                ops.reshape(ops.transpose(ops.reshape(x, (2, x.size // 2))), shape) if x.size % 2 == 0 else ops.tanh(x)
            )
        case 11:
            return ops.softplus(x)
    name = chance.choice(sorted(ARITY))
    operands = (x, other if number(4) else x.graph.constant(0.5), x)[: ARITY[name]]
    return x.graph.apply(name, *operands)


def chain_of(chance):
    """Return a graph of long chains over one shape with other nodes between, and the arguments of a program."""
    graph = Graph(chance.choice(["float64", "float32"]))
    shape = chance.choice(SHAPES)
    inputs = [graph.input("x0", shape), graph.input("x1", shape)]
    bias = graph.input("bias", shape[-1:])
    pool = list(inputs)
    for _ in range(chance.randint(3, 18)):
        value = _grow(chance, pool, shape, bias)
        pool.append(value if value.shape == shape else ops.broadcast(value, shape))
    inputs.append(bias)
    loss = ops.sum_over(pool[-1]) + ops.sum_over(chance.choice(pool))
    targets = [*inputs, *some_of(chance, pool, 0, 2)]
    gradients = dense_gradients(differentiate(loss, targets).nodes, targets)
    chosen = [pool[-1], *some_of(chance, [*pool, *gradients, loss], 0, 3)]
    outputs = {f"output {position}": node for position, node in enumerate(chosen)}
    parameters = chance.sample(inputs, chance.randint(0, len(inputs)))
    slots = [*gradients, *some_of(chance, [*gradients, *pool], 0, 2)]
    return graph, outputs, parameters, slots if chance.randrange(4) else []


chained = generators.map(chain_of)


def situations_in(program):
    """Return the situations of a program in which memory could go wrong."""
    found = set()
    kept = {node.index for node in (*program.outputs.values(), *program.gradients)}
    slots = set(map(id, program.gradients)) - {id(node) for node, _ in program.copies}
    for chain in chains_of(program):
        own = {node.index for node in chain.nodes}
        found.add("a chain")
        if len(chain.blocks) > 2 and (chain.blocks.shape[chain.blocks.axis] % chain.blocks.rows):
            found.add("a last block with fewer rows")
        for position, node in enumerate(chain.members):
            victim = program.overwrites.get(node.index)
            stays = node.index in program.inside
            found.add("a value that stays inside" if stays else "a value that leaves")
            if victim is not None:
                source = "an inner value" if victim in program.inside else "a value from outside"
                found.add(f"{source} written over")
                if victim not in own and all(x.index != victim for x in node.inputs):
                    found.add("a value from outside written over by a later node")
            last = position == len(chain.members) - 1
            if not last and node.index in kept:
                found.add("an output within")
            if not last and id(node) in slots:
                found.add("a slot of a gradient within")
            if node.index in program.scratch:
                found.add("scratch memory")
            for x in node.inputs:
                if x.index in program.views:
                    found.add("an inner view" if x.index in own else f"a {x.operation.name} from outside")
    return found


SITUATIONS = {
    "a chain",
    "a last block with fewer rows",
    "a value that stays inside",
    "a value that leaves",
    "an inner value written over",
    "a value from outside written over",
    "a value from outside written over by a later node",
    "an output within",
    "a slot of a gradient within",
    "scratch memory",
    "an inner view",
    "a broadcast from outside",
    "a transpose from outside",
    "a reshape from outside",
}


def test_blocks_change_no_bit():
    found = {}

    @given(chained, st.integers(0, 1000), st.integers(1, 7))
    @random_examples(max_examples=300)
    def compare(plan, seed, block):
        graph, outputs, parameters, gradients = plan
        check(graph)
        values = input_values(graph, seed)
        program = assert_blocks_do_not_show(values, outputs, parameters, gradients, block=block)
        for situation in situations_in(program):
            found[situation] = found.get(situation, 0) + 1

    compare()
    assert set(found) >= SITUATIONS  # the examples are worth something
    assert min(found[situation] for situation in SITUATIONS) >= 5, found


@given(planned, st.integers(0, 1000), st.integers(1, 5))
@random_examples(max_examples=150)
def test_blocks_change_no_bit_of_graphs_of_all_operations(plan, seed, block):
    graph, outputs, parameters, gradients = plan
    assert_blocks_do_not_show(input_values(graph, seed), outputs, parameters, gradients, large=2, block=block)


@given(chained, st.integers(0, 1000))
@random_examples(max_examples=50)
def test_a_workspace_in_blocks_forgets_the_run_before(plan, seed):
    graph, *program = plan
    assert_run_before_forgotten(graph, planned_in_blocks(*program), seed)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), st.integers(1, 40))
@random_examples(max_examples=300)
def test_blocks_take_every_element_once_and_in_order(shape, most):
    array = np.arange(np.prod(shape)).reshape(shape)
    cut = Blocks.of(shape, most)
    taken = [array[block] for block, _ in cut]
    assert np.concatenate([part.reshape(-1) for part in taken]).tolist() == list(range(array.size))
    assert len(cut) == len(taken)
    assert all(part.size <= most and part.flags.c_contiguous for part in taken)
    for part, (_, rows) in zip(taken, cut, strict=True):
        assert part.shape == (rows, *cut.largest[1:]) and rows <= cut.rows
    assert array.size <= most or 2 * max(part.size for part in taken) > most


def matrices(names="xyz", shape=(8, 4), dtype="float64"):
    graph = Graph(dtype)
    return [graph.input(name, shape) for name in names]


def some_values(*nodes):
    rng = np.random.default_rng(7)
    return {node: np.asarray(rng.standard_normal(node.shape), node.dtype) for node in nodes}


def test_small_values_do_not_run_in_blocks():
    (x,) = matrices("x", (100, 100))
    program = Program({"y": ops.tanh(ops.exp(x)) + x})
    assert program.steps == [(program.nodes, None)]
    assert program.weight == program.nbytes + NODE_BYTES * len(program.nodes)


def test_large_values_run_in_blocks():
    (x,) = matrices("x", (1024, 2048))
    program = Program({"y": ops.square(ops.square(x) + 1.0)})
    (chain,) = chains_of(program)
    assert 8 * np.prod(chain.blocks.largest) == blocks.BLOCK_BYTES
    assert program.nbytes < 2.1 * 8 * x.size
    assert program.weight == program.nbytes + NODE_BYTES * len(program.nodes) + CALL_BYTES * 3 * len(chain.blocks)
    values = some_values(x)
    assert_identical(
        run_once(program, values), run_once(Program({"y": ops.square(ops.square(x) + 1.0)}, reuse=False), values)
    )


def test_a_value_that_only_a_chain_reads_takes_one_block():
    (x,) = matrices("x", (64, 64))
    y, z = x, x
    for _ in range(10):
        y, z = ops.softplus(y) * ops.tanh(z), ops.sigmoid(y) - z
    program = assert_blocks_do_not_show(some_values(x), {"y": y + z}, block=64)
    assert Program({"y": y + z}).nbytes > 5 * 8 * x.size
    assert program.nbytes < 2.2 * 8 * x.size
    assert all(place.shape == (1, 64) for places in program.scratch.values() for place in places)


def test_calls_on_memory_of_one_block_are_bound_once():
    (x,) = matrices("x", (64, 64))
    y = ops.square(ops.square(ops.square(ops.square(x))))
    with small_blocks(block=64):
        program = Program({"y": y})
        with program.workspace() as workspace:
            assert len(workspace.calls) == 4 * 64
            assert len(set(map(id, workspace.calls))) == 2 + 2 * 64


@every("calls", [0, 11, 12, 50, 10**6])
def test_the_number_of_bound_calls_is_bounded(calls):
    x, y, *_ = matrices(shape=(64, 64))
    outputs = {
        "y": ops.square(ops.tanh(ops.exp(x))),
        "z": ops.sum_over(ops.square(ops.exp(y) + 1.0)) + ops.sum_over(ops.square(ops.tanh(ops.exp(x)))),
    }
    program = assert_blocks_do_not_show(some_values(x, y), outputs, block=64, calls=calls)
    assert sum(chain.calls for chain in chains_of(program)) <= calls
    assert bool(chains_of(program)) == (calls >= 12)


def test_nodes_whose_values_all_leave_form_no_chain():
    (x,) = matrices("x")
    y = ops.exp(x)
    assert not chains_of(planned_in_blocks({"y": y, "z": ops.tanh(y)}))
    assert chains_of(planned_in_blocks({"z": ops.tanh(y)}))


def test_nodes_that_do_not_depend_on_a_chain_come_before_it():
    x, y, z = matrices(shape=(4, 4))
    hidden = ops.exp(x)
    product = y @ z
    program = assert_blocks_do_not_show(some_values(x, y, z), {"out": hidden * product + ops.transpose(y)})
    ((plain, chain), *_) = program.steps
    assert product in plain and hidden in chain.members and len(chain.members) == 3


def test_a_node_that_depends_on_a_whole_chain_ends_it():
    x, y, z = matrices(shape=(4, 4))
    hidden = ops.square(ops.exp(x))
    total = ops.sum_over(hidden)
    out = ops.tanh((y - z) * total)
    program = assert_blocks_do_not_show(some_values(x, y, z), {"out": out, "hidden": hidden})
    assert [[node.operation.name for node in chain.members] for chain in chains_of(program)] == [
        ["exp", "square"],
        ["subtract", "multiply", "tanh"],
    ]


def test_a_chain_reads_no_other_blocks_of_its_own_values():
    (x,) = matrices("x", (4, 4))
    hidden = ops.square(ops.exp(x))
    program = assert_blocks_do_not_show(some_values(x), {"y": ops.tanh(ops.exp(hidden) + ops.transpose(hidden))})
    assert len(chains_of(program)) == 2


def test_views_that_change_nothing_do_not_end_a_chain():
    (x,) = matrices("x")
    hidden = ops.mark(ops.exp(x), "hidden")
    y = ops.with_slope(x, ops.tanh(hidden), ops.square(hidden)) * ops.stop_gradient(hidden)
    program = assert_blocks_do_not_show(some_values(x), {"y": y})
    (chain,) = chains_of(program)
    assert len(chain.members) == 3 and len(chain.nodes) == 6


@every("leaves", list(itertools.product((False, True), repeat=3)))
def test_values_may_leave_a_chain_in_its_middle(leaves):
    x, y, z = matrices()
    first = ops.exp(x * y)
    second = ops.tanh(first) - z
    third = ops.square(second) * first
    outputs = {str(number): node for number, node in enumerate((first, second, third)) if leaves[number]}
    outputs["last"] = ops.softplus(third) + second
    assert_blocks_do_not_show(some_values(x, y, z), outputs)
    assert_blocks_do_not_show(some_values(x, y, z), {"last": outputs.pop("last")}, [x], list(outputs.values()))


def test_a_value_that_a_chain_reads_transposed_is_not_written_over_in_it():
    x, y, _ = matrices(shape=(4, 4))
    hidden = x @ y  # not needed after the chain, whose output would fit
    turned = ops.square(ops.exp(ops.transpose(hidden)))
    program = assert_blocks_do_not_show(some_values(x, y), {"y": ops.tanh(hidden) + turned})
    assert hidden.index not in program.overwrites.values()
    (chain,) = chains_of(program)
    assert len(chain.members) == 4


def test_a_value_from_outside_gives_its_memory_to_a_value_that_leaves():
    x, y, _ = matrices(shape=(32, 32))
    program = assert_blocks_do_not_show(some_values(x, y), {"y": ops.square(ops.softplus(ops.exp(x @ y)))}, block=32)
    (chain,) = chains_of(program)
    assert program.overwrites[chain.members[-1].index] not in {x.index for x in chain.members[-1].inputs}
    assert program.nbytes < 3.2 * 8 * x.size


def test_a_kernel_that_needs_its_input_does_not_write_over_a_value_from_outside():
    x, y, z = matrices(shape=(8, 8))
    hidden = x @ y
    program = assert_blocks_do_not_show(some_values(x, y, z), {"y": ops.square(ops.exp(z)), "z": ops.softplus(hidden)})
    (chain,) = chains_of(program)
    assert len(chain.members) == 3 and hidden.index not in program.overwrites.values()


def test_memory_that_a_chain_frees_is_reused_only_after_its_end():
    x, y, z = matrices(shape=(16, 4))
    rows = ops.broadcast(ops.reshape(ops.sum_over(x, [1]), (16, 1)), (16, 4))  # read by the first node only, and small
    before = [ops.concatenate([each, each], 0) for each in (x, y, z)]
    halves = [ops.slice_axis(each, 0, 8, 24) for each in before]
    first = ops.greater(halves[0], rows) + halves[1]
    second = ops.greater(first, halves[2])
    third = ops.softplus(second + first)
    assert_blocks_do_not_show(some_values(x, y, z), {"a": first * third, "b": second - third, "c": ops.sqrt(third)})


def test_broadcast_rows_and_columns_are_cut_with_the_block():
    graph = Graph("float32")
    x, bias, column = graph.input("x", (6, 5)), graph.input("bias", (5,)), graph.input("column", (6, 1))
    y = ops.softmax(ops.tanh(x + ops.broadcast(bias, x.shape)) * ops.broadcast(column, x.shape))
    loss = ops.sum_over(ops.square(y - x))
    gradients = differentiate(loss, [bias, column, x]).nodes
    values = some_values(x, bias, column)
    for block in (2, 3, 5, 10):
        program = assert_blocks_do_not_show(values, {"y": y, "loss": loss}, [bias, column], gradients, block=block)
        assert len(chains_of(program)) > 1


def test_a_run_stops_between_two_blocks():
    (x,) = matrices("x")
    with small_blocks():
        program = Program({"y": ops.square(ops.exp(x))})
        with program.workspace() as workspace:
            workspace.inputs["x"][...] = 0.0
            workspace.outputs["y"][...] = 7.0
            with pytest.raises(DeadlineExceeded):
                workspace.run(Looks(2))  # one before the first call, and one after each
            assert workspace.outputs["y"].tolist() == [[1.0] * 4] + [[7.0] * 4] * 7
