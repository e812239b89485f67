"""Jacobians, Hessians and products with them, compared with PyTorch and with each other for every type of layer.

scripts/record_pytorch_derivatives.py recorded PyTorch's answers, with requests.
"""

import itertools
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from schemas.network import NetworkField
from service.engine.errors import DeadlineExceeded, InvalidRequest, LimitExceeded
from service.engine.limits import Limits
from service.engine.network import derivatives
from service.engine.network.derivatives import KINDS, OF, WRT, DerivativeTask, compile_derivative
from service.engine.network.feed import Feed
from service.engine.network.layers import layers
from tests.engine.network.building import (
    ROOMY,
    as_arrays,
    by_input,
    by_output,
    dense,
    evaluate,
    layer,
    network,
    task_for,
)
from tests.engine.network.layer_examples import base, record
from tests.engine.network.test_evaluate import random_networks
from tests.engine.support import random_examples
from tests.support import every
from tests.watches import Looks

DATA = Path(__file__).parents[2] / "data" / "pytorch"
RECORDS = json.loads((DATA / "derivatives.json").read_text())["networks"]
LAYERS = [each for path in sorted(DATA.glob("layers_*.json")) for each in json.loads(path.read_text())["layers"]]
RECORDED = {layers[each["type"]].name for each in LAYERS}
LAYERS += [record(base(each), training) for each in layers if each.name not in RECORDED for training in (False, True)]
# Relative error, and absolute error as a share of the largest number of the answer (at least 1).
EXACT, SINGLE = (1e-12, 1e-15), (1e-4, 2e-6)
PUSHED = 3
"""The number of vectors that are pushed through a Jacobian at once."""
COMBINATIONS = list(itertools.product(KINDS, OF, WRT))


# --- against PyTorch ----------------------------------------------------------------------------


def leaves(value, path=()):
    """Return the tensors of an answer by their paths through objects and lists."""
    if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, np.asarray(value, np.float64)


def assert_same(actual, expected, tolerance):
    found, wanted = dict(leaves(actual)), dict(leaves(expected))
    assert set(found) == set(wanted)
    relative, absolute = tolerance
    scale = max([1.0, *(np.abs(array).max() for array in wanted.values())])
    for path, array in wanted.items():
        assert found[path].shape == array.shape, path
        np.testing.assert_allclose(found[path], array, relative, absolute * scale, err_msg=str(path))


ANSWERS = [
    pytest.param(record, answer, id=f"{record['title']}: {answer['kind']} of {answer['of']} wrt {answer['wrt']}")
    for record in RECORDS
    for answer in record["answers"]
]


@every(("dtype", "tolerance"), [("float64", EXACT), ("float32", SINGLE)], ids=["float64", "float32"])
@every(("record", "answer"), ANSWERS)
def test_answers_of_pytorch(post, record, answer, dtype, tolerance):
    asked = {key: answer[key] for key in ("kind", "of", "wrt", "vectors") if key in answer}
    loss = record["loss"] if answer["of"] == "loss" else {}
    response = post(record["request"] | loss | asked | {"dtype": dtype}, "/v1/derivatives")
    assert response.status_code == 200, response.text
    found = response.json
    assert found["dtype"] == dtype
    told = {caution["code"] for caution in found["warnings"]}
    assert found["finite"] and told <= {"normalize_weights", "unreachable_targets"}  # targets are random
    assert_same(found["values"], record["values"][answer["of"]], tolerance)
    assert_same(found["result"], answer["result"], tolerance)
    assert found.get("labels") == answer.get("labels")


# --- against each other -------------------------------------------------------------------------


