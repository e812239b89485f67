"""The tables of the database. A change here needs a migration in `migrations/versions`; a test compares the two.

blobs      bytes by the hash of their content: definitions and parameters, each stored once
networks   networks by the hash of their content
owners     the owners of each network; one network may have several
runs       computations in steps, which wait, are computed by a runner, or have ended
records    the lines of the steps of each run, many steps in one row
parts      the state and the result of each run, in pieces

Times are seconds since 1970. Large values are in a table of their own, so that counting and listing do not read them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypedColumns,
)

HASH = 64
"""Number of hexadecimal digits of a SHA-256 hash."""
RUN_DIGITS, PART_DIGITS = 32, 16
"""Numbers of hexadecimal digits of the id of a run, and of the name of a state or result."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Metadata of all tables. Constraints get the same names in every database, so that migrations can refer to them."""


class BlobColumns(TypedColumns):
    """The columns of `blobs`."""

    id = Column(String(HASH), primary_key=True)
    size = Column(BigInteger, nullable=False)
    content = Column(LargeBinary, nullable=False)


class NetworkColumns(TypedColumns):
    """The columns of `networks`."""

    id = Column(String(HASH), primary_key=True)
    format = Column(String(16), nullable=False)
    definition = Column(String(HASH), ForeignKey("blobs.id"), nullable=False, index=True)
    parameters = Column(String(HASH), ForeignKey("blobs.id"), index=True)
    size = Column(BigInteger, nullable=False)
    """Number of bytes of both blobs."""
    created = Column(Double, nullable=False)
    brief = Column(Text, nullable=False)
    """JSON of the entry in a listing, at most a few kilobytes."""
    summary = Column(Text, nullable=False)
    """JSON that describes the network to callers, who need not read the network itself."""


class OwnerColumns(TypedColumns):
    """The columns of `owners`."""

    owner = Column(String(80), primary_key=True)
    """The name of a key. The empty name owns what was stored while the server had no keys.

    `run:` and the id of a run: the network is kept for this run.
    """
    network = Column(String(HASH), ForeignKey("networks.id"), primary_key=True, index=True)
    size = Column(BigInteger, nullable=False)
    created = Column(Double, nullable=False)
    used = Column(Double, nullable=False, index=True)


blobs = Table(
    "blobs", metadata, BlobColumns, Index(None, "size")
)  # for the sum that is computed before a network is added
networks = Table("networks", metadata, NetworkColumns)
# The index serves the pages of a listing and the sum of an owner.
owners = Table("owners", metadata, OwnerColumns, Index(None, "owner", "created", "network", "size"))


class RunColumns(TypedColumns):
    """The columns of `runs`. A runner updates its row several times a second, so large values stand elsewhere."""

    id = Column(String(RUN_DIGITS), primary_key=True)
    owner = Column(String(80), nullable=False)
    """The name of a key, as in `owners`."""
    kind = Column(String(16), nullable=False)
    spec = Column(String(HASH), ForeignKey("blobs.id"), nullable=False, index=True)
    """The request as it was sent."""
    base64 = Column(Boolean, nullable=False)
    """Whether records and results hold arrays as base64."""
    fingerprint = Column(String(HASH), nullable=False)
    """The numerics of the last runner. Empty: none has claimed the run."""
    idempotency_key = Column(String(255))
    status = Column(String(16), nullable=False)
    reason = Column(Text)
    cancel = Column(Boolean, nullable=False)
    """Whether the runner is asked to cancel the run."""
    worker = Column(String(255))
    """The runner that computes the run. None: nobody does."""
    attempt = Column(Integer, nullable=False)
    """Number of claims so far."""
    failures = Column(Integer, nullable=False)
    """Number of claims since the state last moved on."""
    lease_until = Column(Double, nullable=False)
    """Time until which only `worker` may continue the run. 0 for a run that waits."""
    created = Column(Double, nullable=False)
    queued_at = Column(Double, nullable=False)
    started = Column(Double)
    ended = Column(Double, index=True)
    of = Column(BigInteger, nullable=False)
    extra_steps = Column(BigInteger, nullable=False)
    """Number of steps in `of` that were added by resuming the run."""
    step = Column(BigInteger, nullable=False)
    last_record = Column(BigInteger, nullable=False)
    """Step of the last record. -1: there is none."""
    loss = Column(Double)
    learning_rate = Column(Double)
    seconds = Column(Double, nullable=False)
    """Time in seconds that runners have computed."""
    state = Column(String(PART_DIGITS))
    """Name of the parts with the state."""
    state_step = Column(BigInteger)
    result = Column(String(PART_DIGITS))
    """Name of the parts with the result."""
    size = Column(BigInteger, nullable=False)
    """Number of bytes of request, records, state and result."""
    spec_size = Column(BigInteger, nullable=False)
    state_size = Column(BigInteger, nullable=False)
    result_size = Column(BigInteger, nullable=False)


class RecordColumns(TypedColumns):
    """The columns of `records`."""

    run = Column(String(RUN_DIGITS), ForeignKey("runs.id"), primary_key=True)
    first = Column(BigInteger, primary_key=True, autoincrement=False)
    """Step of the first record in `lines`."""
    last = Column(BigInteger, nullable=False)
    lines = Column(LargeBinary, nullable=False)
    """JSON values, each followed by a line feed."""


class PartColumns(TypedColumns):
    """The columns of `parts`.

    Parts whose name the run does not have are of a state that was never completed. They are removed with the next one.
    """

    run = Column(String(RUN_DIGITS), ForeignKey("runs.id"), primary_key=True)
    name = Column(String(PART_DIGITS), primary_key=True)
    number = Column(Integer, primary_key=True, autoincrement=False)
    content = Column(LargeBinary, nullable=False)


runs = Table(
    "runs",
    metadata,
    RunColumns,
    Index(None, "owner", "created", "id"),
    Index(None, "owner", "idempotency_key", unique=True),
    Index(None, "status", "queued_at"),
)
records = Table("records", metadata, RecordColumns)
parts = Table("parts", metadata, PartColumns)
