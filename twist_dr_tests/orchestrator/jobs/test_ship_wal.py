"""Shipping WAL as people start it: the job, the sensor, the command, the resident process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest

from twist_dr.catalog import Catalog, WalPositionRow
from twist_dr.postgres.lsn import Gap, format_lsn
from twist_dr.storage.local import LocalOptions
from twist_dr.system.lock import FileLocks
from twist_dr.wal.archived import Shipped
from twist_dr.wal.from_settings import LOCK_SCOPE, Shipping
from twist_dr_tests.apps import application
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.preloaded import Command
from twist_dr_tests.recovery.material import base_manifest
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import TWIST_DR, start
from twist_dr_tests.wal.wal_files import MB, Wal, make_wal
from twist_dr_tests.wal_site import WalSite, wal_site

SMALL = ["--wal-segsize=1"]


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    folder: Path = tmp_path_factory.mktemp("primary")
    with PostgresServer(TOOLS[max(TOOLS)], folder, settings={"fsync": "off"}, options=SMALL) as server:
        yield server


@pytest.fixture
def installed(primary: PostgresServer, tmp_path: Path) -> Iterator[WalSite]:
    with wal_site(primary, tmp_path) as site:
        yield site


def position(site: WalSite) -> int:
    with site.server.cluster().connect() as connection:
        row = connection.execute("SELECT (pg_current_wal_lsn() - '0/0')::bigint").fetchone()
    assert row is not None
    return int(row[0])


def materializations(site: WalSite, target: str) -> list[dict[str, object]]:
    """Metadata of the asset's materializations, newest first."""
    key = dg.AssetKey(["erp", "wal_archive", target])
    records = site.site.instance.fetch_materializations(key, limit=10).records
    made = [record.asset_materialization for record in records]
    return [{name: value.value for name, value in each.metadata.items()} for each in made if each]


@contextmanager
def following(site: WalSite) -> Iterator[subprocess.Popen[str] | Command]:
    """A resident process that ships."""
    process = start([*TWIST_DR, "wal", "ship", "--follow"], site.site.environment, site.site.folder)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_the_job_ships_and_the_asset_shows_how_far_each_target_is(installed: WalSite) -> None:
    site = installed
    site.receive()
    site.write()
    with site.server.cluster().connect() as connection:
        connection.execute("SELECT pg_switch_wal()")
    site.write()
    end = position(site)
    site.site.job("ship_wal").expect(0)
    for target in ("office", "archive"):
        (shown,) = materializations(site, target)
        assert int(str(shown["archived_lsn"])) >= end and shown["timeline"] == 1
        assert int(str(shown["segments"])) >= 1 and int(str(shown["stored_bytes"])) > 0
        assert abs(float(str(shown["archived_at"])) - time.time()) < 60
        assert int(str(shown["spool_bytes"])) > 0 and shown["oldest_unshipped_seconds"] == 0
        row = next(row for row in site.site.catalog().wal_positions("erp") if row.target == target)
        assert row.error is None and row.gaps == () and row.waiting == 0 and row.at is not None
    # A target that is away: the others get it, its asset is not materialized, and the run fails and names it.
    (site.site.folder / "targets" / "archive").rename(site.site.folder / "unplugged")
    site.write()
    failed = site.site.job("ship_wal").expect(1)
    assert "archive" in failed.text
    assert (len(materializations(site, "office")), len(materializations(site, "archive"))) != (1, 1)
    assert len(materializations(site, "archive")) == 1
    assert next(row for row in site.site.catalog().wal_positions("erp") if row.target == "archive").error
    (site.site.folder / "unplugged").rename(site.site.folder / "targets" / "archive")
    said = site.site.cli("wal", "ship").expect(0).text
    assert "office: " in said and "archive: " in said and "everything committed before" in said


def test_a_gap_fails_the_run_although_a_second_attempt_would_find_nothing_wrong(installed: WalSite) -> None:
    site = installed
    site.receive()
    site.write()
    site.site.cli("wal", "ship").expect(0)
    site.stop_receiver()
    # What was received and not shipped is lost, with the slot that kept it.
    with site.server.cluster().connect() as connection:
        wait_until(lambda: not site._slot_in_use(), "the slot to be free")
        connection.execute("SELECT pg_drop_replication_slot('twist_dr_erp')")
        for _ in range(3):
            connection.execute("SELECT pg_logical_emit_message(true, 'a', 'b'), pg_switch_wal()")
        connection.execute("CHECKPOINT")
        folder = site.spool.received(site.identifier)
        for path in folder.iterdir():
            path.unlink()
    site.receive()
    site.write()
    failed = site.site.job("ship_wal").expect(1)
    assert "lacks WAL from" in failed.text and "take a new base backup" in failed.text
    assert all(len(row.gaps) == 1 for row in site.site.catalog().wal_positions("erp"))


