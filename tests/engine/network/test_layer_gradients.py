"""Gradients of every type of layer, compared with differences of its loss, with defaults and each option changed.

A new layer is checked as soon as it is declared, since `layer_examples.py` finds the networks.
"""

import numpy as np
import pytest

from service.engine.graph.ir import Graph
from service.engine.graph.operations import broadcast, sigmoid, square, tanh, with_slope
from service.engine.network.layered import assemble
from service.engine.network.layers import layers
from service.engine.network.layers.declaration import initializer, same
from service.engine.options import Flag
from tests.engine.network.building import compiled, evaluate, run
from tests.engine.network.layer_examples import SAMPLES, base, variations
from tests.support import every

STEP = 1e-3
ROUNDINGS = 64.0
"""The rounding error of a loss, in roundings of its size."""
SHARPNESS = 1e-8
"""Differences with two sizes of step have to agree up to this share of the loss. They do unless a kink is near."""
PLACES = 6
"""The number of points that are tried to find one without a kink nearby."""
MODES = every("training", [False, True], ids=["inference", "training"])
EVERY_LAYER = every("declaration", list(layers), ids=lambda declaration: declaration.name)


class Compiled:
    """An example with a loss, and points at which it is evaluated: random parameters, inputs and targets."""

    def __init__(self, example, training, dtype="float64"):
        self.example, definition = example, example.definition
        details = {"training": training, "dtype": dtype}
        forward = compiled(definition, example.inputs(0), **details)
        self.start = run(forward, example.inputs(0))
        self.learned = [each.name for each in forward.model.parameters if each.trainable]
        self.moved = [*self.learned, *(() if example.declaration.takes_indices else example.names)]
        self.loss = compiled(
            definition,
            example.inputs(0),
            "half_squared_error",
            targets=self.start.outputs["it"],
            parameters=self.start.parameters,
            include=("input_gradients",),
            reduction="sum",
            **details,
        )

    def place(self, seed):
        """Return a random point. Statistics keep their initial values, since some have to be positive."""
        rng = np.random.default_rng(seed)
        parameters = {
            name: rng.standard_normal(array.shape) if name in self.learned else array
            for name, array in self.start.parameters.get("it", {}).items()
        }
        return parameters, self.example.inputs(seed), rng.standard_normal(self.start.outputs["it"].shape)

    def run(self, place, name=None, change=0.0):
        parameters, inputs, targets = place
        if name is not None:
            holder = parameters if name in parameters else inputs
            holder = {**holder, name: holder[name] + change}
            parameters, inputs = (holder, inputs) if name in parameters else (parameters, holder)
        return run(self.loss, inputs, {"it": parameters} if parameters else {}, targets)

    @staticmethod
    def gradients(result):
        return {**result.gradients.get("it", {}), **(result.input_gradients or {})}

    def slope(self, place, name, direction):
        """Return the slope of the loss along a direction, by differences, its error bound, and the size of losses."""
        losses = {by: float(self.run(place, name, by * STEP * direction).loss) for by in (-4, -2, -1, 1, 2, 4)}
        near, middle, far = (losses[by] - losses[-by] for by in (1, 2, 4))
        fine, coarse = (8.0 * near - middle) / (12.0 * STEP), (8.0 * middle - far) / (24.0 * STEP)
        size = max(1.0, *map(abs, losses.values()))
        return fine, abs(fine - coarse) + ROUNDINGS * np.finfo(float).eps * size / STEP, size


def differs_in_training(example):
    """Return whether a layer has another graph in training than in inference."""
    shapes = {name: array.shape for name, array in example.inputs(0).items()}
    graphs = [Graph("float64"), Graph("float64")]
    for training, graph in enumerate(graphs):
        assemble(example.definition, graph, shapes, training=bool(training))
    return str(graphs[0]) != str(graphs[1])


def check(example, training):
    """Compare the gradients of parameters and inputs along a direction. Return whether the loss is a number."""
    network = Compiled(example, training)
    places = [network.place(0)]
    results = [network.run(places[0])]
    if not np.isfinite(results[0].loss):
        return False
    for name in network.moved:
        for seed in range(PLACES):
            if seed == len(places):
                places.append(network.place(seed))
                results.append(network.run(places[seed]))
            gradient = network.gradients(results[seed])[name]
            direction = np.random.default_rng(seed).standard_normal(gradient.shape)
            expected, error, size = network.slope(places[seed], name, direction)
            if error <= SHARPNESS * max(size, float(np.abs(gradient * direction).sum())):
                break
        else:
            raise AssertionError(f"{example}: at no place do differences tell the slope along {name}")
        actual = float((gradient * direction).sum())
        assert abs(actual - expected) <= error, f"{example}: gradient of {name}: {actual}, by differences {expected}"
    return True


