"""Formulas in canonical form: sums of terms with rational coefficients, where a term is a product of powers.

Like terms and powers of one base are joined as soon as they are made, so equal formulas are one object and a formula
that repeats its parts stays small. Every step of work is counted. Formulas that take too many steps, grow too large or
nest too deep are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from fractions import Fraction
from typing import Any, TypeAlias, TypeVar

from service.engine.functions.printing import Rational

DEEPEST = 80
LARGEST = 2**512
"""Bound of numerators and denominators."""
MOST_CANCELLED = 10**6
"""Largest ratio of two coefficients of a sign. (A + B)/2 + (A - B)/2 sgn x is B where the sign is -1, and the digits of
A would be lost beyond this ratio."""
LONGEST_POWER = 128
"""Most bits of a power of a number that is written out."""

P = TypeVar("P", "Atom", "Term", "Sum")


class NoFormula(Exception):
    """Raised for a formula that is too large, or that has no value."""


class WorkExhausted(Exception):
    """Raised once all the work that was allowed is done."""


# Parts of formulas. Only `Algebra` makes them; they are compared by identity.


class Atom:
    """The smallest part of a formula: a variable, pi, e, a whole number above 1, or a function of arguments."""

    __slots__ = ("arguments", "constant", "degree", "depth", "index", "name", "weight")

    def __init__(self, index: int, name: str, arguments: tuple[Sum, ...]) -> None:
        self.index = index
        """The position of this part in the order in which parts are made."""
        self.name = name
        self.arguments = arguments
        self.constant = not arguments and (name in ("pi", "e") or name.isdecimal())
        """True for a constant; all constants here are positive."""
        self.depth: int = 1 + max([argument.depth for argument in arguments], default=-1)
        self.degree: int | None = None if arguments else int(not self.constant)
        """The degree as a polynomial; None for everything else."""
        self.weight: int = 3 + len(name) + sum([x.weight for x in arguments]) if arguments else 2
        """About the number of characters that it takes to type."""


class Term:
    """A product of powers of different bases, in the order in which the bases were made. Without factors it is 1."""

    __slots__ = ("degree", "depth", "factors", "index", "weight")

    def __init__(self, index: int, factors: tuple[Factor, ...]) -> None:
        self.index = index
        self.factors = factors
        depth = weight = 0
        degree: int | None = 0
        for base, exponent in factors:
            weight += base.weight if type(base) is Atom else base.weight + 3
            depth = max(depth, base.depth)
            if type(exponent) is Sum:
                weight += 3 + exponent.weight
                depth = max(depth, exponent.depth)
                degree = None
                continue
            if exponent != 1:
                weight += 1 + len(str(exponent))
            if degree is None or base.degree is None:
                degree = None
            elif base.degree:
                degree = degree + exponent * base.degree if type(exponent) is int and exponent > 0 else None
        self.depth: int = depth
        self.degree: int | None = degree
        self.weight: int = weight


class Sum:
    """A sum of terms with coefficients other than 0. Without terms it is 0. Every value is a sum, often of one term."""

    __slots__ = ("degree", "depth", "index", "terms", "weight")

    def __init__(self, index: int, terms: dict[Term, Rational]) -> None:
        self.index = index
        self.terms = terms
        depth, weight = 0, -3
        degree: int | None = 0
        for term, c in terms.items():
            depth = max(depth, term.depth)
            weight += 3 + term.weight + (len(str(c)) if c != 1 and c != -1 else -1)
            degree = None if degree is None or term.degree is None else max(degree, term.degree)
        self.depth: int = depth + 1
        self.degree: int | None = degree
        self.weight: int = weight

    @property
    def number(self) -> Rational | None:
        """The value, if it is a rational number."""
        if len(self.terms) > 1:
            return None
        for term, coefficient in self.terms.items():
            return None if term.factors else coefficient
        return 0


Base: TypeAlias = Atom | Sum
Exponent: TypeAlias = int | Fraction | Sum
"""A `Sum` only where the exponent is not a number."""
Factor: TypeAlias = tuple[Base, Exponent]
Product: TypeAlias = tuple[Rational, Sequence[Factor]]

ODD = frozenset(("sin", "tan", "asin", "atan", "sinh", "tanh", "asinh", "atanh", "cbrt", "erf", "sign", "slope"))
"""`slope` is the sign in derivatives of abs, max and min. The sign of x² is taken as 1, as |x²| is x²."""
EVEN = frozenset(("cos", "cosh", "abs"))
OF_NUMBERS: dict[str, Callable[..., Rational]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "max": max,
    "min": min,
    "greater": lambda a, b, _: int(a > b),
    "greater_equal": lambda a, b, _: int(a >= b),
}
"""Functions whose value at rational numbers is rational."""


class PartTable:
    """The table of all parts of formulas. It makes equal parts only once, and counts the work."""

    def __init__(self) -> None:
        self.left = 0
        """Steps of work that may still be done."""
        self.parts: dict[Hashable, Any] = {}
        self.has_slopes = False
        """True once an atom `slope` was made."""

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise WorkExhausted

    def exact(self, value: Rational) -> Rational:
        """Return a rational number, as an int if it is whole. Raises `NoFormula` if it has too many digits."""
        if type(value) is not int:
            self.spend(3)
            if value.denominator != 1:
                if -LARGEST < value.numerator < LARGEST and value.denominator < LARGEST:
                    return value
                raise NoFormula
            value = value.numerator
        if -LARGEST < value < LARGEST:
            return value
        raise NoFormula

    def _part(self, kind: type[P], key: Hashable, *details: Any) -> P:
        """Return the only part with this key; make it from `details` if there is none yet."""
        part: P | None = self.parts.get(key)
        if part is None:
            self.spend(3)
            part = kind(len(self.parts), *details)
            if part.depth > DEEPEST:
                raise NoFormula
            self.parts[key] = part
        return part

    def atom(self, name: str, arguments: tuple[Sum, ...] = ()) -> Atom:
        if name == "slope":
            self.has_slopes = True
        return self._part(Atom, (name, arguments), name, arguments)

    def term(self, factors: Iterable[Factor]) -> Term:
        key = tuple(sorted(factors, key=lambda factor: factor[0].index))
        return self._part(Term, key, key)

    def sum(self, terms: dict[Term, Rational]) -> Sum:
        return self._part(Sum, frozenset(terms.items()), terms)

    def number(self, value: Rational) -> Sum:
        return self.sum({self.term(()): self.exact(value)} if value else {})


class Algebra(PartTable):
    """The arithmetic of formulas in canonical form: sums, products, powers and functions."""

    def __init__(self) -> None:
        super().__init__()
        self._representatives: dict[Hashable, tuple[Sum, Rational]] = {}
        self._powers: dict[Factor, Product | None] = {}

    def symbol(self, name: str) -> Sum:
        return self.product(1, [(self.atom(name), 1)])

    # sums and products

    def total(self, parts: Iterable[tuple[Sum, Rational]]) -> Sum:
        """Return the sum of formulas, each times its rational number."""
        terms: dict[Term, Rational] = {}
        for part, scale in parts:
            if not terms and scale == 1:
                self.spend(1 + len(part.terms) // 4)
                terms = part.terms.copy()
                continue
            self.spend(1 + len(part.terms))
            for term, coefficient in part.terms.items():
                added = coefficient if scale == 1 else scale * coefficient
                if term in terms:
                    if self.has_slopes and _cancels(term, added, terms[term]):
                        raise NoFormula
                    added += terms[term]
                if added:
                    terms[term] = self.exact(added)
                else:
                    terms.pop(term, None)
        return self.sum(terms)

    def product(self, coefficient: Rational, factors: Iterable[Factor]) -> Sum:
        """Return a rational number times powers, as a formula. Powers of one base are joined and simplified."""
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
                if simpler[0] != 1:
                    coefficient = self.exact(coefficient * simpler[0])
                waiting.extend(simpler[1])
        if not coefficient:
            return self.sum({})
        if len(exponents) == 1:
            ((base, exponent),) = exponents.items()
            if exponent == 1 and type(base) is Sum:
                return base if coefficient == 1 else self.total([(base, coefficient)])
        return self.sum({self.term(exponents.items()): self.exact(coefficient)})

    def multiply(self, a: Sum, b: Sum) -> Sum:
        (first, left), (second, right) = split(a), split(b)
        if not left:
            return self.total([(b, first)])
        if not right:
            return self.total([(a, second)])
        return self.product(self.exact(first * second), (*left, *right))

    def power(self, base: Sum, exponent: Sum) -> Sum:
        return self.product(1, [(base, plain(exponent))])

    def exponent(self, exponent: Exponent) -> Sum:
        return exponent if isinstance(exponent, Sum) else self.number(exponent)

    def _added(self, a: Exponent, b: Exponent) -> Exponent:
        if isinstance(a, Sum) or isinstance(b, Sum):
            return plain(self.total([(self.exponent(a), 1), (self.exponent(b), 1)]))
        return self.exact(a + b)

    def times(self, a: Exponent, b: Exponent) -> Exponent:
        if isinstance(a, Sum) or isinstance(b, Sum):
            return plain(self.multiply(self.exponent(a), self.exponent(b)))
        return self.exact(a * b)

    # powers

    def _simpler(self, base: Base, exponent: Exponent) -> Product | None:
        """Return a power as a number times simpler powers; None if it is simple already."""
        if type(base) is Sum:
            if type(exponent) is not int and len(base.terms) > 1:
                return None
            key = base, exponent
            if key not in self._powers:
                self.spend(2)
                self._powers[key] = self._simpler_power(base, exponent)
            return self._powers[key]
        assert isinstance(base, Atom)
        if type(exponent) is int:
            if base.name == "abs" and exponent % 2 == 0:
                return 1, [(base.arguments[0], exponent)]
            if base.name == "cbrt" and exponent % 3 == 0:
                return 1, [(base.arguments[0], exponent // 3)]
        if base.constant and base.name.isdecimal() and not isinstance(exponent, Sum):
            return self._simpler_number(int(base.name), exponent)
        return None

    def _simpler_power(self, base: Sum, exponent: Exponent) -> Product | None:
        coefficient, factors = split(base)
        if len(base.terms) > 1:
            representative, coefficient = self.represent(base)
            if representative is base:
                return None
            factors = ((representative, 1),)
        elif not coefficient:
            if isinstance(exponent, Sum) or exponent < 0:
                raise NoFormula
            return 0, []
        if type(exponent) is int:
            power = self._raised(coefficient, exponent)
            if power is not None:
                return power, [(inner, self.times(e, exponent)) for inner, e in factors]
            if len(base.terms) > 1:
                return None
        if all(isinstance(inner, Atom) and inner.constant for inner, _ in factors):
            return 1, [*self._number(coefficient, exponent), *[(b, self.times(e, exponent)) for b, e in factors]]
        if coefficient == 1 and len(factors) == 1:
            ((inner, e),) = factors
            if e == 1:
                return 1, [(inner, exponent)]
            if type(e) is int and e % 2 == 0 and not isinstance(exponent, Sum):
                return 1, [(self.call("abs", (self.product(1, [(inner, 1)]),)), self.exact(e * exponent))]
        return None

    def _number(self, value: Rational, exponent: Exponent) -> list[Factor]:
        """Return a power of a positive rational number as powers of whole numbers. Raises `NoFormula` below 0."""
        if value < 0:
            raise NoFormula
        parts = ((value.numerator, exponent), (value.denominator, self.times(exponent, -1)))
        return [(self.atom(str(whole)), power) for whole, power in parts if whole > 1]

    def _simpler_number(self, value: int, exponent: Rational) -> Product | None:
        """Simplify a root of a whole number to exponents between -1 and 0, so that equal roots meet."""
        root = math.isqrt(value)
        if root * root == value and type(exponent) is Fraction and exponent.denominator == 2:
            return 1, [(self.atom(str(root)), 2 * exponent)]
        whole = math.ceil(exponent)
        power = self._raised(value, whole) if whole else None
        return None if power is None else (power, self._number(value, exponent - whole))

    def _raised(self, value: Rational, exponent: int) -> Rational | None:
        """Return a power of a number, if it is short enough to be written out."""
        bits = max(abs(value.numerator).bit_length(), value.denominator.bit_length())
        if abs(value) != 1 and bits * abs(exponent) >= LONGEST_POWER:
            return None
        return value**exponent if exponent > 0 else self.exact(Fraction(value) ** exponent)

    def represent(self, whole: Sum) -> tuple[Sum, Rational]:
        """Return the sum that stands for all multiples of a sum, and the factor from it to the given sum. So x + y and
        2x + 2y are multiples of one object."""
        known = self._representatives.get(whole)
        if known is None:
            self.spend(6 * len(whole.terms))
            coefficients = whole.terms.values()
            divisor = math.lcm(*[c.denominator for c in coefficients])
            scaled = [c.numerator * (divisor // c.denominator) for c in coefficients]
            size = math.gcd(*scaled) * (-1 if whole.terms[min(whole.terms, key=lambda term: term.index)] < 0 else 1)
            shape = frozenset(zip(whole.terms, [c // size for c in scaled], strict=True))
            content = self.exact(Fraction(size, divisor))
            if shape not in self._representatives:
                sign = -1 if max(coefficients) < 0 else 1
                nice = Fraction(sign * abs(size), math.gcd(*[c.denominator for c in coefficients]))
                self._representatives[shape] = self.total([(whole, 1 / nice)]), content / nice
            representative, its_content = self._representatives[shape]
            known = self._representatives[whole] = representative, self.exact(content / Fraction(its_content))
        return known

    # functions

    def call(self, name: str, arguments: tuple[Sum, ...]) -> Sum:
        """Return a function of arguments as a formula. Signs, and factors of absolute values, are taken out of it."""
        x = arguments[0]
        if (not x.terms and (name in ODD or name == "abs")) or (x.number == 1 and name in ("log", "log2", "log10")):
            return self.number(0)
        if x.terms and (name in ODD or name in EVEN):
            scale, factors = split(x)
            if len(x.terms) > 1:
                scale = self.represent(x)[1]
            sign = 1 if scale > 0 else -1
            before = scale if name in ("abs", "sign", "slope") else sign
            if before != 1:
                inner = self.call(name, (self.total([(x, 1 / Fraction(before))]),))
                return self.total([(inner, sign * before if name == "abs" else sign if name in ODD else 1)])
            if name in _POSITIVE and all(_POSITIVE[name](base, exponent) for base, exponent in factors):
                return x if name == "abs" else self.number(1)
        if name in OF_NUMBERS:
            numbers = [argument.number for argument in arguments]
            if None not in numbers:
                return self.number(OF_NUMBERS[name](*numbers))
        return self.product(1, [(self.atom(name, arguments), 1)])


def split(whole: Sum) -> Product:
    """Return a sum as a coefficient and powers. A sum of several terms becomes a power of itself."""
    if len(whole.terms) == 1:
        for term, coefficient in whole.terms.items():
            return coefficient, term.factors
    return (1, ((whole, 1),)) if whole.terms else (0, ())


def plain(whole: Sum) -> Exponent:
    number = whole.number
    return whole if number is None else number


def _cancels(term: Term, a: Rational, b: Rational) -> bool:
    """Return whether adding two coefficients of a `slope` would lose the digits of the smaller one."""
    a, b = max(a, -a), max(b, -b)
    far = a > MOST_CANCELLED * b or b > MOST_CANCELLED * a
    return far and any(isinstance(base, Atom) and base.name == "slope" for base, _ in term.factors)


def _never_negative(base: Base, exponent: Exponent) -> bool:
    return (type(exponent) is int and exponent % 2 == 0) or (isinstance(base, Atom) and base.constant)


def _positive(base: Base, exponent: Exponent) -> bool:
    return (type(exponent) is int and exponent % 2 == 0 and exponent < 0) or (isinstance(base, Atom) and base.constant)


_POSITIVE = {"abs": _never_negative, "slope": _never_negative, "sign": _positive}
"""Conditions on all factors of an argument under which a sign is 1, and an absolute value its argument."""
