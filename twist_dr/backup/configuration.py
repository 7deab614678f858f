"""Taking a configuration backup: what one needs beside the data to be at work again.

    configuration.tar, .files.jsonl   the configured files, and our own: twist-dr.yaml, dagster.yaml, workspace.yaml
    catalog.sqlite or catalog.dump    the catalog: restores, alerts, audit, holds, and the sealed manifest of every backup that it knows
    dagster.tar, .files.jsonl         the history of the Dagster instance where it is in SQLite: runs, events, schedules
    dagster.dump                      ... where it is in PostgreSQL
    contents.json                     where each of them was

All of it is stored encrypted, whatever a target's settings say. The keyring is not added: under its own lock it would be of no use.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path

from twist_dr.backup.snapshots import PostgresTables, SqliteDatabase, copy_sqlite, dump_tables, sqlite_damage
from twist_dr.backup.take import BackupPlan, Making, begin_backup, seal_backup
from twist_dr.errors import BackupError, Cancelled, SourceUnreadable
from twist_dr.repository.archive import archive_configuration, archive_media
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import Manifest, Part
from twist_dr.repository.staging import StagingArea
from twist_dr.storage.chunks import read_chunks
from twist_dr.system.progress import Report, human_bytes

#: All artifacts are of this part, whose artifacts are always encrypted.
PART: Part = "configuration"
CATALOG = "catalog"
HISTORY = "dagster"
CONTENTS = "contents.json"
#: Run logs of a history in SQLite, one file per run, are kept up to so many bytes, the newest first. What runs were there, how they
#: ended, and all that was told of assets lies in other files, which are always kept whole.
MOST_LOG_BYTES = 1 << 30


@dataclass(frozen=True)
class HistoryFiles:
    """A Dagster instance's SQLite files. ``databases`` by the names that they get in the archive; ``logs``: the folder with one per run."""

    databases: Mapping[str, Path]
    logs: Path | None = None
    logs_name: str = "history/runs"

    def newest_logs(self, most_bytes: int) -> tuple[list[Path], int]:
        """Files of runs, newest first, that fit in ``most_bytes``; and how many more there are."""
        known = set(self.databases.values())
        found = []
        for path in self.logs.glob("*.db") if self.logs is not None else ():
            try:
                found.append((path.stat().st_mtime, SqliteDatabase(path).size(), path))
            except FileNotFoundError:  # its run was removed just now
                continue
        found = sorted((each for each in found if each[2] not in known), reverse=True)
        kept: list[Path] = []
        for _, size, path in found:
            most_bytes -= size
            if most_bytes < 0:
                break
            kept.append(path)
        return kept, len(found) - len(kept)


@dataclass(frozen=True)
class ConfigurationPlan(BackupPlan):
    """A configuration backup to take."""

    #: Files of ours that are added to those of the settings.
    own_files: Sequence[Path] = ()
    catalog: SqliteDatabase | PostgresTables | None = None
    #: Where Dagster's history is, in one or several places.
    history: Sequence[HistoryFiles | PostgresTables] = ()
    #: A sentence on why some of Dagster's history, or all, is not in it.
    history_missing: str | None = None
    #: What ``contents.json`` says beside.
    contents: Mapping[str, object] = field(default_factory=dict)
    most_log_bytes: int = MOST_LOG_BYTES


def take_configuration_backup(
    plan: ConfigurationPlan, keyring: Keyring, staging: StagingArea, report: Report
) -> Manifest:
    """Make a configuration backup in the staging area. Nothing of it remains when it fails.

    Raises the errors of :mod:`twist_dr.errors` under ``BackupError`` and ``DatabaseError``, and ``Cancelled``.
    """
    backup_id = begin_backup("configuration", plan, staging, report)
    with staging.making(backup_id) as folder:
        work = _Work(plan, keyring, report, folder, backup_id)
        with work.timed("total"):
            work.take(staging)
        manifest = work.manifest("configuration")
        seal_backup(manifest, folder, keyring, staging, report)
    return manifest


