"""The parser of expressions: what binds to what, what is refused and where, and that hostile texts only are refused."""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest
from service.engine.functions.expression import (
    DEEPEST_NESTING,
    LONGEST_EXPRESSION,
    LONGEST_NAME,
    MOST_STEPS,
    MOST_VARIABLES,
    Expression,
    parse,
)
from service.engine.functions.vocabulary import vocabulary
from tests.engine.functions.hostile import hostile_expressions
from tests.engine.functions.samples import MEANINGS
from tests.support import every

CONSTANTS = {"pi": math.pi, "e": math.e}


def value(expression: Expression, values: Mapping[str, float]) -> float:
    """Compute an expression step by step in Python."""
    results: list[float] = []
    for step in expression.steps:
        if step.word == "number":
            results.append(float(step.text))
        elif step.word == "variable":
            results.append(values[step.text])
        elif step.word in CONSTANTS:
            results.append(CONSTANTS[step.word])
        else:
            results.append(MEANINGS[step.word](*(results[operand] for operand in step.operands)))
    return results[-1]


def tree(text: str, variables: Sequence[str] | None = None) -> str:
    """Return the meaning of an expression, with words before their operands."""
    written: list[str] = []
    for step in parse(text, variables).steps:
        operands = [written[operand] for operand in step.operands]
        written.append(f"{step.word}({', '.join(operands)})" if operands else step.text or step.word)
    return written[-1]


def refusal(text: str, variables: Sequence[str] | None = None) -> tuple[Fault, ...]:
    with pytest.raises(InvalidRequest) as refused:
        parse(text, variables)
    return refused.value.faults


def complaint(text: str, variables: Sequence[str] | None = None) -> str:
    """Return the only fault of an expression."""
    (fault,) = refusal(text, variables)
    assert fault.path == ("expression",)
    return fault.detail


@every(
    ("text", "expected"),
    [
        ("x + y - z", "subtract(add(x, y), z)"),
        ("x - y + z", "add(subtract(x, y), z)"),
        ("x - (y + z)", "subtract(x, add(y, z))"),
        ("x + y*z", "add(x, multiply(y, z))"),
        ("x*y + z", "add(multiply(x, y), z)"),
        ("x/y/z", "divide(divide(x, y), z)"),
        ("x/y*z", "multiply(divide(x, y), z)"),
        ("x*y^z", "multiply(x, power(y, z))"),
        ("x^y*z", "multiply(power(x, y), z)"),
        ("x^y^z", "power(x, power(y, z))"),
        ("x**y**z", "power(x, power(y, z))"),
        ("x^y**z", "power(x, power(y, z))"),
        ("(x^y)^z", "power(power(x, y), z)"),
        ("-x^2", "negate(power(x, 2))"),
        ("(-x)^2", "power(negate(x), 2)"),
        ("2^-x", "power(2, negate(x))"),
        ("2^-x^y", "power(2, negate(power(x, y)))"),
        ("2^-x*y", "multiply(power(2, negate(x)), y)"),
        ("2^+x", "power(2, x)"),
        ("-x*y", "multiply(negate(x), y)"),
        ("x*-y", "multiply(x, negate(y))"),
        ("x - -y", "subtract(x, negate(y))"),
        ("x--y", "subtract(x, negate(y))"),
        ("-+-x", "negate(negate(x))"),
        ("+x", "x"),
        ("-x + y", "add(negate(x), y)"),
        ("x−y·z×w÷v", "subtract(x, divide(multiply(multiply(y, z), w), v))"),
    ],
)
def test_precedence(text: str, expected: str) -> None:
    assert tree(text) == expected


