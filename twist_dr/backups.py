"""Backups from the settings and the catalog: planned, recorded, copied to the storage targets. The asset and a restore do it alike."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from twist_dr.catalog import Catalog, CatalogUnavailable, CopyState, SealedBackup
from twist_dr.engine.backup import BackupPlan
from twist_dr.engine.copies import StoredCopy, store_copy
from twist_dr.engine.manifest import MANIFEST_NAME, Label, Manifest, Part
from twist_dr.engine.progress import Report, human_bytes, human_seconds
from twist_dr.engine.repository import Repository
from twist_dr.engine.staging import StagingArea
from twist_dr.engine.streams import Form
from twist_dr.errors import CopyFailed, CopyFailedForNow, TwistDRError
from twist_dr.settings import DjangoSettings, Settings


def plan_backup(
    settings: Settings,
    catalog: Catalog,
    *,
    label: Label,
    reason: str,
    parts: Sequence[Part],
    targets: Mapping[str, Form],
) -> BackupPlan:
    """What to back up now, with what the last backup tells about its size."""
    last = _comparable(catalog.latest(application=settings.application), parts, targets)
    return BackupPlan(
        application=settings.application,
        targets=targets,
        app_version=settings.app_version,
        git_revision=_git_revision(settings.django),
        label=label,
        reason=reason,
        who=who(),
        parts=parts,
        media=settings.media,
        configuration=settings.configuration,
        client_tools=settings.database.client_tools,
        compression_level=settings.backup.compression_level,
        compression_threads=settings.backup.compression_threads,
        last_stored_bytes=last.staged_bytes if last else None,
        last_plain_bytes={artifact.name: artifact.size for artifact in last.manifest.artifacts} if last else {},
        last_files=last.manifest.files if last else {},
    )


def record_sealed(catalog: Catalog, staging: StagingArea, manifest: Manifest, *, run_id: str | None) -> None:
    """Record a backup that lies sealed in staging, its copies pending."""
    sealed = (staging.folder(manifest.backup_id) / MANIFEST_NAME).read_bytes()
    catalog.record_backup(manifest, sealed, run_id=run_id)
    for name, form in manifest.storage_targets.items():
        catalog.record_copy(manifest.backup_id, name, state="pending", form=form)


def _comparable(last: SealedBackup | None, parts: Sequence[Part], targets: Mapping[str, Form]) -> SealedBackup | None:
    """The last backup, if what it took says something about this one: as many parts, and as many stored forms."""
    if last is None or not set(parts) <= set(last.manifest.parts):
        return None
    return last if len(set(last.manifest.storage_targets.values())) == len(set(targets.values())) else None


def who() -> str:
    """The user and host; a container's user may have no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _git_revision(django: DjangoSettings | None) -> str | None:
    """The application's commit, where its code is a git checkout."""
    if django is None:
        return None
    try:
        done = subprocess.run(
            ["git", "-C", django.folder, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class Copying:
    """Copies in the making, and what became of them."""

    def __init__(self, catalog: Catalog, manifest: Manifest, run_id: str | None, report: Report) -> None:
        self._catalog = catalog
        self._manifest = manifest
        self._run_id = run_id
        self._report = report
        self._failures: dict[str, Exception] = {}
        self._catalog_error: CatalogUnavailable | None = None
        self._stored = 0

    def side_by_side(self, folder: Path, places: Mapping[str, tuple[Repository, Form]]) -> Iterator[StoredCopy]:
        """Copy to all places at once and give each copy as it is done. One that fails stops no other."""
        with ThreadPoolExecutor(max(1, len(places))) as pool:
            running = {
                pool.submit(
                    store_copy,
                    self._manifest,
                    folder,
                    repository,
                    form,
                    self._report,
                    held_before=self._held_before(name),
                ): (name, form)
                for name, (repository, form) in places.items()
            }
            try:
                for future in as_completed(running):
                    name, form = running[future]
                    try:
                        copy = future.result()
                    # Whatever one target's failure is, a defect of ours included, it is that target's alone.
                    except Exception as error:
                        self._note_failure(name, form, error)
                    else:
                        self._note(copy)
                        yield copy
            except BaseException:
                self._report.stop.set()
                raise

    def _held_before(self, name: str) -> bool:
        """Whether the catalog knows good copies on a target."""
        try:
            return bool(
                self._catalog.backups(application=self._manifest.application, target=name, state="checked", limit=1)
            )
        except CatalogUnavailable:
            return False

    def raise_failures(self) -> None:
        """Raise ``CopyFailed`` unless all were stored: partial is loud. Retryable when each failure may pass by itself."""
        if self._failures:
            # A target's own errors begin with its name.
            told = " ".join(
                f"{name}: {str(error).removeprefix(f'{name}: ')}" for name, error in sorted(self._failures.items())
            )
            keys = " or ".join(f"key:{self._manifest.application}/copies/{name}" for name in sorted(self._failures))
            sentence = (
                f"{self._manifest.backup_id} is missing on {len(self._failures)} of {len(self._failures) + self._stored} storage targets. "
                f"{told} When that is mended, materialize these copies in the page, or run: dagster asset materialize "
                f"-m twist_dr.definitions --select '{keys}'"
            )
            passing = all(isinstance(error, TwistDRError) and error.retryable for error in self._failures.values())
            raise CopyFailedForNow(sentence) if passing else CopyFailed(sentence)
        if self._catalog_error is not None:
            # The copies are there, which is what counts; that the index lacks them must not pass as success either.
            raise self._catalog_error

    def _note(self, copy: StoredCopy) -> None:
        self._stored += 1
        self._report.info(
            f"{copy.target}: {human_bytes(copy.bytes)} stored and checked in {human_seconds(copy.seconds)}"
        )
        self._record(copy.target, copy.form, "checked", stored_bytes=copy.bytes, seconds=copy.seconds)

    def _note_failure(self, name: str, form: Form, error: Exception) -> None:
        self._failures[name] = error
        self._report.warning(f"{name}: {error}")
        self._record(name, form, "failed", error=str(error) or type(error).__name__)

    def _record(
        self,
        name: str,
        form: Form,
        state: CopyState,
        *,
        stored_bytes: int | None = None,
        seconds: float | None = None,
        error: str | None = None,
    ) -> None:
        """An index that does not answer stops no copy."""
        try:
            self._catalog.record_copy(
                self._manifest.backup_id, name, state=state, form=form.name,
                stored_bytes=stored_bytes, seconds=seconds, error=error, run_id=self._run_id,
            )  # fmt: skip
        except CatalogUnavailable as unavailable:
            self._catalog_error = unavailable
            self._report.warning(str(unavailable))


def clear_staging(catalog: Catalog, staging: StagingArea, application: str, report: Report) -> None:
    """Remove from staging what every target has, and what a newer backup has overtaken.

    The newest that some target lacks stays, for the next attempt; older ones would fill the disk while a target is gone
    for days. A backup that no target holds stays: nothing else has it.
    """
    try:
        rows = {backup_id: catalog.backup(application, backup_id) for backup_id in staging.sealed()}
    except CatalogUnavailable as unavailable:
        report.warning(str(unavailable))
        return
    held = {backup_id for backup_id, row in rows.items() if row and any(copy.state == "checked" for copy in row.copies)}
    for backup_id in held:
        row = rows[backup_id]
        overtaken = any(newer > backup_id for newer in held)
        if row is not None and (row.complete or overtaken) and staging.remove(backup_id):
            report.info(f"removed {backup_id} from staging")
