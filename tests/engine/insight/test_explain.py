"""Derivations: every step is what its formula says, gradients are the engine's, and tables of a textbook come out."""

import json
import random
from pathlib import Path

import latex2mathml.converter
import numpy as np
import pytest

from service.engine.errors import InvalidRequest
from service.engine.insight.explain import ExplainTask
from service.engine.insight.outline import KINDS, MOST_STEPS, MOST_TERMS
from service.engine.network.evaluate import compile_task
from service.engine.network.feed import Feed
from tests.engine.insight.random_networks import LAYERS, random_case
from tests.engine.insight.walking import walk
from tests.engine.network.building import ROOMY, as_arrays, dense, layer, network, task_for
from tests.support import every


def explained(
    definition,
    parameters,
    inputs,
    loss,
    targets,
    parameter=None,
    *,
    sample=None,
    depth=None,
    convention="standard",
    rate=0.1,
    weights=None,
    seed=0,
    **details,
):
    """Derive a network's gradients."""
    task = task_for(definition, inputs, loss, targets, weights, parameters, **details)
    compiled = ExplainTask(task, parameter, sample, depth, convention).compile(ROOMY)
    feed = Feed(
        {definition.inputs[0]: np.asarray(inputs)},
        None if parameters is None else as_arrays(parameters, task.dtype),
        {definition.output_names[0]: np.asarray(targets)},
        None if weights is None else np.asarray(weights, task.dtype),
        seed,
    )
    return compiled.run(feed, rate)


def values(derivation):
    """Return the value of every step by its id."""
    return {step.id: value for step, value, _ in derivation.steps}


# --- every step, for every layer ----------------------------------------------------------------


@every("name", LAYERS)
def test_every_step_has_the_value_of_its_formula(name):
    case = random_case(5, name, "float32" if LAYERS.index(name) % 4 == 0 else "float64")
    path = random.Random(name).choice(case.paths) if case.paths else None
    convention = "heaton" if LAYERS.index(name) % 3 == 0 else "standard"
    # Volumes have so many places that a derivation of more steps would be too long.
    derivation = case.explained(path, convention=convention, depth=2 if "3d" in name else 6)
    assert walk(derivation, case.task.dtype, ordered=convention == "standard") >= 2
    (asked,) = derivation.meanings
    result = compile_task(case.task, ROOMY).run(case.feed)
    layer_name, rest = path.split(".", 1)
    part, *index = rest.replace("]", "").split("[")
    gradient = result.gradients[layer_name][part][tuple(map(int, index))]
    sign = -1.0 if convention == "heaton" else 1.0
    exact = 1e-12 if case.task.dtype == "float64" else 1e-5
    size = float(np.abs(result.gradients[layer_name][part]).max())
    assert sign * asked.gradient == pytest.approx(float(gradient), rel=exact, abs=exact * size)


def test_steps_follow_those_they_use_and_kinds_are_in_order():
    case = random_case(3, "dense")
    derivation = case.explained(None)
    kinds = [KINDS.index(step.kind) for step, _, _ in derivation.steps]
    assert kinds == sorted(kinds)
    walk(derivation)
    used = {name for step, _, _ in derivation.steps for name in step.uses}
    assert {quantity.id for quantity, _ in derivation.quantities} <= used


@every("name", ["dense", "conv1d", "lstm", "multi_head_attention", "batch_normalization"])
def test_formulas_are_latex(name):
    case = random_case(1, name)
    derivation = case.explained(case.paths[-1], depth=4)
    for step, _, numbers in derivation.steps[-25:]:
        for text in (step.symbol, step.latex, numbers):
            assert "<merror" not in latex2mathml.converter.convert(text)
            assert text.count("{") == text.count("}")
            assert not any(mark in text for mark in "\ue000\ue001\ue002\ue003")


def test_names_of_layers_may_hold_any_character():
    definition = network(dense("a_b$%&#{}^~ 层", 1))
    derivation = explained(definition, None, [[1.0]], "mse", [[0.0]])
    for step, _, _ in derivation.steps:
        assert "<merror" not in latex2mathml.converter.convert(step.latex)


# --- Heaton's tables ----------------------------------------------------------------------------

