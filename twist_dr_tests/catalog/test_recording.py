"""What was recorded is what is read back, however often it is recorded."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta, timezone

import pytest

from twist_dr.catalog import Catalog, CopyState, VerificationRow
from twist_dr.errors import BackupError, BackupNotFound, TargetFull
from twist_dr_tests.catalog.examples import KEY, NIGHT, manifest, record


def test_backup_comes_back_as_it_was_recorded(catalog: Catalog) -> None:
    made = manifest(label="pre-update")
    sealed = made.seal(KEY)
    catalog.record_backup(made, sealed, run_id="run-1")

    row = catalog.backup("erp", made.backup_id)
    assert row is not None
    assert (row.kind, row.label, row.reason, row.who) == ("full", "pre-update", made.reason, "ops@host")
    assert (row.started_at, row.finished_at) == (NIGHT, NIGHT + timedelta(minutes=3))
    assert (row.plain_bytes, row.staged_bytes) == (100, 60)
    assert (row.parts, row.warnings, row.key_id, row.run_id) == (("database", "media"), 1, "k1", "run-1")
    assert (row.app_version, row.db_schema_version) == ("3.2", "0123456789ab")
    assert (row.copies, row.last_verification, row.complete) == ((), None, False)
    assert row.sealed == sealed
    assert row.manifest == made


def test_backup_of_another_application_is_not_shown(catalog: Catalog) -> None:
    backup_id = record(catalog)
    assert catalog.backup("shop", backup_id) is None
    assert catalog.backups(application="shop") == []
    assert catalog.latest("shop") is None


def test_recording_again_changes_nothing_and_keeps_run_copies_and_verifications(catalog: Catalog) -> None:
    backup_id = record(catalog, run_id="run-1")
    catalog.record_copy(backup_id, "nas", state="checked", form="zstd+enc", stored_bytes=35, run_id="run-1")
    catalog.record_verification(VerificationRow(backup_id, "nas", state="verified", started_at=NIGHT, seconds=9.0))
    before = catalog.backups(application="erp")

    # As a rebuild does it, which knows no run.
    record(catalog, run_id=None)

    assert catalog.backups(application="erp") == before
    assert before[0].run_id == "run-1"


def test_id_of_another_application_is_never_overwritten(catalog: Catalog) -> None:
    backup_id = record(catalog)
    with pytest.raises(BackupError, match=r"already has a backup .* of erp"):
        record(catalog, application="shop")
    row = catalog.backup("erp", backup_id)
    assert row is not None and row.application == "erp"


def test_copy_goes_through_its_states(catalog: Catalog) -> None:
    backup_id = record(catalog)
    catalog.record_copy(backup_id, "nas", state="pending", form="zstd+enc")
    catalog.record_copy(
        backup_id, "nas", state="failed", form="zstd+enc", error="no room\n  left: \udcff\0 on nas", run_id="run-1"
    )
    (failed,) = catalog.copies(backup_id)
    assert (failed.state, failed.stored_bytes, failed.checked_at) == ("failed", None, None)
    assert failed.error == "no room left: \\xff\\x00 on nas"
    full = TargetFull("/mnt/nas: no room", remedy="free some", target="nas")
    catalog.record_copy(backup_id, "nas", state="failed", form="zstd+enc", error=full)
    (failed,) = catalog.copies(backup_id)
    assert (failed.error, failed.error_code) == ("/mnt/nas: no room; free some.", "target_full")
    catalog.record_copy(backup_id, "nas", state="failed", form="zstd+enc", error="no room")
    assert catalog.copies(backup_id)[0].error_code is None

    before = datetime.now(timezone.utc)
    catalog.record_copy(
        backup_id, "nas", state="checked", form="zstd+enc", stored_bytes=35, seconds=1.5, run_id="run-2"
    )
    (checked,) = catalog.copies(backup_id)
    assert (checked.state, checked.stored_bytes, checked.seconds, checked.run_id) == ("checked", 35, 1.5, "run-2")
    assert checked.error is None
    assert checked.checked_at is not None and before <= checked.checked_at == checked.updated_at
    assert checked.checked_at.tzinfo is timezone.utc

    catalog.record_copy(backup_id, "nas", state="corrupt", form="zstd+enc", error="a byte is wrong")
    (corrupt,) = catalog.copies(backup_id)
    assert (corrupt.state, corrupt.error) == ("corrupt", "a byte is wrong")
    assert (corrupt.stored_bytes, corrupt.run_id, corrupt.checked_at) == (35, "run-2", checked.checked_at)
    assert corrupt.updated_at > checked.updated_at


@pytest.mark.parametrize(
    ("states", "complete"),
    [
        ((), False),
        (("pending", "checked"), False),
        (("failed", "checked"), False),
        (("corrupt", "checked"), False),
        (("stored", "checked"), True),
        (("deleted", "checked"), True),
        (("deleted", "deleted"), False),
    ],
)
def test_backup_is_complete_when_every_copy_is_there(
    sqlite_url: str, states: tuple[CopyState, ...], complete: bool
) -> None:
    catalog = Catalog(sqlite_url)
    backup_id = record(catalog)
    for number, state in enumerate(states):
        catalog.record_copy(backup_id, f"target{number}", state=state, form="zstd")
    assert catalog.backups(application="erp")[0].complete is complete


def test_verifications_newest_first_and_the_last_one_at_the_backup(catalog: Catalog) -> None:
    backup_id = record(catalog)
    # Recorded late, begun early: what counts is when it began.
    later, earlier = NIGHT + timedelta(hours=2), NIGHT + timedelta(hours=1)
    differences = ["media.tar: a\udcff.pdf is missing", "public.t: 6 rows where 7 were recorded"]
    catalog.record_verification(
        VerificationRow(
            backup_id,
            "nas",
            state="unverified",
            started_at=later,
            seconds=30.5,
            restore_seconds=12.25,
            tables=3,
            rows=5_000_000_000,
            files=2,
            server_version="18.1",
            differences=tuple(differences),
            notes=("restored as one role",),
            run_id="run-2",
        )
    )
    for _ in range(2):
        catalog.record_verification(
            VerificationRow(backup_id, "local", state="verified", started_at=earlier, seconds=20)
        )

    newest, oldest = catalog.verifications(backup_id)
    assert (newest.target, newest.verified, newest.started_at) == ("nas", False, later)
    assert (newest.seconds, newest.restore_seconds, newest.rows, newest.files) == (30.5, 12.25, 5_000_000_000, 2)
    # Bytes that are no text are shown, for no database takes them.
    shown = ("media.tar: a\\xff.pdf is missing", differences[1])
    assert (newest.differences, newest.notes) == (shown, ("restored as one role",))
    assert (oldest.target, oldest.verified, oldest.differences, oldest.restore_seconds) == ("local", True, (), None)
    assert catalog.backups(application="erp")[0].last_verification == newest


def test_copy_or_verification_of_an_unknown_backup_says_how_to_learn_it(catalog: Catalog) -> None:
    with pytest.raises(BackupNotFound, match="has no backup nothing; run: twist-dr catalog rebuild"):
        catalog.record_copy("nothing", "nas", state="stored", form="zstd")
    with pytest.raises(BackupNotFound):
        catalog.record_verification(VerificationRow("nothing", "nas", state="verified", started_at=NIGHT, seconds=1))


def test_latest_test_of_each_target(catalog: Catalog) -> None:
    can = {"write_once": True, "checksum": "server", "notes": ["slow"]}
    catalog.record_target_test("s3", ok=False, location="s3://b", seconds=0.5, error="no such\nbucket")
    catalog.record_target_test("nas", ok=True, location="/mnt/nas", seconds=0.1, capabilities=can)
    catalog.record_target_test("nas", ok=False, location="/mnt/nas", seconds=0.2, error="not mounted")
    catalog.record_target_test("s3", ok=True, location="s3://b", seconds=0.7, capabilities=can)

    nas, s3 = catalog.target_tests()
    assert (nas.target, nas.ok, nas.error, nas.capabilities) == ("nas", False, "not mounted", None)
    assert (s3.target, s3.ok, s3.error, s3.capabilities, s3.location) == ("s3", True, None, can, "s3://b")
    assert s3.at.tzinfo is timezone.utc
    since = catalog.target_tests(since=NIGHT)
    assert [(each.target, each.ok) for each in since] == [("nas", False), ("nas", True), ("s3", True), ("s3", False)]
    assert catalog.target_tests(since=s3.at + timedelta(days=1)) == [nas, s3]


def test_what_was_stored_within_a_day_is_counted_by_the_hour_and_of_each_target(catalog: Catalog) -> None:
    for minutes, size in ((0, 1), (20, 10), (70, 100), (25 * 60, 1000)):
        catalog.count_upload("drive", size, at=NIGHT + timedelta(minutes=minutes))
    catalog.count_upload("nas", 7)
    assert catalog.uploaded("drive", since=NIGHT + timedelta(minutes=30)) == 1111, "the hour counts whole"
    assert catalog.uploaded("drive", since=NIGHT + timedelta(hours=1)) == 1100
    assert catalog.uploaded("drive", since=NIGHT + timedelta(days=3)) == 0
    catalog.forget_before("erp", NIGHT + timedelta(days=1))
    assert catalog.uploaded("drive", since=NIGHT) == 1000


def test_time_without_zone_is_refused(catalog: Catalog) -> None:
    backup_id = record(catalog)
    with pytest.raises(Exception, match="aware times only"):
        catalog.record_verification(
            VerificationRow(backup_id, "nas", state="verified", started_at=NIGHT.replace(tzinfo=None), seconds=1)
        )


def test_times_of_other_zones_come_back_in_utc(catalog: Catalog) -> None:
    backup_id = record(catalog)
    there = NIGHT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    catalog.record_verification(VerificationRow(backup_id, "nas", state="verified", started_at=there, seconds=1))
    (row,) = catalog.verifications(backup_id)
    assert (row.started_at, row.started_at.tzinfo) == (NIGHT, timezone.utc)


def test_deleting_a_backup_by_hand_takes_what_refers_to_it(sqlite_url: str) -> None:
    catalog = Catalog(sqlite_url)
    backup_id = record(catalog)
    catalog.record_copy(backup_id, "nas", state="checked", form="zstd")
    catalog.record_verification(VerificationRow(backup_id, "nas", state="verified", started_at=NIGHT, seconds=1))
    connection = sqlite3.connect(catalog.place)
    with connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM backups")
    connection.close()
    assert catalog.copies(backup_id) == ()
    assert catalog.verifications(backup_id) == []
