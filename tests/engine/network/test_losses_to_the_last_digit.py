"""Every loss over the whole range of float64 and float32, compared with a second formula with 60 digits.

Value, slope and second derivative are within 8 units in the last place of the exact number for the rounded inputs.
Where the exact number is too large for a float, the engine gives infinity. `CANCELLING`, `INFINITE` and `UNDEFINED`
list the exceptions, with reasons.

A new loss needs a line in `REFERENCES`: a function from the predictions and targets of one sample to the terms of its
loss. Until then its digits are compared with those of its own formula, computed with many digits.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import pytest
from mpmath import mp

from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph, NoGradient
from service.engine.graph.operations import slice_axis, sum_over
from service.engine.network.losses import KERAS, PYTORCH, SMALLEST_LOG, SMALLEST_PROBABILITY, Prediction, losses
from tests import series
from tests.engine.values import required_of
from tests.reference import evaluate, ulp, ulps
from tests.series import ONE, ZERO, Series, constant, function_of, maximum, number
from tests.support import every

MOST_ULPS = 8.0
SIZES = {
    "float64": (5e-324, 1e-310, 1e-300, 1e-9, 0.3, 1.0, 20.0, 30.0, 745.0, 1e4, 1e20, 1e150, 1e308),
    "float32": (1e-45, 1e-40, 1e-30, 1e-9, 0.3, 1.0, 20.0, 30.0, 104.0, 745.0, 1e4, 1e20, 3e38),
}
EVERYWHERE = {dtype: (0.0, -0.0, *sizes, *(-x for x in sizes)) for dtype, sizes in SIZES.items()}
CHANCES = {
    "float64": (0.0, 5e-324, 1e-300, 1e-30, 1e-13, 1e-9, 0.25, 0.5, 0.9, 1.0 - 2.0**-53, 1.0),
    "float32": (0.0, 1e-45, 1e-38, 1e-30, 1e-13, 1e-9, 0.25, 0.5, 0.9, 1.0 - 2.0**-24, 1.0),
}
"""Probabilities."""
RATES = {dtype: (0.0, 0.9999, 1.0, 1.0001, *sizes) for dtype, sizes in SIZES.items()}
TARGETS = (0.0, 1.0, -2.5)
SHARES = (0.0, 1.0, 0.3)
SIGNS = (-1.0, 1.0)
COUNTS = (0.0, 1.0, 3.0, 1e5)


# --- the second formulas ------------------------------------------------------------------------


def exact(x):
    return constant(number(x))


def magnitude(x):
    return series.absolute(x)


def squared(p, t):
    return [(p - t) * (p - t)]


def half_squared(p, t):
    return [exact(0.5) * (p - t) * (p - t)]


def absolute(p, t):
    return [Series(ZERO) if (p - t).value == 0 else magnitude(p - t)]  # |x|'(0) = 0


def huber(p, t, delta):
    size = magnitude(p - t)
    near = size.value <= delta
    found = exact(0.5) * size * size if near else exact(delta) * (size - exact(delta / 2.0))
    if abs(size.value - delta) < delta / 2**20:
        found.second = series.NAN  # the curvature jumps: errors that round to delta have the mean of both sides
    return [found]


def smooth_l1(p, t, beta):
    if beta == 0.0:
        return absolute(p, t)
    (found,) = huber(p, t, beta)
    return [found / exact(beta)]


def log_cosh(p, t):
    error = p - t
    size = abs(error.value)
    value = mp.log(mp.cosh(size)) if size < 1000 else size - mp.ln2
    if size < 1e-5:
        value = size**2 / 2 - size**4 / 12 + size**6 / 45 - 17 * size**8 / 2520  # the rest is below the 40th digit
    tanh, slope, _ = series.FUNCTIONS["tanh"]
    return [error.through(value, tanh(error.value), slope(error.value))]


def clamped_log(p, complement=None):
    """Return ln p with PyTorch's limits. p may be given by its complement 1 - p."""
    least, floor = number(SMALLEST_LOG), number(SMALLEST_PROBABILITY)
    name, argument = ("log", p) if complement is None else ("log1p", -complement)
    value = function_of(name, constant(argument.value)).value
    slope = ONE / max(p.value, floor)
    return p.through(max(value, least), slope, -slope * slope if p.value > floor else ZERO)


def logs_of_sigmoid(x):
    return -function_of("softplus", -x), -function_of("softplus", x)


