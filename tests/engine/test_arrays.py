"""Questions about arrays: is_finite answers without a warning, also where squares overflow."""

import numpy as np
import pytest

from service.engine.arrays import is_finite

LARGE = np.full((3, 4), np.finfo(np.float64).max)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("array", [LARGE, LARGE.T, LARGE[::2], LARGE[0, 0], np.zeros((0, 3))])
def test_large_numbers_are_finite(array):
    assert is_finite(np.asarray(array))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_one_number_is_found_that_is_not_finite(number):
    array = LARGE.copy()
    array[1, 2] = number
    assert not is_finite(array) and not is_finite(array.T)