@pytest.fixture
def gapped(primary: PostgresServer, tmp_path: Path) -> Iterator[tuple[WalSite, Wal]]:
    """The target archive was away while segments 1 and 2 were shipped to office; segment 3 has just come."""
    with wal_site(primary, tmp_path, source="archive", required_targets=["office"]) as site:
        (tmp_path / "wal").mkdir()
        wal = make_wal(primary, tmp_path / "wal")
        site.spool.prepare()
        archived(site, wal, 0)
        site.ship()
        (tmp_path / "targets" / "archive").rename(tmp_path / "unplugged")
        archived(site, wal, 1, 2)
        site.ship(faultless=False)
        (tmp_path / "unplugged").rename(tmp_path / "targets" / "archive")
        archived(site, wal, 3)
        yield site, wal


def test_log_that_a_target_was_kept_without_for_a_while_is_no_gap_when_it_gets_it_again(
    primary: PostgresServer, tmp_path: Path
) -> None:
    """The others have it: that no storage target has it any more, which takes a new base backup, was not true."""
    with wal_site(primary, tmp_path, source="archive") as site:
        (tmp_path / "wal").mkdir()
        wal = make_wal(primary, tmp_path / "wal")
        site.spool.prepare()
        archived(site, wal, 0)
        site.ship()
        targets = site.site.document["storage_targets"]
        site.site.set(storage_targets={**targets, "archive": {**targets["archive"], "wal": False}})
        archived(site, wal, 1, 2)
        site.ship()
        site.site.set(storage_targets=targets)
        archived(site, wal, 3)
        shipped = site.ship()
        assert not shipped.gaps and shipped.targets["archive"].segments == 1
        assert recorded_gaps(site) == {"office": (), "archive": ()} and not site.warnings


def archived(site: WalSite, wal: Wal, *places: int) -> None:
    for place in places:
        shutil.copyfile(wal.paths[place], site.archived / wal.paths[place].name)


def shipped_with(site: WalSite, catalog: Catalog) -> Shipped:
    with Shipping(site.site.app(catalog=catalog)) as shipping:
        return shipping.once()


def recorded_gaps(site: WalSite) -> dict[str, tuple[Gap, ...]]:
    return {row.target: row.gaps for row in site.site.catalog().wal_positions("erp")}


def based(site: WalSite, wal: Wal, place: int, identifier: str | None = None) -> None:
    """A base backup on every target, from the beginning of a segment on."""
    started = datetime.now(timezone.utc)
    lsn = format_lsn(wal.segment(place).start)
    manifest = base_manifest(
        f"{started:%Y%m%dT%H%M%SZ}-base-{place:04x}", identifier or wal.identifier, 1, lsn, lsn, started, started, MB, wal.major
    )  # fmt: skip
    catalog = site.site.catalog()
    catalog.record_backup(manifest, manifest.seal(site.site.keyring.primary), run_id=None)
    for target in ("office", "archive"):
        catalog.record_copy(manifest.backup_id, target, state="checked", form="zstd+enc", stored_bytes=1)