def binary(p, t, from_logits=False, label_smoothing=0.0, positive_weight=1.0):
    smoothing, weight = exact(label_smoothing), exact(positive_weight)
    t = (exact(1) - smoothing) * t + smoothing * exact(0.5)
    log, rest = logs_of_sigmoid(p) if from_logits else (clamped_log(p), clamped_log(exact(1) - p, p))
    return [-(weight * t * log), -((exact(1) - t) * rest)]


def logarithms(p, from_logits):
    """Return ln p of one row of probabilities or logits."""
    if not from_logits:
        return [clamped_log(x) for x in p]
    best = max(range(len(p)), key=lambda k: p[k].value)
    others = [function_of("exp", p[k] - p[best]) for k in range(len(p)) if k != best]
    total = function_of("log1p", reduce(lambda a, b: a + b, others))
    return [(x - p[best] if k != best else exact(0)) - total for k, x in enumerate(p)]


def categorical(p, t, from_logits=False, label_smoothing=0.0, class_weights=None):
    smoothing, weights = exact(label_smoothing), class_weights or [1.0] * len(p)
    t = [(exact(1) - smoothing) * x + smoothing / exact(len(p)) for x in t]
    return [-(x * exact(w) * log) for x, w, log in zip(t, weights, logarithms(p, from_logits), strict=True)]


def sparse(p, t, **options):
    return categorical(p, [exact(1 if k == t else 0) for k in range(len(p))], **options)


def divergence(p, t, from_logits=False):
    logs = zip(t, logarithms(p, from_logits), strict=True)
    return [part for x, log in logs for part in (series.times_logarithm(x, x), -(x * log))]


def poisson(p, t, log_input=False, epsilon=1e-8):
    if log_input:
        return [function_of("exp", p), -(t * p)]
    return [p, -series.times_logarithm(t, p + exact(epsilon))]


def hinge(p, t):
    rest = exact(1) - t * p
    return [rest if rest.value > 0 else exact(0)]


def squared_hinge(p, t):
    (rest,) = hinge(p, t)
    return [rest * rest]


def cosine(p, t, epsilon=1e-8):
    def length(row):
        squares = reduce(lambda a, b: a + b, [x * x for x in row])
        root = function_of("sqrt", squares) if squares.value else exact(0)
        return maximum(root, exact(epsilon))

    norms = length(p) * length(t)
    return [-(x * y / norms) for x, y in zip(p, t, strict=True)]


@dataclass(frozen=True)
class Reference:
    """A second formula of a loss, and its arguments: each of `predictions` with each of `targets`."""

    terms: Callable[..., list[Series]]
    """Returns terms whose sum is the loss of a sample, from one prediction and its target, or from `rows` of them."""
    predictions: dict = field(default_factory=lambda: EVERYWHERE)
    targets: tuple = TARGETS
    rows: bool = False
    options: tuple[dict, ...] = ({},)
    logits: tuple[dict, ...] = ()
    """Options with which predictions may be any number."""


def pairs(values, seconds=None):
    return {dtype: tuple(itertools.product(array, seconds or array)) for dtype, array in values.items()}


