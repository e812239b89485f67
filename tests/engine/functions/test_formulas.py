"""Formulas as they are printed: that each can be set, read in one way only, means what was typed, and sent again."""

import math

import numpy as np
import pytest

from service.engine.functions.compiled import Function, FunctionTask
from service.engine.functions.expression import parse
from service.engine.functions.fit import LATEX
from service.engine.functions.formulas import formulas_of
from service.engine.functions.presets import presets
from service.engine.functions.printing import as_written, latex_names
from service.engine.functions.vocabulary import vocabulary
from tests.engine.functions.formula_checks import checked, sets
from tests.engine.functions.formula_values import FLOATS, value_of
from tests.engine.functions.latex_reader import Misprint, read
from tests.engine.functions.random_expressions import random_expressions
from tests.engine.functions.samples import MEANINGS, SAMPLES
from tests.engine.functions.test_formula_writer import HOSTILE
from tests.support import every

RANDOM = 500

# --- the reader ---------------------------------------------------------------------------------


@every(
    ("latex", "expected"),
    [
        ("-x^2", -9.0),
        ("2 x^2 y", 36.0),
        (r"2 \cdot 3^2", 18.0),
        (r"x \cos^2 y \sin 2 x", 3.0 * math.cos(2.0) ** 2 * math.sin(6.0)),
        (r"\sin(x)^{-1} y", 2.0 / math.sin(3.0)),
        (r"\ln x \ln y", math.log(3.0) * math.log(2.0)),
        (r"e^{-x^2/2}", math.exp(-4.5)),
        (r"|x| |y - x|", 3.0),
        (r"\left|x - |y|\right|^2", 1.0),
        (r"\frac{x}{y} \left(\frac{1}{y}\right)^3", 0.1875),
        (r"[x \ge y] + [y > x]", 1.0),
        (r"(x + 1) \bmod x", 1.0),
        (r"\sqrt[3]{x^2} - \sqrt{y}", 9.0 ** (1.0 / 3.0) - math.sqrt(2.0)),
    ],
)
def test_the_reader_knows_the_conventions(latex: str, expected: float) -> None:
    assert value_of(read(latex), FLOATS, {"x": 3.0, "y": 2.0, "e": math.e}) == pytest.approx(expected, rel=1e-14)


@every(
    "latex",
    [
        *(
            r"\cos^3^2 x",
            "x^2^3",
            "x^10",
            "x_12",
            "{x",
            "x}",
            "(x",
            "x)",
            r"\left(x)",
            r"\left(x",
            r"\frac{x}",
            r"\foo x",
        ),
        *("x + -y", "x 2", "2 3", r"2 \frac{1}{3}", r"\frac{x}{y}^2", "x/y z", "x/y/z", "1. + x", ".5", "x +", ""),
        *(
            r"\sin x^2",
            r"\sin x y",
            r"\sin x \cdot y",
            r"\sin 2 \cdot 3",
            r"\sin x \sqrt{y}",
            r"\sin -x",
            r"\sin^{-1} x",
        ),
        *(
            r"x + y \bmod z",
            r"x y \bmod z",
            r"x \bmod y z",
            r"f (x)",
            r"\mathrm{rate} \, (x + 1)",
            r"\operatorname{foo}(x)",
        ),
    ],
)
def test_the_reader_refuses_ambiguous_latex(latex: str) -> None:
    with pytest.raises(Misprint):
        read(latex)


# --- printing -----------------------------------------------------------------------------------


@every(
    ("text", "expected"),
    [
        ("(x*cosh(x))^2", r"(x \cosh x)^2"),
        ("(x*cosh(x))^2*y", r"(x \cosh x)^2 y"),
        ("(cos(x)^3)^2", r"(\cos^3 x)^2"),
        ("(cos(x)^2)^-1", r"(\cos^2 x)^{-1}"),
        ("cos(x)^2*y", r"\cos^2(x) y"),
        ("(cbrt(x)^2)^3", r"(\sqrt[3]{x^2})^3"),
        ("sin(x)*cbrt(y)", r"\sin(x) \sqrt[3]{y}"),
        ("sin(x)*(cos(x) + 1)", r"\sin(x) (\cos x + 1)"),
        ("sin(5*12)*x", r"\sin(5 \cdot 12) x"),
        ("sin(-x)", r"\sin(-x)"),
        ("log(x^2)", r"\ln(x^2)"),
        ("x + mod(y, 2)", r"x + (y \bmod 2)"),
        ("mod(x, 2) + y", r"(x \bmod 2) + y"),
        ("-mod(x*y, sin(z))", r"-((x y) \bmod \sin z)"),
        ("mod(sin(x), 2)^2", r"(\sin(x) \bmod 2)^2"),
        ("(2.5e-3)^2", r"(2.5 \cdot 10^{-3})^2"),
        ("2*1e3 + 1.e5 + .5x + 2.x + 007", r"2 \cdot 10^3 + 10^5 + 0.5 x + 2 x + 7"),
        ("2(1/3)", r"2 \cdot \frac{1}{3}"),
        ("sigma*(x + 1) + sigmoid(x + 1)", r"\sigma \cdot (x + 1) + \sigma(x + 1)"),
        ("f*x", "f x"),
        ("f*(x + 1)*g*|x|", r"f \cdot (x + 1) g |x|"),
        ("rate*(x + 1)", r"\mathrm{rate} \cdot (x + 1)"),
        ("y^2(x + 1)", "y^2 (x + 1)"),
        ("x1*x_1", r"x_1 \, \mathrm{x\_1}"),
    ],
)
def test_ambiguous_latex_is_never_printed(text: str, expected: str) -> None:
    assert as_written(parse(text)) == expected
    assert checked(text).faults == []


