"""Example requests about computational graphs and checks of gradients."""

from __future__ import annotations

from service.api.examples import XOR_DATA, XOR_NETWORK, XOR_PARAMETERS, Example

GRAPH: dict[str, Example] = {
    "xor": Example(
        "Everything that happens on the way to the gradients of the XOR network and on the way back, for one sample.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        inputs=XOR_DATA["inputs"][1:2],
        targets=XOR_DATA["targets"][1:2],
        loss="half_squared_error",
    ),
    "saddle": Example(
        "The operations of a saddle, with a drawing for Mermaid.",
        expression="x^2 - y^2",
        point=[3, 1],
        include=["mermaid"],
    ),
    "layers": Example(
        "The XOR network collapsed to its layers, with a drawing for Graphviz.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        **XOR_DATA,
        loss="half_squared_error",
        detail="layers",
        include=["dot"],
    ),
}

CHECK: dict[str, Example] = {
    "xor": Example(
        "The nine gradients of the XOR network, each against a complex step, with differences of four steps.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        **XOR_DATA,
        loss="half_squared_error",
        steps=[0.5, 0.2, 0.1, 0.05],
    ),
    "kink": Example(
        "A unit with relu close to its kink, which longer steps of differences reach.",
        network={"layers": [{"type": "dense", "name": "unit", "units": 1, "activation": "relu"}]},
        parameters={"unit": {"kernel": [[1]], "bias": [-0.999]}},
        inputs=[[1]],
        targets=[[1]],
        loss="half_squared_error",
        steps=[0.1, 0.01, 0.0001],
    ),
    "wrong_sign": Example(
        "A claimed gradient of which one part has the wrong sign.",
        expression="x^2 - y^2",
        point=[3, 1],
        claimed={"x": 6, "y": 2},
        steps=[0.1, 0.01],
    ),
}
