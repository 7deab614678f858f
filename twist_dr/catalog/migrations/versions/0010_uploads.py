"""What was stored on targets whose provider takes only so much a day, by the hour."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("target", sa.String(64), primary_key=True),
        sa.Column("hour", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )
