"""The account of a worker's memory: who gets it, who waits, who is refused."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from service.capacity import memory
from service.capacity.memory import SMALL, Account, Reservation
from service.problems import Problem
from tests.conftest import wait_for

MEGA = 10**6


class Waiting:
    """A thread that asks for memory and waits until it gets it."""

    def __init__(self, share: Reservation, nbytes: int, told: list[Reservation]) -> None:
        self.share = share
        self.refusal: BaseException | None = None
        self._told = told
        before = share.account.waiting
        self.thread = threading.Thread(target=self._ask, args=(nbytes,), daemon=True)
        self.thread.start()
        wait_for(lambda: share.account.waiting > before or not self.thread.is_alive())

    def _ask(self, nbytes: int) -> None:
        try:
            self.share.need(nbytes)
            self._told.append(self.share)
        except BaseException as error:
            self.refusal = error

    def end(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive()


@dataclass
class Request:
    """A request that may wait for memory."""

    deadline: float = math.inf
    may_wait: bool = True
    look: Callable[[], object] = lambda: None


class Shelf:
    """A cache that can forget any part of its content."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def shrink(self, nbytes: int) -> None:
        self.nbytes -= min(self.nbytes, nbytes)


def refused(ask: Callable[[], None], kind: str) -> Problem:
    with pytest.raises(Problem) as raised:
        ask()
    assert raised.value.kind == kind
    return raised.value


def test_what_is_held_is_the_last_that_was_needed() -> None:
    account = Account(10 * MEGA)
    share = account.reservation()
    for nbytes in (2 * MEGA, 5 * MEGA, MEGA, 10 * MEGA, 0):
        share.need(nbytes)
        assert share.held == account.held == nbytes
    share.need(3 * MEGA)
    share.release()
    share.release()
    assert share.held == account.held == 0


def test_what_is_small_is_not_counted_until_it_grows() -> None:
    account = Account(MEGA)
    full = account.reservation()
    full.need(MEGA)
    share = account.reservation()
    share.need(SMALL)
    assert share.try_need(SMALL)
    assert account.held == MEGA and share.held == 0
    full.release()
    share.need(SMALL + 1)
    assert account.held == SMALL + 1
    share.need(10)
    assert account.held == 10


def test_a_request_alone_gets_everything_there_is_and_no_more() -> None:
    account = Account(MEGA, [Shelf(MEGA)])
    share = account.reservation()
    problem = refused(lambda: share.need(MEGA + 1), "limit-exceeded")
    assert problem.errors[0]["asked"] == MEGA + 1 and problem.errors[0]["allowed"] == [MEGA]
    assert not share.try_need(MEGA + 1)
    share.need(MEGA)
    assert account.held == MEGA and account.cached == 0


def test_caches_give_way_in_order_and_no_more_than_is_needed() -> None:
    shelves = [Shelf(3 * MEGA), Shelf(3 * MEGA)]
    account = Account(10 * MEGA, shelves)
    share = account.reservation()
    share.need(4 * MEGA)
    assert [shelf.nbytes for shelf in shelves] == [3 * MEGA, 3 * MEGA]
    share.need(6 * MEGA)
    assert [shelf.nbytes for shelf in shelves] == [MEGA, 3 * MEGA]
    share.need(8 * MEGA)
    assert [shelf.nbytes for shelf in shelves] == [0, 2 * MEGA]


def test_memory_comes_in_the_order_in_which_the_requests_came() -> None:
    account = Account(10 * MEGA)
    full = account.reservation()
    full.need(10 * MEGA)
    shares = [account.reservation() for _ in range(6)]
    told: list[Reservation] = []
    # They ask in another order than they came; each wants so much that two do not fit together.
    waiting = [Waiting(shares[place], 6 * MEGA, told) for place in (3, 0, 5, 1, 4, 2)]
    assert account.waiting == 6
    full.release()
    for count, share in enumerate(shares, 1):
        wait_for(lambda count=count: len(told) == count)  # type: ignore[misc]
        assert told == shares[:count]
        share.release()
    for each in waiting:
        each.end()
    assert account.held == account.waiting == 0


def test_nobody_overtakes_who_waits_though_it_would_fit() -> None:
    account = Account(10 * MEGA)
    full, large, late = (account.reservation() for _ in range(3))
    full.need(5 * MEGA)
    told: list[Reservation] = []
    first = Waiting(large, 10 * MEGA, told)
    assert not late.try_need(MEGA)
    second = Waiting(late, MEGA, told)
    full.release()
    wait_for(lambda: told == [large])
    assert account.waiting == 1
    large.release()
    first.end()
    second.end()
    assert told == [large, late]


def test_an_older_request_grows_before_younger_ones_get_anything() -> None:
    account = Account(10 * MEGA)
    old, middle, young = (account.reservation() for _ in range(3))
    old.need(MEGA)
    middle.need(8 * MEGA)
    told: list[Reservation] = []
    waits = Waiting(young, 5 * MEGA, told)
    old.need(2 * MEGA)
    assert old.held == 2 * MEGA and not told
    middle.release()
    waits.end()
    assert told == [young]


