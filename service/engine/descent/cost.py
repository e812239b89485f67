"""The costs of descents, estimated before they start: floating-point operations, calls of NumPy, bytes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from service.engine.compiling import Compiler
from service.engine.descent.loop import Descent, Recipe
from service.engine.descent.objective import BatchObjective, hessian_of
from service.engine.descent.training_plan import Plan
from service.engine.errors import LimitExceeded, Path
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.plan import Program
from service.engine.network.derivatives import Derivation

RULE_OPERATIONS = 20
"""Floating-point operations of a rule for each parameter, roughly."""
RULE_CALLS = 20
"""Calls of NumPy of a rule in each step, beside those of the program."""
STATE_ROWS = 6
"""Vectors of the parameters' length that an optimizer keeps and works with, at most."""
MOST_SECOND_ORDER = 500
"""Trained parameters up to which whole Hessians are computed at each step."""
SCALARS = 6
"""Numbers of a recorded step beside its trees."""

Admit = Callable[[Program, float, float, int], None]
"""`admit(program, work, calls, steps)` is called before a descent takes memory, with its program, the floating-point
operations of all its steps, the calls of NumPy in each step, and the number of steps. It may wait, or raise."""


def no_need(program: Program, work: float, calls: float, steps: int) -> None:
    """Admit a descent at once: the default `admit` of callers who limit nothing."""


class TrainingCost:
    """Estimates of the cost of one training: operations, bytes, and numbers in its trace. All recipes that
    `TrainingCost` is asked about train the same network for the same number of steps."""

    def __init__(
        self,
        compile: Compiler,  # noqa: A002 (the verb fits)
        objective: BatchObjective,
        steps: int,
    ) -> None:
        self.objective, self.steps = objective, steps
        self._compile = compile

    def work(self, recipe: Recipe, path: Path = ("optimizer",)) -> float:
        """Return the floating-point operations of the whole training: a rough upper bound. Raises `LimitExceeded` where
        the optimizer, at `path` in the request, is not made for so many parameters."""
        objective, declaration = self.objective, recipe.optimizer.declaration
        size = objective.vector.trained_size
        step: float = objective.work * declaration.most_evaluations(**recipe.own_options) + RULE_OPERATIONS * size
        if declaration.second_order:
            if size > MOST_SECOND_ORDER:
                raise LimitExceeded(f"parameters for {declaration.name}", size, MOST_SECOND_ORDER, path)
            step += self._hessian().work + 10 * size**3
        epochs = math.ceil(self.steps / objective.steps_per_epoch)
        return step * self.steps + objective.validation_work * epochs + objective.total_work

    def memory(self, recipe: Recipe) -> int:
        """Return roughly how many bytes a training takes: its programs, and the state of its optimizer."""
        parameters = self.objective.parameters
        nbytes = self.objective.nbytes + (STATE_ROWS + self._history_rows(recipe)) * parameters.nbytes
        if recipe.optimizer.declaration.second_order and parameters.size <= MOST_SECOND_ORDER:
            nbytes += self._hessian().program.nbytes + 4 * parameters.size * parameters.nbytes
        return nbytes

    def trace_elements(self, descent: Descent, plan: Plan) -> int:
        """Return the number of numbers that the whole trace holds, which the limits bound."""
        objective, trained, include = self.objective, self.objective.parameters.size, plan.include
        remembered = (*vars(descent.state).values(), *without_float_warnings(descent.shown).values())
        state = sum(value.size for value in remembered if isinstance(value, np.ndarray))
        state += self._history_rows(descent.recipe) * trained
        each = SCALARS
        each += trained * len(include & {"gradients", "updates", "effective_learning_rate"})
        each += objective.flat.size if "parameters" in include else 0
        each += state if "state" in include else 0
        each += max(objective.batches.sizes) if "batch" in include else 0
        elements = each * (math.ceil(self.steps / plan.every) + 1)
        if plan.checkpoint_every is None:
            return elements
        checkpoint = SCALARS + objective.flat.size + state
        return elements + (each + checkpoint) * (self.steps // plan.checkpoint_every + 1)

    def _hessian(self) -> Derivation:
        return self._compile(hessian_of(self.objective.largest))

    def _history_rows(self, recipe: Recipe) -> int:
        """Return the most rows that all histories of the optimizer's state hold together, as in L-BFGS."""
        declaration = recipe.optimizer.declaration
        return len(declaration.histories) * min(declaration.most_rows(**recipe.own_options), self.steps)


def admission(admit: Admit, recipe: Recipe, steps: int) -> Callable[[BatchObjective], None]:
    """Return a function of an objective that calls `admit` with the cost of `steps` steps on this objective."""
    evaluations = recipe.optimizer.declaration.most_evaluations(**recipe.own_options)

    def admit_training(objective: BatchObjective) -> None:
        work = objective.work * evaluations * steps + objective.total_work
        admit(objective.program, work, objective.calls * evaluations + RULE_CALLS, steps)

    return admit_training
