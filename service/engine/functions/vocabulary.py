"""The words of expressions: operators, functions and constants, each declared once.

A declaration gives the number of arguments of a word, builds it from the primitive operations (which know their
derivatives), and says where it has no value, no slope or no certain slope. The parser, the catalogue, the problems of a
point and the generic tests read it. The module is long because it is one list of declarations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from service.engine.building import Array, Declaration, Node, Registry
from service.engine.graph import operations


def never(*literals: float | None) -> bool:
    return False


class Singularity(NamedTuple):
    """A condition under which a word has no value, no slope or no certain slope, with a sentence for answers."""

    kind: str
    """`domain`: there is no real value; `pole`: the value is infinite; `vertical`: the slope is infinite; `kink`,
    `jump`: there is no slope, and answers follow a convention."""
    where: Callable[..., Array]
    """Maps the arguments, arrays of one shape, to a mask of the points."""
    text: str
    """The sentence of answers, such as `log takes numbers above 0`."""
    harmless: Callable[..., bool] = never
    """Maps the literal arguments, None for others, to whether they rule this singularity out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Word(Declaration):
    """The declaration of an operator, a function or a constant of expressions."""

    arguments: int
    """The count of arguments; 0 for a constant."""
    flat: bool = False
    """True if the derivative is taken as 0 everywhere."""
    operator: bool = False
    """Written between or before its arguments, by its aliases, and not called by its name."""
    singularities: tuple[Singularity, ...] = ()
    chooses: bool = False
    """True if the first argument chooses one of the others, and the rest does not count."""
    takes_literals: bool = False
    """True if `build` takes the literal numbers among the arguments as well."""
    plain: Callable[..., Node] | None = None
    """Builds the textbook form for formulas, where exact derivatives need a longer one."""


vocabulary: Registry[Word] = Registry("word", "vocabulary", Word, within="functions")


def _where_zero(x: Array) -> Array:
    mask: Array = x == 0.0
    return mask


def _where_negative(x: Array) -> Array:
    mask: Array = x < 0.0
    return mask


def _where_whole(x: Array) -> Array:
    mask: Array = x == np.floor(x)
    return mask


def _kink(where: Callable[..., Array], text: str) -> Singularity:
    return Singularity("kink", where, text)


def _jump(where: Callable[..., Array], text: str) -> Singularity:
    return Singularity("jump", where, text)


def _logarithm(name: str) -> tuple[Singularity, ...]:
    return (
        Singularity("domain", _where_negative, f"{name} takes numbers above 0"),
        Singularity("pole", _where_zero, f"{name} of 0 is minus infinity"),
    )


def _inverse(name: str) -> tuple[Singularity, ...]:
    return (
        Singularity("domain", lambda x: np.abs(x) > 1.0, f"{name} takes numbers from -1 to 1"),
        Singularity("vertical", lambda x: np.abs(x) == 1.0, f"the slope of {name} is infinite at -1 and 1"),
    )


# --- operators ----------------------------------------------------------------------------------


@vocabulary.declare("add", en="The sum.", zh="和。", arguments=2, operator=True, aliases=("+",), latex="a + b")
def add(a: Node, b: Node) -> Node:
    return a + b


@vocabulary.declare(
    "subtract", en="The difference.", zh="差。", arguments=2, operator=True, aliases=("-", "−"), latex="a - b"
)
def subtract(a: Node, b: Node) -> Node:
    return a - b


@vocabulary.declare(
    "multiply",
    en="The product; the sign may be left out, as in 2x, 2(x + 1) or x sin(x). It then binds as * does: 1/2x is x/2.",
    zh="积;乘号可省略,如 2x、2(x + 1)、x sin(x)。省略时优先级与 * 相同:1/2x 即 x/2。",
    arguments=2,
    operator=True,
    aliases=("*", "·", "×"),
    latex="a b",
)
def multiply(a: Node, b: Node) -> Node:
    return a * b


