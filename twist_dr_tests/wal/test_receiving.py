"""Receiving from real servers with real processes: what was acknowledged is received, whatever dies, and what is lost is said."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from twist_dr.errors import DatabaseError
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.postgres.tools import find_tools
from twist_dr.system.progress import Lines, Report
from twist_dr.wal.primary import Primary
from twist_dr.wal.receiving import Receiver
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import runs, wait_until
from twist_dr_tests.servers import PostgresServer, standby_of
from twist_dr_tests.site import ROOT
from twist_dr_tests.wal.wal_files import MB, Round, Wal, current_lsn, holdings, one, plain
from twist_dr_tests.wal_site import WalSite, wal_site

SMALL = ["--wal-segsize=1"]
SLOT = "twist_dr_erp"


@pytest.fixture
def receiving(small_server: PostgresServer, tmp_path: Path) -> Iterator[WalSite]:
    """An installation whose receiver runs."""
    with wal_site(small_server, tmp_path) as site:
        site.receive()
        yield site


def dumped(site: WalSite, folder: Path, timeline: int = 1) -> list[str]:
    """What pg_waldump finds in everything that the target holds of a timeline: it stops at the first hole."""
    target = site.target("office")
    held = holdings(target, site.identifier)
    folder.mkdir()
    pieces = {segment: each.key for segment, each in held.segments.items()}
    pieces |= {partial.segment: each.key for partial, each in held.partials.items() if partial.size}
    mine = sorted(segment for segment in pieces if segment.timeline == timeline)
    for segment in mine:
        data = plain(target, site.identifier, pieces[segment], site.site.keyring)
        (folder / segment.name).write_bytes(data.ljust(MB, b"\0"))
    done = subprocess.run(
        [site.server.tools.program("pg_waldump"), f"--path={folder}", mine[0].name, mine[-1].name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.splitlines()


def commits(lines: list[str]) -> int:
    return sum("rmgr: Transaction" in line and "COMMIT" in line for line in lines)


def test_every_row_that_was_acknowledged_before_the_claim_is_in_the_archive(receiving: WalSite, tmp_path: Path) -> None:
    site = receiving
    with site.server.cluster().connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS load (n int, at timestamptz)")
        stop = threading.Event()
        acknowledged: list[tuple[int, float]] = []

        def write() -> None:
            number = 0
            while not stop.wait(0.003):
                number += 1
                connection.execute("INSERT INTO load VALUES (%s, clock_timestamp())", [number])
                acknowledged.append((number, time.time()))

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(3):
            time.sleep(0.2)
            site.ship()
        stop.set()
        writer.join()
    (partial,) = [partial for partial in holdings(site.target("office"), site.identifier).partials if partial.size]
    assert partial.claim is not None
    before = [number for number, at in acknowledged if at < partial.claim.timestamp()]
    assert len(before) > 20
    lines = dumped(site, tmp_path / "dump")
    # Each of them is a transaction of its own: its insert and its commit.
    relation = one(site.server, "SELECT relfilenode FROM pg_class WHERE relname = 'load'")
    transactions = {
        m[1] for line in lines if f"/{relation} " in line and "INSERT" in line and (m := re.search(r"tx: +(\d+)", line))
    }
    committed = {m[1] for line in lines if "COMMIT" in line and (m := re.search(r"tx: +(\d+)", line))}
    assert len(transactions & committed) >= len(before)


def test_the_receiver_killed_and_begun_again_leaves_no_gap(receiving: WalSite, tmp_path: Path) -> None:
    site = receiving
    site.write()
    pg_receivewal = site.pg_receivewal()
    site.receiver.send_signal(signal.SIGKILL)
    wait_until(lambda: not runs(pg_receivewal), "pg_receivewal to end with its maker")
    for _ in range(3):
        site.write()
        one(site.server, "SELECT pg_switch_wal()")
    last = current_lsn(site.server)
    site.receive()
    # Ended by itself, as a package update does.
    os.kill(site.pg_receivewal(), signal.SIGKILL)
    site.write()
    assert site.reaches(last)
    assert commits(dumped(site, tmp_path / "dump")) >= 5


def test_a_server_that_restarts_is_received_from_again(tmp_path: Path) -> None:
    server = PostgresServer(TOOLS[max(TOOLS)], tmp_path / "pg", options=SMALL)
    with server, wal_site(server, tmp_path / "site") as site:
        site.receive()
        site.write()
        assert site.reaches(current_lsn(server))
        server.crash()
        # While it is down, what was received is shipped all the same.
        site.ship()
        assert any("cannot be compared" in line for line in site.warnings)
        server.start()
        site.write()
        assert site.reaches(current_lsn(server), seconds=40)


def test_a_spool_that_cannot_be_used_is_said_and_receiving_goes_on_when_it_can(
    small_server: PostgresServer, tmp_path: Path
) -> None:
    with wal_site(small_server, tmp_path) as site:
        received = site.spool.root / "received"
        received.parent.mkdir(parents=True)
        received.write_text("a file in the place of the folder")
        site.start_receiver()
        wait_until(lambda: "Receiving into" in site.said(), "the receiver to say it", 30)
        assert str(received) in site.said() and "tried again" in site.said() and "Traceback" not in site.said()
        received.unlink()
        wait_until(lambda: site._slot_in_use(), "the receiver to receive", 30)


def test_a_dropped_slot_is_made_anew(receiving: WalSite) -> None:
    site = receiving
    site.write()
    assert site.reaches(current_lsn(site.server))
    site.stop_receiver()
    wait_until(
        lambda: one(site.server, f"SELECT active FROM pg_replication_slots WHERE slot_name = '{SLOT}'") == "False",
        "the slot to be free",
    )
    one(site.server, f"SELECT pg_drop_replication_slot('{SLOT}')::text")
    site.receive()
    site.write()
    assert site.reaches(current_lsn(site.server))
    assert site.said().count("made the replication slot") == 2


def test_an_invalidated_slot_is_said_made_anew_and_the_gap_is_recorded(server: PostgresServer, tmp_path: Path) -> None:
    settings = {"max_slot_wal_keep_size": "2MB", "max_wal_size": "4MB", "min_wal_size": "2MB"}
    small = PostgresServer(TOOLS[server.major], tmp_path / "pg", settings=settings, options=SMALL)
    with small, wal_site(small, tmp_path / "site") as site:
        site.receive()
        site.write()
        reached = current_lsn(small)
        assert site.reaches(reached)
        site.stop_receiver()
        for _ in range(8):
            site.write()
            one(small, "SELECT pg_switch_wal()")
        with small.cluster().connect() as connection:
            connection.execute("CHECKPOINT")
        assert one(small, "SELECT wal_status FROM pg_replication_slots") == "lost"
        site.receive()
        site.write()
        end = current_lsn(small)
        wait_until(lambda: "was invalidated by the server" in site.said(), "the receiver to say it")
        assert site.reaches(end, faultless=False)
        gaps = site.site.catalog().wal_positions("erp")[0].gaps
        (gap,) = gaps
        until = gap.end
        assert gap.begin >= reached and until % MB == 0 and until > gap.begin + 4 * MB
        # What was received before is on the target up to where the gap begins.
        held = holdings(site.target("office"), site.identifier)
        assert max(partial.end for partial in held.partials if partial.end < until) >= reached
        site.ship()


def test_a_server_that_writes_too_little_is_refused_with_what_to_set(tmp_path: Path) -> None:
    settings = {"wal_level": "minimal", "max_wal_senders": "0", "fsync": "off"}
    server = PostgresServer(TOOLS[max(TOOLS)], tmp_path / "pg", settings=settings, options=SMALL)
    with server, wal_site(server, tmp_path / "site") as site:
        site.start_receiver()
        wait_until(lambda: "set wal_level = replica" in site.said(), "the sentence")
        assert site.receiver.poll() is None  # it goes on as soon as that is done


def test_another_receiver_of_the_same_slot_is_said(receiving: WalSite, tmp_path: Path) -> None:
    assert "Receiving WAL of erp cannot start" in receiving.site.cli("wal", "receive").expect(1).text
    with wal_site(receiving.server, tmp_path / "second") as second:
        second.start_receiver()
        wait_until(lambda: "is in use: another receiver runs" in second.said(), "the sentence")


def test_a_promotion_is_followed_and_both_timelines_and_the_history_arrive(
    server: PostgresServer, tmp_path: Path
) -> None:
    primary = PostgresServer(TOOLS[server.major], tmp_path / "pg", settings={"fsync": "off"}, options=SMALL)
    with primary, wal_site(primary, tmp_path / "site") as site:
        site.receive()
        site.write()
        one(primary, "SELECT pg_switch_wal()")
        site.write()
        standby = standby_of(primary, tmp_path / "standby", settings={"fsync": "off"})
        try:
            site.write()
            end = current_lsn(primary)
            assert site.reaches(end)
            wait_until(lambda: parse_lsn(one(standby, "SELECT pg_last_wal_replay_lsn()")) >= end, "the standby")
            # A standby as source claims no more than it has replayed.
            asked = Primary(standby.cluster(), SLOT)
            sample = asked.ask()
            asked.close()
            assert sample.in_recovery and sample.timeline == 1 and sample.at is not None
            assert f"{sample.at:%s.%f}" <= one(primary, "SELECT extract(epoch FROM clock_timestamp())::text")
            primary.crash()
            one(standby, "SELECT pg_promote()")
            site.point_at(standby)
            wait_until(
                lambda: "timeline 2" in site.said() or "timeline 1" in site.said().rpartition("receiving from")[2],
                "the receiver",
            )
            site.write(standby)
            one(standby, "SELECT pg_switch_wal()")
            site.write(standby)
            assert site.reaches(current_lsn(standby), timeline=2, seconds=40)
            held = holdings(site.target("office"), site.identifier)
            assert held.histories == {2} and {each.timeline for each in held.segments} == {1, 2}
            assert not site.site.catalog().wal_positions("erp")[0].gaps
            assert commits(dumped(site, tmp_path / "dump", 2)) >= 1
        finally:
            standby.close()


def test_another_cluster_under_the_same_url_is_said_and_archived_apart(tmp_path: Path) -> None:
    first = PostgresServer(TOOLS[max(TOOLS)], tmp_path / "first", settings={"fsync": "off"}, options=SMALL)
    with first, wal_site(first, tmp_path / "site") as site:
        site.receive()
        site.write()
        assert site.reaches(current_lsn(first))
        before = site.identifier
        first.close()
        with PostgresServer(TOOLS[min(TOOLS)], tmp_path / "second", settings={"fsync": "off"}, options=SMALL) as second:
            site.point_at(second)
            site.write(second)
            assert site.reaches(current_lsn(second))
            position = site.site.catalog().wal_positions("erp")[0]
            assert position.system_identifier == site.identifier != before and not position.gaps
            clusters = {path.name for path in (site.site.folder / "targets" / "office" / "erp" / "wal").iterdir()}
            assert clusters == {before, site.identifier}


def test_a_primary_that_was_behind_and_was_promoted_is_followed(tmp_path: Path) -> None:
    """The failover that loses WAL: what was received goes further than the new primary's history."""
    primary = PostgresServer(TOOLS[max(TOOLS)], tmp_path / "pg", settings={"fsync": "off"}, options=SMALL)
    with primary, wal_site(primary, tmp_path / "site") as site:
        site.receive()
        site.write()
        standby = standby_of(primary, tmp_path / "standby", settings={"fsync": "off"})
        try:
            one(standby, "SELECT pg_wal_replay_pause()::text")
            standby.stop()
            for _ in range(3):
                site.write()
                one(primary, "SELECT pg_switch_wal()")
            site.write()
            assert site.reaches(current_lsn(primary))
            primary.crash()
            standby.start({"fsync": "off", "primary_conninfo": ""})
            one(standby, "SELECT pg_promote()")
            site.point_at(standby)
            site.write(standby)
            wait_until(lambda: "has another history than what was received" in site.said(), "the sentence", 30)
            site.write(standby)
            assert site.reaches(current_lsn(standby), timeline=2, seconds=40, faultless=False)
            # What only the lost primary had is still there to look at.
            held = holdings(site.target("office"), site.identifier)
            assert held.histories == {2} and 1 in held.timelines
        finally:
            standby.close()


