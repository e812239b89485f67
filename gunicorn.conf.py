"""How gunicorn serves Nabla. Every line has its reason beside it."""

import contextlib
import ctypes
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile

wsgi_app = "service.app:create_app()"
bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"

# One process per core that this process may use: each computes on one BLAS thread.
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
workers = int(os.environ.get("WEB_CONCURRENCY", _cores))
# gthread keeps connections alive, and a slow client costs a thread instead of the worker.
worker_class = "gthread"
# Threads wait for clients, they do not compute in parallel; slow clients must find one left over.
threads = int(os.environ.get("NABLA_THREADS", "64"))
# Workers share the memory of what is imported once; OpenBLAS copes with the fork.
preload_app = True
# Long enough for a person's next click or a client's next request on the same connection.
keepalive = 15
# A thread that computes does not stop the heartbeat, so this only finds a worker that hangs in one
# C call. The service's own deadline (NABLA_MAX_SECONDS) ends long requests before.
timeout = 120
# On a stop, requests in flight may finish: a little more than the longest may compute.
graceful_timeout = 35
# Memory, not disk: a slow disk would stop the heartbeat.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
# The control socket wants a writable home, which a container does not have; nobody uses it here.
control_socket_disable = True
# The service logs requests itself, as JSON.
accesslog = None
errorlog = "-"
loglevel = os.environ.get("NABLA_LOG_LEVEL", "warning")

# Metrics of all workers add up through files in one directory, fresh at every start. It has to be
# known before prometheus_client is used, which is when the application is imported.
_metrics = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
if _metrics is None:
    _metrics = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="nabla-metrics-", dir=worker_tmp_dir)
    _own_metrics = os.getpid()
else:
    _own_metrics = 0


def on_starting(server):
    """Log as JSON from here on, gunicorn's own messages too."""
    from service.observability import JsonFormatter, configure_logging

    configure_logging()
    for handler in logging.getLogger("gunicorn.error").handlers:
        handler.setFormatter(JsonFormatter())


def pre_fork(server, worker):
    """Keep the garbage collector off what was imported, and from running every few requests: 8 % of a tiny one."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def post_fork(server, worker):
    """Let threads change places often, and freed megabytes stay with the process."""
    # A request waits for the interpreter lock many times, each time so long while a stream computes: with 30 of
    # them /health/live takes 6 ms, 18 at worst, instead of 25 and 80 with Python's 5 ms. At 0.5 ms requests cost more.
    sys.setswitchinterval(0.001)
    # glibc would return memory and fault it in again each time.
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD; musl and macOS have no mallopt.
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 256 << 20)
        libc.mallopt(-3, 32 << 20)
        # M_ARENA_MAX: or each thread would keep megabytes of its own, which no other can use.
        libc.mallopt(-8, 1)


def post_worker_init(worker):
    """On a stop, let open streams send their end: gunicorn would wait for them, then cut them off."""
    from service.api.streaming import stopping

    def stop(number, frame):
        stopping.set()
        worker.handle_exit(number, frame)

    signal.signal(signal.SIGTERM, stop)
    # As gunicorn has it for its own handler: system calls of requests in flight go on.
    signal.siginterrupt(signal.SIGTERM, False)


def when_ready(server):
    """Say where to look, for whoever started it by hand; standard output is for JSON lines."""
    print(f"Nabla serves on http://{bind}, Swagger UI on http://{bind}/docs", file=sys.stderr, flush=True)


def child_exit(server, worker):
    """Forget the gauges of a worker that is gone; its counts stay."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def on_exit(server):
    """Remove the metrics directory made above."""
    if _own_metrics == os.getpid():
        shutil.rmtree(_metrics, ignore_errors=True)
