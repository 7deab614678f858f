"""How far each target's archive of WAL reaches, and what recoveries aimed at."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# Types are spelled out: a migration must stay what it was when the models go on.
_time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("restores", sa.Column("recovery_point", sa.Text))
    op.create_table(
        "wal_frontiers",
        sa.Column("application", sa.String(64), primary_key=True),
        sa.Column("target", sa.String(64), primary_key=True),
        sa.Column("system_identifier", sa.String(20)),
        sa.Column("timeline", sa.BigInteger),
        sa.Column("lsn", sa.String(20)),
        sa.Column("at", _time),
        sa.Column("updated_at", _time, nullable=False),
        sa.Column("waiting", sa.Integer, nullable=False),
        sa.Column("oldest_seconds", sa.Double, nullable=False),
        sa.Column("spool_bytes", sa.BigInteger, nullable=False),
        sa.Column("gaps", sa.JSON, nullable=False),
        sa.Column("error", sa.Text),
    )