HEATON = json.loads((Path(__file__).parents[2] / "data" / "heaton_xor.json").read_text())
HEATONS_WEIGHTS = [
    *("output.kernel[0][0]", "output.kernel[1][0]", "output.bias[0]"),
    *("hidden.kernel[0][0]", "hidden.kernel[1][0]", "hidden.bias[0]"),
    *("hidden.kernel[0][1]", "hidden.kernel[1][1]", "hidden.bias[1]"),
]
"""In the order in which he numbers them."""


def heatons(table, convention="heaton"):
    """Derive a table that Heaton published; his pages use a learning rate of 0.7."""
    return explained(
        network(dense("hidden", 2, "sigmoid"), dense("output", 1, "sigmoid")),
        HEATON["parameters"],
        table["inputs"],
        "half_squared_error",
        table["targets"],
        convention=convention,
        reduction="sum",
        rate=0.7,
    )


@every("table", HEATON["tables"], ids=lambda table: table["title"])
def test_heatons_tables_come_out_to_the_digits_he_printed(table):
    derivation = heatons(table)
    found = values(derivation)
    assert len(table["printed"]) >= 9
    for name, printed in table["printed"].items():
        # JavaScript and NumPy round the same sums in another order: half a unit of the last digit, or two of a float.
        assert found[name] == pytest.approx(float(printed), rel=4e-16, abs=1e-17), name
    walk(derivation, ordered=False)


def test_heatons_order_is_outputs_first_and_a_unit_at_a_time():
    derivation = heatons(HEATON["tables"][0])
    shown = [step.id for step, _, _ in derivation.steps if step.quantity in ("pre_activation", "output", "delta")]
    assert shown == [
        *("z:output[0][0]", "a:output[0][0]", "delta:output[0][0]"),
        *("z:hidden[0][0]", "a:hidden[0][0]", "delta:hidden[0][0]"),
        *("z:hidden[0][1]", "a:hidden[0][1]", "delta:hidden[0][1]"),
    ]
    gradients = [step.id for step, _, _ in derivation.steps if step.quantity == "gradient"]
    assert gradients == [f"gradient:{path}" for path in HEATONS_WEIGHTS]


def test_his_convention_holds_for_parameters_of_any_shape():
    definition = network(dense("hidden", 2, "prelu"), layer("norm", "layer_normalization"), dense("output", 1))
    parameters = {
        "hidden": {"kernel": [[1.0, -2.0]], "bias": [0.1, 0.2], "alpha": 0.25},
        "norm": {"gamma": [1.0, 2.0], "beta": [0.0, 0.1]},
        "output": {"kernel": [[1.0], [2.0]], "bias": [0.0]},
    }
    derivation = explained(definition, parameters, [[1.0], [-1.0]], "mse", [[1.0], [0.5]], convention="heaton")
    assert walk(derivation, ordered=False) > 20
    assert "gradient:hidden.alpha" in values(derivation)


def test_both_conventions_go_the_same_way():
    his, ours = (heatons(HEATON["tables"][1], convention) for convention in ("heaton", "standard"))
    theirs = {meaning.asked.path: meaning for meaning in his.meanings}
    for meaning in ours.meanings:
        other = theirs[meaning.asked.path]
        assert (other.advice, other.gradient, other.updated) == (meaning.advice, -meaning.gradient, meaning.updated)


# --- samples ------------------------------------------------------------------------------------


def test_a_sample_is_derived_as_if_it_were_alone_with_its_own_random_numbers():
    definition = network(dense("hidden", 3, "tanh"), layer("drop", "dropout", rate=0.5), dense("output", 1))
    inputs = np.random.default_rng(1).standard_normal((4, 2))
    targets = np.ones((4, 1))
    case = (definition, None, inputs, "squared_error", targets)
    details = {"training": True, "seed": 7, "weights": [1.0, 2.0, 0.5, 3.0]}
    task = task_for(definition, inputs, "squared_error", targets, details["weights"], training=True)
    task = task._replace(include=frozenset(("per_sample",)))
    feed = Feed({"input": inputs}, None, {"output": targets}, np.array(details["weights"]), 7)
    whole = compile_task(task, ROOMY).run(feed)
    for sample in range(4):
        derivation = explained(*case, sample=sample, **details)
        walk(derivation)
        assert derivation.loss == pytest.approx(whole.per_sample_loss[sample], rel=1e-13)
        for meaning in derivation.meanings:
            parameter = meaning.asked.selected.parameter
            expected = whole.per_sample_gradients[parameter.layer][parameter.name][sample].flat[meaning.asked.place]
            assert meaning.gradient == pytest.approx(expected, rel=1e-12, abs=1e-15)
        samples = {step.sample for step, _, _ in derivation.steps} - {None}
        assert samples == {sample}


