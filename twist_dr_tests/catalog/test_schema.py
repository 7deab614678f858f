"""The tables come about, and are brought up to date, by themselves; by one process at a time, and never backwards."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine, insert, make_url, select, text

import twist_dr.catalog
from twist_dr.catalog import Catalog, CatalogTooNew, CatalogUnavailable, schema
from twist_dr.catalog.models import METADATA, Backups
from twist_dr.errors import CopyFailedForNow
from twist_dr.postgres.lsn import Gap
from twist_dr.wal.archived import gaps_after
from twist_dr_tests.catalog.examples import record
from twist_dr_tests.catalog.test_asking import counted_statements

_HEAD = schema.HEAD
#: One that is not there yet.
_NEXT = f"{int(_HEAD) + 1:04}"

_SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "{next}"
down_revision = "{head}"


def upgrade() -> None:
    with op.batch_alter_table("backups", recreate="{recreate}") as backups:
        backups.add_column(sa.Column("colour", sa.Text))
    {then}
"""


def execute(url: str, statement: str) -> Any:
    """Run one statement as somebody else would; the SQLite file may not exist yet."""
    if url.startswith("sqlite"):
        Path(make_url(url).database or "").parent.mkdir(exist_ok=True)
    engine = create_engine(make_url(url).set(drivername=Catalog(url)._location.url.drivername), poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(statement))
        return result.scalar() if result.returns_rows else None


def version(url: str) -> Any:
    return execute(url, f"SELECT version_num FROM {schema.VERSION_TABLE}")


