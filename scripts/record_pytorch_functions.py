"""Record PyTorch's values, gradients and Hessians of expressions, for tests/engine/functions/test_vocabulary.py.

    OPENBLAS_NUM_THREADS=1 python scripts/record_pytorch_functions.py

Needs the extra `oracle`. Walks the vocabulary of expressions: whatever is declared there needs a PyTorch formula here,
or the script stops and names it. Each word is recorded by itself at the points of tests/engine/functions/samples.py and
at some of its kinks, and in the company of others in `EXPRESSIONS`. Everything is computed in float64.

`SKIPPED` says where the service and PyTorch differ on purpose: nothing is recorded there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from recording import write

from service.engine.functions.expression import Expression, parse
from service.engine.functions.vocabulary import vocabulary
from tests.engine.functions.samples import SAMPLES, VARIABLES, without_samples, written

Tensor = torch.Tensor
Point = tuple[float, ...]


def constant(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def cube_root(x: Tensor) -> Tensor:
    """Compute a cube root, which PyTorch lacks."""
    return torch.sign(x) * torch.abs(x) ** (1.0 / 3.0)


def softplus(x: Tensor) -> Tensor:
    """Compute softplus without PyTorch's threshold, beyond which it answers x."""
    return torch.nn.functional.softplus(x, threshold=700.0)


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "negate": torch.neg,
    "power": torch.pow,
    "pi": lambda: constant(math.pi),
    "e": lambda: constant(math.e),
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "log2": torch.log2,
    "log10": torch.log10,
    "sqrt": torch.sqrt,
    "cbrt": cube_root,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "atan2": torch.atan2,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "softplus": softplus,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "gaussian": lambda x: torch.exp(-(x * x)),
    "step": lambda x: (x >= 0.0).double(),
    "sign": torch.sign,
    "abs": torch.abs,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "min": torch.minimum,
    "max": torch.maximum,
    "pow": torch.pow,
    "mod": torch.remainder,
    "hypot": torch.hypot,
    "less": lambda a, b: (a < b).double(),
    "greater": lambda a, b: (a > b).double(),
    "less_equal": lambda a, b: (a <= b).double(),
    "greater_equal": lambda a, b: (a >= b).double(),
    "where": lambda a, b, c: torch.where(a != 0, b, c),
}

KINKS: dict[str, list[Point]] = {
    "abs": [(0.0,)],
    "relu": [(0.0,)],
    "sign": [(0.0,)],
    "step": [(0.0,)],
    "floor": [(2.0,), (-1.0,)],
    "ceil": [(2.0,), (-1.0,)],
    "round": [(0.5,), (1.5,), (-2.5,)],
    "min": [(1.5, 1.5)],
    "max": [(-0.5, -0.5)],
    "mod": [(4.0, 2.0), (-6.0, 1.5)],
}
"""Points at which the service follows PyTorch's conventions."""

SKIPPED = [
    {
        "where": "power, pow: x^y at x = 0",
        "why": "PyTorch takes the slopes of 0^0 as 0; the service answers what the formula comes to, and says so",
    },
    {
        "where": "power, pow: second derivatives of x^y at y = 0",
        "why": "PyTorch takes the slope of x^0 by x as 0 before it differentiates by y: its Hessian is not symmetric",
    },
    {
        "where": "sqrt, cbrt, asin, acos, acosh, atanh, log and powers at the ends of their domains; hypot and atan2 "
        "at (0, 0)",
        "why": "derivatives are not finite there, in both",
    },
]