class _Work(Making):
    """One configuration backup in the making."""

    def __init__(self, plan: ConfigurationPlan, keyring: Keyring, report: Report, folder: Path, backup_id: str) -> None:
        super().__init__(plan, keyring, report, folder, backup_id)
        self._what = plan
        #: Copies lie plain in here until they went through the streams.
        self._plain = folder / "plain"
        self._logs = {
            id(place): place.newest_logs(plan.most_log_bytes)
            for place in plan.history
            if isinstance(place, HistoryFiles)
        }
        self._contents: dict[str, object] = dict(plan.contents)

    def take(self, staging: StagingArea) -> None:
        size = max(self._catalog_size(), self._history_size())
        staging.need(
            self.space_needed(self._what.last_stored_bytes, self._catalog_size() + self._history_size()) + size
        )
        self._plain.mkdir(mode=0o700)
        self._back_up_files()
        self._back_up_catalog()
        self._back_up_history()
        self._plain.rmdir()
        with self.artifact(CONTENTS, PART, quiet=True) as write:
            write(json.dumps(self._contents, indent=2, sort_keys=True).encode() + b"\n")

    def _catalog_size(self) -> int:
        return self._what.catalog.size() if isinstance(self._what.catalog, SqliteDatabase) else 0

    def _history_size(self) -> int:
        files = [
            path for place in self._what.history if isinstance(place, HistoryFiles) for path in place.databases.values()
        ]
        files += [path for kept, _ in self._logs.values() for path in kept]
        return sum(SqliteDatabase(path).size() for path in files)

    def _back_up_files(self) -> None:
        patterns = [*self._what.configuration, *(escape(str(path)) for path in self._what.own_files)]
        with (
            self.timed("configuration"),
            self.artifact("configuration.tar", PART, quiet=True) as write,
            self.artifact("configuration.files.jsonl", PART, quiet=True) as write_index,
        ):
            found, empty_patterns = archive_configuration(patterns, write, write_index)
        self._note_files(PART, found)
        for sentence in empty_patterns:
            self.warn(sentence)

    def _back_up_catalog(self) -> None:
        source = self._what.catalog
        if source is None:
            return
        with self.timed(CATALOG):
            if isinstance(source, PostgresTables):
                self._dump(source, f"{CATALOG}.dump")
                return
            copy = self._plain / "catalog.sqlite"
            copy_sqlite(source.path, copy, self._stop)
            if damage := sqlite_damage(copy):
                raise BackupError(
                    f"The catalog {source.path} is damaged ({damage})",
                    remedy=(
                        "move it away and make a new one: twist-dr catalog rebuild --from TARGET. Restores, alerts and audit come back from the last "
                        "good configuration backup."
                    ),
                )
            with open(copy, "rb", buffering=0) as file, self.artifact(copy.name, PART) as write:
                for chunk in read_chunks(file):
                    write(chunk)
            copy.unlink()

    # -- Dagster's history -------------------------------------------------------------------------------------------

    def _back_up_history(self) -> None:
        if self._what.history_missing:
            self.warn(self._what.history_missing)
        dumps = 0
        with self.timed(HISTORY):
            for place in self._what.history:
                if isinstance(place, PostgresTables):
                    dumps += 1
                    self._dump(place, f"{HISTORY}.dump" if dumps == 1 else f"{HISTORY}-{dumps}.dump")
                else:
                    self._archive(place)

    def _archive(self, place: HistoryFiles) -> None:
        tree = self._plain / HISTORY
        tree.mkdir(mode=0o700)
        for name, path in place.databases.items():
            self._copy(path, tree / name)
            if damage := sqlite_damage(tree / name):
                raise BackupError(
                    f"Dagster's database {path} is damaged ({damage})",
                    remedy="stop Dagster and bring the file back from the last good configuration backup, or move it away to begin without history",
                )
        logs, left_out = self._logs[id(place)]
        kept = sum(self._copy_log(path, tree / place.logs_name / path.name) for path in logs)
        if left_out:
            self.report.info(
                f"{kept} newest run logs are in the backup; {left_out} older ones would be more than {human_bytes(self._what.most_log_bytes)} and are not"
            )
        self._contents["run_logs"], self._contents["run_logs_left_out"] = kept, left_out
        with (
            self.artifact(f"{HISTORY}.tar", PART) as write,
            self.artifact(f"{HISTORY}.files.jsonl", PART, quiet=True) as write_index,
        ):
            found = archive_media({HISTORY: tree}, write, write_index)
        self._files[HISTORY] = found.files
        shutil.rmtree(tree)

    def _copy_log(self, path: Path, copy: Path) -> bool:
        """One run's log. A bad one must not stop all backups from now on, so it is named and left out."""
        try:
            self._copy(path, copy)
            damage = sqlite_damage(copy)
        except SourceUnreadable as error:
            if not path.exists():  # its run was removed just now
                return False
            damage = str(error)
        if damage is None:
            return True
        copy.unlink(missing_ok=True)
        self.warn(f"dagster: the run log {path} cannot be read and was left out: {damage}")
        return False

    def _copy(self, source: Path, copy: Path) -> None:
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy_sqlite(source, copy, self._stop)

    def _dump(self, source: PostgresTables, name: str) -> None:
        with self.artifact(name, PART) as write:
            said = dump_tables(source, self.plan.client_tools, write)
        for line in said:
            self.warn(f"{name}: {line}")

    def _stop(self) -> None:
        if self.report.stop.is_set():
            raise Cancelled(
                "The configuration backup was stopped, and what it had begun is removed",
                remedy="start it again when you wish",
            )


@dataclass
class History:
    """Where the history is. ``missing``: why some of it, or all, cannot be copied. ``told``: each place, for people; no password."""

    places: list[HistoryFiles | PostgresTables] = field(default_factory=list)
    missing: str | None = None
    told: dict[str, str] = field(default_factory=dict)
