"""Expressions in the notation of Python, JavaScript, LaTeX, a calculator or paper.

`translation` proposes a text in place of one that cannot be read. `slips` warns of readable names that probably mean
something else, such as `sinx`. Neither changes the meaning of an expression.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple


class _Rule(NamedTuple):
    """A habit of another notation, such as `sin x`, and the notation of this service for it."""

    pattern: re.Pattern[str]
    replacement: str
    sentence: str = ""
    """The sentence about the habit, in place of the parser's; empty where the parser's is good."""


def _rule(pattern: str, replacement: str, sentence: str = "") -> _Rule:
    return _Rule(re.compile(pattern), replacement, sentence)


LONGEST = 200
"""Characters of a text that is translated; longer ones were hardly typed by hand."""
MOST_ROUNDS = 8
"""Fractions and roots that are nested within each other."""
_MODULES = "np|numpy|jnp|jax|math|cmath|Math|torch|tf|keras|K|F|nn|functional|sp|scipy|special|sympy|mp|mpmath|xp|cp"
_RIGHT_SIDE = "a function has no name and no head here"

_CHOICE = "a choice is a function here"

_RULES = (
    _rule(r"^\s*\$+(.*?)\$+\s*$", r"\1", "an expression is no LaTeX"),
    _rule(r"\s*#.*$", "", "an expression has no comments"),
    _rule(r"\s*;\s*$", ""),
    _rule(r"^\s*def\s+\w+\s*\([^()]*\)\s*:\s*", "", _RIGHT_SIDE),
    _rule(r"^\s*function\s*\w*\s*\([^()]*\)\s*\{?\s*", "", _RIGHT_SIDE),
    _rule(r"^\s*(?:\w+(?:\([^()]*\))?|[dD]\w+/[dD]\w+)\s*:?=(?![=>])\s*", ""),
    _rule(r"^\s*lambda\s*[\w\s,]*:\s*", "", "an expression needs no lambda"),
    _rule(r"^\s*\(?[\w\s,]+\)?\s*(?:[-=]>|→|↦)\s*", "", _RIGHT_SIDE),
    _rule(r"^\s*return\s+", "", _RIGHT_SIDE),
    _rule(rf"(?<![\w.])(?:(?:{_MODULES})\.)+(?=[A-Za-z])", "", "functions are written without the name of a module"),
    _rule(r"^\s*[d∂]\s*\w?\s*/\s*[d∂]\s*\w\s*(?=[(\w\[])", "", "a derivative is computed, not typed"),
    _rule(r"\\(?:left|right|displaystyle|,|;|!|quad|:)(?![A-Za-z])", ""),
    _rule(r"\\(?:operatorname|mathrm|text)\{(\w+)\}", r"\1"),
    _rule(r"\\(?:cdot|times|ast)(?![A-Za-z])", "*"),
    _rule(r"\\div(?![A-Za-z])", "/"),
    _rule(r"\\d?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"(\1)/(\2)"),
    _rule(r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)"),
    _rule(r"\\log_\{?(2|10)\}?", r"log\1"),
    _rule(r"\\([A-Za-z]+)", r"\1"),
    _rule(r"\^\{(\w+)\}", r"^\1"),
    _rule(r"^(.+?)\s+if\s+(.+?)\s+else\s+(.+)$", r"where(\2, \1, \3)", _CHOICE),
    _rule(r"^\s*if\s+([^:]+?)(?:\s+then\s+|\s*:\s*)(.+?)\s+else(?:\s*:)?\s+(.+)$", r"where(\1, \2, \3)", _CHOICE),
    _rule(r"^([^?:]+?)\s*\?\s*([^?:]+?)\s*:\s*([^?:]+)$", r"where(\1, \2, \3)", _CHOICE),
    _rule(r"[\[{]", "("),
    _rule(r"[\]}]", ")"),
    _rule(r"[–—‐‑‒﹣]", "-"),
    _rule(r"[⋅∙•∗]", "*"),
    _rule(r"½", "(1/2)"),
    _rule(r"¼", "(1/4)"),
    _rule(r"(?<=\d)_(?=\d)", ""),
)  # fmt: skip

_LOGIC = (
    "there is no logic in an expression; where(x > 0, a, b) tells cases apart, and (x > 0)*(y > 0) is 1 if both hold"
)

HINTS = {
    "=": 'an expression has no "="; write the difference of both sides',
    "≠": "the comparisons are <, >, <= and >=; where(x - y, a, b) is a where x is not y, else b",
    **dict.fromkeys("&~?∧∨", _LOGIC),
    **dict.fromkeys("[]{}", "every bracket of an expression is a parenthesis, ( or )"),
    **dict.fromkeys('"`“”‘„«»', "quotation marks have no place in an expression"),
    **dict.fromkeys("'’′∂∇", "a derivative is computed, not typed: write the function only"),
    **dict.fromkeys("∫∑∏", "there are no integrals and no sums over an index; write the terms out"),
    **dict.fromkeys("½⅓¼⅔¾", "a fraction is typed as a quotient: 1/2"),
    "#": "an expression has no comments",
    **dict.fromkeys("–—‐‑‒﹣", "a minus is typed as -"),
    **dict.fromkeys("⋅∙•∗", "a product is typed as *"),
    **dict.fromkeys(":∶∕⁄", "a quotient is typed as /"),
    **dict.fromkeys("₀₁₂₃₄₅₆₇₈₉", "an index is typed as a digit of the name: x1"),
    **dict.fromkeys("$€", "a unit has no place in an expression"),
    "%": "for a remainder write mod(x, y), for five percent 0.05",
    "!": "there is no factorial",
    ";": "one expression at a time; arguments are separated by commas",
    "\\": "this is no LaTeX: a function has its argument in parentheses, as in sin(x)",
    "_": "a name begins with a letter; digits of a number stand together: 1000",
    ".": "a point stands within a number only: 0.5",
    "°": "angles are in radians: x degrees are x*pi/180",
    "∞": "infinity is no number; try a large one",
    "⁻": "a negative power is typed as x^-1",
}
"""Sentences about characters that begin no token."""
ELSEWHERE = {
    "cot": "1/tan(…)",
    "ctg": "1/tan(…)",
    "tg": "tan(…)",
    "sec": "1/cos(…)",
    "csc": "1/sin(…)",
    "sigma": "sigmoid(…)",
    "square": "(…)^2",
    "cube": "(…)^3",
    "exp2": "2^(…)",
    "exp10": "10^(…)",
    "reciprocal": "1/(…)",
    "fabs": "abs(…)",
    "power": "pow(…, …)",
    "maximum": "max(…, …)",
    "minimum": "min(…, …)",
    "clip": "max(low, min(x, high))",
    "fmod": "mod(…, …)",
    "log_2": "log2(…)",
    "log_10": "log10(…)",
    "swish": "x*sigmoid(x)",
    "silu": "x*sigmoid(x)",
}
"""Functions that go by other names elsewhere."""

_WORDS = frozenset(
    (
        "abse",
        "cost",
        "exper",
        "exps",
        "logic",
        "logo",
        "logs",
        "maxi",
        "mini",
        "mode",
        "rounds",
        "signs",
        "sine",
        "steps",
    )
)
"""Names that begin with a function's by chance."""
_CHOICES = ("if", "where")
"""Functions of three arguments: a name that begins so, such as `iff` or `diffy`, does not mean them."""
_LETTERS = re.compile(r"[0-9]*(?:[a-zA-Z][0-9]?|theta|alpha|beta|phi|omega)")
"""The probable argument of a function: a number, a letter, or both."""
_KEYWORDS = {
    **dict.fromkeys(
        ("and", "or", "not", "else", "is", "in", "for", "while", "then"),
        _LOGIC,
    ),
    **dict.fromkeys(("return", "def", "import", "print", "var", "let", "const"), "write the formula alone"),
    **dict.fromkeys(("nan", "inf", "infinity", "infty"), "there is no such number in an expression; try a large one"),
    **dict.fromkeys(("true", "false", "none", "null", "undefined"), "an expression is made of numbers"),
}
_KEYWORDS |= {"cot": "write 1/tan(x)", "ctg": "write 1/tan(x)", "csc": "write 1/sin(x)", "cosec": "write 1/sin(x)"}
"""Names that mean something elsewhere, in lower case."""


