"""What the catalog gives out: plain values. Times are UTC, durations seconds, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ValidationError
from sqlalchemy import String

from twist_dr.catalog.columns import BackupId, Big, ShortText
from twist_dr.errors import (
    BackupNotFound,
    BaseBackupMissing,
    Busy,
    LaunchRefused,
    ManifestInvalid,
    PermissionMissing,
    RecoveryPointInvalid,
    RestoreRefused,
    RestoreUnconfirmed,
    SettingsError,
)
from twist_dr.postgres.lsn import Gap
from twist_dr.repository.manifest import LIMITS, Kind, Label, Manifest, Part, Proved
from twist_dr.system.documents import read_mapping
from twist_dr.system.severity import Severity

CopyState = Literal["pending", "stored", "checked", "failed", "corrupt", "deleted"]
#: States of a copy that is there, or should be: nobody deleted it from here, and it did get there.
THERE: frozenset[CopyState] = frozenset({"stored", "checked", "corrupt"})
VerificationState = Literal["verified", "unverified"]
RestoreKind = Literal["restore", "undo"]
RestoreMode = Literal["plan", "sandbox", "replace", "schema", "cluster"]
#: ``refused``: whoever launched it was told at once that it cannot be.
AttemptState = Literal["running", "succeeded", "refused", "failed", "cancelled", "killed"]
AlertState = Literal["active", "acknowledged", "resolved"]
#: ``undone``: the application was not healthy afterwards, and it was taken back at once. ``settled``: it was killed before its switch, and reverted later.
RestoreState = Literal["running", "done", "refused", "failed", "undone", "settled"]


#: Errors of ours, and what Dagster calls a run config that does not fit.
_REFUSALS = frozenset(
    (
        *(Busy.code, LaunchRefused.code, PermissionMissing.code, SettingsError.code, BackupNotFound.code),
        *(RestoreRefused.code, RestoreUnconfirmed.code, RecoveryPointInvalid.code, BaseBackupMissing.code),
        "dagster_invalid_config_error",
    )
)


@dataclass(frozen=True)
class CopyRow:
    """A backup as one storage target holds it.

    ``stored_bytes`` and ``seconds`` (to store it) are None until known. ``checked_at`` is when its bytes were last found right, whatever
    happened since. ``error`` is one line about the present state, which does not name the target again; ``error_code`` its kind, None where an
    older twist-dr wrote it.
    """

    backup_id: BackupId
    target: ShortText
    state: CopyState
    form: Annotated[str, String(32)]
    stored_bytes: Big | None
    seconds: float | None
    updated_at: datetime
    checked_at: datetime | None
    error: str | None
    run_id: ShortText | None
    error_code: ShortText | None = None


@dataclass(frozen=True)
class VerificationRow:
    """One restore into a scratch server, compared with what was recorded. ``restore_seconds`` is the database's part alone,
    ``content_seconds`` what it took to compare its content; None where none was.
    ``id``: None until it is recorded."""

    backup_id: BackupId
    target: ShortText
    state: VerificationState
    started_at: datetime
    seconds: float
    restore_seconds: float | None = None
    tables: Big = 0
    rows: Big = 0
    files: Big = 0
    server_version: str | None = None
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    run_id: ShortText | None = None
    proved: Proved = "counts"
    content_seconds: float | None = None
    id: int | None = None

    @property
    def verified(self) -> bool:
        return self.state == "verified"


@dataclass(frozen=True)
class BackupRow:
    """A backup, its copies by target, and its last verification.

    ``plain_bytes`` is what the artifacts hold; ``staged_bytes`` all their stored forms together. ``run_id`` is the run that made it,
    None when only a rebuild has seen it. ``warnings`` is a count.
    """

    backup_id: BackupId
    application: ShortText
    kind: Kind
    label: Label
    reason: str
    who: str
    started_at: datetime
    finished_at: datetime
    parts: tuple[Part, ...]
    plain_bytes: Big
    staged_bytes: Big
    app_version: str | None
    db_schema_version: str | None
    key_id: str
    run_id: ShortText | None
    warnings: int
    copies: tuple[CopyRow, ...]
    last_verification: VerificationRow | None

    @property
    def complete(self) -> bool:
        """Whether every storage target that should hold it does. Copies deleted on purpose do not count, but one must be left."""
        states = {copy.state for copy in self.copies} - {"deleted"}
        return bool(states) and states <= {"stored", "checked"}


@dataclass(frozen=True)
class SealedBackup(BackupRow):
    """A backup with its sealed manifest, byte for byte as the targets hold it."""

    sealed: bytes

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, to show and to plan with. Its MAC was not checked here: a restore reads that of a target."""
        try:
            document = read_mapping(self.sealed, LIMITS)
            document.pop("mac", None)
            return Manifest.model_validate(document)
        except (ValueError, AttributeError, ValidationError):
            raise ManifestInvalid(
                f"The catalog's manifest of {self.backup_id} is damaged", remedy="run: twist-dr catalog rebuild"
            ) from None


