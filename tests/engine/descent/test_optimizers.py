"""Rules: comparison with PyTorch and Keras, and the promises of the protocol for all of them."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.descent.optimizers import Move, Optimizer, State, optimizers
from service.engine.descent.optimizers.declaration import KERAS, LOOP_OPTIONS, PYTORCH
from tests.engine.descent.references import REFERENCES, Memory
from tests.engine.values import idle, others
from tests.support import every

DATA = Path(__file__).resolve().parents[2] / "data"
ANSWERS = {
    convention: json.loads((DATA / convention / "optimizers.json").read_text(encoding="utf-8"))
    for convention in ("pytorch", "keras")
}
RULES = [declaration for declaration in optimizers if not declaration.search]
AS_PRINTED = [declaration.name for declaration in RULES if declaration.counter_example]


def selected(name: str, convention: str, options: dict[str, Any]) -> Selection[Optimizer]:
    """Select an optimizer with the defaults of a convention, if it has conventions."""
    has_conventions = any(option.name == "convention" for option in optimizers[name].options)
    return optimizers.select(name, **({"convention": convention} if has_conventions else {}), **options)


def rule_options(selection: Selection[Optimizer]) -> dict[str, Any]:
    return {name: value for name, value in selection.options.items() if name not in (*LOOP_OPTIONS, "learning_rate")}


RECORDED = [
    (convention, selected(record["optimizer"], convention, record["options"]), record)
    for convention, answers in ANSWERS.items()
    for record in answers["records"]
]
RECORDS = [
    pytest.param(selection, record["parameters"], id=f"{convention}-{selection.name}-{record['options']}")
    for convention, selection, record in RECORDED
]
CHOICES = {
    str((selection.name, rule_options(selection))): selection
    for selection in (
        *(selection for _, selection, _ in RECORDED),
        *(optimizers.select(name, learning_rate=1e-4) for name in AS_PRINTED),
    )
}
"""A selection for each set of options of each rule."""
NOT_RECORDED = [each for each in RULES if each.name not in {selection.name for _, selection, _ in RECORDED}]


def alone(declaration: Optimizer) -> Iterator[tuple[str, Selection[Optimizer]]]:
    """Yield selections with the defaults, and with each option alone at other values, each with the changed option."""
    required = {option.name: next(option.accepted()) for option in declaration.options if option.required}
    yield "", optimizers.select(declaration.name, **required)
    for option in declaration.options:
        for value in others(option):
            yield option.name, optimizers.select(declaration.name, **(required | {option.name: value}))


CHOICES |= {
    str((selection.name, rule_options(selection))): selection
    for declaration in NOT_RECORDED
    if not declaration.counter_example
    for option in ("", *(option.name for option in declaration.options if option.name not in LOOP_OPTIONS))
    for selection in [next(each for name, each in alone(declaration) if name == option)]
}
"""For rules without records: their defaults, and the first other value of each option."""
START = np.array(ANSWERS["pytorch"]["start"])


def gradient_at(x: Array) -> Array:
    """Return the gradient of the oracles' function: ¼ Σ (x_{i+1} - sin 2x_i)² over the first six numbers."""
    residual = x[..., 1:6] - np.sin(2.0 * x[..., :5])
    gradient = np.zeros_like(x)
    gradient[..., 1:6] += 0.5 * residual
    gradient[..., :5] -= residual * np.cos(2.0 * x[..., :5])
    return gradient


def fresh_state(selection: Selection[Optimizer], parameters: Array) -> State:
    names = selection.declaration.state(**rule_options(selection))
    return State(**selection.declaration.numbers, **{name: np.zeros_like(parameters) for name in names})


def advance(selection: Selection[Optimizer], state: State, step: int) -> None:
    if selection.declaration.advance is not None:
        selection.declaration.advance(state, step, **rule_options(selection))


def move(selection: Selection[Optimizer], gradient: Array, state: State, step: int) -> Move:
    answer: Move = selection.declaration.build(
        gradient, state, step, selection.options["learning_rate"], **rule_options(selection)
    )
    return answer