PAIRS = {
    dtype: pairs({dtype: EVERYWHERE[dtype]}, (0.0, 1.0, -30.0, sizes[-1]))[dtype] for dtype, sizes in SIZES.items()
}
ONE_HOT = ((1.0, 0.0), (0.0, 1.0), (0.3, 0.7))
SMOOTH, WEIGHED = {"label_smoothing": 0.25}, {"class_weights": (0.5, 3.0)}
ROWS = {"predictions": pairs(CHANCES), "rows": True}
REFERENCES = {
    "mean_squared_error": Reference(squared),
    "squared_error": Reference(squared),
    "half_squared_error": Reference(half_squared),
    "mean_absolute_error": Reference(absolute),
    "huber": Reference(huber, options=({"delta": 1.0}, {"delta": 2.0**-30}, {"delta": 1e30})),
    "smooth_l1": Reference(smooth_l1, options=({"beta": 1.0}, {"beta": 2.0**-30}, {"beta": 1e30}, {"beta": 0.0})),
    "log_cosh": Reference(log_cosh),
    "binary_crossentropy": Reference(
        binary, CHANCES, SHARES, options=({}, SMOOTH, {"positive_weight": 3.0}), logits=({}, SMOOTH)
    ),
    "categorical_crossentropy": Reference(
        categorical, **ROWS, targets=ONE_HOT, options=({}, SMOOTH, WEIGHED), logits=({}, SMOOTH)
    ),
    "sparse_categorical_crossentropy": Reference(
        sparse, **ROWS, targets=(0, 1), options=({}, SMOOTH, WEIGHED), logits=({}, SMOOTH)
    ),
    "kl_divergence": Reference(divergence, **ROWS, targets=ONE_HOT),
    "poisson": Reference(poisson, RATES, COUNTS, options=({}, {"epsilon": 0.0}), logits=({"log_input": True},)),
    "hinge": Reference(hinge, targets=SIGNS),
    "squared_hinge": Reference(squared_hinge, targets=SIGNS),
    "cosine_similarity": Reference(cosine, PAIRS, ((1.0, 0.0), (-3.0, 4.0), (1e30, 1e-30)), rows=True),
}
CANCELLING = {
    ("binary_crossentropy", "slope"): "(1 - t) p - t (1 - p) vanishes at p = t; each part has its digits",
    ("categorical_crossentropy", "slope"): "p - t vanishes at p = t; p has its digits",
    ("sparse_categorical_crossentropy", "slope"): "p - t vanishes at p = t; p has its digits",
    ("kl_divergence", "value"): "t ln t - t ln p vanishes at p = t; each logarithm has its digits",
    ("poisson", "value"): "p - t ln p changes its sign; each part has its digits",
    ("poisson", "slope"): "exp(p) - t vanishes at the minimum; exp(p) has its digits",
    ("cosine_similarity", "value"): "the products of a dot product cancel for orthogonal vectors",
    ("cosine_similarity", "slope"): "along the prediction the slope is 0: what is left of 1 / length less the same",
    ("cosine_similarity", "curvature"): "as the slope, of 1 / length²",
}
"""Losses that may be a small sum of larger terms. Their error may be 8 units in the last place of the terms."""
INFINITE = "of logits farther apart than the largest number, the logarithm of a share that counts is infinite"
"""The one place where the loss may be representable and the engine says infinity: soft targets, or label smoothing."""
UNDEFINED = {
    "poisson": "with epsilon 0 the slope at p = 0 and t = 0 is 1 - 0 / 0: it is not finite, and the answer says so"
}
"""Losses that have an exact number, but none in the engine, at predictions and targets of 0."""
PARTS = ("value", "slope", "curvature")


def cases():
    for name, reference in REFERENCES.items():
        for options in reference.options:
            yield name, options, reference.predictions
        for options in reference.logits:
            everywhere = PAIRS if reference.rows else EVERYWHERE
            logits = {} if "log_input" in options else {"from_logits": True}
            yield name, options | logits, everywhere


@pytest.mark.parametrize("declaration", list(losses), ids=lambda declaration: declaration.name)
def test_every_loss_has_a_second_formula(declaration):
    where = f"the digits of {declaration.name!r} are compared with nothing: add its formula to REFERENCES in {__file__}"
    if declaration.name not in REFERENCES and not {PYTORCH, KERAS} & set(declaration.sources):
        pytest.skip(where)
    assert declaration.name in REFERENCES, where


OF_LOGITS = ("from_logits", "log_input")
"""Options with which predictions may be any number."""
OWN_DIGITS = 400
MANY_ULPS = 1e6


def own_formulas():
    """Yield every loss with its defaults, and with each option that takes predictions of any size, on and off."""
    for declaration in losses:
        flags = [option.name for option in declaration.options if option.name in OF_LOGITS]
        required = required_of(declaration)
        for options in [{flag: on} for flag in flags for on in (False, True)] or [{}]:
            yield pytest.param(declaration, required | options, id=f"{declaration.name} {options}")


@every(("declaration", "options"), own_formulas())
def test_losses_keep_the_digits_of_their_own_formulas(declaration, options):
    """Nothing overflows or cancels on the way: value and slope at extremes are the formula's with many digits."""
    shares = declaration.domain[0] >= 0.0 and not any(options.values())
    first = [x for x in (CHANCES if shares else EVERYWHERE)["float64"] if x]
    predictions = np.array([[x, 0.3] for x in first])
    targets = np.zeros(len(first), np.int64) if declaration.indices else np.tile([0.3, 0.7], (len(first), 1))
    selection = losses.select(declaration.name, **options)
    graph = Graph("float64")
    p = graph.input("p", predictions.shape)
    t = graph.input("t", targets.shape, str(targets.dtype))
    value = selection.declaration.build(Prediction(p), t, **selection.options)
    (slope,) = differentiate(sum_over(value), [p]).nodes
    found = interpret([value, slope], {p: predictions, t: targets})
    with mp.workdps(OWN_DIGITS):
        exact_values = evaluate([value, slope], {p: predictions, t: targets})
    for part, node, wanted in zip(PARTS, (value, slope), exact_values, strict=False):
        for place in np.ndindex(node.shape):
            actual, number_wanted = float(found[node][place]), wanted[place]
            beyond = abs(number_wanted) > np.finfo(float).max and np.isinf(actual)
            cancels = (declaration.name, part) in CANCELLING and abs(actual - number_wanted) < 1e-13
            assert beyond or cancels or ulps(actual, number_wanted) <= MANY_ULPS, (
                f"{part} at {predictions[place[0]].tolist()}: {actual!r} is not {mp.nstr(number_wanted, 17)}"
            )


