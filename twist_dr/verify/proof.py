"""What proves a backup of each kind, and the record of it."""

from __future__ import annotations

from datetime import datetime

from twist_dr.backup.tools_proof import verification_plan
from twist_dr.catalog import VerificationRow
from twist_dr.repository.kinds import KINDS
from twist_dr.repository.sources import OneCopy
from twist_dr.settings import Application
from twist_dr.verify.configuration import read_configuration
from twist_dr.verify.rehearsal import rehearse
from twist_dr.verify.verification import VerificationResult, restore_and_compare


def prove(app: Application, copy: OneCopy) -> VerificationResult:
    """A full backup is restored, a base backup recovered to the point whose rows it counted, a configuration backup read whole."""
    settings, manifest = app.settings, copy.manifest
    if not KINDS[manifest.kind].brings_data:
        copy.repository.readable(manifest)
        return read_configuration(
            manifest, copy.read, copy.repository.target.name,
            scratch=settings.staging_dir, client_tools=settings.database.client_tools, report=app.report,
        )  # fmt: skip
    plan = verification_plan(settings, app.cluster)
    if not KINDS[manifest.kind].physical:
        return restore_and_compare(plan, copy, app.report)
    return rehearse(plan, copy, app.report, patience=settings.restore.stall_seconds)


def record_verification(app: Application, result: VerificationResult, started_at: datetime) -> None:
    """Write down in the catalog what came out; nothing where nothing could be compared, for that proves no more than before."""
    if result.unproven and not result.differences:
        return
    row = VerificationRow(
        result.backup_id,
        result.target,
        state="verified" if result.verified else "unverified",
        started_at=started_at,
        seconds=result.seconds["total"],
        restore_seconds=result.seconds.get("restore"),
        tables=result.tables,
        rows=result.rows,
        files=result.files,
        server_version=result.server_version,
        differences=tuple(result.differences),
        notes=tuple(result.notes),
        run_id=app.actor.run_id,
        proved=result.proved,
        content_seconds=result.seconds.get("content"),
    )
    app.catalog.record_verification(row)
