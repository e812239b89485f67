"""The outline of a derivation: which numbers are derived, with their formulas and their order.

An outline depends on no numbers of a request, except for integers that select rows of a table. So it is made once and
filled in for every similar request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.engine.arrays import Array
from service.engine.errors import Fault, InvalidRequest
from service.engine.graph.ir import Node, reachable
from service.engine.insight import notation
from service.engine.insight.elements import MOST_TERMS, Element, Elements, index_of
from service.engine.insight.formula import (
    Constant,
    Key,
    NumberFormula,
    Ref,
    Square,
    TermSum,
    expression,
    names,
    product,
    quotient,
    total,
    turned,
)
from service.engine.insight.notation import Template
from service.engine.insight.scene import SIGNED, Scene, SelectedParameter, brackets, subscript
from service.engine.insight.sentences import sentence_of
from service.engine.texts import Sentence, say

CONVENTIONS = ("standard", "heaton")
KINDS = ("forward", "error", "delta", "gradient", "update")
"""The subjects of steps, in the order of a derivation."""
MOST_STEPS = 2_000
MOST_LOOKED_THROUGH = 100_000
"""Names in formulas that are read to learn which sample a value belongs to."""
RATE = "learning_rate"
MEAN_SQUARE = "mean_squared_error"
"""The error of all samples in Heaton's notation."""
_KINDS = {"pre_activation": "forward", "output": "forward", "slope": "delta", "delta": "delta"}
_KINDS |= dict.fromkeys(("error", "loss", "sample_loss", "penalty"), "error")


