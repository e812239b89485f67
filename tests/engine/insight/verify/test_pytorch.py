"""Claims in PyTorch's layout: for every type of layer they are those that `to_pytorch` writes; no shape is an error."""

import itertools

import numpy as np

from service.engine.insight.verify.pytorch import PyTorchLayout
from service.engine.layouts.pytorch import from_pytorch, to_pytorch
from service.engine.network.layers import layers
from tests.engine.network.layer_examples import base, variations
from tests.engine.network.test_layer_declarations import models
from tests.support import every

WITH_PARAMETERS = [each for each in layers if each.parameters]
TWO_FORMS = ("multi_head_attention", "time_distributed")
"""Layers that are, or may hold, attention, whose weights PyTorch packs or not."""
LENGTHS = (0, 1, 2, 6)


def examples(declaration):
    """Return the example of a layer, those with another value of one option, and their learned parameters."""
    changed = [each for _, several in variations(declaration) for each in several]
    for example in (base(declaration), *changed):
        learned = [each for each in models(example)[0].parameters if each.trainable]
        yield example, {("it", each.name): each.node.shape for each in learned}


@every("declaration", WITH_PARAMETERS, ids=lambda declaration: declaration.name)
def test_gradients_in_the_layout_of_pytorch_are_read_back(declaration):
    rng = np.random.default_rng(0)
    for example, shapes in examples(declaration):
        tree = {name: rng.standard_normal(shape) for (_, name), shape in shapes.items()}
        layout = PyTorchLayout(example.definition, shapes)
        found = {}
        for entries in to_pytorch(example.definition, {"it": tree}, {}, gradient=True).values():
            assert set(entries) == set(layout.names("it")) or declaration.name in TWO_FORMS
            for entry, array in entries.items():
                for (_, name), turned in layout.turned("it", entry, array):
                    rows = found.setdefault(name, np.full(turned.shape, np.nan))
                    found[name] = np.where(np.isnan(turned), rows, turned)
                if not list(layout.turned("it", entry, array)):
                    found[entry] = array  # a parameter that PyTorch has not has its own name
        assert found.keys() == tree.keys()
        if "value_dim" in example.options:
            continue  # the packed biases of PyTorch have one length
        for name, array in found.items():
            np.testing.assert_array_equal(array, tree[name], err_msg=f"{example}: {name}")


@every("declaration", WITH_PARAMETERS, ids=lambda declaration: declaration.name)
def test_entries_of_any_shape_are_no_error(declaration):
    example, shapes = next(examples(declaration))
    layout = PyTorchLayout(example.definition, shapes)
    for rank in range(5):
        for shape in itertools.product(LENGTHS, repeat=rank):
            for entry in layout.names("it"):
                list(layout.turned("it", entry, np.ones(shape)))
                from_pytorch(example.definition, {f"it.{entry}": np.ones(shape)})
