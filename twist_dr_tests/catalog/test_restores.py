"""The log of restores, and the backup that a restore takes when nobody names one."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import insert

from twist_dr.catalog import Catalog, RestoreRow, VerificationRow, VerificationState
from twist_dr.catalog.models import Backups
from twist_dr.cli import listing
from twist_dr.cli.output import json_pieces
from twist_dr_tests.catalog.examples import KEY, NIGHT, manifest, record

MANY = 100_000


def restore(number: int = 0, **changes: Any) -> RestoreRow:
    """A restore that cut over, ``number`` hours after the night's backup."""
    begun = NIGHT + timedelta(hours=number)
    values: dict[str, Any] = {
        "restore_id": f"{begun:%Y%m%dT%H%M%SZ}-restore-{number:04x}",
        "application": "erp",
        "kind": "restore",
        "mode": "replace",
        "who": "ops@host",
        "reason": "wrong import: Größe 10 °",
        "backup_id": "20261121T020000Z-full-0000",
        "undone_id": None,
        "sources": ("nas",),
        "passed_over": ("office: the copy is corrupt",),
        "verified": True,
        "parts": ("database", "media"),
        "tables": 24,
        "rows": 5_000_000_000,
        "files": 7_000_000_000,
        "state": "done",
        "started_at": begun,
        "finished_at": begun + timedelta(minutes=3),
        "seconds": {"gate": 0.25, "fetch": 61.5, "restore": 80.0, "cutover": 0.031, "total": 180.125},
        "seconds_locked_out": 0.031,
        "database": "erp",
        "replaced": ("erp_replaced_20261121", "/srv/media.replaced"),
        "result": "the backup of 02:00 is live",
        "error": None,
        "run_id": "run-1",
    }
    return RestoreRow(**{**values, **changes})


def undo(number: int, of: RestoreRow, **changes: Any) -> RestoreRow:
    restore_id = of.restore_id.replace("restore", "undo")
    values = {"restore_id": restore_id, "kind": "undo", "backup_id": None, "undone_id": of.restore_id, "sources": ()}
    return restore(number, **{**values, "passed_over": (), "verified": False, **changes})


def verify(catalog: Catalog, backup_id: str, state: VerificationState, hour: int = 0, target: str = "nas") -> None:
    started_at = NIGHT + timedelta(days=40, hours=hour)
    catalog.record_verification(VerificationRow(backup_id, target, state=state, started_at=started_at, seconds=1))


def latest(catalog: Catalog, **conditions: Any) -> str | None:
    found = catalog.latest_verified("erp", **conditions)
    return found.backup_id if found else None


# -- the log ----------------------------------------------------------------------------------------------------------


def test_restore_comes_back_as_it_was_recorded_and_phases_keep_their_order(catalog: Catalog) -> None:
    row = restore()
    catalog.record_restore(row)
    found = catalog.restore("erp", row.restore_id)
    assert found == row
    assert list(found.seconds) == list(row.seconds)
    assert found.started_at.tzinfo is timezone.utc


def test_restore_that_has_just_begun_knows_little(catalog: Catalog) -> None:
    unknown: dict[str, Any] = {
        "finished_at": None,
        "seconds_locked_out": None,
        "database": None,
        "run_id": None,
        "backup_id": None,
    }
    row = restore(state="running", seconds={}, sources=(), passed_over=(), replaced=(), result="", **unknown)
    catalog.record_restore(row)
    assert catalog.restores("erp") == [row]


def test_recording_again_changes_nothing_and_what_is_new_takes_the_place_of_what_was(catalog: Catalog) -> None:
    running = restore(state="running", finished_at=None, seconds={"gate": 0.25}, result="", database="erp_restore_1")
    for _ in range(2):
        catalog.record_restore(running)
    assert catalog.restores("erp") == [running]

    failed = replace(running, state="failed", finished_at=NIGHT, database=None, run_id=None, error="no room")
    catalog.record_restore(failed)
    assert catalog.restores("erp") == [failed]


def test_newest_first_of_one_application_and_state(catalog: Catalog) -> None:
    first, second, third = restore(1), restore(2, state="failed"), restore(3)
    for row in (second, third, first, restore(9, application="shop")):
        catalog.record_restore(row)
    assert catalog.restores("erp") == [third, second, first]
    assert catalog.restores("erp", limit=2) == [third, second]
    assert catalog.restores("erp", limit=0) == []
    assert catalog.restores("erp", state="done", limit=1) == [third]
    assert catalog.restores("erp", state="failed") == [second]
    assert catalog.restores("erp", state="undone") == []
    assert catalog.restore("shop", first.restore_id) is None
    assert catalog.restore("erp", "nothing") is None


