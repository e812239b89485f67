"""The settings of the service, read once from the environment.

The variable `NABLA_SOME_NAME` sets the field `some_name` of `Settings`; each field of `Listening` names its variable.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from service.engine.limits import Limits
from service.proxy import Proxies

MEBI = 2**20
ASIDE_PART = 16
"""The memory for light requests is one part in this many of the whole."""
LOG_FORMATS = ("auto", "json", "text")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[1-9][0-9]{0,4})?")
"""The origin of a page as browsers write it: in lower case, with nothing after the host and port."""
KUBERNETES = re.compile(
    r"NABLA_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|(?P<port>PORT)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
"""Variables that Kubernetes sets in every container for a service called nabla, or nabla-something."""
DIGEST = re.compile(r"((?P<name>[A-Za-z0-9._-]{1,64})=)?sha256:(?P<digest>.*)")
"""A key that is given by its digest; it may have a name. A plain key has none, for it may contain = itself."""
DATABASE = re.compile(r"postgresql(\+psycopg)?://|sqlite:///.")
"""The beginnings of addresses of databases that the store knows."""
SCHEDULER = re.compile(r"(tcp|tls)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[1-9][0-9]{0,4}")
"""Addresses of Dask schedulers."""
LARGEST_STORED = 512 * MEBI
"""Bytes of a stored network at most: databases hold no value of a gigabyte."""
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class ConfigurationError(ValueError):
    """Raised if an environment variable has a wrong value or name; the message says which."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that an operator may change. Sizes are in bytes, times in seconds."""

    slots: int = field(
        default=1,
        metadata={"about": "requests of each size that a worker computes at once: up to 0.05 s, up to 1 s, and longer"},
    )
    queue: int = field(
        default=64, metadata={"about": "requests of each size that may wait for a slot; beyond it 503 is answered"}
    )
    streams: int = field(default=32, metadata={"about": "streams that a worker serves at once"})
    max_body_bytes: int = field(default=32 * MEBI, metadata={"about": "largest request body, after decompression"})
    max_connections: int = field(default=2048, metadata={"about": "connections that are open at once, for each worker"})
    max_connections_per_address: int = field(
        default=512,
        metadata={"about": "of these from one address, unless it belongs to this machine or a trusted proxy"},
    )
    max_header_seconds: float = field(default=10.0, metadata={"about": "time for the head of a request"})
    max_body_seconds: float = field(
        default=10.0, metadata={"about": "time for the body of a request, plus its size at min_bytes_per_second"}
    )
    max_send_seconds: float = field(
        default=10.0, metadata={"about": "time in which a client must read what min_bytes_per_second makes of it"}
    )
    min_bytes_per_second: int = field(
        default=64 * 1024, metadata={"about": "least rate at which clients send bodies and read answers"}
    )
    max_layers: int = field(default=512, metadata={"about": "layers of a network"})
    max_graph_nodes: int = field(
        default=100_000, metadata={"about": "operations that a definition is compiled to, forward and backward"}
    )
    max_parameters: int = field(default=25_000_000, metadata={"about": "numbers in all parameters of a network"})
    max_tensor_elements: int = field(default=50_000_000, metadata={"about": "numbers in one tensor of an answer"})
    max_operations: int = field(
        default=2 * 10**11, metadata={"about": "estimated floating-point operations of a request"}
    )
    max_steps: int = field(
        default=1_000_000, metadata={"about": "steps of a training or descent, or of a comparison together"}
    )
    max_trace_elements: int = field(
        default=10_000_000, metadata={"about": "numbers in the recorded steps of a training or descent"}
    )
    max_workspace_bytes: int = field(default=384 * MEBI, metadata={"about": "memory of one computation"})
    max_seconds: float = field(
        default=30.0, metadata={"about": "time of a request from its first byte on, waiting included"}
    )
    max_memory_bytes: int = field(
        default=576 * MEBI, metadata={"about": "memory of a worker for all its requests and caches together"}
    )
    max_requests_per_second: float = field(
        default=0.0, metadata={"about": "requests from one address, 0: any number; beyond it 429 is answered"}
    )
    max_key_requests_per_second: float = field(
        default=0.0, metadata={"about": "requests with one key, 0: any number; beyond it 429 is answered"}
    )
    cached_bytes: int = field(
        default=64 * MEBI, metadata={"about": "memory of compiled definitions that a worker keeps"}
    )
    pooled_bytes: int = field(
        default=128 * MEBI, metadata={"about": "memory of finished computations that a worker keeps for the next"}
    )
    loaded_bytes: int = field(default=64 * MEBI, metadata={"about": "memory of stored networks that a worker keeps"})
    data: str = field(
        default="",
        metadata={"about": "folder of what is stored; none: nabla in $XDG_DATA_HOME, or ~/.local/share/nabla"},
    )
    database: str = field(
        default="",
        repr=False,  # it may hold a password
        metadata={"about": "address of a database, such as postgresql+psycopg://host/name; none: a file in the folder"},
    )
    max_stored_networks: int = field(default=1000, metadata={"about": "networks that one key stores"})
    max_stored_network_bytes: int = field(
        default=32 * MEBI, metadata={"about": "one stored network with its parameters"}
    )
    max_stored_bytes_per_key: int = field(
        default=1024 * MEBI, metadata={"about": "networks and runs that one key stores"}
    )
    max_stored_bytes: int = field(default=8192 * MEBI, metadata={"about": "everything that is stored, of all keys"})
    stored_days: float = field(
        default=90.0, metadata={"about": "days after which a stored network that nobody used is removed, 0: never"}
    )
    max_runs: int = field(default=1000, metadata={"about": "runs that one key keeps, those that ended among them"})
    max_unfinished_runs: int = field(default=32, metadata={"about": "runs of one key that wait or compute"})
    max_run_seconds: float = field(default=86_400.0, metadata={"about": "time that a run computes, waiting left out"})
    max_run_steps: int = field(default=100_000_000, metadata={"about": "steps of a run"})
    max_run_operations: int = field(default=10**16, metadata={"about": "estimated floating-point operations of a run"})
    max_run_bytes: int = field(
        default=256 * MEBI, metadata={"about": "what is kept of one run: its request, records, state and result"}
    )
    run_days: float = field(default=30.0, metadata={"about": "days after which a run that ended is removed, 0: never"})
    pool: int = field(
        default=0,
        metadata={"about": "processes of each worker that share large requests; 0: the worker computes all itself"},
    )
    cluster: str = field(
        default="",
        metadata={"about": "address of a Dask scheduler that shares large requests, as tcp://host:8786, or tls://…"},
    )
    cluster_ca: str = field(
        default="", metadata={"about": "file of the authority that signs certificates of the cluster"}
    )
    cluster_certificate: str = field(default="", metadata={"about": "file of the certificate for the cluster"})
    cluster_key: str = field(default="", metadata={"about": "file of the key of that certificate"})
    api_keys: tuple[str, ...] = field(
        default=(),
        repr=False,
        metadata={
            "about": "comma-separated keys, or their digests as sha256:<hex> or name=sha256:<hex>; none: the service "
            "is open"
        },
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        metadata={"about": "addresses and networks of the proxies whose X-Forwarded-… headers count, or unix"},
    )
    cors_origins: tuple[str, ...] = field(
        default=(), metadata={"about": "comma-separated origins whose pages may call the service, or *"}
    )
    log_requests: bool = field(default=True, metadata={"about": "one line per request"})
    log_format: str = field(
        default="auto",
        metadata={"about": "json, text, or auto: text where standard output is a terminal", "words": LOG_FORMATS},
    )
    server_timing: bool = field(default=True, metadata={"about": "send the Server-Timing header"})
    docs: bool = field(default=True, metadata={"about": "serve the pages: the demo, the reference and Swagger UI"})
    demo: bool = field(default=True, metadata={"about": "serve the demo at /; make serve builds it"})

    def __post_init__(self) -> None:
        bounds = ("max_connections", "max_connections_per_address", "min_bytes_per_second")
        for name in ("slots", "queue", "streams", *bounds):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"NABLA_{name.upper()} takes 1 or more, got {getattr(self, name)}")
        _ = self.keys  # raises for a malformed digest
        try:
            Proxies(self.trusted_proxies)
        except ValueError as error:
            raise ConfigurationError(f"NABLA_TRUSTED_PROXIES takes addresses and networks: {error}") from None
        for origin in self.cors_origins:
            _check_origin(origin)
        if self.database and not DATABASE.match(self.database):
            raise ConfigurationError(
                "NABLA_DATABASE takes an address such as postgresql+psycopg://user:password@host/name or "
                "sqlite:////folder/file.db"
            )
        self._check_cluster()

    def _check_cluster(self) -> None:
        """Raise `ConfigurationError` where the settings of pool and cluster do not fit together."""
        if self.pool < 0:
            raise ConfigurationError(f"NABLA_POOL takes 0 or more, got {self.pool}")
        if self.pool and self.cluster:
            raise ConfigurationError("NABLA_POOL and NABLA_CLUSTER exclude each other; leave one out")
        if self.cluster and not SCHEDULER.fullmatch(self.cluster):
            raise ConfigurationError(
                f"NABLA_CLUSTER takes the address of a Dask scheduler, tcp://host:port or tls://host:port, "
                f"got {self.cluster!r}"
            )
        for name in ("cluster_ca", "cluster_certificate", "cluster_key"):
            file = getattr(self, name)
            if bool(file) != self.cluster.startswith("tls:"):
                state = "goes with" if file else "is missing for"
                raise ConfigurationError(f"NABLA_{name.upper()} {state} NABLA_CLUSTER=tls://host:port")
            if file and not os.access(file, os.R_OK):
                raise ConfigurationError(f"NABLA_{name.upper()}: cannot read the file {file}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings from the NABLA_ variables. Raise `ConfigurationError` that names the wrong variable."""
        names = {f"NABLA_{item.name.upper()}": item for item in fields(cls)}
        known = {*names, *(item.metadata["variable"] for item in fields(Listening))}
        for variable, text in environment.items():
            if variable.startswith("NABLA_") and variable not in known and not _from_kubernetes(variable, text):
                bare = variable.removeprefix("NABLA_")
                meant = [bare] if bare in known else difflib.get_close_matches(variable, known, 1, cutoff=0.7)
                hint = f"; did you mean {meant[0]}?" if meant else "; docs/configuration.md lists all"
                raise ConfigurationError(f"no setting is called {variable}{hint}")
        if not _read("NABLA_API_KEYS", environment.get("NABLA_API_KEYS", "key"), ()):
            raise ConfigurationError(
                "NABLA_API_KEYS holds no key, so everyone could ask; set one, or leave it out if that is meant"
            )
        settings = cls(**_read_all(names, environment))
        settings.refuse_impossible()
        return settings

    def refuse_impossible(self) -> None:
        """Raise `ConfigurationError` if one limit allows requests that the memory never has room for."""
        most = self.max_memory_bytes - self.aside_bytes
        for name in ("max_body_bytes", "max_workspace_bytes"):
            if getattr(self, name) > most:
                raise ConfigurationError(
                    f"NABLA_{name.upper()} is {getattr(self, name)}, more than NABLA_MAX_MEMORY_BYTES, "
                    f"{self.max_memory_bytes}, leaves one request, {most}; lower it, or raise the other"
                )

        if self.max_stored_network_bytes > LARGEST_STORED:
            raise ConfigurationError(
                f"NABLA_MAX_STORED_NETWORK_BYTES is {self.max_stored_network_bytes}; databases take at most "
                f"{LARGEST_STORED} at once"
            )

    @property
    def aside_bytes(self) -> int:
        """Bytes of `max_memory_bytes` that only light requests may use, 36 MiB by default."""
        return self.max_memory_bytes // ASIDE_PART

    @cached_property
    def limits(self) -> Limits:
        """The limits that the engine enforces, taken from the settings that begin with `max_`."""
        return Limits(
            layers=self.max_layers,
            graph_nodes=self.max_graph_nodes,
            parameters=self.max_parameters,
            tensor_elements=self.max_tensor_elements,
            operations=self.max_operations,
            workspace_bytes=self.max_workspace_bytes,
            steps=self.max_steps,
            trace_elements=self.max_trace_elements,
        )

    @property
    def run_limits(self) -> Limits:
        """The limits of runs: those of requests, but for steps, operations, and records, which go to the database."""
        return replace(
            self.limits,
            steps=self.max_run_steps,
            operations=self.max_run_operations,
            trace_elements=self.max_run_bytes,
        )

    @property
    def shown_limits(self) -> dict[str, float]:
        """The limits that `/v1` shows to callers, by name."""
        limits = {item.name[4:]: getattr(self, item.name) for item in fields(self) if item.name.startswith("max_")}
        return limits | {"streams": self.streams, "stored_days": self.stored_days, "run_days": self.run_days}

    @property
    def keys(self) -> tuple[tuple[str, bytes], ...]:
        """The accepted keys: for each the name that logs show and its SHA-256 digest."""
        return tuple(map(_named_digest, self.api_keys))


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""The number of cores that this process may use."""


@dataclass(frozen=True, kw_only=True)
class Listening:
    """The address that the server listens on, and its number of processes; gunicorn.conf.py passes them on."""

    # Hosting platforms set the first three variables.
    host: str = field(default="127.0.0.1", metadata={"variable": "HOST"})
    port: int = field(default=8000, metadata={"variable": "PORT"})
    workers: int = field(default=CORES, metadata={"variable": "WEB_CONCURRENCY"})
    runners: int = field(default=1, metadata={"variable": "NABLA_RUNNERS"})
    log_level: str = field(default="warning", metadata={"variable": "NABLA_LOG_LEVEL", "words": LOG_LEVELS})

    def __post_init__(self) -> None:
        if not _is_host(self.host):
            raise ConfigurationError(f"HOST takes an address or a name, such as 127.0.0.1, got {self.host!r}")
        if not 0 <= self.port < 2**16:
            raise ConfigurationError(f"PORT takes a number up to 65535, got {self.port}")
        if self.workers < 1:
            raise ConfigurationError(f"WEB_CONCURRENCY takes 1 or more, got {self.workers}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Listening:
        """Read the environment. Raise `ConfigurationError` that names the wrong variable."""
        return cls(**_read_all({item.metadata["variable"]: item for item in fields(cls)}, environment))

    @property
    def bind(self) -> str:
        """The address and port in the form that gunicorn takes."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_or_exit() -> tuple[Listening, Settings]:
    """Read the environment. If it is wrong, print one line to standard error and exit with status 1."""
    try:
        return Listening.from_environment(), Settings.from_environment()
    except ConfigurationError as error:
        sys.exit(f"nabla: {error}")


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?", text))
    return True


def _check_origin(origin: str) -> None:
    if origin in ("*", "null"):
        return
    scheme, _, rest = (origin if "://" in origin else f"http://{origin}").lower().partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0].removesuffix(DEFAULT_PORTS.get(scheme, ""))
    meant = f"{scheme}://{host}"
    if origin == meant and ORIGIN.fullmatch(origin):
        return
    hint = f"; did you mean {meant}?" if ORIGIN.fullmatch(meant) else ""
    raise ConfigurationError(
        "NABLA_CORS_ORIGINS takes origins as browsers send them, scheme://host or scheme://host:port with nothing "
        f"after it; got {origin!r}{hint}"
    )


