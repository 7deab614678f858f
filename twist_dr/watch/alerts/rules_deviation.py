"""Rules about what is unusual: a backup much smaller or slower than the last ones, tables that lost rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median

from twist_dr.catalog import BackupRow
from twist_dr.repository.kinds import KINDS
from twist_dr.repository.labels import is_meant
from twist_dr.repository.manifest import Kind
from twist_dr.repository.table_names import table_name
from twist_dr.settings import Settings
from twist_dr.system.progress import human_bytes
from twist_dr.system.severity import Severity
from twist_dr.system.words import counted
from twist_dr.watch.alerts.facts import ROWS_LOST, TABLES_OF, Facts
from twist_dr.watch.alerts.rules_common import Finding, by_media, by_schedule, human, some
from twist_dr.watch.schedules import media_differ

#: How many backups of a kind are "the last ones", and how few tell anything.
_LAST = 10
_ENOUGH = 3
#: Below these nobody need be told: a small backup doubles when a file is added.
_LEAST_SHRINK_BYTES = 64 << 10
_LEAST_GROWTH_BYTES = 10 << 20
_LEAST_SLOWER = timedelta(minutes=1)
_LEAST_ROWS = 100
_FARTHEST = 1000


def _ordinary(facts: Facts, kind: Kind) -> list[BackupRow]:
    """Those that say something about the next one: a backup before a restore holds what somebody is about to put right."""
    return [row for row in facts.settled(kind) if is_meant(row.label, None)]


def _sort(facts: Facts, row: BackupRow) -> tuple[tuple[str, ...], str]:
    """What backups must have in common to be compared: their parts, and of base backups what they hold."""
    base = facts.bases.get(row.backup_id)
    return tuple(sorted(row.parts)), base.sort if base else "full"


def _alike(facts: Facts, settings: Settings, kind: Kind) -> Iterator[tuple[str, list[BackupRow]]]:
    """Backups of a kind that can be compared with each other, newest first, with a name: same parts, and differential and incremental ones apart."""
    for end, of_kind in by_media(_ordinary(facts, kind), settings):
        groups: dict[tuple[tuple[str, ...], str], list[BackupRow]] = {}
        for row in of_kind:
            groups.setdefault(_sort(facts, row), []).append(row)
        named: set[str] = set()
        for (_, sort), rows in groups.items():
            name = f"{kind}{end}" if sort == "full" else f"{kind}_{sort}"
            # Those of other parts were made by hand, for once: what is usual is what was made last.
            if name not in named:
                named.add(name)
                yield name, rows


def size(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The newest backup of a kind is much smaller, or larger, than the last ones."""
    most = settings.alerts.size_deviation
    for kind in KINDS:
        for name, rows in _alike(facts, settings, kind):
            finding = _unusual_size(name, rows, most, "the last")
            before = [
                row
                for row in facts.before.get(f"size_deviation:{name}", ())
                if _sort(facts, row) == _sort(facts, rows[0])
            ]
            if before and (finding is None or "less" not in finding.about):
                # As it was compared when it was raised; what grew and stays is what is usual by and by.
                lost = _unusual_size(name, [rows[0], *before[1:]], most, "those before it was first told, of the last")
                finding = lost if lost is not None and "less" in lost.about else finding
            if finding is not None:
                yield finding


def _unusual_size(name: str, rows: Sequence[BackupRow], most: float, of: str) -> Finding | None:
    """The first of these compared with the others."""
    newest, usual = rows[0], [row.plain_bytes for row in rows[1:] if _is_good(row)][:_LAST]
    if not usual or not median(usual):
        return None
    middle = median(usual)
    change = (newest.plain_bytes - middle) / middle
    lost = -change > most and middle - newest.plain_bytes > _LEAST_SHRINK_BYTES
    grown = change > most and newest.plain_bytes - middle > _LEAST_GROWTH_BYTES and len(usual) >= _ENOUGH
    if not lost and not grown:
        return None
    severity: Severity = "warning" if grown else "critical" if -change > 1 - (1 - most) / 2 else "error"
    if name.endswith(("_differential", "_incremental")):
        # What changed since then is as much as it is.
        severity = "info"
    way, kind = "less" if lost else "more", name.replace("_", " ")
    return Finding(
        f"size_deviation:{name}", "size_deviation", severity,
        f"{newest.backup_id} has {human_bytes(newest.plain_bytes)}, {abs(change):.0%} {way} than the median of {of} "
        f"{counted(len(usual), f'{kind} backup')}, {human_bytes(middle)}.",
        f"Find out what {'is gone from' if lost else 'has grown in'} the application: twist-dr show {newest.backup_id}; "
        f"if data was lost, restore {_last_good(rows)} into a sandbox, and hold it.",
        newest.run_id, about=_steps(way, newest.plain_bytes, middle),
    )  # fmt: skip


def _steps(way: str, size: int, middle: float) -> frozenset[str]:
    """How far off it is, in steps so large that two nights of one loss are not told as two."""
    factor = (middle / size if size else _FARTHEST) if way == "less" else size / middle
    return frozenset([way, *(f"{way}, {step} times" for step in (10, 100, _FARTHEST) if factor >= step)])


def _is_good(row: BackupRow) -> bool:
    proof = row.last_verification
    return any(copy.state != "failed" for copy in row.copies) and (proof is None or proof.verified)


