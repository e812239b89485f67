"""The capacity of a worker: slots to compute in, and memory.

admission.py   the lanes of a worker: who computes, who waits, who is refused
lanes.py       one lane, and its forecast of waits
costs.py       estimates of processor time, corrected by measurements
memory.py      one account of the memory of all requests and caches
collector.py   garbage collection of compiled programs
"""
