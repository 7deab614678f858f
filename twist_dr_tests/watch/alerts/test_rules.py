"""Which alerts there are, from facts alone: each is raised when it should be, and not by what looks much like it and is well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

import twist_dr
from twist_dr.catalog import AlertRow, DeliveryRow, TargetTestRow
from twist_dr.catalog.notes import Repair
from twist_dr.postgres.lsn import Gap
from twist_dr.settings import Settings
from twist_dr.storage.local import LocalOptions
from twist_dr.watch.alerts import rules
from twist_dr.watch.alerts.daemon import Daemon
from twist_dr.watch.alerts.facts import DiskSpace, Facts
from twist_dr.watch.alerts.points import newest_point
from twist_dr.watch.alerts.rules import findings
from twist_dr_tests.watch.alerts.scenes import (
    DAY,
    HOUR,
    MB,
    MINUTE,
    NOW,
    TARGETS,
    attempt,
    backup,
    base,
    found,
    healthy,
    nights,
    position,
    proof,
    restore,
    samples,
    settings,
    with_attempts,
    with_copy,
    with_fulls,
)

TONIGHT = NOW - 3 * HOUR
NEWEST = backup(TONIGHT)
WAL = {"wal": {}}
MANUAL = {"scheduled_for": None, "label": "manual"}


@dataclass(frozen=True)
class Case:
    """``broken`` raises ``cause``; ``well`` is its neighbour and raises nothing of the kind."""

    name: str
    cause: str
    severity: str
    broken: Callable[[], Facts]
    well: Callable[[], Facts]
    settings: dict[str, Any] | None = None
    says: str = ""


def open_alert(cause: str, **changes: Any) -> dict[str, AlertRow]:
    row = AlertRow(1, "erp", cause, cause.partition(":")[0], "warning", "active", "m", "a", NOW - DAY, NOW - HOUR)
    return {cause: replace(row, **changes)}


def target_test(ok: bool, error: str | None, code: str | None = None, at: datetime = NOW - HOUR) -> dict[str, Any]:
    return {"target_tests": [TargetTestRow(1, "cloud", at, ok, "s3://b", None, error, 0.1, code)]}


def found_by_tests(*can: dict[str, Any], seconds: tuple[float, ...] = (0.1,) * 8) -> Facts:
    """Tests of the last days, newest first, each with what was found otherwise than usual."""
    usual = {"write_once": True, "checksum": "server", "clock_skew_seconds": 0.1, "notes": []}
    rows = [
        TargetTestRow(9 - n, "cloud", NOW - n * DAY, True, "s3://b", {**usual, **each}, None, seconds[n])
        for n, each in enumerate(can)
    ]
    return healthy(target_tests=rows)


def failed_copy(error: str, code: str | None = None) -> Facts:
    return with_fulls(with_copy(NEWEST, "cloud", "failed", error, code))


def with_space(*frees: float, **changes: Any) -> Facts:
    return healthy(space={"office": samples(*frees, **changes)})


def with_base(row: Any = None, rows: list[Any] | None = None, **changes: Any) -> Facts:
    """A base backup of Sunday night, proven, and write-ahead log on both targets."""
    sunday = backup(NOW - 6 * DAY, "base")
    sunday = replace(sunday, last_verification=proof(sunday)) if row is None else row
    facts = healthy(**{"positions": {"office": position("office"), "cloud": position("cloud")}, **changes})
    attempts = {**facts.attempts, "backup_base": [attempt("backup_base", NOW - 4 * HOUR)]}
    bases = {each.backup_id: base() for each in rows or [sunday]}
    return replace(facts, backups={**facts.backups, "base": rows or [sunday]}, bases=bases, attempts=attempts)


def two_targets_behind(age: timedelta) -> Facts:
    facts = healthy()
    old = backup(NOW - age)
    return replace(facts, checked={"office": facts.checked["office"], "cloud": old})


def tables(newest: dict[str, int], **before: dict[str, int]) -> Facts:
    facts = healthy()
    ids = [row.backup_id for row in facts.backups["full"][:4]]
    usual = {"public.invoice": 9000, "public.session": 500, "public.tiny": 50}
    return replace(facts, tables={ids[0]: newest, **dict.fromkeys(ids[1:], usual)})


def sized(size: int, usual: int = 900 * MB) -> Facts:
    facts = healthy()
    before = [replace(row, plain_bytes=usual) for row in facts.backups["full"][1:]]
    return replace(facts, backups={**facts.backups, "full": [replace(NEWEST, plain_bytes=size), *before]})


def took(time: timedelta) -> Facts:
    return with_fulls(replace(NEWEST, finished_at=NEWEST.started_at + time))


SETTLED = "20261121T040000Z-restore"


def cut_short(logged: Any, **changes: Any) -> Facts:
    """A restore whose run was killed, as the log of restores has it; then somebody made a plan."""
    cut = attempt("restore", NOW - HOUR, **{"state": "killed", "run_id": restore().run_id, **MANUAL, **changes})
    plan = attempt("restore", NOW - 30 * MINUTE, **MANUAL)
    return with_attempts("restore", plan, cut, restores=[restore(mode="plan"), restore(state=logged)])


def killed_at(at: datetime) -> Facts:
    return with_attempts("backup_full", attempt(at=at, state="killed", error_code=None, error=None, step=None))


def without_tonight(**changes: Any) -> Facts:
    """The last night's backup was never launched."""
    facts = healthy(**changes)
    rows = facts.backups["full"][1:]
    attempts = {**facts.attempts, "backup_full": facts.attempts["backup_full"][1:]}
    return replace(
        facts,
        backups={**facts.backups, "full": rows},
        attempts=attempts,
        checked=dict.fromkeys(facts.checked, rows[0]),
    )


LATE = NOW + 4 * HOUR  # 09:00: the six hours that a daily schedule may be late are over