def test_restore_of_a_backup_that_the_catalog_does_not_know_is_recorded(catalog: Catalog) -> None:
    row = restore(backup_id="20200101T000000Z-full-dead")
    catalog.record_restore(row)
    undone = undo(1, row)
    catalog.record_restore(undone)
    assert catalog.restores("erp") == [undone, row]


def test_errors_stand_on_one_line_that_any_database_takes(catalog: Catalog) -> None:
    row = restore(error="no\n  room: \udcff\0 on nas", result="it\nfailed", passed_over=("office:\n gone \udcff\0",))
    catalog.record_restore(row)
    (found,) = catalog.restores("erp")
    assert (found.error, found.result) == ("no room: \\xff\\x00 on nas", "it failed")
    assert found.passed_over == ("office: gone \\xff\\x00",)


# -- the latest verified backup ---------------------------------------------------------------------------------------


def test_no_backup_is_taken_before_one_is_verified(catalog: Catalog) -> None:
    assert latest(catalog) is None
    backup_id = record(catalog)
    assert latest(catalog) is None
    verify(catalog, backup_id, "unverified")
    assert latest(catalog) is None
    verify(catalog, backup_id, "verified", hour=1)
    assert latest(catalog) == backup_id


def test_the_last_verification_decides_whenever_it_was_recorded(catalog: Catalog) -> None:
    older, newer = record(catalog, 0), record(catalog, 1)
    verify(catalog, older, "verified")
    # Recorded late, begun early: what counts is when it began.
    verify(catalog, newer, "unverified", hour=5, target="s3")
    verify(catalog, newer, "verified", hour=4, target="nas")
    assert latest(catalog) == older
    verify(catalog, newer, "verified", hour=6, target="s3")
    assert latest(catalog) == newer


def test_of_two_verifications_that_began_at_once_the_one_that_a_list_shows_decides(catalog: Catalog) -> None:
    backup_id = record(catalog)
    verify(catalog, backup_id, "verified", target="nas")
    verify(catalog, backup_id, "unverified", target="s3")
    (row,) = catalog.backups(application="erp")
    assert row.last_verification is not None and not row.last_verification.verified
    assert latest(catalog) is None


def test_newer_backups_of_other_kinds_applications_and_none_verified_are_passed_by(catalog: Catalog) -> None:
    full = record(catalog, 0)
    for backup_id in (full, record(catalog, 1, kind="tenant"), record(catalog, 2, application="shop")):
        verify(catalog, backup_id, "verified")
    record(catalog, 3)
    assert latest(catalog) == full


def test_the_state_of_single_copies_does_not_matter(catalog: Catalog) -> None:
    backup_id = record(catalog)
    verify(catalog, backup_id, "verified")
    catalog.record_copy(backup_id, "nas", state="corrupt", form="zstd", error="a byte is wrong")
    assert latest(catalog) == backup_id


def test_with_a_part_only_backups_that_have_it(catalog: Catalog) -> None:
    whole = record(catalog, 0, parts=["database", "media", "configuration"])
    media_only = record(catalog, 1, parts=["media"])
    verify(catalog, whole, "verified")
    verify(catalog, media_only, "verified")
    assert latest(catalog) == latest(catalog, part="media") == media_only
    assert latest(catalog, part="database") == latest(catalog, part="configuration") == whole
    verify(catalog, whole, "unverified", hour=1)
    assert latest(catalog, part="database") is None


def test_it_comes_with_its_manifest_copies_and_verification(catalog: Catalog) -> None:
    backup_id = record(catalog)
    catalog.record_copy(backup_id, "nas", state="checked", form="zstd")
    verify(catalog, backup_id, "verified")
    found = catalog.latest_verified("erp")
    assert found == catalog.backup("erp", backup_id)
    assert found is not None and found.manifest == manifest() and len(found.copies) == 1


