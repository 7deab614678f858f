"""Statistics for the planner of a restored database: they make its first queries fast, and are no part of what was restored."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from dataclasses import dataclass

from twist_dr.postgres.cluster import Cluster, Connection, first_line, query
from twist_dr.system.words import few

_TABLES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'm', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
       AND n.nspname !~ '^pg_(toast|temp)' AND n.nspname <> 'information_schema'
     ORDER BY pg_total_relation_size(c.oid) DESC
"""
#: The tables that a partitioned one is made of, foreign ones aside; none where it is not partitioned.
_PARTITIONS = """
    SELECT n.nspname, c.relname FROM pg_partition_tree(to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))) t
      JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE t.isleaf AND t.level > 0 AND c.relkind = 'r'
"""

_Name = tuple[str, str]


@dataclass(frozen=True)
class WithoutStatistics:
    """Tables that got none in ``database``, for one reason."""

    tables: list[str]
    database: str
    error: Exception

    def __str__(self) -> str:
        return (
            f"{few(self.tables)} got no statistics for the planner in {self.database}: {first_line(self.error)}; what was restored is whole, and its "
            "first queries may be slow: fix that, then run ANALYZE"
        )


def analyze(cluster: Cluster, name: str, jobs: int) -> list[WithoutStatistics]:
    """ANALYZE all tables, ``jobs`` at a time; returns what was left without statistics, by reason.

    It raises nothing of the server's: a database that was restored and compared is good without them.
    """
    waiting: queue.SimpleQueue[_Name] = queue.SimpleQueue()
    failed: list[tuple[str, Exception]] = []
    lost: list[Exception] = []

    def work() -> None:
        import psycopg

        try:
            with cluster.connect(name) as connection:
                connection.execute("SET synchronous_commit = off")
                while True:
                    table = waiting.get_nowait()
                    try:
                        _analyze_table(connection, *table)
                    except psycopg.Error as error:
                        failed.append((".".join(table), error))
        except queue.Empty:
            pass
        except Exception as error:
            lost.append(error)

    try:
        with cluster.connect(name) as connection:
            for row in query(connection, _TABLES):
                waiting.put(row)
    except Exception as error:
        failed.append(("all tables", error))
    threads = [threading.Thread(target=work, name=f"analyze {number}", daemon=True) for number in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while not waiting.empty():
        failed.append((".".join(waiting.get_nowait()), lost[0]))
    reasons = {first_line(error): error for _, error in failed}
    return [
        WithoutStatistics([table for table, each in failed if first_line(each) == reason], name, error)
        for reason, error in reasons.items()
    ]


def _analyze_table(connection: Connection, schema: str, name: str) -> None:
    """A foreign partition whose server does not let us in keeps all of its partitioned table from statistics: the others get theirs."""
    import psycopg
    from psycopg import sql

    statement = sql.SQL("ANALYZE {}")
    try:
        connection.execute(statement.format(sql.Identifier(schema, name)))
    except psycopg.Error:
        for partition in query(connection, _PARTITIONS, {"schema": schema, "name": name}):
            with suppress(psycopg.Error):
                connection.execute(statement.format(sql.Identifier(*partition)))
        raise
