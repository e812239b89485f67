"""The capacity of a worker: who may compute now, and how much memory each request may take.

admission.py   the lanes of a worker: who computes, who waits, who is refused
lanes.py       one lane, and how it foresees waits
ticket.py      one request on its way through the lanes
costs.py       estimates of processor time, and how far off they were
memory.py      one account of the memory of all requests and caches
collector.py   when Python looks for reference cycles
"""
