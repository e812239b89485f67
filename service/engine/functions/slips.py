"""Expressions in the notation of Python, JavaScript, LaTeX, a calculator or paper.

`translations` propose texts in place of one that cannot be read. `slips` warns of readable names that probably mean
something else, such as `sinx`. Neither changes the meaning of an expression.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from service.engine.functions.foreign_calls import COMPUTED, DERIVED, advice, closing, instead, rewritten
from service.engine.functions.latex_slips import NotAFormula, looks_like_latex, without_latex
from service.engine.functions.tokens import FUNCTIONS, SUPERSCRIPTS

Replacement = str | Callable[[re.Match[str]], str]


class _Rule(NamedTuple):
    """A habit of another notation, such as `sin x`, and the notation of this service for it."""

    pattern: re.Pattern[str]
    replacement: Replacement
    sentence: str = ""
    """The sentence about the habit, in place of the parser's; empty where the parser's is good."""


def _rule(pattern: str, replacement: Replacement, sentence: str = "") -> _Rule:
    return _Rule(re.compile(pattern), replacement, sentence)


def _choices(text: str) -> str:
    """Return `a if condition else b` and `condition ? a : b` as a call of where; b may be a choice itself."""
    if match := re.fullmatch(r"(.+?)\s+if\s+(.+?)\s+else\s+(.+)", text):
        return f"where({match[2]}, {match[1]}, {_choices(match[3])})"
    if match := re.fullmatch(r"\s*([^?:]+?)\s*\?\s*([^?:]+?)\s*:\s*(.+)", text):
        return f"where({match[1]}, {match[2]}, {_choices(match[3])})"
    return text


LONGEST = 200
"""Characters of a text that is translated; longer ones were hardly typed by hand."""
MOST_ROUNDS = 8
"""Signs of one kind that are replaced one after the other."""
_MODULES = (
    "np|numpy|jnp|jax|math|cmath|Math|torch|tf|keras|K|F|nn|functional|sp|scipy|special|sympy|mp|mpmath|xp|cp|linalg|"
    "activations"
)
_PREFIX = rf"(?<![\w.])(?:(?:{_MODULES})\.)+(?=[A-Za-z])"
_RIGHT_SIDE = "a function has no name and no head here"
_CHOICE = "a choice is a function here"
_COMPARED = "the comparisons are <, >, <= and >="
_LOGIC = (
    "there is no logic in an expression; where(x > 0, a, b) tells cases apart, and (x > 0)*(y > 0) is 1 if both hold"
)
_NO_LATEX = "an expression is no LaTeX"
_AND, _OR = re.compile(r"&|\band\b|∧"), re.compile(r"\|\||\bor\b|∨")
_SIDE = r"(\([^()]*\)|[^\s(),;&|∧∨]+(?:\s[^\s(),;&|∧∨]+)*?)"
"""A side of a logical operator: parentheses, or all up to the next one."""
_DIVIDEND = r"(^\s*|[(,+]\s*)((?:\w*\([^()]*\)|\w+(?:\.\d+)?)(?:\s*(?:\^|\*\*)\s*\w+)?)"
_DIVISOR = r"(\w*\([^()]*\)|\w+(?:\.\d+)?)(?!\s*(?:\^|\*\*)|[\w.(])"
"""The sides of // and %, which bind as * does: nothing that binds so stands before or behind them."""
_TERM = r"([^<>=≤≥(),]+?)"
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹ⁿˣʸⁱᵏᵐᵃᵇ", "0123456789nxyikmab")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_RULES = (
    _rule(r"^\s*([\"'“”‘’„`«])(.*)[\"'“”‘’„`»]\s*$", r"\2"),
    _rule(r"\s*#.*$|\s//\s+(?:[a-z]{4,}\b|[A-Za-z]+\s+[A-Za-z]+).*$", "", "an expression has no comments"),
    _rule(r"\s*;\s*(?=\}?\s*$)", ""),
    _rule(r"^\s*(?:const|let|var|final|auto|static|public|inline)\s+", "", _RIGHT_SIDE),
    _rule(r"^\s*\w+\s*<-\s*(?=function|\\\()", "", _RIGHT_SIDE),
    _rule(r"^\s*def\s+\w+\s*\([^()]*\)\s*(?:->\s*\w+\s*)?:\s*", "", _RIGHT_SIDE),
    _rule(r"^\s*(?:(?:function|func|fun|fn)\b|(?:double|float|real|int)\s+\w)\s*\w*\s*\([^()]*\)\s*"
          r"(?:->\s*\w+\s*)?(?=[={\w(])", "", _RIGHT_SIDE),
    _rule(r"^\s*(?:double|float|real)\s+(?=\w+\s*=)", "", _RIGHT_SIDE),
    _rule(r"^\s*=(?![=<>])\s*", "", _RIGHT_SIDE),
    _rule(r"^\s*(\w+)\s*=>\s*(-?[\d.]+)\s*$", r"\1 >= \2", _COMPARED),
    _rule(r"=<", "<=", _COMPARED),
    _rule(r"^\s*\w+\[[\w\s,]*_\s*\]\s*:?=\s*", "", _RIGHT_SIDE),
    _rule(r"^\s*(?:\w+\([^()]*\)|[dD]\w+/[dD]\w+)\s*:?=(?!=)\s*", "", _RIGHT_SIDE),
    _rule(r"^\s*\w+['’′]+(?:\([^()]*\))?\s*=(?!=)\s*", "", COMPUTED),
    _rule(r"^\s*[d∂]\s*\(([^()]*)\)\s*/\s*[d∂]\s*\w\s*$", r"\1", COMPUTED),
    _rule(r"^\s*\w+\s*:?=(?![=>])\s*(?=.*[A-Za-z])", ""),
    _rule(r"^\s*(?:lambda|λ)\s*[\w\s,]*[:.]\s*", "", "an expression needs no lambda"),
    _rule(r"^\s*(?:@|\\)\s*\([\w\s,]*\)\s*", "", _RIGHT_SIDE),
    _rule(r"^\s*@\.\s*", "", "operators stand alone: x^2"),
    _rule(r"^\s*\\?(?:\w+\s*:\s*)?\(?[\w\s,]+\)?\s*(?:[-=]>|→|↦)\s*", "", _RIGHT_SIDE),
    _rule(r"^\s*\{?\s*return\s+(.*?)\s*;?\s*\}?\s*$", r"\1", _RIGHT_SIDE),
    _rule(r"\.(?=[*/^])", "", "operators stand without a point"),
    _rule(r"\b([A-Z]\w*)\(\)\s*(?=\()", r"\1"),
    _rule(rf"\b(?:{_MODULES})\.(?:PI|Pi)\b", "pi", "constants are written without the name of a module"),
    _rule(r"\bMath\.E\b", "e", "constants are written without the name of a module"),
    _rule(_PREFIX, "",
          "functions are written without the name of a module"),
    _rule(r"\b([A-Za-z]\w*)\.([A-Za-z]\w*)\(\s*\)", r"\2(\1)", "a function is no method"),
    _rule(r"\b([A-Za-z]\w*)\.([A-Za-z]\w*)\(\s*([^()]+?)\s*\)", r"\2(\1, \3)", "a function is no method"),
    _rule(r"^\s*[d∂]\s*\w?\s*/\s*[d∂]\s*\w\s*(?=[(\w\[])", "", COMPUTED),
    _rule(r"\bLog\[\s*(\w+)\s*,\s*([^\[\],]+)\]", r"(log(\2)/log(\1))"),
    _rule(r"\b([A-Za-z])\[(\d+)\]", r"\1\2"),
    _rule(r"^.+\sif\s.+\selse\s.+$|^[^?]+\?[^:]+:.+$", lambda match: _choices(match.group()), _CHOICE),
    _rule(r"^\s*if\s+([^:]+?)(?:\s+then\s+|\s*:\s*)(.+?)\s+else(?:\s*:)?\s+(.+)$", r"where(\1, \2, \3)", _CHOICE),
    _rule(r"^\s*if\s*\(([^()]+)\)\s*(?:return\s+)?([^;]+?)\s*;?\s+else\s+(?:return\s+)?(.+)$", r"where(\1, \2, \3)",
          _CHOICE),
    _rule(rf"{_SIDE}\s*(?:&&?|\band\b|∧)\s*{_SIDE}(?=$|[),;&|∧∨])", r"(\1)*(\2)", _LOGIC),
    _rule(rf"{_SIDE}\s*(?:\|\||\bor\b|∨)\s*{_SIDE}(?=$|[),;∧∨])", r"max(\1, \2)", _LOGIC),
    _rule(rf"^\s*{_TERM}\s*(<=?|≤)\s*{_TERM}\s*(<=?|≤)\s*{_TERM}\s*$", r"(\1 \2 \3)*(\3 \4 \5)"),
    _rule(rf"^\s*{_TERM}\s*(>=?|≥)\s*{_TERM}\s*(>=?|≥)\s*{_TERM}\s*$", r"(\1 \2 \3)*(\3 \4 \5)"),
    _rule(r"\b(sin|cos|tan|sinh|cosh|tanh)\s*(?:\^\s*(?:\(\s*-\s*1\s*\)|-\s*1)|⁻¹)(?=[\s(\w])", r"a\1"),
    _rule(r"(?<=\S)\s*(?:,|\b(?:for|where|when|if)\b)\s*\w+\s*(?:[<>≤≥∈]|\bin\b)[^()]*$", "",
          "the points or the box of a request say where the function is looked at"),
    _rule(r"³√\s*(\w+|\([^()]*\))", r"cbrt(\1)"),
    _rule(r"‖", "|"),
    _rule(r"\^{2,}", "^"),
    _rule(r"∛\s*(\w+|\([^()]*\))", r"cbrt(\1)"),
    _rule(r"∜\s*(\w+|\([^()]*\))", r"((\1)^(1/4))"),
    _rule(r"\bexp\s*\^\s*(?=[\w({\-−])", "e^"),
    _rule(rf"{_DIVIDEND}\s*//\s*{_DIVISOR}", r"\1floor(\2/\3)"),
    _rule(r"(?<![\w.])(\d+(?:\.\d+)?)\s?%\s*of\s+", r"(\1/100) "),
    _rule(r"(?<![\w.])(\d+(?:\.\d+)?)%(?=\s*$|\s*[*+)]|\s+[A-Za-z(])\s*", r"(\1/100) "),
    _rule(rf"{_DIVIDEND}\s*(?:%|\bmod\b)\s*{_DIVISOR}", r"\1mod(\2, \3)"),
    _rule(r"^\s*\{\s*([^{}]*?)\s*\}\s*$", r"\1"),
    _rule(r"[\[{]", "("),
    _rule(r"[\]}]", ")"),
    _rule(r"[–—‐‑‒﹣]", "-"),
    _rule(r"[⋅∙•∗]", "*"),
    _rule(r"(?<![\w.])(\d+)\s?([½¼¾⅓⅔])", r"(\1 + \2)"),
    _rule(r"½", "(1/2)"),
    _rule(r"¼", "(1/4)"),
    _rule(r"¾", "(3/4)"),
    _rule(r"⅓", "(1/3)"),
    _rule(r"⅔", "(2/3)"),
    _rule(r"(?<=\d)_(?=\d)", ""),
)  # fmt: skip
_OF_A_NAME = "[A-Za-zα-ωΑ-Ω_.]"
_SUPERSCRIPT = re.compile(r"[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹ⁿˣʸⁱᵏᵐᵃᵇ]+")
_SUBSCRIPT = re.compile(r"(?<=[A-Za-zα-ωΑ-Ω])[₀₁₂₃₄₅₆₇₈₉]+")
_FACTOR = re.compile(r"(?<![A-Za-z_.])([a-ei-zA-EI-Z](?:_?\d)?|[α-ωΑ-Ω]) ?\(")
"""A variable before a parenthesis; f, g and h rather stand for functions."""
_EQUATION = re.compile(r"^\s*([^=<>!:]+?)\s*=\s*([^=<>!]+?)\s*$")

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

