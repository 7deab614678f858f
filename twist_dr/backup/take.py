"""Taking a full backup: database, media and configuration as one unit, staged and sealed.

The database goes first and the media after it, so that no row points at a file that the archive lacks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.backup.tools_proof import ToolsProof
from twist_dr.django_app.asking import Asking, VersionCommand
from twist_dr.django_app.manage import DjangoApplication
from twist_dr.errors import (
    BackupError,
    ClientToolsMissing,
    DatabaseError,
    DatabaseGone,
    DatabaseUnreachable,
    SourceUnreadable,
)
from twist_dr.postgres.changes import read_counters
from twist_dr.postgres.cluster import Cluster, Snapshot, named_errors
from twist_dr.postgres.dump import dump_database, dump_members, dump_roles
from twist_dr.postgres.everybodys_settings import read_everybodys_settings
from twist_dr.postgres.extension_members import KEPT, MEMBERS, ROWS, read_kept, read_members
from twist_dr.postgres.extension_rows import write_rows
from twist_dr.postgres.left_out import left_out
from twist_dr.postgres.lock_waits import watched_locks
from twist_dr.postgres.login_triggers import login_triggers
from twist_dr.postgres.surroundings import with_surroundings
from twist_dr.postgres.tools import OLDEST_MAJOR, Tools, choose_tools, find_tools
from twist_dr.repository.archive import archive_configuration, archive_media
from twist_dr.repository.archive_report import ArchiveReport
from twist_dr.repository.artifact_names import is_artifact_name
from twist_dr.repository.encryption import associated_data
from twist_dr.repository.keys import Keyring
from twist_dr.repository.kinds import BASE, FULL
from twist_dr.repository.manifest import (
    FORMAT_VERSION,
    Artifact,
    ArtifactForm,
    BaseFacts,
    Counters,
    ExtensionMembers,
    ExtensionRows,
    KeyName,
    Kind,
    Label,
    Manifest,
    Part,
    PostgresFacts,
    ViewFacts,
    form_of,
    new_backup_id,
    schema_version,
)
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import ArtifactWriter, Form
from twist_dr.repository.table_names import TableName
from twist_dr.system.progress import Report, human_bytes, human_seconds
from twist_dr.system.words import counted, few

ALL_PARTS = FULL.parts

#: Space for a first backup, when nothing says how well the data compresses: business data shrinks to a quarter and less.
_FIRST_GUESS = 0.5
#: The next backup may be so much larger than the last before the disk check must have said no.
_GROWTH = 1.25
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class BackupPlan:
    """What to back up, and for whom. ``targets`` says in which form each storage target keeps it."""

    application: str
    targets: Mapping[str, Form]
    app_version: str | VersionCommand | None = None
    django: DjangoApplication | None = None
    """Asked what the code is that the database belongs to; None where that is not part of the backup."""
    git_revision: str | None = None
    label: Label = "manual"
    reason: str = ""
    who: str = ""
    parts: Sequence[Part] = ALL_PARTS
    media: Mapping[str, Path] = field(default_factory=dict)
    configuration: Sequence[str] = ()
    client_tools: Sequence[Path] = ()
    lock_timeout: float = 300.0
    """Seconds that locks of other sessions in the database are waited for."""
    proof: ToolsProof | None = None
    """How tools of another major version than the server's are proven; None where they are the server's own."""
    compression_level: int = 3
    compression_threads: int = 2
    last_stored_bytes: int | None = None
    """Bytes that the last backup took in staging, all forms together; None unless it had the same parts and as many forms."""
    last_plain_bytes: Mapping[str, int] = field(default_factory=dict)
    """Plain bytes of the last backup's artifacts by name, for estimates."""
    last_files: Mapping[str, int] = field(default_factory=dict)
    """Number of files in the last backup by part: media that had some and now have none are taken for lost."""

    @property
    def as_it_is(self) -> bool:
        """Whether damage is backed up too: that may be why somebody restores, so what refuses an ordinary backup only warns."""
        return self.label == "pre-restore"


