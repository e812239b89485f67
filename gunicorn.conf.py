"""How gunicorn serves Nabla. Every line has its reason beside it."""

import contextlib
import ctypes
import gc
import os
import sys

from service.config import read_or_exit
from service.observing import metric_files

_listening, _settings = read_or_exit()

wsgi_app = "service.app:create_app()"
bind = _listening.bind
# One process per core unless WEB_CONCURRENCY says otherwise: each computes on one BLAS thread.
workers = _listening.workers
# Connections are carried by an event loop, where a slow one costs next to nothing, and computed in a pool of threads.
worker_class = "service.edge.worker.Worker"
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
# Proxies are believed by the service itself, those of NABLA_TRUSTED_PROXIES: gunicorn takes nothing of headers.
forwarded_allow_ips = ""
forwarder_headers = ""
secure_scheme_headers = {}
# The service logs requests itself.
accesslog = None
errorlog = "-"
loglevel = _listening.log_level

# musl and macOS have no mallopt.
with contextlib.suppress(OSError, AttributeError):
    libc = ctypes.CDLL(None)
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD: glibc would return memory and fault it in again each time.
    libc.mallopt(-1, 256 << 20)
    libc.mallopt(-3, 32 << 20)
    # M_ARENA_MAX: or each thread would keep megabytes of its own, which no other can use. Before the first thread: an
    # arena that is there already would be shared by all later ones, and hardly gives anything back.
    libc.mallopt(-8, 1)

# Metrics of all workers add up through files in one directory, fresh at every start. It has to be
# known before prometheus_client is used, which is when the application is imported.
metric_files.open_folder(worker_tmp_dir)


def on_starting(server):
    """Log in one form from here on, gunicorn's own messages too, and say at once if the address is not free."""
    from service.listening import refuse_taken
    from service.observing.logs import configure_logging, logs_text

    configure_logging(as_text=logs_text(_settings.log_format))
    if server.cfg.workers < 1:  # given to gunicorn itself; it would listen, and nobody would answer
        sys.exit(f"nabla: --workers takes 1 or more, got {server.cfg.workers}")
    # With sockets that were handed over, from systemd or a server before this one, nothing is to be bound.
    if not (server.master_pid or "LISTEN_FDS" in os.environ or server.cfg.reuse_port):
        refuse_taken(server.cfg.address)


def pre_fork(server, worker):
    """Say which files the worker counts in.

    Keep the garbage collector off what was imported, and from running every few requests: 8 % of a tiny one.
    """
    metric_files.reserve(worker, server.WORKERS.values())
    gc.freeze()
    # The service makes no cycles, so nothing waits for a full collection, which takes 0.3 s when caches are full: there
    # is next to none. A collection of the middle generation, the objects made lately, takes 10 ms.
    # service/capacity/collector.py collects compiled programs.
    gc.set_threshold(20_000, 5, 1_000_000)


def post_fork(server, worker):
    """Start threads. Let them change places often, and freed megabytes stay with the process."""
    from service.observing.logs import write_from_threads
    from service.observing.metrics import start_sampling

    metric_files.take(worker)
    write_from_threads()
    start_sampling()
    # A request waits for the interpreter lock many times, each time so long while a stream computes: with 30 of
    # them /health/live takes 6 ms, 18 at worst, instead of 25 and 80 with Python's 5 ms. At 0.5 ms requests cost more.
    sys.setswitchinterval(0.001)


def post_worker_init(worker):
    """Tell the application where it listens."""
    from service.listening import on_loopback

    cors = getattr(worker.wsgi, "extensions", {}).get("nabla.cors")
    if cors is not None:  # the benchmarks serve another application with these settings
        cors.on_loopback = on_loopback(listener.getsockname() for listener in worker.sockets)


def when_ready(server):
    """Say where to look, for whoever started it by hand; standard output is for request logs."""
    for listener in server.LISTENERS:
        print(f"Nabla serves on {listener}, Swagger UI on {listener}/docs", file=sys.stderr, flush=True)


def child_exit(server, worker):
    """Forget the gauges of a worker that is gone; its counts stay."""
    metric_files.give_back(worker)
