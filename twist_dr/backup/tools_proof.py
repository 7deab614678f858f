"""Client tools of another major version than the server's, proven before anything rests on them.

What pg_dump writes is meant for servers of its own version and newer ones ("Notes" of pg_dump's page), and a server may keep what a
pg_dump of another major version takes for the application's. So the schema, which is what versions differ in, is restored at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twist_dr.errors import BackupError, DatabaseError, RestoreError, StagingFull
from twist_dr.postgres.cluster import Cluster, Snapshot
from twist_dr.postgres.dump import dump_members, dump_roles, dump_schema
from twist_dr.postgres.dump_internals import leave_out_internals
from twist_dr.postgres.extension_members import MEMBERS, ROWS, read_kept
from twist_dr.postgres.extension_restore import KeptFiles
from twist_dr.postgres.own_settings import OwnSettings
from twist_dr.postgres.restore_place import TrialPlace
from twist_dr.postgres.schema_trial import try_schema
from twist_dr.postgres.surroundings import with_surroundings
from twist_dr.postgres.tools import Tools, serves
from twist_dr.postgres.verification_place import VerificationPlan, open_place, verification_base
from twist_dr.repository.streams import write_new
from twist_dr.settings.whole import Settings
from twist_dr.system.progress import Report

#: These say nothing about the tools.
CANNOT_BE_TRIED = (DatabaseError, RestoreError, StagingFull)
#: In the name of the database that is made on an existing server.
_NAME = "tools"


@dataclass(frozen=True)
class ToolsProof:
    """``plan``: where a verification restores. ``proven``: a folder that remembers which tools were proven with which server."""

    plan: VerificationPlan
    proven: Path

    def before_backup(self, source: Cluster, tools: Tools, snapshot: Snapshot, report: Report) -> list[str]:
        """Prove the tools unless they were with this version of the server; returns warnings for the backup.

        Costs nothing where they are of the server's own major version. Raises ``BackupError`` as :meth:`prove` does.
        """
        major = snapshot.server_major
        if tools.major == major:
            return []
        warnings = (
            [] if serves(tools, major) else [f"{what_they_cannot(tools, major)}; install postgresql-client-{major}"]
        )
        mark = self.proven / f"pg_dump-{tools.version}-of-{snapshot.facts(tools.version).version_number}"
        if mark.exists():
            return warnings
        try:
            version = self.prove(source, tools, snapshot)
        except CANNOT_BE_TRIED as error:
            why = str(error).removesuffix(".")
            return [*warnings, f"whether the dumps of pg_dump {tools.version} come back could not be tried: {why}"]
        report.info(f"the schema that pg_dump {tools.version} writes came back in PostgreSQL {version}")
        self.proven.mkdir(parents=True, exist_ok=True, mode=0o700)
        mark.touch(mode=0o600)
        return warnings

    def prove(self, source: Cluster, tools: Tools, snapshot: Snapshot) -> str:
        """Dump the schema and restore it where a verification would; returns that server's version.

        Raises ``BackupError`` with what PostgreSQL said when it does not come back. When it could not be tried, raises what
        dumping it and opening the place raise: :data:`CANNOT_BE_TRIED`.
        """
        facts = with_surroundings(snapshot.facts(tools.version), source)
        pieces: list[bytes] = []
        dump_schema(source, tools, snapshot.id, pieces.append)
        roles: list[bytes] = []
        dump_roles(source, tools, False, roles.append)
        base = verification_base(self.plan.scratch, server_here=self.plan.server is None)

        def opened(own: OwnSettings) -> TrialPlace:
            return open_place(self.plan, facts, b"".join(roles), own, _NAME)

        def kept_in(folder: Path) -> KeptFiles | None:
            kept = read_kept(snapshot.connection)
            if not kept.members:
                return None
            dump = folder / MEMBERS
            members: list[bytes] = []
            dump_members(source, tools, snapshot.id, kept.extensions, members.append)
            write_new(dump, members, durable=False)
            leave_out_internals(dump)
            return KeptFiles(kept, folder / ROWS, dump)

        found = try_schema(b"".join(pieces), base, opened, kept_in)
        if found.complaint is not None:
            raise BackupError(
                f"Nobody could restore what pg_dump {tools.version} writes of {facts.database} (PostgreSQL {facts.version}): PostgreSQL {found.version} "
                f"does not take the schema back ({found.complaint})",
                remedy=f"install postgresql-client-{facts.major}, so that backups are made with the server's own tools",
            )
        return found.version


def what_they_cannot(tools: Tools, major: int) -> str:
    """What is to be said of tools that do not serve a server of ``major``."""
    return f"what pg_dump {tools.version} writes cannot be restored into the server's own version {major}, only into newer ones"


def verification_plan(settings: Settings, live: Cluster) -> VerificationPlan:
    """Where a verification restores to, as the settings say."""
    wanted = settings.verification
    return VerificationPlan(
        scratch=settings.scratch_dir,
        live=live,
        server=Cluster(wanted.server.get_secret_value()) if wanted.server else None,
        key_tables=wanted.key_tables,
        jobs=wanted.jobs,
        client_tools=settings.database.client_tools,
        isolation=wanted.isolation,
        content=wanted.content,
        show_rows=wanted.show_rows,
    )


def tools_proof(settings: Settings) -> ToolsProof:
    live = Cluster(settings.database.url.get_secret_value())
    return ToolsProof(verification_plan(settings, live), settings.work_dir / "proven-tools" / settings.application)