@vocabulary.declare(
    "divide",
    en="The quotient.",
    zh="商。",
    arguments=2,
    operator=True,
    aliases=("/", "÷"),
    latex=r"\frac{a}{b}",
    singularities=(
        Singularity("pole", lambda a, b: b == 0.0, "division by 0", lambda a, b: b is not None and b != 0.0),
    ),
)
def divide(a: Node, b: Node) -> Node:
    return a / b


def _comparison(
    name: str,
    sign: str,
    aliases: tuple[str, ...],
    en: str,
    zh: str,
    build: Callable[..., Node],
    plain: Callable[..., Node],
) -> None:
    vocabulary.declare(
        name,
        en=f"1 where a is {en} b, else 0; its slope is taken as 0 everywhere. Comparisons bind least.",
        zh=f"a {zh} b 时取 1,否则取 0;斜率处处取 0。比较运算的优先级最低。",
        arguments=2,
        operator=True,
        aliases=aliases,
        latex=f"[a {sign} b]",
        flat=True,
        singularities=(_jump(lambda a, b: a == b, "a comparison jumps where both sides are equal"),),
        plain=plain,
    )(build)


def _above(a: Node, b: Node) -> Node:
    # A comparison in the graph would turn NaN into a number.
    difference = a - b
    value = operations.maximum(operations.sign(difference), 0.0)
    return operations.with_slope(difference, value, 0.0 * value)


def _at_least(a: Node, b: Node) -> Node:
    return step(a - b)


_comparison("less", "<", ("<",), "below", "小于", lambda a, b: _above(b, a), operations.less)
_comparison("greater", ">", (">",), "above", "大于", _above, operations.greater)
_comparison(
    "less_equal", r"\le", ("<=", "≤"), "not above", "小于等于", lambda a, b: _at_least(b, a), operations.less_equal
)
_comparison("greater_equal", r"\ge", (">=", "≥"), "not below", "大于等于", _at_least, operations.greater_equal)


@vocabulary.declare(
    "negate", en="The negative: -x^2 is -(x^2).", zh="相反数:-x^2 即 -(x^2)。", arguments=1, operator=True, latex="-a"
)
def negate(a: Node) -> Node:
    return -a


def _only_for(exponents: Callable[[float], bool], bases: Callable[[float], bool]) -> Callable[..., bool]:
    """Return the `harmless` test of a power: true if a literal base or exponent rules the singularity out."""
    return lambda a, b: (b is not None and not exponents(b)) or (a is not None and not bases(a))


MOST_FACTORS = 8
"""Whole exponents up to this one are products: twenty times faster than the general power, and nearly as exact."""


@vocabulary.declare(
    "power",
    en="a to the b, also written **; a^b^c is a^(b^c). Powers of negative numbers are real for whole exponents only; "
    "0^0 is 1.",
    zh="a 的 b 次幂,也可写作 **;a^b^c 即 a^(b^c)。负数仅整数次幂为实数;0^0 取 1。",
    arguments=2,
    operator=True,
    aliases=("^", "**"),
    latex="a^b",
    takes_literals=True,
    singularities=(
        Singularity(
            "domain",
            lambda a, b: (a < 0.0) & ~_where_whole(b),
            "a negative number has whole powers only",
            _only_for(lambda b: not b.is_integer(), lambda a: a < 0.0),
        ),
        Singularity(
            "pole",
            lambda a, b: (a == 0.0) & (b < 0.0),
            "0 has no negative powers",
            _only_for(lambda b: b < 0.0, lambda a: a == 0.0),
        ),
        Singularity(
            "vertical",
            lambda a, b: (a == 0.0) & (b > 0.0) & (b < 1.0),
            "the slope of a root is infinite at 0",
            _only_for(lambda b: 0.0 < b < 1.0, lambda a: a == 0.0),
        ),
    ),
)
def raise_to(a: Node, b: Node, base: float | None, exponent: float | None) -> Node:
    if base == math.e:
        return operations.exp(b)
    if exponent is None or abs(exponent) > MOST_FACTORS:
        return operations.power(a, b)
    if exponent == 0.5:
        return operations.sqrt(a)
    if not exponent.is_integer():
        return operations.power(a, b)
    if exponent < 0.0:
        return 1.0 / _whole_power(a, int(-exponent))
    return _whole_power(a, int(exponent))


