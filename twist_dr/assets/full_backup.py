"""The full backup: database, media and configuration, made once and sealed."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator
from typing import Literal

import dagster as dg
from pydantic import Field

from twist_dr.backups import plan_backup, record_sealed
from twist_dr.catalog import Catalog
from twist_dr.engine.backup import ALL_PARTS, take_full_backup
from twist_dr.engine.lock import application_lock
from twist_dr.engine.manifest import Manifest, Part
from twist_dr.engine.progress import human_bytes
from twist_dr.engine.staging import StagingArea
from twist_dr.engine.streams import Form
from twist_dr.errors import BackupError
from twist_dr.orchestration import RUN_BACKUP, operation
from twist_dr.settings import Settings


class FullBackupConfig(dg.Config):
    """All have defaults: launched as it is, everything is backed up to every enabled storage target."""

    label: Literal["manual", "scheduled", "pre-update", "pre-restore"] = Field(
        "manual", description="What the backup is for."
    )
    reason: str = Field("", description="Why it is made, for those who find it later.")
    parts: str = Field("all", description="all, or some of: database, media, configuration")
    targets: str = Field("all", description="all enabled storage targets, or some of them by name, separated by commas")


def full_backup_asset(settings: Settings, sources: list[dg.AssetSpec]) -> dg.AssetsDefinition:
    """The asset ``<application>/full_backup``."""
    key = dg.AssetKey([settings.application, "full_backup"])

    @dg.multi_asset(
        name="full_backup",
        specs=[
            dg.AssetSpec(
                key,
                deps=[source.key for source in sources],
                description="Database, media and configuration as one unit: compressed, encrypted, hashed, and sealed by a manifest.",
                group_name="backups",
                kinds={"postgres", "zstd"},
                owners=[RUN_BACKUP],
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "nothing_left_out",
                asset=key,
                description="No file vanished or changed while it was read, and every pattern found one.",
            )
        ],
        required_resource_keys={"cluster", "keyring", "catalog"},
    )
    def full_backup(
        context: dg.AssetExecutionContext, config: FullBackupConfig
    ) -> Iterator[dg.MaterializeResult[None]]:
        with operation(context, retry=True) as report:
            targets = _chosen_targets(settings, config.targets)
            parts = _chosen_parts(config.parts)
            catalog: Catalog = context.resources.catalog
            keyring = context.resources.keyring.load()
            staging = StagingArea(settings.staging_dir)
            plan = plan_backup(
                settings, catalog, label=config.label, reason=config.reason, parts=parts, targets=targets
            )
            with application_lock(settings.lock_dir, settings.application, "A backup"):
                manifest = take_full_backup(plan, context.resources.cluster, keyring, staging, report)
            record_sealed(catalog, staging, manifest, run_id=context.run.run_id)
        yield dg.MaterializeResult(
            asset_key=key,
            metadata=_metadata(manifest),
            check_results=[
                dg.AssetCheckResult(
                    check_name="nothing_left_out",
                    passed=not manifest.warnings,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={"warnings": dg.MetadataValue.md(_bullets(manifest.warnings))},
                )
            ],
        )

    return full_backup


def _chosen_targets(settings: Settings, wanted: str) -> dict[str, Form]:
    enabled = {name: target.form for name, target in settings.enabled_targets.items()}
    names = list(enabled) if wanted.strip() == "all" else _names(wanted)
    if unknown := [name for name in names if name not in enabled]:
        raise BackupError(
            f"{', '.join(unknown)} is no enabled storage target; choose among {', '.join(enabled)}, or write 'all' in targets."
        )
    return {name: enabled[name] for name in names}


def _chosen_parts(wanted: str) -> list[Part]:
    names = list(ALL_PARTS) if wanted.strip() == "all" else _names(wanted)
    if not names or any(name not in ALL_PARTS for name in names):
        raise BackupError(f"{wanted!r} names no parts; write 'all', or some of {', '.join(ALL_PARTS)} in parts.")
    return [part for part in ALL_PARTS if part in names]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _metadata(manifest: Manifest) -> dict[str, dg.MetadataValue]:
    """Bare numbers, which the page plots over time, and a table for people."""
    stored = sum(form.size for artifact in manifest.artifacts for form in artifact.stored.values())
    rows = [
        f"| {artifact.name} | {human_bytes(artifact.size)} | "
        + ", ".join(f"{name} {human_bytes(form.size)}" for name, form in artifact.stored.items())
        + " |"
        for artifact in manifest.artifacts
    ]
    return {
        "backup_id": dg.MetadataValue.text(manifest.backup_id),
        "label": dg.MetadataValue.text(manifest.label),
        "plain_bytes": dg.MetadataValue.int(manifest.plain_bytes),
        "dagster/size_bytes": dg.MetadataValue.int(stored),
        "rows": dg.MetadataValue.int(sum(manifest.tables.values())),
        "tables": dg.MetadataValue.int(len(manifest.tables)),
        "files": dg.MetadataValue.int(sum(manifest.files.values())),
        "duration_seconds": dg.MetadataValue.float(manifest.durations["total"]),
        "dump_seconds": dg.MetadataValue.float(manifest.durations.get("database", 0.0)),
        "ratio": dg.MetadataValue.float(round(manifest.plain_bytes / stored, 2) if stored else 0.0),
        "warnings": dg.MetadataValue.int(len(manifest.warnings)),
        "db_schema_version": dg.MetadataValue.text(manifest.db_schema_version or "unknown"),
        "artifacts": dg.MetadataValue.md("\n".join(["| artifact | plain | stored |", "| --- | --- | --- |", *rows])),
    }


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "none"