def take_full_backup(
    plan: BackupPlan, cluster: Cluster, keyring: Keyring, staging: StagingArea, report: Report
) -> Manifest:
    """Make a full backup in the staging area. Nothing of it remains when it fails.

    Raises the errors of :mod:`twist_dr.errors` under ``BackupError`` and ``DatabaseError``, and ``Cancelled``.
    """
    backup_id = begin_backup("full", plan, staging, report)
    with staging.making(backup_id) as folder:
        work = _Work(plan, cluster, keyring, report, folder, backup_id)
        with work.timed("total"):
            # Measured before the snapshot is opened: while that is held, PostgreSQL cleans up no row of any table.
            media_size = work.media_size()
            if "database" not in plan.parts or not work.back_up_database(staging, media_size):
                staging.need(work.space_needed(plan.last_stored_bytes, 0, media_size))
            if "media" in plan.parts and plan.media:
                work.back_up_media()
            if "configuration" in plan.parts:
                work.back_up_configuration()
        manifest = work.manifest("full")
        seal_backup(manifest, folder, keyring, staging, report)
    return manifest


def begin_backup(kind: Kind, plan: BackupPlan, staging: StagingArea, report: Report) -> str:
    """The id of a backup that begins now, in a staging area cleared of what killed runs left. Raises ``BackupError``."""
    if not plan.targets:
        raise BackupError(
            "No storage target is chosen, so the backup would go nowhere", remedy="enable one in storage_targets"
        )
    for incomplete in staging.clear_incomplete():
        report.info(f"removed the incomplete backup {incomplete}, which was never finished")
    return new_backup_id(kind, datetime.now(timezone.utc))


def seal_backup(manifest: Manifest, folder: Path, keyring: Keyring, staging: StagingArea, report: Report) -> None:
    """Write the manifest: from here on it is a backup."""
    staging.seal(folder, manifest.seal(keyring.primary))
    report.info(
        f"{manifest.backup_id} is sealed: {human_bytes(manifest.plain_bytes)} in {human_seconds(manifest.durations['total'])}"
    )


class Making:
    """A backup in the making: its artifacts, warnings and times, what is found out meanwhile, and at the end its manifest."""

    def __init__(self, plan: BackupPlan, keyring: Keyring, report: Report, folder: Path, backup_id: str) -> None:
        self.plan = plan
        self.report = report
        self.folder = folder
        self.id = backup_id
        self.snapshot_at: datetime | None = None
        self.postgres: PostgresFacts | None = None
        self.migrations: dict[str, list[str]] = {}
        self.rows: dict[TableName, int] = {}
        self.counters: Counters | None = None
        self.large_objects = 0
        self.views: dict[str, ViewFacts] = {}
        self.extension_rows: list[ExtensionRows] = []
        self.extension_members: dict[str, ExtensionMembers] = {}
        self.left_out: list[str] = []
        self.absent: set[Part] = set()
        """Parts that were to be backed up and of which there is nothing."""
        self._asking = Asking(plan.app_version, plan.django)
        self._key = keyring.primary
        self._started_at = datetime.now(timezone.utc)
        self._artifacts: list[Artifact] = []
        self._durations: dict[str, float] = {}
        self._warnings: list[str] = []
        self._files: dict[str, int] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._durations[name] = round(time.monotonic() - begun, 3)

    def warn(self, sentence: str) -> None:
        self._warnings.append(sentence)
        self.report.warning(sentence)

    def refuse(self, part: Part, error: BackupError | DatabaseError) -> None:
        """Raise what would make this a backup of damage, or warn of it where just that is wanted."""
        if not self.plan.as_it_is:
            raise error
        self.warn(f"{part}: {error}")

    def space_needed(self, known: int | None, database_size: int, media_size: int = 0) -> int:
        """Bytes that staging must have free: from what the last backup of the same kind took, if that is known, else a cautious guess."""
        if known is not None:
            return int(known * _GROWTH) + _SPARE_BYTES
        return first_backup_space(database_size, media_size, len(set(self.plan.targets.values())))

    @contextmanager
    def artifact(self, name: str, part: Part, *, quiet: bool = False) -> Iterator[Callable[[bytes], None]]:
        """Gives what to call with the artifact's plain bytes; on a clean end the artifact is complete in all forms."""
        plan = self.plan
        assert is_artifact_name(name), name
        writer = ArtifactWriter(
            self.folder,
            name,
            {form_of(form, name, part) for form in plan.targets.values()},
            key=self._key,
            data=associated_data(plan.application, self.id, name),
            level=plan.compression_level,
            threads=1 if quiet else plan.compression_threads,
        )
        report = Report() if quiet else self.report
        report.stop = self.report.stop
        with report.part(name, plan.last_plain_bytes.get(name)) as advance, writer:

            def write(chunk: bytes) -> None:
                writer.write(chunk)
                advance(len(chunk))

            yield write
        stored = {
            form.name: ArtifactForm(name=file, size=digest.size, sha256=digest.sha256)
            for form, (file, digest) in writer.stored.items()
        }
        self._artifacts.append(
            Artifact(name=name, part=part, size=writer.plain.size, sha256=writer.plain.sha256, stored=stored)
        )

    def manifest(self, kind: Kind, base: BaseFacts | None = None) -> Manifest:
        """The manifest of all that was made until now."""
        plan = self.plan
        for sentence in self._asking.answered():
            self.warn(sentence)
        return Manifest(
            format_version=FORMAT_VERSION,
            application=plan.application,
            app_version=self._asking.version,
            git_revision=plan.git_revision,
            backup_id=self.id,
            kind=kind,
            label=plan.label,
            reason=plan.reason,
            who=plan.who,
            parts=[part for part in (*ALL_PARTS, *BASE.parts) if part in plan.parts and part not in self.absent],
            started_at=self._started_at,
            snapshot_at=self.snapshot_at,
            finished_at=datetime.now(timezone.utc),
            postgres=self.postgres,
            db_schema_version=schema_version(self.migrations),
            migrations=self.migrations,
            tables={table.label: rows for table, rows in self.rows.items()},
            counters=self.counters,
            large_objects=self.large_objects,
            extension_rows=self.extension_rows,
            extension_members=self.extension_members,
            left_out=self.left_out,
            materialized_views=self.views,
            artifacts=self._artifacts,
            files=self._files,
            storage_targets={name: form.name for name, form in plan.targets.items()},
            durations=self._durations,
            warnings=self._warnings,
            key=KeyName(id=self._key.id, check_value=self._key.check_value),
            base=base,
            django=self._asking.django,
        )

    def _note_files(self, part: Part, found: ArchiveReport) -> None:
        self._files[part] = found.files
        self.left_out += found.left_out(part)
        for sentence in found.warnings(part):
            self.warn(sentence)


