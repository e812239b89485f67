"""The meaning of a gradient for its parameter: the way to go and, where it is 0, the reason.

The reason is where the chain of factors breaks. The search follows the formulas of a derivation from the gradient on,
as far as they are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from service.engine.graph.ir import NoGradient
from service.engine.insight.elements import Element
from service.engine.insight.formula import (
    Call,
    Constant,
    Key,
    NumberFormula,
    Product,
    Quotient,
    Ref,
    Square,
    TermSum,
    evaluate,
    names,
)
from service.engine.insight.outline import Asked, Outline
from service.engine.insight.scene import Scene
from service.engine.texts import Sentence, say

RECTIFIERS = frozenset(
    ("relu", "leaky_relu", "prelu", "elu", "selu", "celu", "relu6", "hard_silu", "hard_shrink", "soft_shrink")
)
"""Activations whose flat part is called inactive, and not saturated."""
STEPS = frozenset(("step", "sign"))
MOST_FOLLOWED = 100_000
"""Names in formulas that are read to find a reason."""
CODES = {
    "input": "zero_input",
    "parameter": "zero_weight",
    "sample_weight": "sample_weight",
    "noise": "dropped",
    "output": "zero_activation",
    "pre_activation": "zero_activation",
    "error": "zero_error",
    "target": "zero_target",
}
"""The code of the reason that a quantity is 0."""


@dataclass(frozen=True)
class Reason:
    """The reason why a gradient is 0, for some samples."""

    code: str
    layer: str | None
    samples: tuple[int, ...]
    text: Sentence


@dataclass(frozen=True)
class Meaning:
    """The meaning of one entry of a gradient: whether to increase or decrease its parameter, and why an entry is 0."""

    asked: Asked
    value: float
    gradient: float
    """The gradient, with the sign of the answer."""
    updated: float
    advice: str
    """`increase`, `decrease` or `stationary`."""
    reasons: list[Reason]
    text: Sentence


def meaning_of(
    scene: Scene,
    outline: Outline,
    asked: Asked,
    numbers: tuple[float, float, float],
    heaton: bool,
    value: Callable[[Key], float],
) -> Meaning:
    """Return the meaning of one gradient. `numbers` are the parameter, the shown gradient, and the new parameter.
    `heaton` says that gradients have the other sign. `value` returns the number in the graph of an element."""
    parameter, gradient, updated = numbers
    slope = -gradient if heaton else gradient
    if slope != slope:
        return Meaning(asked, *numbers, "unknown", [], say("explain.meaning.unknown", path=asked.path))
    if slope < 0.0:
        text = (
            say("explain.meaning.increase.added", path=asked.path, value=gradient)
            if heaton
            else say("explain.meaning.increase.subtracted", path=asked.path, value=gradient)
        )
        return Meaning(asked, *numbers, "increase", [], text)
    if slope > 0.0:
        text = (
            say("explain.meaning.decrease.added", path=asked.path, value=gradient)
            if heaton
            else say("explain.meaning.decrease.subtracted", path=asked.path, value=gradient)
        )
        return Meaning(asked, *numbers, "decrease", [], text)
    reasons = _reasons(scene, outline, asked, value)
    text = say("explain.meaning.stationary", path=asked.path, reasons=[reason.text for reason in reasons])
    return Meaning(asked, parameter, 0.0, updated, "stationary", reasons, text)


class Cause(NamedTuple):
    """A code of a reason for 0, and the layer that it is about."""

    code: str
    layer: str = ""


def _reasons(scene: Scene, outline: Outline, asked: Asked, value: Callable[[Key], float]) -> list[Reason]:
    gradient = asked.selected.gradient
    if gradient is NoGradient.ZERO:
        layers = scene.blocked or (asked.selected.parameter.layer,)
        return [Reason("blocked", layers[0], (), say("explain.reason.blocked", layers=_quoted(layers)))]
    if isinstance(gradient, NoGradient):
        return [Reason("disconnected", None, (), say("explain.reason.disconnected"))]
    search = _CauseSearch(scene, outline, value)
    formulas = {step.key: step.formula for step in outline.steps}
    by_found: dict[Cause, set[int]] = {}
    shares = [key for key in formulas if isinstance(key, str) and key.startswith(f"{asked.gradient}@")]
    shown = [(int(key.rpartition("@")[2]), key) for key in shares]
    if not shown:
        formula = outline.elements.formula(gradient, asked.place)
        for found in search.of(formula):
            by_found.setdefault(found, set()).update((scene.sample or 0,) if scene.task.samples == 1 else ())
    elif any(search.number(formulas[key]) for _, key in shown):
        by_found[Cause("cancels")] = set()
    else:
        for sample, key in shown:
            for found in search.of(formulas[key]):
                by_found.setdefault(found, set()).add(sample)
    return [_reason_of(scene, found, tuple(sorted(samples))) for found, samples in by_found.items()]


def _quoted(names: Iterable[str]) -> list[str]:
    return [f"`{name}`" for name in names]


def _reason_of(scene: Scene, found: Cause, samples: tuple[int, ...]) -> Reason:
    code, layer = found
    count = len(samples)
    if code == "inactive" and count == scene.task.samples:
        code = "dead"
    where = (
        say("explain.reason.everywhere")
        if count in (0, scene.task.samples)
        else say("explain.reason.in_samples", count=count)
    )
    match code:
        case "zero_input":
            text = say("explain.reason.zero_input", where=where)
        case "zero_activation":
            text = say("explain.reason.zero_activation", layer=layer, where=where)
        case "saturated":
            text = say("explain.reason.saturated", layer=layer, where=where)
        case "inactive":
            text = say("explain.reason.inactive", layer=layer, where=where)
        case "dead":
            text = say("explain.reason.dead", layer=layer)
        case "blocked":
            text = say("explain.reason.blocked", layers=_quoted([layer]))
        case "zero_error":
            text = say("explain.reason.zero_error", where=where)
        case "zero_target":
            text = say("explain.reason.zero_target", where=where)
        case "zero_weight":
            text = say("explain.reason.zero_weight", layer=layer, where=where)
        case "sample_weight":
            text = say("explain.reason.sample_weight", where=where)
        case "dropped":
            text = say("explain.reason.dropped", where=where)
        case "not_selected":
            text = say("explain.reason.not_selected", where=where)
        case "underflow":
            text = say("explain.reason.underflow", where=where)
        case "far_back":
            text = say("explain.reason.far_back")
        case "unused":
            text = say("explain.reason.unused")
        case _:
            text = say("explain.reason.cancels")
    return Reason(code, layer or None, samples, text)


class _CauseSearch:
    """A search for the reasons why a formula is 0, which follows the formulas that it is made of."""

    def __init__(self, scene: Scene, outline: Outline, value: Callable[[Key], float]) -> None:
        self.scene = scene
        self.elements = outline.elements
        self.value = value
        self.known: dict[Element, list[Cause | Element]] = {}

    def number(self, formula: NumberFormula) -> float:
        return evaluate(formula, self.value)

    def of(self, formula: NumberFormula) -> list[Cause]:
        """Return the reasons why a formula is 0, the nearest first."""
        found: dict[Cause, None] = {}
        seen: set[Element] = set()
        try:
            with self.elements.spending(MOST_FOLLOWED):
                level = list(self._of(formula))
                while level:
                    following: list[Cause | Element] = []
                    for each in level:
                        if isinstance(each, Cause):
                            found[each] = None
                        elif each not in seen:
                            seen.add(each)
                            following += self._of_element(each)
                    level = following
        except OverflowError:
            found.setdefault(Cause("far_back"))
        return list(found)

    def _of_element(self, element: Element) -> list[Cause | Element]:
        known = self.known.get(element)
        if known is None:
            read = self._named(element) or self._of(self.elements.formula(self.elements.node(element), element[1]))
            known = self.known[element] = list(read)
        return known

    def _named(self, element: Element) -> list[Cause]:
        """Return the reason that the name of an element gives, such as an input; none for other elements."""
        name = self.scene.names.get(element[0])
        if name is None:
            return []
        if name.quantity == "slope":
            return [Cause(self._flat(name.owner), name.owner)]
        code = CODES.get(name.quantity)
        layer = name.owner if name.quantity in ("parameter", "output", "pre_activation") else ""
        return [] if code is None else [Cause(code, layer)]

    def _of(self, formula: NumberFormula) -> Iterable[Cause | Element]:
        """Return the reasons that a formula of value 0 shows by itself, and the elements to follow."""
        if isinstance(formula, Constant):
            return [Cause("unused")]
        if isinstance(formula, Ref):
            assert isinstance(formula.key, tuple)
            return [formula.key]
        if isinstance(formula, TermSum):
            if any(map(self.number, formula.parts)):
                return [Cause("zero_error" if self._has_target(formula) else "cancels")]
            return self._of_each(formula.parts)
        if isinstance(formula, Quotient | Square):
            top = formula.parts[0]
            return [Cause("underflow")] if self.number(top) else self._of(top)
        if isinstance(formula, Product):
            return self._of_zeros(formula) or [Cause("underflow")]
        assert isinstance(formula, Call)
        return self._of_call(formula)

    def _of_each(self, formulas: Iterable[NumberFormula]) -> list[Cause | Element]:
        return [found for each in formulas for found in self._of(each)]

    def _of_zeros(self, formula: NumberFormula) -> list[Cause | Element]:
        """Return the reasons for those parts of a formula that are 0."""
        return self._of_each(part for part in formula.parts if not self.number(part))

    def _of_call(self, formula: Call) -> Iterable[Cause | Element]:
        name = formula.name
        if name == "first_largest":
            return [Cause("not_selected")]
        layer = next((each for each in map(self._layer, names(formula)) if each), "")
        if name in ("logistic_slope", "tanh_slope"):
            return [Cause("saturated", layer)]
        if name in ("greater", "greater_equal", "sign") and layer:
            return [Cause(self._flat(layer), layer)]
        if name in ("gate", "weighted"):
            return self._of_zeros(formula) or [Cause("underflow")]
        if name in ("sign", "absolute", "tanh", "sqrt", "min", "max", "minimum", "maximum"):
            return self._of_zeros(formula) or [Cause("cancels")]
        return [Cause("underflow", layer)]

    def _flat(self, layer: str) -> str:
        """Return the code of the reason for a slope of 0 in a layer, which depends on the activation."""
        activation = self.scene.prepared.model.layers[layer].activation
        if activation is None:
            return "not_selected"
        if activation.name in STEPS:
            return "blocked"
        return "inactive" if activation.name in RECTIFIERS else "saturated"

    def _layer(self, key: Key) -> str:
        """Return the layer whose activation takes the value at a key, as far as its name shows."""
        name = self.scene.names.get(key[0]) if isinstance(key, tuple) else None
        return name.owner if name is not None and name.quantity in ("pre_activation", "output") else ""

    def _has_target(self, formula: NumberFormula) -> bool:
        found = [self.scene.names.get(key[0]) for key in names(formula) if isinstance(key, tuple)]
        return any(name is not None and name.quantity == "target" for name in found)
