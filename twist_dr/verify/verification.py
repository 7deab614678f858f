"""The proof of a full backup: it is restored for real, and what came out is compared with what was recorded when it was taken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from twist_dr.errors import ClientToolsMissing, DatabaseError, DiskFilled, ProcessFailed
from twist_dr.postgres.cluster import Connection, named_errors
from twist_dr.postgres.comparison import Comparison, compare_database
from twist_dr.postgres.content import compare_content
from twist_dr.postgres.materialized import compare_views
from twist_dr.postgres.restore_place import TrialPlace
from twist_dr.postgres.tools import Tools, choose_tools, find_tools
from twist_dr.postgres.verification_place import (
    VerificationPlan,
    need_verification_space,
    open_place,
    verification_base,
)
from twist_dr.repository.archive_index import beside_index
from twist_dr.repository.archive_reading import compare_archive
from twist_dr.repository.manifest import Manifest, Proved
from twist_dr.repository.sources import OneCopy
from twist_dr.repository.streams import full_disk
from twist_dr.restore.pipeline import FetchedDatabase, fetch_database
from twist_dr.system.progress import Report, human_seconds
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over
from twist_dr.system.words import counted, few

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

    @classmethod
    def of(cls, copy: OneCopy) -> VerificationResult:
        return cls(copy.manifest.backup_id, copy.repository.target.name)

    @property
    def verified(self) -> bool:
        return not self.differences and not self.unproven

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - begun, 3)

    def compared(self, found: Comparison) -> None:
        """What came of comparing the database."""
        self.differences += found.differences
        self.notes += found.notes
        self.tables, self.rows = found.tables, found.rows

    def count_files(self, manifest: Manifest, archive: str, files: int) -> None:
        """How many files were read from an archive; another number than was recorded is a difference."""
        recorded = manifest.files.get(archive.removesuffix(".tar"))
        self.files += files
        if files != recorded:
            self.differences.append(f"{archive}: {counted(files, 'file')} where {recorded} were recorded")

    def tell(self, report: Report) -> VerificationResult:
        """What came of all of it."""
        bad = f"NOT verified, {counted(len(self.differences), 'difference')}" if self.differences else self.unproven
        report.info(
            f"{self.backup_id} from {self.target}: {'verified' if self.verified else bad} in {human_seconds(self.seconds['total'])}"
        )
        return self


def restore_and_compare(plan: VerificationPlan, copy: OneCopy, report: Report) -> VerificationResult:
    """Restore one backup from one target and compare.

    A backup that differs or cannot be restored is a result with ``differences``. Bytes that are missing, altered or cannot
    be fetched raise (``ArtifactInvalid``, ``AuthenticationFailed``, ``ArchiveInvalid``, storage errors): another target may
    have good ones. What this machine lacks raises ``ClientToolsMissing``, ``StagingFull`` or ``DatabaseError``.
    """
    manifest = copy.manifest
    result = VerificationResult.of(copy)
    work = _Verification(plan, copy, report, result)
    with result.timed("total"):
        # All of it is there, before anything long begins.
        copy.repository.readable(manifest)
        for part in ("media", "configuration"):
            if manifest.artifact(f"{part}.tar") is not None:
                work.read_files(part)
        if manifest.artifact("database.dump") is not None:
            work.restore_database()
        result.notes += [f"not in the backup: {sentence}" for sentence in manifest.left_out]
    return result.tell(report)


@dataclass
class _Verification:
    plan: VerificationPlan
    copy: OneCopy
    report: Report
    result: VerificationResult

    def read_files(self, part: str) -> None:
        """Read an archive to its end and compare every file with the index."""
        archive = f"{part}.tar"
        with (
            self.result.timed(part),
            self.report.part(f"reading {archive}", self.copy.stored_size(archive)) as advance,
            beside_index(partial(self.copy.read, progress=advance), archive) as (stream, index),
        ):
            files, differences = compare_archive(stream, index, archive)
        self.result.differences += differences
        self.result.count_files(self.copy.manifest, archive, files)

    def restore_database(self) -> None:
        manifest, plan = self.copy.manifest, self.plan
        facts = manifest.postgres
        dump_artifact = manifest.artifact("database.dump")
        assert facts is not None and dump_artifact is not None
        base = verification_base(plan.scratch, server_here=plan.server is None)
        clear_left_over(base, _FETCHED)
        need_verification_space(base, dump_artifact.size, 0 if plan.server else facts.database_size)
        with ScratchFolder(base, _FETCHED) as folder:
            with self.result.timed("fetch"):
                fetched = fetch_database(self.copy, folder, self.report)
            self.result.notes += fetched.notes
            with self.result.timed("scratch server"):
                opened = open_place(plan, facts, fetched.roles, fetched.own, manifest.backup_id)
            with opened as place:
                self.result.server_version = place.version
                self.result.notes += place.notes
                self._restore(place, fetched)
                came_back = self.result.verified
                with self.result.timed("compare"), place.connect() as connection:
                    self._compare(place, connection)
                if plan.content == "full" and came_back:
                    with self.result.timed("content"):
                        self._compare_content(place, fetched)

    def _restore(self, place: TrialPlace, fetched: FetchedDatabase) -> None:
        with self.result.timed("restore"):
            try:
                self.result.notes += fetched.load(
                    place.cluster, place.tools, place.database, where=f"PostgreSQL {place.version}", jobs=self.plan.jobs,
                    report=self.report, keep_owners=place.keep_owners,
                )  # fmt: skip
            except DiskFilled as error:  # which says nothing about the backup
                raise full_disk(self.plan.scratch) from error
            except ProcessFailed as error:
                if place.made.lacking:
                    raise DatabaseError(
                        f"The backup was not restored ({str(error).rstrip('.')}), and nothing can be said about it, for what its database is set to "
                        f"cannot be had where it is verified ({few(sorted(place.made.lacking))})",
                        remedy="install what that names there, then verify again",
                    ) from error
                self.result.differences.append(f"database.dump: {error}")

    def _compare(self, place: TrialPlace, connection: Connection) -> None:
        if (why := place.made.misreads(connection)) is not None:
            raise DatabaseError(
                f"Nothing can be said about {self.copy.manifest.backup_id}: {why}",
                remedy="install the locale where it is verified, then verify again",
            )
        self.result.compared(
            compare_database(connection, self.copy.manifest, self.report, key_tables=self.plan.key_tables)
        )

    def _compare_content(self, place: TrialPlace, fetched: FetchedDatabase) -> None:
        try:
            tools = _dumping(self.plan, place)
        except ClientToolsMissing as error:
            self.result.notes.append(f"only rows were counted: {str(error).removesuffix('.')}")
            return
        try:
            found = compare_content(place, tools, fetched.dump, fetched.facts, self.report, fetched.kept)
        except DiskFilled as error:
            raise full_disk(self.plan.scratch) from error
        with place.connect() as connection, named_errors("to compare the materialized views"):
            differences, notes = compare_views(connection, self.copy.manifest.materialized_views)
        self.result.differences += found.differences + differences
        self.result.notes += found.notes + notes
        self.result.proved = "content"
        if self.plan.show_rows:
            for line in found.rows:
                self.report.warning(line)


def _dumping(plan: VerificationPlan, place: TrialPlace) -> Tools:
    """The tools that dump the place again: a pg_dump dumps no newer server than itself. Raises ``ClientToolsMissing``."""
    if place.major <= place.tools.major:
        return place.tools
    return choose_tools(find_tools(plan.client_tools), place.major, purpose="compare the content of")
