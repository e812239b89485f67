"""Settings: every one of them, read once from the environment, with the reason for its default.

Each field `some_name` is set by the variable `NABLA_SOME_NAME`.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from service.engine.limits import Limits

MEBI = 2**20
OF_GUNICORN = ("NABLA_LOG_LEVEL",)
"""Variables that gunicorn.conf.py alone reads."""


class ConfigurationError(ValueError):
    """A NABLA_ variable that cannot be understood."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator may change. Sizes are in bytes, times in seconds."""

    threads: int = field(
        default=64, metadata={"about": "threads per worker, of which half may stream; gunicorn.conf.py starts them"}
    )
    max_body_bytes: int = field(default=256 * MEBI, metadata={"about": "largest request body, after decompression"})
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
    max_workspace_bytes: int = field(default=2048 * MEBI, metadata={"about": "memory of one computation"})
    max_seconds: float = field(default=30.0, metadata={"about": "time a request may compute"})
    max_memory_bytes: int = field(
        default=4096 * MEBI,
        metadata={"about": "memory that all requests of a worker together may be estimated to take"},
    )
    max_requests_per_second: float = field(
        default=0.0, metadata={"about": "per client and worker, 0: any number; beyond it 429 is answered"}
    )
    cached_nodes: int = field(
        default=250_000, metadata={"about": "graph nodes of compiled definitions that a worker keeps, 1 KB each"}
    )
    pooled_bytes: int = field(
        default=256 * MEBI, metadata={"about": "memory of finished computations kept for the next"}
    )
    api_keys: tuple[str, ...] = field(
        default=(),
        repr=False,
        metadata={"about": "comma-separated keys, or sha256:<hex> of them; none: the service is open"},
    )
    cors_origins: tuple[str, ...] = field(
        default=(), metadata={"about": "comma-separated origins whose pages may call the service, or *"}
    )
    log_requests: bool = field(default=True, metadata={"about": "one JSON line per request"})
    docs: bool = field(default=True, metadata={"about": "serve the home page and Swagger UI"})

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Settings from NABLA_ variables; raises `ConfigurationError` that names the wrong one."""
        names = {f"NABLA_{item.name.upper()}": item for item in fields(cls)}
        values: dict[str, Any] = {}
        for variable, text in environment.items():
            if variable in names:
                item = names[variable]
                values[item.name] = _read(variable, text, item.default)
            elif variable.startswith("NABLA_") and variable not in OF_GUNICORN:
                # Only what looks like a slip: Kubernetes sets NABLA_PORT and the like for a service of that name.
                for name in difflib.get_close_matches(variable, names, 1, cutoff=0.85):
                    raise ConfigurationError(f"no setting is called {variable}; did you mean {name}?")
        return cls(**values)

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


def _read(variable: str, text: str, default: Any) -> Any:
    kind = type(default)
    if kind is bool:
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if text.lower() not in words:
            raise ConfigurationError(f"{variable} takes true or false, got {text!r}")
        return words[text.lower()]
    if kind is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        number = kind(text)
    except ValueError:
        raise ConfigurationError(f"{variable} takes a number, got {text!r}") from None
    if not 0 <= number < math.inf:
        raise ConfigurationError(f"{variable} takes a finite number that is not negative, got {text!r}")
    return number
