"""Undoing a restore: what it replaced is put back, in the same one step, and what was live until then is kept in turn."""

from __future__ import annotations

from collections.abc import Callable

from twist_dr.django_app.manage import DjangoApplication, read_code
from twist_dr.django_app.migrations import compare_schema
from twist_dr.errors import Obstacle, RestoreRefused, RestoreUnconfirmed, TwistDRError
from twist_dr.postgres import databases
from twist_dr.restore.cutover import Cutover, Surroundings
from twist_dr.restore.journal import Journal
from twist_dr.restore.record import RestoreRecord
from twist_dr.restore.settle import check_health, plan_undo, settle_interrupted
from twist_dr.system.events import Planned
from twist_dr.system.progress import Report, human_seconds


def undo_restore(
    wanted: str,
    around: Surroundings,
    report: Report,
    *,
    reason: str,
    django: DjangoApplication | None = None,
    confirmed: bool = True,
    note: Callable[[RestoreRecord], None] = lambda record: None,
) -> RestoreRecord:
    """Undo ``latest``, or the restore of that id. Call it under the application's lock.

    Not ``confirmed``, it raises ``RestoreUnconfirmed``, which says what would be put back. Raises also ``RestoreError`` when nothing is kept,
    ``CutoverFailed``, and ``RestoreUndone`` when the application is not healthy with it: what was live is live again then.
    """
    settle_interrupted(around, report)
    journal = plan_undo(wanted, around, reason)
    record = RestoreRecord(
        journal.restore_id, "undo", "replace", reason, journal.backup_id, journal.restored_id,
        parts=[*(["database"] if journal.database else []), *(["media"] if journal.folders else [])],
    )  # fmt: skip
    for line in (mixed := _what_stays(journal, around)):
        report.warning(line)
    record.warnings += mixed
    if not confirmed:
        report.emit(Planned({"restore": str(journal.restored_id)}))
        raise RestoreUnconfirmed(
            f"Undoing {journal.restored_id} would put back {_what(journal)}",
            remedy="to do it, type the application's name in confirm",
        )
    note(record)
    try:
        with record.timed("total"):
            with record.timed("gate"):
                _look(journal, around, django, report)
            around.journals.save(journal)
            with record.timed("cutover"):
                Cutover(journal, around, report).run()
            _note_switch(record, journal)
            with record.timed("health"):
                check_health(journal, around, report)
    except TwistDRError as error:
        record.error = str(error)
        raise
    record.end("done")
    return record


def _what(journal: Journal) -> str:
    names = []
    if journal.database is not None:
        gone = f"the state without a database ({journal.database.live} would be kept as {journal.database.kept})"
        names = [f"the database {journal.database.incoming}" if journal.database.comes else gone]
    return " and ".join([*names, *(f"the folder {folder.incoming}" for folder in journal.folders)])


def _what_stays(journal: Journal, around: Surroundings) -> list[str]:
    """What later restores made live and this undo leaves so: rows and files of different times, where they replaced both."""
    assert journal.restored_id is not None
    since = around.journals.load(journal.restored_id).began_at
    folders = {folder.live for folder in journal.folders}
    told = []
    for later in around.journals.all():
        if not later.keeps or later.began_at <= since:
            continue
        stays = [str(folder.live) for folder in later.folders if folder.live not in folders]
        if later.database is not None and journal.database is None:
            stays.insert(0, f"the database {later.database.live}")
        if stays:
            told.append(
                f"{', '.join(stays)} stays as {later.restore_id} made it; undo that first to have rows and files of one time"
            )
    return told


def _look(journal: Journal, around: Surroundings, django: DjangoApplication | None, report: Report) -> None:
    names = journal.database
    if names is None:
        return
    with databases.maintenance(around.cluster) as connection:
        refusals = databases.missing_rights(connection, names.live) + databases.obstacles(connection, names.live)
    complaint = _schema_complaint(journal, around, django)
    if complaint is not None:
        # Where the application is asked afterwards, its own word counts, and takes everything back.
        if around.health:
            report.warning(complaint)
        else:
            refusals.append(complaint)
    if refusals:
        raise RestoreRefused.by(refusals, f"{journal.restored_id} is not undone")


def _schema_complaint(journal: Journal, around: Surroundings, django: DjangoApplication | None) -> Obstacle | None:
    if django is None or journal.restored_id is None:
        return None
    assert journal.database is not None
    migrations = around.journals.load(journal.restored_id).database
    applied = migrations.migrations if migrations else {}
    if not applied:
        return None
    try:
        found = compare_schema(applied, read_code(django), None)
    except TwistDRError as error:
        return Obstacle(f"the application's code could not be asked for its migrations ({error.what})", error.remedy)
    if found.state == "equal":
        return None
    names = ", ".join((found.unknown or found.forward)[:6]) or "migrations"
    return Obstacle(
        f"the running code does not fit the database that would be put back ({found.state}: {names})",
        "put the code of that time in place first",
    )


def _note_switch(record: RestoreRecord, journal: Journal) -> None:
    record.note_switch(journal)
    record.result = (
        f"{journal.restored_id} is undone; locked out for {human_seconds(journal.seconds_locked_out or 0)}; what was live until now is kept "
        f"until {journal.keep_until:%Y-%m-%d %H:%M} UTC ({', '.join(record.replaced) or 'nothing, for there was no database'}); undo again to take this back"
    )
