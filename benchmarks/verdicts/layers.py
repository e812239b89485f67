"""Layers as a student writes them in NumPy: a forward and a backward pass, with the wrong lines that people write.

Samples are axis 0. `forward` keeps what `backward` needs. `backward` takes dL/d(output), fills `gradients` and returns
dL/d(input). After `if wrong("…")` stands the line that makes this mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.verdicts.slips import Wrong

Array = npt.NDArray[Any]
LEARNING_RATES = (0.1, 0.01, 0.5)


def sigmoid(z: Array) -> Array:
    power = np.exp(-np.abs(z))
    return np.where(z >= 0.0, 1.0 / (1.0 + power), power / (1.0 + power))


def softmax(z: Array) -> Array:
    powers = np.exp(z - z.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda z: z,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0.0),
    "softmax": softmax,
}
SLOPE_OF_OUTPUT: dict[str, Callable[[Array], Array]] = {
    "linear": np.ones_like,
    "sigmoid": lambda a: a * (1.0 - a),
    "tanh": lambda a: 1.0 - a * a,
    "relu": lambda a: (a > 0.0).astype(a.dtype),
}
"""f' written with a = f(z), as most people write it."""
SLOPE: dict[str, Callable[[Array], Array]] = {
    "linear": np.ones_like,
    "sigmoid": lambda z: SLOPE_OF_OUTPUT["sigmoid"](sigmoid(z)),
    "tanh": lambda z: SLOPE_OF_OUTPUT["tanh"](np.tanh(z)),
    "relu": SLOPE_OF_OUTPUT["relu"],
}
"""f' as a function of z."""


