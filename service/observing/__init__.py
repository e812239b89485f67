"""Metrics and logs: what operators see of the service. Importing this package imports none of its modules.

metrics.py        counters, histograms and gauges of Prometheus
metric_files.py   the files through which the metrics of all workers add up
access.py         the id and the record of each answered request
logs.py           the formats of log lines
log_writer.py     a writer that never waits for its reader
timer.py          the stages of a request
"""
