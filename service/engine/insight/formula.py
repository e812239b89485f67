"""Formulas of single numbers: small trees over named numbers, with functions that evaluate and write them.

A `NumberFormula` computes one number from others and refers to those by keys. `evaluate` computes it, `expression`
writes it for programs, and `turned` rewrites it with the sign of some names turned. `notation.py` writes it in LaTeX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from service.engine.float_warnings import without_float_warnings
from service.engine.graph.ir import OPERATIONS

Key = Hashable
"""The key of a number in formulas: an element of a node, as (node, place), or a name."""


class NumberFormula:
    """The formula of one number in terms of others. `size` counts the names in it, `depth` the levels of nesting."""

    __slots__ = ("depth", "size")

    size: int
    depth: int

    @property
    def parts(self) -> tuple[NumberFormula, ...]:
        return ()


class Ref(NumberFormula):
    """A reference to another number by its key."""

    __slots__ = ("key",)

    def __init__(self, key: Key) -> None:
        self.key = key
        self.size, self.depth = 1, 0


class Constant(NumberFormula):
    """A number that never changes."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value
        self.size, self.depth = 0, 0


class _Compound(NumberFormula):
    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[NumberFormula]) -> None:
        self._parts = tuple(parts)
        self.size = sum([part.size for part in self._parts])
        self.depth = 1 + max([part.depth for part in self._parts])

    @property
    def parts(self) -> tuple[NumberFormula, ...]:
        return self._parts


class TermSum(_Compound):
    """A sum of terms, each with whether it is subtracted."""

    __slots__ = ("minus",)

    def __init__(self, terms: Sequence[tuple[bool, NumberFormula]]) -> None:
        super().__init__([term for _, term in terms])
        self.minus = tuple([minus for minus, _ in terms])

    @property
    def terms(self) -> list[tuple[bool, NumberFormula]]:
        return list(zip(self.minus, self._parts, strict=True))


class Product(_Compound):
    """The product of two or more factors."""

    __slots__ = ()


class Quotient(_Compound):
    """The quotient of two numbers, top and bottom."""

    __slots__ = ()


class Square(_Compound):
    """The square of a number."""

    __slots__ = ()


class Call(_Compound):
    """A function of numbers: an operation of the graph by its name, or one of `FUNCTIONS`."""

    __slots__ = ("name",)

    def __init__(self, name: str, arguments: Sequence[NumberFormula]) -> None:
        super().__init__(arguments)
        self.name = name


# --- building -----------------------------------------------------------------------------------


def total(terms: Sequence[tuple[bool, NumberFormula]]) -> NumberFormula:
    """Return the sum of terms, each given with whether it is subtracted. Sums among the terms are written out."""
    flat: list[tuple[bool, NumberFormula]] = []
    for minus, term in terms:
        if isinstance(term, TermSum):
            flat += [(minus != inner, part) for inner, part in term.terms]
        elif not isinstance(term, Constant) or term.value or len(terms) == 1:
            flat.append((minus, term))
    if not flat:
        return Constant(0.0)
    return flat[0][1] if len(flat) == 1 and not flat[0][0] else TermSum(flat)


def negative(formula: NumberFormula) -> NumberFormula:
    if isinstance(formula, Constant):
        return Constant(-formula.value)
    return total([(True, formula)])


def product(factors: Sequence[NumberFormula]) -> NumberFormula:
    """Return the product of factors. Products among them are written out, and their signs come to the front."""
    flat: list[NumberFormula] = []
    minus = False
    for given in factors:
        factor = given
        if isinstance(factor, TermSum) and len(factor.minus) == 1:
            minus = not minus
            factor = factor.parts[0]
        if isinstance(factor, Product):
            flat += factor.parts
        elif not isinstance(factor, Constant) or factor.value != 1.0:
            flat.append(factor)
    found = Constant(1.0) if not flat else flat[0] if len(flat) == 1 else Product(flat)
    return negative(found) if minus else found


def quotient(top: NumberFormula, bottom: NumberFormula) -> NumberFormula:
    if isinstance(top, TermSum) and len(top.minus) == 1:
        return negative(quotient(top.parts[0], bottom))
    return Quotient((top, bottom))


# --- reading ------------------------------------------------------------------------------------


def names(formula: NumberFormula) -> Iterator[Key]:
    """Yield the keys of the numbers that a formula refers to, in the order of writing, as often as they occur."""
    waiting = [formula]
    while waiting:
        here = waiting.pop()
        if isinstance(here, Ref):
            yield here.key
        else:
            waiting += reversed(here.parts)