@every(
    ("text", "expected"),
    [
        ("2x", "multiply(2, x)"),
        ("2(x+1)", "multiply(2, add(x, 1))"),
        ("(x+1)(x-1)", "multiply(add(x, 1), subtract(x, 1))"),
        ("(x+1)y", "multiply(add(x, 1), y)"),
        ("x y z", "multiply(multiply(x, y), z)"),
        ("1/2x", "multiply(divide(1, 2), x)"),
        ("x^2 sin(x)", "multiply(power(x, 2), sin(x))"),
        ("2^x y", "multiply(power(2, x), y)"),
        ("2^-x y", "multiply(power(2, negate(x)), y)"),
        ("-x y", "multiply(negate(x), y)"),
        ("sin(x)cos(x)", "multiply(sin(x), cos(x))"),
        ("2pi", "multiply(2, pi)"),
        ("pi(x+1)", "multiply(pi, add(x, 1))"),
        ("2πr", "multiply(multiply(2, pi), r)"),
        ("x + 2y^2", "add(x, multiply(2, power(y, 2)))"),
    ],
)
def test_product_without_a_sign(text: str, expected: str) -> None:
    assert tree(text) == expected


def test_listed_variable_before_parentheses_is_a_factor() -> None:
    assert tree("x(x+1)", ["x"]) == "multiply(x, add(x, 1))"


@every(
    ("text", "expected"),
    [
        ("|x|", "abs(x)"),
        ("abs(x)", "abs(x)"),
        ("||x| - 1|", "abs(subtract(abs(x), 1))"),
        ("|1 - |x||", "abs(subtract(1, abs(x)))"),
        ("|x||y|", "multiply(abs(x), abs(y))"),
        ("|x|y|z|", "multiply(multiply(abs(x), y), abs(z))"),
        ("2|x|", "multiply(2, abs(x))"),
        ("|x|^2", "power(abs(x), 2)"),
        ("|x|²", "power(abs(x), 2)"),
        ("2^|x|", "power(2, abs(x))"),
        ("-|x|", "negate(abs(x))"),
        ("|(|x|)|", "abs(abs(x))"),
        ("|x(|y|)|", "abs(multiply(x, abs(y)))"),
        ("|max(x, |y|)|", "abs(max(x, abs(y)))"),
    ],
)
def test_bars(text: str, expected: str) -> None:
    assert tree(text, ["x", "y", "z"]) == expected


@every(
    ("text", "expected"),
    [
        ("x²", "power(x, 2)"),
        ("x¹⁰", "power(x, 10)"),
        ("-x²", "negate(power(x, 2))"),
        ("2^x²", "power(2, power(x, 2))"),
        ("x²^y", "power(power(x, 2), y)"),
        ("x²y³", "multiply(power(x, 2), power(y, 3))"),
        ("(x+1)²", "power(add(x, 1), 2)"),
        ("sin(x)²", "power(sin(x), 2)"),
    ],
)
def test_superscripts(text: str, expected: str) -> None:
    assert tree(text) == expected


@every(
    ("text", "expected"),
    [
        ("12", 12.0),
        ("3.5", 3.5),
        (".5", 0.5),
        ("2.", 2.0),
        ("1e-3", 1e-3),
        ("1E+3", 1e3),
        ("007", 7.0),
        ("1.7976931348623157e308", 1.7976931348623157e308),
        ("5e-324", 5e-324),
        ("1e-400", 0.0),
        ("1e-999999999", 0.0),
        ("0e999999999", 0.0),
        ("0." + "0" * 400 + "1e401", 1.0),
    ],
)
def test_numbers(text: str, expected: float) -> None:
    (step,) = parse(text).steps
    assert step.word == "number"
    assert float(step.text) == expected
    assert float(Fraction(step.text)) == expected


@every(
    ("text", "expected"),
    [
        ("2e", "multiply(2, e)"),
        ("2e+x", "add(multiply(2, e), x)"),
        ("2e3x", "multiply(2e3, x)"),
        ("2.x", "multiply(2., x)"),
    ],
)
def test_exponent_of_a_number_needs_digits(text: str, expected: str) -> None:
    assert tree(text) == expected


