"""Verified means: dumped again, it is the same. What is not is named, and what only reads differently is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from psycopg.sql import SQL, Composable

from twist_dr.backup import take as backup
from twist_dr.postgres import materialized, verification_place
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.restore_place import TrialPlace
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.verification_place import VerificationPlan
from twist_dr.repository.sources import OneCopy
from twist_dr.restore import pipeline
from twist_dr.system.progress import Lines, Report
from twist_dr.verify import verification
from twist_dr.verify.verification import VerificationResult, restore_and_compare
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.postgres.odd_schema import ODD
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.verify.test_verification import NEWEST, taken

SHOP = """
    CREATE TABLE customer (id int PRIMARY KEY, email text, paid numeric);
    INSERT INTO customer SELECT id, 'someone' || id || '@example.com', id * 1.5 FROM generate_series(1, 3000) AS id;
    CREATE TABLE twice AS SELECT 1 AS a FROM generate_series(1, 5);
    CREATE SEQUENCE numbers START 7;
    CREATE INDEX late ON customer (id) WHERE id > 5;
    COMMENT ON TABLE customer IS 'who pays';
    SELECT lo_from_bytea(4711, 'contract');
"""

Change = Callable[[TrialPlace], object]


def changed(statement: str) -> Change:
    def change(place: TrialPlace) -> None:
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
    restore = pipeline.restore_database

    def restoring(*arguments: object, **options: object) -> list[str]:
        notes = restore(*arguments, **options)  # type: ignore[arg-type]
        for change in changes:
            change(places[-1])
        return notes

    places: list[TrialPlace] = []
    opening = verification.open_place

    def opened(*arguments: object) -> TrialPlace:
        places.append(opening(*arguments))  # type: ignore[arg-type]
        return places[-1]

    lines: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "restore_database", restoring)
        patched.setattr(verification, "open_place", opened)
        plan = VerificationPlan(scratch=folder / "scratch", live=cluster, show_rows=show_rows)
        return restore_and_compare(
            plan, OneCopy(manifest, repository, KEYRING), Report(Lines(lines.append, lines.append))
        ), lines


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


VIEWS = """
    CREATE TABLE sold (id int, at timestamptz, amount numeric); ALTER DATABASE views SET timezone = 'Pacific/Kiritimati';
    INSERT INTO sold SELECT id, timestamptz '2024-03-01 00:00+00' + id * interval '1 hour', id FROM generate_series(1, 500) AS id;
    SET timezone = 'Pacific/Kiritimati';
    CREATE MATERIALIZED VIEW daily AS SELECT at::date AS day, count(*) AS n, sum(amount) AS amount FROM sold GROUP BY 1;
    CREATE MATERIALIZED VIEW old AS SELECT count(*) AS n FROM sold;
    CREATE MATERIALIZED VIEW clock AS SELECT now() AS at; CREATE MATERIALIZED VIEW chance AS SELECT random() AS value;
    CREATE MATERIALIZED VIEW first AS SELECT id FROM sold LIMIT 1;
    CREATE MATERIALIZED VIEW of_view AS SELECT day FROM daily; CREATE MATERIALIZED VIEW of_old AS SELECT n FROM old;
    CREATE FUNCTION public.called() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; CREATE MATERIALIZED VIEW calling AS SELECT public.called() AS one;
    INSERT INTO sold VALUES (0, '2024-03-01 00:00+00', 0); REFRESH MATERIALIZED VIEW daily; REFRESH MATERIALIZED VIEW of_view;
