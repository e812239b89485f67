"""Functions that other languages and textbooks have, written in the words of this service.

`rewritten` replaces their calls in a text, for a proposal; `advice` says in a sentence what to write instead.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from service.engine.functions.tokens import FUNCTIONS


class _Call(NamedTuple):
    """A call, such as `atan2(y, x)`, in a text."""

    name: str
    inside: str
    """The text between its parentheses."""
    start: int
    stop: int


def _table(*rows: tuple[str, str]) -> Mapping[str, tuple[str, ...]]:
    """Return the templates of each name; a name in several rows has one for each number of arguments."""
    table: dict[str, tuple[str, ...]] = {}
    for names, template in rows:
        for name in names.split():
            table[name] = (*table.get(name, ()), template)
    return table


CALLS = _table(
    # {a}, {b}, {c} are the arguments; {A}, {B}, {C} are the same, in parentheses where a factor needs them.
    ("cot ctg cotan cotangent", "1/tan({a})"),
    ("sec secant", "1/cos({a})"),
    ("csc cosec cosecant", "1/sin({a})"),
    ("tg tang tangent", "tan({a})"),
    ("sen sinus", "sin({a})"),
    ("cosinus", "cos({a})"),
    ("arcsen", "asin({a})"),
    ("arctg arctangent", "atan({a})"),
    ("acot arccot arcctg", "pi/2 - atan({a})"),
    ("asec arcsec", "acos(1/{A})"),
    ("acsc arccsc", "asin(1/{A})"),
    ("sech", "1/cosh({a})"),
    ("csch cosech", "1/sinh({a})"),
    ("coth", "1/tanh({a})"),
    ("sh", "sinh({a})"),
    ("ch", "cosh({a})"),
    ("th tgh", "tanh({a})"),
    ("arcsinh argsinh argsh arsh", "asinh({a})"),
    ("arccosh argcosh argch arch", "acosh({a})"),
    ("arctanh argtanh argth arth", "atanh({a})"),
    ("sigma expit sig", "sigmoid({a})"),
    ("logit", "log({a}) - log1p(-{A})"),
    ("logsigmoid", "-softplus(-{A})"),
    ("square sqr sq", "{A}^2"),
    ("cube", "{A}^3"),
    ("exp2", "2^{A}"),
    ("exp10", "10^{A}"),
    ("reciprocal inv", "1/{A}"),
    ("negative neg", "-{A}"),
    ("fabs absolute magnitude", "abs({a})"),
    ("signum", "sign({a})"),
    ("int trunc fix truncate", "sign({a})*floor(abs({a}))"),
    ("rint nint", "round({a})"),
    ("ceiling", "ceil({a})"),
    ("frac fract", "mod({a}, 1)"),
    ("power", "pow({a}, {b})"),
    ("fmod rem", "sign({a})*mod(abs({a}), abs({b}))"),
    ("remainder modulo", "mod({a}, {b})"),
    ("root nthroot surd", "{A}^(1/{B})"),
    ("log_2 lb ld", "log2({a})"),
    ("log_10", "log10({a})"),
    ("log_e loge", "log({a})"),
    ("log", "log({a})/log({b})"),
    ("add", "{a} + {b}"),
    ("subtract sub", "{a} - {B}"),
    ("multiply mul times product", "{A}*{B}"),
    ("divide div quotient true_divide", "{A}/{B}"),
    ("logaddexp", "max({a}, {b}) + log1p(exp(-abs({a} - {B})))"),
    ("maximum fmax", "max({a}, {b})"),
    ("minimum fmin", "min({a}, {b})"),
    ("clip clamp", "min(max({a}, {b}), {c})"),
    ("swish silu", "{A}*sigmoid({a})"),
    ("gelu", "{A}*erfc(-{A}/sqrt(2))/2"),
    ("elu", "where({a} > 0, {a}, expm1({a}))"),
    ("selu", "1.0507009873554805*where({a} > 0, {a}, 1.6732632423543772*expm1({a}))"),
    ("leaky_relu leakyrelu", "max({a}, 0.01*{A})"),
    ("relu6", "min(max({a}, 0), 6)"),
    ("mish", "{A}*tanh(softplus({a}))"),
    ("softsign", "{A}/(1 + abs({a}))"),
    ("hardtanh hard_tanh", "max(-1, min({a}, 1))"),
    ("hardsigmoid hard_sigmoid", "max(0, min({A}/6 + 1/2, 1))"),
    ("sinc", "sin({a})/{A}"),
    ("unitstep heavisidetheta", "step({a})"),
    ("norm", "abs({a})"),
    ("norm", "hypot({a}, {b})"),
    ("ifelse iif cond", "where({a}, {b}, {c})"),
    ("float double number integer real sympify re", "{a}"),
    ("rational fraction frac", "{A}/{B}"),
)
"""Calls of other notations, by name without the case, as templates over their arguments."""
FOLDS: Mapping[str, str] = {
    "max": "max({a}, {b})",
    "min": "min({a}, {b})",
    "maximum": "max({a}, {b})",
    "minimum": "min({a}, {b})",
    "sum": "{a} + {b}",
    "plus": "{a} + {b}",
    "prod": "{A}*{B}",
    "hypot": "hypot({a}, {b})",
    "norm": "hypot({a}, {b})",
}
"""Functions of any number of arguments, as templates over two of them."""
_DERIVATIVES = ("diff", "derivative", "deriv", "grad", "gradient", "jacobian", "hessian")
COMPUTED = "a derivative is computed, not typed"
DERIVED = f"{COMPUTED}: write the function only"
"""The advice for an expression that asks for a derivative."""
_SUMS = "a variable is one number; write the terms out, as in x1^2 + x2^2"
_COMMANDS = "an expression is a formula, and runs no commands"
ADVICE: Mapping[str, str] = {
    **dict.fromkeys(_DERIVATIVES, DERIVED),
    **dict.fromkeys(
        ("sum", "prod", "mean", "average", "avg", "std", "var", "dot", "inner", "matmul", "softmax", "argmax",
         "log_softmax", "transpose", "det", "cumsum", "reduce_sum", "reduce_mean"),
        _SUMS,
    ),
    **dict.fromkeys(
        ("gamma", "factorial", "lgamma", "gammaln", "binom", "binomial", "comb"),
        "there is no gamma function and no factorial",
    ),
    **dict.fromkeys(("integrate", "integral", "quad"), "there are no integrals; write the function only"),
    **dict.fromkeys(
        ("random", "rand", "randn"),
        "an expression depends on its variables alone; there are no random numbers",
    ),
    **dict.fromkeys(
        ("print", "eval", "exec", "input", "open", "range", "import", "solve", "dsolve", "plot", "simplify", "symbols",
         "symbol", "expand", "linspace", "arange", "array", "len", "list", "zip", "map"),
        _COMMANDS,
    ),
    "erfinv": "there is no inverse of erf",
    **dict.fromkeys(("dirac", "diracdelta"), "the delta is no function with values"),
    **dict.fromkeys(("complex", "im", "conj"), "there are no complex numbers"),
}  # fmt: skip
"""Sentences about functions that have no equivalent, by name without the case."""
_NAME = re.compile(r"(?<![A-Za-z_.])([A-Za-z]\w*|σ)\s*\(")
_PLAIN = re.compile(r"\w+|\d+\.\d*")
_FACTOR = re.compile(r"[^\W\d]\w*|\d+\.?\d*|\.\d+")
"""A name or a number: 2x is a product, so that its square is (2x)^2."""
_PLACE = re.compile(r"\{([a-c])\}", re.IGNORECASE)
_LETTERS = "abc"
LONGEST = 500
"""Characters of a proposal. Nested calls of `int` would double it at each level."""


def advice(name: str) -> str:
    """Return what to write instead of a call of an unknown name: a sentence, or `write 1/tan(…) for cot(…)`."""
    folded = name.lower()
    if folded in ADVICE:
        return ADVICE[folded]
    for template in CALLS.get(folded, ()):
        count = _count(template)
        shown = ("…",) if count == 1 else ("x", "y", "z")[:count]
        call = f"{name}({', '.join(shown) if count else '…'})"
        return f"write {_filled(template, shown)} for {call}"
    return ""


def instead(name: str, argument: str) -> str:
    """Return the expression for a call of another notation with one argument; an empty text for an unknown name."""
    templates = [each for each in CALLS.get(name, ()) if _count(each) == 1 and name not in ADVICE]
    return _filled(templates[0], (argument,)) if templates else ""


def rewritten(text: str, functions: Collection[str]) -> str:
    """Return the text with calls of other notations replaced; `functions` are the functions of this service."""
    found: list[str] = []
    place = 0
    for call in _calls(text):
        if sum(map(len, found)) > LONGEST:
            break
        inside = rewritten(call.inside, functions)
        arguments = _listed(_split(inside))
        plain = _replacement(call.name, arguments, functions)
        found.append(text[place : call.start])
        if plain is None:
            found.append(f"{call.name}({', '.join(arguments) if len(arguments) > 1 else inside})")
        else:
            found.append(plain if _alone(text, call, plain) or _is_call(plain) else f"({plain})")
        place = call.stop
    return "".join(found) + text[place:]


def _replacement(name: str, arguments: tuple[str, ...], functions: Collection[str]) -> str | None:
    """Return the expression for a call; None if the call is as it should be, or not known."""
    folded = "sigma" if name == "σ" else name.lower()
    if folded == "piecewise":
        return _piecewise(arguments)
    if any("=" in each.replace("==", "").replace("<=", "").replace(">=", "") for each in arguments):
        return None  # an option by name, whose meaning is not known
    if folded in FOLDS and (len(arguments) > 2 or (len(arguments) == 2 and folded not in functions)):
        whole = arguments[0]
        for each in arguments[1:]:
            whole = _filled(FOLDS[folded], (whole, each))
        return whole
    variables = len(arguments) > 1 and all(map(_PLAIN.fullmatch, arguments[1:]))
    if (folded in _DERIVATIVES and (variables or len(arguments) == 1)) or (name == "D" and variables):
        return arguments[0]
    fitting = [each for each in CALLS.get(folded, ()) if _count(each) == len(arguments)]
    return _filled(fitting[0], arguments) if fitting else None


def _piecewise(arguments: tuple[str, ...]) -> str | None:
    """Return nested choices for the pairs (value, condition) of SymPy's Piecewise."""
    pairs = []
    for each in arguments:
        pair = _split(each.strip()[1:-1]) if each.strip()[:1] == "(" else ()
        if len(pair) != 2:
            return None
        pairs.append(pair)
    whole = pairs[-1][0] if pairs else None
    for value, condition in reversed(pairs[:-1]):
        whole = f"where({condition}, {value}, {whole})"
    return whole