def _last_good(rows: Sequence[BackupRow]) -> str:
    return next(
        (row.backup_id for row in rows[1:] if row.last_verification and row.last_verification.verified),
        rows[1].backup_id,
    )


def rows(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """Tables of the newest full backup have far fewer rows than they had in the ones before, or are gone."""
    known = [row for row in _ordinary(facts, "full") if row.backup_id in facts.tables][:TABLES_OF]
    if not known:
        return
    newest, compared = known[0], [*known[1:], *facts.before.get(ROWS_LOST, ())]
    before = _rows_before(facts, known[1:])
    after = facts.tables[newest.backup_id]
    key_tables = {table_name(text).label for text in settings.verification.key_tables}
    told: list[str] = []
    about: set[str] = set()
    worst = 0
    whole: BackupRow | None = None
    for table, count in sorted(before.items(), key=lambda each: (each[0] not in key_tables, -each[1])):
        left = after.get(table)
        if count < _LEAST_ROWS or (left is not None and left >= count * (1 - settings.alerts.row_drop)):
            continue
        told.append(f"{table} {counted(count, 'row')} before, " + ("gone now" if left is None else f"{left:,} now"))
        bad = not left or left < count * 0.1
        about |= {table, f"{table}, nearly all"} if bad else {table}
        worst = max(worst, 2 if table in key_tables and bad else 1 if table in key_tables or bad else 0)
        whole = whole or next(row for row in compared if facts.tables[row.backup_id].get(table, 0) == count)
    if told and whole:
        severities: tuple[Severity, ...] = ("warning", "error", "critical")
        yield Finding(
            ROWS_LOST, "row_drop", severities[worst], f"Rows are gone in {newest.backup_id}: {some(told)}.",
            f"Ask whether somebody removed them on purpose; if not, hold the backup before it: twist-dr hold {whole.backup_id} --reason 'rows lost'",
            newest.run_id, about=frozenset(about),
        )  # fmt: skip


def _rows_before(facts: Facts, last: Sequence[BackupRow]) -> dict[str, int]:
    """The rows that each table had; of those that are told to have lost theirs, also what it had before that was told."""
    before = _most_rows([facts.tables[row.backup_id] for row in last])
    known = facts.open.get(ROWS_LOST)
    for table, count in _most_rows([facts.tables[row.backup_id] for row in facts.before.get(ROWS_LOST, ())]).items():
        if known is None or known.about is None or table in known.about:
            before[table] = max(count, before.get(table, 0))
    return before


def _most_rows(before: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The most rows that each table had: what was lost stays lost, although the next backup looks like the last one."""
    most: dict[str, int] = {}
    for tables in before:
        for table, count in tables.items():
            most[table] = max(count, most.get(table, 0))
    return most


def duration(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The newest backup or verification took much longer than usual, or a run does not end."""
    factor = settings.alerts.duration_factor
    for kind in KINDS:
        for name, rows in _alike(facts, settings, kind):
            taken = [row.finished_at - row.started_at for row in rows]
            if usual := _too_long(taken[0], taken[1:], factor):
                yield _slow(f"duration:{name}", f"{rows[0].backup_id} took {human(taken[0])}", usual, rows[0].run_id)
        for end, of_kind in by_media(facts.backups.get(kind, ()), settings):
            proofs = [row.last_verification for row in of_kind if row.last_verification]
            taken = [timedelta(seconds=proof.seconds) for proof in proofs]
            if proofs and (usual := _too_long(taken[0], taken[1:], factor)):
                message = f"The verification of {proofs[0].backup_id} took {human(taken[0])}"
                yield _slow(f"duration:verification_{kind}{end}", message, usual, proofs[0].run_id)
    told = set[str]()
    for job in facts.attempts:
        for name, attempts in by_schedule(facts, settings, job):
            running = next((each for each in attempts if each.state == "running"), None)
            if running is None or running.run_id in told:
                continue
            told.add(running.run_id)
            taken = [
                each.finished_at - each.started_at
                for each in attempts
                if each.finished_at and each.state == "succeeded"
            ]
            if job == "verify_backup" and taken and media_differ(settings):
                # Nothing tells which of the two it verifies: it may take as long as the longer one.
                taken = [max(taken)] * len(taken)
            # A scheduled run may wait for another one before it begins its work.
            waiting = settings.schedules.patience if settings.schedules and running.scheduled_for else timedelta()
            if usual := _too_long(now - running.started_at - waiting, taken, factor):
                message = f"{job} goes on since {human(now - running.started_at)}"
                yield _slow(f"running:{name}", message, usual, running.run_id)


def _too_long(newest: timedelta, before: Sequence[timedelta], factor: float) -> timedelta | None:
    """What is usual, when this was much longer."""
    if len(before) < _ENOUGH:
        return None
    usual = timedelta(seconds=median(each.total_seconds() for each in before[:_LAST]))
    return usual if newest > usual * factor and newest - usual > _LEAST_SLOWER else None


def _slow(cause: str, message: str, usual: timedelta, run_id: str | None) -> Finding:
    return Finding(
        cause, "duration", "warning", f"{message}; {human(usual)} is usual.",
        "Look at the run: which phase takes so long, and what else the server, the disk or the network had to do then.", run_id,
    )  # fmt: skip
