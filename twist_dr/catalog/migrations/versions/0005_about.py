"""What an alert is about: which tables, backups, gaps; so that another one is told although the first was acknowledged."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("alerts", sa.Column("about", sa.JSON))
    op.add_column("alerts", sa.Column("told_about", sa.JSON, nullable=False, server_default="[]"))
