"""Published and independently computed numbers: textbooks, slides, notebooks, exact references.

Each file of tests/data/cases is one case: what to compute, what comes out, how exactly. `W[in][out]`
and `b[out]` are the kernel and bias of a dense layer. A group holds several cases and, under
`relations`, what some of their numbers have to do with one another.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph
from service.engine.graph.operations import slice_axis, sum_over
from service.engine.network.activations import activations
from tests.engine.network.building import dense, evaluate, layer, network
from tests.engine.support import dense_gradients
from tests.support import every

FILES = sorted((Path(__file__).parents[1] / "data" / "cases").glob("*.json"))
CASES = {path.stem: json.loads(path.read_text()) for path in FILES}
LOSSES = {
    "mse": "mean_squared_error",
    "squared_error": "squared_error",
    "half_squared_error": "half_squared_error",
    "binary_cross_entropy": "binary_crossentropy",  # which averages over outputs: the cases have one
    "categorical_cross_entropy": "categorical_crossentropy",
}


def members_of(case):
    return case.get("members", [case])


MEMBERS = [
    pytest.param(member, case["tolerance"], id=f"{name}[{position}]" if "members" in case else name)
    for name, case in CASES.items()
    for position, member in enumerate(members_of(case))
]


def of_kind(kind):
    return [parameters for parameters in MEMBERS if parameters.values[0]["kind"] == kind]


def close(actual, expected, tolerance, what=""):
    """Null stands for what is not a number, as 0 / 0."""
    np.testing.assert_allclose(actual, np.asarray(expected, float), **tolerance, err_msg=what)


def chosen_activation(described):
    options = {key: described[key] for key in ("alpha", "threshold") if key in described}
    return {"name": described["activation"], **options}


# --- networks -----------------------------------------------------------------------------------


def computed(member):
    """Return the engine's answer to a case of a network, in the case's words."""
    layers = {f"layer {position}": described for position, described in enumerate(member["layers"])}
    definition = network(
        *(
            dense(name, described["units"], chosen_activation(described), use_bias="b" in described)
            for name, described in layers.items()
        )
    )
    parameters = {}
    for name, described in layers.items():
        own = parameters[name] = {"kernel": described["W"]}
        if "b" in described:
            own["bias"] = described["b"]
        if described["activation"] == "prelu":
            own["alpha"] = described["alpha"]
    inputs = np.asarray(member["inputs"], float)
    if "input_transform" in member:
        inputs = (inputs - member["input_transform"]["subtract"]) / member["input_transform"]["divide"]
    result = evaluate(
        definition,
        inputs,
        parameters,
        LOSSES[member["loss"]],
        member["targets"],
        reduction=member["reduction"],
        include=("layers", "input_gradients", "per_sample"),
    )
    called = {"kernel": "W", "bias": "b", "alpha": "alpha"}
    gradients = [{called[own]: array for own, array in result.gradients[name].items()} for name in layers]
    deltas = [each.delta for each in result.layers]
    delta_norms = [np.linalg.norm(delta) for delta in deltas]
    with np.errstate(all="ignore"):
        ratios = np.divide(delta_norms[:-1], delta_norms[1:])
    return {
        "z": [each.pre_activation for each in result.layers],
        "a": [each.output for each in result.layers],
        "outputs": result.outputs[definition.output_names[0]],
        "loss_per_sample": result.per_sample_loss,
        "loss": float(result.loss),
        "deltas": deltas,
        "gradients": gradients,
        "input_gradients": result.input_gradients["input"],
        "gradient_norm": result.gradient_norm,
        "delta_norm_per_layer": delta_norms,
        "delta_norm_ratio": ratios,
        "weight_gradient_norm_per_layer": [np.linalg.norm(each["W"]) for each in gradients],
    }


def norm_without_slopes(expected, gradients):
    """The cases leave the slopes of prelu out of the norm; the service's norm is over all parameters."""
    slopes = [np.sum(np.square(each["alpha"])) for each in gradients if "alpha" in each]
    return math.sqrt(expected**2 + sum(slopes))


@every(("member", "tolerance"), of_kind("net_gradient"))
def test_networks(member, tolerance):
    actual, expected = computed(member), member["expected"]
    assert set(expected) <= set(actual)
    for what, numbers in expected.items():
        if what == "gradients":
            for ours, theirs in zip(actual[what], numbers, strict=True):
                assert set(ours) == set(theirs)
                for name, array in theirs.items():
                    close(ours[name], array, tolerance, name)
        elif what in ("z", "a", "deltas"):
            for ours, theirs in zip(actual[what], numbers, strict=True):
                close(ours, theirs, tolerance, what)
        elif what == "gradient_norm":
            close(actual[what], norm_without_slopes(numbers, actual["gradients"]), tolerance, what)
        else:
            close(actual[what], numbers, tolerance, what)


