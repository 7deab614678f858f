"""Before anybody replaces anything they are told what would be lost: rows, tables and files that the backup has not."""

from __future__ import annotations

import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

import twist_dr.restore.impact_database as database_module
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.errors import ArtifactInvalid, Cancelled, DatabaseRightsMissing
from twist_dr.postgres.changes import Changes, read_counters
from twist_dr.postgres.cluster import Cluster, Snapshot
from twist_dr.repository.archive import archive_media
from twist_dr.repository.archive_index import ArchiveEntry, read_index
from twist_dr.repository.manifest import FORMAT_VERSION, Manifest
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.repository.table_names import TableName
from twist_dr.restore.impact import Files, Impact, MediaImpact, TableImpact
from twist_dr.restore.impact_database import database_impact
from twist_dr.restore.impact_media import media_impact
from twist_dr.system.progress import Report
from twist_dr_tests.helpers import AS_USER, KEYRING, NOBODY, said_by_python, wait_until
from twist_dr_tests.repository.test_manifest import document
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site

SCHEMA = """
    CREATE TABLE invoice (id int PRIMARY KEY, created_at timestamptz NOT NULL, paid_at timestamptz, due date);
    INSERT INTO invoice SELECT i, now() - interval '1 day', now(), '2099-01-01' FROM generate_series(1, 10) i;
    CREATE TABLE kind (id int);
    INSERT INTO kind VALUES (1), (2);
    CREATE TABLE entry (id int, day date) PARTITION BY RANGE (day);
    CREATE TABLE entry_2025 PARTITION OF entry FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE SCHEMA "Ten.ant |1"; CREATE TABLE "Ten.ant |1"."odd ""name"" `é`" (id int);
"""


@pytest.fixture
def database(server: PostgresServer) -> Cluster:
    cluster = server.create_database("impact")
    run(cluster, SCHEMA)
    return cluster


def run(cluster: Cluster, statement: str) -> None:
    with cluster.connect() as connection:
        connection.execute(statement.encode())
        # Else the session tells what it changed when it is gone, at some moment after that.
        connection.execute("SELECT pg_stat_force_next_flush()")


def recorded(cluster: Cluster) -> Manifest:
    """What a backup would record now."""
    with Snapshot(cluster) as snapshot:
        counters = read_counters(snapshot.connection)
        counts, _ = snapshot.count_rows(snapshot.tables()).wait()
        return Manifest.model_validate(
            document(
                format_version=FORMAT_VERSION,
                tables={each.label: rows for each, rows in counts.items()},
                snapshot_at=snapshot.taken_at,
                counters=counters.model_dump() if counters else None,
            )
        )


def compared(cluster: Cluster, manifest: Manifest, **how: int) -> tuple[dict[str, TableImpact], list[str]]:
    with cluster.connect(autocommit=False) as connection:
        tables, notes = database_impact(connection, manifest, **how)
    assert [table.label for table in tables] == sorted(table.label for table in tables)
    return {table.label: table for table in tables}, notes


def suppressed(work: Callable[..., object], *arguments: object, **how: object) -> None:
    with suppress(Cancelled):
        work(*arguments, **how)


def differing(tables: dict[str, TableImpact]) -> set[str]:
    return {label for label, table in tables.items() if table.differs}


# -- the database -----------------------------------------------------------------------------------------------------


def test_a_database_that_nobody_touched_shows_no_difference(database: Cluster) -> None:
    tables, notes = compared(database, recorded(database))
    assert (differing(tables), notes) == (set(), [])
    assert tables.keys() == {
        "public.invoice", "public.kind", "public.entry_2025", '"Ten.ant |1"."odd ""name"" `é`"',
    }  # fmt: skip


