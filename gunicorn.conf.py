"""The settings of gunicorn, each with its reason."""

import contextlib
import ctypes
import gc
import os
import sys

from service.config import read_or_exit
from service.observing import metric_files

# What is imported stays. To look for garbage among it, again and again, takes a tenth of a start; `pre_fork` ends this.
gc.disable()

_listening, _settings = read_or_exit()

wsgi_app = "service.app:create_app()"
bind = _listening.bind
# One process per core unless WEB_CONCURRENCY says otherwise, each with one BLAS thread. `on_starting` adds the runners.
workers = _listening.workers
# An event loop carries connections, where a slow one costs next to nothing; a pool of threads computes requests.
worker_class = "service.edge.worker.Worker"
# Modules are imported once, and workers share their memory; OpenBLAS copes with the fork.
preload_app = True
# Long enough for a person's next click or a client's next request on the same connection.
keepalive = 15
# A thread that computes does not stop the heartbeat, so this only finds a worker that hangs in one
# C call. The service's own deadline (NABLA_MAX_SECONDS) ends long requests before.
timeout = 120
# On a stop, requests in flight may finish: a little longer than the longest may compute.
graceful_timeout = 35
# Memory, not disk: a slow disk would stop the heartbeat.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
# The control socket wants a writable home, which a container does not have; nobody uses it here.
control_socket_disable = True
# The service itself trusts the proxies of NABLA_TRUSTED_PROXIES; gunicorn reads no header of theirs.
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
    # M_ARENA_MAX: without it each thread would keep megabytes that no other can use. It is set before the first thread:
    # all later threads would share a second arena, which hardly gives anything back.
    libc.mallopt(-8, 1)

# Metrics of all workers add up through files in one directory, fresh at every start. It has to exist
# before the application is imported, which imports prometheus_client.
metric_files.open_folder(worker_tmp_dir)


def on_starting(server):
    """Give all logs one format, and end at once if the address is not free."""
    from service.edge import roles
    from service.listening import refuse_taken
    from service.observing.logs import configure_logging, logs_text

    configure_logging(as_text=logs_text(_settings.log_format))
    if server.cfg.workers < 1:  # an argument of gunicorn itself, which would listen without answering
        sys.exit(f"nabla: --workers takes 1 or more, got {server.cfg.workers}")
    # Sockets from systemd, or from an earlier server, need no free address.
    if not (server.master_pid or "LISTEN_FDS" in os.environ or server.cfg.reuse_port):
        refuse_taken(server.cfg.address)
    roles.add_runners(server, _listening.runners)


def on_reload(server):
    """Let all workers be replaced, runners too."""
    from service.edge import roles

    roles.begin_generation(server)
    roles.add_runners(server, _listening.runners)


def nworkers_changed(server, new, old):
    """Let one worker serve, whatever TTOU says."""
    from service.edge import roles

    roles.keep_one(server, _listening.runners)


def pre_fork(server, worker):
    """Decide whether the worker serves or computes runs, and reserve the files that it counts in.

    Keep the garbage collector off what was imported, and from running every few requests: 8 % of a tiny one.
    """
    from service.edge import roles

    roles.assign(server, worker, _listening.runners)
    metric_files.reserve(worker, server.WORKERS.values())
    gc.freeze()
    # The service makes no cycles, so nothing waits for a full collection, which takes 0.3 s when caches are full: there
    # is next to none. A collection of the middle generation, the objects made lately, takes 10 ms.
    # service/capacity/collector.py collects compiled programs.
    gc.set_threshold(20_000, 5, 1_000_000)
    gc.enable()


def post_fork(server, worker):
    """Start the threads of logs and metrics, and let threads change places often."""
    from service.observing.logs import write_from_threads
    from service.observing.metrics import start_sampling

    metric_files.take(worker)
    write_from_threads()
    start_sampling()
    # While a stream computes, a request waits so long for the interpreter lock, many times: with 30 streams
    # /health/live takes 6 ms, 18 at worst, instead of 25 and 80 with Python's 5 ms. At 0.5 ms requests cost more.
    sys.setswitchinterval(0.001)


def post_worker_init(worker):
    """Let pages of this machine call the service if it listens on loopback alone."""
    from service.listening import on_loopback

    cors = getattr(worker.wsgi, "extensions", {}).get("nabla.cors")
    if cors is not None:  # the benchmarks serve another application with these settings
        cors.on_loopback = on_loopback(listener.getsockname() for listener in worker.sockets)


def when_ready(server):
    """Print the address on standard error, and what will not work; standard output is for request logs."""
    from service.store.store import why_nothing_is_stored

    for listener in server.LISTENERS:
        print(f"Nabla serves on {listener}, Swagger UI on {listener}/docs", file=sys.stderr, flush=True)
    why = why_nothing_is_stored(_settings)
    if why:
        print(f"nabla: {why}", file=sys.stderr, flush=True)


def child_exit(server, worker):
    """Forget the gauges of a worker that is gone; its counts stay."""
    metric_files.give_back(worker)
