"""What a verification compared: content, or, as all before, counts of rows; and how long the content took."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("verifications", sa.Column("proved", sa.String(16), nullable=False, server_default="counts"))
    op.add_column("verifications", sa.Column("content_seconds", sa.Double))