def test_a_full_spool_is_named_by_the_receiver_which_goes_on_when_there_is_space(
    small_server: PostgresServer, tmp_path: Path
) -> None:
    from twist_dr_tests.storage.conftest import mounted_tmpfs

    lines: list[str] = []
    with mounted_tmpfs(tmp_path / "disk", "size=512k") as disk:
        made, stop = Round(disk), threading.Event()
        receiver = Receiver(
            small_server.cluster(), "full_disk", made.spool, find_tools(), Report(Lines(warning=lines.append))
        )
        thread = threading.Thread(target=receiver.run, args=[stop])
        thread.start()
        try:
            wait_until(
                lambda: any(f"The disk of {made.spool.root} is full" in line for line in lines),
                f"the sentence: {lines}",
            )
            subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
            one(small_server, "SELECT pg_switch_wal()")
            folder = made.spool.root / "received"
            # By names: a file that is looked at may get its final name meanwhile.
            wait_until(lambda: any(len(path.name) == 24 for path in folder.rglob("0000*")), "a whole segment")
        finally:
            stop.set()
            thread.join()
    wait_until(
        lambda: one(small_server, "SELECT active FROM pg_replication_slots WHERE slot_name = 'full_disk'") != "True",
        "the slot",
    )
    one(small_server, "SELECT pg_drop_replication_slot('full_disk')::text")


