"""The front door: an application in, one Definitions out."""

from __future__ import annotations

import dagster as dg

from twist_dr.operations.table import (
    BACKUP_BASE,
    BACKUP_CONFIGURATION,
    BACKUP_FULL,
    RESTORE,
    RESTORE_TO_TIME,
    SHIP_WAL,
    STATUS,
    UNDO_RESTORE,
    VERIFY_BACKUP,
)
from twist_dr.orchestrator.around import APPLICATION
from twist_dr.orchestrator.assets.backup import backup_asset
from twist_dr.orchestrator.assets.copies import copies_asset
from twist_dr.orchestrator.assets.external import external_assets
from twist_dr.orchestrator.assets.report import report_asset
from twist_dr.orchestrator.assets.verification import verification_asset
from twist_dr.orchestrator.assets.wal_archive import wal_archive_asset
from twist_dr.orchestrator.automation.after_backups import after_backups_sensor
from twist_dr.orchestrator.automation.dead_runs import dead_runs_sensor
from twist_dr.orchestrator.automation.schedules import schedules
from twist_dr.orchestrator.automation.ship_wal import ship_wal_sensor
from twist_dr.orchestrator.automation.watch import failed_runs_sensor, watch_sensor
from twist_dr.orchestrator.jobs.asset_job import asset_job
from twist_dr.orchestrator.jobs.cleanup import cleanup_job
from twist_dr.orchestrator.jobs.drill import drill_job
from twist_dr.orchestrator.jobs.restore import restore_job
from twist_dr.orchestrator.jobs.scrub import scrub_job
from twist_dr.orchestrator.jobs.test_storage_targets import test_storage_targets_job
from twist_dr.orchestrator.uncaught import tell_in_sentences
from twist_dr.repository.kinds import BASE, CONFIGURATION, FULL
from twist_dr.settings import Application, open_application


def build_definitions(app: Application) -> dg.Definitions:
    """Everything that Dagster shows and runs for one application."""
    settings = app.settings
    sources = external_assets(settings)
    full_backup = backup_asset(settings, FULL, sources)
    copies = copies_asset(settings, full_backup.key, "full")
    verification = verification_asset(settings, sorted(copies.keys))
    configuration_backup = backup_asset(settings, CONFIGURATION, sources)
    configuration_copies = copies_asset(settings, configuration_backup.key, "configuration")
    report = report_asset(settings, verification.key)
    recovery = WalDefinitions(app, sources) if settings.wal is not None else None
    jobs = [
        asset_job(settings, BACKUP_FULL, full_backup, copies),
        asset_job(settings, VERIFY_BACKUP, verification),
        asset_job(settings, BACKUP_CONFIGURATION, configuration_backup, configuration_copies),
        restore_job(settings, RESTORE),
        restore_job(settings, UNDO_RESTORE),
        cleanup_job(settings),
        scrub_job(settings),
        drill_job(settings),
        asset_job(settings, STATUS, report),
        test_storage_targets_job(settings),
        *(recovery.jobs if recovery else ()),
    ]
    return dg.Definitions(
        assets=[
            *sources,
            full_backup,
            copies,
            verification,
            configuration_backup,
            configuration_copies,
            report,
            *(recovery.assets if recovery else ()),
        ],
        jobs=jobs,
        schedules=schedules(settings),
        sensors=[
            dead_runs_sensor(app),
            failed_runs_sensor(app),
            watch_sensor(app),
            *([after_backups_sensor(app, settings.schedules, jobs)] if settings.schedules else ()),
            *(recovery.sensors if recovery else ()),
        ],
        resources={APPLICATION: app},
        executor=dg.in_process_executor,
    )


class WalDefinitions:
    """What there is where the settings have a section ``wal``: base backups, archived WAL, recovery to any second."""

    def __init__(self, app: Application, sources: list[dg.AssetSpec]) -> None:
        settings = app.settings
        wal_archive = wal_archive_asset(settings, sources[0].key)
        ship_wal = asset_job(settings, SHIP_WAL, wal_archive)
        base_backup = backup_asset(settings, BASE, sources)
        base_copies = copies_asset(settings, base_backup.key, "base")
        self.assets = [wal_archive, base_backup, base_copies]
        self.jobs = [
            ship_wal,
            asset_job(settings, BACKUP_BASE, base_backup, base_copies),
            restore_job(settings, RESTORE_TO_TIME),
        ]
        self.sensors = [ship_wal_sensor(app, ship_wal)]


tell_in_sentences()
defs = build_definitions(open_application())
