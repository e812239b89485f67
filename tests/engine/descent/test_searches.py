"""Searches: L-BFGS compared with PyTorch's trajectories (scripts/record_pytorch_lbfgs.py), the others with formulas."""

import copy
import json
from pathlib import Path

import numpy as np

from service.engine.descent.optimizers import State, optimizers
from service.engine.float_warnings import without_float_warnings
from tests.support import every

RECORDS = json.loads((Path(__file__).parents[2] / "data" / "pytorch" / "l_bfgs.json").read_text())["records"]


class Problem:
    """A function with its gradient and Hessian, in the form that a search takes."""

    def __init__(self, function, start, hessian=None, dtype=np.float64):
        self.function = function
        self.parameters = np.array(start, dtype)
        self.gradient = np.empty_like(self.parameters)
        self.hessian_at = hessian
        self.evaluations = 0
        self.evaluate()

    def evaluate(self):
        self.evaluations += 1
        loss, gradient = self.function(self.parameters)
        self.loss = float(loss)
        self.gradient[...] = gradient
        return self.loss, self.gradient

    def hessian(self):
        return np.asarray(self.hessian_at(self.parameters), self.parameters.dtype)


class Search:
    """A search that is called as the loop calls it."""

    def __init__(self, name, problem, **options):
        selection = optimizers.select(name, **options)
        self.problem = problem
        self.build = selection.declaration.build
        self.state = State(**selection.declaration.numbers)
        self.options = dict(selection.options)
        self.learning_rate = self.options.pop("learning_rate")
        self.number = 0

    def step(self):
        self.number += 1
        return without_float_warnings(self._step)

    def _step(self):
        self.problem.evaluate()
        return self.build(self.problem, self.state, self.number, self.learning_rate, **self.options)


def rosenbrock(x):
    bend = x[1:] - x[:-1] ** 2
    gradient = np.zeros_like(x)
    gradient[1:] += 200.0 * bend
    gradient[:-1] -= 400.0 * x[:-1] * bend + 2.0 * (1.0 - x[:-1])
    return (100.0 * bend**2 + (1.0 - x[:-1]) ** 2).sum(), gradient


def turned_quadratic(size):
    mirror = np.arange(1.0, size + 1.0)
    turn = np.eye(size) - 2.0 * np.outer(mirror, mirror) / (mirror @ mirror)
    return turn @ np.diag(np.logspace(0.0, 3.0, size)) @ turn


def quadratic_of(matrix, slope):
    return lambda x: (0.5 * x @ matrix @ x + slope @ x, matrix @ x + slope)


def himmelblau(x):
    a, b = x[0] ** 2 + x[1] - 11.0, x[0] + x[1] ** 2 - 7.0
    return a * a + b * b, np.array([4.0 * x[0] * a + 2.0 * b, 2.0 * a + 4.0 * x[1] * b])


def logistic(x):
    n = np.arange(12.0)
    features = np.stack([np.ones_like(n), np.sin(n), np.cos(2.0 * n), n / 6.0 - 1.0], 1)
    signs = np.where(np.sin(n) + np.cos(3.0 * n) > 0.0, 1.0, -1.0)
    margins = signs * (features @ x)
    slopes = -signs / (1.0 + np.exp(margins))
    return np.logaddexp(0.0, -margins).mean() + 0.005 * x @ x, features.T @ slopes / 12.0 + 0.01 * x


def logarithmic(x):
    """Return x - ln x, which is not a number where x is negative."""
    return (x - np.log(x)).sum(), 1.0 - 1.0 / x


FUNCTIONS = {
    "rosenbrock of 2": rosenbrock,
    "rosenbrock of 10": rosenbrock,
    "quadratic": quadratic_of(turned_quadratic(6), np.ones(6)),
    "himmelblau": himmelblau,
    "logistic": logistic,
}


@every("record", RECORDS, ids=lambda record: f"{record['function']} {record['options']}")
def test_l_bfgs_goes_step_by_step_where_pytorch_goes(record):
    search = Search("l_bfgs", Problem(FUNCTIONS[record["function"]], record["start"]), **record["options"])
    for expected in record["parameters"]:
        search.step()
        if expected is None:  # rounding decides there
            continue
        np.testing.assert_allclose(search.problem.parameters, expected, rtol=1e-8)


def test_every_option_of_l_bfgs_is_recorded():
    (declaration,) = (each for each in optimizers if each.name == "l_bfgs")
    recorded = {name for record in RECORDS for name in record["options"]}
    assert recorded == {option.name for option in declaration.options}


def matrix_of(size, seed=3):
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T + np.eye(size)


def test_newton_reaches_the_minimum_of_a_quadratic_in_one_step():
    matrix, slope = matrix_of(4), np.arange(4.0)
    problem = Problem(quadratic_of(matrix, slope), [3.0, -1.0, 2.0, 5.0], lambda x: matrix)
    assert Search("newton", problem).step() == 1.0
    np.testing.assert_allclose(problem.parameters, -np.linalg.solve(matrix, slope), rtol=1e-12)