def _whole_power(a: Node, exponent: int) -> Node:
    if exponent == 0:
        return a.graph.constant(1.0)
    result: Node | None = None
    while exponent:
        if exponent & 1:
            result = a if result is None else result * a
        exponent >>= 1
        if exponent:
            a = operations.square(a)
    assert result is not None
    return result


# --- constants ----------------------------------------------------------------------------------


@vocabulary.declare(
    "pi", en="The circumference of a circle of diameter 1.", zh="圆周率。", arguments=0, aliases=("π",), latex=r"\pi"
)
def pi() -> float:
    return math.pi


@vocabulary.declare("e", en="The base of the natural logarithm.", zh="自然对数的底。", arguments=0, latex="e")
def e() -> float:
    return math.e


# --- functions ----------------------------------------------------------------------------------


def _function(
    name: str, build: Callable[..., Node], latex: str, en: str, zh: str, *singularities: Singularity, **details: Any
) -> None:
    details = {"arguments": 1, "singularities": singularities, **details}
    vocabulary.declare(name, en=en, zh=zh, latex=latex, **details)(build)


_function("exp", operations.exp, "e^a", "The exponential function.", "指数函数。")
_function("expm1", operations.expm1, "e^a - 1", "exp(a) - 1, exact near 0.", "exp(a) - 1,在 0 附近保持精度。")
_function("log", operations.log, r"\ln a", "The natural logarithm.", "自然对数。", *_logarithm("log"), aliases=("ln",))
_function(
    "log1p",
    operations.log1p,
    r"\ln(1 + a)",
    "log(1 + a), exact near 0.",
    "log(1 + a),在 0 附近保持精度。",
    Singularity("domain", lambda x: x < -1.0, "log1p takes numbers above -1"),
    Singularity("pole", lambda x: x == -1.0, "log1p of -1 is minus infinity"),
)
_function("log2", operations.log2, r"\log_2 a", "The logarithm to base 2.", "以 2 为底的对数。", *_logarithm("log2"))
_function(
    "log10",
    operations.log10,
    r"\log_{10} a",
    "The logarithm to base 10.",
    "以 10 为底的对数。",
    *_logarithm("log10"),
    aliases=("lg",),
)
_function(
    "sqrt",
    operations.sqrt,
    r"\sqrt{a}",
    "The square root.",
    "平方根。",
    Singularity("domain", _where_negative, "sqrt takes numbers from 0 on"),
    Singularity("vertical", _where_zero, "the slope of sqrt is infinite at 0"),
    aliases=("√",),
)
_function(
    "cbrt",
    operations.cbrt,
    r"\sqrt[3]{a}",
    "The cube root, also of negative numbers.",
    "立方根,负数亦可。",
    Singularity("vertical", _where_zero, "the slope of cbrt is infinite at 0"),
)
_function("sin", operations.sin, r"\sin a", "The sine; angles are in radians.", "正弦;角以弧度计。")
_function("cos", operations.cos, r"\cos a", "The cosine.", "余弦。")
_function("tan", operations.tan, r"\tan a", "The tangent.", "正切。")
_function("asin", operations.asin, r"\arcsin a", "The arc sine.", "反正弦。", *_inverse("asin"), aliases=("arcsin",))
_function("acos", operations.acos, r"\arccos a", "The arc cosine.", "反余弦。", *_inverse("acos"), aliases=("arccos",))
_function("atan", operations.atan, r"\arctan a", "The arc tangent.", "反正切。", aliases=("arctan",))
_function(
    "atan2",
    operations.atan2,
    r"\operatorname{atan2}(a, b)",
    "The angle of the point (b, a).",
    "点 (b, a) 的辐角。",
    _kink(lambda a, b: (a == 0.0) & (b == 0.0), "the point (0, 0) has no angle"),
    _jump(lambda a, b: (a == 0.0) & (b < 0.0), "atan2 jumps from pi to -pi where a is 0 and b is negative"),
    arguments=2,
    aliases=("arctan2",),
)
_function("sinh", operations.sinh, r"\sinh a", "The hyperbolic sine.", "双曲正弦。")
_function("cosh", operations.cosh, r"\cosh a", "The hyperbolic cosine.", "双曲余弦。")


