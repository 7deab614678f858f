"""The full backup: database, media and configuration, made once and sealed."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from twist_dr.assets.backup_page import metadata, nothing_left_out
from twist_dr.assets.freshness import fresh_within
from twist_dr.audit import note_key_use
from twist_dr.backups import chosen_targets, plan_backup, record_sealed
from twist_dr.engine.backup import ALL_PARTS, take_full_backup
from twist_dr.engine.manifest import Label, Manifest, Part
from twist_dr.errors import LaunchRefused
from twist_dr.metadata import in_words
from twist_dr.orchestration import APPLICATION, RUN_BACKUP, operation
from twist_dr.settings import Settings


class FullBackupConfig(dg.Config):
    """All have defaults: launched as it is, everything is backed up to every enabled storage target."""

    label: Label = Field("manual", description="What the backup is for.")
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
                freshness_policy=fresh_within(settings.objectives.recovery_point),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "nothing_left_out",
                asset=key,
                description="No file vanished or changed while it was read, and every pattern found one.",
            )
        ],
        required_resource_keys={APPLICATION},
    )
    def full_backup(
        context: dg.AssetExecutionContext, config: FullBackupConfig
    ) -> Iterator[dg.MaterializeResult[None]]:
        with operation(context, retry=True) as (app, report):
            targets = chosen_targets(app.settings, config.targets)
            parts = _chosen_parts(config.parts)
            plan = plan_backup(app, label=config.label, reason=config.reason, parts=parts, targets=targets)
            with app.exclusively("A backup", report):
                manifest = take_full_backup(plan, app.cluster, app.keyring, app.staging, report)
            record_sealed(app, manifest)
            note_key_use(app, "encrypt", manifest.backup_id, report)
        yield dg.MaterializeResult(
            asset_key=key,
            metadata=_metadata(manifest),
            check_results=[nothing_left_out(manifest)],
        )

    return full_backup


def _chosen_parts(wanted: str) -> list[Part]:
    names = list(ALL_PARTS) if wanted.strip() == "all" else _names(wanted)
    if not names or any(name not in ALL_PARTS for name in names):
        raise LaunchRefused(f"{wanted!r} names no parts; write 'all', or some of {', '.join(ALL_PARTS)} in parts.")
    return [part for part in ALL_PARTS if part in names]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _metadata(manifest: Manifest) -> dict[str, dg.MetadataValue]:
    return {
        **metadata(manifest),
        "files": dg.MetadataValue.int(sum(manifest.files.values())),
        "dump_seconds": dg.MetadataValue.float(manifest.durations.get("database", 0.0)),
        "db_schema_version": in_words(manifest.db_schema_version or "unknown"),
    }
