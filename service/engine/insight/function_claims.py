"""Claims about the gradient of a typed function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import Fault, Path


def read_numbers(names: Sequence[str], claimed: Any, at: Path) -> tuple[dict[tuple[str, ...], Array], list[Fault]]:
    """Return claimed numbers by variable, and the faults of the claim. A claim maps variables to numbers, or lists
    numbers in the order of `names`; `at` is its place in the request."""
    found: dict[tuple[str, ...], Array] = {}
    faults: list[Fault] = []
    listed = ", ".join(names)
    if isinstance(claimed, Mapping):
        for name, value in claimed.items():
            if name not in names:
                faults.append(Fault((*at, name), "is no variable", tuple(names)))
            elif isinstance(value, Mapping) or np.shape(value) != ():
                came = "an object" if isinstance(value, Mapping) else f"a tensor of shape {list(np.shape(value))}"
                faults.append(Fault((*at, name), f"takes a number, got {came}"))
            else:
                found[(name,)] = np.asarray(value, np.float64)
        if not claimed:
            faults.append(Fault(at, f"claims nothing; it takes numbers by the names of {listed}", tuple(names)))
        return found, faults
    flat = np.asarray(claimed)
    if flat.shape != (len(names),) and not (flat.shape == () and len(names) == 1):
        detail = f"has shape {list(flat.shape)}; it takes a number for each variable, [{listed}]"
        return {}, [Fault(at, detail)]
    return {(name,): np.asarray(value, np.float64) for name, value in zip(names, flat.reshape(-1), strict=True)}, []
