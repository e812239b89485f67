"""Loaded requests travel to other processes: pickle writes blocks by their names."""

import copy
import pickle

import pytest

import service.app  # noqa: F401 (all endpoints)
from service.api.endpoint import ENDPOINTS
from service.engine.declarations import Selection
from service.engine.network.layered import NetworkDefinition
from service.engine.network.layers import layers
from tests.support import every

EXAMPLES = [
    pytest.param(endpoint.takes, example, id=f"{endpoint.path.removeprefix('/v1/')}-{name}")
    for endpoint in ENDPOINTS
    if endpoint.method == "POST" and endpoint.takes is not None and endpoint.path != "/v1/runs"
    for name, example in endpoint.examples.items()
]
"""All but those of runs: what travels of a run is the request inside."""


@every(("schema", "example"), EXAMPLES)
def test_every_example_comes_back_as_it_went(schema, example) -> None:
    loaded = schema.read(copy.deepcopy(dict(example)))
    sent = pickle.dumps(loaded, protocol=5)
    back = pickle.loads(sent)
    assert back.keys() == loaded.keys()
    assert pickle.loads(pickle.dumps(back, protocol=5)).keys() == loaded.keys()
    network = back.get("network")
    if isinstance(network, NetworkDefinition):
        pairs = zip(network.layers, loaded["network"].layers, strict=True)
        assert all(mine.layer.declaration is theirs.layer.declaration for mine, theirs in pairs)
        assert [layer.layer.options.keys() for layer in network.layers] == [
            layer.layer.options.keys() for layer in loaded["network"].layers
        ]


def test_a_block_is_the_same_object_again() -> None:
    chosen = layers.select("dense", units=3)
    back = pickle.loads(pickle.dumps(chosen))
    assert back.declaration is chosen.declaration
    assert back.options["units"] == 3
    activation = back.options["activation"]
    assert isinstance(activation, Selection) and activation.declaration is chosen.options["activation"].declaration
    with pytest.raises(TypeError):
        back.options["units"] = 4  # type: ignore[index]
