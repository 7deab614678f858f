"""Taking a base backup: the files of the whole cluster, by pg_basebackup, through the streams into staging.

One tar streams by in one pass. Where the cluster has tablespaces of its own pg_basebackup can only write files, one tar for each:
these lie plain in the staging folder until they went through the streams. WAL is not in a base backup: it is shipped by another way,
and a copy of a base is complete only with the WAL from its start to its stop, or its restore point, beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from twist_dr.backup.base.backup_label import BackupLabel, ManifestTail, WalRange, read_label
from twist_dr.backup.base.configuration import server_document
from twist_dr.backup.base.program import BaseBackup, IncrementalRefused
from twist_dr.backup.base.restore_point import make_restore_point
from twist_dr.backup.base.server import INCREMENTAL_MAJOR, Server, base_tools, read_server, server_clock
from twist_dr.backup.base.tar_tap import TarTap
from twist_dr.backup.take import BackupPlan, Making, begin_backup, seal_backup
from twist_dr.errors import BackupError
from twist_dr.postgres.cluster import Cluster, Connection, read_facts
from twist_dr.postgres.lock_waits import watched_locks
from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.postgres.surroundings import with_surroundings
from twist_dr.postgres.tools import Tools
from twist_dr.repository.keys import Keyring
from twist_dr.repository.kinds import BASE
from twist_dr.repository.manifest import BaseFacts, Manifest
from twist_dr.repository.staging import StagingArea
from twist_dr.storage.chunks import read_chunks
from twist_dr.system.progress import Report, human_bytes

BaseType = Literal["auto", "full", "differential", "incremental"]
(_PART,) = BASE.parts

BASE_TAR = "base.tar"
BACKUP_MANIFEST = "backup_manifest"
SERVER_DOCUMENT = "server.json"
_LABEL_FILE = "backup_label"
_CONTROL_FILE = "global/pg_control"
_LARGEST_LABEL = 1 << 16

Write = Callable[[bytes], None]


@dataclass(frozen=True)
class Parent:
    """What a differential or incremental base builds upon: its manifest, and its plain ``backup_manifest`` as a file."""

    manifest: Manifest
    backup_manifest: Path

    @property
    def base(self) -> BaseFacts:
        assert self.manifest.base is not None
        return self.manifest.base


@dataclass(frozen=True)
class BasePlan(BackupPlan):
    """A base backup to take, of part ``cluster`` alone.

    ``type`` is what was asked for; ``parent`` is there when one that builds upon it is to be tried. ``full_because`` says why there is no
    parent, and ``full_is_expected`` that nobody need be warned of it. ``last_full_bytes`` is what the last full base took in staging.
    ``checksums``: the rows of each table at the restore point get one.
    """

    type: BaseType = "auto"
    parent: Parent | None = None
    full_because: str = ""
    full_is_expected: bool = True
    last_full_bytes: int | None = None
    checksums: bool = False


def take_base_backup(
    plan: BasePlan, cluster: Cluster, keyring: Keyring, staging: StagingArea, report: Report
) -> Manifest:
    """Make a base backup in the staging area. Nothing of it remains when it fails.

    ``cluster``: a role with REPLICATION, connected to the application's database. A standby may be the source; then no rows are counted.
    Raises the errors of :mod:`twist_dr.errors` under ``BackupError`` and ``DatabaseError``, and ``Cancelled``.
    """
    backup_id = begin_backup("base", plan, staging, report)
    with cluster.connect() as connection:
        server = read_server(connection)
    tools = base_tools(plan.client_tools, server.major)
    with staging.making(backup_id) as folder:
        work = _Work(plan, cluster, server, tools, keyring, report, folder, backup_id)
        with work.timed("total"):
            work.take(staging)
        manifest = work.manifest("base", work.facts())
        seal_backup(manifest, folder, keyring, staging, report)
    return manifest


class _Work(Making):
    """One base backup in the making."""

    def __init__(
        self,
        plan: BasePlan,
        cluster: Cluster,
        server: Server,
        tools: Tools,
        keyring: Keyring,
        report: Report,
        folder: Path,
        backup_id: str,
    ) -> None:
        super().__init__(plan, keyring, report, folder, backup_id)
        self._base_plan = plan
        self._cluster = cluster
        self._server = server
        self._program = BaseBackup(cluster, tools, f"twist-dr {backup_id}", report, self.warn)
        self._client_version = tools.version
        self._parent: Parent | None = None
        self._tail = ManifestTail()
        self._label = b""
        self._control = b""
        self._stopped_at: datetime | None = None
        self._restore_point: tuple[str, str] | None = None
        self._checksums: dict[str, str] = {}

    def take(self, staging: StagingArea) -> None:
        """All artifacts, and what the manifest says of them."""
        parent = self._usable_parent()
        try:
            self._copy_files(staging, parent)
        except IncrementalRefused as refusal:
            self.warn(f"cluster: a full base backup is taken, because the server refused an incremental one: {refusal}")
            self._copy_files(staging, None)
        # A connection of its own: none is kept idle, where a firewall would forget it, while the files are copied.
        with self._cluster.connect() as connection:
            self._stopped_at = server_clock(connection)
            self._note_server(connection)
        with self.timed("restore_point"):
            self._count_rows()

    def facts(self) -> BaseFacts:
        """What the base says of itself. Raises ``BackupError`` when its parts do not fit together."""
        label, wal = read_label(self._label), self._tail.wal_range()
        _check_facts(label, wal, self._parent)
        assert self._stopped_at is not None
        name, lsn = self._restore_point or (None, None)
        return BaseFacts(
            type=self._type,
            parent=self._parent.manifest.backup_id if self._parent else None,
            chain=[*(self._parent.base.chain if self._parent else ()), self.id],
            timeline=wal.timeline,
            start_lsn=format_lsn(wal.start),
            stop_lsn=format_lsn(wal.end),
            started_at=self._server.now,
            stopped_at=self._stopped_at,
            wal_segment_size=self._server.wal_segment_size,
            data_checksums=self._server.data_checksums,
            from_standby=label.from_standby,
            tablespaces=self._server.tablespaces,
            restore_point=name,
            restore_point_lsn=lsn,
            checksums=self._checksums,
            cluster_settings=self._server.settings,
        )

    # -- full, differential or incremental -------------------------------------------------------------------------

    @property
    def _type(self) -> Literal["full", "differential", "incremental"]:
        if self._parent is None:
            return "full"
        return "differential" if self._base_plan.type == "differential" else "incremental"

    def _usable_parent(self) -> Parent | None:
        """The plan's parent, unless it is known beforehand that the server would refuse it: then why not is said."""
        plan = self._base_plan
        if plan.type == "full":
            return None
        reason, expected = plan.full_because, plan.full_is_expected
        if plan.parent is not None:
            reason, expected = self._no_incremental() or "", plan.type == "auto"
            if not reason:
                return plan.parent
        if reason:
            sentence = f"a full base backup is taken, because {reason}"
            self.report.info(sentence) if expected else self.warn(f"cluster: {sentence}")
        return None

    def _no_incremental(self) -> str | None:
        """Why this server cannot give any incremental base."""
        if self._server.major < INCREMENTAL_MAJOR:
            return f"PostgreSQL {self._server.major} takes no incremental ones ({INCREMENTAL_MAJOR} and newer do)"
        if not self._server.summarizes_wal:
            return "the server does not summarize its WAL; set summarize_wal = on in postgresql.conf and reload"
        return None

    # -- files -----------------------------------------------------------------------------------------------------

    def _copy_files(self, staging: StagingArea, parent: Parent | None) -> None:
        plan, server = self._base_plan, self._server
        apart = bool(server.tablespaces)
        known = plan.last_stored_bytes if parent else plan.last_full_bytes
        size = server.size + sum(tablespace.size or 0 for tablespace in server.tablespaces)
        # Tars that lie plain in staging first need as much space as the cluster has, beside what becomes of them.
        staging.need(self.space_needed(known, server.size) + (size if apart else 0))
        self._parent, self._tail, self._label, self._control = parent, ManifestTail(), b"", b""
        self.report.info(
            f"copying the files of {self._cluster.place} ({human_bytes(server.size)}, PostgreSQL {server.major}), "
            + (f"what changed since {parent.manifest.backup_id}, {self._type}, " if parent else "")
            + f"with pg_basebackup {self._client_version}"
        )
        incremental = parent.backup_manifest if parent else None
        with self.timed("cluster"):
            if apart:
                self._stream_files(incremental)
            else:
                self._stream(incremental)

    def _stream(self, incremental: Path | None) -> None:
        """The one tar, in one pass; its backup_manifest becomes an artifact of its own as well."""
        with (
            self.artifact(BASE_TAR, _PART) as write,
            self.artifact(BACKUP_MANIFEST, _PART, quiet=True) as write_manifest,
        ):
            tap = self._tap(write_manifest)
            for chunk in self._program.stream(incremental):
                write(chunk)
                tap.feed(chunk)
            tap.finish()

    def _stream_files(self, incremental: Path | None) -> None:
        """A tar per tablespace: written by pg_basebackup into a folder, then each through the streams and removed."""
        plain = self.folder / "plain"
        self._program.write(plain, incremental)
        expected = {BASE_TAR, BACKUP_MANIFEST, *(f"{tablespace.oid}.tar" for tablespace in self._server.tablespaces)}
        if (found := {path.name for path in plain.iterdir()}) != expected:
            raise BackupError(
                f"pg_basebackup wrote {', '.join(sorted(found))}, where {', '.join(sorted(expected))} were due: a tablespace came or went meanwhile",
                remedy="run the backup again",
            )
        for name in sorted(expected):
            tap = self._tap() if name == BASE_TAR else None
            with (
                open(plain / name, "rb", buffering=0) as file,
                self.artifact(name, _PART, quiet=name == BACKUP_MANIFEST) as write,
            ):
                for chunk in read_chunks(file):
                    write(chunk)
                    if tap is not None:
                        tap.feed(chunk)
                    elif name == BACKUP_MANIFEST:
                        self._tail.feed(chunk)
                if tap is not None:
                    tap.finish()
            (plain / name).unlink()
        plain.rmdir()

    def _tap(self, write_manifest: Write | None = None) -> TarTap:
        wanted: dict[str, Write] = {_LABEL_FILE: self._keep_label, _CONTROL_FILE: self._keep_control}
        if write_manifest is not None:

            def keep_manifest(chunk: bytes) -> None:
                write_manifest(chunk)
                self._tail.feed(chunk)

            wanted[BACKUP_MANIFEST] = keep_manifest
        return TarTap(wanted, "What pg_basebackup wrote")

    def _keep_label(self, chunk: bytes) -> None:
        self._label = (self._label + chunk)[:_LARGEST_LABEL]

    def _keep_control(self, chunk: bytes) -> None:
        self._control += chunk

    # -- facts and rows ------------------------------------------------------------------------------------------------------

    def _note_server(self, connection: Connection) -> None:
        with self.artifact(SERVER_DOCUMENT, _PART, quiet=True) as write:
            write(server_document(self._cluster, connection, self._server.tablespaces, self.warn))
        facts = with_surroundings(read_facts(connection, self._client_version), self._cluster)
        if not facts.system_identifier:
            # pg_control begins with it, as the server's own kind of number.
            facts = facts.model_copy(update={"system_identifier": str(int.from_bytes(self._control[:8], "little"))})
        self.postgres = facts

    def _count_rows(self) -> None:
        """After the copy has ended, so that the restore point lies behind its stop."""
        if self._server.in_recovery:
            self.warn(
                "cluster: taken from a standby, which makes no restore points, so no rows are recorded and its rehearsal compares none"
            )
            return
        with watched_locks(self._cluster, self.report, timeout=self.plan.lock_timeout):
            point = make_restore_point(
                self._cluster,
                f"twist_dr_{self.id}",
                self._client_version,
                self.warn,
                checksums=self._base_plan.checksums,
                stopped=self.report.stop.is_set,
            )
        if point is None:
            return
        self._restore_point = point.name, point.lsn
        self._checksums = point.checksums
        self.snapshot_at = point.at
        self.rows, self.large_objects, self.migrations = point.rows, point.large_objects, point.migrations
        assert self.postgres is not None
        self.postgres = point.postgres.model_copy(update={"system_identifier": self.postgres.system_identifier})


def _check_facts(label: BackupLabel, wal: WalRange, parent: Parent | None) -> None:
    if (label.start_lsn, label.timeline) != (wal.start, wal.timeline):
        raise BackupError(
            f"The backup_label speaks of {format_lsn(label.start_lsn)} on timeline {label.timeline}, the backup_manifest of {format_lsn(wal.start)} "
            f"on {wal.timeline}",
            remedy="run the backup again",
        )
    wanted = parse_lsn(parent.base.start_lsn) if parent else None
    if label.incremental_from != wanted:
        raise BackupError(
            f"The server made an incremental backup from {format_lsn(label.incremental_from or 0)}, where {format_lsn(wanted or 0)} was asked for",
            remedy="run the backup again with type: full",
        )
