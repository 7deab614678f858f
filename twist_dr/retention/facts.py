"""What a retention plan is made from: the target says what is there, the catalog what is known of it, this machine who uses it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from twist_dr.catalog import THERE, BackupRow, RetentionRow
from twist_dr.catalog.notes import Rebuilt
from twist_dr.errors import TwistDRError
from twist_dr.repository.kinds import DATA_KINDS, KINDS, bases_of
from twist_dr.repository.manifest import MANIFEST_NAME, Kind, Manifest, kind_of, open_manifest
from twist_dr.repository.repository import Repository
from twist_dr.retention.ground import BackupFolder, Bases, Survey, read_bases, strangers, survey, survey_wal
from twist_dr.retention.holds import HoldNotes, suspicious
from twist_dr.retention.incomplete import IncompleteBackup, find_incomplete, id_time
from twist_dr.retention.model import INTACT, BackupFacts, ClusterWal, CopyState, Hold, Moving, Reclassing
from twist_dr.retention.plan import good_ids
from twist_dr.settings import Application
from twist_dr.storage.base import StorageTarget, Stranger
from twist_dr.storage.patience import patient
from twist_dr.wal.objects import WalArchive

#: A target that gives no answer for so long is left alone.
_PATIENCE_SECONDS = 60.0
#: Ids that a sentence names.
_NAMED = 3
_COMING = "it lies in staging: its copy is being made, or will be"


@dataclass
class TargetFacts:
    """One target as it is."""

    name: str
    repository: Repository
    archive: WalArchive
    notes: HoldNotes
    ground: Survey
    backups: list[BackupFacts]
    #: Ids with why they stay whatever a plan says.
    in_use: dict[str, str]
    bases: Bases
    #: None for what cannot be read.
    staged: Mapping[str, Manifest | None]
    clusters: list[ClusterWal] = field(default_factory=list)
    incomplete: list[IncompleteBackup] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: Why nothing of the WAL may go; empty when nothing speaks against it.
    wal_doubt: str = ""
    #: Ids that were to go and are there still, with why; carrying out adds to it.
    stayed: dict[str, str] = field(default_factory=dict)
    #: What the holds take that lie on the target.
    hold_bytes: int = 0
    #: What the catalog knows of those whose deletion was begun, by their authentic tombstones.
    begun: Mapping[str, RetentionRow] = field(default_factory=dict)
    #: When what is kept here moves to another target.
    moving: Moving | Reclassing | None = None
    #: What others put there.
    strangers: list[Stranger] = field(default_factory=list)

    @property
    def used_bytes(self) -> int:
        """Bytes of all that was listed."""
        return (
            self.ground.stored_bytes + self.hold_bytes + sum(cluster.holdings.stored_bytes for cluster in self.clusters)
        )


class Looking:
    """Looks at the targets of one application. No state: every call reads anew."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def at(self, target: StorageTarget, now: datetime) -> TargetFacts:
        """Raises storage errors, ``CatalogUnavailable``; ``TargetUnavailable`` also when a target that held backups holds none."""
        rows = self._rows(target.name)
        repository = self.repository(target)
        archive = WalArchive(patient(target, _PATIENCE_SECONDS), self._app.name)
        whole = [row.backup_id for row in rows.values() if row.state in INTACT]
        staged = self._staged()
        ground = survey(repository, self._app.keyring, whole)
        if whole and not ground.sealed:
            raise repository.emptied()
        bases = read_bases(repository, ground.sealed, self._app.keyring)
        backups, in_use = self._assemble(rows, ground, bases, staged, {})
        notes = HoldNotes(repository, self._app.keyring)
        facts = TargetFacts(target.name, repository, archive, notes, ground, backups, in_use, bases, staged)
        facts.hold_bytes = notes.stored_bytes
        facts.begun = {each: rows[each] for each in sorted(ground.tombstones) if each in rows}
        facts.strangers = strangers(repository)
        facts.warnings = [
            *_missing(target.name, sorted(set(whole) - set(ground.sealed))),
            *suspicious(target.name, facts.strangers, ground, notes, self._placed()),
        ]
        self._add_wal(facts)
        facts.incomplete = find_incomplete(
            ground,
            facts.begun,
            self._spared(_states(rows), staged, now),
            self._app.settings.cleanup.incomplete_after,
            now,
        )
        return facts

    def begun(self, facts: TargetFacts, backup_id: str) -> BackupFacts:
        """A backup whose deletion was begun as though it was whole: so it is decided again whether it goes."""
        row = facts.begun[backup_id]
        folder = facts.ground.folders.get(backup_id)
        return _known(row, folder, facts.bases)

    def again(self, facts: TargetFacts) -> tuple[list[BackupFacts], dict[str, str]]:
        """The same target's backups and their use, by what catalog and this machine say now."""
        # What lay in staging when the target was looked at may lie on the target by now, which is not listed again.
        staged = {**facts.staged, **self._staged()}
        return self._assemble(self._rows(facts.name), facts.ground, facts.bases, staged, facts.stayed)

    def spared(self, backup_id: str, facts: TargetFacts, now: datetime) -> str | None:
        """Why a folder without a manifest stays, by what catalog and this machine say now; None when nothing speaks for it."""
        copies = self._app.catalog.copies(backup_id)
        states = {copy.backup_id: (copy.state, copy.updated_at) for copy in copies if copy.target == facts.name}
        return self._spared(states, self._app.staging.sealed(), now).get(backup_id)

    def coming(self, backup_id: str) -> str | None:
        """Why what is left of a deleted backup stays: it lies in staging again, from where it is copied anew. None when it does not."""
        return _COMING if backup_id in self._app.staging.sealed() else None

    def holds(self, notes: HoldNotes) -> list[Hold]:
        """All that were not released, those that have run out too: those of the catalog, and those that lie on the target itself."""
        placed = self._placed()
        # What the catalog has as well is as it says, whatever it bears.
        lying = (note.hold if note.hold in placed else note.binding for note in notes.all())
        return list(dict.fromkeys([*placed, *lying]))

    def _placed(self) -> dict[Hold, None]:
        """Those of the catalog, in its order."""
        return dict.fromkeys(
            Hold(row.backup_id, row.who, row.reason, row.until)
            for row in self._app.catalog.holds(self._app.name)
            if row.released_at is None
        )

    def unproven(self, kinds: Collection[Kind]) -> list[Kind]:
        """Those of which none was found good since the catalog was rebuilt, if it was: what was known of good ones may be lost."""
        rebuilt = self._app.catalog.note(self._app.name, Rebuilt)
        if rebuilt is None or not kinds:
            return []
        proven = {kind for kind in KINDS if self._is_proven(kind, rebuilt.at)}
        # Nothing verifies configurations by itself: if theirs was waited for, every cleanup would wait for a person.
        proven |= KINDS.keys() - DATA_KINDS if proven else set()
        return [kind for kind in KINDS if kind in kinds and kind not in proven]

    def _is_proven(self, kind: Kind, rebuilt: datetime) -> bool:
        # Mostly that of the newest; whoever verified an older one by hand is not to be told that he did not.
        newest = self._app.catalog.latest_verified(self._app.name, kind)
        if newest is None or _verified_since(newest, rebuilt):
            return newest is not None
        return any(
            _verified_since(row, rebuilt) for row in self._app.catalog.backups(application=self._app.name, kind=kind)
        )

    def uses(self) -> dict[str, str]:
        """What is read now, by id."""
        return self._app.locks.used_now()

    def repository(self, target: StorageTarget) -> Repository:
        """A target's backups; one that gives no answer for a minute is left alone."""
        return Repository(patient(target, _PATIENCE_SECONDS), self._app.name)

    def _rows(self, name: str) -> dict[str, RetentionRow]:
        return {row.backup_id: row for row in self._app.catalog.retention_rows(self._app.name, name)}

    def _staged(self) -> dict[str, Manifest | None]:
        """Backups in staging, of which copies are being made or will be; None for one that cannot be read."""
        found: dict[str, Manifest | None] = {}
        for backup_id in self._app.staging.sealed():
            try:
                sealed = (self._app.staging.folder(backup_id) / MANIFEST_NAME).read_bytes()
                found[backup_id] = open_manifest(
                    sealed,
                    self._app.keyring,
                    application=self._app.name,
                    backup_id=backup_id,
                    what=f"staging: {backup_id}",
                )
            except (TwistDRError, OSError):
                found[backup_id] = None
        return found

    def _assemble(
        self,
        rows: Mapping[str, RetentionRow],
        ground: Survey,
        bases: Bases,
        staged: Mapping[str, Manifest | None],
        stayed: Mapping[str, str],
    ) -> tuple[list[BackupFacts], dict[str, str]]:
        # What stayed counts as kept: what it builds upon, and the WAL that it needs, must not go before it.
        backups, in_use = [], {**stayed, **self.uses()}
        for backup_id in ground.sealed:
            row = rows.get(backup_id)
            size = ground.folders[backup_id].size
            if row is None or row.state == "deleted":
                backups.append(_stranger(backup_id, size, bases))
                word = "it is not in the catalog" if row is None else "the catalog says that it was deleted"
                in_use.setdefault(backup_id, f"{word}; run: twist-dr catalog rebuild --from {ground.target}")
            else:
                backups.append(_known(row, ground.folders[backup_id], bases))
            if backup_id in bases.unreadable:
                in_use.setdefault(backup_id, f"its manifest cannot be read: {bases.unreadable[backup_id]}")
            if backup_id in staged:
                in_use.setdefault(backup_id, "it still lies in staging: some target lacks its copy")
        for backup_id, manifest in staged.items():
            if backup_id not in ground.folders or not ground.folders[backup_id].sealed:
                backups.append(_coming(backup_id, manifest))
            if manifest is None and bases_of([backup_id]):
                told = f"{backup_id} in staging cannot be read, and may build upon it"
                in_use |= {each: told for each in bases_of(ground.sealed) if each not in in_use}
        return backups, in_use

    def _add_wal(self, facts: TargetFacts) -> None:
        if facts.bases.unreadable:
            backup_id, why = next(iter(facts.bases.unreadable.items()))
            facts.wal_doubt = f"the manifest of {backup_id} cannot be read, so nobody can tell what WAL it needs: {why}"
        coming = [each for key, each in facts.staged.items() if each is not None and key not in facts.bases.known]
        if bases_of(key for key, each in facts.staged.items() if each is None):
            facts.wal_doubt = (
                facts.wal_doubt or "a base backup in staging cannot be read, so nobody can tell what WAL it needs"
            )
        good = good_ids({backup.id: backup for backup in facts.backups})
        facts.clusters = survey_wal(facts.archive, [*facts.bases.known.values(), *coming], good, self._app.keyring)

    def _spared(
        self, states: Mapping[str, tuple[CopyState, datetime]], staged: Iterable[str], now: datetime
    ) -> dict[str, str]:
        """Ids whose folder stays though it has no manifest. ``states``: of each copy, since when."""
        spared = dict.fromkeys(staged, _COMING)
        after: timedelta = self._app.settings.cleanup.incomplete_after
        for backup_id, (state, since) in states.items():
            if state == "pending" and now - since < after:
                spared.setdefault(backup_id, "it is being copied")
            elif state in THERE:
                spared.setdefault(backup_id, "it was whole, and its manifest is missing: a scrub can repair it")
        return self.uses() | spared


