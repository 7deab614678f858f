"""The gate: everything that would make a restore fail or harm, looked at before anything is fetched."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from twist_dr.django_app.manage import read_code
from twist_dr.django_app.migrations import DjangoCode, compare_schema
from twist_dr.errors import ClientToolsMissing, Obstacle, ProcessFailed, TwistDRError
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster, Connection, query, read_migrations, read_tables
from twist_dr.postgres.restore_place import restoring_major, server_obstacles
from twist_dr.postgres.tools import Tools, choose_serving, find_tools
from twist_dr.repository.manifest import Manifest, PostgresFacts
from twist_dr.restore.exchange import check_creatable, check_exchangeable, is_missing
from twist_dr.restore.plan import RestorePlace, RestoreRequest
from twist_dr.system.commands import run_command
from twist_dr.system.progress import human_bytes
from twist_dr.system.words import few, unmarked

#: Says what keeps a backup from being restored, and what a person does about it.
Tell = Callable[[str, str], None]
_VALIDATOR_SECONDS = 600.0
#: How much more space than the sizes say is asked for.
_SPACE_FACTOR = 1.1
#: Where a server on this machine is reached.
_HERE = ("/", "127.", "::1", "localhost")


@dataclass
class Gate:
    """What the gate found. Any of ``refusals`` keeps it shut. ``forward``: migrations that will run in the restored database."""

    live: str = ""
    live_oid: int | None = None
    server_major: int = 0
    tools: Tools | None = None
    forward: list[str] = field(default_factory=list)
    live_migrations: dict[str, list[str]] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refusals: list[Obstacle] = field(default_factory=list)

    def refuse(self, what: str, remedy: str | None = None) -> None:
        self.refusals.append(Obstacle(what, remedy))

    def warn(self, what: str, remedy: str | None = None) -> None:
        self.warnings.append(Obstacle(what, remedy))

    def markdown(self) -> str:
        """A table for the run's page."""
        rows = [("refused", text) for text in self.refusals] + [("warning", text) for text in self.warnings]
        rows += [("passed", text) for text in self.passed]
        return "\n".join(["| gate | |", "| --- | --- |", *(f"| {state} | {unmarked(text)} |" for state, text in rows)])


def look(request: RestoreRequest, place: RestorePlace, manifest: Manifest) -> Gate:
    """Look at everything that the request needs. Raises what connecting to the server raises."""
    return _Looking(request, place, manifest).look()


