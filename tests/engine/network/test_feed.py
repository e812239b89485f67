"""The numbers of a request are checked against the network at every run."""

import numpy as np
import pytest

from service.engine.errors import Fault, InvalidRequest
from tests.engine.network.building import compiled, dense, evaluate, network, run
from tests.engine.network.test_evaluate import INPUTS, PARAMETERS, TARGETS, WEIGHTS, XOR
from tests.support import every


def refused(*arguments, **details):
    with pytest.raises(InvalidRequest) as caught:
        evaluate(*arguments, **details)
    return list(caught.value.faults)


@every(("index", "shown"), [(3, "3"), (-1, "-1"), (0.5, "0.5")])
def test_an_index_that_is_no_class_is_refused(index, shown):
    definition = network(dense("out", 3))
    (fault,) = refused(definition, INPUTS, None, "scce", np.array([0.0, 1.0, index, 2.0]))
    assert fault == Fault(("targets", "out", 2), f"takes a class index from 0 to 2, got {shown}")


def test_an_index_of_one_of_several_outputs_is_named():
    definition = network(dense("a", 3), dense("b", 2, inputs=["input"]), outputs=["a", "b"])
    targets = {"a": np.array([0, 1, 2, 0]), "b": np.array([0, 1, 2, 0])}
    (fault,) = refused(definition, INPUTS, None, "scce", targets)
    assert fault.path == ("targets", "b", 2)


def test_sample_weights_come_one_per_sample():
    evaluation = compiled(XOR, INPUTS, "mse", targets=TARGETS, weights=WEIGHTS)
    with pytest.raises(InvalidRequest) as caught:
        run(evaluation, INPUTS, PARAMETERS, TARGETS, WEIGHTS[:2])
    assert caught.value.faults == (Fault(("sample_weights",), "has shape [2]; it takes [4], one per sample"),)


def test_parameters_are_checked_at_every_run():
    evaluation = compiled(XOR, INPUTS)
    with pytest.raises(InvalidRequest, match="bias of layer 'out' is missing"):
        run(evaluation, INPUTS, {**PARAMETERS, "out": {"kernel": PARAMETERS["out"]["kernel"]}})