def _count(template: str) -> int:
    """Return the number of arguments in a template."""
    return len({name.lower() for _, name, _, _ in string.Formatter().parse(template) if name})


def _filled(template: str, arguments: tuple[str, ...]) -> str:
    """Return a template with its arguments; an empty text if one of them is too long for a proposal."""
    places = dict(zip(_LETTERS, (each.strip() for each in arguments), strict=False))
    if any(len(each) > LONGEST for each in arguments):
        return ""

    def placed(match: re.Match[str]) -> str:
        found = places[match[1].lower()]
        if match[1].isupper():
            return found if _is_factor(found) else f"({found})"
        return f"({found})" if _is_compared(found) and not _is_argument(template, *match.span()) else found

    return _PLACE.sub(placed, template)


def _is_factor(text: str) -> bool:
    """Return whether a text needs no parentheses as a factor."""
    return bool(_FACTOR.fullmatch(text)) or _is_call(text)


def _is_call(text: str) -> bool:
    """Return whether a text is a single call of a function, or one pair of parentheses; x(y + 1) is a product."""
    opening = text.find("(")
    called = re.match(r"(?:([^\W\d]\w*|√))?\(", text)
    return bool(called and called[1] in (None, *FUNCTIONS)) and closing(text, opening) == len(text)


def _is_compared(text: str) -> bool:
    """Return whether a text has a comparison outside of parentheses, which binds least."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in "<>≤≥":
            return True
    return False


def _is_argument(text: str, start: int, stop: int) -> bool:
    """Return whether a part of a text is the whole text, or a whole argument."""
    return text[:start].rstrip()[-1:] in ("", "(", ",") and text[stop:].lstrip()[:1] in ("", ")", ",")


def _alone(text: str, call: _Call, plain: str) -> bool:
    """Return whether the expression for a call needs no parentheses in its place: as a whole text, argument or term."""
    if _is_compared(plain):
        return _is_argument(text, call.start, call.stop)
    before, after = text[: call.start].rstrip(), text[call.stop :].lstrip()[:1]
    signed = before[-1:] == "+" and before[:-1].rstrip()[-1:] in tuple("*/^+-")  # 2^+x
    return before[-1:] in ("", "(", ",", "+") and not signed and after in ("", ")", ",", "+", "-")


def _calls(text: str) -> Iterator[_Call]:
    """Yield the outermost calls in a text whose parentheses close."""
    place = 0
    while match := _NAME.search(text, place):
        stop = closing(text, match.end() - 1)
        if stop is None:
            return
        yield _Call(match.group(1), text[match.end() : stop - 1], match.start(), stop)
        place = stop


def closing(text: str, opening: int) -> int | None:
    """Return the place behind the bracket that closes the one at `opening`; None if none does."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0:
            return place + 1
    return None


def _split(text: str) -> tuple[str, ...]:
    """Return the parts of a text between commas or semicolons outside of brackets; none of a blank text."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character in ",;" and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    parts.append(text[start:].strip())
    return tuple(parts) if any(parts) else ()


def _listed(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Return the items of a list that is the only argument, else the arguments."""
    if len(arguments) == 1 and arguments[0][:1] in ("[", "(") and closing(arguments[0], 0) == len(arguments[0]):
        return _split(arguments[0][1:-1])
    return arguments
