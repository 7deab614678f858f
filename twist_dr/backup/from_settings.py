"""Backups from the settings and the catalog: planned, recorded, copied to the storage targets. The asset and a restore do it alike."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlencode

from twist_dr.backup.base.chain import require_chain
from twist_dr.backup.base.server import INCREMENTAL_MAJOR
from twist_dr.backup.base.take import BasePlan, BaseType, Parent
from twist_dr.backup.configuration import ConfigurationPlan, HistoryFiles
from twist_dr.backup.snapshots import PostgresTables, SqliteDatabase
from twist_dr.backup.storing import BeforeSealed, StoredCopy, store_copy
from twist_dr.backup.take import BackupPlan
from twist_dr.backup.tools_proof import tools_proof
from twist_dr.catalog import CatalogUnavailable, CopyState, SealedBackup
from twist_dr.catalog.location import parse_location
from twist_dr.errors import CopyFailed, CopyFailedForNow, LaunchRefused, TwistDRError, clause_of
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.kinds import BASE, CONFIGURATION, KINDS
from twist_dr.repository.manifest import Label, Manifest, Part
from twist_dr.repository.repository import Repository
from twist_dr.repository.streams import Form
from twist_dr.settings import Application, DjangoSettings, Settings
from twist_dr.settings.asking import app_version, django_application
from twist_dr.storage.base import StorageTarget
from twist_dr.system.processes import child_environment
from twist_dr.system.progress import human_bytes, human_seconds
from twist_dr.system.words import counted

#: Raises unless a target's archive holds the WAL that a base backup needs; it may wait for it.
WaitForWal = Callable[[StorageTarget, Manifest], None]


def plan_backup(
    app: Application, *, label: Label, reason: str, parts: Sequence[Part], targets: Mapping[str, Form]
) -> BackupPlan:
    """What to back up now, with what the last backup tells about its size."""
    settings = app.settings
    # With these parts: one of the database alone, made every hour, tells neither how large a whole one is nor that there were media.
    newest = app.catalog.latest(app.name, damaged=False, parts=parts)
    last = _comparable(newest, parts, targets)
    return replace(
        _plan(app, last, label=label, reason=reason, parts=parts, targets=targets),
        django=django_application(settings) if "database" in parts else None,
        media=settings.media,
        proof=tools_proof(settings),
        last_files=newest.manifest.files if newest else {},
    )


def _plan(
    app: Application,
    last: SealedBackup | None,
    *,
    label: Label,
    reason: str,
    parts: Sequence[Part],
    targets: Mapping[str, Form],
) -> BackupPlan:
    """What plans of all kinds say. ``last``: the backup that tells how large this one will be."""
    settings = app.settings
    return BackupPlan(
        application=app.name,
        targets=targets,
        app_version=app_version(settings),
        git_revision=_git_revision(settings.django),
        label=label,
        reason=reason,
        who=app.actor.name,
        parts=parts,
        configuration=settings.configuration,
        client_tools=settings.database.client_tools,
        lock_timeout=settings.database.lock_timeout.total_seconds(),
        compression_level=settings.backup.compression_level,
        compression_threads=settings.backup.compression_threads,
        last_stored_bytes=last.staged_bytes if last else None,
        last_plain_bytes={artifact.name: artifact.size for artifact in last.manifest.artifacts} if last else {},
    )


@dataclass(frozen=True)
class ParentChoice:
    """The base that a differential or incremental one may build upon, or why there is none; ``expected``: then nobody need be warned."""

    backup_id: str | None
    because: str = ""
    expected: bool = True


def choose_parent(app: Application, *, wanted: BaseType, max_chain: int, targets: Mapping[str, Form]) -> ParentChoice:
    """The newest base backup, or for a differential one the full one that its chain begins with, if a chain may grow so and every chosen
    target holds all of it, checked.

    A chain is only as good as what each target has of it: one that lacks a link could recover nothing from the rest.
    """
    if wanted == "full":
        return ParentChoice(None)
    newest = app.catalog.latest(app.name, kind=BASE.kind)
    base = newest.manifest.base if newest else None
    if newest is None or base is None:
        return ParentChoice(None, "there is none yet that it could build upon", wanted == "auto")
    facts = newest.manifest.postgres
    if facts is not None and facts.major < INCREMENTAL_MAJOR:
        # Asked of the server again by the one who takes it; here it saves fetching the parent for nothing, night after night.
        return ParentChoice(None, f"PostgreSQL {facts.major} takes no incremental ones", wanted == "auto")
    links = base.chain[:1] if wanted == "differential" else base.chain
    if len(links) >= max_chain:
        return ParentChoice(None, f"the last chain has {counted(len(links), 'backup')}, and max_chain is {max_chain}")
    for backup_id in links:
        checked = {copy.target for copy in app.catalog.copies(backup_id) if copy.state == "checked"}
        if lacking := sorted(targets.keys() - checked):
            return ParentChoice(None, f"{', '.join(lacking)} lacks a checked copy of {backup_id}", False)
    return ParentChoice(links[-1])


def plan_base_backup(
    app: Application,
    choice: ParentChoice,
    parent: Parent | None,
    *,
    label: Label,
    reason: str,
    wanted: BaseType,
    targets: Mapping[str, Form],
) -> BasePlan:
    """What base backup to take now. ``parent`` is what was fetched of the choice."""
    if choice.backup_id is not None and parent is None:
        choice = ParentChoice(None, f"no storage target gives the backup_manifest of {choice.backup_id}", False)
    last = app.catalog.latest(app.name, kind=BASE.kind)
    chain = last.manifest.base.chain if last and last.manifest.base else []
    last_full = _comparable(app.catalog.backup(app.name, chain[0]), BASE.parts, targets) if chain else None
    # What a differential one will hold is at most what came since the full one.
    since = chain[1:] if wanted == "differential" else chain[1:][-1:]
    before = [_comparable(app.catalog.backup(app.name, each), BASE.parts, targets) for each in since]
    last = (before[-1] if before else None) if parent else last_full
    plan = _plan(app, last, label=label, reason=reason, parts=BASE.parts, targets=targets)
    known = sum(each.staged_bytes for each in before if each) if before and all(before) else None
    return BasePlan(
        **{**vars(plan), "last_stored_bytes": known},
        last_full_bytes=last_full.staged_bytes if last_full else None,
        type=wanted,
        parent=parent,
        full_because=choice.because,
        full_is_expected=choice.expected,
        checksums=app.settings.base.checksums,
    )


def plan_configuration_backup(
    app: Application,
    history: Sequence[HistoryFiles | PostgresTables],
    *,
    label: Label,
    reason: str,
    targets: Mapping[str, Form],
    own_files: Sequence[Path],
    history_missing: str | None,
    contents: Mapping[str, object],
) -> ConfigurationPlan:
    """What configuration backup to take now. ``history`` and ``own_files`` are for those to find who know Dagster."""
    # Asked first: the answer brings the catalog's tables up to date, or says that it is not there.
    last = _comparable(app.catalog.latest(app.name, kind=CONFIGURATION.kind), CONFIGURATION.parts, targets)
    plan = _plan(app, last, label=label, reason=reason, parts=CONFIGURATION.parts, targets=targets)
    return ConfigurationPlan(
        **vars(plan),
        own_files=[path for path in own_files if path.is_file()],
        catalog=catalog_source(app.settings.catalog_url),
        history=history,
        history_missing=history_missing,
        contents={"catalog": app.catalog.place, **contents},
    )


def catalog_source(url: str) -> SqliteDatabase | PostgresTables:
    """What there is to copy of the catalog at a URL."""
    from twist_dr.catalog.models import METADATA
    from twist_dr.catalog.schema import VERSION_TABLE

    file = parse_location(url).file
    if file is not None:
        return SqliteDatabase(file)
    # Its tables and no others: it may share a database.
    return PostgresTables(Cluster(libpq_url(url)), (*sorted(METADATA.tables), VERSION_TABLE), "catalog.url")


def libpq_url(url: str) -> str:
    """A URL of SQLAlchemy's as libpq takes it. A secret."""
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    user = quote(parsed.username or "", safe="") + (
        f":{quote(str(parsed.password), safe='')}" if parsed.password else ""
    )
    host = f"[{parsed.host}]" if parsed.host and ":" in parsed.host else parsed.host or ""
    place = f"{user}@{host}" if user else host
    return f"postgresql://{place}{f':{parsed.port}' if parsed.port else ''}/{quote(parsed.database or '', safe='')}" + (
        f"?{urlencode(parsed.query, doseq=True, quote_via=quote)}" if parsed.query else ""
    )