def turned(formula: NumberFormula, signed: Callable[[Key], bool]) -> NumberFormula:
    """Return the negative of a formula, written with the negative of each number that is `signed`, for Heaton's
    notation. A formula that is linear in these numbers keeps its form, as deltas in terms of deltas do."""
    if isinstance(formula, Ref):
        return formula if signed(formula.key) else negative(formula)
    if isinstance(formula, TermSum):
        return total([(minus, turned(term, signed)) for minus, term in formula.terms])
    if isinstance(formula, Product):
        factors = list(formula.parts)
        place = next((k for k, factor in enumerate(factors) if _any_signed(factor, signed)), None)
        if place is None:
            return negative(formula)
        factors[place] = turned(factors[place], signed)
        return product([factors[place] if k == place else kept(part, signed) for k, part in enumerate(factors)])
    if isinstance(formula, Quotient):
        top, bottom = formula.parts
        return quotient(turned(top, signed), kept(bottom, signed))
    if isinstance(formula, Call) and formula.name in ("gate", "weighted"):
        first, second = formula.parts
        return Call(formula.name, (kept(first, signed), turned(second, signed)))
    return negative(kept(formula, signed))


def kept(formula: NumberFormula, signed: Callable[[Key], bool]) -> NumberFormula:
    """Return a formula of the same value, written with the negative of each number that is `signed`."""
    if not _any_signed(formula, signed):
        return formula
    if isinstance(formula, Ref):
        return negative(formula)
    parts = [kept(part, signed) for part in formula.parts]
    if isinstance(formula, TermSum):
        return total(list(zip(formula.minus, parts, strict=True)))
    if isinstance(formula, Product):
        return product(parts)
    if isinstance(formula, Quotient):
        return quotient(*parts)
    if isinstance(formula, Square):
        return Square(parts)
    assert isinstance(formula, Call)
    return Call(formula.name, parts)


def _any_signed(formula: NumberFormula, signed: Callable[[Key], bool]) -> bool:
    return any(signed(key) for key in names(formula))


# --- evaluating ---------------------------------------------------------------------------------


def _order(position: float, descending: float, *values: float) -> float:
    places = sorted(range(len(values)), key=lambda place: values[place] * (-1.0 if descending else 1.0))
    return float(places[int(position)])


FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "equal": lambda a, b: float(a == b),
    "first_largest": lambda place, *values: float(values.index(max(values)) == int(place)),
    "order": _order,
}
"""Functions that are no operation of the graph as they stand here; the others are."""


def evaluate(formula: NumberFormula, value: Callable[[Key], float]) -> float:
    """Return the number that a formula stands for, in float64. `value` returns the number of a key."""
    if isinstance(formula, Ref):
        return value(formula.key)
    if isinstance(formula, Constant):
        return formula.value
    parts = [evaluate(part, value) for part in formula.parts]
    if isinstance(formula, TermSum):
        return sum([-part if minus else part for minus, part in zip(formula.minus, parts, strict=True)])
    if isinstance(formula, Product):
        return math.prod(parts)
    if isinstance(formula, Square):
        return parts[0] * parts[0]
    if isinstance(formula, Quotient):
        return without_float_warnings(_operate, "divide", parts)
    assert isinstance(formula, Call)
    function = FUNCTIONS.get(formula.name)
    return without_float_warnings(_operate, formula.name, parts) if function is None else function(*parts)


def _operate(name: str, values: Sequence[float]) -> float:
    """Return the result of an elementwise operation of the graph on single numbers."""
    operation = OPERATIONS[name]
    out = np.empty(())
    scratch = [np.empty(()) for _ in range(2)]
    for call in operation.bind(
        out, [np.array(value) for value in values], (), scratch[:1] if operation.scratch else []
    ):
        call()
    return float(out)


# --- writing ------------------------------------------------------------------------------------

_SUM, _PRODUCT, _POWER, _ATOM = range(4)


def expression(formula: NumberFormula, name: Callable[[Key], str]) -> str:
    """Return a formula as a text for programs: Python's arithmetic, operations as functions, all digits."""
    return _written(formula, name)[0]


def _written(formula: NumberFormula, name: Callable[[Key], str]) -> tuple[str, int]:
    if isinstance(formula, Ref):
        return name(formula.key), _ATOM
    if isinstance(formula, Constant):
        return _literal(formula.value)
    parts: list[Any] = [_written(part, name) for part in formula.parts]

    def wrap(part: tuple[str, int], level: int) -> str:
        return part[0] if part[1] >= level else f"({part[0]})"

    if isinstance(formula, TermSum):
        text = "".join(
            f"{'-' if minus else '+'}{wrap(part, _PRODUCT)}" for minus, part in zip(formula.minus, parts, strict=True)
        )
        return text.removeprefix("+"), _SUM
    if isinstance(formula, Product):
        return "*".join(wrap(part, _PRODUCT if k == 0 else _POWER) for k, part in enumerate(parts)), _PRODUCT
    if isinstance(formula, Quotient):
        return f"{wrap(parts[0], _PRODUCT)}/{wrap(parts[1], _POWER)}", _PRODUCT
    if isinstance(formula, Square):
        return f"{wrap(parts[0], _ATOM)}**2", _POWER
    assert isinstance(formula, Call)
    return f"{formula.name}({','.join(text for text, _ in parts)})", _ATOM


def _literal(value: float) -> tuple[str, int]:
    if math.isinf(value):
        return ("-inf", _SUM) if value < 0 else ("inf", _ATOM)
    text = repr(value).removesuffix(".0")
    return text, _SUM if text.startswith("-") else _ATOM
