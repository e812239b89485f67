"""Record the results of Keras for small models of many kinds, for tests/schemas/test_keras_models.py.

    KERAS_BACKEND=jax JAX_ENABLE_X64=1 python scripts/record_keras_models.py

Needs the extra `oracle`. Each record has the model from `to_json()`, random weights under the names of this service,
inputs, targets, outputs, the mean squared error with penalties, and its gradients by JAX. Where nothing is random, the
results in training and the new running averages are recorded too. A few models are also saved as files for `nabla
convert`.

Keras multiplies float64 in float32 on every backend but TensorFlow, so the script empties the Keras table that requests
this. The fused attention of JAX computes in float32 too; a dropout that is never active keeps Keras from using it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}

import jax
import jax.numpy as jnp
import keras
import keras.src.backend.common.dtypes
import numpy as np
from keras import Input, Model, Sequential, ops
from keras import initializers as I  # noqa: N812
from keras import layers as L  # noqa: N812
from keras import regularizers as R  # noqa: N812

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from schemas.keras import read, stored  # noqa: E402

TARGET = ROOT / "tests" / "data" / "keras"
LARGEST_FILE = 400_000
FILES = ("siamese", "bidirectional", "mobile")
"""Models that are also saved as files."""
NEVER = 1e-9
"""A dropout rate that has no effect without training, but keeps Keras from computing attention in float32."""
RANDOM = (L.Dropout, L.GaussianNoise, L.AlphaDropout, L.GaussianDropout, L.SpatialDropout3D, L.MultiHeadAttention)

MODELS: dict[str, Callable[[], Any]] = {}


def model(function: Callable[[], Any]) -> Callable[[], Any]:
    """Register a function that makes a model to record, under the name of the function."""
    MODELS[function.__name__] = function
    return function


@model
def mlp() -> Any:
    return Sequential(
        [
            Input((4,)),
            L.Dense(5, activation="relu", kernel_regularizer=R.L2(0.01), bias_regularizer="l1"),
            L.Dropout(0.2),
            L.Dense(3, activation="softmax"),
        ]
    )


@model
def mlp_activations() -> Any:
    return Sequential(
        [Input((4,))]
        + [
            L.Dense(4, activation=a)
            for a in (
                "leaky_relu",
                "elu",
                "selu",
                "gelu",
                "swish",
                "mish",
                "softplus",
                "softsign",
                "hard_sigmoid",
                "hard_swish",
                "celu",
                "log_sigmoid",
                "tanh_shrink",
                "exponential",
            )
        ]
        + [
            L.Dense(3, activation=L.LeakyReLU(0.1)),
            L.ReLU(max_value=6),
            L.LeakyReLU(),
            L.ELU(0.5),
            L.PReLU(alpha_initializer="uniform"),
            L.Softmax(),
            L.Activation("tanh"),
        ]
    )


@model
def cnn() -> Any:
    return Sequential(
        [
            Input((8, 8, 2)),
            L.Conv2D(
                3,
                3,
                padding="same",
                activation="tanh",
                kernel_initializer=I.VarianceScaling(2.0, "fan_out", "truncated_normal"),
            ),
            L.BatchNormalization(),
            L.MaxPooling2D(),
            L.Conv2D(4, (2, 3), strides=2, dilation_rate=1),
            L.AveragePooling2D(2, strides=1, padding="same"),
            L.Flatten(),
            L.Dense(2),
        ]
    )


@model
def mobile() -> Any:
    i = Input((9, 9, 3))
    x = L.Rescaling([0.5, 1.0, 2.0], offset=-1.0)(i)
    x = L.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = L.Conv2D(4, 3, strides=2, use_bias=False)(x)
    x = L.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    x = L.ReLU(6.0)(x)
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = L.BatchNormalization()(y)
    y = L.Activation("relu6")(y)
    y = L.Conv2D(4, 1, use_bias=False)(y)
    x = L.Add()([x, y])
    x = L.SeparableConv2D(5, 3, padding="same", depth_multiplier=2)(x)
    x = L.GlobalAveragePooling2D(keepdims=True)(x)
    x = L.Reshape((5,))(x)
    return Model(i, L.Dense(2, activation="sigmoid")(x))


@model
def residual() -> Any:
    i = Input((6, 6, 2))
    x = L.Conv2D(2, 3, padding="same")(i)
    y = L.BatchNormalization()(x)
    z = x + y * 2.0 - 1.0
    z = ops.relu(z) / 3.0
    z = L.Concatenate()([z, i])
    z = L.GlobalMaxPooling2D()(z)
    return Model(i, L.Dense(1)(z))


@model
def autoencoder() -> Any:
    i = Input((8, 8, 1))
    x = L.Conv2D(4, 3, strides=2, padding="same", activation="elu")(i)
    x = L.GroupNormalization(2)(x)
    x = L.Conv2DTranspose(3, 3, strides=2, padding="same")(x)
    x = L.UpSampling2D(2, interpolation="bilinear")(x)
    x = L.Cropping2D(((1, 2), (3, 1)))(x)
    return Model(i, L.Conv2D(1, 2, activation="sigmoid")(x))


@model
def unet1d() -> Any:
    i = Input((12, 3))
    a = L.Conv1D(4, 3, padding="causal", activation="relu")(i)
    b = L.MaxPooling1D(2)(a)
    b = L.SeparableConv1D(4, 3, padding="same")(b)
    b = L.UpSampling1D(2)(b)
    c = L.Concatenate(axis=-1)([a, b])
    c = L.DepthwiseConv1D(2, padding="same")(c)
    c = L.ZeroPadding1D((1, 2))(c)
    c = L.Cropping1D(1)(c)
    c = L.Conv1DTranspose(2, 3, strides=2)(c)
    return Model(i, L.AveragePooling1D(2)(c))


@model
def volume() -> Any:
    return Sequential(
        [
            Input((5, 6, 5, 2)),
            L.Conv3D(3, 2, activation="tanh"),
            L.MaxPooling3D(2, padding="same"),
            L.ZeroPadding3D(1),
            L.Cropping3D(((1, 0), (0, 1), (0, 0))),
            L.Conv3DTranspose(2, 2, strides=2, padding="same"),
            L.UpSampling3D(1),
            L.AveragePooling3D(2),
            L.SpatialDropout3D(0.1),
            L.GlobalAveragePooling3D(),
            L.Dense(2),
        ]
    )


@model
def words_lstm() -> Any:
    return Sequential(
        [
            Input((5,), dtype="int32"),
            L.Embedding(7, 4, embeddings_regularizer="l2"),
            L.LSTM(3, return_sequences=True, recurrent_regularizer=R.L1L2(0.01, 0.02)),
            L.LSTM(4),
            L.Dense(2, activation="softmax"),
        ]
    )


@model
def gru_rnn() -> Any:
    return Sequential(
        [
            Input((5, 3)),
            L.GRU(3, return_sequences=True),
            L.GRU(3, reset_after=False, return_sequences=True, go_backwards=True),
            L.SimpleRNN(4, activation="relu", return_sequences=True),
            L.RNN(L.GRUCell(3)),
        ]
    )


@model
def bidirectional() -> Any:
    return Sequential(
        [
            Input((5, 3)),
            L.Bidirectional(L.LSTM(3, return_sequences=True)),
            L.Bidirectional(L.GRU(2, return_sequences=True), merge_mode="ave"),
            L.TimeDistributed(L.Dense(4, activation="gelu")),
            L.Bidirectional(L.SimpleRNN(2), merge_mode="mul"),
        ]
    )


@model
def transformer() -> Any:
    i = Input((4, 6))
    x = L.MultiHeadAttention(2, 3, dropout=NEVER)(i, i, use_causal_mask=True)
    x = L.LayerNormalization(epsilon=1e-6)(x + i)
    y = L.Dense(8, activation="gelu")(x)
    y = L.Dense(6)(y)
    z = L.LayerNormalization()(L.Add()([x, y]))
    return Model(i, L.Dense(2)(L.GlobalAveragePooling1D()(z)))


@model
def cross_attention() -> Any:
    a = Input((3, 4), name="a")
    b = Input((5, 6), name="b")
    x = L.MultiHeadAttention(2, 3, value_dim=2, output_shape=5, dropout=NEVER)(query=a, value=b)
    y = L.Attention(use_scale=True)([x, L.Dense(5)(b)])
    z = L.AdditiveAttention()([y, x])
    return Model([a, b], L.Flatten()(z))


@model
def siamese() -> Any:
    a = Input((4,), name="left")
    b = Input((4,), name="right")
    enc = Sequential([Input((4,)), L.Dense(3, activation="tanh", kernel_regularizer="l2"), L.Dense(2)], name="encoder")
    x, y = enc(a), enc(b)
    s = L.Dense(3, name="again")
    d = L.Dot(axes=1, normalize=True)([x, y])
    return Model([a, b], [L.Concatenate()([d, L.Subtract()([s(x), s(y)])]), L.Maximum()([x, y])])


@model
def nested() -> Any:
    i = Input((4,))
    inner_in = Input((4,))
    h = L.Dense(3, name="d")(inner_in)
    o1 = L.Dense(2)(h)
    o2 = L.Activation("relu")(h)
    inner = Model(inner_in, [o1, o2], name="inner")
    mid_in = Input((4,))
    p, q = inner(mid_in)
    mid = Model(mid_in, L.Concatenate()([p, q]), name="mid")
    u = mid(i)
    v = mid(L.Dense(4)(i))
    w = L.Dense(2)(u)
    return Model(i, [u, v, w])


@model
def seq2seq() -> Any:
    s = Input((4, 3), name="source")
    t = Input((3, 3), name="target")
    g = L.GRU(4)(s)
    h = L.Dense(4)(g)
    d = L.LSTM(4, return_sequences=True)(t, initial_state=[g, h])
    return Model([s, t], L.TimeDistributed(L.Dense(2, activation="softmax"))(d))


@model
def normalizations() -> Any:
    i = Input((4, 6))
    x = L.LayerNormalization(axis=[1, 2])(i)
    x = L.BatchNormalization(axis=1, scale=False)(x)
    x = L.RMSNormalization()(x)
    x = L.UnitNormalization(axis=1)(x)
    x = L.LayerNormalization(center=False, scale=False)(x)
    x = L.Permute((2, 1))(x)
    return Model(i, L.Minimum()([L.GlobalMaxPooling1D()(x), L.GlobalAveragePooling1D()(x)]))


@model
def multi() -> Any:
    a = Input((3,), name="numbers")
    b = Input((4,), dtype="int32", name="words")
    e = L.Embedding(9, 3)(b)
    e = L.Flatten()(e)
    x = L.Concatenate()([a, e])
    x = L.Dense(5, activation="relu")(x)
    x = L.RepeatVector(3)(x)
    y = L.SimpleRNN(3)(x)
    z = L.Multiply()([y, a])
    return Model(
        {"numbers": a, "words": b},
        {"kind": L.Dense(3, activation="softmax", name="kind")(y), "value": L.Dense(1, name="value")(z)},
    )


@model
def noises() -> Any:
    return Sequential(
        [
            Input((4,)),
            L.GaussianNoise(0.1),
            L.Dense(3, activation="selu", kernel_initializer="lecun_normal"),
            L.AlphaDropout(0.1),
            L.GaussianDropout(0.2),
            L.Identity(),
            L.Dense(2, kernel_initializer=I.Orthogonal(0.5)),
        ]
    )


@model
def channels_td() -> Any:
    return Sequential(
        [
            Input((3, 4, 4, 1)),
            L.TimeDistributed(L.Conv2D(2, 2, activation="relu")),
            L.TimeDistributed(L.Flatten()),
            L.LSTM(2),
        ]
    )


@model
def frozen_base() -> Any:
    base = Sequential(
        [Input((6, 6, 2)), L.Conv2D(3, 2), L.BatchNormalization(), L.Dropout(0.3), L.GlobalAveragePooling2D()],
        name="base",
    )
    base.trainable = False
    i = Input((6, 6, 2))
    x = base(i, training=False)
    return Model(i, L.Dense(2)(x))


@model
def adapted() -> Any:
    n = L.Normalization()
    n.adapt(np.random.default_rng(0).standard_normal((50, 3)) * 3 + 1)
    return Sequential([Input((3,)), n, L.Normalization(mean=[0.5, 1, 2.0], variance=[1.0, 4, 9]), L.Dense(2)])


def is_adapted(variable: Any) -> bool:
    """Return whether a variable belongs to a layer Normalization, whose statistics apply from their creation on."""
    return "normalization" in variable.path.split("/")[-2] and variable.name in ("mean", "variance", "count")


def fill(made: Any, rng: np.random.Generator) -> None:
    """Fill the variables of a model with random values, except those of an adapted Normalization."""
    for variable in made.variables:
        if "seed" not in variable.name and not is_adapted(variable):
            values = np.round(rng.standard_normal(variable.shape) * 32.0) / 64.0
            variable.assign(np.abs(values) + 0.5 if "variance" in variable.name else values)


def owned(made: Any, network: Any, values: dict[int, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the arrays by layer and parameter name of this service, found by walking the layers of Keras."""
    tree: dict[str, dict[str, Any]] = {}
    for layer, place in zip(network.network["layers"], network.places, strict=True):
        for array in stored(place.entry) if place.first else ():
            holder = made
            for part in place.parts:
                holder = next(each for each in holder.layers if each.name == part)
            for part in array.parts:
                holder = getattr(holder, f"_{part}" if part.endswith("_dense") else part)
            own = [v for v in holder._trainable_variables + holder._non_trainable_variables if "seed" not in v.name]
            variable = own[array.position]
            if id(variable) in values:
                tree.setdefault(layer["name"], {})[array.parameter] = values[id(variable)].tolist()
    return tree


