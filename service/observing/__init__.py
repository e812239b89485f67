"""What operators see of the service: metrics and logs. Importing this package imports nothing else.

metrics.py        counters, histograms and gauges of Prometheus
metric_files.py   the files through which the metrics of all workers add up
access.py         the record of each answered request
logs.py           the forms of log lines
log_writer.py     a writer that never waits for its reader
timer.py          the stages of a request
request_ids.py    the id of a request
"""