def computed(name, options, predictions, targets, dtype):
    """Compute value, slope and second derivative of the loss of each sample, with respect to its first prediction."""
    selection = losses.select(name, **options)
    graph = Graph(dtype)
    p = graph.input("p", predictions.shape)
    t = graph.input("t", targets.shape, "int64" if selection.declaration.indices else None)
    value = selection.declaration.build(Prediction(p), t, **selection.options)
    (gradient,) = differentiate(sum_over(value), [p]).nodes
    slope = slice_axis(gradient, 1, 0, 1)
    (again,) = differentiate(sum_over(slope), [p]).nodes
    wanted = [value, slope] if isinstance(again, NoGradient) else [value, slope, slice_axis(again, 1, 0, 1)]
    found = interpret(wanted, {p: predictions, t: targets})
    arrays = [found[node].reshape(-1) for node in wanted]
    return arrays if len(arrays) == 3 else [*arrays, np.zeros_like(arrays[0])]


def expected(reference, options, prediction, target):
    """Return the exact terms of the loss of one sample, as a function of its first prediction."""
    with mp.workdps(60):
        if not reference.rows:
            return reference.terms(Series(number(prediction[0]), ONE), exact(target[0]), **options)
        row = [Series(number(x), ONE if k == 0 else ZERO, moves=k == 0) for k, x in enumerate(prediction)]
        wanted = [exact(x) for x in target] if np.ndim(target) else int(target)
        return reference.terms(row, wanted, **options)


def sizes_of_terms(name, prediction, numbers, part):
    """Return the size of the terms of a sum that may cancel, which bounds its error."""
    if name == "cosine_similarity":
        length = max(mp.sqrt(mp.fsum(number(x) ** 2 for x in prediction)), number(1e-8))
        return (1 + PARTS.index(part)) * length ** -PARTS.index(part)
    return mp.fsum(map(abs, numbers))


def faults(name, options, predictions, dtype):
    reference = REFERENCES[name]
    grid = list(itertools.product(predictions[dtype], reference.targets))
    given = np.array([np.atleast_1d(p) for p, _ in grid], dtype)
    if losses[name].indices:
        targets = np.array([t for _, t in grid], np.int64)
    else:
        targets = np.array([np.atleast_1d(t) for _, t in grid], dtype)
    found = computed(name, options, given, targets, dtype)
    wrong = []
    for place, (p, t) in enumerate(zip(given, targets, strict=True)):
        terms = expected(reference, options, p, t)
        for part, attribute, array in zip(PARTS, ("value", "first", "second"), found, strict=True):
            numbers = [getattr(term, attribute) for term in terms]
            with mp.workdps(60):
                total = mp.fsum(numbers)
                if mp.isnan(total) or (name in UNDEFINED and not p.any() and not t.any() and np.isnan(array[place])):
                    continue
                if abs(total) > np.finfo(dtype).max and not np.isfinite(array[place]):
                    continue
                if options.get("from_logits") and np.isposinf(array[place]) and reference.rows:
                    assert abs(number(p[0]) - number(p[1])) > np.finfo(dtype).max, INFINITE
                    continue
                distance = ulps(array[place], total, dtype)
                if (name, part) in CANCELLING and distance > MOST_ULPS and np.isfinite(array[place]):
                    scale = sizes_of_terms(name, p, numbers, part)
                    distance = float(distance * ulp(total, dtype) / ulp(scale, dtype))
            if not distance <= MOST_ULPS:
                wrong.append(
                    f"{part} at {p.tolist()}, {t.tolist()}: {array[place]!r}, {mp.nstr(total, 17)}: {distance}"
                )
    return wrong


@every("dtype", ["float64", "float32"])
@every(("name", "options", "predictions"), [pytest.param(*c, id=f"{c[0]} {c[1]}") for c in cases()])
def test_losses_are_right_to_the_last_digits(name, options, predictions, dtype):
    wrong = faults(name, options, predictions, dtype)
    assert not wrong, "\n".join([f"{len(wrong)} of {name}", *wrong[:12]])
