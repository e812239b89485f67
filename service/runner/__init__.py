"""The process that computes runs: it takes one after the other from the database, and writes back what it computes.

    process.py      a runner as a process: its thread, its signals, the command `nabla worker`
    loop.py         which run is computed next, and what happens while there is none
    idle.py         when it is worth asking the database for a run
    execution.py    one run from its claim to its end: steps, records, states
    lease.py        the right to write to a run: its renewal, and its loss
    context.py      what a run has in place of an HTTP request
    results.py      the end of a run: its status, its reason, its result, its error in words

docs/deployment.md tells how runners are started, and docs/runs.md what they compute.
"""