class Case:
    """A network with its numbers, of which any derivative can be computed."""

    def __init__(self, definition, inputs, loss=None, targets=None, weights=None, parameters=None, **details):
        self.definition, self.inputs = definition, by_input(definition, inputs)
        self.loss, self.targets, self.weights, self.details = loss, targets, weights, details
        if parameters is None:
            parameters = evaluate(definition, inputs, training=details.get("training", False)).parameters
        self.parameters = as_arrays(parameters, details.get("dtype", "float64"))
        self._compiled = {}

    def derivation(self, kind, of, wrt, vectors=0, limits=ROOMY):
        details = self.details
        if of == "loss":
            details = {"loss": self.loss, "targets": self.targets, "weights": self.weights, **details}
        else:
            details = {key: value for key, value in details.items() if key in ("training", "dtype")}
        task = task_for(self.definition, self.inputs, parameters=self.parameters, **details)
        return compile_derivative(DerivativeTask(task, kind, of, wrt, vectors), limits)

    def feed(self, of):
        if of == "outputs":
            return Feed(self.inputs, self.parameters)
        return Feed(self.inputs, self.parameters, by_output(self.definition, self.targets), self.weights)

    def derive(self, kind, of="outputs", wrt="inputs", vectors=(), **limits):
        return self.derivation(kind, of, wrt, len(vectors), **limits).run(self.feed(of), vectors)

    def compiled(self, *what):
        """Return a derivation that checks of the case share; `what` is as in `derivation`."""
        if what not in self._compiled:
            self._compiled[what] = self.derivation(*what)
        return self._compiled[what]

    def products(self, kind, of, wrt, rows):
        """Return the products with the rows of a matrix, as rows of a matrix."""
        derivation = self.compiled(kind, of, wrt, len(rows))
        entries = [entry_of(derivation.sent, row) for row in rows]
        return np.array([flat(entry) for entry in derivation.run(self.feed(of), entries).result])

    def sizes(self, of, wrt):
        """Return the number of outputs, and the number of variables."""
        derivation = self.compiled("jvp", of, wrt, PUSHED)
        return derivation.of.size, derivation.sent.size


def entry_of(space, row):
    return space.nested(row[piece.start : piece.stop].reshape(piece.shape) for piece in space.pieces)


def flat(entry):
    """Return all numbers of an entry, in its order."""
    if isinstance(entry, dict):
        return np.concatenate([flat(inner) for inner in entry.values()])
    return np.reshape(entry, -1)


def assert_close(actual, expected, relative=1e-10):
    """Assert that numbers differ by no more than a share of the largest one expected."""
    scale = max(np.abs(expected).max(initial=0.0), 1e-8)
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=relative * scale)


def assert_adjoint(case, of, wrt, rng):
    """Assert that u·(J v) = (u J)·v."""
    rows, columns = case.sizes(of, wrt)
    u, v = rng.standard_normal((2, rows)), rng.standard_normal((PUSHED, columns))
    pushed = case.products("jvp", of, wrt, v)
    pulled = case.products("vjp", of, wrt, u)
    assert pushed.shape == (PUSHED, rows) and pulled.shape == (2, columns)
    terms = np.abs(u) @ np.abs(pushed).T + np.abs(pulled) @ np.abs(v).T
    np.testing.assert_allclose(u @ pushed.T, pulled @ v.T, rtol=0.0, atol=1e-12 * max(terms.max(), 0.01))


def assert_symmetric(case, wrt, rng):
    """Assert that v·(H w) = w·(H v)."""
    vectors = rng.standard_normal((2, case.sizes("outputs", wrt)[1]))
    one, other = case.products("hvp", "loss", wrt, vectors)
    terms = np.abs(vectors[0]) @ np.abs(other) + np.abs(vectors[1]) @ np.abs(one)
    assert abs(vectors[0] @ other - vectors[1] @ one) <= 1e-11 * max(terms, 0.01)


def title(record):
    return " ".join([record["type"], *(f"{name} {value}" for name, value in record["options"].items())])


