"""Texts that nobody types who wants a value: for the tests and for scripts/fuzz_expressions.py."""

import random
from collections.abc import Callable, Iterator

from service.engine.functions.vocabulary import vocabulary

FIXED = (
    "",
    " " * 1999,
    "\0",
    "x\0y",
    "x\ud800",
    "\N{RIGHT-TO-LEFT OVERRIDE}x",
    "\N{ZERO WIDTH SPACE}",
    "x\N{COMBINING ACUTE ACCENT}",
    "x" * 10**6,
    "x" * 2000,
    "1" * 2000,
    "1" * 10**6,
    "." * 2000,
    "1." * 1000,
    "1e" * 1000,
    "1e999999999",
    "1e-999999999",
    "0e999999999",
    "1e" + "9" * 1998,
    "0." + "0" * 1900 + "1e1900",
    "9**9**9**9",
    "9^9^9^9^9^9^9^9",
    "(9^9)^(9^9)^(9^9)",
    "2^" * 999 + "2",
    "2^-" * 666 + "2",
    "2" + "^2" * 49,
    "-" * 100_000 + "x",
    "-" * 1999 + "x",
    "-+" * 999 + "x",
    "(" * 2000,
    "(" * 1000 + ")" * 1000,
    "(" * 999 + "x" + ")" * 999,
    ")" * 2000,
    "()" * 1000,
    "(x)" * 666,
    "|" * 2000,
    "|" * 50 + "x" + "|" * 50,
    "|(" * 500,
    "|x" * 1000,
    "x|" * 1000,
    "sin(" * 500,
    "sin" * 666,
    "max(" * 500,
    "max(x," * 333,
    "max(" + "x," * 900 + "x)",
    "f(" * 1000,
    "," * 2000,
    "x+" * 999 + "x",
    "x" + "²" * 1999,
    "x² " * 666,
    "x" + "² " * 999,
    "π" * 2000,
    "αx" * 1000,
    "f(x)g(x)" * 250,
    " ".join(f"f{number}(x)" for number in range(250)),
    " ".join(f"v{number}" for number in range(400)),
    "xy" * 15 + "(" + "yx" * 15 + ")",
    "__import__('os').getpid()",
    "().__class__.__bases__[0].__subclasses__()",
    "(lambda: 0)()",
    "[x for x in (1,)]",
    "exec('1')",
    "eval(x)",
    "open(x)",
    "print(x) or x",
    "x if x else y",
    "x:=1",
    "f'{x}'",
    "x.real",
    "x; y",
    "x\ny",
    "${x}",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "' OR 1=1 --",
    "%s%n",
    r"\frac{x}{y}",
    "ｘ＋１",
    "٣+٤",
    "½x",
    "Ⅷ",
    "𝑥+𝟏",
)
VALID = (
    "(1 - x)^2 + 100*(y - x^2)^2",
    "x^2 sin(x) - 2|x|^3/exp(-y)",
    "max(x, min(y, 1e-3)) + atan2(x, y)",
    "2πx² + .5y - |x - |y - 1||",
    "-x^-2**y*3.e2(x + 1)(y - 1)",
    "log1p(exp(x))/sqrt(x^2 + y^2 + 1)",
)
TOKENS = (
    *"+-*/^()|,xye.=! 0123456789²³√π_α·",
    "**",
    "1e",
    "1e308",
    "1e400",
    ".5",
    "2.",
    "sin",
    "sin(",
    "max(",
    "pow(",
    "atan2",
    "pi",
    "foo",
    "xy",
    "  ",
    "\t\n",
)
NESTING = (("(", ")"), ("|", "|"), ("sin(", ")"), ("-", ""), ("2^", ""), ("x*(", ")"), ("f(", ")"))


def hostile_expressions(seed: int, count: int) -> Iterator[str]:
    """Yield `count` texts, the same for the same seed; the fixed ones come first."""
    chance = random.Random(seed)
    kinds: tuple[Callable[[random.Random], str], ...] = (
        _soup,
        _soup,
        _mutated,
        _mutated,
        _nested,
        _unicode,
        _names,
        _heavy,
    )
    for position in range(count):
        yield FIXED[position] if position < len(FIXED) else chance.choice(kinds)(chance)


def _length(chance: random.Random, longest: int) -> int:
    """Draw a length: mostly short, at times the longest."""
    return int(longest ** chance.random())


def _soup(chance: random.Random) -> str:
    return "".join(chance.choices(TOKENS, k=_length(chance, 1500)))


def _mutated(chance: random.Random) -> str:
    characters = list(chance.choice("+-*/^ ").join(chance.choices(VALID, k=_length(chance, 40))))
    for _ in range(_length(chance, 8)):
        start = chance.randrange(len(characters) + 1)
        stop = start + chance.choice((0, 0, 1, 1, 3))
        characters[start:stop] = chance.choice((chance.choice(TOKENS), "", "".join(characters[stop : stop + 9])))
    return "".join(characters)


def _nested(chance: random.Random) -> str:
    layers = chance.choices(chance.choices(NESTING, k=3), k=_length(chance, 300))
    closing = "".join(closing for _, closing in reversed(layers))
    return "".join(opening for opening, _ in layers) + "x" + closing[: chance.choice((None, -1, 0))]


def _unicode(chance: random.Random) -> str:
    ranges = ((0, 0x80), (0x80, 0x600), (0x2000, 0x2300), (0xD800, 0xE000), (0xFF00, 0xFFFF), (0x1D400, 0x1D800))
    odd = [chr(chance.randrange(*chance.choice(ranges))) for _ in range(_length(chance, 100))]
    usual = list(chance.choice(VALID))
    for character in odd:
        usual.insert(chance.randrange(len(usual) + 1), character)
    return "".join(usual)


def _names(chance: random.Random) -> str:
    letters = chance.choice(("xy", "sinx", "abcdefghijklmnopqrstuvwxyz_0123456789XYZ"))
    names = ("x" + "".join(chance.choices(letters, k=_length(chance, 34))) for _ in range(_length(chance, 300)))
    return "".join(name + chance.choice((" ", "(x)", "+", "*")) for name in names) + "x"


def _heavy(chance: random.Random) -> str:
    """Draw a valid expression of the greatest length, with even longer derivatives."""
    names = chance.sample("abcdfghijklmnopqrstuvwxyz", chance.choice((1, 2, 3, 20)))
    pool = [*names, "2", "0.3"]
    most = chance.choice((20, 200, 1900))
    shapes = ("{}*{}", "({})*({})", "{} + {}", "({})^({})", "({})/({})", "max({}, {})", "atan2({}, {})", "mod({}, {})")
    functions = [word.name for word in vocabulary if word.arguments == 1 and not word.operator]
    while True:
        if chance.random() < 0.4:
            made = f"{chance.choice(functions)}({chance.choice(pool[-3:])})"
        elif chance.random() < 0.2:
            made = f"({chance.choice(pool[-3:])})^{chance.choice((2, 3, 7, 0.5, -2))}"
        else:
            made = chance.choice(shapes).format(chance.choice(pool), chance.choice(pool[-3:]))
        if len(made) > most:
            return " + ".join(pool)[:2000].rpartition(" + ")[0] or pool[-1]
        pool.append(made)
