"""Admission: who has a slot, who waits, who is sent away. The clock is the test's; nothing sleeps."""

import heapq
import itertools
import statistics
import threading
from collections.abc import Callable, Iterator

import pytest

from service.capacity.admission import MEDIUM_SECONDS, SMALL_SECONDS, TINY_SECONDS, TINY_SLOTS, Admission, Ticket
from service.capacity.lanes import Lane
from service.engine.errors import Abandoned, DeadlineExceeded
from service.problems import Problem
from tests.conftest import wait_for
from tests.support import every

BODY = 1_000


class Clock:
    """A clock that the test moves: the time, and the processor time of the caller."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.spent = 5.0


class Bench:
    """An admission with a test clock, and the outcomes of the requests that were made."""

    def __init__(self, **settings: float) -> None:
        self.clock = Clock()
        self.admission = Admission(
            **{"seconds": 30.0, "slots": 1, "queue": 8, "streams": 4} | settings,  # type: ignore[arg-type]
            clock=lambda: self.clock.now,
            cpu=lambda: self.clock.spent,
        )
        self.ready: list[Ticket] = []
        """Requests that waited, in the order in which they were called."""

    def ticket(self, client: str = "a") -> Ticket:
        return self.admission.ticket(client, self.clock.now)

    def ask(self, cost: float, client: str = "a") -> tuple[Ticket, bool]:
        """Make a request of this cost; return its ticket, and whether it has a slot at once."""
        ticket = self.ticket(client)
        return ticket, ticket.ask(cost, lambda: self.ready.append(ticket))

    def ask_many(self, count: int, cost: float, client: str = "a") -> list[Ticket]:
        return [self.ask(cost, client)[0] for _ in range(count)]

    def refused(self, cost: float, client: str = "a") -> Problem:
        with pytest.raises(Problem) as caught:
            self.ask(cost, client)
        assert caught.value.kind == "busy"
        return caught.value

    def serve(self) -> list[str]:
        """Give each slot back as soon as it is granted; return the clients in the order of their slots."""
        served = []
        while self.ready:
            ticket = self.ready.pop(0)
            if ticket.refusal is None:
                served.append(ticket.client)
            ticket.end()
        return served

    def load(self, lane: Lane) -> tuple[int, int]:
        """Return the number of requests with a slot in a lane, and of those that wait."""
        return next((load.busy, load.waiting) for load in self.admission.load() if load.lane == lane.name)


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    return Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_there_are_so_many_slots_and_others_wait_for_them(bench: Bench) -> None:
    first, granted = bench.ask(0.5)
    assert granted
    second, granted = bench.ask(0.5)
    assert not granted and not bench.ready
    first.end()
    assert bench.ready == [second] and second.refusal is None
    first.end()
    assert bench.ready == [second], "the second end gave something back"
    assert bench.load(bench.admission.medium) == (1, 0)
    second.end()
    assert bench.load(bench.admission.medium) == (0, 0)


def test_requests_go_by_their_cost_to_lanes_that_do_not_wait_for_each_other(bench: Bench) -> None:
    for cost, name in (
        (0.001, "tiny"),
        (TINY_SECONDS, "tiny"),
        (0.006, "small"),
        (SMALL_SECONDS, "small"),
        (0.06, "medium"),
        (MEDIUM_SECONDS, "medium"),
        (2, "heavy"),
    ):
        ticket, granted = bench.ask(cost)
        assert granted and ticket.lane is not None and ticket.lane.name == name
        ticket.end()
    bench.ask_many(3, 5.0)
    assert bench.ask(0.5)[1] and bench.ask(0.02)[1] and bench.ask(0.001)[1]


def test_what_takes_much_memory_waits_in_the_heavy_lane_though_it_costs_little(bench: Bench) -> None:
    long, _ = bench.ask(5.0)
    large, granted = bench.ask(0.001)
    assert granted and not large.may_wait  # others would wait with it
    large.weigh(0.004)
    assert large.lane is bench.admission.tiny
    assert not large.ask(0.004, lambda: bench.ready.append(large), alone=True)
    assert bench.load(bench.admission.heavy) == (1, 1) and bench.load(bench.admission.tiny) == (0, 0)
    long.end()
    assert bench.ready == [large] and large.may_wait
    large.weigh(0.1, alone=True)  # it has that slot
    assert large.lane is bench.admission.heavy


def test_a_body_waits_for_a_slot_by_its_length_and_no_body_for_one_of_the_system(bench: Bench) -> None:
    lanes = {}
    for nbytes in (0, BODY, 1_000_000, 10_000_000, 200_000_000):
        ticket = bench.ticket()
        assert ticket.begin(nbytes, lambda: None)
        assert ticket.lane is not None
        lanes[nbytes] = ticket.lane.name
    assert lanes == {0: "system", BODY: "tiny", 1_000_000: "small", 10_000_000: "medium", 200_000_000: "heavy"}


def test_clients_have_turns_and_each_is_served_in_its_own_order(bench: Bench) -> None:
    first, _ = bench.ask(0.1, "greedy")
    greedy = bench.ask_many(4, 0.1, "greedy")
    modest = bench.ask_many(2, 0.1, "modest")
    other = bench.ask_many(1, 0.1, "other")
    first.end()
    order = []
    while bench.ready:
        ticket = bench.ready.pop(0)
        order.append(ticket)
        ticket.end()
    assert order == [greedy[0], modest[0], other[0], greedy[1], modest[1], greedy[2], greedy[3]]


def test_a_greedy_client_leaves_room_in_the_queue(bench: Bench) -> None:
    bench.ask(0.1, "greedy")
    bench.ask_many(6, 0.1, "greedy")
    problem = bench.refused(0.1, "greedy")
    assert "6 requests of this client wait" in problem.detail
    bench.ask_many(2, 0.1, "modest")
    assert "8 requests wait" in bench.refused(0.1, "third").detail
    assert bench.load(bench.admission.medium) == (1, 8)


def test_a_wait_that_does_not_fit_the_deadline_is_refused_at_once(bench: Bench) -> None:
    bench.ask(12.0)
    _, granted = bench.ask(12.0, "b")
    assert not granted
    # 24 seconds until its turn, and 12 of its own: in 6 seconds this will fit into 30.
    problem = bench.refused(12.0, "c")
    assert problem.headers == {"Retry-After": "6"}
    assert "24.0 seconds" in problem.detail
    # Nobody waits for work that is done already.
    bench.clock.now += 6.0
    assert not bench.ask(12.0, "c")[1]


def test_time_that_has_passed_before_counts(bench: Bench) -> None:
    bench.ask(12.0)
    late = bench.admission.ticket("b", bench.clock.now - 10.0)
    with pytest.raises(Problem):
        late.ask(12.0, lambda: None)
    assert not bench.ask(12.0, "b")[1]


def test_a_request_that_takes_all_the_time_there_is_has_it_alone(bench: Bench) -> None:
    assert bench.ask(1e9)[1]
    assert bench.refused(1e9).headers == {"Retry-After": "30"}
    bench.clock.now += 29.5
    assert bench.refused(1e9).headers == {"Retry-After": "3"}, (
        "a request may hold the slot so long, in the mean of late"
    )


def test_retry_after_of_a_full_queue_is_the_time_until_a_place_is_free(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(queue=4)
    bench.ask(4.0)
    bench.ask_many(2, 4.0, "b")
    bench.ask_many(2, 4.0, "c")
    assert bench.refused(4.0, "d").headers == {"Retry-After": "4"}
    bench.clock.now += 1.5
    assert bench.refused(4.0, "d").headers == {"Retry-After": "3"}


def test_how_fast_a_lane_is_served_is_measured(bench: Bench) -> None:
    for _ in range(60):
        ticket, granted = bench.ask(2.0)
        assert granted
        bench.clock.now += 6.0  # others slow it down
        ticket.end()
    assert bench.admission.heavy.slowdown == pytest.approx(3.0, rel=0.01)
    bench.ask(4.0)
    assert "12.0 seconds" in bench.refused(7.0, "b").detail


def test_what_is_cut_short_teaches_nothing_about_the_lane(bench: Bench) -> None:
    for _ in range(30):
        capped, _ = bench.ask(1e9)
        bench.clock.now += 30.0
        capped.end()
        gone, _ = bench.ask(10.0)
        bench.clock.now += 0.1
        gone.leave()
        gone.end()
    assert bench.admission.heavy.slowdown == pytest.approx(1.0)


def test_who_has_ended_gets_no_slot_any_more(bench: Bench) -> None:
    """The edge may end a request while its thread is still on its way to the next lane."""
    ticket = bench.ticket()
    ticket.begin(BODY, lambda: None)
    ticket.end()
    with pytest.raises(Abandoned):
        ticket.ask(5.0, lambda: None)
    assert all(load.busy == 0 for load in bench.admission.load())


def test_the_wait_for_a_turn_counts_one_request_of_each_other_client(bench: Bench) -> None:
    heavy = bench.admission.heavy
    bench.ask(2.0, "greedy")
    bench.ask_many(5, 2.0, "greedy")
    assert heavy.wait_of("modest", bench.clock.now) == 4.0
    assert heavy.wait_of("greedy", bench.clock.now) == 12.0
    bench.ask(2.0, "modest")
    assert heavy.wait_of("modest", bench.clock.now) == 2.0 + 2 * 2.0 + 2.0
    assert heavy.wait_of("greedy", bench.clock.now) == 2.0 + 5 * 2.0 + 6 * 2.0, "modest asks again in each round"


def test_who_cannot_end_in_time_any_more_leaves_the_slot_to_others(bench: Bench) -> None:
    first, _ = bench.ask(5.0)
    slow, _ = bench.ask(20.0, "b")
    quick, _ = bench.ask(2.0, "c")
    bench.clock.now += 15.0  # three times as long as it was said to take
    first.end()
    assert bench.ready == [slow, quick]
    assert slow.refusal is not None and slow.refusal.kind == "busy" and slow.lane is None
    assert quick.refusal is None and quick.waited == 15.0


def test_who_cannot_be_in_time_any_more_is_refused_when_that_is_foreseen(bench: Bench) -> None:
    """Eight requests of 3 seconds fit, until the first one takes 6: then those who would come last hear it at once."""
    first, _ = bench.ask(3.0, "0")
    waiting = [bench.ask(3.0, str(number))[0] for number in range(1, 9)]
    assert all(ticket.queued_in is not None for ticket in waiting)
    bench.clock.now += 6.0
    first.end()
    # Each takes 6 seconds now: 4 end within the 24 that are left.
    assert waiting[0].lane is bench.admission.heavy
    assert [ticket.refusal is None for ticket in waiting] == [True] * 4 + [False] * 4
    assert bench.load(bench.admission.heavy) == (1, 3)
    # The next one would be in time if it came again now, so its Retry-After is the recent time of a slot, 3.3 s.
    # Each further one waits 6 s more.
    assert [ticket.refusal.headers["Retry-After"] for ticket in waiting[4:] if ticket.refusal] == ["4", "6", "12", "18"]
    while bench.ready:
        ticket = bench.ready.pop(0)
        if ticket.refusal is None:
            bench.clock.now += 6.0
        ticket.end()
    assert all(ticket.refusal is None for ticket in waiting[:4]), "who was kept was refused later"
    assert bench.clock.now <= waiting[0].deadline


def test_who_waits_behind_one_that_takes_longer_is_refused_before_it_ends(bench: Bench) -> None:
    bench.ask(2.0, "0")
    waiting = [bench.ask(2.0, str(number))[0] for number in range(1, 9)]
    refused = []
    for _ in range(25):
        bench.clock.now += 1.0
        bench.admission.recheck(bench.admission.heavy)
        refused.append(sum(ticket.refusal is not None for ticket in waiting))
    assert refused == sorted(refused) and refused[1] == 0
    assert refused[9] >= 4, "after 10 seconds, 5 times as long as it was said to take"
    assert refused[-1] == 8
    assert all(1 <= int(ticket.refusal.headers["Retry-After"]) <= 30 for ticket in waiting if ticket.refusal)


def test_one_thread_of_those_who_wait_foresees_the_waits_of_all(bench: Bench) -> None:
    bench.ask(2.0, "0")
    waiting = [bench.ask(2.0, str(number))[0] for number in range(1, 8)]
    last = bench.ticket("last")
    caught: list[Problem] = []

    def weigh() -> None:
        try:
            last.begin_blocking(BODY)
            last.weigh(2.0)
        except Problem as problem:
            caught.append(problem)

    thread = threading.Thread(target=weigh)
    thread.start()
    wait_for(lambda: bench.load(bench.admission.heavy) == (1, 8))
    bench.clock.now += 20.0
    thread.join(10.0)
    assert caught and caught[0].kind == "busy"
    assert sum(ticket.refusal is not None for ticket in waiting) >= 5


def test_who_could_be_in_time_after_a_refusal_before_it_is_kept(bench: Bench) -> None:
    """A long request that does not fit any more leaves its turn to a short one of the same client."""
    first, _ = bench.ask(3.0)
    head, _ = bench.ask(2.0, "other")
    long, _ = bench.ask(15.0, "b")
    short, _ = bench.ask(2.0, "b")
    bench.clock.now += 6.0
    first.end()
    assert head.lane is not None and long.refusal is not None
    assert short.refusal is None and bench.load(bench.admission.heavy) == (1, 1)


def test_waits_are_foreseen_anew_only_now_and_then(bench: Bench) -> None:
    """To reckon a long queue would cost more than a tiny request."""
    tiny = bench.admission.tiny
    for number in range(TINY_SLOTS):
        bench.ask(0.001, f"{number}")
    bench.ask_many(90, 0.001)
    looked = 0
    overdue = tiny.overdue

    def counted(now: float) -> Iterator[tuple[Ticket, float]]:
        nonlocal looked
        looked += 1
        return overdue(now)

    tiny.overdue = counted  # type: ignore[method-assign]
    for _ in range(50):
        next(iter(tiny.running)).end()
        bench.clock.now += 0.001
    assert looked == 1


def test_requests_of_unlike_times_are_promised_less(bench: Bench) -> None:
    heavy = bench.admission.heavy
    for number in range(40):
        ticket, _ = bench.ask(2.0)
        bench.clock.now += 3.0 if number % 2 else 1.0
        ticket.end()
    assert heavy.slowdown == pytest.approx(1.0, abs=0.1) and heavy.doubt() == pytest.approx(0.5, abs=0.1)
    bench.ask(10.0)
    bench.refused(12.0, "b")
    assert not bench.ask(6.0, "b")[1]


def test_who_leaves_while_waiting_is_out_of_the_queue(bench: Bench) -> None:
    first, _ = bench.ask(0.5)
    second, _ = bench.ask(0.5, "b")
    third, _ = bench.ask(0.5, "c")
    second.leave()
    assert bench.ready == [second] and second.refusal is not None
    assert bench.load(bench.admission.medium) == (1, 1)
    first.end()
    assert bench.ready == [second, third] and third.refusal is None
    with pytest.raises(Abandoned):
        second.look()


def test_who_waits_until_the_deadline_is_refused(bench: Bench) -> None:
    bench.ask(0.5)
    second, _ = bench.ask(0.5)
    bench.clock.now += 30.0
    second.expire()
    assert second.refusal is not None and second.waited == 30.0
    assert bench.load(bench.admission.medium) == (1, 0)
    second.expire()
    assert bench.ready == [second], "it was told twice"


def test_a_stop_refuses_all_who_wait_and_all_who_come(bench: Bench) -> None:
    first, _ = bench.ask(0.5)
    others = bench.ask_many(3, 0.5)
    bench.admission.close()
    assert bench.ready == others and all(ticket.refusal is not None for ticket in others)
    assert "stopping" in bench.refused(0.5).detail
    first.end()


def test_what_turns_out_to_cost_more_moves_on_to_the_next_lane(bench: Bench) -> None:
    ticket = bench.ticket()
    assert ticket.begin(BODY, lambda: None)
    ticket.look()
    for spent, lane in (
        (0.004, "tiny"),
        (0.006, "small"),
        (0.04, "small"),
        (0.06, "medium"),
        (0.9, "medium"),
        (1.1, "heavy"),
        (500.0, "heavy"),
    ):
        bench.clock.spent += spent
        bench.clock.now += 0.02
        ticket.look()
        assert ticket.lane is not None and ticket.lane.name == lane
    assert [bench.load(lane) for lane in bench.admission.computing] == [(0, 0), (0, 0), (0, 0), (1, 0)]


def test_only_processor_time_makes_a_request_heavy(bench: Bench) -> None:
    ticket = bench.ticket()
    ticket.begin(BODY, lambda: None)
    ticket.look()
    bench.clock.now += 29.0
    ticket.look()
    assert ticket.lane is bench.admission.tiny


def test_a_request_that_moves_on_waits_without_its_slot(bench: Bench) -> None:
    first, _ = bench.ask(0.03)
    tickets = [bench.ticket(str(number)) for number in range(TINY_SLOTS + 1)]
    for ticket in tickets:
        ticket.begin(BODY, lambda: None)
    moving, waiting = tickets[0], tickets[-1]
    assert waiting.lane is None
    moving.look()
    bench.clock.now += 0.02
    bench.clock.spent += 0.01
    thread = threading.Thread(target=moving.look)
    thread.start()
    wait_for(lambda: bench.load(bench.admission.small) == (1, 1))
    assert waiting.lane is bench.admission.tiny
    first.end()
    thread.join()
    assert moving.lane is bench.admission.small


@pytest.mark.parametrize(
    ("estimated", "stays", "moves"),
    [(0.9, 1.3, 1.4), (0.99, 1.4, 1.5), (0.5, 0.9, 1.01), (0.1, 0.9, 1.01)],
)
def test_one_that_was_estimated_a_little_too_low_ends_in_its_lane(
    bench: Bench, estimated: float, stays: float, moves: float
) -> None:
    """Its work would be lost where the next lane refuses it."""
    ticket, _ = bench.ask(estimated)
    ticket.look()
    bench.clock.now, bench.clock.spent = 1_001.0, 5.0 + stays
    ticket.look()
    assert ticket.lane is bench.admission.medium
    bench.clock.now, bench.clock.spent = 1_002.0, 5.0 + moves
    ticket.look()
    assert ticket.lane is bench.admission.heavy


def test_a_settled_request_keeps_its_lane(bench: Bench) -> None:
    ticket = bench.ticket()
    ticket.begin(BODY, lambda: None)
    ticket.look()
    ticket.settled = True
    bench.clock.now += 0.02
    bench.clock.spent += 10.0
    ticket.look()
    assert ticket.lane is bench.admission.tiny


def test_who_waits_to_compute_is_woken_when_the_client_leaves(bench: Bench) -> None:
    bench.ask(5.0)
    ticket = bench.ticket()
    ticket.begin(BODY, lambda: None)
    caught: list[BaseException] = []

    def weigh() -> None:
        try:
            ticket.weigh(5.0)
        except Abandoned as error:
            caught.append(error)

    thread = threading.Thread(target=weigh)
    thread.start()
    wait_for(lambda: bench.load(bench.admission.heavy) == (1, 1))
    ticket.leave()
    thread.join()
    assert len(caught) == 1 and ticket.lane is None


def test_looks_end_at_the_deadline_and_when_the_client_has_left(bench: Bench) -> None:
    ticket = bench.ticket()
    ticket.begin(BODY, lambda: None)
    assert bench.clock.now < ticket.look() < bench.clock.now + 0.05
    bench.clock.now += 30.1
    with pytest.raises(DeadlineExceeded):
        ticket.look()
    other = bench.ticket()
    left = iter([False, True])
    other.left = lambda: next(left)
    other.look()
    bench.clock.now += 1.0
    with pytest.raises(Abandoned):
        other.look()
    assert other.gone


def test_streams_have_places_of_their_own_and_a_client_leaves_some(bench: Bench) -> None:
    mine = [bench.ticket("a") for _ in range(3)]
    for ticket in mine:
        ticket.begin(BODY, lambda: None)
        ticket.open_stream()
        ticket.give_slot_back()
    assert bench.load(bench.admission.tiny) == (0, 0)
    with pytest.raises(Problem, match=r"of this client are open as a worker serves at once: 3\."):
        bench.ticket("a").open_stream()
    bench.ticket("b").open_stream()
    with pytest.raises(Problem, match=r"serves at once: 4\.") as caught:
        bench.ticket("c").open_stream()
    # Of late a stream took 10 seconds, and there are 4.
    assert caught.value.headers == {"Retry-After": "3"}
    mine[0].end()
    bench.ticket("c").open_stream()


# Many requests, simulated.


class Crowd:
    """Clients that send requests again and again, in simulated time."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.answered: dict[str, list[float]] = {}
        self.refused: dict[str, int] = {}
        self.late = 0

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.numbers), call))

    def connect(self, client: str, cost: float, *, obeys: bool = True, pause: float = 0.0) -> None:
        """Add a client that asks, waits for the answer, and asks again; if it obeys, it waits as Retry-After says."""
        clock = self.bench.clock

        def ask() -> None:
            ticket = self.bench.ticket(client)

            def begin() -> None:
                if ticket.refusal is not None:
                    refuse(ticket.refusal)
                else:
                    self.at(clock.now + cost, lambda: end(ticket))

            try:
                if ticket.ask(cost, begin):
                    begin()
            except Problem as problem:
                refuse(problem)

        def refuse(problem: Problem) -> None:
            self.refused[client] = self.refused.get(client, 0) + 1
            wait = float(problem.headers["Retry-After"])
            assert 1.0 <= wait <= 30.0
            self.at(clock.now + (wait if obeys else 0.5), ask)

        def end(ticket: Ticket) -> None:
            ticket.end()
            self.late += clock.now > ticket.deadline
            self.answered.setdefault(client, []).append(clock.now - ticket.arrived)
            self.at(clock.now + pause, ask)

        self.at(clock.now, ask)

    def run(self, seconds: float) -> None:
        end = self.bench.clock.now + seconds
        while self.events and self.events[0][0] < end:
            self.bench.clock.now, _, call = heapq.heappop(self.events)
            call()
        self.bench.clock.now = end


