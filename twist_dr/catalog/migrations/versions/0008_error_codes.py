"""What kind of error it was, by its code: of copies, tests of targets and positions of write-ahead log; of runs instead of a class's name.

What was recorded before has no code, for none can be told from a sentence. Its target's name, which stands beside it, goes from before it.
"""

import re

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    for table in ("copies", "target_tests", "wal_frontiers"):
        op.add_column(table, sa.Column("error_code", sa.String(64)))
        op.execute(
            f"UPDATE {table} SET error = substr(error, length(target) + 3) WHERE substr(error, 1, length(target) + 2) = target || ': '"
        )
    # Not alter_column: for SQLite, Alembic would make the table anew.
    op.execute("ALTER TABLE attempts RENAME COLUMN error_type TO error_code")
    connection = op.get_bind()
    attempts = sa.table("attempts", sa.column("error_code"))
    for (name,) in connection.execute(sa.select(attempts.c.error_code).distinct()).all():
        if name is not None:
            code = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
            connection.execute(sa.update(attempts).where(attempts.c.error_code == name).values(error_code=code))
