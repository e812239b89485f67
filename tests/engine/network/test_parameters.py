"""Parameters of a request that do not fit the network: all faults at once, with the reasons for shapes."""

import numpy as np

from service.engine.errors import Fault
from tests.engine.network.building import compiled, dense, layer, network
from tests.support import every


def refused_parameters(definition, parameters, inputs=(4, 3)):
    evaluation = compiled(definition, np.zeros(inputs))
    return evaluation.parameters.faults(parameters)


@every(
    ("first", "inputs", "reason"),
    [
        (dense("a", 1), 1, "because layer 'a' has 1 unit"),
        (dense("a", 5), 5, "because layer 'a' has 5 units"),
        (layer("a", "activation", activation="tanh"), 3, "because layer 'a' gives 3 values"),
        (layer("a", "reshape", target_shape=[1, 3]), 3, "because layer 'a' gives shape [1, 3]"),
    ],
)
def test_the_refusal_of_a_kernel_gives_the_reason_for_its_shape(first, inputs, reason):
    wrong = {"b": {"kernel": np.zeros((7, 2)), "bias": np.zeros(2)}}
    (detail,) = [
        fault.detail for fault in refused_parameters(network(first, dense("b", 2)), wrong) if "b" in fault.path
    ]
    assert detail == f"kernel of layer 'b' has shape [7, 2]; it takes [{inputs}, 2] {reason}"


def test_the_inputs_are_the_reason_of_the_first_kernel():
    (fault,) = refused_parameters(network(dense("a", 2)), {"a": {"kernel": np.zeros((2, 2)), "bias": np.zeros(2)}})
    assert fault == Fault(
        ("parameters", "a", "kernel"),
        "kernel of layer 'a' has shape [2, 2]; it takes [3, 2] because the inputs have 3 features",
    )
    (fault,) = refused_parameters(
        network(dense("a", 2)), {"a": {"kernel": np.zeros((2, 2)), "bias": np.zeros(2)}}, inputs=(4, 5, 1)
    )
    assert fault.detail.endswith("because the inputs have shape [5, 1]")


def test_all_faults_of_the_parameters_are_reported_at_once():
    definition = network(dense("a", 2), layer("f", "flatten"), dense("c", 2, shares="a"), dense("d", 2))
    found = refused_parameters(
        definition,
        {
            "a": {"kernel": np.zeros((3, 2)), "weights": np.zeros(3)},
            "c": {"kernel": np.zeros((2, 2))},
            "f": {"kernel": np.zeros(1)},
            "z": {},
        },
        inputs=(4, 2),
    )
    assert [(fault.path, fault.detail) for fault in found] == [
        (
            ("parameters", "a", "weights"),
            "layer 'a' has no parameter 'weights'; it has 'kernel', 'bias'; did you mean 'kernel'?",
        ),
        (("parameters", "c"), "layer 'c' uses the parameters of layer 'a'; send none for it"),
        (("parameters", "f"), "layer 'f' has no parameters"),
        (("parameters", "z"), "no layer is called 'z'; layers with parameters: 'a', 'd'"),
        (
            ("parameters", "a", "kernel"),
            "kernel of layer 'a' has shape [3, 2]; it takes [2, 2] because the inputs have 2 features",
        ),
        (("parameters", "a", "bias"), "bias of layer 'a' is missing; it has shape [2]"),
        (("parameters", "d"), "kernel of layer 'd' is missing; it has shape [2, 2]"),
        (("parameters", "d"), "bias of layer 'd' is missing; it has shape [2]"),
    ]
