"""The executor of one process, and waiting for futures."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from service.engine.errors import Abandoned
from service.engine.parallel import InTurn, results_of


class Leaving:
    """A watch whose client leaves at the third look."""

    def __init__(self) -> None:
        self.looks = 0

    def look(self) -> float:
        self.looks += 1
        if self.looks == 3:
            raise Abandoned
        return 0.0


def test_functions_are_computed_in_the_order_of_their_submission() -> None:
    seen: list[int] = []
    executor = InTurn()
    futures = [executor.submit(seen.append, place) for place in range(3)]
    assert seen == [0, 1, 2]
    assert results_of(futures) == [None] * 3
    assert not futures[0].cancel()


def test_a_shared_value_arrives_as_it_is() -> None:
    executor = InTurn()
    value = [1.5]
    assert executor.submit(id, executor.share("one", value)).result() == id(value)


def test_what_a_function_raises_comes_with_its_result() -> None:
    future = InTurn().submit(int, "no number")
    assert future.done()
    with pytest.raises(ValueError, match="no number"):
        results_of([future])


def test_a_client_that_leaves_cancels_what_did_not_begin() -> None:
    go = Event()
    with ThreadPoolExecutor(1) as threads:
        futures: list[Future[bool]] = [threads.submit(go.wait, 30.0) for _ in range(3)]
        with pytest.raises(Abandoned):
            results_of(futures, Leaving())
        assert [future.cancelled() for future in futures] == [False, True, True]
        go.set()


def test_a_function_may_raise_timeout_error_itself() -> None:
    def slow() -> None:
        raise TimeoutError("of the function")

    with ThreadPoolExecutor(1) as threads, pytest.raises(TimeoutError, match="of the function"):
        results_of([threads.submit(slow)], Leaving())
