"""Record what PyTorch's optimizers do, for tests/engine/descent/test_optimizers.py.

    OPENBLAS_NUM_THREADS=1 python scripts/record_pytorch_optimizers.py

Needs the extra `oracle`. Every optimizer descends on one small nonlinear function in float64, once for each choice of
options; recorded is where it stands after a few steps. The names of the options are the service's; the test says which
are missing.

What an optimizer of PyTorch lacks is done around it as others of PyTorch do it: coupled decay as in SGD, decoupled
decay as in AdamW. The textbooks' `momentum` is PyTorch's while the learning rate stays the same. PyTorch's `nesterov`
keeps the point looked ahead to; recorded is the point it looks from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from recording import write

Tensor = torch.Tensor
START = [0.9, -0.6, 0.4, 1.3, -1.1, 0.2, 0.7]
RECORDED = (1, 2, 3, 10, 40)
DECOUPLED = "decoupled_weight_decay"

# The service's names of PyTorch's options; others are called the same.
NAMES: dict[str, tuple[str, ...]] = {
    "lr": ("learning_rate",),
    "lr_decay": ("learning_rate_decay",),
    "alpha": ("rho",),
    "eps": ("epsilon",),
    "betas": ("beta_1", "beta_2"),
    "etas": ("step_decrease", "step_increase"),
    "step_sizes": ("minimum_step", "maximum_step"),
}

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {}),
    "nesterov": (torch.optim.SGD, {"nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adam": (torch.optim.Adam, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, {}),
    "adamax": (torch.optim.Adamax, {}),
    "nadam": (torch.optim.NAdam, {}),
    "radam": (torch.optim.RAdam, {}),
    "rprop": (torch.optim.Rprop, {}),
}

DECAY: list[dict[str, Any]] = [
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled_weight_decay": True},
    {"maximize": True},
]
DECAY_AND_ASCENT: list[dict[str, Any]] = [*DECAY, {"weight_decay": 0.1, "maximize": True}]
MOMENTS: list[dict[str, Any]] = [
    {},
    {"learning_rate": 0.05},
    {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.95},
    {"learning_rate": 0.05, "beta_1": 0.0},
    {"learning_rate": 0.05, "epsilon": 0.01},
]

CHOICES: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {},
        {"learning_rate": 0.1},
        {"learning_rate": 0.1, "momentum": 0.9},
        {"learning_rate": 0.1, "momentum": 0.9, "dampening": 0.5},
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"learning_rate": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": True},
        *DECAY_AND_ASCENT,
    ],
    "momentum": [
        {"learning_rate": 0.1, "momentum": 0.9},
        {"learning_rate": 0.1, "momentum": 0.5},
        *({"learning_rate": 0.01, "momentum": 0.9} | options for options in DECAY_AND_ASCENT),
    ],
    "nesterov": [
        {"learning_rate": 0.1, "momentum": 0.9},
        {"learning_rate": 0.1, "momentum": 0.5},
        *({"learning_rate": 0.01, "momentum": 0.9} | options for options in DECAY),
    ],
    "adagrad": [
        {},
        {"learning_rate": 0.1},
        {"learning_rate": 0.1, "learning_rate_decay": 0.5},
        {"learning_rate": 0.1, "initial_accumulator_value": 0.1},
        {"learning_rate": 0.1, "epsilon": 0.01},
        {"learning_rate": 0.1, "learning_rate_decay": 0.5, "initial_accumulator_value": 0.1, "weight_decay": 0.1},
        *DECAY_AND_ASCENT,
    ],
    "rmsprop": [
        {},
        {"learning_rate": 0.001},
        {"rho": 0.9},
        {"epsilon": 0.01},
        {"momentum": 0.9},
        {"centered": True},
        {"centered": True, "momentum": 0.9, "rho": 0.9},
        {"centered": True, "momentum": 0.1, "weight_decay": 0.1},
        {"centered": True, "momentum": 0.1, "weight_decay": 0.1, "maximize": True},
        *DECAY_AND_ASCENT,
    ],
    "adadelta": [
        {},
        {"learning_rate": 0.01},
        {"rho": 0.95, "weight_decay": 0.9},
        {"epsilon": 0.001},
        *DECAY_AND_ASCENT,
    ],
    "adam": [
        *MOMENTS,
        {"learning_rate": 0.05, "amsgrad": True},
        {"learning_rate": 0.05, "amsgrad": True, "beta_2": 0.9, "weight_decay": 0.1},
        *DECAY_AND_ASCENT,
        {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
    ],
    "amsgrad": [*MOMENTS, *DECAY_AND_ASCENT],
    "adamw": [
        *MOMENTS,
        {"learning_rate": 0.05, "weight_decay": 0.3},
        {"learning_rate": 0.05, "decoupled_weight_decay": False},
        {"learning_rate": 0.05, "amsgrad": True, "beta_2": 0.9},
        {"learning_rate": 0.05, "weight_decay": 0.3, "maximize": True},
    ],
    "adamax": [*MOMENTS, *DECAY_AND_ASCENT],
    "nadam": [
        *MOMENTS,
        {"learning_rate": 0.05, "momentum_decay": 0.006},
        {"learning_rate": 0.05, "momentum_decay": 1.0, "weight_decay": 0.1},
        {"learning_rate": 0.05, "momentum_decay": 0.006, "weight_decay": 0.9, "decoupled_weight_decay": True},
        *DECAY_AND_ASCENT,
    ],
    "radam": [*MOMENTS, {"learning_rate": 0.05, "beta_2": 0.5}, *DECAY_AND_ASCENT],
    "rprop": [
        {},
        {"learning_rate": 0.2},
        {"step_decrease": 0.3},
        {"step_increase": 1.5},
        {"learning_rate": 0.2, "minimum_step": 0.05},
        {"maximum_step": 0.02},
        *DECAY,
    ],
}


def objective(x: Tensor) -> Tensor:
    """Compute a loss that couples six numbers, each drawn to a sine of the one before; the seventh has no effect."""
    return 0.25 * ((x[1:6] - torch.sin(2.0 * x[:5])) ** 2).sum()


def arguments(kind: type[torch.optim.Optimizer], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return PyTorch's arguments for those of the options that its optimizer has."""
    found: dict[str, Any] = {}
    for name, default in kind([torch.zeros(1)]).defaults.items():
        names = NAMES.get(name, (name,))
        if any(item in options for item in names):
            values = default if isinstance(default, tuple) else (default,)
            given = tuple(options.get(item, value) for item, value in zip(names, values, strict=True))
            found[name] = given if isinstance(default, tuple) else given[0]
    return found