"""


@pytest.fixture(scope="module")
def views(server: PostgresServer) -> Cluster:
    cluster = server.create_database("views")
    with cluster.connect() as connection:
        connection.execute(VIEWS.encode())
    return cluster


def test_a_materialized_view_that_is_computed_otherwise_is_a_difference_and_a_stale_one_or_one_of_the_clock_is_noted(
    monkeypatch: pytest.MonkeyPatch, views: Cluster, tmp_path: Path
) -> None:
    result, _ = verified_with(monkeypatch, views, tmp_path)
    assert result.differences == []
    assert [
        note
        for note in result.notes
        if note.startswith("other rows are in public.chance, public.clock, public.of_old and 1 more")
    ]
    refreshed = changed("SET timezone = 'UTC'; REFRESH MATERIALIZED VIEW daily")
    result, _ = verified_with(monkeypatch, views, tmp_path / "again", refreshed)
    assert [difference.partition(":")[0] for difference in result.differences] == ["materialized view public.daily"]


def test_only_views_that_are_fresh_and_always_the_same_are_proven_and_no_code_of_others_is_run_for_it(
    views: Cluster, tmp_path: Path
) -> None:
    manifest, _ = taken(views, tmp_path)
    recorded = manifest.materialized_views
    assert {name.removeprefix("public.") for name, facts in recorded.items() if facts.proven} == {"daily", "of_view"}
    assert {name.removeprefix("public.") for name, facts in recorded.items()} == {
        "daily", "old", "clock", "chance", "first", "of_view", "of_old", "calling",
    }  # fmt: skip
    assert recorded["public.daily"].rows == 22


@pytest.fixture(scope="module")
def odd(server: PostgresServer) -> Cluster:
    cluster = server.create_database("odd")
    with cluster.connect() as connection:
        connection.execute(ODD.encode())
    return cluster


def test_a_schema_with_something_of_each_kind_comes_back_as_it_was(
    monkeypatch: pytest.MonkeyPatch, odd: Cluster, tmp_path: Path
) -> None:
    # What the server only words otherwise is known, and costs no second restore.
    monkeypatch.setattr(TrialPlace, "second_database", property(lambda place: pytest.fail("restored again")))
    result, _ = verified_with(monkeypatch, odd, tmp_path)
    assert (result.differences, result.proved) == ([], "content")


def test_what_another_versions_programs_dumped_or_restore_is_the_same_content(
    odd: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dumped by the newest tools whatever the server is, and restored by them into the newest server."""

    def only_the_newest(folders: Sequence[Path] = ()) -> list[Tools]:
        return [NEWEST]

    monkeypatch.setattr(backup, "find_tools", only_the_newest)
    result, _ = verified_with(monkeypatch, odd, tmp_path)
    assert (result.differences, result.proved) == ([], "content")
    monkeypatch.undo()
    for module in (verification, verification_place):
        monkeypatch.setattr(module, "find_tools", only_the_newest)
    result, _ = verified_with(monkeypatch, odd, tmp_path / "again")
    assert (result.differences, result.proved) == ([], "content")


