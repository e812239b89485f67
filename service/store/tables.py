"""The tables of the database. A change here needs a migration in `migrations/versions`; a test compares the two.

blobs      bytes by the hash of their content: definitions and parameters, each stored once
networks   networks by the hash of their content
owners     the owners of each network; one network may have several

Times are seconds since 1970. Large values are in a table of their own, so that counting and listing do not read them.
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
"""Number of hexadecimal digits of a SHA-256 hash."""

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
    """The name of a key. The empty name owns what was stored while the server had no keys."""
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
