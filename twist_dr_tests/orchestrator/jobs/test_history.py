"""What Dagster remembers and forgets: in SQLite files as it comes, and in PostgreSQL. Its tables are not public; these tests pin them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)

from twist_dr.catalog import AlertRow, Catalog
from twist_dr.catalog.notes import HistorySize
from twist_dr.orchestrator.around import APPLICATION_TAG
from twist_dr.orchestrator.jobs.history import HistoryCleanup, clean_history
from twist_dr.orchestrator.jobs.history_rows import _vacuum
from twist_dr.settings import Settings
from twist_dr_tests.apps import application
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site

ERP, SHOP = dg.AssetKey(["erp", "wal_archive", "office"]), dg.AssetKey(["shop", "wal_archive", "office"])
NOW = datetime.now(timezone.utc)


def asset(key: dg.AssetKey) -> dg.AssetsDefinition:
    @dg.multi_asset(name=key.path[0], specs=[dg.AssetSpec(key)], check_specs=[dg.AssetCheckSpec("no_gap", asset=key)])
    def shipped() -> Iterator[dg.MaterializeResult[None]]:
        print("a line of its log")
        checked = dg.AssetCheckResult(asset_key=key, check_name="no_gap", passed=True)
        yield dg.MaterializeResult(asset_key=key, check_results=[checked])

    return shipped


@cache
def jobs() -> dict[str, dg.JobDefinition]:
    assets = {key: asset(key) for key in (ERP, SHOP)}
    of = {"ship_wal": ERP, "backup_full": ERP, "others": SHOP}
    defined = [
        dg.define_asset_job(
            name, dg.AssetSelection.assets(assets[key]), tags={APPLICATION_TAG: "erp"} if key == ERP else {}
        )
        for name, key in of.items()
    ]
    definitions = dg.Definitions(assets=assets.values(), jobs=defined, executor=dg.in_process_executor)
    return {name: definitions.resolve_job_def(name) for name in of}


def run(instance: dg.DagsterInstance, job: str, times: int = 1) -> list[str]:
    return [jobs()[job].execute_in_process(instance=instance).run_id for _ in range(times)]


@pytest.fixture(params=["sqlite", "postgres"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    document: dict[str, object] = {"telemetry": {"enabled": False}}
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("newest_server")
        with server.create_database(name := f"history_{os.getpid()}").connect() as connection:
            connection.execute("DROP ROLE IF EXISTS historian")
            connection.execute("CREATE ROLE historian SUPERUSER LOGIN PASSWORD 'none'")
        database = {
            "scheme": "postgresql+psycopg2", "hostname": "127.0.0.1", "port": server.port, "username": "historian",
            "password": "none", "db_name": name,
        }  # fmt: skip
        document["storage"] = {"postgres": {"postgres_db": database}}
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(document))
    with dg.DagsterInstance.from_config(str(home)) as made:
        yield made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "media").mkdir()
    return Site(tmp_path, "postgresql://nobody@127.0.0.1:1/none", tmp_path / "media").settings()


def cleaned(instance: dg.DagsterInstance, settings: Settings, **later: float) -> HistoryCleanup:
    return clean_history(instance, application(settings), NOW + timedelta(**later))


def ids(instance: dg.DagsterInstance) -> set[str]:
    return {each.run_id for each in instance.get_runs()}


def tell(instance: dg.DagsterInstance, key: dg.AssetKey, place: int) -> None:
    """What a sensor tells of an asset: no run's deletion reaches it."""
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata={"place": place}))
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=key, check_name="no_gap", passed=True, metadata={"place": place})
    )


