"""The rows that the runs in the database take and give."""

from __future__ import annotations

from typing import NamedTuple

BY_OWNER = "cancelled by its owner"
"""The reason of a run that its owner has cancelled."""


class NewRun(NamedTuple):
    """A run to be added."""

    kind: str
    spec: bytes
    """The request as it was sent."""
    of: int
    """Number of steps."""
    base64: bool = False
    networks: tuple[str, ...] = ()
    """Ids of the stored networks that the request names. They are kept as long as the run."""
    idempotency_key: str | None = None


class RunLimits(NamedTuple):
    """The limits on what the database holds of runs."""

    runs: int
    """Largest number of runs of one owner."""
    unfinished: int
    """Largest number of runs of one owner that wait or compute."""
    run_bytes: int
    """Largest number of bytes of one run."""
    owner_bytes: int
    """Largest number of bytes of all networks and runs of one owner."""
    total_bytes: int
    """Largest number of bytes of all owners together."""


class RunUsage(NamedTuple):
    """The amount of runs that an owner stores."""

    runs: int
    unfinished: int
    size: int


class RunEntry(NamedTuple):
    """A run as its owner sees it. Times are in seconds since 1970, by the clock of the database."""

    id: str
    kind: str
    status: str
    reason: str | None
    attempt: int
    worker: str | None
    created: float
    started: float | None
    ended: float | None
    step: int
    of: int
    loss: float | None
    learning_rate: float | None
    seconds: float
    """Time that runners have computed."""
    cancel: bool
    size: int
    base64: bool
    extra_steps: int
    fingerprint: str
    state_step: int | None
    result_size: int
    """Bytes of the result. 0: there is none."""
    now: float
    """Time of this reading."""


class Claim(NamedTuple):
    """A run that a runner may continue, with all that it needs to do so."""

    id: str
    owner: str
    kind: str
    attempt: int
    worker: str
    of: int
    step: int
    extra_steps: int
    base64: bool
    seconds: float
    size: int
    spec: bytes
    state: bytes | None
    """The last state. None: the run begins at its start."""
    last_record: int
    """Step of the last record that is stored. -1: there is none."""
    cancel: bool
    fingerprint: str
    """The numerics of the runner before. Empty: there was none."""


class Kept(NamedTuple):
    """The answer to a runner that keeps something."""

    alive: bool
    """Whether the claim still holds. If not, nothing was kept, and the runner must drop the run."""
    cancel: bool
    others_wait: bool


class Progress(NamedTuple):
    """The step that a run has reached."""

    step: int
    loss: float | None
    learning_rate: float | None
    seconds: float
    """Time that runners have computed so far, in all attempts."""
