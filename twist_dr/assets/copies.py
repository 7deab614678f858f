"""The copies: the sealed backup on each storage target, all at the same time, each checked after it was stored."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import dagster as dg

from twist_dr.catalog import Catalog, CatalogUnavailable, CopyState
from twist_dr.engine.copies import StoredCopy, bring_back, store_copy
from twist_dr.engine.keys import Keyring
from twist_dr.engine.manifest import MANIFEST_NAME, Manifest, open_manifest
from twist_dr.engine.progress import Report, human_bytes, human_seconds
from twist_dr.engine.repository import Repository, form_named
from twist_dr.engine.staging import StagingArea
from twist_dr.engine.streams import Form
from twist_dr.errors import BackupNotFound, CopyFailed, CopyFailedForNow, TwistDRError
from twist_dr.orchestration import RUN_BACKUP, operation
from twist_dr.settings import Settings
from twist_dr.storage.base import StorageTarget


def target_resource(name: str) -> str:
    """The key of a storage target's resource: kept apart from ``cluster``, ``catalog`` and ``keyring``."""
    return f"target_{name}"


def copies_asset(settings: Settings, full_backup: dg.AssetKey) -> dg.AssetsDefinition:
    """One asset per enabled target, ``<application>/copies/<target>``, made side by side in one step.

    Skippable, because a launch may choose some targets only; a target that failed fails the step all the same.
    """
    names = {dg.AssetKey([settings.application, "copies", name]): name for name in settings.enabled_targets}

    def spec(key: dg.AssetKey, name: str) -> dg.AssetSpec:
        target = settings.storage_targets[name]
        return dg.AssetSpec(
            key,
            deps=[full_backup],
            description=f"The backup on storage target {name} ({target.type}), stored as {target.form.name} and checked.",
            group_name="backups",
            kinds={"s3"} if target.type == "s3" else {"file"},
            owners=[RUN_BACKUP],
            skippable=True,
        )

    @dg.multi_asset(
        name="copies",
        specs=[spec(key, name) for key, name in names.items()],
        check_specs=[
            dg.AssetCheckSpec(
                "stored_bytes_checked",
                asset=key,
                description="The bytes on the target have the recorded size and SHA-256.",
            )
            for key in names
        ],
        required_resource_keys={"catalog", "keyring", *map(target_resource, names.values())},
        can_subset=True,
    )
    def copies(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        with operation(context, retry=True) as report:
            catalog: Catalog = context.resources.catalog
            staging = StagingArea(settings.staging_dir)
            keyring: Keyring = context.resources.keyring.load()
            _adopt(catalog, staging, keyring, report)
            repositories = {
                name: Repository(getattr(context.resources, target_resource(name)), settings.application)
                for name in settings.enabled_targets
            }
            backup_id, own_run = _backup_to_copy(context, catalog, settings)
            manifest = _staged(backup_id, staging, repositories, keyring, report)
            chosen = {names[key]: key for key in sorted(context.selected_asset_keys)}
            forms = _forms(settings, manifest, list(chosen), own_run=own_run, report=report)
            copying = _Copying(catalog, manifest, context.run.run_id, report)
            with staging.using(manifest.backup_id) as folder:
                for copy in copying.side_by_side(
                    folder, {name: (repositories[name], form) for name, form in forms.items()}
                ):
                    yield _materialization(chosen[copy.target], copy, manifest, repositories[copy.target].target)
            _clear_staging(catalog, staging, settings.application, report)
            copying.raise_failures()

    return copies


class _Copying:
    """Copies in the making, and what became of them."""

    def __init__(self, catalog: Catalog, manifest: Manifest, run_id: str, report: Report) -> None:
        self._catalog = catalog
        self._manifest = manifest
        self._run_id = run_id
        self._report = report
        self._failures: dict[str, Exception] = {}
        self._catalog_error: CatalogUnavailable | None = None
        self._stored = 0

    def side_by_side(self, folder: Path, places: Mapping[str, tuple[Repository, Form]]) -> Iterator[StoredCopy]:
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
            # A target's own errors begin with its name.
            told = " ".join(
                f"{name}: {str(error).removeprefix(f'{name}: ')}" for name, error in sorted(self._failures.items())
            )
            keys = " or ".join(f"key:{self._manifest.application}/copies/{name}" for name in sorted(self._failures))
            sentence = (
                f"{self._manifest.backup_id} is missing on {len(self._failures)} of {len(self._failures) + self._stored} storage targets. "
                f"{told} When that is mended, materialize these copies in the page, or run: dagster asset materialize "
                f"-m twist_dr.definitions --select '{keys}'"
            )
            passing = all(isinstance(error, TwistDRError) and error.retryable for error in self._failures.values())
            raise CopyFailedForNow(sentence) if passing else CopyFailed(sentence)
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
        self._report.warning(f"{name}: {error}")
        self._record(name, form, "failed", error=str(error) or type(error).__name__)

    def _record(
        self,
        name: str,
        form: Form,
        state: CopyState,
        *,
        stored_bytes: int | None = None,
        seconds: float | None = None,
        error: str | None = None,
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


def _backup_to_copy(context: dg.AssetExecutionContext, catalog: Catalog, settings: Settings) -> tuple[str, bool]:
    """The backup that this run made, or the run that this one repeats, and True; else the newest, and False."""
    run = context.run
    for run_id in (run.run_id, run.parent_run_id, run.root_run_id):
        if run_id is not None and (made := catalog.backup_of_run(run_id)) is not None:
            return made.backup_id, True
    newest = catalog.latest(application=settings.application)
    if newest is None:
        raise BackupNotFound(f"There is no backup of {settings.application} yet; launch the job backup_full.")
    return newest.backup_id, False


def _forms(
    settings: Settings, manifest: Manifest, chosen: list[str], *, own_run: bool, report: Report
) -> dict[str, Form]:
    """The form of each copy to make, as the backup planned it.

    A target that the backup was not meant for is left out in the run that made it (and its repetitions); in a run of its
    own somebody asks for just that copy, and the settings say the form.
    """
    forms = {}
    for name in chosen:
        planned = form_named(manifest.storage_targets.get(name, ""))
        if planned is not None:
            forms[name] = planned
        elif own_run:
            report.info(f"{name} was not chosen for {manifest.backup_id}")
        else:
            forms[name] = settings.storage_targets[name].form
    return forms


def _staged(
    backup_id: str, staging: StagingArea, repositories: Mapping[str, Repository], keyring: Keyring, report: Report
) -> Manifest:
    """The manifest of a backup that lies in staging; one that does not is brought back from the first target that has it."""
    application = staging.root.name
    if backup_id in staging.sealed():
        sealed = (staging.folder(backup_id) / MANIFEST_NAME).read_bytes()
        return open_manifest(
            sealed, keyring, application=application, backup_id=backup_id, what=f"staging: {backup_id}"
        )
    for name, repository in repositories.items():
        try:
            manifest = repository.manifest(backup_id, keyring)
            bring_back(manifest, repository, staging, keyring, report)
        except TwistDRError as error:
            report.warning(f"{name} cannot give {backup_id} back: {error}")
        else:
            return manifest
    raise BackupNotFound(
        f"Neither staging nor any storage target holds {backup_id} whole; make a new backup with the job backup_full."
    )


def _materialization(
    key: dg.AssetKey, copy: StoredCopy, manifest: Manifest, target: StorageTarget
) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(
        asset_key=key,
        metadata={
            "backup_id": dg.MetadataValue.text(manifest.backup_id),
            "location": dg.MetadataValue.text(target.location),
            "form": dg.MetadataValue.text(copy.form.name),
            "dagster/size_bytes": dg.MetadataValue.int(copy.bytes),
            "duration_seconds": dg.MetadataValue.float(copy.seconds),
            "ratio": dg.MetadataValue.float(round(manifest.plain_bytes / copy.bytes, 2)),
        },
        check_results=[
            dg.AssetCheckResult(
                asset_key=key, check_name="stored_bytes_checked", passed=True, metadata={"bytes": copy.bytes}
            )
        ],
    )


def _adopt(catalog: Catalog, staging: StagingArea, keyring: Keyring, report: Report) -> None:
    """Record backups that lie whole in staging and that the catalog does not know: a run died between the two."""
    application = staging.root.name
    for backup_id in staging.sealed():
        if catalog.backup(application, backup_id) is None:
            sealed = (staging.folder(backup_id) / MANIFEST_NAME).read_bytes()
            what = f"staging: {backup_id}"
            manifest = open_manifest(sealed, keyring, application=application, backup_id=backup_id, what=what)
            catalog.record_backup(manifest, sealed, run_id=None)
            for name, form in manifest.storage_targets.items():
                catalog.record_copy(backup_id, name, state="pending", form=form)
            report.info(f"{backup_id} lay whole in staging and was not recorded; it is now")


def _clear_staging(catalog: Catalog, staging: StagingArea, application: str, report: Report) -> None:
    """Remove from staging what every target has, and what a newer backup has overtaken.

    The newest that some target lacks stays, for the next attempt; older ones would fill the disk while a target is gone
    for days. A backup that no target holds stays: nothing else has it.
    """
    try:
        rows = {backup_id: catalog.backup(application, backup_id) for backup_id in staging.sealed()}
    except CatalogUnavailable as unavailable:
        report.warning(str(unavailable))
        return
    held = {backup_id for backup_id, row in rows.items() if row and any(copy.state == "checked" for copy in row.copies)}
    for backup_id in held:
        row = rows[backup_id]
        overtaken = any(newer > backup_id for newer in held)
        if row is not None and (row.complete or overtaken) and staging.remove(backup_id):
            report.info(f"removed {backup_id} from staging")
