"""Record what PyTorch answers, for tests/engine/network/test_against_pytorch.py.

    OPENBLAS_NUM_THREADS=1 python scripts/record_pytorch.py

Needs the extra `oracle`. Walks the registries of activations, losses and regularizers: whatever
is declared there needs a PyTorch formula here, or the script stops and names it. Everything is
computed in float64 at points that float32 holds exactly, so that both precisions can be compared.

`DIFFERENCES` is the only place where the service is allowed to differ from what is recorded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from recording import write

from service.engine.declarations import Registry
from service.engine.network.activations import activations
from service.engine.network.losses import losses
from service.engine.network.regularizers import regularizers

Tensor = torch.Tensor
LARGEST_TOTAL = 1_000_000

# Where the service and PyTorch differ, or PyTorch is the less exact one: the tests take these
# tolerances there and no others. `values`, `slopes` and `second` are of activations.
DIFFERENCES = [
    {
        "kind": "activation",
        "name": "softplus",
        "tolerance": {"values": 1e-10, "slopes": 2.1e-9, "second": 2.1e-9},
        "why": "above 20 PyTorch answers x, its slope 1 and curvature 0; the service is exact everywhere",
    },
    {
        "kind": "activation",
        "name": "hard_sigmoid",
        "tolerance": {"slopes": 1e-8},
        "why": "PyTorch multiplies by 1/6 rounded to float32 in its backward pass",
    },
    {
        "kind": "loss",
        "name": "binary_crossentropy",
        "where": "a probability, not a logit, with p (1 - p) < 1e-12",
        "why": "PyTorch limits the product p (1 - p) and so answers 0 where p = t is 0 or 1; the service limits p "
        "and 1 - p apart and answers the one-sided derivative. Recorded is the service's convention, written with "
        "torch.clamp",
    },
    {
        "kind": "loss",
        "name": "categorical_crossentropy",
        "where": "class weights with normalize_weights",
        "why": "for targets that are distributions PyTorch's weighted mean divides by the number of samples; the "
        "service divides by the sum of the targets' weights, as PyTorch does for class indices. Recorded is the "
        "service's convention",
    },
    {
        "kind": "loss",
        "name": "cosine_similarity",
        "where": "vectors with a norm below epsilon",
        "why": "not recorded: PyTorch treats the norm in its backward pass as if it were not limited",
    },
    {
        "kind": "activation",
        "name": "step",
        "where": "surrogates",
        "why": "PyTorch has a step without derivative; recorded is its common idiom, soft + (step - soft).detach()",
    },
]


# --- activations --------------------------------------------------------------------------------


def step(x: Tensor, threshold: float, surrogate: str) -> Tensor:
    hard = (x >= threshold).to(x)
    moved = x - threshold
    soft = {
        "zero": 0.0 * x,
        "straight_through": x,
        "clipped": moved.clamp(-1.0, 1.0),  # whose slope at both ends is 1
        "sigmoid": moved.sigmoid(),
    }[surrogate]
    return hard.detach() + (soft - soft.detach())


ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "linear": lambda x: x * 1.0,
    "step": step,
    "sign": torch.sign,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": lambda x, alpha: F.leaky_relu(x, alpha),
    "prelu": lambda x, alpha: F.prelu(x, torch.tensor([alpha], dtype=x.dtype)),
    "elu": lambda x, alpha: F.elu(x, alpha),
    "selu": F.selu,
    "celu": lambda x, alpha: F.celu(x, alpha),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "hard_sigmoid": F.hardsigmoid,
    "hard_tanh": F.hardtanh,
    "relu6": F.relu6,
    "hard_silu": F.hardswish,
    "log_sigmoid": F.logsigmoid,
    "exponential": torch.exp,
    "hard_shrink": lambda x, threshold: F.hardshrink(x, threshold),
    "soft_shrink": lambda x, threshold: F.softshrink(x, threshold),
    "tanh_shrink": F.tanhshrink,
    "softmax": lambda x: F.softmax(x, -1),
    "softmin": lambda x: F.softmin(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
}

# Options tried beside the defaults.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "step": [
        {"surrogate": "straight_through"},
        {"surrogate": "clipped", "threshold": 0.5},
        {"surrogate": "sigmoid", "threshold": -0.25},
    ],
    "leaky_relu": [{"alpha": 0.3}],
    "prelu": [{"alpha": -0.5}],
    "elu": [{"alpha": 0.5}],
    "celu": [{"alpha": 2.0}],
    "hard_shrink": [{"threshold": 1.0}],
    "soft_shrink": [{"threshold": 1.0}],
}

# Where the slope jumps, so that a second derivative means nothing.
KINKS: dict[str, tuple[float, ...]] = {
    "relu": (0,),
    "leaky_relu": (0,),
    "prelu": (0,),
    "elu": (0,),
    "selu": (0,),
    "celu": (0,),
    "softsign": (0,),
    "hard_sigmoid": (-3, 3),
    "hard_tanh": (-1, 1),
    "relu6": (0, 6),
    "hard_silu": (-3, 3),
    "step": (-1.25, -0.5, -0.25, 0, 0.5, 0.75, 1, 1.5),
    "sign": (0,),
    "hard_shrink": (-1, -0.5, 0.5, 1),
    "soft_shrink": (-1, -0.5, 0.5, 1),
}

FIXED = [
    0.0,
    0.25,
    0.5,
    0.75,
    1.0,
    1.25,
    1.5,
    2.0,
    3.0,
    4.0,
    6.0,
    8.0,
    10.0,
    15.0,
    19.5,
    20.5,
    30.0,
    100.0,
    700.0,
    1000.0,
]


def points() -> Tensor:
    spread = np.random.default_rng(0).standard_normal(14) * 3.0
    values = np.concatenate([np.negative(FIXED), FIXED[1:], spread]).astype(np.float32)
    return torch.from_numpy(np.unique(values).astype(np.float64))


PIECEWISE_LINEAR = {"hard_sigmoid"}
"""PyTorch cannot differentiate these twice; the answer is 0."""


def second_derivative(name: str, slope: Tensor, x: Tensor, cotangent: Tensor) -> Tensor:
    if name in PIECEWISE_LINEAR or not slope.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(slope, x, cotangent, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def record_elementwise(name: str, options: dict[str, Any]) -> dict[str, Any]:
    x = points().requires_grad_()
    values = ACTIVATIONS[name](x, **options)
    (slopes,) = torch.autograd.grad(values, x, torch.ones_like(x), create_graph=True)
    second = second_derivative(name, slopes, x, torch.ones_like(x)).tolist()
    at_kink = [float(point) in KINKS.get(name, ()) for point in x.tolist()]
    return {
        "x": x.tolist(),
        "values": values.tolist(),
        "slopes": slopes.tolist(),
        "second": [None if kink else value for kink, value in zip(at_kink, second, strict=True)],
    }


ROWS = [
    [0.5, -1.25, 2.0, 0.0],
    [3.0, 3.0, 3.0, 3.0],
    [1000.0, -1000.0, 0.0, 1000.0],
    [-1000.0, -999.0, -998.0, -1000.0],
    [0.0, -40.0, 30.0, 29.0],
]
COTANGENTS = [
    [1.0, -0.5, 0.25, 2.0],
    [0.0, 1.0, 0.0, 0.0],
    [1.0, 2.0, 3.0, -1.0],
    [0.5, 0.5, -1.5, 1.0],
    [1.0, 0, 0, 0],
]


def record_rows(name: str, options: dict[str, Any]) -> dict[str, Any]:
    x = torch.tensor(ROWS, dtype=torch.float64, requires_grad=True)
    cotangent = torch.tensor(COTANGENTS, dtype=torch.float64)
    values = ACTIVATIONS[name](x, **options)
    (gradients,) = torch.autograd.grad(values, x, cotangent, create_graph=True)
    second = second_derivative(name, gradients, x, cotangent.flip(-1))
    return {
        "x": x.tolist(),
        "cotangent": cotangent.tolist(),
        "values": values.tolist(),
        "slopes": gradients.tolist(),
        "direction": cotangent.flip(-1).tolist(),
        "second": second.tolist(),
    }


def record_activations() -> list[dict[str, Any]]:
    need_formulas(activations, ACTIVATIONS)
    records = []
    for declaration in activations:
        for options in [{}, *VARIANTS.get(declaration.name, [])]:
            chosen = dict(activations.select(declaration.name, **options).options)
            record = record_rows if declaration.acts_on == "row" else record_elementwise
            records.append({"name": declaration.name, "options": chosen, **record(declaration.name, chosen)})
    return records


# --- losses -------------------------------------------------------------------------------------


def average(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def total(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def limited_log(p: Tensor) -> Tensor:
    """Compute ln p ≥ -100, with the derivative 1 / max(p, 1e-12)."""
    value = torch.log(p).clamp(min=-100.0).detach()
    slope = (1.0 / p.clamp(min=1e-12)).detach()
    return value + slope * (p - p.detach())


def binary(
    p: Tensor, t: Tensor, activation: str, from_logits: bool, label_smoothing: float, positive_weight: float
) -> Tensor:
    t = (1.0 - label_smoothing) * t + 0.5 * label_smoothing
    if from_logits or activation == "sigmoid":
        weight = torch.full(p.shape[-1:], positive_weight, dtype=p.dtype)
        return average(F.binary_cross_entropy_with_logits(p, t, pos_weight=weight, reduction="none"))
    inside = p.detach() * (1.0 - p.detach()) >= 1e-12
    if positive_weight == 1.0 and bool(inside.all()):
        return average(F.binary_cross_entropy(p, t, reduction="none"))
    return -average(positive_weight * t * limited_log(p) + (1.0 - t) * limited_log(1.0 - p))


def classes(
    p: Tensor, t: Tensor, activation: str, from_logits: bool, label_smoothing: float, class_weights: Any
) -> Tensor:
    """Compute each sample's cross-entropy, averaged over its positions; targets are indices or distributions."""
    weight = None if class_weights is None else torch.tensor(class_weights, dtype=p.dtype)
    rows, targets = p.reshape(-1, p.shape[-1]), t.reshape(-1) if t.dtype == torch.int64 else t.reshape(-1, t.shape[-1])
    if from_logits or activation == "softmax":
        each = F.cross_entropy(rows, targets, weight, reduction="none", label_smoothing=label_smoothing)
    else:
        hot = F.one_hot(targets, p.shape[-1]).to(p) if t.dtype == torch.int64 else targets
        hot = (1.0 - label_smoothing) * hot + label_smoothing / p.shape[-1]
        each = -(hot * (1.0 if weight is None else weight) * limited_log(rows)).sum(-1)
    return average(each.reshape(p.shape[0], -1))


