"""Small networks of all kinds, with random numbers from a seed, whose gradients are submitted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.verdicts.layers import (
    Array,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling1D,
    MaxPooling2D,
    Normalization,
)
from benchmarks.verdicts.network import Network
from benchmarks.verdicts.sequences import LSTM, SelfAttention, SimpleRNN

Maker = Callable[[np.random.Generator], Network]


def _classes(generator: np.random.Generator, samples: int, classes: int) -> Array:
    return np.eye(classes)[generator.integers(0, classes, samples)]


def _dropout(name: str, rate: float) -> Dropout:
    layer = Dropout(name)
    layer.rate = rate
    return layer


def binary(g: np.random.Generator) -> Network:
    layers = Dense("hidden", 5, "sigmoid"), Dense("output", 1, "sigmoid")
    targets = {"output": g.integers(0, 2, (6, 1)).astype(float)}
    return Network("binary", layers, (3,), {"output": "binary_crossentropy"}, g.normal(size=(6, 3)), targets)


def classifier(g: np.random.Generator) -> Network:
    layers = Dense("first", 6, "relu"), Dense("second", 5, "tanh"), Dense("output", 3, "softmax")
    losses = {"output": "categorical_crossentropy"}
    return Network("classifier", layers, (4,), losses, g.normal(size=(8, 4)), {"output": _classes(g, 8, 3)})


def regression(g: np.random.Generator) -> Network:
    layers = (
        Dense("first", 5, "tanh", l2=0.02),
        Dense("second", 4, "sigmoid", l1=0.03),
        Dense("output", 2, "linear", l1=0.01, l2=0.01),
    )
    losses = {"output": "mean_squared_error"}
    return Network("regression", layers, (3,), losses, g.normal(size=(7, 3)), {"output": g.normal(size=(7, 2))})


def image(g: np.random.Generator) -> Network:
    layers = (
        Convolution("edges", 3, (3, 3), "same", "relu"),
        MaxPooling2D("pool"),
        Convolution("shapes", 4, (3, 3), "same", "tanh"),
        Flatten("flatten"),
        Dense("output", 3, "softmax"),
    )
    losses = {"output": "categorical_crossentropy"}
    return Network("image", layers, (6, 8, 2), losses, g.normal(size=(4, 6, 8, 2)), {"output": _classes(g, 4, 3)})


def signal(g: np.random.Generator) -> Network:
    layers = (
        Convolution("short", 4, (3,), "valid", "tanh"),
        Convolution("long", 3, (4,), "same", "sigmoid"),
        GlobalAveragePooling1D("mean"),
        Dense("output", 2, "linear"),
    )
    losses = {"output": "half_squared_error"}
    targets = {"output": g.normal(size=(5, 2))}
    weights = g.uniform(0.3, 2.0, 5)
    return Network("signal", layers, (9, 2), losses, g.normal(size=(5, 9, 2)), targets, sample_weights=weights)


def recurrent(g: np.random.Generator) -> Network:
    layers = SimpleRNN("reader", 4, sequences=True), SimpleRNN("summary", 3), Dense("output", 2, "softmax")
    losses = {"output": "categorical_crossentropy"}
    return Network("recurrent", layers, (5, 2), losses, g.normal(size=(4, 5, 2)), {"output": _classes(g, 4, 2)})


def memory(g: np.random.Generator) -> Network:
    layers = Dense("embed", 3, "tanh"), LSTM("memory", 3), Dense("output", 1, "linear")
    losses = {"output": "mean_squared_error"}
    return Network("memory", layers, (4, 2), losses, g.normal(size=(5, 4, 2)), {"output": g.normal(size=(5, 1))})


def attention(g: np.random.Generator) -> Network:
    layers = (
        Dense("embed", 4, "tanh"),
        SelfAttention("look", 2, 3),
        Normalization("norm", -1),
        Flatten("flatten"),
        Dense("output", 3, "softmax"),
    )
    losses = {"output": "categorical_crossentropy"}
    return Network("attention", layers, (3, 2), losses, g.normal(size=(5, 3, 2)), {"output": _classes(g, 5, 3)})


def normalized(g: np.random.Generator) -> Network:
    layers = (
        Dense("first", 5, "tanh"),
        Normalization("norm", 0),
        Dense("second", 4, "relu"),
        Dense("output", 3, "softmax"),
    )
    losses = {"output": "categorical_crossentropy"}
    targets = {"output": _classes(g, 8, 3)}
    return Network("normalized", layers, (4,), losses, g.normal(size=(8, 4)), targets, training=True)


def shared(g: np.random.Generator) -> Network:
    layers = (
        Dense("first", 4, "tanh"),
        Dense("again", 4, "tanh", shares="first"),
        Dense("output", 2, "sigmoid"),
    )
    losses = {"output": "half_squared_error"}
    return Network("shared", layers, (4,), losses, g.normal(size=(6, 4)), {"output": g.random((6, 2))})


def branches(g: np.random.Generator) -> Network:
    layers = (
        Dense("trunk", 5, "tanh"),
        Dense("kind", 3, "softmax"),
        Dense("side", 4, "sigmoid"),
        Dense("amount", 2, "linear"),
    )
    losses = {"kind": "categorical_crossentropy", "amount": "mean_squared_error"}
    targets = {"kind": _classes(g, 7, 3), "amount": g.normal(size=(7, 2))}
    inputs_of = {"side": "trunk"}
    weights = {"kind": 1.0, "amount": 0.3}
    return Network("branches", layers, (3,), losses, g.normal(size=(7, 3)), targets, inputs_of, weights)


def dropout(g: np.random.Generator) -> Network:
    layers = (
        Dense("first", 8, "tanh"),
        _dropout("drop", 0.4),
        Dense("second", 6, "sigmoid"),
        _dropout("drop_more", 0.25),
        Dense("output", 2, "linear"),
    )
    losses = {"output": "mean_squared_error"}
    targets = {"output": g.normal(size=(6, 2))}
    return Network("dropout", layers, (3,), losses, g.normal(size=(6, 3)), targets, training=True, seed=11)


def deep(g: np.random.Generator) -> Network:
    kinds = "tanh", "sigmoid", "tanh", "tanh", "sigmoid"
    layers = (*(Dense(f"hidden_{n}", 4, kind) for n, kind in enumerate(kinds, 1)), Dense("output", 2, "tanh"))
    losses = {"output": "half_squared_error"}
    targets = {"output": g.uniform(-0.9, 0.9, (5, 2))}
    return Network("deep", layers, (4,), losses, g.normal(size=(5, 4)), targets, reduction="sum")


def twins(g: np.random.Generator) -> Network:
    """Return a network with two units, outputs and samples, in which many mistakes look alike."""
    layers = Dense("hidden", 2, "sigmoid"), Dense("output", 2, "sigmoid")
    losses = {"output": "mean_squared_error"}
    return Network("twins", layers, (2,), losses, g.normal(size=(2, 2)), {"output": g.random((2, 2))})


MAKERS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        binary,
        classifier,
        regression,
        image,
        signal,
        recurrent,
        memory,
        attention,
        normalized,
        shared,
        branches,
        dropout,
        deep,
        twins,
    )
}


def make(name: str, seed: int = 1986) -> Network:
    """Return the network of this name, with parameters and data from this seed."""
    generator = np.random.default_rng([seed, sorted(MAKERS).index(name)])
    return MAKERS[name](generator).fill(generator)