@every("record", LAYERS, ids=title)
def test_both_modes_and_both_halves_agree_for_every_type_of_layer(record):
    names = [f"x{position}" for position in range(len(record["inputs"]))]
    alone = {"type": record["type"], "name": "it", "inputs": names, **record["options"]}
    inputs = {name: np.array(array) for name, array in zip(names, record["inputs"], strict=True)}
    shapes = {name: list(array.shape[1:]) for name, array in inputs.items()}
    definition = NetworkField().deserialize({"inputs": names, "input_shape": shapes, "layers": [alone]})
    rng = np.random.default_rng(0)
    case = Case(
        definition,
        inputs,
        "log_cosh",
        rng.standard_normal(np.shape(record["outputs"])),
        parameters={"it": record["parameters"]} if record["parameters"] else {},
        training=record["training"],
    )
    model = case.compiled("jvp", "outputs", "parameters" if record["gradients"] else "inputs", PUSHED).model
    sides = ["parameters"] * bool(record["gradients"])
    sides += ["inputs"] * any(x.dtype != "int64" for x in model.inputs.values())
    for wrt in sides:
        assert_adjoint(case, "outputs", wrt, rng)
        assert_symmetric(case, wrt, rng)


@given(random_networks(smooth=False))
@random_examples(max_examples=30)
def test_products_with_vectors_agree(drawn):
    case = Case(drawn.pop("definition"), drawn.pop("inputs"), **drawn)
    rng = np.random.default_rng(1)
    for wrt in WRT:
        for of in OF:
            assert_adjoint(case, of, wrt, rng)
        assert_symmetric(case, wrt, rng)


@given(random_networks(smooth=False))
@random_examples(max_examples=60)
def test_the_hessian_is_what_products_with_it_say(drawn):
    case = Case(drawn.pop("definition"), drawn.pop("inputs"), **drawn)
    for wrt in WRT:
        _, size = case.sizes("loss", wrt)
        derived = case.derive("hessian", "loss", wrt)
        assert derived.result.shape == (size, size) and len(derived.labels) == size
        assert (derived.result == derived.result.T).all()
        vectors = np.random.default_rng(2).standard_normal((3, size))
        assert_close(case.products("hvp", "loss", wrt, vectors), vectors @ derived.result)


def whole_jacobian(result, wrt):
    """Return the matrix of all outputs by all variables. Outputs of a sample do not depend on other samples."""
    bands = []
    for rows in result.values():
        blocks = []
        for _, array in leaves(rows):
            samples, outputs, *rest = array.shape
            if wrt == "inputs":
                block = np.zeros((samples, outputs, samples, *rest))
                block[np.arange(samples), :, np.arange(samples)] = array
                array = block
            blocks.append(array.reshape(samples * outputs, -1))
        bands.append(np.hstack(blocks))
    return np.vstack(bands)


@given(random_networks(smooth=False))
@random_examples(max_examples=60)
def test_the_jacobian_has_products_with_unit_vectors_as_rows_and_columns(drawn):
    case = Case(drawn.pop("definition"), drawn.pop("inputs"), **drawn)
    for wrt in WRT:
        rows, columns = case.sizes("outputs", wrt)
        matrix = whole_jacobian(case.derive("jacobian", "outputs", wrt).result, wrt)
        assert matrix.shape == (rows, columns)
        assert_close(matrix, case.products("vjp", "outputs", wrt, np.eye(rows)))
        assert_close(matrix.T, case.products("jvp", "outputs", wrt, np.eye(columns)))


@given(random_networks(smooth=False))
@random_examples(max_examples=40)
def test_the_jacobian_of_the_loss_is_its_gradient(drawn):
    definition, inputs = drawn.pop("definition"), drawn.pop("inputs")
    case = Case(definition, inputs, **drawn)
    expected = evaluate(definition, inputs, case.parameters, include=("input_gradients",), **drawn)
    for wrt, gradient in (("parameters", expected.gradients), ("inputs", expected.input_gradients)):
        derived = case.derive("jacobian", "loss", wrt)
        assert derived.values == pytest.approx(expected.loss, rel=1e-14)
        assert_close(flat(derived.result), flat(gradient))