_MATHEMATICA = re.compile(r"(?<![\\\w])[A-Z][A-Za-z]+\[")
"""The head of a call in Mathematica, whose letters LaTeX would read as variables."""
_OF_A_MODULE = re.compile(rf"(?<![\w.])(?:(?:{_MODULES})\.)+([A-Za-z]\w*)\s*\(")
_NO_TEXT = ((re.compile(r"^\s*lim\b"), "there are no limits; send the function and a point close to it"),)
"""Habits whose rest would be read as something else."""
_REFUSALS = (
    (re.compile(r"^\s*\[|(?<!\w)\[\s*\["), "an expression has one number as its value, and no lists"),
    (re.compile(r"(?<![\w)])!(?!=)"), _LOGIC),
    (re.compile(r"<>|~="), HINTS["≠"]),
    (
        re.compile(r"^[^()]*,(?!\d)|^\s*\([^()]*,[^()]*\)\s*$"),
        "an expression has one number as its value; send each function on its own",
    ),
    (re.compile(r"^\s*(?:import|from|for|while|class|if|with)\s"), "an expression is one formula, and no program"),
    (re.compile(r"@|\.T\b|ᵀ"), "a variable is one number; write the terms of a product out, as in w1*x1 + w2*x2"),
)
"""Habits that have no equivalent, each with a sentence about it."""

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
_SEVERAL = frozenset(name for name, word in FUNCTIONS.items() if word.arguments > 1)
"""Functions of several arguments: a name that begins so, such as `iff` or `maxx`, does not mean them."""
_ABROAD = re.compile(r"(cot|sec|csc|sech|csch|coth|tg|ctg|arctg|arccot)_?([0-9]*[xyz]|theta)")
"""Functions that are written otherwise here, with a probable argument."""
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
    "squared": "write x^2",
    "cubed": "write x^3",
    "plus": "write +",
    "minus": "write -",
    "times": "write *",
    **dict.fromkeys(("divided", "over"), "write /"),
    **dict.fromkeys(("minimize", "maximize", "argmin", "argmax"), "write the function only"),
    **dict.fromkeys(("of", "the"), "an expression is a formula, and no sentence"),
    "integral": "there are no integrals",
    "derivative": DERIVED,
    **{name: f"write {instead(name, 'x')}" for name in ("cot", "ctg", "csc", "cosec")},
}
"""Names that mean something elsewhere, in lower case, with the advice for each."""
_CONSTANTS = {"Pi": "pi", "PI": "pi", "E": "e"}
"""Names of constants in other languages."""
_BASED = re.compile(r"(?<![\w.])0(?:[xX][0-9a-fA-F]+|[bB][01]+|[oO][0-7]+)(?!\w)")
"""Hexadecimal, binary and octal numbers."""
_IMAGINARY = re.compile(r"(?<![\w.])1[ij](?!\w)|\b(?:e\s*(?:\^|\*\*)|exp)\s*\(\s*-?\s*[ijI]\s*\*|sqrt\(\s*-\s*1\s*\)")
"""The imaginary unit: 1j, e^(i*…)."""
_OF_PRODUCTS = frozenset(("sin", "cos", "tan", "exp", "log", "ln", "sqrt", "tanh", "sinh", "cosh"))
"""Functions with which a name of one or two more letters is hardly meant as a name."""
_TWO_LETTERS = re.compile(r"[knwa][xt]|[xyzt]{2}")
"""The arguments of `sinwt` and `sinxy`, which are products."""


