"""Which backup a proof is made of, and what of newer ones is lost: what targets hold, held against what the catalog knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twist_dr.catalog import THERE, BackupRow, Catalog, CopyRow
from twist_dr.errors import BackupNotFound, StorageError, TwistDRError, VerificationFailed
from twist_dr.recovery.bases import find_bases
from twist_dr.repository.first_good import CORRUPT
from twist_dr.repository.kinds import FULL, KINDS
from twist_dr.repository.labels import SET_ASIDE
from twist_dr.repository.manifest import Kind, Label, Manifest
from twist_dr.repository.newest import Newest, anything, find_newest, with_database
from twist_dr.repository.repository import Repository
from twist_dr.settings import Application
from twist_dr.system.words import command, few, no_good_copy

#: Newer backups than the one that was found that are looked for in the catalog, and that a sentence names.
_LOOKED_FOR = 50
_NAMED = 3


@dataclass(frozen=True)
class Choice:
    """The newest backup that can be proven. ``missing``: a sentence for each newer one that is not there, or is not what its name says."""

    backup_id: str
    missing: tuple[str, ...] = ()


def choose_newest(
    app: Application, kind: Kind, repositories: Sequence[Repository], label: Label | None = None
) -> Choice:
    """The newest genuine backup of a kind on any of the targets, and what of newer ones must be said. ``label`` as in ``is_meant``.

    Copies that the catalog knows and that are not there are recorded as corrupt, so that the status says it from now on. Raises
    ``BackupNotFound`` when the targets hold none and should not, ``VerificationFailed`` when they should, and the storage error of a single target.
    """
    names = [repository.target.name for repository in repositories]
    away: dict[str, StorageError] = {}
    for repository in repositories:
        try:
            repository.target.prepare()
        except StorageError as error:
            away[repository.target.name] = error
            app.report.warning(f"passed over {repository.target.name}: {error.clause}")
    repositories = [repository for repository in repositories if repository.target.name not in away]
    usable, physical = with_database if kind == FULL.kind else anything, KINDS[kind].physical
    if physical:
        whole = {base.backup_id for base in find_bases(repositories, app.keyring, app.report)}
        usable = lambda manifest: manifest.backup_id in whole  # noqa: E731
    found = find_newest(repositories, app.keyring, kind, app.report, usable=usable, label=label)
    chosen = found.chosen if found.chosen is not None and (not physical or usable(found.chosen)) else None
    found.away |= away
    if len(found.away) == len(names) == 1:
        raise next(iter(found.away.values()))
    rows = _known_newer(app, kind, chosen, names)
    missing = [
        *(_said_unauthentic(found, backup_id, rows, app.catalog) for backup_id in found.unauthentic),
        *(_said_lost(found, row, names, app.catalog) for row in rows.values() if _is_lost(row, found)),
    ]
    if physical:
        missing += [
            f"{backup_id} is there, but not the whole chain that it builds upon."
            for backup_id in found.genuine
            if backup_id not in found.set_aside and (chosen is None or backup_id > chosen.backup_id)
        ]
    if chosen is None and missing:
        raise VerificationFailed(f"{no_good_copy(names, f'a {kind} backup')} {summed_up(missing)}")
    if chosen is None:
        raise BackupNotFound(
            f"No storage target that answers holds a {kind} backup{_beside(found, label)}",
            remedy=f"launch the job {KINDS[kind].job} first",
        )
    if found.set_aside and label is None:
        app.report.info(
            f"passed over {few(found.set_aside)}, labelled {SET_ASIDE}: what a restore was about to replace"
        )
    for sentence in missing:
        app.report.warning(sentence)
    return Choice(chosen.backup_id, tuple(missing))


def _beside(found: Newest, label: Label | None) -> str:
    """What there is beside the backup that was looked for, in words."""
    if label is not None:
        return f" labelled {label}"
    return (
        f" beside {few(found.set_aside)}, which a restore was about to replace (latest:{SET_ASIDE} names it)"
        if found.set_aside
        else ""
    )


def summed_up(missing: Sequence[str]) -> str:
    """Some sentences, and how many more there are."""
    more = len(missing) - _NAMED
    return " ".join(missing[:_NAMED]) + (f" And {more} more." if more > 0 else "")


def note_bad(catalog: Catalog, backup_id: str, target: str, error: TwistDRError | str) -> None:
    """Write down in the catalog that a copy is bad or missing, if it knows that copy."""
    row = catalog.copy(backup_id, target)
    if row is not None:
        catalog.record_copy(backup_id, target, state="corrupt", form=row.form, error=error)


def lacks(catalog: Catalog, backup_id: str, repository: Repository) -> bool:
    """Whether a target should have a copy and has no manifest of it; then that is recorded. Raises storage errors."""
    name = repository.target.name
    if not catalog.is_held(backup_id, name) or repository.has_manifest(backup_id):
        return False
    note_bad(catalog, backup_id, name, f"{name} does not hold {backup_id} any more")
    return True


def _known_newer(app: Application, kind: Kind, chosen: Manifest | None, names: Sequence[str]) -> dict[str, BackupRow]:
    """What the catalog knows to have been stored on these targets after the chosen one, and was not deleted from here, newest first."""
    rows = app.catalog.backups(
        application=app.name, kind=kind, since=chosen.started_at if chosen else None, limit=_LOOKED_FOR
    )
    return {
        row.backup_id: row
        for row in rows
        if (chosen is None or row.backup_id > chosen.backup_id) and _copies(row, names)
    }


def _copies(row: BackupRow, names: Sequence[str]) -> list[CopyRow]:
    return [copy for copy in row.copies if copy.target in names and copy.state in THERE]


def _is_lost(row: BackupRow, found: Newest) -> bool:
    return row.backup_id not in found.genuine and row.backup_id not in found.bad


def _said_unauthentic(found: Newest, backup_id: str, rows: dict[str, BackupRow], catalog: Catalog) -> str:
    places = found.bad[backup_id]
    for name, error in places.items():
        if isinstance(error, CORRUPT):
            note_bad(catalog, backup_id, name, error)
    told = " ".join(str(error) for error in places.values())
    if backup_id in rows:
        return f"{backup_id}, which is newer, has no good manifest anywhere: {told}"
    return (
        f"{backup_id} on {', '.join(places)} is no backup of ours, or was damaged: {told} The catalog does not know it: find out who "
        "put it there, and remove that folder."
    )


def _said_lost(found: Newest, row: BackupRow, names: Sequence[str], catalog: Catalog) -> str:
    copies = _copies(row, names)
    gone = [copy.target for copy in copies if copy.target not in found.away]
    for name in gone:
        note_bad(catalog, row.backup_id, name, f"{name} does not hold {row.backup_id} any more")
    away = [copy.target for copy in copies if copy.target in found.away]
    if not gone:
        return f"{row.backup_id} is newer, and is on {', '.join(away)} alone, which cannot be asked now."
    also = f" ({', '.join(away)} cannot be asked now)" if away else ""
    return (
        f"{row.backup_id}, taken {row.started_at:%Y-%m-%d %H:%M} UTC, is newer and was stored on {', '.join(gone)}, which "
        f"{'does' if len(gone) == 1 else 'do'} not hold it any more{also}, though nobody deleted it from here: find out who did, and make a "
        f"new backup: {command(KINDS[row.kind].job)}"
    )
