"""Expressions in other notations: what is proposed instead has the value that was meant."""

import math

import mpmath
import pytest

from service.engine.errors import InvalidRequest
from service.engine.functions.expression import parse
from service.engine.functions.foreign_calls import ADVICE, CALLS, FOLDS, LONGEST, advice, rewritten
from service.engine.functions.formulas import formulas_of
from service.engine.functions.presets import presets
from service.engine.functions.slips import translations
from service.engine.functions.tokens import FUNCTIONS
from tests.engine.functions.test_expression import value
from tests.support import every

MEANT = {
    "cot": mpmath.cot, "sec": mpmath.sec, "csc": mpmath.csc, "tg": math.tan, "sen": math.sin, "cosinus": math.cos,
    "arcsen": math.asin, "arctg": math.atan, "acot": lambda x: math.atan(1 / x), "sech": mpmath.sech,
    "csch": mpmath.csch, "coth": mpmath.coth, "sh": math.sinh, "ch": math.cosh, "th": math.tanh,
    "arcsinh": math.asinh, "arctanh": math.atanh, "sigma": lambda x: 1 / (1 + math.exp(-x)),
    "logit": lambda x: math.log(x / (1 - x)), "logsigmoid": lambda x: -math.log(1 + math.exp(-x)),
    "square": lambda x: x * x, "cube": lambda x: x**3, "exp2": lambda x: 2**x, "exp10": lambda x: 10**x,
    "reciprocal": lambda x: 1 / x, "negative": lambda x: -x, "fabs": abs, "signum": lambda x: math.copysign(1, x),
    "int": math.trunc, "rint": round, "ceiling": math.ceil, "frac": lambda x: x - math.floor(x), "log_2": math.log2,
    "log_10": math.log10, "log_e": math.log, "swish": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * mpmath.ncdf(x), "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x, "relu6": lambda x: min(max(x, 0), 6),
    "mish": lambda x: x * math.tanh(math.log(1 + math.exp(x))), "softsign": lambda x: x / (1 + abs(x)),
    "hardtanh": lambda x: max(-1, min(x, 1)), "hardsigmoid": lambda x: max(0, min(x / 6 + 0.5, 1)),
    "sinc": lambda x: math.sin(x) / x, "unitstep": lambda x: float(x >= 0), "norm": abs, "float": float,
}  # fmt: skip
"""The meanings of functions of one argument; those with arguments beyond (-1, 1) only are below."""
MEANT_BEYOND = {"asec": mpmath.asec, "acsc": mpmath.acsc, "arccosh": math.acosh}
MEANT_OF_SEVERAL = {
    "power(x, 3)": lambda x, y: x**3, "fmod(-x, y)": lambda x, y: math.fmod(-x, y),
    "modulo(-x, y)": lambda x, y: -x % y, "root(x, 3)": lambda x, y: x ** (1 / 3),
    "log(x, 2)": lambda x, y: math.log2(x), "add(x, y)": lambda x, y: x + y,
    "subtract(x, y + 1)": lambda x, y: x - y - 1,
    "multiply(x + 1, y)": lambda x, y: (x + 1) * y, "divide(x, y + 1)": lambda x, y: x / (y + 1),
    "logaddexp(x, y)": lambda x, y: math.log(math.exp(x) + math.exp(y)), "maximum(x, y)": max, "minimum(x, y)": min,
    "clip(x, y, 3)": lambda x, y: min(max(x, y), 3), "ifelse(x > y, 1, 2)": lambda x, y: 1 if x > y else 2,
    "Rational(1, 3)*x": lambda x, y: x / 3, "norm(x, y)": math.hypot,
}  # fmt: skip


def proposal(text: str) -> str:
    """Return the text that the refusal of an expression proposes."""
    with pytest.raises(InvalidRequest):
        parse(text)
    for found in translations(text, FUNCTIONS):
        try:
            parse(found.text)
        except InvalidRequest:
            continue
        return found.text
    raise AssertionError(f"nothing is proposed for {text}")


def evaluated(text: str, **values: float) -> float:
    return value(parse(text), values)


@every(("name", "meaning"), MEANT.items())
def test_a_call_of_another_language_is_written_with_the_same_value(name, meaning):
    for x in (0.3, 0.75, *((-0.6,) if name not in ("logit", "acot", "log_2", "log_10", "log_e") else ())):
        for text, expected in ((f"{name}(x)", meaning(x)), (f"2 - 3/{name}(x + 0.1)^2*x", None)):
            if expected is None:
                at = meaning(x + 0.1)
                expected = 2 - 3 / at**2 * x if at else None
            if expected is not None:
                assert evaluated(proposal(text), x=x) == pytest.approx(float(expected), rel=1e-13), text