class Translation(NamedTuple):
    """A text in the notation of this service, proposed instead of one that cannot be read."""

    text: str
    """Empty if there is only a sentence."""
    sentence: str
    """The reason, if it differs from the parser's."""


def translations(text: str, functions: Collection[str]) -> Iterator[Translation]:
    """Yield texts in the notation of this service, the most probable first, and at last a sentence about a habit that
    has no equivalent. Nothing is yielded if no part of the text looks like another notation."""
    if len(text) > LONGEST or not text.strip():
        return
    for pattern, refusal in _NO_TEXT:
        if pattern.search(text):
            yield Translation("", refusal)
    sentence, found = "", " ".join(text.split())
    typed = found
    if looks_like_latex(text) and not _MATHEMATICA.search(text):
        try:  # in LaTeX every letter of a module would be a variable
            found, sentence = without_latex(re.sub(_PREFIX, "", found), functions)
            sentence = sentence or (_NO_LATEX if text.lstrip()[0] != "\\" else "")
        except NotAFormula as error:
            found, sentence = typed, str(error)
            if sentence:
                yield Translation("", sentence)
    sentences = [sentence]
    mixed = _AND.search(found) and _OR.search(found)
    for rule in _RULES:
        if mixed and rule.sentence == _LOGIC:
            continue  # which of them binds first, the rules do not see
        for _ in range(MOST_ROUNDS):
            before, found = found, rule.pattern.sub(rule.replacement, found)
            if found == before:
                break
            sentences.append(rule.sentence)
    found = _SUPERSCRIPT.sub(_raised, found)
    found = _SUBSCRIPT.sub(lambda match: match.group().translate(_LOWERED), found)
    found = rewritten(_called(found, functions), functions).strip()
    if found != typed:
        yield Translation(found, next(filter(None, sentences), ""))
    if sides := _EQUATION.match(found):
        left, right = sides.groups()
        yield Translation(left if right == "0" else f"{left} - ({right})", "")
    product = _FACTOR.sub(lambda match: match.group() if match.group(1) in functions else f"{match.group(1)}*(", found)
    if product != found:
        yield Translation(product, "")
    yield from _balanced(found)
    module = _OF_A_MODULE.search(text)
    if module:
        name = module.group(1)
        other = advice(name) or ("" if name in functions else f"GET /v1/functions/vocabulary lists all, {name} is none")
        yield Translation("", "; ".join(filter(None, ("functions are written without the name of a module", other))))
    for pattern, refusal in _REFUSALS:
        if pattern.search(text):
            yield Translation("", refusal)


