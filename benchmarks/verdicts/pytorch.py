"""Submit PyTorch's gradients, with its names and shapes, for each layer: `python -m benchmarks.verdicts.pytorch`.

Every module computes its own gradients; nothing here transposes one of them. Only the parameters are converted, from
Keras's layout to PyTorch's, before PyTorch starts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.measure import table
from benchmarks.verdicts.judge import PATH, Send, in_process, over_http
from benchmarks.verdicts.layers import Array

Tree = dict[str, Array]
Run = Callable[[nn.Module, torch.Tensor], torch.Tensor]
torch.set_default_dtype(torch.float64)


@dataclass(frozen=True)
class Case:
    """One layer between two dense layers, here and in PyTorch."""

    name: str
    layer: Mapping[str, Any]
    module: Callable[[], nn.Module]
    run: Run
    sample: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """The shapes of our parameters."""
    turned: Callable[[Tree], Tree]
    """Our parameters by the names and in the shapes of PyTorch."""
    channels_last: bool = False
    integers: int | None = None
    training: bool = False


def _channels_first(run: Run) -> Run:
    def around(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return run(module, x.movedim(-1, 1)).movedim(1, -1)

    return around


def _plain(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = module(x)
    return found


def _sequence(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = module(x)[0]
    return found


def _attend(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = module(x, x, x)[0]
    return found


def _kernel(p: Tree) -> Tree:
    """Convert a kernel `(*window, in, out)` to PyTorch's `(out, in, *window)`."""
    return {"weight": np.moveaxis(p["kernel"], (-1, -2), (0, 1)), "bias": p["bias"]}


def _recurrent(p: Tree, prefix: str = "", end: str = "") -> Tree:
    bias = p[prefix + "bias"]
    return {
        f"weight_ih_l0{end}": p[prefix + "kernel"].T,
        f"weight_hh_l0{end}": p[prefix + "recurrent_kernel"].T,
        f"bias_ih_l0{end}": bias,
        f"bias_hh_l0{end}": np.zeros_like(bias),
    }


def _gru(p: Tree) -> Tree:
    """Convert a GRU's parameters: PyTorch orders the gates reset, update, candidate, Keras update, reset, candidate."""

    def ordered(x: Array) -> Array:
        update, reset, candidate = np.split(x, 3, -1)
        return np.concatenate([reset, update, candidate], -1)

    return {
        "weight_ih_l0": ordered(p["kernel"]).T,
        "weight_hh_l0": ordered(p["recurrent_kernel"]).T,
        "bias_ih_l0": ordered(p["bias"][0]),
        "bias_hh_l0": ordered(p["bias"][1]),
    }


def _depthwise(p: Tree) -> Tree:
    height, width, channels, multiplier = p["kernel"].shape
    kernel = p["kernel"].transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
    return {"weight": kernel, "bias": p["bias"]}


def _attention(p: Tree) -> Tree:
    width = p["query_kernel"].shape[0]
    kernels = [p[f"{name}_kernel"].reshape(width, width).T for name in ("query", "key", "value")]
    return {
        "in_proj_weight": np.concatenate(kernels),
        "in_proj_bias": np.concatenate([p[f"{name}_bias"].reshape(-1) for name in ("query", "key", "value")]),
        "out_proj.weight": p["attention_output_kernel"].reshape(width, width).T,
        "out_proj.bias": p["attention_output_bias"],
    }