def test_variables_of_one_expression_do_not_look_the_same() -> None:
    assert latex_names(("rate", "x1", "x_1", "x_2")) == {
        "rate": r"\mathrm{rate}",
        "x1": "x_1",
        "x_1": r"\mathrm{x\_1}",
        "x_2": "x_2",
    }


@every("name", presets.names)
def test_formulas_of_presets_have_their_values(name: str) -> None:
    found = checked(presets[name].expression)
    assert found.faults == []
    assert found.values > 30


def test_random_expressions_cover_the_language() -> None:
    texts = list(random_expressions(0, RANDOM))
    assert {step.word for text in texts for step in parse(text).steps} >= {word.name for word in vocabulary}
    assert len(set(texts)) > 0.9 * RANDOM


def test_formulas_of_random_expressions_have_their_values() -> None:
    reports = [checked(text) for text in random_expressions(0, RANDOM)]
    assert [fault for report in reports for fault in report.faults] == []
    assert sum(report.formulas for report in reports) > 6 * RANDOM
    assert sum(report.values for report in reports) > 50 * RANDOM


@every("word", [word for word in vocabulary if word.arguments and word.name != "negate"], ids=lambda word: word.name)
def test_the_latex_of_a_word_has_its_values(word) -> None:
    tree = read(word.latex)
    for arguments in SAMPLES[word.name]:
        symbols = dict(zip("abc", arguments, strict=False)) | {"e": math.e}
        found = value_of(tree, FLOATS, symbols)
        assert found == pytest.approx(float(MEANINGS[word.name](*arguments)), rel=1e-12)


def test_the_closed_form_of_a_line_sets() -> None:
    assert sets(LATEX) == ""


# --- limits -------------------------------------------------------------------------------------


@every(
    ("text", "place", "expected"),
    [
        ("y*sign(x^2)", 1, "sign(x^2)"),  # 0 at 0
        ("y*sign(1/x^2)", 1, "1"),
        ("|x^2|", 0, "2*x"),
        ("y*sqrt(x^2)", 1, "abs(x)"),
        ("y*(x^2)^0.5 + y*(x^3)^(1/3)", 1, "(x^3)^(1/3) + abs(x)"),
        ("y*log(x*z) - y*log(x) - y*log(z)", 1, "log(x*z) - log(z) - log(x)"),
        ("log1p(1e-20)*x", 0, "log1p(1e-20)"),  # 1 + 1e-20 is 1
        ("log1p(-1e-20)*x", 0, "log1p(-1e-20)"),
        ("max(1e3*x, x)", 0, "(999*sign(x) + 1001)/2"),
        ("max(1e20*x, x)", 0, None),  # (1e20 + 1)/2 - (1e20 - 1)/2 has no digit of 1
        ("max(0, -1)*x + floor(2.5)*x + round(2.5)*x", 0, "4"),
        ("step(0)*x + |0|*x + min(1/2, 1/3)*x", 0, "4/3"),
        ("round(0.1)^x", 0, None),  # 0^x ln 0
        ("|x - x|^y", 0, None),
    ],
)
def test_simplifications_hold_everywhere(text: str, place: int, expected: str | None) -> None:
    formula = formulas_of(parse(text)).gradient[place]
    assert (formula and formula.text) == expected
    assert checked(text).faults == []


LONG = (
    *HOSTILE,
    *(preset.expression for preset in presets),
    "+".join(f"softplus(x + {k})" for k in range(1, 60)),
    "*".join(f"tanh(x/{k})" for k in range(1, 30)),
    "^".join(["sin(x)"] * 12),
    "atan(" * 20 + "x" + ")" * 20,
    "((x^sin(x))^(x*y))^tanh(x*y)",
    "*".join(f"softplus({letter}*{k})" for k, letter in enumerate("abcdfghijklmnopqrst", 1)),
    "*".join(f"tanh({letter}*{k})" for k, letter in enumerate("abcdfghijklmnopqrst", 1)),
    "hypot(123456789*log2(y + y), pow(10y, gaussian(y))^-e)",
)


def test_every_expression_of_an_answer_can_be_sent_again() -> None:
    sent, left_out = 0, 0
    for text in LONG:
        expression = parse(text)
        found = formulas_of(expression)
        for formula in (*found.gradient, *[formula for row in found.hessian for formula in row]):
            if formula is None:
                left_out += 1
            else:
                again = Function(FunctionTask(parse(formula.text, expression.variables), 1, 1))
                again.run(np.full((1, len(expression.variables)), 0.7))
                sent += 1
    assert sent > 100
    assert left_out > 10
