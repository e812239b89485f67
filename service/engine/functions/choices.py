"""Choices in formulas: several choices of one condition are joined to a single one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from service.engine.functions.algebra import Algebra, Atom, Factor, Sum, Term
from service.engine.functions.printing import Rational

WHERE = "where"


class _Choice(NamedTuple):
    """A term with a choice as a factor: the choice, times a coefficient and the other factors."""

    atom: Atom
    coefficient: Rational
    others: Sequence[Factor]


def choice(algebra: Algebra, condition: Sum, a: Sum, b: Sum) -> Sum:
    """Return the sum for "a where the condition is not 0, else b".

    Choices of the same condition inside a and b are replaced by the argument that applies there.
    """
    a, b = (_made(algebra, part, condition, position) for position, part in ((1, a), (2, b)))
    return a if a is b else algebra.call(WHERE, (condition, a, b))


def joined(algebra: Algebra, whole: Sum) -> Sum:
    """Return an equal sum in which the terms with choices of one condition are one choice, with all factors inside."""
    whole = _distributed(algebra, whole)
    by_condition: dict[Sum, list[_Choice]] = {}
    rest = whole
    for term, coefficient in whole.terms.items():
        alone = algebra.sum({term: coefficient})
        found = _choice_in(alone)
        if found is not None:
            by_condition.setdefault(found.atom.arguments[0], []).append(found)
            rest = algebra.total([(rest, 1), (alone, -1)])
    parts = []
    for condition, terms in by_condition.items():
        a, b = (
            algebra.total(
                [
                    (algebra.multiply(algebra.product(each.coefficient, each.others), each.atom.arguments[position]), 1)
                    for each in terms
                ]
            )
            for position in (1, 2)
        )
        parts.append(choice(algebra, condition, joined(algebra, a), joined(algebra, b)))
    return algebra.total([(rest, 1), *[(part, 1) for part in parts]]) if parts else whole


def _distributed(algebra: Algebra, whole: Sum) -> Sum:
    """Return an equal sum in which products with sums of choices are multiplied out."""
    for term, coefficient in whole.terms.items():
        for place, (base, exponent) in enumerate(term.factors):
            if isinstance(base, Sum) and exponent == 1 and any(map(_has_choice, base.terms)):
                others = algebra.product(coefficient, (*term.factors[:place], *term.factors[place + 1 :]))
                products = [(algebra.multiply(others, algebra.sum({part: c})), 1) for part, c in base.terms.items()]
                rest = algebra.sum({each: c for each, c in whole.terms.items() if each is not term})
                return _distributed(algebra, algebra.total([(rest, 1), *products]))
    return whole


def _has_choice(term: Term) -> bool:
    """Return whether a term has a choice as a factor."""
    return any(isinstance(base, Atom) and base.name == WHERE for base, _ in term.factors)


def _choice_in(whole: Sum) -> _Choice | None:
    """Return a single term as a choice and the rest of its factors; None for any other sum."""
    if len(whole.terms) != 1:
        return None
    ((term, coefficient),) = whole.terms.items()
    for place, (base, exponent) in enumerate(term.factors):
        if isinstance(base, Atom) and base.name == WHERE and exponent == 1:
            return _Choice(base, coefficient, (*term.factors[:place], *term.factors[place + 1 :]))
    return None


def _made(algebra: Algebra, whole: Sum, condition: Sum, position: int) -> Sum:
    """Return a sum in which each choice of a condition is replaced by its argument at a position."""
    if not any(_is_choice(base, condition) for term in whole.terms for base, _ in term.factors):
        return whole
    parts = []
    for term, coefficient in whole.terms.items():
        factors = [
            (base.arguments[position] if isinstance(base, Atom) and _is_choice(base, condition) else base, exponent)
            for base, exponent in term.factors
        ]
        parts.append((algebra.product(coefficient, factors), 1))
    return algebra.total(parts)


def _is_choice(base: object, condition: Sum) -> bool:
    """Return whether a base is a choice of this condition."""
    return isinstance(base, Atom) and base.name == WHERE and base.arguments[0] is condition
