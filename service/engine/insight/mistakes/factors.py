"""The mistakes that multiply the gradient, or a part of it, by a number."""

from __future__ import annotations

from collections.abc import Iterator

from service.engine.insight.mistakes.declaration import Counts, declare


@declare("mean_forgotten", "factor", wrong="dW = X.T @ delta", right="dW = X.T @ delta / len(X)")
def mean_forgotten(counts: Counts) -> Iterator[float]:
    if counts.reduction == "mean":
        yield float(counts.samples)


@declare(
    "mean_doubled",
    "factor",
    wrong="delta = (a - t) / N; dW = X.T @ delta / N",
    right="delta = (a - t) / N; dW = X.T @ delta",
)
def mean_doubled(counts: Counts) -> Iterator[float]:
    if counts.reduction == "mean":
        yield 1.0 / counts.samples


@declare("mean_instead_of_sum", "factor", wrong="dW = X.T @ delta / N", right="dW = X.T @ delta")
def mean_instead_of_sum(counts: Counts) -> Iterator[float]:
    if counts.reduction != "mean":
        yield 1.0 / counts.samples


@declare("mean_over_wrong_count", "factor", wrong="delta = (a - t) / a.size", right="delta = (a - t) / len(a)")
def mean_over_wrong_count(counts: Counts) -> Iterator[float]:
    samples, outputs = float(counts.samples), float(counts.outputs)
    if outputs > 1.0:
        if counts.averages:
            yield outputs  # the mean over the outputs is missing
        else:
            yield 1.0 / outputs  # over samples and outputs
        if counts.reduction == "mean":
            yield samples / outputs  # over the outputs in place of the samples
            yield samples * outputs if counts.averages else 1.0 / (samples * outputs)
        else:
            yield 1.0 / (samples * outputs)
        yield 1.0 / outputs  # once more than the loss does, if it does
    if counts.reduction == "mean" and samples > 1.0:
        yield samples / (samples - 1.0)
        yield samples / (samples + 1.0)


@declare("sign", "factor", wrong="delta = t - a", right="delta = a - t")
def sign(counts: Counts) -> Iterator[float]:
    yield -1.0


@declare("factor_two", "factor", wrong="delta = 2 * (a - t)  # of a loss with the factor 1/2", right="delta = a - t")
def factor_two(counts: Counts) -> Iterator[float]:
    yield 2.0


@declare(
    "factor_half", "factor", wrong="delta = a - t  # of a loss without the factor 1/2", right="delta = 2 * (a - t)"
)
def factor_half(counts: Counts) -> Iterator[float]:
    yield 0.5


@declare("update_instead_of_gradient", "factor", wrong="dW = learning_rate * X.T @ delta", right="dW = X.T @ delta")
def update_instead_of_gradient(counts: Counts) -> Iterator[float]:
    if counts.learning_rate is not None:
        yield counts.learning_rate
        yield -counts.learning_rate