@pytest.mark.parametrize("part", [None, "database"])
def test_among_a_hundred_thousand_backups_it_is_found_in_a_blink(sqlite_url: str, part: Any) -> None:
    catalog = Catalog(sqlite_url)
    oldest = record(catalog)
    verify(catalog, oldest, "verified")
    _record_many(catalog)
    # The worst that happens: nothing was verified for 100,000 backups.
    assert _quickest(lambda: latest(catalog, part=part)) < 0.1
    assert latest(catalog, part=part) == oldest


def _record_many(catalog: Catalog) -> None:
    sealed = manifest().seal(KEY).decode()
    with catalog._database.writing() as connection:
        for begin in range(0, MANY, 10_000):
            numbers = range(begin + 1, begin + 10_001)
            connection.execute(insert(Backups.table), [_backup_values(number, sealed) for number in numbers])


def _backup_values(number: int, sealed: str) -> dict[str, Any]:
    begun: datetime = NIGHT + timedelta(minutes=number)
    return {
        "backup_id": f"{begun:%Y%m%dT%H%M%SZ}-full-{number & 0xFFFF:04x}",
        "application": "erp",
        "kind": "full",
        "label": "scheduled",
        "reason": "",
        "who": "ops@host",
        "started_at": begun,
        "finished_at": begun,
        "parts": ("database", "media"),
        "plain_bytes": 100,
        "staged_bytes": 60,
        "key_id": KEY.id,
        "warnings": 0,
        "manifest": sealed,
    }


def _quickest(ask: Any) -> float:
    """Seconds of the quickest of five: the machine may be busy with something else."""
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - begun)
    return min(taken)


# -- as people and scripts read it ------------------------------------------------------------------------------------


def test_table_of_restores_has_a_line_each() -> None:
    done = restore()
    failed = restore(2, state="failed", seconds_locked_out=None)
    lines = listing.restore_table([undo(1, done), failed, done]).split("\n")
    assert lines[0].split("  ")[0] == "RESTORE" and "BACKUP" in lines[0] and lines[0].endswith("RESULT  LOCKED OUT")
    undone_line, failed_line, done_line = (line.split() for line in lines[1:])
    assert undone_line[1] == "undo" and done.restore_id in undone_line
    assert failed_line[-2:] == ["FAILED", "-"]
    assert done_line == [
        done.restore_id, "replace", "2026-11-21", "02:00", "ops@host", "20261121T020000Z-full-0000", "done", "31", "ms",
    ]  # fmt: skip


def test_empty_log_says_how_to_begin() -> None:
    assert listing.restore_table([]).endswith("twist-dr restore")


def test_page_of_a_restore_tells_everything_with_its_phases_in_order() -> None:
    page = listing.restore_page(restore(verified=False, error="the disk is full"))
    for told in (
        "restore, replace, done, wrong import: Größe 10 °",
        "begun 2026-11-21 02:00 UTC by ops@host, ended 2026-11-21 02:03 UTC, parts: database, media",
        "backup 20261121T020000Z-full-0000 (NOT verified) from nas",
        "5,000,000,000 rows in 24 tables, 7,000,000,000 files",
        "database erp",
        "locked out for 31 ms",
        "run run-1",
        "passed over office: the copy is corrupt",
        "kept erp_replaced_20261121",
        "kept /srv/media.replaced",
        "the backup of 02:00 is live",
        "error: the disk is full",
    ):
        assert told in page.split("\n") or told in page.split("\n")[0]
    phases = [line.split()[0] for line in page.split("\n\n")[1].split("\n")]
    assert phases == ["PHASE", "gate", "fetch", "restore", "cutover", "total"]


def test_page_of_an_undo_speaks_of_what_it_undid_and_of_no_backup() -> None:
    done = restore()
    page = listing.restore_page(undo(1, done))
    assert f"undoes {done.restore_id}" in page and "backup 2026" not in page and "verified" not in page


def test_page_of_a_restore_that_has_just_begun_has_no_empty_ends() -> None:
    begun = restore(state="running", seconds={}, finished_at=None, seconds_locked_out=None, result="", replaced=())
    page = listing.restore_page(begun)
    assert "no end recorded" in page and "PHASE" not in page and page == page.strip()


def test_document_of_a_restore_is_json_with_every_field() -> None:
    document = json.loads("".join(json_pieces(restore())))
    assert set(document) == set(vars(restore()))
    assert (document["started_at"], document["seconds"]["fetch"]) == ("2026-11-21T02:00:00+00:00", 61.5)
    assert document["replaced"] == ["erp_replaced_20261121", "/srv/media.replaced"]
