"""The parts of a response of `/v1/gradients/diagnose`: findings, layers, rows of a sweep and curves as JSON objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.api.answers import or_null
from service.engine.declarations import Selection
from service.engine.findings import Found
from service.engine.insight.health.measures import Health, LayerHealth
from service.engine.insight.health.story import Record
from service.engine.insight.health.sweep import Run, SweepRow
from service.engine.texts import telling

MOST_CURVE = 200
"""Steps that a curve of a training has, at most."""


def findings_of(these: Sequence[Found], language: str, networks: Sequence[int] | None) -> list[dict[str, Any]]:
    tell = telling(language)
    entries = []
    for place, each in enumerate(these):
        entry: dict[str, Any] = {"code": each.code, "severity": each.severity}
        optional = {"layer": each.layer, "quantity": each.quantity, "step": each.step}
        entry |= {key: value for key, value in optional.items() if value is not None}
        entry |= {
            "text": tell(each.text),
            "meaning": each.finding.description[language],
            "advice": tell(each.finding.advice),
        }
        if each.value is not None:
            entry["value"] = or_null(each.value)
        if each.threshold is not None:
            entry["threshold"] = each.threshold
        entry["source"] = "; ".join(each.finding.sources)
        if networks is not None:
            entry["networks"] = networks[place]
        entries.append(entry)
    return entries


def health_of(health: Health) -> dict[str, Any]:
    chain = {"layers": health.chain, "ratio": or_null(health.ratio), "factor": or_null(health.factor)}
    return {"chain": chain, "layers": [_layer(layer) for layer in health.layers.values()]}


def _layer(layer: LayerHealth) -> dict[str, Any]:
    return {
        "name": layer.name,
        "type": layer.type,
        "activation": layer.activation,
        "mean": or_null(layer.mean),
        "deviation": or_null(layer.deviation),
        "delta_norm": or_null(layer.delta_norm),
        "gradient_norm": or_null(layer.gradient_norm),
        "weight_norm": or_null(layer.weight_norm),
        "ratio": or_null(layer.ratio),
        "saturated_left": layer.saturated_left,
        "saturated_right": layer.saturated_right,
        "dead": layer.dead,
    }


def run_entry(run: Run) -> dict[str, Any]:
    layers = list(run.health.layers.values())
    saturated = [
        None
        if layer.saturated_left is None and layer.saturated_right is None
        else (layer.saturated_left or 0.0) + (layer.saturated_right or 0.0)
        for layer in layers
    ]
    return {
        "depth": run.depth,
        "activation": _block(run.activation),
        "initializer": _block(run.initializer),
        "seed": run.seed,
        "verdict": run.verdict,
        "loss": or_null(run.loss),
        "ratio": or_null(run.health.ratio),
        "factor": or_null(run.health.factor),
        "gradient_norms": [or_null(layer.gradient_norm) for layer in layers],
        "delta_norms": [or_null(layer.delta_norm) for layer in layers],
        "variances": [or_null(layer.deviation * layer.deviation) for layer in layers],
        "saturated": saturated,
        "dead": [layer.dead for layer in layers],
        "findings": [_short(each) for each in run.findings],
    }


def _short(each: Found) -> dict[str, Any]:
    entry: dict[str, Any] = {"code": each.code, "severity": each.severity}
    if each.layer is not None:
        entry["layer"] = each.layer
    if each.value is not None:
        entry["value"] = or_null(each.value)
    if each.threshold is not None:
        entry["threshold"] = each.threshold
    return entry


def row_entry(row: SweepRow) -> dict[str, Any]:
    return {
        "depth": row.depth,
        "activation": _block(row.activation),
        "initializer": _block(row.initializer),
        "networks": row.runs,
        "ratio": or_null(row.ratio),
        "factor": or_null(row.factor),
        "verdicts": row.verdicts,
        "findings": row.findings,
    }


def _block(selection: Selection[Any]) -> dict[str, Any]:
    return {"type": selection.name, **selection.options}


def curve_of(record: Record) -> dict[str, Any]:
    """Return loss and gradient norm at up to `MOST_CURVE` evenly spaced steps of a training."""
    count = len(record.steps)
    places = np.unique(np.linspace(0, max(0, count - 1), min(count, MOST_CURVE)).astype(np.intp)).tolist()
    return {
        "steps": [int(record.steps[place]) for place in places],
        "loss": [or_null(float(record.losses[place])) for place in places],
        "gradient_norm": [or_null(float(record.norms[place])) for place in places],
    }
