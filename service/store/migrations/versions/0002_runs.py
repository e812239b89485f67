"""Create the tables of runs, their records, and their states and results."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(80), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("spec", sa.String(64), nullable=False),
        sa.Column("base64", sa.Boolean(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("cancel", sa.Boolean(), nullable=False),
        sa.Column("worker", sa.String(255)),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("queued_at", sa.Double(), nullable=False),
        sa.Column("started", sa.Double()),
        sa.Column("ended", sa.Double()),
        sa.Column("of", sa.BigInteger(), nullable=False),
        sa.Column("extra_steps", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("last_record", sa.BigInteger(), nullable=False),
        sa.Column("loss", sa.Double()),
        sa.Column("learning_rate", sa.Double()),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("state", sa.String(16)),
        sa.Column("state_step", sa.BigInteger()),
        sa.Column("result", sa.String(16)),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("spec_size", sa.BigInteger(), nullable=False),
        sa.Column("state_size", sa.BigInteger(), nullable=False),
        sa.Column("result_size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["spec"], ["blobs.id"], name="fk_runs_spec"),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_ended", "runs", ["ended"])
    op.create_index("ix_runs_owner_created_id", "runs", ["owner", "created", "id"])
    op.create_index("ix_runs_owner_idempotency_key", "runs", ["owner", "idempotency_key"], unique=True)
    op.create_index("ix_runs_spec", "runs", ["spec"])
    op.create_index("ix_runs_status_queued_at", "runs", ["status", "queued_at"])

    op.create_table(
        "parts",
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_parts_run"),
        sa.PrimaryKeyConstraint("run", "name", "number", name="pk_parts"),
    )
    op.create_table(
        "records",
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("lines", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_records_run"),
        sa.PrimaryKeyConstraint("run", "first", name="pk_records"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # States are arrays of floating-point numbers. PostgreSQL would spend a second on 20 MB that do not compress.
        op.execute("ALTER TABLE parts ALTER COLUMN content SET STORAGE EXTERNAL")