class _Work(Making):
    """A full backup in the making."""

    def __init__(
        self, plan: BackupPlan, cluster: Cluster, keyring: Keyring, report: Report, folder: Path, backup_id: str
    ) -> None:
        super().__init__(plan, keyring, report, folder, backup_id)
        self._cluster = cluster

    def media_size(self) -> int:
        """Bytes of the media, where ``space_needed`` will ask: nothing is measured when the last backup tells."""
        if self.plan.last_stored_bytes is not None or "media" not in self.plan.parts:
            return 0
        return sum(_tree_size(folder) for folder in self.plan.media.values())

    def back_up_database(self, staging: StagingArea, media_size: int) -> bool:
        """Returns whether there is one to back up."""
        with ExitStack() as stack:
            stack.enter_context(watched_locks(self._cluster, self.report, timeout=self.plan.lock_timeout))
            try:
                snapshot = stack.enter_context(Snapshot(self._cluster))
            except (DatabaseGone, DatabaseUnreachable) as error:
                self.refuse("database", error)
                self.absent.add("database")
                return False
            tools = self._tools(snapshot.server_major)
            if self.plan.proof is not None:
                for sentence in self.plan.proof.before_backup(self._cluster, tools, snapshot, self.report):
                    self.warn(f"database: {sentence}")
            self.snapshot_at = snapshot.taken_at
            with named_errors("to say how often rows were changed"):
                self.counters = read_counters(snapshot.connection)
            facts = self.postgres = with_surroundings(snapshot.facts(tools.version), self._cluster)
            staging.need(self.space_needed(self.plan.last_stored_bytes, facts.database_size, media_size))
            for trigger in login_triggers(snapshot.connection):
                if not trigger.trusted:
                    self.warn(f"database: {trigger}; {trigger.remedy}")
            with named_errors("to look for what a dump leaves out"):
                self.left_out = list(map(str, left_out(snapshot.connection)))
            for sentence in self.left_out:
                self.warn(f"database: {sentence}")
            tables = snapshot.tables()
            if not tables:
                what = f"The database {facts.database} holds no tables, so its backup would be empty"
                remedy = "correct database.url, or run the application's migrations first"
                self.refuse("database", BackupError(what, remedy=remedy))
            self.migrations = snapshot.migrations()
            if not self.migrations:
                self.warn("database: there is no django_migrations table with rows, so the schema version is unknown")
            with_passwords = snapshot.may_read_role_passwords()
            counting = snapshot.count_rows(tables)
            self.report.info(
                f"dumping {facts.database} ({human_bytes(facts.database_size)}, {counted(len(tables), 'table')}, PostgreSQL {facts.version}) "
                f"with pg_dump {tools.version}"
            )
            with self.timed("database"), self.artifact("database.dump", "database") as write:
                said = dump_database(self._cluster, tools, snapshot.id, tables, write)
            self.rows, self.large_objects = counting.wait()
            self.views = counting.views
            if counting.unread:
                self.warn(
                    f"database: the rows of the materialized views {few(counting.unread)} could not be read, or not in time, so a verification "
                    "compares all but these; a restore computes them anew"
                )
            said += self._keep_members(snapshot, tools)
        if not with_passwords:
            self.warn(
                f"database: role {facts.dumped_as} may not read role passwords, so roles.sql has none; set them after a restore"
            )
        with self.timed("roles"), self.artifact("roles.sql", "database") as write:
            said += dump_roles(self._cluster, tools, with_passwords, write)
            with self._cluster.connect() as connection, named_errors("to read what is set for all roles"):
                write(read_everybodys_settings(connection))
        for line in said:
            self.warn(f"database: {line}")
        return True

    def _keep_members(self, snapshot: Snapshot, tools: Tools) -> list[str]:
        """What the dump leaves out of extensions: rows, and what somebody made a member. Returns what pg_dump warned of."""
        with named_errors("to look at what belongs to extensions"):
            kept = read_kept(snapshot.connection)
            self.extension_members = read_members(snapshot.connection)
        said = []
        if kept.members:
            with self.artifact(MEMBERS, "database", quiet=True) as write:
                said += dump_members(self._cluster, tools, snapshot.id, kept.extensions, write)
        if kept.members or kept.tables or kept.sequences:
            with (
                self.timed("extension_rows"),
                self.artifact(ROWS, "database") as write,
                named_errors("to read rows of extensions' tables"),
            ):
                kept = replace(kept, tables=write_rows(snapshot.connection, kept.tables, kept.sequences, write))
            with self.artifact(KEPT, "database", quiet=True) as write:
                write(kept.to_json())
        self.extension_rows = [
            ExtensionRows(extension=each.extension, table=each.key.label, rows=each.rows, content=each.content)
            for each in kept.tables
        ]
        return said

    def back_up_media(self) -> None:
        with (
            self.timed("media"),
            self.artifact("media.tar", "media") as write,
            self.artifact("media.files.jsonl", "media", quiet=True) as write_index,
        ):
            found = archive_media(self.plan.media, write, write_index, as_it_is=self.plan.as_it_is)
        if not found.files and (had := self.plan.last_files.get("media")):
            what = f"The media folders hold no files, and in the last backup they held {had}"
            remedy = "mount them, or correct media (put one file there if they were emptied on purpose)"
            self.refuse("media", SourceUnreadable(what, remedy=remedy))
        self._note_files("media", found)

    def back_up_configuration(self) -> None:
        with (
            self.timed("configuration"),
            self.artifact("configuration.tar", "configuration", quiet=True) as write,
            self.artifact("configuration.files.jsonl", "configuration", quiet=True) as write_index,
        ):
            found, empty_patterns = archive_configuration(
                self.plan.configuration, write, write_index, as_it_is=self.plan.as_it_is
            )
        self._note_files("configuration", found)
        for sentence in empty_patterns:
            self.warn(sentence)

    def _tools(self, server_major: int) -> Tools:
        if server_major < OLDEST_MAJOR:
            raise ClientToolsMissing(
                f"The server runs PostgreSQL {server_major}, and twist-dr supports {OLDEST_MAJOR} and newer",
                remedy="upgrade the server",
            )
        return choose_tools(find_tools(self.plan.client_tools), server_major)


def first_backup_space(database_size: int, media_size: int, forms: int) -> int:
    """Bytes that a first backup may take in staging, where ``forms`` different stored forms are made."""
    return int((database_size * _FIRST_GUESS + media_size) * forms) + _SPARE_BYTES


def _tree_size(folder: Path) -> int:
    """Bytes of the files below a folder, as far as they can be seen now; the archive itself says what cannot."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone since it was listed
                size += os.lstat(os.path.join(parent, name)).st_size
    return size
