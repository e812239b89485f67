"""Checks of gradients: right ones pass, whatever is in the network; wrong ones are found, however small they are."""

import numpy as np
import pytest

from service.engine.graph.differentiate import differentiate
from service.engine.graph.ir import OPERATIONS, Graph
from service.engine.graph.operations import absolute, log, maximum, square, sum_over, tanh
from service.engine.insight.check import check_at, check_gradient
from service.engine.insight.checked import CheckOptions, NetworkCheck
from service.engine.insight.subject import Located, Subject
from service.engine.network.activations import activations
from service.engine.network.feed import Feed
from service.engine.network.layers import layers
from service.engine.network.losses import losses
from tests.engine.graph.examples import EXAMPLES, KINKED, NOT_ANALYTIC, STEPPED
from tests.engine.insight.subjects import checked, targets_of, tree
from tests.engine.network.building import ROOMY, dense, network, task_for
from tests.engine.network.layer_examples import base
from tests.support import every

SHIFTS = ("one_hot", "row_maximum")
"""Without a pullback of their own: the first takes whole numbers, the other only shifts what does not depend on it."""
NEVER_DIFFERENTIATED = {"one_hot", "floats"}
"""Their inputs are whole numbers."""
RNG = np.random.default_rng(7)
INPUTS = RNG.standard_normal((4, 3))
NUMBERS, SHARES = RNG.standard_normal((4, 2)), RNG.uniform(0.1, 0.9, (4, 3))
DTYPES = ("float64", "float32")
UNITS = (0.0, 1.0, -1.0, 3.0, -3.0, 6.0, 0.5, -0.5)
"""Inputs where activations have kinks."""


def verdicts(found):
    return {".".join(tensor.path): tensor.verdict for tensor in found.report.tensors}


def has_parameters(declaration):
    """Return whether the layer has parameters with the defaults of its options."""
    own = bool(declaration.parameters) and declaration.name != "attention"
    return own or declaration.name in ("time_distributed", "bidirectional")


# --- right gradients pass -------------------------------------------------------------------------


def test_every_operation_can_be_continued_to_complex_numbers():
    for name, operation in OPERATIONS.items():
        if name not in NEVER_DIFFERENTIATED and name in NOT_ANALYTIC:
            assert operation.continuation is not None, f"{name} needs a continuation"
        if name in KINKED | STEPPED:
            known = operation.branch is not None or name in (*NEVER_DIFFERENTIATED, "row_maximum")
            assert known, f"{name} needs a branch"


@every("training", [False, True], ids=["inference", "training"])
@every("declaration", list(layers), ids=lambda declaration: declaration.name)
def test_layers_have_right_gradients(declaration, training):
    example = base(declaration)
    if not has_parameters(declaration):
        return
    targets = targets_of(example, training)
    for dtype in DTYPES[: 1 if training else 2]:
        found = checked(example.definition, example.inputs(0), targets, dtype=dtype, training=training)
        assert found.report.verdict == "right", verdicts(found)


@every("dtype", DTYPES)
@every("activation", list(activations), ids=lambda activation: activation.name)
def test_activations_have_right_gradients(activation, dtype):
    definition = network(dense("hidden", 3, activation.name), dense("output", 2))
    assert checked(definition, INPUTS, NUMBERS, dtype=dtype).report.verdict == "right"


@every("dtype", DTYPES)
@every("loss", list(losses), ids=lambda loss: loss.name)
def test_losses_have_right_gradients(loss, dtype):
    targets = np.array([0, 2, 1, 1]) if loss.indices else SHARES
    for activation in ("sigmoid", "softmax"):
        definition = network(dense("output", 3, activation))
        found = checked(definition, INPUTS, targets, {"name": loss.name}, dtype=dtype)
        assert found.report.verdict == "right", verdicts(found)


def test_second_derivatives_are_checked_too():
    report = check_gradient(lambda x, y: sum_over(tanh(x * y) * square(x)), np.array([0.3, -1.2, 2.0]), 0.7)
    assert report.is_right and report.second is not None and report.second.verdict == "right"
    assert [tensor.compared for tensor in report.second.tensors] == ["each", "each"]


def test_at_a_minimum_the_gradient_is_rounding_and_right():
    inputs = np.array([[1.0], [2.0], [3.0]])
    parameters = {"line": {"kernel": [[0.1]], "bias": [0.2]}}
    found = checked(network(dense("line", 1)), inputs, 0.1 * inputs + 0.2, parameters=parameters)
    assert found.report.verdict == "right"


# --- kinks ----------------------------------------------------------------------------------------


@every("activation", [each for each in activations if not each.parameters], ids=lambda each: each.name)
def test_at_a_kink_a_convention_is_not_called_wrong_and_beside_one_everything_is_right(activation):
    definition = network(dense("unit", len(UNITS), activation.name))
    targets = RNG.standard_normal((4, len(UNITS)))
    for off in (0.0, 1e-9):
        parameters = {"unit": {"kernel": np.zeros((3, len(UNITS))), "bias": np.array(UNITS) + off}}
        found = checked(definition, INPUTS, targets, parameters=parameters)
        assert found.report.verdict in (("right",) if off else ("right", "kink")), verdicts(found)