@every(
    ("text", "expected"),
    [
        ("(1 - x)^2 + 100*(y - x^2)^2", lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2),
        ("x^2 sin(y)/2", lambda x, y: x**2 * math.sin(y) / 2),
        ("2πx - e^-y", lambda x, y: 2 * math.pi * x - math.exp(-y)),
        ("|x - 3| + ||y| - 1|^2", lambda x, y: abs(x - 3) + abs(abs(y) - 1) ** 2),
        ("max(x, min(y, 1e-3))", lambda x, y: max(x, min(y, 1e-3))),
        ("atan2(y, -x)", lambda x, y: math.atan2(y, -x)),
        ("ln(x)lg(x)√(y)", lambda x, y: math.log(x) * math.log10(x) * math.sqrt(y)),
        ("arcsin(y - 1) - pow(x, y)", lambda x, y: math.asin(y - 1) - x**y),
        ("-x^-2**y*3.e(x + 1)(y - 1)", lambda x, y: -(x ** -(2**y)) * 3.0 * math.e * (x + 1) * (y - 1)),
        ("x\n\t+\N{NO-BREAK SPACE}y", lambda x, y: x + y),
    ],
)
def test_values(text: str, expected: Callable[[float, float], float]) -> None:
    assert value(parse(text, ["x", "y"]), {"x": 0.7, "y": 1.3}) == pytest.approx(expected(0.7, 1.3), rel=1e-15)


def test_every_word_can_be_typed() -> None:
    for word in vocabulary:
        for name in {word.name, *word.aliases}:
            if word.operator:
                continue
            text = f"{name}({', '.join(['x'] * word.arguments)})" if word.arguments else name
            assert parse(text).steps[-1].word == word.name


def test_operators_leave_their_names_free() -> None:
    assert tree("add + power", ["power", "add"]) == "add(add, power)"


def test_steps_know_their_text() -> None:
    expression = parse("2 * (x + 1)^2 - sin( |y| )")
    assert [(step.word, expression.quoted(step)) for step in expression.steps] == [
        ("number", "2"),
        ("variable", "x"),
        ("number", "1"),
        ("add", "x + 1"),
        ("number", "2"),
        ("power", "(x + 1)^2"),
        ("multiply", "2 * (x + 1)^2"),
        ("variable", "y"),
        ("abs", "|y|"),
        ("sin", "sin( |y| )"),
        ("subtract", "2 * (x + 1)^2 - sin( |y| )"),
    ]


def test_signs_know_their_text() -> None:
    expression = parse("x - -+-y²")
    assert [expression.quoted(step) for step in expression.steps] == ["x", "y", "²", "y²", "-y²", "-+-y²", "x - -+-y²"]


def test_quotes_are_short_and_on_one_line() -> None:
    expression = parse("x +\n  y")
    assert expression.quoted(expression.steps[-1]) == "x + y"
    expression = parse("x + " * 30 + "x")
    quoted = expression.quoted(expression.steps[-1])
    assert len(quoted) == 40
    assert quoted.startswith("x + x") and quoted.endswith("…")


def test_equal_parts_stay_apart() -> None:
    assert len(parse("x*x + x*x").steps) == 7


@every(
    ("text", "listed", "expected"),
    [
        ("y + x*b + B", None, ("B", "b", "x", "y")),
        ("2 + pi", None, ()),
        ("2 + pi", [], ()),
        ("x", ["y", "x"], ("y", "x")),
        ("α + Δ_1 + θ2 + ϕ", None, ("Delta_1", "alpha", "phi", "theta2")),
        ("alpha + β", ["α", "beta"], ("alpha", "beta")),
        ("αx", None, ("alpha", "x")),
        ("x" * LONGEST_NAME, None, ("x" * LONGEST_NAME,)),
        ("x + y", ("x", "y"), ("x", "y")),
    ],
)
def test_variables(text: str, listed: Sequence[str] | None, expected: tuple[str, ...]) -> None:
    assert parse(text, listed).variables == expected


NUMBER_OR_NAME = 'expected a number, a name or "("'


