"""Examples of requests to `/v1/networks`, for the API description."""

from __future__ import annotations

from service.api.examples import XOR_NETWORK, XOR_PARAMETERS, Example

NETWORKS = {
    "xor": Example(
        "The network of XOR with its weights.",
        network=XOR_NETWORK | {"input_shape": [2]},
        parameters=XOR_PARAMETERS,
    ),
    "architecture": Example(
        "An architecture alone, of which requests send parameters or a seed.",
        network={
            "layers": [
                {"type": "dense", "name": "hidden", "units": 3, "activation": "tanh"},
                {"type": "dense", "name": "output", "units": 1},
            ],
            "input_shape": [2],
        },
    ),
}
