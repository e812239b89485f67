"""Other processes that compute parts of a computation: a pool on this machine, or the workers of a cluster.

executors      chooses by the settings
pool           processes of this machine
process        the main program of such a process
dask_cluster   workers of a Dask cluster
inside         what a part may ask while it is computed there
"""