# --- tables -------------------------------------------------------------------------------------


@every(("member", "tolerance"), of_kind("activation_table"))
def test_activation_tables(member, tolerance):
    for table in member["expected"]["tables"]:
        chosen = chosen_activation(table)
        selected = activations.select(chosen.pop("name"), **chosen)
        points = np.array([row["x"] for row in table["rows"]])
        x = Graph("float64").input("x", points.shape)
        slopes = [x.graph.constant(selected.options[name]) for name in selected.declaration.parameters]
        y = selected.declaration.build(x, *slopes, **selected.options)
        (slope,) = dense_gradients(differentiate(sum_over(y), [x]).nodes, [x])
        found = interpret([y, slope], {x: points})
        close(found[y], [row["value"] for row in table["rows"]], tolerance, selected.name)
        close(found[slope], [row["derivative"] for row in table["rows"]], tolerance, selected.name)


@every(("member", "tolerance"), of_kind("loss_table"))
def test_loss_tables(member, tolerance):
    for row, expected in zip(member["rows"], member["expected"]["rows"], strict=True):
        result = evaluate(
            network(layer("out", "activation", activation="linear")),
            [row["prediction"]],
            {},
            LOSSES[row["loss"]],
            [row["target"]],
            reduction=row["reduction"],
            include=("input_gradients",),
        )
        close(result.loss, expected["loss"], tolerance)
        close(result.outputs["out"], [expected["prediction"]], tolerance)
        close(result.input_gradients["input"], [expected["gradient_wrt_prediction"]], tolerance)


# --- jacobians ----------------------------------------------------------------------------------


def jacobian(member):
    """Values and their derivatives, one output at a time."""
    z = Graph("float64").input("z", (len(member["z"]),))
    selected = activations.select(member["activation"])
    values = selected.declaration.build(z, **selected.options)
    outputs = [sum_over(slice_axis(values, 0, k, k + 1)) for k in range(values.size)]
    rows = [differentiate(output, [z]).nodes[0] for output in outputs]
    found = interpret([values, *rows], {z: np.array(member["z"])})
    return {"values": found[values], "jacobian": np.array([found[row] for row in rows])}


@every(("member", "tolerance"), of_kind("jacobian"))
def test_jacobians(member, tolerance):
    actual, expected = jacobian(member), member["expected"]
    close(actual["values"], expected["values"], tolerance)
    close(actual["jacobian"], expected["jacobian"], tolerance)
    if "row_sums" in expected:
        close(actual["jacobian"].sum(1), expected["row_sums"], tolerance)


# --- relations ----------------------------------------------------------------------------------


def weight(member, position, *index):
    return member["gradients"][position]["W"][index]


def bias(member, position, index=0):
    return member["gradients"][position]["b"][index]


def largest_difference(parts, factor, whole):
    """Between the sum of gradients and those of another member, over all kernels."""
    return max(
        np.abs(factor * sum(part["gradients"][k]["W"] for part in parts) - each["W"]).max()
        for k, each in enumerate(whole["gradients"])
    )


def slopes_of_dead_unit(member):
    return [weight(member, 0, 0, 1), weight(member, 0, 1, 1), bias(member, 0, 1), weight(member, 1, 1, 0)]


def central_differences(m):
    return [(m[2 * k]["loss"] - m[2 * k + 1]["loss"]) / (2.0 * 10.0 ** -(k + 1)) for k in range(3)]


def hidden_gradients_share_a_sign(member):
    delta, hidden = member["deltas"][1], member["a"][0]
    return bool(((delta > 0) == (delta * hidden > 0)).all())