def record(name: str) -> dict[str, Any]:
    """Return the record of the model with this name."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    made, rng = MODELS[name](), np.random.default_rng([5, list(MODELS).index(name)])
    fill(made, rng)
    if name in FILES:
        made.save(TARGET / f"{name}.keras")
        made.save(TARGET / f"{name}.h5")
        made.save_weights(TARGET / f"{name}.weights.h5")
    text = made.to_json()
    network = read(text)
    inputs = []
    for tensor in made.inputs:
        shape = (3, *(length or 4 for length in tensor.shape[1:]))
        whole = "int" in tensor.dtype
        inputs.append(rng.integers(0, 7, shape) if whole else np.round(rng.standard_normal(shape) * 32.0) / 32.0)
    struct = getattr(made, "_inputs_struct", None)
    given = dict(zip(sorted(struct), inputs, strict=True)) if isinstance(struct, dict) else inputs
    given = given[0] if isinstance(given, list) and len(given) == 1 else given
    targets = [np.round(rng.standard_normal(np.shape(y)) * 4.0) / 4.0 for y in keras.tree.flatten(made(given))]
    names = network.network.get("inputs", ["input"])
    recorded = {
        "title": name,
        "document": json.loads(text),
        "parameters": owned(made, network, {id(v): np.asarray(v.value) for v in made.variables}),
        "inputs": {name: x.tolist() for name, x in zip(names, inputs, strict=True)},
        "targets": {name: t.tolist() for name, t in zip(network.network["outputs"], targets, strict=True)},
    }
    for training in (False, True):
        if not training or not any(isinstance(each, RANDOM) for each in made._flatten_layers()):
            recorded["training" if training else "inference"] = run(made, network, given, targets, training)
    return recorded


def run(made: Any, network: Any, given: Any, targets: list[np.ndarray], training: bool) -> dict[str, Any]:
    """Return the loss, outputs and gradients of a model, and its new averages in training."""
    trained, others = list(made.trainable_variables), list(made.non_trainable_variables)

    def loss_of(values: list[Any]) -> Any:
        outputs, state, penalties = made.stateless_call(
            values, [v.value for v in others], given, training=training, return_losses=True
        )
        flat = keras.tree.flatten(outputs)
        return sum(jnp.mean((y - t) ** 2) for y, t in zip(flat, targets, strict=True)) + sum(penalties), (flat, state)

    (loss, (outputs, state)), gradients = jax.value_and_grad(loss_of, has_aux=True)([v.value for v in trained])
    new = {id(v): np.asarray(x) for v, x in zip(others, state, strict=True) if "moving" in v.name}
    return {
        "loss": float(loss),
        "outputs": [np.asarray(y).tolist() for y in outputs],
        "gradients": owned(made, network, {id(v): np.asarray(g) for v, g in zip(trained, gradients, strict=True)}),
        "state": owned(made, network, new) if training else {},
    }


def main() -> None:
    keras.backend.set_floatx("float64")
    keras.src.backend.common.dtypes.BIT64_TO_BIT32_DTYPE.clear()
    records = [record(name) for name in MODELS]
    text = json.dumps({"keras": keras.__version__, "models": records}, separators=(",", ":")) + "\n"
    (TARGET / "models.json").write_text(text)
    print(f"models.json: {len(records)} models, {len(text):,} bytes")
    assert len(text) < LARGEST_FILE


if __name__ == "__main__":
    main()