@dataclass(frozen=True)
class TargetTestRow:
    """One test of a storage target: whether it can be used, and what it can do. ``error`` and ``error_code`` as in ``CopyRow``."""

    id: int
    target: ShortText
    at: datetime
    ok: bool
    location: str
    capabilities: dict[str, Any] | None
    error: str | None
    seconds: float
    error_code: ShortText | None = None


@dataclass(frozen=True)
class RestoreRow:
    """One line of the log of restores: a restore, or the undoing of one (``undone_id``). ``finished_at`` is None while it goes on, and for
    one that was killed."""

    restore_id: BackupId
    application: ShortText
    kind: RestoreKind
    mode: RestoreMode
    who: str
    reason: str
    backup_id: BackupId | None
    undone_id: BackupId | None
    #: Storage targets that were read.
    sources: tuple[str, ...]
    #: A sentence for each that was not good.
    passed_over: tuple[str, ...]
    #: Whether the backup was known to be good.
    verified: bool
    parts: tuple[str, ...]
    tables: Big
    rows: Big
    files: Big
    state: RestoreState
    started_at: datetime
    finished_at: datetime | None
    #: By phase.
    seconds: dict[str, float]
    seconds_locked_out: float | None
    #: The one that was made, or that is live now.
    database: str | None
    #: What was kept, a database and folders.
    replaced: tuple[str, ...]
    result: str
    error: str | None
    run_id: ShortText | None
    #: What a recovery aimed at, and where it stopped.
    recovery_point: str | None = None


@dataclass(frozen=True)
class WalPositionRow:
    """How far a target's archive of WAL reaches, as of ``updated_at``; None where it holds none yet.

    Everything before ``lsn`` is there, and everything committed before ``at`` (the primary's clock). ``waiting`` files lie in the spool,
    the oldest since ``oldest_seconds``, ``spool_bytes`` altogether.
    """

    application: ShortText
    target: ShortText
    system_identifier: Annotated[str, String(20)] | None
    timeline: Big | None
    lsn: Annotated[str, String(20)] | None
    at: datetime | None
    updated_at: datetime
    waiting: int
    oldest_seconds: float
    spool_bytes: Big
    #: What this target will never have.
    gaps: tuple[Gap, ...] = ()
    #: Why the last attempt failed; it and ``error_code`` as in ``CopyRow``.
    error: str | None = None
    error_code: ShortText | None = None


class RetentionRow(NamedTuple):
    """What a retention plan needs to know of one backup as one storage target holds it.

    ``verified``: what its last verification from any target found; None when there was none. ``chain``: ids of the base backups that it
    builds upon, itself last; empty for other kinds. ``partial``: a full backup that has not all parts. A tuple, because there are as many as there are backups.
    """

    backup_id: str
    kind: Kind
    label: Label
    started_at: datetime
    chain: tuple[str, ...]
    state: CopyState
    form: str
    stored_bytes: int | None
    checked_at: datetime | None
    updated_at: datetime
    verified: bool | None
    partial: bool = False


