"""Compiling once for all who ask for the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

from service.engine.cache import LeastRecentlyUsed
from service.engine.graph.ir import sealing
from service.engine.graph.plan import WorkspacePool
from service.engine.limits import Limits
from service.engine.watch import Watch


class Compiled(Protocol):
    """The compiled form of a task."""

    @property
    def weight(self) -> int:
        """How many nodes it keeps, or what takes as much."""


NODE_BYTES = 600
"""What a compiled task keeps for each of its nodes. Measured: 350 to 550, and what lies between the objects."""
TASK_BYTES = 12 * 1024
"""What it keeps whatever its size."""

C = TypeVar("C", bound=Compiled)
C_co = TypeVar("C_co", bound=Compiled, covariant=True)


class Compilable(Protocol[C_co]):
    """A task that knows how to compile itself."""

    @property
    def key(self) -> Hashable:
        """Equal for equal tasks of one class."""

    @property
    def effort(self) -> float:
        """Nodes of graphs that are made when it is compiled, roughly; cheap to tell."""

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> C_co:
        """Build and plan; runs borrow their memory from `pool`.

        Raises `InvalidRequest` when the task does not fit together, `LimitExceeded` when it would cost too much,
        and what `watch` raises.
        """


class Compiler:
    """Compiles tasks of every kind and remembers what it made of them. For many threads."""

    def __init__(
        self,
        limits: Limits,
        capacity: int,
        pool: WorkspacePool | None = None,
        after: Callable[[int], object] = lambda weight: None,
    ) -> None:
        """`capacity` bounds the bytes of all that is remembered. `after` is told the weight of each compiled task."""
        self._limits, self._pool, self._after = limits, pool, after
        self._watch: Watch | None = None
        self._before: Callable[[float], None] | None = None
        self._known: LeastRecentlyUsed[Hashable, Any] = LeastRecentlyUsed(
            capacity, lambda _, made: TASK_BYTES + NODE_BYTES * made.weight
        )

    def __call__(self, task: Compilable[C]) -> C:
        """The compiled task: the same object for equal tasks. Raises as `Compilable.compile` does."""
        found: C = self._known.get((type(task), task.key), lambda: self._make(task))
        return found

    def _make(self, task: Compilable[C]) -> C:
        if self._before is not None:
            self._before(task.effort)
        with sealing():
            made = task.compile(self._limits, self._pool, self._watch)
        self._after(made.weight)
        return made

    def watched(self, watch: Watch, before: Callable[[float], None] | None = None) -> Compiler:
        """The same compiler for one request: it looks at `watch` while it compiles, and raises what that raises.

        `before` is told the effort of each task that is not known yet, before it is compiled.
        """
        compiler = Compiler.__new__(Compiler)
        compiler._limits, compiler._pool, compiler._after = self._limits, self._pool, self._after
        compiler._known = self._known
        compiler._watch, compiler._before = watch, before
        return compiler

    def __len__(self) -> int:
        return len(self._known)

    @property
    def weight(self) -> int:
        """Bytes of everything that is remembered."""
        return self._known.weight

    @property
    def nbytes(self) -> int:
        """As `weight`."""
        return self._known.weight

    def shrink(self, nbytes: int) -> None:
        """Forget so many bytes, what was not used for longest first, or everything."""
        self._known.shrink(nbytes)
