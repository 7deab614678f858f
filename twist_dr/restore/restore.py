"""A restore from beginning to end: gate, impact, phase one beside the live system, phase two the cutover."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.errors import DatabaseError, RestoreRefused
from twist_dr.postgres import databases
from twist_dr.postgres.roles import client_major
from twist_dr.repository.archive_index import read_index
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.sources import OneCopy, Sources
from twist_dr.restore import gate as gates
from twist_dr.restore.cutover import Cutover
from twist_dr.restore.dump_gate import look_into_dump
from twist_dr.restore.impact import Impact, MediaImpact, TableImpact
from twist_dr.restore.impact_database import database_impact
from twist_dr.restore.impact_media import media_impact
from twist_dr.restore.journal import DatabaseSwitch, Journal, new_restore_id
from twist_dr.restore.media import plan_folders, restore_configuration
from twist_dr.restore.plan import RestorePlace, RestoreRequest
from twist_dr.restore.preparation import Preparation, clear_fetched
from twist_dr.restore.record import RestoreRecord
from twist_dr.restore.restored_configuration import configuration_folder
from twist_dr.restore.sandboxes import how_to_reach
from twist_dr.restore.schema_difference import SchemaDifference, backup_schema, compared, live_schema
from twist_dr.restore.settle import check_health, settle_interrupted
from twist_dr.storage.chunks import buffered, read_out
from twist_dr.system.folders import remove_tree
from twist_dr.system.progress import Report, human_seconds
from twist_dr.system.words import command, counted


class Restore:
    """One restore. ``back_up`` makes the pre-restore backup and returns its id, or is None; ``note`` is told of every step of the record,
    which is a new one unless the restore is the end of something longer.

    ``sources`` are found by then, so that the caller knows which manifest it is about.
    """

    def __init__(
        self,
        request: RestoreRequest,
        place: RestorePlace,
        report: Report,
        *,
        back_up: Callable[[], str] | None = None,
        note: Callable[[RestoreRecord], None] = lambda record: None,
        record: RestoreRecord | None = None,
    ) -> None:
        self._request = request
        self._place = place
        self._report = report
        self._back_up = back_up
        self._note = note
        self._began_at = datetime.now(timezone.utc)
        self.sources: Sources | None = None
        self.record = record or RestoreRecord(
            new_restore_id("restore", self._began_at),
            "restore",
            request.mode,
            request.reason,
            request.backup_id,
            parts=list(request.parts),
        )

    # -- the whole -------------------------------------------------------------------------------------------------

    def run(self) -> RestoreRecord:
        """Restore as requested. Call it under the application's lock unless it is a plan.

        Raises ``RestoreRefused``, ``RestoreFailed``, ``CutoverFailed``, ``RestoreUndone`` and what sources, server and disks raise. In every case
        the live system is as it was; only ``RestoreInterrupted`` says that something is left to be settled.
        """
        request, record = self._request, self.record
        self._note(record)
        with record.timed("total"):
            if request.mode != "plan":
                settle_interrupted(self._place.around, self._report)
                clear_fetched(self._place.work_dir)
            gate, sources = self._look()
            if request.mode in ("plan", "replace") and not request.tables:
                with record.timed("impact"):
                    self._assess(sources, gate)
            self._note(record)
            if gate.refusals:
                raise RestoreRefused.by(gate.refusals, f"{request.called} is not restored")
            if request.mode == "plan":
                record.end("done", self._plan_sentence(sources.manifest, gate))
                return record
            if self._back_up is not None and not ("database" in request.parts and gate.live_oid is None):
                with record.timed("pre_restore_backup"):
                    record.pre_restore_backup = self._back_up()
            with self._configuration(sources):
                if "database" in request.parts or "media" in request.parts:
                    self._restore(sources, gate)
        record.end("done")
        return record

    def _look(self) -> tuple[gates.Gate, Sources]:
        request, place, record = self._request, self._place, self.record
        with record.timed("gate"):
            self.sources = sources = Sources(
                request.backup_id, place.repositories, place.keyring, self._report, patience=place.patience
            )
            gate = gates.look(request, place, sources.manifest)
            look_into_dump(gate, request, place, sources)
        for line in gate.warnings:
            self._warn(line)
        record.gate = gate.markdown()
        record.note_sources(sources)
        return gate, sources

    def _plan_sentence(self, manifest: Manifest, gate: gates.Gate) -> str:
        parts = " and ".join(self._request.parts)
        also = f", then run {counted(len(gate.forward), 'migration')} in it" if gate.forward else ""
        return (
            f"a restore of {manifest.backup_id} ({manifest.label}) would put back {parts} as of {manifest.snapshot_at or manifest.started_at:%Y-%m-%d %H:%M:%S} UTC{also}; "
            "nothing was changed. Set mode to sandbox or replace to do it."
        )

    def _warn(self, line: str) -> None:
        self.record.warnings.append(line)
        self._report.warning(line)

    # -- the impact ------------------------------------------------------------------------------------------------

    def _assess(self, sources: Sources, gate: gates.Gate) -> None:
        """What the live system has that the backup has not. Only told: the gate decides."""
        request, place, manifest = self._request, self._place, sources.manifest
        tables: list[TableImpact] = []
        notes: list[str] = []
        if "database" in request.parts and gate.live_oid is None:
            notes = [
                f"there is no live database {gate.live}: everything that the backup has comes back, and nothing is lost"
            ]
        elif "database" in request.parts and manifest.postgres is not None:
            try:
                with place.around.cluster.connect(autocommit=False) as connection:
                    tables, notes = database_impact(connection, manifest, stop=self._report.stop)
            except DatabaseError as error:
                # A live database that cannot be read through any more is what restores are for.
                notes = [f"what the live database has that the backup has not cannot be told: {error}"]
        schema = self._schema(sources, gate) if request.mode == "plan" and "database" in request.parts else None
        if schema is not None and schema.changes and gate.forward:
            notes.append(
                f"the schemas are compared as they are: the code's {counted(len(gate.forward), 'migration')} to come in the restored database may change it back"
            )
        media: list[MediaImpact] = []
        if "media" in request.parts and manifest.artifact("media.files.jsonl") is not None:

            def compare(copy: OneCopy) -> list[MediaImpact]:
                lines = copy.read("media.files.jsonl")
                with buffered(lines) as stream:
                    found = media_impact(place.media, read_index(stream), stop=self._report.stop)
                    read_out(stream)
                return found

            media = sources.attempt(compare)
        impact = Impact(
            taken_at=datetime.now(timezone.utc),
            snapshot_at=request.as_of or manifest.snapshot_at or manifest.started_at,
            tables=tables,
            media=media,
            backup=f"{request.called}, labelled {manifest.label}" if not request.name else request.name,
            notes=notes,
            schema=schema,
        )
        self.record.impact = impact.markdown()
        # Who plans in a terminal has no page to look at.
        if request.mode == "plan":
            self._report.page(f"\n{self.record.impact}")
        else:
            self._report.info(impact.summary())

    def _schema(self, sources: Sources, gate: gates.Gate) -> SchemaDifference | None:
        """What differs from the backup's schema to the live one's."""
        place, facts = self._place, sources.manifest.postgres
        if gate.live_oid is None or facts is None:
            return None
        found = compared(
            lambda: backup_schema(sources),
            lambda: live_schema(place.around.cluster, place.client_tools, client_major(facts)),
        )
        self.record.schema = found.changes
        for line in found.doubts:
            self._warn(line)
        return found

    # -- phase one, and the switch -----------------------------------------------------------------------------------

    def _restore(self, sources: Sources, gate: gates.Gate) -> None:
        request, around = self._request, self._place.around
        journal = self._plan_journal(gate)
        around.journals.save(journal)
        cutover = Cutover(journal, around, self._report)
        try:
            Preparation(request, self._place, sources, gate, journal, self.record, self._report).run()
        except BaseException as error:
            cutover.revert(error)
            raise
        self._note(self.record)
        if request.mode == "replace":
            self._cut_over(cutover)
        elif request.mode == "schema":
            # The tables are in the live database now; the one that they came through has done its work.
            cutover.revert()
            self.record.database = gate.live
        else:
            journal.phase = "left"
            around.journals.save(journal)
            self._tell_what_is_left(journal)

    def _plan_journal(self, gate: gates.Gate) -> Journal:
        request, around, record = self._request, self._place.around, self.record
        names = None
        if "database" in request.parts:
            with databases.maintenance(around.cluster) as connection:
                purpose = "sandbox" if request.mode == "sandbox" else "restore"
                names = DatabaseSwitch(
                    live=gate.live,
                    live_oid=gate.live_oid,
                    incoming=databases.free_name(connection, gate.live, purpose, self._began_at),
                    kept=databases.free_name(connection, gate.live, "replaced", self._began_at),
                    migrations=gate.live_migrations,
                )
        folders = []
        if "media" in request.parts and request.mode == "replace":
            folders = plan_folders(self._place.media, f"{self._began_at:%Y%m%dt%H%M%S}")
        return Journal(
            restore_id=record.restore_id,
            kind="restore",
            application=self._place.application,
            began_at=self._began_at,
            reason=request.reason,
            backup_id=request.backup_id,
            database=names,
            folders=folders,
            sandbox=self._sandbox_folder if request.mode == "sandbox" else None,
        )

    @property
    def _sandbox_folder(self) -> Path:
        return self._place.work_dir / "sandboxes" / self.record.restore_id

    @contextmanager
    def _configuration(self, sources: Sources) -> Iterator[None]:
        """Around the rest of the restore: the configuration in a folder for a person to compare, gone again when the rest fails."""
        if "configuration" not in self._request.parts or sources.manifest.artifact("configuration.tar") is None:
            yield
            return
        folder = configuration_folder(self._place.work_dir, self._place.application, self.record.restore_id)
        with self.record.timed("configuration"):
            found = restore_configuration(sources, folder, private=True)
        self.record.files += found.files
        self.record.note_sources(sources)
        self.record.result = f"{counted(found.files, 'configuration file', 'lies', 'lie')} in {folder} until what is replaced is removed, to be compared and copied by hand"
        self._report.info(self.record.result)
        try:
            yield
        except BaseException:
            remove_tree(folder)
            raise

    def _cut_over(self, cutover: Cutover) -> None:
        record, journal, around = self.record, cutover.journal, self._place.around
        with record.timed("cutover"):
            cutover.run()
        record.note_switch(journal)
        also = f"; {record.result}" if record.result else ""
        replaced = ", ".join(record.replaced) or "nothing, for there was no database"
        record.result = (
            f"{self._request.called} is live; locked out for {human_seconds(journal.seconds_locked_out or 0)}; what it replaced is kept "
            f"until {journal.keep_until:%Y-%m-%d %H:%M} UTC ({replaced}); to take it back: {command('undo_restore')}{also}"
        )
        self._note(record)
        with record.timed("health"):
            check_health(journal, around, self._report)

    def _tell_what_is_left(self, journal: Journal) -> None:
        record = self.record
        told = [record.result] if record.result else []
        if journal.database is not None:
            name, cluster = journal.database.incoming, self._place.around.cluster
            told.append(f"the sandbox is the database {name}: {how_to_reach(cluster, name)}")
        if self._sandbox_folder.exists():
            told.append(f"the sandbox's media lie in {self._sandbox_folder}")
        told.append(f"to be rid of it: twist-dr sandboxes remove {record.restore_id}")
        record.result = "; ".join(told)
