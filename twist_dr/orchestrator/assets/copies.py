"""The copies: the sealed backup on each storage target, all at the same time, each checked after it was stored."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator

import dagster as dg

from twist_dr.backup.copies import backup_to_copy, copy_backup
from twist_dr.backup.storing import StoredCopy
from twist_dr.operations.table import OPERATIONS
from twist_dr.orchestrator.around import APPLICATION, RUN_BACKUP, operation
from twist_dr.orchestrator.assets.freshness import fresh_within, window_of
from twist_dr.orchestrator.metadata import in_words
from twist_dr.repository.kinds import KINDS, KindSpec
from twist_dr.repository.manifest import Kind, Manifest
from twist_dr.repository.streams import Form
from twist_dr.settings import Settings
from twist_dr.storage.base import StorageTarget


def copies_asset(settings: Settings, backup: dg.AssetKey, of_kind: Kind) -> dg.AssetsDefinition:
    """One asset per enabled target, ``<application>/copies/<target>``, ``base_copies`` or ``configuration_copies``, made side by side in one step.

    Skippable, because a launch may choose some targets only; a target that failed fails the step all the same. A copy of a base backup is
    sealed only when its target also holds the chain that it builds upon, and the WAL up to its end.
    """
    kind = KINDS[of_kind]
    names = {dg.AssetKey([settings.application, kind.copies, name]): name for name in settings.backup_targets}
    launched = OPERATIONS[kind.job]

    def spec(key: dg.AssetKey, name: str) -> dg.AssetSpec:
        target = settings.storage_targets[name]
        return dg.AssetSpec(
            key,
            deps=[backup],
            description=f"The {kind.kind} backup on storage target {name} ({target.type}), stored as {_form(settings.form(name), kind).name} and checked.",
            group_name=kind.group,
            kinds={target.asset_kind},
            owners=[RUN_BACKUP],
            skippable=True,
            freshness_policy=fresh_within(window_of(settings, kind, name)),
        )

    @dg.multi_asset(
        name=kind.copies,
        specs=[spec(key, name) for key, name in names.items()],
        check_specs=[
            dg.AssetCheckSpec(
                "stored_bytes_checked",
                asset=key,
                description="The bytes on the target have the recorded size and SHA-256.",
            )
            for key in names
        ],
        required_resource_keys={APPLICATION},
        can_subset=True,
    )
    def copies(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        with operation(context, launched, retry=True) as app:
            run = context.run
            backup_id, own = backup_to_copy(app, of_kind, (run.run_id, run.parent_run_id, run.root_run_id))
            # Bytes are checked as they are stored: whoever launches a check alone on its page has the copy made for it.
            checks = {check.asset_key for check in context.selected_asset_check_keys}
            chosen = {names[key]: key for key in sorted({*context.selected_asset_keys, *checks})}
            for manifest, copy in copy_backup(app, backup_id, chosen, own=own):
                key = chosen[copy.target]
                check = _stored_bytes_checked(key, copy)
                if key in context.selected_asset_keys:
                    yield _materialization(key, copy, manifest, app.targets[copy.target], check)
                else:
                    yield check

    return copies


def _form(form: Form, kind: KindSpec) -> Form:
    """The form of most artifacts: base and configuration backups are never stored unencrypted."""
    return form.confidential if kind.always_encrypted else form


def _stored_bytes_checked(key: dg.AssetKey, copy: StoredCopy) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key, check_name="stored_bytes_checked", passed=True, metadata={"bytes": copy.bytes}
    )


def _materialization(
    key: dg.AssetKey, copy: StoredCopy, manifest: Manifest, target: StorageTarget, check: dg.AssetCheckResult
) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(
        asset_key=key,
        metadata={
            "backup_id": in_words(manifest.backup_id),
            "location": in_words(target.location),
            "form": in_words(_form(copy.form, KINDS[manifest.kind]).name),
            "dagster/size_bytes": dg.MetadataValue.int(copy.bytes),
            "duration_seconds": dg.MetadataValue.float(copy.seconds),
            "ratio": dg.MetadataValue.float(round(manifest.plain_bytes / copy.bytes, 2)),
        },
        check_results=[check],
    )
