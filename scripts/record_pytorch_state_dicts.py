"""Record PyTorch modules with their state_dict, for tests/api/test_pytorch_layout.py.

    OPENBLAS_NUM_THREADS=1 python scripts/record_pytorch_state_dicts.py

Needs the extra `oracle`. Each record has the equivalent network of this service, whose layers have the names of the
modules; the state_dict, inputs and targets; the outputs, the mean squared error and its gradients under the names of
the state_dict; and the state_dict after one step of SGD, including the running statistics.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TARGET = Path(__file__).resolve().parents[1] / "tests" / "data" / "pytorch" / "state_dicts.json"
LARGEST_FILE = 250_000
RATE = 0.25
FIRST = {"data_format": "channels_first"}


class Last(nn.Module):
    """A recurrent or attention module that returns only the main output, without states or weights."""

    def __init__(self, inner: nn.Module, *, queries: int = 1) -> None:
        super().__init__()
        self.inner, self.queries = inner, queries

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(*(x,) * self.queries)[0]  # type: ignore[no-any-return]


def layer(kind: str, name: str, **options: Any) -> dict[str, Any]:
    """Return a layer in the form of requests."""
    return {"type": kind, "name": name, **options}


def attention(**options: Any) -> nn.Module:
    """Return a PyTorch self-attention module that returns only the main output."""
    return Last(nn.MultiheadAttention(4, 2, batch_first=True, **options), queries=3)


class Encoder(nn.Module):
    """A transformer block with named modules."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.feed = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x, x, x)[0])
        return self.norm2(x + self.feed(x))  # type: ignore[no-any-return]


LAST = {"return_sequences": True}
RECURRENT = {"recurrent_bias": True, **LAST}
Case = tuple[Callable[[], nn.Module], list[dict[str, Any]], tuple[int, ...]]
CASES: dict[str, Case] = {
    "Linear": (lambda: nn.Sequential(nn.Linear(3, 2)), [layer("dense", "0", units=2)], (4, 3)),
    "Linear without bias": (
        lambda: nn.Sequential(nn.Linear(3, 2, bias=False)),
        [layer("dense", "0", units=2, use_bias=False)],
        (4, 3),
    ),
    "Sequential": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
        [layer("dense", "0", units=4, activation="tanh"), layer("dense", "2", units=2)],
        (4, 3),
    ),
    "Conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2, stride=2)),
        [layer("conv1d", "0", filters=3, kernel_size=2, strides=2, **FIRST)],
        (2, 2, 6),
    ),
    "Conv2d": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, (2, 3), dilation=(2, 1))),
        [layer("conv2d", "0", filters=3, kernel_size=[2, 3], dilation_rate=[2, 1], **FIRST)],
        (2, 2, 5, 4),
    ),
    "Conv2d with groups": (
        lambda: nn.Sequential(nn.Conv2d(4, 6, 2, groups=2)),
        [layer("conv2d", "0", filters=6, kernel_size=2, groups=2, **FIRST)],
        (2, 4, 3, 3),
    ),
    "Conv2d of each channel": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 2, groups=3)),
        [layer("depthwise_conv2d", "0", kernel_size=2, depth_multiplier=2, **FIRST)],
        (2, 3, 3, 3),
    ),
    "Conv3d": (
        lambda: nn.Sequential(nn.Conv3d(2, 2, 2)),
        [layer("conv3d", "0", filters=2, kernel_size=2, **FIRST)],
        (1, 2, 3, 3, 3),
    ),
    "ConvTranspose1d": (
        lambda: nn.Sequential(nn.ConvTranspose1d(2, 3, 3, stride=2)),
        [layer("conv1d_transpose", "0", filters=3, kernel_size=3, strides=2, **FIRST)],
        (2, 2, 4),
    ),
    "ConvTranspose2d": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2)),
        [layer("conv2d_transpose", "0", filters=3, kernel_size=3, strides=2, **FIRST)],
        (1, 2, 3, 3),
    ),
    "BatchNorm1d": (
        lambda: nn.Sequential(nn.BatchNorm1d(3)),
        [layer("batch_normalization", "0", epsilon=1e-5, momentum=0.9, unbiased_variance=True)],
        (5, 3),
    ),
    "BatchNorm2d": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2, momentum=0.25), nn.ReLU()),
        [
            layer("conv2d", "0", filters=2, kernel_size=2, **FIRST),
            layer("batch_normalization", "1", axis=1, epsilon=1e-5, momentum=0.75, unbiased_variance=True),
            layer("activation", "2", activation="relu"),
        ],
        (3, 1, 3, 4),
    ),
    "LayerNorm": (
        lambda: nn.Sequential(nn.LayerNorm([3, 4])),
        [layer("layer_normalization", "0", axis=[1, 2], epsilon=1e-5)],
        (2, 3, 4),
    ),
    "GroupNorm": (
        lambda: nn.Sequential(nn.GroupNorm(2, 4)),
        [layer("group_normalization", "0", groups=2, axis=1, epsilon=1e-5)],
        (2, 4, 3),
    ),
    "RMSNorm": (
        lambda: nn.Sequential(nn.RMSNorm(4, eps=1e-6)),
        [layer("rms_normalization", "0", epsilon=1e-6)],
        (3, 4),
    ),
    "PReLU": (lambda: nn.Sequential(nn.PReLU()), [layer("prelu", "0")], (3, 4)),
    "PReLU of each channel": (
        lambda: nn.Sequential(nn.PReLU(3)),
        [layer("prelu", "0", shared_axes=[2, 3])],
        (2, 3, 2, 2),
    ),
    "Embedding": (
        lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2)),
        [layer("embedding", "0", input_dim=5, output_dim=3), layer("flatten", "1"), layer("dense", "2", units=2)],
        (3, 4),
    ),
    "RNN": (
        lambda: Last(nn.RNN(3, 2, batch_first=True)),
        [layer("simple_rnn", "inner", units=2, **RECURRENT)],
        (2, 4, 3),
    ),
    "LSTM": (
        lambda: Last(nn.LSTM(3, 2, batch_first=True)),
        [layer("lstm", "inner", units=2, **RECURRENT)],
        (2, 4, 3),
    ),
    "LSTM without bias": (
        lambda: Last(nn.LSTM(3, 2, batch_first=True, bias=False)),
        [layer("lstm", "inner", units=2, use_bias=False, **LAST)],
        (2, 4, 3),
    ),
    "GRU": (lambda: Last(nn.GRU(3, 2, batch_first=True)), [layer("gru", "inner", units=2, **LAST)], (2, 4, 3)),
    "LSTM of two levels": (
        lambda: Last(nn.LSTM(3, 2, num_layers=2, batch_first=True)),
        [layer("lstm", "inner_l0", units=2, **RECURRENT), layer("lstm", "inner_l1", units=2, **RECURRENT)],
        (2, 4, 3),
    ),
    "GRU both ways": (
        lambda: Last(nn.GRU(3, 2, bidirectional=True, batch_first=True)),
        [layer("bidirectional", "inner", layer={"type": "gru", "units": 2, **LAST})],
        (2, 4, 3),
    ),
    "MultiheadAttention": (
        attention,
        [layer("multi_head_attention", "inner", num_heads=2, key_dim=2)],
        (2, 3, 4),
    ),
    "MultiheadAttention without bias": (
        lambda: attention(bias=False),
        [layer("multi_head_attention", "inner", num_heads=2, key_dim=2, use_bias=False)],
        (2, 3, 4),
    ),
    "a transformer block": (
        Encoder,
        [
            layer("multi_head_attention", "self_attn", num_heads=2, key_dim=2),
            layer("add", "a", inputs=["input", "self_attn"]),
            layer("layer_normalization", "norm1", epsilon=1e-5),
            layer("dense", "feed.0", units=6, activation="gelu"),
            layer("dense", "feed.2", units=4),
            layer("add", "b", inputs=["norm1", "feed.2"]),
            layer("layer_normalization", "norm2", epsilon=1e-5),
        ],
        (2, 3, 4),
    ),
}


