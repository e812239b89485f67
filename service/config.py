"""Settings: every one of them, read once from the environment, with the reason for its default.

Each field `some_name` of `Settings` is set by the variable `NABLA_SOME_NAME`; those of `Listening` name theirs.
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
from dataclasses import Field, dataclass, field, fields
from typing import Any

from service.engine.limits import Limits

MEBI = 2**20
LOG_FORMATS = ("auto", "json", "text")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[1-9][0-9]{0,4})?")
"""How browsers write the origin of a page: in lower case, with nothing after the host and port."""
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class ConfigurationError(ValueError):
    """A variable of the environment that cannot be understood."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator may change. Sizes are in bytes, times in seconds."""

    threads: int = field(
        default=64, metadata={"about": "threads per worker, of which half may stream; gunicorn.conf.py starts them"}
    )
    max_body_bytes: int = field(default=32 * MEBI, metadata={"about": "largest request body, after decompression"})
    max_body_seconds: float = field(default=30.0, metadata={"about": "longest pause while a body arrives"})
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
        default=10_000_000, metadata={"about": "numbers in the steps of a training or descent that are told"}
    )
    max_workspace_bytes: int = field(default=384 * MEBI, metadata={"about": "memory of one computation"})
    max_seconds: float = field(default=30.0, metadata={"about": "time a request may compute"})
    max_memory_bytes: int = field(
        default=576 * MEBI,
        metadata={"about": "memory that all requests of a worker together, and what it keeps, may take"},
    )
    max_requests_per_second: float = field(
        default=0.0, metadata={"about": "per client and worker, 0: any number; beyond it 429 is answered"}
    )
    cached_bytes: int = field(
        default=64 * MEBI,
        metadata={"about": "memory of compiled definitions that a worker keeps"},
    )
    pooled_bytes: int = field(
        default=128 * MEBI, metadata={"about": "memory of finished computations kept for the next"}
    )
    api_keys: tuple[str, ...] = field(
        default=(),
        repr=False,
        metadata={"about": "comma-separated keys, or sha256:<hex> of them; none: the service is open"},
    )
    cors_origins: tuple[str, ...] = field(
        default=(), metadata={"about": "comma-separated origins whose pages may call the service, or *"}
    )
    log_requests: bool = field(default=True, metadata={"about": "one line per request"})
    log_format: str = field(
        default="auto",
        metadata={"about": "json, text, or auto: text where standard output is a terminal", "words": LOG_FORMATS},
    )
    docs: bool = field(default=True, metadata={"about": "serve the home page and Swagger UI"})

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ConfigurationError(f"NABLA_THREADS takes 1 or more, got {self.threads}")
        _ = self.key_digests  # a digest that is none shows here
        for origin in self.cors_origins:
            _check_origin(origin)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Settings from NABLA_ variables; raises `ConfigurationError` that names the wrong one."""
        names = {f"NABLA_{item.name.upper()}": item for item in fields(cls)}
        known = {*names, *(item.metadata["variable"] for item in fields(Listening))}
        for variable in environment:
            if variable.startswith("NABLA_") and variable not in known:
                # Only what looks like a slip: Kubernetes sets NABLA_PORT and the like for a service of that name.
                for name in difflib.get_close_matches(variable, known, 1, cutoff=0.85):
                    raise ConfigurationError(f"no setting is called {variable}; did you mean {name}?")
        return cls(**_read_all(names, environment))

    @property
    def limits(self) -> Limits:
        """The part that the engine enforces."""
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
    def shown_limits(self) -> dict[str, float]:
        """What `/v1` tells callers."""
        limits = {item.name[4:]: getattr(self, item.name) for item in fields(self) if item.name.startswith("max_")}
        return limits | {"streams": self.streams}

    @property
    def streams(self) -> int:
        """Streams that a worker serves at once. Each holds a thread, and others need some too."""
        return max(1, self.threads // 2)

    @property
    def documents(self) -> int:
        """How many trainings of a worker may be answered as one document at the same time: some threads stay free."""
        return max(1, self.threads * 3 // 8)

    @property
    def key_digests(self) -> tuple[bytes, ...]:
        """SHA-256 digests of the accepted keys."""
        return tuple(_digest(key) for key in self.api_keys)


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Those that this process may use."""


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where and with how many processes the server listens; gunicorn.conf.py hands this on."""

    # The first three variables are those that hosting platforms set.
    host: str = field(default="127.0.0.1", metadata={"variable": "HOST"})
    port: int = field(default=8000, metadata={"variable": "PORT"})
    workers: int = field(default=CORES, metadata={"variable": "WEB_CONCURRENCY"})
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
        """As the environment says; raises `ConfigurationError` that names the wrong variable."""
        return cls(**_read_all({item.metadata["variable"]: item for item in fields(cls)}, environment))

    @property
    def bind(self) -> str:
        """The address as gunicorn takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_or_exit() -> tuple[Listening, Settings]:
    """What the environment says; one line on standard error and status 1 where it cannot be understood."""
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


def _digest(key: str) -> bytes:
    if key.startswith("sha256:"):
        try:
            digest = bytes.fromhex(key.removeprefix("sha256:"))
        except ValueError:
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise ConfigurationError("NABLA_API_KEYS: sha256: takes 64 hexadecimal digits")
        return digest
    return hashlib.sha256(key.encode()).digest()


def _read_all(names: Mapping[str, Field[Any]], environment: Mapping[str, str]) -> dict[str, Any]:
    """The values of those variables that are set, by the names of their fields."""
    return {
        item.name: _read(variable, environment[variable], item.default, item.metadata.get("words", ()))
        for variable, item in names.items()
        if variable in environment
    }


def _read(variable: str, text: str, default: Any, words: tuple[str, ...] = ()) -> Any:
    kind = type(default)
    if kind is str:
        if words and text.lower() not in words:
            raise ConfigurationError(f"{variable} takes one of {', '.join(words)}, got {text!r}")
        return text.lower()
    if kind is bool:
        flags = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
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