def descend(
    selection: Selection[Optimizer], parameters: Array, state: State, steps: int, first: int = 1
) -> Iterator[tuple[int, Move]]:
    """Do the work of a loop around a rule, as plainly as possible. Change the parameters in place."""
    options = selection.options
    for step in range(first, first + steps):
        ahead = parameters
        if selection.declaration.look_ahead is not None:
            ahead = parameters + selection.declaration.look_ahead(state, **rule_options(selection))
        gradient = gradient_at(ahead)
        if options["maximize"]:
            gradient = -gradient
        if options["decoupled_weight_decay"]:
            parameters *= 1.0 - options["learning_rate"] * options["weight_decay"]
        else:
            gradient += options["weight_decay"] * parameters
        advance(selection, state, step)
        answer = move(selection, gradient, state, step)
        parameters -= answer.rate * answer.direction
        yield step, answer


@every(("selection", "recorded"), RECORDS)
def test_parameters_are_those_of_the_oracle(selection: Selection[Optimizer], recorded: dict[str, list[float]]) -> None:
    parameters = START.copy()
    compared = 0
    for step, _ in descend(selection, parameters, fresh_state(selection, parameters), max(map(int, recorded))):
        if str(step) in recorded:
            np.testing.assert_allclose(parameters, recorded[str(step)], rtol=1e-12, atol=1e-15, err_msg=f"step {step}")
            compared += 1
    assert compared == len(recorded)


@pytest.mark.parametrize("name", [declaration.name for declaration in RULES if not declaration.counter_example])
def test_every_option_is_recorded_off_its_default(name: str) -> None:
    tried = set()
    for convention, answers in ANSWERS.items():
        for record in answers["records"]:
            if record["optimizer"] == name:
                usual = selected(name, convention, {}).options
                tried |= {key for key, value in record["options"].items() if value != usual[key]}
                tried |= {"convention"} if convention == "keras" else set()
    if name in REFERENCES:
        return  # the next test tries every option of this rule
    if not tried and not {PYTORCH, KERAS} & set(optimizers[name].sources):
        pytest.skip(
            f"the numbers of {name!r} are compared with nothing: write it in tests/engine/descent/references.py"
        )
    assert tried >= {option.name for option in optimizers[name].options}


@pytest.mark.parametrize(
    ("option", "selection"),
    [
        pytest.param(option, selection, id=f"{selection.name}-{option}-{selection.options.get(option)}")
        for name in REFERENCES
        if name in optimizers
        for option, selection in alone(optimizers[name])
    ],
)
def test_parameters_are_those_of_the_reference(option: str, selection: Selection[Optimizer]) -> None:
    """The reference takes one number at a time. The options of the loop are applied here."""
    memories: list[Memory] = [{} for _ in START]

    def rule(gradient: Array, state: State, step: int, learning_rate: float, **options: Any) -> Move:
        made = [
            REFERENCES[selection.name](one, memory, step, learning_rate=learning_rate, **options)
            for one, memory in zip(gradient.tolist(), memories, strict=True)
        ]
        return Move(np.array(made), 1.0)

    ours, theirs = START.copy(), START.copy()
    plain = Selection(replace(selection.declaration, build=rule), selection.options)
    steps = zip(
        descend(selection, ours, fresh_state(selection, ours), 30),
        descend(plain, theirs, fresh_state(selection, theirs), 30),
        strict=True,
    )
    for step, _ in steps:
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15, err_msg=f"step {step}")


@every("declaration", RULES, ids=lambda declaration: declaration.name)
def test_every_option_counts(declaration: Optimizer) -> None:
    def end(**options: Any) -> bytes:
        selection = optimizers.select(declaration.name, **options)
        parameters = START.copy()
        with np.errstate(all="ignore"):
            list(descend(selection, parameters, fresh_state(selection, parameters), 12))
        return parameters.tobytes()

    assert idle(declaration, end) == []


@every("declaration", RULES, ids=lambda declaration: declaration.name)
def test_every_array_of_the_state_changes(declaration: Optimizer) -> None:
    """Each array leaves 0 with some options: the rule changes it in place, and needs it."""
    named, changed = set(), set()
    for _, selection in alone(declaration):
        parameters = START.copy()
        state = fresh_state(selection, parameters)
        with np.errstate(all="ignore"):
            list(descend(selection, parameters, state, 3))
        names = declaration.state(**rule_options(selection))
        named |= set(names)
        changed |= {name for name in names if getattr(state, name).any()}
    assert named == changed