@dataclass(slots=True)
class DerivationStep:
    """One step of a derivation: a number with its formula and its sentence, but without its value."""

    key: Key
    id: str
    kind: str
    quantity: str
    layer: str | None
    unit: list[int]
    sample: int | None
    symbol: str
    formula: NumberFormula
    sentence: Sentence
    signed: bool
    """True if the shown number is the negative of the number in the graph."""
    element: Element | None
    """The element with its value; None if its formula computes it."""
    node: Node | None = None
    uses: tuple[str, ...] = ()
    latex: str = ""
    expression: str = ""
    template: Template | None = None


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number that steps of a derivation use and that is not derived itself, such as an input."""

    key: Key
    id: str
    quantity: str
    layer: str | None
    index: list[int]
    sample: int | None
    symbol: str
    signed: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """One requested gradient, with the keys of its parameter, its gradient and its update."""

    path: str
    selected: SelectedParameter
    place: int
    parameter: Key
    gradient: str
    update: str


@dataclass(frozen=True)
class Outline:
    """All steps and quantities of a derivation, in order."""

    steps: list[DerivationStep]
    quantities: list[Quantity]
    asked: list[Asked]
    elements: Elements
    places: Mapping[Key, int]
    """The position of each key among quantities and steps, quantities first."""


class _Growth:
    """The search for the numbers of an outline, from the gradients on."""

    def __init__(self, scene: Scene, indices: Mapping[int, Array], depth: int | None, convention: str) -> None:
        self.scene = scene
        self.depth = depth
        self.heaton = convention == "heaton"
        wanted = reachable([*scene.outputs, *(each.parameter.node for each in scene.selected)])
        self.nodes = {node.index: node for node in wanted}
        self.elements = Elements(wanted, scene.names, indices)
        self.formulas: dict[Key, NumberFormula] = {}
        self.given: dict[Element, None] = {}
        self.asked: list[Asked] = []
        self.parts: dict[str, tuple[Asked, int | None]] = {}
        """Gradients, shares of samples and updates, which are no elements, each with its parameter and sample."""
        self.terms = 0
        self.look_through = MOST_LOOKED_THROUGH
        self._samples: dict[Element, frozenset[int]] = {}

    def grow(self) -> None:
        """Find all steps, level by level from the gradients on. Raises `InvalidRequest` when there are too many."""
        deepest = self._follow(self._begin(), 1)
        objective = self.scene.prepared.objective
        assert objective is not None
        if self.depth is None and not objective.total.is_constant:
            self._follow([(objective.total.index, 0)], deepest)

    def _follow(self, level: list[Element], fits: int) -> int:
        """Derive elements, and the elements in their formulas, level by level; return the depth reached. `fits` is a
        depth that is certainly short enough, for the error."""
        depth = 1
        while level and (self.depth is None or depth < self.depth):
            following: dict[Element, None] = {}
            for element in level:
                if element not in self.formulas:
                    node = self.nodes[element[0]]
                    self._add(element, self._formula(node, element[1], max(fits, depth)), max(fits, depth))
                    following.update(self._unknown(self.formulas[element]))
            depth += 1
            level = list(following)
        self.given.update(dict.fromkeys(level))
        return depth

    def _begin(self) -> list[Element]:
        count = sum(len(each.places) for each in self.scene.selected)
        if count > MOST_STEPS:
            detail = f"{count} gradients were asked for; a derivation has at most {MOST_STEPS} steps: {_FEWER}"
            raise InvalidRequest([Fault(("parameter",), detail)])
        found: dict[Element, None] = {}
        for selected in self.scene.selected:
            for place in selected.places:
                path = selected.path(place)
                element = (selected.parameter.node.index, place)
                asked = Asked(path, selected, place, element, f"gradient:{path}", f"update:{path}")
                self.asked.append(asked)
                self._gradient(asked, found)
        return list(found)

    def _gradient(self, asked: Asked, found: dict[Element, None]) -> None:
        gradient = asked.selected.gradient
        if not isinstance(gradient, Node):
            formula: NumberFormula = Constant(0.0)
        elif gradient.index in self.scene.names:
            formula = Ref((gradient.index, asked.place))
        else:
            formula = self._formula(gradient, asked.place, 0)
        terms = formula.terms if isinstance(formula, TermSum) else [(False, formula)]
        several = self.scene.task.samples > 1
        shares: dict[int, list[tuple[bool, NumberFormula]]] = {}
        rest: list[tuple[bool, NumberFormula]] = []
        for minus, term in terms:
            samples = self._samples_of(term) if several else frozenset()
            if len(samples) == 1:
                shares.setdefault(next(iter(samples)), []).append((minus, term))
            else:
                rest.append((minus, term))
        combined: list[tuple[bool, NumberFormula]] = []
        for sample, own in sorted(shares.items()):
            share = f"{asked.gradient}@{sample}"
            self.parts[share] = (asked, sample)
            self._add(share, total(own), 0)
            found.update(self._unknown(self.formulas[share]))
            combined.append((False, Ref(share)))
        formula = total([*combined, *rest]) if shares else formula
        self.parts[asked.gradient] = (asked, None)
        self._add(asked.gradient, formula, 0)
        found.update(self._unknown(formula))
        self.given.setdefault((asked.selected.parameter.node.index, asked.place))
        self.parts[asked.update] = (asked, None)
        move = product([Ref(RATE), Ref(asked.gradient)])
        self._add(asked.update, total([(False, Ref(asked.parameter)), (not self.heaton, move)]), 0)

    def _formula(self, node: Node, place: int, fits: int) -> NumberFormula:
        try:
            return self.elements.formula(node, place)
        except OverflowError:
            raise self._too_large(fits) from None

    def _add(self, key: Key, formula: NumberFormula, fits: int) -> None:
        self.formulas[key] = formula
        self.terms += formula.size
        if len(self.formulas) > MOST_STEPS or self.terms > MOST_TERMS:
            raise self._too_large(fits)

    def _too_large(self, fits: int) -> InvalidRequest:
        deepest = f", or a 'depth' of at most {fits}" if fits else ""
        most = f"at most {MOST_STEPS} steps with {MOST_TERMS} terms are given"
        detail = f"the derivation is too long: {most}; {_FEWER}{deepest}"
        return InvalidRequest([Fault(("depth",) if fits else ("parameter",), detail)])

    def _unknown(self, formula: NumberFormula) -> dict[Element, None]:
        """Return the elements of a formula that need a derivation. Elements without one become quantities."""
        found: dict[Element, None] = {}
        for key in names(formula):
            if isinstance(key, tuple) and key not in self.formulas:
                (self.given if self.nodes[key[0]].is_leaf else found)[key] = None
        return found

    def _samples_of(self, formula: NumberFormula) -> frozenset[int]:
        """Return the samples that a formula depends on; an empty set where the search takes too long."""
        with self.elements.spending(self.look_through):
            try:
                found = [self._samples_of_element(key) for key in names(formula) if isinstance(key, tuple)]
            except OverflowError:
                return frozenset()
            finally:
                self.look_through -= self.elements.spent
        return frozenset().union(*found)

    def _samples_of_element(self, element: Element) -> frozenset[int]:
        """Return the samples that an element depends on: its own, if the element has a name."""
        known, waiting = self._samples, [element]
        while waiting:
            here = waiting[-1]
            node = self.nodes[here[0]]
            if node.index in self.scene.names or node.is_leaf:
                sample = self.scene.place(node, here[1])[0] if node.index in self.scene.names else None
                known[here] = frozenset() if sample is None else frozenset((sample,))
            elif here not in known:
                parts = [key for key in names(self.elements.formula(node, here[1])) if isinstance(key, tuple)]
                missing = [part for part in parts if part not in known]
                if missing:
                    waiting += missing
                    continue
                known[here] = frozenset().union(*[known[part] for part in parts])
            waiting.pop()
        return known[element]


class _Writing:
    """The writing of an outline: it turns the numbers that `_Growth` found into steps and quantities."""

    def __init__(self, growth: _Growth) -> None:
        self.scene, self.heaton, self.nodes, self.elements = growth.scene, growth.heaton, growth.nodes, growth.elements
        self.formulas, self.given, self.asked, self.parts = growth.formulas, growth.given, growth.asked, growth.parts

    def finish(self) -> Outline:
        elements = [key for key in self.formulas if isinstance(key, tuple)]
        self.given = {key: None for key in self.given if key not in self.formulas}
        numbered = sorted({key[0] for key in (*elements, *self.given) if key[0] not in self.scene.names})
        self.numbers = {index: position for position, index in enumerate(numbered, 1)}
        self.positions = {key: place for place, key in enumerate(self.parts)}
        errors = [key for key in elements if self._is_error(key)]
        if self.heaton and errors:
            squares = total([(False, Square((Ref(key),))) for key in sorted(errors)])
            self.formulas[MEAN_SQUARE] = quotient(squares, Constant(float(len(errors))))
        signed = self._signed()
        quantities = [self._quantity(key, signed) for key in sorted(self.given)]
        rate = Quantity(RATE, RATE, RATE, None, [], None, r"\eta", False)
        quantities.append(rate)
        steps = [self._step(key, formula, key in signed) for key, formula in self.formulas.items()]
        steps.sort(key=self._heatons_order if self.heaton else self._order)
        shown: list[Quantity | DerivationStep] = [*quantities, *steps]
        by_key = {each.key: each for each in shown}
        places = {each.key: place for place, each in enumerate(shown)}
        for step in steps:
            if self.heaton:
                step.formula = self._in_his_sign(step, signed)
            self._write(step, by_key, places)
        return Outline(steps, quantities, self.asked, self.elements, places)

    def _signed(self) -> frozenset[Key]:
        """Return the keys of numbers that Heaton prints with the other sign: deltas, and what follows from them."""
        if not self.heaton:
            return frozenset()
        found: set[Key] = set()
        for key in sorted(key for key in (*self.formulas, *self.given) if isinstance(key, tuple)):
            name = self.scene.names.get(key[0])
            if name is not None and name.quantity in SIGNED:
                found.add(key)
            elif name is None and self.nodes[key[0]].serves is not None:
                formula = self.formulas.get(key)
                if formula is not None and any(used in found for used in names(formula)):
                    found.add(key)
        return frozenset(found | {key for key in self.parts if not str(key).startswith("update:")})

    def _in_his_sign(self, step: DerivationStep, signed: frozenset[Key]) -> NumberFormula:
        if step.key in signed:
            return turned(step.formula, signed.__contains__)
        return step.formula

    def _is_error(self, element: Element) -> bool:
        name = self.scene.names.get(element[0])
        return name is not None and name.quantity == "error"

    def _described(self, element: Element) -> tuple[str, str | None, int | None, list[int], str, str]:
        """Return the quantity, layer, sample, index, id and symbol of an element."""
        scene, node = self.scene, self.nodes[element[0]]
        name = scene.names.get(node.index)
        if name is not None:
            sample, index = scene.place(node, element[1])
            layer = name.owner if name.quantity not in ("input", "target", "noise") else None
            described = scene.identifier(node, element[1]), scene.symbol(node, element[1])
            return (name.quantity, layer or None, sample, index, *described)
        index = index_of(node.shape, element[1])
        layer = node.scope if node.scope in scene.prepared.model.layers else None
        number = self.numbers[node.index]
        symbol = f"v^{{({number})}}" + subscript(index)
        return "intermediate", layer, None, index, f"v{number}{brackets(index)}", symbol

    def _quantity(self, element: Element, signed: frozenset[Key]) -> Quantity:
        quantity, layer, sample, index, identifier, symbol = self._described(element)
        return Quantity(element, identifier, quantity, layer, index, sample, symbol, element in signed)

    def _step(self, key: Key, formula: NumberFormula, signed: bool) -> DerivationStep:
        if isinstance(key, tuple):
            node = self.nodes[key[0]]
            quantity, layer, sample, unit, identifier, symbol = self._described(key)
            kind = _KINDS.get(quantity) or self._kind(node)
            sentence = sentence_of(quantity, self.scene, node, layer, unit, self.heaton)
            return DerivationStep(
                key, identifier, kind, quantity, layer, unit, sample, symbol, formula, sentence, signed, key, node
            )
        if key == MEAN_SQUARE:
            sentence = say("explain.mean_squared_error")
            return DerivationStep(
                key, MEAN_SQUARE, "error", MEAN_SQUARE, None, [], None, "E", formula, sentence, False, None
            )
        asked, sample = self.parts[str(key)]
        selected = asked.selected
        parameter = selected.parameter
        symbol = self.scene.symbol(parameter.node, asked.place)
        unit = index_of(parameter.node.shape, asked.place)
        element: Element | None = None
        if key == asked.update:
            kind, quantity, shown = "update", "update", symbol
        else:
            kind, quantity = "gradient", "gradient" if sample is None else "share"
            shown = rf"\frac{{\partial L}}{{\partial {symbol}}}"
            if sample is not None:
                shown += rf"\Big|_{{{sample}}}"
            elif isinstance(selected.gradient, Node):
                element = (selected.gradient.index, asked.place)
        sentence = sentence_of(quantity, self.scene, None, parameter.layer, unit, self.heaton, asked.path)
        return DerivationStep(
            key, str(key), kind, quantity, parameter.layer, unit, sample, shown, formula, sentence, signed, element
        )

    def _kind(self, node: Node) -> str:
        if node.scope == "loss":
            return "error"
        return "forward" if node.serves is None else "delta"

    def _write(
        self, step: DerivationStep, by_key: Mapping[Key, Quantity | DerivationStep], places: Mapping[Key, int]
    ) -> None:
        used = list(dict.fromkeys(names(step.formula)))
        step.uses = tuple([by_key[key].id for key in used])
        position = {key: f"u{place}" for place, key in enumerate(used)}
        step.expression = expression(step.formula, position.__getitem__)
        right = notation.symbolic(step.formula, lambda key: by_key[key].symbol)
        step.latex = rf"{step.symbol} \leftarrow {right}" if step.kind == "update" else f"{step.symbol} = {right}"
        step.template = Template(step.formula, places.__getitem__)

    # --- in which order ---

    def _order(self, step: DerivationStep) -> tuple[object, ...]:
        rank = KINDS.index(step.kind)
        if isinstance(step.key, tuple):
            return (rank, *step.key)
        return (rank, self.positions[str(step.key)], 0)

    def _heatons_order(self, step: DerivationStep) -> tuple[object, ...]:
        """Return the sorting key of a step in Heaton's order. For each sample the outputs come first, each unit with
        sum, output and delta; then gradients, a unit at a time."""
        depth = self._depth_of(step.layer)
        if step.kind == "gradient" or step.kind == "update":
            rows = step.unit[:-1] or [10**9]  # a bias comes after the weights of its unit
            last = step.unit[-1:]
            return (KINDS.index(step.kind), depth, last, rows, step.sample is None, step.sample or 0)
        node = step.node
        if node is None:
            return (0, -2)
        assert isinstance(step.key, tuple)
        sample = -1 if step.sample is None else step.sample
        return (0, sample, depth, step.unit, node.index, step.key[1])

    def _depth_of(self, layer: str | None) -> int:
        """Return how many layers come after a layer; -1 for no layer."""
        layers = list(self.scene.prepared.model.layers)
        return len(layers) - 1 - layers.index(layer) if layer in layers else -1


_FEWER = "name a single 'parameter', such as layer.kernel[0][0], or a 'sample'"


def draw(scene: Scene, indices: Mapping[int, Array], depth: int | None, convention: str) -> Outline:
    """Return the outline of a scene's derivation. `indices` are the integers of inputs, by node; `depth` limits the
    steps back from the gradients. Raises `InvalidRequest` when there are too many steps."""
    growth = _Growth(scene, indices, depth, convention)
    growth.grow()
    return _Writing(growth).finish()
