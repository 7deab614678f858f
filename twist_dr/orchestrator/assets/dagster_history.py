"""Where a Dagster instance keeps its history. Not public API: ``twist_dr_tests/orchestrator/test_dagster_history.py`` pins what we rely on."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

import os
from pathlib import Path

import dagster as dg

from twist_dr.backup.configuration import History, HistoryFiles
from twist_dr.backup.from_settings import libpq_url
from twist_dr.backup.snapshots import PostgresTables
from twist_dr.postgres.cluster import Cluster

#: Where the file of each of Dagster's storages lies in the archive, as it does below DAGSTER_HOME unless somebody moved it.
_FOLDERS = {"run": "history", "event log": "history/runs", "schedule": "schedules"}


def find_history(instance: dg.DagsterInstance) -> History:
    """Runs, events and schedules of an instance: in SQLite files, in PostgreSQL, or in some other way that is said to be missing."""
    if instance.is_ephemeral:
        return History(
            missing="dagster: the instance keeps its history in memory, so none is in the backup; set DAGSTER_HOME to a folder with a dagster.yaml"
        )
    found = History()
    databases: dict[str, Path] = {}
    logs: Path | None = None
    urls: dict[str, set[str]] = {}
    unknown = []
    storages = {
        "run": instance.run_storage,
        "event log": instance.event_log_storage,
        "schedule": instance.schedule_storage,
    }
    for what, storage in storages.items():
        if storage is None:  # an instance may have none for schedules
            continue
        name = type(storage).__name__
        url = getattr(storage, "postgres_url", None)
        file, folder = _sqlite_place(storage)
        if isinstance(url, str):
            urls.setdefault(libpq_url(url), set()).update(_tables(what))
            found.told[what] = Cluster(libpq_url(url)).place
        elif file is not None:
            databases[f"{_FOLDERS[what]}/{file.name}"] = file
            logs = folder or logs
            found.told[what] = str(file)
        else:
            unknown.append(f"the {what} storage {name}")
    if databases:
        found.places.append(HistoryFiles(databases, logs, _FOLDERS["event log"]))
    found.places += [
        PostgresTables(Cluster(url), (*sorted(tables), "alembic_version"), "dagster.yaml", may_lack=True)
        for url, tables in urls.items()
    ]
    if unknown:
        found.missing = f"dagster: twist-dr cannot copy {' and '.join(unknown)}, so what is in there is not in the backup; back it up by its own means"
    return found


def own_files(settings_file: Path, instance: dg.DagsterInstance) -> list[Path]:
    """The files that tell Dagster and us what to do, where they are usually; some may not exist."""
    home = Path(os.environ.get("DAGSTER_HOME") or instance.root_directory)
    folders = dict.fromkeys([home, settings_file.parent, Path.cwd()])
    return [settings_file, home / "dagster.yaml", *(folder / "workspace.yaml" for folder in folders)]


def _sqlite_place(storage: object) -> tuple[Path | None, Path | None]:
    """A storage's SQLite file, and the folder that holds one more for each run; None where there is none."""
    folder, path_for_shard = getattr(storage, "_base_dir", None), getattr(storage, "path_for_shard", None)
    if isinstance(folder, str) and callable(path_for_shard):
        return Path(str(path_for_shard("index"))), Path(folder)
    # The event log that keeps all runs in one file has one, as runs and schedules have.
    connection = getattr(storage, "_conn_string", None)
    if isinstance(connection, str) and connection.startswith("sqlite:///") and "mode=memory" not in connection:
        return Path(connection.removeprefix("sqlite:///")), None
    return None, None


def _tables(what: str) -> set[str]:
    """The tables of one of Dagster's storages."""
    from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
    from dagster._core.storage.runs.schema import RunStorageSqlMetadata
    from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata

    metadata = {
        "run": RunStorageSqlMetadata,
        "event log": SqlEventLogStorageMetadata,
        "schedule": ScheduleStorageSqlMetadata,
    }
    return set(metadata[what].tables)
