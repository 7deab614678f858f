"""How fast bytes go to a target: measured where they arrive, and on a clock of the test's own."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from twist_dr.doctor.targets import check_bandwidth
from twist_dr.errors import Cancelled
from twist_dr.settings.building import build_targets
from twist_dr.storage.limits import Bandwidth, Clock, Rate, Rates
from twist_dr.storage.local import LocalTarget
from twist_dr.storage.patience import patient
from twist_dr_tests.settings.test_settings import good, mistakes, parsed
from twist_dr_tests.storage.conftest import PART, MakeFile, s3_place, sftp_place
from twist_dr_tests.storage.proxy import Proxy
from twist_dr_tests.storage.servers import S3Server, SftpServer

MIB = 1 << 20
KEY = "erp/backups/x/database.dump"


class Hands:
    """A clock that passes only when somebody sleeps."""

    def __init__(self, now: datetime = datetime(2026, 11, 30, 12, tzinfo=timezone.utc)) -> None:
        self.passed = 0.0
        self._begun = now
        self.clock = Clock(lambda: self.passed, lambda: self._begun + timedelta(seconds=self.passed), self.sleep)

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


def rates(given: Any) -> tuple[Rate, ...]:
    return TypeAdapter(Rates).validate_python(given)


def test_bytes_go_at_the_rate_and_a_pause_is_not_caught_up() -> None:
    hands = Hands()
    bandwidth = Bandwidth(rates(10), clock=hands.clock)
    for _ in range(100):
        bandwidth.wait_for(MIB)
    assert hands.passed == pytest.approx(10, abs=0.5)
    hands.passed += 3600
    for _ in range(100):
        bandwidth.wait_for(MIB)
    assert hands.passed == pytest.approx(3620, abs=1)


def test_small_pieces_together_are_as_slow_as_large_ones() -> None:
    hands = Hands()
    bandwidth = Bandwidth(rates(0.1), clock=hands.clock)
    for _ in range(640):
        bandwidth.wait_for(16 << 10)
    assert hands.passed == pytest.approx(100, abs=1)


def test_a_rate_of_other_hours_begins_in_the_middle_of_a_transfer() -> None:
    """In Berlin it is one hour later than in UTC."""
    hands = Hands(datetime(2026, 11, 30, 16, 59, 50, tzinfo=timezone.utc))
    hours = [{"from": "08:00", "to": "18:00", "rate": 1}, {"from": "18:00", "to": "08:00", "rate": 10}]
    bandwidth = Bandwidth(rates(hours), "Europe/Berlin", clock=hands.clock)
    for _ in range(110):
        bandwidth.wait_for(MIB)
    assert hands.passed == pytest.approx(20, abs=2)
    open_evening = Bandwidth(rates(hours[:1]), "Europe/Berlin", clock=hands.clock)
    assert open_evening.rate() is None


def test_processes_that_share_a_file_share_the_rate(tmp_path: Path) -> None:
    hands, file = Hands(), tmp_path / "targets" / "x.bandwidth"
    both = [Bandwidth(rates(10), shared=file, clock=hands.clock) for _ in range(2)]
    for _ in range(50):
        for each in both:
            each.wait_for(MIB)
    assert hands.passed == pytest.approx(10, abs=0.5)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize(
    "content", ["", "garbage", "another-boot 99999999999999.0", "{boot} inf", "{boot} nan", "\0\0"]
)
def test_a_file_that_says_nothing_holds_nobody_up(tmp_path: Path, content: str) -> None:
    hands, file = Hands(), tmp_path / "x.bandwidth"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    file.write_text(content.replace("{boot}", boot))
    Bandwidth(rates(10), shared=file, clock=hands.clock).wait_for(MIB)
    assert hands.passed < 1


def test_a_folder_that_cannot_be_written_to_slows_each_process_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    hands = Hands()
    bandwidth = Bandwidth(rates(10), shared=tmp_path / "file" / "x.bandwidth", clock=hands.clock)
    for _ in range(100):
        bandwidth.wait_for(MIB)
    assert hands.passed == pytest.approx(10, abs=0.5)


def test_what_arrives_at_a_store_from_several_connections_and_two_processes_keeps_within_the_rate(
    moto: S3Server, moto_proxy: Proxy, make_file: MakeFile, tmp_path: Path
) -> None:
    """By any moment no more has come than the rate allows since the beginning; reading back is as fast as it goes."""
    place = s3_place(moto, endpoint_url=moto_proxy.endpoint)
    writers = [place.target(), place.target()]
    files = [make_file(2 * PART) for _ in writers]
    for writer in writers:
        writer.prepare()
        writer.bandwidth = Bandwidth(rates(10), shared=tmp_path / "x.bandwidth")
    moto_proxy.arrived.clear()
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        for each in [
            pool.submit(writer.put, source, f"{KEY}.{number}", digest)
            for number, (writer, (source, digest)) in enumerate(zip(writers, files, strict=True))
        ]:
            each.result()
    total = 0
    for moment, count in moto_proxy.arrived:
        total += count
        # A quarter of a second is caught up, another one asked for at once by each of the two.
        assert total <= 10 * MIB * (moment - begun + 0.75) + 4 * (64 << 10)
    assert total >= 4 * PART


@contextmanager
def counting_relay(port: int) -> Iterator[tuple[int, list[tuple[float, int]]]]:
    """A port that leads to another one of this machine; when how many bytes arrived there to be sent on."""
    arrived: list[tuple[float, int]] = []

    def pass_on(from_: socket.socket, to: socket.socket, note: bool) -> None:
        with suppress(OSError):
            while data := from_.recv(64 << 10):
                if note:
                    arrived.append((time.monotonic(), len(data)))
                to.sendall(data)
        with suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    def serve_one(here: socket.socket) -> None:
        with here, socket.create_connection(("127.0.0.1", port)) as there:
            back = threading.Thread(target=pass_on, args=(there, here, False), daemon=True)
            back.start()
            pass_on(here, there, True)
            back.join()

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve_one, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1], arrived
        listening.shutdown(socket.SHUT_RDWR)


def test_rclone_keeps_within_a_rate_that_changes_while_it_sends(
    sftp_server: SftpServer, machine_folder: Path, make_file: MakeFile, tmp_path: Path
) -> None:
    """Twice as fast once half is there. Reading it back is as fast as it goes, by another way."""
    source, digest = make_file(12 * MIB)
    with counting_relay(sftp_server.port) as (port, arrived):
        known = tmp_path / "known_hosts"
        known.write_text(sftp_server.known_hosts.read_text().replace(str(sftp_server.port), str(port)))
        target = sftp_place(sftp_server, machine_folder, port=port, known_hosts=str(known)).target()
        target.prepare()
        target.bandwidth = Bandwidth(rates(4))
        changed: list[float] = []
        sent = 0

        def change(count: int) -> None:
            nonlocal sent
            sent += count
            if sent >= 6 * MIB and not changed:
                changed.append(time.monotonic())
                target.bandwidth = Bandwidth(rates(8))

        arrived.clear()
        begun = time.monotonic()
        target.put(source, KEY, digest, change)
    total = 0
    for moment, count in arrived:
        total += count
        fast = max(0.0, moment - changed[0])
        # rclone lets 4 MiB through at once after a pause.
        assert total <= 4 * MIB * (moment - begun) + 4 * MIB * fast + 5 * MIB
    assert total >= 12 * MIB


def test_two_that_send_by_programs_of_their_own_come_to_the_rate_together(tmp_path: Path) -> None:
    hands = Hands()
    both = [Bandwidth(rates(10), shared=tmp_path / "x.bandwidth", clock=hands.clock) for _ in range(2)]
    allowed, sent = [10.0 * MIB, 10.0 * MIB], [0, 0]
    for _ in range(200):
        hands.passed += 0.2
        for number, each in enumerate(both):
            count = int(allowed[number] * 0.2)
            sent[number] += count
            allowed[number] = each.share(count) or 0.0
    assert sum(sent) == pytest.approx(400 * MIB, rel=0.1)
    assert sent[0] == pytest.approx(sent[1], rel=0.1)
    alone = Bandwidth(rates(10), clock=hands.clock)
    hands.passed += 0.2
    assert alone.share(2 * MIB) == 10 * MIB


def test_a_slowed_transfer_is_not_taken_for_a_dead_one_and_can_be_stopped(
    tmp_path: Path, other_file_system: Path, make_file: MakeFile
) -> None:
    source, digest = make_file(MIB)
    slow = LocalTarget("disk", other_file_system / tmp_path.name)
    slow.prepare()
    slow.bandwidth = Bandwidth(rates(0.6), limit_reading=True)
    target = patient(slow, 1.5)
    target.put(source, KEY, digest)  # more than that, and as long once more to read it back
    signs = 0

    def stop(count: int) -> None:
        nonlocal signs
        signs += count == 0
        if signs > 1:
            raise Cancelled("asked to stop")

    slow.bandwidth = Bandwidth(rates(0.001))
    with pytest.raises(Cancelled):
        target.put(source, f"{KEY}.2", digest, stop)
    assert [each.key for each in target.list("")] == [KEY]


def test_what_is_linked_needs_no_bandwidth_and_reading_is_slowed_only_when_told(
    tmp_path: Path, make_file: MakeFile
) -> None:
    source, digest = make_file(3 * MIB)
    hands = Hands()
    target = LocalTarget("disk", tmp_path / "target")
    target.prepare()
    target.bandwidth = Bandwidth(rates(1), clock=hands.clock)
    target.put(source, KEY, digest)
    target.check(KEY, digest)
    with target.open(KEY) as stream:
        assert stream.read() == source.read_bytes()
    assert hands.passed == 0
    target.bandwidth = Bandwidth(rates(1), limit_reading=True, clock=hands.clock)
    with target.open(KEY) as stream:
        assert stream.read() == source.read_bytes()
    assert hands.passed == pytest.approx(3, abs=0.5)
    target.check(KEY, digest)
    assert hands.passed == pytest.approx(6, abs=0.8)


def test_a_paced_stream_closes_what_it_reads() -> None:
    raw = io.FileIO("/dev/null")
    Bandwidth(rates(1), limit_reading=True).paced(raw).close()
    assert raw.closed


def test_threads_that_wait_do_not_hold_up_those_of_another_target() -> None:
    waiting = Bandwidth(rates(0.01))
    stopped = threading.Event()

    def stop(count: int) -> None:
        if stopped.is_set():
            raise Cancelled("enough")

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(waiting.wait_for, MIB, stop)
        Bandwidth(rates(1000)).wait_for(MIB)
        assert not slow.done()
        stopped.set()
        with pytest.raises(Cancelled):
            slow.result()


def test_settings_take_one_number_or_hours_and_all_processes_find_the_same_file(tmp_path: Path) -> None:
    hours = 'from: "08:00", to: 18:00, rate: 0.5'  # YAML takes the second for 1080
    text = f"""