@pytest.mark.parametrize("kind", ["jacobian", "hessian"])
@pytest.mark.parametrize("wrt", WRT)
@given(drawn=random_networks(smooth=False))
@random_examples(max_examples=20)
def test_matrices_of_a_sample_are_those_of_a_batch_of_one(kind, wrt, drawn):
    definition, inputs = drawn["definition"], drawn["inputs"]
    case = Case(definition, inputs)
    together = case.derive(kind, "outputs", wrt)
    for sample in range(len(inputs)):
        alone = Case(definition, inputs[sample : sample + 1], parameters=case.parameters).derive(kind, "outputs", wrt)
        assert alone.labels == together.labels
        for (path, array), (_, expected) in zip(leaves(together.result), leaves(alone.result), strict=True):
            assert array.shape == (len(inputs), *expected.shape[1:]), path
            assert_close(array[sample], expected[0])


# --- blocks -------------------------------------------------------------------------------------

XOR = network(dense("hidden", 2, "sigmoid"), dense("output", 1, "sigmoid"))
INPUTS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TARGETS = np.array([[0.0], [1.0], [1.0], [0.0]])
PARAMETERS = {
    "hidden": {"kernel": [[0.5, -1.0], [0.25, 2.0]], "bias": [0.1, -0.2]},
    "output": {"kernel": [[1.5], [-0.75]], "bias": [0.3]},
}


def xor(**details):
    return Case(XOR, INPUTS, "half_squared_error", TARGETS, parameters=PARAMETERS, **details)


def unit_vectors(case, kind, of, wrt):
    if kind not in ("jvp", "vjp", "hvp"):
        return []
    space = case.derivation(kind, of, wrt, 1).sent
    return [entry_of(space, row) for row in np.eye(space.size)]


def test_the_hessian_of_xor_is_one_run_of_a_small_program():
    derivation = xor().derivation("hessian", "loss", "parameters")
    assert derivation.block == 9 and derivation.blocks == 1
    assert derivation.program.nbytes < 10_000


@pytest.mark.parametrize("case", [xor(), Case(network(dense("wide", 7, "tanh")), INPUTS, "mse", np.ones((4, 7)))])
@pytest.mark.parametrize(("kind", "of", "wrt"), COMBINATIONS)
def test_blocks_give_the_same_as_one_run(monkeypatch, case, kind, of, wrt):
    if (kind, of) == ("hvp", "outputs"):
        return  # the outputs are several numbers
    vectors = unit_vectors(case, kind, of, wrt)
    whole = case.derivation(kind, of, wrt, len(vectors))
    assert whole.blocks == 1
    expected = whole.run(case.feed(of), vectors)
    lengths = set()
    for room in (1, *(whole.program.nbytes * n for n in range(1, 12))):
        monkeypatch.setattr(derivatives, "BLOCK_BYTES", room)
        derivation = case.derivation(kind, of, wrt, len(vectors))
        lengths.add(derivation.block)
        found = derivation.run(case.feed(of), vectors)
        assert_same(found.result, expected.result, EXACT)
        assert_same(found.values, expected.values, EXACT)
        assert found.labels == expected.labels
    assert 1 in lengths


def test_blocks_are_of_nearly_equal_length(monkeypatch):
    whole = xor().derivation("hessian", "loss", "parameters")
    elements = math.inf
    for room in range(500, 20_000, 500):
        monkeypatch.setattr(derivatives, "BLOCK_BYTES", room)
        derivation = xor().derivation("hessian", "loss", "parameters")
        assert derivation.block in (1, 2, 3, 5, 9)
        assert derivation.block * derivation.blocks < 9 + derivation.block
        elements = min(elements, derivation.program.nbytes)
    assert elements < whole.program.nbytes


