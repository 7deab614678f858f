"""The rows and files in which Dagster keeps its history. Not public API: ``twist_dr_tests/orchestrator/jobs/test_history.py`` pins what we rely on."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._serdes import deserialize_value
from sqlalchemy import ColumnElement, Connection, and_, delete, func, not_, or_, select

from twist_dr.backup.configuration import HistoryFiles
from twist_dr.backup.snapshots import LOCK_SECONDS, PostgresTables
from twist_dr.errors import SettingsError
from twist_dr.orchestrator.assets.dagster_history import find_history
from twist_dr.postgres.cluster import query

_events, _checks = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
#: The run of events that have none.
_NO_RUN = ""
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Rows in one statement: SQLite takes 999 values.
_AT_ONCE = 500
#: A SQLite file is written anew when so much of it, and so many bytes, are empty, and no more than the third number are not: whoever wants
#: to write waits meanwhile, which Dagster does for five seconds. Else what is empty is used again.
_EMPTY_PART, _EMPTY_BYTES, _MOST_BYTES = 0.25, 8 << 20, 256 << 20


class HistoryRows:
    """What an instance keeps of one application: assets whose key begins with its name, and runs by their ids.

    Raises ``SettingsError`` for storages that are not Dagster's own SQL ones.
    """

    def __init__(self, instance: dg.DagsterInstance, application: str) -> None:
        runs, events = instance.run_storage, instance.event_log_storage
        if not isinstance(runs, SqlRunStorage) or not isinstance(events, SqlEventLogStorage):
            raise SettingsError(
                f"Dagster keeps its history in {type(runs).__name__} and {type(events).__name__}, which cleanup cannot shorten",
                remedy="see to it by their own means",
            )
        self._instance = instance
        self._runs = runs
        self._event_log = events
        self._application = application
        # An asset's key is stored as JSON: ["erp", "full_backup"].
        self._prefix = dg.AssetKey([application]).to_string()[:-1] + ", "

    # -- what stays ------------------------------------------------------------------------------------------------------

    def told_by(self) -> set[str]:
        """The runs that the newest event of each kind of each asset came from, and the newest of each check, ended and not."""
        with self._event_log.index_connection() as connection:
            events = select(_events.run_id).where(_events.id.in_(self._newest_events(connection)))
            checks = select(_checks.run_id).where(_checks.id.in_(self._newest_checks(connection)))
            return {run_id for (run_id,) in connection.execute(events.union(checks)) if run_id}

    def _newest_events(self, connection: Connection) -> list[int]:
        groups = (_events.asset_key, _events.dagster_event_type, _events.partition)
        newest = select(func.max(_events.id)).where(self._of_ours(_events.asset_key)).group_by(*groups)
        return list(connection.execute(newest).scalars())

    def _newest_checks(self, connection: Connection) -> list[int]:
        groups = (_checks.asset_key, _checks.check_name, _checks.partition, _checks.execution_status)
        newest = select(func.max(_checks.id)).where(self._of_ours(_checks.asset_key)).group_by(*groups)
        return list(connection.execute(newest).scalars())

    def _of_ours(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        return column.startswith(self._prefix, autoescape=True)

    # -- what goes -------------------------------------------------------------------------------------------------------

    def delete_runs(self, run_ids: Sequence[str]) -> None:
        """Events and logs first, the runs' own rows last: what is cut short between the two is found again by the next cleanup."""
        for run_id in run_ids:
            if _RUN_ID.fullmatch(run_id):
                self._instance.compute_log_manager.delete_logs(prefix=[run_id])
                self._delete_shard(run_id)
        with self._event_log.index_connection() as connection:
            gone = select(_events.id).where(_events.run_id.in_(run_ids))
            connection.execute(delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_(gone)))
            connection.execute(delete(SqlEventLogStorageTable).where(_events.run_id.in_(run_ids)))
            connection.execute(delete(AssetCheckExecutionsTable).where(_checks.run_id.in_(run_ids)))
        with self._runs.connect() as connection:
            # SQLite does it not by itself: Dagster leaves foreign keys off.
            connection.execute(delete(RunTagsTable).where(RunTagsTable.c.run_id.in_(run_ids)))
            connection.execute(delete(RunsTable).where(RunsTable.c.run_id.in_(run_ids)))

    def _delete_shard(self, run_id: str) -> None:
        """The SQLite file that a run has of its own, where it has: deleting its rows would leave it as large as it was."""
        if isinstance(self._event_log, SqliteEventLogStorage):
            path = Path(self._event_log.path_for_shard(run_id))
            for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
                each.unlink(missing_ok=True)
            self._event_log._initialized_dbs.discard(run_id)

    def delete_runless(self, before: datetime) -> None:
        """Events without a run, but for the newest of each kind of each asset and check."""
        moment = before.astimezone(timezone.utc).replace(tzinfo=None)
        old = and_(_events.run_id == _NO_RUN, _events.timestamp < moment)
        connections: list[Callable[[], AbstractContextManager[Connection]]] = [self._event_log.index_connection]
        if self._event_log.is_run_sharded:
            connections.append(lambda: self._event_log.run_connection(_NO_RUN))
        for connect in connections:
            with connect() as connection:
                kept = _events.id.in_(self._newest_events(connection))
                connection.execute(
                    delete(SqlEventLogStorageTable).where(old, self._of_ours(_events.asset_key), not_(kept))
                )
            self._delete_evaluations(connect, old)
        with self._event_log.index_connection() as connection:
            about = and_(self._of_ours(_checks.asset_key), or_(_checks.run_id == _NO_RUN, _checks.run_id.is_(None)))
            kept = _checks.id.in_(self._newest_checks(connection))
            connection.execute(
                delete(AssetCheckExecutionsTable).where(about, _checks.evaluation_event_timestamp < moment, not_(kept))
            )

    def _delete_evaluations(
        self, connect: Callable[[], AbstractContextManager[Connection]], old: ColumnElement[bool]
    ) -> None:
        """Evaluations of checks, whose rows do not say in a column what they are about: the newest of each that is old stays."""
        about = and_(old, _events.dagster_event_type == DagsterEventType.ASSET_CHECK_EVALUATION.value)
        newest: set[tuple[str, str]] = set()
        last: int | None = None
        while True:
            older = about if last is None else and_(about, _events.id < last)
            wanted = select(_events.id, _events.event).where(older).order_by(_events.id.desc()).limit(_AT_ONCE)
            with connect() as connection:
                rows = connection.execute(wanted).fetchall()
                gone = [row_id for row_id, event in rows if self._is_repeated(event, newest)]
                connection.execute(delete(SqlEventLogStorageTable).where(_events.id.in_(gone)))
            if len(rows) < _AT_ONCE:
                return
            last = rows[-1][0]

    def _is_repeated(self, event: str, newest: set[tuple[str, str]]) -> bool:
        """Whether an evaluation is of a check of ours of which a newer one was seen."""
        evaluation = deserialize_value(event, EventLogEntry).get_dagster_event().asset_check_evaluation_data
        check = (evaluation.asset_key.to_string(), evaluation.check_name)
        if not check[0].startswith(self._prefix) or check not in newest:
            newest.add(check)
            return False
        return True

    # -- how large it is -------------------------------------------------------------------------------------------------

    def stored_bytes(self) -> int | None:
        """Bytes of all that the instance keeps, of other applications too; None where a database does not tell."""
        total = _folder_bytes(Path(self._instance.storage_directory()))
        for place in find_history(self._instance).places:
            if isinstance(place, HistoryFiles):
                folders = {path.parent for path in place.databases.values()}
                total += sum(
                    _folder_bytes(folder, deep=False) for folder in folders | ({place.logs} if place.logs else set())
                )
            else:
                total += _table_bytes(place)
        return total

    def give_back(self) -> list[str]:
        """Have SQLite files that are empty for a good part written anew. Returns what could not be."""
        return [
            told
            for place in find_history(self._instance).places
            if isinstance(place, HistoryFiles)
            for path in place.databases.values()
            if path.exists() and (told := _vacuum(path))
        ]


