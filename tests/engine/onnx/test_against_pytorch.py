"""Tests that exports of PyTorch have its outputs, and its gradients by the names of its state_dict."""

import json

import numpy as np
import pytest

from service.engine.limits import Limits
from service.engine.network.evaluate import compile_task
from service.engine.network.feed import Feed
from service.engine.network.losses import losses
from service.engine.network.task import Task
from service.engine.onnx import read
from tests.support import ROOT, every

FOLDER = ROOT / "tests" / "data" / "onnx"
RECORDED = json.loads((FOLDER / "exports.json").read_text())


@every("name", RECORDED)
def test_gradients_are_those_of_pytorch(name):
    recorded = RECORDED[name]
    imported = read((FOLDER / f"{name}.onnx").read_bytes())
    assert not imported.warnings
    definition = imported.definition
    (x,), (y,) = definition.inputs, definition.output_names
    inputs, targets = np.array(recorded["inputs"]), np.array(recorded["targets"])
    task = Task(
        definition,
        "float64",
        ((x, inputs.shape),),
        losses=(losses.select("mean_squared_error"),),
        targets=((y, targets.shape),),
        include=frozenset(("input_gradients", "per_sample")),
    )
    found = compile_task(task, Limits()).run(Feed({x: inputs}, imported.parameters, {y: targets}))
    np.testing.assert_allclose(found.outputs[y], recorded["outputs"], rtol=1e-9, atol=1e-11)
    assert found.loss == pytest.approx(recorded["loss"], rel=1e-10)
    flat = {f"{layer}.{own}": each for layer, tree in found.gradients.items() for own, each in tree.items()}
    assert flat.keys() == recorded["gradients"].keys()
    largest = max(np.abs(each).max() for each in flat.values())
    for key, wanted in recorded["gradients"].items():
        np.testing.assert_allclose(flat[key], wanted, rtol=1e-9, atol=1e-10 * largest)
    if recorded["input_gradients"] is not None:
        np.testing.assert_allclose(found.input_gradients[x], recorded["input_gradients"], rtol=1e-8, atol=1e-11)
    for layer, tree in found.per_sample_gradients.items():
        for own, each in tree.items():
            np.testing.assert_allclose(each.mean(0), found.gradients[layer][own], rtol=1e-9, atol=1e-12 * largest)
