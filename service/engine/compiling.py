"""A cache of compiled tasks: equal tasks of different requests are compiled once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

from service.engine.cache import LeastRecentlyUsed
from service.engine.graph.ir import sealing
from service.engine.graph.plan import WorkspacePool
from service.engine.limits import Limits
from service.engine.watch import Watch


class Compiled(Protocol):
    """The result of compiling a task, as far as the cache needs to know it."""

    @property
    def weight(self) -> int:
        """The number of graph nodes that the result keeps in memory, from which its bytes are estimated."""


COMPILED_NODE_BYTES = 600
"""The memory of a compiled task for each of its nodes. Measured: 350 to 550, and the gaps between the objects."""
TASK_BYTES = 12 * 1024
"""The memory of a compiled task of any size."""

C = TypeVar("C", bound=Compiled)
C_co = TypeVar("C_co", bound=Compiled, covariant=True)


class Compilable(Protocol[C_co]):
    """A task that can compile itself."""

    @property
    def key(self) -> Hashable:
        """The identity of the task: equal for equal tasks of one class."""

    @property
    def effort(self) -> float:
        """A rough number of the graph nodes that compiling makes, known before compiling; cheap to compute."""

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> C_co:
        """Build and plan the computation; its runs borrow memory from `pool`. Raises `InvalidRequest` when the parts of
        the task do not fit, `LimitExceeded` when it would cost too much, and what `watch` raises."""


class Compiler:
    """A cache of compiled tasks of every kind, for many threads."""

    def __init__(
        self,
        limits: Limits,
        capacity: int,
        pool: WorkspacePool | None = None,
        after: Callable[[int], object] = lambda weight: None,
    ) -> None:
        """`capacity` bounds the bytes of all compiled tasks. `after` is called with the weight of each new one."""
        self._limits, self._pool, self._after = limits, pool, after
        self._watch: Watch | None = None
        self._before: Callable[[float], None] | None = None
        self._known: LeastRecentlyUsed[Hashable, Any] = LeastRecentlyUsed(
            capacity, lambda _, made: TASK_BYTES + COMPILED_NODE_BYTES * made.weight
        )

    def __call__(self, task: Compilable[C]) -> C:
        """Return the compiled task: the same object for equal tasks. Raises as `Compilable.compile` does."""
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
        """Return a compiler for one request, with the same cache.

        While it compiles it looks at `watch`, and raises what `watch` raises. `before` is called with the effort of
        each task that is not in the cache yet, before it is compiled.
        """
        compiler = Compiler.__new__(Compiler)
        compiler._limits, compiler._pool, compiler._after = self._limits, self._pool, self._after
        compiler._known = self._known
        compiler._watch, compiler._before = watch, before
        return compiler

    def __len__(self) -> int:
        return len(self._known)

    @property
    def nbytes(self) -> int:
        """The bytes of all compiled tasks."""
        return self._known.weight

    def shrink(self, nbytes: int) -> None:
        """Drop the compiled tasks unused for longest until at least this many bytes are free, or all are dropped."""
        self._known.shrink(nbytes)
