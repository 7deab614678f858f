"""How many rows of each table were inserted, updated and deleted, as the server counts them: what a backup records, and what came since.

The counters are those of https://www.postgresql.org/docs/current/monitoring-stats.html. They are told late (a session that goes idle tells its last ones after 10 seconds,
before PostgreSQL 15 with its next transaction), they count what was rolled back, and they begin anew when somebody resets them and after a crash. So a difference says
"about", and is taken only between counters that went on.
"""

from __future__ import annotations

from typing import NamedTuple

from twist_dr.postgres.cluster import Connection, query
from twist_dr.repository.manifest import Counters
from twist_dr.repository.table_names import TableName


class Changes(NamedTuple):
    """Rows, about."""

    inserted: int
    updated: int
    deleted: int


#: What changes when the counters begin anew: another database takes the place of this one; somebody resets them, of one table even (then
#: pg_stat_database tells when); a crash discards all of them, of which the archiver's, which every server has, tells.
_EPOCH = """
    SELECT concat_ws(' ', d.oid, extract(epoch FROM s.stats_reset), '/', extract(epoch FROM a.stats_reset))
      FROM pg_database d LEFT JOIN pg_stat_database s ON s.datid = d.oid CROSS JOIN pg_stat_archiver a
     WHERE d.datname = current_database() AND current_setting('track_counts')::bool AND NOT pg_is_in_recovery()
"""

_COUNTERS = """
    SELECT * FROM (
        SELECT n.nspname, c.relname, pg_stat_get_tuples_inserted(c.oid) AS inserted, pg_stat_get_tuples_updated(c.oid) AS updated,
               pg_stat_get_tuples_deleted(c.oid) AS deleted
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema') counted
     WHERE inserted + updated + deleted > 0
"""


def read_counters(connection: Connection) -> Counters | None:
    """The counters of all tables that ever had any; None where the server does not count: a standby only replays. Raises psycopg's errors."""
    epoch = query(connection, _EPOCH)
    if not epoch:
        return None
    rows = query(connection, _COUNTERS)
    # As one text each: a manifest may name 100,000 tables, and is read whole.
    return Counters(
        epoch=epoch[0][0],
        tables={TableName(schema, name).label: " ".join(map(str, each)) for schema, name, *each in rows},
    )


class ChangesSince:
    """What came between two looks at the counters. ``unknown``: why nobody can tell, half a sentence; empty where it is known."""

    def __init__(self, then: Counters | None, now: Counters | None) -> None:
        self._then, self._now = then, now
        self.unknown = ""
        if then is None:
            self.unknown = "the backup has no record of how often rows had been changed"
        elif now is None:
            self.unknown = "the server does not count changes (track_counts is off, or it is a standby)"
        elif then.epoch != now.epoch:
            self.unknown = "the server counts changes anew since then: its statistics were reset, it crashed, or another database is in its place"

    def of(self, table: TableName) -> Changes | None:
        """Of a table that is there now; None where nobody can tell."""
        if self.unknown or self._then is None or self._now is None:
            return None
        now, then = _counts(self._now, table), _counts(self._then, table)
        since = Changes(*(after - before for after, before in zip(now, then, strict=True)))
        # Less than before: another table of that name.
        return None if min(since) < 0 else since


def _counts(counters: Counters, table: TableName) -> Changes:
    """Raises ``ValueError`` for what no version wrote."""
    inserted, updated, deleted = map(int, counters.tables.get(table.label, "0 0 0").split())
    return Changes(inserted, updated, deleted)
