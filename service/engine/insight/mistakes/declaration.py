"""The declaration of a known mistake, with its rule, for the search, the catalogue and the tests.

A mistake is a wrong gradient that people are known to compute. Its rule makes the wrong numbers, so that the search can
recognise them:

* a factor gives numbers that multiply the right gradient, or a part of it;
* an arrangement undoes a change of the entries' order in a tensor;
* a rule changes the making of the backward graph, in one layer or in several;
* data are other samples or parameters for the right graph;
* noise is no mistake: the gradient is as right as its computation allows;
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
    """The declaration of a known mistake, or of another reason why a claim differs from the exact gradient."""

    kind: str
    what: Sentence
    """The sentence that names the mistake."""
    change: Sentence
    """The sentence with the change of the code."""
    changes: Callable[..., Any] | None = None
    """Returns further changes of the backward graph that make this mistake."""
    example: Mapping[str, str] = field(default_factory=dict)
    """`wrong` and `right`, a line of NumPy each."""


mistakes: Registry[Mistake] = Registry("mistake", "mistakes", Mistake, answers_only=True)
"""The table of all mistakes."""


def declare(
    code: str, kind: str = "rule", *, wrong: str = "", right: str = "", **details: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that declares a mistake, with the decorated function as its rule. `code` names the mistake,
    also in the texts of its sentences; `wrong` and `right` are a line of NumPy each."""
    assert kind in KINDS
    what, change = (Sentence(f"mistake.{code}.{part}", {}) for part in ("what", "change"))
    english, chinese = (telling(language)(what) for language in LANGUAGES)
    example = {"wrong": wrong, "right": right} if wrong else {}
    return mistakes.declare(
        code, en=english, zh=chinese, kind=kind, what=what, change=change, example=example, **details
    )


@dataclass(frozen=True)
class Change:
    """One way to make a mistake: what changes in the backward graph."""

    layers: tuple[str, ...] = ()
    """The layers in which it is made; none: everywhere."""
    changes: Changes = NO_CHANGES
    total: Node | None = None
    """The node to differentiate in place of the data loss."""
    own: Mapping[str, Changes] = field(default_factory=dict)
    """Changes for the parameters of a layer alone, and not for the gradient that the layer passes on."""
    spared: Mapping[str, Changes] = field(default_factory=dict)
    """Changes that leave the parameters of a layer alone."""
    penalties: Mapping[Path, Node] = field(default_factory=dict)
    """Gradients of the penalties, where they are others than the right ones."""
    form: str = ""
    """The form of the mistake; a mistake in all layers has one form."""
    scale: float = 1.0
    """A factor of the gradient of the data loss alone."""

    def __and__(self, other: Change) -> Change | None:
        """Return a change that makes both mistakes; None where they do not fit together."""
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
    """The counts that a mean may be taken over, rightly or by mistake."""

    samples: int
    outputs: int
    """Numbers that the network gives for a sample."""
    reduction: str
    averages: bool
    """True if the loss of a sample is a mean over its outputs."""
    learning_rate: float | None = None