@pytest.fixture
def future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Code whose tables are one migration ahead; call it with what that migration does at its end."""

    def arrive(then: str = "pass", recreate: str = "auto") -> None:
        scripts = tmp_path / "future"
        shutil.copytree(Path(twist_dr.catalog.__file__).parent / "migrations", scripts)
        (scripts / "versions" / f"{_NEXT}_colour.py").write_text(
            _SECOND.format(next=_NEXT, head=_HEAD, then=then, recreate=recreate)
        )
        monkeypatch.setattr(schema, "SCRIPTS", str(scripts))
        monkeypatch.setattr(schema, "HEAD", _NEXT)

    return arrive


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", schema.SCRIPTS)
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_migrations_make_what_the_models_say(url: str) -> None:
    catalog = Catalog(url)
    catalog.target_tests()
    engine = create_engine(catalog._location.url, poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": schema.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, METADATA) == []


def test_constructing_touches_nothing(tmp_path: Path) -> None:
    Catalog(f"sqlite:///{tmp_path}/new/catalog.db")
    Catalog("postgresql://nobody@127.0.0.1:1/nothing")
    assert list(tmp_path.iterdir()) == []


def test_up_to_date_catalog_is_asked_once(url: str) -> None:
    record(Catalog(url))
    catalog = Catalog(url)
    with counted_statements() as first:
        catalog.copies("x")
    with counted_statements() as second:
        catalog.copies("x")
    assert len([each for each in first if schema.VERSION_TABLE in each]) == 1
    assert not [each for each in second if schema.VERSION_TABLE in each]


def test_importing_and_using_loads_neither_alembic_nor_dagster(sqlite_url: str) -> None:
    record(Catalog(sqlite_url))
    code = (
        "import sys; from twist_dr.catalog import Catalog\n"
        "def loaded(): return sorted({'alembic', 'dagster', 'psycopg'} & set(sys.modules))\n"
        "print(loaded()); print(len(Catalog(sys.argv[1]).backups(application='erp')), loaded())"
    )
    done = subprocess.run([sys.executable, "-c", code, sqlite_url], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "1 []"]


def _use(url: str, number: int, barrier: Barrier) -> None:
    catalog = Catalog(url)
    barrier.wait(60)
    backup_id = record(catalog, number)
    for _ in range(10):
        catalog.record_copy(backup_id, "nas", state="checked", form="zstd")
        catalog.backups(application="erp")


def _many_at_once(url: str) -> None:
    """Six processes record the backups of six nights."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(6)
    processes = [context.Process(target=_use, args=(url, number, barrier)) for number in range(1, 7)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 6


def test_many_processes_start_and_write_at_once(url: str) -> None:
    _many_at_once(url)
    assert [row.complete for row in Catalog(url).backups(application="erp")] == [True] * 6
    assert version(url) == schema.HEAD


def test_older_catalog_is_upgraded_and_keeps_its_rows(url: str, future: Any) -> None:
    backup_id = record(Catalog(url))
    Catalog(url).record_copy(backup_id, "nas", state="checked", form="zstd")
    # On SQLite this migration makes the table anew, which must not take the copies along.
    future(recreate="always" if url.startswith("sqlite") else "never")
    (row,) = Catalog(url).backups(application="erp")
    assert (row.backup_id, len(row.copies), version(url)) == (backup_id, 1, _NEXT)


@contextmanager
def at_version(head: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The code's tables are those of an earlier version."""
    scripts = folder / "past"
    shutil.copytree(Path(twist_dr.catalog.__file__).parent / "migrations", scripts)
    for migration in (scripts / "versions").glob("0*.py"):
        if migration.name[:4] > head:
            migration.unlink()
    with monkeypatch.context() as past:
        past.setattr(schema, "SCRIPTS", str(scripts))
        past.setattr(schema, "HEAD", head)
        yield


def _recorded_by_the_first_version(catalog: Catalog, folder: Path) -> str:
    """A backup's row with the columns that there were then."""
    today = Catalog(f"sqlite:///{folder / 'today.db'}")
    with pytest.MonkeyPatch.context() as present:
        present.setattr(schema, "SCRIPTS", "twist_dr.catalog:migrations")
        present.setattr(schema, "HEAD", _HEAD)
        backup_id = record(today)
    table = Backups.table
    with today._database.reading() as connection:
        values = dict(connection.execute(select(table)).mappings().one())
    del values["chain"], values["search"]
    with catalog._database.writing() as connection:
        connection.execute(insert(table).values(values))
    return backup_id


@pytest.fixture
def of_the_first_version(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backup with a copy and a verification, in a catalog that was made when there was one migration only; its id."""
    with at_version("0001", tmp_path, monkeypatch):
        catalog = Catalog(url)
        backup_id = _recorded_by_the_first_version(catalog, tmp_path)
        # As that version wrote them: today's have columns that it had not.
        columns = "backup_id, target, state, form, updated_at, checked_at"
        values = f"'{backup_id}', 'nas', 'checked', 'zstd', '2026-11-21 02:00:00', '2026-11-21 02:00:00'"
        execute(url, f"INSERT INTO copies ({columns}) VALUES ({values})")
        columns = "backup_id, target, state, started_at, seconds, tables, rows, files, differences, notes"
        values = f"'{backup_id}', 'nas', 'verified', '2026-11-21 02:00:00', 1, 0, 0, 0, '[]', '[]'"
        execute(url, f"INSERT INTO verifications ({columns}) VALUES ({values})")
        with pytest.raises(CatalogUnavailable, match="restores"):
            catalog.restores("erp")
    assert version(url) == "0001"
    return backup_id


def test_catalog_of_the_first_version_gets_the_log_of_restores_and_keeps_its_rows(
    url: str, of_the_first_version: str
) -> None:
    assert Catalog(url).restores("erp") == []
    (row,) = Catalog(url).backups(application="erp")
    assert (row.backup_id, len(row.copies), version(url)) == (of_the_first_version, 1, schema.HEAD)
    assert Catalog(url).latest_verified("erp") == Catalog(url).backup("erp", of_the_first_version)
    assert Catalog(url).backups(application="erp", search="GRÖSSE 10") == [row]


def test_catalog_of_the_first_version_is_brought_up_to_date_by_many_processes_at_once(
    url: str, of_the_first_version: str
) -> None:
    _many_at_once(url)
    rows = Catalog(url).backups(application="erp")
    assert len(rows) == 7 and rows[-1].backup_id == of_the_first_version and all(row.complete for row in rows)
    assert (Catalog(url).restores("erp"), version(url)) == ([], schema.HEAD)


def test_an_open_alert_of_the_version_before_is_kept_and_what_it_is_about_is_not_known(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_version("0004", tmp_path, monkeypatch):
        Catalog(url).holds("erp")
    columns = "application, cause, open_cause, kind, severity, state, message, advice, raised_at, seen_at, times"
    values = "'erp', 'c', 'c', 'k', 'error', 'active', 'm', 'a', '2026-11-21 02:00:00', '2026-11-21 02:00:00', 1"
    execute(url, f"INSERT INTO alerts ({columns}) VALUES ({values})")
    (row,) = Catalog(url).open_alerts("erp")
    assert (row.cause, row.about, row.told_about) == ("c", None, ())
    told = replace(row, about=("public.invoice",), told_about=("public.invoice",))
    assert Catalog(url).save_alert(told) == told
    assert Catalog(url).open_alerts("erp") == [told]
    assert version(url) == schema.HEAD


def test_gaps_that_earlier_versions_wrote_as_sentences_are_numbers_and_one_that_cannot_be_read_is_met_by_every_recovery(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_version("0006", tmp_path, monkeypatch):
        Catalog(url).holds("erp")
    columns = "application, target, updated_at, waiting, oldest_seconds, spool_bytes, gaps"
    sentences = {
        "nas": '["nas lacks WAL from 0/1000000 to 1F/E2000000"]',
        "odd": '["odd: something is missing"]',
        "whole": "[]",
    }
    for target, gaps in sentences.items():
        values = f"'erp', '{target}', '2026-11-21 02:00:00', 0, 0, 0, '{gaps}'"
        execute(url, f"INSERT INTO wal_frontiers ({columns}) VALUES ({values})".replace(":", "\\:"))
    nas, odd, whole = Catalog(url).wal_positions("erp")
    assert nas.gaps == (Gap(None, 0x1000000, 0x1FE2000000),) and whole.gaps == ()
    assert nas.gaps[0].sentence("nas") == "nas lacks WAL from 0/1000000 to 1F/E2000000"
    assert gaps_after(nas.gaps, 0x1FE2000000) == [] and gaps_after(odd.gaps, 0xFFFFFFFF00000000) == list(odd.gaps) != []


def test_errors_that_the_version_before_recorded_keep_their_words_and_have_no_code(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_version("0007", tmp_path, monkeypatch):
        backup_id = record(Catalog(url))
        at = "'2026-11-21 02:00:00'"
        copies = "backup_id, target, state, form, updated_at, error"
        values = f"'{backup_id}', 'nas', 'failed', 'zstd', {at}, 'nas: /mnt/nas: no space left; free some room.'"
        execute(url, f"INSERT INTO copies ({copies}) VALUES ({values})")
        attempts = "run_id, application, job, who, started_at, state, error_type"
        for name in ("CopyFailedForNow", "DagsterInvalidConfigError", "Busy"):
            values = f"'{name}', 'erp', 'backup_full', 'ops', {at}, 'failed', '{name}'"
            execute(url, f"INSERT INTO attempts ({attempts}) VALUES ({values})")
    (copy,) = Catalog(url).copies(backup_id)
    assert (copy.error, copy.error_code) == ("/mnt/nas: no space left; free some room.", None)
    known = {row.run_id: row for row in Catalog(url).attempts("erp")}
    assert known["CopyFailedForNow"].error_code == CopyFailedForNow.code
    assert {name: row.was_refused for name, row in known.items()} == {
        "CopyFailedForNow": False,
        "DagsterInvalidConfigError": True,
        "Busy": True,
    }


def test_alerts_by_the_words_of_the_version_before_go_on_by_their_present_ones(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_version("0008", tmp_path, monkeypatch):
        Catalog(url).holds("erp")
    columns = "application, cause, open_cause, kind, severity, state, message, advice, raised_at, seen_at, times, acknowledged_by"
    former = {
        "wal_frontier:nas": "wal_frontier",
        "wal_unknown:nas": "wal_frontier",
        "mended:nas": "mended",
        "disk": "disk",
    }
    for cause, kind in former.items():
        for now, state in ((f"'{cause}'", "active"), ("NULL", "resolved")):
            values = f"'erp', '{cause}', {now}, '{kind}', 'error', '{state}', 'm', 'a', '2026-11-21 02:00:00', '2026-11-21 02:00:00', 1, 'ops'"
            execute(url, f"INSERT INTO alerts ({columns}) VALUES ({values})".replace(":", "\\:"))
    found = Catalog(url).open_alerts("erp")
    kinds = ("archived_position", "archived_position", "repaired", "disk")
    present = dict(zip(("archived_position:nas", "wal_unknown:nas", "repaired:nas", "disk"), kinds, strict=True))
    assert {row.cause: (row.kind, row.acknowledged_by) for row in found} == {
        cause: (kind, "ops") for cause, kind in present.items()
    }
    for row in found:
        Catalog(url).save_alert(replace(row, times=2))
    assert [row.times for row in Catalog(url).open_alerts("erp")] == [2] * 4
    assert {row.cause: row.kind for row in Catalog(url).alerts("erp", state="resolved")} == present


def test_upgrade_that_fails_leaves_everything_as_it_was(url: str, future: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record(Catalog(url))
    future(then='op.execute("SELECT * FROM nothing_of_this_name")')
    with pytest.raises(CatalogUnavailable, match="nothing_of_this_name"):
        Catalog(url).target_tests()
    monkeypatch.undo()
    assert version(url) == _HEAD
    assert len(Catalog(url).backups(application="erp")) == 1


def test_newer_catalog_is_refused(url: str, future: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record(Catalog(url))
    future()
    Catalog(url).target_tests()
    monkeypatch.undo()
    with pytest.raises(CatalogTooNew, match=rf"newer twist-dr .*{_NEXT}.*{_HEAD}.*; upgrade twist-dr"):
        record(Catalog(url))
    assert version(url) == _NEXT


@pytest.mark.parametrize(
    "change", ["ALTER TABLE wal_positions RENAME TO other", "ALTER TABLE wal_positions RENAME COLUMN lsn TO other"]
)
def test_whoever_runs_on_while_a_newer_version_changes_the_catalog_is_told_so(url: str, change: str) -> None:
    """A daemon that nobody restarted: nothing is wrong with the disk or the role that owns the tables."""
    running = Catalog(url)
    assert running.wal_positions("erp") == []
    execute(url, change)
    with pytest.raises(CatalogUnavailable, match=r"cannot be used"):
        running.wal_positions("erp")
    execute(url, f"UPDATE {schema.VERSION_TABLE} SET version_num = '{_NEXT}'")
    with pytest.raises(CatalogTooNew, match=rf"changed by a newer twist-dr .*{_NEXT}.*start anew what has run"):
        running.wal_positions("erp")


def test_version_table_without_a_row_counts_as_a_new_catalog(url: str) -> None:
    execute(url, f"CREATE TABLE {schema.VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    record(Catalog(url))
    assert version(url) == schema.HEAD


def test_tables_of_dagster_in_the_same_database_are_left_alone(url: str) -> None:
    execute(url, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    execute(url, "INSERT INTO alembic_version VALUES ('29b539ebc72a')")
    record(Catalog(url))
    assert execute(url, "SELECT version_num FROM alembic_version") == "29b539ebc72a"