@every("obeys", [True, False])
def test_overload_does_not_lower_what_is_answered(obeys: bool) -> None:
    done = []
    for connections in (1, 16):
        bench = Bench(queue=64)
        crowd = Crowd(bench)
        for number in range(connections):
            crowd.connect(f"{number}", 6.0, obeys=obeys)
        crowd.run(300.0)
        done.append(sum(map(len, crowd.answered.values())))
        assert not crowd.late, "a request was computed for nothing"
    assert done[0] >= 49
    assert min(done[1:]) >= 0.95 * done[0]


@every(("greedy_cost", "greedy_clients"), [(0.33, 1), (0.33, 3), (18.0, 1), (18.0, 60)])
def test_a_modest_client_is_served_beside_greedy_ones(greedy_cost: float, greedy_clients: int) -> None:
    bench = Bench(queue=64)
    crowd = Crowd(bench)
    for number in range(60):
        crowd.connect(f"greedy {number % greedy_clients}", greedy_cost, obeys=False)
    crowd.connect("modest", 0.33, pause=0.5)
    crowd.run(60.0)
    modest = crowd.answered["modest"]
    assert len(modest) >= 0.4 * (len(modest) + crowd.refused.get("modest", 0))
    assert statistics.median(modest) <= 2.0
    assert sum(map(len, crowd.answered.values())) > len(modest), "the greedy ones had nothing"


def test_a_tiny_request_does_not_wait_for_many_small_ones() -> None:
    """Sixty clients whose networks take 20 ms to compile, beside one that asks for an example of 0.3 ms."""
    bench = Bench(queue=64)
    crowd = Crowd(bench)
    for number in range(60):
        crowd.connect(f"{number}", 0.02)
    crowd.connect("example", 0.0003, pause=0.05)
    crowd.run(20.0)
    assert max(crowd.answered["example"]) <= 0.01 and "example" not in crowd.refused
    small = [len(crowd.answered[f"{number}"]) for number in range(60)]
    assert min(small) >= 0.9 * max(small) > 0


def test_clients_with_as_many_requests_get_as_many_answers() -> None:
    bench = Bench(queue=64)
    crowd = Crowd(bench)
    for name, count in (("one", 1), ("four", 4), ("forty", 40)):
        for _ in range(count):
            crowd.connect(name, 0.5)
    crowd.run(300.0)
    counts = [len(crowd.answered[name]) for name in ("one", "four", "forty")]
    assert min(counts[1:]) >= 0.9 * max(counts), "who asks more often gets more"
    assert counts[0] >= 0.4 * max(counts), "who asks one by one is not there at each of its turns"
