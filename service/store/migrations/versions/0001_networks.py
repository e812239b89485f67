"""Create the tables of stored networks."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_blobs"),
    )
    op.create_index("ix_blobs_size", "blobs", ["size"])
    op.create_table(
        "networks",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("definition", sa.String(64), nullable=False),
        sa.Column("parameters", sa.String(64)),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("brief", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["definition"], ["blobs.id"], name="fk_networks_definition"),
        sa.ForeignKeyConstraint(["parameters"], ["blobs.id"], name="fk_networks_parameters"),
        sa.PrimaryKeyConstraint("id", name="pk_networks"),
    )
    op.create_index("ix_networks_definition", "networks", ["definition"])
    op.create_index("ix_networks_parameters", "networks", ["parameters"])
    op.create_table(
        "owners",
        sa.Column("owner", sa.String(80), nullable=False),
        sa.Column("network", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["network"], ["networks.id"], name="fk_owners_network"),
        sa.PrimaryKeyConstraint("owner", "network", name="pk_owners"),
    )
    op.create_index("ix_owners_network", "owners", ["network"])
    op.create_index("ix_owners_used", "owners", ["used"])
    op.create_index("ix_owners_owner_created_network_size", "owners", ["owner", "created", "network", "size"])
