"""Examples of requests to `/v1/runs`, for the API description."""

from __future__ import annotations

from service.api.examples import COMPARE, DESCEND, XOR_DATA, XOR_NETWORK, XOR_PARAMETERS, Example

RUN_ID = "5f0c1d4e9b7a4c2d8e6f3a1b0c9d8e7f"
"""The id that examples show: a real one is random."""
_TRAINING = {
    "network": XOR_NETWORK,
    "parameters": XOR_PARAMETERS,
    **XOR_DATA,
    "loss": "half_squared_error",
    "optimizer": {"type": "adam", "learning_rate": 0.05},
    "steps": 200,
}
RUNS = {
    "train": Example(
        "A training of 200 steps, each of them with a record.",
        kind="train",
        request=_TRAINING,
    ),
    "compare": Example(
        "Three optimizers at two learning rates each, side by side.",
        kind="compare",
        request={key: value for key, value in COMPARE["xor"].items() if key != "trace"},
    ),
    "descend": Example(
        "Two starts on a double well, each with and without momentum.",
        kind="descend",
        request=dict(DESCEND["double_well"]),
    ),
    "sweep": Example(
        "Three learning rates with two seeds each: a training for every combination.",
        kind="sweep",
        request={
            "request": {key: value for key, value in _TRAINING.items() if key != "parameters"},
            "vary": {"/optimizer/learning_rate": [0.01, 0.05, 0.25], "/seed": [1, 2]},
        },
    ),
}
UNTRAINABLE = Example(
    "The name of the optimizer is misspelt.",
    kind="train",
    request=_TRAINING | {"optimizer": "adma"},
)
MORE = {"more": Example("A hundred steps more.", steps=100)}
NO_MORE = Example("It may go on without more steps: then there is no such key.", steps=0)
RESUMED = {
    "id": RUN_ID,
    "rate": 10000.0,
    "remaining_seconds": 0.01,
    "seconds": 0.02,
    "created": "2026-11-30T12:00:00Z",
    "started": "2026-11-30T12:00:01Z",
    "bytes": 32000,
    "fingerprint": "3f9a0c51d27b",
}
"""Parts of the response that differ each time a run goes on."""
RAN = {key: value for key, value in RESUMED.items() if key != "remaining_seconds"} | {"ended": "2026-11-30T12:00:02Z"}
"""Parts of the response about a run that has ended which differ from run to run."""