def chosen_targets(settings: Settings, wanted: str) -> dict[str, Form]:
    """Of the storage targets that backups are copied to those that ``wanted`` names, with their forms. Raises ``LaunchRefused``."""
    forms = settings.forms
    return {name: forms[name] for name in chosen_names(settings.enabled_targets, wanted, forms)}


def chosen_names(enabled: Collection[str], wanted: str, among: Collection[str] | None = None) -> list[str]:
    """The names that ``wanted`` says: ``all``, or some with commas between. ``among``: those that will do, all enabled ones unless given.

    Raises ``LaunchRefused``.
    """
    choice = enabled if among is None else among
    names = list(choice) if wanted.strip() == "all" else [name.strip() for name in wanted.split(",") if name.strip()]
    if wrong := [name for name in names if name not in choice]:
        archives = all(name in enabled for name in wrong)
        what = "an archive that backups are moved to" if archives else "no enabled storage target"
        raise LaunchRefused(
            f"{', '.join(wrong)} is {what}", remedy=f"choose among {', '.join(choice)}, or write 'all' in targets"
        )
    return list(dict.fromkeys(names))


def needed_beside(manifest: Manifest, await_wal: WaitForWal) -> BeforeSealed:
    """What a target must hold before the copy of a base backup is sealed there: its chain, and the WAL up to its end."""

    def ready(repository: Repository) -> None:
        require_chain(manifest, repository)
        await_wal(repository.target, manifest)

    return ready