def test_what_had_its_time_goes_and_the_newest_of_each_asset_check_and_job_stays(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    others = set(run(instance, "others"))
    backups = run(instance, "backup_full", 2)
    shipped = run(instance, "ship_wal", 2)
    alerting = run(instance, "ship_wal")[0]
    last = run(instance, "ship_wal")[0]
    going_on = instance.create_run_for_job(jobs()["ship_wal"], status=dg.DagsterRunStatus.STARTED).run_id
    catalog = Catalog(settings.catalog_url)
    catalog.save_alert(AlertRow(None, "erp", "wal", "wal", "error", "active", "", "", NOW, NOW, run_id=alerting))
    newest = instance.get_latest_materialization_event(ERP)
    # Nothing is old yet.
    assert cleaned(instance, settings, hours=1).runs == 0
    done = cleaned(instance, settings, days=2)
    assert ids(instance) == {*others, *backups, alerting, last, going_on} and done.runs == len(shipped)
    assert instance.get_latest_materialization_event(ERP) == newest is not None
    assert [each.dagster_event_type for each in instance.all_logs(last)] and instance.all_logs(alerting)
    check = dg.AssetCheckKey(ERP, "no_gap")
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=10)
    assert [each.run_id for each in history if each.run_id in {*shipped, last}] == [last]
    # Nothing of them is left behind, nor on the disk.
    home = Path(instance.root_directory)
    named = [path for path in home.rglob("*") if any(run_id in path.name for run_id in shipped)]
    assert named == [] and not any(instance.all_logs(run_id) for run_id in shipped)
    assert done.before and done.after and done.after < done.before
    noted = catalog.note("erp", HistorySize)
    assert noted is not None and noted.bytes == done.after and noted.bytes_per_day is not None
    # Backups have their time, too; the newest of the job stays, as does what the newest materialization came from.
    cleaned(instance, settings, days=100)
    assert ids(instance) == {*others, backups[-1], alerting, last, going_on}


def test_events_without_a_run_go_but_for_the_newest_of_each_asset_and_check(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    for place in range(5):
        tell(instance, ERP, place)
        tell(instance, SHOP, place)
    assert places(instance, ERP) == [4, 3, 2, 1, 0]
    cleaned(instance, settings, hours=1)
    assert places(instance, ERP) == [4, 3, 2, 1, 0] and told(instance) == 20 * shards(instance)
    cleaned(instance, settings, days=2)
    assert places(instance, ERP) == [4] and places(instance, SHOP) == [4, 3, 2, 1, 0]
    check = dg.AssetCheckKey(ERP, "no_gap")
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=10)
    assert [each.event.get_dagster_event().asset_check_evaluation_data.metadata["place"].value for each in history if each.event] == [4]  # fmt: skip
    assert told(instance) == 12 * shards(instance)


def places(instance: dg.DagsterInstance, key: dg.AssetKey) -> list[object]:
    made = [record.asset_materialization for record in instance.fetch_materializations(key, limit=10).records]
    return [each.metadata["place"].value for each in made if each]


def shards(instance: dg.DagsterInstance) -> int:
    return 2 if instance.event_log_storage.is_run_sharded else 1


def told(instance: dg.DagsterInstance) -> int:
    """Events without a run that are stored, wherever they are."""
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
    from sqlalchemy import func, select

    storage = instance.event_log_storage
    count = select(func.count()).where(SqlEventLogStorageTable.c.run_id == "")
    found = 0
    for connect in (storage.index_connection, lambda: storage.run_connection(""))[: shards(instance)]:
        with connect() as connection:
            found += connection.execute(count).scalar_one()
    return found


def test_ticks_of_ours_that_had_their_time_go_but_for_the_newest_of_each(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    ours, others = sensor("twist_dr", "dead_runs"), sensor("another", "watch")
    second = sensor("twist_dr", "watch")
    for state in (ours, second, others):
        instance.add_instigator_state(state)
        for days in (9, 8, 7):
            tick(instance, state, NOW - timedelta(days=days))
    tick(instance, second, NOW)
    cleaned(instance, settings, hours=1)
    assert [ticks(instance, state) for state in (ours, second, others)] == [1, 1, 3]


def sensor(location: str, name: str) -> InstigatorState:
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
    return InstigatorState(
        RemoteInstigatorOrigin(repository, name),
        InstigatorType.SENSOR,
        InstigatorStatus.RUNNING,
        SensorInstigatorData(),
    )


def tick(instance: dg.DagsterInstance, state: InstigatorState, at: datetime) -> None:
    names = (state.instigator_origin_id, state.instigator_name, InstigatorType.SENSOR)
    instance.create_tick(
        TickData(*names, TickStatus.SUCCESS, at.timestamp(), run_ids=[], selector_id=state.selector_id)
    )


def ticks(instance: dg.DagsterInstance, state: InstigatorState) -> int:
    return len(instance.get_ticks(state.instigator_origin_id, state.selector_id))


def test_a_file_that_is_mostly_empty_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) "
                           "SELECT i, randomblob(1 << 20) FROM n")  # fmt: skip
        connection.commit()
        connection.execute("DELETE FROM t WHERE i > 1")
    assert path.stat().st_size > 20 << 20
    assert _vacuum(path) is None and path.stat().st_size < 2 << 20


def test_a_history_in_memory_is_left_alone(settings: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as kept:
        run(kept, "ship_wal", 2)
        assert cleaned(kept, settings, days=2).runs == 0 and len(ids(kept)) == 2
