"""Time one step of Adam, parameters to parameters: ours, with and without its trace, against torch.optim.Adam."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.measure import RATIO_HEADER, Bar, blas, ratio_rows, table, time_in_turns, torch_here
from benchmarks.networks import DIGITS, XOR, Array, Case, Numbers
from service.api.training import record_of
from service.engine.compiling import Compiler
from service.engine.descent.loop import Recipe
from service.engine.descent.optimizers import optimizers
from service.engine.descent.training import Training
from service.engine.descent.training_plan import Plan
from service.engine.limits import Limits
from service.engine.network.definition import INPUT
from service.engine.network.feed import Feed
from service.wire.writing import dump

BARE, TRACED, WRITTEN, TORCH = (
    "Adam step",
    "gradients and parameters recorded",
    "… and written as JSON",
    "torch.optim.Adam",
)
BARS = {
    (XOR.name, "float64"): {TORCH: Bar(0.1)},
    (DIGITS.name, "float32"): {TORCH: Bar(0.5)},
}
TRACE_BARS = {(XOR.name, "float64"): {BARE: Bar(4.0)}}
LIMITS = Limits(operations=float("inf"), steps=10**12, trace_elements=10**15)


def training(case: Case, numbers: Numbers, dtype: str, *, traced: bool) -> Training:
    """Return a training that never ends; `traced` records the gradients and parameters of each step."""
    tree = case.tree(numbers.kernels, numbers.biases)
    plan = Plan(
        Recipe(optimizers.select("adam")),
        steps=10**9,
        every=1 if traced else 10**9,
        include=frozenset(("gradients", "parameters")) if traced else frozenset(),
    )
    compile_once = Compiler(LIMITS, 10**12)
    return Training(
        compile_once, LIMITS, case.task(dtype), Feed({INPUT: numbers.inputs}, tree, {"output": numbers.targets}), plan
    )


def written(case: Case, numbers: Numbers, dtype: str) -> Callable[[], object]:
    """Return a call that makes a step and writes its record as JSON, as a stream would send it."""
    running = training(case, numbers, dtype, traced=True)

    def step() -> bytes:
        recorded = running.advance()
        assert recorded is not None
        return dump(record_of(recorded))

    return step


def torch_adam(case: Case, numbers: Numbers) -> tuple[Callable[[], object], Callable[[], Array]]:
    """Return a call that makes a step as PyTorch's tutorials do, and one that gives the parameters in our order."""
    torch: Any = import_module("torch")
    torch.set_num_threads(1)
    modules: list[Any] = []
    functions = {"sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU}
    for kernel, bias, activation in zip(numbers.kernels, numbers.biases, case.activations, strict=True):
        linear = torch.nn.Linear(*kernel.shape, dtype=torch.from_numpy(kernel).dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(kernel.T.copy()))
            linear.bias.copy_(torch.tensor(bias))
        modules.append(linear)
        if activation in functions:
            modules.append(functions[activation]())
    network = torch.nn.Sequential(*modules)
    inputs, targets = torch.tensor(numbers.inputs), torch.tensor(numbers.targets)
    optimizer = torch.optim.Adam(network.parameters())
    mean_squared = torch.nn.functional.mse_loss
    cross_entropy = torch.nn.functional.cross_entropy

    def step() -> float:
        optimizer.zero_grad()
        outputs = network(inputs)
        loss = 0.5 * mean_squared(outputs, targets) if case is XOR else cross_entropy(outputs, targets)
        loss.backward()
        optimizer.step()
        told: float = loss.item()
        return told

    def parameters() -> Array:
        return np.concatenate([torch.atleast_2d(p).T.detach().numpy().reshape(-1) for p in network.parameters()])

    return step, parameters


def compare(case: Case, dtype: str, rounds: int, with_torch: bool) -> None:
    numbers = case.numbers(dtype)
    bare = training(case, numbers, dtype, traced=False)
    contenders: dict[str, Callable[[], object]] = {BARE: bare.advance}
    contenders[TRACED] = training(case, numbers, dtype, traced=True).advance
    contenders[WRITTEN] = written(case, numbers, dtype)
    if with_torch:
        contenders[TORCH], parameters = torch_adam(case, numbers)
        for _ in range(3):
            bare.advance()
            contenders[TORCH]()
        difference = np.abs(bare.objective.flat - parameters()).max()
        if dtype == "float64" and difference > 1e-12:
            raise SystemExit(f"{case.name}: after three steps PyTorch's parameters differ by {difference:g}")
    timings = time_in_turns(contenders, rounds)
    table(f"{case.name}, {dtype}", RATIO_HEADER, ratio_rows(timings, BARE, BARS.get((case.name, dtype), {})))
    if (case.name, dtype) in TRACE_BARS:
        rows = ratio_rows(timings, WRITTEN, TRACE_BARS[case.name, dtype])
        table("What a trace costs: recorded and written", RATIO_HEADER, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="turns of each contender (default 31)")
    parser.add_argument("--quick", action="store_true", help="a few turns only, to see that it runs")
    options = parser.parse_args()
    with_torch = torch_here()
    print(blas())
    for case in (XOR, DIGITS):
        for dtype in ("float64", "float32"):
            compare(case, dtype, 5 if options.quick else options.rounds, with_torch)


if __name__ == "__main__":
    main()