# By the name of the case and of the relation; `m` are the answers to its members.
RELATIONS = {
    "online_vs_batch_gradient_sum": {
        "sum_of_four_minus_batch_W1_00": lambda m: sum(weight(x, 0, 0, 0) for x in m[:4]) - weight(m[4], 0, 0, 0),
        "batch_sum_over_mean": lambda m: bias(m[4], 1) / bias(m[5], 1),
        "max_abs_difference": lambda m: largest_difference(m[:4], 1.0, m[4]),
    },
    "error_curve_of_one_weight_xor": {
        "weights": None,  # what was put in
        "loss": lambda m: [x["loss"] for x in m],
        "slope": lambda m: [weight(x, 1, 1, 0) for x in m],
    },
    "slope_minus_0_5622": {
        "slopes": lambda m: [weight(x, 0, 0, 0) for x in m],
        "error_falls_when_weight_grows": None,  # about a function: see tests/engine/functions/test_cases.py
    },
    "learning_slowdown_sigma_prime": {
        "z": None,  # what was put in
        "quadratic_gradient": lambda m: [bias(x, 0) for x in m[::2]],
        "cross_entropy_gradient": lambda m: [bias(x, 0) for x in m[1::2]],
        "ratio": lambda m: [bias(a, 0) / bias(b, 0) for a, b in zip(m[::2], m[1::2], strict=True)],
        "sigma_prime": lambda m: [x["outputs"][0][0] * (1.0 - x["outputs"][0][0]) for x in m[::2]],
        "quadratic_slower_when_more_wrong": lambda m: bool(bias(m[8], 0) < bias(m[4], 0)),
    },
    "softmax_versus_seed_softmin": {
        "softmax_argmax_is_last": lambda m: bool(m[0]["values"][2] > m[0]["values"][0]),
        "softmin_argmax_is_first": lambda m: bool(m[1]["values"][0] > m[1]["values"][2]),
        "reversed": lambda m: m[0]["values"] - m[1]["values"][::-1],
    },
    "binary_equals_two_class_softmax": {
        "loss_difference": lambda m: m[0]["loss"] - m[1]["loss"],
        "gradient_difference": lambda m: [weight(m[0], 0, i, 0) - weight(m[1], 0, i, 0) for i in range(2)],
        "second_column_is_minus_first": lambda m: [weight(m[1], 0, i, 0) + weight(m[1], 0, i, 1) for i in range(2)],
    },
    "step_neuron_logic_gates": {},
    "vanishing_by_activation": {
        "first_over_last": lambda m: [x["delta_norm_per_layer"][0] / x["delta_norm_per_layer"][-1] for x in m]
    },
    "dead_relu_leaky_prelu": {
        "dead_unit_gradient": lambda m: [slopes_of_dead_unit(x) for x in m],
        "relu_dead_unit_all_zero": lambda m: not any(slopes_of_dead_unit(m[0])),
        "alpha_gradient_prelu": lambda m: m[2]["gradients"][0]["alpha"],
    },
    "mean_shift_non_zero_mean": {
        "hidden_mean": lambda m: [x["a"][0].mean() for x in m],
        "all_incoming_weight_gradients_share_the_sign_of_delta": lambda m: [
            hidden_gradients_share_a_sign(x) for x in m
        ],
    },
    "deep_linear_collapse": {
        "output_difference": lambda m: (m[0]["outputs"] - m[1]["outputs"])[:, 0],
        "loss_difference": lambda m: m[0]["loss"] - m[1]["loss"],
    },
    "minibatch_mean_equals_full": {
        "max_abs_difference": lambda m: largest_difference(m[:3], 1.0 / 3.0, m[3]),
        "loss_difference": lambda m: sum(x["loss"] for x in m[:3]) / 3.0 - m[3]["loss"],
    },
    "finite_difference_check": {
        "central": central_differences,
        "exact": lambda m: weight(m[6], 1, 1, 0),
        "error_ratio_01_to_001": lambda m: (
            (central_differences(m)[0] - weight(m[6], 1, 1, 0)) / (central_differences(m)[1] - weight(m[6], 1, 1, 0))
        ),
    },
}
ANSWERS = {"net_gradient": computed, "jacobian": jacobian}
GROUPS = {
    case["name"]: case
    for case in CASES.values()
    if case["kind"] == "group" and any(member["kind"] in ANSWERS for member in case["members"])
}


@every("name", GROUPS)
def test_relations(name):
    case, relations = GROUPS[name], RELATIONS[name]
    assert set(relations) == set(case["relations"])
    answers = [ANSWERS[member["kind"]](member) for member in case["members"] if member["kind"] in ANSWERS]
    for relation, compute in relations.items():
        expected = case["relations"][relation]
        if compute is None:
            continue
        actual = compute(answers)
        if isinstance(expected, bool):
            assert actual is expected
        else:
            close(np.asarray(actual, float), expected, case["tolerance"], relation)


def test_every_case_is_held_by_a_test():
    kinds = {member["kind"] for case in CASES.values() for member in members_of(case)}
    held_by_descent = {"net_training", "function_descent"}  # see test_cases.py and test_rolling_cases.py there
    held_by_functions = {"function", "graph"}  # see tests/engine/functions/test_cases.py
    assert kinds == {"net_gradient", "activation_table", "loss_table", "jacobian"} | held_by_descent | held_by_functions
    assert len(CASES) >= 69
