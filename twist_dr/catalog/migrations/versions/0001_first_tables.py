"""Backups, copies, verifications, tests of storage targets.

There is no way down: a catalog can be rebuilt, and an older twist-dr refuses a newer one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Types are spelled out: a migration must stay what it was when the models go on.
_backup_id = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "backups",
        sa.Column("backup_id", _backup_id, primary_key=True),
        sa.Column("application", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("label", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("started_at", _time, nullable=False),
        sa.Column("finished_at", _time, nullable=False),
        sa.Column("parts", sa.JSON, nullable=False),
        sa.Column("plain_bytes", sa.BigInteger, nullable=False),
        sa.Column("staged_bytes", sa.BigInteger, nullable=False),
        sa.Column("app_version", sa.Text),
        sa.Column("db_schema_version", sa.Text),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.String(64)),
        sa.Column("warnings", sa.Integer, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
    )
    op.create_index("ix_backups_list", "backups", ["application", "started_at", "backup_id", "kind", "label"])
    op.create_index("ix_backups_run_id", "backups", ["run_id"])
    op.create_table(
        "copies",
        sa.Column("backup_id", _backup_id, sa.ForeignKey("backups.backup_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("target", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("form", sa.String(32), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger),
        sa.Column("seconds", sa.Double),
        sa.Column("updated_at", _time, nullable=False),
        sa.Column("checked_at", _time),
        sa.Column("error", sa.Text),
        sa.Column("run_id", sa.String(64)),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "verifications",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("backup_id", _backup_id, sa.ForeignKey("backups.backup_id", ondelete="CASCADE"), nullable=False),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", _time, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("restore_seconds", sa.Double),
        sa.Column("tables", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("files", sa.BigInteger, nullable=False),
        sa.Column("server_version", sa.Text),
        sa.Column("differences", sa.JSON, nullable=False),
        sa.Column("notes", sa.JSON, nullable=False),
        sa.Column("run_id", sa.String(64)),
        sa.UniqueConstraint("backup_id", "target", "started_at", name="uq_verifications_backup_id_target_started_at"),
    )
    op.create_table(
        "target_tests",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("at", _time, nullable=False),
        sa.Column("ok", sa.Boolean, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("capabilities", sa.JSON),
        sa.Column("error", sa.Text),
        sa.Column("seconds", sa.Double, nullable=False),
    )
    op.create_index("ix_target_tests_target_at", "target_tests", ["target", "at"])
