"""What the catalog keeps of what runs by itself: holds, alerts, attempts, the audit log, space on targets, small notes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, text, update

from twist_dr.catalog.database import Database
from twist_dr.catalog.models import (
    Alerts,
    Attempts,
    AuditLines,
    Deliveries,
    Holds,
    Marks,
    SpaceSamples,
    TargetTests,
    Uploads,
)
from twist_dr.catalog.notes import Note
from twist_dr.catalog.rows import (
    AlertRow,
    AlertState,
    AttemptRow,
    AttemptState,
    AuditLineRow,
    AuditRow,
    DeliveryRow,
    HoldRow,
    SpaceRow,
)
from twist_dr.errors import BackupNotFound, clause_of, code_of
from twist_dr.redaction import leaving, one_line

N = TypeVar("N", bound=Note)

#: What stands before the first line of an audit log.
NO_DIGEST = "0" * 64
#: PostgreSQL's advisory locks are numbers: "twistau" in ASCII. SQLite has one writer at a time anyway.
_AUDIT_LOCK = 0x74776973746175


class Operations:
    """The part of the catalog that knows no backups. Every call is one transaction of its own."""

    _database: Database

    # -- holds -----------------------------------------------------------------------------------------------------

    def place_hold(
        self, application: str, backup_id: str, *, who: str, reason: str, until: datetime | None = None
    ) -> HoldRow:
        """Forbid the deletion of a backup. A backup may have several holds; each must end."""
        row = _seen(HoldRow(None, application, backup_id, who, reason, _now(), until))
        with self._database.writing() as connection:
            number = connection.execute(insert(Holds.table).values(_without_id(row)).returning(Holds.id)).scalar_one()
        return replace(row, id=number)

    def release_hold(self, application: str, backup_id: str, *, who: str) -> int:
        """End all holds of a backup; returns how many there were. Raises ``BackupNotFound`` when there was none."""
        mine = (Holds.application == application, Holds.backup_id == backup_id, Holds.released_at.is_(None))
        with self._database.writing() as connection:
            released = connection.execute(
                update(Holds.table).where(*mine).values(released_at=_now(), released_by=who)
            ).rowcount
        if not released:
            raise BackupNotFound(
                f"Nothing holds {backup_id} of {application}", remedy="see all holds with: twist-dr hold"
            )
        return released

    def holds(self, application: str) -> list[HoldRow]:
        """Holds, oldest first."""
        ours = Holds.application == application
        return [_seen(row) for row in self._database.all(Holds, ours, order=[Holds.placed_at, Holds.id])]

    # -- alerts ----------------------------------------------------------------------------------------------------

    def save_alert(self, row: AlertRow) -> AlertRow:
        """Insert an alert, or write what became of it. Of two processes that raise the same cause, one gets what the other wrote."""
        values = _without_id(row)
        values["message"] = leaving(row.message)
        values["open_cause"] = None if row.state == "resolved" else row.cause
        with self._database.writing() as connection:
            if row.id is not None:
                connection.execute(update(Alerts.table).where(Alerts.id == row.id).values(values))
                return row
            same = (Alerts.application == row.application, Alerts.open_cause == row.cause)
            if known := Alerts.all(connection, *same):
                return known[0]
            number = connection.execute(insert(Alerts.table).values(values).returning(Alerts.id)).scalar_one()
        return replace(row, id=number)

    def open_alerts(self, application: str) -> list[AlertRow]:
        """Alerts that are not resolved, oldest first."""
        ours = (Alerts.application == application, Alerts.open_cause.is_not(None))
        return self._database.all(Alerts, *ours, order=[Alerts.raised_at, Alerts.id])

    def alerts(self, application: str, *, state: AlertState | None = None, limit: int | None = None) -> list[AlertRow]:
        """Alerts, newest first."""
        wanted = Alerts.equal(application=application, state=state)
        return self._database.all(Alerts, *wanted, order=[Alerts.raised_at.desc(), Alerts.id.desc()], limit=limit)

    def alert(self, application: str, number: int) -> AlertRow | None:
        """One alert."""
        return self._database.first(Alerts, Alerts.application == application, Alerts.id == number)

    # -- attempts --------------------------------------------------------------------------------------------------

    def begin_attempt(self, row: AttemptRow) -> bool:
        """Record that a run has begun; a run's later steps change nothing. Returns whether it is new."""
        with self._database.writing() as connection:
            known = connection.scalar(select(Attempts.state).where(Attempts.run_id == row.run_id))
            if known is None:
                connection.execute(insert(Attempts.table).values(asdict(row)))
            elif known == "succeeded":
                # A step that succeeded may not have been the run's last one.
                connection.execute(
                    update(Attempts.table)
                    .where(Attempts.run_id == row.run_id)
                    .values(state="running", finished_at=None)
                )
        return known is None

    def end_attempt(
        self,
        run_id: str,
        *,
        state: AttemptState,
        step: str | None = None,
        error: str | None = None,
        error_code: str | None = None,
    ) -> None:
        """Record how a run's step ended. A run that failed once has failed."""
        values = {
            "state": state,
            "finished_at": _now(),
            "step": step,
            "error": None if error is None else recordable(error),
            "error_code": error_code,
        }
        ended = Attempts.state.in_(["running", "succeeded"])
        with self._database.writing() as connection:
            connection.execute(update(Attempts.table).where(Attempts.run_id == run_id, ended).values(values))

    def attempts(
        self,
        application: str,
        *,
        job: str | None = None,
        who: str | None = None,
        scheduled: bool | None = None,
        state: AttemptState | None = None,
        limit: int | None = None,
    ) -> list[AttemptRow]:
        """Runs, newest first. ``scheduled``: only those that a schedule launched, or only the others."""
        conditions = Attempts.equal(application=application, job=job, who=who, state=state)
        if scheduled is not None:
            conditions.append(Attempts.scheduled_for.is_not(None) if scheduled else Attempts.scheduled_for.is_(None))
        order = (Attempts.started_at.desc(), Attempts.run_id.desc())
        return self._database.all(Attempts, *conditions, order=order, limit=limit)

    def attempt(self, run_id: str) -> AttemptRow | None:
        """One run."""
        return self._database.first(Attempts, Attempts.run_id == run_id)

    # -- audit -----------------------------------------------------------------------------------------------------

    def append_audit(
        self,
        application: str,
        *,
        who: str,
        action: str,
        subject: str,
        result: str,
        details: Mapping[str, Any] | None = None,
    ) -> AuditRow:
        """Write a line into the audit log, chained to the one before it. ``details`` as JSON can hold them, no secrets."""
        with self._database.writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _AUDIT_LOCK})
            last = connection.execute(
                select(AuditLines.seq, AuditLines.digest)
                .where(AuditLines.application == application)
                .order_by(AuditLines.seq.desc())
                .limit(1)
            ).first()
            seq, previous = (last[0] + 1, last[1]) if last else (1, NO_DIGEST)
            at = _now()
            document = json.dumps(
                {
                    "seq": seq,
                    "application": application,
                    "at": at.isoformat(),
                    "who": recordable(who),
                    "action": action,
                    "subject": recordable(subject),
                    "result": recordable(result),
                    "details": dict(details or {}),
                },
                sort_keys=True,
                ensure_ascii=False,
            )
            line = AuditLineRow(application, seq, at, document, previous, audit_digest(previous, document))
            connection.execute(insert(AuditLines.table).values(line._asdict()))
        return _audit_row(line)

    def audit(self, application: str, *, since: datetime | None = None, limit: int | None = None) -> list[AuditRow]:
        """Lines of the audit log, oldest first; of ``limit``, the newest ones."""
        conditions: list[ColumnElement[bool]] = [AuditLines.application == application]
        if since is not None:
            conditions.append(AuditLines.at >= since)
        lines = self._database.all(AuditLines, *conditions, order=[AuditLines.seq.desc()], limit=limit)
        return [_audit_row(line) for line in lines][::-1]

    def audit_lines(self, application: str) -> list[AuditLineRow]:
        """The whole log as it is kept, in order of the numbers. For checking it."""
        return self._database.all(AuditLines, AuditLines.application == application, order=[AuditLines.seq])

    # -- space, deliveries, notes -----------------------------------------------------------------------------------

    def record_space(self, row: SpaceRow) -> None:
        """Record how much space a target has."""
        with self._database.writing() as connection:
            SpaceSamples.upsert(connection, asdict(row), key=("target", "at"))

    def space(self, target: str, *, since: datetime | None = None) -> list[SpaceRow]:
        """What was recorded of a target's space, oldest first."""
        conditions: list[ColumnElement[bool]] = [SpaceSamples.target == target]
        if since is not None:
            conditions.append(SpaceSamples.at >= since)
        return self._database.all(SpaceSamples, *conditions, order=[SpaceSamples.at])

    def count_upload(self, target: str, size: int, *, at: datetime | None = None) -> None:
        """Add to the bytes that were stored on a target in this hour."""
        hour = (at or _now()).replace(minute=0, second=0, microsecond=0)
        with self._database.writing() as connection:
            Uploads.upsert(
                connection, {"target": target, "hour": hour, "bytes": size}, key=("target", "hour"), add=("bytes",)
            )

    def uploaded(self, target: str, *, since: datetime) -> int:
        """Bytes that were stored on a target since then, the whole hour of it included."""
        total = select(func.coalesce(func.sum(Uploads.bytes), 0)).where(
            Uploads.target == target, Uploads.hour > since - timedelta(hours=1)
        )
        with self._database.reading() as connection:
            return int(connection.scalar(total) or 0)

    def record_delivery(self, row: DeliveryRow) -> None:
        """Record how the last message through a channel fared."""
        with self._database.writing() as connection:
            values = {**asdict(row), "error": None if row.error is None else recordable(row.error)}
            Deliveries.upsert(connection, values, key=("application", "channel"))

    def deliveries(self, application: str) -> list[DeliveryRow]:
        """How the last message through each channel fared, by name."""
        return self._database.all(Deliveries, Deliveries.application == application, order=[Deliveries.channel])

    def note(self, application: str, kind: type[N], of: str | None = None) -> N | None:
        """The note of that kind, if there is one."""
        query = select(Marks.document).where(Marks.application == application, Marks.name == _mark(kind, of))
        with self._database.reading() as connection:
            document = connection.scalar(query)
        return None if document is None else kind.model_validate(document)

    def leave_note(self, application: str, note: Note, of: str | None = None) -> None:
        """Leave a note, in the place of the one of its kind."""
        values = {"application": application, "name": _mark(type(note), of), "document": note.model_dump()}
        with self._database.writing() as connection:
            Marks.upsert(connection, values, key=("application", "name"))

    def forget_before(self, application: str, moment: datetime) -> int:
        """Remove what is noted over and over, from before ``moment``, so that the catalog does not grow for ever; returns how many."""
        old = (
            delete(Attempts.table).where(Attempts.application == application, Attempts.started_at < moment),
            delete(SpaceSamples.table).where(SpaceSamples.at < moment),
            delete(TargetTests.table).where(TargetTests.at < moment),
            delete(Uploads.table).where(Uploads.hour < moment),
        )
        with self._database.writing() as connection:
            return sum(_removed(connection, each) for each in old)