class Translation(NamedTuple):
    """A text in the notation of this service, proposed instead of one that cannot be read."""

    text: str
    sentence: str
    """The reason, if it differs from the parser's."""


def translation(text: str, functions: Collection[str]) -> Translation | None:
    """Return a text in the notation of this service; None if no part of the text looks like another notation."""
    if len(text) > LONGEST:
        return None
    sentences, found = [], text
    for rule in _RULES:
        for _ in range(MOST_ROUNDS):
            before, found = found, rule.pattern.sub(rule.replacement, found)
            if found == before:
                break
            sentences.append(rule.sentence)
    found = _called(found, functions).strip()
    return None if found == text else Translation(found, next(filter(None, sentences), ""))


def _called(text: str, functions: Collection[str]) -> str:
    """Return the text with functions in lower case, arguments in parentheses, and powers behind these."""
    names = "|".join(sorted(map(re.escape, functions), key=len, reverse=True))
    text = re.sub(rf"(?<!\w)(?i:{names})(?=\s*\()", lambda match: _known(match.group(), functions), text)
    power, inside = r"\^\s*\d+|[²³]", r"\((?:[^()]|\([^()]*\))*\)"
    argument = r"\d*\.?\d*\w+|[αβγδθφω]"
    text = re.sub(rf"(?<![\w])({names})\s*({power})\s*({inside})", r"\1\3\2", text)
    text = re.sub(rf"(?<![\w])({names})\s*({power})\s*({argument})", r"\1(\3)\2", text)
    text = re.sub(rf"(?<![\w])({names})\s+({argument})(?!\s*\()", r"\1(\2)", text)
    text = re.sub(rf"(?<![\w])({names})\s*([α-ωΑ-Ω])(?![\w(])", r"\1(\2)", text)
    return re.sub(r"√\s*(\w+)", r"√(\1)", text)