def test_answers_are_the_same_bytes_every_time_and_from_many_threads():
    case = xor()
    derivation = case.derivation("hessian", "loss", "parameters")
    expected = derivation.run(case.feed("loss")).result
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: derivation.run(case.feed("loss")).result, range(64)):
            assert (found == expected).all()


def test_an_answer_belongs_to_the_caller():
    case = xor()
    derivation = case.derivation("jacobian", "outputs", "parameters")
    first, second = (derivation.run(case.feed("outputs")) for _ in range(2))
    for (_, one), (_, other) in zip(leaves(first.result), leaves(second.result), strict=True):
        assert one.flags.writeable and not np.shares_memory(one, other)
    first.values["output"][...] = 7.0
    assert (second.values["output"] != 7.0).all()


# --- conventions and warnings -------------------------------------------------------------------


def codes(derived):
    return [(caution.code, caution.layer) for caution in derived.warnings]


def test_constants_have_derivative_zero():
    case = Case(network(dense("line", 2)), INPUTS, "squared_error", np.ones((4, 2)))
    for wrt in WRT:
        derived = case.derive("hessian", "outputs", wrt)
        assert not flat(derived.result).any() and derived.finite and not derived.warnings
    hessian = case.derive("hessian", "loss", "inputs").result
    kernel = case.parameters["line"]["kernel"]
    np.testing.assert_allclose(hessian, np.kron(np.eye(4), 2.0 * kernel @ kernel.T) / 4.0, rtol=1e-14)


def test_second_derivatives_at_kinks_are_0_without_a_warning():
    case = Case(network(dense("bent", 3, "relu"), dense("out", 1, "leaky_relu")), INPUTS)
    derived = case.derive("hessian")
    assert not derived.result["out"].any() and not derived.warnings


def test_a_step_blocks_derivatives_with_a_warning():
    case = Case(network(dense("gate", 2, "step"), dense("out", 1, "tanh")), INPUTS, "squared_error", TARGETS)
    for kind in ("jacobian", "hessian"):
        for of in OF:
            for wrt in WRT:
                derived = case.derive(kind, of, wrt)
                assert codes(derived) == [("gradient_blocked", "gate")]
                assert flat(derived.result).any() == (wrt == "parameters")
    (tangent,) = unit_vectors(case, "jvp", "outputs", "inputs")[:1]
    assert codes(case.derive("jvp", vectors=[tangent])) == [("gradient_blocked", "gate")]


def test_a_surrogate_is_differentiated_twice():
    gate = {"name": "step", "surrogate": "sigmoid"}
    case = Case(network(dense("gate", 2, gate), dense("out", 1, "tanh")), INPUTS, "squared_error", TARGETS)
    derived = case.derive("hessian", "loss", "parameters")
    assert derived.result[0].any() and not derived.warnings


def test_parameters_without_influence_are_named():
    parts = (dense("idle", 2), dense("out", 1, inputs=["input"]))
    case = Case(network(*parts, outputs=["out"]), INPUTS, "squared_error", TARGETS)
    derived = case.derive("jacobian", "outputs", "parameters")
    assert codes(derived) == [("disconnected", "idle")] * 2
    assert "does not influence the outputs; its derivatives are 0" in derived.warnings[0].message
    assert not flat(derived.result["out"]["idle"]).any()
    derived = case.derive("hessian", "loss", "parameters")
    assert codes(derived) == [("disconnected", "idle")] * 2
    assert not derived.result[:6].any() and derived.result[6:].any(0)[6:].any()


def test_targets_that_a_loss_is_not_made_for_are_reported():
    case = Case(XOR, INPUTS, "binary_crossentropy", TARGETS + 3.0)
    assert codes(case.derive("hvp", "loss", "inputs", [{"input": INPUTS}])) == [("unusual_targets", "output")]
    assert not case.derive("jacobian").warnings