@MODES
@EVERY_LAYER
def test_gradients_agree_with_differences(declaration, training):
    assert check(base(declaration), training)


@MODES
@EVERY_LAYER
def test_gradients_agree_with_differences_for_any_option(declaration, training):
    for option, examples in variations(declaration):
        if training:  # most layers compute the same in both modes, which one check covers
            examples = [example for example in examples if differs_in_training(example)]
            if not examples:
                continue
        checked = [check(example, training) for example in examples]
        assert any(checked), f"no value of {option!r} but the default could be tried; see layer_examples.py"


@MODES
@EVERY_LAYER
def test_a_sample_has_the_gradient_of_a_loss_that_counts_only_it(declaration, training):
    example = base(declaration)
    network = Compiled(example, training)
    parameters, inputs, targets = network.place(0)
    case = (example.definition, inputs, {"it": parameters} if parameters else {}, "half_squared_error", targets)
    each = evaluate(*case, include=("per_sample",), reduction="sum", training=training)
    for sample in range(SAMPLES):
        alone = evaluate(*case, weights=np.eye(SAMPLES)[sample], reduction="sum", training=training)
        assert each.per_sample_loss[sample] == pytest.approx(float(alone.loss), rel=1e-12)
        for name in network.learned:
            gradient = alone.gradients["it"][name]
            scale = max(1.0, np.abs(gradient).max())
            actual = each.per_sample_gradients["it"][name][sample]
            np.testing.assert_allclose(actual, gradient, rtol=1e-11, atol=1e-13 * scale)


@MODES
@EVERY_LAYER
def test_float32_stays_float32(declaration, training):
    exact, single = (Compiled(base(declaration), training, dtype) for dtype in ("float64", "float32"))
    place = exact.place(0)
    rounded = single.run(place)
    assert rounded.outputs["it"].dtype == np.float32
    for name, gradient in exact.gradients(exact.run(place)).items():
        actual = single.gradients(rounded)[name]
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, gradient, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(gradient).max()))


# --- wrong layers are caught ----------------------------------------------------------------------


@pytest.fixture
def declare():
    """Return a function that declares a layer for the time of a test."""
    before = dict(layers._by_name), dict(layers._aliases)

    def declared(build, *options):
        layers.declare("tried", en="A layer.", zh="层。", options=options)(build)
        return layers["tried"]

    yield declared
    layers._by_name, layers._aliases = before


def highway(layer, x, spoil=lambda carry: carry):
    """Mix a transformed input with the input, by a gate for each feature (Srivastava et al. 2015, arXiv:1505.00387)."""
    features = x.shape[-1]
    kernel, gate = (layer.parameter(name, (features, features), reason=layer.source) for name in ("kernel", "gate"))
    carry = spoil(sigmoid(x @ gate))
    return same(carry * tanh(x @ kernel) + (1.0 - carry) * x)


OPTIONS = (initializer("kernel", "glorot_uniform"), initializer("gate", "glorot_uniform"))


@pytest.mark.parametrize("training", [False, True])
def test_a_right_layer_passes(declare, training):
    declaration = declare(highway, *OPTIONS)
    assert check(base(declaration), training)
    assert [len(examples) for _, examples in variations(declaration)] == [2, 2]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("spoilt", [0.0, 1.0 + 1e-6, -1.0])
def test_a_wrong_slope_is_caught(declare, training, spoilt):
    def spoil(carry):
        return with_slope(carry, carry, broadcast(carry.graph.constant(spoilt), carry.shape))

    declaration = declare(lambda layer, x: highway(layer, x, spoil), *OPTIONS)
    with pytest.raises(AssertionError, match="gradient of"):
        check(base(declaration), training)


def test_a_slope_that_is_wrong_in_training_alone_is_caught(declare):
    def build(layer, x):
        return same(with_slope(x, square(x), x if layer.training else 2.0 * x))

    declaration = declare(build)
    assert check(base(declaration), training=False)
    with pytest.raises(AssertionError, match="gradient of x0"):
        check(base(declaration), training=True)


def test_a_slope_that_is_wrong_for_one_value_of_an_option_is_caught(declare):
    def build(layer, x):
        return same(with_slope(x, square(x), x if layer.options["half"] else 2.0 * x))

    declaration = declare(build, Flag(name="half", default=False))
    assert check(base(declaration), training=False)
    ((_, (example,)),) = variations(declaration)
    with pytest.raises(AssertionError, match="gradient of x0"):
        check(example, training=False)