def _balanced(text: str) -> Iterator[Translation]:
    """Yield the text with the parenthesis that its last call lacks, or without the last one that is too many."""
    open_ones = text.count("(") - text.count(")")
    if open_ones == 1 and text.count("(") == 1 and re.search(r"\w\(", text):
        yield Translation(text + ")", "")
    elif open_ones == -1 and text.endswith(")"):
        yield Translation(text[:-1], "")


def _raised(match: re.Match[str]) -> str:
    """Return superscripts that are no plain number as a power: ⁻¹ is ^-1."""
    found = match.group()
    if found.translate(SUPERSCRIPTS).isdecimal():
        return found
    sign = "-" if found[0] == "⁻" else ""
    raised = found.lstrip("⁻⁺").translate(_RAISED)
    return f"^{sign}{raised}" if raised.isdecimal() or len(raised) == 1 else f"^({sign}{raised})"


def _called(text: str, functions: Collection[str]) -> str:
    """Return the text with functions in lower case, arguments in parentheses, and powers behind these."""
    names = "|".join(sorted(map(re.escape, functions), key=len, reverse=True))
    text = re.sub(rf"(?<!{_OF_A_NAME})(?i:{names})(?=\s*\()", lambda match: _known(match.group(), functions), text)
    power, inside = r"\^\s*\d+|[²³]", r"\((?:[^()]|\([^()]*\))*\)"
    call = rf"(?:{names}){inside}(?:\s*(?:{power}))?"  # sin cos(x)^2 is sin(cos(x)^2), as sin x^2 is sin(x^2)
    argument = rf"-?\s*(?!(?:{names})(?!\w))(?:\d*\.?\d*\w+|[αβγδθφω])(?:\s*(?:{power}))?"
    text = _powers_behind(text, re.compile(rf"(?<!{_OF_A_NAME})({names})\s*({power})\s*\("))
    text = re.sub(rf"(?<!{_OF_A_NAME})({names})\s*({power})\s*({argument})", r"\1(\3)\2", text)
    text = re.sub(rf"(?<!{_OF_A_NAME})({names})(?:\s+|(?=-))({argument})(?!\s*\()", r"\1(\2)", text)
    for _ in range(MOST_ROUNDS):
        text = re.sub(rf"(?<!{_OF_A_NAME})({names})\s+({call})(?!\s*(?:\^|\*\*))", r"\1(\2)", text)
    text = re.sub(rf"(?<!{_OF_A_NAME})({names})\s*([α-ωΑ-Ω])(?![\w(])", r"\1(\2)", text)
    text = re.sub(rf"(?<!{_OF_A_NAME})({names})\s*(\|[^|]+\|)", r"\1(\2)", text)
    return re.sub(r"√\s*(\w+)", r"√(\1)", text)


