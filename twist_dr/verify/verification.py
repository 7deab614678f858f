"""The proof of a full backup: it is restored for real, and what came out is compared with what was recorded when it was taken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twist_dr.errors import ClientToolsMissing, DatabaseError, DiskFilled, ProcessFailed
from twist_dr.postgres.cluster import named_errors
from twist_dr.postgres.comparison import compare_database
from twist_dr.postgres.content import compare_content
from twist_dr.postgres.materialized import compare_views
from twist_dr.postgres.restore_place import TrialPlace
from twist_dr.postgres.tools import Tools, choose_tools, find_tools
from twist_dr.postgres.verification_place import (
    VerificationPlan,
    need_verification_room,
    open_place,
    verification_base,
)
from twist_dr.repository.archive_index import read_index
from twist_dr.repository.archive_reading import compare_archive
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import Manifest, Proved
from twist_dr.repository.repository import Repository
from twist_dr.repository.streams import full_disk
from twist_dr.restore.pipeline import FetchedDatabase, OneCopy, fetch_database
from twist_dr.storage.chunks import buffered, read_out
from twist_dr.system.progress import Report, human_seconds
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over
from twist_dr.system.words import few

if TYPE_CHECKING:
    from twist_dr.postgres.cluster import Connection

_FETCHED = "fetched-"


@dataclass
class VerificationResult:
    """What came out. Without ``differences`` the backup is verified, unless nothing could be compared: ``unproven`` says why. ``seconds`` by part. ``proved``: what was compared, content or counts of rows."""

    backup_id: str
    target: str
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: int = 0
    rows: int = 0
    files: int = 0
    server_version: str | None = None
    proved: Proved = "counts"
    seconds: dict[str, float] = field(default_factory=dict)
    unproven: str = ""

    @property
    def verified(self) -> bool:
        return not self.differences and not self.unproven

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - begun, 3)


def verify_backup(
    plan: VerificationPlan, manifest: Manifest, repository: Repository, keyring: Keyring, report: Report
) -> VerificationResult:
    """Restore one backup from one target and compare.

    A backup that differs or cannot be restored is a result with ``differences``. Bytes that are missing, altered or cannot
    be fetched raise (``ArtifactInvalid``, ``AuthenticationFailed``, ``ArchiveInvalid``, storage errors): another target may
    have good ones. What this machine lacks raises ``ClientToolsMissing``, ``StagingFull`` or ``DatabaseError``.
    """
    result = VerificationResult(manifest.backup_id, repository.target.name)
    work = _Verification(plan, manifest, repository, keyring, report, result)
    with result.timed("total"):
        # All of it is there, before anything long begins.
        repository.held(manifest)
        for part in ("media", "configuration"):
            if manifest.artifact(f"{part}.tar") is not None:
                work.read_files(part)
        if manifest.artifact("database.dump") is not None:
            work.restore_database()
        result.notes += [f"not in the backup: {sentence}" for sentence in manifest.left_out]
    outcome = "verified" if result.verified else f"NOT verified, {len(result.differences)} differences"
    report.info(
        f"{manifest.backup_id} from {repository.target.name}: {outcome} in {human_seconds(result.seconds['total'])}"
    )
    return result


class _Verification:
    def __init__(
        self,
        plan: VerificationPlan,
        manifest: Manifest,
        repository: Repository,
        keyring: Keyring,
        report: Report,
        result: VerificationResult,
    ) -> None:
        self._plan = plan
        self._manifest = manifest
        self._repository = repository
        self._keyring = keyring
        self._report = report
        self._result = result

    def read_files(self, part: str) -> None:
        """Read an archive to its end and compare every file with the index."""
        archive, index = f"{part}.tar", f"{part}.files.jsonl"
        stored = self._repository.held(self._manifest)[archive][1].size
        with self._result.timed(part), self._report.part(f"reading {archive}", stored) as advance:
            content = self._repository.read(self._manifest, archive, self._keyring, advance)
            lines = self._repository.read(self._manifest, index, self._keyring)
            with buffered(content) as stream, buffered(lines) as index_stream:
                files, differences = compare_archive(stream, read_index(index_stream), archive)
                read_out(stream, index_stream)
        self._result.files += files
        self._result.differences += differences
        if files != self._manifest.files.get(part):
            self._result.differences.append(
                f"{archive}: {files} files where {self._manifest.files.get(part)} were recorded"
            )

    def restore_database(self) -> None:
        manifest, plan = self._manifest, self._plan
        facts = manifest.postgres
        dump_artifact = manifest.artifact("database.dump")
        assert facts is not None and dump_artifact is not None
        base = verification_base(plan.scratch, server_here=plan.server is None)
        clear_left_over(base, _FETCHED)
        need_verification_room(base, dump_artifact.size, 0 if plan.server else facts.database_size)
        with ScratchFolder(base, _FETCHED) as folder:
            with self._result.timed("fetch"):
                fetched = fetch_database(OneCopy(manifest, self._repository, self._keyring), folder, self._report)
            self._result.notes += fetched.notes
            with self._result.timed("scratch server"):
                opened = open_place(plan, facts, fetched.roles, fetched.own, manifest.backup_id)
            with opened as place:
                self._result.server_version = place.version
                self._result.notes += place.notes
                self._restore(place, fetched)
                came_back = self._result.verified
                with self._result.timed("compare"), place.connect() as connection:
                    self._compare(place, connection)
                if plan.content == "full" and came_back:
                    with self._result.timed("content"):
                        self._compare_content(place, fetched)

    def _restore(self, place: TrialPlace, fetched: FetchedDatabase) -> None:
        with self._result.timed("restore"):
            try:
                self._result.notes += fetched.load(
                    place.cluster, place.tools, place.database, where=f"PostgreSQL {place.version}", jobs=self._plan.jobs,
                    report=self._report, keep_owners=place.keep_owners,
                )  # fmt: skip
            except DiskFilled as error:  # which says nothing about the backup
                raise full_disk(self._plan.scratch) from error
            except ProcessFailed as error:
                if place.made.lacking:
                    raise DatabaseError(
                        f"The backup was not restored ({str(error).rstrip('.')}), and nothing can be said about it, for what its database is set to "
                        f"cannot be had where it is verified ({few(sorted(place.made.lacking))})",
                        remedy="install what that names there, then verify again",
                    ) from error
                self._result.differences.append(f"database.dump: {error}")

    def _compare(self, place: TrialPlace, connection: Connection) -> None:
        if (why := place.made.misreads(connection)) is not None:
            raise DatabaseError(
                f"Nothing can be said about {self._manifest.backup_id}: {why}",
                remedy="install the locale where it is verified, then verify again",
            )
        result = self._result
        found = compare_database(connection, self._manifest, self._report, key_tables=self._plan.key_tables)
        result.differences += found.differences
        result.notes += found.notes
        result.tables, result.rows = found.tables, found.rows

    def _compare_content(self, place: TrialPlace, fetched: FetchedDatabase) -> None:
        try:
            tools = _dumping(self._plan, place)
        except ClientToolsMissing as error:
            self._result.notes.append(f"only rows were counted: {str(error).removesuffix('.')}")
            return
        try:
            found = compare_content(place, tools, fetched.dump, fetched.facts, self._report, fetched.kept)
        except DiskFilled as error:
            raise full_disk(self._plan.scratch) from error
        with place.connect() as connection, named_errors("to compare the materialized views"):
            differences, notes = compare_views(connection, self._manifest.materialized_views)
        self._result.differences += found.differences + differences
        self._result.notes += found.notes + notes
        self._result.proved = "content"
        if self._plan.show_rows:
            for line in found.rows:
                self._report.warning(line)


def _dumping(plan: VerificationPlan, place: TrialPlace) -> Tools:
    """The tools that dump the place again: a pg_dump dumps no newer server than itself. Raises ``ClientToolsMissing``."""
    if place.major <= place.tools.major:
        return place.tools
    return choose_tools(find_tools(plan.client_tools), place.major, purpose="compare the content of")