def _states(rows: Mapping[str, RetentionRow]) -> dict[str, tuple[CopyState, datetime]]:
    return {row.backup_id: (row.state, row.updated_at) for row in rows.values()}


def _verified_since(row: BackupRow, moment: datetime) -> bool:
    last = row.last_verification
    return last is not None and last.verified and last.started_at > moment


def _known(row: RetentionRow, folder: BackupFolder | None, bases: Bases) -> BackupFacts:
    """What the catalog knows; but one whose manifest is not authentic is none to rely on, whatever was known of it."""
    state: CopyState = "corrupt" if row.backup_id in bases.unreadable and row.state in INTACT else row.state
    base = bases.known[row.backup_id].base if row.backup_id in bases.known else None
    return BackupFacts(
        row.backup_id, row.kind, row.label, row.started_at, state, row.verified, folder.size if folder else 0,
        tuple(base.chain) if base else row.chain, base.stopped_at if base else None, partial=row.partial,
        storage_class=folder.storage_class if folder else None, archived=folder is not None and folder.asleep,
    )  # fmt: skip


def _stranger(backup_id: str, size: int, bases: Bases) -> BackupFacts:
    """What the catalog lacks: kept, and nothing else goes because of it."""
    manifest = bases.known.get(backup_id)
    taken_at = manifest.started_at if manifest else min(id_time(backup_id), datetime.now(timezone.utc))
    base = manifest.base if manifest else None
    return BackupFacts(
        backup_id, kind_of(backup_id), manifest.label if manifest else "manual", taken_at, "failed", None, size,
        tuple(base.chain) if base else (), base.stopped_at if base else None,
    )  # fmt: skip


def _coming(backup_id: str, manifest: Manifest | None) -> BackupFacts:
    """What lies in staging: it is not here yet, and what it builds upon must be."""
    if manifest is None:
        return BackupFacts(backup_id, kind_of(backup_id), "manual", id_time(backup_id), "pending")
    chain = tuple(manifest.base.chain) if manifest.base else ()
    return BackupFacts(backup_id, manifest.kind, manifest.label, manifest.started_at, "pending", chain=chain)


def _missing(name: str, ids: Sequence[str]) -> list[str]:
    if not ids:
        return []
    some = ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")
    return [
        f"{name} does not hold {some} any more, though nobody deleted it from here; find out who did. They count as lost here."
    ]