def test_when_all_who_hold_memory_wait_for_more_the_youngest_is_refused() -> None:
    account = Account(10 * MEGA)
    old, young = account.reservation(), account.reservation()
    old.need(4 * MEGA)
    young.need(4 * MEGA)
    told: list[Reservation] = []
    first = Waiting(old, 8 * MEGA, told)
    refused(lambda: young.need(8 * MEGA), "busy")
    assert young.held == 4 * MEGA and not told
    young.release()
    first.end()
    assert told == [old] and account.held == 8 * MEGA


def test_who_waits_too_long_is_refused_and_the_next_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PATIENCE", 0.05)
    account = Account(10 * MEGA)
    half, large = account.reservation(), account.reservation()
    half.need(5 * MEGA)
    problem = refused(lambda: large.need(10 * MEGA), "busy")
    assert int(problem.headers["Retry-After"]) >= 1
    assert large.held == 0 and account.waiting == 0
    account.reservation().need(5 * MEGA)


def test_the_deadline_of_a_request_ends_its_wait() -> None:
    account = Account(MEGA)
    account.reservation().need(MEGA)
    share = account.reservation()
    share.waiter = Request(deadline=time.monotonic())
    refused(lambda: share.need(MEGA), "busy")


def test_a_client_that_left_ends_the_wait() -> None:
    class Left(Exception):
        pass

    def look() -> None:
        raise Left

    account = Account(MEGA)
    account.reservation().need(MEGA)
    share = account.reservation()
    share.waiter = Request(look=look)
    with pytest.raises(Left):
        share.need(MEGA)
    assert account.waiting == 0


def test_retry_after_follows_what_was_given_back() -> None:
    account = Account(100 * MEGA)
    full = account.reservation()
    assert account.retry_after(MEGA) == 5  # nothing is known yet
    for _ in range(10):
        full.need(100 * MEGA)
        full.release()
    full.need(100 * MEGA)
    # A gigabyte came back in the last ten seconds.
    assert account.retry_after(50 * MEGA) == 1
    assert account.retry_after(400 * MEGA) in (4, 5)
    assert account.retry_after(10**6 * MEGA) == 60


def test_many_threads_leave_nothing_behind() -> None:
    account = Account(10 * MEGA, [Shelf(5 * MEGA)])
    most = []

    def work(number: int) -> None:
        for turn in range(30):
            with account.reservation() as share:
                for nbytes in (MEGA, (number + turn) % 8 * MEGA, 9 * MEGA):
                    try:
                        share.need(nbytes)
                    except Problem:
                        break
                    most.append(account.held)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert account.held == account.waiting == 0
    assert max(most) <= account.total


def test_a_light_request_has_memory_though_heavy_ones_hold_the_rest_and_wait() -> None:
    account = Account(16 * MEGA, aside=8 * MEGA)
    assert account.most == 8 * MEGA
    holder, waiting, light, heavy = (account.reservation() for _ in range(4))
    holder.need(8 * MEGA)
    told: list[Reservation] = []
    first = Waiting(waiting, 2 * MEGA, told)
    assert account.waiting == 1
    light.need(MEGA)  # an eighth of what is set aside, though an older request waits
    assert account.held == 9 * MEGA
    assert not heavy.try_need(MEGA + 1)
    # Light requests get no more than what is set aside while another waits.
    more = [account.reservation() for _ in range(8)]
    assert [share.try_need(MEGA) for share in more] == [True] * 7 + [False]
    holder.release()
    first.end()
    assert told == [waiting]
    for share in (waiting, light, *more):
        share.release()
    assert account.held == account.waiting == 0


def test_what_grows_beyond_light_leaves_its_place_to_light_ones() -> None:
    account = Account(16 * MEGA, aside=8 * MEGA)
    shares = [account.reservation() for _ in range(8)]
    for share in shares:
        share.need(MEGA)
    shares[0].need(8 * MEGA)
    late = account.reservation()
    assert late.try_need(MEGA)
    assert not account.reservation().try_need(MEGA)
    assert account.held == 16 * MEGA
    shares[0].need(MEGA // 2)
    assert account.held == 8 * MEGA + MEGA // 2
    refused(lambda: late.need(8 * MEGA + 1), "limit-exceeded")


def test_a_request_that_may_not_wait_is_refused_at_once() -> None:
    account = Account(10 * MEGA)
    account.reservation().need(10 * MEGA)
    share = account.reservation()
    share.waiter = Request(may_wait=False)
    began = time.monotonic()
    problem = refused(lambda: share.need(MEGA), "busy")
    assert time.monotonic() < began + memory.PATIENCE and int(problem.headers["Retry-After"]) >= 1
    assert account.waiting == 0
