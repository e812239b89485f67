"""The executor that the settings choose."""

from __future__ import annotations

from service.cluster.dask_cluster import Cluster
from service.cluster.pool import Pool
from service.config import Settings
from service.engine.parallel import Executor, InTurn


def executor_of(settings: Settings) -> Executor:
    """Return what computes the parts of large requests. It connects to nothing and starts nothing before its first use,
    so it may be made before a fork."""
    if settings.cluster:
        return Cluster(settings)
    return Pool(settings.pool) if settings.pool else InTurn()