def _gates(count: int, features: int, units: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    wide = count * units
    return {f"{prefix}kernel": (features, wide), f"{prefix}recurrent_kernel": (units, wide), f"{prefix}bias": (wide,)}


HEADS = {f"{name}_kernel": (4, 2, 2) for name in ("query", "key", "value")}
HEAD_BIASES = {f"{name}_bias": (2, 2) for name in ("query", "key", "value")}
NORM = {"gamma": (4,), "beta": (4,)}
CASES: Sequence[Case] = (
    Case(
        "dense",
        {"type": "dense", "units": 4, "activation": "tanh"},
        lambda: nn.Linear(3, 4),
        lambda m, x: torch.tanh(m(x)),
        (3,),
        {"kernel": (3, 4), "bias": (4,)},
        _kernel,
    ),
    Case(
        "square dense",
        {"type": "dense", "units": 3, "activation": "sigmoid"},
        lambda: nn.Linear(3, 3),
        lambda m, x: torch.sigmoid(m(x)),
        (3,),
        {"kernel": (3, 3), "bias": (3,)},
        _kernel,
    ),
    Case(
        "conv1d",
        {"type": "conv1d", "filters": 3, "kernel_size": 3},
        lambda: nn.Conv1d(2, 3, 3),
        _channels_first(_plain),
        (6, 2),
        {"kernel": (3, 2, 3), "bias": (3,)},
        _kernel,
    ),
    Case(
        "conv2d",
        {"type": "conv2d", "filters": 3, "kernel_size": [3, 2]},
        lambda: nn.Conv2d(2, 3, (3, 2)),
        _channels_first(_plain),
        (5, 4, 2),
        {"kernel": (3, 2, 2, 3), "bias": (3,)},
        _kernel,
    ),
    Case(
        "conv2d in groups",
        {"type": "conv2d", "filters": 4, "kernel_size": 2, "groups": 2},
        lambda: nn.Conv2d(4, 4, 2, groups=2),
        _channels_first(_plain),
        (4, 4, 4),
        {"kernel": (2, 2, 2, 4), "bias": (4,)},
        _kernel,
    ),
    Case(
        "depthwise_conv2d",
        {"type": "depthwise_conv2d", "kernel_size": 2, "depth_multiplier": 2},
        lambda: nn.Conv2d(3, 6, 2, groups=3),
        _channels_first(_plain),
        (4, 4, 3),
        {"kernel": (2, 2, 3, 2), "bias": (6,)},
        _depthwise,
    ),
    Case(
        "conv2d_transpose",
        {"type": "conv2d_transpose", "filters": 3, "kernel_size": 2, "strides": 2},
        lambda: nn.ConvTranspose2d(2, 3, 2, stride=2),
        _channels_first(_plain),
        (3, 2, 2),
        {"kernel": (2, 2, 3, 2), "bias": (3,)},
        _kernel,
    ),
    Case(
        "embedding",
        {"type": "embedding", "input_dim": 7, "output_dim": 3},
        lambda: nn.Embedding(7, 3),
        _plain,
        (4,),
        {"embeddings": (7, 3)},
        lambda p: {"weight": p["embeddings"]},
        integers=7,
    ),
    Case(
        "simple_rnn",
        {"type": "simple_rnn", "units": 3, "return_sequences": True},
        lambda: nn.RNN(2, 3, batch_first=True),
        _sequence,
        (4, 2),
        _gates(1, 2, 3),
        _recurrent,
    ),
    Case(
        "lstm",
        {"type": "lstm", "units": 3, "return_sequences": True},
        lambda: nn.LSTM(2, 3, batch_first=True),
        _sequence,
        (4, 2),
        _gates(4, 2, 3),
        _recurrent,
    ),
    Case(
        "gru",
        {"type": "gru", "units": 3, "return_sequences": True},
        lambda: nn.GRU(2, 3, batch_first=True),
        _sequence,
        (4, 2),
        _gates(3, 2, 3) | {"bias": (2, 9)},
        _gru,
    ),
    Case(
        "bidirectional lstm",
        {"type": "bidirectional", "layer": {"type": "lstm", "units": 3, "return_sequences": True}},
        lambda: nn.LSTM(2, 3, batch_first=True, bidirectional=True),
        _sequence,
        (4, 2),
        _gates(4, 2, 3, "forward_") | _gates(4, 2, 3, "backward_"),
        lambda p: _recurrent(p, "forward_") | _recurrent(p, "backward_", "_reverse"),
    ),
    Case(
        "multi_head_attention",
        {"type": "multi_head_attention", "num_heads": 2, "key_dim": 2},
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        _attend,
        (3, 4),
        HEADS | HEAD_BIASES | {"attention_output_kernel": (2, 2, 4), "attention_output_bias": (4,)},
        _attention,
    ),
    Case(
        "batch_normalization",
        {"type": "batch_normalization", "epsilon": 1e-5},
        lambda: nn.BatchNorm1d(4),
        _plain,
        (4,),
        NORM,
        lambda p: {"weight": p["gamma"], "bias": p["beta"]},
        training=True,
    ),
    Case(
        "layer_normalization",
        {"type": "layer_normalization", "epsilon": 1e-5},
        lambda: nn.LayerNorm(4),
        _plain,
        (4,),
        NORM,
        lambda p: {"weight": p["gamma"], "bias": p["beta"]},
    ),
    Case(
        "group_normalization",
        {"type": "group_normalization", "groups": 2, "epsilon": 1e-5},
        lambda: nn.GroupNorm(2, 4),
        _channels_first(_plain),
        (3, 4),
        NORM,
        lambda p: {"weight": p["gamma"], "bias": p["beta"]},
    ),
    Case(
        "prelu", {"type": "prelu"}, lambda: nn.PReLU(4), _plain, (4,), {"alpha": (4,)}, lambda p: {"weight": p["alpha"]}
    ),
)


def handed_in(case: Case, generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Tree]]:
    """Return a request, and PyTorch's gradients of its parameters, by layer and PyTorch's names."""
    samples = 5
    if case.integers is None:
        x = generator.normal(size=(samples, *case.sample))
    else:
        x = generator.integers(0, case.integers, (samples, *case.sample))
    mine = {name: generator.normal(0.0, 0.7, shape) for name, shape in case.shapes.items()}
    module = case.module()
    module.train(case.training)
    with torch.no_grad():
        for name, array in case.turned(mine).items():
            module.get_parameter(name).copy_(torch.from_numpy(np.ascontiguousarray(array)))
    inner = case.run(module, torch.from_numpy(x))
    width = math.prod(inner.shape[1:])
    kernel, bias = generator.normal(0.0, width**-0.5, (width, 2)), generator.normal(size=2)
    head = nn.Linear(width, 2)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(kernel.T))
        head.bias.copy_(torch.from_numpy(bias))
    targets = generator.integers(0, 2, samples)
    loss = nn.functional.cross_entropy(head(inner.reshape(samples, width)), torch.from_numpy(targets))
    loss.backward()
    gradients = {
        layer: {name: value.grad.numpy() for name, value in part.named_parameters() if value.grad is not None}
        for layer, part in (("inner", module), ("head", head))
    }
    parameters: dict[str, Tree] = {"inner": mine, "head": {"kernel": kernel, "bias": bias}}
    if case.training:
        parameters["inner"] = mine | {"moving_mean": np.zeros(4), "moving_variance": np.ones(4)}
    layers = [{**case.layer, "name": "inner"}, {"type": "flatten"}, {"type": "dense", "name": "head", "units": 2}]
    body = {
        "network": {"layers": layers},
        "parameters": {
            layer: {name: array.tolist() for name, array in tree.items()} for layer, tree in parameters.items()
        },
        "inputs": x.tolist(),
        "targets": targets.tolist(),
        "loss": {"type": "sparse_categorical_crossentropy", "from_logits": True},
        "training": case.training,
        "layout": "pytorch",
    }
    return body, gradients