def _known(name: str, functions: Collection[str]) -> str:
    return name if name in functions or name.lower() not in functions else name.lower()


def slips(text: str, variables: Iterable[str], functions: Collection[str]) -> tuple[str, ...]:
    """Return sentences about names that are probably no variables, such as `sinx`. Only names that the caller has not
    listed as variables are judged."""
    sentences = []
    names = tuple(variables)
    if re.search(r"(?<!\w)d\s*/\s*d\w(?!\w)", text):
        sentences.append(
            "'d/dx' is read as a quotient of variables; a derivative is computed, not typed: write the function"
        )
    for name in names:
        instead = of_a_function(name, functions) or _product(name, set(names) - {name})
        if instead:
            sentences.append(f"{name!r} is read as one variable; did you mean {instead}?")
        elif name.lower() in _KEYWORDS:
            sentences.append(f"{name!r} is read as a variable: {_KEYWORDS[name.lower()]}")
    return tuple(sentences)


def of_a_function(name: str, functions: Collection[str]) -> str:
    """Return `sin(x)` for the name `sinx`; an empty text for a name that is no function with its argument."""
    if name in _WORDS:
        return ""
    for start in (0, 1):  # sinx, xsinx
        for stop in range(len(name) - 1, start + 1, -1):
            function, argument = name[start:stop], name[stop:]
            letter = _LETTERS.fullmatch(argument.removeprefix("_"))
            if (
                function in functions
                and function not in _CHOICES
                and function.isascii()
                and letter
                and (argument.isalpha() or not start)
            ):
                factor = f"{name[:start]}*" if start else ""
                return f"{factor}{function}({argument.removeprefix('_')})"
    return ""


def _product(name: str, others: set[str]) -> str:
    """Return `x*y` for the name `xy`, where x and y are variables too; an empty text for other names."""
    return "*".join(name) if len(name) == 2 and set(name) <= others else ""
