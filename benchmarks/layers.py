"""Time convolutions, recurrence, per-sample gradients and a Hessian: the planned program against PyTorch."""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.measure import RATIO_HEADER, Bar, blas, duration, ratio_rows, table, time_in_turns, torch_here
from benchmarks.networks import XOR, Array, Numbers
from schemas.network import NetworkField
from service.engine.graph.ir import OPERATIONS
from service.engine.graph.plan import Workspace
from service.engine.limits import Limits
from service.engine.network.definition import INPUT
from service.engine.network.derivatives import DerivativeTask, compile_derivative
from service.engine.network.evaluate import Evaluation, compile_task
from service.engine.network.feed import Feed
from service.engine.network.losses import losses
from service.engine.network.task import Task

PLAN, WHOLE = "planned program", "Derivation.run, copies in and out"
EAGER, VMAP, HESSIAN = "PyTorch eager", "PyTorch vmap(grad)", "PyTorch hessian"
HESSIAN_BAR = Bar(0.25)
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}
"""The largest difference of answers, relative to their largest number."""

Peer = Callable[[Any, "Case", Feed], tuple[Callable[[], object], Callable[[], list[Array]]]]
"""`(torch, case, numbers)` to a call to be timed, and what it computes: see `Case.answer`."""


@dataclass(frozen=True)
class Case:
    """A network in the format of requests, with class indices as targets and a PyTorch peer to compare with."""

    name: str
    layers: Sequence[Mapping[str, Any]]
    sample: tuple[int, ...]
    """The shape of one sample."""
    batch: int
    classes: int
    rival: str
    peer: Peer
    bars: Mapping[str, float]
    """The largest ratio to the rival, by dtype."""
    include: frozenset[str] = frozenset()

    def evaluation(self, dtype: str) -> Evaluation:
        definition = NetworkField().deserialize({"layers": list(self.layers)})
        task = Task(
            definition,
            dtype,
            ((INPUT, (self.batch, *self.sample)),),
            include=self.include,
            losses=(losses.select("sparse_categorical_crossentropy"),),
            targets=((definition.output_names[0], (self.batch,)),),
        )
        return compile_task(task, Limits())

    def numbers(self, evaluation: Evaluation) -> Feed:
        """Return random inputs, targets and parameters; biases are not 0, so that mistakes in them show."""
        generator = np.random.default_rng(1986)
        inputs = generator.standard_normal((self.batch, *self.sample)).astype(evaluation.task.dtype)
        targets = generator.integers(0, self.classes, self.batch)
        parameters: dict[str, dict[str, Array]] = {}
        for piece in evaluation.parameters.pieces:
            fan_in = np.prod(piece.shape[:-1]) if len(piece.shape) > 1 else 100
            array = generator.normal(0.0, fan_in**-0.5, piece.shape).astype(evaluation.task.dtype)
            parameters.setdefault(piece.layer, {})[piece.name] = array
        (output,) = evaluation.task.definition.output_names
        return Feed({INPUT: inputs}, parameters, {output: targets})

    def answer(self, evaluation: Evaluation, workspace: Workspace) -> list[Array]:
        """Return the loss and the gradients in the order of the parameters; with `per_sample`, of each sample."""
        read = workspace.outputs
        pieces = evaluation.parameters.pieces
        if "per_sample" in self.include:
            return [read["per_sample_loss"], *[read[f"per_sample/{piece.layer}.{piece.name}"] for piece in pieces]]
        flat = workspace.gradients
        return [read["loss"], *[flat[piece.start : piece.stop].reshape(piece.shape) for piece in pieces]]


# --- PyTorch ------------------------------------------------------------------------------------


def tensors_of(torch: Any, feed: Feed) -> tuple[Any, Any, dict[str, Any]]:
    """Return inputs, targets and parameters as PyTorch tensors, the parameters by `layer.name`."""
    (targets,) = feed.targets.values()
    parameters = {
        f"{layer}.{name}": torch.tensor(array)
        for layer, arrays in (feed.parameters or {}).items()
        for name, array in arrays.items()
    }
    return torch.tensor(feed.inputs[INPUT]), torch.tensor(targets), parameters


def leaf(tensor: Any) -> Any:
    """Return a contiguous copy of a tensor that PyTorch computes a gradient for."""
    return tensor.clone().contiguous().requires_grad_()


