"""The copies: the sealed backup on each storage target, all at the same time, each checked after it was stored."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import dagster as dg

from twist_dr.assets.freshness import fresh_within, window_of
from twist_dr.backups import Copying, clear_staging, needed_beside
from twist_dr.engine.copies import StoredCopy, bring_back
from twist_dr.engine.kinds import KINDS, KindSpec
from twist_dr.engine.manifest import MANIFEST_NAME, Kind, Manifest, kind_of, open_manifest
from twist_dr.engine.progress import Report
from twist_dr.engine.repository import Repository, form_named
from twist_dr.engine.streams import Form
from twist_dr.errors import BackupNotFound, TwistDRError
from twist_dr.metadata import in_words
from twist_dr.orchestration import APPLICATION, RUN_BACKUP, operation
from twist_dr.room import record_room
from twist_dr.settings import Application, Settings
from twist_dr.storage.base import StorageTarget
from twist_dr.wal import AwaitWal, Shipping


def copies_asset(settings: Settings, backup: dg.AssetKey, of_kind: Kind) -> dg.AssetsDefinition:
    """One asset per enabled target, ``<application>/copies/<target>``, ``base_copies`` or ``configuration_copies``, made side by side in one step.

    Skippable, because a launch may choose some targets only; a target that failed fails the step all the same. A copy of a base backup is
    sealed only when its target also holds the chain that it builds upon, and the WAL up to its end.
    """
    kind = KINDS[of_kind]
    names = {dg.AssetKey([settings.application, kind.copies, name]): name for name in settings.enabled_targets}

    def spec(key: dg.AssetKey, name: str) -> dg.AssetSpec:
        target = settings.storage_targets[name]
        return dg.AssetSpec(
            key,
            deps=[backup],
            description=f"The {kind.kind} backup on storage target {name} ({target.type}), stored as {_form(target.form, kind).name} and checked.",
            group_name="backups",
            kinds={"s3"} if target.type == "s3" else {"file"},
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
        with operation(context, retry=True) as (app, report):
            _adopt(app, report)
            places = app.repositories()
            backup_id, own_run = _backup_to_copy(context.run, app, kind)
            manifest = _staged(app, backup_id, places, report)
            # Bytes are checked as they are stored: whoever launches a check alone on its page has the copy made for it.
            checks = {check.asset_key for check in context.selected_asset_check_keys}
            chosen = {names[key]: key for key in sorted({*context.selected_asset_keys, *checks})}
            forms = _forms(app.settings, manifest, list(chosen), own_run=own_run, report=report)
            copying = Copying(app, manifest, report)
            with app.staging.using(manifest.backup_id) as folder, ExitStack() as stack:
                needed = None
                if kind.physical:
                    shipping = stack.enter_context(Shipping(app, report))
                    needed = needed_beside(manifest, AwaitWal(app.settings, shipping, report))
                wanted = {name: (places[name], form) for name, form in forms.items()}
                for copy in copying.side_by_side(folder, wanted, before_sealed=needed):
                    key = chosen[copy.target]
                    check = _stored_bytes_checked(key, copy)
                    if key in context.selected_asset_keys:
                        yield _materialization(key, copy, manifest, app.targets[copy.target], check)
                    else:
                        yield check
            clear_staging(app, report)
            record_room(app.catalog, app.targets.values(), report)
            copying.raise_failures()

    return copies


def _form(form: Form, kind: KindSpec) -> Form:
    """The form of most artifacts: base and configuration backups are never stored unencrypted."""
    return form.confidential if kind.always_encrypted else form


def _backup_to_copy(run: dg.DagsterRun, app: Application, kind: KindSpec) -> tuple[str, bool]:
    """The backup of that kind which this run made, or the run that this one repeats, and True; else the newest, and False."""
    newest = app.catalog.latest(app.name, kind=kind.kind)
    for run_id in (run.run_id, run.parent_run_id, run.root_run_id):
        if run_id is None:
            continue
        # A run may make a backup of each kind; then what the catalog names may be the other one.
        for made in (app.catalog.backup_of_run(run_id), newest):
            if made is not None and (made.kind, made.run_id) == (kind.kind, run_id):
                return made.backup_id, True
    if newest is None:
        raise BackupNotFound(f"There is no {kind.kind} backup of {app.name} yet; launch the job {kind.job}.")
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


def _staged(app: Application, backup_id: str, repositories: Mapping[str, Repository], report: Report) -> Manifest:
    """The manifest of a backup that lies in staging; one that does not is brought back from the first target that has it."""
    staging, keyring = app.staging, app.keyring
    if backup_id in staging.sealed():
        sealed = (staging.folder(backup_id) / MANIFEST_NAME).read_bytes()
        return open_manifest(sealed, keyring, application=app.name, backup_id=backup_id, what=f"staging: {backup_id}")
    for name, repository in repositories.items():
        try:
            manifest = repository.manifest(backup_id, keyring)
            bring_back(manifest, repository, staging, keyring, report)
        except TwistDRError as error:
            report.warning(f"{name} cannot give {backup_id} back: {error}")
        else:
            return manifest
    raise BackupNotFound(
        f"Neither staging nor any storage target holds {backup_id} whole; make a new backup with the job "
        f"{KINDS[kind_of(backup_id)].job}."
    )


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


def _adopt(app: Application, report: Report) -> None:
    """Record backups that lie whole in staging and that the catalog does not know: a run died between the two."""
    staging, catalog = app.staging, app.catalog
    for backup_id in staging.sealed():
        if catalog.backup(app.name, backup_id) is None:
            sealed = (staging.folder(backup_id) / MANIFEST_NAME).read_bytes()
            what = f"staging: {backup_id}"
            manifest = open_manifest(sealed, app.keyring, application=app.name, backup_id=backup_id, what=what)
            catalog.record_backup(manifest, sealed, run_id=None)
            for name, form in manifest.storage_targets.items():
                catalog.record_copy(backup_id, name, state="pending", form=form)
            report.info(f"{backup_id} lay whole in staging and was not recorded; it is now")
