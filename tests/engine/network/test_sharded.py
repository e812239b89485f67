"""Evaluations in shards: the numbers of the whole batch, equal bits whoever computes, limits, warnings and refusals."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from service.engine.compiling import Compiler
from service.engine.errors import Abandoned, Fault, InvalidRequest, LimitExceeded
from service.engine.graph.plan import WorkspacePool
from service.engine.limits import Limits
from service.engine.network.evaluate import EvaluationTask
from service.engine.network.feed import Feed
from service.engine.network.layers import layers
from service.engine.network.losses import losses
from service.engine.network.shard_sums import Workspaces, part_of, sums_over
from service.engine.network.sharded import Sharded
from service.engine.network.shards import Shards, TreeSum
from service.engine.parallel import InTurn
from tests.engine.network.building import ROOMY, as_arrays, by_input, by_output, dense, layer, network, task_for
from tests.engine.network.layer_examples import SAMPLES, base
from tests.engine.network.test_evaluate import HEADS, drawn_targets
from tests.support import every

COMPILE = Compiler(ROOMY, 10**12, WorkspacePool())
RNG = np.random.default_rng(19)
EVERYTHING = ("layers", "norms", "input_gradients", "per_sample")


def both(
    definition, inputs, loss, targets, size, *, weights=None, parameters=None, seed=3, compiler=COMPILE, **details
):
    """Return the results of a whole batch and of its shards."""
    task = task_for(definition, inputs, loss, targets, weights, parameters, **details)
    feed = Feed(
        by_input(definition, inputs),
        None if parameters is None else as_arrays(parameters, task.dtype),
        by_output(definition, targets),
        None if weights is None else np.asarray(weights, task.dtype),
        seed,
    )
    return compiler(EvaluationTask(task)).run(feed), Sharded(compiler, task, size, ROOMY).run(replace(feed))


def arrays_of(result):
    """Yield all numbers of a result by name."""
    for name, value in vars(result).items():
        if name == "layers":
            for each in value or ():
                for own in ("pre_activation", "output", "delta"):
                    yield f"{each.name}.{own}", getattr(each, own)
                yield f"{each.name}.norms", np.array(list(each.norms.values()))
        elif name == "norms" and value is not None:
            yield from ((f"norms.{layer}", np.array(list(own.values()))) for layer, own in value.gradients.items())
            yield "norms.deltas", np.array(list(value.deltas.values()))
        elif isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(inner, dict):
                    yield from ((f"{name}.{key}.{last}", array) for last, array in inner.items())
                else:
                    yield f"{name}.{key}", inner
        elif isinstance(value, np.ndarray | float):
            yield name, np.asarray(value)


def assert_same(whole, sharded, relative=1e-13):
    """Assert that two results agree, each array relative to its largest number, and have the same warnings."""
    theirs, ours = dict(arrays_of(whole)), dict(arrays_of(sharded))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].shape == array.shape and ours[name].dtype == array.dtype, name
        # The gradient of a parameter may be 0 but for the rounding of its parts.
        family = name.split(".")[0]
        alike = theirs if family.endswith("gradients") else [name]
        scale = max(float(np.abs(theirs[key]).max(initial=0.0)) for key in alike if key.split(".")[0] == family)
        np.testing.assert_allclose(ours[name], array, rtol=0.0, atol=relative * scale, err_msg=name)
    assert sharded.warnings == whole.warnings
    assert sharded.finite == whole.finite


class Others:
    """A spread over the threads of an executor, each with a compiler of its own."""

    least_work = 0.0

    def __init__(self, executor, width):
        self.executor, self.width = executor, width
        self.spans = []

    def submit(self, task, spans, flat, feed):
        self.spans += spans
        return [self.executor.submit(self.compute, task, span, flat, feed) for span in spans]

    @staticmethod
    def compute(task, span, flat, feed):
        place = span.shards.rows(span.first, span.stop)
        if span.rows is None:  # only the samples of the block
            cut = {
                key: {name: array[place] for name, array in getattr(feed, key).items()} for key in ("inputs", "targets")
            }
            weights = feed.sample_weights
            feed = replace(feed, sample_weights=None if weights is None else weights[place], **cut)
        compiler = Compiler(ROOMY, 10**12, WorkspacePool())
        programs = {size: compiler(EvaluationTask(part_of(task, size))) for size in span.shards.sizes}
        with Workspaces() as memory:
            return sums_over(programs, memory, span, flat, feed)


# --- the cut and the tree -----------------------------------------------------------------------


def plain_tree(vectors):
    """Sum vectors level by level: the definition of the tree."""
    while len(vectors) > 1:
        pairs = [vectors[n : n + 2] for n in range(0, len(vectors), 2)]
        vectors = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return vectors[0]


def test_a_sum_is_the_tree_over_the_numbers_for_any_count():
    vectors = RNG.standard_normal((33, 5)) * 10.0 ** RNG.integers(-8, 8, (33, 5))
    tree = TreeSum(5, "float64")
    for count in range(1, 34):
        for vector in vectors[:count]:
            tree.add(vector)
        assert len(tree._waiting) <= TreeSum.rows(count)
        np.testing.assert_array_equal(tree.total(), plain_tree(list(vectors[:count])))
    assert not np.array_equal(plain_tree(list(vectors)), vectors.sum(0))


def test_the_sums_of_aligned_blocks_give_the_tree_for_any_width():
    for count in range(1, 34):
        vectors = RNG.standard_normal((count, 3))
        wanted = plain_tree(list(vectors))
        shards = Shards(10 * count - 3, 10)
        for width in range(1, 9):
            blocks = shards.blocks(width)
            assert [number for block in blocks for number in block] == list(range(count))
            busiest = len(blocks[0]) * -(-len(blocks) // width)
            assert busiest <= 1.25 * -(-count // width)
            lengths = {len(block) for block in blocks[:-1]} or {1}
            assert len(lengths) == 1 and bin(lengths.pop()).count("1") == 1
            top = TreeSum(3, "float64")
            for block in blocks:
                tree = TreeSum(3, "float64")
                for number in block:
                    tree.add(vectors[number])
                top.add(tree.total())
            np.testing.assert_array_equal(top.total(), wanted)


def test_the_last_shard_holds_the_rest():
    assert Shards(10, 4).sizes == {4: 2, 2: 1}
    assert Shards(8, 4).sizes == {4: 2}
    assert Shards(3, 4).sizes == {3: 1}
    assert Shards(10, 4).rows(1, 3) == slice(4, 10)


# --- the numbers of the whole batch -----------------------------------------------------------------


@every("declaration", layers, ids=lambda declaration: declaration.name)
def test_every_layer_in_shards_gives_the_numbers_of_the_whole_batch(declaration):
    example = base(declaration)
    definition = example.definition
    inputs = {name: np.concatenate([array, 0.5 * array, array[:1]]) for name, array in example.inputs(5).items()}
    if example.declaration.takes_indices:
        inputs = {name: array.astype(np.int64) for name, array in inputs.items()}
    training = not example.declaration.couples_samples
    shapes = task_for(definition, inputs)
    output = COMPILE(EvaluationTask(shapes)).program.outputs["outputs/it"].shape
    targets = RNG.standard_normal(output)
    asked = [name for name in EVERYTHING if name != "input_gradients" or not example.declaration.takes_indices]
    assert output[0] == 2 * SAMPLES + 1
    whole, sharded = both(definition, inputs, "mean_squared_error", targets, 2, include=asked, training=training)
    assert_same(whole, sharded)


CASES = [
    (loss.name, reduction, weighted, normalized)
    for loss in losses
    for reduction in ("mean", "sum", "none")
    for weighted, normalized in ((False, None), (True, False), (True, True))
]


@every("name, reduction, weighted, normalized", CASES)
def test_every_loss_and_reduction_in_shards(name, reduction, weighted, normalized):
    activation, kind = HEADS.get(name, ("sigmoid", "share"))
    definition = network(dense("hidden", 3, "tanh"), dense("out", 4, activation))
    inputs, rng = RNG.standard_normal((7, 2)), np.random.default_rng(2)
    targets = drawn_targets(kind, (7, 4), rng)
    weights = rng.uniform(0.0, 2.0, 7) if weighted else None
    loss = {"name": name}
    if any(option.name == "class_weights" for option in losses[name].options):
        loss["class_weights"] = [0.5, 1.0, 2.0, 3.5]
    whole, sharded = both(
        definition, inputs, loss, targets, 3, weights=weights, reduction=reduction, normalize_weights=normalized
    )
    assert_same(whole, sharded, 1e-13)


TWO = network(
    dense("hidden", 6, "relu", kernel_regularizer={"name": "l1_l2", "l1": 0.01, "l2": 0.02}),
    layer("drop", "dropout", rate=0.3),
    layer("noise", "gaussian_noise", stddev=0.2),
    dense("mean", 2, inputs=["noise"], bias_regularizer={"name": "l2", "l2": 0.5}),
    dense("kind", 3, "softmax", inputs=["noise"]),
    outputs=["mean", "kind"],
)
X = RNG.standard_normal((11, 4))
TARGETS = {"mean": RNG.standard_normal((11, 2)), "kind": RNG.integers(3, size=11)}
LOSSES = {
    "mean": "huber",
    "kind": {"name": "sparse_categorical_crossentropy", "class_weights": [1.0, 2.0, 0.5]},
}
WEIGHTS = RNG.uniform(0.0, 2.0, 11)


@every("size", range(1, 13))
def test_outputs_weights_penalties_and_random_numbers_for_every_size(size):
    for dtype, relative in (("float64", 1e-13), ("float32", 2e-6)):
        whole, sharded = both(
            TWO,
            X.astype(dtype),
            LOSSES,
            TARGETS,
            size,
            weights=WEIGHTS,
            include=EVERYTHING,
            dtype=dtype,
            training=True,
            loss_weights=(0.5, 2.0),
            normalize_weights=True,
        )
        assert_same(whole, sharded, relative)
        assert float(whole.regularization_loss) > 0.0


def test_given_parameters_and_frozen_ones():
    parameters = {
        "hidden": {"kernel": RNG.standard_normal((4, 6)), "bias": RNG.standard_normal(6)},
        "mean": {"kernel": RNG.standard_normal((6, 2)), "bias": RNG.standard_normal(2)},
        "kind": {"kernel": RNG.standard_normal((6, 3)), "bias": RNG.standard_normal(3)},
    }
    whole, sharded = both(TWO, X, LOSSES, TARGETS, 4, parameters=parameters, frozen=("mean.bias",), training=True)
    assert_same(whole, sharded)


# --- equal bits, whoever computes -------------------------------------------------------------------


def test_the_bits_do_not_depend_on_who_computes_how_many_shards():
    task = task_for(
        TWO, X, LOSSES, TARGETS, WEIGHTS, include=EVERYTHING, training=True, normalize_weights=True, reduction="none"
    )
    feed = Feed(by_input(TWO, X), None, by_output(TWO, TARGETS), WEIGHTS, 3)
    for size in (1, 2, 3, 4):
        sharded = Sharded(COMPILE, task, size, ROOMY)
        wanted = sharded.run(replace(feed))
        with ThreadPoolExecutor(3) as threads:
            for width, executor in ((1, InTurn()), (2, threads), (3, threads), (3, InTurn())):
                others = Others(executor, width)
                for _ in range(2):
                    result = sharded.run(replace(feed), spread=others)
                    assert dict(arrays_of(result)).keys() == dict(arrays_of(wanted)).keys()
                    for name, array in arrays_of(result):
                        np.testing.assert_array_equal(array, dict(arrays_of(wanted))[name], name, strict=True)
                    assert result.warnings == wanted.warnings
                assert len({span.first for span in others.spans}) >= min(width, 2)


class Leaving:
    """A watch whose client leaves at the n-th look."""

    def __init__(self, looks):
        self.left = looks

    def look(self):
        self.left -= 1
        if self.left == 0:
            raise Abandoned
        return 0.0


def test_between_two_shards_the_watch_may_stop_the_computation():
    definition = network(dense("out", 1))
    task = task_for(definition, X, "mean_squared_error", X[:, :1])
    feed = Feed(by_input(definition, X), None, by_output(definition, X[:, :1]))
    sharded = Sharded(COMPILE, task, 1, ROOMY)
    with pytest.raises(Abandoned):
        sharded.run(feed, Leaving(5))
    assert sharded.run(feed, Leaving(1000)).finite


# --- costs ------------------------------------------------------------------------------------------


def test_shards_need_the_memory_of_a_shard_and_all_operations():
    definition = network(dense("hidden", 64, "tanh"), dense("out", 1))
    inputs = RNG.standard_normal((1000, 8))
    task = task_for(definition, inputs, "mean_squared_error", inputs[:, :1])
    whole = COMPILE(EvaluationTask(task)).program
    sharded = Sharded(COMPILE, task, 50, ROOMY)
    assert sharded.nbytes < whole.nbytes / 5
    assert sharded.work == pytest.approx(whole.work, rel=0.01)
    small = Limits(workspace_bytes=whole.nbytes // 5)
    compiler = Compiler(small, 10**12)
    with pytest.raises(LimitExceeded, match="workspace_bytes"):
        compiler(EvaluationTask(task))
    feed = Feed(by_input(definition, inputs), None, by_output(definition, inputs[:, :1]))
    found = Sharded(compiler, task, 50, small).run(replace(feed))
    assert_same(COMPILE(EvaluationTask(task)).run(feed), found)


def test_the_limits_hold_for_all_shards_together():
    definition = network(dense("hidden", 8, "tanh"), dense("out", 1))
    inputs = RNG.standard_normal((100, 8))
    task = task_for(definition, inputs, "mean_squared_error", inputs[:, :1], include=("per_sample",))
    whole = COMPILE(EvaluationTask(task)).program
    with pytest.raises(LimitExceeded, match="operations"):
        Sharded(COMPILE, task, 10, Limits(operations=0.9 * whole.work))
    with pytest.raises(LimitExceeded, match="tensor_elements"):
        Sharded(COMPILE, task, 10, Limits(tensor_elements=100 * 8 * 8 - 1))
    assert Sharded(COMPILE, task, 10, Limits(tensor_elements=100 * 8 * 8)).shards.count == 10


def test_all_shards_of_a_size_share_one_program():
    definition = network(dense("out", 1))
    inputs = RNG.standard_normal((10, 3))
    compiler = Compiler(ROOMY, 10**12)
    Sharded(compiler, task_for(definition, inputs, "mean_squared_error", inputs[:, :1]), 4, ROOMY)
    assert len(compiler) == 2


# --- warnings ---------------------------------------------------------------------------------------


def test_units_are_dead_if_they_are_flat_in_every_shard():
    definition = network(dense("hidden", 3, "relu"), dense("out", 1))
    parameters = {
        "hidden": {"kernel": [[1.0, 0.0, 1.0], [0.5, 0.0, 1.0]], "bias": [-2.5, -1.0, 0.0]},
        "out": {"kernel": [[1.0], [2.0], [3.0]], "bias": [0.0]},
    }
    inputs = [[1.0, 0.0], [0.5, 1.0], [2.0, 3.0], [0.1, 0.2], [0.3, 0.1]]
    for last in ([0.3, 0.1], [9.0, 9.0]):
        whole, sharded = both(
            definition, [*inputs[:2], inputs[3], last], "mean_squared_error", np.ones((4, 1)), 1, parameters=parameters
        )
        assert any(each.code == "dead_units" for each in whole.warnings)
        assert_same(whole, sharded)


def test_outputs_that_are_no_probabilities_and_unusual_targets_are_told_of_the_whole_batch():
    definition = network(dense("out", 3))
    inputs = RNG.standard_normal((6, 2))
    whole, sharded = both(definition, inputs, "categorical_crossentropy", inputs[:, [0, 1, 0]], 4, weights=[3.0] * 6)
    assert {each.code for each in whole.warnings} >= {"no_probabilities", "normalize_weights"}
    assert_same(whole, sharded)


def test_a_penalised_parameter_is_not_called_disconnected():
    definition = network(
        dense("hidden", 2, "tanh"),
        dense("penalised", 2, inputs=["input"], kernel_regularizer={"name": "l2", "l2": 0.1}),
        dense("blocked", 2, "step", inputs=["hidden"], kernel_regularizer={"name": "l2", "l2": 0.1}),
        dense("out", 1, inputs=["blocked"]),
        outputs=["out"],
    )
    inputs = RNG.standard_normal((6, 2))
    whole, sharded = both(definition, inputs, "mean_squared_error", inputs[:, :1], 4)
    assert {each.code for each in whole.warnings} >= {"disconnected", "gradient_blocked"}
    assert_same(whole, sharded)


def nothing(array):
    return array


@every(
    "change, loss",
    [
        (lambda x, p: x.__setitem__((4, 0), 1e300), "mean_squared_error"),
        (lambda x, p: x.__setitem__((slice(None), 0), 1e160), "mean_squared_error"),
        (lambda x, p: p["out"]["kernel"].fill(1e308), "mean_squared_error"),
        (lambda x, p: p["hidden"]["kernel"].fill(1e200), "mean_squared_error"),
        (lambda x, p: p["out"]["bias"].fill(1e154), "mean_squared_error"),
    ],
    ids=("output", "input", "out", "penalty", "sum"),
)
def test_the_first_value_that_is_not_finite_is_that_of_the_whole_batch(change, loss):
    definition = network(
        dense("hidden", 2, kernel_regularizer={"name": "l2", "l2": 0.1}),
        layer("relu", "activation", activation="relu"),
        dense("out", 1),
    )
    inputs = np.abs(RNG.standard_normal((6, 2)))
    parameters = {
        "hidden": {"kernel": np.ones((2, 2)), "bias": np.zeros(2)},
        "out": {"kernel": np.full((2, 1), 1e10), "bias": np.zeros(1)},
    }
    change(inputs, parameters)
    whole, sharded = both(definition, inputs, loss, np.ones((6, 1)), 2, parameters=parameters, reduction="sum")
    assert not whole.finite
    assert sharded.warnings == whole.warnings
    assert not sharded.finite


# --- refusals ---------------------------------------------------------------------------------------


def refused(definition, inputs, targets, size=2, **details):
    with pytest.raises(InvalidRequest) as refusal:
        both(definition, inputs, "mean_squared_error", targets, size, **details)
    return refusal.value.faults


def test_layers_that_couple_samples_are_refused_with_the_ways_out():
    for inner in ({}, {"name": "time_distributed", "layer": {"name": "batch_normalization"}}):
        part = layer(
            "norm", inner.get("name", "batch_normalization"), **{k: v for k, v in inner.items() if k == "layer"}
        )
        definition = network(part)
        inputs = RNG.standard_normal((4, 3, 2))
        task = task_for(definition, inputs, "mean_squared_error", inputs, training=True)
        with pytest.raises(InvalidRequest) as refusal:
            Sharded(COMPILE, task, 2, ROOMY)
        (fault,) = refusal.value.faults
        assert fault.path == ("shards",)
        assert "'norm'" in fault.detail and "layer_normalization" in fault.detail
        assert Sharded(COMPILE, task._replace(training=False), 2, ROOMY).shards.count == 2


@every(
    "inputs, targets",
    [
        (np.ones((4, 2)), np.ones((3, 1))),
        (np.ones((4, 2)), np.ones((4, 2))),
        (np.ones((4, 2)), np.ones(4)),
        (np.ones(4), np.ones((4, 1))),
        (np.ones((0, 2)), np.ones((0, 1))),
    ],
)
def test_tensors_that_do_not_fit_are_refused_as_without_shards(inputs, targets):
    definition = network(dense("out", 1))
    task = task_for(definition, inputs, "mean_squared_error", targets)
    found = []
    for compute in (lambda: COMPILE(EvaluationTask(task)), lambda: Sharded(COMPILE, task, 2, ROOMY)):
        with pytest.raises(InvalidRequest) as refusal:
            compute()
        found.append(refusal.value.faults)
    assert found[0] == found[1]


def test_numbers_that_do_not_fit_are_refused_as_without_shards():
    definition = network(
        layer("words", "embedding", input_dim=3, output_dim=2), layer("flat", "flatten"), dense("out", 1)
    )
    inputs = [[0], [1], [2], [7]]
    task = task_for(definition, inputs, "mean_squared_error", np.ones((4, 1)), [0.0] * 3, normalize_weights=True)
    feed = Feed(by_input(definition, inputs), None, by_output(definition, np.ones((4, 1))), np.zeros(3))
    found = []
    for compute in (COMPILE(EvaluationTask(task)).run, Sharded(COMPILE, task, 2, ROOMY).run):
        with pytest.raises(InvalidRequest) as refusal:
            compute(replace(feed))
        found.append(refusal.value.faults)
    assert found[0] == found[1]
    assert Fault(("inputs", "input", 3, 0), "takes an index for layer 'words' from 0 to 2, got 7") in found[0]
