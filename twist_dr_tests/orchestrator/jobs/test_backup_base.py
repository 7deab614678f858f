"""``dagster job execute -j backup_base``, as a script runs it, beside ``twist-dr wal receive``."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from twist_dr.catalog import SealedBackup
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.recovery.planning import RecoveryRequest, plan_recovery
from twist_dr.recovery.status import wal_status
from twist_dr.repository.manifest import BaseFacts
from twist_dr.scrub.found import ScrubFinding
from twist_dr.scrub.wal import WalScrub
from twist_dr.scrub.wal_reading import WalObject
from twist_dr.verify.backup import verify
from twist_dr.wal.from_settings import Shipping
from twist_dr.watch.alerts.facts import gather
from twist_dr.watch.alerts.rules import findings
from twist_dr_tests.conftest import TOOLS, make_site
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import TWIST_DR, Site, start

NEWEST = max(TOOLS)


#: For tests that are about versions.
EVERY_VERSION = pytest.mark.parametrize(
    "source", sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}", indirect=True
)


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A server, the newest unless a test wants another, that summarizes its WAL where it can; its slots hold nothing back for ever."""
    major = getattr(request, "param", NEWEST)
    settings = {"fsync": "off", "max_slot_wal_keep_size": "1GB"}
    if major >= 17:
        settings["summarize_wal"] = "on"
    with tempfile.TemporaryDirectory(prefix="twist-dr-source-") as folder:
        Path(folder).chmod(0o755)
        with PostgresServer(TOOLS[major], Path(folder), settings=settings) as server:
            yield server


@pytest.fixture
def site(source: PostgresServer, tmp_path: Path) -> Iterator[Site]:
    """An installation that receives the WAL of its server, with a slot of its own."""
    installed = make_site(source, tmp_path)
    slot = f"slot_{abs(hash(tmp_path)):x}"
    installed.set(wal={"slot": slot})
    with receiving(installed):
        yield installed
    drop_slot(source, slot)


@contextmanager
def receiving(site: Site) -> Iterator[None]:
    """``twist-dr wal receive`` at work beside the block."""
    log = site.folder / "receive.log"
    with log.open("wb") as output:
        process = start([*TWIST_DR, "wal", "receive"], site.environment, site.folder, output)
        try:
            query = "SELECT active FROM pg_replication_slots WHERE slot_name = '{}'".format(
                site.document["wal"]["slot"]
            )
            wait_until(lambda: site.query(query) == [(True,)] or process.poll() is not None, "WAL to be received")
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(30)


def drop_slot(server: PostgresServer, slot: str) -> None:
    with server.cluster().connect() as connection:
        query = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
        wait_until(lambda: connection.execute(query.encode()).fetchall()[0][0] == 0, "the slot to be free")
        connection.execute(
            f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'".encode()
        )


def back_up(site: Site, **config: Any) -> Any:
    return site.job("backup_base", {"base_backup": {"config": config}} if config else None)


def latest(site: Site) -> tuple[SealedBackup, BaseFacts]:
    row = site.catalog().latest("erp", kind="base")
    assert row is not None and row.manifest.base is not None
    return row, row.manifest.base


def bases(site: Site, target: str = "office") -> list[str]:
    return [backup_id for backup_id in site.held(target) if "-base-" in backup_id]


@EVERY_VERSION
@pytest.mark.promise(1, 2)
def test_a_base_backup_reaches_every_target_with_the_log_that_it_needs(site: Site) -> None:
    back_up(site, label="pre-update", reason="before 1.5").expect(0)
    row, base = latest(site)
    assert (row.kind, row.label, row.reason, row.parts) == ("base", "pre-update", "before 1.5", ("cluster",))
    assert {copy.target: copy.state for copy in row.copies} == {"office": "checked", "archive": "checked"}
    assert bases(site) == bases(site, "archive") == [row.backup_id]
    assert row.manifest.tables["public.billing_invoice"] > 0 and "0003_rls" in row.manifest.migrations["billing"]
    assert base.restore_point_lsn is not None and not row.manifest.warnings
    assert site.staged() == [], "staging is cleared once every target has its copy"
    assert row.backup_id in site.cli("list").expect(0).text