def function(build, *values):
    """Return a function of scalars at a point, with its gradient."""
    graph = Graph("float64")
    nodes = [graph.input(f"x{place}", ()) for place in range(len(values))]
    subject = Subject(build(*nodes), [((node.attributes[0],), node) for node in nodes])
    return Located(subject, dict(zip(nodes, map(np.asarray, values), strict=True)))


def test_a_kink_within_a_step_is_reported_and_spoils_no_verdict():
    report = check_at(function(absolute, 1e-4), None, "float64", 0)
    assert report.verdict == "right"
    assert report.curve.kink == 1e-4
    assert all(row.kink == (row.step >= 1e-4) for row in report.curve.rows)
    assert report.curve.best.step < 1e-4 and report.curve.best.error < 1e-12


@every(("claim", "verdict"), [(0.0, "kink"), (1.0, "right"), (-1.0, "kink"), (0.3, "kink"), (1.1, "wrong")])
def test_at_a_kink_slopes_between_those_on_both_sides_are_conventions(claim, verdict):
    here = function(absolute, 0.0)
    report = check_at(here, np.array([claim]), "float64", 0)
    assert report.verdict == ("kink" if verdict == "right" else verdict)
    if report.verdict == "kink":
        assert sorted(report.tensors[0].sides) == [-1.0, 1.0]


def test_ties_of_maximum_share_the_slope():
    report = check_at(function(maximum, 2.0, 2.0), None, "float64", 0)
    assert [tensor.verdict for tensor in report.tensors] == ["kink", "kink"]
    assert report.tensors[0].worst.gradient == 0.5


def test_points_without_a_finite_value_are_undefined():
    assert check_at(function(log, -1.0), None, "float64", 0).verdict == "undefined"


def test_a_surrogate_slope_is_taken_as_it_is_declared():
    step = {"name": "step", "surrogate": "straight_through"}
    definition = network(dense("hidden", 3, step), dense("output", 2))
    found = checked(definition, INPUTS, NUMBERS)
    assert found.report.verdict == "right"
    assert {node.scope for node in found.report.declared} == {"hidden"}


# --- wrong gradients are found --------------------------------------------------------------------


@every("size", [1.0, 1e-3, 1e-6, 1e-9, 1e-12])
def test_an_entry_of_any_size_that_is_wrong_by_a_millionth_is_found(size):
    """The inputs of one feature are tiny, and so are the slopes of its weights."""
    definition = network(dense("hidden", 3, "tanh"), dense("output", 2))
    inputs = INPUTS * [1.0, 1.0, size]
    right = checked(definition, inputs, NUMBERS)
    parameters = right.parameters

    def spoil(path, array):
        changed = array.copy()
        if path == ("hidden", "kernel"):
            changed[2, 1] *= 1.0 + 1e-6
        return changed

    assert checked(definition, inputs, NUMBERS, parameters=parameters, claimed=tree(right.report)).report.is_right
    claimed = tree(right.report, spoil)
    found = checked(definition, inputs, NUMBERS, parameters=parameters, claimed=claimed)
    if size < 1e-7:  # beside entries so much larger, rounding of their tensor may be as large
        assert found.report.verdict in ("right", "wrong")
        return
    (tensor,) = [tensor for tensor in found.report.tensors if tensor.verdict == "wrong"]
    assert tensor.worst.label == "hidden.kernel[2][1]"
    assert tensor.wrong == 1
    assert tensor.worst.error == pytest.approx(1e-6, rel=1e-3)


def wide():
    """Build a network of 25,000 parameters: too many for an evaluation each."""
    definition = network(dense("hidden", 64, "relu"), dense("classes", 10, "softmax"))
    rng = np.random.default_rng(3)
    inputs, targets = rng.uniform(size=(16, 380)), rng.integers(0, 10, 16)
    task = task_for(definition, {"input": inputs}, "sparse_categorical_crossentropy", targets)
    check = NetworkCheck(task, ROOMY)
    return check, Feed({"input": inputs}, None, {"classes": targets})


class Spoilt(Located):
    """A point at which the gradient of the engine itself has a wrong entry."""

    place = 0

    def gradient(self):
        found = super().gradient()
        found[self.place] *= 1.0 + 1e-6
        return found