def test_rows_that_came_after_the_backup_are_counted_and_the_newest_is_dated(database: Cluster) -> None:
    manifest = recorded(database)
    newest = datetime.now(timezone.utc) + timedelta(seconds=5)
    run(
        database,
        f"DELETE FROM invoice WHERE id <= 3; INSERT INTO invoice SELECT i, '{newest}' FROM generate_series(11, 13) i;"
        "INSERT INTO kind VALUES (3); INSERT INTO entry VALUES (1, '2025-03-03')",
    )
    tables, _ = compared(database, manifest)
    assert differing(tables) == {"public.invoice", "public.kind", "public.entry_2025"}
    # As many rows as before, and three of them are others: only the column tells.
    assert tables["public.invoice"] == TableImpact(
        TableName("public", "invoice"), 10, 10, newest_column="created_at", newest=newest, newer_rows=3,
        changes=Changes(3, 0, 3),
    )  # fmt: skip
    assert tables["public.kind"] == TableImpact(TableName("public", "kind"), 3, 2, changes=Changes(1, 0, 0))
    assert (tables["public.kind"].newer, tables["public.invoice"].newer) == (1, 3)


def test_rows_that_were_deleted_since_the_backup_are_no_loss_and_are_shown(database: Cluster) -> None:
    manifest = recorded(database)
    run(database, "DELETE FROM invoice WHERE id > 4")
    tables, _ = compared(database, manifest)
    assert differing(tables) == {"public.invoice"}
    found = tables["public.invoice"]
    assert (found.rows_now, found.rows_then, found.newer_rows, found.newer) == (4, 10, 0, 0)
    assert (found.changes, found.difference) == (Changes(0, 0, 6), 6)


def test_tables_that_came_and_went_since_the_backup_are_told_apart(database: Cluster) -> None:
    manifest = recorded(database)
    run(database, "DROP TABLE kind; CREATE TABLE refund AS SELECT generate_series(1, 7) AS id")
    tables, notes = compared(database, manifest)
    assert notes == []
    assert differing(tables) == {"public.kind", "public.refund"}
    assert tables["public.kind"] == TableImpact(TableName("public", "kind"), None, 2)
    assert tables["public.refund"] == TableImpact(TableName("public", "refund"), 7, None, changes=Changes(7, 0, 0))
    assert tables["public.refund"].newer == 7


def test_rows_that_were_only_overwritten_are_seen(database: Cluster) -> None:
    """As many rows as before, and no column that tells: what the server counted does."""
    run(
        database,
        "CREATE TABLE total (id int PRIMARY KEY, amount numeric); INSERT INTO total SELECT i, i FROM generate_series(1, 4000) i",
    )
    manifest = recorded(database)
    run(
        database,
        "UPDATE total SET amount = 0 WHERE id <= 3000; UPDATE kind SET id = id + 1; UPDATE kind SET id = id - 1",
    )
    tables, notes = compared(database, manifest)
    assert (differing(tables), notes) == ({"public.total", "public.kind"}, [])
    assert tables["public.total"].changes == Changes(0, 3000, 0)
    assert tables["public.kind"].updated == 2, "four changes of two rows"
    text = impact(list(tables.values())).markdown()
    assert "2 tables differ: 0 rows newer than the backup of 3 h 20 min ago, about 3,002 updated since." in text
    assert text.index("`public.total` | 4,000 | 4,000 | 0 | 3,000 | 0 |") < text.index("`public.kind`")
    assert "and none that was changed" in text


def test_counters_that_began_anew_are_unknown_and_never_no_change(database: Cluster) -> None:
    manifest = recorded(database)
    run(database, "UPDATE kind SET id = id + 1; SELECT pg_stat_reset()")
    tables, (note,) = compared(database, manifest)
    assert tables["public.kind"].changes is None and "counts changes anew" in note
    _, (note,) = compared(database, manifest.model_copy(update={"counters": None}))
    assert "no record" in note, "an earlier version's backup"
    run(database, "DROP TABLE kind; CREATE TABLE kind (id int)")
    tables, _ = compared(database, recorded(database))
    again = recorded(database)
    run(database, "INSERT INTO kind VALUES (1), (2)")
    manifest = recorded(database)
    run(database, "DROP TABLE kind; CREATE TABLE kind (id int); INSERT INTO kind VALUES (1)")
    assert compared(database, manifest)[0]["public.kind"].changes is None, "another table of that name"
    assert compared(database, again)[0]["public.kind"].changes == Changes(1, 0, 0)