# -- what the primary says ----------------------------------------------------------------------------------------------------


def test_the_claim_comes_even_when_the_last_record_ends_a_segment_or_a_page(small_server: PostgresServer) -> None:
    primary = Primary(small_server.cluster(), "none")
    try:
        one(small_server, "SELECT pg_switch_wal()")
        sample = primary.ask()
        # The server counts the header of the page that it will begin some day; no receiver will ever have that.
        assert sample.lsn % MB == 0 and sample.lsn == current_lsn(small_server) and sample.slot is None
        assert sample.timeline == 1 and sample.segment_size == MB and not sample.in_recovery
        one(small_server, "SELECT pg_logical_emit_message(true, 'a', 'b')")
        assert primary.ask().lsn == current_lsn(small_server)
    finally:
        primary.close()


def test_a_server_that_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twist_dr.wal.primary._ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("twist_dr.postgres.cluster._CONNECT_TIMEOUT_SECONDS", 2)
    server = PostgresServer(TOOLS[max(TOOLS)], tmp_path / "pg", settings={"fsync": "off"}, options=SMALL)
    with server:
        primary = Primary(server.cluster(), "none")
        primary.ask()
        assert primary._connection is not None
        backend = primary._connection.info.backend_pid
        processes = [server._child.process.pid, backend]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(DatabaseError):
                primary.ask()
            assert time.monotonic() - begun < 6
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)
        assert primary.ask().lsn
        primary.close()


