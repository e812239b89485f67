"""Record small ONNX files that PyTorch exports, with its own outputs and gradients, for the tests.

    python scripts/record_pytorch_onnx.py

Needs torch, onnx and onnxscript. Writes tests/data/onnx/<name>.onnx and tests/data/onnx/exports.json.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn import functional

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "onnx"


class Attention(nn.Module):
    """Causal attention with packed projections."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.projection, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        samples, steps, width = x.shape
        q, k, v = (
            part.view(samples, steps, self.heads, width // self.heads).transpose(1, 2)
            for part in self.projection(x).chunk(3, -1)
        )
        hidden = ~torch.tril(torch.ones(steps, steps, dtype=torch.bool))
        scores = (q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5).masked_fill(hidden, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(samples, steps, width))


class Words(nn.Module):
    """An embedding, a GRU in both directions, and a mean over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.gru = nn.GRU(3, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(4, 2)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        steps, _ = self.gru(self.embedding(words))
        return self.head(steps.mean(1))


class Skipping(nn.Module):
    """A U-Net of one level, with batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.inner, self.up = nn.Conv2d(2, 3, 3, padding=1), nn.ConvTranspose2d(3, 2, 2, stride=2)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = functional.relu(self.norm(self.down(x)))
        b = functional.silu(self.inner(functional.max_pool2d(a, 2)))
        return self.out(torch.cat([a, self.up(b)], 1))


MODELS = {
    "mlp": (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)), (2, 3)),
    "depthwise": (
        nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Hardswish(), nn.Flatten(), nn.Linear(16, 2)),
        (2, 2, 4, 4),
    ),
    "attention": (Attention(), (2, 3, 8)),
    "words": (Words(), None),
    "unet": (Skipping(), (2, 1, 4, 4)),
}


def without_traces(data: bytes) -> bytes:
    """The same file without the places in source files that the exporter notes."""
    file = onnx.ModelProto()
    file.ParseFromString(data)
    for each in (file.graph, *file.graph.node, *file.graph.value_info, *file.graph.initializer, *file.functions):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")
    file.graph.ClearField("value_info")
    return file.SerializeToString()


def record(name: str, model: nn.Module, shape: tuple[int, ...] | None) -> dict[str, Any]:
    with torch.no_grad():
        for key, each in model.state_dict().items():
            if each.dtype.is_floating_point:
                noise = 0.1 * torch.randn_like(each)
                each.add_(noise.abs() if key.endswith("running_var") else noise)
    model.eval()
    x = torch.randint(0, 7, (2, 3)) if shape is None else torch.randn(shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            model,
            (x,),
            path,
            dynamo=True,
            optimize=False,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        (FOLDER / f"{name}.onnx").write_bytes(without_traces(path.read_bytes()))
    model.double()
    x = x if shape is None else x.double().requires_grad_()
    y = model(x)
    targets = torch.randn_like(y)
    loss = functional.mse_loss(y, targets)
    loss.backward()
    return {
        "inputs": x.detach().tolist(),
        "targets": targets.tolist(),
        "outputs": y.detach().tolist(),
        "loss": loss.item(),
        "gradients": {key: each.grad.tolist() for key, each in model.named_parameters()},
        "input_gradients": None if shape is None else x.grad.tolist(),
    }


def main() -> None:
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    recorded = {name: record(name, *model) for name, model in MODELS.items()}
    (FOLDER / "exports.json").write_text(json.dumps(recorded) + "\n")


main()
