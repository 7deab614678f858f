"""The configuration backup: configured files, our catalog and Dagster's history, made once and sealed; always encrypted."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator
from importlib.metadata import version

import dagster as dg
from pydantic import Field

from twist_dr.assets.backup_page import metadata, nothing_left_out
from twist_dr.assets.dagster_history import find_history, own_files
from twist_dr.audit import audit_anchor, note_key_use
from twist_dr.backups import chosen_targets, plan_configuration_backup, record_sealed
from twist_dr.engine.configuration_backup import take_configuration_backup
from twist_dr.engine.configuration_check import check_configuration, staged
from twist_dr.engine.manifest import Label, Manifest
from twist_dr.engine.progress import Report
from twist_dr.engine.verification import VerificationResult
from twist_dr.errors import VerificationFailed
from twist_dr.metadata import in_list
from twist_dr.orchestration import APPLICATION, RUN_BACKUP, operation
from twist_dr.settings import Application, Settings, settings_file


class ConfigurationBackupConfig(dg.Config):
    """All have defaults: launched as it is, everything is backed up to every enabled storage target."""

    label: Label = Field("manual", description="What the backup is for.")
    reason: str = Field("", description="Why it is made, for those who find it later.")
    targets: str = Field("all", description="all enabled storage targets, or some of them by name, separated by commas")


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
    def configuration_backup(
        context: dg.AssetExecutionContext, config: ConfigurationBackupConfig
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        with operation(context, retry=True) as (app, report):
            with app.exclusively("A configuration backup", report):
                manifest = _take(app, context.instance, config, report)
            found = _prove(app, manifest, report)
            if not found.verified:
                yield _read_back(key, found)
                raise VerificationFailed(
                    f"{manifest.backup_id} is NOT good: {'; '.join(found.differences[:5])}. It was removed; see to the disk of "
                    f"{app.settings.work_dir}, then run the backup again."
                )
            record_sealed(app, manifest)
            note_key_use(app, "encrypt", manifest.backup_id, report)
        yield dg.MaterializeResult(
            asset_key=key,
            metadata={**metadata(manifest), "files": dg.MetadataValue.int(sum(manifest.files.values()))},
            check_results=[nothing_left_out(manifest), _read_back(key, found)],
        )

    return configuration_backup


def _take(
    app: Application, instance: dg.DagsterInstance, config: ConfigurationBackupConfig, report: Report
) -> Manifest:
    settings = app.settings
    history = find_history(instance)
    file = settings_file().absolute()
    contents = {
        "application": settings.application,
        "twist_dr": version("twist-dr"),
        "dagster": version("dagster"),
        "dagster_history": history.told,
        "settings": str(file),
        "manifests": "in the catalog: table backups, column manifest",
        "keyring": f"not in this backup, unless a pattern of configuration finds it; it was {settings.encryption.keyring}",
    }
    plan = plan_configuration_backup(
        app, history.places, label=config.label, reason=config.reason, targets=chosen_targets(settings, config.targets),
        own_files=[*own_files(file, instance), audit_anchor(settings)], history_missing=history.missing, contents=contents,
    )  # fmt: skip
    return take_configuration_backup(plan, app.keyring, app.staging, report)


def _prove(app: Application, manifest: Manifest, report: Report) -> VerificationResult:
    """Read the sealed backup back. One that is not good is no backup any more."""
    staging, good = app.staging, False
    try:
        with staging.using(manifest.backup_id) as folder:
            for form, read in staged(manifest, folder, app.keyring).items():
                found = check_configuration(
                    manifest, read, f"staging ({form})",
                    scratch=staging.root, client_tools=app.settings.database.client_tools, report=report,
                )  # fmt: skip
                if not found.verified:
                    return found
        good = True
        return found
    finally:
        if not good:
            staging.remove(manifest.backup_id)


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