def eager(parameters: Sequence[Any], loss_of: Callable[[], Any]) -> Callable[[], Any]:
    """Return a call that runs forward and backward; gradients are None before, as PyTorch's optimizers leave them."""

    def step() -> Any:
        for parameter in parameters:
            parameter.grad = None
        loss = loss_of()
        loss.backward()
        return loss

    return step


def torch_lenet(torch: Any, case: Case, feed: Feed) -> tuple[Callable[[], object], Callable[[], list[Array]]]:
    """Build LeNet in PyTorch's layout (channels first); return a call to time and one that gives its answer."""
    functional = torch.nn.functional
    x, targets, given = tensors_of(torch, feed)
    x = x.permute(0, 3, 1, 2).contiguous()
    kernels = [leaf(given[f"{name}.kernel"].permute(3, 2, 0, 1)) for name in ("c1", "c3")]
    first = given["f5.kernel"].reshape(5, 5, 16, 120).permute(3, 2, 0, 1).reshape(120, 400)
    kernels += [leaf(first), *[leaf(given[f"{name}.kernel"].T) for name in ("f6", "output")]]
    biases = [leaf(given[f"{name}.bias"]) for name in ("c1", "c3", "f5", "f6", "output")]

    def loss_of() -> Any:
        a = functional.max_pool2d(torch.relu(functional.conv2d(x, kernels[0], biases[0], padding=2)), 2)
        a = functional.max_pool2d(torch.relu(functional.conv2d(a, kernels[1], biases[1])), 2)
        a = a.flatten(1)
        a = torch.relu(functional.linear(a, kernels[2], biases[2]))
        a = torch.relu(functional.linear(a, kernels[3], biases[3]))
        return functional.cross_entropy(functional.linear(a, kernels[4], biases[4]), targets)

    step = eager([*kernels, *biases], loss_of)

    def answer() -> list[Array]:
        loss = step()
        found = [kernel.grad.permute(2, 3, 1, 0) for kernel in kernels[:2]]
        found.append(kernels[2].grad.reshape(120, 16, 5, 5).permute(2, 3, 1, 0).reshape(400, 120))
        found += [kernel.grad.T for kernel in kernels[3:]]
        pairs = zip(found, biases, strict=True)
        return [loss.detach().numpy(), *[part.numpy() for kernel, bias in pairs for part in (kernel, bias.grad)]]

    return step, answer