def test_a_target_without_wal_has_what_its_base_backups_need_and_nobody_misses_more(
    site: Site, source: PostgresServer
) -> None:
    targets = site.document["storage_targets"]
    site.set(storage_targets={**targets, "archive": {**targets["archive"], "wal": False, "compression": "gzip"}})
    back_up(site).expect(0)
    row, base = latest(site)
    assert {copy.target: copy.state for copy in row.copies} == {"office": "checked", "archive": "checked"}
    with source.cluster().connect() as connection:
        connection.execute("SELECT pg_switch_wal()")
        connection.execute("CREATE TABLE later (words text)")
    app = site.app()

    def archived(target: str) -> set[str]:
        return {each.key for each in app.targets[target].list("erp/wal")}

    first = archived("archive")
    with Shipping(app) as shipping:
        wait_until(lambda: len(archived("office")) > 1 and shipping.once().errors == {}, "more WAL to be shipped")
        shipped = shipping.once()
    assert set(shipped.targets) == {"office"}
    assert archived("archive") == first and len(archived("office")) > len(first)
    start, last = parse_lsn(base.start_lsn), parse_lsn(base.last_lsn)
    assert len(first) <= (last - start) // base.wal_segment_size + 2

    proven = verify(app, row.backup_id, "archive")
    assert (proven.result.target, proven.result.verified) == ("archive", True)
    status = wal_status(app)
    assert not [line for line in status.warnings if "archive" in line]
    told = {each.name: each for each in status.targets}
    assert (told["archive"].gets_wal, len(told["archive"].ranges)) == (False, 1)
    now = datetime.now(timezone.utc) + timedelta(hours=2)
    found = findings(gather(app, now), app.settings, now)
    positions = {each.target for each in found if each.kind == "archived_position"}
    assert positions == {"office"}
    repositories = app.repositories()
    plans = {
        source: plan_recovery(
            RecoveryRequest("latest"), [repositories[name] for name in names], app.keyring, [], site.folder, app.report,
            now=datetime.now(timezone.utc),
        ).plan
        for source, names in {"archive alone": ["archive"], "both": ["archive", "office"]}.items()
    }  # fmt: skip
    assert plans["archive alone"].end_lsn < plans["both"].end_lsn
    asked: list[str] = []

    def repair(each: WalObject, *_: object) -> Future[ScrubFinding]:
        asked.append(each.name)
        return Future()

    office, archive = (app.repositories()[name] for name in ("office", "archive"))
    scrub = WalScrub(app, {}, repair)
    scrub.find_missing(archive, [office])
    assert asked == []
    gone = min(first)
    app.targets["archive"].delete(gone)
    scrub.find_missing(archive, [office])
    assert asked == [Path(gone).name[:24]], "what a base there needs is missed"


def test_a_base_is_never_taken_for_a_full_backup(site: Site) -> None:
    back_up(site).expect(0)
    assert "No storage target that answers holds a full backup" in site.verify().expect(1).text
    refused = site.replace().expect(1).text
    assert "knows no full backup of erp" in refused
    site.backup().expect(0)
    back_up(site).expect(0)
    assert "-full-" in site.latest().backup_id
    site.verify().expect(0)
    assert {copy.state for copy in site.latest().copies} == {"checked"}
    site.materialize("erp", "copies", "office").expect(0)


