"""The scale of a network's inputs, as gradient descent likes it: sizes, and the condition number of the features."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.network.definition import Definition

MOST_ROWS = 4096
"""Most rows that are measured, evenly spread."""
MOST_FEATURES = 256
"""With more features no condition number is computed: it would take longer than the network."""
NEGLIGIBLE = 1e-14
"""Singular values and deviations below this share of the largest are rounding of dependent features."""
NORMALISING = frozenset(("batch_normalization", "layer_normalization", "group_normalization"))


class Scale(NamedTuple):
    """The sizes of an input's features, and how badly they are scaled."""

    size: float
    """The root mean square of all numbers."""
    smallest: float
    """The smallest and the largest root mean square of a feature, without features that are 0 throughout."""
    largest: float
    condition: float | None
    """The condition number of the second moments of features and bias, the features divided by their common size;
    None: it was not computed."""
    standardised: float | None
    """That number if each feature had mean 0 and variance 1."""


@ignoring_float_warnings
def scale_of(inputs: Array) -> Scale:
    """Return the scale of an input, (samples, ..., features)."""
    rows = inputs.reshape(-1, inputs.shape[-1]) if inputs.ndim > 1 else inputs.reshape(-1, 1)
    if len(rows) > MOST_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_ROWS).astype(np.intp)]
    x = rows.astype(np.float64)
    sizes = np.sqrt(np.square(x).mean(0))
    used = sizes[sizes > 0.0]
    size = math.sqrt(float(np.square(sizes).mean()))
    smallest, largest = (float(used.min()), float(used.max())) if used.size else (0.0, 0.0)
    condition = standardised = None
    deviations = x.std(0)
    varying = deviations > NEGLIGIBLE * np.maximum(sizes, np.finfo(np.float64).tiny)
    if len(x) > 1 and 0 < varying.sum() <= MOST_FEATURES and math.isfinite(size):
        x, deviations = x[:, varying], deviations[varying]
        condition = _condition(x / math.sqrt(float(np.square(x).mean())))
        standardised = _condition((x - x.mean(0)) / deviations)
    return Scale(size, smallest, largest, condition, standardised)


def _condition(x: Array) -> float | None:
    with_bias = np.hstack([x, np.ones((len(x), 1))])
    try:
        values = np.linalg.svd(with_bias, compute_uv=False)
    except np.linalg.LinAlgError:
        return None
    kept = values[values > NEGLIGIBLE * values[0]] if values.size else values
    return float((kept[0] / kept[-1]) ** 2) if kept.size else None


def weighed_inputs(definition: Definition) -> list[str]:
    """Return the names of the inputs that reach layers with weights directly. Inputs with a normalization or a lookup
    before any weights are left out."""
    found = []
    for name in definition.inputs:
        takers = [layer.layer for place, layer in enumerate(definition.layers) if name in definition.inputs_of(place)]
        if name not in definition.index_inputs and not any(layer.name in NORMALISING for layer in takers):
            found.append(name)
    return found