@dataclass(frozen=True)
class HoldRow:
    """A mark that forbids deletion, for ever unless ``until`` says otherwise. Released ones stay in the log."""

    id: int | None
    application: ShortText
    backup_id: BackupId
    who: str
    reason: str
    placed_at: datetime
    until: datetime | None = None
    released_at: datetime | None = None
    released_by: str | None = None

    def active(self, now: datetime) -> bool:
        """Whether it forbids deletion now."""
        return self.released_at is None and (self.until is None or self.until > now)


@dataclass(frozen=True)
class AlertRow:
    """Something that somebody should know, as long as its ``cause`` lasts: at most one alert of a cause is not resolved.

    ``id`` is None before it is saved.
    """

    id: int | None
    application: ShortText
    cause: Annotated[str, String(200)]
    kind: ShortText
    severity: Severity
    state: AlertState
    message: str
    advice: str
    raised_at: datetime
    #: When its cause was last found to last, ``times`` how often.
    seen_at: datetime
    times: int = 1
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    resolved_at: datetime | None = None
    resolved_by: str | None = None
    #: When people were last told of it, ``told_severity`` how bad it was then; None before.
    told_at: datetime | None = None
    told_severity: Severity | None = None
    run_id: ShortText | None = None
    #: What has its cause, such as tables or backups, None where an older twist-dr wrote it.
    about: tuple[str, ...] | None = None
    #: What of that people were told of.
    told_about: tuple[str, ...] = ()


@dataclass(frozen=True)
class AttemptRow:
    """One run of a job, as far as it has come. ``scheduled_for``: the time of the schedule that launched it; None for all others.
    ``error_code``: the kind of error that ended it (``errors.code_of``)."""

    run_id: ShortText
    application: ShortText
    job: ShortText
    label: Annotated[str, String(32)] | None
    scheduled_for: datetime | None
    who: str
    started_at: datetime
    state: AttemptState = "running"
    finished_at: datetime | None = None
    step: str | None = None
    error: str | None = None
    error_code: ShortText | None = None

    @property
    def was_refused(self) -> bool:
        """Whether somebody launched it and was told at once that it cannot be."""
        # Earlier versions wrote such runs as failed.
        return self.state == "refused" or (self.state == "failed" and self.is_refused_by(self.error_code))

    def is_refused_by(self, error_code: str | None) -> bool:
        """Whether a run that fails so is a refusal: the error says what somebody at a keyboard asked for in vain, and nothing of the backups."""
        by_itself = self.scheduled_for is not None or self.who.startswith(("schedule ", "sensor "))
        return error_code in _REFUSALS and not by_itself


@dataclass(frozen=True)
class AuditRow:
    """One line of the audit log. ``digest`` is over the line and ``previous``, the digest of the line before."""

    seq: int
    application: str
    at: datetime
    who: str
    action: str
    subject: str
    result: str
    details: dict[str, Any]
    previous: str
    digest: str


class AuditLineRow(NamedTuple):
    """A line of the audit log as it is kept: ``document`` is the text whose digest it is, so what is hashed is what is kept."""

    application: ShortText
    seq: Big
    at: datetime
    document: str
    previous: ShortText
    digest: ShortText


@dataclass(frozen=True)
class SpaceRow:
    """Space on a storage target at a time, in bytes; ``used_bytes`` by our objects. None where it is not known."""

    target: ShortText
    at: datetime
    used_bytes: Big | None
    free: Big | None
    total: Big | None


@dataclass(frozen=True)
class UploadRow:
    """Bytes stored on a storage target in the hour that begins then."""

    target: ShortText
    hour: datetime
    bytes: Big


@dataclass(frozen=True)
class DeliveryRow:
    """How the last message through a channel fared; ``since``: when that began."""

    application: ShortText
    channel: ShortText
    ok: bool
    at: datetime
    since: datetime
    error: str | None = None


@dataclass(frozen=True)
class MarkRow:
    """A note as it is kept (see ``notes.py``)."""

    application: ShortText
    name: Annotated[str, String(100)]
    document: dict[str, Any]