def _powers_behind(text: str, pattern: re.Pattern[str]) -> str:
    """Return the text with sin^2(…) as sin(…)^2; the groups of the pattern are the function and the power."""
    place = 0
    while match := pattern.search(text, place):
        stop = closing(text, match.end() - 1)
        place = match.end()
        if stop is not None:
            called = f"{match[1]}{text[match.end() - 1 : stop]}{match[2]}"
            text = text[: match.start()] + called + text[stop:]
            place = match.start() + len(match[1]) + 1
    return text


def _known(name: str, functions: Collection[str]) -> str:
    return name if name in functions or name.lower() not in functions else name.lower()


def slips(text: str, variables: Iterable[str], functions: Collection[str]) -> tuple[str, ...]:
    """Return sentences about names that are probably no variables, such as `sinx`. Only names that the caller has not
    listed as variables are judged."""
    sentences = []
    names = tuple(variables)
    if quotient := re.search(r"(?<!\w)d\w?\s*/\s*d\w(?!\w)", text):
        name = quotient.group() if quotient.group()[1].isalpha() else "d/dx"
        sentences.append(f"'{name}' is read as a quotient of variables; {DERIVED}")
    if number := _BASED.search(text):
        sentences.append(
            f"'{number.group()}' is read as the product of 0 and a variable: numbers are written with decimal digits"
        )
    for name in names:
        meant = _CONSTANTS.get(name) or of_a_function(name, functions) or _product(name, set(names) - {name})
        if name == "E" and not re.search(r"(?<![\w.])E\s*(?:\^|\*\*)", text):
            meant = ""
        if meant:
            sentences.append(f"{name!r} is read as one variable; did you mean {meant}?")
        elif name.lower() in _KEYWORDS:
            sentences.append(f"{name!r} is read as a variable: {_KEYWORDS[name.lower()]}")
        elif name in ("i", "j", "I") and _IMAGINARY.search(text):
            sentences.append(f"{name!r} is read as a variable: there are no complex numbers")
        elif "_" in name and name.replace("_", "") in names:
            sentences.append(f"{name!r} and {name.replace('_', '')!r} are read as two variables")
    return tuple(sentences)