@every(("name", "meaning"), MEANT_BEYOND.items())
def test_a_call_with_a_large_argument(name, meaning):
    assert evaluated(proposal(f"{name}(x)"), x=1.7) == pytest.approx(float(meaning(1.7)), rel=1e-13)


@every(("text", "meaning"), MEANT_OF_SEVERAL.items())
def test_a_call_with_several_arguments(text, meaning):
    for x, y in ((1.3, 0.4), (2.5, 2.6)):
        assert value(parse(proposal(text), ("x", "y")), {"x": x, "y": y}) == pytest.approx(meaning(x, y), rel=1e-13)


@every(
    ("text", "meant"),
    [
        ("square(2x)", "(2x)^2"),
        ("1 - cube(2sin(x))", "1 - (2*sin(x))^3"),
        ("exp2(2x)", "2^(2*x)"),
        ("y/reciprocal(1e3x)", "y*1e3*x"),
        ("square(x(y + 1))", "(x*(y + 1))^2"),
        ("root(x(y + 1), 2)", "sqrt(x*(y + 1))"),
        ("cube(sin(2x))", "sin(2*x)^3"),
        ("cube((x + y)/2)", "((x + y)/2)^3"),
        ("square((x)(y))", "(x*y)^2"),
        ("add(x < y, y)", "(x < y) + y"),
        ("subtract(x < y, x)", "(x < y) - x"),
        ("plus(x < y, y, x > y)", "(x < y) + y + (x > y)"),
        ("logaddexp(x < y, y)", "log(exp(x < y) + exp(y))"),
        ("1 + float(x < y)", "1 + (x < y)"),
        ("float(x < y) - x", "(x < y) - x"),
        ("2^+add(x, y)", "2^(x + y)"),
        ("x*+add(x, y)", "x*(x + y)"),
    ],
)
def test_arguments_that_are_products_and_comparisons_stay_together(text, meant):
    values = {"x": 0.4, "y": 1.3}
    assert value(parse(proposal(text), ("x", "y")), values) == pytest.approx(value(parse(meant, ("x", "y")), values))


def test_every_template_is_tried_above():
    tried = {*MEANT, *MEANT_BEYOND} | {text.partition("(")[0].lower() for text in MEANT_OF_SEVERAL}
    templates = {template for name in tried for template in CALLS[name]}
    missing = [name for name, each in CALLS.items() if not set(each) <= templates]
    assert not missing
    assert not set(CALLS) & set(ADVICE)


@every("name", FOLDS)
def test_a_function_of_many_arguments(name):
    expected = {"max": 4, "min": 2, "sum": 9, "plus": 9, "prod": 24, "hypot": math.sqrt(29), "norm": math.sqrt(29)}
    meant = expected[{"maximum": "max", "minimum": "min"}.get(name, name)]
    for text in (f"{name}(x, 3, y)", f"{name}([x, 3, y])"):
        assert value(parse(proposal(text), ("x", "y")), {"x": 2, "y": 4}) == pytest.approx(meant)


@every("name", ADVICE)
def test_what_has_no_equivalent_is_said_so(name):
    with pytest.raises(InvalidRequest) as refused:
        parse(f"{name}(x)")
    assert advice(name) in refused.value.faults[-1].detail


def test_nested_calls_do_not_grow_without_bound():
    nested = "int(" * 45 + "x" + ")" * 45
    assert len(rewritten(nested, FUNCTIONS)) < 20 * LONGEST
    assert rewritten("sin(" * 20 + "x" + ")" * 20, FUNCTIONS) == "sin(" * 20 + "x" + ")" * 20