def _plain_tanh(a: Node) -> Node:
    value = operations.tanh(a)
    return operations.with_slope(a, value, 1.0 - operations.square(value))


_function("tanh", operations.tanh, r"\tanh a", "The hyperbolic tangent.", "双曲正切。", plain=_plain_tanh)
_function(
    "asinh", operations.asinh, r"\operatorname{arsinh} a", "The inverse of sinh.", "反双曲正弦。", aliases=("arsinh",)
)
_function(
    "acosh",
    operations.acosh,
    r"\operatorname{arcosh} a",
    "The inverse of cosh.",
    "反双曲余弦。",
    Singularity("domain", lambda x: x < 1.0, "acosh takes numbers from 1 on"),
    Singularity("vertical", lambda x: x == 1.0, "the slope of acosh is infinite at 1"),
    aliases=("arcosh",),
)
_function(
    "atanh",
    operations.atanh,
    r"\operatorname{artanh} a",
    "The inverse of tanh.",
    "反双曲正切。",
    Singularity("domain", lambda x: np.abs(x) > 1.0, "atanh takes numbers between -1 and 1"),
    Singularity("pole", lambda x: np.abs(x) == 1.0, "atanh is infinite at -1 and 1"),
    aliases=("artanh",),
)


def _plain_sigmoid(a: Node) -> Node:
    value = operations.sigmoid(a)
    return operations.with_slope(a, value, value * (1.0 - value))


_function(
    "sigmoid",
    operations.sigmoid,
    r"\sigma(a)",
    "The logistic function 1/(1 + exp(-a)).",
    "逻辑斯谛函数 1/(1 + exp(-a))。",
    aliases=("logistic",),
    plain=_plain_sigmoid,
)


@vocabulary.declare(
    "relu",
    en="a where it is positive, else 0; its slope at 0 is taken as 0.",
    zh="正数取自身,否则取 0;在 0 处斜率取 0。",
    arguments=1,
    latex=r"\max(0, a)",
    singularities=(_kink(_where_zero, "relu has a kink at 0; its slope is taken as 0 there"),),
)
def relu(a: Node) -> Node:
    return operations.with_slope(a, operations.maximum(a, 0.0), operations.greater(a, 0.0))


_function(
    "softplus", operations.softplus, r"\ln(1 + e^a)", "A smooth relu: log(1 + exp(a)).", "平滑的 relu:log(1 + exp(a))。"
)
_function("erf", operations.erf, r"\operatorname{erf} a", "The error function.", "误差函数。")
_function(
    "erfc",
    operations.erfc,
    r"\operatorname{erfc} a",
    "1 - erf(a), exact for large a.",
    "1 - erf(a),对大的 a 保持精度。",
)


_function(
    "gaussian",
    operations.gaussian,
    "e^{-a^2}",
    "The bell curve exp(-a^2).",
    "钟形曲线 exp(-a^2)。",
    plain=lambda a: operations.exp(-operations.square(a)),
)


@vocabulary.declare(
    "step",
    en="1 from 0 on, else 0; its slope is taken as 0 everywhere.",
    zh="大于等于 0 取 1,否则取 0;斜率处处取 0。",
    arguments=1,
    aliases=("heaviside",),
    latex=r"[a \ge 0]",
    flat=True,
    singularities=(_jump(_where_zero, "step jumps at 0"),),
    plain=lambda a: operations.greater_equal(a, 0.0),
)
def step(a: Node) -> Node:
    # A comparison would turn NaN into a number.
    value = operations.maximum(operations.sign(operations.sign(a) + 0.5), 0.0)
    return operations.with_slope(a, value, 0.0 * value)


