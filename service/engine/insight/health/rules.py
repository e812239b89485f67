"""The rules that find what is wrong with a network, in the numbers of one evaluation.

A rule measures a number; `service/engine/findings` declares from which value on that number is a finding. Rules leave
out what may be chance, such as units that are off because all samples look alike to a deep network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service.engine.arrays import Array, is_finite, norm_of_tree
from service.engine.declarations import Selection
from service.engine.findings import Found, findings, found, found_if
from service.engine.float_warnings import without_float_warnings
from service.engine.insight.health.inputs import scale_of, weighed_inputs
from service.engine.insight.health.measures import Health, LayerHealth, kernels_of
from service.engine.insight.health.slopes import tails_of
from service.engine.network.activations import Activation
from service.engine.network.evaluate import Evaluation, LayerValues, Result
from service.engine.network.feed import Feed
from service.engine.network.surprises import slopes

SHALLOW = 4
"""Layers with weights from which on a chain is deep: fewer have to lose more to be called vanishing."""
LOST, LOST_SHALLOW = 0.05, 0.01
"""A first delta below this share of the last one, in deep chains and in others, is worth a word at all."""
GRAVE = 1e-4
"""Below this share, or beyond its reciprocal, steps of one learning rate cannot serve both ends of a chain."""
FAR = 1e-6
"""Below this share a gradient has vanished however slowly it did so."""
BOTH_SIDES = 0.95
"""Above this share of pre-activations far out on either side, a layer hardly learns."""
LEAST_SIDE = 0.2
"""A side with less than this share of the saturated ones is left out."""
DIRECTIONS = 256
"""Random units that units without activity are compared with."""
CHANCE_ROWS = 512
DEVIATIONS = 5.0
"""Standard deviations by which inactive units must exceed chance."""
MOST_NOTES = 5
"""Most notes of one code."""
BIASED = 0.25
"""Share of units that only their bias keeps inactive from which on a layer gets a warning."""
BETTER = 100.0
"""Smallest improvement of the condition number by standardising for a finding about badly scaled inputs."""
FEWEST_STEPS = 5
"""Fewest steps of a sequence for a finding about gradients over time."""
OVER_TIME, GROWN_OVER_TIME = 1e-2, 1e3
"""Bounds of the ratio of the gradient at the first step to that at the last, for vanishing and exploding."""


@dataclass(frozen=True)
class Seen:
    """An evaluation of a network with its feed, its result and its measured health: all that rules look at."""

    evaluation: Evaluation
    feed: Feed
    result: Result
    health: Health

    @property
    def values(self) -> dict[str, LayerValues]:
        return {layer.name: layer for layer in self.result.layers or ()}

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Array]]:
        """The parameters, initialised here or sent, by layer and name."""
        initialised = self.result.parameters
        return (self.feed.parameters or {}) if initialised is None else initialised

    def arriving(self, name: str) -> Array | None:
        """Return the input of a layer; None where the layer has several inputs."""
        definition = self.evaluation.task.definition
        place = next(place for place, layer in enumerate(definition.layers) if layer.name == name)
        sources = definition.inputs_of(place)
        if len(sources) != 1:
            return None
        if sources[0] in self.feed.inputs:
            return self.feed.inputs[sources[0]]
        return self.values[sources[0]].output


def judge(seen: Seen) -> list[Found]:
    """Return all findings about an evaluated network, the gravest first."""
    return ranked(without_float_warnings(_judge, seen))


def ranked(these: list[Found]) -> list[Found]:
    return sorted(these, key=lambda each: -each.rank)


def _judge(seen: Seen) -> list[Found]:
    warned = [caution.found for caution in seen.result.warnings if caution.found is not None]
    these = [_by_chance(seen, each) if each.code == "dead_units" else each for each in warned]
    if not is_finite(np.array([layer.norms["output"] for layer in seen.result.layers or ()])):
        return these + list(_about_inputs(seen))
    rules: tuple[Callable[[Seen], Iterator[Found]], ...] = (
        *(_along_the_chain, _over_time, _saturated, _shifted, _slow, _zero, _about_inputs),
    )
    for rule in rules:
        these += rule(seen)
    # These two follow from most others, and count only where nothing else is found.
    for rule in (_mismatched, _flat):
        if all(each.severity == "note" for each in these):
            these += rule(seen)
    return _few_notes(these)


def _few_notes(these: list[Found]) -> list[Found]:
    """Return the findings without the notes of a code that has too many. The answer has all numbers anyway."""
    counts: dict[str, int] = {}
    kept = []
    for each in these:
        if each.severity == "note":
            counts[each.code] = counts.get(each.code, 0) + 1
            if counts[each.code] > MOST_NOTES:
                continue
        kept.append(each)
    return kept


# --- between layers ----------------------------------------------------------------------------------


def _along_the_chain(seen: Seen) -> Iterator[Found]:
    chain, ratio, factor = seen.health.chain, seen.health.ratio, seen.health.factor
    if len(chain) < 3 or ratio is None or factor is None:
        return
    least = LOST if len(chain) >= SHALLOW else LOST_SHALLOW
    words: dict[str, Any] = {
        "first": repr(chain[0]),
        "last": repr(chain[-1]),
        "depth": len(chain),
        "ratio": ratio,
        "factor": factor,
    }
    vanishing, exploding = findings["vanishing_gradient"], findings["exploding_gradient"]
    if (ratio <= least and factor <= vanishing.bound("warning")) or ratio <= FAR:
        severity = "problem" if ratio <= GRAVE and factor <= vanishing.bound("problem") else "warning"
        yield found("vanishing_gradient", value=factor, severity=severity, layer=chain[0], **words)
    if (ratio >= 1.0 / least and factor >= exploding.bound("warning")) or ratio >= 1.0 / FAR:
        severity = "problem" if ratio >= 1.0 / GRAVE and factor >= exploding.bound("problem") else "warning"
        yield found("exploding_gradient", value=factor, severity=severity, layer=chain[0], **words)


def _over_time(seen: Seen) -> Iterator[Found]:
    definition = seen.evaluation.task.definition
    for place, layer in enumerate(definition.layers):
        options = layer.layer.options
        sources = definition.inputs_of(place)
        if not layer.layer.declaration.recurrent or options.get("go_backwards") or len(sources) != 1:
            continue
        gradients = (seen.result.input_gradients or {}).get(sources[0])
        if gradients is None and sources[0] in seen.values:
            gradients = seen.values[sources[0]].delta
        if gradients is None or gradients.ndim != 3 or gradients.shape[1] < FEWEST_STEPS:
            continue
        norms = np.sqrt(np.square(gradients.astype(np.float64)).sum((0, 2)))
        first, last = float(norms[0]), float(norms[-1])
        if not (first > 0.0 and last > 0.0 and math.isfinite(first / last)):
            continue
        steps, ratio = gradients.shape[1], first / last
        factor = ratio ** (1.0 / (steps - 1))
        words: dict[str, Any] = {"steps": steps, "ratio": ratio, "factor": factor}
        if ratio <= OVER_TIME:
            yield from found_if("vanishing_over_time", factor, layer=layer.name, quantity="gradient", **words)
        if ratio >= GROWN_OVER_TIME:
            yield from found_if("exploding_over_time", factor, layer=layer.name, quantity="gradient", **words)


def _mismatched(seen: Seen) -> Iterator[Found]:
    kernels, gradients = kernels_of(seen.parameters), kernels_of(seen.result.gradients)
    sizes = {}
    for name in seen.health.chain:
        if name in kernels and name in gradients:
            weight, gradient = np.linalg.norm(kernels[name]), np.linalg.norm(gradients[name])
            if weight > 0.0 and 0.0 < gradient / weight < math.inf:  # the quotient may be rounded to 0
                sizes[name] = float(gradient / weight)
    if len(sizes) > 1:
        large, small = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
        times = sizes[large] / sizes[small]
        words: dict[str, Any] = {"large": large, "small": small, "times": times}
        yield from found_if("scale_mismatch", times, layer=large, quantity="gradient", **words)


# --- within layers -----------------------------------------------------------------------------------


def _hidden(seen: Seen) -> Iterator[LayerHealth]:
    """Yield the hidden layers (no outputs) that have an elementwise activation."""
    outputs = seen.evaluation.task.definition.output_names
    for layer in seen.health.layers.values():
        activation = seen.evaluation.model.layers[layer.name].activation
        if layer.name not in outputs and activation is not None and activation.declaration.acts_on == "element":
            yield layer


def _saturated(seen: Seen) -> Iterator[Found]:
    for layer in _hidden(seen):
        left, right = layer.saturated_left or 0.0, layer.saturated_right or 0.0
        grave = "problem" if left + right >= BOTH_SIDES else None
        for code, share, bound in (
            ("saturated_left", left, layer.tails.left),
            ("saturated_right", right, layer.tails.right),
        ):
            if bound is None or share < LEAST_SIDE * (left + right):
                continue
            if findings[code].judge(share) is not None or (grave is not None and share > 0.0):
                words: dict[str, Any] = {"activation": layer.activation, "share": share, "bound": bound}
                yield found(code, value=share, severity=grave, layer=layer.name, quantity="pre_activation", **words)


def _shifted(seen: Seen) -> Iterator[Found]:
    for layer in _hidden(seen):
        if layer.activation == "linear" or not layer.deviation > 0.0:
            continue
        words: dict[str, Any] = {"mean": layer.mean, "deviation": layer.deviation}
        value = abs(layer.mean) / layer.deviation
        yield from found_if("mean_shift", value, layer=layer.name, quantity="output", **words)


def _by_chance(seen: Seen, off: Found) -> Found:
    """Return a finding about inactive units, with less severity where random units would be inactive too."""
    assert off.layer is not None and off.value is not None
    units = seen.evaluation.model.layers[off.layer].output.shape[-1]
    count = round(off.value * units)
    if off.severity == "problem":
        return off
    if _kept_off_by_bias(seen, off.layer) >= BIASED:
        return replace(off, severity="warning", threshold=BIASED)
    if off.severity == "note":
        return off
    likely = _off_by_chance(seen, off.layer)
    if count > units * likely + DEVIATIONS * math.sqrt(units * likely * (1.0 - likely)):
        return off
    return replace(off, severity="note", threshold=findings["dead_units"].severities["note"])


def _kept_off_by_bias(seen: Seen, name: str) -> float:
    """Return the share of units that are inactive for every sample only because of their bias."""
    bias = seen.parameters.get(name, {}).get("bias")
    z = seen.values[name].pre_activation
    activation = _rectifier_after(seen, name)
    if bias is None or activation is None or bias.shape != z.shape[-1:]:
        return 0.0
    flat = tails_of(activation).flat_left
    if flat is None:
        return 0.0
    highest = z.reshape(-1, z.shape[-1]).max(0)
    return float(((highest <= flat) & (highest - bias > flat)).mean())


def _rectifier_after(seen: Seen, name: str) -> Selection[Activation] | None:
    """Return the activation of a layer, or of the activation layer that follows it; None without either."""
    layers = seen.evaluation.model.layers
    definition = seen.evaluation.task.definition
    own = layers[name].activation
    if own is not None and own.name != "linear":
        return own
    for place, layer in enumerate(definition.layers):
        if layer.layer.name == "activation" and name in definition.inputs_of(place):
            return layers[layer.name].activation
    return None


def _off_by_chance(seen: Seen, name: str) -> float:
    """Return the share of random units, without a bias, that would be inactive for every sample."""
    arriving = seen.arriving(name)
    if seen.values[name].type != "dense" or arriving is None:
        return 0.5
    rows = arriving.reshape(-1, arriving.shape[-1]).astype(np.float64)
    if len(rows) > CHANCE_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, CHANCE_ROWS).astype(np.intp)]
    random = np.random.Generator(np.random.PCG64(0)).standard_normal((rows.shape[1], DIRECTIONS))
    return float((rows @ random <= 0.0).all(0).mean())


def _slow(seen: Seen) -> Iterator[Found]:
    """Yield findings about outputs that are saturated and wrong, under a loss that does not cancel their slope."""
    task = seen.evaluation.task
    for name, loss in zip(task.definition.output_names, task.losses or (), strict=False):
        activation = seen.evaluation.model.layers[name].activation
        values, targets = seen.values[name], seen.feed.targets[name]
        if activation is None or loss.declaration.outputs is not None or targets.shape != values.output.shape:
            continue
        error = values.output.astype(np.float64) - targets
        if activation.name == "softmax":
            span, largest = 1.0, 0.5
            passed = values.output * (error - (error * values.output).sum(-1, keepdims=True))
            wrong = np.broadcast_to((np.abs(error) > 0.5 * span).any(-1, keepdims=True), error.shape)
        elif (reach := seen.health.layers[name].tails.range) is not None:
            span, largest = reach, seen.health.layers[name].tails.largest
            passed = error * slopes(activation, values.pre_activation.astype(np.float64))
            wrong = np.abs(error) > 0.5 * span
        else:
            continue
        size = float(np.linalg.norm(error[wrong]))
        if not size > 0.0:
            continue
        slope = float(np.linalg.norm(passed[wrong])) / size
        typical = size / math.sqrt(np.count_nonzero(wrong))
        yield from found_if(
            "learning_slowdown",
            slope / largest,
            layer=name,
            quantity="delta",
            activation=activation.name,
            loss=loss.name,
            error=typical,
            slope=slope,
        )


# --- gradients of 0, and small ones ------------------------------------------------------------------


def _zero(seen: Seen) -> Iterator[Found]:
    """Yield findings about weights with a gradient of exactly 0, one for each reason."""
    disconnected = {each.found.layer for each in seen.result.warnings if each.found and each.code == "disconnected"}
    gradients = {name: arrays for name, arrays in seen.result.gradients.items() if name not in disconnected}
    whole = not any(array.any() for arrays in gradients.values() for array in arrays.values())
    by_reason: dict[tuple[str, str], list[str]] = {}
    for layer, arrays in gradients.items():
        for name, array in arrays.items():
            if (array.ndim >= 2 or whole) and not array.any():
                by_reason.setdefault(_why_zero(seen, layer), []).append(f"`{layer}.{name}`")
    for (reason, culprit), names in by_reason.items():
        severity = "note" if reason in ("error", "cancel") else "problem" if whole else "warning"
        more = [] if len(names) <= 8 else ["…"]
        words: dict[str, Any] = {"names": names[:8] + more, "reason": reason}
        yield found("zero_gradient", value=0.0, severity=severity, layer=culprit, quantity="gradient", **words)


def _why_zero(seen: Seen, layer: str) -> tuple[str, str]:
    """Return why the gradient of a layer is 0, as a code, and the layer at which it is lost."""
    definition, values = seen.evaluation.task.definition, seen.values
    users = [each.name for each in definition.layers if layer in (each.name, each.shares)]
    if any(_flows(values[name]) for name in users):
        arriving = seen.arriving(layer)
        return ("input" if arriving is not None and not arriving.any() else "cancel"), layer
    name, visited = layer, {layer}
    while True:
        after = [
            each.name
            for place, each in enumerate(definition.layers)
            if name in definition.inputs_of(place) and each.name not in visited
        ]
        reached = [each for each in after if _flows(values[each])]
        if reached:
            return _lost_between(seen, name, reached)
        if name in definition.output_names or not after:
            return _at_the_end(seen, name)
        visited.update(after)
        name = after[0]


def _flows(values: LayerValues) -> bool:
    return values.delta is not None and bool(values.delta.any())


def _lost_between(seen: Seen, name: str, after: list[str]) -> tuple[str, str]:
    """Return why no gradient reaches a layer although it reaches those `after` it, and the layer that stops it."""
    kernels = kernels_of(seen.parameters)
    shares = {layer.name: layer.shares or layer.name for layer in seen.evaluation.task.definition.layers}
    if _is_flat(seen, name):
        return "flat", name
    for each in after:
        kernel = kernels.get(shares[each])
        if kernel is not None and not kernel.any():
            return "weight", each
    return "other", after[0]


def _at_the_end(seen: Seen, name: str) -> tuple[str, str]:
    if _is_flat(seen, name):
        return "flat", name
    return "error", name


def _is_flat(seen: Seen, name: str) -> bool:
    """Return whether the activation of a layer has the slope 0 at every pre-activation."""
    activation = seen.evaluation.model.layers[name].activation
    if activation is None or activation.declaration.acts_on != "element" or activation.declaration.parameters:
        return False
    return not slopes(activation, seen.values[name].pre_activation.astype(np.float64)).any()


def _flat(seen: Seen) -> Iterator[Found]:
    result, norm = seen.result, seen.result.gradient_norm
    if result.loss is None or norm is None:
        return
    loss, size = abs(float(result.loss.sum())), norm_of_tree(seen.parameters)
    if loss > 0.0 and size > 0.0 and math.isfinite(loss):
        yield from found_if("flat_loss", norm * size / loss, quantity="gradient", loss=loss, norm=norm)


# --- inputs ------------------------------------------------------------------------------------------


def _about_inputs(seen: Seen) -> Iterator[Found]:
    for name in weighed_inputs(seen.evaluation.task.definition):
        array = seen.feed.inputs[name]
        if not is_finite(array):
            continue
        scale = scale_of(array)
        condition, better = scale.condition, scale.standardised
        words: dict[str, Any] = {
            "smallest": scale.smallest,
            "largest": scale.largest,
            "condition": condition,
            "better": better,
        }
        if condition is not None and better is not None and condition >= BETTER * better:
            yield from found_if("badly_scaled_inputs", condition, quantity="input", name=repr(name), **words)
        yield from found_if("large_inputs", scale.size, quantity="input", name=repr(name), size=scale.size)
