"""Published and independently computed trainings, step by step: see tests/engine/test_cases.py.

A case has a name of its own for its optimizer. It trains on all samples for some `steps`, or on listed `batches`.
`trace` holds its first steps, `loss_curve` the loss over all samples before each step.
"""

import numpy as np

from tests.engine.descent.building import train, training
from tests.engine.network.building import dense, evaluate, network
from tests.engine.test_cases import CASES, LOSSES, close, of_kind
from tests.support import every

# By the name in the cases: the optimizer, the names of its options, and the names of its state.
OPTIMIZERS = {
    "gd": ("sgd", {"lr": "learning_rate"}, {}),
    "momentum_seed": ("momentum", {"epsilon": "learning_rate", "alpha": "momentum"}, {"v": "velocity"}),
    "momentum_torch": ("sgd", {"lr": "learning_rate", "momentum": "momentum"}, {"buf": "momentum_buffer"}),
    "nesterov_torch": ("sgd", {"lr": "learning_rate", "momentum": "momentum"}, {"buf": "momentum_buffer"}),
    "adagrad_torch": ("adagrad", {"lr": "learning_rate", "eps": "epsilon"}, {"r": "accumulator"}),
    "adagrad_seed_literal": (
        "adagrad_as_printed", {"epsilon": "learning_rate", "delta": "epsilon"}, {"r": "accumulator"}
    ),
    "rmsprop_torch": ("rmsprop", {"lr": "learning_rate", "alpha": "rho", "eps": "epsilon"}, {"r": "mean_square"}),
    "adam_torch": (
        "adam",
        {"lr": "learning_rate", "beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon"},
        {
            "s": "first_moment",
            "r": "second_moment",
            "s_hat": "corrected_first_moment",
            "r_hat": "corrected_second_moment",
        },
    ),
    "adam_seed_literal": (
        "adam_as_printed",
        {"epsilon": "learning_rate", "rho1": "beta_1", "rho2": "beta_2", "delta": "epsilon"},
        {
            "s": "first_moment",
            "r": "second_moment",
            "s_hat": "corrected_first_moment",
            "r_hat": "corrected_second_moment",
        },
    ),
}  # fmt: skip
CALLED = {"W": "kernel", "b": "bias"}


def definition_of(case):
    return network(
        *(
            dense(f"layer {position}", each["units"], each["activation"], use_bias="b" in each)
            for position, each in enumerate(case["layers"])
        )
    )


def tree(layers):
    """Return what a case says of the parameters of each layer, as a tree. null stands for untrained parameters."""
    return {
        f"layer {position}": {ours: each[theirs] for theirs, ours in CALLED.items() if each.get(theirs) is not None}
        for position, each in enumerate(layers)
    }


def in_our_words(described):
    name, called, _ = OPTIMIZERS[described["name"]]
    options = {called[key]: value for key, value in described.items() if key != "name"}
    if described["name"] == "nesterov_torch":
        options["nesterov"] = True
    return {"name": name, **options}


def arguments(case):
    """Return the arguments of a training of the case, without the optimizer and the number of steps."""
    frozen = [
        f"layer {position}.{name}"
        for position, trained in enumerate(case.get("trainable", ()))
        for name, is_trained in zip(CALLED.values(), trained, strict=True)
        if not is_trained
    ]
    return {
        "definition": definition_of(case),
        "inputs": np.asarray(case["inputs"], float),
        "targets": np.asarray(case["targets"], float),
        "loss": LOSSES[case["loss"]],
        "parameters": tree(case["layers"]),
        "task": {"reduction": case["reduction"], "frozen": tuple(frozen)},
    }


def trained(case):
    """Train. Return the records of all steps, the loss over all samples before each step, and the outcome."""
    running = training(
        **arguments(case),
        chosen=in_our_words(case["optimizer"]),
        steps=case.get("steps") or len(case["batches"]),
        batches=case.get("batches"),
        include=("gradients", "parameters", "state", "batch"),
    )
    records, curve = [], []
    while not running.finished:
        curve.append(running.objective.total(len(records)))
        records.append(running.advance())
    outcome = running.outcome()
    running.close()
    return records, curve, outcome


