"""Shorter forms of formulas: common factors pulled out, and products multiplied out where that is shorter."""

from __future__ import annotations

import math
from contextlib import suppress
from fractions import Fraction

from service.engine.functions.algebra import Algebra, Atom, Base, Exponent, Factor, NoFormula, Sum, Term, plain
from service.engine.functions.printing import SMALLEST_PLAIN, Rational

MOST_POWER = 8
"""`Tidier` multiplies out powers of sums up to this exponent."""
MOST_PRODUCTS = 24
"""Most terms that multiplying out may make, counted before like terms meet."""


class Tidier(Algebra):
    """The arithmetic of formulas, which also finds shorter forms of a formula."""

    def __init__(self, typed: int) -> None:
        super().__init__()
        self.typed = typed
        """The index of the last node of the typed expression; later nodes belong to derivatives."""
        self._neat: dict[Sum, Sum] = {}

    def log1p(self, x: Sum) -> Sum:
        """Return the formula of ln(1 + x). For a small number it is the word log1p, as the sum would round to 1."""
        number = x.number
        if number and -SMALLEST_PLAIN < number < SMALLEST_PLAIN:
            return self.call("log1p", (x,))
        return self.call("log", (self.total([(self.number(1), 1), (x, 1)]),))

    def neat(self, whole: Sum) -> Sum:
        """Return the formula in a shorter form, if there is one."""
        known = self._neat.get(whole)
        if known is None:
            known = self._neat_inside(whole) if whole.depth > 1 else whole
            if known.depth > 1 or len(known.terms) > 1:
                with suppress(NoFormula):  # an intermediate form may have no value, or be too large
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
        """Return the shortest of several forms of a formula. A less usual form has to save more."""
        collected = self._collected(whole)
        if collected is not whole and collected.weight <= 0.9 * whole.weight:
            return collected  # the rest inside is neat already
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
        """Return the formula with the common factors of all terms pulled out. Terms come over a common denominator
        where this is simple."""
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
            # Where not all terms have a denominator, sums and constants in it would only lengthen the others.
            elif everywhere or (min(rational) < 0 and isinstance(base, Atom) and not base.constant):
                common.append((base, min(rational)))
        if not common:
            return whole
        out = [(base, self.times(exponent, -1)) for base, exponent in common]
        rest = self.total([(self.product(c, [*term.factors, *out]), 1) for term, c in whole.terms.items()])
        return self.product(1, [(self.neat(rest), 1), *common])

    def _grouped(self, whole: Sum) -> Sum:
        """Return the formula with terms joined that have a sum as a factor. The terms join with as much of this sum as
        the other terms contain."""
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
        """Return the formula with powers of sums up to `power` multiplied out, unless that makes too many terms."""
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
    """Return the sums among the factors of a term with exponents 1 to `power`, each as often as it is a factor."""
    return [
        base
        for base, exponent in term.factors
        if isinstance(base, Sum) and type(exponent) is int and exponent <= power
        for _ in range(exponent)
    ]