@pytest.mark.parametrize("room", [1, 2**26])
def test_the_first_value_that_is_not_finite_is_named_whatever_block_it_is_in(monkeypatch, room):
    monkeypatch.setattr(derivatives, "BLOCK_BYTES", room)
    case = Case(
        network(dense("steep", 1, "linear")), INPUTS[:1], parameters={"steep": {"kernel": [[1], [1e200]], "bias": [0]}}
    )
    tangents = [
        {"input": np.array([[1.0, 0.0]])},
        {"input": np.array([[0.0, 1e200]])},
        {"input": np.array([[1.0, 1.0]])},
    ]
    derived = case.derive("jvp", vectors=tangents)
    assert [entry["steep"].item() for entry in derived.result] == [1.0, math.inf, 1e200]
    assert not derived.finite and codes(derived) == [("non_finite", "steep")]


def test_parameters_are_initialised_and_answered():
    case = xor()
    derivation = case.derivation("jacobian", "outputs", "inputs")
    first = derivation.run(Feed(case.inputs, seed=3))
    again = derivation.run(Feed(case.inputs, first.parameters))
    assert again.parameters is None
    assert_same(again.result, first.result, (0.0, 0.0))


def test_dropout_masks_stay_fixed_during_differentiation():
    parts = network(dense("hidden", 3, "tanh"), layer("drop", "dropout", rate=0.5), dense("out", 1))
    case = Case(parts, INPUTS, "squared_error", TARGETS, training=True)
    rng = np.random.default_rng(0)
    for wrt in WRT:
        assert_adjoint(case, "outputs", wrt, rng)
        matrix = whole_jacobian(case.derive("jacobian", "outputs", wrt).result, wrt)
        assert_close(matrix, case.products("vjp", "outputs", wrt, np.eye(4)))


@every(("kind", "of", "wrt"), COMBINATIONS)
def test_float32_is_computed_in_float32(kind, of, wrt):
    case = Case(XOR, INPUTS[:1], "half_squared_error", TARGETS[:1], parameters=PARAMETERS, dtype="float32")
    derived = case.derive(kind, of, wrt, unit_vectors(case, kind, of, wrt))
    for _, array in [*walk(derived.values), *walk(derived.result)]:
        assert array.dtype == np.float32