def close_trees(ours, theirs, tolerance, what):
    assert {layer: set(arrays) for layer, arrays in ours.items()} == {
        layer: set(arrays) for layer, arrays in theirs.items() if arrays
    }
    for layer, arrays in theirs.items():
        for name, array in arrays.items():
            close(ours[layer][name], array, tolerance, f"{what} of {layer}.{name}")


def fixed(case):
    """Return the parameters that are not trained, of which a trace has no numbers."""
    start, described = tree(case["layers"]), tree(case["expected"]["final_params"])
    return {
        (layer, name): array
        for layer, arrays in start.items()
        for name, array in arrays.items()
        if name not in described[layer]
    }


def only_trained(parameters, case):
    for (layer, name), array in fixed(case).items():
        np.testing.assert_array_equal(parameters[layer].pop(name), array)
    return parameters


@every(("case", "tolerance"), of_kind("net_training"))
def test_trainings(case, tolerance):
    expected, state_names = case["expected"], OPTIMIZERS[case["optimizer"]["name"]][2]
    records, curve, outcome = trained(case)
    assert outcome.status == "completed"
    assert len(records) == len(expected["loss_curve"]) >= len(expected["trace"]) > 0
    for wanted, (step, more) in zip(expected["trace"], records, strict=False):
        number = step.number
        assert number == wanted["step"]
        assert more["batch"].tolist() == wanted["batch"]
        close(step.loss, wanted["batch_loss"], tolerance, f"loss of step {number}")
        close_trees(more["gradients"], tree(wanted["gradients"]), tolerance, f"gradient at step {number}")
        after = only_trained(more["parameters"], case)
        close_trees(after, tree(wanted["params"]), tolerance, f"parameters after step {number}")
        assert set(more["state"]) == {state_names[name] for name in wanted["state"]}
        for name, layers in wanted["state"].items():
            close_trees(more["state"][state_names[name]], tree(layers), tolerance, f"{name} after step {number}")
    close(curve, expected["loss_curve"], tolerance, "curve")
    if "steps" in case:
        assert [step.loss for step, _ in records] == curve
    close(outcome.loss, expected["final_loss"], tolerance, "final loss")
    for when, parameters in (("initial", tree(case["layers"])), ("final", outcome.parameters)):
        result = evaluate(definition_of(case), case["inputs"], parameters)
        (outputs,) = result.outputs.values()
        close(outputs, expected[f"{when}_outputs"], tolerance, f"{when} outputs")
    close_trees(only_trained(outcome.parameters, case), tree(expected["final_params"]), tolerance, "final parameters")


WITH_OPTIMUM = [each for each in of_kind("net_training") if "least_squares_optimum" in each.values[0]["expected"]]


@every(("case", "tolerance"), WITH_OPTIMUM)
def test_one_step_of_newton_finds_the_least_squares_optimum(case, tolerance):
    optimum = case["expected"]["least_squares_optimum"]
    _, outcome = train(**arguments(case), chosen="newton", steps=1)
    found = only_trained(outcome.parameters, case)
    theta = np.concatenate([array.ravel() for arrays in found.values() for array in arrays.values()])
    close(theta, optimum["theta"], tolerance, "theta")
    samples = len(case["inputs"])
    factor = {("squared_error", "sum"): 1.0, ("half_squared_error", "mean"): 2.0 * samples}
    residuals = factor[case["loss"], case["reduction"]] * outcome.loss
    close(residuals, optimum["sum_squared_residuals"], tolerance, "sum of squared residuals")


def test_every_training_is_held_by_a_test():
    cases = [parameters.values[0] for parameters in of_kind("net_training")]
    assert {case["optimizer"]["name"] for case in cases} == set(OPTIMIZERS)
    assert len(cases) == sum(case["kind"] == "net_training" for case in CASES.values()) >= 20
    assert len(WITH_OPTIMUM) >= 12
    known = {"name", "kind", "layers", "inputs", "targets", "loss", "reduction", "optimizer", "steps", "batches"}
    known |= {"trainable", "expected", "tolerance"}
    names = {"initial_outputs", "trace", "loss_curve", "final_params", "final_outputs", "final_loss"}
    for case in cases:
        assert set(case) <= known
        assert set(case["expected"]) - {"least_squares_optimum"} == names
