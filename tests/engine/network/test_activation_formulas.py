"""The formulas of activations in the catalogue, read as a textbook's reader would, and computed: value and slope.

They are compared also at kinks, where the formula of the slope states the convention.
"""

import math
import re

import numpy as np
import pytest

from service.engine.network.activations import SELU_ALPHA, SELU_SCALE, activations
from tests.engine.functions.formula_values import FLOATS, value_of
from tests.engine.functions.latex_reader import read
from tests.engine.network.test_activations import ELEMENTWISE, name_of, values_of

POINTS = np.array([-7.25, -3.0, -2.5, -1.0, -0.75, -0.5, -0.1, 0.0, 0.2, 0.5, 0.8, 1.0, 2.25, 3.0, 4.5, 6.0, 8.5])
LETTERS = {r"\alpha": "alpha", r"\theta": "threshold", r"\lambda": "threshold"}
"""The option that a letter stands for."""
CONSTANTS = {"selu": {r"\lambda": SELU_SCALE, r"\alpha": SELU_ALPHA}}
UNREAD = {("gelu_tanh", "derivative"): "it has the derivative of u, which only the text explains"}
REWRITTEN = (
    (r"\\tfrac(\d)(\d)", r"\\frac{\1}{\2}"),
    (r"\[\\,(.*?)\\,\]", r"[\1]"),
    (r"\[(\S+) < (\S+) < (\S+)\]", r"[\1 < \2]\\,[\2 < \3]"),
    (r"\\operatorname\{clip\}\(([^,]+),\\? ([^,]+),\\? ([^)]+)\)", r"\\min(\\max(\1, \2), \3)"),
    (r"\\Phi\(x\)", r"\\frac{\\operatorname{erfc}(-x/\\sqrt{2})}{2}"),
    (r"\\varphi\(x\)", r"\\frac{e^{-x^2/2}}{\\sqrt{2\\pi}}"),
)
"""Notation of these formulas in terms of the strict reader of formulas."""


def _cases(found):
    """Return nested choices with two rows each, the last of which needs no condition."""
    rows = [row.split(" & ") for row in found[1].split(r" \\ ")]
    text = rows[-1][0]
    for value, condition in reversed(rows[:-1]):
        within = re.sub(r"^\S+ < (\S+ < \S+)$", r"\1", condition)  # the rows above have the other side
        text = rf"\begin{{cases}} {value} & {within} \\ {text} & \text{{else}} \end{{cases}}"
    return text


def computed(formula, symbols):
    """Return the value of the side of an equation; definitions of letters may follow it."""
    _, _, text = formula.partition(" = ")
    for pattern, replacement in REWRITTEN:
        text = re.sub(pattern, replacement, text)
    text = re.sub(r"\\begin\{cases\} (.*?) \\end\{cases\}", _cases, text)
    main, *definitions = text.split(r",\quad ")
    for definition in definitions:
        letter, _, meaning = definition.partition(" = ")
        if re.fullmatch("[a-z]", letter):  # else the line says more, such as the derivative by a parameter
            symbols = symbols | {letter: float(value_of(read(meaning), FLOATS, symbols))}
    return float(value_of(read(main), FLOATS, symbols))


@pytest.mark.parametrize("part", ["latex", "derivative"])
@pytest.mark.parametrize("declaration", ELEMENTWISE, ids=name_of)
def test_formulas_have_the_values_and_slopes(declaration, part):
    if (declaration.name, part) in UNREAD:
        return
    options = activations.select(declaration.name).options
    letters = {letter: options[option] for letter, option in LETTERS.items() if option in options}
    known = letters | CONSTANTS.get(declaration.name, {}) | {"e": math.e, r"\pi": math.pi}
    expected = values_of(declaration.name, POINTS)[part == "derivative"]
    with np.errstate(all="ignore"):
        found = [computed(getattr(declaration, part), known | {"x": x}) for x in POINTS.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
