"""The engine compared with answers of PyTorch, recorded by scripts/record_pytorch.py.

Both compute in float64, so they agree to rtol 1e-12, or to an absolute 1e-15 where both cancel
(tanh' = 1 - tanh² at 10, for example). Where PyTorch is less exact, or the convention differs on
purpose, the record says so under `differences`, and the test takes another tolerance only there.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph
from service.engine.network.activations import activations
from service.engine.network.losses import losses
from service.engine.network.regularizers import regularizers
from tests.engine.network.building import dense, evaluate, layer, network
from tests.engine.support import dense_gradients
from tests.support import every

DATA = Path(__file__).parents[2] / "data" / "pytorch"
EXACT = {"rtol": 1e-12, "atol": 1e-15}
# Single precision: some units in the last place of the values, and of terms that cancel.
SINGLE = {"rtol": 2e-5, "atol": 5e-6}
DTYPES = [("float64", EXACT), ("float32", SINGLE)]


def recorded(kind):
    return json.loads((DATA / f"{kind}.json").read_text())


ACTIVATIONS, LOSSES = recorded("activations"), recorded("losses")
REGULARIZERS, NETWORKS = recorded("regularizers"), recorded("networks")
LOOSER = {each["name"]: each["tolerance"] for each in ACTIVATIONS["differences"] if "tolerance" in each}


def title(record):
    options = {name: value for name, value in record["options"].items() if value not in (None, False)}
    before = record.get("activation", "linear")
    words = ", ".join(f"{name} {value}" for name, value in options.items())
    return record["name"] + (f" of {before}" if before != "linear" else "") + (f" with {words}" if words else "")


def assert_close(actual, expected, tolerance, message=""):
    """Assert that finite numbers are close, and that all others are equal."""
    np.testing.assert_allclose(actual, np.asarray(expected, np.float64), **tolerance, err_msg=message)


def test_every_block_that_names_pytorch_as_its_source_is_recorded():
    for registry, records in (
        (activations, ACTIVATIONS["activations"]),
        (losses, LOSSES["losses"]),
        (regularizers, REGULARIZERS["regularizers"]),
    ):
        named = {each.name for each in registry if any("pytorch.org" in source for source in each.sources)}
        missing = named - {record["name"] for record in records}
        assert not missing, f"add {sorted(missing)} to scripts/record_pytorch.py and run it"


# --- activations --------------------------------------------------------------------------------


def curve(record, dtype):
    """Compute values, slopes and second derivatives at the recorded points."""
    graph = Graph(dtype)
    points = np.asarray(record["x"], dtype)
    x = graph.input("x", points.shape)
    selected = activations.select(record["name"], **record["options"])
    slopes = [graph.constant(selected.options[name]) for name in selected.declaration.parameters]
    values = selected.declaration.build(x, *slopes, **selected.options)
    ones = np.ones(points.shape, dtype)
    cotangent, direction = graph.input("cotangent", x.shape), graph.input("direction", x.shape)
    first = dense_gradients(differentiate(values, [x], cotangent).nodes, [x])[0]
    second = dense_gradients(differentiate(first, [x], direction).nodes, [x])[0]
    given = {
        x: points,
        cotangent: np.asarray(record.get("cotangent", ones), dtype),
        direction: np.asarray(record.get("direction", ones), dtype),
    }
    found = interpret([values, first, second], given)
    return found[values], found[first], found[second]


def tolerances_of(record, dtype, tolerance, what):
    looser = LOOSER.get(record["name"], {}).get(what, 0.0)
    return {"rtol": max(tolerance["rtol"], looser), "atol": max(tolerance["atol"], looser)}


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@every("record", ACTIVATIONS["activations"], ids=title)
def test_activations(record, dtype, tolerance):
    values, slopes, second = curve(record, dtype)
    with np.errstate(over="ignore"):  # beyond the range of float32 both are infinite
        for what, actual in (("values", values), ("slopes", slopes)):
            expected = np.asarray(record[what]).astype(dtype)
            assert_close(actual, expected, tolerances_of(record, dtype, tolerance, what), what)
    if dtype == "float64":
        smooth = np.asarray(record["second"], np.float64)  # null at kinks, thus not a number
        known = ~np.isnan(smooth)
        assert known.any()
        # Second derivatives cancel more, such as x² and x³ of gelu_tanh.
        assert_close(
            second[known], smooth[known], tolerances_of(record, dtype, {"rtol": 1e-11, "atol": 1e-14}, "second")
        )


def test_the_slope_of_prelu_as_a_parameter():
    for record in ACTIVATIONS["activations"]:
        if record["name"] == "prelu":
            points = np.asarray(record["x"])
            result = evaluate(
                network(layer("p", "activation", activation={"name": "prelu", **record["options"]})),
                points[:, None],
                {"p": {"alpha": np.full(1, record["options"]["alpha"])}},
                "half_squared_error",
                np.zeros((len(points), 1)),
                reduction="sum",
            )
            expected = (np.asarray(record["values"]) * np.minimum(points, 0.0)).sum()
            assert_close(result.gradients["p"]["alpha"], [expected], EXACT)


# --- losses -------------------------------------------------------------------------------------


def loss_result(record, dtype, reduction="sum", weighted=False, normalize=False):
    definition = network(layer("out", "activation", activation=record["activation"]))
    return evaluate(
        definition,
        record["predictions"],
        {},
        {"name": record["name"], **record["options"]},
        np.asarray(record["targets"]),
        record["weights"] if weighted else None,
        dtype=dtype,
        include=("input_gradients", "per_sample"),
        reduction=reduction,
        normalize_weights=normalize,
    )


def assert_loss(record, dtype, tolerance):
    result = loss_result(record, dtype)
    assert result.finite and not [each for each in result.warnings if each.code == "non_finite"]
    assert_close(result.per_sample_loss, record["per_sample"], tolerance)
    assert_close(result.input_gradients["input"], record["gradient"], tolerance)


@every("record", LOSSES["losses"], ids=title)
def test_losses(record):
    assert_loss(record, "float64", EXACT)


def holds_in_single_precision(record):
    """Return whether the record survives rounding to float32, which moves probabilities of 1e-20 or 1 - 1e-13."""
    points = np.asarray(record["predictions"])
    return (points.astype("float32") == points).all()


@every("record", filter(holds_in_single_precision, LOSSES["losses"]), ids=title)
def test_losses_in_float32(record):
    assert_loss(record, "float32", SINGLE)


@pytest.mark.parametrize("weighted", [False, True])
@every("record", LOSSES["losses"], ids=title)
def test_reductions(record, weighted):
    weights = np.asarray(record["weights"]) if weighted else np.ones(len(record["weights"]))
    gradient = np.asarray(record["gradient"])
    gradient = gradient * weights.reshape(-1, *[1] * (gradient.ndim - 1))
    for reduction, kinds in record["reductions"].items():
        expected = kinds["weighted" if weighted else "plain"]
        normalize = reduction == "normalized mean"
        result = loss_result(record, "float64", reduction.split()[-1], weighted, normalize)
        assert_close(result.loss, expected["loss"], EXACT)
        assert_close(result.input_gradients["input"], gradient / expected["divisor"], EXACT)
    result = loss_result(record, "float64", "none", weighted)
    assert_close(result.loss, np.asarray(record["per_sample"]) * weights, EXACT)
    assert_close(result.input_gradients["input"], gradient, EXACT)


@every("activation", ["sigmoid", "softmax"])
def test_saturated_logits_are_among_the_records(activation):
    extreme = [record for record in LOSSES["losses"] if np.abs(record["predictions"]).max() == 1000.0]
    assert any(record["activation"] == activation for record in extreme)


# --- regularizers -------------------------------------------------------------------------------


@every(("dtype", "tolerance"), DTYPES)
@every("record", REGULARIZERS["regularizers"], ids=title)
def test_regularizers(record, dtype, tolerance):
    definition = network(
        dense("out", 3, kernel_regularizer={"name": record["name"], **record["options"]}, use_bias=False)
    )
    result = evaluate(
        definition,
        np.zeros((1, 2)),
        {"out": {"kernel": record["weights"]}},
        "mean_squared_error",
        np.zeros((1, 3)),
        dtype=dtype,
    )
    assert result.data_loss == 0.0
    assert_close(result.regularization_loss, record["value"], tolerance)
    assert_close(result.gradients["out"]["kernel"], record["gradient"], tolerance)


# --- whole networks -----------------------------------------------------------------------------


def assert_trees_close(actual, expected, tolerance):
    assert {name: set(own) for name, own in actual.items()} == {name: set(own) for name, own in expected.items()}
    for name, own in expected.items():
        for parameter, array in own.items():
            assert_close(actual[name][parameter], array, tolerance, f"{name}.{parameter}")


@every(("dtype", "tolerance"), DTYPES)
@every("record", NETWORKS["networks"], ids=lambda record: record["title"])
def test_networks(record, dtype, tolerance):
    parts = [layer(**each) for each in record["layers"]]
    targets = {name: np.asarray(array) for name, array in record["targets"].items()}
    result = evaluate(
        network(*parts, outputs=record["outputs"]),
        record["inputs"],
        record["parameters"],
        record["loss"],
        targets,
        record["weights"],
        dtype=dtype,
        reduction=record["reduction"],
        include=("input_gradients", "per_sample", "layers"),
    )
    expected = record["expected"]
    for name, array in expected["outputs"].items():
        assert_close(result.outputs[name], array, tolerance, name)
    assert_close(result.per_sample_loss, expected["per_sample_loss"], tolerance)
    data_loss = expected["per_sample_loss"] if record["reduction"] == "none" else expected["data_loss"]
    assert_close(result.data_loss, data_loss, tolerance)
    assert_close(result.regularization_loss, expected["regularization_loss"], tolerance)
    assert_close(result.input_gradients["input"], expected["input_gradients"], tolerance)
    assert_trees_close(result.gradients, expected["gradients"], tolerance)
    assert_trees_close(result.per_sample_gradients, expected["per_sample_gradients"], tolerance)
    whole = np.concatenate([np.ravel(array) for own in expected["gradients"].values() for array in own.values()])
    assert result.gradient_norm == pytest.approx(np.linalg.norm(whole), rel=tolerance["rtol"])
    assert result.finite
    # With a few random samples, some units of relu may be off for all of them, and no output reaches some targets.
    told = {caution.code for caution in result.warnings}
    assert told <= {"normalize_weights", "dead_units", "unreachable_targets"}