@every(
    ("text", "expected"),
    [
        # where an operand should be
        ("x + )", f'at column 5, after "x + ": {NUMBER_OR_NAME}, got ")"'),
        (")", f'at column 1: {NUMBER_OR_NAME}, got ")"'),
        ("*x", f'at column 1: {NUMBER_OR_NAME}, got "*"'),
        ("x +", f'at column 4, after "x +": {NUMBER_OR_NAME}, got the end'),
        ("x ** ", f'at column 6, after "x ** ": {NUMBER_OR_NAME}, got the end'),
        ("x*/y", f'at column 3, after "x*": {NUMBER_OR_NAME}, got "/"'),
        ("²", f'at column 1: {NUMBER_OR_NAME}, got "²"'),
        ("max(,x)", f'at column 5, after "max(": {NUMBER_OR_NAME}, got ","'),
        ("max(x,)", f'at column 7, after "max(x,": {NUMBER_OR_NAME}, got ")"'),
        ("||", f'at column 3, after "||": {NUMBER_OR_NAME}, got the end'),
        ("()", "at column 1: there is nothing in these parentheses"),
        ("2 + ()", 'at column 5, after "2 + ": there is nothing in these parentheses'),
        ("x + " * 9 + "!", 'at column 37, after "…x + x + x + x + x + ": there is no factorial'),
        # where an operator should be
        ("x 2", 'at column 3, after "x ": expected an operator, got the number 2; for a product write *2'),
        ("(x)2", 'at column 4, after "(x)": expected an operator, got the number 2; for a product write *2'),
        ("2 3", 'at column 3, after "2 ": expected an operator, got the number 3; for a product write *3'),
        ("x²3", 'at column 3, after "x²": expected an operator, got the number 3; for a product write *3'),
        ("1.2.3", 'at column 4, after "1.2": a number has one point; got 1.2.3'),
        ("x)", 'at column 2, after "x": this ")" closes nothing: no "(" is open'),
        # unclosed brackets
        ("2(x+1", 'after "2(x+1": expected an operator or ")" to close the "(" of column 2, got the end'),
        ("sin(x", 'after "sin(x": expected an operator or ")" to close the "(" of column 4, got the end'),
        ("1 + |x", 'after "1 + |x": expected an operator or "|" to close the "|" of column 5, got the end'),
        ("(|x)|", 'at column 4, after "(|x": expected an operator or "|" to close the "|" of column 2, got ")"'),
        ("max(|x, y|)", 'expected an operator or "|" to close the "|" of column 5, got ","'),
        # functions
        ("sin x", "at column 1: sin takes its argument in parentheses: sin(…)"),
        ("1 + ln", 'at column 5, after "1 + ": ln takes its argument in parentheses: ln(…)'),
        ("√2", "at column 1: √ takes its argument in parentheses: √(…)"),
        ("5 mod 3", 'at column 3, after "5 ": mod takes its arguments in parentheses: mod(…, …)'),
        ("sin^2(x)", "sin takes its argument in parentheses; a power of it is written sin(x)^2"),
        ("sin²(x)", "sin takes its argument in parentheses; a power of it is written sin(x)^2"),
        ("sin**k(x)", "sin takes its argument in parentheses; a power of it is written sin(x)^n"),
        ("sin^", "sin takes its argument in parentheses; a power of it is written sin(x)^n"),
        ("sin^-1(x)", "sin takes its argument in parentheses; its inverse is asin(x), its reciprocal 1/sin(x)"),
        ("pow^2", "pow takes its arguments in parentheses: pow(…, …)"),
        ("sin()", "at column 1: sin takes 1 argument, sin(…); got 0"),
        ("1 + sin(x, y)", 'at column 5, after "1 + ": sin takes 1 argument, sin(…); got 2'),
        ("sin(0,5)", "at column 1: sin takes 1 argument, sin(…); got 2; write 0.5 with a point"),
        ("max(x, 0,5)", "at column 1: max takes 2 arguments, max(…, …); got 3; write 0.5 with a point"),
        ("max(x)", "at column 1: max takes 2 arguments, max(…, …); got 1"),
        ("max(x, y, z)", "at column 1: max takes 2 arguments, max(…, …); got 3"),
        # numbers and names
        ("x + 1e400", 'at column 5, after "x + ": 1e400 is too large: the largest number is about 1.8e308'),
        ("x" + "²" * 400, f"{'²' * 39}… is too large: the largest number is about 1.8e308"),
        ("1" * 400, f"at column 1: {'1' * 39}… is too large: the largest number is about 1.8e308"),
        ("2" + "x" * 40, 'at column 2, after "2": this name has 40 characters; allowed are 31'),
        # characters
        ("y = x", 'at column 3, after "y ": an expression has no "="; write the difference of both sides'),
        ("x[0]", 'at column 2, after "x": every bracket of an expression is a parenthesis, ( or )'),
        ("{x}", "at column 1: every bracket of an expression is a parenthesis, ( or )"),
        ("0 < x < 1", 'at column 7, after "0 < x ": comparisons do not chain; write a product, as in (0 < x)*(x < 1)'),
        ("x == 1", "the comparisons are <, >, <= and >="),
        ("x >", 'at column 4, after "x >": expected a number, a name or "(", got the end'),
        ("5%", 'at column 2, after "5": for a remainder write mod(x, y), for five percent 0.05'),
        ("x!", 'at column 2, after "x": there is no factorial'),
        ("x & y", "there is no logic in an expression"),
        ("'x'", "at column 1: a derivative is computed, not typed: write the function only"),
        ('"x"', "at column 1: quotation marks have no place in an expression"),
        ("_x", "at column 1: a name begins with a letter"),
        ("1_000", 'at column 2, after "1": a name begins with a letter; digits of a number stand together: 1000'),
        ("x.real", 'at column 2, after "x": a point stands within a number only: 0.5'),
        ("x – y", 'at column 3, after "x ": a minus is typed as -'),
        ("（x)", 'at column 1: "（" is a special form of "("; type it as ('),
        ("5％", "for a remainder write mod(x, y), for five percent 0.05"),
        ("＠", 'at column 1: "＠" has no meaning in an expression'),
        ("ｘ", 'at column 1: "ｘ" is a special form of "x"; type it as x'),
        ("x\0", 'at column 2, after "x": "U+0000" has no meaning in an expression'),
        ("x\N{ZERO WIDTH SPACE}", 'at column 2, after "x": "U+200B" has no meaning in an expression'),
        ("\ud800", 'at column 1: "U+D800" has no meaning in an expression'),
        ("x @ y", 'at column 3, after "x ": "@" has no meaning in an expression'),
        ("x₁", 'at column 2, after "x": an index is typed as a digit of the name: x1'),
        ("x⁻¹", 'at column 2, after "x": a negative power is typed as x^-1'),
        ("\\sin(x)", "at column 1: this is no LaTeX"),
        # commas
        ("0,5x", 'at column 2, after "0": a comma separates the arguments of a function only; write 0.5 with a point'),
        ("(1,25)", "a comma separates the arguments of a function only; write 1.25 with a point"),
        ("(x, y)", "a comma separates the arguments of a function only; a decimal number has a point, as in 0.5"),
        # nothing at all
        ("", "the expression is empty; an expression is a formula such as x^2 + 3*sin(x)"),
        (" \t\n", "the expression is empty; an expression is a formula such as x^2 + 3*sin(x)"),
    ],
)
def test_refusals_name_the_place_and_a_remedy(text: str, expected: str) -> None:
    assert expected in complaint(text)


