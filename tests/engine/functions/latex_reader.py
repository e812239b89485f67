"""A strict reader of the LaTeX that formulas are printed in: what a textbook's reader would see, or an error.

It knows nothing of how formulas are printed. A superscript belongs to the atom, the closing parenthesis or the name of
a function just before it. What a careful reader could take in two ways is an error: two superscripts, two signs or two
numbers side by side, a number before a fraction of numbers, a product after a slash, a remainder inside a sum or a
product, an argument without parentheses that something follows, a parenthesis after a name that could be a function's.
"""

import re
from typing import NoReturn, TypeAlias

Tree: TypeAlias = tuple[object, ...]
"""("number", digits), ("symbol", LaTeX), or a word of expressions followed by the trees of its arguments."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?)|(?P<command>\\(?:[A-Za-z]+|.))|(?P<mark>[A-Za-z()\[\]{}|^_,+<>/&-]))"
)
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
)
_LETTERS = frozenset("\\" + name for name in _GREEK.split())
_BARE = {"\\" + name: name for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
_BARE |= {"\\arc" + name: "a" + name for name in ("sin", "cos", "tan")} | {"\\ln": "log"}
_OPERATORS = {"arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh", "sgn": "sign"}
_OPERATORS |= {name: name for name in ("round", "erf", "erfc")}
"""Functions that may have an argument without parentheses and an exponent on their names."""
_FENCES = {"|": ("|", "abs"), r"\lfloor": (r"\rfloor", "floor"), r"\lceil": (r"\rceil", "ceil")}
_COMPARISONS = {"<": "less", ">": "greater", r"\le": "less_equal", r"\ge": "greater_equal"}
_COULD_BE_CALLED = re.compile(r"[fgh](?![a-z])|\\sigma|\\mathrm")
_ENDS = (
    "",
    "+",
    "-",
    ",",
    ")",
    "]",
    "}",
    ">",
    r"\ge",
    "/",
    r"\right",
    r"\rfloor",
    r"\rceil",
    r"\bmod",
    "<",
    r"\le",
    r"\ne",
    "&",
    r"\\",
    r"\end",
)


class Misprint(ValueError):
    """LaTeX that cannot be set, or that can be read in two ways."""


def read(latex: str) -> Tree:
    """Read the meaning of a formula."""
    reader = _Reader(latex)
    tree = reader.total()
    if reader.next:
        reader.fail("something is left")
    return tree


class _Reader:
    def __init__(self, latex: str) -> None:
        self.tokens: list[str] = []
        at = 0
        while latex[at:].strip():
            match = _TOKEN.match(latex, at)
            if match is None:
                raise Misprint(f"unknown character at {latex[at:]!r}")
            self.tokens.append(match[0].strip())
            at = match.end()
        self.at = 0
        self.bars = False
        """True if the innermost brackets are bars, so that another bar closes them."""
        self.single = True
        """True if the last product had one factor."""
        self.latex = latex

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.next
        if wanted and token not in wanted:
            self.fail(f"expected {' or '.join(wanted)}")
        self.at += 1
        return token

    def ends(self) -> bool:
        """Return whether a product is over."""
        return self.next in _ENDS or (self.next == "|" and self.bars)

    def fail(self, why: str) -> NoReturn:
        raise Misprint(f"{why} at {' '.join(self.tokens[self.at : self.at + 8])!r} of {self.latex}")

    def total(self) -> Tree:
        """Read a sum, a remainder or a side of a comparison: all between two brackets."""
        if self.next == "-":
            self.take()
            tree: Tree = ("negate", self.product())
        else:
            tree = self.product()
            if self.next == r"\bmod":
                if not self.single:
                    self.fail("a remainder of a product")
                self.take()
                return ("mod", tree, self.factor(""))
        while self.next in ("+", "-"):
            word = "add" if self.take() == "+" else "subtract"
            tree = (word, tree, self.product())
        return tree

    def product(self) -> Tree:
        tree, single = self.factor(""), True
        while not self.ends():
            before, single = self.tokens[self.at - 1], False
            dot = self.next == r"\cdot"
            if dot or self.next == r"\,":
                self.take()
            elif self.next[0].isdecimal():
                self.fail("a number beside a factor")
            tree = ("multiply", tree, self.factor("" if dot else before))
        if self.next == "/":
            self.take()
            tree, single = ("divide", tree, self.factor("")), False
            if not self.ends() or self.next == "/":
                self.fail("a product after a slash")
        self.single = single
        return tree

    def factor(self, before: str) -> Tree:
        """Read an atom and its exponent; `before` is the token beside it, without a dot between them."""
        token, start = self.next, self.at
        if before[:1].isdecimal() and token == r"\frac" and "".join(self.tokens[self.at + 2 :])[:1].isdecimal():
            self.fail("a mixed number")
        tree = self.atom()
        raised = self.next == "^"
        if raised:
            if token == r"\frac":
                self.fail("a power of a fraction")
            tree = ("power", tree, self.exponent())
        if tree[0] == "symbol" or (raised and tree[1][0] == "symbol"):  # type: ignore[index]
            name = "".join(self.tokens[start : self.at])
            if _COULD_BE_CALLED.match(name) and self.opens():
                self.fail("a name that could be a function's before a parenthesis")
        return tree

    def opens(self) -> bool:
        """Return whether a parenthesis follows."""
        following = self.tokens[self.at : self.at + 3]
        if following[:1] == [r"\,"]:
            following = following[1:]
        return following[:1] == ["("] or following[:2] == [r"\left", "("]

    def exponent(self) -> Tree:
        self.take("^")
        tree = self.script()
        if self.next == "^":
            self.fail("a double superscript")
        return tree

    def script(self) -> Tree:
        if self.next == "{":
            return self.within("{", "}")
        token = self.take()
        if len(token) > 1:
            self.at -= 1
            self.fail("an exponent without braces")
        return ("number" if token.isdecimal() else "symbol", token)

    def within(self, opening: str, closing: str) -> Tree:
        self.take(opening)
        outer, self.bars = self.bars, opening == "|"
        tree = self.total()
        self.bars = outer
        self.take(closing)
        return tree

    def atom(self) -> Tree:
        token = self.next
        if token[:1].isdecimal():
            return ("number", self.take())
        if token == "(":
            return self.within("(", ")")
        if token == "[":
            return self.comparison()
        if token == r"\left":
            return self.fenced()
        if token == r"\begin":
            return self.cases()
        if token in _FENCES:
            closing, word = _FENCES[token]
            return (word, self.within(token, closing))
        if token == r"\frac":
            self.take()
            return ("divide", self.within("{", "}"), self.within("{", "}"))
        if token == r"\sqrt":
            self.take()
            if self.next == "[":
                for mark in "[3]":
                    self.take(mark)
                return ("cbrt", self.within("{", "}"))
            return ("sqrt", self.within("{", "}"))
        if token in _BARE:
            return self.function(_BARE[self.take()])
        if token == r"\log":
            self.take()
            self.take("_")
            base = self.braced() if self.next == "{" else self.take()
            if base not in ("2", "10"):
                self.fail("a logarithm to an unknown base")
            return self.function("log" + base)
        if token in (r"\max", r"\min"):
            return self.call(self.take()[1:])
        if token == r"\operatorname":
            self.take()
            name = self.braced()
            if name in _OPERATORS:
                return self.function(_OPERATORS[name])
            if name != "atan2":
                self.fail("an unknown function")
            return self.call(name)
        symbol = self.symbol()
        return self.call("sigmoid") if symbol[1] == r"\sigma" and self.opens() else symbol

    def fenced(self) -> Tree:
        r"""Read the text between \left and \right."""
        self.take(r"\left")
        opening = self.take("(", *_FENCES)
        closing, word = (")", "") if opening == "(" else _FENCES[opening]
        outer, self.bars = self.bars, False
        tree = self.total()
        self.bars = outer
        self.take(r"\right")
        self.take(closing)
        return (word, tree) if word else tree

    def comparison(self) -> Tree:
        self.take("[")
        outer, self.bars = self.bars, False
        left = self.total()
        word = _COMPARISONS[self.take(*_COMPARISONS)]
        tree: Tree = (word, left, self.total())
        self.bars = outer
        self.take("]")
        return tree

    def cases(self) -> Tree:
        """Read a choice of two values; the condition of the first is a comparison, or that a value is not 0."""
        self.take(r"\begin")
        if self.braced() != "cases":
            self.fail("an unknown environment")
        outer, self.bars = self.bars, False
        first = self.total()
        self.take("&")
        condition = self.total()
        if self.next == r"\ne":
            self.take()
            self.take("0")
        else:
            condition = (_COMPARISONS[self.take(*_COMPARISONS)], condition, self.total())
        self.take(r"\\")
        second = self.total()
        self.take("&")
        self.take(r"\text")
        if self.braced() != "else":
            self.fail("an unknown condition")
        self.take(r"\end")
        self.braced()
        self.bars = outer
        return ("where", condition, first, second)

    def call(self, word: str) -> Tree:
        brackets = self.take("(", r"\left")
        if brackets != "(":
            self.take("(")
        outer, self.bars = self.bars, False
        arguments = [self.total()]
        while self.next == ",":
            self.take()
            arguments.append(self.total())
        self.bars = outer
        if brackets != "(":
            self.take(r"\right")
        self.take(")")
        return (word, *arguments)

    def function(self, word: str) -> Tree:
        """Read a function; without parentheses its argument is a number, a name, or a number and a name."""
        exponent = self.exponent() if self.next == "^" else None
        if exponent is not None and not (exponent[0] == "number" and str(exponent[1]).isdecimal()):
            self.fail("an exponent of a function's name that is no number")
        if self.opens():
            tree = self.call(word)
        else:
            parts = [("number", self.take())] if self.next[:1].isdecimal() else []
            if self.next == r"\,":
                self.take()
            if not parts or self.next[:1].isalpha() or self.next in (*_LETTERS, r"\mathrm"):
                parts.append(self.symbol())
            tree = (word, parts[0] if len(parts) == 1 else ("multiply", *parts))
            following = self.tokens[self.at + 1 :][:1] if self.next == r"\," else [self.next]
            if not self.ends() and following[0] not in (*_BARE, r"\log", r"\operatorname"):
                self.fail("what follows an argument without parentheses")
        return tree if exponent is None else ("power", tree, exponent)

    def symbol(self) -> Tree:
        token = self.take()
        if token == r"\mathrm":
            token += "{" + self.braced() + "}"
        elif not (token in _LETTERS or (len(token) == 1 and token.isalpha())):
            self.at -= 1
            self.fail("unknown")
        if self.next == "_":
            self.take()
            braces = self.next == "{"
            index = self.braced() if braces else self.take()
            if not braces and len(index) > 1:
                self.fail("an index without braces")
            token += f"_{{{index}}}" if braces else f"_{index}"
        return ("symbol", token)

    def braced(self) -> str:
        """Read the text between braces."""
        self.take("{")
        text = ""
        while self.next not in ("}", ""):
            text += self.take()
        self.take("}")
        return text