def joined(variables: Sequence[str], count: int) -> str:
    """Return a sentence about a variable such as `xy`, whose letters would make `count` variables; "" if none would."""
    for name in variables:
        if name.isalpha() and len(name) > 1 and len({*variables, *name} - {name}) == count:
            return f"{name!r} is read as one variable; a product is written {'*'.join(name)}"
    return ""


def of_a_function(name: str, functions: Collection[str]) -> str:
    """Return `sin(x)` for the name `sinx`; an empty text for a name that is no function with its argument."""
    if name in _WORDS:
        return ""
    for start in (0, 1):  # sinx, xsinx
        for stop in range(len(name) - 1, start + 1, -1):
            function, argument = name[start:stop], name[stop:].removeprefix("_")
            known = function in functions and function not in _SEVERAL and function.isascii()
            letter = _LETTERS.fullmatch(argument) and (argument.isalpha() or not start)
            factor = f"{name[:start]}*" if start else ""
            if known and letter:
                return f"{factor}{function}({argument})"
            if known and function in _OF_PRODUCTS and _TWO_LETTERS.fullmatch(argument):
                return f"{factor}{function}({'*'.join(argument)})"
    abroad = _ABROAD.fullmatch(name)
    if abroad:  # cotx
        return instead(*abroad.groups())
    if name[0] in "xyzt" and name[1:] in _OF_PRODUCTS and name not in functions:  # xsin
        return f"{name[0]}*{name[1:]}(…)"
    return ""


def _product(name: str, others: set[str]) -> str:
    """Return `x*y` for the name `xy`, where x and y are variables too; an empty text for other names."""
    if len(name) == 2:
        return "*".join(name) if set(name) <= others else ""
    ends = [stop for stop in range(1, len(name)) if name[:stop] in others and name[stop:] in others]
    return f"{name[: ends[0]]}*{name[ends[0] :]}" if ends else ""