def divergence(p: Tensor, t: Tensor, activation: str) -> Tensor:
    log_p = F.log_softmax(p, -1) if activation == "softmax" else limited_log(p)
    return average(F.kl_div(log_p, t, reduction="none").sum(-1).reshape(p.shape[0], -1))


def plain(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Adapt a loss of predictions and targets to the signature of those that also need the activation."""
    return lambda p, t, activation, **options: loss(p, t, **options)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "mean_squared_error": plain(lambda p, t: average(F.mse_loss(p, t, reduction="none"))),
    "squared_error": plain(lambda p, t: total(F.mse_loss(p, t, reduction="none"))),
    "half_squared_error": plain(lambda p, t: 0.5 * total(F.mse_loss(p, t, reduction="none"))),
    "mean_absolute_error": plain(lambda p, t: average(F.l1_loss(p, t, reduction="none"))),
    "huber": plain(lambda p, t, delta: average(F.huber_loss(p, t, delta=delta, reduction="none"))),
    "smooth_l1": plain(lambda p, t, beta: average(F.smooth_l1_loss(p, t, beta=beta, reduction="none"))),
    "log_cosh": plain(lambda p, t: average(torch.logaddexp(p - t, t - p) - math.log(2.0))),
    "binary_crossentropy": binary,
    "categorical_crossentropy": classes,
    "sparse_categorical_crossentropy": classes,
    "kl_divergence": divergence,
    "poisson": plain(
        lambda p, t, log_input, epsilon: average(
            F.poisson_nll_loss(p, t, log_input=log_input, eps=epsilon, reduction="none")
        )
    ),
    "hinge": plain(lambda p, t: average(F.relu(1.0 - t * p))),
    "squared_hinge": plain(lambda p, t: average(F.relu(1.0 - t * p).square())),
    "cosine_similarity": plain(lambda p, t, epsilon: -F.cosine_similarity(p.flatten(1), t.flatten(1), eps=epsilon)),
}

FLAT, STACKED = (4, 3), (3, 2, 3)
CLASS_WEIGHTS = (0.5, 2.0, 1.25)
Sample = tuple[np.ndarray, np.ndarray]


def real(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    # Halves and quarters hit the kinks of huber, hinge and absolute errors.
    return np.round(rng.standard_normal(shape) * 2.0 * 4.0) / 4.0


def probabilities(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return (0.05 + 0.9 * rng.random(shape)).astype(np.float32).astype(np.float64)


def distributions(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    parts = rng.integers(1, 9, shape).astype(np.float64)
    return (parts / parts.sum(-1, keepdims=True)).astype(np.float32).astype(np.float64)


def signs(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return rng.choice([-1.0, 1.0], shape)


def bits(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return rng.choice([0.0, 1.0, 0.25], shape)


def hot(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return np.eye(shape[-1])[rng.integers(shape[-1], size=shape[:-1])]


def indices(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return rng.integers(shape[-1], size=shape[:-1])


def counts(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 5, shape).astype(np.float64)


Draw = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]


def options_of(*choices: dict[str, Any]) -> list[dict[str, Any]]:
    return [{}, *choices]


def class_cases(targets: Draw) -> list[tuple[str, Draw, Draw, list[dict[str, Any]]]]:
    smooth, weighted = {"label_smoothing": 0.125}, {"class_weights": CLASS_WEIGHTS}
    variants = options_of(smooth, weighted, {**smooth, **weighted})
    logits = [{**options, "from_logits": True} for options in variants]
    return [
        ("linear", distributions, targets, variants),
        ("linear", real, targets, logits),
        ("softmax", real, targets, variants),
    ]


# By loss: activation before it, how predictions (or logits) and targets are drawn, and options.
CASES: dict[str, list[tuple[str, Draw, Draw, list[dict[str, Any]]]]] = {
    "mean_squared_error": [("linear", real, real, [{}])],
    "squared_error": [("linear", real, real, [{}])],
    "half_squared_error": [("linear", real, real, [{}])],
    "mean_absolute_error": [("linear", real, real, [{}])],
    "huber": [("linear", real, real, options_of({"delta": 0.5}, {"delta": 2.5}))],
    "smooth_l1": [("linear", real, real, options_of({"beta": 0.5}, {"beta": 2.5}, {"beta": 0.0}))],
    "log_cosh": [("linear", real, real, [{}])],
    "binary_crossentropy": [
        ("linear", probabilities, bits, options_of({"label_smoothing": 0.25}, {"positive_weight": 3.0})),
        (
            "linear",
            real,
            bits,
            [{"from_logits": True}, {"from_logits": True, "label_smoothing": 0.25, "positive_weight": 3.0}],
        ),
        ("sigmoid", real, bits, options_of({"label_smoothing": 0.25}, {"positive_weight": 0.5})),
    ],
    "categorical_crossentropy": [*class_cases(distributions), *class_cases(hot)],
    "sparse_categorical_crossentropy": class_cases(indices),
    "kl_divergence": [
        ("linear", distributions, distributions, [{}]),
        ("linear", distributions, hot, [{}]),
        ("softmax", real, distributions, [{}]),
    ],
    "poisson": [
        ("linear", probabilities, counts, options_of({"epsilon": 0.125})),
        ("linear", real, counts, [{"log_input": True}]),
    ],
    "hinge": [("linear", real, signs, [{}])],
    "squared_hinge": [("linear", real, signs, [{}])],
    "cosine_similarity": [("linear", real, real, options_of({"epsilon": 0.5}))],
}

HUGE = np.array([[1000.0, -1000.0, 0.0], [-1000.0, 1000.0, 1000.0], [40.0, -40.0, 0.5], [-745.0, 0.0, 745.0]])
EDGES = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.25], [1e-20, 0.5, 1.0], [0.5, 0.0, 1e-13]])

# Saturated predictions: the losses must stay finite and exact.
EXTREMES: list[tuple[str, str, np.ndarray, np.ndarray, dict[str, Any]]] = [
    ("binary_crossentropy", "sigmoid", HUGE, np.array([[1.0, 0, 1], [1, 0, 1], [0, 1, 0.5], [0, 1, 0]]), {}),
    ("binary_crossentropy", "sigmoid", -HUGE, np.array([[1.0, 0, 1], [1, 0, 1], [0, 1, 0.5], [0, 1, 0]]), {}),
    (
        "binary_crossentropy",
        "linear",
        HUGE,
        np.array([[1.0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 1, 1]]),
        {"from_logits": True},
    ),
    ("binary_crossentropy", "linear", EDGES, np.array([[1.0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]]), {}),
    ("categorical_crossentropy", "softmax", HUGE, np.eye(3)[[0, 0, 1, 0]], {}),
    ("categorical_crossentropy", "softmax", HUGE, np.eye(3)[[1, 2, 1, 2]], {"label_smoothing": 0.125}),
    ("categorical_crossentropy", "linear", HUGE, np.eye(3)[[1, 0, 0, 0]], {"from_logits": True}),
    ("categorical_crossentropy", "linear", EDGES, np.eye(3)[[0, 1, 0, 1]], {}),
    ("sparse_categorical_crossentropy", "softmax", HUGE, np.array([1, 0, 1, 0]), {}),
    ("kl_divergence", "softmax", HUGE, np.eye(3)[[1, 0, 1, 0]], {}),
    ("log_cosh", "linear", HUGE, -HUGE[::-1].copy(), {}),
    ("huber", "linear", HUGE, np.zeros((4, 3)), {}),
    ("poisson", "linear", np.array([[-1000.0, 0.0, 5.0]]), np.array([[1.0, 2.0, 3.0]]), {"log_input": True}),
]

SAMPLE_WEIGHTS = (0.5, 2.0, 0.0, 1.25)


def class_weight_of(targets: Tensor, class_weights: Any) -> Tensor:
    """Return the weight that each sample's target has."""
    weight = torch.tensor(class_weights, dtype=torch.float64)
    carried = weight[targets] if targets.dtype == torch.int64 else (targets * weight).sum(-1)
    return average(carried.reshape(len(targets), -1))


def record_loss(name: str, activation: str, p: np.ndarray, t: np.ndarray, options: dict[str, Any]) -> dict[str, Any]:
    """Return each sample's loss and its gradient, and the reductions with and without sample weights.

    Gradients are with respect to the input of the activation: the logits of sigmoid and softmax.
    """
    chosen = dict(losses.select(name, **options).options)
    x = torch.from_numpy(p).requires_grad_()
    targets = torch.from_numpy(t)
    each = LOSSES[name](x, targets, activation, **chosen)
    (gradient,) = torch.autograd.grad(each.sum(), x)
    weights = torch.tensor(SAMPLE_WEIGHTS[: len(p)], dtype=torch.float64)
    carried = torch.ones(len(p), dtype=torch.float64)
    if chosen.get("class_weights") is not None:
        carried = class_weight_of(targets, chosen["class_weights"])
    divisors = {
        "mean": [len(p), len(p)],
        "sum": [1.0, 1.0],
        "normalized mean": [carried.sum().item(), (carried * weights).sum().item()],
    }
    if name == "sparse_categorical_crossentropy" and activation == "softmax" and x.ndim == 2:
        check_weighted_mean(x, targets, each, carried, chosen)
    return {
        "name": name,
        "activation": activation,
        "options": options,
        "predictions": p.tolist(),
        "targets": t.tolist(),
        "per_sample": each.tolist(),
        "gradient": gradient.tolist(),
        "weights": weights.tolist(),
        "reductions": {
            reduction: {
                "plain": {"loss": (each.sum() / unweighted).item(), "divisor": unweighted},
                "weighted": {"loss": ((each * weights).sum() / weighted).item(), "divisor": weighted},
            }
            for reduction, (unweighted, weighted) in divisors.items()
        },
    }


def check_weighted_mean(x: Tensor, targets: Tensor, each: Tensor, carried: Tensor, options: dict[str, Any]) -> None:
    """Assert that the normalised mean of class weights is PyTorch's own weighted mean."""
    weight = None if options["class_weights"] is None else torch.tensor(options["class_weights"], dtype=x.dtype)
    own = F.cross_entropy(x, targets, weight, label_smoothing=options["label_smoothing"])
    assert torch.allclose(own, each.sum() / carried.sum(), rtol=1e-14, atol=0.0)


def record_losses() -> list[dict[str, Any]]:
    need_formulas(losses, LOSSES)
    need_formulas(losses, CASES)
    rng = np.random.default_rng(1)
    records = []
    for name, cases in CASES.items():
        for activation, predictions, targets, variants in cases:
            for options in variants:
                shapes = (FLAT, STACKED) if not options or "class_weights" in options else (FLAT,)
                for shape in shapes:
                    records.append(record_loss(name, activation, predictions(shape, rng), targets(shape, rng), options))
    records += [record_loss(*extreme) for extreme in EXTREMES]
    return records


# --- regularizers -------------------------------------------------------------------------------

REGULARIZERS: dict[str, Callable[..., Tensor]] = {
    "l1": lambda w, l1: l1 * w.abs().sum(),
    "l2": lambda w, l2: l2 * w.square().sum(),
    "l1_l2": lambda w, l1, l2: l1 * w.abs().sum() + l2 * w.square().sum(),
}


def record_regularizers() -> list[dict[str, Any]]:
    need_formulas(regularizers, REGULARIZERS)
    weights = [[0.0, -1.5, 2.25], [0.5, -0.125, 0.0]]
    records = []
    for declaration in regularizers:
        given = {option.name: 0.5 + 0.25 * position for position, option in enumerate(declaration.options)}
        for options in ({}, given):
            chosen = dict(regularizers.select(declaration.name, **options).options)
            w = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
            value = REGULARIZERS[declaration.name](w, **chosen)
            (gradient,) = torch.autograd.grad(value, w)
            records.append(
                {
                    "name": declaration.name,
                    "options": chosen,
                    "weights": weights,
                    "value": value.item(),
                    "gradient": gradient.tolist(),
                }
            )
    return records


# --- whole networks -----------------------------------------------------------------------------


def dense(units: int, activation: Any = "linear", **options: Any) -> dict[str, Any]:
    return {"type": "dense", "units": units, "activation": activation, **options}


# Layers are called by their position unless they say otherwise: a, b, c, ...
NETWORKS: dict[str, dict[str, Any]] = {
    "an mlp of mixed activations": {
        "inputs": [5, 3],
        "layers": [dense(5, "tanh"), dense(4, "gelu"), dense(4, "elu"), dense(3, "softmax")],
        "loss": {"name": "categorical_crossentropy"},
        "targets": "distributions",
    },
    "a deep network with dropout that is off": {
        "inputs": [4, 3],
        "layers": [
            dense(4, "mish"),
            {"type": "dropout", "rate": 0.5},
            dense(4, "softsign"),
            dense(4, "hard_silu"),
            dense(4, {"name": "celu", "alpha": 2.0}),
            dense(4, "selu"),
            dense(4, {"name": "leaky_relu", "alpha": 0.25}),
            dense(4, "gelu_tanh"),
            {"type": "activation", "activation": "log_sigmoid"},
            dense(2, "silu", use_bias=False),
        ],
        "loss": {"name": "mean_squared_error"},
        "targets": "real",
        "weighted": True,
    },
    "branches that add, multiply and concatenate": {
        "inputs": [6, 4],
        "layers": [
            dense(5, "silu", name="left", inputs=["input"]),
            dense(5, "tanh", name="right", inputs=["input"]),
            {"type": "add", "name": "sum", "inputs": ["left", "right"]},
            {"type": "multiply", "name": "product", "inputs": ["sum", "left", "right"]},
            {"type": "concatenate", "name": "all", "inputs": ["product", "input", "sum"]},
            dense(2, "sigmoid", name="out"),
        ],
        "loss": {"name": "binary_crossentropy", "positive_weight": 2.0},
        "targets": "bits",
        "reduction": "sum",
        "weighted": True,
    },
    "layers that share their parameters": {
        "inputs": [5, 4],
        "layers": [
            dense(4, "tanh", name="first", kernel_regularizer={"name": "l1_l2", "l1": 0.25, "l2": 0.5}),
            dense(4, "sigmoid", name="again", shares="first"),
            dense(4, "softplus", name="once more", shares="again"),
            dense(2, name="out", bias_regularizer={"name": "l2", "l2": 0.125}),
        ],
        "loss": {"name": "log_cosh"},
        "targets": "real",
    },
    "learned slopes": {
        "inputs": [6, 3],
        "layers": [
            dense(4, {"name": "prelu", "alpha": 0.25}),
            {"type": "prelu"},
            dense(3, "tanh_shrink"),
            {"type": "prelu", "shared_axes": [1], "alpha_regularizer": {"name": "l2", "l2": 0.5}},
        ],
        "loss": {"name": "huber", "delta": 0.5},
        "targets": "real",
        "reduction": "sum",
    },
    "samples with two axes": {
        "inputs": [3, 2, 3],
        "layers": [
            dense(4, "tanh"),
            {"type": "prelu", "shared_axes": [1]},
            {"type": "reshape", "target_shape": [4, -1]},
            dense(3, "softsign"),
            {"type": "flatten"},
            dense(2, "tanh"),
        ],
        "loss": {"name": "cosine_similarity"},
        "targets": "real",
    },
    "a distribution at every position": {
        "inputs": [3, 2, 3],
        "layers": [dense(5, "elu"), dense(3, "softmax")],
        "loss": {
            "name": "sparse_categorical_crossentropy",
            "class_weights": [0.5, 2.0, 1.25],
            "label_smoothing": 0.125,
        },
        "targets": "indices",
        "weighted": True,
    },
    "two outputs": {
        "inputs": [4, 3],
        "layers": [
            dense(4, "tanh", name="trunk"),
            dense(2, "sigmoid", name="near", inputs=["trunk"]),
            dense(3, "softplus", name="far", inputs=["trunk"]),
        ],
        "outputs": ["far", "near"],
        "loss": {"name": "smooth_l1", "beta": 0.5},
        "targets": "real",
        "weighted": True,
    },
    "no reduction, and layers written in any order": {
        "inputs": [4, 3],
        "layers": [
            dense(2, "softmin", name="last", inputs=["middle"]),
            dense(3, "relu", name="middle", inputs=["first"]),
            dense(4, "tanh", name="first", inputs=["input"]),
        ],
        "outputs": ["last"],
        "loss": {"name": "kl_divergence"},
        "targets": "distributions",
        "reduction": "none",
    },
    "squared hinges": {
        "inputs": [5, 2],
        "layers": [dense(3, "hard_tanh"), dense(1)],
        "loss": {"name": "squared_hinge"},
        "targets": "signs",
    },
    "counts": {
        "inputs": [5, 2],
        "layers": [dense(3, "relu6"), dense(2, "exponential")],
        "loss": {"name": "poisson"},
        "targets": "counts",
    },
}
TARGETS = {draw.__name__: draw for draw in (real, distributions, bits, indices, signs, counts)}


class Network:
    """A network in PyTorch, built from the description that the service takes."""

    def __init__(self, spec: dict[str, Any], rng: np.random.Generator) -> None:
        self.spec = spec
        self.rng = rng
        self.parameters: dict[str, dict[str, Tensor]] = {}
        self.owner: dict[str, str] = {}
        self.penalties: list[tuple[Tensor, dict[str, Any]]] = []
        self.layers = []
        for position, layer in enumerate(spec["layers"]):
            before = self.layers[-1]["name"] if self.layers else "input"
            self.layers.append({"name": "abcdefghijklmn"[position], "inputs": [before], **layer})

    def parameter(self, layer: dict[str, Any], name: str, shape: tuple[int, ...]) -> Tensor:
        owner = layer["name"]
        while "shares" in next(each for each in self.layers if each["name"] == owner):
            owner = next(each for each in self.layers if each["name"] == owner)["shares"]
        known = self.parameters.setdefault(owner, {})
        if name not in known:
            values = self.rng.standard_normal(shape) * 0.7
            known[name] = torch.from_numpy(values.astype(np.float32).astype(np.float64)).requires_grad_()
            if f"{name}_regularizer" in layer:
                self.penalties.append((known[name], layer[f"{name}_regularizer"]))
        return known[name]

    def activate(self, layer: dict[str, Any], z: Tensor) -> Tensor:
        chosen = layer["activation"]
        chosen = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
        name = chosen.pop("name")
        if name == "prelu":
            return torch.where(z > 0, z, self.parameter(layer, "alpha", z.shape[1:]) * z)
        return ACTIVATIONS[name](z, **activations.select(name, **chosen).options)

    def run(self, layer: dict[str, Any], *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of a layer, and its pre-activation."""
        x = inputs[0]
        match layer["type"]:
            case "dense":
                z = x @ self.parameter(layer, "kernel", (x.shape[-1], layer["units"]))
                if layer.get("use_bias", True):
                    z = z + self.parameter(layer, "bias", (layer["units"],))
                return self.activate(layer, z), z
            case "activation":
                return self.activate(layer, x), x
            case "prelu":
                shared = layer.get("shared_axes", [])
                shape = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))[1:]
                return torch.where(x > 0, x, self.parameter(layer, "alpha", shape) * x), x
            case "dropout":
                return (F.dropout(x, layer["rate"], training=False),) * 2
            case "reshape":
                return (x.reshape(len(x), *layer["target_shape"]),) * 2
            case "flatten":
                return (x.flatten(1),) * 2
            case "add":
                return (torch.stack(inputs).sum(0),) * 2
            case "multiply":
                return (torch.stack(inputs).prod(0),) * 2
            case "concatenate":
                return (torch.cat(inputs, -1),) * 2
        raise KeyError(layer["type"])

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        outputs, before = {"input": x}, {}
        waiting = list(self.layers)
        while waiting:
            layer = next(each for each in waiting if all(name in outputs for name in each["inputs"]))
            waiting.remove(layer)
            found = self.run(layer, *(outputs[name] for name in layer["inputs"]))
            outputs[layer["name"]], before[layer["name"]] = found
        return outputs, before

    def per_sample(self, x: Tensor, targets: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the outputs, and each sample's loss over all of them."""
        loss = dict(self.spec["loss"])
        name = loss.pop("name")
        options = losses.select(name, **loss).options
        outputs, before = self.forward(x)
        names = self.spec.get("outputs") or [self.layers[-1]["name"]]
        each = torch.zeros(len(x), dtype=x.dtype)
        for output in names:
            layer = next(layer for layer in self.layers if layer["name"] == output)
            activation = layer.get("activation")
            exact = activation if activation in ("sigmoid", "softmax") else "linear"
            predictions = outputs[output] if exact == "linear" else before[output]
            if name in ("kl_divergence", "mean_squared_error", "smooth_l1", "cosine_similarity") and exact == "sigmoid":
                exact, predictions = "linear", outputs[output]
            each = each + LOSSES[name](predictions, targets[output], exact, **options)
        return {name: outputs[name] for name in names}, each


def record_network(title: str, spec: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    network = Network(spec, rng)
    x = torch.from_numpy(real(tuple(spec["inputs"]), rng) * 0.5).requires_grad_()
    outputs, _ = network.forward(x)
    names = spec.get("outputs") or [network.layers[-1]["name"]]
    targets = {name: torch.from_numpy(TARGETS[spec["targets"]](tuple(outputs[name].shape), rng)) for name in names}
    weights = torch.from_numpy(np.round(rng.random(len(x)) * 8.0) / 4.0) if spec.get("weighted") else None

    found, each = network.per_sample(x, targets)
    weighted = each if weights is None else each * weights
    data_loss = weighted.mean() if spec.get("reduction", "mean") == "mean" else weighted.sum()
    penalty = torch.zeros((), dtype=torch.float64)
    for parameter, chosen in network.penalties:
        options = {key: value for key, value in chosen.items() if key != "name"}
        selected = regularizers.select(chosen["name"], **options)
        penalty = penalty + REGULARIZERS[chosen["name"]](parameter, **selected.options)
    places = [(layer, name) for layer, own in network.parameters.items() for name in own]
    parameters = [network.parameters[layer][name] for layer, name in places]
    *gradients, input_gradients = torch.autograd.grad(data_loss + penalty, [*parameters, x], retain_graph=True)
    alone = [torch.autograd.grad(value, parameters, retain_graph=True) for value in weighted]

    def tree(values: Iterable[Any]) -> dict[str, dict[str, Any]]:
        made: dict[str, dict[str, Any]] = {}
        for (layer, name), value in zip(places, values, strict=True):
            made.setdefault(layer, {})[name] = value.tolist()
        return made

    return {
        "title": title,
        "layers": network.layers,
        "outputs": spec.get("outputs"),
        "loss": spec["loss"],
        "reduction": spec.get("reduction", "mean"),
        "inputs": x.tolist(),
        "targets": {name: value.tolist() for name, value in targets.items()},
        "weights": None if weights is None else weights.tolist(),
        "parameters": tree(parameters),
        "expected": {
            "outputs": {name: value.tolist() for name, value in found.items()},
            "per_sample_loss": weighted.tolist(),
            "data_loss": data_loss.item(),
            "regularization_loss": penalty.item(),
            "gradients": tree(gradients),
            "input_gradients": input_gradients.tolist(),
            "per_sample_gradients": tree(torch.stack(values) for values in zip(*alone, strict=True)),
        },
    }


def record_networks() -> list[dict[str, Any]]:
    return [
        record_network(title, spec, np.random.default_rng([2, k])) for k, (title, spec) in enumerate(NETWORKS.items())
    ]


# --- files --------------------------------------------------------------------------------------


def need_formulas(registry: Registry[Any], formulas: dict[str, Any]) -> None:
    declared = {declaration.name for declaration in registry}
    if declared != set(formulas):
        missing, unknown = sorted(declared - set(formulas)), sorted(set(formulas) - declared)
        sys.exit(f"{registry.plural} without a PyTorch formula here: {missing}; formulas for none: {unknown}")


def main() -> None:
    torch.set_num_threads(1)
    written = 0
    for name, record in (
        ("activations", record_activations),
        ("losses", record_losses),
        ("regularizers", record_regularizers),
        ("networks", record_networks),
    ):
        differences = [difference for difference in DIFFERENCES if name.startswith(difference["kind"])]
        written += write(f"pytorch/{name}.json", name, record(), torch=torch.__version__, differences=differences)
    assert written < LARGEST_TOTAL


if __name__ == "__main__":
    main()