@every(
    ("text", "meant"),
    [
        (r"\frac{1}{1+e^{-x}}", "1/(1 + exp(-x))"),
        (r"\dfrac12 x^{2y}", "x^(2y)/2"),
        ("2½*x", "5*x/2"),
        ("∜x^2 + y", "sqrt(x) + y"),
        (r"\tanh \cos^{2} x", "tanh(cos(x)^2)"),
        (r"\sin^2\left(\sqrt{(x + 1)(y + 2)}\right)", "sin(sqrt((x + 1)*(y + 2)))^2"),
        ("cos²(sin²(abs(x - (y))))", "cos(sin(abs(x - y))^2)^2"),
        (r"x^\frac{1}{2}", "sqrt(x)"),
        (r"\sqrt[3]{x} + \sqrt[5]{y} - \sqrt2", "cbrt(x) + y^(1/5) - sqrt(2)"),
        (r"\left|x - 3\right| \cdot \lvert y \rvert", "abs(x - 3)*abs(y)"),
        (r"\sin^2 x + \cos^{2}y", "sin(x)^2 + cos(y)^2"),
        (r"\log_{10} x - \log_2 y", "log10(x) - log2(y)"),
        (r"\max\{x, 2y\}", "max(x, 2y)"),
        (r"\begin{cases} x^2 & x > y \\ y & \text{otherwise} \end{cases}", "where(x > y, x^2, y)"),
        (
            r"\begin{cases} 1 & \text{if } x < 0 \\ 2 & x < 1 \\ y & x \ge 1 \end{cases}",
            "where(x < 0, 1, where(x < 1, 2, y))",
        ),
        (r"\[ f(x, y) = \mathrm{e}^{-xy} \]", "exp(-x*y)"),
        (r"$$\theta^2 x_{1}$$", "theta^2*x_1"),
        (r"\lfloor 3x \rfloor", "floor(3x)"),
        (r"(x, y) \mapsto x\,y", "x*y"),
        (r"\frac{\partial}{\partial x} \ln(x y)", "log(x*y)"),
        ("x^{-1} + y^{2}", "1/x + y^2"),
        (r"\frac{xy x_1}{2}", "x*y*x_1/2"),
    ],
)  # fmt: skip
def test_latex(text, meant):
    expected = parse(meant)
    values = {name: 0.7 + 0.4 * place for place, name in enumerate(("theta", "x", "x_1", "y"))}
    found = parse(proposal(text), expected.variables or ("x", "y"))
    assert value(found, values) == pytest.approx(value(expected, values), rel=1e-13)


@every("text", ["2*x % 3", "x % 3^2", "-x % 3", "x/2 // 3", "lim x->0 sin(x)/x", r"\sum_i x_i", r"x \in \mathbb{R}"])
def test_nothing_is_proposed_where_it_would_mean_something_else(text):
    with pytest.raises(InvalidRequest):
        parse(text)
    for found in translations(text, FUNCTIONS):
        if not found.text:
            break  # a sentence ends the proposals
        with pytest.raises(InvalidRequest):
            parse(found.text)


@every(
    ("text", "meant"),
    [
        ("x^2 % 3", "mod(x^2, 3)"),
        ("1 + x // 2", "1 + floor(x/2)"),
        ("1 if x > 1 else 2 if x > 0 else 3", "where(x > 1, 1, where(x > 0, 2, 3))"),
        ("x > 1 ? 1 : x > 0 ? 2 : 3", "where(x > 1, 1, where(x > 0, 2, 3))"),
        ("x > 0 and x < 1", "(x > 0)*(x < 1)"),
        ("0 <= x < 1", "(0 <= x)*(x < 1)"),
        ("2sin x + ln|x|", "2*sin(x) + ln(abs(x))"),
        ("³√x + x^½", "cbrt(x) + sqrt(x)"),
        ("f(x) = x^2 for x > 0", "x^2"),
        ("x^2, x in [0, 1]", "x^2"),
        ("y' = x^2", "x^2"),
        ("d(x^2)/dx", "x^2"),
        ("def f(x):\n    return x**2", "x^2"),
        ("25% of x", "x/4"),
    ],
)
def test_signs_of_other_notations(text, meant):
    for x in (0.3, 1.6):
        assert value(parse(proposal(text), ["x"]), {"x": x}) == pytest.approx(value(parse(meant), {"x": x}), rel=1e-13)


def test_formulas_of_the_service_are_read_back():
    """The LaTeX of an answer, typed as an expression, leads to a proposal with the same values."""
    count = 0
    for preset in list(presets)[::2]:
        expression = parse(preset.expression)
        formulas = formulas_of(expression)
        values = {name: 0.7 + 0.3 * place for place, name in enumerate(expression.variables)}
        for printed in filter(None, formulas.gradient):
            if len(printed.latex) <= 150 and "\\" in printed.latex + "{":
                meant = parse(printed.text, expression.variables)
                try:
                    found = parse(printed.latex, expression.variables)
                except InvalidRequest:
                    found = parse(proposal(printed.latex), expression.variables)
                assert value(found, values) == pytest.approx(value(meant, values), rel=1e-9), printed.latex
                count += 1
    assert count > 10


@every("text", ["x < y and y < 1 or x > 1", "x > 1 or x < y && y < 1", "x > 1 ∨ x < y ∧ y < 1"])
def test_a_text_with_and_as_well_as_or_is_not_rewritten(text):
    with pytest.raises(InvalidRequest) as refused:
        parse(text, ("x", "y"))
    assert "write (" not in refused.value.faults[-1].detail.replace("write (x > 0)", "")
    assert "max(" not in refused.value.faults[-1].detail