class _Looking:
    def __init__(self, request: RestoreRequest, place: RestorePlace, manifest: Manifest) -> None:
        self._request = request
        self._place = place
        self._manifest = manifest
        self._gate = Gate()
        self._code: DjangoCode | None = None
        self._code_error: Exception | None = None

    def look(self) -> Gate:
        request, gate = self._request, self._gate
        self._look_at_parts()
        asking = self._ask_django()
        if "database" in request.parts:
            cluster = self._place.around.cluster
            with databases.maintenance(cluster) as connection:
                gate.live, gate.live_oid = databases.find_live(cluster, connection)
                self._look_at_server(connection)
            self._look_at_live()
            asking.join()
            self._look_at_schema(cluster)
        self._look_at_commands()
        self._look_at_health()
        self._look_at_disks()
        self._look_at_media()
        self._run_validators()
        return gate

    # -- what the backup has -----------------------------------------------------------------------------------------

    def _look_at_parts(self) -> None:
        request, gate, manifest = self._request, self._gate, self._manifest
        gate.passed.append(f"{manifest.backup_id} is whole, and the key {manifest.key.id} is at hand")
        for part in request.parts:
            if part not in manifest.parts:
                gate.refuse(f"{manifest.backup_id} has no {part}", "leave it out of parts, or choose another backup")
        gate.warnings += [f"not in the backup: {sentence}" for sentence in manifest.left_out_of(request.parts)]
        if request.mode == "schema" and not request.tables:
            gate.refuse("mode schema is for some tables only", "name them in tables, or choose another mode")

    # -- the server --------------------------------------------------------------------------------------------------

    def _look_at_server(self, connection: Connection) -> None:
        gate, facts = self._gate, self._manifest.postgres
        assert facts is not None
        gate.server_major = connection.info.server_version // 10000
        if obstacles := server_obstacles(connection, facts):
            gate.refusals += obstacles
        else:
            gate.passed.append("every extension of the backup is available on the server")
        if gate.server_major >= facts.major:
            self._look_for_tools(facts)
        gate.refusals += databases.missing_rights(connection, gate.live)
        if self._request.mode in ("replace", "plan"):
            gate.refusals += databases.obstacles(connection, gate.live)
            if not query(connection, "SELECT pg_has_role('pg_read_all_stats', 'USAGE')")[0][0]:
                gate.warnings.append(
                    "what other roles' sessions do cannot be seen, so the cutover waits for all of them until its grace time is over; "
                    "grant pg_read_all_stats to the role that restores"
                )
        self._look_at_server_disk(connection, facts)

    def _look_for_tools(self, facts: PostgresFacts) -> None:
        gate, major = self._gate, self._gate.server_major
        try:
            gate.tools = choose_serving(find_tools(self._place.client_tools), major, restoring_major(facts))
        except ClientToolsMissing as error:
            gate.refuse(error.what, error.remedy)
            return
        gate.passed.append(
            f"PostgreSQL {major} takes the dump of {facts.version}, with pg_restore {gate.tools.version}"
        )

    def _look_at_server_disk(self, connection: Connection, facts: PostgresFacts) -> None:
        # A restore writes as much WAL; the server keeps max_wal_size of it, and stops altogether where that finds no space.
        wal = int(query(connection, "SELECT pg_size_bytes(current_setting('max_wal_size'))")[0][0])
        needed = int((facts.database_size + min(wal, facts.database_size)) * _SPACE_FACTOR)
        what = "a second copy of the database and its WAL"
        folder = _server_folder(connection, self._gate.live)
        if folder is None:
            self._gate.warnings.append(
                f"the database server's disk cannot be seen from here; it needs about {human_bytes(needed)} for {what} (on this machine: GRANT pg_read_all_settings to the role "
                "that restores)"
            )
            return
        self._compare_space(folder, needed, f"the database server's disk ({folder})", what)

    def _look_at_live(self) -> None:
        gate, live = self._gate, self._gate.live
        if gate.live_oid is not None:
            return
        if self._request.mode == "schema":
            gate.refuse(f"there is no database {live} to put tables into", "choose the mode sandbox")
        elif self._request.mode != "sandbox":
            gate.warnings.append(
                f"there is no live database {live}, so nothing is backed up first and none is replaced: it is made anew, and all its rows come "
                "back; an undo takes it away again"
            )

    # -- the schema --------------------------------------------------------------------------------------------------

    def _ask_django(self) -> threading.Thread:
        """Django takes half a second to start; the rest of the gate goes on meanwhile."""

        def ask() -> None:
            try:
                if self._place.django is not None and "database" in self._request.parts:
                    self._code = read_code(self._place.django)
            except Exception as error:
                self._code_error = error

        thread = threading.Thread(target=ask, name="ask Django", daemon=True)
        thread.start()
        return thread

    def _look_at_schema(self, cluster: Cluster) -> None:
        request, gate, manifest = self._request, self._gate, self._manifest
        filtered: list[str] = []
        if gate.live_oid is not None:
            with cluster.connect() as connection:
                gate.live_migrations = read_migrations(connection)
                filtered = [table.label for table in read_tables(connection) if table.filtered]
        if filtered:
            gate.refuse(
                f"row-level security hides rows of {few(filtered)} from the role that restores, so it could not tell whether all came back",
                "as a superuser: ALTER ROLE ... BYPASSRLS, or name another role in restore.database_url",
            )
        if request.tables:
            return
        # A sandbox is looked at, not served: what would keep a cutover from happening is only worth a warning there.
        tell = gate.warn if request.mode == "sandbox" else gate.refuse
        if self._code_error is not None:
            tell(f"the application's code could not be asked for its migrations: {self._code_error}".rstrip("."))
        elif self._code is None:
            self._compare_with_live(tell)
        else:
            self._compare_with_code(self._code, tell, manifest)

    def _compare_with_live(self, tell: Tell) -> None:
        """Without manage.py, what runs now is known to fit what is live now."""
        if self._gate.live_oid is None:
            self._gate.warnings.append(
                "whether the running code fits the backup is not known; set django in the settings, so that its migrations can be asked for"
            )
        elif self._manifest.migrations == self._gate.live_migrations:
            self._gate.passed.append("the backup's schema is that of the live database")
        else:
            tell(
                "the backup's schema is not that of the live database, and whether the running code fits it is not known",
                "set django in the settings, so that its migrations can be asked for",
            )

    def _compare_with_code(self, code: DjangoCode, tell: Tell, manifest: Manifest) -> None:
        request, gate = self._request, self._gate
        found = compare_schema(manifest.migrations, code, gate.live_migrations)
        gate.warnings += found.notes
        if manifest.django is not None:
            gate.warnings += manifest.django.differences(code.facts)
        if found.state == "newer":
            version = f"to {manifest.app_version} or later" if manifest.app_version else "to the version of the backup"
            tell(
                f"the backup is newer than the running code, which lacks {few(found.unknown, 6)}",
                f"Upgrade the application {version}, then restore",
            )
        elif found.state == "equal":
            gate.passed.append("the backup's schema is that of the running code")
        elif not request.run_migrations:
            tell(
                f"the backup is older than the running code, and run_migrations is false: {few(found.forward, 6)} would be missing",
                "set run_migrations: true, or put the older code in place first",
            )
        else:
            self._note_forward(found.forward)

    def _note_forward(self, forward: list[str]) -> None:
        gate, django = self._gate, self._place.django
        assert django is not None
        gate.forward = forward
        try:
            django.leading_to(f"{gate.live}_restore", gate.live)
        except TwistDRError as error:
            tell = gate.warn if self._request.mode == "sandbox" else gate.refuse
            tell(f"{few(forward, 6)} would have to run in the restored database: {error.what}", error.remedy)
        else:
            gate.passed.append(
                f"the backup is older than the running code: {few(forward, 6)} will run in the restored database before it is live"
            )

    def _look_at_commands(self) -> None:
        django = self._place.django
        if (
            self._place.after_commands
            and "database" in self._request.parts
            and not (django and django.database_variable)
        ):
            self._gate.warnings.append(
                "after_restore_commands are told of the restored database by PGDATABASE and TWIST_DR_DATABASE only: a command that does not read them, "
                "such as one of manage.py, would change the live database; set django.database_variable"
            )

    def _look_at_health(self) -> None:
        health = self._place.around.health
        if self._request.mode in ("plan", "replace") and health and (complaint := health.probe()) is not None:
            self._gate.warnings.append(
                f"the application is not healthy now ({complaint}); unless it is within {health.timeout_seconds:.0f} s after the cutover, "
                "everything goes back: start it, or take restore.health out for this restore"
            )

    # -- this machine ------------------------------------------------------------------------------------------------

    def _look_at_disks(self) -> None:
        sizes = {artifact.name: artifact.size for artifact in self._manifest.artifacts}
        request = self._request
        wanted = sizes.get("database.dump", 0) if "database" in request.parts else 0
        wanted += sizes.get("configuration.tar", 0) if "configuration" in request.parts else 0
        if request.mode == "sandbox" and "media" in request.parts:
            wanted += sizes.get("media.tar", 0)
        self._place.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._compare_space(
            self._place.work_dir, int(wanted * _SPACE_FACTOR), f"work_dir ({self._place.work_dir})", "what is fetched"
        )

    def _look_at_media(self) -> None:
        gate, request = self._gate, self._request
        archive = self._manifest.artifact("media.tar")
        if "media" not in request.parts or archive is None or request.mode not in ("replace", "plan"):
            return
        if not self._place.media:
            gate.refuse("the settings name no media folders", "set media, or leave media out of parts")
        for name, folder in self._place.media.items():
            gone = is_missing(folder)
            if (why := check_creatable(folder) if gone else check_exchangeable(folder)) is not None:
                gate.refuse(f"media.{name}: {why.what}", why.remedy)
            else:
                if gone:
                    gate.warnings.append(
                        f"media.{name}: there is no folder {folder}, so it is made anew; if a disk belongs there, mount it first"
                    )
                what = f"a second copy of {folder}"
                self._compare_space(Path(os.path.realpath(folder)).parent, archive.size, f"the disk of {folder}", what)

    def _compare_space(self, folder: Path, needed: int, where: str, what: str) -> None:
        free = shutil.disk_usage(folder).free
        if free < needed:
            self._gate.refuse(
                f"{where} has {human_bytes(free)} free and needs {human_bytes(needed)} for {what}",
                "free space there",
            )
        else:
            self._gate.passed.append(f"{where} has {human_bytes(free)} free and needs {human_bytes(needed)}")

    def _run_validators(self) -> None:
        if not self._place.validators:
            return
        with tempfile.NamedTemporaryFile("w", prefix="manifest-", suffix=".json", dir=self._place.work_dir) as file:
            file.write(self._manifest.model_dump_json(indent=1))
            file.flush()
            environment = {
                **self._place.environment,
                "TWIST_DR_APPLICATION": self._place.application,
                "TWIST_DR_BACKUP": self._manifest.backup_id,
                "TWIST_DR_MODE": self._request.mode,
                "TWIST_DR_MANIFEST": file.name,
            }
            for command in self._place.validators:
                try:
                    run_command(command, seconds=_VALIDATOR_SECONDS, environment=environment)
                except ProcessFailed as error:
                    self._gate.refuse(
                        f"the validator {Path(command[0]).name} says no: {error.what.rstrip('.')}", error.remedy
                    )
                else:
                    self._gate.passed.append(f"the validator {Path(command[0]).name} has no objection")


def _server_folder(connection: Connection, live: str) -> Path | None:
    """The folder of the live database's tablespace, if the server is this machine and tells us."""
    if not connection.info.host.startswith(_HERE):
        return None
    rows = query(
        connection,
        """SELECT CASE WHEN t.spcname = 'pg_default' THEN current_setting('data_directory') ELSE pg_tablespace_location(t.oid) END
             FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
            WHERE d.datname IN (%(live)s, 'template0') AND (pg_has_role('pg_read_all_settings', 'USAGE') OR t.spcname <> 'pg_default')
            ORDER BY d.datname = %(live)s DESC""",
        {"live": live},
    )
    with suppress(OSError):
        if rows and (folder := Path(rows[0][0])).is_dir():
            return folder
    return None
