"""Every type of layer, compared with answers of PyTorch, recorded by scripts/record_pytorch_layers.py.

A record holds a layer in the form of a request. The schemas validate its options, then the layer
becomes a graph that is differentiated twice, planned and run. In float64 both agree to rtol 1e-12,
except for cancellation: a sum of numbers of size s may be wrong by some units in the last place of s.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from schemas.network import NetworkField
from service.engine.graph.differentiate import differentiate
from service.engine.graph.ir import Graph
from service.engine.graph.operations import sum_over
from service.engine.graph.plan import Program
from service.engine.network.layered import assemble
from service.engine.network.layers import layers
from tests.engine.support import dense_gradients
from tests.support import every

DATA = Path(__file__).parents[2] / "data" / "pytorch"
# Relative error, and absolute error as a share of the largest number among those compared (at least 1).
EXACT, SECOND, SINGLE = (1e-12, 1e-15), (1e-12, 1e-14), (2e-5, 1e-6)
DTYPES = [("float64", EXACT), ("float32", SINGLE)]

RECORDS = [record for path in sorted(DATA.glob("layers_*.json")) for record in json.loads(path.read_text())["layers"]]
NETWORKS = json.loads((DATA / "layer_networks.json").read_text())["networks"]
NOT_IN_NUMBERS = ("_initializer", "_regularizer", "dropout")
"""Endings of options that set initial values, are recorded elsewhere, or draw random numbers."""


def title(record):
    words = [f"{name} {value}" for name, value in record["options"].items()]
    inputs = len(record["inputs"])
    more = [f"{inputs} inputs"] * (inputs > 1) + ["training"] * record["training"] + ["ties"] * record["ties"]
    return record["type"] + (f" with {', '.join([*words, *more])}" if words or more else "")


def assert_close(actual, expected, tolerance, message=""):
    assert_all_close({message: actual}, {message: expected}, tolerance)


def assert_all_close(actual, expected, tolerance, message=""):
    """Assert that arrays, by name, are close. Rounding of larger numbers in one may leave another near 0, not at 0."""
    assert set(actual) == set(expected), message
    relative, absolute = tolerance
    wanted = {name: np.asarray(array, np.float64) for name, array in expected.items()}
    scale = max([1.0, *(np.abs(array).max(initial=0.0) for array in wanted.values())])
    for name, array in wanted.items():
        np.testing.assert_allclose(
            actual[name], array, rtol=relative, atol=absolute * scale, err_msg=f"{message} {name}"
        )


class Built:
    """A recorded layer in the graph: its outputs, their gradients, and the derivatives of these along a direction."""

    def __init__(self, record, dtype):
        names = [f"x{position}" for position in range(len(record["inputs"]))]
        description = {"layers": [{"type": record["type"], "name": "it", "inputs": names, **record["options"]}]}
        definition = NetworkField().deserialize({"inputs": names, **description})
        self.record, self.graph = record, Graph(dtype)
        shapes = {name: np.shape(array) for name, array in zip(names, record["inputs"], strict=True)}
        self.model = assemble(definition, self.graph, shapes, training=record["training"])
        self.output = self.model.layers["it"].output
        self.trained = {each.name: each.node for each in self.model.parameters if each.trainable}
        self.moved = [x for x in self.model.inputs.values() if x.dtype != "int64"]
        self.targets = [*self.trained.values(), *self.moved]

        self.cotangent = self.graph.input("cotangent", self.output.shape)
        self.gradients = self.gradients_of(self.output, self.cotangent)
        self.directions = [
            self.graph.input(f"direction {position}", x.shape) for position, x in enumerate(self.targets)
        ]
        along = self.graph.constant(0.0)
        for gradient, direction in zip(self.gradients, self.directions, strict=True):
            product = gradient * direction
            along = along + sum_over(product, range(len(product.shape)))
        self.second = self.gradients_of(along)

    def gradients_of(self, output, cotangent=None):
        return dense_gradients(differentiate(output, self.targets, cotangent).nodes, self.targets)

    def of_targets(self, tree):
        """Return recorded arrays, of parameters by name and of inputs in order, as arrays of the targets."""
        return [*(tree["parameters"][name] for name in self.trained), *(x for x in tree["inputs"] if x is not None)]

    def by_name(self, arrays):
        """Return arrays of the targets by their names."""
        names = [*self.trained, *(f"input {position}" for position in range(len(self.moved)))]
        return dict(zip(names, arrays, strict=True))

    def run(self):
        given = {
            **dict(zip(self.model.inputs.values(), self.record["inputs"], strict=True)),
            **{each.node: self.record["parameters"][each.name] for each in self.model.parameters},
            self.cotangent: self.record["cotangent"],
            **dict(zip(self.directions, self.of_targets(self.record["directions"]), strict=True)),
        }
        wanted = {
            "outputs": self.output,
            **{f"gradient {position}": node for position, node in enumerate(self.gradients)},
            **{f"second {position}": node for position, node in enumerate(self.second)},
            **{f"state {name}": node for (_, name), node in self.model.state.items()},
        }
        program = Program(wanted)
        with program.workspace() as workspace:
            for node, array in given.items():
                if node.attributes[0] in workspace.inputs:  # what is linear needs fewer
                    workspace.inputs[node.attributes[0]][...] = array
            workspace.run()
            found = {name: array.copy() for name, array in workspace.outputs.items()}
        return {
            "outputs": found["outputs"],
            "gradients": [found[f"gradient {position}"] for position in range(len(self.targets))],
            "second": [found[f"second {position}"] for position in range(len(self.targets))],
            "state": {name: found[f"state {name}"] for _, name in self.model.state},
        }


@cache
def found(position, dtype):
    built = Built(RECORDS[position], dtype)
    return built, built.run()


OF_KERAS = [each for each in layers if any("keras.io" in source for source in each.sources)]


def test_every_type_of_layer_that_names_keras_is_recorded():
    recorded = {layers[record["type"]].name for record in RECORDS}
    missing = {each.name for each in OF_KERAS} - recorded
    assert not missing, f"add {sorted(missing)} to scripts/record_pytorch_layers.py and run it"


def test_every_option_that_changes_numbers_is_recorded():
    recorded = {(layers[record["type"]].name, option) for record in RECORDS for option in record["options"]}
    declared = {
        (each.name, option.name)
        for each in OF_KERAS
        for option in each.options
        if not option.name.endswith(NOT_IN_NUMBERS)
    }
    assert not declared - recorded, "add them to scripts/record_pytorch_layers.py and run it"


@every("position", range(len(RECORDS)), ids=lambda position: title(RECORDS[position]))
def test_parameters_have_the_layout_of_keras(position):
    record, built = RECORDS[position], found(position, "float64")[0]
    shapes = {each.name: each.node.shape for each in built.model.parameters}
    assert shapes == {name: np.shape(array) for name, array in record["parameters"].items()}
    assert set(built.trained) == set(record["gradients"])


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@every("position", range(len(RECORDS)), ids=lambda position: title(RECORDS[position]))
def test_outputs_and_gradients(position, dtype, tolerance):
    record = RECORDS[position]
    built, results = found(position, dtype)
    assert results["outputs"].dtype == dtype
    assert_close(results["outputs"], record["outputs"], tolerance, "outputs")
    expected = built.of_targets({"parameters": record["gradients"], "inputs": record["input_gradients"]})
    assert_all_close(built.by_name(results["gradients"]), built.by_name(expected), tolerance, "gradient of")
    assert_all_close(results["state"], record.get("state", {}), tolerance, "state")


@every("position", range(len(RECORDS)), ids=lambda position: title(RECORDS[position]))
def test_second_derivatives(position):
    record = RECORDS[position]
    built, results = found(position, "float64")
    expected = built.of_targets(record["second"])
    assert_all_close(built.by_name(results["second"]), built.by_name(expected), SECOND, "second derivative of")


# --- whole networks -----------------------------------------------------------------------------


def assert_trees_close(actual, expected, tolerance, message):
    assert set(actual) == set(expected), message
    for layer, own in expected.items():
        assert_all_close(actual[layer], own, tolerance, f"{message} of {layer}")


@every(("dtype", "tolerance"), DTYPES)
@every("record", NETWORKS, ids=lambda record: record["title"])
def test_networks(post, record, dtype, tolerance):
    """Whole requests: several inputs, outputs, losses, shared parameters, statistics of the batch."""
    names = record["network"].get("outputs")
    alone = record["network"]["layers"][-1]["name"]
    request = {key: record[key] for key in ("network", "parameters", "inputs", "loss", "training")}
    request["targets"] = record["targets"] if names else record["targets"][alone]
    if record["loss_weights"] is not None:
        request["loss_weights"] = record["loss_weights"]
    response = post({**request, "dtype": dtype})
    assert response.status_code == 200, response.text
    answer = response.get_json()
    assert answer["finite"] and {each["code"] for each in answer["warnings"]} <= {"unreachable_targets"}  # random ones
    assert_close(answer["loss"], record["loss_value"], tolerance)
    if names:
        assert_all_close(answer["losses"], record["losses"], tolerance, "losses")
    assert_all_close(answer["outputs"] if names else {alone: answer["outputs"]}, record["outputs"], tolerance)
    assert_trees_close(answer["gradients"], record["gradients"], tolerance, "gradients")
    assert_trees_close(answer.get("state") or {}, record["state"], tolerance, "state")
