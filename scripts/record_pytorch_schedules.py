"""Record PyTorch's schedules, for tests/engine/descent/test_schedules.py.

    python scripts/record_pytorch_schedules.py

Needs the extra `oracle`. Each is recorded as the optimizer meets it: learning rate, and momentum
where the schedule moves it, before each of the first steps. PyTorch goes from one to the next.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from recording import write
from torch.optim import lr_scheduler

COUNTS = 60
LOSSES = [round(2.0 ** (-count / 8) + 0.2 * math.sin(1.7 * count) * (count > 12), 6) for count in range(COUNTS)]
"""They fall, and then go up and down."""

Made = Callable[..., Any]


def with_base(scheduler: Any, **names: str) -> Made:
    """Return a function that makes a scheduler from the service's options; `names` maps their names to PyTorch's."""
    return lambda optimizer, base, **options: scheduler(
        optimizer, **{names.get(name, name): value for name, value in options.items()}
    )


def one_cycle(optimizer: Any, base: float, annealing: str = "cosine", **options: Any) -> Any:
    names = {
        "rising_part": "pct_start",
        "divisor": "div_factor",
        "final_divisor": "final_div_factor",
        "three_phases": "three_phase",
    }
    given = {names.get(name, name): value for name, value in options.items()}
    strategy = {"cosine": "cos"}.get(annealing, annealing)
    return lr_scheduler.OneCycleLR(optimizer, max_lr=base, anneal_strategy=strategy, **given)


def cyclic(optimizer: Any, base: float, max_learning_rate: float, **options: Any) -> Any:
    names = {"steps_up": "step_size_up", "steps_down": "step_size_down"}
    given = {names.get(name, name): value for name, value in options.items()}
    return lr_scheduler.CyclicLR(optimizer, base_lr=base, max_lr=max_learning_rate, **given)


def plateau(optimizer: Any, base: float, threshold_mode: str = "relative", minimum: float = 0.0, **options: Any) -> Any:
    mode = {"relative": "rel", "absolute": "abs"}[threshold_mode]
    return lr_scheduler.ReduceLROnPlateau(optimizer, threshold_mode=mode, min_lr=minimum, **options)


SCHEDULERS: dict[str, tuple[Made, list[dict[str, Any]]]] = {
    "step_decay": (
        with_base(lr_scheduler.StepLR, decay_steps="step_size"),
        [{"decay_steps": 7}, {"decay_steps": 1, "gamma": 0.97}, {"decay_steps": 13, "gamma": 1.5}],
    ),
    "multi_step": (
        with_base(lr_scheduler.MultiStepLR),
        [{"milestones": [3, 20, 50]}, {"milestones": [1, 2, 59], "gamma": 0.3}, {"milestones": [100]}],
    ),
    "exponential": (with_base(lr_scheduler.ExponentialLR), [{"gamma": 0.9}, {"gamma": 1.05}]),
    "polynomial": (
        with_base(lr_scheduler.PolynomialLR, decay_steps="total_iters"),
        [{"decay_steps": 5}, {"decay_steps": 40, "power": 2.0}, {"decay_steps": 60, "power": 0.5}],
    ),
    "linear": (
        with_base(lr_scheduler.LinearLR, total_steps="total_iters"),
        [{}, {"start_factor": 0.1, "end_factor": 0.5, "total_steps": 30}, {"start_factor": 1.0, "end_factor": 0.0}],
    ),
    "constant_factor": (
        with_base(lr_scheduler.ConstantLR, total_steps="total_iters"),
        [{}, {"factor": 0.7, "total_steps": 23}],
    ),
    "cosine": (
        with_base(lr_scheduler.CosineAnnealingLR, decay_steps="T_max", minimum="eta_min"),
        [{"decay_steps": 50}, {"decay_steps": 11, "minimum": 0.01}, {"decay_steps": 1, "minimum": 0.25}],
    ),
    "cosine_restarts": (
        with_base(lr_scheduler.CosineAnnealingWarmRestarts, first_decay_steps="T_0", t_mul="T_mult", minimum="eta_min"),
        [
            {"first_decay_steps": 9},
            {"first_decay_steps": 4, "t_mul": 2, "minimum": 0.02},
            {"first_decay_steps": 1, "t_mul": 3},
        ],
    ),
    "one_cycle": (
        one_cycle,
        [
            {"total_steps": 60},
            {"total_steps": 60, "annealing": "linear", "rising_part": 0.45, "divisor": 10.0, "final_divisor": 50.0},
            {"total_steps": 60, "three_phases": True, "base_momentum": 0.7, "max_momentum": 0.99},
            {"total_steps": 60, "three_phases": True, "rising_part": 0.5, "annealing": "linear"},
            {"total_steps": 60, "rising_part": 0.0, "cycle_momentum": False},
            {"total_steps": 60, "rising_part": 1.0},
        ],
    ),
    "cyclic": (
        cyclic,
        [
            {"max_learning_rate": 1.0},
            {"max_learning_rate": 1.0, "steps_up": 7, "steps_down": 4, "base_momentum": 0.5, "max_momentum": 0.95},
            {"max_learning_rate": 2.0, "steps_up": 5, "mode": "triangular2"},
            {"max_learning_rate": 0.1, "steps_up": 6, "steps_down": 1, "mode": "exp_range", "gamma": 0.98},
            {"max_learning_rate": 1.0, "steps_up": 3, "cycle_momentum": False},
        ],
    ),
    "plateau": (
        plateau,
        [
            {},
            {"patience": 2, "factor": 0.5},
            {"patience": 1, "factor": 0.5, "cooldown": 3, "minimum": 0.03},
            {"patience": 3, "factor": 0.5, "threshold": 0.05},
            {"patience": 3, "factor": 0.5, "threshold": 0.05, "threshold_mode": "absolute"},
            {"patience": 3, "factor": 0.5, "mode": "max"},
            {"patience": 0, "factor": 0.5, "mode": "max", "threshold": 0.05, "threshold_mode": "absolute"},
            {"patience": 2, "minimum": 2.0},
        ],
    ),
}


def record(name: str, made: Made, options: dict[str, Any], base: float) -> dict[str, Any]:
    parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=base, momentum=0.9)
    scheduler = made(optimizer, base, **options)
    (group,) = optimizer.param_groups
    rates, momenta = [], []
    for loss in LOSSES:
        rates.append(float(group["lr"]))
        momenta.append(float(group["momentum"]))
        optimizer.step()
        if len(rates) < COUNTS:
            scheduler.step(*([loss] if name == "plateau" else []))
    moves = name in ("one_cycle", "cyclic") and options.get("cycle_momentum", True)
    return {"name": name, "options": options, "base": base, "rates": rates, "momenta": momenta if moves else None}


def main() -> None:
    warnings.simplefilter("error")
    records = [record(name, made, options, 0.5) for name, (made, choices) in SCHEDULERS.items() for options in choices]
    write("pytorch/schedules.json", "records", records, torch=torch.__version__, losses=LOSSES)


if __name__ == "__main__":
    main()
