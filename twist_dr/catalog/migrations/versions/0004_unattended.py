"""What runs by itself: holds, alerts, attempts, audit, space on targets; chains and texts of backups beside the manifest."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# Types are spelled out: a migration must stay what it was when the models go on.
_id = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("backups", sa.Column("chain", sa.JSON))
    _fill_chains()
    op.add_column("backups", sa.Column("search", sa.Text, nullable=False, server_default=""))
    _fill_search()
    wide = ["application", "started_at", "backup_id", "kind", "label", "search"]
    op.create_index("ix_backups_search", "backups", wide, postgresql_where=sa.text("false"))
    op.create_index("ix_copies_state", "copies", ["state", "backup_id", "target"])
    if op.get_bind().dialect.name == "postgresql":
        # Manifests leave the table's own pages also when they could be packed into them: a search reads those pages, all of them.
        op.execute("ALTER TABLE backups SET (toast_tuple_target = 512)")
    op.create_table(
        "holds",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("application", sa.String(64), nullable=False),
        sa.Column("backup_id", _id, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("placed_at", _time, nullable=False),
        sa.Column("until", _time),
        sa.Column("released_at", _time),
        sa.Column("released_by", sa.Text),
    )
    op.create_index("ix_holds_application", "holds", ["application", "backup_id"])
    op.create_table(
        "alerts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("application", sa.String(64), nullable=False),
        sa.Column("cause", sa.String(200), nullable=False),
        sa.Column("open_cause", sa.String(200)),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("advice", sa.Text, nullable=False),
        sa.Column("raised_at", _time, nullable=False),
        sa.Column("seen_at", _time, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
        sa.Column("acknowledged_at", _time),
        sa.Column("acknowledged_by", sa.Text),
        sa.Column("resolved_at", _time),
        sa.Column("resolved_by", sa.Text),
        sa.Column("told_at", _time),
        sa.Column("told_severity", sa.String(16)),
        sa.Column("run_id", sa.String(64)),
        sa.UniqueConstraint("application", "open_cause", name="uq_alerts_application_open_cause"),
    )
    op.create_index("ix_alerts_list", "alerts", ["application", "raised_at"])
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.String(64), primary_key=True),
        sa.Column("application", sa.String(64), nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("label", sa.String(32)),
        sa.Column("scheduled_for", _time),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("started_at", _time, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("finished_at", _time),
        sa.Column("step", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("error_type", sa.String(64)),
    )
    op.create_index("ix_attempts_list", "attempts", ["application", "started_at"])
    op.create_table(
        "audit",
        sa.Column("application", sa.String(64), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", _time, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    op.create_table(
        "space",
        sa.Column("target", sa.String(64), primary_key=True),
        sa.Column("at", _time, primary_key=True),
        sa.Column("used_bytes", sa.BigInteger),
        sa.Column("free", sa.BigInteger),
        sa.Column("total", sa.BigInteger),
    )
    op.create_table(
        "deliveries",
        sa.Column("application", sa.String(64), primary_key=True),
        sa.Column("channel", sa.String(64), primary_key=True),
        sa.Column("ok", sa.Boolean, nullable=False),
        sa.Column("at", _time, nullable=False),
        sa.Column("since", _time, nullable=False),
        sa.Column("error", sa.Text),
    )
    op.create_table(
        "marks",
        sa.Column("application", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("document", sa.JSON, nullable=False),
    )


def _fill_chains() -> None:
    """What a retention plan asks of every base backup, out of its manifest."""
    connection = op.get_bind()
    backups = sa.table(
        "backups", sa.column("backup_id"), sa.column("kind"), sa.column("manifest"), sa.column("chain", sa.JSON)
    )
    for backup_id in connection.scalars(sa.select(backups.c.backup_id).where(backups.c.kind == "base")).all():
        ours = backups.c.backup_id == backup_id
        manifest = connection.scalar(sa.select(backups.c.manifest).where(ours))
        try:
            chain = json.loads(manifest or "")["base"]["chain"]
        except (ValueError, KeyError, TypeError):
            continue
        connection.execute(backups.update().where(ours).values(chain=chain))


def _fill_search() -> None:
    """What a search looks into: the texts of a backup, in one case."""
    connection = op.get_bind()
    names = ("backup_id", "reason", "who", "app_version", "db_schema_version")
    backups = sa.table("backups", *map(sa.column, names), sa.column("search"))
    texts = [
        {"id": row[0], "told": "\n".join(text.casefold() for text in row if text)}
        for row in connection.execute(sa.select(*(backups.c[name] for name in names)))
    ]
    if texts:
        update = backups.update().where(backups.c.backup_id == sa.bindparam("id")).values(search=sa.bindparam("told"))
        connection.execute(update, texts)
