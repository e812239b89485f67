"""Arguments to try the words of expressions at, for the tests and for scripts/record_pytorch_functions.py."""

import math
import operator
from collections.abc import Callable

from service.engine.functions.vocabulary import Word, vocabulary

ANYWHERE = ((-2.3,), (-0.4,), (0.3,), (1.7,))
POSITIVE = ((0.05,), (0.7,), (1.9,), (40.0,))
INSIDE_ONE = ((-0.8,), (-0.1,), (0.35,), (0.9,))
BETWEEN_WHOLE = ((-1.7,), (-0.3,), (0.4,), (2.2,))
PAIRS = ((1.3, 0.7), (-2.1, 0.4), (0.6, -1.9), (-0.5, -3.2))


MEANINGS: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "negate": lambda a: -a,
    "power": math.pow,
    "pow": math.pow,
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "log2": math.log2,
    "log10": math.log10,
    "sqrt": math.sqrt,
    "cbrt": math.cbrt,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "atan2": math.atan2,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "tanh": math.tanh,
    "asinh": math.asinh,
    "acosh": math.acosh,
    "atanh": math.atanh,
    "sigmoid": lambda a: 1.0 / (1.0 + math.exp(-a)),
    "relu": lambda a: max(a, 0.0),
    "softplus": lambda a: max(a, 0.0) + math.log1p(math.exp(-abs(a))),
    "erf": math.erf,
    "erfc": math.erfc,
    "gaussian": lambda a: math.exp(-a * a),
    "step": lambda a: float(a >= 0.0),
    "sign": lambda a: math.copysign(1.0, a),
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "min": min,
    "max": max,
    "mod": operator.mod,
    "hypot": math.hypot,
    "less": lambda a, b: float(a < b),
    "greater": lambda a, b: float(a > b),
    "less_equal": lambda a, b: float(a <= b),
    "greater_equal": lambda a, b: float(a >= b),
    "where": lambda a, b, c: b if a else c,
}
"""The meaning of each word with arguments, in Python's own numbers."""


class _Samples(dict[str, tuple[tuple[float, ...], ...]]):
    def __missing__(self, name: str) -> tuple[tuple[float, ...], ...]:
        raise KeyError(f"add arguments for {name!r} to SAMPLES, and its meaning to MEANINGS, in {__file__}")


SAMPLES = _Samples()
"""Arguments inside the domain of each word, and away from its kinks and jumps."""
SAMPLES |= {
    "add": PAIRS,
    "subtract": PAIRS,
    "multiply": PAIRS,
    "divide": PAIRS,
    "negate": ANYWHERE,
    "power": ((1.3, 0.7), (2.5, -1.4), (0.2, 3.1), (7.0, 2.0)),
    "pi": ((),),
    "e": ((),),
    "exp": ANYWHERE,
    "expm1": ANYWHERE,
    "log": POSITIVE,
    "log1p": ((-0.9,), (-0.2,), (1e-3,), (30.0,)),
    "log2": POSITIVE,
    "log10": POSITIVE,
    "sqrt": POSITIVE,
    "cbrt": ((-8.5,), (-0.3,), (0.4,), (30.0,)),
    "sin": ANYWHERE,
    "cos": ANYWHERE,
    "tan": ((-1.1,), (-0.4,), (0.3,), (2.0,)),
    "asin": INSIDE_ONE,
    "acos": INSIDE_ONE,
    "atan": ANYWHERE,
    "atan2": PAIRS,
    "sinh": ANYWHERE,
    "cosh": ANYWHERE,
    "tanh": ANYWHERE,
    "asinh": ANYWHERE,
    "acosh": ((1.2,), (1.9,), (6.5,), (300.0,)),
    "atanh": INSIDE_ONE,
    "sigmoid": ANYWHERE,
    "relu": ANYWHERE,
    "softplus": ANYWHERE,
    "erf": ((-1.4,), (-1e-3,), (0.3,), (2.2,)),
    "erfc": ((-1.4,), (-1e-3,), (0.3,), (2.2,)),
    "gaussian": ANYWHERE,
    "step": ANYWHERE,
    "sign": ANYWHERE,
    "abs": ANYWHERE,
    "floor": BETWEEN_WHOLE,
    "ceil": BETWEEN_WHOLE,
    "round": BETWEEN_WHOLE,
    "min": PAIRS,
    "max": PAIRS,
    "pow": ((1.3, 0.7), (2.5, -1.4), (0.2, 3.1), (7.0, 2.0)),
    "mod": PAIRS,
    "hypot": PAIRS,
    "less": PAIRS,
    "greater": PAIRS,
    "less_equal": PAIRS,
    "greater_equal": PAIRS,
    "where": ((1.3, 0.7, -0.6), (-2.1, 0.4, 1.5)),
}

VARIABLES = ("x", "y", "z")


def written(word: Word, *arguments: str) -> str:
    """Return a word applied to some texts, by default to its variables."""
    texts = arguments or VARIABLES[: word.arguments]
    if not word.arguments:
        return word.name
    if word.name == "negate":
        return f"-({texts[0]})"
    if word.operator:
        return f"({texts[0]}) {word.aliases[0]} ({texts[1]})"
    return f"{word.name}({', '.join(texts)})"


def without_samples() -> list[str]:
    return sorted({word.name for word in vocabulary} ^ set(SAMPLES))
