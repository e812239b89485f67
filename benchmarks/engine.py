"""Time forward and backward passes: the engine's plan, PyTorch eager, NumPy by hand and the bare matrix products."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.by_hand import sigmoid_gradients, softmax_gradients
from benchmarks.measure import RATIO_HEADER, Bar, blas, ratio_rows, table, time_in_turns, torch_here
from benchmarks.networks import DIGITS, WIDE, XOR, Array, Case, Numbers
from service.engine.graph.plan import Workspace
from service.engine.limits import Limits
from service.engine.network.definition import INPUT
from service.engine.network.evaluate import compile_task
from service.engine.network.feed import Feed

PLAN, WHOLE, TORCH, BY_HAND, PRODUCTS = (
    "planned program",
    "Evaluation.run, copies in and out",
    "PyTorch eager",
    "NumPy by hand",
    "bare matrix products",
)
BARS = {
    (XOR.name, "float64"): {TORCH: Bar(0.25)},
    (XOR.name, "float32"): {TORCH: Bar(0.25)},
    (DIGITS.name, "float32"): {TORCH: Bar(0.6)},
    (WIDE.name, "float64"): {PRODUCTS: Bar(1.1)},
    (WIDE.name, "float32"): {PRODUCTS: Bar(1.1)},
}

Answer = Callable[[], tuple[float, Array]]
"""The result of a contender: the loss and the gradients as one vector."""


def planned(case: Case, numbers: Numbers, dtype: str) -> tuple[dict[str, Callable[[], object]], dict[str, Answer]]:
    """Return two contenders, the program with its numbers in place and the whole of `Evaluation.run`, and an answer.

    The program leaves its numbers where they are, as PyTorch does; `Evaluation.run` copies them in and out.
    """
    evaluation = compile_task(case.task(dtype), Limits())
    workspace = Workspace(evaluation.program)
    tree = case.tree(numbers.kernels, numbers.biases)
    feed = Feed({INPUT: numbers.inputs}, tree, {"output": numbers.targets})
    evaluation.feeder.fill(workspace, feed, None)
    run = partial(evaluation.run, feed)

    def answer() -> tuple[float, Array]:
        workspace.run()
        return float(workspace.outputs["loss"]), workspace.gradients.copy()

    return {PLAN: workspace.run, WHOLE: run}, {PLAN: answer}


def by_hand(case: Case, numbers: Numbers) -> tuple[Callable[[], object], Answer]:
    compute = sigmoid_gradients if case is XOR else softmax_gradients
    call = partial(compute, numbers.kernels, numbers.biases, numbers.inputs, numbers.targets)

    def answer() -> tuple[float, Array]:
        loss, _, gradients = call()
        return float(loss), np.concatenate([gradient.reshape(-1) for gradient in gradients])

    return call, answer


def products(case: Case, numbers: Numbers) -> Callable[[], object]:
    """Return a call that runs only the network's matrix products, into existing arrays: the least time possible."""
    dtype = numbers.inputs.dtype
    generator = np.random.default_rng(7)
    calls: list[Callable[[], object]] = []
    backward: list[Callable[[], object]] = []
    before = numbers.inputs
    for position, kernel in enumerate(numbers.kernels):
        out = np.empty((case.batch, kernel.shape[1]), dtype)
        calls.append(partial(before.dot, kernel, out))
        delta = generator.standard_normal(out.shape).astype(dtype)
        found: list[Callable[[], object]] = [partial(before.T.dot, delta, np.empty_like(kernel))]
        if position:
            found.append(partial(delta.dot, kernel.T, np.empty_like(before)))
        backward[:0] = found
        before = generator.standard_normal(out.shape).astype(dtype)
    calls += backward

    def run() -> None:
        for call in calls:
            call()

    return run


def torch_eager(case: Case, numbers: Numbers) -> tuple[Callable[[], object], Answer]:
    """Return a call that runs forward and backward in functional PyTorch, as its users do, and its answer."""
    torch: Any = import_module("torch")
    functional = torch.nn.functional
    torch.set_num_threads(1)
    kernels = [torch.tensor(kernel.T.copy(), requires_grad=True) for kernel in numbers.kernels]
    biases = [torch.tensor(bias, requires_grad=True) for bias in numbers.biases]
    parameters = [parameter for pair in zip(kernels, biases, strict=True) for parameter in pair]
    inputs, targets = torch.tensor(numbers.inputs), torch.tensor(numbers.targets)

    def step() -> Any:
        for parameter in parameters:
            parameter.grad = None
        a = inputs
        if case is XOR:
            for kernel, bias in zip(kernels, biases, strict=True):
                a = torch.sigmoid(functional.linear(a, kernel, bias))
            loss = 0.5 * functional.mse_loss(a, targets)
        else:
            for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
                a = functional.relu(functional.linear(a, kernel, bias))
            loss = functional.cross_entropy(functional.linear(a, kernels[-1], biases[-1]), targets)
        loss.backward()
        return loss

    def answer() -> tuple[float, Array]:
        loss = step()
        return loss.item(), np.concatenate([torch.atleast_2d(p.grad).T.numpy().reshape(-1) for p in parameters])

    return step, answer


def compare(case: Case, dtype: str, rounds: int, seconds: float, with_torch: bool) -> None:
    numbers = case.numbers(dtype)
    contenders, answers = planned(case, numbers, dtype)
    if with_torch:
        contenders[TORCH], answers[TORCH] = torch_eager(case, numbers)
    contenders[BY_HAND], answers[BY_HAND] = by_hand(case, numbers)
    contenders[PRODUCTS] = products(case, numbers)

    loss, gradients = answers[PLAN]()
    tolerance = 1e-10 if dtype == "float64" else 1e-3
    for name, answer in answers.items():
        other_loss, other = answer()
        largest = float(np.abs(gradients).max())
        if abs(other_loss - loss) > tolerance or float(np.abs(other - gradients).max()) > tolerance * largest:
            raise SystemExit(f"{case.name} {dtype}: {name} computes something else")

    timings = time_in_turns(contenders, rounds, seconds)
    rows = ratio_rows(timings, PLAN, BARS.get((case.name, dtype), {}))
    table(f"{case.name}, {dtype}: forward and backward", RATIO_HEADER, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="turns of each contender (default 31)")
    parser.add_argument("--quick", action="store_true", help="a few turns only, to see that it runs")
    parser.add_argument("--only", choices=("xor", "digits", "wide"), help="one network")
    options = parser.parse_args()
    chosen = {"xor": XOR, "digits": DIGITS, "wide": WIDE}
    with_torch = torch_here()
    print(blas())
    for name, case in chosen.items():
        if options.only in (None, name):
            for dtype in ("float64", "float32"):
                compare(case, dtype, 5 if options.quick else options.rounds, 0.01, with_torch)


if __name__ == "__main__":
    main()
