"""The declaration of a layer, compared with what the layer does: parameters, options, random numbers, state, digits."""

from fnmatch import fnmatch
from itertools import product

import numpy as np
from mpmath import mp

from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph
from service.engine.network.layered import assemble
from service.engine.network.layers import layers
from tests.engine.network.layer_examples import SAMPLES, SHAPES, Example, base, values_of, variations
from tests.engine.values import outermost
from tests.reference import evaluate
from tests.support import every

EVERY_LAYER = every("declaration", list(layers), ids=lambda declaration: declaration.name)


def models(example):
    """Return the model of an example without training, and in training."""
    shapes = dict.fromkeys(example.names, (SAMPLES, *example.shape))
    return [assemble(example.definition, Graph("float64"), shapes, training=training) for training in (False, True)]


def start_of(parameter):
    """Return the first values of a parameter."""
    chosen = parameter.initializer
    return chosen.declaration.build(np.random.default_rng(0), parameter.node.shape, parameter.fans, **chosen.options)


def described(example):
    """Return in text all that a network of one layer computes, starts with and draws, without training and in it."""
    return [
        (
            str(model.graph),
            [(each.name, each.trainable, start_of(each).tobytes()) for each in model.parameters],
            [noise.draw(np.random.default_rng(0)).tobytes() for noise in model.noises],
            [node.index for node in (*model.penalties, *model.state.values(), model.layers["it"].output)],
        )
        for model in models(example)
    ]


def counts(example, option):
    """Return whether an example differs from the same one with the usual value of an option."""
    rest = {name: value for name, value in example.options.items() if name != option}
    usual = Example(example.declaration, base(example.declaration).options | rest, example.shape)
    return not usual.fits or described(usual) != described(example)


def candidates(declaration, option, examples):
    """Yield examples with another value of an option: those given first, then more values, shapes and other options.

    An axis, for one, may be the usual one in the first shape, and a format counts only where something is cropped.
    """
    yield from examples
    start = base(declaration).options
    more = [
        {each.name: value}
        for each in declaration.options
        if each.name != option.name
        for value in values_of(each)
        if value != each.default
    ]
    for also, value, shape in product(({}, *more), (*values_of(option), *outermost(option)), (*SHAPES, (5, 4, 3))):
        if value != option.default:
            yield Example(declaration, start | also | {option.name: value}, shape)


@EVERY_LAYER
def test_every_option_counts(declaration):
    options = {option.name: option for option in declaration.options}
    for name, examples in variations(declaration):
        tried = candidates(declaration, options[name], examples)
        assert any(counts(each, name) for each in tried if each.fits), f"{name} of {declaration.name} changes nothing"


@EVERY_LAYER
def test_parameters_are_those_of_the_declaration(declaration):
    """The catalogue lists each parameter by name, its axes in words, and whether it is learned."""
    if declaration.parameters is None:
        assert not models(base(declaration))[0].parameters
        return
    seen = set()
    for example in (base(declaration), *(each for _, examples in variations(declaration) for each in examples)):
        for parameter in models(example)[0].parameters:
            named = [each for each in declaration.parameters if fnmatch(parameter.name, each.replace("…", "*"))]
            assert named, f"declare the parameter {parameter.name!r} of {declaration.name}"
            words = declaration.parameters[named[0]]
            learned = parameter.trainable or words.startswith("those of the layer")
            assert learned is not ("not learned" in words), f"{parameter.name}: {words}"
            seen.add(named[0])
    assert seen == set(declaration.parameters)


@EVERY_LAYER
def test_random_numbers_and_changes_of_state_belong_to_training(declaration):
    model, _ = models(base(declaration))
    assert not model.noises and not model.state


@EVERY_LAYER
def test_what_is_carried_along_is_changed_in_training(declaration):
    _, model = models(base(declaration))
    assert {name for _, name in model.state} == {each.name for each in model.parameters if not each.trainable}


BEYOND = ("multi_head_attention", "attention", "dot")
"""Layers that multiply inputs with each other: products of large inputs are beyond the largest number."""


@EVERY_LAYER
def test_nothing_overflows_or_cancels_on_the_way(declaration):
    """Outputs for tiny and for huge inputs are those of the layer's formula, computed with many digits."""
    example = base(declaration)
    model, _ = models(example)
    output = model.layers["it"].output
    for size in (1e-200, 1e200):
        if declaration.takes_indices or (size > 1.0 and declaration.name in BEYOND):
            continue
        inputs = {model.inputs[name]: size * array for name, array in example.inputs(0).items()}
        inputs |= {parameter.node: start_of(parameter) for parameter in model.parameters}
        with mp.workdps(60):
            (exact,) = evaluate([output], inputs)
        found = interpret([output], inputs)[output]
        largest = max(abs(wanted) for wanted in exact.flat)
        for actual, wanted in zip(found.flat, exact.flat, strict=True):
            error, beyond = abs(float(actual) - wanted), abs(wanted) > np.finfo(float).max and np.isinf(actual)
            assert beyond or error <= max(1e-12 * largest, np.finfo(float).tiny), (
                size,
                float(actual),
                mp.nstr(wanted, 17),
            )
