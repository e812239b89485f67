"""How a known mistake is declared: once, with its rule, for the search, the catalogue and the tests.

A mistake is a wrong gradient that people are known to compute. Its rule says how the wrong numbers come about, so that
they can be recognised:

* a factor gives numbers that the right gradient, or a part of it, is multiplied by;
* an arrangement undoes what was done to the entries of a tensor;
* a rule changes how the backward graph is made, in one layer or in several;
* data are other samples or parameters for the right graph;
* noise is no mistake: the gradient is right as far as the way of computing it allows;
* a function rule changes the derivative of a typed expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.engine.declarations import Declaration, Registry
from service.engine.graph.differentiate import NO_CHANGES, Changes
from service.engine.graph.ir import Node
from service.engine.texts import LANGUAGES, Sentence, telling

KINDS = ("factor", "arrangement", "rule", "data", "noise", "function")
Path = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mistake(Declaration):
    """A known mistake, or another reason why a claim differs from the exact gradient."""

    kind: str
    what: Sentence
    """What was done."""
    change: Sentence
    """What to change in the code."""
    changes: Callable[..., Any] | None = None
    """Changes of the backward graph that make this mistake, beside its rule."""
    example: Mapping[str, str] = field(default_factory=dict)
    """`wrong` and `right`, a line of NumPy each."""


mistakes: Registry[Mistake] = Registry("mistake", "mistakes", Mistake, answers_only=True)
"""The table of all mistakes."""


def declare(
    code: str, kind: str, what: Sentence, change: Sentence, *, wrong: str = "", right: str = "", **details: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function below is the rule of the mistake called `code`."""
    assert kind in KINDS
    english, chinese = (telling(language)(what) for language in LANGUAGES)
    example = {"wrong": wrong, "right": right} if wrong else {}
    return mistakes.declare(
        code, en=english, zh=chinese, kind=kind, what=what, change=change, example=example, **details
    )


@dataclass(frozen=True)
class Change:
    """One way to make a mistake of the backward graph."""

    layers: tuple[str, ...] = ()
    """The layers in which it is made; none: everywhere."""
    changes: Changes = NO_CHANGES
    total: Node | None = None
    """What is differentiated in place of the data loss."""
    own: Mapping[str, Changes] = field(default_factory=dict)
    """What is changed for the parameters of a layer alone, and not for what the layer passes on."""
    spared: Mapping[str, Changes] = field(default_factory=dict)
    """Which of `changes` do not concern the parameters of a layer."""
    penalties: Mapping[Path, Node] = field(default_factory=dict)
    """Gradients of the penalties, where they are others than the right ones."""
    form: str = ""
    """Which of several ways to make the mistake; what is made in all layers is of one form."""
    scale: float = 1.0
    """A factor of the gradient of the data loss, which leaves that of the penalties as it is."""

    def __and__(self, other: Change) -> Change | None:
        """Both; None where they do not fit together."""
        totals = {each.total for each in (self, other) if each.total is not None}
        own, its = self.changes, other.changes
        pairs = (
            *((own.rules, its.rules), (own.jumps, its.jumps)),
            *((self.own, other.own), (self.penalties, other.penalties)),
        )
        clash = any(not set(one).isdisjoint(two) for one, two in pairs)
        if clash or len(totals) > 1:
            return None
        return Change(
            tuple(dict.fromkeys((*self.layers, *other.layers))),
            own | its,
            self.total if self.total is not None else other.total,
            {**self.own, **other.own},
            {**self.spared, **other.spared},
            {**self.penalties, **other.penalties},
            self.form,
            self.scale * other.scale,
        )


@dataclass(frozen=True)
class Counts:
    """What a mean may be taken over."""

    samples: int
    outputs: int
    """Numbers that the network gives for a sample."""
    reduction: str
    averages: bool
    """Whether the loss of a sample is a mean over its outputs."""
    learning_rate: float | None = None