@every("maximize", [False, True])
@every("declaration", [each for each in RULES if not each.counter_example], ids=lambda declaration: declaration.name)
def test_a_rule_goes_down_and_up(declaration: Optimizer, maximize: bool) -> None:
    """On half the sum of squares, with the point itself as gradient, every number approaches 0, or leaves it uphill."""
    required = {option.name: next(option.accepted()) for option in declaration.options if option.required}
    selection = optimizers.select(declaration.name, **required)
    sign = -1.0 if maximize else 1.0
    parameters = np.array([-3.0, -1.0, 1.5, 4.0])
    before = np.abs(parameters)
    state = fresh_state(selection, parameters)
    for step in range(1, 21):
        ahead = parameters
        if declaration.look_ahead is not None:
            ahead = parameters + declaration.look_ahead(state, **rule_options(selection))
        advance(selection, state, step)
        answer = move(selection, sign * ahead, state, step)
        parameters = parameters - answer.rate * answer.direction
    assert (np.abs(parameters) > before).all() if maximize else (np.abs(parameters) < before).all()


@every(("convention", "source"), [("pytorch", PYTORCH), ("keras", KERAS)])
def test_defaults_are_those_of_the_oracle(convention: str, source: str) -> None:
    recorded = ANSWERS[convention]["defaults"]
    assert set(recorded) == {declaration.name for declaration in RULES if source in declaration.sources}
    for name, defaults in recorded.items():
        usual = selected(name, convention, {}).options
        assert {key: usual[key] for key in defaults} == defaults, name


@every("declaration", RULES, ids=lambda declaration: declaration.name)
def test_a_convention_names_options(declaration: Optimizer) -> None:
    names = {option.name for option in declaration.options}
    assert bool(declaration.conventions) == ("convention" in names)
    for values in declaration.conventions.values():
        assert set(values) <= names


@every("selection", CHOICES.values(), ids=CHOICES)
def test_float32_stays_float32(selection: Selection[Optimizer]) -> None:
    parameters = START.astype(np.float32)
    exact = START.copy()
    state = fresh_state(selection, parameters)
    steps = zip(
        descend(selection, parameters, state, 5),
        descend(selection, exact, fresh_state(selection, exact), 5),
        strict=True,
    )
    for (step, answer), _ in steps:
        assert answer.direction.dtype == np.float32
        assert isinstance(answer.rate, float) or answer.rate.dtype == np.float32
        assert all(
            type(value) is float or value.dtype == np.float32
            for value in (*vars(state).values(), *shown(selection, state, step).values())
        )
    assert parameters.dtype == np.float32
    np.testing.assert_allclose(parameters, exact, rtol=1e-4, atol=1e-5)


@every("selection", CHOICES.values(), ids=CHOICES)
def test_rows_are_independent(selection: Selection[Optimizer]) -> None:
    rows = np.stack([START, START + 0.3, 0.5 * START])
    state = fresh_state(selection, rows)
    alone = [row.copy() for row in rows]
    states = [fresh_state(selection, row) for row in alone]
    for step, _ in descend(selection, rows, state, 6):
        for row, own in zip(alone, states, strict=True):
            list(descend(selection, row, own, 1, first=step))
        assert np.array_equal(rows, np.stack(alone))
    for name, value in vars(state).items():
        assert np.array_equal(value, np.stack([getattr(own, name) for own in states])) or type(value) is float


@every("selection", CHOICES.values(), ids=CHOICES)
def test_parts_are_independent(selection: Selection[Optimizer]) -> None:
    """The rule also leaves the gradient unchanged, and changes the declared arrays of its state in place."""
    whole = fresh_state(selection, START)
    first = dict(vars(whole))
    assert set(first) == {*selection.declaration.numbers, *selection.declaration.state(**rule_options(selection))}
    parts = [fresh_state(selection, START[:3]), fresh_state(selection, START[3:])]
    for step in range(1, 7):
        gradient = gradient_at(START + 0.3 * step)
        before = gradient.copy()
        for state in (whole, *parts):
            advance(selection, state, step)
        answer = move(selection, gradient, whole, step)
        assert np.array_equal(gradient, before)
        update = answer.rate * answer.direction
        pieces = [move(selection, gradient[:3], parts[0], step), move(selection, gradient[3:], parts[1], step)]
        assert np.array_equal(update, np.concatenate([piece.rate * piece.direction for piece in pieces]))
    assert set(vars(whole)) == set(first)
    for name, value in vars(whole).items():
        if isinstance(value, np.ndarray):
            assert value is first[name]
            assert np.array_equal(value, np.concatenate([getattr(part, name) for part in parts]))


