"""The field's words in what is stored: an alert of the archived position, one of a repair, and the table of archived positions."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.rename_table("wal_frontiers", "wal_positions")
    for former, kind in (("wal_frontier", "archived_position"), ("mended", "repaired")):
        for column in ("cause", "open_cause"):
            rest = f"substr({column}, {len(former) + 1})"
            op.execute(f"UPDATE alerts SET {column} = '{kind}' || {rest} WHERE {column} LIKE '{former}:%'")
        op.execute(f"UPDATE alerts SET kind = '{kind}' WHERE kind = '{former}'")
