"""Interval arithmetic for expressions, which shows that kinks are out of reach in a box of points."""

from __future__ import annotations

import math

import numpy as np

from service.engine.arrays import Array
from service.engine.float_warnings import without_float_warnings
from service.engine.functions.compiled import Check, Function, literals_of
from service.engine.functions.expression import Expression

Range = tuple[float, float]
ANYTHING: Range = (-math.inf, math.inf)
AWAY = (-2.0, -1.0, -0.5, 0.3, 0.5, 1.0, 2.0)
"""Numbers to try beside 0, to see whether a singularity occurs at 0 alone."""
KINKS = ("kink", "vertical", "jump")


def kinks_within(function: Function, low: Array, high: Array) -> list[str]:
    """Return the texts of the kinks of a function, without those that provably lie outside the box [low, high]."""
    ranges = without_float_warnings(ranges_of, function.expression, low.tolist(), high.tolist())
    texts = [check.singularity.text for check in function.checks if _within(check, ranges)]
    literals = literals_of(function.expression)
    for step in function.expression.steps:
        if step.word == "power":
            base, exponent = step.operands
            power = literals[exponent]
            if power is not None and 1.0 < power < 2.0 and ranges[base][0] <= 0.0 <= ranges[base][1]:
                texts.append("the curvature of a power between 1 and 2 is infinite at 0")
    return list(dict.fromkeys(texts))


def _within(check: Check, ranges: list[Range]) -> bool:
    if check.singularity.kind not in KINKS:
        return False
    operands = [np.zeros(1)] + [np.full(1, 0.5)] * (len(check.operands) - 1)
    at_zero = check.singularity.where(*operands).all()
    elsewhere = [check.singularity.where(np.full(1, number), *operands[1:]).any() for number in AWAY]
    if not at_zero or any(elsewhere):
        return True  # only kinks where the first argument is 0 are ruled out here
    least, most = ranges[check.operands[0]]
    return least <= 0.0 <= most


def ranges_of(expression: Expression, low: list[float], high: list[float]) -> list[Range]:
    """Return for each step of an expression an interval that contains all its values in the box [low, high]. A step
    with an unknown word may have any value."""
    literals = literals_of(expression)
    found: list[Range] = []
    for place, step in enumerate(expression.steps):
        operands = [found[operand] for operand in step.operands]
        literal = literals[place]
        if step.word == "variable":
            index = expression.variables.index(step.text)
            made = low[index], high[index]
        elif literal is not None:
            made = literal, literal
        else:
            steps = [expression.steps[operand] for operand in step.operands]
            same = len(steps) == 2 and steps[0].word == steps[1].word == "variable" and steps[0].text == steps[1].text
            made = _range(step.word, operands, [literals[operand] for operand in step.operands], same)
        # A little wider than rounding; NaN gives the widest range.
        least, most = made
        found.append(
            ANYTHING
            if math.isnan(least) or math.isnan(most)
            else (least - 1e-12 * abs(least), most + 1e-12 * abs(most))
        )
    return found


def _range(word: str, operands: list[Range], literals: list[float | None], same: bool) -> Range:
    match word:
        case "negate":
            return -operands[0][1], -operands[0][0]
        case "add":
            return operands[0][0] + operands[1][0], operands[0][1] + operands[1][1]
        case "subtract":
            return operands[0][0] - operands[1][1], operands[0][1] - operands[1][0]
        case "multiply" if same:
            return _square(operands[0])
        case "multiply":
            corners = [a * b for a in operands[0] for b in operands[1]]
            return (min(corners), max(corners)) if not any(map(math.isnan, corners)) else ANYTHING
        case "divide" if literals[1]:
            ends = [end / literals[1] for end in operands[0]]
            return min(ends), max(ends)
        case "power" if literals[1] in (2.0, 4.0, 6.0, 8.0):
            least, most = _square(operands[0])
            half = literals[1] / 2.0
            return _powered(least, half), _powered(most, half)
        case "abs":
            least, most = _square(operands[0])
            return math.sqrt(least), math.sqrt(most)
        case "sqrt":
            return tuple(math.sqrt(max(0.0, end)) for end in operands[0])  # type: ignore[return-value]
        case "exp":
            return tuple(float(np.exp(end)) for end in operands[0])  # type: ignore[return-value]
        case "sin" | "cos" | "tanh":
            return -1.0, 1.0
        case _:
            return ANYTHING


def _square(operand: Range) -> Range:
    ends = [end * end for end in operand]
    return (0.0 if operand[0] <= 0.0 <= operand[1] else min(ends)), max(ends)


def _powered(number: float, exponent: float) -> float:
    return float(np.power(number, exponent))