EXPRESSIONS: dict[str, list[Point]] = {
    "(1 - x)^2 + 100*(y - x^2)^2": [(-1.2, 1.0), (0.5, 2.0), (1.0, 1.0)],
    "(x^2 + y - 11)^2 + (x + y^2 - 7)^2": [(3.0, 2.0), (-2.8, 3.1), (0.1, -4.0)],
    "x^2*sin(x)": [(2.5,), (-4.0,), (0.1,)],
    "x^4 - 3x^2 + x": [(2.0,), (-1.3,), (0.17,)],
    "-(cos(x)^2 + cos(y)^2)^2": [(1.0, -0.5), (0.3, 2.0)],
    "x*exp(-(x^2 + y^2))": [(0.5, 0.5), (-1.2, 0.1)],
    "sin(x*y) + cos(x - y)": [(1.3, 0.4), (-2.0, 5.0)],
    "exp(x*y)/(1 + exp(x))": [(0.3, -1.2), (2.0, 1.0)],
    "log(x^2 + y^2 + 1)": [(0.0, 0.0), (3.0, -4.0), (1e-3, 2e-3)],
    "sqrt(x^2 + y^2)": [(3.0, 4.0), (-0.1, 0.2)],
    "hypot(x - 1, y + 2)^3": [(3.0, 4.0), (0.9, -1.8)],
    "atan2(y, x)*x": [(1.0, 2.0), (-1.0, 0.5), (-0.3, -0.7)],
    "x^y": [(2.0, 3.0), (0.5, -1.5), (7.0, 0.25)],
    "x^y^2": [(1.5, 1.2), (0.7, -0.4)],
    "(x + y)^-3": [(1.0, 0.5), (-2.0, 0.3)],
    "x^2.5 + y^0.5": [(1.7, 0.3), (4.0, 9.0)],
    "2^x - x^3 + x^7/5040": [(1.1,), (-3.0,), (6.0,)],
    "x^64 + y^65 + x^100": [(1.05, 0.9), (-0.98, -1.01)],
    "x^-1 + x^-2 - x^-7": [(0.8,), (-1.3,)],
    "pow(abs(x), 1/3) + cbrt(y)": [(2.0, -3.0), (-0.5, 0.2)],
    "max(x, y)*min(x, y)": [(1.0, 2.0), (2.0, -1.0), (1.5, 1.5)],
    "max(0, x) + 2*max(0, -y)": [(1.0, -2.0), (-1.0, 2.0)],
    "|x - y| + |x + y|^3": [(1.0, 3.0), (-2.0, 0.5), (0.0, 2.0)],
    "relu(x)^2 + softplus(y)": [(1.5, -30.0), (-0.5, 2.0), (0.3, 25.0)],
    "sigmoid(x*y - 1)": [(0.5, 0.5), (3.0, -2.0)],
    "tanh(x)^2*tanh(y/2)": [(0.4, 1.0), (-1.5, 3.0)],
    "log1p(exp(-x)) + log1p(x^2)": [(0.7,), (-2.0,), (5.0,)],
    "expm1(x)/x": [(0.5,), (-0.7,), (3.0,)],
    "erf(x)*erfc(y)": [(0.5, 0.2), (-1.5, 2.5), (2.8, -0.3)],
    "gaussian(x - y) - gaussian(x + y)/2": [(0.3, 0.4), (1.2, -0.9)],
    "asin(x/3) + acos(y/4)*atan(x*y)": [(1.0, 2.0), (-2.5, 3.1)],
    "asinh(x)*acosh(y) + atanh(x/9)": [(2.0, 3.0), (-4.0, 1.1)],
    "sinh(x)/cosh(y) - tan(x/4)": [(1.0, 0.5), (-2.0, 1.5)],
    "log2(x)*log10(y) - ln(x*y)": [(3.0, 7.0), (0.2, 0.05)],
    "mod(x, 2)*y + floor(y)*x": [(3.7, 1.5), (-0.7, -2.2)],
    "step(x)*x^2 + sign(y)*y^3 + round(x)*y": [(1.3, -0.4), (-1.3, 0.4)],
    "e^(pi*x/4) + pi^y": [(0.5, 1.5), (-1.0, -0.3)],
    "1/(x - y) + x/(y*y) - y/x": [(2.0, 0.5), (-1.0, 3.0)],
    "x/(1 + y/(1 + x/(1 + y)))": [(0.5, 0.7), (2.0, 3.0)],
    "(1 + (x + y + 1)^2*(19 - 14x + 3x^2 - 14y + 6x*y + 3y^2))"
    "*(30 + (2x - 3y)^2*(18 - 32x + 12x^2 + 48y - 36x*y + 27y^2))": [(0.0, -1.0), (1.1, 0.3), (-1.5, 1.9)],
    "-20*exp(-0.2*sqrt((x^2 + y^2)/2)) - exp((cos(2*pi*x) + cos(2*pi*y))/2) + 20 + e": [(0.4, -0.3), (1.5, 1.7)],
    "where(x > y, x^2*y, sin(y) - x)": [(1.3, 0.4), (-1.3, 0.4)],
    "if(x < 1, if(y <= 0, x*y, exp(x)), y^3) + (x >= y)*x": [(0.3, -0.4), (0.3, 0.4), (2.0, 1.5), (1.2, 3.0)],
    "sin(sin(sin(sin(x + y))))": [(0.3, 0.9), (2.0, -4.0)],
    "x*y*z + x^2*z - y*z^3": [(1.0, 2.0, 3.0), (-0.5, 0.25, 4.0)],
    "log(exp(x) + exp(y) + exp(z))": [(1.0, 2.0, 3.0), (-5.0, 0.5, 0.25)],
    "(x + 10y)^2 + 5*(z - w)^2 + (y - 2z)^4 + 10*(x - w)^4": [(3.0, -1.0, 0.5, 1.0), (0.1, 0.2, 0.3, 0.4)],
}


