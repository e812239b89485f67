"""Compiling once for all who ask for the same."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol, TypeVar

from service.engine.cache import LeastRecentlyUsed
from service.engine.graph.ir import sealing
from service.engine.graph.plan import WorkspacePool
from service.engine.limits import Limits


class Compiled(Protocol):
    """The compiled form of a task."""

    @property
    def weight(self) -> int:
        """How much of a cache it takes."""


C = TypeVar("C", bound=Compiled)
C_co = TypeVar("C_co", bound=Compiled, covariant=True)


class Compilable(Protocol[C_co]):
    """A task that knows how to compile itself."""

    @property
    def key(self) -> Hashable:
        """Equal for equal tasks of one class."""

    def compile(self, limits: Limits, pool: WorkspacePool | None = None) -> C_co:
        """Build and plan; runs borrow their memory from `pool`.

        Raises `InvalidRequest` when the task does not fit together, `LimitExceeded` when it would cost too much.
        """


class Compiler:
    """Compiles tasks of every kind and remembers what it made of them. For many threads."""

    def __init__(self, limits: Limits, capacity: int, pool: WorkspacePool | None = None) -> None:
        """`capacity` bounds the weight of all that is remembered."""
        self._limits, self._pool = limits, pool
        self._known: LeastRecentlyUsed[Hashable, Any] = LeastRecentlyUsed(capacity, lambda _, made: made.weight)

    def __call__(self, task: Compilable[C]) -> C:
        """The compiled task: the same object for equal tasks. Raises as `Compilable.compile` does."""
        found: C = self._known.get((type(task), task.key), lambda: self._compile(task))
        return found

    def _compile(self, task: Compilable[C]) -> C:
        with sealing():
            return task.compile(self._limits, self._pool)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def weight(self) -> int:
        """The weight of everything that is remembered."""
        return self._known.weight
