"""Inputs whose shapes do not fit the network are refused before the graph is built."""

import numpy as np
import pytest

from service.engine.errors import Fault, InvalidRequest
from service.engine.network.definition import INPUT
from tests.engine.network.building import compiled, dense, network
from tests.support import every


@every(
    ("shape", "wanted", "detail"),
    [
        (
            (3,),
            None,
            "inputs have shape [3]; they take one row per sample: [samples, features]; "
            "write [[1, 2]] for one sample of two features, [[1], [2]] for two samples of one",
        ),
        (
            (2, 3),
            (2,),
            "inputs have shape [2, 3]; they take [samples, 2] because input_shape is [2]; they are "
            "transposed: a sample is a row",
        ),
        ((0, 3), None, "inputs have shape [0, 3]; at least one value is needed"),
        ((4, 3), (2,), "inputs have shape [4, 3]; they take [samples, 2] because input_shape is [2]"),
        ((4, 3), (3, 1), "inputs have shape [4, 3]; they take [samples, 3, 1] because input_shape is [3, 1]"),
    ],
)
def test_inputs_that_do_not_fit(shape, wanted, detail):
    with pytest.raises(InvalidRequest) as caught:
        compiled(network(dense("a", 2), input_shape=wanted), np.zeros(shape))
    assert caught.value.faults == (Fault(("inputs", INPUT), detail),)