@vocabulary.declare(
    "where",
    en="where(a, b, c) is b where the condition a is not 0, else c, as in where(x > 0, sqrt(x), 0). What is not chosen "
    "needs no value.",
    zh="where(a, b, c):条件 a 不为 0 时取 b,否则取 c,如 where(x > 0, sqrt(x), 0)。未选中的一方可以没有值。",
    arguments=3,
    aliases=("if",),
    chooses=True,
    latex=r"\begin{cases} b & a \ne 0 \\ c & \text{else} \end{cases}",
    singularities=(
        _jump(lambda a, b, c: (a == 0.0) & (b != c), "where jumps at 0 of its condition, if its values differ there"),
        _kink(lambda a, b, c: (a == 0.0) & (b == c), "where has a kink at 0 of its condition"),
    ),
)
def where(a: Node, b: Node, c: Node) -> Node:
    return operations.where(a, b, c)


_function(
    "sign",
    operations.sign,
    r"\operatorname{sgn} a",
    "-1, 0 or 1; its slope is taken as 0 everywhere.",
    "取 -1、0 或 1;斜率处处取 0。",
    _jump(_where_zero, "sign jumps at 0"),
    aliases=("sgn",),
    flat=True,
)
_function(
    "abs",
    operations.absolute,
    "|a|",
    "The absolute value, also written |a|; its slope at 0 is taken as 0.",
    "绝对值,也可写作 |a|;在 0 处斜率取 0。",
    _kink(_where_zero, "abs has a kink at 0; its slope is taken as 0 there"),
)
_function(
    "floor",
    operations.floor,
    r"\lfloor a \rfloor",
    "The largest integer that is not above a.",
    "不大于 a 的最大整数。",
    _jump(_where_whole, "floor jumps at whole numbers"),
    flat=True,
)
_function(
    "ceil",
    operations.ceil,
    r"\lceil a \rceil",
    "The least integer that is not below a.",
    "不小于 a 的最小整数。",
    _jump(_where_whole, "ceil jumps at whole numbers"),
    flat=True,
)
_function(
    "round",
    operations.rint,
    r"\operatorname{round} a",
    "The nearest integer; of two, the even one.",
    "最近的整数;恰在中间时取偶数。",
    _jump(lambda x: x - np.floor(x) == 0.5, "round jumps between whole numbers"),
    flat=True,
)
_function(
    "min",
    operations.minimum,
    r"\min(a, b)",
    "The smaller of two; where they are equal, each has half of the slope.",
    "两数中较小者;相等时斜率各取一半。",
    _kink(lambda a, b: a == b, "min has a kink where its arguments are equal; each has half of the slope"),
    arguments=2,
)
_function(
    "max",
    operations.maximum,
    r"\max(a, b)",
    "The larger of two; where they are equal, each has half of the slope.",
    "两数中较大者;相等时斜率各取一半。",
    _kink(lambda a, b: a == b, "max has a kink where its arguments are equal; each has half of the slope"),
    arguments=2,
)
vocabulary.declare(
    "pow",
    en="pow(a, b) is a^b.",
    zh="pow(a, b) 即 a^b。",
    arguments=2,
    latex="a^b",
    takes_literals=True,
    singularities=vocabulary["power"].singularities,
)(raise_to)


@vocabulary.declare(
    "mod",
    en="The remainder a - b floor(a/b).",
    zh="余数 a - b floor(a/b)。",
    arguments=2,
    latex=r"a \bmod b",
    singularities=(
        Singularity("pole", lambda a, b: b == 0.0, "there is no remainder of a division by 0"),
        _jump(lambda a, b: (b != 0.0) & (np.mod(a, b) == 0.0), "mod jumps where its arguments divide"),
    ),
    plain=lambda a, b: a - b * operations.floor(a / b),
)
def mod(a: Node, b: Node) -> Node:
    return operations.mod(a, b)


@vocabulary.declare(
    "hypot",
    en="The length of the vector (a, b).",
    zh="向量 (a, b) 的长度。",
    arguments=2,
    latex=r"\sqrt{a^2 + b^2}",
    singularities=(_kink(lambda a, b: (a == 0.0) & (b == 0.0), "a length has a kink at 0"),),
    plain=lambda a, b: operations.sqrt(operations.square(a) + operations.square(b)),
)
def hypot(a: Node, b: Node) -> Node:
    return operations.hypot(a, b)
