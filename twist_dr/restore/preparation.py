"""Phase one: database and media made beside the live ones, compared and made ready. The live system does not notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.django_app.manage import migrate, read_code
from twist_dr.django_app.migrations import compare_schema
from twist_dr.errors import ProcessFailed, RestoreFailed
from twist_dr.postgres import databases, making
from twist_dr.postgres.cluster import read_migrations
from twist_dr.postgres.dumped_properties import DumpedProperties, read_owner, read_properties
from twist_dr.postgres.making import Made
from twist_dr.postgres.sessions import COMMANDS
from twist_dr.postgres.tools import Tools
from twist_dr.repository.sources import Sources
from twist_dr.restore import database as phase_one
from twist_dr.restore.exchange import identity
from twist_dr.restore.gate import Gate
from twist_dr.restore.journal import DatabaseSwitch, Journal
from twist_dr.restore.media import unpack_media
from twist_dr.restore.pipeline import FetchedDatabase, Serving, fetch_database
from twist_dr.restore.plan import RestorePlace, RestoreRequest
from twist_dr.restore.record import RestoreRecord
from twist_dr.restore.statistics import analyze
from twist_dr.restore.tables import restore_tables
from twist_dr.system.commands import run_command
from twist_dr.system.progress import Report, human_bytes
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over
from twist_dr.system.words import counted

if TYPE_CHECKING:
    pass

_FETCHED = "fetched-"
_COMMAND_SECONDS = 3600.0


def clear_fetched(work_dir: Path) -> None:
    """Remove dumps that killed restores had fetched."""
    clear_left_over(work_dir, _FETCHED)


@dataclass
class Preparation:
    """Phase one of one restore. The journal names what is made; whoever calls removes that when :meth:`run` fails."""

    request: RestoreRequest
    place: RestorePlace
    sources: Sources
    gate: Gate
    journal: Journal
    record: RestoreRecord
    report: Report

    def run(self) -> None:
        """Prepare everything. Raises ``RestoreFailed``, and what sources, server and disks raise."""
        if self.journal.database is not None:
            self._restore_database(self.journal.database)
        if "media" in self.request.parts and self.sources.manifest.artifact("media.tar") is not None:
            self._restore_media()

    def _warn(self, line: str) -> None:
        self.record.warnings.append(line)
        self.report.warning(line)

    def _restore_database(self, names: DatabaseSwitch) -> None:
        request, record, cluster = self.request, self.record, self.place.around.cluster
        with self._fetched() as fetched, phase_one.full_server_named():
            self._make_roles(names, fetched)
            # With what a dump says of its database when there is none to take it from.
            properties = self._properties_of(fetched) if names.live_oid is None else None
            serving = self._serving(names, fetched)
            if not request.tables and serving.versions_differ(fetched):
                with record.timed("try_schema"):
                    serving.try_schema(fetched)
            with serving.make() as made:
                for line in made.notes:
                    self._warn(line)
            record.database = names.incoming
            if request.tables:
                self._restore_tables(names, made, serving.tools, fetched.dump)
            else:
                with record.timed("restore"):
                    for line in serving.load(fetched):
                        self._warn(line)
        with phase_one.full_server_named():
            if not request.tables:
                self._make_ready(names, serving, fetched, made)
            # Its makers did not wait for their commits. A sandbox is told of without another one.
            with databases.maintenance(cluster) as connection:
                if not request.tables:
                    making.give_last(connection, names.incoming, fetched.own)
                    if properties is None:
                        for line in making.take_after(connection, names.incoming, names.live):
                            self._warn(line)
                    else:
                        properties.give(connection, names.incoming)
                databases.make_durable(connection)

    def _make_roles(self, names: DatabaseSwitch, fetched: FetchedDatabase) -> None:
        cluster = self.place.around.cluster
        with databases.maintenance(cluster) as connection:
            for line in phase_one.make_missing_roles(cluster, connection, fetched.roles, gone=names.live_oid is None):
                self._warn(line)

    def _properties_of(self, fetched: FetchedDatabase) -> DumpedProperties:
        assert self.gate.tools is not None
        return read_properties(self.gate.tools, fetched.dump, fetched.dump.parent)

    def _serving(self, names: DatabaseSwitch, fetched: FetchedDatabase) -> Serving:
        place, gate = self.place, self.gate
        cluster = place.around.cluster
        assert gate.tools is not None
        return Serving(
            cluster,
            gate.tools,
            names.incoming,
            gate.server_major,
            make=partial(self._make, names, fetched),
            maintenance=lambda: databases.maintenance(cluster),
            where=names.incoming,
            jobs=place.jobs,
            report=self.report,
            key_tables=place.key_tables,
            unchanged="The live database was not changed",
            after_failure="fix that on the server, or restore another backup",
            after_difference="restore another backup, and keep this one until the cause is known",
        )

    @contextmanager
    def _make(self, names: DatabaseSwitch, fetched: FetchedDatabase) -> Iterator[Made]:
        """The new database; the journal names it, so whoever clears the journal removes it."""
        live: str | None = names.live
        owner = None
        if names.live_oid is None:
            live = None
            with fetched.dump.open("rb") as file:
                owner = read_owner(file)
        with databases.maintenance(self.place.around.cluster) as connection:
            made = making.make_to_serve(connection, names.incoming, fetched.facts, fetched.own, live=live, owner=owner)
        names.incoming_oid = made.oid
        self.place.around.journals.save(self.journal)
        yield made

    def _make_ready(self, names: DatabaseSwitch, serving: Serving, fetched: FetchedDatabase, made: Made) -> None:
        request, place, record = self.request, self.place, self.record
        cluster = place.around.cluster
        with record.timed("compare"):
            compared = serving.compare(fetched, made)
        record.tables, record.rows = compared.tables, compared.rows
        for line in compared.notes:
            self._warn(line)
        with databases.maintenance(cluster) as connection:
            making.leave_outside(connection, names.incoming, fetched.facts, fetched.own)
        if self.gate.forward and request.run_migrations:
            self._migrate(names)
        with record.timed("after_restore"):
            self._run_after(names)
        with record.timed("analyze"):
            for left_out in analyze(cluster, names.incoming, place.jobs):
                phase_one.refuse_full_disk(left_out.error)
                self._warn(str(left_out))

    def _restore_tables(self, names: DatabaseSwitch, made: Made, tools: Tools, dump: Path) -> None:
        request, record = self.request, self.record
        with record.timed("restore"):
            found = restore_tables(
                self.place.around.cluster,
                tools,
                names.incoming,
                dump,
                self.sources.manifest,
                request.tables,
                schema=f"restored_{self.journal.began_at:%Y%m%dt%H%M%S}",
                live=names.live if request.mode == "schema" else None,
                jobs=self.place.jobs,
                report=self.report,
                made=made,
            )
        record.tables, record.rows = len(found.rows), sum(found.rows.values())
        record.result = found.sentence
        for line in found.notes:
            self._warn(line)

    def _migrate(self, names: DatabaseSwitch) -> None:
        django = self.place.django
        assert django is not None
        with self.record.timed("migrate"):
            try:
                migrate(django, names.incoming, names.live, on_line=self.report.info)
            except ProcessFailed as error:
                raise RestoreFailed(f"{error} The live database was not changed.") from error
        with self.place.around.cluster.connect(names.incoming) as connection:
            found = compare_schema(read_migrations(connection), read_code(django), names.migrations)
        if found.state != "equal":
            # Django ends with success, and nothing done, where a squashed migration is applied in part.
            raise RestoreFailed(
                f"After the migrations the restored database still does not fit the code ({', '.join((found.unknown or found.forward)[:5])}), and the live "
                "database was not changed",
                remedy="restore with the version of the application that made the backup",
            )

    def _run_after(self, names: DatabaseSwitch) -> None:
        """Resurrection safety: what must not come back to life (mails to be sent, sessions, webhooks) is dealt with before anybody sees it."""
        place = self.place
        phase_one.run_statements(place.around.cluster, names.incoming, place.after_sql)
        if not place.after_commands:
            return
        environment = {
            **place.around.cluster.environment(names.incoming, COMMANDS),
            **place.environment,
            **(place.django.variables if place.django else {}),
            **(
                place.django.leading_to(names.incoming, names.live)
                if place.django and place.django.database_variable
                else {}
            ),
            "TWIST_DR_APPLICATION": place.application,
            "TWIST_DR_DATABASE": names.incoming,
            "TWIST_DR_BACKUP": self.request.backup_id,
            "TWIST_DR_MODE": self.request.mode,
        }
        for command in place.after_commands:
            try:
                run_command(
                    command,
                    seconds=_COMMAND_SECONDS,
                    environment=environment,
                    folder=place.django.folder if place.django else None,
                )
            except ProcessFailed as error:
                raise RestoreFailed(
                    f"A command of after_restore_commands failed: {error} The live system was not changed",
                    remedy="correct it, then restore again",
                ) from error

    @contextmanager
    def _fetched(self) -> Iterator[FetchedDatabase]:
        base = self.place.work_dir
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        with ScratchFolder(base, _FETCHED) as folder:
            with self.record.timed("fetch"):
                fetched = fetch_database(self.sources, folder, self.report, members=not self.request.tables)
            for line in fetched.notes:
                self._warn(line)
            self.record.note_sources(self.sources)
            yield fetched

    def _restore_media(self) -> None:
        journal = self.journal
        if self.request.mode == "replace":
            places = {folder.name: folder.incoming for folder in journal.folders}
        else:
            assert journal.sandbox is not None
            journal.sandbox.mkdir(parents=True, mode=0o700)
            places = {name: journal.sandbox / name for name in self.place.media}
        with self.record.timed("media"):
            found = unpack_media(self.sources, places, self.report)
        self.record.files += found.files
        for folder in list(journal.folders):
            folder.incoming_identity = identity(folder.incoming)
            if folder.incoming_identity is None:
                # The backup has no folder of that name: what is live stays.
                self._warn(f"the backup has no media of {folder.name}; {folder.live} stays as it is")
                folder.unmake()
                journal.folders.remove(folder)
        if self.request.mode == "replace" and not journal.folders and journal.database is None:
            raise RestoreFailed(
                f"{self.request.backup_id} has no media of {', '.join(self.place.media)}, so nothing was restored",
                remedy="correct media in the settings, or restore another backup",
            )
        self.place.around.journals.save(journal)
        self.record.note_sources(self.sources)
        self.report.info(f"media: {counted(found.files, 'file')}, {human_bytes(found.bytes)}")
