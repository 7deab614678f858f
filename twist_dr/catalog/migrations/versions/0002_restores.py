"""The log of restores."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# Types are spelled out: a migration must stay what it was when the models go on.
_id = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "restores",
        sa.Column("restore_id", _id, primary_key=True),
        sa.Column("application", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("backup_id", _id),
        sa.Column("undone_id", _id),
        sa.Column("sources", sa.JSON, nullable=False),
        sa.Column("passed_over", sa.JSON, nullable=False),
        sa.Column("verified", sa.Boolean, nullable=False),
        sa.Column("parts", sa.JSON, nullable=False),
        sa.Column("tables", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("files", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", _time, nullable=False),
        sa.Column("finished_at", _time),
        sa.Column("seconds", sa.JSON, nullable=False),
        sa.Column("seconds_locked_out", sa.Double),
        sa.Column("database", sa.Text),
        sa.Column("replaced", sa.JSON, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("run_id", sa.String(64)),
    )
    op.create_index("ix_restores_list", "restores", ["application", "started_at"])
