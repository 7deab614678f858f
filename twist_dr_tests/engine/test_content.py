"""Verified means: dumped again, it is the same. What is not is named, and what only reads differently is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from twist_dr.engine import verification
from twist_dr.engine.postgres.cluster import Cluster
from twist_dr.engine.postgres.restore_place import RestorePlace
from twist_dr.engine.progress import Report
from twist_dr.engine.verification import VerificationPlan, VerificationResult, verify_backup
from twist_dr_tests.engine.helpers import KEYRING
from twist_dr_tests.engine.odd_schema import ODD
from twist_dr_tests.engine.test_verification import taken
from twist_dr_tests.servers import PostgresServer

SHOP = """
    CREATE TABLE customer (id int PRIMARY KEY, email text, paid numeric);
    INSERT INTO customer SELECT id, 'someone' || id || '@example.com', id * 1.5 FROM generate_series(1, 3000) AS id;
    CREATE TABLE twice AS SELECT 1 AS a FROM generate_series(1, 5);
    CREATE SEQUENCE numbers START 7;
    CREATE INDEX late ON customer (id) WHERE id > 5;
    COMMENT ON TABLE customer IS 'who pays';
    SELECT lo_from_bytea(4711, 'contract');
"""

Change = Callable[[RestorePlace], object]


def changed(statement: str) -> Change:
    def change(place: RestorePlace) -> None:
        with place.cluster.connect(place.database) as connection:
            connection.execute(statement.encode())

    return change


@pytest.fixture(scope="module")
def shop(newest_server: PostgresServer) -> Cluster:
    cluster = newest_server.create_database("shop")
    with cluster.connect() as connection:
        connection.execute(SHOP.encode())
    return cluster


def verified_with(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, folder: Path, *changes: Change, show_rows: bool = False
) -> tuple[VerificationResult, list[str]]:
    """A backup of the database verified, while something is changed between the restore and the comparison."""
    manifest, repository = taken(cluster, folder)
    restore = verification.restore_database

    def restoring(*arguments: object, **options: object) -> list[str]:
        notes = restore(*arguments, **options)  # type: ignore[arg-type]
        for change in changes:
            change(places[-1])
        return notes

    places: list[RestorePlace] = []
    opening = verification.open_place

    def opened(*arguments: object) -> RestorePlace:
        places.append(opening(*arguments))  # type: ignore[arg-type]
        return places[-1]

    lines: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(verification, "restore_database", restoring)
        patched.setattr(verification, "open_place", opened)
        plan = VerificationPlan(scratch=folder / "scratch", live=cluster, show_rows=show_rows)
        return verify_backup(plan, manifest, repository, KEYRING, Report(lines.append, lines.append)), lines


def test_what_came_back_as_it_was_is_proven_by_its_content(
    monkeypatch: pytest.MonkeyPatch, shop: Cluster, tmp_path: Path
) -> None:
    result, _ = verified_with(monkeypatch, shop, tmp_path)
    assert (result.differences, result.proved) == ([], "content")
    assert result.seconds["content"] > 0


def test_one_changed_byte_in_one_row_is_named_and_its_value_told_to_nobody_who_may_not_see_it(
    monkeypatch: pytest.MonkeyPatch, shop: Cluster, tmp_path: Path
) -> None:
    change = changed("UPDATE customer SET email = 'sameone17@example.com' WHERE id = 17")
    result, lines = verified_with(monkeypatch, shop, tmp_path, change)
    assert result.differences == ["table public.customer: row 17 of the dump came back otherwise, in email"]
    assert "one17@" not in "\n".join([*lines, *result.notes])


def test_the_first_row_that_differs_is_shown_where_the_settings_allow_it(
    monkeypatch: pytest.MonkeyPatch, shop: Cluster, tmp_path: Path
) -> None:
    change = changed("UPDATE customer SET paid = paid * 100")
    result, lines = verified_with(monkeypatch, shop, tmp_path, change, show_rows=True)
    assert result.differences == [
        "table public.customer: row 1 of the dump came back otherwise, in paid (more rows differ)"
    ]
    assert any("1\\tsomeone1@example.com\\t1.5" in line and "150.0" in line for line in lines), lines


def test_everything_else_that_is_not_as_it_was_dumped_is_named(
    monkeypatch: pytest.MonkeyPatch, shop: Cluster, tmp_path: Path
) -> None:
    changes = """
        UPDATE twice SET a = 2 WHERE ctid = '(0,2)';
        SELECT setval('numbers', 70);
        DROP INDEX late; CREATE INDEX late ON customer (id) WHERE id > 6;
        COMMENT ON TABLE customer IS NULL;
        GRANT SELECT ON customer TO PUBLIC;
        SELECT lo_put(4711, 3, 'X')
    """
    result, _ = verified_with(monkeypatch, shop, tmp_path, changed(changes))
    assert sorted(result.differences) == [
        "1 large object came back otherwise: 4711",
        "acl public.TABLE customer was restored and is not in the dump",
        "comment public.TABLE customer is missing after the restore",
        "index public.late is not as it was dumped",
        "sequence set public.numbers is not as it was dumped",
        "table public.twice: row 5 of the dump came back otherwise, in a",
    ]


def test_rows_in_another_order_are_the_same_rows(
    monkeypatch: pytest.MonkeyPatch, shop: Cluster, tmp_path: Path
) -> None:
    change = changed("UPDATE customer SET id = id WHERE id % 7 = 0")
    result, _ = verified_with(monkeypatch, shop, tmp_path, change)
    assert result.differences == []
    assert "the rows of public.customer came back all the same, and in another order" in result.notes


@pytest.fixture(scope="module")
def odd(server: PostgresServer) -> Cluster:
    cluster = server.create_database("odd")
    with cluster.connect() as connection:
        connection.execute(ODD.encode())
    return cluster


def test_a_schema_with_something_of_each_kind_comes_back_as_it_was(
    monkeypatch: pytest.MonkeyPatch, odd: Cluster, tmp_path: Path
) -> None:
    result, _ = verified_with(monkeypatch, odd, tmp_path)
    assert (result.differences, result.proved) == ([], "content")
