"""The doctor: everything that a first night would trip over, found by day, each with what to do about it.

A check never raises for a broken environment; what breaks it becomes its finding. Checks do what a backup does (write,
connect, start a scratch server) rather than compare numbers, and remove what they made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

from twist_dr.engine.doctor_database import check_database
from twist_dr.engine.doctor_files import FilesSeen, check_configuration, check_django, check_media
from twist_dr.engine.doctor_findings import Check, Finding, Redaction, guarded, ok
from twist_dr.engine.doctor_keys import check_keyring, check_newest_backup
from twist_dr.engine.doctor_machine import (
    check_dagster_home,
    check_remains,
    check_scratch_room,
    check_staging_room,
    check_system_clock,
    check_work_folder,
    staging_estimate,
)
from twist_dr.engine.doctor_targets import TargetPlace, check_places, check_targets
from twist_dr.engine.doctor_tools import check_client_tools, check_verification
from twist_dr.engine.postgres.cluster import Cluster
from twist_dr.engine.repository import Repository
from twist_dr.engine.staging import StagingArea

if TYPE_CHECKING:
    from twist_dr.settings import Settings

__all__ = ["Finding", "exit_status", "render", "run_doctor"]

#: Values of ``django.environment`` that are hidden, by the variable's name; others (DJANGO_SETTINGS_MODULE) help to understand.
_SECRET_NAME = re.compile(r"secret|password|passwd|token|key|credential", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"://[^:/?#]*:([^@/]+)@|[?&]password=([^&]+)")


def run_doctor(settings: Settings, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Check everything, and give each finding as it is found. No finding holds a secret of the settings."""
    hide = Redaction(_secrets(settings), _public(settings))
    for finding in _Examination(settings, environment).findings():
        yield hide(finding)


def exit_status(findings: Iterable[Finding]) -> int:
    """For a shell: 1 when there is a problem, else 0."""
    return int(any(finding.status == "problem" for finding in findings))


def render(findings: Iterable[Finding]) -> str:
    """Lines for a terminal: one per finding, and its remedy below it, not broken, so that it can be copied."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<8} {finding.check:<17} {finding.found}")
        if finding.remedy is not None:
            lines.append(f"{'':<8} {'':<17} -> {finding.remedy}")
    return "\n".join(lines)


class _Examination:
    """One run of all checks, in the order in which their results build on each other."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._environment = environment
        self._cluster = Cluster(settings.database.url.get_secret_value())
        self._database_bytes = 0
        self._media = FilesSeen()

    def findings(self) -> Iterator[Finding]:
        settings = self._settings
        yield ok("settings", f"application {settings.application}")
        yield from guarded("system clock", check_system_clock())
        yield from guarded("work folder", check_work_folder(settings.work_dir))
        yield from self._database()
        self._media = (yield from guarded("media", check_media(settings.media))) or FilesSeen()
        yield from guarded("configuration", check_configuration(settings.configuration))
        yield from self._room()
        yield from self._targets_and_keys()
        yield from guarded("catalog", self._catalog())
        yield from guarded("dagster", check_dagster_home(self._environment))

    def _database(self) -> Iterator[Finding]:
        settings = self._settings
        seen = yield from guarded("database", check_database(self._cluster))
        applied = seen.migrations if seen else None
        if seen is not None:
            self._database_bytes = seen.size
            folders = settings.database.client_tools
            yield from guarded("client tools", check_client_tools(self._cluster, folders, seen.major))
            server = settings.verification.server
            other = Cluster(server.get_secret_value()) if server else None
            yield from guarded("verification", check_verification(folders, settings.scratch_dir, other, seen))
        if settings.django is None:
            yield ok("django", "not in the settings, so upgrades will not migrate")
            return
        django = settings.django
        variables = {name: value.get_secret_value() for name, value in django.environment.items()}
        yield from guarded("django", check_django(django.manage, django.folder, variables, applied))

    def _room(self) -> Iterator[Finding]:
        settings = self._settings
        yield from guarded(
            "staging room",
            check_staging_room(
                settings.staging_dir, self._database_bytes, self._media.bytes, self._forms(), whole=self._media.whole
            ),
        )
        yield from guarded(
            "scratch room",
            check_scratch_room(
                settings.scratch_dir, self._database_bytes, server_here=settings.verification.server is None
            ),
        )

    def _forms(self) -> int:
        return len({target.form for target in self._settings.enabled_targets.values()})

    def _targets_and_keys(self) -> Iterator[Finding]:
        from twist_dr.resources.targets import build_targets

        settings = self._settings
        places = {
            name: TargetPlace(target.type, target.encrypt, None if target.type == "s3" else target.path)
            for name, target in settings.enabled_targets.items()
        }
        yield from guarded("targets", check_places(places, settings.work_dir, settings.media))
        one_form = staging_estimate(self._database_bytes, self._media.bytes, 1)
        working = (yield from guarded("targets", check_targets(build_targets(settings), one_form))) or []
        repositories = [Repository(target, settings.application) for target in working]
        folders = {name: place.folder for name, place in places.items() if place.folder is not None}
        keyring = yield from guarded(
            "keyring",
            check_keyring(settings.encryption.keyring, settings.media, settings.configuration, folders),
        )
        if keyring is not None:
            yield from guarded("newest backup", check_newest_backup(repositories, keyring))
        staging = StagingArea(settings.staging_dir)
        yield from guarded("remains", check_remains(staging, repositories, all_reachable=len(working) == len(places)))

    def _catalog(self) -> Check[None]:
        from twist_dr.catalog import Catalog

        catalog = Catalog(self._settings.catalog_url)
        newest = catalog.latest(application=self._settings.application)
        yield ok("catalog", f"{catalog.place}: {f'newest backup {newest.backup_id}' if newest else 'no backup yet'}")


def _secrets(settings: Settings) -> Iterator[str]:
    """Every secret of the settings, and the passwords inside those that are URLs."""
    whole = [settings.database.url, settings.verification.server, settings.catalog.url]
    for target in settings.storage_targets.values():
        if target.type == "s3":
            whole += [target.secret_access_key, target.session_token]
    values = [secret.get_secret_value() for secret in whole if secret is not None]
    for name, secret in (settings.django.environment if settings.django else {}).items():
        value = secret.get_secret_value()
        if _SECRET_NAME.search(name) or "://" in value:
            values.append(value)
    for value in values:
        yield value
        for match in _URL_PASSWORD.finditer(value):
            password = match[1] or match[2]
            yield password
            yield unquote(password)


def _public(settings: Settings) -> Iterator[str]:
    """Names that findings say: a password that equals one of them is no secret to begin with."""
    yield settings.application
    yield from settings.storage_targets
    for name in ("user", "dbname"):
        try:
            yield Cluster(settings.database.url.get_secret_value()).parameters.get(name, "")
        except Exception:
            return
