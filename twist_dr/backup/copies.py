"""The sealed backup on each storage target, all at the same time, each checked after it was stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from twist_dr.backup.from_settings import Copying, clear_staging, needed_beside, record_sealed
from twist_dr.backup.storing import StoredCopy, bring_back
from twist_dr.catalog.space import record_space
from twist_dr.errors import BackupNotFound, StagingFull, TwistDRError
from twist_dr.repository.first_good import NO_MANIFEST, first_good
from twist_dr.repository.kinds import KINDS
from twist_dr.repository.manifest import Kind, Manifest, kind_of
from twist_dr.repository.repository import Repository, form_named
from twist_dr.repository.streams import Form
from twist_dr.settings import Application
from twist_dr.wal.from_settings import AwaitWal, Shipping


def backup_to_copy(app: Application, kind: Kind, runs: Iterable[str | None]) -> tuple[str, bool]:
    """The backup of that kind which one of these runs made, and True; else the newest, and False. Raises ``BackupNotFound``."""
    _adopt(app)
    newest = app.catalog.latest(app.name, kind=kind)
    for run_id in runs:
        if run_id is None:
            continue
        # A run may make a backup of each kind; then what the catalog names may be the other one.
        for made in (app.catalog.backup_of_run(run_id), newest):
            if made is not None and (made.kind, made.run_id) == (kind, run_id):
                return made.backup_id, True
    if newest is None:
        raise BackupNotFound(f"There is no {kind} backup of {app.name} yet", remedy=f"launch the job {KINDS[kind].job}")
    return newest.backup_id, False


def copy_backup(
    app: Application, backup_id: str, names: Iterable[str], *, own: bool
) -> Iterator[tuple[Manifest, StoredCopy]]:
    """Copy to these targets, side by side, and give each copy as it is done. Raises ``CopyFailed`` at the end unless all were stored.

    ``own``: to those of them alone that the backup was made for. A copy of a base backup is sealed only when its target also holds
    the chain that it builds upon, and the WAL up to its end.
    """
    places = app.repositories()
    manifest = _staged(app, backup_id, places.values())
    forms = _forms(app, manifest, list(names), own_run=own)
    copying = Copying(app, manifest)
    with app.staging.using(manifest.backup_id) as folder, ExitStack() as stack:
        needed = None
        if KINDS[manifest.kind].physical:
            shipping = stack.enter_context(Shipping(app))
            needed = needed_beside(manifest, AwaitWal(app, shipping))
        wanted = {name: (places[name], form) for name, form in forms.items()}
        for copy in copying.side_by_side(folder, wanted, before_sealed=needed):
            app.count_upload(copy.target, copy.bytes)
            yield manifest, copy
    clear_staging(app)
    record_space(app.catalog, app.targets.values(), app.report)
    copying.raise_failures()


def _forms(app: Application, manifest: Manifest, chosen: list[str], *, own_run: bool) -> dict[str, Form]:
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
            app.report.info(f"{name} was not chosen for {manifest.backup_id}")
        else:
            forms[name] = app.settings.form(name)
    return forms


def _staged(app: Application, backup_id: str, repositories: Iterable[Repository]) -> Manifest:
    """The manifest of a backup that lies in staging; one that does not is brought back from the first target that has it.

    Raises ``BackupNotFound`` where none has, ``StagingFull`` and ``Cancelled``, which say nothing about a target.
    """
    staging, keyring = app.staging, app.keyring
    if backup_id in staging.sealed():
        return staging.manifest(backup_id, app.name, keyring)

    def give_back(repository: Repository) -> Manifest:
        manifest = repository.manifest(backup_id, keyring)
        bring_back(manifest, repository, staging, keyring, app.report)
        return manifest

    def pass_over(repository: Repository, error: TwistDRError) -> None:
        if isinstance(error, StagingFull):
            raise error
        app.report.warning(f"{repository.target.name} cannot give {backup_id} back: {error.clause}")

    found = first_good(repositories, give_back, pass_over, errors=NO_MANIFEST)
    if found is None:
        raise BackupNotFound(
            f"Neither staging nor any storage target holds {backup_id} whole",
            remedy=f"make a new backup with the job {KINDS[kind_of(backup_id)].job}",
        )
    return found[1]


def _adopt(app: Application) -> None:
    """Record backups that lie whole in staging and that the catalog does not know: a run died between the two."""
    for backup_id in app.staging.sealed():
        if app.catalog.backup(app.name, backup_id) is None:
            record_sealed(app, app.staging.manifest(backup_id, app.name, app.keyring), run_id=None)
            app.report.info(f"{backup_id} lay whole in staging and was not recorded; it is now")