def record(title: str, case: Case, seed: int) -> dict[str, Any]:
    """Return the record of one module, filled with random values."""
    make, layers, shape = case
    torch.manual_seed(seed)
    module = make().to(torch.float64)
    with torch.no_grad():
        for name, array in module.state_dict().items():
            if array.is_floating_point():
                values = torch.round(torch.randn(array.shape) * 32.0) / 64.0
                array.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)
    before = {name: array.tolist() for name, array in module.state_dict().items()}
    has_words = layers[0]["type"] == "embedding"
    x = torch.randint(0, 5, shape) if has_words else torch.round(torch.randn(shape) * 32.0) / 32.0
    x = x if has_words else x.to(torch.float64)
    outputs = module(x)
    target = (torch.round(torch.randn(outputs.shape) * 4.0) / 4.0).to(torch.float64)
    loss = ((outputs - target) ** 2).flatten(1).mean(1).mean()
    loss.backward()
    gradients = {name: parameter.grad.tolist() for name, parameter in module.named_parameters()}
    torch.optim.SGD(module.parameters(), RATE).step()
    return {
        "title": title,
        "network": {"layers": layers},
        "state_dict": before,
        "inputs": x.tolist(),
        "targets": target.tolist(),
        "outputs": outputs.tolist(),
        "loss": loss.item(),
        "gradients": gradients,
        "after": {name: array.tolist() for name, array in module.state_dict().items()},
    }


def main() -> None:
    torch.set_num_threads(1)
    records = [record(title, case, seed) for seed, (title, case) in enumerate(CASES.items())]
    text = json.dumps({"torch": torch.__version__, "rate": RATE, "modules": records}, separators=(",", ":")) + "\n"
    TARGET.write_text(text)
    print(f"{TARGET.name}: {len(records)} modules, {len(text):,} bytes")
    assert len(text) < LARGEST_FILE


if __name__ == "__main__":
    main()
