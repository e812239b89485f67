"""The kinds of work that a run may compute, each declared once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from schemas.functions import DescendRequest, LoadedDescend
from schemas.requests import RequestSchema
from schemas.sweeps import LoadedSweep, SweepRequest
from schemas.training import CompareRequest, LoadedCompare, LoadedTrain, TrainRequest
from service.api.comparisons import ComparisonWork
from service.api.context import Context
from service.api.descents import DescendWork
from service.api.long_work import LongWork
from service.api.network_request import in_terms_of
from service.api.sweeps import SweepWork
from service.api.training import TrainingWork

State = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunKind:
    """One kind of run."""

    name: str
    about: str
    """One sentence that says what a run of this kind computes, and what its records are."""
    takes: RequestSchema[Any]
    """The schema of the request."""
    works: Callable[[Any, Context, State | None, int], LongWork]
    """`works(request, context, state, more_steps)` returns the work for a loaded request. It goes on from the state, if
    there is one, and makes so many steps more than the request asks for. It raises as the endpoint of the request does.
    """
    result_size: float = 1.5
    """The bytes of a result, at most and roughly, as a multiple of those of the state at that time."""
    extendable: bool = False
    """Whether a run that has ended may be given more steps."""
    network_at: tuple[str, ...] | None = None
    """The path to the object that may name a stored network, in the request; None: none may."""

    def end_size(self, state_size: int) -> float:
        """Return about how many bytes the state and the result take together, from those of the state."""
        return state_size * (1.0 + self.result_size)


def _train(request: LoadedTrain, context: Context, state: State | None, more_steps: int) -> LongWork:
    with in_terms_of(request, may_have_shards=True):
        return TrainingWork(request, context, state, more_steps)


def _compare(request: LoadedCompare, context: Context, state: State | None, more_steps: int) -> LongWork:
    with in_terms_of(request, may_have_shards=True):
        return ComparisonWork(request, context, state)


def _descend(request: LoadedDescend, context: Context, state: State | None, more_steps: int) -> LongWork:
    return DescendWork(request, context, state)


def _sweep(request: LoadedSweep, context: Context, state: State | None, more_steps: int) -> LongWork:
    return SweepWork(request, context, state)


KINDS: Mapping[str, RunKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            RunKind(
                name="train",
                about="One training, as /v1/train makes it; its records are the steps that the trace asks for.",
                takes=TrainRequest(),
                works=_train,
                result_size=2.0,
                extendable=True,
                network_at=(),
            ),
            RunKind(
                name="compare",
                about="Trainings of one network with several optimizers, rates and seeds, as /v1/train/compare "
                "makes them; its records are the rows of the table, each when its training has ended.",
                takes=CompareRequest(),
                works=_compare,
                network_at=(),
            ),
            RunKind(
                name="descend",
                about="Descents on a typed function, as /v1/functions/descend makes them; its records are the points "
                "of all descents after the steps that the trace asks for.",
                takes=DescendRequest(),
                works=_descend,
                result_size=4.0,
            ),
            RunKind(
                name="sweep",
                about="A training for each combination of values that are put into a request of /v1/train; its records "
                "are the ends of the trainings, and its result has the best combinations.",
                takes=SweepRequest(),
                works=_sweep,
                network_at=("request",),
            ),
        )
    }
)
"""All kinds by their names."""
