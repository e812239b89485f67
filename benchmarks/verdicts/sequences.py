"""Recurrent layers and attention as a student writes them: a loop over the steps, one formula a line."""

from __future__ import annotations

import numpy as np

from benchmarks.verdicts.layers import SLOPE, SLOPE_OF_OUTPUT, Array, Layer, sigmoid, softmax
from benchmarks.verdicts.slips import Wrong


class SimpleRNN(Layer):
    """h_t = tanh(x_t W + h_{t-1} U + b); the output is the last h, or all of them with `sequences`."""

    def __init__(self, name: str, units: int, sequences: bool = False) -> None:
        super().__init__(name)
        self.units, self.sequences = units, sequences

    def shapes(self, sample: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"kernel": (sample[-1], self.units), "recurrent_kernel": (self.units,) * 2, "bias": (self.units,)}

    def forward(self, x: Array) -> Array:
        self.x = x
        self.h = [np.zeros((len(x), self.units), x.dtype)]
        self.zs = []
        w, u, b = (self.parameters[name] for name in ("kernel", "recurrent_kernel", "bias"))
        for t in range(x.shape[1]):
            self.zs.append(x[:, t] @ w + self.h[-1] @ u + b)
            self.h.append(np.tanh(self.zs[-1]))
        return np.stack(self.h[1:], 1) if self.sequences else self.h[-1]

    def backward(self, da: Array, wrong: Wrong) -> Array:
        steps = self.x.shape[1]
        w, u, b = (self.parameters[name] for name in ("kernel", "recurrent_kernel", "bias"))
        dw, du, db, dx = np.zeros_like(w), np.zeros_like(u), np.zeros_like(b), np.zeros_like(self.x)
        later = np.zeros_like(self.h[0])
        for t in reversed(range(steps)):
            dh = later + (da[:, t] if self.sequences else da * (t == steps - 1))
            slope = SLOPE_OF_OUTPUT["tanh"](self.h[t + 1])
            if wrong("derivative_omitted"):
                slope = np.ones_like(dh)
            if wrong("derivative_at_output"):
                slope = SLOPE["tanh"](self.h[t + 1])
            if wrong("derivative_of_output_at_z"):
                slope = SLOPE_OF_OUTPUT["tanh"](self.zs[t])
            delta = dh * slope
            if wrong("recurrence_overwritten"):  # = for +=
                du[...], dw[...], db[...] = 0.0, 0.0, 0.0
            dw += self.x[:, t].T @ delta
            du += self.h[t + 1 if wrong("state_of_same_step") else t].T @ delta
            db += delta.sum(0)
            dx[:, t] = delta @ w.T
            later = delta @ (u if wrong("recurrent_kernel_not_transposed") else u.T)
            if wrong("recurrence_cut"):
                later = np.zeros_like(later)
            if wrong("recurrence_cut_after_two") and t == steps - 2:
                later = np.zeros_like(later)
        self.gradients = {"kernel": dw, "recurrent_kernel": du, "bias": db}
        return dx


