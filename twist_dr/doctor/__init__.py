"""The doctor: everything that a first night would trip over, found by day, each with what to do about it.

A check never raises for a broken environment; what breaks it becomes its finding. Checks do what a backup does (write,
connect, start a scratch server) rather than compare numbers, and remove what they made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from twist_dr.backup.take import first_backup_space
from twist_dr.backup.tools_proof import tools_proof
from twist_dr.django_app.manage import DjangoApplication, read_code
from twist_dr.doctor.database import DatabaseSeen, check_database
from twist_dr.doctor.django import check_databases, check_lead, check_rights
from twist_dr.doctor.files import FilesSeen, check_configuration, check_django, check_media
from twist_dr.doctor.findings import Check, DoctorFinding, guarded, ok, problem, shown_finding, warning
from twist_dr.doctor.keys import check_keyring, check_newest_backup, check_secrets
from twist_dr.doctor.machine import (
    check_dagster_home,
    check_incomplete,
    check_scratch_space,
    check_staging_space,
    check_system_clock,
    check_work_folder,
)
from twist_dr.doctor.restores import (
    check_interrupted,
    check_kept,
    check_restorable,
    check_restore_rights,
    check_restore_settings,
)
from twist_dr.doctor.targets import (
    TargetPlace,
    check_bandwidth,
    check_own_files,
    check_places,
    check_strangers,
    check_targets,
)
from twist_dr.doctor.tools import check_client_tools, check_dumps, check_isolation, check_verification
from twist_dr.doctor.unattended import check_alerts, check_daemon, check_media_age, check_proof_time, check_schedules
from twist_dr.doctor.wal import WalSeen, check_wal_server
from twist_dr.doctor.wal_archive import check_archiver, check_newest_base, check_positions, check_spool
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.repository import Repository
from twist_dr.repository.staging import StagingArea
from twist_dr.restore.plan import surroundings
from twist_dr.settings.asking import django_application
from twist_dr.storage.base import StorageTarget

if TYPE_CHECKING:
    from twist_dr.settings import Application

__all__ = ["DoctorFinding", "exit_status", "render", "run_doctor"]


def run_doctor(app: Application, environment: Mapping[str, str] = os.environ) -> Iterator[DoctorFinding]:
    """Check everything, and give each finding as it is found. No finding holds a secret of the settings."""
    for finding in _Examination(app, environment).findings():
        yield shown_finding(finding)


def exit_status(findings: Iterable[DoctorFinding]) -> int:
    """For a shell: 1 when there is a problem, else 0."""
    return int(any(finding.status == "problem" for finding in findings))


def render_findings(findings: Iterable[DoctorFinding]) -> str:
    """Lines for a terminal: one per finding, and its remedy below it, not broken, so that it can be copied."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<8} {finding.check + ' ':<17} {finding.found}")
        if finding.remedy is not None:
            lines.append(f"{'':<8} {'':<17} -> {finding.remedy}")
    return "\n".join(lines)


