"""A restore from beginning to end: gate, impact, phase one beside the live system, phase two the cutover."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.engine.archive import read_index
from twist_dr.engine.chunks import buffered
from twist_dr.engine.commands import run_command
from twist_dr.engine.django import migrate, read_code
from twist_dr.engine.exchange import identity
from twist_dr.engine.folders import remove_tree
from twist_dr.engine.manifest import Manifest
from twist_dr.engine.postgres import databases
from twist_dr.engine.postgres.cluster import read_migrations
from twist_dr.engine.progress import Report, human_bytes, human_seconds
from twist_dr.engine.repository import Repository
from twist_dr.engine.restore import database as phase_one
from twist_dr.engine.restore import gate as gates
from twist_dr.engine.restore.cutover import Cutover
from twist_dr.engine.restore.impact import Impact, MediaImpact, TableImpact
from twist_dr.engine.restore.impact_database import database_impact
from twist_dr.engine.restore.impact_media import media_impact
from twist_dr.engine.restore.journal import DatabaseSwitch, Journal, new_restore_id
from twist_dr.engine.restore.media import plan_folders, restore_configuration, unpack_media
from twist_dr.engine.restore.plan import RestorePlace, RestoreWish
from twist_dr.engine.restore.record import Record
from twist_dr.engine.restore.settle import check_health, settle_interrupted
from twist_dr.engine.restore.sources import Sources
from twist_dr.engine.restore.tables import restore_tables
from twist_dr.engine.schema import compare_schema
from twist_dr.engine.scratch_folder import ScratchFolder, left_over
from twist_dr.errors import DatabaseError, ProcessFailed, RestoreFailed, RestoreRefused

_FETCHED = "fetched-"
_COMMAND_SECONDS = 3600.0


class Restore:
    """One restore. ``back_up`` makes the pre-restore backup and returns its id, or is None; ``note`` is told of every step of the record.

    ``sources`` are found by then, so that the caller knows which manifest it is about.
    """

    def __init__(
        self,
        wish: RestoreWish,
        place: RestorePlace,
        report: Report,
        *,
        back_up: Callable[[], str] | None = None,
        note: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self._wish = wish
        self._place = place
        self._report = report
        self._back_up = back_up
        self._note = note
        self._began_at = datetime.now(timezone.utc)
        self.sources: Sources | None = None
        self.record = Record(
            new_restore_id("restore", self._began_at),
            "restore",
            wish.mode,
            wish.reason,
            wish.backup_id,
            parts=list(wish.parts),
        )

    # -- the whole -------------------------------------------------------------------------------------------------

    def run(self) -> Record:
        """Restore as wished. Call it under the application's lock unless it is a plan.

        Raises ``RestoreRefused``, ``RestoreFailed``, ``CutoverFailed``, ``RestoreUndone`` and what sources, server and disks raise. In every case
        the live system is as it was; only ``RestoreInterrupted`` says that something is left to be settled.
        """
        wish, record = self._wish, self.record
        self._note(record)
        with record.timed("total"):
            if wish.mode != "plan":
                settle_interrupted(self._place.around, self._report)
                self._clear_fetched()
            gate, sources = self._look()
            if wish.mode in ("plan", "replace") and not wish.tables:
                with record.timed("impact"):
                    self._assess(sources)
            self._note(record)
            if gate.refusals:
                raise RestoreRefused(f"{wish.backup_id} is not restored: {'; '.join(gate.refusals)}.")
            if wish.mode == "plan":
                record.end("done", self._plan_sentence(sources.manifest, gate))
                return record
            if self._back_up is not None:
                with record.timed("pre_restore_backup"):
                    record.pre_restore_backup = self._back_up()
            if "configuration" in wish.parts:
                self._restore_configuration(sources)
            if "database" in wish.parts or "media" in wish.parts:
                self._restore(sources, gate)
        record.end("done")
        return record

    def _look(self) -> tuple[gates.Gate, Sources]:
        wish, place, record = self._wish, self._place, self.record
        with record.timed("gate"):
            self.sources = sources = Sources(
                wish.backup_id, place.repositories, place.keyring, self._report, patience=place.patience
            )
            gate = gates.look(wish, place, sources.manifest)
        for line in gate.warnings:
            self._warn(line)
        record.gate = gate.markdown()
        self._note_sources(sources)
        return gate, sources

    def _plan_sentence(self, manifest: Manifest, gate: gates.Gate) -> str:
        parts = " and ".join(self._wish.parts)
        also = f", then run {len(gate.forward)} migrations in it" if gate.forward else ""
        return (
            f"a restore of {manifest.backup_id} would put back {parts} as of {manifest.snapshot_at or manifest.started_at:%Y-%m-%d %H:%M:%S} UTC{also}; "
            "nothing was changed. Set mode to sandbox or replace to do it."
        )

    def _warn(self, line: str) -> None:
        self.record.warnings.append(line)
        self._report.warning(line)

    # -- the impact ------------------------------------------------------------------------------------------------

    def _assess(self, sources: Sources) -> None:
        """What the live system has that the backup has not. Only told: the gate decides."""
        wish, place, manifest = self._wish, self._place, sources.manifest
        tables: list[TableImpact] = []
        notes: list[str] = []
        if "database" in wish.parts and manifest.postgres is not None:
            try:
                with place.around.cluster.connect(autocommit=False) as connection:
                    tables, notes = database_impact(connection, manifest, stop=self._report.stop)
            except DatabaseError as error:
                # A live database that cannot be read through any more is what restores are for.
                notes = [f"what the live database has that the backup has not cannot be told: {error}"]
        media: list[MediaImpact] = []
        if "media" in wish.parts and manifest.artifact("media.files.jsonl") is not None:

            def compare(repository: Repository) -> list[MediaImpact]:
                lines = repository.read(manifest, "media.files.jsonl", place.keyring)
                with buffered(lines) as stream:
                    found = media_impact(place.media, read_index(stream), stop=self._report.stop)
                    while stream.read(1 << 20):
                        pass
                return found

            media = sources.attempt(compare)
        impact = Impact(
            taken_at=datetime.now(timezone.utc),
            snapshot_at=manifest.snapshot_at or manifest.started_at,
            tables=tables,
            media=media,
            notes=notes,
        )
        self.record.impact = impact.markdown()
        self._report.info(impact.summary())

    # -- phase one, and the switch -----------------------------------------------------------------------------------

    def _restore(self, sources: Sources, gate: gates.Gate) -> None:
        wish, around = self._wish, self._place.around
        journal = self._plan_journal(gate)
        around.journals.save(journal)
        cutover = Cutover(journal, around, self._report)
        try:
            if journal.database is not None:
                self._restore_database(sources, gate, journal, journal.database)
            if "media" in wish.parts and sources.manifest.artifact("media.tar") is not None:
                self._restore_media(sources, journal)
        except BaseException as error:
            cutover.revert(error)
            raise
        self._note(self.record)
        if wish.mode == "replace":
            self._cut_over(cutover)
        elif wish.mode == "schema":
            # The tables are in the live database now; the one that they came through has done its work.
            cutover.revert()
            self.record.database = gate.live
        else:
            journal.phase = "left"
            around.journals.save(journal)
            self._tell_what_is_left(journal)

    def _plan_journal(self, gate: gates.Gate) -> Journal:
        wish, around, record = self._wish, self._place.around, self.record
        names = None
        if "database" in wish.parts:
            with closing(databases.connect_for_maintenance(around.cluster)) as connection:
                purpose = "sandbox" if wish.mode == "sandbox" else "restore"
                names = DatabaseSwitch(
                    live=gate.live,
                    live_oid=databases.need_database(connection, gate.live),
                    incoming=databases.free_name(connection, gate.live, purpose, self._began_at),
                    kept=databases.free_name(connection, gate.live, "replaced", self._began_at),
                    migrations=gate.live_migrations,
                )
        folders = []
        if "media" in wish.parts and wish.mode == "replace":
            folders = plan_folders(self._place.media, f"{self._began_at:%Y%m%dt%H%M%S}")
        return Journal(
            restore_id=record.restore_id,
            kind="restore",
            application=self._place.application,
            began_at=self._began_at,
            reason=wish.reason,
            backup_id=wish.backup_id,
            database=names,
            folders=folders,
            sandbox=self._sandbox_folder if wish.mode == "sandbox" else None,
        )

    def _restore_database(self, sources: Sources, gate: gates.Gate, journal: Journal, names: DatabaseSwitch) -> None:
        wish, place, record, report = self._wish, self._place, self.record, self._report
        cluster, manifest = place.around.cluster, sources.manifest
        assert gate.tools is not None and manifest.postgres is not None
        with self._fetched(sources) as dump:
            with closing(databases.connect_for_maintenance(cluster)) as connection:
                for line in phase_one.make_missing_roles(connection, sources.read_small("roles.sql")):
                    self._warn(line)
                names.incoming_oid = databases.create_closed(connection, names.incoming, names.live, manifest.postgres)
            place.around.journals.save(journal)
            record.database = names.incoming
            if wish.tables:
                with record.timed("restore"):
                    found = restore_tables(
                        cluster, gate.tools, names.incoming, dump, manifest, wish.tables,
                        schema=f"restored_{self._began_at:%Y%m%dt%H%M%S}", live=names.live if wish.mode == "schema" else None, jobs=place.jobs, report=report,
                    )  # fmt: skip
                record.tables, record.rows = len(found.rows), sum(found.rows.values())
                record.result = found.sentence
                for line in found.notes:
                    self._warn(line)
                return
            with record.timed("restore"):
                phase_one.restore_dump(
                    cluster, gate.tools, names.incoming, dump, manifest, jobs=place.jobs, report=report
                )
        with record.timed("compare"):
            compared = phase_one.compare(cluster, names.incoming, manifest, report, place.key_tables)
        record.tables, record.rows = compared.tables, compared.rows
        for line in compared.notes:
            self._warn(line)
        if gate.forward and wish.run_migrations:
            self._migrate(names)
        with record.timed("after_restore"):
            self._run_after(names)
        with record.timed("analyze"):
            phase_one.analyze(cluster, names.incoming, place.jobs)
        with closing(databases.connect_for_maintenance(cluster)) as connection:
            databases.take_after(connection, names.incoming, names.live)

    def _migrate(self, names: DatabaseSwitch) -> None:
        django = self._place.django
        assert django is not None
        with self.record.timed("migrate"):
            try:
                migrate(django, names.incoming, names.live, on_line=self._report.info)
            except ProcessFailed as error:
                raise RestoreFailed(f"{error} The live database was not changed.") from error
        with self._place.around.cluster.connect(names.incoming) as connection:
            found = compare_schema(read_migrations(connection), read_code(django), names.migrations)
        if found.state != "equal":
            # Django ends with success, and nothing done, where a squashed migration is applied in part.
            raise RestoreFailed(
                f"After the migrations the restored database still does not fit the code ({', '.join((found.unknown or found.forward)[:5])}); "
                "restore with the version of the application that made the backup. The live database was not changed."
            )

    def _run_after(self, names: DatabaseSwitch) -> None:
        """Resurrection safety: what must not come back to life (mails to be sent, sessions, webhooks) is dealt with before anybody sees it."""
        place = self._place
        phase_one.run_statements(place.around.cluster, names.incoming, place.after_sql)
        if not place.after_commands:
            return
        environment = {
            **{
                name: value
                for name, value in place.around.cluster.environment(names.incoming).items()
                if value is not None
            },
            **(place.django.environment if place.django else {}),
            **(
                place.django.leading_to(names.incoming, names.live)
                if place.django and place.django.database_variable
                else {}
            ),
            "TWIST_DR_APPLICATION": place.application,
            "TWIST_DR_DATABASE": names.incoming,
            "TWIST_DR_BACKUP": self._wish.backup_id,
            "TWIST_DR_MODE": self._wish.mode,
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
                    f"A command of after_restore_commands failed: {error} The live system was not changed; correct it, then restore again."
                ) from error

    @contextmanager
    def _fetched(self, sources: Sources) -> Iterator[Path]:
        """The dump, plain and checked, on our disk: pg_restore works in parallel only from a file."""
        base = self._place.work_dir
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        with ScratchFolder(base, _FETCHED) as folder:
            dump = folder / "database.dump"
            with self.record.timed("fetch"):
                stored = sources.stored_size("database.dump")
                with self._report.part("fetching database.dump", stored) as advance:
                    sources.fetch("database.dump", dump, advance)
            self._note_sources(sources)
            yield dump

    def _note_sources(self, sources: Sources) -> None:
        self.record.sources = list(sources.used)
        self.record.passed_over = [
            f"{name}: {why.removeprefix(f'{name}: ')}" for name, why in sources.passed_over.items()
        ]

    def _clear_fetched(self) -> None:
        for remains in left_over(self._place.work_dir, _FETCHED):
            remove_tree(remains)

    @property
    def _sandbox_folder(self) -> Path:
        return self._place.work_dir / "sandboxes" / self.record.restore_id

    def _restore_media(self, sources: Sources, journal: Journal) -> None:
        if self._wish.mode == "replace":
            places = {folder.name: folder.incoming for folder in journal.folders}
        else:
            self._sandbox_folder.mkdir(parents=True, mode=0o700)
            places = {name: self._sandbox_folder / name for name in self._place.media}
        with self.record.timed("media"):
            found = unpack_media(sources, self._place.keyring, places, self._report)
        self.record.files += found.files
        for folder in list(journal.folders):
            folder.incoming_identity = identity(folder.incoming)
            if folder.incoming_identity is None:
                # The backup has no folder of that name: what is live stays.
                self._warn(f"the backup has no media of {folder.name}; {folder.live} stays as it is")
                journal.folders.remove(folder)
        if self._wish.mode == "replace" and not journal.folders and journal.database is None:
            raise RestoreFailed(
                f"{self._wish.backup_id} has no media of {', '.join(self._place.media)}, so nothing was restored; correct media in the settings, "
                "or restore another backup."
            )
        self._place.around.journals.save(journal)
        self._note_sources(sources)
        self._report.info(f"media: {found.files} files, {human_bytes(found.bytes)}")

    def _restore_configuration(self, sources: Sources) -> None:
        if sources.manifest.artifact("configuration.tar") is None:
            return
        folder = self._place.work_dir / "restored-configuration" / self.record.restore_id
        with self.record.timed("configuration"):
            found = restore_configuration(sources, self._place.keyring, folder)
        self.record.files += found.files
        self._note_sources(sources)
        self.record.result = f"{found.files} configuration files lie in {folder}, to be compared and copied by hand"
        self._report.info(self.record.result)

    def _cut_over(self, cutover: Cutover) -> None:
        record, journal, around = self.record, cutover.journal, self._place.around
        with record.timed("cutover"):
            cutover.run()
        record.seconds_locked_out = journal.seconds_locked_out
        record.replaced = [
            *([journal.database.kept] if journal.database else []),
            *(str(folder.kept) for folder in journal.folders),
        ]
        if journal.database is not None:
            record.database = journal.database.live
        record.result = (
            f"{self._wish.backup_id} is live; locked out for {human_seconds(journal.seconds_locked_out or 0)}; what it replaced is kept "
            f"until {journal.keep_until:%Y-%m-%d %H:%M} UTC ({', '.join(record.replaced)}); to take it back: dagster job execute -m twist_dr.definitions -j undo_restore"
        )
        self._note(record)
        with record.timed("health"):
            check_health(journal, around, self._report)

    def _tell_what_is_left(self, journal: Journal) -> None:
        record = self.record
        told = [record.result] if record.result else []
        if journal.database is not None:
            told.append(_where(self._place, journal.database.incoming))
        if self._sandbox_folder.exists():
            told.append(f"the sandbox's media lie in {self._sandbox_folder}")
        record.result = "; ".join(told)


def _where(place: RestorePlace, name: str) -> str:
    from psycopg.conninfo import make_conninfo

    known = place.around.cluster.parameters
    where = {key: known[key] for key in ("host", "port", "user") if key in known}
    quoted = name.replace('"', '""')
    return f'the sandbox is the database {name}: psql {shlex.quote(make_conninfo(**where, dbname=name))}; to drop it: DROP DATABASE "{quoted}"'