class LSTM(Layer):
    """Long short-term memory, with the gates in the order input, forget, candidate, output."""

    def __init__(self, name: str, units: int, sequences: bool = False) -> None:
        super().__init__(name)
        self.units, self.sequences = units, sequences

    def shapes(self, sample: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        wide = 4 * self.units
        return {"kernel": (sample[-1], wide), "recurrent_kernel": (self.units, wide), "bias": (wide,)}

    def forward(self, x: Array) -> Array:
        self.x = x
        h = c = np.zeros((len(x), self.units), x.dtype)
        self.h, self.c, self.gates = [h], [c], []
        for t in range(x.shape[1]):
            z = x[:, t] @ self.parameters["kernel"] + h @ self.parameters["recurrent_kernel"] + self.parameters["bias"]
            i, f, g, o = np.split(z, 4, 1)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c = f * c + i * g
            h = o * np.tanh(c)
            self.gates.append((i, f, g, o))
            self.h.append(h)
            self.c.append(c)
        return np.stack(self.h[1:], 1) if self.sequences else h

    def backward(self, da: Array, wrong: Wrong) -> Array:
        steps = self.x.shape[1]
        w, u, b = (self.parameters[name] for name in ("kernel", "recurrent_kernel", "bias"))
        dw, du, db, dx = np.zeros_like(w), np.zeros_like(u), np.zeros_like(b), np.zeros_like(self.x)
        later_h = later_c = np.zeros_like(self.h[0])
        for t in reversed(range(steps)):
            i, f, g, o = self.gates[t]
            dh = later_h + (da[:, t] if self.sequences else da * (t == steps - 1))
            squashed = np.tanh(self.c[t + 1])
            slope = np.ones_like(squashed) if wrong("derivative_of_cell_omitted") else 1.0 - squashed * squashed
            dc = later_c + dh * o * slope
            slopes = (i * (1.0 - i), f * (1.0 - f), 1.0 - g * g, o * (1.0 - o))
            if wrong("derivative_of_gates_omitted"):
                slopes = (np.ones_like(i),) * 2 + slopes[2:3] + (np.ones_like(i),)
            inner = (dc * g, dc * self.c[t], dc * i, dh * squashed)
            delta = np.concatenate([d * s for d, s in zip(inner, slopes, strict=True)], 1)
            dw += self.x[:, t].T @ delta
            du += self.h[t].T @ delta
            db += delta.sum(0)
            dx[:, t] = delta @ w.T
            later_h, later_c = delta @ u.T, dc * f
            if wrong("recurrence_cut"):
                later_h, later_c = np.zeros_like(dh), np.zeros_like(dh)
            if wrong("recurrence_cut_through_cell"):
                later_c = np.zeros_like(dh)
            if wrong("recurrence_cut_through_output"):
                later_h = np.zeros_like(dh)
        self.gradients = {"kernel": dw, "recurrent_kernel": du, "bias": db}
        return dx


class SelfAttention(Layer):
    """Multi-head attention of a sequence to itself."""

    def __init__(self, name: str, heads: int, size: int) -> None:
        super().__init__(name)
        self.heads, self.size = heads, size

    def shapes(self, sample: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        inner = (self.heads, self.size)
        found: dict[str, tuple[int, ...]] = {}
        for name in ("query", "key", "value"):
            found |= {f"{name}_kernel": (sample[-1], *inner), f"{name}_bias": inner}
        return found | {"attention_output_kernel": (*inner, sample[-1]), "attention_output_bias": sample[-1:]}

    def forward(self, x: Array) -> Array:
        own = self.parameters
        self.x = x
        self.q, self.k, self.v = (
            np.einsum("ntf,fhd->nhtd", x, own[f"{name}_kernel"]) + own[f"{name}_bias"][:, None]
            for name in ("query", "key", "value")
        )
        self.scale = np.asarray(1.0 / np.sqrt(self.size), x.dtype)
        self.shares = softmax(self.scale * np.einsum("nhtd,nhsd->nhts", self.q, self.k))
        self.mixed = np.einsum("nhts,nhsd->nhtd", self.shares, self.v)
        output = np.einsum("nhtd,hdf->ntf", self.mixed, own["attention_output_kernel"])
        return output + own["attention_output_bias"]

    def backward(self, da: Array, wrong: Wrong) -> Array:
        own, x = self.parameters, self.x
        found = self.gradients
        found["attention_output_kernel"] = np.einsum("nhtd,ntf->hdf", self.mixed, da)
        found["attention_output_bias"] = self.own_bias(da, wrong)
        mixed = np.einsum("ntf,hdf->nhtd", da, own["attention_output_kernel"])
        dv = np.einsum("nhts,nhtd->nhsd", self.shares, mixed)
        shares = np.einsum("nhtd,nhsd->nhts", mixed, self.v)
        scores = self.shares * (shares - (shares * self.shares).sum(-1, keepdims=True))
        if wrong("softmax_diagonal"):
            scores = shares * self.shares * (1.0 - self.shares)
        if wrong("softmax_omitted"):
            scores = shares
        if not wrong("scale_forgotten"):
            scores = scores * self.scale
        dq = np.einsum("nhts,nhsd->nhtd", scores, self.k)
        dk = np.einsum("nhts,nhtd->nhsd", scores, self.q)
        if wrong("query_and_key_swapped"):
            dq, dk = dk, dq
        dx = np.zeros_like(x)
        for name, delta in (("query", dq), ("key", dk), ("value", dv)):
            found[f"{name}_kernel"] = np.einsum("ntf,nhtd->fhd", x, delta)
            found[f"{name}_bias"] = delta.sum((0, 2))
            dx += np.einsum("nhtd,fhd->ntf", delta, own[f"{name}_kernel"])
        return dx