CASES = [
    Case(
        "a backup that failed", "backup_failed:backup_full", "error",
        lambda: with_attempts("backup_full", attempt(state="failed")),
        lambda: with_attempts("backup_full", attempt(at=TONIGHT + HOUR, **MANUAL), attempt(state="failed")),
        says="backup_full failed in step full_backup: The server does not answer; start it.",
    ),
    Case(
        "two scheduled failures in a row", "backup_failed:backup_full", "critical",
        lambda: with_attempts("backup_full", attempt(state="failed"), attempt(at=TONIGHT - DAY, state="failed")),
        lambda: with_attempts("backup_full", attempt(), attempt(at=TONIGHT - DAY, state="failed")),
        says="2 scheduled backups in a row",
    ),
    Case(
        "a backup that was killed", "backup_failed:backup_full", "error",
        lambda: killed_at(TONIGHT), lambda: with_attempts("backup_full", attempt(state="cancelled")), says="was killed",
    ),
    Case(
        "a backup that goes on after one that failed", "backup_failed:backup_full", "error",
        lambda: with_attempts("backup_full", attempt(at=NOW - MINUTE, state="running"), attempt(state="failed")),
        lambda: with_attempts("backup_full", attempt(at=NOW - MINUTE, state="running")),
    ),
    Case(
        "a scheduled backup that never got its turn", "backup_failed:backup_full", "error",
        lambda: with_attempts("backup_full", attempt(state="failed", error_code="busy")),
        lambda: with_attempts("backup_full", attempt(state="failed", error_code="busy", **MANUAL)),
    ),
    Case(
        "a partial backup", "partial:backup_full", "warning",
        lambda: failed_copy("cloud: the store cannot be reached"), healthy, says="cloud: the store cannot be reached. It is on office.",
    ),
    Case(
        "a partial backup for the second time", "partial:backup_full", "error",
        lambda: with_fulls(with_copy(NEWEST, "cloud", "failed"), with_copy(backup(TONIGHT - DAY), "cloud", "failed")),
        lambda: with_fulls(NEWEST, with_copy(backup(TONIGHT - DAY), "cloud", "failed")),
    ),
    Case(
        "a backup that no target has", "partial:backup_full", "error",
        lambda: with_fulls(with_copy(with_copy(NEWEST, "cloud", "failed"), "office", "failed")), healthy, says="No target has it",
    ),
    Case(
        "a copy that nobody has read", "partial:backup_full", "warning",
        lambda: with_fulls(with_copy(with_copy(NEWEST, "cloud", "stored"), "office", "stored")), healthy,
        says=" is on office, cloud, where its bytes were not checked yet.",
    ),
    Case(
        "one copy that failed and one that nobody has read", "partial:backup_full", "error",
        lambda: with_fulls(with_copy(with_copy(NEWEST, "cloud", "failed"), "office", "stored")), healthy,
        says="It is on office, where its bytes were not checked yet.",
    ),
    Case(
        "a copy that was never made", "partial:backup_full", "warning",
        lambda: with_fulls(with_copy(NEWEST, "cloud", "pending")),
        lambda: replace(
            with_fulls(with_copy(NEWEST, "cloud", "pending")),
            attempts={"backup_full": [attempt(state="running", run_id=NEWEST.run_id)]},
        ),
    ),
    Case(
        "a partial backup while the next one is made", "partial:backup_full", "warning",
        lambda: replace(
            with_fulls(with_copy(backup(NOW - MINUTE), "cloud", "pending"), with_copy(NEWEST, "cloud", "failed")),
            attempts={"backup_full": [attempt(at=NOW - 2 * MINUTE, state="running", run_id=backup(NOW - MINUTE).run_id), attempt(state="failed", error_code="copy_failed")]},
        ),
        lambda: replace(
            with_fulls(with_copy(backup(NOW - MINUTE), "cloud", "pending"), NEWEST),
            attempts={"backup_full": [attempt(at=NOW - 2 * MINUTE, state="running", run_id=backup(NOW - MINUTE).run_id), attempt()]},
        ),
    ),
    Case(
        "a partial backup that the catalog knows nothing of", "partial:backup_full", "warning",
        lambda: with_attempts("backup_full", attempt(at=NOW - HOUR, state="failed", error_code="copy_failed_for_now")),
        lambda: with_attempts("backup_full", attempt(at=TONIGHT, state="failed", error_code="copy_failed")),
    ),
    Case(
        "a copy on a target that is switched off", "partial:backup_full", "warning",
        lambda: with_fulls(with_copy(NEWEST, "cloud", "failed")),
        lambda: with_fulls(with_copy(NEWEST, "attic", "failed")),
    ),
    Case(
        "a proof that failed", "verification_failed:full", "error",
        lambda: with_fulls(replace(NEWEST, last_verification=proof(NEWEST, verified=False))),
        lambda: with_fulls(NEWEST, replace(backup(TONIGHT - DAY), last_verification=proof(backup(TONIGHT - DAY), verified=False))),
        says="7 rows restored where 9 were recorded",
    ),
    Case(
        "a proof that failed while the next is awaited", "verification_failed:full", "error",
        lambda: with_fulls(
            replace(NEWEST, last_verification=None),
            replace(backup(TONIGHT - DAY), last_verification=proof(backup(TONIGHT - DAY), verified=False)),
        ),
        lambda: with_fulls(replace(NEWEST, last_verification=None)),
    ),
    Case(
        "a verification that could not be made", "verification_failed:verify_backup", "error",
        lambda: with_attempts("verify_backup", attempt("verify_backup", state="failed")),
        lambda: with_attempts("verify_backup", attempt("verify_backup", state="cancelled")),
    ),
    Case(
        "a corrupt copy", "integrity:cloud", "error",
        lambda: healthy(corrupt=[with_copy(NEWEST, "cloud", "corrupt")]), healthy, says="cloud holds 1 corrupt copy",
    ),
    Case(
        "a backup whose only copy is corrupt", "integrity:cloud", "critical",
        lambda: healthy(corrupt=[with_copy(with_copy(NEWEST, "cloud", "corrupt"), "office", "deleted")]),
        lambda: healthy(corrupt=[with_copy(NEWEST, "attic", "corrupt")]), says="No other target has a good copy",
    ),
    Case(
        "900 MB that became 50 MB", "size_deviation:full", "critical", lambda: sized(50 * MB), lambda: sized(800 * MB),
        says="94% less than the median of the last 10 full backups, 900.0 MB",
    ),
    Case("a backup of less than half", "size_deviation:full", "error", lambda: sized(400 * MB), lambda: sized(460 * MB)),
    Case("a backup that grew by more than half", "size_deviation:full", "warning", lambda: sized(1400 * MB), lambda: sized(1300 * MB)),
    Case(
        "a tiny application that lost everything", "size_deviation:full", "critical",
        lambda: sized(5_000, 300_000), lambda: sized(5_000, 20_000),
    ),
    Case(
        "a lone database dump is no whole backup", "size_deviation:full", "critical",
        lambda: sized(50 * MB), lambda: with_fulls(replace(NEWEST, plain_bytes=50 * MB, parts=("database",))),
    ),
    Case(
        "a table that lost rows", "row_drop:full", "warning",
        lambda: tables({"public.invoice": 7000, "public.session": 500, "public.tiny": 1}),
        lambda: tables({"public.invoice": 7300, "public.session": 480, "public.tiny": 1}), says="public.invoice 9,000 rows before, 7,000 now",
    ),
    Case(
        "a key table that lost rows", "row_drop:full", "error",
        lambda: tables({"public.invoice": 7000, "public.session": 500}), lambda: tables({"public.invoice": 9001, "public.session": 450}),
        settings={"verification": {"key_tables": ["invoice"]}},
    ),
    Case(
        "a table that is gone", "row_drop:full", "error",
        lambda: tables({"public.invoice": 9000}), lambda: tables({"public.invoice": 9000, "public.session": 500}), says="gone now",
    ),
    Case(
        "a key table that is empty", "row_drop:full", "critical",
        lambda: tables({"public.invoice": 0, "public.session": 500}), lambda: tables({"public.invoice": 9000, "public.session": 500}),
        settings={"verification": {"key_tables": ["public.invoice"]}},
    ),
    Case(
        "a backup that took long", "duration:full", "warning", lambda: took(31 * MINUTE), lambda: took(29 * MINUTE),
        says="took 31 min 00 s; 10 min 00 s is usual",
    ),
    Case(
        "a verification that took long", "duration:verification_full", "warning",
        lambda: with_fulls(replace(NEWEST, last_verification=proof(NEWEST, seconds=800))),
        lambda: with_fulls(replace(NEWEST, last_verification=proof(NEWEST, seconds=600))),
    ),
    Case(
        "a run that does not end", "running:backup_full", "warning",
        lambda: with_attempts("backup_full", attempt(at=NOW - 8 * HOUR, state="running")),
        lambda: with_attempts("backup_full", attempt(at=NOW - 5 * HOUR, state="running")),
    ),
    Case(
        "credentials that are refused", "credentials:cloud", "error",
        lambda: failed_copy("putting x: the store does not know this access key; correct access_key_id.", "credentials_refused"),
        # What an older version recorded has no code: its cause is not known, whatever it says.
        lambda: failed_copy("the store does not know this access key"),
        says="cloud backup failed: its credentials were refused",
    ),
    Case(
        "a session that has expired", "credentials:cloud", "error",
        lambda: healthy(**target_test(False, "listing: the session token has expired; renew it.", "credentials_refused")),
        lambda: healthy(**target_test(False, "an old token expired", "credentials_refused", NOW - DAY)),
        says="cloud test failed",
    ),
    Case(
        "a grant that was revoked", "credentials:cloud", "error",
        lambda: failed_copy("the refresh token was revoked or has expired; reauthorize", "credentials_refused"), healthy,
    ),
    Case(
        "a target that is not there", "unreachable:cloud", "error",
        lambda: failed_copy("nothing is mounted at /mnt/nas, so nothing was read or written", "target_unavailable"),
        lambda: replace(failed_copy("nothing is mounted", "target_unavailable"), **target_test(True, None)),
        says="nothing is mounted",
    ),
    Case(
        "credentials that are refused, while the next backup is made", "credentials:cloud", "error",
        lambda: replace(
            with_fulls(with_copy(backup(NOW - MINUTE), "cloud", "pending"), with_copy(NEWEST, "cloud", "failed", "they were refused", "credentials_refused")),
            attempts={"backup_full": [attempt(at=NOW - 2 * MINUTE, state="running")]},
        ),
        lambda: replace(
            with_fulls(backup(NOW - MINUTE), with_copy(NEWEST, "cloud", "failed", "they were refused", "credentials_refused")),
            attempts={"backup_full": [attempt(at=NOW - 2 * MINUTE, state="running")]},
        ),
    ),
    Case(
        "a target that takes no more today", "upload_limit:cloud", "warning",
        lambda: failed_copy("Google Drive takes and gives no more bytes today", "target_daily_limit"),
        lambda: failed_copy("Google Drive cannot be reached", "target_unavailable"), says="no more bytes today",
    ),
    Case(
        "a target that is full", "capacity:cloud", "error",
        lambda: failed_copy("no space left on /backups; free some space or raise the quota, then run again.", "target_full"),
        lambda: failed_copy("no space left on /backups"),
    ),
    Case("a target with little space", "capacity:office", "warning", lambda: with_space(95), lambda: with_space(105), says="office has 95.0 GB of 1.0 TB free"),
    Case("a target with hardly any space", "capacity:office", "error", lambda: with_space(49), lambda: with_space(101)),
    Case(
        "a target that fills up within two weeks", "capacity:office", "warning",
        lambda: with_space(300, 280, 260), lambda: with_space(300, 290, 280), says="as it fills now, office is full in 13 days",
    ),
    Case(
        "a target that fills up and whose provider does not say how large it is", "capacity:office", "warning",
        lambda: healthy(space={"office": [replace(each, total=None) for each in samples(300, 250, 200)]}),
        lambda: healthy(space={"office": [replace(each, total=None) for each in samples(90, 90, 90)]}), says="office has 200.0 GB free; as it fills now",
    ),
    Case(
        "a target too small for the next backup", "capacity:office", "error",
        lambda: healthy(space={"office": [replace(samples(1)[0], free=200 * MB, total=None)]}),
        lambda: healthy(space={"office": [replace(samples(1)[0], free=400 * MB, total=None)]}), says="the next backup may take 300.0 MB there",
    ),
    Case(
        "a target that refuses to overwrite no more", "capability:cloud", "warning",
        lambda: found_by_tests({"write_once": False}, {}), lambda: found_by_tests({"write_once": False}, {"write_once": False}), says="to overwrite",
    ),
    Case(
        "a target that checked what it received, and does no more", "capability:cloud", "warning",
        lambda: found_by_tests({"checksum": "read-back"}, {}, {}), lambda: found_by_tests({}, {"checksum": "read-back"}), says="all is read back",
    ),
    Case(
        "a target whose clock is wrong", "target_clock:cloud", "warning",
        lambda: found_by_tests({"clock_skew_seconds": -90.0}), lambda: found_by_tests({"clock_skew_seconds": 59.0}, {"clock_skew_seconds": 400.0}),
        says="The clock of cloud is 1 min 30 s behind this machine's.",
    ),
    Case(
        "a target that gets slow", "slow_target:cloud", "warning",
        lambda: found_by_tests(*[{}] * 8, seconds=(20, 30, 12, 2, 2, 2, 2, 2)), lambda: found_by_tests(*[{}] * 8, seconds=(30, 2, 2, 2, 2, 2, 2, 2)),
        says="its last 3 tests took 20.0 s; 2.0 s was usual",
    ),
    Case(
        "space that goes up and down by an hour's backup", "capacity:office", "warning",
        lambda: with_space(300, 250, 200), lambda: with_space(300, 250, 200, every=HOUR),
    ),
    Case(
        "space that is just above the limit after it was below", "capacity:office", "warning",
        lambda: replace(with_space(105), open=open_alert("capacity:office")),
        lambda: replace(with_space(125), open=open_alert("capacity:office")),
    ),
    Case(
        "a disk for staging with little space", "staging_disk", "warning",
        lambda: healthy(staging=DiskSpace(9 * 10**9, 10**11)), lambda: healthy(staging=DiskSpace(11 * 10**9, 10**11)),
    ),
    Case(
        "a disk for staging too small for the next backup", "staging_disk", "error",
        lambda: healthy(staging=DiskSpace(200 * MB, 10**9)), lambda: healthy(staging=DiskSpace(400 * MB, 10**9)), says="the last backup took 300.0 MB",
    ),
    Case(
        "a disk that a running backup fills for a while", "staging_disk", "warning",
        lambda: with_attempts("backup_full", attempt(), staging=DiskSpace(9 * 10**9, 10**11)),
        lambda: with_attempts("backup_full", attempt(at=NOW - MINUTE, state="running"), staging=DiskSpace(9 * 10**9, 10**11)),
    ),
    Case(
        "a target that is left behind", "objective:cloud", "error",
        lambda: two_targets_behind(30 * HOUR), lambda: two_targets_behind(25 * HOUR), says="26 h 00 min is the objective",
    ),
    Case(
        "a target with an objective of its own", "objective:cloud", "error",
        lambda: two_targets_behind(60 * HOUR), lambda: two_targets_behind(40 * HOUR),
        settings={"storage_targets": {
            "office": {"type": "local", "path": "/backups/office"},
            "cloud": {"type": "local", "path": "/backups/cloud", "objective": "2 days"},
        }},
    ),
    Case(
        "a target that asks for more than is made", "objective:cloud", "warning",
        healthy, lambda: with_fulls(backup(NOW - HOUR), checked=dict.fromkeys(TARGETS, backup(NOW - HOUR))),
        settings={"storage_targets": {
            "office": {"type": "local", "path": "/backups/office"},
            "cloud": {"type": "local", "path": "/backups/cloud", "objective": "2 hours"},
        }}, says="nothing newer was made",
    ),
    Case(
        "a target that holds nothing yet", "empty:cloud", "info",
        lambda: healthy(checked={"office": NEWEST}, targets_since={"office": NOW - 60 * DAY, "cloud": NOW - DAY}), healthy,
    ),
    Case(
        "a newest backup that is nowhere any more", "partial:backup_full", "warning",
        lambda: with_fulls(with_copy(with_copy(NEWEST, "office", "deleted"), "cloud", "deleted")),
        lambda: with_fulls(with_copy(NEWEST, "cloud", "deleted")), says="is on no storage target",
    ),
    Case(
        "a target that never got anything", "objective:cloud", "error",
        lambda: healthy(checked={"office": NEWEST}),
        lambda: healthy(checked={"office": NEWEST}, targets_since={"office": NOW - 60 * DAY, "cloud": NOW - DAY}),
    ),
    Case(
        "an archive of write-ahead log that falls behind", "archived_position:cloud", "error",
        lambda: with_base(positions={"office": position("office"), "cloud": position("cloud", at=NOW - 20 * MINUTE, error="it is full")}),
        with_base, settings=WAL, says="The last round failed: it is full",
    ),
    Case(
        "an archive of write-ahead log that is far behind", "archived_position:cloud", "critical",
        lambda: with_base(positions={"office": position("office"), "cloud": position("cloud", at=NOW - 61 * MINUTE)}),
        lambda: with_base(positions={name: position(name, at=NOW - 14 * MINUTE) for name in ("office", "cloud")}), settings=WAL,
    ),
    Case(
        "write-ahead log that nobody ships any more", "archived_position:office", "critical",
        lambda: with_base(positions={name: position(name, at=NOW - 2 * HOUR, updated_at=NOW - 2 * HOUR) for name in ("office", "cloud")}),
        with_base, settings=WAL, says="Nothing has shipped write-ahead log for 2 h 00 min",
    ),
    Case(
        "write-ahead log that was never shipped", "archived_position:cloud", "critical",
        lambda: with_base(positions={"office": position("office")}),
        lambda: with_base(positions={"office": position("office")}, targets_since={"office": NOW - DAY, "cloud": NOW - 5 * MINUTE}),
        settings=WAL, says="Nothing has shipped write-ahead log there yet",
    ),
    Case(
        "write-ahead log that was not shipped yet", "wal_unknown:cloud", "info",
        lambda: with_base(positions={"office": position("office")}, targets_since={"office": NOW - DAY, "cloud": NOW - 5 * MINUTE}),
        with_base, settings=WAL,
    ),
    Case(
        "a gap in the write-ahead log", "wal_gap:cloud", "critical",
        lambda: with_base(positions={"cloud": position("cloud", gaps=(Gap(1, 0x3000000, 0x4000000),))}),
        lambda: with_base(positions={"cloud": position("cloud", gaps=(Gap(1, 0x1000000, 0x2000000),))}),
        settings=WAL,
    ),
    Case(
        "two servers that write one timeline", "wal_conflict:cloud", "critical",
        lambda: with_base(positions={"cloud": position("cloud", error="it holds other bytes as 0001", error_code="wal_conflict")}),
        lambda: with_base(positions={"cloud": position("cloud", error="the store cannot be reached", error_code="target_unavailable")}), settings=WAL,
    ),
    Case(
        "files in the spool that are no write-ahead log", "wal_refused", "error",
        lambda: with_base(refused_wal=["000000010000000000000004.20261121T040000"]), with_base, settings=WAL,
    ),
    Case(
        "write-ahead log that piles up", "spool", "warning",
        lambda: with_base(positions={"office": position("office", waiting=3, oldest_seconds=1000.0)}),
        lambda: with_base(positions={"office": position("office", waiting=3, oldest_seconds=600.0)}), settings=WAL,
    ),
    Case(
        "a spool that is too large", "spool", "error",
        lambda: with_base(positions={"office": position("office", waiting=300, spool_bytes=5 << 30)}),
        lambda: with_base(positions={"office": position("office", waiting=0, oldest_seconds=9999.0)}), settings=WAL,
    ),
    Case(
        "no proof for more than a day", "no_recovery_point", "critical",
        lambda: with_fulls(*[replace(row, last_verification=None) for row in nights(2)]),
        lambda: with_fulls(replace(NEWEST, last_verification=None)),
        settings={"objectives": {"recovery_point": "27 hours"}}, says="is 2 days old",
    ),
    Case(
        "no proof ever", "no_recovery_point", "critical",
        lambda: healthy(backups={"full": [replace(NEWEST, last_verification=None)]}), healthy, says="There is no verified recovery point",
    ),
    Case(
        "nothing proven but what a restore replaced", "no_recovery_point", "critical",
        lambda: healthy(backups={"full": [replace(NEWEST, label="pre-restore")]}),
        lambda: healthy(backups={"full": [replace(NEWEST, label="pre-restore"), *nights(3)[1:]]}),
        settings={"objectives": {"recovery_point": "40 hours"}}, says="holds what a restore was about to replace",
    ),
    Case(
        "nothing proven but what an update changed", "only_pre_update", "warning",
        lambda: healthy(backups={"full": [replace(NEWEST, label="pre-update")]}),
        lambda: healthy(backups={"full": [replace(NEWEST, label="pre-update"), *nights(3)[1:]]}),
        settings={"objectives": {"recovery_point": "40 hours"}}, says="made before an update",
    ),
    Case(
        "a proven backup that no target holds any more", "no_recovery_point", "critical",
        lambda: with_fulls(*[with_copy(with_copy(row, "office", "deleted"), "cloud", "corrupt") for row in nights(12)]),
        lambda: with_fulls(*[with_copy(row, "office", "deleted") for row in nights(12)]),
    ),
    Case(
        "write-ahead log over a base that was proven long ago", "no_recovery_point", "critical",
        lambda: replace(with_base(positions={"office": position("office", gaps=(Gap(1, 0x3000000, 0x4000000),))}), backups={
            **with_base().backups, "full": []}),
        lambda: replace(with_base(), backups={**with_base().backups, "full": []}),
        settings=WAL,
    ),
    Case(
        "a clock that was set back", "clock", "error",
        lambda: healthy(future=backup(NOW + 400 * DAY)), lambda: healthy(future=backup(NOW + MINUTE)), says="400 days from now",
    ),
    Case(
        "a restore that failed", "restore_failed:20261121T040000Z-restore", "error",
        lambda: healthy(restores=[restore(state="failed", error="public.invoice: 7 rows")]),
        lambda: healthy(restores=[restore(), restore(NOW - 2 * HOUR, state="failed")]), says="public.invoice: 7 rows",
    ),
    Case(
        "a restore that was taken back", "restore_failed:20261121T040000Z-restore", "error",
        lambda: healthy(restores=[restore(state="undone")]),
        lambda: healthy(restores=[restore(state="refused", error="wrong schema"), restore(mode="plan", state="failed")]), says="was taken back",
    ),
    Case(
        "a restore that was killed before anything was begun", "restore_failed:restore", "error",
        lambda: with_attempts("restore", attempt("restore", state="killed", **MANUAL), restores=[restore(state="running")]),
        lambda: with_attempts("restore", attempt("restore", state="refused", error_code="restore_refused", **MANUAL)), says="was killed",
    ),
    Case(
        "a restore that was cut short, and a plan that was made since", "restore_interrupted:20261121T040000Z-restore", "critical",
        lambda: replace(cut_short("running"), journals={SETTLED: f"The restore {SETTLED} was cut short and is not settled"}),
        lambda: cut_short("settled"), says="was cut short and is not settled.",
    ),
    Case(
        "a scrub that failed", "job_failed:scrub", "error",
        lambda: with_attempts("scrub", attempt("scrub", state="failed")), lambda: with_attempts("scrub", attempt("scrub")),
    ),
    Case(
        "a cleanup that failed", "job_failed:cleanup", "warning",
        lambda: with_attempts("cleanup", attempt("cleanup", NOW - HOUR, "failed")),
        lambda: with_attempts("ship_wal", attempt("ship_wal", state="failed", error_code="wal_not_shipped")),
    ),
    Case(
        "a channel that does not work", "channel:mail", "error",
        lambda: healthy(deliveries=[DeliveryRow("erp", "mail", False, NOW, NOW - HOUR, "it did not answer")]),
        lambda: healthy(deliveries=[DeliveryRow("erp", "mail", True, NOW, NOW), DeliveryRow("erp", "old", False, NOW, NOW, "gone")]),
        settings={"alerts": {"channels": {"mail": {"url": "mailto://x"}}}},
    ),
]  # fmt: skip