def test_newton_damped_and_shortened():
    matrix, slope = matrix_of(3), np.array([1.0, -2.0, 0.5])
    problem = Problem(quadratic_of(matrix, slope), [1.0, 2.0, 3.0], lambda x: matrix)
    before, gradient = problem.parameters.copy(), problem.gradient.copy()
    assert Search("newton", problem, learning_rate=0.5, damping=2.0).step() == 0.5
    expected = before - 0.5 * np.linalg.solve(matrix + 2.0 * np.eye(3), gradient)
    np.testing.assert_allclose(problem.parameters, expected, rtol=1e-12)


def saddle(x):
    return x[0] ** 2 - x[1] ** 2, np.array([2.0 * x[0], -2.0 * x[1]])


def test_newton_goes_to_a_saddle_point_unless_it_takes_absolute_eigenvalues():
    curvatures = np.diag([2.0, -2.0])
    problem = Problem(saddle, [1.0, 0.5], lambda x: curvatures)
    Search("newton", problem).step()
    np.testing.assert_array_equal(problem.parameters, [0.0, 0.0])
    problem = Problem(saddle, [1.0, 0.5], lambda x: curvatures)
    Search("newton", problem, absolute_eigenvalues=True).step()
    np.testing.assert_array_equal(problem.parameters, [0.0, 1.0])
    problem = Problem(saddle, [1.0, 0.5], lambda x: curvatures)
    Search("newton", problem, absolute_eigenvalues=True, damping=2.0).step()
    np.testing.assert_array_equal(problem.parameters, [0.5, 0.75])


@every("dtype", [np.float64, np.float32])
def test_newton_leaves_directions_without_curvature_alone(dtype):
    # (x + y)² has no curvature along (1, -1), within rounding.
    def valley(x):
        return (x[0] + x[1]) ** 2, np.full(2, 2.0 * (x[0] + x[1]))

    problem = Problem(valley, [3.0, 1.0], lambda x: [[2.0, 2.0], [2.0, 2.0 + np.finfo(dtype).eps]], dtype)
    Search("newton", problem).step()
    np.testing.assert_allclose(problem.parameters, [1.0, -1.0], rtol=4 * np.finfo(dtype).eps)


@every("curvature", [0.0, np.nan, np.inf])
def test_newton_stays_where_the_hessian_is_not_finite(curvature):
    problem = Problem(lambda x: (x.sum(), np.ones_like(x)), [3.0, 1.0], lambda x: np.full((2, 2), curvature))
    Search("newton", problem).step()
    np.testing.assert_array_equal(problem.parameters, [3.0, 1.0])


@every("size", [1, 2, 5])
@every("trial", [1.0, 1e-3, 0.3, 50.0])
def test_exact_line_search_on_quadratics(size, trial):
    matrix = matrix_of(size, 7)
    problem = Problem(quadratic_of(matrix, np.ones(size)), np.linspace(1.0, 2.0, size))
    search = Search("exact_line_search", problem, learning_rate=trial)
    for _ in range(3):
        before, gradient = problem.parameters.copy(), problem.evaluate()[1].copy()
        if np.abs(gradient).max() < 1e-8:  # with one parameter a step is enough
            break
        problem.evaluations = -1  # without the evaluation of the loop itself
        length = search.step()
        assert problem.evaluations < 30
        np.testing.assert_allclose(length, gradient @ gradient / (gradient @ matrix @ gradient), rtol=1e-12)
        np.testing.assert_array_equal(problem.parameters, before - length * gradient)


@every("start", [[-1.2, 1.0], [0.0, 0.0], [2.0, -3.0]])
def test_exact_line_search_ends_where_the_slope_vanishes(start):
    problem = Problem(rosenbrock, start)
    search = Search("exact_line_search", problem)
    for _ in range(20):
        loss, before = problem.loss, problem.gradient.copy()
        search.step()
        after_loss, after = problem.evaluate()
        assert after_loss < loss
        assert abs(after @ before) < 1e-11 * (before @ before)


def test_exact_line_search_stays_at_a_minimum():
    problem = Problem(himmelblau, [3.0, 2.0])
    assert Search("exact_line_search", problem).step() == 0.0
    np.testing.assert_array_equal(problem.parameters, [3.0, 2.0])
    problem = Problem(himmelblau, [1.0, 2.0])
    assert Search("exact_line_search", problem, learning_rate=0.0).step() == 0.0


@every("evaluations", [1, 3, 60, 1000])
def test_exact_line_search_without_a_minimum_ends_at_the_lowest_point_seen(evaluations):
    problem = Problem(lambda x: (-x.sum(), -np.ones_like(x)), [1.0, 1.0])
    length = Search("exact_line_search", problem, evaluations=evaluations).step()
    assert length == 2.0 ** (min(evaluations, 1024) - 1)
    assert problem.evaluations <= evaluations + 2


