"""The front door: settings in, one Definitions out."""

from __future__ import annotations

import dagster as dg

from twist_dr.assets.copies import copies_asset, target_resource
from twist_dr.assets.external import external_assets
from twist_dr.assets.full_backup import full_backup_asset
from twist_dr.assets.verification import verification_asset
from twist_dr.automation.dead_runs import dead_runs_sensor
from twist_dr.catalog import Catalog
from twist_dr.engine.postgres.cluster import Cluster
from twist_dr.jobs.backups import backup_jobs
from twist_dr.jobs.cleanup import cleanup_job
from twist_dr.jobs.restore import restore_job
from twist_dr.jobs.test_storage_targets import test_storage_targets_job
from twist_dr.jobs.undo_restore import undo_restore_job
from twist_dr.resources.keyring import KeyringSource
from twist_dr.resources.targets import build_targets
from twist_dr.settings import Settings, load_settings


def build_definitions(settings: Settings) -> dg.Definitions:
    """Everything that Dagster shows and runs for one application."""
    sources = external_assets(settings)
    full_backup = full_backup_asset(settings, sources)
    copies = copies_asset(settings, full_backup.key)
    verification = verification_asset(settings, sorted(copies.keys))
    return dg.Definitions(
        assets=[*sources, full_backup, copies, verification],
        jobs=[
            *backup_jobs(settings, full_backup, copies, verification),
            restore_job(settings),
            undo_restore_job(settings),
            cleanup_job(settings),
            test_storage_targets_job(settings),
        ],
        sensors=[dead_runs_sensor],
        resources={
            "cluster": Cluster(settings.database.url.get_secret_value()),
            "keyring": KeyringSource(settings.encryption.keyring),
            "catalog": Catalog(settings.catalog_url),
            **{target_resource(name): target for name, target in build_targets(settings).items()},
        },
        executor=dg.in_process_executor,
        # What a script sees, and cron mails. The page shows all events whatever this says.
        loggers={"console": dg.configured(dg.colored_console_logger)({"log_level": "INFO"})},
    )


defs = build_definitions(load_settings())