def forms(gradients: Mapping[str, Tree]) -> dict[str, Any]:
    """Return PyTorch's gradients in each form that a claim may have."""
    tree = {layer: {name: array.tolist() for name, array in each.items()} for layer, each in gradients.items()}
    names = {f"{layer}.{name}": array for layer, each in tree.items() for name, array in each.items()}
    return {"tree": tree, "names": names, "part": {"inner": tree["inner"]}}


def rows(send: Send, seed: int = 3) -> list[list[str]]:
    found = []
    for case in CASES:
        body, gradients = handed_in(case, np.random.default_rng(seed))
        said = []
        for claimed in forms(gradients).values():
            status, answer = send(PATH, body | {"claimed": claimed})
            said.append(
                f"{answer['verdict']} missing {answer['missing']}" if status == 200 else f"{status} {answer['detail']}"
            )
        twice = {layer: {name: 2.0 * array for name, array in tree.items()} for layer, tree in gradients.items()}
        status, answer = send(PATH, body | {"claimed": forms(twice)["tree"]})
        said.append(str([each["mistakes"] for each in answer["diagnoses"][:2]]) if status == 200 else str(status))
        found.append([case.name, *said])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts.pytorch", description=__doc__)
    parser.add_argument("--url", help="a running service (default: the code of this checkout, in process)")
    options = parser.parse_args()
    send = over_http(options.url) if options.url else in_process()
    table("gradients of PyTorch", ("layer", "as a tree", "by name", "a part", "doubled"), rows(send))


if __name__ == "__main__":
    main()
