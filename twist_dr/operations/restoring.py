"""What every restore has in common: what it asks of whoever launches it, and where its outcome goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from twist_dr.errors import LaunchRefused, RecoveryPointInvalid, RestoreRefused, RestoreUndone, TwistDRError
from twist_dr.restore.from_settings import RestoreLog
from twist_dr.restore.plan import Mode
from twist_dr.restore.record import RestoreRecord
from twist_dr.settings import Application, Settings
from twist_dr.system.events import Shown
from twist_dr.watch import audit


def refuse_careless(settings: Settings, what: str, *, source: str, mode: Mode, reason: str, confirm: str) -> None:
    """Raise ``LaunchRefused`` or ``RestoreRefused`` unless the target exists and whoever asks shows that it is meant. ``what``: "A restore"."""
    if source not in ("any", *settings.enabled_targets):
        raise LaunchRefused(
            f"{source!r} is no enabled storage target",
            remedy=f"choose among {', '.join(settings.enabled_targets)}, or write 'any' in source",
        )
    if mode != "plan" and not reason.strip():
        raise RestoreRefused(f"{what} needs a reason, for those who find it later", remedy="write it in reason")
    if mode == "replace" and confirm != settings.application:
        raise RestoreRefused(
            f"Replacing what is live needs the application's name, {settings.application}, typed in confirm",
            remedy="launch the plan first if you are not sure",
        )


def alone(app: Application, what: str, mode: Mode) -> AbstractContextManager[None]:
    """The application's lock; a plan changes nothing, and takes none."""
    return nullcontext() if mode == "plan" else app.locks.hold(what)


@contextmanager
def recorded(app: Application, record: RestoreRecord, log: RestoreLog) -> Iterator[None]:
    """Around a restore: its outcome goes to the log of restores, the audit log, and to whoever watches, however it ends."""
    try:
        yield
    except TwistDRError as error:
        state = (
            "refused"
            if isinstance(error, (RestoreRefused, RecoveryPointInvalid))
            else "undone"
            if isinstance(error, RestoreUndone)
            else "failed"
        )
        if isinstance(error, RestoreUndone):
            # It is not live any more, and what it had replaced is live again.
            record.result, record.replaced = "", []
        record.end(state, error=str(error))  # type: ignore[arg-type]
        conclude(app, record, log)
        raise
    except BaseException as error:
        # Where it had switched already, what is live is what was restored: the log must not leave that out.
        record.end("failed", error=f"ended by {type(error).__name__}" + (f"; {record.result}" if record.result else ""))
        conclude(app, record, log)
        raise
    conclude(app, record, log)
    app.report.info(record.result)


def conclude(app: Application, record: RestoreRecord, log: RestoreLog) -> None:
    """Write down what a restore came to, and show it."""
    log.note(record)
    if record.mode != "plan":
        details = {
            "mode": record.mode,
            "backup_id": record.backup_id,
            "reason": record.reason,
            "run_id": app.actor.run_id,
        }
        result = record.state if record.error is None else f"{record.state}: {record.error}"
        audit.record(app, action=record.kind, subject=record.restore_id, result=result, details=details)
        if record.backup_id is not None:
            audit.note_key_use(app, "restore", record.backup_id)
    app.report.emit(Shown(record))
