"""Lists, filters, order, and finding one backup by what a person types."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta, timezone
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import Engine, event

from twist_dr.catalog import Catalog, VerificationRow
from twist_dr.errors import BackupNotFound, ManifestInvalid
from twist_dr_tests.catalog.examples import NIGHT, manifest, record


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """The statements of all databases inside the block."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def ids(catalog: Catalog, **conditions: Any) -> list[str]:
    return [row.backup_id for row in catalog.backups(application="erp", **conditions)]


def test_newest_first_whatever_the_order_of_recording(catalog: Catalog) -> None:
    recorded = [record(catalog, number) for number in (3, 0, 2, 1)]
    assert ids(catalog) == sorted(recorded, reverse=True)
    assert ids(catalog, limit=2) == sorted(recorded, reverse=True)[:2]
    assert ids(catalog, limit=0) == []


def test_backups_of_one_second_are_ordered_by_their_fractions(catalog: Catalog) -> None:
    late = record(catalog, 1, started_at=NIGHT + timedelta(milliseconds=900))
    early = record(catalog, 2, started_at=NIGHT + timedelta(milliseconds=100))
    assert ids(catalog) == [late, early]
    newest = catalog.latest("erp")
    assert newest is not None and newest.backup_id == late


def test_filters(catalog: Catalog) -> None:
    plain = record(catalog, 0)
    tenant = record(catalog, 1, kind="tenant", label="manual")
    before = record(catalog, 2, label="pre-restore")
    catalog.record_copy(plain, "nas", state="checked", form="zstd")
    catalog.record_copy(plain, "s3", state="corrupt", form="zstd")
    catalog.record_copy(before, "nas", state="corrupt", form="zstd")

    assert ids(catalog, kind="full") == [before, plain]
    assert ids(catalog, kind="tenant") == [tenant]
    assert ids(catalog, kind="base") == []
    assert ids(catalog, label="pre-restore") == [before]
    assert ids(catalog, target="nas") == [before, plain]
    assert ids(catalog, state="corrupt") == [before, plain]
    assert ids(catalog, state="checked") == [plain]
    # One copy must fulfil both: the checked one of `plain` is on nas, its corrupt one is not.
    assert ids(catalog, target="nas", state="corrupt") == [before]
    assert ids(catalog, target="s3", state="checked") == []
    assert ids(catalog, kind="full", label="scheduled", target="nas", limit=1) == [plain]


