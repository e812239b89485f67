"""Record trajectories of PyTorch's L-BFGS, for tests/engine/descent/test_searches.py.

    OPENBLAS_NUM_THREADS=1 python scripts/record_pytorch_lbfgs.py

Needs the extra `oracle`. Where another last digit of the start moves what comes out by more than
the tests forgive, rounding decides and not the algorithm: null is recorded there.

A step with few iterations gets more evaluations here than PyTorch would
give it: of 5/4 of one iteration nothing is left for a line search.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recording import write

Tensor = torch.Tensor
STEPS = 40
CERTAIN = 1e-9


def rosenbrock(x: Tensor) -> Tensor:
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


def quadratic(x: Tensor) -> Tensor:
    """Compute a quadratic function with curvatures 1 to 1000 along turned axes."""
    curvatures = torch.logspace(0.0, 3.0, len(x), dtype=torch.float64)
    mirror = torch.arange(1.0, len(x) + 1.0, dtype=torch.float64)
    turned = x - 2.0 * mirror * (mirror @ x) / (mirror @ mirror)
    return 0.5 * (curvatures * turned**2).sum() + x.sum()


def himmelblau(x: Tensor) -> Tensor:
    return (x[0] ** 2 + x[1] - 11.0) ** 2 + (x[0] + x[1] ** 2 - 7.0) ** 2


def logistic(x: Tensor) -> Tensor:
    """Compute the loss of a logistic regression on 12 samples with 3 features, with a small penalty."""
    n = torch.arange(12.0, dtype=torch.float64)
    features = torch.stack([torch.ones_like(n), torch.sin(n), torch.cos(2.0 * n), n / 6.0 - 1.0], 1)
    signs = torch.where(torch.sin(n) + torch.cos(3.0 * n) > 0.0, 1.0, -1.0).double()
    return torch.nn.functional.softplus(-signs * (features @ x)).mean() + 0.005 * (x @ x)


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], list[float]]] = {
    "rosenbrock of 2": (rosenbrock, [-1.2, 1.0]),
    "rosenbrock of 10": (rosenbrock, [-1.2, 1.0] * 5),
    "quadratic": (quadratic, [1.0, -2.0, 0.5, 3.0, -1.0, 2.0]),
    "himmelblau": (himmelblau, [0.5, -0.25]),
    "logistic": (logistic, [0.0, 0.0, 0.0, 0.0]),
}
CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"iterations": 20},
    {"line_search": "none", "learning_rate": 0.25},
    {"line_search": "none", "learning_rate": 0.5, "iterations": 20},
    {"learning_rate": 0.5, "history_size": 4, "iterations": 2, "evaluations": 5},
    {"tolerance_gradient": 0.01},
    {"tolerance_change": 0.001, "iterations": 20},
    {"evaluations": 2},
]


def trajectory(function: Callable[[Tensor], Tensor], start: Tensor, options: dict[str, Any]) -> Tensor:
    parameters = start.clone().requires_grad_()
    iterations = options.get("iterations", 1)
    optimizer = torch.optim.LBFGS(
        [parameters],
        lr=options.get("learning_rate", 1.0),
        max_iter=iterations,
        max_eval=options.get("evaluations", max(25, iterations * 5 // 4)),
        tolerance_grad=options.get("tolerance_gradient", 1e-7),
        tolerance_change=options.get("tolerance_change", 1e-9),
        history_size=options.get("history_size", 100),
        line_search_fn=None if options.get("line_search") == "none" else "strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = function(parameters)
        loss.backward()
        return loss

    places = []
    for _ in range(STEPS):
        optimizer.step(closure)
        places.append(parameters.detach().clone())
    return torch.stack(places)


def record(name: str, options: dict[str, Any]) -> dict[str, Any]:
    function, numbers = FUNCTIONS[name]
    start = torch.tensor(numbers, dtype=torch.float64)
    places = trajectory(function, start, options)
    assert places.isfinite().all(), (name, options)
    others = trajectory(function, start * (1.0 + 1e-15) + 1e-16, options)
    certain = ((others - places).abs() <= CERTAIN * places.abs()).all(1).tolist()
    assert any(certain), (name, options)
    kept = [place if sure else None for place, sure in zip(places.tolist(), certain, strict=True)]
    return {"function": name, "start": numbers, "options": options, "parameters": kept}


def main() -> None:
    torch.set_num_threads(1)
    records = [record(name, options) for name in FUNCTIONS for options in CONFIGURATIONS]
    places = sum(place is not None for each in records for place in each["parameters"])
    count = f"{len(records)} trajectories, {places} places"
    write("pytorch/l_bfgs.json", "records", records, count, torch=torch.__version__)


if __name__ == "__main__":
    main()
