"""Mistakes of data: the right rules with other samples, other targets or other parameters.

Their numbers depend on unknowns, such as a learning rate or the sample that was used. The search solves for these (see
`insight/verify/data_search.py`); this module names the mistakes.
"""

from __future__ import annotations

from service.engine.insight.mistakes.arrangements import anything
from service.engine.insight.mistakes.declaration import declare
from service.engine.insight.mistakes.linear_layers import of_other_samples

declare(
    "updated_weights",
    "data",
    wrong="W2 -= rate * dW2; delta1 = (delta2 @ W2.T) * df(z1)",
    right="delta1 = (delta2 @ W2.T) * df(z1); W2 -= rate * dW2",
)(anything)
declare(
    "stale_sample",
    "data",
    wrong="for x, t in zip(X, T): delta = ...  # and dW = x * delta behind the loop",
    right="for x, t in zip(X, T): delta = ...; dW += x * delta",
    changes=of_other_samples,
)(anything)
declare("sample_left_out", "data", wrong="for n in range(len(X) - 1): ...", right="for n in range(len(X)): ...")(
    anything
)
declare("shuffled_samples", "data", wrong="X = X[order]  # and T as it was", right="X, T = X[order], T[order]")(
    anything
)
declare(
    "sample_weights_forgotten", "data", wrong="delta = (a - t) / N", right="delta = weights[:, None] * (a - t) / N"
)(anything)
declare(
    "sample_weights_doubled",
    "data",
    wrong="delta = weights[:, None] ** 2 * (a - t) / N",
    right="delta = weights[:, None] * (a - t) / N",
)(anything)
