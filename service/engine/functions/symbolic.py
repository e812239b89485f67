"""Formulas for the nodes of a graph of scalars, as a textbook would print them.

The derivatives are those that `differentiate` put into the graph; nothing here knows how to differentiate. Nodes are
read into the canonical forms of `Algebra`; then common factors are pulled out and products multiplied out where that
is shorter, and the result is laid out in both notations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from service.engine.functions.algebra import (
    Algebra,
    Atom,
    Base,
    Exponent,
    Factor,
    NoFormula,
    Sum,
    Term,
    WorkExhausted,
    plain,
)
from service.engine.functions.printing import SMALLEST_PLAIN, Fragment, Latex, Rational, Text, latex_names
from service.engine.graph.ir import Node

__all__ = ["FormulaWriter", "Leaf", "Printed"]

MOST_WORK = 10_000
"""Elementary steps, each a microsecond or two, for all formulas of an expression together; `peaks` takes most of it."""
LONGEST_FORMULA = 4_000
MOST_POWER = 8
"""Powers of sums are multiplied out up to this one."""
MOST_PRODUCTS = 24
"""Terms that multiplying out may make before like ones meet."""
HALF = Fraction(1, 2)
SMALL = 1_000
"""Up to this denominator a float is taken for the fraction that is rounded to it."""

Leaf = str | Fraction
"""A symbol, such as x, pi or e, or an exact number."""


@dataclass(frozen=True)
class Printed:
    """A formula in both notations."""

    latex: str
    text: str


# --- shorter forms ------------------------------------------------------------------------------


class Tidier(Algebra):
    """Algebra that also looks for shorter forms."""

    def __init__(self, typed: int) -> None:
        super().__init__()
        self.typed = typed
        """The index of the last node of what was typed; those after it belong to derivatives."""
        self._neat: dict[Sum, Sum] = {}

    def log1p(self, x: Sum) -> Sum:
        """ln(1 + x); of a small number as that word, for the sum would round to 1."""
        number = x.number
        if number and -SMALLEST_PLAIN < number < SMALLEST_PLAIN:
            return self.call("log1p", (x,))
        return self.call("log", (self.total([(self.number(1), 1), (x, 1)]),))

    def neat(self, whole: Sum) -> Sum:
        """The same in a form that prints shorter, if there is one."""
        known = self._neat.get(whole)
        if known is None:
            known = self._neat_inside(whole) if whole.depth > 1 else whole
            if known.depth > 1 or len(known.terms) > 1:
                with suppress(NoFormula):  # a form on the way to a shorter one may have no value, or be too large
                    known = self._shorter(known)
            self._neat[whole] = self._neat[known] = known
        return known

    def _neat_inside(self, whole: Sum) -> Sum:
        terms = [(tuple([self._neat_factor(*factor) for factor in term.factors]), term) for term in whole.terms]
        if all(factors == term.factors for factors, term in terms):
            return whole
        return self.total([(self.product(whole.terms[term], factors), 1) for factors, term in terms])

    def _neat_factor(self, base: Base, exponent: Exponent) -> Factor:
        if isinstance(exponent, Sum):
            exponent = plain(self.neat(exponent))
        if isinstance(base, Sum):
            neat = self.neat(base)
            return self._collected(neat) if isinstance(exponent, int) else neat, exponent
        if base.arguments:
            arguments = tuple([self.neat(argument) for argument in base.arguments])
            if arguments != base.arguments:
                return self.call(base.name, arguments), exponent
        return base, exponent

    def _shorter(self, whole: Sum) -> Sum:
        """The shortest of some forms; one that is less usual has to save more."""
        collected = self._collected(whole)
        if collected is not whole and collected.weight <= 0.9 * whole.weight:
            return collected  # what is left inside has been looked at
        powers = [sums.count(base) for sums in map(_sums, whole.terms) for base in sums]
        if not powers:
            return whole
        grouped = self._grouped(whole)
        best = grouped if grouped.weight <= 0.97 * whole.weight else whole
        for power in sorted({1, max(powers)}):
            expanded = self._expanded(whole, power)
            if expanded is not whole:
                expanded = self._collected(expanded)
                if expanded.weight <= 0.85 * best.weight:
                    best = expanded
        return best

    def _collected(self, whole: Sum) -> Sum:
        """What all terms have in common pulled out, over a common denominator where that is simple."""
        if len(whole.terms) < 2:
            return whole
        exponents: dict[Base, list[Exponent]] = {}
        for term in whole.terms:
            for base, exponent in term.factors:
                exponents.setdefault(base, []).append(exponent)
        common: list[Factor] = []
        for base, found in exponents.items():
            everywhere = len(found) == len(whole.terms)
            rational = [exponent for exponent in found if not isinstance(exponent, Sum)]
            if len(rational) < len(found):
                if everywhere and all(exponent is found[0] for exponent in found):
                    common.append((base, found[0]))
            # Of denominators that not all have, sums and constants would only make terms longer.
            elif everywhere or (min(rational) < 0 and isinstance(base, Atom) and not base.constant):
                common.append((base, min(rational)))
        if not common:
            return whole
        out = [(base, self.times(exponent, -1)) for base, exponent in common]
        rest = self.total([(self.product(c, [*term.factors, *out]), 1) for term, c in whole.terms.items()])
        return self.product(1, [(self.neat(rest), 1), *common])

    def _grouped(self, whole: Sum) -> Sum:
        """Terms that have a sum as a factor put together, with as much of that sum as is among the other terms."""
        groups: dict[Sum, dict[Term, Rational]] = {}
        others: dict[Term, Rational] = {}
        for term, c in whole.terms.items():
            bases = _sums(term)
            (groups.setdefault(bases[0], {}) if bases else others)[term] = c
        rest = self.sum(others)
        parts: list[tuple[Sum, Rational]] = []
        for base, terms in groups.items():
            share: Rational = 0
            if all(term in rest.terms for term in base.terms):
                shares = [self.exact(Fraction(rest.terms[term]) / c) for term, c in base.terms.items()]
                share = min(shares) if min(shares) > 0 else min(max(shares), 0)
            if len(terms) == 1 and not share:
                parts.append((self.sum(terms), 1))
                continue
            rest = self.total([(rest, 1), (base, -share)])
            inner = [(self.product(c, [*term.factors, (base, -1)]), 1) for term, c in terms.items()]
            factor = self.neat(self.total([*inner, (self.number(share), 1)]))
            parts.append((self.product(1, [(factor, 1), (base, 1)]), 1))
        return self.total([*parts, (rest, 1)])

    def _expanded(self, whole: Sum, power: int) -> Sum:
        """Sums up to a power multiplied out, unless that makes too many terms."""
        sums = [_sums(term, power) for term in whole.terms]
        products = sum([math.prod([len(base.terms) for base in bases]) for bases in sums])
        if products > MOST_PRODUCTS or not any(sums):
            return whole
        self.spend(4 * products)
        parts: list[tuple[Sum, Rational]] = []
        for (term, coefficient), bases in zip(whole.terms.items(), sums, strict=True):
            others = [factor for factor in term.factors if factor[0] not in bases]
            product = self.sum({self.term(others): coefficient})
            for base in bases:
                product = self.total(
                    [
                        (self.product(self.exact(c * d), (*left.factors, *right.factors)), 1)
                        for left, c in product.terms.items()
                        for right, d in base.terms.items()
                    ]
                )
            parts.append((product, 1))
        return self._expanded(self.total(parts), power)


def _sums(term: Term, power: int = MOST_POWER) -> list[Sum]:
    """What can be multiplied out: sums up to a power, each as often as it is a factor."""
    return [
        base
        for base, exponent in term.factors
        if isinstance(base, Sum) and type(exponent) is int and exponent <= power
        for _ in range(exponent)
    ]


# --- reading the graph --------------------------------------------------------------------------

TRANSPARENT = frozenset(("with_slope", "mark", "stop_gradient", "broadcast", "reshape"))
RENAMED = {"absolute": "abs", "maximum": "max", "minimum": "min"}


def _one_minus(algebra: Tidier, x: Sum) -> Sum:
    return algebra.total([(algebra.number(1), 1), (x, -1)])


def _read_logistic_slope(algebra: Tidier, x: Sum) -> Sum:
    value = algebra.call("sigmoid", (x,))
    return algebra.multiply(value, _one_minus(algebra, value))


READERS: dict[str, Callable[..., Sum]] = {
    "add": lambda algebra, a, b: algebra.total([(a, 1), (b, 1)]),
    "subtract": lambda algebra, a, b: algebra.total([(a, 1), (b, -1)]),
    "multiply": Tidier.multiply,
    # What stands under a line or a root is not multiplied out afterwards: (1 - x)(1 + x) has to become 1 - x² before.
    "divide": lambda algebra, a, b: algebra.multiply(a, algebra.product(1, [(algebra.neat(b), -1)])),
    "negate": lambda algebra, x: algebra.total([(x, -1)]),
    "square": lambda algebra, x: algebra.product(1, [(x, 2)]),
    "sqrt": lambda algebra, x: algebra.product(1, [(algebra.neat(x), HALF)]),
    "hypot": lambda algebra, a, b: algebra.product(
        1, [(algebra.total([(algebra.product(1, [(x, 2)]), 1) for x in (a, b)]), HALF)]
    ),
    "power": lambda algebra, a, b: algebra.power(algebra.neat(a), b),
    "exp": lambda algebra, x: algebra.power(algebra.symbol("e"), x),
    "expm1": lambda algebra, x: algebra.total([(algebra.power(algebra.symbol("e"), x), 1), (algebra.number(1), -1)]),
    "log1p": lambda algebra, x: algebra.log1p(x),
    "xlogy": lambda algebra, a, b: algebra.multiply(a, algebra.call("log", (b,))),
    "gaussian": lambda algebra, x: algebra.power(algebra.symbol("e"), algebra.product(-1, [(x, 2)])),
    "tanh_slope": lambda algebra, x: _one_minus(algebra, algebra.product(1, [(algebra.call("tanh", (x,)), 2)])),
    "logistic_slope": _read_logistic_slope,
    "gate": lambda algebra, mask, x: x,  # the factors of x say the same of the branch
    # There is only one word for a comparison, step: the differences are for it.
    "greater": lambda algebra, a, b: algebra.call("greater", (a, b, algebra.total([(b, 1), (a, -1)]))),
    "greater_equal": lambda algebra, a, b: algebra.call("greater_equal", (a, b, algebra.total([(a, 1), (b, -1)]))),
}
UNITS = (("pi", -HALF, math.pi**-0.5), ("2", 1, math.log(2.0)), ("10", 1, math.log(10.0)))
"""Powers of constants in derivatives of words, with their values; a number stands for its logarithm."""


@lru_cache(maxsize=1024)
def recognised(value: float) -> tuple[Rational, str, Exponent]:
    """A float as a fraction times a power of one of the constants, as 1.128… is 2 times pi to -1/2."""
    if not math.isfinite(value):
        raise NoFormula
    fraction = Fraction(value).limit_denominator(SMALL)
    if float(fraction) == value:
        return fraction, "", 0
    for name, exponent, unit in UNITS:
        fraction = Fraction(value / unit).limit_denominator(SMALL // 10)
        if fraction and math.isclose(float(fraction) * unit, value, rel_tol=1e-15):
            return fraction, name, exponent
    return Fraction(repr(value)), "", 0


def read(algebra: Tidier, node: Node, inputs: Sequence[Sum], leaves: Mapping[Node, Leaf]) -> Sum:
    """The formula of a node, from those of its inputs."""
    leaf = leaves.get(node)
    if leaf is not None:
        return algebra.symbol(leaf) if isinstance(leaf, str) else algebra.number(leaf)
    if node.value is not None:
        fraction, constant, exponent = recognised(node.value)
        if not constant:
            return algebra.number(fraction)
        base = algebra.symbol(constant) if constant == "pi" else algebra.call("log", (algebra.number(int(constant)),))
        return algebra.product(fraction, [(base, exponent)])
    if not inputs:
        raise NoFormula
    name = node.operation.name
    if name in TRANSPARENT:
        return inputs[0]
    if name == "sign" and node.index > algebra.typed:
        name = "slope"
    reader = READERS.get(name)
    return algebra.call(RENAMED.get(name, name), tuple(inputs)) if reader is None else reader(algebra, *inputs)


# --- printing -----------------------------------------------------------------------------------


class Printer:
    """Lays formulas out in one notation."""

    def __init__(self, algebra: Algebra, notation: Text) -> None:
        self.algebra = algebra
        self.notation = notation
        self._small = None if notation.small is notation else Printer(algebra, notation.small)
        self.typed = 0
        """Sums that were among the first so many parts keep the order of their terms."""
        self._pieces: dict[Sum, Fragment] = {}

    @property
    def small(self) -> Printer:
        """Lays out exponents."""
        return self._small or self

    def piece(self, whole: Sum) -> Fragment:
        known = self._pieces.get(whole)
        if known is None:
            self.algebra.spend(4 * sum([1 + len(term.factors) for term in whole.terms]))
            known = self._layout(whole)
            if len(known.text) > LONGEST_FORMULA:
                raise NoFormula
            self.algebra.spend(len(known.text) // 32)
            self._pieces[whole] = known
        return known

    def _layout(self, whole: Sum) -> Fragment:
        """A sum in its order; over one denominator, or as multiple of what was typed, where it can be."""
        if not whole.terms:
            return self.notation.number("0")
        terms = self._ordered(whole)
        group = self._group(terms)
        if group:
            return group
        divisor = _divisor(terms)
        if divisor == 1 or self.notation.rational(Fraction(1, divisor))[1] == 1:
            return self._total(terms)
        top = self._total([(term, c.numerator) for term, c in terms])
        return self.notation.fraction(top, self.notation.number(str(divisor)))

    def _ordered(self, whole: Sum) -> list[tuple[Term, Rational]]:
        """As typed; else polynomials by degree, then functions, then constants. One that is added comes first."""
        terms = list(whole.terms.items())
        if whole.index >= self.typed:
            terms.sort(key=_rank)
        first = next((place for place, (_, c) in enumerate(terms) if c > 0), 0)
        terms.insert(0, terms.pop(first))
        return terms

    def _group(self, terms: Sequence[tuple[Term, Rational]]) -> Fragment | None:
        """With those terms that are a multiple of a typed sum as one product, as in 400 x (x^2 - y) - 2 (1 - x)."""
        group = {term: c for term, c in terms if not any(isinstance(base, Sum) for base, _ in term.factors)}
        if len(group) < 2 or math.gcd(*[c.numerator for c in group.values()]) == 1:
            return None
        whole, times = self.algebra.represent(self.algebra.sum(group))
        if whole.index >= self.typed or type(times) is not int or abs(times) == 1:
            return None
        product = self.notation.product([self.notation.number(str(abs(times))), self.piece(whole)])
        parts = [(c < 0, self._term(term, max(c, -c))) for term, c in terms if term not in group]
        return self.notation.total([*parts, (times < 0, product)])

    def _total(self, terms: Iterable[tuple[Term, Rational]]) -> Fragment:
        return self.notation.total([(c < 0, self._term(term, max(c, -c))) for term, c in terms])

    def _term(self, term: Term, coefficient: Rational) -> Fragment:
        top: list[Fragment] = []
        bottom: list[Fragment] = []
        roots: tuple[list[Fragment], list[Fragment]] = (
            [],
            [],
        )  # of constants: those above, and those below, are one root
        for base, exponent in sorted(term.factors, key=_display):
            if isinstance(exponent, Sum):
                top.append(self._power(base, exponent))
                continue
            if isinstance(base, Atom) and base.constant:
                # The algebra keeps 2√2 as 4/√2.
                if -1 < exponent < 0 and base.name.isdecimal() and coefficient.numerator % int(base.name) == 0:
                    coefficient, exponent = self.algebra.exact(coefficient / Fraction(int(base.name))), exponent + 1
                if abs(exponent) == HALF:
                    roots[exponent < 0].append(self._base(base))
                    continue
            (bottom if exponent < 0 else top).append(self._power(base, max(exponent, -exponent)))
        for side, pieces in zip((top, bottom), roots, strict=True):
            if pieces:
                side.insert(0, self.notation.root(self.notation.product(pieces)))
        return self._quotient(coefficient, top, bottom)

    def _quotient(self, coefficient: Rational, top: list[Fragment], bottom: list[Fragment]) -> Fragment:
        number, divisor = self.notation.rational(coefficient, divides=bool(bottom))
        if number != "1" or not top:
            top = [self.notation.number(number), *top]
        if divisor != 1:
            bottom = [self.notation.number(str(divisor)), *bottom]
        whole = self.notation.product(top)
        return self.notation.fraction(whole, self.notation.product(bottom)) if bottom else whole

    def _power(self, base: Base, exponent: Exponent) -> Fragment:
        if exponent == 1:
            return self._base(base)
        if exponent == HALF:
            return self.notation.root(self._base(base))
        raised = self.small.piece(self.algebra.exponent(exponent))
        if isinstance(base, Atom) and base.name == "e":
            return self.notation.exponential(raised)
        return self.notation.power(self._base(base), raised)

    def _base(self, base: Base) -> Fragment:
        if isinstance(base, Sum):
            return self.piece(base)
        if not base.arguments:
            return self.notation.number(base.name) if base.name.isdecimal() else self.notation.symbol(base.name)
        if base.name == "softplus":
            return self.notation.call(base.name, [self.small.piece(base.arguments[0])])
        name = "sign" if base.name == "slope" else base.name
        return self.notation.call(name, [self.piece(argument) for argument in base.arguments])


def _divisor(terms: Sequence[tuple[Term, Rational]]) -> int:
    """The denominator, if several terms have one and the same number as theirs; else 1."""
    divisor = terms[0][1].denominator
    for term, c in terms:
        if c.denominator != divisor or any(not isinstance(e, Sum) and e < 0 for _, e in term.factors):
            return 1
    return divisor if len(terms) > 1 else 1


def _display(factor: Factor) -> tuple[int, int]:
    """The order within a product: numbers, constants, variables, powers and roots, functions, sums."""
    base, exponent = factor
    if isinstance(base, Atom) and base.constant and not isinstance(exponent, Sum):
        kind = 0 if base.name.isdecimal() else 1
    elif isinstance(exponent, (Sum, Fraction)):
        kind = 3
    else:
        kind = 5 if isinstance(base, Sum) else 4 if base.arguments else 2
    return kind, base.index


def _rank(item: tuple[Term, Rational]) -> tuple[int, int, list[tuple[int, Rational]]]:
    term, _ = item
    if term.degree is None:
        return 1, 0, []
    if not term.degree:
        return 2, not term.factors, []
    return 0, -term.degree, [(base.index, -e) for base, e in term.factors if base.degree and not isinstance(e, Sum)]


class FormulaWriter:
    """Formulas of a graph in both notations, within a budget of work."""

    def __init__(self, value: Node, leaves: Mapping[Node, Leaf], *, decimals: bool = False, most_work: int = MOST_WORK):
        """`leaves` says what the inputs of the graph stand for; variables are printed in its order. What the `value`
        is made of keeps its form in derivatives. With `decimals` fractions are decimals where they end."""
        self.left = most_work
        self._leaves = leaves
        self._algebra = Tidier(value.index)
        names = latex_names(leaf for leaf in leaves.values() if isinstance(leaf, str))
        self._printers = Printer(self._algebra, Latex(names, decimals)), Printer(self._algebra, Text(decimals))
        self._values: dict[Node, Sum | None] = {}
        self._within(most_work // 2, self._begin, value)

    def printed(self, nodes: Sequence[Node]) -> list[Printed | None]:
        """The formula of each node; None where it takes more than thrice its share of the work that is left."""
        remaining = range(len(nodes), 0, -1)
        return [
            self._within(3 * self.left // (count + 2), self._printed, node)
            for count, node in zip(remaining, nodes, strict=True)
        ]

    def _within(self, share: int, make: Callable[[Node], Printed | None], node: Node) -> Printed | None:
        made = None
        self._algebra.left = share
        with suppress(WorkExhausted, NoFormula):
            made = make(node)
        self.left -= share - max(self._algebra.left, 0)
        return made

    def _begin(self, value: Node) -> None:
        for leaf in self._leaves.values():
            if isinstance(leaf, str):
                self._algebra.symbol(leaf)
        self._read(value)
        for printer in self._printers:
            printer.typed = printer.small.typed = len(self._algebra.parts)

    def _printed(self, node: Node) -> Printed:
        value = self._algebra.neat(self._read(node))
        latex, text = [printer.piece(value).text for printer in self._printers]
        return Printed(latex, text)

    def _read(self, wanted: Node) -> Sum:
        """The formula of a node, after those of what it is made of."""
        waiting = [wanted]
        while waiting:
            node = waiting[-1]
            missing = [x for x in reversed(node.operands) if x not in self._values]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if node not in self._values:
                self._algebra.spend(3)
                try:
                    inputs = [value for x in node.operands if (value := self._values[x])]
                    known = len(inputs) == len(node.operands)
                    self._values[node] = read(self._algebra, node, inputs, self._leaves) if known else None
                except NoFormula:
                    self._values[node] = None
        found = self._values[wanted]
        if found is None:
            raise NoFormula
        return found
