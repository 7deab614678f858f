"""Taking a restore back: told nothing, it says what would be put back and changes nothing."""

from __future__ import annotations

from pydantic import Field

from twist_dr.errors import RestoreRefused, RestoreUndone, TwistDRError
from twist_dr.operations.operation import Config
from twist_dr.operations.restoring import conclude
from twist_dr.restore.from_settings import RestoreLog, end_killed
from twist_dr.restore.plan import surroundings
from twist_dr.restore.record import RestoreRecord
from twist_dr.restore.undo import undo_restore as undo
from twist_dr.settings import Application
from twist_dr.settings.asking import django_application


class UndoRestoreConfig(Config):
    """Launched as it is, it says what would be put back and changes nothing."""

    restore: str = Field("latest", description="latest, or a restore's id (twist-dr list --replaced)")
    reason: str = Field("", description="Why; required.")
    confirm: str = Field("", description="The application's name, typed.")


def undo_restore(app: Application, config: UndoRestoreConfig) -> RestoreRecord:
    """Raises ``RestoreRefused``, ``RestoreUndone`` and what the cluster raises; what came of it is :class:`Shown` all the same."""
    with app.locks.hold("Undoing a restore"):
        confirmed = config.confirm == app.name
        if confirmed and not config.reason.strip():
            raise RestoreRefused(
                "Undoing a restore needs a reason, for those who find it later", remedy="write it in reason"
            )
        log = RestoreLog(app, verified=True)
        seen: list[RestoreRecord] = []

        def note(record: RestoreRecord) -> None:
            seen[:] = [record]
            log.note(record)

        try:
            record = undo(
                config.restore, surroundings(app.settings), app.report,
                reason=config.reason, django=django_application(app.settings), confirmed=confirmed, note=note,
            )  # fmt: skip
            end_killed(app, but=record.restore_id)
        except BaseException as error:
            for record in seen:
                undone = isinstance(error, RestoreUndone)
                said = str(error) if isinstance(error, TwistDRError) else f"ended by {type(error).__name__}"
                record.end(
                    "undone" if undone else "refused" if isinstance(error, RestoreRefused) else "failed", error=said
                )
                conclude(app, record, log)
            raise
        conclude(app, record, log)
        app.report.info(record.result)
        return record