@pytest.mark.promise(11)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_alert_is_raised_for(case: Case) -> None:
    finding = found(case.broken(), settings(**(case.settings or {})))[case.cause]
    assert finding.severity == case.severity
    assert case.says in finding.message
    assert finding.message.endswith(".") and not finding.message.endswith("..")
    assert finding.advice


def test_what_a_provider_takes_within_a_day_is_told_before_a_backup_meets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalOptions, "daily_upload_limit", 1000 * MB)
    assert "upload_limit:cloud" not in found(healthy(uploaded={"cloud": 600 * MB}))
    near = found(healthy(uploaded={"cloud": 800 * MB}))["upload_limit:cloud"]
    assert near.severity == "warning"
    assert "800.0 MB were stored on cloud within 24 hours, of 1.0 GB" in near.message
    assert "the next backup (300.0 MB) may have to wait" in near.message
    large = replace(NEWEST, copies=tuple(replace(each, stored_bytes=1001 * MB) for each in NEWEST.copies))
    assert found(with_fulls(large))["upload_limit:cloud"].severity == "error"


def test_what_a_test_of_targets_found_is_told_once_and_by_the_target() -> None:
    failed = attempt("test_storage_targets", state="failed", error_code="target_unavailable")
    raised = found(
        with_attempts("test_storage_targets", failed, **target_test(False, "it does not answer", "target_unavailable"))
    )
    assert "unreachable:cloud" in raised and "job_failed:test_storage_targets" not in raised
    assert "job_failed:test_storage_targets" in found(
        with_attempts("test_storage_targets", replace(failed, error_code="catalog_unavailable"))
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_its_healthy_neighbour_is_left_alone(case: Case) -> None:
    raised = found(case.well(), settings(**(case.settings or {})))
    known = raised.get(case.cause)
    assert known is None or known.severity != case.severity


def test_nothing_is_found_when_all_is_well() -> None:
    assert found(healthy()) == {}
    assert found(with_base(), settings(**WAL)) == {}


# -- what was due ------------------------------------------------------------------------------------------------------


@pytest.mark.promise(11)
def test_a_backup_that_was_not_launched_is_missed_once_its_grace_is_over() -> None:
    facts = without_tonight()
    assert "missed:full" not in found(facts, now=NOW + 2 * HOUR)
    finding = found(facts, now=LATE)["missed:full"]
    assert (finding.severity, "due at 2026-11-21 02:00 UTC" in finding.message) == ("error", True)


def test_why_nothing_was_launched_is_said_where_it_is_known() -> None:
    def advice(daemon: Daemon | None) -> str:
        return found(replace(without_tonight(), daemon=daemon), now=LATE)["missed:full"].advice

    def seen(at: datetime, *stopped: str) -> Daemon:
        return Daemon(at, None, None, twist_dr.__version__, frozenset(stopped))

    assert advice(None).startswith("See that dagster-daemon runs and that its schedule is on")
    assert advice(seen(LATE)) == advice(None)
    assert advice(seen(LATE - HOUR)).startswith("Start dagster-daemon: the daemon does not run (last seen ")
    assert advice(seen(LATE, "full_schedule")).startswith("Switch its schedule on, as somebody switched it off")


def test_a_missed_backup_stays_missed_when_the_next_one_is_due_and_gets_worse_when_that_is_missed_too() -> None:
    facts = without_tonight()
    tomorrow = NOW + DAY
    assert found(facts, now=tomorrow)["missed:full"].severity == "error"
    later = found(facts, now=tomorrow + 4 * HOUR)["missed:full"]
    assert later.severity == "critical"
    assert "due 2 times" in later.message


@pytest.mark.parametrize(
    "made_up",
    [
        attempt(at=NOW + HOUR, scheduled_for=NOW - 3 * HOUR),
        attempt(at=NOW + HOUR, scheduled_for=None),
        attempt(at=NOW + HOUR, state="failed"),
        attempt(at=NOW + HOUR, state="running"),
    ],
    ids=["caught up", "by hand", "failed, which is told as such", "goes on"],
)
def test_a_backup_that_was_launched_late_is_not_missed(made_up: Any) -> None:
    facts = without_tonight()
    facts = replace(facts, attempts={**facts.attempts, "backup_full": [made_up, *facts.attempts["backup_full"]]})
    assert "missed:full" not in found(facts, now=LATE)


@pytest.mark.parametrize(
    "tried",
    [
        attempt(at=NOW - HOUR, state="failed", error_code="busy", who="ops@host", scheduled_for=None),
        attempt(at=NOW - HOUR, state="failed", error_code="settings_error", who="ops@host", scheduled_for=None),
        attempt(at=NOW - HOUR, state="cancelled", who="ops@host", scheduled_for=None),
        attempt(at=NOW - HOUR, state="refused", error_code="launch_refused", who="ops@host", scheduled_for=None),
    ],
    ids=["refused by an earlier version", "wrong settings", "cancelled", "refused"],
)
def test_a_person_who_was_refused_or_thought_better_of_it_does_not_stand_for_the_schedule(tried: Any) -> None:
    facts = without_tonight()
    facts = replace(facts, attempts={**facts.attempts, "backup_full": [tried, *facts.attempts["backup_full"]]})
    assert found(facts, now=LATE)["missed:full"].severity == "error"
    launched = replace(tried, scheduled_for=TONIGHT, who="schedule full_schedule", state="failed")
    facts = replace(facts, attempts={**facts.attempts, "backup_full": [launched, *facts.attempts["backup_full"]]})
    assert "missed:full" not in found(facts, now=LATE)


@pytest.mark.parametrize("error_code", ["restore_interrupted", None])
@pytest.mark.parametrize("state", ["settled", "failed"])
def test_a_restore_that_was_settled_raises_no_alarm_later(state: str, error_code: str | None) -> None:
    how = {"state": "failed", "error_code": error_code} if error_code else {}
    facts = cut_short(state, **how)
    facts = replace(facts, attempts={"restore": facts.attempts["restore"][1:]})
    assert not [cause for cause in found(facts) if cause.startswith("restore_")]
    # Nor once another job has restored something since.
    since = attempt("restore_to_time", NOW - 20 * MINUTE, **MANUAL)
    done = replace(
        facts,
        attempts={**facts.attempts, "restore_to_time": [since]},
        restores=[restore(NOW - 20 * MINUTE, mode="sandbox", run_id=since.run_id), *facts.restores],
    )
    assert not [cause for cause in found(done) if cause.startswith("restore_")]
    # Until then it is told, whatever else was launched meanwhile; not while somebody is at it.
    open_ = replace(cut_short("running", **how), journals={SETTLED: "The restore was cut short and is not settled"})
    assert found(open_)[f"restore_interrupted:{SETTLED}"].severity == "critical"
    again = attempt("restore_to_time", state="running", **MANUAL)
    at_it = replace(open_, attempts={**open_.attempts, "restore_to_time": [again]})
    assert not [cause for cause in found(at_it) if cause.startswith("restore_")]


def test_a_backup_whose_forerunner_still_goes_on_is_not_missed_until_another_period_has_passed() -> None:
    facts = without_tonight()
    running = attempt(at=NOW - DAY, state="running")
    facts = replace(facts, attempts={**facts.attempts, "backup_full": [running, *facts.attempts["backup_full"][1:]]})
    assert "missed:full" not in found(facts, now=LATE)
    assert "missed:full" in found(facts, now=LATE + DAY)


def test_nothing_is_missed_without_schedules() -> None:
    assert "missed:full" not in found(without_tonight(), settings(schedules=None), now=LATE + 30 * DAY)


def test_nothing_is_missed_that_was_due_before_the_schedule_was_written_down() -> None:
    facts = without_tonight(schedules_since={"full": NOW})
    assert "missed:full" not in found(facts, now=NOW + 20 * HOUR)
    assert "missed:full" in found(facts, now=NOW + 28 * HOUR)


def test_of_several_schedules_each_is_missed_and_fails_by_itself() -> None:
    noon = {"cron": "0 4 * * *", "name": "noon", "parts": ["database"]}
    given = settings(schedules={"full": [{"cron": "0 2 * * *"}, noon]})
    night = attempt(at=TONIGHT, scheduled_for=TONIGHT, who="schedule full_schedule")
    later = TONIGHT + 2 * HOUR
    of_noon = replace(night, scheduled_for=later, started_at=later, who="schedule full_noon_schedule")
    since = {"schedules_since": {"full": TONIGHT - HOUR, "full_noon": TONIGHT - HOUR}}

    def causes(*attempts: Any) -> set[str]:
        known = {**healthy().attempts, "backup_full": list(attempts)}
        told = set(found(replace(healthy(), attempts=known, **since), given, now=TONIGHT + 10 * HOUR))
        return {each for each in told if each.startswith(("missed:full", "backup_failed"))}

    assert causes(of_noon, night) == set()
    assert causes(night) == {"missed:full_noon"}
    assert causes(of_noon) == {"missed:full"}
    assert causes(of_noon, replace(night, state="failed")) == {"backup_failed:backup_full"}
    assert causes(replace(of_noon, state="failed"), night) == {"backup_failed:backup_full:noon"}


def test_a_schedule_of_every_minute_is_missed_within_a_minute() -> None:
    given = settings(
        schedules={"drill": None, "scrub": None, "test_targets": None, "configuration": None, "full": "* * * * *"}
    )
    facts = with_attempts("backup_full", attempt(at=NOW))
    assert "missed:full" not in found(facts, given, now=NOW + timedelta(seconds=80))
    assert "missed:full" in found(facts, given, now=NOW + timedelta(seconds=100))


def test_an_incremental_base_backup_makes_up_for_a_full_one_that_was_missed() -> None:
    given = settings(**WAL)
    facts = with_base()
    stopped = replace(
        facts,
        attempts={**facts.attempts, "backup_base": [attempt("backup_base", NOW - 8 * DAY)]},
        backups=healthy().backups,
    )
    assert {"missed:base", "missed:base_incremental"} <= set(found(stopped, given, now=LATE))
    assert not {"missed:base", "missed:base_incremental"} & set(found(facts, given, now=LATE))


# -- what must not flap or cry wolf -----------------------------------------------------------------------------------


def test_a_fresh_installation_is_given_until_its_objective_before_it_is_told_that_nothing_is_proven() -> None:
    fresh = Facts(since=NOW)
    assert {cause: each.severity for cause, each in found(fresh).items()} == {"no_recovery_point": "info"}
    assert found(fresh, now=NOW + 27 * HOUR)["no_recovery_point"].severity == "critical"


def test_a_catalog_that_was_rebuilt_is_no_fresh_installation() -> None:
    rebuilt = Facts(since=NOW, backups={"full": [replace(row, last_verification=None) for row in nights(5)]})
    assert found(rebuilt)["no_recovery_point"].severity == "critical"


def test_a_copy_that_no_scrub_can_repair_is_not_promised_to_be() -> None:
    bad = with_copy(NEWEST, "cloud", "corrupt")
    assert "Run scrub, which repairs" in found(healthy(corrupt=[bad]))["integrity:cloud"].advice
    for form, repaired in (("gzip+enc", False), ("none", True)):
        copies = tuple(replace(each, form=form) if each.target == "cloud" else each for each in bad.copies)
        advice = found(healthy(corrupt=[replace(bad, copies=copies)]))["integrity:cloud"].advice
        assert ("Run scrub, which repairs" in advice) == repaired
        assert ("make a new backup at once" in advice) != repaired


def test_what_was_repaired_is_told_in_the_number_that_it_is() -> None:
    one = Repair(backup_id=NEWEST.backup_id, target="cloud", at=NOW, what="other bytes", source="office")
    for repairs, said in (((one,), "held 1 object that was bad"), ((one, one), "held 2 objects that were bad")):
        assert said in found(healthy(repairs=repairs))["repaired:cloud"].message


def test_when_nothing_was_made_at_all_targets_are_not_told_of_beside_it() -> None:
    stopped = found(healthy(), now=NOW + 2 * DAY)
    assert set(stopped) == {"no_recovery_point", "missed:full"}


@pytest.mark.parametrize("sort", ["incremental", "differential"])
def test_an_incremental_base_backup_is_compared_with_incremental_ones_only(sort: str) -> None:
    rows = [
        backup(NOW - (index + 1) * HOUR, "base", plain_bytes=size * MB)
        for index, size in enumerate((40, 30, 50, 60, 900))
    ]
    facts = with_base(rows=rows)
    mixed = replace(
        facts, bases={row.backup_id: base(sort=sort if row.plain_bytes < 900 * MB else "full") for row in rows}
    )
    assert not [cause for cause in found(mixed, settings(**WAL)) if cause.startswith("size")]
    shrunk = replace(rows[0], plain_bytes=40 * MB)
    full = replace(
        facts, backups={**facts.backups, "base": [shrunk, *[replace(row, plain_bytes=900 * MB) for row in rows[1:]]]}
    )
    assert found(full, settings(**WAL))["size_deviation:base"].severity == "critical"


def test_a_hiccup_of_the_network_while_write_ahead_log_is_shipped_is_not_told() -> None:
    facts = with_base(
        positions={
            "office": position("office"),
            "cloud": position("cloud", error="the store cannot be reached", error_code="target_unavailable"),
        }
    )
    assert found(facts, settings(**WAL)) == {}


def test_refused_credentials_are_told_as_soon_as_write_ahead_log_meets_them() -> None:
    facts = with_base(
        positions={
            "office": position("office"),
            "cloud": position("cloud", error="they were refused", error_code="credentials_refused"),
        }
    )
    assert set(found(facts, settings(**WAL))) == {"credentials:cloud"}


def test_a_clock_set_forward_by_years_says_what_it_sees_and_breaks_nothing() -> None:
    causes = set(found(healthy(), now=NOW + 3000 * DAY))
    assert {"no_recovery_point", "missed:full"} <= causes
    assert not [cause for cause in causes if cause.startswith("rule_failed")]


def test_a_clock_set_back_by_years_breaks_nothing() -> None:
    assert not [cause for cause in found(healthy(), now=NOW - 3000 * DAY) if cause.startswith("rule_failed")]


def test_one_rule_that_is_broken_silences_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(facts: Facts, given: Settings, now: datetime) -> Any:
        raise ZeroDivisionError("a defect")
        yield

    monkeypatch.setattr(rules, "RULES", (broken, *rules.RULES))
    raised = found(with_attempts("backup_full", attempt(state="failed")))
    assert {"rule_failed:broken", "backup_failed:backup_full"} <= set(raised)


def test_nobody_is_safe_of_whom_it_is_not_known_what_could_be_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twist_dr.watch.alerts.rules_recovery.newest_point", lambda *_: 1 / 0)
    raised = found(healthy())
    assert raised["rule_failed:recovery_point"].state == "unsafe"
    assert raised["rule_failed:media"].state == "degraded"


def test_the_worst_comes_first_and_of_a_cause_only_the_worst() -> None:
    facts = replace(
        failed_copy("no space left; raise the quota", "target_full"), space={"cloud": samples(95, target="cloud")}
    )
    given = findings(replace(facts, staging=DiskSpace(1, 10**11)), settings(), NOW)
    assert [each.severity for each in given] == sorted(
        (each.severity for each in given), key=["critical", "error", "warning"].index
    )
    assert len({each.cause for each in given}) == len(given)
    assert next(each for each in given if each.cause == "capacity:cloud").severity == "error"


def test_the_newest_point_is_where_write_ahead_log_leads_from_a_proven_base() -> None:
    point = newest_point(with_base(), settings(**WAL), NOW)
    assert point is not None and point.at == NOW - MINUTE
    assert str(point) == f"{with_base().backups['base'][0].backup_id} and write-ahead log on {', '.join(point.targets)}"
    other = with_base(positions={"office": position("office", system_identifier="7002")})
    point = newest_point(other, settings(**WAL), NOW)
    assert point is not None and (point.at, point.backup_id, point.through) == (TONIGHT, NEWEST.backup_id, "backup")


def _at(now: datetime, begun: datetime) -> Facts:
    """What is known at an hour of a week in which a backup is made, proven and cleaned up after each night from 02:00 on."""
    fulls, attempts, proofs, cleanups = [], [], [], []
    due = now.replace(hour=2, minute=0)
    while due > begun:
        for job, rows, after, lasts in (
            ("backup_full", attempts, 0, 15), ("verify_backup", proofs, 16, 10), ("cleanup", cleanups, 27, 1),
        ):  # fmt: skip
            at = due + after * MINUTE
            if at <= now:
                state = "running" if at + lasts * MINUTE > now else "succeeded"
                rows.append(attempt(job, at, state, finished_at=None if state == "running" else at + lasts * MINUTE))
        if due + 10 * MINUTE <= now:
            row = backup(due, run_id=f"backup_full at {due:%d %H:%M}")
            if due + 12 * MINUTE > now:
                row = with_copy(with_copy(row, "office", "pending"), "cloud", "pending")
            fulls.append(row if due + 26 * MINUTE <= now else replace(row, last_verification=None))
        due -= DAY
    settled = [row for row in fulls if row.copies[0].state == "checked"]
    free = 600 - (now - begun) / HOUR * 0.1
    return Facts(
        since=begun,
        schedules_since={"full": begun},
        targets_since={"office": begun, "cloud": begun},
        backups={"full": fulls},
        tables={row.backup_id: {"public.invoice": 9000} for row in fulls[:4]},
        checked={name: settled[0] for name in ("office", "cloud") if settled},
        attempts={"backup_full": attempts, "verify_backup": proofs, "cleanup": cleanups},
        space={name: samples(free + 0.2, free + 0.1, free, target=name, last=now) for name in ("office", "cloud")},
        staging=DiskSpace(60 * 10**9, 10**11),
    )


@pytest.mark.promise(11)
def test_in_a_healthy_week_nothing_is_ever_told_and_a_silent_stop_is() -> None:
    begun = NOW.replace(hour=9)
    given = settings()
    quiet = [begun + step * 7 * MINUTE for step in range(7 * 24 * 60 // 7)]
    for now in quiet:
        told = [each for each in findings(_at(now, begun), given, now) if each.severity != "info"]
        assert not told, f"{now}: {told}"
    stopped = _at(quiet[-1], begun)
    first: dict[str, datetime] = {}
    for hour in range(60):
        now = quiet[-1] + hour * HOUR
        for each in findings(stopped, given, now):
            first.setdefault(each.cause, now)
    due = quiet[-1].replace(hour=2, minute=0) + DAY
    assert first["missed:full"] - due <= 7 * HOUR
    assert first["no_recovery_point"] - due <= 4 * HOUR
    assert set(first) == {"missed:full", "no_recovery_point"}


def test_the_daily_schedule_of_a_job_does_not_stand_for_its_weekly_one() -> None:
    given = settings(**WAL)
    daily = attempt("backup_base", NOW, who="schedule base_incremental_schedule")
    weekly = attempt("backup_base", NOW - 14 * DAY, who="schedule base_schedule")
    facts = replace(with_base(), attempts={"backup_base": [daily, weekly]})
    assert "missed:base" in found(facts, given)
    in_time = replace(weekly, started_at=NOW - 6 * DAY, scheduled_for=NOW - 6 * DAY)
    assert "missed:base" not in found(replace(facts, attempts={"backup_base": [daily, in_time]}), given)


def test_a_run_that_never_ended_hides_only_what_it_made_itself() -> None:
    dead = attempt(at=NOW - 5 * DAY, state="running")
    small = backup(NOW - HOUR, plain_bytes=50 * MB)
    facts = with_fulls(small, *nights(8, last=NOW - DAY))
    facts = replace(facts, attempts={"backup_full": [attempt(at=NOW - HOUR), dead]})
    assert found(facts)["size_deviation:full"].severity == "critical"


def test_a_backup_before_a_restore_is_not_compared_with_the_nights() -> None:
    emptied = backup(NOW - HOUR, label="pre-restore", plain_bytes=1 * MB)
    facts = with_fulls(emptied, *nights(8, last=NOW - DAY))
    assert "size_deviation:full" not in found(facts)


def test_what_somebody_materializes_by_hand_leaves_no_alert_that_never_ends() -> None:
    facts = with_attempts("materialize", attempt("materialize", NOW - 40 * DAY, "failed", scheduled_for=None))
    assert not [cause for cause in found(facts) if "materialize" in cause]


@pytest.mark.promise(11)
def test_an_archive_that_is_said_to_reach_into_the_future_is_told_whether_or_not_anything_is_shipped() -> None:
    def office(**changes: Any) -> Facts:
        return with_base(positions={"office": position("office", **changes), "cloud": position("cloud")})

    given = settings(**WAL)
    dead = found(office(at=NOW + 300 * DAY, updated_at=NOW - 5 * DAY), given)["archived_position:office"]
    assert dead.severity == "critical"
    assert "300 days from now; it was written down 5 days ago: a clock is wrong, or was" in dead.message
    assert (
        found(office(at=NOW + 300 * DAY, updated_at=NOW + 300 * DAY), given)["archived_position:office"].severity
        == "critical"
    )
    assert found(office(at=NOW + HOUR, updated_at=NOW - MINUTE), given)["archived_position:office"].severity == "error"
    assert found(office(at=NOW + 4 * MINUTE, updated_at=NOW - MINUTE), given) == {}


def test_a_round_that_is_dated_in_the_future_is_no_sign_that_anything_is_shipped() -> None:
    facts = with_base(
        positions={"office": position("office", at=NOW - DAY, updated_at=NOW + DAY), "cloud": position("cloud")}
    )
    finding = found(facts, settings(**WAL))["archived_position:office"]
    assert finding.severity == "critical"
    assert "When it was last shipped is not known: that is dated 24 h 00 min from now." in finding.message


def test_a_backup_that_shrank_is_told_until_it_has_its_size_again_or_somebody_says_that_he_knows() -> None:
    before = nights(6, last=NOW - 12 * DAY)
    small = [replace(row, plain_bytes=50 * MB) for row in nights(12)]
    lost = healthy(backups={"full": small}, before={"size_deviation:full": [small[-1], *before]})
    finding = found(lost)["size_deviation:full"]
    assert finding.severity == "critical"
    assert "94% less than the median of those before it was first told, of the last 6 full backups" in finding.message
    assert "size_deviation:full" not in found(replace(lost, before={}))
    back = replace(lost, backups={"full": [NEWEST, *small[1:]]})
    assert "less" not in found(back)["size_deviation:full"].about
    of_other_parts = [replace(row, parts=("database",)) for row in before]
    assert "size_deviation:full" not in found(replace(lost, before={"size_deviation:full": of_other_parts}))
