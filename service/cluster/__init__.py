"""Other processes that compute parts of a computation: a pool on this machine, or the workers of a cluster.

executors      chooses by the settings
pool           processes of this machine
process        the main program of such a process
values         memory that the pool shares
dask_cluster   workers of a Dask cluster
dask_session   one connection to its scheduler
at_worker      what a worker of the cluster computes
inside         the question whether anybody waits for a part
"""
