"""The health of networks: the textbook's claims with their numbers, silence where a network is healthy, and bounds."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from service.engine.findings import findings
from service.engine.insight.health.diagnosis import INCLUDE, Diagnosis, diagnose, verdict_of
from service.engine.network.evaluate import compile_task
from service.engine.network.feed import Feed
from service.engine.network.losses import losses
from service.engine.network.task import Task
from tests.engine.network.building import ROOMY, dense, layer, network, select
from tests.support import every

CASES = Path(__file__).parents[3] / "data" / "cases"
LOSSES = {"binary_cross_entropy": "binary_crossentropy"}


def examined(
    definition, inputs, targets, loss="mean_squared_error", parameters=None, seed=0, training=False
) -> Diagnosis:
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    task = Task(
        definition,
        "float64",
        ((definition.inputs[0], inputs.shape),),
        training=training,
        include=INCLUDE,
        losses=(select(losses, loss),),
        targets=((definition.output_names[0], targets.shape),),
    )
    feed = Feed({definition.inputs[0]: inputs}, parameters, {definition.output_names[0]: targets}, None, seed)
    return diagnose(compile_task(task, ROOMY), feed)


def of_case(name: str, member: int | None = None) -> Diagnosis:
    (path,) = CASES.glob(f"{name}_*.json")
    case = json.loads(path.read_text())
    case = case if member is None else case["members"][member]
    parts, parameters = [], {}
    for place, each in enumerate(case["layers"]):
        parts.append(dense(f"d{place}", each["units"], each["activation"]))
        parameters[f"d{place}"] = {"kernel": np.array(each["W"]), "bias": np.array(each["b"])}
    return examined(
        network(*parts), case["inputs"], case["targets"], LOSSES.get(case["loss"], case["loss"]), parameters
    )


def the_finding(diagnosis: Diagnosis, code: str):
    (found,) = (each for each in diagnosis.findings if each.code == code)
    return found


def grave(diagnosis: Diagnosis):
    return [(each.code, each.layer, each.value) for each in diagnosis.findings if each.severity != "note"]


# --- what the textbooks say ----------------------------------------------------------------------


def test_a_chain_of_sigmoids_vanishes():
    """The deltas of the case are 3.2047831441436e-4 in the first layer and 0.148093210009565 in the last."""
    diagnosis = of_case("065")
    assert diagnosis.health.ratio == pytest.approx(0.0003204783144143615 / 0.14809321000956505, rel=1e-12)
    found = the_finding(diagnosis, "vanishing_gradient")
    assert found.value == pytest.approx(diagnosis.health.ratio**0.25, rel=1e-12)
    assert found.severity == "warning" and found.layer == "d0" and found.value < 0.25


def test_a_chain_with_weights_of_100_explodes():
    diagnosis = of_case("066")
    found = the_finding(diagnosis, "exploding_gradient")
    assert found.value == pytest.approx(25.0, rel=1e-12) and found.severity == "problem"
    assert diagnosis.health.ratio == pytest.approx(25.0**4, rel=1e-12)


def test_the_same_weights_vanish_with_sigmoid_alone():
    ratios = [of_case("064", member).health.ratio for member in range(4)]
    assert ratios == pytest.approx(
        [0.005209351889514973, 0.8435418187904882, 2.4241224047197663, 2.3973492540484196], rel=1e-4
    )
    assert "vanishing_gradient" in {each.code for each in of_case("064", 0).findings}
    for member in (1, 2, 3):
        assert not grave(of_case("064", member))


def test_five_layers_of_sigmoid_vanish():
    diagnosis = of_case("062")
    assert diagnosis.health.ratio == pytest.approx(3.646642540290919e-05 / 0.08191981867534957, rel=1e-9)
    assert the_finding(diagnosis, "vanishing_gradient").severity == "warning"


@every("seed", range(12))
def test_depth_decides_with_sigmoid_and_hardly_with_tanh_and_relu(seed):
    generator = np.random.default_rng(seed)
    width = (8, 32, 64)[seed % 3]
    inputs, targets = generator.standard_normal((32, width)), generator.standard_normal((32, 1))
    ratios = {}
    for activation, start in (("sigmoid", "glorot_uniform"), ("tanh", "glorot_uniform"), ("relu", "he_normal")):
        parts = [dense(f"d{place}", width, activation, kernel_initializer=start) for place in range(5)]
        diagnosis = examined(network(*parts, dense("o", 1)), inputs, targets, seed=seed)
        ratios[activation] = diagnosis.health.ratio
        assert ("vanishing_gradient" in {each.code for each in diagnosis.findings}) == (activation == "sigmoid")
    assert ratios["sigmoid"] < 0.02 < ratios["tanh"]
    assert ratios["sigmoid"] < 0.02 < ratios["relu"]


def test_a_unit_whose_bias_keeps_it_off_is_reported_and_leaks_with_a_leaky_rectifier():
    found = the_finding(of_case("068", 0), "dead_units")
    assert (found.severity, found.layer, found.value) == ("warning", "d0", pytest.approx(1 / 3))
    assert not grave(of_case("068", 1))


def test_sigmoid_outputs_lie_on_one_side_of_0_and_those_of_tanh_do_not():
    diagnosis = of_case("070", 0)
    assert diagnosis.health.layers["d0"].mean == pytest.approx(0.5, abs=1e-12)
    found = the_finding(diagnosis, "mean_shift")
    assert found.value > 2.0 and found.severity == "note"
    assert "mean_shift" not in {each.code for each in of_case("070", 1).findings}


@every(("member", "z", "severity"), [(0, 0, None), (2, 1, None), (4, 2, None), (6, 4, "warning"), (8, 8, "problem")])
def test_the_quadratic_cost_learns_slowly_where_a_sigmoid_is_wrong(member, z, severity):
    slope = math.exp(-z) / (1 + math.exp(-z)) ** 2
    diagnosis, cross_entropy = of_case("015", member), of_case("015", member + 1)
    slow = [each for each in diagnosis.findings if each.code == "learning_slowdown"]
    assert [each.severity for each in slow] == ([] if severity is None else [severity])
    for each in slow:
        assert each.value == pytest.approx(slope / 0.25, rel=1e-9)
    assert not grave(cross_entropy)


def test_softmax_with_a_quadratic_cost_is_slow_where_it_is_wrong():
    parameters = {"o": {"kernel": np.array([[12.0, -3.0, -3.0]]), "bias": np.zeros(3)}}
    diagnosis = examined(network(dense("o", 3, "softmax")), [[1.0]], [[0.0, 1.0, 0.0]], parameters=parameters)
    shares = np.exp([12.0, -3.0, -3.0])
    shares /= shares.sum()
    error = shares - [0.0, 1.0, 0.0]
    passed = (np.diag(shares) - np.outer(shares, shares)) @ error
    expected = np.linalg.norm(passed) / np.linalg.norm(error) / 0.5
    assert the_finding(diagnosis, "learning_slowdown").value == pytest.approx(expected, rel=1e-9)


# --- silence -------------------------------------------------------------------------------------


@every(("activation", "start"), [("relu", "he_normal"), ("tanh", "glorot_uniform")])
@every("depth", [1, 3, 8, 20])
@every("width", [16, 48])
def test_healthy_networks_have_nothing_but_notes(activation, start, depth, width):
    for seed, (loss, last, outputs) in enumerate(
        [
            ("mean_squared_error", "linear", 1),
            ("binary_crossentropy", "sigmoid", 2),
            ("categorical_crossentropy", "softmax", 5),
        ]
    ):
        generator = np.random.default_rng([depth, width, seed])
        inputs = generator.standard_normal((24, 6))
        targets = {
            "linear": lambda generator=generator: generator.standard_normal((24, 1)),
            "sigmoid": lambda generator=generator: generator.integers(0, 2, (24, 2)).astype(float),
            "softmax": lambda generator=generator: np.eye(5)[generator.integers(0, 5, 24)],
        }[last]()
        parts = [dense(f"d{place}", width, activation, kernel_initializer=start) for place in range(depth)]
        assert not grave(examined(network(*parts, dense("o", outputs, last)), inputs, targets, loss, seed=seed))


@every("seed", range(3))
def test_other_healthy_networks_have_nothing_but_notes(seed):
    generator = np.random.default_rng(seed)
    images, sequences = generator.random((6, 8, 8, 1)), generator.standard_normal((6, 12, 4))
    classes, rows = generator.integers(0, 3, 6), generator.standard_normal((6, 16))
    end = dense("o", 3, "softmax")
    relu = {"activation": "relu", "kernel_initializer": "he_normal"}
    blocks, before = [dense("first", 16)], "first"
    for place in range(6):
        blocks += [
            dense(f"a{place}", 16, inputs=[before], **relu),
            dense(f"b{place}", 16),
            layer(f"s{place}", "add", inputs=[before, f"b{place}"]),
        ]
        before = f"s{place}"
    normalised = [
        part
        for place in range(8)
        for part in (
            dense(f"a{place}", 16),
            layer(f"n{place}", "batch_normalization"),
            layer(f"r{place}", "activation", activation="relu"),
        )
    ]
    attention = [
        layer("n", "layer_normalization"),
        layer("m", "multi_head_attention", num_heads=2, key_dim=2),
        layer("s", "add", inputs=["input", "m"]),
        layer("g", "global_average_pooling1d"),
    ]
    convolution = [
        layer("c", "conv2d", filters=4, kernel_size=(3, 3), **relu),
        layer("p", "max_pooling2d", pool_size=(2, 2)),
        layer("d", "conv2d", filters=8, kernel_size=(2, 2), **relu),
        layer("f", "flatten"),
    ]
    loss = "sparse_categorical_crossentropy"
    assert not grave(examined(network(*blocks, end), rows, classes, loss, seed=seed))
    assert not grave(examined(network(*normalised, end), rows, classes, loss, seed=seed, training=True))
    assert not grave(examined(network(*attention, end), sequences, classes, loss, seed=seed))
    assert not grave(examined(network(*convolution, end), images, classes, loss, seed=seed))
    for kind in ("lstm", "gru", "simple_rnn"):
        assert not grave(examined(network(layer("r", kind, units=8), end), sequences, classes, loss, seed=seed))


def test_units_that_are_off_by_chance_are_a_note():
    """Nearly equal samples make half of all random units inactive, whatever the layer."""
    generator = np.random.default_rng(0)
    inputs = 1.0 + 0.01 * generator.standard_normal((16, 8))
    alike = examined(
        network(dense("h", 64, "relu", kernel_initializer="he_normal"), dense("o", 1)), inputs, np.ones((16, 1))
    )
    found = the_finding(alike, "dead_units")
    assert found.value > 0.3 and found.severity == "note"
    spread = generator.standard_normal((64, 8))
    biases = {"name": "constant", "value": -6.0}
    off = examined(
        network(dense("h", 64, "relu", kernel_initializer="he_normal", bias_initializer=biases), dense("o", 1)),
        spread,
        np.ones((64, 1)),
    )
    assert the_finding(off, "dead_units").severity in ("warning", "problem")


# --- what is measured ----------------------------------------------------------------------------


def test_a_chain_follows_the_way_with_most_weights():
    parts = [
        dense("a", 4, "tanh"),
        dense("short", 4, inputs=["input"]),
        dense("b", 4, "tanh", inputs=["a"]),
        layer("s", "add", inputs=["b", "short"]),
        dense("o", 1),
    ]
    diagnosis = examined(network(*parts), np.eye(4), np.ones((4, 1)))
    assert diagnosis.health.chain == ["a", "b", "o"]
    assert diagnosis.health.layers["short"].ratio is None


def test_the_numbers_of_a_layer_are_those_of_its_arrays():
    generator = np.random.default_rng(3)
    inputs, targets = generator.standard_normal((5, 3)), generator.standard_normal((5, 2))
    parameters = {
        "h": {"kernel": generator.standard_normal((3, 4)), "bias": generator.standard_normal(4)},
        "o": {"kernel": generator.standard_normal((4, 2)), "bias": generator.standard_normal(2)},
    }
    diagnosis = examined(network(dense("h", 4, "tanh"), dense("o", 2)), inputs, targets, parameters=parameters)
    z = inputs @ parameters["h"]["kernel"] + parameters["h"]["bias"]
    a = np.tanh(z)
    out = (a @ parameters["o"]["kernel"] + parameters["o"]["bias"] - targets) / 5.0
    back = (out @ parameters["o"]["kernel"].T) * (1.0 - a * a)
    layer_ = diagnosis.health.layers["h"]
    assert layer_.mean == pytest.approx(a.mean()) and layer_.deviation == pytest.approx(a.std())
    assert layer_.delta_norm == pytest.approx(np.linalg.norm(back))
    assert diagnosis.health.ratio == pytest.approx(np.linalg.norm(back) / np.linalg.norm(out))
    assert layer_.gradient_norm == pytest.approx(
        math.hypot(np.linalg.norm(inputs.T @ back), np.linalg.norm(back.sum(0)))
    )
    bound = math.atanh(math.sqrt(0.9))
    assert layer_.saturated_right == pytest.approx(float((z > bound).mean()), abs=0.05)


def test_few_samples_and_rare_pixels_are_not_badly_scaled():
    generator = np.random.default_rng(0)
    rare = (generator.random((30, 25)) < 0.08) * generator.random((30, 25))
    few = generator.standard_normal((6, 40))
    for inputs in (rare, few):
        diagnosis = examined(network(dense("h", 8, "tanh"), dense("o", 1)), inputs, np.ones((len(inputs), 1)))
        assert not grave(diagnosis)


# --- the table -----------------------------------------------------------------------------------


def test_every_finding_says_where_its_thresholds_come_from():
    for finding in findings:
        assert finding.sources and finding.latex and finding.severities
        bounds = [bound for bound in finding.severities.values() if bound is not None]
        assert bounds == sorted(bounds, reverse=finding.below), "the mildest first"


def test_a_verdict_is_that_of_the_gravest_finding():
    assert verdict_of([])[0] == "healthy"
    assert verdict_of(of_case("070", 0).findings)[0] == "healthy"
    assert verdict_of(of_case("062").findings)[0] == "warning"
    assert verdict_of(of_case("066").findings)[0] == "problem"


def test_a_gradient_that_is_tiny_beside_its_weights_is_compared_with_no_other():
    definition = network(dense("hidden", 3, "relu"), dense("output", 1, "sigmoid"))
    parameters = {
        "hidden": {"kernel": np.array([[0.5, 1e300, -0.6], [-0.4, 0.5, 0.9]]), "bias": np.array([0.1, -10.0, 0.5])},
        "output": {"kernel": np.array([[0.8], [1.5], [0.4]]), "bias": np.array([0.05])},
    }
    inputs, targets = [[1.0, 2.0], [-0.5, 1.5], [2.0, -1.0]], [[1.0], [0.0], [1.0]]
    diagnosis = examined(definition, inputs, targets, "binary_crossentropy", parameters)
    assert "scale_mismatch" not in {each.code for each in diagnosis.findings}