@EVERY_VERSION
def test_a_chain_grows_to_its_length_and_begins_anew(site: Site, source: PostgresServer) -> None:
    back_up(site).expect(0)
    first, _ = latest(site)
    back_up(site, max_chain=2).expect(0)
    second, base = latest(site)
    if source.major < 17:
        assert base.chain == [second.backup_id] and not second.manifest.warnings
        back_up(site, type="incremental").expect(0)
        assert "takes no incremental ones" in latest(site)[0].manifest.warnings[0]
        return
    assert (base.parent, base.chain) == (first.backup_id, [first.backup_id, second.backup_id])
    assert second.manifest.plain_bytes < first.manifest.plain_bytes / 2
    back_up(site, max_chain=2, type="differential").expect(0)
    short, base = latest(site)
    assert base.chain == [first.backup_id, short.backup_id] and not short.manifest.warnings
    assert (
        f"base backup, differential, builds upon {first.backup_id}\n"
        in site.cli("show", short.backup_id).expect(0).text
    )
    told = site.cli("diff", first.backup_id, short.backup_id).expect(0).text
    assert f"the schemas could not be compared: {first.backup_id}, {short.backup_id} have no dump" in told
    back_up(site, max_chain=2, type="incremental").expect(0)
    third, base = latest(site)
    assert base.chain == [third.backup_id] and not third.manifest.warnings
    back_up(site, type="full").expect(0)
    assert latest(site)[1].parent is None


def test_where_a_target_lacks_a_link_a_full_one_is_taken_and_said(site: Site) -> None:
    back_up(site, targets="office").expect(0)
    lonely, _ = latest(site)
    back_up(site).expect(0)
    row, base = latest(site)
    assert base.parent is None
    assert row.manifest.warnings == [
        f"cluster: a full base backup is taken, because archive lacks a checked copy of {lonely.backup_id}"
    ]
    assert bases(site, "archive") == [row.backup_id]


def test_an_incremental_copy_is_refused_where_its_parent_is_not(site: Site) -> None:
    back_up(site, targets="office").expect(0)
    parent, _ = latest(site)
    back_up(site, targets="office").expect(0)
    _, base = latest(site)
    assert base.parent == parent.backup_id
    refused = site.materialize("erp", "base_copies", "archive").expect(1).text
    assert f"builds upon {parent.backup_id}, which is not there" in refused
    assert bases(site, "archive") == []


@pytest.mark.promise(7)
def test_one_broken_target_stops_no_other_and_can_be_stored_later(site: Site) -> None:
    site.document["storage_targets"]["late"] = {"type": "local", "path": str(site.folder / "disk" / "late")}
    # Or the WAL would wait for it too.
    site.document["wal"]["required_targets"] = ["office", "archive"]
    site.save()
    outcome = back_up(site).expect(1)
    row, _ = latest(site)
    assert {copy.target: copy.state for copy in row.copies} == {
        "office": "checked",
        "archive": "checked",
        "late": "failed",
    }
    assert "is missing on 1 of 3 storage targets" in outcome.text and "key:erp/base_copies/late" in outcome.text
    assert site.staged() == [row.backup_id], "what a target still lacks is kept for the next attempt"


@pytest.mark.promise(8)
def test_kill_9_leaves_nothing_that_lists_as_a_backup_and_the_next_run_clears_it(site: Site) -> None:
    run = site.start("backup_base")
    staging = site.folder / "work" / "staging" / "erp"
    deadline = time.monotonic() + 60
    while not list(staging.glob("*-base-*/base.tar*")):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert bases(site) == bases(site, "archive") == []
    assert len(site.staged()) == 1
    outcome = back_up(site).expect(0)
    assert "removed the incomplete backup" in outcome.text
    assert site.staged() == [] and len(bases(site)) == 1


@pytest.mark.promise(6)
def test_no_secret_is_told(site: Site) -> None:
    password = site.database_url.split(":")[2].split("@")[0]
    outcome = back_up(site).expect(0)
    row, _ = latest(site)
    assert password not in outcome.text
    assert password.encode() not in row.sealed


def test_a_misspelt_target_is_refused_before_anything_is_made(site: Site) -> None:
    refused = back_up(site, targets="office, moon").expect(1).text
    assert "moon is no enabled storage target; choose among office, archive" in refused
    assert site.staged() == []