class Layer:
    """The base of all layers. `owner` names the layer whose parameters it uses: its own, or those it shares."""

    def __init__(self, name: str, shares: str | None = None, l1: float = 0.0, l2: float = 0.0) -> None:
        self.name, self.owner = name, shares or name
        self.l1, self.l2 = l1, l2
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self.before: Layer | None = None
        self.after: Layer | None = None
        self.activation = "linear"
        self.fused = False  # the loss gives dL/dz, not dL/da
        self.z = self.a = np.zeros(0)

    def shapes(self, sample: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter, given the shape of one sample."""
        return {}

    def forward(self, x: Array) -> Array:
        raise NotImplementedError

    def backward(self, da: Array, wrong: Wrong) -> Array:
        raise NotImplementedError

    def activate(self, z: Array) -> Array:
        self.z, self.a = z, FUNCTIONS[self.activation](z)
        return self.a

    def delta(self, da: Array, wrong: Wrong) -> Array:
        """Return dL/dz, given dL/da, with the mistake that `wrong` switches on, if any."""
        if self.fused or self.activation == "linear":
            return da
        if wrong("derivative_omitted"):
            return da
        if wrong("derivative_at_output"):  # sigmoid_prime(a), where sigmoid_prime applies the sigmoid itself
            return da * SLOPE[self.activation](self.a)
        if wrong("derivative_of_output_at_z"):  # z * (1 - z)
            return da * SLOPE_OF_OUTPUT[self.activation](self.z)
        for side, other in (("before", self.before), ("after", self.after)):
            if other is not None and other.z.shape == self.z.shape and other.activation in SLOPE:
                if wrong(f"derivative_at_layer_{side}"):  # zs[l - 1] for zs[l]
                    return da * SLOPE[self.activation](other.z)
                if wrong(f"derivative_of_layer_{side}"):
                    return da * SLOPE[other.activation](other.z)
        if self.activation != "sigmoid" and wrong("derivative_of_sigmoid"):
            return da * SLOPE["sigmoid"](self.z)
        return da * SLOPE_OF_OUTPUT[self.activation](self.a)

    def own_bias(self, delta: Array, wrong: Wrong) -> Array:
        rows = delta.reshape(-1, delta.shape[-1])
        if wrong("bias_not_summed"):
            return delta
        if wrong("bias_of_first_sample"):
            return delta[0].reshape(-1, delta.shape[-1]).sum(0)
        if wrong("bias_averaged"):
            return rows.sum(0) / len(delta)
        if rows.shape[0] != len(delta) and wrong("bias_averaged_over_positions"):
            return rows.mean(0)
        if wrong("bias_summed_over_all"):
            return np.full(rows.shape[1:], rows.sum())
        return rows.sum(0)

    def below(self, da: Array, delta: Array, wrong: Wrong) -> tuple[Array, Array]:
        """Return the delta for the layer's own gradients, and the one to pass on to its input.

        They are equal unless a mistake leaves the ReLU's mask out of one of them.
        """
        if self.activation == "relu":
            if wrong("mask_after_own_gradients"):
                return da, delta
            if wrong("mask_forgotten_below"):
                return delta, da
        return delta, delta

    def updated(self, name: str, wrong: Wrong) -> Array:
        for rate in LEARNING_RATES:
            if wrong(f"updated_weights_{rate}"):
                return self.parameters[name] - np.asarray(rate, self.a.dtype) * self.gradients[name]
        return self.parameters[name]


class Dense(Layer):
    """z = x W + b, a = f(z), on the last axis."""

    def __init__(self, name: str, units: int, activation: str = "linear", **more: Any) -> None:
        super().__init__(name, **more)
        self.units, self.activation = units, activation

    def shapes(self, sample: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"kernel": (sample[-1], self.units), "bias": (self.units,)}

    def forward(self, x: Array) -> Array:
        self.x = x
        return self.activate(x @ self.parameters["kernel"] + self.parameters["bias"])

    def backward(self, da: Array, wrong: Wrong) -> Array:
        own, passed = self.below(da, self.delta(da, wrong), wrong)
        x = np.roll(self.x, 1, 0) if wrong("inputs_of_sample_before") else self.x
        self.gradients["kernel"] = x.reshape(-1, x.shape[-1]).T @ own.reshape(-1, self.units)
        self.gradients["bias"] = self.own_bias(own, wrong)
        return passed @ self.updated("kernel", wrong).T


class Convolution(Layer):
    """A convolution of stride 1 over one or two axes, channels last; the padding `same` adds zeros."""

    def __init__(self, name: str, filters: int, window: tuple[int, ...], padding: str, activation: str) -> None:
        super().__init__(name)
        self.filters, self.window, self.padding, self.activation = filters, window, padding, activation

    def shapes(self, sample: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"kernel": (*self.window, sample[-1], self.filters), "bias": (self.filters,)}

    def inside(self, offset: tuple[int, ...], lengths: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the slice of the padded input that the window's element at `offset` is multiplied with."""
        return (slice(None), *(slice(start, start + length) for start, length in zip(offset, lengths, strict=True)))

    def forward(self, x: Array) -> Array:
        self.low = tuple((size - 1) // 2 if self.padding == "same" else 0 for size in self.window)
        high = tuple(
            size - 1 - low if self.padding == "same" else 0 for size, low in zip(self.window, self.low, strict=True)
        )
        self.x = x
        self.padded = np.pad(x, ((0, 0), *zip(self.low, high, strict=True), (0, 0)))
        self.lengths = tuple(n - size + 1 for n, size in zip(self.padded.shape[1:-1], self.window, strict=True))
        z = np.zeros((len(x), *self.lengths, self.filters), x.dtype) + self.parameters["bias"]
        for offset in np.ndindex(*self.window):
            z = z + self.padded[self.inside(offset, self.lengths)] @ self.parameters["kernel"][offset]
        return self.activate(z)

    def backward(self, da: Array, wrong: Wrong) -> Array:
        own, passed = self.below(da, self.delta(da, wrong), wrong)
        padded = self.padding == "same" and max(self.window) > 1
        inside_only = padded and wrong("padding_lost_in_kernel")
        own_windows = self.without_rim(own) if inside_only else own
        self.gradients["kernel"] = np.zeros_like(self.parameters["kernel"])
        for offset in np.ndindex(*self.window):
            seen = self.padded[self.inside(offset, self.lengths)]
            self.gradients["kernel"][offset] = seen.reshape(-1, seen.shape[-1]).T @ own_windows.reshape(
                -1, self.filters
            )
        self.gradients["bias"] = self.own_bias(own, wrong)
        kernel = self.updated("kernel", wrong)
        if wrong("kernel_not_flipped"):
            kernel = np.flip(kernel, tuple(range(len(self.window))))
        spread = np.zeros_like(self.padded)
        for offset in np.ndindex(*self.window):
            spread[self.inside(offset, self.lengths)] += passed @ kernel[offset].T
        start = (0,) * len(self.low) if padded and wrong("padding_cropped_at_end") else self.low
        dx = spread[self.inside(start, self.x.shape[1:-1])]
        return self.without_rim(dx) if padded and wrong("padding_lost_below") else dx

    def without_rim(self, x: Array) -> Array:
        inner = np.zeros_like(x)
        place = (
            slice(None),
            *(
                slice(low, n - (size - 1 - low))
                for low, size, n in zip(self.low, self.window, x.shape[1:-1], strict=True)
            ),
        )
        inner[place] = x[place]
        return inner


class MaxPooling2D(Layer):
    """Max pooling over blocks of 2 x 2."""

    def forward(self, x: Array) -> Array:
        n, height, width, channels = x.shape
        blocks = x.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
        self.blocks = blocks.reshape(n, height // 2, width // 2, channels, 4)
        self.shape = x.shape
        self.z = self.a = self.blocks.max(-1)
        return self.a

    def backward(self, da: Array, wrong: Wrong) -> Array:
        chosen = np.arange(4) == self.blocks.argmax(-1)[..., None]
        n, height, width, channels = self.shape
        spread = (da[..., None] * chosen).reshape(n, height // 2, width // 2, channels, 2, 2)
        return spread.transpose(0, 1, 4, 2, 5, 3).reshape(self.shape)


class GlobalAveragePooling1D(Layer):
    """The mean over the steps of a sequence."""

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        self.z = self.a = x.mean(1)
        return self.a

    def backward(self, da: Array, wrong: Wrong) -> Array:
        return np.broadcast_to(da[:, None] / self.shape[1], self.shape)


class Flatten(Layer):
    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        self.z = self.a = x.reshape(len(x), -1)
        return self.a

    def backward(self, da: Array, wrong: Wrong) -> Array:
        return da.reshape(self.shape)


class Dropout(Layer):
    """Multiplication by a given mask, which holds 0 and 1 / (1 - rate)."""

    mask: Array = np.ones(1)

    def forward(self, x: Array) -> Array:
        self.z, self.a = x, x * self.mask.astype(x.dtype)
        return self.a

    def backward(self, da: Array, wrong: Wrong) -> Array:
        mask = self.mask.astype(da.dtype)
        if wrong("dropout_forgotten"):
            return da
        if wrong("dropout_twice"):
            return da * mask * mask
        if wrong("dropout_not_scaled"):
            return da * (mask > 0.0)
        return da * mask


class Normalization(Layer):
    """Batch normalization in training (`axis` 0) or layer normalization (`axis` -1), with gamma and beta."""

    epsilon = 1e-3

    def __init__(self, name: str, axis: int) -> None:
        super().__init__(name)
        self.axis = axis

    def shapes(self, sample: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"gamma": sample[-1:], "beta": sample[-1:]}

    def forward(self, x: Array) -> Array:
        centred = x - x.mean(self.axis, keepdims=True)
        self.deviation = np.sqrt((centred * centred).mean(self.axis, keepdims=True) + np.asarray(self.epsilon, x.dtype))
        self.normal = centred / self.deviation
        self.z = self.a = self.normal * self.parameters["gamma"] + self.parameters["beta"]
        return self.a

    def backward(self, da: Array, wrong: Wrong) -> Array:
        self.gradients["gamma"] = (da * self.normal).reshape(-1, da.shape[-1]).sum(0)
        self.gradients["beta"] = self.own_bias(da, wrong)
        dn = da * self.parameters["gamma"]
        if wrong("statistics_constant"):
            return dn / self.deviation
        of_mean = dn.mean(self.axis, keepdims=True)
        of_variance = self.normal * (dn * self.normal).mean(self.axis, keepdims=True)
        if wrong("mean_constant"):
            return (dn - of_variance) / self.deviation
        if wrong("variance_constant"):
            return (dn - of_mean) / self.deviation
        return (dn - of_mean - of_variance) / self.deviation