# -- the other way in: the server's archiver --------------------------------------------------------------------------------


def wake(server: PostgresServer) -> None:
    """The checkpointer may have gone to sleep while the server was still starting: archive_timeout then counts from its next turn."""
    with server.cluster().connect() as connection:
        connection.execute("CHECKPOINT")


@contextmanager
def archiving(server_tools_major: int, folder: Path, way: str) -> Iterator[WalSite]:
    """A server that archives into the spool by itself."""
    with PostgresServer(TOOLS[server_tools_major], folder / "pg", settings={"fsync": "off"}, options=SMALL) as server:  # noqa: SIM117
        with wal_site(server, folder / "site", source="archive", spool=str(server.base / "spool")) as site:
            archived = site.open_archived()
            script = server.base / "archive-to-spool.sh"
            shutil.copyfile(ROOT / "twist_dr" / "templates" / "archive-to-spool.sh", script)
            script.chmod(0o755)
            server.stop()
            settings = {"archive_mode": "on", "fsync": "off", "archive_timeout": "1s"}
            if way == "basic_archive":
                settings |= {"archive_library": "basic_archive", "basic_archive.archive_directory": str(archived)}
            else:
                settings |= {"archive_command": f"{script} %p %f {archived}"}
            server.start(settings)
            wake(server)
            yield site


