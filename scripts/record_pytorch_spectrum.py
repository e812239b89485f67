"""Record the eigenvalues of PyTorch's Hessians, for tests/engine/insight/test_spectrum.py.

    OPENBLAS_NUM_THREADS=1 python scripts/record_pytorch_spectrum.py

Needs the extra `oracle`. Each network is written once more as a function of one flat vector of parameters; its whole
Hessian comes from `torch.autograd.functional.hessian`, and its eigenvalues from `torch.linalg.eigvalsh`. Of the two
networks one is small enough for the whole Hessian here, and one is left to Lanczos' method.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recording import write
from torch.autograd.functional import hessian

KEPT = 12
"""Eigenvalues that are recorded from either end."""
NETWORKS: dict[str, tuple[tuple[int, int, int], int]] = {"small": ((5, 6, 3), 12), "large": ((20, 20, 8), 40)}
"""Inputs, hidden units and classes, and samples."""


def record(title: str, sizes: tuple[int, int, int], samples: int) -> dict[str, Any]:
    inputs, hidden, classes = sizes
    random = np.random.default_rng([6, inputs])
    shapes = {
        ("hidden", "kernel"): (inputs, hidden),
        ("hidden", "bias"): (hidden,),
        ("classes", "kernel"): (hidden, classes),
        ("classes", "bias"): (classes,),
    }
    # Few digits, so that the file is short: the numbers are the same here and there.
    arrays = {key: np.round(random.standard_normal(shape) / shape[0] ** 0.5, 3) for key, shape in shapes.items()}
    x = np.round(random.standard_normal((samples, inputs)), 2)
    y = random.integers(0, classes, samples)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = torch.split(flat, [array.size for array in arrays.values()])
        w, b, v, c = (part.reshape(shape) for part, shape in zip(parts, shapes.values(), strict=True))
        logits = torch.tanh(torch.from_numpy(x) @ w + b) @ v + c
        return torch.nn.functional.cross_entropy(logits, torch.from_numpy(y)) + 0.01 * (v**2).sum()

    flat = torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays.values()]))
    matrix = hessian(loss, flat)
    values = torch.linalg.eigvalsh(0.5 * (matrix + matrix.T)).flip(0)
    parameters: dict[str, dict[str, Any]] = {}
    for (layer, name), array in arrays.items():
        parameters.setdefault(layer, {})[name] = array.tolist()
    layers: list[dict[str, Any]] = [
        {"type": "dense", "name": "hidden", "units": hidden, "activation": "tanh"},
        {
            "type": "dense",
            "name": "classes",
            "units": classes,
            "activation": "softmax",
            "kernel_regularizer": {"l2": 0.01},
        },
    ]
    return {
        "title": title,
        "request": {
            "network": {"layers": layers},
            "parameters": parameters,
            "inputs": x.tolist(),
            "targets": y.tolist(),
            "loss": "sparse_categorical_crossentropy",
        },
        "size": values.numel(),
        "loss": loss(flat).item(),
        "largest": values[:KEPT].tolist(),
        "smallest": values[-KEPT:].tolist(),
        "trace": torch.trace(matrix).item(),
        "negative": int((values < 0.0).sum()),
    }


def main() -> None:
    torch.set_num_threads(1)
    records = [record(title, *spec) for title, spec in NETWORKS.items()]
    write("pytorch/spectrum.json", "networks", records, torch=torch.__version__)


if __name__ == "__main__":
    main()