@every(
    ("text", "listed", "expected"),
    [
        ("f(x)", None, 'at column 1: "f" is no function; for a product write f*(…)'),
        ("x(x+1)", None, 'at column 1: "x" is no function; for a product write x*(…)'),
        ("1 + sine(x)", None, '"sine" is no function; for a product write sine*(…); did you mean sin?'),
        ("Sin(x)", None, "did you mean sin?"),
        ("cot(x)", None, "write 1/tan(…) for cot(…)"),
        ("σ(x)", None, '"σ" is no function; for a product write σ*(…); write sigmoid(…) for sigma(…)'),
        ("x + z", ["x", "y"], 'at column 5, after "x + ": "z" is no variable: the variables are x, y'),
        ("X", ["x"], '"X" is no variable: the variables are x; did you mean x?'),
        ("velocty", ["t", "velocity"], "the variables are t, velocity; did you mean velocity?"),
        ("PI", ["x"], "did you mean pi?"),
        ("xy", ["x", "y"], "for a product write x*y"),
        ("xypi", ["x", "y"], "for a product write x*y*pi"),
        (
            "xsin(x)",
            ["x"],
            '"xsin" is neither a variable nor a function: the variables are x; for a product write x*sin(…)',
        ),
        ("xyx", ["x", "y", "xy"], "for a product write xy*x"),
        ("f(x)", ["x"], '"f" is neither a variable nor a function: the variables are x'),
        ("x", [], '"x" is no variable: none is listed'),
        ("f(1)", [], '"f" is no function; for a product write f*(…)'),
    ],
)
def test_unknown_names(text: str, listed: Sequence[str] | None, expected: str) -> None:
    assert expected in complaint(text, listed)