@pytest.mark.parametrize("way", ["basic_archive", "archive-to-spool.sh"])
def test_the_archiver_fills_the_spool_durably_and_a_crash_between_copy_and_acknowledge_wedges_nothing(
    server: PostgresServer, tmp_path: Path, way: str
) -> None:
    with archiving(server.major, tmp_path, way) as site:
        site.write()
        last = current_lsn(site.server)
        assert site.reaches(last, seconds=20)
        # The server dies before it has noted that the last segment was archived: it archives that one again.
        site.write()
        one(site.server, "SELECT pg_switch_wal()")
        wait_until(lambda: any(site.archived.iterdir()), "the archiver")
        site.server.crash()
        status = site.server.base / "data" / "pg_wal" / "archive_status"
        for done in status.glob("*.done"):
            done.rename(done.with_suffix(".ready"))
        before = {path.name for path in site.archived.iterdir()}
        site.server.start()
        wake(site.server)
        site.write()
        assert site.reaches(current_lsn(site.server), seconds=20)
        assert before and not site.site.catalog().wal_positions("erp")[0].gaps
        failed = one(site.server, "SELECT failed_count FROM pg_stat_archiver")
        assert failed == "0" and not list(site.archived.glob(".*"))
        position = site.position()
        assert position.at is not None


def script(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    path = ROOT / "twist_dr" / "templates" / "archive-to-spool.sh"
    return subprocess.run(
        ["sh", path, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_given_archive_command_never_overwrites_and_never_says_success_too_early(wal: Wal, tmp_path: Path) -> None:
    source, spool = wal.paths[0], tmp_path / "archived"
    assert script(source, source.name, spool).returncode == 1
    spool.mkdir()
    (spool / f".archiving.{source.name}.1").write_bytes(b"half of it")
    for _ in range(2):
        assert script(source, source.name, spool).returncode == 0
        assert [path.name for path in spool.iterdir()] == [source.name]
        assert (spool / source.name).read_bytes() == source.read_bytes()
    refused = script(wal.paths[1], source.name, spool)
    assert refused.returncode == 1 and "has other bytes" in refused.stderr
    assert (spool / source.name).read_bytes() == source.read_bytes()
    assert script(tmp_path / "none", source.name, spool).returncode == 1
    assert script(source).returncode == 1


def test_the_given_archive_command_fails_when_the_copy_fails_or_cannot_be_made_durable(
    wal: Wal, tmp_path: Path
) -> None:
    spool, programs = tmp_path / "archived", tmp_path / "programs"
    spool.mkdir()
    programs.mkdir()
    for name, body in {"cp": "exit 126", "sync": "exit 1", "mv": "exit 127"}.items():
        program = programs / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        done = script(wal.paths[0], wal.paths[0].name, spool, PATH=f"{programs}:{os.environ['PATH']}")
        # Never 126 or more: PostgreSQL would not count those as failures.
        assert done.returncode == 1 and done.stderr, name
        assert not list(spool.iterdir()), name
        program.unlink()
