"""Eigenvalues of Hessians against PyTorch's, recorded by scripts/record_pytorch_spectrum.py, dense and by products."""

import json
from pathlib import Path

import numpy as np
import pytest

from schemas.landscape import LandscapeRequest
from service.api.network_request import task_and_feed
from service.engine.compiling import Compiler
from service.engine.errors import DeadlineExceeded, LimitExceeded
from service.engine.insight import spectrum as module
from service.engine.insight.spectrum import AskedSpectrum, spectrum_of
from service.engine.limits import Limits
from tests.support import every
from tests.watches import Looks

DATA = json.loads((Path(__file__).parents[2] / "data" / "pytorch" / "spectrum.json").read_text())
RECORDS = {record["title"]: record for record in DATA["networks"]}
METHODS = {"small": "dense", "large": "lanczos"}


def looked_at(record, asked, limits=None, watch=None, dtype="float64"):
    request = LandscapeRequest().read(record["request"] | {"spectrum": {}, "dtype": dtype})
    limits = limits or Limits()
    task, feed = task_and_feed(request, limits)
    return spectrum_of(Compiler(limits, 10**6), task, feed, asked, limits, watch, record["size"])


@every("title", RECORDS)
def test_eigenvalues_are_those_of_pytorch(title):
    record = RECORDS[title]
    found = looked_at(record, AskedSpectrum(10, 10))
    assert (found.method, found.size, found.converged) == (METHODS[title], record["size"], True)
    scale = record["largest"][0]
    np.testing.assert_allclose(found.largest.values, record["largest"][:10], rtol=1e-9, atol=0)
    np.testing.assert_allclose(found.smallest.values, record["smallest"][-10:], rtol=0, atol=1e-9 * scale)
    assert found.largest.residuals.max() <= 1e-8 * scale and found.smallest.residuals.max() <= 1e-8 * scale
    assert found.largest_stable_step == pytest.approx(2.0 / scale, rel=1e-9)
    if title == "small":
        assert found.trace == pytest.approx(record["trace"], rel=1e-12)
        assert found.signs is not None and found.signs["negative"] == record["negative"]
        assert sum(found.signs.values()) == found.size


def test_products_find_the_eigenvalues_of_the_whole_matrix(monkeypatch):
    record = RECORDS["small"]
    dense = looked_at(record, AskedSpectrum(6, 6))
    monkeypatch.setattr(module, "DENSE_SIZE", 0)
    lanczos = looked_at(record, AskedSpectrum(6, 6))
    assert (dense.method, lanczos.method) == ("dense", "lanczos")
    for one, other in ((dense.largest, lanczos.largest), (dense.smallest, lanczos.smallest)):
        np.testing.assert_allclose(one.values, other.values, atol=1e-9)
        np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-6)


def test_float32_is_as_exact_as_float32_can_be():
    record = RECORDS["large"]
    found = looked_at(record, AskedSpectrum(5, 1), dtype="float32")
    np.testing.assert_allclose(found.largest.values, record["largest"][:5], rtol=1e-5)


def test_a_density_has_the_area_one_and_the_trace_within_its_error():
    for title, record in RECORDS.items():
        found = looked_at(record, AskedSpectrum(1, 0, density=True, probes=24, probe_steps=30, points=400))
        density = found.density
        assert density is not None and found.trace is not None
        assert np.trapezoid(density.density, density.values) == pytest.approx(1.0, abs=1e-3)
        assert density.probes == (24 if title == "large" else 0)
        assert abs(found.trace - record["trace"]) <= 4.0 * found.trace_error + 1e-12
        assert found.trace_error < 0.15 * record["trace"]
        mean = np.trapezoid(density.density * density.values, density.values)
        assert mean == pytest.approx(found.trace / found.size, rel=1e-2)


def test_time_and_memory_are_bounded():
    with pytest.raises(DeadlineExceeded):
        looked_at(RECORDS["large"], AskedSpectrum(), watch=Looks(3))
    with pytest.raises(LimitExceeded):
        looked_at(RECORDS["large"], AskedSpectrum(steps=1000), limits=Limits(operations=1e7))
    with pytest.raises(LimitExceeded) as refused:
        looked_at(RECORDS["large"], AskedSpectrum(steps=1000), limits=Limits(workspace_bytes=2_000_000))
    assert refused.value.path == ("spectrum",)