@pytest.mark.parametrize("few", [0, 1, 2, 20_000])
def test_copies_are_found_alike_whether_few_or_many_fulfil_the_condition(
    catalog: Catalog, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twist_dr.catalog.queries._FEW", few)
    test_filters(catalog)


def test_search_looks_into_id_reason_maker_and_versions_whatever_the_case(catalog: Catalog) -> None:
    first = record(catalog, 0, reason="Straßenfest, 100% ÄNDERUNG_1", who="Zoë@büro", app_version=None)
    second = record(catalog, 1, reason="x" * 30, app_version="4.0-RC1", db_schema_version=None)
    for text in (
        "strassenFEST",
        "STRASSENFEST",
        "straßenfest",
        "änderung_1",
        "100%",
        "ZOË@BÜRO",
        "-FULL-0000",
        "0123456789AB",
    ):
        assert ids(catalog, search=text) == [first], text
    assert ids(catalog, search="4.0-rc1") == [second]
    assert ids(catalog, search="-full-") == [second, first]
    for text in ("%", "_1", ""):
        assert first in ids(catalog, search=text), text
    # Signs that databases take as placeholders, and texts that only meet where two fields do.
    for text in ("1_0", "x%x", "xops@host", "xops"):
        assert ids(catalog, search=text) == [], text
    assert ids(catalog, search="-full-", kind="base") == []
    catalog.record_copy(first, "nas", state="checked", form="zstd")
    assert ids(catalog, search="-full-", target="nas", state="checked", limit=1) == [first]


def test_a_reason_of_any_length_is_kept_and_found_to_its_end(catalog: Catalog) -> None:
    # PostgreSQL's indexes take less than 3 kB for a row, after packing: this cannot be packed.
    reason = " ".join(sha256(str(number).encode()).hexdigest() for number in range(300)) + " Ende"
    backup_id = record(catalog, reason=reason)
    (row,) = catalog.backups(application="erp", search="ENDE")
    assert (row.backup_id, row.reason) == (backup_id, reason)


def test_a_search_on_sqlite_reads_an_index_and_fetches_the_rows_of_one_page(sqlite_url: str) -> None:
    catalog = Catalog(sqlite_url)
    record(catalog)
    with counted_statements() as statements:
        catalog.backups(application="erp", kind="full", label="scheduled", search="nothing", since=NIGHT, limit=50)
    query = next(each for each in statements if "backups" in each and "LIMIT" in each)
    with closing(sqlite3.connect(catalog.place)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", [1] * query.count("?"))
        steps = [step[3] for step in plan]
    assert any("COVERING INDEX ix_backups_search" in step for step in steps), steps
    assert not any(step.startswith("SCAN backups") for step in steps), steps


def test_retention_is_told_which_backups_made_by_hand_lack_parts(catalog: Catalog) -> None:
    for number, parts in ((1, ["database", "media", "configuration"]), (2, ["database"]), (3, ["media"])):
        backup_id = record(catalog, number, label="manual", parts=parts)
        catalog.record_copy(backup_id, "nas", state="checked", form="zstd", stored_bytes=35)
    assert [row.partial for row in catalog.retention_rows("erp", "nas")] == [False, True, True]


def test_retention_is_told_what_a_target_has_or_had_oldest_first(catalog: Catalog) -> None:
    young, old = record(catalog, 2), record(catalog, 1, kind="configuration", label="manual")
    record(catalog, 3)
    foreign = record(catalog, 4, application="shop")
    for backup_id in (young, foreign):
        catalog.record_copy(backup_id, "nas", state="checked", form="zstd", stored_bytes=35)
        catalog.record_copy(backup_id, "s3", state="corrupt", form="zstd+enc")
    catalog.record_copy(old, "nas", state="deleted", form="zstd+enc")
    for hour, state in ((2, "verified"), (1, "unverified"), (0, "verified")):
        catalog.record_verification(
            VerificationRow(young, "s3", state=state, started_at=NIGHT + timedelta(days=2, hours=hour), seconds=1)
        )  # type: ignore[arg-type]

    deleted, checked = catalog.retention_rows("erp", "nas")
    (copy,) = (copy for copy in catalog.copies(young) if copy.target == "nas")
    assert checked == (
        young, "full", "scheduled", NIGHT + timedelta(days=2), (), "checked", "zstd", 35, copy.checked_at, copy.updated_at, True, False,
    )  # fmt: skip
    assert checked.started_at.tzinfo is timezone.utc
    assert (deleted.backup_id, deleted.kind, deleted.label, deleted.state) == (
        old,
        "configuration",
        "manual",
        "deleted",
    )
    assert (deleted.verified, deleted.stored_bytes, deleted.checked_at) == (None, None, None)
    assert [row.state for row in catalog.retention_rows("erp", "s3")] == ["corrupt"]
    assert catalog.retention_rows("erp", "elsewhere") == []

    catalog.record_verification(
        VerificationRow(young, "nas", state="unverified", started_at=NIGHT + timedelta(days=3), seconds=1)
    )
    assert [row.verified for row in catalog.retention_rows("erp", "nas")] == [None, False]


def test_since_is_included_and_until_left_out(catalog: Catalog) -> None:
    first, second, third = (record(catalog, number) for number in range(3))
    assert ids(catalog, since=NIGHT + timedelta(days=1)) == [third, second]
    assert ids(catalog, until=NIGHT + timedelta(days=1)) == [first]
    assert ids(catalog, since=NIGHT + timedelta(days=1), until=NIGHT + timedelta(days=2)) == [second]


def test_a_list_of_any_length_takes_the_same_number_of_statements(catalog: Catalog) -> None:
    for number in range(12):
        backup_id = record(catalog, number)
        for target in ("s3", "local", "nas"):
            catalog.record_copy(backup_id, target, state="checked", form="zstd")
        for hour in range(2):
            catalog.record_verification(
                VerificationRow(
                    backup_id, "nas", state="verified", started_at=NIGHT + timedelta(days=number, hours=hour), seconds=1
                )
            )
    with counted_statements() as few:
        assert len(catalog.backups(application="erp", limit=1)) == 1
    with counted_statements() as many:
        rows = catalog.backups(application="erp", limit=12)
    assert len(few) == len(many)
    for row in rows:
        assert [copy.target for copy in row.copies] == ["local", "nas", "s3"]
        assert {copy.backup_id for copy in row.copies} == {row.backup_id}
        assert row.last_verification is not None
        assert row.last_verification.backup_id == row.backup_id
        assert row.last_verification.started_at == row.started_at + timedelta(hours=1)


def test_more_backups_than_one_statement_takes(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twist_dr.catalog.queries._AT_ONCE", 3)
    catalog = Catalog(sqlite_url)
    for number in range(8):
        backup_id = record(catalog, number)
        catalog.record_copy(backup_id, "nas", state="checked", form="zstd")
        catalog.record_verification(VerificationRow(backup_id, "nas", state="verified", started_at=NIGHT, seconds=1))
    rows = catalog.backups(application="erp")
    assert [len(row.copies) for row in rows] == [1] * 8
    assert all(row.last_verification and row.last_verification.backup_id == row.backup_id for row in rows)


def test_latest_is_of_one_kind(catalog: Catalog) -> None:
    assert catalog.latest("erp") is None
    full = record(catalog, 0)
    tenant = record(catalog, 1, kind="tenant")
    latest, latest_tenant = catalog.latest(application="erp"), catalog.latest("erp", "tenant")
    assert latest is not None and latest.backup_id == full and latest.manifest == manifest(0)
    assert latest_tenant is not None and latest_tenant.backup_id == tenant


def test_backup_of_a_run(catalog: Catalog) -> None:
    record(catalog, 0, run_id="run-1")
    second = record(catalog, 1, run_id="run-2")
    found = catalog.backup_of_run("run-2")
    assert found is not None and found.backup_id == second
    assert catalog.backup_of_run("run-3") is None


def test_find_by_id_or_its_beginning(catalog: Catalog) -> None:
    first, second = record(catalog, 0), record(catalog, 1)
    assert catalog.find("erp", first).backup_id == first
    assert catalog.find("erp", "20261122").backup_id == second
    assert catalog.find("erp", second[:-1]).manifest == manifest(1)


def test_find_prefers_the_whole_id_over_a_beginning(catalog: Catalog) -> None:
    short = record(catalog, 0, backup_id="20261121T020000Z-full-3f9")
    record(catalog, 1, backup_id="20261121T020000Z-full-3f9a")
    assert catalog.find("erp", short).backup_id == short


def test_find_says_what_is_ambiguous(catalog: Catalog) -> None:
    made = [record(catalog, number) for number in range(5)]
    with pytest.raises(BackupNotFound) as caught:
        catalog.find("erp", "202611")
    assert str(caught.value).startswith(
        f"'202611' is the beginning of 5 backups of erp, {made[4]}, {made[3]}, {made[2]} and 2 more; write more"
    )


@pytest.mark.parametrize("text", ["2025", "", "%", "2026_121", "x'; DROP TABLE backups; --"])
def test_find_says_what_there_is_instead(catalog: Catalog, text: str) -> None:
    backup_id = record(catalog)
    record(catalog, 1, application="shop")
    with pytest.raises(BackupNotFound, match=rf"no backup of erp .*\(it has {backup_id}\); see all with twist-dr list"):
        catalog.find("erp", text)
    assert ids(catalog) == [backup_id]


def test_find_in_an_empty_catalog(catalog: Catalog) -> None:
    with pytest.raises(BackupNotFound, match=r"it has none at all.*twist-dr catalog rebuild --from TARGET"):
        catalog.find("erp", "2026")


def test_damaged_manifest_is_named(catalog: Catalog) -> None:
    made = manifest()
    catalog.record_backup(made, b'{"format_version": "1.0"}', run_id=None)
    row = catalog.backup("erp", made.backup_id)
    assert row is not None and row.plain_bytes == 100
    with pytest.raises(
        ManifestInvalid, match=f"manifest of {made.backup_id} is damaged; run: twist-dr catalog rebuild"
    ):
        _ = row.manifest
