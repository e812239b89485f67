"""The seam between a computation in parts and the processes that compute the parts, shaped like `concurrent.futures`.

A computation submits functions of modules with arguments that pickle can write, so that the executor may be this
process, a pool of processes or a cluster. What it computes must not depend on the executor, nor on its width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from service.engine.watch import Watch

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

LOOK_SECONDS = 0.05
"""Seconds that a wait for a future takes between two looks at the watch."""


class Future(Protocol[T_co]):
    """The result of a submitted function, which may not be there yet."""

    def result(self, timeout: float | None = None) -> T_co:
        """Wait for the result. Raises what the function raised, and `TimeoutError` after `timeout` seconds."""

    def done(self) -> bool:
        """Return whether `result` would not wait."""

    def cancel(self) -> bool:
        """Give the function up if it did not begin yet. Return whether it was given up."""


class Executor(Protocol):
    """One or more processes that compute submitted functions."""

    @property
    def width(self) -> int:
        """The number of functions that it may compute at once."""

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """Compute `function(*arguments)` at some time. The function belongs to a module, by its name there. It gets the
        value of an argument that `share` returned."""

    def share(self, name: str, value: Any, *, keep: bool = True) -> Any:
        """Return an argument for `submit` that stands for `value`. `name` says what the value is: equal names mean
        equal values, so that a value travels at most once to each process. Without `keep` the processes forget it as
        soon as this argument is gone: no later computation will have a value of this name."""


class Computed(Generic[T]):
    """A future that is there: the result of a function that was computed at once, or what it raised."""

    def __init__(self, function: Callable[..., T], *arguments: Any) -> None:
        self._error: Exception | None = None
        try:
            self._value = function(*arguments)
        except Exception as error:
            self._error = error

    def result(self, timeout: float | None = None) -> T:
        if self._error is not None:
            raise self._error
        return self._value

    def done(self) -> bool:
        return True

    def cancel(self) -> bool:
        return False


class InTurn:
    """An executor that computes each function when it is submitted, in the thread that submits it."""

    width = 1

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        return Computed(function, *arguments)

    def share(self, name: str, value: Any, *, keep: bool = True) -> Any:
        return value


def results_of(futures: Iterable[Future[T]], watch: Watch | None = None) -> list[T]:
    """Wait for all futures, and return their results in order. Raises what the first of them raised, or what `watch`
    raises while it waits; the others are then cancelled."""
    waiting = list(futures)
    try:
        return [_waited(future, watch) for future in waiting]
    except BaseException:
        for future in waiting:
            future.cancel()
        raise


def _waited(future: Future[T], watch: Watch | None) -> T:
    if watch is None:
        return future.result()
    while not future.done():
        watch.look()
        try:
            return future.result(LOOK_SECONDS)
        except TimeoutError:
            if future.done():
                return future.result()  # the function itself may raise TimeoutError
    return future.result()
