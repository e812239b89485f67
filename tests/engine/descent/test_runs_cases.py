"""Published and independently computed descents on functions, step by step: see tests/engine/test_cases.py.

A case has a run from each of some starts. `trace` holds the first steps of each run, with the values before the step
and the point after it. `value_curve` holds the value at regular steps.
"""

import numpy as np

from tests.engine.descent.test_cases import OPTIMIZERS, in_our_words
from tests.engine.functions.building import roll
from tests.engine.test_cases import CASES, close, members_of, of_kind
from tests.support import every

RUN = {"trace", "value_curve", "final", "final_value", "gradient_norm_final", "diverged_at_step"}


def rolled(case):
    return roll(
        case["expression"],
        in_our_words(case["optimizer"]),
        case["starts"],
        case["steps"],
        variables=case["variables"],
        include=("gradients", "state"),
    )


@every(("case", "tolerance"), of_kind("function_descent"))
def test_descents(case, tolerance):
    running, recorded, outcome = rolled(case)
    state_names = OPTIMIZERS[case["optimizer"]["name"]][2]
    assert [step for step, *_ in recorded] == list(range(case["steps"] + 1))
    for run, expected in enumerate(case["expected"]):
        assert set(expected) - {"basin"} == RUN
        way = running.path_of(run)
        for number, wanted in enumerate(expected["trace"]):
            assert wanted["step"] == number + 1
            close(way["values"][number], wanted["value"], tolerance, f"value before step {number + 1}")
            close(way["gradients"][number], wanted["gradient"], tolerance, f"gradient before step {number + 1}")
            close(way["path"][number + 1], wanted["theta"], tolerance, f"place after step {number + 1}")
            assert set(way["state"]) == {state_names[name] for name in wanted["state"]}
            for name, array in wanted["state"].items():
                ours = way["state"][state_names[name]][number + 1]
                close(ours, array, tolerance, f"{name} after step {number + 1}")
        close(way["values"][: case["steps"] : case["curve_every"]], expected["value_curve"], tolerance, "curve")
        assert expected["diverged_at_step"] is None
        assert outcome.status[run] == "completed"
        assert outcome.steps_done[run] == case["steps"]
        close(outcome.points[run], expected["final"], tolerance, "where it ends")
        close(outcome.values[run], expected["final_value"], tolerance, "the last value")
        close(outcome.norms[run], expected["gradient_norm_final"], tolerance, "the last gradient")


WITH_VALLEYS = [each for each in of_kind("function_descent") if "minima" in each.values[0]]


@every(("case", "tolerance"), WITH_VALLEYS)
def test_valleys(case, tolerance):
    """A run is in the valley that the case says, and every valley is one of the case."""
    _, _, outcome = rolled(case)
    places = {each["label"]: np.array(each["at"]) for each in case["minima"]}
    for run, expected in enumerate(case["expected"]):
        at = places[expected["basin"]]
        assert np.abs(outcome.points[run] - at).max() <= case["basin_radius"]
        close(outcome.valleys.points[outcome.valleys.of_run[run]], at, tolerance, expected["basin"])
    labels = {expected["basin"] for expected in case["expected"]}
    assert len(outcome.valleys.points) == len(labels)
    found = outcome.valleys.calculus.results.values
    assert (np.diff(found) >= 0.0).all()
    assert sum(outcome.valleys.counts) == len(case["expected"])
    close(outcome.values[outcome.best], outcome.values.min(), tolerance, "best")


# By the name of the case and of the relation. `m` are the runs of its members, one each.
RELATIONS = {
    "learning_rate_regimes": {
        "x_after_20": lambda m: [x.positions[0, 0] for x in m],
        "closed_form": lambda m: [(1.0 - 2.0 * x.plan.optimizers[0].options["learning_rate"]) ** 20 for x in m],
        "sign_changes": lambda m: [int((x.paths.points[0, 1:-1, 0] * x.paths.points[0, 2:, 0] < 0.0).sum()) for x in m],
    }
}
GROUPS = {
    case["name"]: case
    for case in CASES.values()
    if case["kind"] == "group" and any(member["kind"] == "function_descent" for member in case["members"])
}


@every("name", GROUPS)
def test_relations(name):
    case, relations = GROUPS[name], RELATIONS[name]
    assert set(relations) == set(case["relations"])
    answers = [rolled(member)[0] for member in case["members"]]
    for relation, compute in relations.items():
        close(compute(answers), case["relations"][relation], case["tolerance"], relation)


def test_every_descent_is_held_by_a_test():
    count = sum(member["kind"] == "function_descent" for case in CASES.values() for member in members_of(case))
    assert len(of_kind("function_descent")) == count >= 12
    assert set(RELATIONS) == set(GROUPS)
    assert len(WITH_VALLEYS) >= 5
