"""The proof: a backup restored for real and compared with what was recorded when it was taken."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator

import dagster as dg

from twist_dr.operations.table import VERIFY_BACKUP
from twist_dr.operations.verify import VerifyBackupConfig
from twist_dr.orchestrator.around import APPLICATION, RUN_BACKUP, operation
from twist_dr.orchestrator.assets.freshness import fresh_within
from twist_dr.orchestrator.metadata import in_list, in_words
from twist_dr.orchestrator.taking import VERIFICATION, taking
from twist_dr.repository.kinds import FULL
from twist_dr.settings import Settings
from twist_dr.verify.backup import verify as prove
from twist_dr.verify.verification import VerificationResult


def verification_asset(settings: Settings, copies: list[dg.AssetKey]) -> dg.AssetsDefinition:
    """The asset ``<application>/verification``."""
    key = dg.AssetKey([settings.application, "verification"])

    @dg.multi_asset(
        name=VERIFICATION,
        specs=[
            dg.AssetSpec(
                key,
                deps=copies,
                description="A real restore into a scratch server, dumped again and compared row by row, and file by file.",
                group_name=FULL.group,
                kinds={"postgres"},
                owners=[RUN_BACKUP],
                freshness_policy=fresh_within(settings.objectives.recovery_point),
                # A configuration backup that was read back proves nothing about the data, and one from before a restore nothing of use.
                skippable=True,
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "restored_equals_recorded",
                asset=key,
                description="Every table, definition, migration, extension and file is as it was when the backup was taken.",
            )
        ],
        required_resource_keys={APPLICATION},
        # Dagster asks for every check of a step that cannot be subset, and a configuration backup has nothing to say for this one.
        can_subset=True,
    )
    @taking(VERIFY_BACKUP)
    def verify(
        context: dg.AssetExecutionContext, config: VerifyBackupConfig
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult | dg.AssetObservation]:
        with operation(context, VERIFY_BACKUP, retry=True) as app:
            found = prove(app, config.backup, config.target)
            result = found.result
            check = dg.AssetCheckResult(
                asset_key=key,
                check_name="restored_equals_recorded",
                passed=result.verified,
                metadata={"differences": in_list(result.differences or [result.unproven] * bool(result.unproven))},
            )
            if not found.of_data:
                read = dg.AssetKey([app.name, "configuration_backup"])
                if result.verified:
                    yield dg.AssetObservation(asset_key=read, metadata=_metadata(result))
            elif result.verified:
                proven: dg.MaterializeResult[None] = dg.MaterializeResult(
                    asset_key=key, metadata=_metadata(result), check_results=[check]
                )
                # Whoever launches the check alone on its page gets it alone.
                yield proven if found.meant and context.selected_asset_keys else check
            else:
                yield check
            found.raise_failures()

    return verify


def _metadata(result: VerificationResult) -> dict[str, dg.MetadataValue]:
    return {
        "backup_id": in_words(result.backup_id),
        "target": in_words(result.target),
        "tables": dg.MetadataValue.int(result.tables),
        "rows": dg.MetadataValue.int(result.rows),
        "files": dg.MetadataValue.int(result.files),
        "duration_seconds": dg.MetadataValue.float(result.seconds["total"]),
        "restore_seconds": dg.MetadataValue.float(result.seconds.get("restore", 0.0)),
        "proved": in_words(result.proved),
        "content_seconds": dg.MetadataValue.float(result.seconds.get("content", 0.0)),
        "server_version": in_words(result.server_version or "no database part"),
        "notes": in_list(result.notes),
    }
