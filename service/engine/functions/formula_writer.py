"""Formulas for the nodes of a graph of scalars, as a textbook would print them.

`differentiate` puts the derivatives into the graph; nothing here knows how to differentiate. `formula_reader` reads
nodes into the canonical forms of `Algebra`, `simplify` shortens them, and `Printer` lays them out in both notations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

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
)
from service.engine.functions.choices import joined
from service.engine.functions.formula_reader import Leaf, read
from service.engine.functions.printing import HALF, Fragment, Latex, Rational, Text, latex_names
from service.engine.functions.simplify import Tidier
from service.engine.graph.ir import Node

MOST_WORK = 10_000
"""Most steps of algebra, a microsecond or two each, for all formulas of one expression; `peaks` takes most of them."""
LONGEST_FORMULA = 4_000


@dataclass(frozen=True)
class Printed:
    """A formula as text in two notations: LaTeX, and the words that an expression is typed in."""

    latex: str
    text: str


class Printer:
    """Writes formulas of `Algebra` in one notation, in the order and grouping of a textbook."""

    def __init__(self, algebra: Algebra, notation: Text) -> None:
        self.algebra = algebra
        self.notation = notation
        self._small = None if notation.small is notation else Printer(algebra, notation.small)
        self.typed = 0
        """Sums with an index below this one keep the order of their terms."""
        self._pieces: dict[Sum, Fragment] = {}

    @property
    def small(self) -> Printer:
        """The printer for exponents."""
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
        """Write a sum in order: over one denominator, or as a multiple of a typed sum, where possible."""
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
        """Return the terms in order of printing, with a positive term first. A typed sum keeps its order; in others
        polynomials come by degree, then functions, then constants."""
        terms = list(whole.terms.items())
        if whole.index >= self.typed:
            terms.sort(key=_rank)
        first = next((place for place, (_, c) in enumerate(terms) if c > 0), 0)
        terms.insert(0, terms.pop(first))
        return terms

    def _group(self, terms: Sequence[tuple[Term, Rational]]) -> Fragment | None:
        """Write a sum as one product plus the rest, as in 400 x (x^2 - y) - 2 (1 - x). None where no part of the sum is
        a multiple of a typed sum."""
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
        roots: tuple[list[Fragment], list[Fragment]] = ([], [])  # of constants: one root above, and one below
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
    """Return the denominator that several terms share, if it is the same number in all; else 1."""
    divisor = terms[0][1].denominator
    for term, c in terms:
        if c.denominator != divisor or any(not isinstance(e, Sum) and e < 0 for _, e in term.factors):
            return 1
    return divisor if len(terms) > 1 else 1


def _display(factor: Factor) -> tuple[int, int]:
    """Return the sorting key of a factor in a product. The order is numbers, constants, variables, powers and roots,
    functions, sums."""
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
    """A writer of the formulas of a graph in both notations, which stops when its budget of work is spent."""

    def __init__(self, value: Node, leaves: Mapping[Node, Leaf], *, decimals: bool = False, most_work: int = MOST_WORK):
        """Prepare the formulas of a graph.

        `leaves` gives the meaning of the inputs of the graph, with variables in the order of printing. Derivatives keep
        the form of the parts of `value`. With `decimals`, fractions are decimals where these end.
        """
        self.left = most_work
        self._leaves = leaves
        self._algebra = Tidier(value.index)
        names = latex_names(leaf for leaf in leaves.values() if isinstance(leaf, str))
        self._printers = Printer(self._algebra, Latex(names, decimals)), Printer(self._algebra, Text(decimals))
        self._values: dict[Node, Sum | None] = {}
        self._within(most_work // 2, self._begin, value)

    def printed(self, nodes: Sequence[Node]) -> list[Printed | None]:
        """Return the formula of each node; None where a formula is too costly or too long. A formula may take thrice
        its share of the work that is left."""
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
        value = self._algebra.neat(joined(self._algebra, self._read(node)))
        latex, text = [printer.piece(value).text for printer in self._printers]
        return Printed(latex, text)

    def _read(self, wanted: Node) -> Sum:
        """Return the formula of a node, after those of its operands."""
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