def record_sealed(app: Application, manifest: Manifest, run_id: str | None) -> None:
    """Record a backup that lies sealed in staging, made by that run, its copies pending."""
    app.catalog.record_backup(manifest, app.staging.sealed_bytes(manifest.backup_id), run_id=run_id)
    for name, form in manifest.storage_targets.items():
        app.catalog.record_copy(manifest.backup_id, name, state="pending", form=form)


def _comparable(last: SealedBackup | None, parts: Sequence[Part], targets: Mapping[str, Form]) -> SealedBackup | None:
    """The last backup, if what it took says something about this one: as many parts, and as many stored forms."""
    if last is None or not set(parts) <= set(last.manifest.parts):
        return None
    return last if len(set(last.manifest.storage_targets.values())) == len(set(targets.values())) else None


def _git_revision(django: DjangoSettings | None) -> str | None:
    """The application's commit, where its code is a git checkout."""
    if django is None:
        return None
    try:
        done = subprocess.run(
            ["git", "-C", django.folder, "rev-parse", "HEAD"],
            env=child_environment(), capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


#: For what a copy that was called off has to remove.
_CLEARING_SECONDS = 15.0


class Copying:
    """Copies in the making, and what became of them."""

    def __init__(self, app: Application, manifest: Manifest) -> None:
        self._catalog = app.catalog
        self._manifest = manifest
        self._run_id = app.actor.run_id
        self._report = app.report
        self._failures: dict[str, Exception] = {}
        self._catalog_error: CatalogUnavailable | None = None
        self._stored = 0

    def side_by_side(
        self,
        folder: Path,
        places: Mapping[str, tuple[Repository, Form]],
        *,
        before_sealed: BeforeSealed | None = None,
    ) -> Iterator[StoredCopy]:
        """Copy to all places at once and give each copy as it is done. One that fails stops no other."""
        with ThreadPoolExecutor(max(1, len(places))) as pool:
            running = {
                pool.submit(
                    store_copy,
                    self._manifest,
                    folder,
                    repository,
                    form,
                    self._report,
                    held_before=self._held_before(name),
                    before_sealed=before_sealed,
                ): (name, form)
                for name, (repository, form) in places.items()
            }
            try:
                for future in as_completed(running):
                    name, form = running[future]
                    try:
                        copy = future.result()
                    # Whatever one target's failure is, a defect of ours included, it is that target's alone.
                    except Exception as error:
                        self._note_failure(name, form, error)
                    else:
                        self._note(copy)
                        yield copy
            except BaseException:
                self._report.stop.set()
                # The others look at that between two chunks, and remove what they had begun. Whoever waits for a server that hangs does not.
                for future in wait(running, _CLEARING_SECONDS).not_done:
                    repository, _ = places[running[future][0]]
                    repository.target.give_up()
                raise

    def _held_before(self, name: str) -> bool:
        """Whether the catalog knows good copies on a target."""
        try:
            return bool(
                self._catalog.backups(application=self._manifest.application, target=name, state="checked", limit=1)
            )
        except CatalogUnavailable:
            return False

    def raise_failures(self) -> None:
        """Raise ``CopyFailed`` unless all were stored: partial is loud. Retryable when each failure may pass by itself."""
        if self._failures:
            told = " ".join(f"{name}: {clause_of(error)}" for name, error in sorted(self._failures.items()))
            place = f"{self._manifest.application}/{KINDS[self._manifest.kind].copies}"
            keys = " or ".join(f"key:{place}/{name}" for name in sorted(self._failures))
            passing = all(isinstance(error, TwistDRError) and error.retryable for error in self._failures.values())
            raise (CopyFailedForNow if passing else CopyFailed)(
                f"{self._manifest.backup_id} is missing on {len(self._failures)} of {len(self._failures) + self._stored} storage targets. {told}",
                remedy=f"when that is fixed, materialize these copies in the page, or run: dagster asset materialize -m twist_dr.definitions --select '{keys}'",
            )
        if self._catalog_error is not None:
            # The copies are there, which is what counts; that the index lacks them must not pass as success either.
            raise self._catalog_error

    def _note(self, copy: StoredCopy) -> None:
        self._stored += 1
        self._report.info(
            f"{copy.target}: {human_bytes(copy.bytes)} stored and checked in {human_seconds(copy.seconds)}"
        )
        self._record(copy.target, copy.form, "checked", stored_bytes=copy.bytes, seconds=copy.seconds)

    def _note_failure(self, name: str, form: Form, error: Exception) -> None:
        self._failures[name] = error
        self._report.warning(f"{name}: {clause_of(error)}")
        self._record(name, form, "failed", error=error)

    def _record(
        self,
        name: str,
        form: Form,
        state: CopyState,
        *,
        stored_bytes: int | None = None,
        seconds: float | None = None,
        error: Exception | None = None,
    ) -> None:
        """An index that does not answer stops no copy."""
        try:
            self._catalog.record_copy(
                self._manifest.backup_id, name, state=state, form=form.name,
                stored_bytes=stored_bytes, seconds=seconds, error=error, run_id=self._run_id,
            )  # fmt: skip
        except CatalogUnavailable as unavailable:
            self._catalog_error = unavailable
            self._report.warning(str(unavailable))


def clear_staging(app: Application) -> None:
    """Remove from staging what every target has, and what a newer backup of the same kind has overtaken.

    The newest that some target lacks stays, for the next attempt; older ones would fill the disk while a target is gone
    for days. A backup that no target holds stays: nothing else has it.
    """
    staging = app.staging
    try:
        rows = {backup_id: app.catalog.backup(app.name, backup_id) for backup_id in staging.sealed()}
    except CatalogUnavailable as unavailable:
        app.report.warning(str(unavailable))
        return
    held = [row for row in rows.values() if row and any(copy.state == "checked" for copy in row.copies)]
    for row in held:
        overtaken = any(newer.kind == row.kind and newer.backup_id > row.backup_id for newer in held)
        if (row.complete or overtaken) and staging.remove(row.backup_id):
            app.report.info(f"removed {row.backup_id} from staging")
