"""The configuration backup: configured files, our catalog and Dagster's history, made once and sealed; always encrypted."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator

import dagster as dg

from twist_dr.operations.backup_configuration import ConfigurationBackupConfig, take_configuration
from twist_dr.operations.table import BACKUP_CONFIGURATION
from twist_dr.orchestrator.around import APPLICATION, RUN_BACKUP, operation
from twist_dr.orchestrator.assets.backup_page import metadata, nothing_left_out
from twist_dr.orchestrator.assets.dagster_history import find_history, own_files
from twist_dr.orchestrator.metadata import in_list
from twist_dr.orchestrator.taking import taking
from twist_dr.settings import Settings, settings_file
from twist_dr.verify.verification import VerificationResult


def configuration_backup_asset(settings: Settings, sources: list[dg.AssetSpec]) -> dg.AssetsDefinition:
    """The asset ``<application>/configuration_backup``."""
    key = dg.AssetKey([settings.application, "configuration_backup"])

    @dg.multi_asset(
        name="configuration_backup",
        specs=[
            dg.AssetSpec(
                key,
                deps=[source.key for source in sources if source.key.path[-1] == "configuration"],
                description="The configured files, twist-dr's own catalog and Dagster's history: what one needs beside the data. Always encrypted. "
                "The keyring is not in it: keep a copy of it elsewhere.",
                group_name="backups",
                kinds={"yaml", "zstd"},
                owners=[RUN_BACKUP],
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "nothing_left_out",
                asset=key,
                description="No file vanished or changed while it was read, every pattern found one, and Dagster's history could be copied.",
            ),
            dg.AssetCheckSpec(
                "read_back",
                asset=key,
                description="Every artifact was decrypted, unpacked and compared with what was recorded; every database in it is whole.",
            ),
        ],
        required_resource_keys={APPLICATION},
    )
    @taking(BACKUP_CONFIGURATION)
    def configuration_backup(
        context: dg.AssetExecutionContext, config: ConfigurationBackupConfig
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        with operation(context, BACKUP_CONFIGURATION, retry=True) as app:
            own = own_files(settings_file().absolute(), context.instance)
            taken = take_configuration(app, config, find_history(context.instance), own)
            manifest, found = taken.manifest, taken.found
            if not found.verified:
                yield _read_back(key, found)
            taken.raise_failures()
        yield dg.MaterializeResult(
            asset_key=key,
            metadata={**metadata(manifest), "files": dg.MetadataValue.int(sum(manifest.files.values()))},
            check_results=[nothing_left_out(manifest), _read_back(key, found)],
        )

    return configuration_backup


def _read_back(key: dg.AssetKey, found: VerificationResult) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="read_back",
        passed=found.verified,
        metadata={
            "differences": in_list(found.differences),
            "duration_seconds": dg.MetadataValue.float(found.seconds["total"]),
        },
    )
