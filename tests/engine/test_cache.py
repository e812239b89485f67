"""The cache keeps values between requests, and drops those unused for longest."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.engine.cache import LeastRecentlyUsed


def never():
    raise AssertionError("is known already")


def test_a_value_is_made_once():
    cache = LeastRecentlyUsed(2)
    value = cache.get("a", object)
    assert cache.get("a", never) is value
    assert cache.find("a") is value
    assert cache.find("b") is None
    assert len(cache) == 1


def test_the_value_unused_for_longest_is_dropped():
    cache = LeastRecentlyUsed(2)
    cache.get("a", object)
    cache.get("b", object)
    cache.find("a")
    cache.get("c", object)
    assert cache.find("b") is None
    assert cache.find("a") is not None and cache.find("c") is not None


def test_the_bound_is_on_weight():
    cache = LeastRecentlyUsed(10, weigh=lambda key, value: value)
    for weight in (4, 5, 3):
        cache.get(f"weight {weight}", lambda weight=weight: weight)
    assert cache.weight == 8
    assert cache.find("weight 4") is None and cache.find("weight 5") == 5


def test_a_value_heavier_than_the_bound_is_returned_but_not_kept():
    cache = LeastRecentlyUsed(10, weigh=lambda key, value: value)
    assert cache.get("a", lambda: 11) == 11
    assert cache.weight == 0 and len(cache) == 0


def test_an_error_is_not_cached():
    cache = LeastRecentlyUsed(2)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 // 0)
    assert cache.get("a", lambda: 7) == 7


def test_all_threads_hold_the_same_value():
    cache = LeastRecentlyUsed(2)
    together = threading.Barrier(4)

    def make():
        together.wait()  # all four miss before the first has finished
        return object()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cache.get("a", make), range(4)))
    assert len(set(map(id, found))) == 1
    assert cache.weight == 1