def test_a_gap_is_recorded_by_the_next_round_that_finds_the_catalog(
    gapped: tuple[WalSite, Wal], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, wal = gapped
    monkeypatch.setattr(LocalOptions, "daily_upload_limit", 1 << 40)
    blocked = site.site.folder / "blocked"
    blocked.write_text("a file where the catalog's folder should be")
    assert shipped_with(site, Catalog(f"sqlite:///{blocked}/catalog.db")).gaps
    assert recorded_gaps(site)["archive"] == ()
    archived(site, wal, 4)
    shipped = site.ship()
    assert not shipped.gaps
    # What write-ahead log takes counts where a provider limits a day; that nobody could count it before stopped nothing.
    sent = {name: site.site.catalog().uploaded(name, since=datetime.now(timezone.utc)) for name in shipped.targets}
    assert sent == {name: outcome.stored_bytes for name, outcome in shipped.targets.items()} and all(sent.values())
    (gap,) = recorded_gaps(site)["archive"]
    assert gap == Gap(1, wal.segment(1).start, wal.segment(3).start)
    assert gap.sentence("archive") == f"archive lacks WAL from {format_lsn(gap.begin)} to {format_lsn(gap.end)}"
    # A catalog that was made anew learns it as well, and none learns it twice.
    for catalog in (site.site.catalog(), Catalog(f"sqlite:///{site.site.folder}/anew.db")):
        shipped_with(site, catalog)
        assert {row.target: row.gaps for row in catalog.wal_positions("erp")} == {"office": (), "archive": (gap,)}


def test_a_gap_of_the_cluster_before_is_none_of_the_new_one(gapped: tuple[WalSite, Wal], tmp_path: Path) -> None:
    site, wal = gapped
    site.ship(faultless=False)
    assert recorded_gaps(site)["archive"]
    with PostgresServer(TOOLS[min(TOOLS)], tmp_path / "anew", settings={"fsync": "off"}, options=SMALL) as server:
        site.point_at(server)
        (tmp_path / "newer").mkdir()
        newer = make_wal(server, tmp_path / "newer", 1)
        archived(site, newer, 0)
        site.ship()
    rows = site.site.catalog().wal_positions("erp")
    assert {row.system_identifier for row in rows} == {newer.identifier} != {wal.identifier}
    assert [row.gaps for row in rows] == [(), ()]


def test_a_round_without_anything_to_ship_tells_its_check_and_succeeds(
    primary: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wal_site(primary, tmp_path, source="archive") as site:
        for name, value in site.site.environment.items():
            monkeypatch.setenv(name, value)
        assert [ran(site) for _ in range(3)] == [(True, {"office": True, "archive": True}, set())] * 3
        (tmp_path / "wal").mkdir()
        wal = make_wal(primary, tmp_path / "wal", 1)
        archived(site, wal, 0)
        assert ran(site) == (True, {"office": True, "archive": True}, {"office", "archive"})
        assert ran(site) == (True, {"office": True, "archive": True}, set())


def ran(site: WalSite) -> tuple[bool, dict[str, bool], set[str]]:
    """Whether a run of the job succeeded, what its checks told of each target, and which assets it materialized."""
    from twist_dr.definitions import build_definitions

    job = build_definitions(site.site.app()).resolve_job_def("ship_wal")
    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(instance=instance, raise_on_error=False)
    told = {each.asset_key.path[-1]: each.passed for each in done.get_asset_check_evaluations()}
    shown = [event.asset_key for event in done.get_asset_materialization_events()]
    return done.success, told, {key.path[-1] for key in shown if key is not None}


def no_gap_by_sensor(site: WalSite) -> dict[str, bool]:
    """What the sensor tells of each target's check while a resident process ships."""
    told = by_sensor(site).asset_events
    return {each.asset_key.path[-1]: each.passed for each in told if isinstance(each, dg.AssetCheckEvaluation)}


def test_the_check_stays_red_while_there_is_a_gap_and_no_newer_base(
    gapped: tuple[WalSite, Wal], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, wal = gapped
    for name, value in site.site.environment.items():
        monkeypatch.setenv(name, value)
    red, green = {"office": True, "archive": False}, {"office": True, "archive": True}
    based(site, wal, 0)
    assert ran(site)[1] == red == no_gap_by_sensor(site)
    archived(site, wal, 4)
    assert ran(site)[1] == red == no_gap_by_sensor(site)
    # A base of another cluster begins no stretch of this one; one behind the gap does.
    based(site, wal, 5, identifier="7")
    assert no_gap_by_sensor(site) == red
    based(site, wal, 3)
    assert no_gap_by_sensor(site) == green
    archived(site, wal, 5)
    assert ran(site)[1] == green


def test_the_sensor_tells_of_a_resident_process_only_what_changed_or_keeps_the_asset_fresh(
    primary: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wal_site(primary, tmp_path) as site:
        for name, value in site.site.environment.items():
            monkeypatch.setenv(name, value)
        catalog, cursor = site.site.catalog(), ""
        begun = datetime(2026, 11, 21, tzinfo=timezone.utc)

        def told(seconds: int, lsn: str = "0/3000000", gaps: tuple[Gap, ...] = ()) -> int:
            nonlocal cursor
            at = begun + timedelta(seconds=seconds)
            catalog.record_wal_position(
                WalPositionRow("erp", "office", "7", 1, lsn, at, at, 0, 0.0, 0, gaps=gaps, error=None)
            )
            result = by_sensor(site, cursor)
            cursor = result.cursor or ""
            return len(result.asset_events)

        assert told(0) == 2
        # An idle server's ticks: its archive reaches for longer, which is told a few times within objectives.wal, of 15 minutes.
        assert [told(seconds) for seconds in range(60, 900, 60)].count(2) == 2
        assert told(900) == 2 and told(901) == 0
        assert told(902, lsn="0/4000000") == 2
        assert told(903, "0/4000000", (Gap(1, 1, 2),)) == 2
        assert told(904, "0/4000000", (Gap(1, 1, 2),)) == 0


def by_sensor(site: WalSite, cursor: str = "") -> dg.SensorResult:
    """What the sensor tells while a resident process ships."""
    from twist_dr.definitions import build_definitions

    settings = site.site.settings()
    sensor = build_definitions(application(settings)).resolve_sensor_def("ship_wal_sensor")
    with (
        FileLocks(settings.lock_dir, "erp").hold("Shipping WAL", scope=LOCK_SCOPE),
        dg.build_sensor_context(cursor=cursor) as context,
    ):
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def test_one_ships_at_a_time_and_the_resident_process_ends_when_asked(installed: WalSite) -> None:
    site = installed
    site.receive()
    with following(site) as process:
        site.write()
        end = position(site)
        wait_until(
            lambda: site.spool.state_path.exists() and "office" in site.spool.load_state().positions, "a round", 30
        )
        wait_until(
            lambda: site.position().lsn >= end and site.position("archive").lsn >= end, "the commit to be copied"
        )
        assert "Shipping WAL of erp cannot start" in site.site.cli("wal", "ship").expect(1).text
        assert "Shipping WAL" in site.site.job("ship_wal").expect(1).text
        # Trouble does not end it: a target is away and comes back.
        (site.site.folder / "targets" / "archive").rename(site.site.folder / "unplugged")
        site.write()
        end = position(site)
        wait_until(lambda: site.position().lsn >= end, "the other target")
        (site.site.folder / "unplugged").rename(site.site.folder / "targets" / "archive")
        wait_until(lambda: site.position("archive").lsn >= end, "the target that is back")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout is not None and "Traceback" not in process.stdout.read()
    site.site.cli("wal", "ship").expect(0)


def test_the_sensor_asks_for_a_run_only_when_there_is_something_to_ship(
    installed: WalSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = installed
    for name, value in site.site.environment.items():
        monkeypatch.setenv(name, value)
    from twist_dr.definitions import build_definitions

    sensor = build_definitions(site.site.app()).resolve_sensor_def("ship_wal_sensor")
    cursor = None

    def evaluated() -> object:
        nonlocal cursor
        with dg.build_sensor_context(cursor=cursor) as context:
            result = sensor(context)
            cursor = result.cursor if isinstance(result, dg.SensorResult) else context.cursor
        return result

    assert "empty" in str(evaluated())
    site.receive()
    site.write()
    assert isinstance(evaluated(), dg.RunRequest)
    site.site.cli("wal", "ship").expect(0)
    site.stop_receiver()
    evaluated()
    site.site.cli("wal", "ship").expect(0)
    # An idle server is looked at every few minutes only; the clock may have passed such a mark just now.
    assert any(isinstance(evaluated(), dg.SkipReason) for _ in range(2))
    # It may not have been the turn of a target that gets bundles: what was written last is owed to it.
    targets = site.site.document["storage_targets"]
    site.site.set(storage_targets={**targets, "archive": {**targets["archive"], "wal_bundle_seconds": 300}})
    sensor = build_definitions(site.site.app()).resolve_sensor_def("ship_wal_sensor")
    catalog = site.site.catalog()
    (row,) = (row for row in catalog.wal_positions("erp") if row.target == "archive")
    now = datetime.now(timezone.utc)
    catalog.record_wal_position(replace(row, at=now))
    assert any(isinstance(evaluated(), dg.SkipReason) for _ in range(2))
    catalog.record_wal_position(replace(row, at=now - timedelta(hours=1)))
    assert all(isinstance(evaluated(), dg.RunRequest) for _ in range(2))
    with following(site):
        lock = site.site.settings().lock_dir / "erp.wal.lock"
        wait_until(lambda: "Shipping WAL" in lock.read_text(), "the resident process", 30)
        shown: dict[str, int] = {}

        def is_shown() -> bool:
            result = evaluated()
            if isinstance(result, dg.SensorResult):
                for event in result.asset_events or ():
                    if isinstance(event, dg.AssetMaterialization):
                        shown[event.asset_key.path[-1]] = int(event.metadata["archived_lsn"].value)
                    else:
                        assert event.passed
            return set(shown) == {"office", "archive"}

        # Its archived positions go onto the pages of the assets, for it has no runs.
        wait_until(is_shown, "the sensor to notice", 30)
        assert max(shown.values()) <= site.position().lsn