class _Examination:
    """One run of all checks, in the order in which their results build on each other."""

    def __init__(self, app: Application, environment: Mapping[str, str]) -> None:
        self._app = app
        self._settings = app.settings
        self._environment = environment
        self._cluster = app.cluster
        self._seen: DatabaseSeen | None = None
        self._media = FilesSeen()

    def findings(self) -> Iterator[DoctorFinding]:
        settings = self._settings
        yield ok("settings", f"application {settings.application}")
        yield from guarded("system clock", check_system_clock())
        yield from guarded("work folder", check_work_folder(settings.work_dir))
        yield from self._database()
        self._media = (yield from guarded("media", check_media(settings.media))) or FilesSeen()
        yield from guarded("configuration", check_configuration(settings.configuration))
        yield from self._space()
        yield from guarded("targets", self._targets_and_keys())
        yield from guarded("catalog", self._catalog())
        yield from self._wal()
        yield from self._restores()
        yield from self._unattended()
        yield from guarded("dagster", check_dagster_home(self._environment))

    def _database(self) -> Iterator[DoctorFinding]:
        settings = self._settings
        seen = self._seen = yield from guarded("database", check_database(self._cluster))
        if seen is None:
            yield warning(
                "not checked",
                "client tools, verification, extensions and space on disks, because the database could not be asked",
                "fix what stands above, then run twist-dr doctor again",
            )
        else:
            folders = settings.database.client_tools
            yield from guarded("client tools", check_client_tools(self._cluster, folders, seen.major))
            yield from guarded("dumps", check_dumps(self._cluster, folders, seen.major, tools_proof(settings)))
            server = settings.verification.server
            other = Cluster(server.get_secret_value()) if server else None
            isolation = settings.verification.isolation
            # A recovery starts a server here, whatever verifications use.
            if other is None or settings.wal is not None:
                yield from guarded("isolation", check_isolation(isolation))
            verification = check_verification(folders, settings.scratch_dir, other, seen, isolation)
            yield from guarded("verification", verification)
        if (application := django_application(settings)) is None:
            yield ok("django", "not in the settings, so upgrades will not migrate")
            return
        applied = seen.migrations if seen else None
        found = list(guarded("django", check_django(application, applied)))
        yield from found
        if all(finding.status != "problem" for finding in found):
            yield from guarded("django", self._application(application, seen))

    def _application(self, application: DjangoApplication, seen: DatabaseSeen | None) -> Check[None]:
        settings, live = self._settings, self._cluster.parameters["dbname"]
        databases = read_code(application).facts.databases
        yield from check_databases(databases, live, list(settings.media.values()), settings.configuration)
        yield from check_lead(application, live)
        if seen is not None:
            yield from check_rights(application)

    def _wal(self) -> Iterator[DoctorFinding]:
        settings, wal = self._settings, self._settings.wal
        if wal is None:
            return
        cluster, spool = Cluster(settings.replication_url), settings.wal_spool
        place = "wal.replication_url" if wal.replication_url else "database.url"
        folders = settings.database.client_tools
        seen: WalSeen | None = yield from guarded(
            "wal",
            check_wal_server(cluster, wal.source, settings.wal_slot, folders, place, apart=cluster != self._cluster),
        )
        if seen is not None:
            yield from guarded("archiver", check_archiver(cluster, seen, wal.source, spool, wal.warn_after))
        yield from guarded("spool", check_spool(spool, settings.staging_dir, seen, wal.warn_bytes, wal.warn_after))
        yield from guarded("newest base", self._reached(seen))

    def _reached(self, seen: WalSeen | None) -> Check[None]:
        settings, catalog = self._settings, self._app.catalog
        assert settings.wal is not None
        newest = catalog.latest(settings.application, kind="base")
        scheduled = settings.schedules.base if settings.schedules else ()
        full = None
        if newest and newest.manifest.base and any(each.type == "differential" for each in scheduled):
            full = catalog.backup(settings.application, newest.manifest.base.chain[0])
        yield from check_newest_base(newest, seen, full=full)
        rows = catalog.wal_positions(settings.application)
        yield from check_positions(
            rows, {name: settings.wal_every(name) for name in settings.wal_targets}, settings.wal.warn_after
        )

    def _unattended(self) -> Iterator[DoctorFinding]:
        from twist_dr.watch.alerts.telling import channels
        from twist_dr.watch.schedules import entries

        settings = self._settings
        launched = [entry.name for entry in entries(settings)]
        verified = settings.schedules is None or settings.schedules.verify
        kept = [
            name for name, target in settings.enabled_targets.items() if not target.policies and target.archive is None
        ]
        yield from guarded("schedules", self._daemon(launched, verified=verified, kept=kept))
        heartbeat = settings.alerts.heartbeat is not None
        yield from guarded("alerts", check_alerts(channels(settings), alone=bool(launched), heartbeat=heartbeat))

    def _daemon(self, launched: Sequence[str], *, verified: bool, kept: list[str]) -> Check[None]:
        from twist_dr.watch.alerts.daemon import read_daemon, why_silent
        from twist_dr.watch.alerts.rules_operations import not_loaded
        from twist_dr.watch.proving import allowed_media_age
        from twist_dr.watch.schedules import entries

        now = datetime.now(timezone.utc)
        catalog = self._app.catalog
        daemon = read_daemon(self._app)
        yield from check_schedules(launched, silent=why_silent(daemon, now), verified=verified, kept_for_ever=kept)
        yield from check_daemon(list(not_loaded(daemon, now)))
        newest = catalog.latest_verified(self._settings.application)
        whole = catalog.latest_verified(self._settings.application, part="media") if self._settings.media else newest
        for entry in entries(self._settings) if verified else ():
            # How long an hour's backup without media takes to verify says nothing of the night's, nor that of the hour's.
            proven = whole if entry.takes_media else newest
            if entry.kind == "full" and proven is not None and (entry.takes_media or "media" not in proven.parts):
                yield from check_proof_time(entry, proven, now, when=self._settings.verification.when)
        if newest is not None and (most := allowed_media_age(self._settings, now)) is not None:
            yield from check_media_age(whole, most, now)

    def _restores(self) -> Iterator[DoctorFinding]:
        settings = self._settings
        around = surroundings(settings)
        yield from guarded("restores", check_interrupted(around, self._app.locks, settings.application))
        can_migrate = settings.django is None or settings.django.database_variable is not None
        yield from guarded("restore settings", check_restore_settings(around, settings.media, can_migrate=can_migrate))
        if self._seen is not None:
            yield from guarded("replaced", check_kept(settings, around))
            yield from guarded("restore rights", check_restore_rights(around, apart=around.cluster != self._cluster))
            restorable = check_restorable(around, self._cluster, settings.database.client_tools)
            yield from guarded("restorable", restorable)

    def _space(self) -> Iterator[DoctorFinding]:
        settings, seen, media = self._settings, self._seen, self._media
        if seen is None:
            return
        forms = len(set(settings.forms.values()))
        staging = check_staging_space(settings.staging_dir, seen.size, media.bytes, forms, whole=media.whole)
        yield from guarded("staging space", staging)
        server_here = settings.verification.server is None
        yield from guarded(
            "scratch space", check_scratch_space(settings.scratch_dir, seen.size, server_here=server_here)
        )

    def _targets_and_keys(self) -> Check[None]:
        settings = self._settings
        places = {
            name: TargetPlace(target.type, target.encrypt, target.folder)
            for name, target in settings.enabled_targets.items()
        }
        yield from guarded("targets", check_places(places, settings.work_dir, settings.media))
        targets = yield from self._built_targets()
        # Half a guess where the database could not be asked.
        one_form = first_backup_space(self._seen.size if self._seen else 0, self._media.bytes, 1)
        rates = {name: target.max_mib_per_second for name, target in settings.enabled_targets.items()}
        yield from guarded("bandwidth", check_bandwidth(rates, one_form))
        working = (yield from guarded("targets", check_targets(targets, one_form))) or []
        repositories = [Repository(target, settings.application) for target in working]
        yield from guarded("targets", check_strangers(repositories))
        folders = {name: place.folder for name, place in places.items() if place.folder is not None}
        keys = check_keyring(settings.encryption.keyring, settings.media, settings.configuration, folders)
        keyring = yield from guarded("keyring", keys)
        yield from guarded("secrets", check_secrets(settings.secrets_file))
        if keyring is not None:
            yield from guarded("newest backup", check_newest_backup(repositories, keyring))
        staging = StagingArea(settings.staging_dir)
        all_reachable = len(working) == len(places)
        yield from guarded("incomplete backups", check_incomplete(staging, repositories, all_reachable=all_reachable))

    def _built_targets(self) -> Check[dict[str, StorageTarget]]:
        from twist_dr.settings.building import keep_apart

        targets = dict[str, StorageTarget]()
        for name, settings in self._settings.enabled_targets.items():
            if not (yield from check_own_files(name, settings)):
                continue
            try:
                targets[name] = settings.build(name, self._settings.machine)
            except ValueError as error:  # what two settings say together, which the settings' own rules do not see
                yield problem(f"target {name}", str(error), f"correct storage_targets.{name}")
        return keep_apart(targets)

    def _catalog(self) -> Check[None]:
        catalog = self._app.catalog
        newest = catalog.latest(application=self._app.name)
        yield ok("catalog", f"{catalog.place}: {f'newest backup {newest.backup_id}' if newest else 'no backup yet'}")