def descend(name: str, options: Mapping[str, Any]) -> dict[str, list[float]]:
    kind, preset = OPTIMIZERS[name]
    if kind is torch.optim.AdamW and DECOUPLED in options:  # it has no such argument
        kind, preset = torch.optim.Adam, {"weight_decay": kind([torch.zeros(1)]).defaults["weight_decay"]}
    own = arguments(kind, preset | dict(options))
    around = options.get("weight_decay", 0.0)
    decoupled_around = options.get(DECOUPLED, False) and DECOUPLED not in own
    coupled_around = not decoupled_around and name in ("nesterov", "rprop")
    if decoupled_around or coupled_around:
        own.pop("weight_decay", None)
    x = torch.tensor(START, requires_grad=True)
    optimizer = kind([x], **own)

    def position() -> Tensor:
        """Return the parameters; for Nesterov's method at the point that it looks from."""
        if name != "nesterov" or not optimizer.state:
            return x.detach().clone()
        ahead = options["momentum"] * options["learning_rate"] * optimizer.state[x]["momentum_buffer"]
        return x.detach() + ahead

    recorded: dict[str, list[float]] = {}
    for step in range(1, RECORDED[-1] + 1):
        (x.grad,) = torch.autograd.grad(objective(x), x)
        with torch.no_grad():
            if decoupled_around:
                x -= optimizer.defaults["lr"] * around * position()
            elif coupled_around:
                x.grad += around * position()
        optimizer.step()
        if step in RECORDED:
            recorded[str(step)] = position().tolist()
    return recorded


def defaults(name: str) -> dict[str, Any]:
    """Return PyTorch's defaults for the service's options of an optimizer."""
    kind, preset = OPTIMIZERS[name]
    found: dict[str, Any] = {}
    for key, value in kind([torch.zeros(1)]).defaults.items():
        names = NAMES.get(key, (key,))
        if key not in ("foreach", "capturable", "differentiable", "fused") and key not in preset:
            found |= dict(zip(names, value if isinstance(value, tuple) else (value,), strict=True))
    return found


def main() -> None:
    torch.set_default_dtype(torch.float64)
    records = [
        {"optimizer": name, "options": options, "parameters": descend(name, options)}
        for name, choices in CHOICES.items()
        for options in choices
    ]
    textbook = ("momentum", "nesterov")  # their defaults are not PyTorch's
    source = f"PyTorch {torch.__version__}"
    told = {name: defaults(name) for name in OPTIMIZERS if name not in textbook}
    write("pytorch/optimizers.json", "records", records, source=source, start=START, defaults=told)


if __name__ == "__main__":
    main()