def torch_lstm(torch: Any, case: Case, feed: Feed) -> tuple[Callable[[], object], Callable[[], list[Array]]]:
    """Build `nn.LSTM` with a linear head, its second bias 0; return a call to time and one that gives its answer."""
    functional = torch.nn.functional
    x, targets, given = tensors_of(torch, feed)
    features, gates = given["lstm.kernel"].shape
    lstm = torch.nn.LSTM(features, gates // 4, batch_first=True, dtype=x.dtype)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(given["lstm.kernel"].T)
        lstm.weight_hh_l0.copy_(given["lstm.recurrent_kernel"].T)
        lstm.bias_ih_l0.copy_(given["lstm.bias"])
        lstm.bias_hh_l0.zero_()
    head = [leaf(given["output.kernel"].T), leaf(given["output.bias"])]

    def loss_of() -> Any:
        sequence, _ = lstm(x)
        return functional.cross_entropy(functional.linear(sequence[:, -1], *head), targets)

    step = eager([*lstm.parameters(), *head], loss_of)

    def answer() -> list[Array]:
        loss = step()
        found = [lstm.weight_ih_l0.grad.T, lstm.weight_hh_l0.grad.T, lstm.bias_ih_l0.grad, head[0].grad.T, head[1].grad]
        return [loss.detach().numpy(), *[gradient.numpy() for gradient in found]]

    return step, answer


def torch_per_sample(torch: Any, case: Case, feed: Feed) -> tuple[Callable[[], object], Callable[[], list[Array]]]:
    """Compute each sample's own gradient with `torch.func.vmap`; return a call to time and one that answers."""
    functional = torch.nn.functional
    x, targets, given = tensors_of(torch, feed)
    parameters = {name: value.T.contiguous() if name.endswith("kernel") else value for name, value in given.items()}

    def loss_of(parameters: Any, sample: Any, target: Any) -> Any:
        a = torch.relu(functional.linear(sample, parameters["hidden.kernel"], parameters["hidden.bias"]))
        z = functional.linear(a, parameters["output.kernel"], parameters["output.bias"])
        return functional.cross_entropy(z, target)

    each = torch.func.vmap(torch.func.grad_and_value(loss_of), in_dims=(None, 0, 0))

    def step() -> Any:
        return each(parameters, x, targets)

    def answer() -> list[Array]:
        gradients, loss = step()
        found = [g.transpose(1, 2) if name.endswith("kernel") else g for name, g in gradients.items()]
        return [loss.numpy(), *[gradient.numpy() for gradient in found]]

    return step, answer


LENET = Case(
    "LeNet-5, batch 64",
    (
        {"type": "conv2d", "name": "c1", "filters": 6, "kernel_size": 5, "padding": "same", "activation": "relu"},
        {"type": "max_pooling2d", "name": "s2"},
        {"type": "conv2d", "name": "c3", "filters": 16, "kernel_size": 5, "activation": "relu"},
        {"type": "max_pooling2d", "name": "s4"},
        {"type": "flatten", "name": "flat"},
        {"type": "dense", "name": "f5", "units": 120, "activation": "relu"},
        {"type": "dense", "name": "f6", "units": 84, "activation": "relu"},
        {"type": "dense", "name": "output", "units": 10, "activation": "softmax"},
    ),
    (28, 28, 1),
    64,
    10,
    EAGER,
    torch_lenet,
    {"float64": 1.0, "float32": 2.2},
)
LSTM = Case(
    "LSTM of 64 units, 50 steps of 32, batch 32",
    (
        {"type": "lstm", "name": "lstm", "units": 64},
        {"type": "dense", "name": "output", "units": 10, "activation": "softmax"},
    ),
    (50, 32),
    32,
    10,
    EAGER,
    torch_lstm,
    {"float32": 2.0},
)
PER_SAMPLE = Case(
    "784-128-10, batch 64, each sample's own gradients",
    (
        {"type": "dense", "name": "hidden", "units": 128, "activation": "relu"},
        {"type": "dense", "name": "output", "units": 10, "activation": "softmax"},
    ),
    (784,),
    64,
    10,
    VMAP,
    torch_per_sample,
    {"float64": 0.5, "float32": 0.5},
    frozenset({"per_sample"}),
)
CASES = {"lenet": LENET, "lstm": LSTM, "per_sample": PER_SAMPLE}


# --- comparing and profiling --------------------------------------------------------------------


def compare(case: Case, dtype: str, rounds: int, torch: Any) -> None:
    evaluation = case.evaluation(dtype)
    feed = case.numbers(evaluation)
    workspace = Workspace(evaluation.program)
    evaluation.feeder.fill(workspace, feed, None)
    contenders: dict[str, Callable[[], object]] = {PLAN: workspace.run}
    if torch is not None:
        contenders[case.rival], answer = case.peer(torch, case, feed)
        workspace.run()
        check(case.name, dtype, case.answer(evaluation, workspace), answer())
    timings = time_in_turns(contenders, rounds, 0.05)
    rows = ratio_rows(timings, PLAN, {case.rival: Bar(case.bars[dtype])})
    table(f"{case.name}, {dtype}: forward and backward", RATIO_HEADER, rows)


def check(name: str, dtype: str, ours: Sequence[Array], others: Sequence[Array]) -> None:
    """Exit the process if the answers of two contenders differ: then their times cannot be compared."""
    for one, other in zip(ours, others, strict=True):
        if one.shape != other.shape or np.abs(one - other).max() > TOLERANCE[dtype] * np.abs(one).max():
            raise SystemExit(f"{name} {dtype}: PyTorch computes something else")


def compare_hessian(dtype: str, rounds: int, torch: Any) -> None:
    """Time the Hessian of a tiny network's loss, here and in PyTorch, and print the table."""
    numbers = XOR.numbers(dtype)
    asked = DerivativeTask(XOR.task(dtype), "hessian", "loss", "parameters")
    derivation = compile_derivative(asked, Limits())
    tree = XOR.tree(numbers.kernels, numbers.biases)
    call = partial(derivation.run, Feed({INPUT: numbers.inputs}, tree, {"output": numbers.targets}))
    contenders: dict[str, Callable[[], object]] = {WHOLE: call}
    if torch is not None:
        contenders[HESSIAN] = other = torch_hessian(torch, numbers)
        check(f"Hessian of {XOR.name}", dtype, [np.asarray(call().result)], [other().numpy()])
    timings = time_in_turns(contenders, rounds, 0.05)
    rows = ratio_rows(timings, WHOLE, {HESSIAN: HESSIAN_BAR})
    table(f"{XOR.name}, {dtype}: Hessian of the loss", RATIO_HEADER, rows)


def torch_hessian(torch: Any, numbers: Numbers) -> Callable[[], Any]:
    """Return a call of `torch.func.hessian` by one vector of all parameters, which is faster than by each of them."""
    x, targets = torch.tensor(numbers.inputs), torch.tensor(numbers.targets)
    flat = torch.tensor(numbers.flat_parameters())

    def loss_of(flat: Any) -> Any:
        a, start = x, 0
        for kernel in numbers.kernels:
            rows, columns = kernel.shape
            middle = start + rows * columns
            a = torch.sigmoid(a @ flat[start:middle].reshape(rows, columns) + flat[middle : middle + columns])
            start = middle + columns
        return 0.5 * torch.nn.functional.mse_loss(a, targets)

    return partial(torch.func.hessian(loss_of), flat)


def profile(case: Case, dtype: str, rounds: int) -> None:
    """Time each call of the plan, and print the totals by operation and by shape."""
    evaluation = case.evaluation(dtype)
    workspace, made_for = _traced(evaluation)
    evaluation.feeder.fill(workspace, case.numbers(evaluation), None)
    workspace.run()
    spent = np.zeros((rounds, len(workspace.calls)))
    for turn in spent:
        for position, call in enumerate(workspace.calls):
            start = time.perf_counter()
            call()
            turn[position] = time.perf_counter() - start
    seconds = np.median(spent, axis=0)
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for place, taken in zip(made_for, seconds, strict=True):
        groups[place[:1]].append(taken)
        groups[place].append(taken)

    def row(place: tuple[str, ...]) -> list[str]:
        taken = sum(groups[place])
        return [": ".join(place), str(len(groups[place])), duration(taken), f"{taken / seconds.sum():.1%}"]

    ranked = sorted(groups, key=lambda place: -sum(groups[place]))
    title = f"{case.name}, {dtype}: {duration(seconds.sum())} in {len(seconds)} calls"
    header = ("operation", "calls", "time", "share")
    table(title, header, [row(place) for place in ranked if len(place) == 1])
    table("by shape", header, [row(place) for place in ranked if len(place) > 1][:25])


def _traced(evaluation: Evaluation) -> tuple[Workspace, list[tuple[str, str]]]:
    """Return a workspace, and for each of its calls the name of the operation and the shapes it works on."""

    def tracing(name: str, bind: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def traced(out: Array, inputs: Sequence[Array], *details: Any) -> Iterator[Any]:
            counted = Counter(str(list(x.shape)) for x in inputs)
            alike = [f"{count} × {shape}" if count > 1 else shape for shape, count in counted.items()]
            shapes = f"{', '.join(alike)} to {list(out.shape)}"
            for call in bind(out, inputs, *details):
                calls[id(call)] = (name, shapes)
                yield call

        return traced

    calls: dict[int, tuple[str, str]] = {}
    binds = {name: operation.bind for name, operation in OPERATIONS.items()}
    try:
        for name, operation in OPERATIONS.items():
            object.__setattr__(operation, "bind", tracing(name, operation.bind))
        workspace = Workspace(evaluation.program)
    finally:
        for name, bind in binds.items():
            object.__setattr__(OPERATIONS[name], "bind", bind)
    return workspace, [calls.get(id(call), ("copy", "to where others expect it")) for call in workspace.calls]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="turns of each contender (default 31)")
    parser.add_argument("--quick", action="store_true", help="a few turns only, to see that it runs")
    parser.add_argument("--only", choices=(*CASES, "hessian"), help="one comparison")
    parser.add_argument("--profile", action="store_true", help="say where our time goes instead of comparing")
    options = parser.parse_args()
    torch: Any = None
    if not options.profile and torch_here():
        torch = import_module("torch")
        torch.set_num_threads(1)
    print(blas())
    rounds = 5 if options.quick else options.rounds
    for name, case in CASES.items():
        if options.only in (None, name):
            for dtype in case.bars:
                if options.profile:
                    profile(case, dtype, rounds)
                else:
                    compare(case, dtype, rounds, torch)
    if options.only in (None, "hessian") and not options.profile:
        for dtype in ("float64", "float32"):
            compare_hessian(dtype, rounds, torch)


if __name__ == "__main__":
    main()