def test_what_is_dated_in_the_future_or_was_when_it_was_written_is_no_change(database: Cluster) -> None:
    run(
        database,
        "CREATE TABLE visit (id int, appointment timestamptz); CREATE TABLE bill (id int, created timestamptz);"
        "INSERT INTO visit SELECT i, now() + interval '1 day' * (i - 5) FROM generate_series(1, 9) i",
    )
    # Four days ago, when all of these visits were to come.
    manifest = recorded(database)
    manifest = manifest.model_copy(update={"snapshot_at": (manifest.snapshot_at or NOON) - timedelta(days=4.5)})
    run(database, "INSERT INTO bill VALUES (1, now() + interval '30 days'), (2, now())")
    tables, _ = compared(database, manifest)
    visit, bill = tables["public.visit"], tables["public.bill"]
    assert (visit.newest_column, visit.newer_rows, visit.differs) == ("appointment", 0, False)
    assert bill.newer_rows == 1 and isinstance(bill.newest, datetime)
    assert bill.newest < datetime.now(timezone.utc) + timedelta(minutes=10)


@pytest.mark.parametrize("large_bytes", [1 << 30, 1])
@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_times_that_no_calendar_has_are_left_out(database: Cluster, kind: str, large_bytes: int) -> None:
    run(database, f"CREATE TABLE strange (updated {kind}); CREATE INDEX ON strange (updated)")
    manifest = recorded(database)
    run(
        database,
        "INSERT INTO strange VALUES ('infinity'), ('-infinity'), ('20000-01-01'), ('0044-03-15 BC'), (NULL);"
        "SET DateStyle = 'German'; ALTER DATABASE impact SET DateStyle = 'SQL, DMY'",
    )
    tables, notes = compared(database, manifest, large_bytes=large_bytes)
    assert notes == []
    assert tables["public.strange"].newest is None
    assert not tables["public.strange"].newer_rows
    run(database, "INSERT INTO strange VALUES ('2099-12-31'), ('2001-02-03')")
    tables, _ = compared(database, manifest, large_bytes=large_bytes)
    found = tables["public.strange"]
    expected: dict[str, object] = {
        "timestamptz": datetime(2001, 2, 3, tzinfo=timezone.utc),
        "timestamp": datetime(2001, 2, 3),
        "date": date(2001, 2, 3),
    }
    assert type(found.newest) is type(expected[kind])
    if kind != "timestamptz":  # its midnight is that of the server's time zone
        assert found.newest == expected[kind]
    assert not found.newer_rows, "what is to come was not written since for that"


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ("created_at timestamptz, updated_at timestamptz", "updated_at"),
        ("issued timestamptz, shipped_at timestamp", "shipped_at"),
        ("shipped_at timestamp, paid_at timestamptz", "paid_at"),
        ("modified date, created timestamp", "created"),
        ("last_login timestamptz, date_joined timestamptz", "date_joined"),
        ("last_login timestamptz", "last_login"),
        ("modified date", "modified"),
        ("birthday date, born timestamp", None),
        ("updated_at text", None),
        ('"Updated_At" timestamptz', "Updated_At"),
        # What will be says nothing of when the row was written: a session that expires tomorrow is not newer for it.
        ("expire_date timestamptz, due_at timestamptz, valid_until timestamptz", None),
        ("appended_at timestamptz", "appended_at"),
    ],
)
def test_the_column_that_tells_best_is_chosen(newest_server: PostgresServer, columns: str, chosen: str | None) -> None:
    cluster = newest_server.create_database("columns")
    run(cluster, f"CREATE TABLE thing ({columns})")
    tables, _ = compared(cluster, recorded(cluster))
    assert tables["public.thing"].newest_column == chosen


