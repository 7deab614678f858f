"""The catalog as the rest of twist-dr sees it: record what happened, ask what happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypedDict

from sqlalchemy import ColumnElement, Connection, exists, func, insert, or_, select

from twist_dr.catalog import queries
from twist_dr.catalog.database import Database
from twist_dr.catalog.location import parse_location
from twist_dr.catalog.models import Backups, Copies, Restores, TargetTests, Verifications, WalPositions
from twist_dr.catalog.operations import Operations, recordable, told
from twist_dr.catalog.rows import (
    THERE,
    BackupRow,
    CopyRow,
    CopyState,
    RestoreRow,
    RestoreState,
    RetentionRow,
    SealedBackup,
    TargetTestRow,
    VerificationRow,
    WalPositionRow,
)
from twist_dr.catalog.summaries import Summaries
from twist_dr.errors import BackupError, BackupNotFound
from twist_dr.redaction import leaving
from twist_dr.repository.labels import split_label
from twist_dr.repository.manifest import Kind, Label, Manifest, Part
from twist_dr.system.collector import paused_collector

if TYPE_CHECKING:
    from typing_extensions import Required, Unpack

#: Candidates that a message names.
_NAMED = 3
#: Backups that are read at a time where all are wanted: some 5 MB.
_PORTION = 500


class BackupFilter(TypedDict, total=False):
    """What backups are asked for; None is as if it was not given."""

    application: Required[str]
    kind: Kind | None
    label: Label | None
    part: Part | None
    #: Both speak of one copy: some copy is on that target and in that state.
    target: str | None
    state: CopyState | None
    #: When the backup began; that moment included.
    since: datetime | None
    #: That moment left out.
    until: datetime | None
    #: A text in its id, reason, maker or versions, whatever the case.
    search: str | None


class Catalog(Operations, Summaries):
    """An index of what happened, at a database URL: ``sqlite:////path/catalog.db`` or ``postgresql://...``.

    Inert until a method is called; every call is one transaction of its own, safe from any thread and process. Recording
    the same thing again changes nothing. The constructor raises ``SettingsError`` when the URL is not one, every method
    ``CatalogUnavailable``: ``CatalogLocked``, ``CatalogUnreachable`` and ``CatalogTooNew`` are kinds of it.
    """

    def __init__(self, url: str) -> None:
        self._location = parse_location(url)
        self._database = Database(self._location)

    def __repr__(self) -> str:
        return f"Catalog({self.place!r})"

    @property
    def place(self) -> str:
        """Where it is, for people: a path, or ``database at host:port``. No password."""
        return self._location.place

    # -- recording -------------------------------------------------------------------------------------------------

    def record_backup(self, manifest: Manifest, sealed: bytes, *, run_id: str | None) -> None:
        """Record a backup. ``sealed`` is the manifest as stored; ``run_id`` None keeps the run that is known.

        Raises ``BackupError`` when another application has a backup of this id.
        """
        values = {
            "backup_id": manifest.backup_id,
            "application": manifest.application,
            "kind": manifest.kind,
            "label": manifest.label,
            "reason": manifest.reason,
            "who": manifest.who,
            "started_at": manifest.started_at,
            "finished_at": manifest.finished_at,
            "parts": manifest.parts,
            "plain_bytes": manifest.plain_bytes,
            "staged_bytes": sum(form.size for artifact in manifest.artifacts for form in artifact.stored.values()),
            "app_version": manifest.app_version,
            "db_schema_version": manifest.db_schema_version,
            "key_id": manifest.key.id,
            "run_id": run_id,
            "warnings": len(manifest.warnings),
            "chain": manifest.base.chain if manifest.base else None,
            "search": queries.searched(
                manifest.backup_id, manifest.reason, manifest.who, manifest.app_version, manifest.db_schema_version
            ),
            "manifest": sealed.decode(),
        }
        with self._database.writing() as connection:
            owner = connection.scalar(select(Backups.application).where(Backups.backup_id == manifest.backup_id))
            if owner not in (None, manifest.application):
                raise BackupError(
                    f"The catalog {self.place} already has a backup {manifest.backup_id}, of {owner}, so that of "
                    f"{manifest.application} cannot be recorded",
                    remedy="give each application a catalog of its own",
                )
            Backups.upsert(connection, values, key=("backup_id",), keep_known=("run_id",))

    def record_copy(
        self,
        backup_id: str,
        target: str,
        *,
        state: CopyState,
        form: str,
        stored_bytes: int | None = None,
        seconds: float | None = None,
        error: BaseException | str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Record how a storage target holds a backup now. ``form`` is a form's name.

        None for ``stored_bytes``, ``seconds`` or ``run_id`` keeps what is known; ``error`` belongs to the state, so None
        clears it. The state ``checked`` sets ``checked_at``. Raises ``BackupNotFound``.
        """
        now = _now()
        said, code = told(error)
        values = {
            "backup_id": backup_id,
            "target": target,
            "state": state,
            "form": form,
            "stored_bytes": stored_bytes,
            "seconds": seconds,
            "updated_at": now,
            "checked_at": now if state == "checked" else None,
            "error": said,
            "error_code": code,
            "run_id": run_id,
        }
        with self._database.writing() as connection:
            self._require(connection, backup_id)
            keep = ("stored_bytes", "seconds", "checked_at", "run_id")
            Copies.upsert(connection, values, key=("backup_id", "target"), keep_known=keep)

    def record_verification(self, row: VerificationRow) -> None:
        """Record a verification; one of the same backup, target and ``started_at`` is the same. Raises ``BackupNotFound``."""
        values = {name: value for name, value in vars(row).items() if name != "id"}
        for name in ("differences", "notes"):
            values[name] = [leaving(line) for line in values[name]]
        with self._database.writing() as connection:
            self._require(connection, row.backup_id)
            Verifications.upsert(connection, values, key=("backup_id", "target", "started_at"))

    def record_target_test(
        self,
        target: str,
        *,
        ok: bool,
        location: str,
        seconds: float,
        capabilities: Mapping[str, Any] | None = None,
        error: BaseException | str | None = None,
    ) -> None:
        """Record a test of a storage target that ended now. ``capabilities`` as JSON can hold them."""
        said, code = told(error)
        values = {
            "target": target,
            "at": _now(),
            "ok": ok,
            "location": location,
            "capabilities": None if capabilities is None else dict(capabilities),
            "error": said,
            "error_code": code,
            "seconds": seconds,
        }
        with self._database.writing() as connection:
            connection.execute(insert(TargetTests.table).values(values))

    def record_restore(self, row: RestoreRow) -> None:
        """Record a restore as far as it has come, in the place of what was recorded of it before."""
        values = asdict(row)
        for name in ("reason", "result", "error"):
            values[name] = None if values[name] is None else recordable(values[name])
        for name in ("passed_over", "replaced"):
            values[name] = [recordable(line) for line in values[name]]
        with self._database.writing() as connection:
            Restores.upsert(connection, values, key=("restore_id",))

    def record_wal_position(self, row: WalPositionRow) -> None:
        """Record how far a target's archive of WAL reaches now, in the place of what was recorded before."""
        values = {**vars(row), "error": None if row.error is None else recordable(row.error)}
        with self._database.writing() as connection:
            WalPositions.upsert(connection, values, key=("application", "target"))

    # -- asking ----------------------------------------------------------------------------------------------------

    def backups(self, *, limit: int | None = None, **wanted: Unpack[BackupFilter]) -> list[BackupRow]:
        """Backups, newest first, of those that fulfil every condition given."""
        with self._database.reading() as connection:
            return queries.page(connection, *_conditions(connection, wanted), limit=limit)

    def each_backup(self, *, limit: int | None = None, **wanted: Unpack[BackupFilter]) -> Iterator[BackupRow]:
        """The same one by one, however many: of those that come or go meanwhile some may be among them.

        Between portions no transaction is open, as whoever reads may take his time: a reader of SQLite keeps writers waiting.
        """
        last: BackupRow | None = None
        while limit is None or limit > 0:
            portion = _PORTION if limit is None else min(limit, _PORTION)
            with self._database.reading() as connection:
                conditions = _conditions(connection, wanted)
                if last is not None:
                    conditions.append(queries.comes_after(last))
                rows = queries.page(connection, *conditions, limit=portion)
            yield from rows
            if len(rows) < portion:
                return
            last = rows[-1]
            limit = None if limit is None else limit - portion

    def retention_rows(self, application: str, target: str) -> list[RetentionRow]:
        """Every backup that a target has or had, oldest first, with what a retention plan needs to know of it."""
        with self._database.reading() as connection, paused_collector():
            return queries.retention(connection, application, target)

    def backup(self, application: str, backup_id: str) -> SealedBackup | None:
        """One backup, with its manifest."""
        with self._database.reading() as connection:
            return queries.newest(connection, Backups.application == application, Backups.backup_id == backup_id)

    def find(self, application: str, text: str) -> SealedBackup:
        """The backup of that id, or the only one whose id begins with ``text``. Raises ``BackupNotFound``."""
        ours, begins = Backups.application == application, Backups.backup_id.startswith(text, autoescape=True)
        with self._database.reading() as connection:
            found = queries.newest(connection, ours, Backups.backup_id == text)
            if found is not None:
                return found
            matches = queries.ids(connection, ours, begins, limit=_NAMED) if text else []
            if len(matches) == 1 and (found := queries.newest(connection, ours, Backups.backup_id == matches[0])):
                return found
            if matches:
                number = queries.count(connection, ours, begins)
                raise BackupNotFound(
                    f"{text!r} is the beginning of {number} backups of {application}, {_some(matches, number)}",
                    remedy="write more of the id",
                )
            raise self._not_found(connection, application, text)

    def meant(self, application: str, text: str) -> SealedBackup:
        """The backup that a person means: ``latest`` (a full one that is no ``pre-restore``), ``latest:LABEL``, an id or the beginning of one.

        Raises ``BackupNotFound``.
        """
        word, label = split_label(text)
        if word != "latest":
            return self.find(application, text)
        with self._database.reading() as connection:
            conditions = (Backups.application == application, Backups.kind == "full", queries.meant(label))
            found = queries.newest(connection, *conditions)
        if found is None:
            what = f"labelled {label}" if label else "to be taken by itself"
            raise BackupNotFound(
                f"The catalog knows no full backup of {application} {what}",
                remedy="see all with twist-dr list, or make one with: twist-dr backup",
            )
        return found

    def latest(
        self, application: str, kind: Kind = "full", *, damaged: bool = True, parts: Sequence[Part] = ()
    ) -> SealedBackup | None:
        """The newest backup of a kind that has all ``parts``, whatever became of its copies. ``damaged``: also one made before a restore, of
        whatever there was."""
        conditions = [Backups.application == application, Backups.kind == kind, *map(queries.has_part, parts)]
        if not damaged:
            conditions.append(queries.meant(None))
        with self._database.reading() as connection:
            return queries.newest(connection, *conditions)

    def latest_verified(
        self, application: str, kind: Kind = "full", *, part: Part | None = None, label: Label | None = None
    ) -> SealedBackup | None:
        """The newest backup of a kind whose last verification found it good; with ``part``, of those that have it. ``label`` as in ``is_meant``."""
        with self._database.reading() as connection:
            return queries.newest(
                connection,
                Backups.application == application,
                Backups.kind == kind,
                queries.meant(label),
                queries.proven(part),
            )

    def restores(
        self, application: str, *, limit: int | None = None, state: RestoreState | None = None
    ) -> list[RestoreRow]:
        """The log of restores, newest first."""
        order = (Restores.started_at.desc(), Restores.restore_id.desc())
        wanted = Restores.equal(application=application, state=state)
        return self._database.all(Restores, *wanted, order=order, limit=limit)

    def wal_positions(self, application: str) -> list[WalPositionRow]:
        """How far each target's archive of WAL reaches, by name."""
        ours = WalPositions.application == application
        return self._database.all(WalPositions, ours, order=[WalPositions.target])

    def restore(self, application: str, restore_id: str) -> RestoreRow | None:
        """One restore."""
        return self._database.first(Restores, *Restores.equal(application=application, restore_id=restore_id))

    def backup_of_run(self, run_id: str) -> SealedBackup | None:
        """The backup that a Dagster run made."""
        with self._database.reading() as connection:
            return queries.newest(connection, Backups.run_id == run_id)

    def is_held(self, backup_id: str, target: str) -> bool:
        """Whether a target should have a copy of a backup: it was stored there, and was not deleted from here."""
        copy = self.copy(backup_id, target)
        return copy is not None and copy.state in THERE

    def copy(self, backup_id: str, target: str) -> CopyRow | None:
        """How one storage target holds a backup."""
        return self._database.first(Copies, Copies.backup_id == backup_id, Copies.target == target)

    def copies(self, backup_id: str) -> tuple[CopyRow, ...]:
        """The copies of a backup, in the order of their targets; none when the catalog lacks it."""
        with self._database.reading() as connection:
            return tuple(queries.copies_of(connection, [backup_id])[backup_id])

    def verifications(self, backup_id: str) -> list[VerificationRow]:
        """The verifications of a backup, newest first."""
        order = (Verifications.started_at.desc(), Verifications.id.desc())
        return self._database.all(Verifications, Verifications.backup_id == backup_id, order=order)

    def target_tests(self, *, since: datetime | None = None) -> list[TargetTestRow]:
        """The latest test of each storage target, and all ``since`` then; by name, newest first."""
        wanted: list[ColumnElement[bool]] = [
            TargetTests.id.in_(select(func.max(TargetTests.id)).group_by(TargetTests.target))
        ]
        if since is not None:
            wanted.append(TargetTests.at >= since)
        return self._database.all(TargetTests, or_(*wanted), order=[TargetTests.target, TargetTests.id.desc()])

    def _require(self, connection: Connection, backup_id: str) -> None:
        if not connection.scalar(select(exists().where(Backups.backup_id == backup_id))):
            raise BackupNotFound(
                f"The catalog {self.place} has no backup {backup_id}",
                remedy="run: twist-dr catalog rebuild --from TARGET",
            )

    def _not_found(self, connection: Connection, application: str, text: str) -> BackupNotFound:
        ours = Backups.application == application
        known, number = queries.ids(connection, ours, limit=_NAMED), queries.count(connection, ours)
        instead = f"it has {_some(known, number)}" if known else "it has none at all"
        return BackupNotFound(
            f"The catalog {self.place} has no backup of {application} whose id begins with {text!r} ({instead})",
            remedy="see all with twist-dr list, or read a storage target's with: twist-dr catalog rebuild --from TARGET",
        )


def _some(ids: Sequence[str], number: int) -> str:
    return ", ".join(ids) + (f" and {number - len(ids)} more" if number > len(ids) else "")


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _conditions(connection: Connection, wanted: BackupFilter) -> list[ColumnElement[bool]]:
    conditions = Backups.equal(application=wanted["application"], kind=wanted.get("kind"), label=wanted.get("label"))
    if (part := wanted.get("part")) is not None:
        conditions.append(queries.has_part(part))
    if (since := wanted.get("since")) is not None:
        conditions.append(Backups.started_at >= since)
    if (until := wanted.get("until")) is not None:
        conditions.append(Backups.started_at < until)
    if (search := wanted.get("search")) is not None:
        conditions.append(queries.has_text(search))
    target, state = wanted.get("target"), wanted.get("state")
    if target is not None or state is not None:
        conditions.append(queries.has_copy(connection, target, state))
    return conditions