def test_on_a_server_of_the_settings_owners_and_grants_are_left_aside_and_all_else_is_compared(
    odd: Cluster, newest_server: PostgresServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    manifest, repository = taken(odd, tmp_path)
    with PostgresServer(newest_server.tools, tmp_path_factory.mktemp("other"), settings={"fsync": "off"}) as other:
        plan = VerificationPlan(tmp_path / "scratch", odd, server=other.cluster())
        result = restore_and_compare(plan, OneCopy(manifest, repository, KEYRING), Report())
    assert (result.differences, result.proved) == ([], "content")
    assert "verification.server restores without owners and grants, so these are not compared" in result.notes


def test_a_backup_that_does_not_tell_its_time_zone_is_the_same_in_another(odd: Cluster, tmp_path: Path) -> None:
    with odd.connect() as connection:
        connection.execute("ALTER ROLE CURRENT_USER SET timezone = 'Asia/Kolkata'")
        connection.execute("INSERT INTO plain (id, at) VALUES (90, '2024-01-01 12:00+00')")
    try:
        manifest, repository = taken(odd, tmp_path)
    finally:
        with odd.connect() as connection:
            connection.execute("ALTER ROLE CURRENT_USER RESET timezone")
    assert manifest.postgres is not None and manifest.postgres.session["TimeZone"] == "Asia/Kolkata"
    older = manifest.model_copy(update={"postgres": manifest.postgres.model_copy(update={"session": {}})})
    result = restore_and_compare(
        VerificationPlan(tmp_path / "scratch", odd), OneCopy(older, repository, KEYRING), Report()
    )
    assert (result.differences, result.proved) == ([], "content")


def test_a_null_in_an_array_stays_one_where_the_database_reads_them_as_text(
    monkeypatch: pytest.MonkeyPatch, newest_server: PostgresServer, tmp_path: Path
) -> None:
    cluster = newest_server.create_database("nulls")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT ARRAY['NULL', NULL] AS a")
        connection.execute("ALTER DATABASE nulls SET array_nulls = off")
    result, _ = verified_with(monkeypatch, cluster, tmp_path)
    assert (result.differences, result.proved) == ([], "content")


def test_another_table_access_method_is_named(
    monkeypatch: pytest.MonkeyPatch, newest_server: PostgresServer, tmp_path: Path
) -> None:
    cluster = newest_server.create_database("access")
    with cluster.connect() as connection:
        connection.execute("CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler")
        connection.execute("CREATE TABLE kept (i int) USING heap2; CREATE TABLE other (i int) USING heap2")
    change = changed("ALTER TABLE other SET ACCESS METHOD heap")
    result, _ = verified_with(monkeypatch, cluster, tmp_path, change)
    assert result.differences == ["table public.other is not as it was dumped"]


SWITCHED_OFF = """
    CREATE TABLE p (a int, d date) PARTITION BY RANGE (d);
    CREATE TABLE p2 PARTITION OF p DEFAULT PARTITION BY HASH (a);
    CREATE TABLE p20 PARTITION OF p2 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
    CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER tg BEFORE INSERT ON p FOR EACH ROW EXECUTE FUNCTION trg();
    ALTER TABLE p20 DISABLE TRIGGER tg;
    COMMENT ON TRIGGER tg ON p20 IS 'switched off';
    INSERT INTO p VALUES (1, '2024-01-01');
"""


def test_a_trigger_that_is_off_in_a_partition_of_a_partition_comes_back_off_with_several_jobs(
    monkeypatch: pytest.MonkeyPatch, server: PostgresServer, tmp_path: Path
) -> None:
    cluster = server.create_database("switched off")
    with cluster.connect() as connection:
        connection.execute(SWITCHED_OFF.encode())
    enabled: list[object] = []

    def look(place: TrialPlace) -> None:
        with place.cluster.connect(place.database) as connection:
            enabled.extend(
                connection.execute(
                    "SELECT tgrelid::regclass::text, tgenabled::text FROM pg_trigger ORDER BY 1"
                ).fetchall()
            )

    result, _ = verified_with(monkeypatch, cluster, tmp_path, look)
    assert result.differences == []
    assert enabled == [("p", "O"), ("p2", "O"), ("p20", "D")]


def test_a_text_that_reads_like_the_same_moment_is_another_text_and_a_timestamp_of_another_time_zone_is_the_same(
    monkeypatch: pytest.MonkeyPatch, newest_server: PostgresServer, tmp_path: Path
) -> None:
    cluster = newest_server.create_database("moments")
    with cluster.connect() as connection:
        connection.execute(
            b"CREATE DOMAIN moment AS timestamptz; CREATE TABLE said (gone int, at moment, many timestamptz[], during tstzrange, words text, list text[]);"
            b"ALTER TABLE said DROP gone; INSERT INTO said SELECT now(), ARRAY[now()], tstzrange(now(), NULL), 'at 2024-01-01 12:00:00+02', '{}'"
        )
    zone = changed(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = %L', current_database(), 'Asia/Tokyo'); END $$"
    )
    result, _ = verified_with(monkeypatch, cluster, tmp_path, zone)
    assert [each for each in result.differences if "said" in each] == []
    text = changed("UPDATE said SET words = 'at 2024-01-01 10:00:00+00'")
    result, _ = verified_with(monkeypatch, cluster, tmp_path / "text", zone, text)
    assert "table public.said: row 1 of the dump came back otherwise, in words" in result.differences


def test_a_materialized_view_that_cannot_be_read_in_time_is_named_and_the_backup_is_whole(
    monkeypatch: pytest.MonkeyPatch, newest_server: PostgresServer, tmp_path: Path
) -> None:
    cluster = newest_server.create_database("slow views")
    with cluster.connect() as connection:
        connection.execute(
            b"CREATE TABLE t AS SELECT 1 AS a; CREATE MATERIALIZED VIEW fine AS SELECT a FROM t; CREATE MATERIALIZED VIEW broken AS SELECT a FROM t;"
        )
    read = materialized._content

    def fails(connection: materialized.Connection, what: Composable) -> tuple[int, str]:
        if "broken" in what.as_string(connection):
            connection.execute(b"SELECT 1 / 0")
        return read(connection, what)

    with monkeypatch.context() as patched:
        patched.setattr(materialized, "_content", fails)
        manifest, _ = taken(cluster, tmp_path)
    assert list(manifest.materialized_views) == ["public.fine"]
    assert any("public.broken could not be read" in warning for warning in manifest.warnings), manifest.warnings
    with monkeypatch.context() as patched:
        patched.setattr(materialized, "_all_of", lambda connection, view: SQL("(SELECT pg_catalog.pg_sleep(30))"))
        patched.setattr(materialized, "_READING_SECONDS", 0.2)
        manifest, _ = taken(cluster, tmp_path / "slow")
    assert manifest.materialized_views == {}
    assert any("public.fine, public.broken could not be read" in warning for warning in manifest.warnings)
