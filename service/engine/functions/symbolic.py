"""Formulas for the nodes of a graph of scalars, as a textbook would print them.

The derivatives are those that `differentiate` put into the graph; nothing here knows how to differentiate. A node is
read as a sum of terms with rational coefficients, a term being a product of powers. Like terms and powers of one base
meet as soon as they are made; afterwards common factors are pulled out and products multiplied out where that is
shorter.

Equal parts of a formula are one object, so a formula that shares its parts stays small until it is printed. Every
step is counted, and what takes too many, grows too large or nests too deep is refused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

from service.engine.functions.printing import Latex, Piece, Rational, Text, as_written
from service.engine.graph.ir import Node, reachable

__all__ = ["Leaf", "Printed", "as_written", "printed"]

MOST_WORK = 6_000
"""Elementary steps, each a microsecond or two, for all formulas that are asked for together."""
LONGEST_FORMULA = 4_000
DEEPEST = 80
LARGEST = 2**512
"""Numerators and denominators stay below."""
LONGEST_POWER = 128
"""Bits of a power of a number that is written out."""
MOST_EXPANDED_TERMS = 12
MOST_PRODUCTS = 64
"""Terms that multiplying out may make before like ones meet."""
MOST_POWER = 8
"""Sums are multiplied out up to this power."""
SMALL = 1_000
"""Up to this denominator a float is taken for the fraction that is rounded to it."""

HALF = Fraction(1, 2)

Leaf = str | Fraction
"""A symbol, such as x, pi or e, or an exact number."""


P = TypeVar("P", "Symbol", "Call", "Term", "Sum")


class Refused(Exception):
    """This formula is not worth its size, or has no value."""


class Exhausted(Exception):
    """All the work that was allowed is done."""


@dataclass(frozen=True)
class Printed:
    """A formula in both notations."""

    latex: str
    text: str


# --- what formulas are made of ------------------------------------------------------------------

CONSTANT_NAMES = ("pi", "e")


class Symbol:
    """A variable, or pi or e. As all parts of formulas made by `Algebra` only, and compared by identity."""

    __slots__ = ("degree", "depth", "index", "name")

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        """Parts are counted as they appear."""
        self.depth: int = 0
        self.degree: int | None = int(name not in CONSTANT_NAMES)
        """As a polynomial; None: it is none."""
        self.name = name


class Call:
    """A function of its arguments."""

    __slots__ = ("arguments", "degree", "depth", "index", "name")

    def __init__(self, index: int, name: str, arguments: tuple[Sum, ...]) -> None:
        self.index = index
        self.depth: int = 1 + max([argument.depth for argument in arguments])
        self.degree: int | None = None
        self.name = name
        self.arguments = arguments


class Term:
    """Powers of different bases, in the order in which the bases appeared. Without any it is 1."""

    __slots__ = ("degree", "depth", "factors", "index")

    def __init__(self, index: int, factors: tuple[Factor, ...]) -> None:
        self.index = index
        self.factors = factors
        depth = 0
        degree: int | None = 0
        for base, exponent in factors:
            if base.depth > depth:
                depth = base.depth
            if isinstance(exponent, Sum):
                depth, degree = max(depth, exponent.depth), None
            elif degree is None or base.degree is None:
                degree = None
            elif base.degree:
                degree = degree + exponent * base.degree if type(exponent) is int and exponent > 0 else None
        self.depth: int = depth
        self.degree: int | None = degree


class Sum:
    """Terms and their coefficients, none of them 0; no terms are 0. Every value is a sum, often of one term."""

    __slots__ = ("degree", "depth", "index", "terms")

    def __init__(self, index: int, terms: dict[Term, Rational]) -> None:
        self.index = index
        self.depth: int = 1 + max([term.depth for term in terms], default=0)
        degrees = [term.degree for term in terms]
        self.degree: int | None = None if None in degrees else max([degree or 0 for degree in degrees], default=0)
        self.terms = terms

    @property
    def number(self) -> Rational | None:
        """Its value, if it is a number."""
        if len(self.terms) > 1:
            return None
        for term, coefficient in self.terms.items():
            return None if term.factors else coefficient
        return 0


Base: TypeAlias = Symbol | Call | Sum
Exponent: TypeAlias = int | Fraction | Sum
"""A sum only where it is not a number."""
Factor: TypeAlias = tuple[Base, Exponent]
Product: TypeAlias = tuple[Rational, Sequence[Factor]]

ODD = frozenset(("sin", "tan", "asin", "atan", "sinh", "tanh", "asinh", "atanh", "cbrt", "erf", "sign"))
EVEN = frozenset(("cos", "cosh", "abs"))
PARTNERS = {"cos": ("sin", 1), "cosh": ("sinh", -1)}
"""The functions whose squares add up to 1, and with which sign."""
KNOWN_VALUES: dict[tuple[str, Rational], int] = {
    **{(name, 0): 0 for name in ODD},
    **{(name, 1): 0 for name in ("log", "log2", "log10", "acosh")},
    ("cos", 0): 1,
    ("cosh", 0): 1,
    ("log2", 2): 1,
    ("log10", 10): 1,
}
OF_NUMBERS: dict[str, Callable[..., Rational]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "abs": abs,
    "sign": lambda x: 1 if x > 0 else -1,
    "max": max,
    "min": min,
    "greater": lambda a, b, _: int(a > b),
    "greater_equal": lambda a, b, _: int(a >= b),
}


class Algebra:
    """Makes formulas, each in its one simple form, and counts the work that takes."""

    def __init__(self, most_work: int) -> None:
        self.left = most_work
        self._parts: dict[Hashable, Any] = {}
        self._representatives: dict[Hashable, tuple[Sum, Rational]] = {}
        self._powers: dict[tuple[Sum, Exponent], Product | None] = {}
        self._weights: dict[Sum, int] = {}
        self._neat: dict[Sum, Sum] = {}
        self._called: set[str] = set()

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise Exhausted

    def _part(self, kind: type[P], key: Hashable, *details: Any) -> P:
        """The part that is like this: equal ones are one object."""
        part: P | None = self._parts.get(key)
        if part is None:
            self.spend(3)
            part = kind(len(self._parts), *details)
            if part.depth > DEEPEST:
                raise Refused
            self._parts[key] = part
        return part

    def _sum(self, terms: dict[Term, Rational]) -> Sum:
        return self._part(Sum, frozenset(terms.items()), terms)

    def _term(self, factors: Iterable[Factor]) -> Term:
        key = tuple(sorted(factors, key=_appearance))
        return self._part(Term, key, key)

    def number(self, value: Rational) -> Sum:
        return self._sum({self._term(()): exact(value)} if value else {})

    def symbol(self, name: str) -> Sum:
        return self.product(1, [(self._part(Symbol, name, name), 1)])

    def lifted(self, exponent: Exponent) -> Sum:
        return exponent if isinstance(exponent, Sum) else self.number(exponent)

    # sums and products

    def total(self, parts: Iterable[tuple[Sum, Rational]]) -> Sum:
        """The sum of some sums, each times a number."""
        terms: dict[Term, Rational] = {}
        for part, scale in parts:
            if not terms and scale == 1:
                self.spend(1 + len(part.terms) // 4)
                terms = part.terms.copy()
            else:
                self.spend(1 + len(part.terms))
                for term, coefficient in part.terms.items():
                    _add_term(terms, term, scale * coefficient)
        if len(terms) > 1 and not self._called.isdisjoint(PARTNERS):
            self._merge_squares(terms)
        return self._sum(terms)

    def _merge_squares(self, terms: dict[Term, Rational]) -> None:
        """sin² + cos² is 1, as is cosh² - sinh²."""
        for term, coefficient in list(terms.items()):
            for factor in term.factors:
                base, exponent = factor
                if exponent == 2 and isinstance(base, Call) and base.name in PARTNERS and term in terms:
                    name, sign = PARTNERS[base.name]
                    rest = [other for other in term.factors if other is not factor]
                    partner = self._part(Call, (name, base.arguments), name, base.arguments)
                    square = self._term([*rest, (partner, 2)])
                    if terms.get(square) == sign * coefficient:
                        del terms[square], terms[term]
                        _add_term(terms, self._term(rest), coefficient)

    def product(self, coefficient: Rational, factors: Iterable[Factor]) -> Sum:
        """A number times powers: those of one base meet, and each is simplified."""
        exponents: dict[Base, Exponent] = {}
        waiting = [*factors]
        waiting.reverse()
        while waiting:
            self.spend(2)
            base, exponent = waiting.pop()
            if base in exponents:
                exponent = self._added(exponents.pop(base), exponent)
            if exponent == 0:
                continue
            simpler = self._simpler(base, exponent)
            if simpler is None:
                exponents[base] = exponent
            else:
                coefficient = exact(coefficient * simpler[0])
                waiting.extend(simpler[1])
        if not coefficient:
            return self._sum({})
        more = self._meeting(coefficient, exponents)
        if more is not None:
            return self.product(exact(coefficient * more[0]), [*exponents.items(), *more[1]])
        if len(exponents) == 1:
            ((base, exponent),) = exponents.items()
            if exponent == 1 and isinstance(base, Sum):
                return self.total([(base, coefficient)])
        return self._sum({self._term(exponents.items()): coefficient})

    def _meeting(self, coefficient: Rational, exponents: Mapping[Base, Exponent]) -> Product | None:
        """By what, equal to 1, a product has to be multiplied so that different factors of it meet."""
        for base, exponent in exponents.items():
            if type(exponent) is Fraction and isinstance(base, Sum) and type(base.number) is int:
                # 2/√2 is √2, and √2/2 is 1/√2.
                if exponent < 0 and coefficient.numerator % base.number == 0:
                    return Fraction(1, base.number), [(base, 1)]
                if exponent > 0 and coefficient.denominator % base.number == 0:
                    return base.number, [(base, -1)]
            elif isinstance(base, Call) and base.name == "sign" and type(exponent) is int:
                # x·sgn x is |x|, and |x|·sgn x is x.
                one, other = base.arguments[0], self.call("abs", base.arguments)
                for first, second in ((one, other), (other, one)):
                    (inner, power), *rest = split(first)[1]
                    present = exponents.get(inner)
                    if power == 1 and not rest and type(present) is int and present > 0:
                        return 1, [(inner, -1), (base, -1), (second, 1)]
        return None

    def multiply(self, a: Sum, b: Sum) -> Sum:
        (first, left), (second, right) = split(a), split(b)
        if not left and len(b.terms) > 1:
            return self.total([(b, first)])
        if not right and len(a.terms) > 1:
            return self.total([(a, second)])
        return self.product(exact(first * second), (*left, *right))

    def power(self, base: Sum, exponent: Sum) -> Sum:
        return self.product(1, [(base, _plain(exponent))])

    def exp(self, x: Sum) -> Sum:
        return self.power(self.symbol("e"), x)

    def negative(self, x: Sum) -> Sum:
        return self.total([(x, -1)])

    def _added(self, a: Exponent, b: Exponent) -> Exponent:
        if not isinstance(a, Sum) and not isinstance(b, Sum):
            return exact(a + b)
        return _plain(self.total([(self.lifted(a), 1), (self.lifted(b), 1)]))

    def _times(self, a: Exponent, b: Exponent) -> Exponent:
        if not isinstance(a, Sum) and not isinstance(b, Sum):
            return exact(a * b)
        return _plain(self.multiply(self.lifted(a), self.lifted(b)))

    # powers

    def _simpler(self, base: Base, exponent: Exponent) -> Product | None:
        """A power as a number times simpler powers; None: it is simple."""
        if isinstance(base, Sum):
            if type(exponent) is not int and len(base.terms) > 1:
                return None
            key = base, exponent
            if key not in self._powers:
                self._powers[key] = self._simpler_power(base, exponent)
            return self._powers[key]
        if isinstance(base, Call):
            degree = {"abs": 2, "cbrt": 3}.get(base.name)
            if degree and type(exponent) is int and exponent % degree == 0:
                return 1, [(base.arguments[0], exponent if degree == 2 else exponent // 3)]
        elif base.name == "e" and isinstance(exponent, Sum):
            number, factors = split(exponent)
            inner, power = factors[0]
            if len(factors) == 1 and power == 1 and isinstance(inner, Call) and inner.name == "log":
                return 1, [(inner.arguments[0], number)]
        return None

    def _simpler_power(self, base: Sum, exponent: Exponent) -> Product | None:
        self.spend(2)
        if len(base.terms) > 1 and type(exponent) is int:
            representative, ratio = self._represent(base)
            if representative is base or not _fits(ratio, exponent):
                return None
            return _raised(ratio, exponent), [(representative, exponent)]
        if base.number is not None:
            return self._simpler_number(base.number, exponent)
        coefficient, factors = split(base)
        if type(exponent) is int and _fits(coefficient, exponent):
            return _raised(coefficient, exponent), [(inner, self._times(e, exponent)) for inner, e in factors]
        if coefficient > 0 and all(is_positive(inner) for inner, _ in factors):
            powers = [(inner, self._times(e, exponent)) for inner, e in factors]
            return 1, powers if coefficient == 1 else [(self.number(coefficient), exponent), *powers]
        if coefficient == 1 and len(factors) == 1:
            ((inner, e),) = factors
            if e == 1:
                return 1, [(inner, exponent)]
            if type(e) is int and e % 2 == 0 and not isinstance(exponent, Sum):
                return 1, [(self.call("abs", (self.product(1, [(inner, 1)]),)), exact(e * exponent))]
        if type(exponent) is Fraction and exponent.denominator == 2 and coefficient > 0:
            root = _square_part(coefficient)
            if root != 1 and _fits(root, exponent.numerator):
                rest = self.total([(base, _raised(root, -2))])
                return _raised(root, exponent.numerator), [(rest, exponent)]
        return None

    def _simpler_number(self, value: Rational, exponent: Exponent) -> Product | None:
        if value == 1:
            return 1, []
        if isinstance(exponent, Sum):
            return None
        if value == 0:
            if exponent < 0:
                raise Refused
            return 0, []
        if type(exponent) is int:
            return (_raised(value, exponent), []) if _fits(value, exponent) else None
        if value < 0:
            raise Refused
        if value.numerator == 1:
            return 1, [(self.number(value.denominator), -exponent)]
        root = _root(value, exponent.denominator)
        if root is not None and _fits(root, exponent.numerator):
            return _raised(root, exponent.numerator), []
        whole = math.trunc(exponent)
        if whole and _fits(value, whole):
            return _raised(value, whole), [(self.number(value), exponent - whole)]
        root = _square_part(value) if exponent.denominator == 2 else 1
        if root != 1:
            return _raised(root, exponent.numerator), [(self.number(value * _raised(root, -2)), exponent)]
        return None

    def _represent(self, whole: Sum) -> tuple[Sum, Rational]:
        """The one sum that stands for all its multiples, and how many times it this one is."""
        known = self._representatives.get(whole)
        if known is not None:
            return known
        self.spend(4 * len(whole.terms))
        coefficients = whole.terms.values()
        above = math.gcd(*[c.numerator for c in coefficients])
        content = exact(Fraction(above, math.lcm(*[c.denominator for c in coefficients])))
        nice = exact(Fraction(above, math.gcd(*[c.denominator for c in coefficients])))
        primitive = [(term, exact(Fraction(c) / content)) for term, c in whole.terms.items()]
        found = self._representatives.get(frozenset(primitive))
        if found is None:
            if max(coefficients) < 0:
                nice = -nice
            representative = self.total([(whole, exact(1 / Fraction(nice)))])
            found = representative, exact(Fraction(nice) / content)
            self._representatives[frozenset(primitive)] = found
            self._representatives[frozenset((term, -c) for term, c in primitive)] = representative, -found[1]
            self._representatives[representative] = representative, 1
        answer = found[0], exact(found[1] * content)
        self._representatives[whole] = answer
        return answer

    # functions

    def call(self, name: str, arguments: tuple[Sum, ...]) -> Sum:
        """A function of some arguments, simplified where its value is plain."""
        x = arguments[0]
        numbers = [argument.number for argument in arguments]
        if None not in numbers:
            known = KNOWN_VALUES.get((name, numbers[0] or 0))
            if known is not None:
                return self.number(known)
            if name in OF_NUMBERS:
                return self.number(OF_NUMBERS[name](*numbers))
        scale, factors = split(x)
        if name == "log" and scale == 1 and len(factors) == 1 and factors[0][0] is self._parts.get("e"):
            return self.lifted(factors[0][1])
        if name in ODD or name in EVEN:
            if len(x.terms) > 1:
                scale = self._represent(x)[1]
            size = _size(scale) if name in ("abs", "sign") else 1
            sign = 1 if scale > 0 else -1
            if name == "abs" and all(type(e) is int and e % 2 == 0 for _, e in factors):
                return self.total([(x, sign)])
            if size != 1 or sign < 0:
                inner = self.call(name, (self.total([(x, exact(sign / Fraction(size)))]),))
                return self.total([(inner, (size if name == "abs" else 1) * (sign if name in ODD else 1))])
        self._called.add(name)
        return self._sum({self._term([(self._part(Call, (name, arguments), name, arguments), 1)]): 1})

    # shorter forms

    def weight(self, whole: Sum) -> int:
        """About how many characters it takes to type."""
        known = self._weights.get(whole)
        if known is None:
            self.spend(3 * len(whole.terms))
            known = sum([3 + self._term_weight(term, c) for term, c in whole.terms.items()]) - 3
            self._weights[whole] = known
        return known

    def _term_weight(self, term: Term, coefficient: Rational) -> int:
        weight, above = 0, False
        for base, exponent in term.factors:
            if isinstance(base, Symbol):
                weight += 2
            elif isinstance(base, Call):
                weight += 3 + len(base.name) + sum([self.weight(argument) for argument in base.arguments])
            else:
                weight += 3 + self.weight(base)
            if isinstance(exponent, Sum):
                weight += 3 + self.weight(exponent)
                above = True
            else:
                above = above or exponent > 0
                if exponent != 1 and exponent != -1:
                    weight += 1 + len(str(abs(exponent)))
        return weight - 1 if above and (coefficient == 1 or coefficient == -1) else weight + len(str(abs(coefficient)))

    def neat(self, whole: Sum) -> Sum:
        """The same in a form that prints shorter, if there is one."""
        known = self._neat.get(whole)
        if known is not None:
            return known
        self._neat[whole] = whole
        best = self._neat_inside(whole) if whole.depth > 1 else whole
        if best.depth > 1 or len(best.terms) > 1:
            with suppress(Refused):  # a form on the way to a shorter one may have no value, or be too large
                best = self._shorter(best)
        self._neat[whole] = self._neat[best] = best
        return best

    def _neat_inside(self, whole: Sum) -> Sum:
        parts: list[tuple[Sum, Rational]] = []
        changed = False
        for term, coefficient in whole.terms.items():
            factors = [self._neat_factor(factor) for factor in term.factors]
            if all(map(operator.is_, factors, term.factors)):
                parts.append((self._sum({term: coefficient}), 1))
            else:
                changed = True
                parts.append((self.product(coefficient, factors), 1))
        return self.total(parts) if changed else whole

    def _neat_factor(self, factor: Factor) -> Factor:
        base, exponent = factor
        neat_base: Base = base
        if isinstance(base, Sum):
            neat_base = self.neat(base)
        elif isinstance(base, Call):
            arguments = tuple([self.neat(argument) for argument in base.arguments])
            if arguments != base.arguments:
                neat_base = self.call(base.name, arguments)
        neat_exponent = _plain(self.neat(exponent)) if isinstance(exponent, Sum) else exponent
        return factor if neat_base is base and neat_exponent is exponent else (neat_base, neat_exponent)

    def _shorter(self, whole: Sum) -> Sum:
        """The shortest of some forms; one that saves little does not pay for another look than it was given."""
        weight = self.weight(whole)
        collected = self._collected(whole)
        if collected is not whole and self.weight(collected) <= 0.9 * weight:
            return collected  # what is left inside has been looked at
        powers = [_power_of_sum(factor) for term in whole.terms for factor in term.factors]
        if not any(powers):
            return whole
        best, least = whole, weight
        for form, enough in (
            (self._grouped(whole) if len(whole.terms) > 1 else whole, 0.97),
            (self._collected(self._expanded(whole, 1)) if 1 in powers else whole, 0.85),
            (self._collected(self._expanded(whole, MOST_POWER)) if max(powers) > 1 else whole, 0.75),
        ):
            if form is not whole and self.weight(form) <= enough * least:
                best, least = form, self.weight(form)
        return best

    def _collected(self, whole: Sum) -> Sum:
        """What all terms have in common pulled out, over a common denominator where that is simple."""
        count = len(whole.terms)
        if count < 2:
            return whole
        exponents: dict[Base, list[Exponent]] = {}
        for term in whole.terms:
            for base, exponent in term.factors:
                exponents.setdefault(base, []).append(exponent)
        common: list[Factor] = []
        for base, found in exponents.items():
            rational = [exponent for exponent in found if not isinstance(exponent, Sum)]
            if len(rational) < len(found):
                if len(found) == count and all(exponent is found[0] for exponent in found):
                    common.append((base, found[0]))
            # Of denominators that not all have, those that are sums would only make terms longer.
            elif len(found) == count or (min(rational) < 0 and not isinstance(base, Sum)):
                common.append((base, min(rational)))
        if not common:
            return whole
        out = [(base, self._times(exponent, -1)) for base, exponent in common]
        rest = self.total([(self.product(c, [*term.factors, *out]), 1) for term, c in whole.terms.items()])
        return self.product(1, [(self.neat(rest), 1), *common])

    def _grouped(self, whole: Sum) -> Sum:
        """Terms that have a sum as a factor put together, with as much of that sum as is among the other terms."""
        groups: dict[Base, dict[Term, Rational]] = {}
        rest = dict(whole.terms)
        for term in whole.terms:
            base = next((factor[0] for factor in term.factors if _power_of_sum(factor)), None)
            if base is not None:
                groups.setdefault(base, {})[term] = rest.pop(term)
        parts: list[tuple[Sum, Rational]] = []
        for base, terms in groups.items():
            assert isinstance(base, Sum)
            shares = [exact(Fraction(rest.get(term, 0)) / c) for term, c in base.terms.items()]
            share = min(shares, key=_size) if min(shares) > 0 or max(shares) < 0 else 0
            for term, c in base.terms.items():
                _add_term(rest, term, -share * c)
            inner = [(self.product(c, [*term.factors, (base, -1)]), 1) for term, c in terms.items()]
            factor = self.neat(self.total([*inner, (self.number(share), 1)]))
            parts.append((self.product(1, [(factor, 1), (base, 1)]), 1))
        return self.total([*parts, (self._sum(rest), 1)])

    def _expanded(self, whole: Sum, power: int) -> Sum:
        """Sums up to a power multiplied out, unless that makes too many terms."""
        parts: list[tuple[Sum, Rational]] = []
        for term, coefficient in whole.terms.items():
            sums: list[Base] = []
            for factor in term.factors:
                if _power_of_sum(factor) <= power:
                    sums += [factor[0]] * _power_of_sum(factor)
            product = self._sum({self._term([factor for factor in term.factors if factor[0] not in sums]): coefficient})
            for base in sums:
                assert isinstance(base, Sum)
                if len(product.terms) * len(base.terms) > MOST_PRODUCTS:
                    return whole
                product = self.total(
                    [
                        (self.product(exact(c * d), (*left.factors, *right.factors)), 1)
                        for left, c in product.terms.items()
                        for right, d in base.terms.items()
                    ]
                )
            parts.append((product, 1))
        expanded = self.total(parts)
        return expanded if len(expanded.terms) <= MOST_EXPANDED_TERMS else whole


def exact(value: Rational) -> Rational:
    """The number as an int if it is one; refuses what is too large."""
    if type(value) is not int:
        if value.denominator != 1:
            if -LARGEST < value.numerator < LARGEST and value.denominator < LARGEST:
                return value
            raise Refused
        value = value.numerator
    if -LARGEST < value < LARGEST:
        return value
    raise Refused


def _size(value: Rational) -> Rational:
    return value if value >= 0 else -value


def split(whole: Sum) -> Product:
    """A coefficient and powers; a sum of several terms is a power of itself."""
    if len(whole.terms) == 1:
        for term, coefficient in whole.terms.items():
            return coefficient, term.factors
    return (1, ((whole, 1),)) if whole.terms else (0, ())


def is_positive(base: Base) -> bool:
    """Whether it is a positive constant."""
    if isinstance(base, Symbol):
        return base.name in CONSTANT_NAMES
    return isinstance(base, Sum) and (base.number or 0) > 0


def _plain(whole: Sum) -> Exponent:
    number = whole.number
    return whole if number is None else number


def _appearance(factor: Factor) -> int:
    return factor[0].index


def _power_of_sum(factor: Factor) -> int:
    """The exponent, if this is a whole power of a sum that may be multiplied out; else 0."""
    base, exponent = factor
    return exponent if isinstance(base, Sum) and type(exponent) is int and 0 < exponent <= MOST_POWER else 0


def _add_term(terms: dict[Term, Rational], term: Term, coefficient: Rational) -> None:
    merged = exact(terms.get(term, 0) + coefficient)
    if merged:
        terms[term] = merged
    else:
        terms.pop(term, None)


def _fits(value: Rational, exponent: int) -> bool:
    """Whether a power of a number is small enough to be written out."""
    bits = max(abs(value.numerator).bit_length(), value.denominator.bit_length())
    return abs(value) == 1 or bits * abs(exponent) < LONGEST_POWER


def _raised(value: Rational, exponent: int) -> Rational:
    return exact(Fraction(value) ** exponent) if exponent < 0 or type(value) is not int else exact(value**exponent)


def _root(value: Rational, degree: int) -> Rational | None:
    """The root of a positive number, if it is rational."""
    if degree > MOST_POWER or max(value.numerator, value.denominator) > 2**52:
        return None
    root = exact(Fraction(round(value.numerator ** (1 / degree)), round(value.denominator ** (1 / degree))))
    return root if root**degree == value else None


def _square_part(value: Rational) -> Rational:
    """A rational whose square divides a positive number, and which leaves little of it."""
    root = _root(value, 2)
    if root is not None:
        return root
    parts = [value.numerator, value.denominator]
    found = [1, 1]
    for place in (0, 1):
        for prime in (2, 3, 5, 7):
            while parts[place] % (prime * prime) == 0:
                parts[place] //= prime * prime
                found[place] *= prime
    return exact(Fraction(*found))


# --- reading the graph --------------------------------------------------------------------------

TRANSPARENT = frozenset(("with_slope", "mark", "stop_gradient", "broadcast", "reshape"))
RENAMED = {"absolute": "abs", "maximum": "max", "minimum": "min"}

READERS: dict[str, Callable[..., Sum]] = {
    "add": lambda algebra, a, b: algebra.total([(a, 1), (b, 1)]),
    "subtract": lambda algebra, a, b: algebra.total([(a, 1), (b, -1)]),
    "multiply": Algebra.multiply,
    # What stands under a line or a root is not multiplied out afterwards: (1 - x)(1 + x) has to become 1 - x² before.
    "divide": lambda algebra, a, b: algebra.multiply(a, algebra.power(algebra.neat(b), algebra.number(-1))),
    "negate": Algebra.negative,
    "square": lambda algebra, x: algebra.power(x, algebra.number(2)),
    "sqrt": lambda algebra, x: algebra.power(algebra.neat(x), algebra.number(HALF)),
    "power": lambda algebra, a, b: algebra.power(algebra.neat(a), b),
    "exp": Algebra.exp,
    "expm1": lambda algebra, x: algebra.total([(algebra.exp(x), 1), (algebra.number(-1), 1)]),
    "log1p": lambda algebra, x: algebra.call("log", (algebra.total([(algebra.number(1), 1), (x, 1)]),)),
    "xlogy": lambda algebra, a, b: algebra.multiply(a, algebra.call("log", (b,))),
    "greater": lambda algebra, a, b: algebra.call("greater", (a, b, algebra.total([(b, 1), (a, -1)]))),
    "greater_equal": lambda algebra, a, b: algebra.call("greater_equal", (a, b, algebra.total([(a, 1), (b, -1)]))),
}

CONSTANTS = {"pi": math.pi, "e": math.e, "2": math.log(2.0), "10": math.log(10.0)}
"""What is looked for in floats; a number stands for its logarithm."""


@lru_cache(maxsize=1024)
def recognised(value: float) -> tuple[Rational, str, Exponent]:
    """A float as a fraction times a power of one of the constants, as 1.128… is 2 times pi to -1/2."""
    if not math.isfinite(value):
        raise Refused
    fraction = Fraction(value).limit_denominator(SMALL)
    if float(fraction) == value:
        return exact(fraction), "", 0
    for name, constant in CONSTANTS.items():
        for exponent in (1, -1, 2, -2, HALF, -HALF):
            unit = constant ** float(exponent)
            fraction = Fraction(value / unit).limit_denominator(SMALL // 10)
            if fraction and math.isclose(float(fraction) * unit, value, rel_tol=1e-15):
                return exact(fraction), name, exponent
    return exact(Fraction(repr(value))), "", 0


def read(algebra: Algebra, node: Node, inputs: Sequence[Sum], leaves: Mapping[Node, Leaf]) -> Sum:
    """The formula of a node, from those of its inputs."""
    leaf = leaves.get(node)
    if leaf is not None:
        return algebra.symbol(leaf) if isinstance(leaf, str) else algebra.number(leaf)
    name = node.operation.name
    if node.value is not None:
        fraction, constant, exponent = recognised(node.value)
        if not constant:
            return algebra.number(fraction)
        base = (
            algebra.call("log", (algebra.number(int(constant)),)) if constant.isdecimal() else algebra.symbol(constant)
        )
        return algebra.product(fraction, [(base, exponent)])
    if not inputs:
        raise Refused
    if name in TRANSPARENT:
        return inputs[0]
    reader = READERS.get(name)
    return algebra.call(RENAMED.get(name, name), tuple(inputs)) if reader is None else reader(algebra, *inputs)


# --- printing -----------------------------------------------------------------------------------


class Printer:
    """Writes formulas in one notation."""

    def __init__(self, algebra: Algebra, notation: Text) -> None:
        self.algebra = algebra
        self.notation = notation
        self.small = self if notation.small is notation else Printer(algebra, notation.small)
        self._pieces: dict[Sum, Piece] = {}

    def piece(self, whole: Sum) -> Piece:
        known = self._pieces.get(whole)
        if known is None:
            known = self._layout(whole)
            if len(known.text) > LONGEST_FORMULA:
                raise Refused
            self.algebra.spend(8 * len(whole.terms) + len(known.text) // 32)
            self._pieces[whole] = known
        return known

    def _layout(self, whole: Sum) -> Piece:
        """A sum in its order; over one denominator, or with a common factor, where that is usual."""
        if not whole.terms:
            return self.notation.number("0")
        terms = ordered(whole)
        if len(terms) == 1:
            return self._total(terms)
        divided = self._divided(terms)
        if divided is not None:
            return divided
        plain = [(term, c) for term, c in terms if not any(isinstance(base, Sum) for base, _ in term.factors)]
        common = math.gcd(*[c.numerator for _, c in plain])
        if not 3 <= len(plain) < len(terms) or common == 1 or any(type(c) is not int for _, c in plain):
            return self._total(terms)
        inner = self._total([(term, c.numerator // common) for term, c in plain])
        group = self.notation.product([self.notation.number(str(common)), inner])
        parts = [(c < 0, self._term(term, _size(c))) for term, c in terms if (term, c) not in plain]
        return self.notation.total([*parts, (False, group)])

    def _divided(self, terms: Sequence[tuple[Term, Rational]]) -> Piece | None:
        """Terms over one and the same number as one fraction."""
        bottom = terms[0][1].denominator
        if bottom == 1 or self.notation.rational(Fraction(1, bottom))[1] == 1:
            return None
        for term, c in terms:
            if c.denominator != bottom or any(not isinstance(e, Sum) and e < 0 for _, e in term.factors):
                return None
        negative = max([c for _, c in terms]) < 0
        top = self._total([(term, -c.numerator if negative else c.numerator) for term, c in terms])
        return self.notation.total([(negative, self.notation.fraction(top, self.notation.number(str(bottom))))])

    def _total(self, terms: Sequence[tuple[Term, Rational]]) -> Piece:
        return self.notation.total([(c < 0, self._term(term, _size(c))) for term, c in terms])

    def _term(self, term: Term, coefficient: Rational) -> Piece:
        top: list[Piece] = []
        bottom: list[Piece] = []
        roots: tuple[list[Base], list[Base]] = [], []  # of constants: those above, and those below, are one root
        for base, exponent in sorted(term.factors, key=_display):
            if isinstance(exponent, Sum):
                top.append(self._power(base, exponent))
            elif is_positive(base) and abs(exponent) == HALF:
                roots[exponent < 0].append(base)
            else:
                (bottom if exponent < 0 else top).append(self._power(base, _size(exponent)))
        for side, bases in zip((top, bottom), roots, strict=True):
            if bases:
                names = [self.notation.symbol(base.name) for base in bases if isinstance(base, Symbol)]
                number = math.prod([base.number or 1 for base in bases if isinstance(base, Sum)])
                side.insert(0, self.notation.root(self._quotient(number, names, [])))
        return self._quotient(coefficient, top, bottom)

    def _quotient(self, coefficient: Rational, top: list[Piece], bottom: list[Piece]) -> Piece:
        number, divisor = self.notation.rational(coefficient, divides=bool(bottom))
        if number != "1" or not top:
            top = [self.notation.number(number), *top]
        if divisor != 1:
            bottom = [self.notation.number(str(divisor)), *bottom]
        whole = self.notation.product(top)
        return self.notation.fraction(whole, self.notation.product(bottom)) if bottom else whole

    def _power(self, base: Base, exponent: Exponent) -> Piece:
        if exponent == 1:
            return self._base(base)
        if exponent == HALF:
            return self.notation.root(self._base(base))
        if type(exponent) is int:
            raised = self.notation.small.number(str(exponent))
        else:
            raised = self.small.piece(self.algebra.lifted(exponent))
        if isinstance(base, Symbol) and base.name == "e":
            return self.notation.exponential(raised)
        return self.notation.power(self._base(base), raised)

    def _base(self, base: Base) -> Piece:
        if isinstance(base, Symbol):
            return self.notation.symbol(base.name)
        if isinstance(base, Sum):
            return self.piece(base)
        if base.name == "softplus":
            return self.notation.call(base.name, [self.small.piece(base.arguments[0])])
        arguments = [self.piece(argument) for argument in base.arguments]
        if base.name == "greater":
            return self.notation.above(*arguments)
        if base.name == "greater_equal":
            return self.notation.from_on(*arguments)
        return self.notation.call(base.name, arguments)


def _display(factor: Factor) -> tuple[int, int]:
    """The order within a product: constants, variables, powers and roots, functions, sums."""
    base, exponent = factor
    if is_positive(base) and not isinstance(exponent, Sum):
        kind = 0
    elif isinstance(exponent, (Sum, Fraction)):
        kind = 2
    else:
        kind = 1 if isinstance(base, Symbol) else 3 if isinstance(base, Call) else 4
    return kind, base.index


def ordered(whole: Sum) -> list[tuple[Term, Rational]]:
    """Polynomials by degree, then functions as they appeared, then constants; one that is added comes first."""
    terms = list(whole.terms.items())
    if len(terms) > 1:
        terms.sort(key=_rank)
        first = next((place for place, (_, c) in enumerate(terms) if c > 0), 0)
        terms.insert(0, terms.pop(first))
    return terms


def _rank(item: tuple[Term, Rational]) -> tuple[Any, ...]:
    term, _ = item
    if term.degree is None:
        return (1,)
    if not term.degree:
        return 2, not term.factors
    return 0, -term.degree, [(base.index, -e) for base, e in term.factors if base.degree and not isinstance(e, Sum)]


def printed(
    nodes: Sequence[Node], leaves: Mapping[Node, Leaf], most_work: int = MOST_WORK, *, decimals: bool = False
) -> list[Printed | None]:
    """The formula of each node; None where simplifying or printing it takes too much.

    `leaves` says what the inputs of the graph stand for; variables are printed in its order. With `decimals` fractions
    are printed as decimals where they end.
    """
    algebra = Algebra(most_work)
    latex, text = Printer(algebra, Latex(decimals)), Printer(algebra, Text(decimals))
    values: dict[Node, Sum] = {}
    answers: dict[Node, Printed] = {}
    wanted = set(nodes)
    with suppress(Exhausted):
        for leaf in leaves.values():
            if isinstance(leaf, str):
                algebra.symbol(leaf)
        for node in reachable(nodes):
            inputs = [values[x] for x in node.operands if x in values]
            if len(inputs) == len(node.operands):
                with suppress(Refused):
                    values[node] = read(algebra, node, inputs, leaves)
                    if node in wanted:
                        value = algebra.neat(values[node])
                        answers[node] = Printed(latex.piece(value).text, text.piece(value).text)
    return [answers.get(node) for node in nodes]