def test_shares_of_samples_add_up_to_the_gradient():
    case = random_case(11, "conv2d")
    derivation = case.explained("before.kernel[0][0]", depth=1)
    found = values(derivation)
    shares = [value for key, value in found.items() if "@" in key]
    assert len(shares) == 3
    walk(derivation)


def test_samples_that_depend_on_each_other_have_no_derivation_of_their_own():
    definition = network(layer("norm", "batch_normalization"), dense("output", 1))
    with pytest.raises(InvalidRequest, match="'norm' computes each sample from the whole batch"):
        explained(definition, None, np.eye(3), "mse", np.ones((3, 1)), sample=1, training=True)
    assert explained(definition, None, np.eye(3), "mse", np.ones((3, 1)), sample=1).finite


# --- depth and size -----------------------------------------------------------------------------


def test_depth_says_how_far_back_is_derived():
    definition = network(dense("hidden", 2, "tanh"), dense("output", 1))
    case = (definition, None, [[1.0, 2.0]], "half_squared_error", [[0.0]], "hidden.kernel[0][1]")
    one, two, whole = (explained(*case, depth=depth) for depth in (1, 2, None))
    assert set(values(one)) == {"gradient:hidden.kernel[0][1]", "update:hidden.kernel[0][1]"}
    assert {quantity.id for quantity, _ in one.quantities} >= {"delta:hidden[0][1]", "input:input[0][0]"}
    assert set(values(two)) - set(values(one)) == {"delta:hidden[0][1]"}
    assert set(values(two)) < set(values(whole))
    assert "loss" in values(whole)
    for derivation in (one, two, whole):
        walk(derivation)


def test_a_derivation_that_is_too_long_is_refused_with_a_depth_that_is_not():
    definition = network(dense("hidden", 60, "relu"), dense("classes", 5, "softmax"))
    inputs, targets = np.ones((5, 70)), np.eye(5)
    case = (definition, None, inputs, "categorical_crossentropy", targets, "hidden.kernel[3][4]")
    with pytest.raises(InvalidRequest) as caught:
        explained(*case)
    (fault,) = caught.value.faults
    assert fault.path == ("depth",)
    assert f"{MOST_STEPS} steps with {MOST_TERMS} terms" in fault.detail
    deepest = int(fault.detail.rsplit(" ", 1)[1])
    assert deepest >= 2
    derivation = explained(*case, depth=deepest)
    walk(derivation)
    with pytest.raises(InvalidRequest):
        explained(*case, depth=deepest + 1)
    with pytest.raises(InvalidRequest, match="4565 gradients were asked for") as caught:
        explained(*case[:-1], None, depth=1)
    assert caught.value.faults[0].path == ("parameter",)


# --- meaning of gradients -----------------------------------------------------------------------


def meaning(definition, parameters, inputs, loss, targets, parameter, **details):
    (found,) = explained(definition, parameters, inputs, loss, targets, parameter, **details).meanings
    return found


def test_moving_as_the_sign_advises_lowers_the_loss():
    definition = network(dense("hidden", 3, "tanh"), dense("output", 2, "sigmoid"))
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((4, 2)), rng.uniform(size=(4, 2))
    derivation = explained(definition, None, inputs, "binary_crossentropy", targets, seed=3)
    parameters = {
        layer: {name: array.copy() for name, array in own.items()} for layer, own in derivation.parameters.items()
    }
    for found in derivation.meanings:
        parameter = found.asked.selected.parameter
        moved = {layer: {name: array.copy() for name, array in own.items()} for layer, own in parameters.items()}
        step = {"increase": 1e-4, "decrease": -1e-4}[found.advice]
        moved[parameter.layer][parameter.name].flat[found.asked.place] += step
        after = explained(definition, moved, inputs, "binary_crossentropy", targets, "output.bias[0]", depth=1)
        assert after.loss < derivation.loss
        assert (found.updated > found.value) == (found.advice == "increase")


