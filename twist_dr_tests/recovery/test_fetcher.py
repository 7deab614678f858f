"""What restore_command says, as the shell runs it: 0 for good WAL in its place, 1 for what the plan does not need, 255 for all else."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from twist_dr.recovery import fetcher as module
from twist_dr.recovery.fetcher import Fetcher
from twist_dr.recovery.plan import RecoveryPlan
from twist_dr.recovery.restore_command import RESTORE_COMMAND
from twist_dr.recovery.tablespace_guard import across, created_tablespaces, edges
from twist_dr.recovery.untar import Owner
from twist_dr.wal.names import Segment
from twist_dr_tests.primaries import MB
from twist_dr_tests.recovery.world import PlainArchives, World, archives_of


class Asked:
    """A fetcher, and a shell that asks it as PostgreSQL would."""

    def __init__(self, plan: RecoveryPlan, archives: PlainArchives, folder: Path, ahead: int = 16) -> None:
        self.data = folder / "data"
        (self.data / "pg_wal").mkdir(parents=True)
        self.ready = folder / "ready"
        self.fetcher = Fetcher(plan, archives, folder, self.data, Owner(), ahead=ahead)  # type: ignore[arg-type]
        self.connection = self.fetcher.connect()
        _OPEN.append(self.connection)

    def ask(self, name: str, path: str = "pg_wal/RECOVERYXLOG") -> int:
        command = RESTORE_COMMAND.replace("%f", name).replace("%p", path)
        return subprocess.run(["sh", "-c", command], stdin=self.connection, cwd=self.data, timeout=20).returncode

    @property
    def given(self) -> Path:
        return self.data / "pg_wal" / "RECOVERYXLOG"


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.05,))


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    yield
    while _OPEN:
        _OPEN.pop().close()


_OPEN: list[socket.socket] = []


@pytest.fixture
def asked(newest_world: World, tmp_path: Path) -> Iterator[Asked]:
    asked = Asked(newest_world.plan(), archives_of(newest_world.primary), tmp_path, ahead=2)
    with asked.fetcher:
        yield asked


def test_segments_of_the_plan_are_given_in_any_order_and_again(asked: Asked, newest_world: World) -> None:
    names = [segment.name for segment in newest_world.plan().segments]
    for name in [names[3], names[0], names[1], names[1], names[2], names[3], names[0]]:
        assert asked.ask(name) == 0
        assert asked.given.read_bytes() == (newest_world.primary.archive / name).read_bytes()


def test_what_the_server_still_has_is_not_fetched_again(asked: Asked, newest_world: World) -> None:
    name = newest_world.plan().segments[0].name
    assert asked.ask(name) == 0
    asked.given.rename(asked.data / "pg_wal" / name)
    assert asked.ask(name) == 0
    assert asked.fetcher.served.segments == 1
    # Reused by PostgreSQL under another name, and another file under this one: not ours any more.
    (asked.data / "pg_wal" / name).unlink()
    (asked.data / "pg_wal" / name).write_bytes(b"other")
    assert asked.ask(name) == 0
    assert asked.given.stat().st_size == MB


def test_a_link_in_the_place_of_the_servers_log_has_nothing_put_or_removed_elsewhere(
    asked: Asked, newest_world: World, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("RECOVERYXLOG", "RECOVERYHISTORY"):
        (elsewhere / name).write_text("not ours")
    (asked.data / "pg_wal").rename(asked.data / "moved")
    (asked.data / "pg_wal").symlink_to(elsewhere)
    assert asked.ask(newest_world.plan().segments[0].name) == 255
    assert asked.ask("00000002.history", "pg_wal/RECOVERYHISTORY") == 255
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == dict.fromkeys(
        ("RECOVERYXLOG", "RECOVERYHISTORY"), "not ours"
    )


def test_only_as_many_as_wished_lie_ready(asked: Asked, newest_world: World) -> None:
    time.sleep(0.3)
    assert len(list(asked.ready.iterdir())) == 2
    assert asked.ask(newest_world.plan().segments[0].name) == 0
    time.sleep(0.2)
    assert len(list(asked.ready.iterdir())) == 2


def test_what_the_plan_does_not_hold_is_absent_and_what_is_no_wal_is_an_error(
    asked: Asked, newest_world: World
) -> None:
    last = newest_world.plan().segments[-1]
    for absent in (last.next.name, f"00000002{last.name[8:]}", "000000FF0000000000000001"):
        assert asked.ask(absent) == 1
    assert asked.ask("00000002.history", "pg_wal/RECOVERYHISTORY") == 1
    for unknown in ("backup_label", "../secrets", "00000001000000000000000Z"):
        assert asked.ask(unknown) == 255
    assert asked.ask(newest_world.plan().segments[0].name, "../../elsewhere") == 255


def test_a_history_of_the_plan_that_is_missing_is_an_error_and_not_an_absence(
    newest_world: World, tmp_path: Path
) -> None:
    asked = Asked(replace(newest_world.plan(), histories=(2,)), newest_world.copied_archive(tmp_path), tmp_path)
    with asked.fetcher:
        assert asked.ask("00000002.history", "pg_wal/RECOVERYHISTORY") == 255
        assert "00000002.history" in asked.fetcher.trouble()


def test_a_segment_that_comes_back_in_time_is_given(newest_world: World, tmp_path: Path) -> None:
    archives = newest_world.copied_archive(tmp_path)
    path = archives.folder / newest_world.plan().segments[0].name
    content = path.read_bytes()
    path.unlink()
    asked = Asked(newest_world.plan(), archives, tmp_path)
    with asked.fetcher:
        time.sleep(0.3)
        path.write_bytes(content)
        assert asked.ask(path.name) == 0


def test_a_fetcher_that_is_gone_is_an_error(asked: Asked, newest_world: World) -> None:
    asked.fetcher.close()
    assert asked.ask(newest_world.plan().segments[0].name) == 255


def test_a_fetcher_that_goes_while_it_is_asked_is_an_error(newest_world: World, tmp_path: Path) -> None:
    archives = archives_of(newest_world.primary)
    archives.delay = 2.0
    asked = Asked(newest_world.plan(), archives, tmp_path)
    command = RESTORE_COMMAND.replace("%f", newest_world.plan().segments[0].name).replace("%p", "pg_wal/RECOVERYXLOG")
    with subprocess.Popen(["sh", "-c", command], stdin=asked.connection, cwd=asked.data) as shell:
        time.sleep(0.3)
        asked.fetcher.close()
        assert shell.wait(10) == 255


def _record(path: bytes) -> bytes:
    data = struct.pack("<I", 16400) + path + b"\0"
    return struct.pack("<IIQBBHI", 26 + len(data), 700, 0x3000028, 0, 5, 0, 0xDEADBEEF) + bytes([255, len(data)]) + data


@pytest.mark.parametrize("at", [100, 8192 - 30, 8192 - 20, 8192 - 60, 5 * 8192 - 40, MB - 100])
def test_a_tablespace_made_in_a_segment_is_found_wherever_its_record_lies(tmp_path: Path, at: int) -> None:
    record = _record(b"/srv/live/space")
    content = bytearray(MB)
    # As the server lays a record out: what reaches over a page's end goes on behind the next page's header.
    first = min(len(record), 8192 - at % 8192)
    content[at : at + first] = record[:first]
    content[at + first + 24 : at + 24 + len(record)] = record[first:]
    path = tmp_path / "segment"
    path.write_bytes(content[:MB])
    found = created_tablespaces(path, Segment(1, 3, MB))
    assert [place for _, place in found] == ["/srv/live/space"]


def test_a_tablespace_made_across_two_segments_is_found(tmp_path: Path) -> None:
    record = _record(b"/srv/live/space")
    (tmp_path / "a").write_bytes(bytes(MB - 30) + record[:30])
    (tmp_path / "b").write_bytes(bytes(40) + record[30:] + bytes(MB - 40 - len(record) + 30))
    last, first = edges(tmp_path / "a", MB)[1], edges(tmp_path / "b", MB)[0]
    assert across(last, first) == ["/srv/live/space"]
