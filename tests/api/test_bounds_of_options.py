"""The outermost values that options accept give numbers, or null with the reason, or a refusal at its place."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.engine.declarations import Declaration, Reference, Registry
from tests.conftest import Post
from tests.engine.network.layer_examples import base
from tests.engine.values import outermost
from tests.schemas.test_fields import CHOICES, path_of, request_with
from tests.support import assert_problem, every, faults, network, strict_json

BLOCKS = [
    pytest.param(registry, declaration, id=f"{registry.kind} {declaration.name}")
    for registry in CHOICES.values()
    for declaration in registry
    if any(not isinstance(option, Reference) for option in declaration.options)
]
ROWS = np.random.default_rng(0).uniform(-2.0, 2.0, (4, 2))


def request(
    post: Post, registry: Registry[Any], declaration: Declaration, **options: Any
) -> tuple[dict[str, Any], str]:
    """Return a request that uses a block with some options set, and the pointer to the block."""
    if registry.plural == "layers":
        usual = base(declaration)  # type: ignore[arg-type]
        example = replace(usual, options=usual.options | options)
        block = {"type": declaration.name, "name": "it", "inputs": example.names, **example.options}
        inputs = {name: array.tolist() for name, array in example.inputs(0).items()}
        body = {"network": network(block, inputs=example.names), "inputs": inputs, "training": True}
        outputs = (post(body, "/v1/forward").json or {}).get("outputs")
        # An impossible network is refused in the same words whatever the targets are.
        targets = [[0.5]] if outputs is None else np.full(np.shape(outputs), 0.5).tolist()
        return body | {"targets": targets, "loss": "squared_error"}, "#/network/layers/0"
    if registry.plural == "losses":
        targets = [0, 1, 1, 0] if declaration.indices else np.eye(2)[[0, 1, 1, 0]].tolist()  # type: ignore[attr-defined]
        if "class_weights" in options:
            options["class_weights"] = options["class_weights"] * 2
        layers = network({"type": "dense", "units": 2, "activation": "softmax"})
        block = {"type": declaration.name, **options}
        return {"network": layers, "inputs": ROWS.tolist(), "targets": targets, "loss": block}, "#/loss"
    return request_with(registry, declaration, **options)


def missing(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from missing(inner)
    elif value is None:
        yield value


@every(("registry", "declaration"), BLOCKS)
def test_outermost_values_of_options_are_answered(
    post: Post, registry: Registry[Any], declaration: Declaration
) -> None:
    body, _ = request(post, registry, declaration)
    assert post(body, path_of(registry)).status_code == 200
    for option in declaration.options:
        if isinstance(option, Reference):
            continue
        for value in outermost(option):
            body, place = request(post, registry, declaration, **{option.name: value})
            response = post(body, path_of(registry))
            if response.status_code == 200:
                answer = strict_json(response.get_data())
                codes = {warning["code"] for warning in answer["warnings"]}
                assert not any(missing(answer)) or "non_finite" in codes, (option.name, value, answer)
                assert answer["finite"] == ("non_finite" not in codes)
                continue
            kind = "limit-exceeded" if "limit" in response.json["type"] else "invalid"
            told = faults(assert_problem(response, kind, body))
            assert kind == "limit-exceeded" or all(pointer.startswith(place) for pointer in told), (option.name, told)
