"""Random expressions that mean something: every word, every operator, every way to write a product, odd names."""

import random
from collections.abc import Iterator

from service.engine.errors import InvalidRequest
from service.engine.functions.expression import parse
from service.engine.functions.vocabulary import vocabulary

NAMES = (
    *("x", "x", "y", "y", "z", "t", "f", "g", "E", "x1", "x_1", "theta2", "alpha", "sigma", "Gamma", "lambda", "α"),
    *("velocity", "x_max", "rate1", "learning_rate", "sigma_1", "x_alpha", "pi_2", "a1b_2_", "omicron", "v10"),
)
NUMBERS = (
    *("0", "1", "2", "2", "3", "4", "5", "7", "10", "12", "0.5", "0.25", ".5", "2.", "1.50", "3.14159", "007", "1e3"),
    *("2.5e-3", "1E+05", "1.e2", "1e-7", "6.02e23", "1e15", "1e-20", "123456789", "0.1234567890123", "98765.4321"),
)
CONSTANTS = ("pi", "e", "π")
_CALLS = [word for word in vocabulary if word.arguments and not word.operator]
_EXPONENTS = ("2", "2", "3", "4", "10", "-1", "-2", "0.5", "1.5", "-0.5", "(1/2)", "(1/3)", "(2/3)", "(-3/2)", "0", "1")
_COMPARISONS = ("<", ">", "<=", ">=", "≤", "≥")
_INFIX = ("+", "+", " + ", "-", " - ", " - ", "*", "*", " * ", "·", "/", "/", " / ", " ", " ")


def random_expressions(seed: int, count: int) -> Iterator[str]:
    """Yield `count` texts that can be parsed, the same for the same seed."""
    chance = random.Random(seed)
    while count:
        names = [chance.choice(NAMES) for _ in range(chance.choice((1, 1, 2, 2, 3, 4)))]
        text = _random(chance, names, chance.choice((1, 2, 2, 3, 3, 4, 5)))
        try:
            expression = parse(text)
        except InvalidRequest:
            continue  # two numbers side by side, as in x 2
        if expression.variables:
            count -= 1
            yield text


def _random(chance: random.Random, names: list[str], depth: int) -> str:
    if not depth or chance.random() < 0.1:
        return _leaf(chance, names)
    kind = chance.random()
    if kind < 0.37:
        left, right = [_operand(chance, names, depth - 1) for _ in range(2)]
        return f"{left}{chance.choice(_INFIX)}{right}"
    if kind < 0.55:
        base = _operand(chance, names, depth - 1)
        sign = chance.choice(("^", "^", "**"))
        if chance.random() < 0.2:
            return base + chance.choice(("²", "³"))
        if chance.random() < 0.3:
            return f"{base}{sign}{_operand(chance, names, depth - 2 if depth > 1 else 0)}"
        return f"{base}{sign}{chance.choice(_EXPONENTS)}"
    if kind < 0.62:
        return chance.choice("--+") + _operand(chance, names, depth - 1)
    if kind < 0.66:
        return f"|{_random(chance, names, depth - 1)}|"
    if kind < 0.68:
        left, right = [_random(chance, names, depth - 1) for _ in range(2)]
        return f"(({left}) {chance.choice(_COMPARISONS)} ({right}))"
    if kind < 0.70:
        return f"({_random(chance, names, depth - 1)})({_random(chance, names, depth - 1)})"
    if kind < 0.74:
        return f"{_leaf(chance, names)}({_random(chance, names, depth - 1)})"
    word = chance.choice(_CALLS)
    name = chance.choice((word.name, *word.aliases))
    return f"{name}({', '.join(_random(chance, names, depth - 1) for _ in range(word.arguments))})"


def _operand(chance: random.Random, names: list[str], depth: int) -> str:
    """Draw a part, mostly in parentheses."""
    text = _random(chance, names, depth)
    return text if chance.random() < 0.3 else f"({text})"


def _leaf(chance: random.Random, names: list[str]) -> str:
    kind = chance.random()
    if kind < 0.62:
        return chance.choice(names)
    if kind < 0.9:
        return chance.choice(NUMBERS)
    if kind < 0.95:
        return chance.choice(("2", "3", "0.5")) + chance.choice(names)
    return chance.choice(CONSTANTS)
