"""Consistent copies of databases that others go on writing: SQLite files, and tables in PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from twist_dr.errors import DatabaseError, ProcessFailed, SourceUnreadable, StagingFull
from twist_dr.postgres.cluster import Cluster, named_errors, query
from twist_dr.postgres.dump import Write, custom_dump
from twist_dr.postgres.sessions import APPLYING
from twist_dr.postgres.tools import Tools, choose_tools, find_tools
from twist_dr.repository.table_names import in_quotes
from twist_dr.system.processes import run
from twist_dr.system.words import few

#: How long a database that somebody else keeps locked is waited for.
LOCK_SECONDS = 15.0
#: Pages copied between two looks at whether to stop: 16 MiB with SQLite's usual page.
_PAGES_AT_ONCE = 4096
_BUSY = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED
#: Lines of a damaged database's findings that are worth telling.
_FINDINGS = 3
_LOCK_WAIT_SECONDS = 60


@dataclass(frozen=True)
class SqliteDatabase:
    """A SQLite file."""

    path: Path

    def size(self) -> int:
        """Bytes that a copy may take; what lies in the write-ahead log becomes part of it."""
        return sum(
            path.stat().st_size
            for path in (self.path, self.path.with_name(f"{self.path.name}-wal"))
            if path.is_file()  # the log comes and goes
        )


@dataclass(frozen=True)
class PostgresTables:
    """Some tables of a PostgreSQL database, by the names under which its search path finds them.

    ``setting`` is where its URL is written, for messages. With ``may_lack``, tables that are not there are passed over, unless all are.
    """

    cluster: Cluster
    tables: tuple[str, ...]
    setting: str
    may_lack: bool = False


def copy_sqlite(source: Path, copy: Path, stop: Callable[[], None] = lambda: None) -> None:
    """Copy a database as it is at one moment into the new file ``copy``, mode 0600. Writers go on meanwhile.

    ``stop`` is called now and then and may raise. Raises ``SourceUnreadable`` (no such file, no database, locked for too long) and
    ``StagingFull``; then there is no ``copy``.
    """
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with _named_errors(source, copy), closing(_reading(source)) as origin, closing(sqlite3.connect(copy)) as target:
            # It lies in a folder that is thrown away after a crash.
            target.execute("PRAGMA synchronous = OFF")
            # Without a transaction of its own, a copy in steps begins anew whenever somebody else has written: see
            # https://sqlite.org/c3ref/backup_finish.html. Ours are in WAL mode, where a reader stops no writer.
            origin.execute("BEGIN")
            origin.execute("SELECT count(*) FROM sqlite_master").fetchone()
            deadline = time.monotonic() + LOCK_SECONDS

            def step(status: int, remaining: int, total: int) -> None:
                nonlocal deadline
                stop()
                if status not in _BUSY:
                    deadline = time.monotonic() + LOCK_SECONDS
                elif time.monotonic() > deadline:  # sqlite3 itself would try for ever
                    raise sqlite3.OperationalError("database is locked")

            origin.backup(target, pages=_PAGES_AT_ONCE, progress=step)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise


def sqlite_damage(path: Path) -> str | None:
    """What ``PRAGMA integrity_check`` finds in a file that nobody writes, in one line; None when it is whole."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as connection:
            found = [str(line) for (line,) in connection.execute(f"PRAGMA integrity_check({_FINDINGS})")]
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == ["ok"] else " ".join(" ".join(found).split())


def dump_tables(source: PostgresTables, client_tools: Sequence[Path], write: Write) -> list[str]:
    """Write a custom-format dump of the tables, all of one moment; returns what pg_dump warned of. Nobody waits for it.

    Raises ``DatabaseError`` and kinds of it: no connection, a table missing, no fitting client tools, pg_dump failed.
    """
    cluster = replace(source.cluster, setting=source.setting)
    schemas = _searched(cluster)
    with cluster.connect() as connection:
        major = connection.info.server_version // 10000
        with named_errors("to list the tables"):
            rows = query(
                connection,
                """SELECT DISTINCT ON (c.relname) c.relname, n.nspname, c.relname
                     FROM unnest(%(schemas)s::text[]) WITH ORDINALITY AS searched(name, place)
                     JOIN pg_namespace n ON n.nspname = searched.name JOIN pg_class c ON c.relnamespace = n.oid
                    WHERE c.relname = ANY(%(names)s::text[]) ORDER BY c.relname, searched.place""",
                {"schemas": schemas, "names": list(source.tables)},
            )
    missing = sorted(set(source.tables) - {name for name, _, _ in rows})
    if missing and (not rows or not source.may_lack):
        raise DatabaseError(
            f"{source.cluster.place} has no table {', '.join(missing[:3])}",
            remedy=f"correct {source.setting}, or the rights of its role",
        )
    tools = choose_tools(find_tools(client_tools), major)
    return _dump(cluster, tools, [(schema, name) for _, schema, name in rows], write)


def _searched(cluster: Cluster) -> list[str]:
    """The schemas in which a session of the tables' user finds them. Nothing else is asked where they may lead elsewhere."""
    with cluster.connect(settings=APPLYING) as connection, named_errors("to say where it looks for tables"):
        return list(query(connection, "SELECT pg_catalog.current_schemas(true)::pg_catalog.text[]")[0][0])


def _dump(cluster: Cluster, tools: Tools, tables: Sequence[tuple[str, str]], write: Write) -> list[str]:
    options = [f"--table={in_quotes(schema)}.{in_quotes(name)}" for schema, name in tables]
    dumped = custom_dump(cluster, tools, [f"--lock-wait-timeout={_LOCK_WAIT_SECONDS}s", *options], write)
    # Names of tables of ours and of Dagster are ASCII in any encoding; their schema's need not be.
    if lacking := sorted({name for _, name in tables} - {name.decode(errors="replace") for _, name in dumped.tables}):
        raise ProcessFailed(
            f"pg_dump reported success but left out {few(lacking)}", remedy="check the rights of the role"
        )
    return dumped.warnings


def dump_damage(dump: Path, client_tools: Sequence[Path]) -> str | None:
    """What pg_restore says of a dump that it cannot read to the end; None when it can. Raises ``ClientToolsMissing``."""
    tools = choose_tools(
        sorted(find_tools(client_tools), key=lambda each: -each.major)[:1], 0, purpose="read a dump of"
    )
    try:
        run([tools.program("pg_restore"), "--file=/dev/null", dump])
    except ProcessFailed as error:
        return str(error)
    return None


def _reading(source: Path) -> sqlite3.Connection:
    # Not mode=ro: a reader of a database in WAL mode has to make the file with the log's index, where no writer has it open.
    return sqlite3.connect(f"file:{quote(str(source))}?mode=rw", uri=True, timeout=LOCK_SECONDS, isolation_level=None)


@contextmanager
def _named_errors(source: Path, copy: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if "disk is full" in str(error):
            raise StagingFull(
                f"The disk of {copy.parent} is full", remedy="free space there, or set work_dir to a larger disk"
            ) from error
        remedy = (
            "find out which process keeps it locked, then run the backup again"
            if "locked" in str(error)
            else "see that it is there, that this user may read and write it, and that its disk works"
        )
        raise SourceUnreadable(f"The database {source} cannot be copied ({error})", remedy=remedy) from error
