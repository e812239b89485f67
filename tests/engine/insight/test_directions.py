"""Directions: as long as they should be, and along what they should be."""

import re

import numpy as np
import pytest

from service.engine.errors import InvalidRequest
from service.engine.insight.directions import check_plane, principal_directions, random_direction
from service.engine.network.flat import Space
from service.engine.network.layers import layers
from service.engine.network.prepare import prepare
from tests.engine.network.building import ROOMY, dense, layer, network, task_for
from tests.support import every

UNITS = ("units", "filters", "4 * units", "3 * units", "outputs", "num_heads", "key_dim", "value_dim", "pieces")
"""Words for the axes of a kernel that tell units apart, as layers declare them."""


def test_every_layer_declares_the_unit_axes_of_its_kernels():
    """The units of other kernels are on the last axis."""
    assert [each.name for each in layers if each.unit_axes]
    for each in layers:
        assert set(each.unit_axes) <= set(each.parameters or ()), each.name
        for name, shape in (each.parameters or {}).items():
            if not name.endswith(("kernel", "embeddings")):
                continue
            axes = re.fullmatch(r"\[(.*)\]", shape.partition(" or ")[0])
            if axes is None or name in each.unit_axes:
                continue
            *_, last = axes[1].split(", ")
            assert last in UNITS, f"{each.name} declares no unit_axes of its {name}"


NETWORKS = {
    "dense": (network(dense("a", 4, "relu"), dense("b", 2)), (3, 5)),
    "convolution": (
        network(layer("c", "conv2d", filters=3, kernel_size=[2, 2]), layer("f", "flatten"), dense("d", 2)),
        (2, 4, 4, 2),
    ),
}


def vectors(name, normalize, seed=0):
    definition, shape = NETWORKS[name]
    model = prepare(task_for(definition, np.zeros(shape)), ROOMY).model
    parts = Space(((each.layer, each.name), each.node.shape) for each in model.parameters).pieces
    base = np.random.default_rng(8).standard_normal(parts[-1].stop)
    return parts, base, random_direction(definition, parts, base, normalize, (seed, 2, 0))


@every("name", NETWORKS)
def test_filters_are_as_long_as_their_weights_and_biases_do_not_move(name):
    parts, base, direction = vectors(name, "filter")
    for part in parts:
        way, weights = (flat[part.start : part.stop].reshape(part.shape) for flat in (direction, base))
        if part.name == "bias":
            assert not way.any()
            continue
        for unit in range(part.shape[-1]):
            assert np.linalg.norm(way[..., unit]) == pytest.approx(np.linalg.norm(weights[..., unit]), rel=1e-14)
        assert abs(np.corrcoef(way.ravel(), weights.ravel())[0, 1]) < 0.9  # it is another direction


def test_other_normalizations():
    parts, base, direction = vectors("dense", "layer")
    for part in parts:
        assert np.linalg.norm(direction[part.start : part.stop]) == pytest.approx(
            np.linalg.norm(base[part.start : part.stop]), rel=1e-14
        )
    assert np.linalg.norm(vectors("dense", "none")[2]) == pytest.approx(1.0, rel=1e-15)


def test_seeds_give_different_directions():
    one, again, other = (vectors("dense", "filter", seed)[2] for seed in (0, 0, 1))
    assert one.tobytes() == again.tobytes() and not np.allclose(one, other)


def test_heads_and_words_are_filters_of_their_own():
    definition = network(
        layer("words", "embedding", input_dim=7, output_dim=4),
        layer("attention", "multi_head_attention", num_heads=2, key_dim=3),
    )
    model = prepare(task_for(definition, np.zeros((2, 5), np.int64)), ROOMY).model
    parts = Space(((each.layer, each.name), each.node.shape) for each in model.parameters).pieces
    base = np.random.default_rng(8).standard_normal(parts[-1].stop)
    direction = random_direction(definition, parts, base, "filter", (0, 2, 0))
    axes = {"embeddings": 1, "query_kernel": 0, "key_kernel": 0, "value_kernel": 0, "attention_output_kernel": (0, 1)}
    for part in parts:
        if part.name in axes:
            way, weights = (flat[part.start : part.stop].reshape(part.shape) for flat in (direction, base))
            lengths = [np.sqrt((each**2).sum(axes[part.name])) for each in (way, weights)]
            np.testing.assert_allclose(*lengths, rtol=1e-13)


def test_a_wrapper_has_the_filters_of_the_layer_inside():
    inner = {"name": "conv2d_transpose", "filters": 3, "kernel_size": [2, 2]}
    definition = network(layer("steps", "time_distributed", layer=inner))
    model = prepare(task_for(definition, np.zeros((1, 2, 4, 4, 2))), ROOMY).model
    parts = Space(((each.layer, each.name), each.node.shape) for each in model.parameters).pieces
    base = np.random.default_rng(8).standard_normal(parts[-1].stop)
    direction = random_direction(definition, parts, base, "filter", (0, 2, 0))
    kernel = next(part for part in parts if part.name == "kernel")
    assert kernel.shape == (2, 2, 3, 2)
    way, weights = (flat[kernel.start : kernel.stop].reshape(kernel.shape) for flat in (direction, base))
    np.testing.assert_allclose(*(np.sqrt((each**2).sum((0, 1, 3))) for each in (way, weights)), rtol=1e-13)


def test_principal_directions_of_a_known_ellipse():
    turn = np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)
    axes, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))
    points = 5.0 + np.outer(3.0 * np.cos(turn), axes[0]) + np.outer(np.sin(turn), axes[1])
    found = principal_directions(points, 2, [("along", 0), ("along", 1)])
    np.testing.assert_allclose(np.abs(found.vectors @ axes[:2].T), np.eye(2), atol=1e-12)
    np.testing.assert_allclose(found.explained, [0.9, 0.1], rtol=1e-12)
    assert all(vector[np.abs(vector).argmax()] > 0 for vector in found.vectors)


@every(
    ("points", "words"),
    [
        (np.ones((4, 3)), "does not move"),
        (np.outer(np.arange(4.0), [1.0, 2.0, 3.0]), "lies on a line"),
        (1e8 + np.outer(np.arange(2.0), [1.0, 2.0, 3.0]), "lies on a line"),
    ],
)
def test_too_few_principal_directions_are_refused(points, words):
    with pytest.raises(InvalidRequest) as refused:
        principal_directions(points, 2, [("along", 0), ("along", 1)])
    assert any(words in fault.detail for fault in refused.value.faults)


def test_a_plane_takes_two_directions():
    one = np.array([1.0, 2.0, 0.0])
    assert check_plane(one, np.array([-2.0, 1.0, 0.0]), ("along", 1)) == pytest.approx(0.0, abs=1e-15)
    for factor in (2.0, -1e-5):
        with pytest.raises(InvalidRequest):
            check_plane(one, factor * one, ("along", 1))