def walk(value, path=()):
    """Yield the arrays of a result."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(inner, (*path, key))
    else:
        yield path, value


# --- refusals -----------------------------------------------------------------------------------


def refused(function, *arguments, **details):
    with pytest.raises(InvalidRequest) as caught:
        function(*arguments, **details)
    return {fault.path: fault.detail for fault in caught.value.faults}


NORMALIZED = network(dense("hidden", 2), layer("norm", "batch_normalization"), dense("out", 1))


@every("kind", ["jacobian", "hessian"])
def test_samples_that_are_coupled_have_no_matrices_of_their_own(kind):
    case = Case(NORMALIZED, INPUTS, training=True)
    (detail,) = refused(case.derive, kind).values()
    assert detail.startswith("in training, normalization over the batch") and "set training to false" in detail
    assert case.derive(kind, "outputs", "parameters").finite
    assert Case(NORMALIZED, INPUTS).derive(kind).finite


def test_there_is_no_derivative_for_indices():
    parts = network(layer("words", "embedding", input_dim=3, output_dim=2), layer("flat", "flatten"), dense("out", 1))
    case = Case(parts, np.array([[0, 2], [1, 1]]))
    faults = refused(case.derive, "jacobian")
    assert set(faults) == {("wrt",)} and "input 'input' holds them" in faults["wrt",]
    assert case.derive("jacobian", "outputs", "parameters").result["out"]["words"]["embeddings"].shape == (2, 1, 3, 2)


def test_indices_among_other_inputs_are_left_out():
    parts = network(
        layer("words", "embedding", input_dim=3, output_dim=2, inputs=["word"]),
        layer("flat", "flatten"),
        layer("both", "add", inputs=["flat", "number"]),
        dense("out", 1, "tanh"),
        inputs=["word", "number"],
    )
    inputs = {"word": np.array([[2], [0]]), "number": np.array([[0.5, -1.0], [2.0, 0.25]])}
    case = Case(parts, inputs)
    assert list(case.derive("jacobian").result["out"]) == ["number"]
    assert case.derive("hessian").labels == ["number[0]", "number[1]"]
    faults = refused(case.derive, "jvp", vectors=[inputs, {"number": inputs["number"]}])
    assert set(faults) == {("vectors", 0, "word")} and "which have no derivative" in faults["vectors", 0, "word"]


def test_there_is_no_derivative_for_parameters_that_are_not_trained():
    case = Case(network(dense("out", 1, trainable=False)), INPUTS)
    assert set(refused(case.derive, "jacobian", "outputs", "parameters")) == {("wrt",)}
    assert case.derive("jacobian").finite


def test_a_product_with_the_hessian_needs_one_number():
    faults = refused(xor().derive, "hvp", "outputs", vectors=[{"input": INPUTS}])
    assert set(faults) == {("of",)} and "the outputs hold 4" in faults["of",]
    case = Case(XOR, INPUTS[1:2], parameters=PARAMETERS)
    matrix = case.derive("hessian").result["output"][0, 0]
    assert_close(case.products("hvp", "outputs", "inputs", np.eye(2)), matrix)


GOOD = {
    "hidden": {"kernel": np.ones((2, 2)), "bias": np.ones(2)},
    "output": {"kernel": np.ones((2, 1)), "bias": np.ones(1)},
}


@every(
    ("kind", "of", "wrt", "vector", "faults"),
    [
        ("jvp", "outputs", "inputs", INPUTS[:2], {(): "has shape [2, 2]; it takes [4, 2], the shape of the inputs"}),
        ("jvp", "outputs", "inputs", {"x": INPUTS}, {("x",): "is no input", ("input",): "is missing"}),
        ("jvp", "outputs", "inputs", {"input": GOOD}, {("input",): "takes a tensor; an object came"}),
        ("vjp", "outputs", "inputs", INPUTS, {(): "it takes [4, 1], the shape of the output of layer 'output'"}),
        ("vjp", "loss", "inputs", np.ones(1), {(): "has shape [1]; it takes a number, because the loss is one"}),
        ("vjp", "loss", "inputs", GOOD, {(): "takes a number, because the loss is one; an object came"}),
        ("hvp", "loss", "parameters", INPUTS, {(): "takes an object {layer: {parameter: tensor}}"}),
        ("hvp", "loss", "parameters", GOOD | {"output": INPUTS}, {("output",): "takes an object {parameter: tensor}"}),
        (
            "hvp",
            "loss",
            "parameters",
            {"hidden": {"kernel": np.ones((2, 3)), "bias": np.ones(2), "alpha": np.ones(1)}, "extra": {}},
            {
                ("hidden", "kernel"): "has shape [2, 3]; it takes [2, 2] because the inputs have 2 features",
                ("hidden", "alpha"): "layer 'hidden' has no parameter 'alpha'",
                ("extra",): "no layer is called 'extra'",
                ("output",): "is missing",
            },
        ),
    ],
)  # fmt: skip
def test_vectors_have_the_shape_of_their_side(kind, of, wrt, vector, faults):
    case = xor()
    fine = unit_vectors(case, kind, of, wrt)[0]
    found = refused(case.derive, kind, of, wrt, [fine, vector, fine])
    assert set(found) == {("vectors", 1, *path) for path in faults}
    for path, words in faults.items():
        assert words in found["vectors", 1, *path]


def test_parameters_that_are_not_trained_have_no_part_in_vectors():
    case = Case(NORMALIZED, INPUTS)
    vector = {name: {key: np.ones_like(array) for key, array in own.items()} for name, own in case.parameters.items()}
    faults = refused(case.derive, "jvp", "outputs", "parameters", [vector])
    assert set(faults) == {("vectors", 0, "norm", "moving_mean"), ("vectors", 0, "norm", "moving_variance")}
    assert "is not trained, so vectors have no part for it" in faults["vectors", 0, "norm", "moving_mean"]


def test_all_faults_are_reported_at_once():
    case = xor()
    derivation = case.derivation("jvp", "outputs", "inputs", 1)
    faults = refused(derivation.run, Feed(case.inputs, {"hidden": case.parameters["hidden"]}), [INPUTS[:1]])
    assert set(faults) == {("parameters", "output"), ("vectors", 0)}


# --- limits -------------------------------------------------------------------------------------


@every(
    ("kind", "of", "wrt", "size"),
    [
        ("jacobian", "outputs", "inputs", 4 * 1 * 2),
        ("jacobian", "outputs", "parameters", 4 * 1 * 9),
        ("jacobian", "loss", "parameters", 9),
        ("hessian", "outputs", "inputs", 4 * 1 * 2 * 2),
        ("hessian", "outputs", "parameters", 4 * 1 * 9 * 9),
        ("hessian", "loss", "inputs", 8 * 8),
        ("hessian", "loss", "parameters", 9 * 9),
        ("jvp", "outputs", "inputs", 3 * 4),
        ("vjp", "outputs", "parameters", 3 * 9),
        ("hvp", "loss", "inputs", 3 * 8),
    ],
)
def test_the_size_of_the_answer_is_limited(kind, of, wrt, size):
    case = xor()
    vectors = 3 if kind in ("jvp", "vjp", "hvp") else 0
    with pytest.raises(LimitExceeded) as caught:
        case.derivation(kind, of, wrt, vectors, Limits(tensor_elements=size - 1))
    assert (caught.value.name, caught.value.asked, caught.value.allowed) == ("tensor_elements", size, size - 1)
    derivation = case.derivation(kind, of, wrt, vectors, Limits(tensor_elements=size))
    assert derivation.result_bytes >= 8 * size


def test_a_giant_answer_is_refused_before_its_graph_is_built():
    case = Case(network(dense("wide", 4000), dense("out", 1)), np.ones((1, 500)), "mse", np.ones((1, 1)))
    before = time.process_time()
    with pytest.raises(LimitExceeded) as caught:
        case.derivation("hessian", "loss", "parameters")
    assert caught.value.asked == (501 * 4000 + 4001) ** 2
    assert time.process_time() - before < 1.0


def test_the_operations_of_all_blocks_count(monkeypatch):
    monkeypatch.setattr(derivatives, "BLOCK_BYTES", 1)
    derivation = xor().derivation("hessian", "loss", "parameters")
    assert derivation.blocks == 9 and derivation.work == 9 * derivation.program.work
    assert xor().derivation("hessian", "loss", "parameters", limits=Limits(operations=derivation.work))
    with pytest.raises(LimitExceeded) as caught:
        xor().derivation("hessian", "loss", "parameters", limits=Limits(operations=derivation.work - 1))
    assert (caught.value.name, caught.value.asked) == ("operations", derivation.work)


def test_a_run_past_its_time_is_stopped_between_blocks(monkeypatch):
    monkeypatch.setattr(derivatives, "BLOCK_BYTES", 1)
    case = xor()
    derivation = case.derivation("hessian", "loss", "parameters")
    with pytest.raises(DeadlineExceeded):
        derivation.run(case.feed("loss"), watch=Looks(0))
    assert derivation.run(case.feed("loss"), watch=Looks()).finite


def test_the_memory_of_a_large_hessian_stays_moderate():
    case = Case(network(dense("hidden", 30, "tanh"), dense("out", 10, "softmax")), np.ones((64, 50)),
                "categorical_crossentropy", np.full((64, 10), 0.1))  # fmt: skip
    derivation = case.derivation("hessian", "loss", "parameters")
    assert derivation.blocks > 1
    assert derivation.program.nbytes < 2 * derivatives.BLOCK_BYTES