def test_exact_line_search_avoids_points_that_are_not_finite():
    problem = Problem(logarithmic, [0.01])
    search = Search("exact_line_search", problem)
    for _ in range(30):
        search.step()
        assert problem.parameters > 0.0
    np.testing.assert_allclose(problem.parameters, 1.0, rtol=1e-10)
    # The whole line is not finite: nothing happens.
    problem = Problem(lambda x: (0.0 if x[0] == 1.0 else np.nan, np.ones(1)), [1.0])
    Search("exact_line_search", problem).step()
    assert problem.parameters == [1.0]


def test_exact_line_search_does_not_end_behind_a_hill():
    def waves(x):
        return np.sin(3.0 * x[0]) + 0.3 * x[0], np.array([3.0 * np.cos(3.0 * x[0]) + 0.3])

    problem = Problem(waves, [0.2])
    for trial in np.geomspace(0.01, 10.0, 40):
        problem.parameters[...] = 0.2
        Search("exact_line_search", problem, learning_rate=trial).step()
        loss, slope = problem.evaluate()
        assert loss < waves([0.2])[0]
        assert abs(slope) < 1e-12


@every("options", [{}, {"iterations": 20}, {"learning_rate": 1000.0}])
def test_l_bfgs_avoids_points_that_are_not_finite(options):
    problem = Problem(logarithmic, [0.02, 5.0])
    search = Search("l_bfgs", problem, **options)
    for _ in range(30):
        search.step()
        assert (problem.parameters > 0.0).all()
    np.testing.assert_allclose(problem.parameters, 1.0, rtol=1e-4)
    problem = Problem(lambda x: (0.0 if x[0] == 1.0 else np.inf, np.ones(1)), [1.0])
    assert Search("l_bfgs", problem).step() == 0.0
    assert problem.parameters == [1.0]
    assert problem.evaluations < 100


@every(
    "values", [(0.0, 0.0), (1e300, 1e300), (1.0, np.nan), (1.0, -1e308), (1e308, 1e200), (-np.inf, 1.0), (np.nan, 1.0)]
)
@every("options", [{}, {"iterations": 30}, {"line_search": "none", "iterations": 30}])
@every("name", ["l_bfgs", "exact_line_search"])
def test_searches_end_on_any_function(name, options, values):
    answers = iter([(1.0, 1.0), (1.0, 1.0)])

    def strange(x):
        loss, slope = next(answers, values)
        return loss, np.full(2, slope)

    search = Search(name, Problem(strange, [1.0, 2.0]), **(options if name == "l_bfgs" else {}))
    for _ in range(3):
        search.step()
    assert search.problem.evaluations < 1000


RESUMED = [
    ("l_bfgs", {}),
    ("l_bfgs", {"history_size": 3, "iterations": 4}),
    ("l_bfgs", {"line_search": "none", "learning_rate": 0.25}),
    ("exact_line_search", {}),
]


@every(("name", "options"), RESUMED)
def test_a_resumed_search_goes_on_bit_by_bit(name, options):
    start = [-1.2, 1.0, -0.5, 2.0]
    through, resumed = Search(name, Problem(rosenbrock, start), **options), None
    for number in range(20):
        if number % 6 == 5:
            again = Search(name, Problem(rosenbrock, through.problem.parameters), **options)
            again.number, again.state = through.number, copy.deepcopy(through.state)
            for value in vars(again.state).values():
                assert isinstance(value, (int, float)) or value.shape[-1] == len(start)
            resumed = again
        length = through.step()
        if resumed is not None:
            assert resumed.step() == length
            np.testing.assert_array_equal(resumed.problem.parameters, through.problem.parameters)


def test_a_history_is_no_longer_than_it_may_be():
    search = Search("l_bfgs", Problem(rosenbrock, [-1.2, 1.0]), history_size=3)
    for number in range(8):
        search.step()
        rows = min(number, 3)
        assert len(getattr(search.state, "steps", ())) == len(getattr(search.state, "changes", ())) == rows


@every(("name", "options"), [*RESUMED, ("newton", {}), ("newton", {"absolute_eigenvalues": True, "damping": 0.5})])
def test_single_precision_stays_single(name, options):
    matrix = matrix_of(3).astype(np.float32)
    problem = Problem(quadratic_of(matrix, np.ones(3, np.float32)), [1.0, 2.0, 3.0], lambda x: matrix, np.float32)
    before = problem.parameters
    search = Search(name, problem, **options)
    for _ in range(12):
        search.step()
    assert problem.parameters is before and before.dtype == np.float32
    assert all(value.dtype == np.float32 for value in vars(search.state).values() if isinstance(value, np.ndarray))
    assert problem.loss < quadratic_of(matrix, np.ones(3))(np.array([1.0, 2.0, 3.0]))[0]


@every(("name", "other"), [("l_bfgs", "lbfgs"), ("exact_line_search", "steepest_descent")])
def test_aliases_are_the_same_search(name, other):
    assert optimizers[other] is optimizers[name]