def _vacuum(path: Path) -> str | None:
    """https://www.sqlite.org/lang_vacuum.html: it needs twice the space, and nobody may read or write meanwhile for long."""
    try:
        with closing(sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
            numbers = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("freelist_count", "page_count", "page_size")
            )
            empty, pages, size = numbers
            used = (pages - empty) * size
            if empty * size < _EMPTY_BYTES or empty < pages * _EMPTY_PART or used > _MOST_BYTES:
                return None
            if shutil.disk_usage(path.parent).free < 2 * used:
                return f"{path} has {empty * size} bytes to give back, and the disk has no space to write it anew"
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        return f"{path} could not be written anew, so it stays as large as it is until the next cleanup: {error}"
    return None


def _folder_bytes(folder: Path, *, deep: bool = True) -> int:
    return sum(size for size in _sizes(folder.rglob("*") if deep else folder.glob("*")))


def _sizes(paths: Iterator[Path]) -> Iterator[int]:
    for path in paths:
        with suppress(OSError):  # a run ends, and removes a file
            if path.is_file() and not path.is_symlink():
                yield path.stat().st_size


def _table_bytes(place: PostgresTables) -> int:
    statement = "SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0)::bigint FROM unnest(%(names)s::text[]) AS name"
    with place.cluster.connect() as connection:
        return int(query(connection, statement, {"names": list(place.tables)})[0][0])