application: erp
database: {{url: postgresql://db/erp}}
work_dir: {tmp_path}
schedules: {{time_zone: Europe/Berlin}}
encryption: {{keyring: k}}
storage_targets:
  one: {{type: local, path: /a, max_mib_per_second: 20, limit_reading: true}}
  day: {{type: local, path: /b, max_mib_per_second: [{{{hours}}}, {{rate: 8}}]}}
  free: {{type: local, path: /c}}
"""
    settings = parsed(text)
    day = settings.storage_targets["day"].max_mib_per_second
    assert [(each.begins, each.ends, each.rate) for each in day] == [(480, 1080, 0.5), (None, None, 8)]
    one, other, free = build_targets(settings).values()
    assert (one.bandwidth.rate(), one.bandwidth.limit_reading) == (20 * MIB, True)
    assert other.bandwidth.rate() in (MIB / 2, 8 * MIB) and free.bandwidth.rate() is None
    assert list(tmp_path.iterdir()) == []
    one.bandwidth.wait_for(1)
    build_targets(settings)["one"].bandwidth.wait_for(1)
    assert len(list((tmp_path / "targets").iterdir())) == 1


def test_the_doctor_says_that_a_full_backup_cannot_get_there_within_a_day() -> None:
    night = [{"from": "20:00", "to": "06:00", "rate": 20}, {"rate": 0.5}]
    given = {"slow": rates(0.5), "night": rates(night), "open": rates(night[:1]), "free": ()}
    check = partial(check_bandwidth, given)
    assert [each.check for each in check(100 << 30)] == ["bandwidth slow"]
    assert [each.check for each in check(1000 << 30)] == ["bandwidth slow", "bandwidth night"]
    (found,) = check(100 << 30)
    assert "lets 45.3 GB through in a day" in found.found and "takes 56 h 53 min" in found.found
    assert "storage_targets.slow.max_mib_per_second" in str(found.remedy)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (0, ": expected a number above 0, or a list"),
        ("fast", ": expected a number above 0, or a list"),
        ([{"rate": 0}], "[0].rate: expected greater than 0, found 0"),
        (
            [{"from": "8", "to": "18:00", "rate": 1}],
            "[0].from: expected a time of the day, such as \"08:00\", found '8'",
        ),
        ([{"from": 8, "to": 18, "rate": 1}], '[0].from: expected a time of the day, such as "08:00", found 8'),
        ([{"from": "08:00", "rate": 1}], "[0]: expected from and to together"),
        ([{"from": "08:00", "to": "08:00", "rate": 1}], "[0]: expected from and to together"),
        ([{"from": "08:00", "to": "24:01", "rate": 1}], "[0].to: expected a time of the day"),
    ],
)
def test_a_wrong_rate_is_told_with_its_place(given: Any, said: str) -> None:
    disk = {"type": "local", "path": "b", "max_mib_per_second": given}
    assert any(
        line.startswith(f"storage_targets.disk.max_mib_per_second{said}")
        for line in mistakes(good(storage_targets={"disk": disk}))
    )