ONE = {"hidden": {"kernel": [[1.0]], "bias": [0.0]}, "output": {"kernel": [[1.0]], "bias": [0.0]}}


def pair(activation, hidden=None, output=None, last="linear"):
    """Build one hidden unit and one output, with their parameters."""
    parameters = {"hidden": ONE["hidden"] | (hidden or {}), "output": ONE["output"] | (output or {})}
    return network(dense("hidden", 1, activation), dense("output", 1, last)), parameters


@every(
    ("network_of", "inputs", "targets", "code", "layer_name", "samples"),
    [
        (pair("tanh"), [[0.0], [0.0]], [[1.0], [2.0]], "zero_input", None, (0, 1)),
        (pair("relu"), [[-1.0], [-2.0]], [[1.0], [1.0]], "dead", "hidden", (0, 1)),
        (pair("sigmoid", {"bias": [800.0]}), [[1.0]], [[2.0]], "saturated", "hidden", (0,)),
        (pair("hard_tanh", {"bias": [5.0]}), [[1.0]], [[0.5]], "saturated", "hidden", (0,)),
        (pair("linear"), [[1.0], [2.0]], [[1.0], [2.0]], "zero_error", None, (0, 1)),
        (pair("linear", None, {"bias": [-1.0]}), [[1.0]], [[0.0]], "zero_error", None, (0,)),
        (pair("tanh", None, {"kernel": [[0.0]]}), [[1.0]], [[1.0]], "zero_weight", "output", (0,)),
        (pair("linear"), [[1.0], [-1.0]], [[2.0], [0.0]], "cancels", None, ()),
        (pair("step"), [[1.0]], [[2.0]], "blocked", "hidden", ()),
        (pair("leaky_relu", None, None, "step"), [[1.0]], [[2.0]], "blocked", "output", ()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_gradient_of_0_says_why(network_of, inputs, targets, code, layer_name, samples):
    definition, parameters = network_of
    found = meaning(definition, parameters, inputs, "half_squared_error", targets, "hidden.kernel[0][0]")
    assert (found.advice, found.gradient) == ("stationary", 0.0)
    (reason,) = found.reasons
    if code == "blocked":
        assert (reason.code, reason.layer) == (code, layer_name)
    else:
        assert (reason.code, reason.layer, reason.samples) == (code, layer_name, samples)


def test_reasons_differ_from_sample_to_sample():
    definition, parameters = pair("relu")
    inputs, targets = [[0.0], [-1.0], [2.0]], [[1.0], [1.0], [2.0]]
    found = meaning(definition, parameters, inputs, "half_squared_error", targets, "hidden.kernel[0][0]")
    reasons = {(reason.code, reason.samples) for reason in found.reasons}
    assert reasons == {("zero_input", (0,)), ("inactive", (0, 1)), ("zero_error", (2,))}


def test_other_reasons_of_a_gradient_of_0():
    drop = network(dense("hidden", 1), layer("drop", "dropout", rate=0.9), dense("output", 1))
    found = meaning(drop, ONE, [[1.0]], "mse", [[5.0]], "hidden.kernel[0][0]", training=True, seed=1)
    assert [reason.code for reason in found.reasons] == ["dropped"]
    table = network(layer("words", "embedding", input_dim=3, output_dim=1), dense("output", 1))
    parameters = {"words": {"embeddings": [[1.0], [2.0], [3.0]]}, "output": ONE["output"]}
    found = meaning(table, parameters, np.array([[0], [2]]), "mse", [[[5.0]], [[5.0]]], "words.embeddings[1][0]")
    assert [reason.code for reason in found.reasons] == ["unused"]
    pool = network(layer("conv", "conv1d", filters=1, kernel_size=[1]), layer("pool", "max_pooling1d", pool_size=[2]))
    parameters = {"conv": {"kernel": [[[1.0]]], "bias": [0.0]}}
    found = meaning(pool, parameters, [[[1.0], [0.0]]], "mse", [[[1.0]]], "conv.kernel[0][0][0]")
    assert "zero_error" in [reason.code for reason in found.reasons]
    definition, parameters = pair("tanh")
    weighted = meaning(
        definition, parameters, [[1.0]], "mse", [[5.0]], "hidden.kernel[0][0]", weights=[0.0], reduction="sum"
    )
    assert [reason.code for reason in weighted.reasons] == ["sample_weight"]
    alone = network(dense("hidden", 1), dense("output", 1, inputs=["input"]), outputs=["output"])
    found = meaning(alone, ONE, [[1.0]], "mse", [[5.0]], "hidden.kernel[0][0]")
    assert [reason.code for reason in found.reasons] == ["disconnected"]


def test_probabilities_that_are_just_the_targets_have_no_error():
    definition = network(dense("classes", 2, "softmax"))
    parameters = {"classes": {"kernel": [[0.0, 0.0]], "bias": [0.0, 0.0]}}
    found = meaning(definition, parameters, [[1.0]], "categorical_crossentropy", [[0.5, 0.5]], "classes.kernel[0][1]")
    assert [reason.code for reason in found.reasons] == ["zero_error"]


def test_a_loss_that_counts_only_outputs_with_a_target():
    definition = network(dense("shares", 2, "sigmoid"))
    parameters = {"shares": {"kernel": [[1.0, 1.0]], "bias": [0.0, 0.0]}}
    found = meaning(definition, parameters, [[1.0]], "categorical_crossentropy", [[0.0, 1.0]], "shares.kernel[0][0]")
    assert [reason.code for reason in found.reasons] == ["zero_target"]


# --- textbook form ------------------------------------------------------------------------------


def test_softmax_with_cross_entropy_reads_p_minus_t():
    definition = network(dense("classes", 3, "softmax"))
    derivation = explained(definition, None, [[1.0, 2.0]], "categorical_crossentropy", [[0.0, 1.0, 0.0]], seed=1)
    deltas = {step.id: (step.latex, step.uses) for step, _, _ in derivation.steps if step.quantity == "delta"}
    assert len(deltas) == 3
    walk(derivation)


def test_the_formulas_of_a_dense_layer_are_those_of_its_textbook():
    definition = network(dense("hidden", 2, "sigmoid"), dense("output", 1, "sigmoid"))
    derivation = explained(
        definition, None, [[1.0, 0.0]], "half_squared_error", [[1.0]], "hidden.kernel[0][1]", reduction="sum"
    )
    formulas = {step.id: (step.expression, step.uses) for step, _, _ in derivation.steps}
    assert formulas["delta:output[0][0]"] == ("u0*u1", ("error:output[0][0]", "slope:output[0][0]"))
    assert formulas["delta:hidden[0][1]"] == (
        "u0*u1*u2",
        ("delta:output[0][0]", "parameter:output.kernel[1][0]", "slope:hidden[0][1]"),
    )
    assert formulas["gradient:hidden.kernel[0][1]"] == ("u0*u1", ("input:input[0][0]", "delta:hidden[0][1]"))
    latex = {step.id: step.latex for step, _, _ in derivation.steps}
    assert latex["error:output[0][0]"] == r"e_{0} = a^{\mathrm{output}}_{0} - t_{0}"
    assert latex["update:hidden.kernel[0][1]"] == (
        r"W^{\mathrm{hidden}}_{0,1} \leftarrow W^{\mathrm{hidden}}_{0,1} - \eta "
        r"\frac{\partial L}{\partial W^{\mathrm{hidden}}_{0,1}}"
    )


def test_shared_parameters_collect_the_gradients_of_every_use():
    definition = network(dense("first", 2, "tanh"), dense("second", 2, "tanh", shares="first"), dense("output", 1))
    derivation = explained(definition, None, [[1.0, 2.0]], "mse", [[1.0]], "first.kernel[0][1]")
    walk(derivation)
    step = next(step for step, _, _ in derivation.steps if step.quantity == "gradient")
    assert {name.split("[")[0] for name in step.uses} >= {"delta:first", "delta:second"}


def test_a_value_that_is_not_finite_is_reported_at_the_first_step():
    definition = network(dense("hidden", 1, "exponential"), dense("output", 1))
    derivation = explained(definition, ONE, [[800.0]], "mse", [[1.0]], "hidden.kernel[0][0]")
    assert not derivation.finite
    assert derivation.lost == "a:hidden[0][0]"
    assert derivation.meanings[0].advice in ("unknown", "increase", "decrease")