def test_a_date_of_the_very_day_of_the_backup_tells_nothing(database: Cluster) -> None:
    run(database, "CREATE TABLE diary (created date)")
    manifest = recorded(database)
    run(database, "INSERT INTO diary SELECT current_date")
    assert compared(database, manifest)[0]["public.diary"].newer_rows is None
    run(database, "INSERT INTO diary SELECT current_date + 2")
    assert compared(database, manifest)[0]["public.diary"].newer_rows is None, "nor does one that is to come"
    before = manifest.model_copy(update={"snapshot_at": (manifest.snapshot_at or NOON) - timedelta(days=3)})
    assert compared(database, before)[0]["public.diary"].newer_rows == 1


def test_large_tables_are_estimated_and_their_newer_rows_counted_by_index(database: Cluster) -> None:
    run(
        database,
        "CREATE TABLE plain AS SELECT i AS id, now() AS created_at FROM generate_series(1, 20000) i;"
        "CREATE TABLE indexed AS TABLE plain; CREATE INDEX ON indexed (created_at DESC) INCLUDE (id);"
        "CREATE TABLE half AS TABLE plain; CREATE INDEX ON half (created_at) WHERE id > 7;"
        "CREATE INDEX ON half (id, created_at); CREATE INDEX ON half USING brin (created_at);"
        "ANALYZE plain; ANALYZE indexed",
    )
    manifest = recorded(database)
    run(database, "INSERT INTO indexed SELECT i, clock_timestamp() FROM generate_series(1, 50) i")
    tables, notes = compared(database, manifest, large_bytes=100_000)
    assert notes == []
    found = tables["public.indexed"]
    assert found.estimated
    assert found.rows_now is not None
    assert abs(found.rows_now - 20050) < 1000
    assert (found.newest_column, found.newer_rows, found.newer, found.differs) == ("created_at", 50, 50, True)
    assert isinstance(found.newest, datetime)
    assert found.newest > (manifest.snapshot_at or found.newest)
    for label in ("public.plain", "public.half"):  # nothing tells without reading all of it
        table = tables[label]
        assert (table.estimated, table.newest_column, table.newest, table.newer_rows) == (True, None, None, None)
        assert table.rows_now
        assert not table.differs
    assert not tables["public.invoice"].estimated


def test_a_role_that_row_level_security_filters_is_refused_and_never_told_fewer_rows(
    server: PostgresServer, database: Cluster
) -> None:
    manifest = recorded(database)
    with suppress(Exception):
        run(server.cluster(), "DROP ROLE impact_reader")
    run(server.cluster(), "CREATE ROLE impact_reader LOGIN PASSWORD 'word'")
    run(
        database,
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO impact_reader;"
        "ALTER TABLE invoice ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON invoice USING (id = 1)",
    )
    reader = Cluster(server.url("impact", "impact_reader", "word"))
    try:
        with pytest.raises(DatabaseRightsMissing, match=r"public\.invoice.*ALTER ROLE impact_reader BYPASSRLS"):
            compared(reader, manifest)
        run(database, "ALTER ROLE impact_reader BYPASSRLS")
        with pytest.raises(DatabaseRightsMissing, match=r'may not read "Ten\.ant .*GRANT pg_read_all_data'):
            compared(reader, manifest)
        run(database, 'GRANT USAGE ON SCHEMA "Ten.ant |1" TO impact_reader')
        run(database, 'GRANT SELECT ON ALL TABLES IN SCHEMA "Ten.ant |1" TO impact_reader')
        assert compared(reader, manifest)[0]["public.invoice"].rows_now == 10
    finally:
        run(database, "DROP OWNED BY impact_reader; DROP ROLE impact_reader")