def test_unknown_names_come_with_the_known_ones() -> None:
    (fault,) = refusal("z", ["x", "y"])
    assert fault.allowed == ("x", "y")
    (fault,) = refusal("sine(x)", ["x"])
    assert fault.allowed[0] == "x" and "sin" in fault.allowed


def test_unknown_names_are_reported_at_once_and_once() -> None:
    faults = refusal("a + f(x, b) + a", ["x"])
    assert [fault.detail.split(": ")[1].split()[0] for fault in faults] == ['"a"', '"f"', '"b"']


def test_unknown_names_come_with_the_fault_after_them() -> None:
    assert ["column 1:" in fault.detail for fault in refusal("a + )", ["x"])] == [True, False]


def test_unknown_names_are_reported_up_to_a_number() -> None:
    names = " ".join(f"v{number}" for number in range(MOST_ERRORS + 10))
    assert len(refusal(names, [])) == MOST_ERRORS
    assert len(refusal(f"{names} )", [])) == MOST_ERRORS


@every(
    ("listed", "position", "expected"),
    [
        (["x", "sin"], 1, "sin is a function; call the variable otherwise"),
        (["ln"], 0, "ln is a function"),
        (["pi"], 0, "pi is a constant"),
        (["π"], 0, "π is a constant"),
        (["x", "y", "x"], 2, '"x" is listed twice: at position 0 already'),
        (["α", "alpha"], 1, '"alpha" is listed twice: at position 0 already'),
        ([""], 0, '"" is no name of a variable: a name is a letter and then letters, digits or "_"'),
        (["_x"], 0, "is no name of a variable"),
        (["x y"], 0, "is no name of a variable"),
        (["x\n"], 0, '"xU+000A" is no name of a variable'),
        (["αβ"], 0, "is no name of a variable"),
        ([1], 0, "a variable is a name such as x, got int"),
        ([None], 0, "a variable is a name such as x, got NoneType"),
        (["x" * (LONGEST_NAME + 1)], 0, "this name has 32 characters; allowed are 31"),
        ([f"x{number}" for number in range(MOST_VARIABLES + 1)], 20, "21 variables are listed; allowed are 20"),
    ],
)
def test_refused_variables(listed: Sequence[str], position: int, expected: str) -> None:
    (fault,) = refusal("1", listed)
    assert fault.path == ("variables", position)
    assert expected in fault.detail


def test_refused_variables_are_reported_at_once() -> None:
    assert [fault.path for fault in refusal("x", ["sin", "x", "2"])] == [("variables", 0), ("variables", 2)]


def test_limit_of_length() -> None:
    assert parse("x".ljust(LONGEST_EXPRESSION)).variables == ("x",)
    assert complaint("x".ljust(LONGEST_EXPRESSION + 1)) == "the expression has 2,001 characters; allowed are 2,000"


@every(
    ("opening", "closing"),
    [("(", ")"), ("|", "|"), ("sin(", ")"), ("2^", ""), ("2^-", ""), ("1+x*-(", ")"), ("|(", ")|"), ("x^(", ")")],
)
def test_limit_of_nesting(opening: str, closing: str) -> None:
    per_layer = sum(mark in opening for mark in "(|^")
    fit = DEEPEST_NESTING // per_layer
    parse(opening * fit + "x" + closing * fit)
    more = opening * (fit + 1) + "x" + closing * (fit + 1)
    assert "are nested at least 51 deep; allowed are 50" in complaint(more)