def value_of(expression: Expression, variables: Sequence[Tensor]) -> Tensor:
    by_name = dict(zip(expression.variables, variables, strict=True))
    found: list[Tensor] = []
    for step in expression.steps:
        if step.word == "number":
            found.append(constant(float(step.text)))
        elif step.word == "variable":
            found.append(by_name[step.text])
        else:
            found.append(FORMULAS[step.word](*[found[place] for place in step.operands]))
    return found[-1]


def slopes_of(value: Tensor, variables: Sequence[Tensor]) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(x) for x in variables]
    return list(torch.autograd.grad(value, variables, create_graph=True, allow_unused=True, materialize_grads=True))


def record(text: str, names: Sequence[str], points: Sequence[Point]) -> dict[str, Any]:
    expression = parse(text, names)
    answers = []
    for point in points:
        variables = [constant(number).requires_grad_() for number in point]
        value = value_of(expression, variables)
        gradient = slopes_of(value, variables)
        hessian = [[entry.item() for entry in slopes_of(slope, variables)] for slope in gradient]
        answer = {"point": point, "value": value.item(), "gradient": [x.item() for x in gradient], "hessian": hessian}
        numbers = [answer["value"], *answer["gradient"], *(x for row in hessian for x in row)]
        assert all(map(math.isfinite, numbers)), (text, point)
        answers.append(answer)
    return {"expression": text, "variables": list(names), "answers": answers}


def main() -> None:
    torch.set_num_threads(1)
    assert not without_samples(), f"add to tests/engine/functions/samples.py: {without_samples()}"
    missing = sorted({word.name for word in vocabulary} ^ set(FORMULAS))
    assert not missing, f"add to FORMULAS: {missing}"
    words = {
        word.name: record(written(word), VARIABLES[: word.arguments], [*SAMPLES[word.name], *KINKS.get(word.name, ())])
        for word in vocabulary
    }
    expressions = [record(text, "xyzw"[: len(points[0])], points) for text, points in EXPRESSIONS.items()]
    count = f"{len(words)} words, {len(expressions)} expressions"
    facts = {"torch": torch.__version__, "skipped": SKIPPED, "words": words}
    write("pytorch/functions.json", "expressions", expressions, count, **facts)


if __name__ == "__main__":
    main()