def audit_digest(previous: str, document: str) -> str:
    """The digest of an audit line: SHA-256 over the digest of the line before it, a line break, and its own text."""
    return hashlib.sha256(f"{previous}\n{document}".encode()).hexdigest()


def recordable(text: str) -> str:
    """A text on one line that may be kept, and that any database takes: names of files may hold bytes that are no text."""
    return " ".join(leaving(text).replace("\0", " ").split()).encode("utf-8", "backslashreplace").decode()


def told(error: BaseException | str | None) -> tuple[str | None, str | None]:
    """What is kept of an error beside the storage target that it is about: one line that does not name it again, and the code."""
    if error is None or isinstance(error, str):
        return error and recordable(error), None
    return recordable(clause_of(error)), code_of(error)


def _mark(kind: type[Note], of: str | None) -> str:
    return kind.mark if of is None else f"{kind.mark}:{of}"


def _seen(row: HoldRow) -> HoldRow:
    """A hold in the words in which it is read from a storage target, so that both are known for one: no database takes a byte that is no text."""
    return replace(row, who=one_line(row.who), reason=one_line(row.reason))


def _audit_row(line: AuditLineRow) -> AuditRow:
    known = {each.name for each in fields(AuditRow)}
    values = {name: value for name, value in json.loads(line.document).items() if name in known}
    return AuditRow(**{**values, "at": line.at, "previous": line.previous, "digest": line.digest})


def _removed(connection: Connection, statement: Any) -> int:
    return int(connection.execute(statement).rowcount)


def _without_id(row: HoldRow | AlertRow) -> dict[str, Any]:
    values = asdict(row)
    del values["id"]
    return values


def _now() -> datetime:
    return datetime.now(timezone.utc)