def _from_kubernetes(variable: str, text: str) -> bool:
    """Return whether Kubernetes sets this variable, for a service whose name begins with nabla."""
    found = KUBERNETES.fullmatch(variable)
    # NABLA_PORT=8001 is a slip for PORT=8001.
    return found is not None and (found["port"] is None or "://" in text)


def _named_digest(key: str) -> tuple[str, bytes]:
    """Return the name and SHA-256 digest of an entry of `NABLA_API_KEYS`; an unnamed key is called by its digest."""
    found = DIGEST.fullmatch(key)
    if found is None:
        digest = hashlib.sha256(key.encode()).digest()
    elif re.fullmatch(r"[0-9A-Fa-f]{64}", found["digest"]):
        digest = bytes.fromhex(found["digest"])
    else:
        raise ConfigurationError("NABLA_API_KEYS: sha256: takes 64 hexadecimal digits")
    return (found and found["name"]) or f"sha256:{digest.hex()[:8]}", digest


def _read_all(names: Mapping[str, Field[Any]], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the variables that are set, by the names of their fields."""
    return {
        item.name: _read(variable, environment[variable], item.default, item.metadata.get("words", ()))
        for variable, item in names.items()
        if variable in environment
    }


def _read(variable: str, text: str, default: Any, words: tuple[str, ...] = ()) -> Any:
    kind = type(default)
    if kind is str:
        if not words:
            return text
        if text.lower() not in words:
            raise ConfigurationError(f"{variable} takes one of {', '.join(words)}, got {text!r}")
        return text.lower()
    if kind is bool:
        flags = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)
        if text.lower() not in flags:
            raise ConfigurationError(f"{variable} takes true or false, got {text!r}")
        return flags[text.lower()]
    if kind is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        number = kind(text)
    except ValueError:
        raise ConfigurationError(f"{variable} takes a number, got {text!r}") from None
    if not 0 <= number < math.inf:
        raise ConfigurationError(f"{variable} takes a finite number that is not negative, got {text!r}")
    return number
