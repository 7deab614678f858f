"""Backups as people and scripts read them: tables for a terminal, documents for ``--json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from twist_dr.catalog import BackupRow, CopyRow, RestoreRow, SealedBackup, VerificationRow
from twist_dr.operations.sandboxes import Sandbox
from twist_dr.redaction import one_line
from twist_dr.restore.restored_configuration import RestoredConfiguration
from twist_dr.restore.settle import Superseded
from twist_dr.restore.space import SpaceTaken
from twist_dr.system.progress import human_age, human_bytes, human_seconds
from twist_dr.system.tables import table
from twist_dr.system.words import counted, few


def backup_table(rows: Iterable[BackupRow]) -> str:
    """One line per backup."""
    head = ("BACKUP", "LABEL", "TAKEN (UTC)", "SIZE", "COPIES", "VERIFIED")
    return table(
        head,
        [
            (
                row.backup_id,
                row.label,
                _minute(row.started_at),
                human_bytes(row.plain_bytes),
                ", ".join(
                    copy.target if copy.state == "checked" else f"{copy.target} ({copy.state})" for copy in row.copies
                )
                or "none",
                _proof(row.last_verification),
            )
            for row in rows
        ],
    )


def backup_page(row: SealedBackup, verifications: Sequence[VerificationRow], archived: Mapping[str, str]) -> str:
    """Everything about one backup. ``archived``: by target, the storage class from which its copy must be restored before it can be read."""
    manifest = row.manifest
    lines = [f"{row.backup_id}  {row.kind}, {row.label}" + (f", {one_line(row.reason)}" if row.reason else "")]
    lines.append(
        f"taken {_minute(row.started_at)} UTC by {one_line(row.who)} in {human_seconds(manifest.durations.get('total', 0.0))}, parts: {', '.join(manifest.parts)}"
    )
    lines.append(
        f"application {row.application} {one_line(row.app_version or '(version unknown)')}, schema {row.db_schema_version or 'unknown'}, key {manifest.key.id}"
    )
    if manifest.postgres is not None:
        facts = manifest.postgres
        lines.append(
            f"PostgreSQL {facts.version}, {counted(sum(manifest.tables.values()), 'row')} in {counted(len(manifest.tables), 'table')}, LSN {facts.lsn}, timeline {facts.timeline}"
        )
    if manifest.base is not None:
        lines.append(
            f"base backup, {manifest.base.sort}"
            + (f", builds upon {' and '.join(manifest.base.chain[:-1])}" if manifest.base.parent else "")
        )
    if kept := manifest.extension_rows:
        lines.append(
            f"and {counted(sum(each.rows for each in kept), 'row')} of extensions in {few(each.table for each in kept)}, which a dump leaves out"
        )
    lines += ["", table(("ARTIFACT", "PLAIN", "STORED"), [
        (artifact.name, human_bytes(artifact.size), ", ".join(f"{form} {human_bytes(stored.size)}" for form, stored in artifact.stored.items()))
        for artifact in manifest.artifacts
    ])]  # fmt: skip
    lines += [
        "",
        table(
            ("TARGET", "STATE", "FORM", "STORED", "SINCE (UTC)", "ERROR"),
            [_copy_line(copy, archived.get(copy.target)) for copy in row.copies],
        ),
    ]
    lines += [
        "",
        *(_verification_lines(verifications) or ["never verified; do it with: twist-dr verify"]),
    ]
    lines += [f"warning: {one_line(warning)}" for warning in manifest.warnings]
    return "\n".join(lines)


def backup_document(row: BackupRow) -> dict[str, Any]:
    """One backup for ``list --json``: times in ISO 8601, sizes in bytes, durations in seconds."""
    return {
        "backup_id": row.backup_id,
        "application": row.application,
        "kind": row.kind,
        "label": row.label,
        "reason": row.reason,
        "who": row.who,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "plain_bytes": row.plain_bytes,
        "app_version": row.app_version,
        "db_schema_version": row.db_schema_version,
        "run_id": row.run_id,
        "copies": row.copies,
        "last_verification": row.last_verification,
    }


def full_document(
    row: SealedBackup, verifications: Sequence[VerificationRow], archived: Mapping[str, str]
) -> dict[str, Any]:
    """One backup for ``show --json``, with its manifest and all verifications."""
    return {
        **backup_document(row),
        "verifications": verifications,
        "archived": archived,
        "manifest": row.manifest.model_dump(mode="json"),
    }


def restore_table(rows: Sequence[RestoreRow]) -> str:
    """The log of restores, one line each."""
    if not rows:
        return "no restores yet; plan one with: twist-dr restore"
    head = ("RESTORE", "MODE", "WHEN (UTC)", "BY", "BACKUP", "RESULT", "LOCKED OUT")
    return table(
        head,
        [
            (
                row.restore_id,
                row.kind if row.kind == "undo" else row.mode,
                _minute(row.started_at),
                row.who,
                # An undo has no backup: what it undid stands there.
                row.backup_id or row.undone_id or "-",
                _outcome(row),
                "-" if row.seconds_locked_out is None else human_seconds(row.seconds_locked_out),
            )
            for row in rows
        ],
    )


def restore_page(row: RestoreRow) -> str:
    """Everything about one restore."""
    what = row.kind if row.kind == "undo" else f"{row.kind}, {row.mode}"
    lines = [f"{row.restore_id}  {what}, {_outcome(row)}" + (f", {one_line(row.reason)}" if row.reason else "")]
    ended = f"ended {_minute(row.finished_at)} UTC" if row.finished_at else "no end recorded"
    lines.append(
        f"begun {_minute(row.started_at)} UTC by {one_line(row.who)}, {ended}, parts: {', '.join(row.parts) or 'none'}"
    )
    if row.undone_id is not None:
        lines.append(f"undoes {row.undone_id}")
    if row.backup_id is not None:
        proven = "verified" if row.verified else "NOT verified"
        lines.append(f"backup {row.backup_id} ({proven}) from {', '.join(row.sources) or 'no storage target'}")
    if row.kind == "restore":
        lines.append(f"{counted(row.rows, 'row')} in {counted(row.tables, 'table')}, {counted(row.files, 'file')}")
    if row.database is not None:
        lines.append(f"database {one_line(row.database)}")
    if row.seconds_locked_out is not None:
        lines.append(f"locked out for {human_seconds(row.seconds_locked_out)}")
    if row.recovery_point is not None:
        lines.append(f"aimed at {one_line(row.recovery_point)}")
    if row.run_id is not None:
        lines.append(f"run {row.run_id}")
    lines += [f"passed over {one_line(line)}" for line in row.passed_over]
    lines += [f"kept {one_line(line)}" for line in row.replaced]
    if row.seconds:
        phases = [(phase, human_seconds(spent)) for phase, spent in row.seconds.items()]
        lines += ["", table(("PHASE", "TOOK"), phases)]
    told = [row.result] if row.result else []
    told += [f"error: {row.error}"] if row.error else []
    return "\n".join([*lines, "", *told] if told else lines)


def sandbox_table(rows: Sequence[Sandbox], now: datetime) -> str:
    """What was restored to be looked at, one line each."""
    if not rows:
        return "there are no sandboxes"
    head = ("SANDBOX", "KIND", "STATE", "SIZE", "AGE", "BY", "WHAT IT IS", "HOW TO REACH IT")
    return table(
        head,
        [
            (
                row.id,
                row.kind,
                row.state,
                _size(row.bytes),
                human_age((now - row.made_at).total_seconds()) if row.made_at else "-",
                row.who or "-",
                row.what,
                row.reach or "-",
            )
            for row in rows
        ],
    )


def replaced_table(rows: Sequence[Superseded | RestoredConfiguration], spaces: Sequence[SpaceTaken]) -> str:
    """What restores replaced and is kept, and configuration that they left, one line each."""
    if not rows:
        return "nothing is kept"
    return table(
        ("RESTORE", "BACKUP", "KEPT UNTIL (UTC)", "SIZE", "REPLACED"),
        [
            (
                row.restore_id,
                (row.journal.backup_id if isinstance(row, Superseded) else None) or "-",
                _minute(row.keep_until) if row.keep_until else "-",
                _size(space.total),
                str(row),
            )
            for row, space in zip(rows, spaces, strict=True)
        ],
    )


def replaced_document(row: Superseded | RestoredConfiguration, space: SpaceTaken) -> dict[str, Any]:
    """One of them for ``--json``: sizes in bytes, null where they cannot be told."""
    kept = row if isinstance(row, Superseded) else None
    return {
        "restore_id": row.restore_id,
        "backup_id": kept.journal.backup_id if kept else None,
        "keep_until": row.keep_until,
        "database": kept.database if kept else None,
        "folders": kept.folders if kept else [],
        "configuration": None if isinstance(row, Superseded) else row.folder,
        "database_bytes": space.database,
        "files_bytes": space.files,
    }


def _size(count: int | None) -> str:
    return "-" if count is None else human_bytes(count)


def _minute(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M}"


def _outcome(row: RestoreRow) -> str:
    return row.state.upper() if row.state == "failed" else row.state


def _proof(verification: VerificationRow | None) -> str:
    if verification is None:
        return "never"
    return (
        f"{_minute(verification.started_at)} from {verification.target}{_by(verification)}"
        if verification.state == "verified"
        else "FAILED"
    )


def _by(verification: VerificationRow) -> str:
    """What was compared, where there were tables to compare."""
    return f", by {verification.proved}" if verification.tables else ""


def _copy_line(copy: CopyRow, archived: str | None) -> tuple[str, ...]:
    state = f"{copy.state}, in {archived}" if archived else copy.state
    return (copy.target, state, copy.form, _size(copy.stored_bytes), _minute(copy.updated_at), copy.error or "")


def _compared(verification: VerificationRow) -> str:
    """What was compared, in words. A drill compares no rows of a base backup: nobody counted them at the latest point."""
    rows = (
        [f"{counted(verification.rows, 'row')} in {counted(verification.tables, 'table')}"]
        if verification.tables
        else []
    )
    return (
        " and ".join([*rows, *([f"{counted(verification.files, 'file')}"] if verification.files else [])])
        or "no rows compared"
    )


def _verification_lines(verifications: Sequence[VerificationRow]) -> list[str]:
    lines = []
    for verification in verifications:
        lines.append(
            f"{verification.state} {_minute(verification.started_at)} UTC from {verification.target}{_by(verification)}: {_compared(verification)}, "
            f"in {human_seconds(verification.seconds)}"
        )
        lines += [f"  {difference}" for difference in verification.differences]
    return lines
