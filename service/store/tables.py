"""The tables. A change here needs a migration in `migrations/versions`; a test compares the two.

blobs      bytes by the hash of their content: definitions and parameters, each stored once
networks   a network by the hash of its content
owners     whose it is; the same network may belong to several

Times are seconds since 1970. Large values stand in a table of their own, so that nobody reads them who counts or lists.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypedColumns,
)

HASH = 64
"""Digits of a SHA-256."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Constraints have the same names in every database, so that migrations can name them."""


class BlobColumns(TypedColumns):
    """Columns of `blobs`."""

    id = Column(String(HASH), primary_key=True)
    size = Column(BigInteger, nullable=False)
    content = Column(LargeBinary, nullable=False)


class NetworkColumns(TypedColumns):
    """Columns of `networks`."""

    id = Column(String(HASH), primary_key=True)
    format = Column(String(16), nullable=False)
    definition = Column(String(HASH), ForeignKey("blobs.id"), nullable=False, index=True)
    parameters = Column(String(HASH), ForeignKey("blobs.id"), index=True)
    size = Column(BigInteger, nullable=False)
    """Bytes of both blobs."""
    created = Column(Double, nullable=False)
    brief = Column(Text, nullable=False)
    """JSON of a line of a listing, at most a few kilobytes."""
    summary = Column(Text, nullable=False)
    """JSON that tells callers of the network without reading it."""


class OwnerColumns(TypedColumns):
    """Columns of `owners`."""

    owner = Column(String(80), primary_key=True)
    """The name of a key; "" owns what was stored while the server had none."""
    network = Column(String(HASH), ForeignKey("networks.id"), primary_key=True, index=True)
    size = Column(BigInteger, nullable=False)
    created = Column(Double, nullable=False)
    used = Column(Double, nullable=False, index=True)


blobs = Table("blobs", metadata, BlobColumns, Index(None, "size"))  # the sum is asked before a network is added
networks = Table("networks", metadata, NetworkColumns)
# For the pages of a listing, and for the sum of an owner.
owners = Table("owners", metadata, OwnerColumns, Index(None, "owner", "created", "network", "size"))
