"""Where Dagster keeps its history, which is not public: when an upgrade breaks one of these, look before raising the bound."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import pytest
import yaml

from twist_dr.backup.configuration import HistoryFiles
from twist_dr.backup.from_settings import libpq_url
from twist_dr.backup.snapshots import PostgresTables, copy_sqlite, sqlite_damage
from twist_dr.orchestrator.assets.dagster_history import find_history, own_files
from twist_dr_tests.servers import PostgresServer


def instance(folder: Path, **document: object) -> dg.DagsterInstance:
    folder.mkdir(exist_ok=True)
    (folder / "dagster.yaml").write_text(yaml.safe_dump({"telemetry": {"enabled": False}, **document}))
    return dg.DagsterInstance.from_config(str(folder))


@dg.op
def nothing() -> None: ...


@dg.job
def empty() -> None:
    nothing()


def test_an_instance_as_it_comes_keeps_runs_events_and_schedules_in_sqlite_files(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with instance(home) as found:
        run = empty.execute_in_process(instance=found)
        history = find_history(found)
    assert history.missing is None
    (place,) = history.places
    assert isinstance(place, HistoryFiles)
    assert {name: path.relative_to(home) for name, path in place.databases.items()} == {
        name: Path(name) for name in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
    }
    logs, left_out = place.newest_logs(1 << 30)
    assert [path.name for path in logs] == [f"{run.run_id}.db"] and left_out == 0
    # What was copied is an instance's history.
    for name, path in {**place.databases, f"history/runs/{run.run_id}.db": logs[0]}.items():
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        copy_sqlite(path, tmp_path / "new" / name)
        assert sqlite_damage(tmp_path / "new" / name) is None
    with instance(tmp_path / "new") as copied:
        assert [each.run_id for each in copied.get_runs()] == [run.run_id]
        assert [entry.dagster_event_type for entry in copied.all_logs(run.run_id)]
        assert copied.get_run_stats(run.run_id).steps_succeeded == 1


def test_an_event_log_in_one_file_is_found_too(tmp_path: Path) -> None:
    event_log = {
        "module": "dagster._core.storage.event_log",
        "class": "ConsolidatedSqliteEventLogStorage",
        "config": {"base_dir": str(tmp_path / "events")},
    }
    with instance(tmp_path / "home", event_log_storage=event_log) as found:
        history = find_history(found)
    (place,) = history.places
    assert isinstance(place, HistoryFiles) and history.missing is None and place.logs is None
    assert {path for path in place.databases.values() if path.exists()} == set(place.databases.values())
    assert any(path.parent == tmp_path / "events" for path in place.databases.values())


def test_every_table_of_a_history_in_postgresql_is_known(newest_server: PostgresServer, tmp_path: Path) -> None:
    cluster = newest_server.create_database(f"dagster_{os.getpid()}")
    # As our dagster.yaml writes it, with what a password may hold.
    with cluster.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS dagster")
        connection.execute("CREATE ROLE dagster SUPERUSER LOGIN PASSWORD 'p/a@s:s%'")
    database = {
        "scheme": "postgresql+psycopg2", "hostname": "127.0.0.1", "port": newest_server.port, "username": "dagster",
        "password": "p/a@s:s%", "db_name": f"dagster_{os.getpid()}",
    }  # fmt: skip
    with instance(tmp_path / "home", storage={"postgres": {"postgres_db": database}}) as found:
        empty.execute_in_process(instance=found)
        history = find_history(found)
    (place,) = history.places
    assert isinstance(place, PostgresTables) and history.missing is None
    assert "p/a" not in str(history.told) and "p/a" not in repr(place)
    with place.cluster.connect() as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert {name for (name,) in rows} == set(place.tables)


def test_a_history_in_memory_is_said_to_be_missing() -> None:
    with dg.DagsterInstance.ephemeral() as found:
        history = find_history(found)
    assert history.places == [] and "keeps its history in memory" in (history.missing or "")


def test_the_files_that_say_what_runs_are_looked_for_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with instance(tmp_path / "home") as found:
        files = own_files(tmp_path / "conf" / "twist-dr.yaml", found)
    assert files[:2] == [tmp_path / "conf" / "twist-dr.yaml", tmp_path / "home" / "dagster.yaml"]
    assert {tmp_path / "home" / "workspace.yaml", tmp_path / "conf" / "workspace.yaml"} <= set(files)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql+psycopg2://u:a%2Fb%40c@db.example:5433/dagster",
            "postgresql://u:a%2Fb%40c@db.example:5433/dagster",
        ),
        ("postgresql://u:a/b@db.example/dagster", "postgresql://u:a%2Fb@db.example/dagster"),
        ("postgresql://u@[::1]:5432/x?sslmode=require", "postgresql://u@[::1]:5432/x?sslmode=require"),
        ("postgresql+psycopg:///cat?host=/run/pg", "postgresql:///cat?host=%2Frun%2Fpg"),
    ],
)
def test_urls_of_sqlalchemy_become_those_of_libpq(url: str, expected: str) -> None:
    assert libpq_url(url) == expected
    assert urlsplit(libpq_url(url)).path == urlsplit(expected).path
