"""Networks to check and to show: everything that the registries hold, in few words."""

from typing import Any

import numpy as np

from service.engine.insight.checked import Checked, CheckOptions, NetworkCheck
from service.engine.network.feed import Feed
from tests.engine.network.building import ROOMY, as_arrays, by_input, by_output, compiled, run, task_for


def targets_of(example, training=False):
    """Draw random targets for a layer's example."""
    inputs = example.inputs(0)
    outputs = run(compiled(example.definition, inputs, training=training), inputs).outputs["it"]
    return np.random.default_rng(1).standard_normal(outputs.shape)


def checked(
    definition,
    inputs,
    targets,
    loss: Any = "half_squared_error",
    parameters=None,
    dtype="float64",
    training=False,
    claimed=None,
    steps=(1e-2, 1e-3),
) -> Checked:
    """Check a network's gradients, or a claim if there is one."""

    def narrow(arrays):
        return {name: x.astype(dtype) if x.dtype.kind == "f" else x for name, x in arrays.items()}

    inputs, targets = narrow(by_input(definition, inputs)), narrow(by_output(definition, targets))
    (only,) = targets.values()
    check = NetworkCheck(task_for(definition, inputs, loss, only, dtype=dtype, training=training), ROOMY)
    feed = Feed(inputs, None if parameters is None else as_arrays(parameters, dtype), targets)
    return check.run(feed, CheckOptions(claimed, steps=steps))


def tree(report, change=lambda path, array: array):
    """Return the gradient of a report as a tree, each array changed."""
    found: dict[str, dict[str, Any]] = {}
    for path, array in report.parts().items():
        found.setdefault(path[0], {})[path[1]] = change(path, array)
    return found