def test_a_table_locked_by_a_migration_that_hangs_is_named_and_the_others_are_compared(
    database: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_LOCK_TIMEOUT", "200ms")
    manifest = recorded(database)
    run(database, "INSERT INTO kind VALUES (3)")
    with database.connect(autocommit=False) as migration:
        migration.execute("LOCK TABLE invoice")
        tables, notes = compared(database, manifest)
        migration.rollback()
    assert [note for note in notes if "public.invoice cannot be read and was not compared" in note] == notes
    assert len(notes) == 1
    assert "public.invoice" not in tables
    assert differing(tables) == {"public.kind"}


def test_a_table_dropped_while_it_is_compared_is_one_that_is_gone(database: Cluster) -> None:
    manifest = recorded(database)
    found: list[dict[str, TableImpact]] = []
    with database.connect() as other:
        other.execute("BEGIN; DROP TABLE kind")
        comparing = threading.Thread(target=lambda: found.append(compared(database, manifest)[0]))
        comparing.start()
        waiting = "SELECT FROM pg_locks WHERE relation = %s::regclass AND NOT granted"
        with database.connect() as looking:
            wait_until(lambda: bool(looking.execute(waiting, ["kind"]).fetchall()), "the comparison to wait")
        other.execute("COMMIT")
        comparing.join()
    assert differing(found[0]) == {"public.kind"}
    assert found[0]["public.kind"].rows_now is None


def test_rows_of_inheriting_tables_count_with_those(database: Cluster) -> None:
    run(database, "CREATE TABLE car (wheels int) INHERITS (kind); INSERT INTO car VALUES (7, 4)")
    manifest = recorded(database)
    for large_bytes in (1 << 30, 1):
        tables, _ = compared(database, manifest, large_bytes=large_bytes)
        assert differing(tables) == set()
    run(database, "INSERT INTO car VALUES (8, 3)")
    assert differing(compared(database, manifest)[0]) == {"public.car"}


def test_a_comparison_lets_go_of_tables_that_it_has_counted_while_it_goes_on(database: Cluster) -> None:
    run(database, "".join(f"CREATE TABLE t{n:03} (id int PRIMARY KEY);" for n in range(250)))
    manifest = recorded(database)
    stop = threading.Event()
    with database.connect() as other, database.connect(autocommit=False) as connection:
        other.execute("BEGIN; LOCK TABLE t240")
        comparing = threading.Thread(target=lambda: suppressed(database_impact, connection, manifest, stop=stop))
        comparing.start()
        process = connection.info.backend_pid
        locks = "SELECT relation::regclass::text, granted FROM pg_locks WHERE relation IS NOT NULL AND pid = %s"
        wait_until(lambda: ("t240", False) in other.execute(locks, [process]).fetchall(), "the last hundred to be read")
        held = {name for name, granted in other.execute(locks, [process]).fetchall() if granted}
        stop.set()
        comparing.join()
    assert held.isdisjoint({"invoice", "invoice_pkey", "kind", "t000", "t000_pkey", "t180"})


def test_a_comparison_that_is_stopped_ends_in_the_middle_of_a_count(database: Cluster) -> None:
    manifest = recorded(database)
    stop = threading.Event()
    begun = time.monotonic()
    with database.connect() as slow, database.connect(autocommit=False) as connection:
        slow.execute("BEGIN; LOCK TABLE kind")  # what holds a count up as a large table would
        timer = threading.Timer(0.3, stop.set)
        timer.start()
        with pytest.raises(Cancelled, match="nothing was changed"):
            database_impact(connection, manifest, stop=stop)
    assert time.monotonic() - begun < 1.8  # before the lock's own time limit


def test_a_backup_without_a_database_has_no_tables_to_compare(database: Cluster) -> None:
    manifest = Manifest.model_validate(document(tables={}, snapshot_at=None, postgres=None))
    assert compared(database, manifest) == ({}, [])


def test_the_application_is_compared_with_its_own_backup(any_site: Site, tmp_path: Path) -> None:
    cluster = Cluster(any_site.database_url)
    plan = BackupPlan("erp", parts=("database",), targets={"office": Form("zstd", True)})
    manifest = take_full_backup(plan, cluster, KEYRING, StagingArea(tmp_path / "staging"), Report())
    tables, notes = compared(cluster, manifest)
    assert (differing(tables), notes) == (set(), [])
    assert tables.keys() == manifest.tables.keys()
    run(cluster, "DELETE FROM outbox_outboxmessage")
    sent = manifest.tables["public.outbox_outboxmessage"]
    assert sent > 0
    tables, _ = compared(cluster, manifest)
    assert differing(tables) == {"public.outbox_outboxmessage"}
    assert (tables["public.outbox_outboxmessage"].rows_now, tables["public.outbox_outboxmessage"].rows_then) == (
        0,
        sent,
    )


# -- media ------------------------------------------------------------------------------------------------------------

NOT_UTF8 = os.fsdecode(b"caf\xe9|`.txt")


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder whose names sort otherwise as paths than they do in the walk: ``a-b`` comes before ``a/``, but not here."""
    root = tmp_path / "media"
    for name in ("a/one", "a/b/two", "a-b/three", "a.txt", "B", "z/ü", f"z/{NOT_UTF8}", "line\nbreak", "last"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 10)
    (root / "empty").mkdir()
    (root / "link").symlink_to("a.txt")
    return root


def index_of(**folders: Path) -> bytes:
    lines: list[bytes] = []
    archive_media(folders, lambda chunk: None, lines.append)
    return b"".join(lines)


def compare(index: bytes, **folders: Path) -> list[MediaImpact]:
    return media_impact(folders, read_index(io.BytesIO(index)))


def test_media_that_nobody_touched_shows_no_difference(media: Path) -> None:
    assert compare(index_of(uploads=media), uploads=media) == [MediaImpact("uploads")]


def test_media_files_that_came_changed_and_went_are_told_apart(media: Path) -> None:
    index = index_of(uploads=media)
    (media / "a" / "one").unlink()
    (media / "a-b" / "three").unlink()
    (media / "a-b").rmdir()
    (media / "B").write_bytes(b"longer than it was")
    same_size = (media / "a" / "b" / "two").stat()
    (media / "a" / "b" / "two").write_bytes(b"y" * 10)
    os.utime(media / "a" / "b" / "two", (same_size.st_atime, same_size.st_mtime + 0.001))
    (media / "a.txt.new").write_bytes(b"12345")
    (media / "new" / "nested").mkdir(parents=True)
    (media / "new" / "nested" / "deep").write_bytes(b"123")
    (media / "another link").symlink_to("nowhere")
    assert compare(index, uploads=media) == [
        MediaImpact(
            "uploads",
            gone=Files(3, 8, ["uploads/a.txt.new", "uploads/another link", "uploads/new/nested/deep"]),
            changed=Files(2, 28, ["uploads/B", "uploads/a/b/two"]),
            back=Files(2, 20, ["uploads/a/one", "uploads/a-b/three"]),
        )
    ]


def test_a_link_counts_by_where_it_leads_and_a_folder_in_place_of_a_file_is_a_change(media: Path) -> None:
    index = index_of(uploads=media)
    (media / "link").unlink()
    (media / "link").symlink_to("a.txt")
    assert compare(index, uploads=media) == [MediaImpact("uploads")]
    (media / "link").unlink()
    (media / "link").symlink_to("B")
    (media / "last").unlink()
    (media / "last").mkdir()
    (media / "last" / "inside").touch()
    [found] = compare(index, uploads=media)
    assert found.changed.examples == ["uploads/last", "uploads/link"]
    assert found.gone.examples == ["uploads/last/inside"]
    assert found.back.count == 0


def test_names_that_are_not_utf8_are_compared_and_shown(media: Path) -> None:
    index = index_of(uploads=media)
    (media / "z" / NOT_UTF8).unlink()
    (media / "z" / os.fsdecode(b"\xff")).touch()
    [found] = compare(index, uploads=media)
    assert found.back.examples == ["uploads/z/caf\\xe9|`.txt"]
    assert found.gone.examples == ["uploads/z/\\xff"]


def test_only_some_of_many_paths_are_named(media: Path) -> None:
    index = index_of(uploads=media)
    for number in range(50):
        (media / f"new{number:03}").write_bytes(b"12")
    [found] = compare(index, uploads=media)
    assert (found.gone.count, found.gone.bytes) == (50, 100)
    assert found.gone.examples == [f"uploads/new{number:03}" for number in range(20)]


def test_sockets_and_pipes_are_left_out_as_in_the_backup(media: Path) -> None:
    os.mkfifo(media / "pipe")
    assert compare(index_of(uploads=media), uploads=media) == [MediaImpact("uploads")]


def test_folders_of_only_the_settings_or_only_the_backup_are_named_and_not_counted(media: Path, tmp_path: Path) -> None:
    (tmp_path / "thumbs").mkdir()
    (tmp_path / "thumbs" / "one").touch()
    index = index_of(uploads=media, old=media)
    old, thumbs, uploads = compare(index, uploads=media, thumbs=tmp_path / "thumbs")
    assert uploads == MediaImpact("uploads")
    assert old == MediaImpact(
        "old", notes=["the backup has media of old, which the settings do not have; they would be left out"]
    )
    assert thumbs == MediaImpact(
        "thumbs", notes=[f"the backup has no media of thumbs; {tmp_path / 'thumbs'} would stay as it is"]
    )


def test_a_live_folder_that_is_not_there_is_named_and_all_of_it_would_come_back(media: Path) -> None:
    index = index_of(uploads=media)
    media.rename(media.with_name("elsewhere"))
    [found] = compare(index, uploads=media)
    assert (found.gone.count, found.back.count, found.back.bytes) == (0, 10, 90)
    assert found.notes == [f"the media folder {media} is not there; mount it, or correct media.uploads"]


def test_a_folder_that_cannot_be_read_is_named_and_nothing_is_said_to_be_missing_in_it(open_folder: Path) -> None:
    for name in ("closed/inside", "closed-not", "open"):
        (open_folder / "uploads" / name).parent.mkdir(parents=True, exist_ok=True)
        (open_folder / "uploads" / name).touch()
    index = index_of(uploads=open_folder / "uploads")
    (open_folder / "uploads" / "closed-not").unlink()
    (open_folder / "uploads" / "closed").chmod(0)
    code = (
        "import io, sys; from pathlib import Path\n"
        "from twist_dr.repository.archive_index import read_index; from twist_dr.restore.impact_media import media_impact\n"
        + AS_USER.format(NOBODY)
        + f"[found] = media_impact({{'uploads': Path({str(open_folder / 'uploads')!r})}}, read_index(io.BytesIO({index!r})))\n"
        "print(found.back.examples, found.changed.count, found.gone.count, found.notes)"
    )
    closed = f"{open_folder}/uploads/closed cannot be read (Permission denied) and was not compared"
    assert said_by_python(code).strip() == f"['uploads/closed-not'] 0 0 ['{closed}']"


def test_a_damaged_index_is_an_error_and_never_a_report(media: Path) -> None:
    def damaged() -> Iterator[ArchiveEntry]:
        yield from list(read_index(io.BytesIO(index_of(uploads=media))))[:3]
        raise ArtifactInvalid("other bytes than were recorded")

    with pytest.raises(ArtifactInvalid):
        media_impact({"uploads": media}, damaged())


def test_a_comparison_of_media_can_be_stopped(media: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        media_impact({"uploads": media}, read_index(io.BytesIO(index_of(uploads=media))), stop=stop)


# -- what is told -----------------------------------------------------------------------------------------------------

NOON = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)


def impact(tables: list[TableImpact], media: list[MediaImpact] | None = None, notes: list[str] | None = None) -> Impact:
    return Impact(NOON, NOON - timedelta(hours=3, minutes=20), tables, media or [], notes or [])


SAME = [
    TableImpact(TableName("public", f"same{number}"), 5, 5, newest_column="created_at", newer_rows=0)
    for number in range(7)
]


def test_the_summary_is_one_sentence() -> None:
    invoice = TableImpact(
        TableName("public", "invoice"), 1310, 1000, newest_column="created_at", newest=NOON, newer_rows=330
    )
    lines = TableImpact(TableName("public", "line"), 2011, 2000)
    fewer = TableImpact(TableName("public", "session"), 1, 100)
    media = MediaImpact("uploads", gone=Files(4, 10, []), back=Files(1, 1, []))
    found = impact([*SAME, invoice, lines, fewer], [media, MediaImpact("thumbs")])
    assert found.age_seconds == 12_000
    assert (
        found.summary()
        == "3 tables differ: 341 rows newer than the backup of 3 h 20 min ago; 4 media files would go, 1 would come back"
    )
    assert impact(SAME).summary() == "no table shows a difference from the backup of 3 h 20 min ago"
    assert (
        impact(SAME, [MediaImpact("uploads", notes=["x"])], ["y"]).summary()
        == "no table shows a difference from the backup of 3 h 20 min ago; 0 media files would change; see the 2 notes"
    )
    assert impact([]).summary() == "nothing was compared with the backup of 3 h 20 min ago"


def test_the_report_shows_what_differs_first_and_counts_the_rest() -> None:
    few = TableImpact(TableName("public", "few"), 6, 5)
    many = TableImpact(TableName("public", "many"), 1310, 1000, newest_column="created_at", newest=NOON, newer_rows=330)
    large = TableImpact(TableName("public", "large"), 20_000_000, 19_000_000, estimated=True)
    text = impact([*SAME, few, large, many, TableImpact(TableName("public", "dropped"), None, 9)]).markdown()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `public.many` | 1,000 | 1,310 |  |  |  | 330 | 2026-11-21 12:00:00 UTC | `created_at` |",
        "| `public.dropped` | 9 | no such table |  |  |  |  |  |  |",
        "| `public.few` | 5 | 6 |  |  |  |  |  |  |",
        "| `public.large` | 19,000,000 | about 20,000,000 |  |  |  |  |  |  |",
    ]
    assert "7 tables with as many rows as in the backup, and none that shows to be newer." in text
    assert "The backup is of 2026-11-21 08:40:00 UTC." in text


def test_a_report_of_very_many_tables_ends_after_two_hundred() -> None:
    text = impact([TableImpact(TableName("public", f"t{number:03}"), 2, 1) for number in range(250)]).markdown()
    assert len([line for line in text.splitlines() if line.startswith("| `")]) == 200
    assert "and 50 more tables" in text


def test_no_name_breaks_the_report(database: Cluster, media: Path) -> None:
    manifest, index = recorded(database), index_of(uploads=media)
    run(database, """INSERT INTO "Ten.ant |1"."odd ""name"" `é`" VALUES (1)""")
    (media / "line\nbreak").unlink()
    (media / "z" / NOT_UTF8).unlink()
    tables, notes = compared(database, manifest)
    hostile = ["the table <script>|x is *closed*"]
    text = impact(list(tables.values()), compare(index, uploads=media), notes + hostile).markdown()
    print(text)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1
    assert '| `` "Ten.ant \\|1"."odd ""name"" `é`" `` | 0 | 1 | 1 | 0 | 0 |' in text
    assert "- would come back: `uploads/line\\nbreak`, `` uploads/z/caf\\xe9\\|`.txt ``" in text
    assert "- the table \\<script\\>\\|x is \\*closed\\*" in text