def test_limit_of_steps() -> None:
    longest = "x+" * (MOST_STEPS // 2 - 1) + "x"
    assert len(parse(f"-({longest})").steps) == MOST_STEPS
    sentence = complaint(f"{longest}+x")
    assert sentence == "the expression has 501 operations, numbers and names; allowed are 500"


def test_limit_of_variables() -> None:
    names = [f"x{number}" for number in range(MOST_VARIABLES + 1)]
    assert len(parse("+".join(names[1:])).variables) == MOST_VARIABLES
    assert "the expression has 21 variables, x0, x1, x10" in complaint("+".join(names))


def test_chains_are_no_nesting() -> None:
    for chain in ("x+" * 200 + "x", "x " * 200 + "x", "-" * 400 + "x", "(x)" * 200, "x" + "² " * 200):
        assert parse(chain, ["x"]).steps[-1].operands


def test_hostile_expressions_are_understood_or_refused() -> None:
    for text in hostile_expressions(seed=1, count=1000):
        for listed in (None, ("x", "y")):
            try:
                expression = parse(text, listed)
            except InvalidRequest as refused:
                faults = refused.faults
            else:
                check_steps(expression)
                continue
            assert 0 < len(faults) <= MOST_ERRORS
            assert all(fault.detail.isprintable() for fault in faults)


def check_steps(expression: Expression) -> None:
    for position, step in enumerate(expression.steps):
        assert all(0 <= operand < position for operand in step.operands)
        assert 0 <= step.start < step.stop <= len(expression.text)
        if step.word == "number":
            assert math.isclose(float(Fraction(step.text)), float(step.text), rel_tol=1e-6, abs_tol=1e-12)


Tree = str | tuple["Tree", ...]
"""A number, a name, or a word before what it takes."""
_SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(5)
SYMBOLS = {
    "add": ("+", _SUM),
    "subtract": ("-", _SUM),
    "multiply": ("*", _PRODUCT),
    "divide": ("/", _PRODUCT),
    "negate": ("-", _SIGN),
    "power": ("^", _POWER),
}


def trees() -> st.SearchStrategy[Tree]:
    def grown(smaller: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        binary = st.sampled_from(["add", "subtract", "multiply", "divide", "power", "max"])
        unary = st.sampled_from(["negate", "abs", "sin"])
        return st.tuples(binary, smaller, smaller) | st.tuples(unary, smaller)

    return st.recursive(st.sampled_from(["x", "y", "2", ".5", "1e-3", "pi"]), grown, max_leaves=20)


def meaning(expected: Tree) -> str:
    """Return a tree in the notation of `tree`."""
    if isinstance(expected, str):
        return expected
    word, *operands = expected
    return f"{word}({', '.join(meaning(operand) for operand in operands)})"


def with_all_parentheses(expected: Tree) -> str:
    if isinstance(expected, str):
        return expected
    operands = [with_all_parentheses(operand) for operand in expected[1:]]
    symbol, _ = SYMBOLS.get(expected[0], ("", _ATOM))
    if not symbol:
        return f"{expected[0]}({', '.join(operands)})"
    return f"({symbol}{operands[0]})" if len(operands) == 1 else f"({f' {symbol} '.join(operands)})"


def with_fewest_parentheses(expected: Tree, loosest: int = _SUM) -> str:
    """Return the text of a tree, with parentheses around operators that bind less than `loosest`."""
    if isinstance(expected, str):
        return expected
    word, *operands = expected
    if word == "abs":
        return f"|{with_fewest_parentheses(operands[0])}|"
    if word not in SYMBOLS:
        return f"{word}({','.join(with_fewest_parentheses(operand) for operand in operands)})"
    symbol, binding = SYMBOLS[word]
    if word == "negate":
        text = symbol + with_fewest_parentheses(operands[0], _SIGN)
    else:
        left, right = (_ATOM, _SIGN) if word == "power" else (binding, binding + 1)
        text = with_fewest_parentheses(operands[0], left) + symbol + with_fewest_parentheses(operands[1], right)
    return f"({text})" if binding < loosest else text


@given(trees())
def test_all_parentheses_mean_the_same_as_few(expected: Tree) -> None:
    assert tree(with_all_parentheses(expected), ["x", "y"]) == meaning(expected)


@given(trees())
@example(("power", "x", ("negate", ("power", "y", "2"))))
@example(("multiply", ("negate", "x"), ("negate", ("abs", ("abs", "y")))))
def test_parentheses_that_can_be_left_out(expected: Tree) -> None:
    assert tree(with_fewest_parentheses(expected), ["x", "y"]) == meaning(expected)
