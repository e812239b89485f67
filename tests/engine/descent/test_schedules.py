"""Schedules, compared with records of PyTorch and Keras (scripts/record_pytorch_schedules.py and _keras_)."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.descent.scheduler import SCHEDULER_OPTIONS, Rate, Scheduler
from service.engine.descent.schedules import schedules
from service.engine.options import Choice, Flag, Integer, Integers, Number, Numbers
from tests.engine.support import random_examples
from tests.support import every

DATA = Path(__file__).parents[2] / "data"
PYTORCH = json.loads((DATA / "pytorch" / "schedules.json").read_text())
KERAS = json.loads((DATA / "keras" / "schedules.json").read_text())
RECORDS = [
    *({"from": "pytorch", **record} for record in PYTORCH["records"]),
    *({"from": "keras", **record} for record in KERAS["records"]),
]
EXACT = {"rtol": 1e-12, "atol": 1e-15}  # the absolute one where a cosine or a difference comes down to 0


def scheduler(name, base=0.5, steps_per_epoch=1, **options):
    return Scheduler(schedules.select(name, **options), base, steps_per_epoch)


def title(record):
    return f"{record['from']} {record['name']} {record['options']}"


@every("record", RECORDS, ids=title)
def test_rates_are_those_recorded(record):
    at_work = scheduler(record["name"], record["base"], **record["options"])
    found = []
    for step in range(len(record["rates"])):
        found.append(at_work.rate(step))
        at_work.watch(PYTORCH["losses"][step])
    np.testing.assert_allclose([rate.learning_rate for rate in found], record["rates"], **EXACT)
    if record.get("momenta"):
        np.testing.assert_allclose([rate.momentum for rate in found], record["momenta"], **EXACT)
    else:
        assert {rate.momentum for rate in found} == {None}


BY_HAND = [
    # Schedules that neither has: (name, options, steps per epoch, rates of the first steps)
    ("constant", {}, 1, [0.5, 0.5]),
    ("constant", {"warmup_steps": 4}, 1, [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]),
    ("constant", {"warmup_steps": 2, "warmup_start": 0.5}, 1, [0.25, 0.375, 0.5]),
    ("step_decay", {"decay_steps": 1, "gamma": 0.5, "unit": "epoch"}, 3, [0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]),
    (
        "step_decay",
        {"decay_steps": 1, "gamma": 0.5, "warmup_steps": 2},
        3,
        [0.0, 0.25, 0.5, 0.25, 0.125],
    ),
    (
        # Epochs are those of the data: the epoch in which the warm-up ends is the first of the schedule.
        "step_decay",
        {"decay_steps": 1, "gamma": 0.5, "warmup_steps": 2, "unit": "epoch"},
        3,
        [0.0, 0.25, 0.5, 0.25, 0.25, 0.25, 0.125],
    ),
    # A warm-up leads to where the schedule starts.
    ("constant_factor", {"factor": 0.5, "total_steps": 1, "warmup_steps": 2}, 1, [0.0, 0.125, 0.25, 0.5]),
    ("piecewise_constant", {"boundaries": (0,), "values": (2.0, 1.0), "warmup_steps": 2}, 1, [0.0, 1.0, 2.0, 1.0]),
    ("cosine", {"decay_steps": 2, "minimum": 0.25, "alpha": 0.1}, 1, [0.5, 0.375, 0.25, 0.375, 0.5]),
    ("cosine", {"decay_steps": 2, "minimum": 0.25, "alpha": 0.75}, 1, [0.5, 0.4375, 0.375]),
    ("one_cycle", {"total_steps": 3, "rising_part": 0.5, "annealing": "linear", "divisor": 2.0, "final_divisor": 2.0},
     1, [0.25, 0.375, 0.125, 0.125, 0.125]),
    ("one_cycle", {"total_steps": 1}, 1, [0.5 / 25e4, 0.5 / 25e4]),
    ("multi_step", {"milestones": ()}, 1, [0.5, 0.5]),
]  # fmt: skip


@every(("name", "options", "steps_per_epoch", "rates"), BY_HAND)
def test_rates_computed_by_hand(name, options, steps_per_epoch, rates):
    at_work = scheduler(name, steps_per_epoch=steps_per_epoch, **options)
    found = [at_work.rate(step).learning_rate for step in range(len(rates))]
    np.testing.assert_allclose(found, rates, **EXACT)


def test_every_schedule_and_every_option_is_compared():
    seen = {(record["name"], option) for record in RECORDS for option in [None, *record["options"]]}
    seen |= {(name, option) for name, options, *_ in BY_HAND for option in [None, *options]}
    common = {option.name for option in SCHEDULER_OPTIONS}
    for schedule in schedules:
        assert (schedule.name, None) in seen, f"write the rates of {schedule.name} in BY_HAND, or record them"
        for option in schedule.options:
            values = [
                given[option.name]
                for name, given in [*((each["name"], each["options"]) for each in RECORDS), *(b[:2] for b in BY_HAND)]
                if name == schedule.name and option.name in given
            ]
            assert option.name in common or any(value != option.default for value in values), (
                f"{option.name} of {schedule.name} is compared with nothing"
            )
    assert {option for _, option in seen} >= common


def test_what_names_a_source_is_recorded_from_it():
    for records, site in ((PYTORCH, "pytorch.org"), (KERAS, "keras.io")):
        named = {each.name for each in schedules if any(site in source for source in each.sources)}
        assert named <= {record["name"] for record in records["records"]}


def test_momentum_of_a_warm_up_is_that_of_the_start():
    at_work = scheduler("one_cycle", total_steps=10, warmup_steps=4)
    assert [at_work.rate(step).momentum for step in (0, 3, 4)] == [0.95] * 3


def test_plateau_goes_on_from_its_state():
    through = scheduler("plateau", patience=1, factor=0.5, cooldown=2)
    for number, loss in enumerate([1.0, 0.5, math.nan, 0.5, 0.6, 0.7, math.inf, 0.4, 0.4, 0.4, 0.4, 0.4]):
        again = scheduler("plateau", patience=1, factor=0.5, cooldown=2)
        again.state.update(json.loads(json.dumps(through.state, allow_nan=False)))
        for each in (through, again):
            each.watch(loss)
        assert again.state == through.state
        assert again.rate(number) == through.rate(number)
    assert through.rate(12).learning_rate == 0.125


@every("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_not_the_best_of_plateau(loss):
    at_work = scheduler("plateau", patience=0, factor=0.5)
    at_work.watch(loss)
    at_work.watch(3.0)
    assert at_work.rate(2) == Rate(0.25)
    assert at_work.state["best"] == 3.0


@every(
    ("name", "options", "refused"),
    [
        ("multi_step", {"milestones": (1, 2, 9)}, None),
        ("multi_step", {"milestones": (3, 2)}, ("milestones", "must increase, but 2 follows 3")),
        ("multi_step", {"milestones": (3, 3)}, ("milestones", "must increase, but 3 follows 3")),
        ("piecewise_constant", {"boundaries": (3, 5), "values": (1.0, 2.0, 3.0)}, None),
        (
            "piecewise_constant",
            {"boundaries": (5, 3), "values": (1.0, 2.0, 3.0)},
            ("boundaries", "must increase, but 3 follows 5"),
        ),
        (
            "piecewise_constant",
            {"boundaries": (3, 5), "values": (1.0, 2.0)},
            ("values", "must be 3, one more than boundaries, but there are 2"),
        ),
    ],
)
def test_options_that_do_not_fit_together(name, options, refused):
    selection = schedules.select(name, **options)
    assert selection.declaration.refuse(**selection.options) == refused


def values_of(option):
    """Return values that the declared range allows, the extremes first."""
    if type(option) not in (Flag, Choice, Integer, Number, Integers, Numbers):
        return st.sampled_from(list(map(option.read, option.accepted())))
    match option:
        case Flag():
            return st.booleans()
        case Choice():
            return st.sampled_from(option.values)
        case Integer():
            low, high = option.minimum, 2**63 - 1 if option.maximum is None else option.maximum
            some = st.one_of(st.sampled_from([low, high]), st.integers(low, low + 100), st.integers(low, high))
            return st.none() | some if option.default is None else some
        case Number():
            largest = np.finfo(float).max
            low, high = option.minimum, largest if option.maximum is None else option.maximum
            return st.floats(low, high, exclude_min=option.open_minimum, exclude_max=option.open_maximum) | st.floats(
                low, min(high, 10.0), exclude_min=option.open_minimum, exclude_max=option.open_maximum
            )
        case Integers():
            return st.lists(st.integers(option.minimum, 2**63 - 1), max_size=5).map(tuple)
        case Numbers():
            return st.lists(st.floats(0.0, 1e308), min_size=1, max_size=5).map(tuple)


def courses(name):
    """Return a strategy of the arguments of a schedule, with steps to ask for and the losses after them."""
    steps = st.tuples(st.just(0), st.just(1), st.just(7), st.just(10**7), st.integers(0, 10**12))
    return st.tuples(
        st.fixed_dictionaries({option.name: values_of(option) for option in schedules[name].options}),
        st.floats(0.0, 1e3),
        st.integers(1, 1000),
        steps,
        st.tuples(*[st.floats()] * 5),
    )


@every("name", [each.name for each in schedules])
def test_no_option_within_its_range_makes_a_schedule_fail(name):
    @random_examples(max_examples=40)
    @given(courses(name))
    def it_does_not_fail(course):
        options, base, epoch, steps, losses = course
        at_work = scheduler(name, base, epoch, **options)
        for step, loss in zip(steps, losses, strict=True):
            rate = at_work.rate(step)
            assert isinstance(rate.learning_rate, float)
            assert not rate.learning_rate < 0.0
            assert rate.momentum is None or 0.0 <= rate.momentum < 1.0
            at_work.watch(loss)

    it_does_not_fail()


@every("t_mul", [1.0, 1.5, 2.0, 3.0, 10.0])
def test_restarts_come_when_the_decays_before_are_over(t_mul):
    at_work = scheduler("cosine_restarts", first_decay_steps=6, t_mul=t_mul)
    begun, length = 0.0, 6.0
    while begun + length < 1e6 and length * 100.0 > begun:
        begun, length = begun + length, length * t_mul
        if begun == round(begun):
            assert at_work.rate(round(begun)).learning_rate == pytest.approx(0.5, rel=1e-6)
        assert at_work.rate(math.ceil(begun) - 1).learning_rate < 0.05


def test_a_late_step_costs_no_more_than_the_first():
    required = {
        "multi_step": {"milestones": (1, 2)},
        "piecewise_constant": {"boundaries": (1,), "values": (1.0, 2.0)},
        "one_cycle": {"total_steps": 10**9},
    }
    common = {"decay_steps": 3, "decay_rate": 0.5, "gamma": 0.9, "first_decay_steps": 5, "max_learning_rate": 1.0}
    for schedule in schedules:
        options = {option.name: common[option.name] for option in schedule.options if option.name in common}
        at_work = scheduler(schedule.name, **(options | required.get(schedule.name, {})))
        started = time.process_time()
        for step in range(10**7, 10**7 + 100):
            at_work.rate(step)
        assert time.process_time() - started < 0.1