def test_a_wrong_entry_of_the_engine_is_found_among_many_by_halving(monkeypatch):
    check, feed = wide()
    right = check.run(feed, CheckOptions(steps=(1e-4,)))
    assert right.report.verdict == "right"
    assert {tensor.compared for tensor in right.report.tensors if tensor.size > 200} == {"probes"}
    gradient = right.report.gradient
    ordered = np.argsort(np.abs(gradient))
    ordered = ordered[gradient[ordered] != 0.0]
    monkeypatch.setattr("service.engine.insight.checked.Located", Spoilt)
    for place in (ordered[-1], ordered[len(ordered) // 2], ordered[len(ordered) // 20]):
        monkeypatch.setattr(Spoilt, "place", place)
        found = check.run(feed, CheckOptions(steps=(1e-4,)))
        (tensor,) = [tensor for tensor in found.report.tensors if tensor.verdict == "wrong"]
        assert tensor.worst.reference == pytest.approx(gradient[place], rel=1e-9)
        assert tensor.worst.gradient == pytest.approx(gradient[place] * (1.0 + 1e-6), rel=1e-12)


def test_a_wrong_rule_of_differentiation_is_found(monkeypatch):
    wrong = OPERATIONS["tanh_slope"]

    def bind(out, inputs, *rest):
        yield from wrong.bind(out, inputs, *rest)
        yield lambda: np.multiply(out, 1.0 + 1e-6, out)

    graph = Graph("float64")
    x = graph.input("x", (3,))
    value = sum_over(tanh(x))
    differentiate(value, [x])
    changed = {field: getattr(wrong, field) for field in wrong.__dataclass_fields__} | {"bind": bind}
    monkeypatch.setitem(OPERATIONS, "tanh_slope", type(wrong)(**changed))
    report = check_gradient(tanh, np.array([0.1, -2.0, 1.0]), order=1)
    assert report.verdict == "wrong" and report.tensors[0].wrong == 3
    assert report.tensors[0].ratio is None or report.tensors[0].ratio == pytest.approx(1.0)
    assert not report.is_right


def test_a_wrong_sign_is_named_as_a_ratio_and_has_the_order_1():
    definition = network(dense("hidden", 3, "tanh"), dense("output", 2))
    right = checked(definition, INPUTS, NUMBERS)
    claimed = tree(right.report, lambda _, array: -array)
    found = checked(definition, INPUTS, NUMBERS, parameters=right.parameters, claimed=claimed, steps=None)
    assert set(verdicts(found).values()) == {"wrong"}
    assert [tensor.ratio for tensor in found.report.tensors] == pytest.approx([-1.0] * 4)
    assert [tensor.wrong for tensor in found.report.tensors] == [tensor.size for tensor in found.report.tensors]
    assert all(taylor.order == pytest.approx(1.0, abs=0.05) for taylor in found.report.taylor)


def test_a_claim_made_with_single_precision_passes_where_that_is_asked_for():
    definition = network(dense("hidden", 3, "tanh"), dense("output", 2))
    right = checked(definition, INPUTS, NUMBERS)
    claimed = tree(right.report, lambda _, array: array * (1.0 + 1e-5))
    asked = {"parameters": right.parameters, "claimed": claimed}
    assert checked(definition, INPUTS, NUMBERS, dtype="float32", **asked).report.verdict == "right"
    assert checked(definition, INPUTS, NUMBERS, dtype="float64", **asked).report.verdict == "wrong"


def test_a_part_of_a_gradient_may_be_claimed():
    definition = network(dense("hidden", 3, "tanh"), dense("output", 2))
    right = checked(definition, INPUTS, NUMBERS)
    claimed = {"output": tree(right.report)["output"]}
    found = checked(definition, INPUTS, NUMBERS, parameters=right.parameters, claimed=claimed)
    assert verdicts(found) == {"output.kernel": "right", "output.bias": "right"}
    assert found.missing == ["hidden.kernel", "hidden.bias"]


# --- evidence -------------------------------------------------------------------------------------


def test_the_error_of_differences_is_a_v():
    report = check_at(function(lambda x, y: tanh(x) * square(y), 0.7, 1.3), None, "float64", 0)
    along_x, along_y = (tensor.curve for tensor in report.tensors)
    for curve in (report.curve, along_x):
        assert 1e-8 < curve.best.step < 1e-4
        assert curve.truncation == pytest.approx(2.0, abs=0.1)
        assert curve.rounding == pytest.approx(-1.0, abs=0.35)
    assert along_y.truncation is None and along_y.best.error < 1e-14  # a parabola, whose differences are exact
    assert [taylor.order for taylor in report.taylor] == pytest.approx([2.0] * 3, abs=0.05)


def test_the_same_seed_gives_the_same_report():
    definition = network(dense("hidden", 3, "tanh"), dense("output", 2))
    one, other = (checked(definition, INPUTS, NUMBERS).report for _ in range(2))
    assert one.curve == other.curve and one.taylor == other.taylor and one.tensors == other.tensors


@every("example", [each for each in EXAMPLES if each.operation not in SHIFTS], ids=str)
def test_the_pullbacks_of_every_operation_pass(example):
    """Each operation, weighted at random, passes with its second derivatives: its continuation agrees with its
    pullback."""
    report = check_gradient(lambda *inputs: example.apply(inputs), *example.values())
    assert report.verdict == report.second.verdict == "right"
