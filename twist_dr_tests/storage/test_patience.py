"""No call to a storage target that is waited for with patience goes on without a sign of life, and none ends for want of its caller's."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from twist_dr.errors import Cancelled, ObjectCorrupt, ObjectMissing, TargetUnavailable
from twist_dr.storage.base import Digest, OnBytes, StorageTarget, StoredObject, no_progress
from twist_dr.storage.local import LocalTarget
from twist_dr.storage.patience import PatientTarget, bounded, patient
from twist_dr.system.sizes import CHUNK
from twist_dr_tests.helpers import no_thread_stays

_NOTHING = Digest(0, hashlib.sha256(b"").hexdigest())


class _Told(LocalTarget):
    """A target whose reads, writes and lists do what a test says with the progress that they are given."""

    def __init__(self, folder: Path, call: Callable[[OnBytes], None]) -> None:
        super().__init__("office", folder)
        self._call = call

    def check(self, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        self._call(progress)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        self._call(no_progress)
        return super().list(prefix)


def checked(target: StorageTarget, progress: OnBytes) -> None:
    target.check("erp/x", _NOTHING, progress)


def test_a_call_that_tells_nothing_is_given_up_and_a_slow_reader_is_not_its_fault(tmp_path: Path) -> None:
    hangs = threading.Event()

    def trickles(tell: OnBytes) -> None:
        for _ in range(3):
            tell(10)
        hangs.wait(20)
        tell(1)

    told: list[int] = []

    def slowly(count: int) -> None:
        told.append(count)
        threading.Event().wait(0.4)

    with no_thread_stays():
        with pytest.raises(TargetUnavailable, match="office: nothing came for 300 ms"):
            checked(patient(_Told(tmp_path, trickles), 0.3), slowly)
        hangs.set()
    assert told == [10, 10, 10]


def test_a_calls_result_and_errors_come_through(tmp_path: Path) -> None:
    told: list[int] = []

    def refuses(tell: OnBytes) -> None:
        tell(5)
        raise ObjectCorrupt("bad")

    with no_thread_stays():
        for seconds in (None, 5.0):
            with pytest.raises(ObjectCorrupt):
                checked(patient(_Told(tmp_path, refuses), seconds), told.append)
            checked(patient(_Told(tmp_path, lambda tell: tell(7)), seconds), told.append)
    assert told == [5, 7, 5, 7]


def test_a_reader_that_stops_stops_the_call(tmp_path: Path) -> None:
    calls: list[int] = []

    def endless(tell: OnBytes) -> None:
        while True:
            calls.append(1)
            tell(1)

    def stop(count: int) -> None:
        raise Cancelled("enough")

    with no_thread_stays(), pytest.raises(Cancelled):
        checked(patient(_Told(tmp_path, endless), 5.0), stop)
    assert len(calls) < 20


def test_a_reader_that_stops_stops_every_thread_of_the_call(tmp_path: Path) -> None:
    def parts(tell: OnBytes) -> None:
        def part() -> None:
            with suppress(TargetUnavailable):
                while True:
                    tell(1)

        threads = [threading.Thread(target=part, name=f"part {number}", daemon=True) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def stop(count: int) -> None:
        threading.Event().wait(0.2)  # meanwhile the others wait for their turn
        raise Cancelled("enough")

    began = time.monotonic()
    with no_thread_stays(), pytest.raises(Cancelled):
        checked(patient(_Told(tmp_path, parts), 20.0), stop)
    assert time.monotonic() - began < 10


def test_a_call_that_never_returns_is_left_to_itself(tmp_path: Path) -> None:
    never = threading.Event()

    def hangs(tell: OnBytes) -> None:
        never.wait()

    with pytest.raises(TargetUnavailable, match="office: nothing came for 100 ms"):
        bounded(never.wait, 0.1, "office")
    with pytest.raises(TargetUnavailable, match="office: nothing came for 100 ms"):
        list(patient(_Told(tmp_path, hangs), 0.1).list("erp"))
    never.set()


def test_a_stream_is_read_in_any_pieces_says_at_once_that_there_is_no_object_and_leaves_no_thread(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    data = bytes(range(256)) * (CHUNK // 64)
    source.write_bytes(data)
    target = PatientTarget(LocalTarget("office", tmp_path / "office"), 20)
    target.prepare()
    target.put(source, "erp/x", Digest(len(data), hashlib.sha256(data).hexdigest()))
    with no_thread_stays():
        with pytest.raises(ObjectMissing):
            target.open("erp/y")
        for size in (CHUNK - 1, CHUNK, 3 * CHUNK, -1):
            with target.open("erp/x") as stream:
                assert b"".join(iter(partial(stream.read, size), b"")) == data
        with target.open("erp/x") as stream:
            assert stream.read(10) == data[:10]
            assert (stream.read(-1), stream.read(-1)) == (data[10:], b"")


def test_who_asks_last_says_how_long(tmp_path: Path) -> None:
    plain = LocalTarget("office", tmp_path)
    once = patient(plain, 1.0)
    again = patient(once, 20.0)
    assert isinstance(again, PatientTarget) and again.plain is plain and patient(again, None) is plain
