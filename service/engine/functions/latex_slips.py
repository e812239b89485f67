"""LaTeX in expressions: a formula as papers have it, written in the notation of this service."""

from __future__ import annotations

import re
from collections.abc import Collection

from service.engine.functions.foreign_calls import DERIVED
from service.engine.functions.tokens import LETTERS


class NotAFormula(Exception):
    """A LaTeX command has no equivalent in an expression; the message is a sentence about it, or empty."""


_SUMMED = "there are no integrals and no sums over an index; write the terms out"
_REFUSED = {
    **dict.fromkeys(("sum", "prod", "int", "iint", "oint", "lim"), _SUMMED),
    **dict.fromkeys(("partial", "nabla", "prime", "dot", "ddot"), DERIVED),
    "infty": "infinity is no number; try a large one",
}
_SIGNS = {
    **dict.fromkeys(("cdot", "times", "ast", "star", "bullet"), "*"),
    "div": "/",
    **dict.fromkeys(("mapsto", "to", "rightarrow"), "->"),
    **dict.fromkeys(("le", "leq", "leqslant"), "<="),
    **dict.fromkeys(("ge", "geq", "geqslant"), ">="),
    "lt": "<",
    "gt": ">",
    **dict.fromkeys(("lvert", "rvert", "vert", "mid", "lVert", "rVert", "Vert", "|"), "|"),
    **dict.fromkeys(("lbrace", "lbrack", "{"), "("),
    **dict.fromkeys(("rbrace", "rbrack", "}", "rfloor", "rceil"), ")"),
    "lfloor": "floor(",
    "lceil": "ceil(",
    **dict.fromkeys(("bmod", "mod"), "mod"),
    **dict.fromkeys(("left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "limits"), ""),
    **dict.fromkeys(("displaystyle", "textstyle", "quad", "qquad", ",", ";", "!", ":", " "), " "),
}  # fmt: skip
_NAMES = ("mathrm", "operatorname", "operatorname*", "text", "textrm", "mathit", "mathbf", "mathsf", "boldsymbol")
_VARIANTS = {"varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi", "varrho": "rho", "varsigma": "sigma"}
_TOKEN = re.compile(r"\\([A-Za-z]+\*?|.)|([A-Za-z]+)|([0-9]*\.?[0-9]+)|(\s+)|(.)")
_FRAME = re.compile(r"^\s*(?:\\begin\{(equation|align|gather|math|displaymath)\*?\}(.*)\\end\{\1\*?\}"
                    r"|\\\((.*)\\\)|\\\[(.*)\\\]|\$+([^$]*)\$+)\s*$", re.DOTALL)  # fmt: skip
_CASES = re.compile(r"\\begin\{cases\}(.*?)\\end\{cases\}", re.DOTALL)
_LOG = re.compile(r"\blog\s*_(?:\(?(2|10)\)?)(?!\d)")
_DERIVATIVE = re.compile(r"\\[dt]?frac\s*\{\s*(?:d|\\partial|\\mathrm\{d\})(?:\^\{?\d\}?)?\s*[A-Za-z]?\s*\}"
                         r"\s*\{\s*(?:d|\\partial|\\mathrm\{d\})\s*[A-Za-z](?:\^\{?\d\}?)?\s*\}\s*")  # fmt: skip


def looks_like_latex(text: str) -> bool:
    """Return whether a text has marks of LaTeX: a backslash, a dollar sign around it, or braces behind ^ or _."""
    return "\\" in text or bool(re.search(r"[\^_]\s*\{|^\s*\$.*\$\s*$", text))


def without_latex(text: str, functions: Collection[str]) -> tuple[str, str]:
    """Return a formula of LaTeX in the notation of this service, and a sentence about it if it has a derivative.

    Raises `NotAFormula` for commands without an equivalent.
    """
    framed = _FRAME.match(text)
    if framed:
        text = next(part for part in framed.groups()[1:] if part is not None)
    text = _CASES.sub(lambda match: _choice(match.group(1)), text)
    text, derivatives = _DERIVATIVE.subn("", text)
    reader = _Reader(text, {*functions, *LETTERS.split(), "pi", "e"})
    found = reader.group("")
    found = re.sub(r"\s+", " ", _LOG.sub(r"log\1", found))
    found = re.sub(r"\( | \)", lambda match: match.group().strip(), found).strip()
    return found, DERIVED if derivatives else ""


def _choice(rows: str) -> str:
    """Return nested choices for the rows `value & condition` of a `cases`."""
    pairs = []
    for row in rows.split(r"\\"):
        value, _, condition = row.partition("&")
        if value.strip():
            condition = re.sub(r"\\(?:text|mathrm)\{\s*(?:if|for|when)\s*\}|\b(?:if|for|when)\b", "", condition)
            pairs.append((value.strip(), condition.strip(" ,\n")))
    if not pairs:
        raise NotAFormula
    whole = pairs[-1][0]
    for value, condition in reversed(pairs[:-1]):
        whole = rf"\operatorname{{where}}({condition}, {value}, {whole})"
    return whole


class _Reader:
    """A reader of LaTeX that goes through the tokens once."""

    def __init__(self, text: str, known: Collection[str]) -> None:
        self.tokens = list(_TOKEN.finditer(text))
        self.at = 0
        self.known = known

    def group(self, end: str) -> str:
        """Read up to the mark `end`, which is empty for the end of the text; return plain notation."""
        parts: list[str] = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if end and token.group() == end:
                self.at += 1
                return "".join(parts).strip()
            part = self.part()
            if parts and parts[-1][-1:].isalnum() and part[:1].isalnum() and token.group(1):
                parts.append(" ")
            parts.append(part)
        if end:
            raise NotAFormula
        return "".join(parts)

    def part(self) -> str:
        """Read one token with its arguments."""
        token = self.tokens[self.at]
        self.at += 1
        command, word, number, space, mark = token.groups()
        if command:
            return self.command(command)
        if word and 1 < len(word) < 4 and word not in self.known and self.following() not in ("(", "_"):
            return " ".join(word)  # a product
        if word or number:
            return word or number
        if space:
            return " "
        if mark == "{":
            return f"({self.group('}')})"
        if mark in "^_":
            return self.script(mark)
        return " " if mark in "~&" else mark

    def script(self, mark: str) -> str:
        """Read what stands behind ^ or _."""
        content = self.argument()
        if mark == "_":
            if not re.fullmatch(r"\w+", content):
                raise NotAFormula
            return "_" + content
        if re.fullmatch(r"\d+|[A-Za-z]", content) or content in self.known:
            return "^" + content
        return f"^({content})"

    def argument(self) -> str:
        """Read the argument of a command: a group, or one token, of which a number or a word gives one character."""
        if not self.next():
            raise NotAFormula
        token = self.tokens[self.at]
        self.at += 1
        if token.group() == "{":
            return self.group("}")
        if token.group(1):
            return self.command(token.group(1))
        first = token.group()[0]
        if len(token.group()) > 1:
            rest = _TOKEN.match(token.group(), 1)
            assert rest is not None
            self.at -= 1
            self.tokens[self.at] = rest
        return first

    def command(self, name: str) -> str:
        """Read the arguments of a command. Raise `NotAFormula` if it has no equivalent."""
        if name in _REFUSED:
            raise NotAFormula(_REFUSED[name])
        if name in _SIGNS:
            if name in ("left", "right") and self.next() == ".":  # a delimiter that shows nothing
                self.at += 1
            return _SIGNS[name]
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            above = self.argument()
            return f"({above})/({self.argument()})"
        if name == "sqrt":
            return self.root()
        if name in _NAMES:
            return self.argument().strip()
        name = _VARIANTS.get(name, name)
        if name in self.known or name.lower() in self.known:
            return name
        raise NotAFormula

    def following(self) -> str:
        """Return the next token; empty at the end."""
        return self.tokens[self.at].group() if self.at < len(self.tokens) else ""

    def next(self) -> str:
        """Skip blanks, and return the next token; empty at the end."""
        while self.at < len(self.tokens) and self.tokens[self.at].group(4):
            self.at += 1
        return self.following()

    def root(self) -> str:
        """Read the degree of a root, if it has one, and what is under it."""
        degree = ""
        if self.next() == "[":
            self.at += 1
            degree = self.group("]")
        inside = self.argument()
        if degree in ("", "2"):
            return f"sqrt({inside})"
        return f"cbrt({inside})" if degree == "3" else f"({inside})^(1/({degree}))"