@every("dtype", [np.float32, np.float64])
@every("selection", CHOICES.values(), ids=CHOICES)
def test_a_rule_goes_on_from_its_state(selection: Selection[Optimizer], dtype: type) -> None:
    parameters: Array = START.astype(dtype)
    state = fresh_state(selection, parameters)
    list(descend(selection, parameters, state, 3))
    resumed: Array = np.array(parameters.tolist(), dtype)
    copied = State(
        **{
            name: np.array(value.tolist(), dtype) if isinstance(value, np.ndarray) else value
            for name, value in vars(state).items()
        }
    )
    list(descend(selection, parameters, state, 3, first=4))
    list(descend(selection, resumed, copied, 3, first=4))
    assert np.array_equal(resumed, parameters)


def shown(selection: Selection[Optimizer], state: State, step: int) -> dict[str, Array]:
    show = selection.declaration.shown
    return {} if show is None else dict(show(state, step, **rule_options(selection)))


@every("selection", CHOICES.values(), ids=CHOICES)
def test_shown_arrays_are_finite(selection: Selection[Optimizer]) -> None:
    parameters = START.copy()
    state = fresh_state(selection, parameters)
    for step, _ in descend(selection, parameters, state, 5):
        for name, value in shown(selection, state, step).items():
            assert value.shape == parameters.shape and np.isfinite(value).all(), name
            assert name not in vars(state)


@every("name", ["adam", "amsgrad", "adamw", "adamax", "radam", "adam_as_printed"])
def test_corrected_moments_after_one_step_are_those_of_its_gradient(name: str) -> None:
    selection = optimizers.select(name)
    state = fresh_state(selection, START)
    gradient = gradient_at(START)
    move(selection, gradient, state, 1)
    corrected = shown(selection, state, 1)
    np.testing.assert_allclose(corrected["corrected_first_moment"], gradient, rtol=1e-12)
    if name != "adamax":
        np.testing.assert_allclose(corrected["corrected_second_moment"], gradient**2, rtol=1e-12)


@every("dtype", [np.float32, np.float64])
@every("convention", ["pytorch", "keras"])
def test_rounding_makes_no_negative_variance(convention: str, dtype: type) -> None:
    """The gradients were large and no longer change."""
    selection = optimizers.select("rmsprop", convention=convention, centered=True, rho=0.9, epsilon=0.0)
    gradient: Array = np.linspace(0.1, 1.0, 500).astype(dtype)
    state = fresh_state(selection, gradient)
    with np.errstate(divide="ignore", invalid="raise"):
        for step in range(1, 600):
            answer = move(selection, 3.0 * gradient if step < 100 else gradient, state, step)
            assert not np.isnan(answer.rate).any()


def test_rprop_skips_the_step_after_a_turn() -> None:
    selection = optimizers.select("rprop", learning_rate=1.0)
    state = fresh_state(selection, np.zeros(1))
    updates = []
    for step, gradient in enumerate([2.0, 3.0, -1e-200, -1e-200, -1e-200], start=1):
        answer = move(selection, np.array([gradient]), state, step)
        updates.append((answer.rate * answer.direction).item())
    assert updates == pytest.approx([1.0, 1.2, 0.0, -0.6, -0.72], rel=1e-15)


@every("name", AS_PRINTED)
def test_as_printed(name: str) -> None:
    """The misprinted formulas are written once more with plain numbers."""
    selection = optimizers.select(name, learning_rate=0.01)
    options = rule_options(selection)
    delta = options["epsilon"]
    parameters = START[:6].copy()
    state = fresh_state(selection, parameters)
    theta, s, r = parameters.tolist(), [0.0] * 6, [0.0] * 6
    for step in range(1, 11):
        gradient = gradient_at(np.array([*theta, 0.0]))[:6]
        answer = move(selection, gradient, state, step)
        parameters -= answer.rate * answer.direction
        for i, g in enumerate(gradient.tolist()):
            if name == "adam_as_printed":
                s[i] = options["beta_1"] * s[i] + (1 - options["beta_1"]) * g
                r[i] = options["beta_2"] * r[i] + (1 - options["beta_2"]) * g * g
                theta[i] -= 0.01 * s[i] / (math.sqrt(r[i]) + delta) * g
            else:
                r[i] = (
                    r[i] + g * g
                    if name == "adagrad_as_printed"
                    else options["rho"] * r[i] + (1 - options["rho"]) * g * g
                )
                lowered = theta[i] - 0.01 / (math.sqrt(r[i]) + delta)
                assert lowered < theta[i]
                theta[i] = lowered
        np.testing.assert_allclose(parameters, theta, rtol=1e-12)
